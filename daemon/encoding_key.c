/* SPDX-License-Identifier: MIT */
#include "daemon/encoding_key.h"

#include <sodium.h>
#include <string.h>

_Static_assert(KEY_SIZE == crypto_hash_sha256_BYTES, "keys are SHA-256");

static void hash(crypto_hash_sha256_state *state, const void *data, size_t n)
{
    crypto_hash_sha256_update(state, data, n);
}

static void hash_u64(crypto_hash_sha256_state *state, uint64_t v)
{
    hash(state, &v, sizeof v);
}

static void hash_text(crypto_hash_sha256_state *state, const char *s)
{
    hash_u64(state, strlen(s));
    hash(state, s, strlen(s));
}

/* The input's tensor, and the file that it lies in: its content if that is known, else its identity. */
static void hash_input(crypto_hash_sha256_state *state, const struct encoding_input *input)
{
    hash_u64(state, input->source != NULL);
    if (!input->source)
        return;
    const struct source_identity *id = source_identity(input->source);
    const char *content = source_content(input->source);
    hash_u64(state, input->offset);
    hash_text(state, content);
    if (*content) {
        hash_u64(state, id->size);
        return;
    }
    hash_u64(state, source_filesystem(input->source));
    hash_u64(state, id->inode);
    hash_u64(state, id->size);
    hash_u64(state, (uint64_t)id->mtime_ns);
    hash_u64(state, (uint64_t)id->ctime_ns);
}

static void hash_view(crypto_hash_sha256_state *state, const struct view *v)
{
    uint32_t add;
    memcpy(&add, &v->add, sizeof add);
    hash_u64(state, v->rows);
    hash_u64(state, v->cols);
    hash_u64(state, v->first_row);
    hash_u64(state, v->order);
    hash_u64(state, v->heads);
    hash_u64(state, add);
    hash_u64(state, v->scale_rows);
    hash_u64(state, v->scale_cols);
}

/* What is known of the inputs of each matrix. */
static void hash_factors(crypto_hash_sha256_state *state, const struct encoding *e)
{
    hash(state, &e->format->damping, sizeof e->format->damping);
    for (uint64_t i = 0; i < e->view.matrices; i++) {
        hash_u64(state, e->factors[i] != NULL);
        if (e->factors[i])
            hash(state, e->factors[i]->digest, sizeof e->factors[i]->digest);
    }
}

/* n scales, or that there are none. */
static void hash_scales(crypto_hash_sha256_state *state, const float *scales, uint64_t n)
{
    hash_u64(state, scales ? n : 0);
    if (scales)
        hash(state, scales, n * sizeof *scales);
}

/* How the view's tensors follow from the inputs. */
static void hash_derived(crypto_hash_sha256_state *state, const struct derived *d)
{
    uint32_t number;
    memcpy(&number, &d->number, sizeof number);
    hash_text(state, d->method->name);
    hash_u64(state, d->method->version);
    hash_text(state, d->type->name);
    hash_u64(state, d->part_count);
    hash_u64(state, d->bits);
    hash_u64(state, d->variant);
    hash_u64(state, d->group);
    hash_u64(state, d->rank);
    hash_u64(state, number);
    hash_scales(state, d->col_scale, d->cols);
    hash_scales(state, d->row_scale, d->rows);
    hash_u64(state, d->base != NULL);
    if (d->base)
        hash_derived(state, d->base);
}

void encoding_set_key(struct encoding *e)
{
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    hash_text(&state, "quantfs encoding 4");
    hash_text(&state, e->format->name);
    hash_u64(&state, e->format->version);
    hash_text(&state, e->dtype->name);
    hash_text(&state, e->scale_dtype ? e->scale_dtype->name : "");
    hash_view(&state, &e->view);
    hash_u64(&state, e->derived != NULL);
    for (uint32_t i = 0; e->derived && i < e->view.stack_count; i++)
        hash_derived(&state, &e->derived[i]);
    hash_u64(&state, e->input_count);
    for (uint32_t i = 0; i < e->input_count; i++)
        hash_input(&state, &e->inputs[i]);
    uint64_t count = e->importance ? e->view.matrices * e->view.cols : 0;
    hash_u64(&state, count);
    if (count) {
        uint8_t digest[crypto_hash_sha256_BYTES];
        crypto_hash_sha256(digest, (const uint8_t *)e->importance, count * sizeof *e->importance);
        hash(&state, digest, sizeof digest);
    }
    if (e->format->stripe_bits)
        hash_u64(&state, e->stripes.slots);
    if (e->factors)
        hash_factors(&state, e);
    if (e->view.round)
        hash_text(&state, e->view.round->name);
    crypto_hash_sha256_final(&state, e->key);
}
