/* SPDX-License-Identifier: MIT */
#include "tools/run/report.h"

#include "tools/command.h"

#include <inttypes.h>

static const char *const place_names[PLACE_COUNT] = {"the file", "the mount's cache", "the mount"};
static const char *const place_keys[PLACE_COUNT] = {"from_file_bytes", "from_objects_bytes",
                                                    "from_mount_bytes"};
static const char *const io_names[] = {
    [READER_ANY] = "none", [READER_URING] = "uring", [READER_PREAD] = "pread"};

void report_plan(const struct engine *e, FILE *out)
{
    const struct weights *w = &e->weights;
    char all[16], resident[16], streamed[16], ring[16], rest[16];
    double passing = plan_streamed(w->blocks, w->block_count);
    fprintf(out, "# %s, %u threads; context %" PRIu32 " (%s)\n", e->backend->name,
            team_size(e->team), e->context, text_bytes(forward_bytes(e->forward), rest));
    if (e->by_layer) {
        fprintf(out, "# weights: %s, read a layer at a time\n", text_bytes(w->bytes, all));
        return;
    }
    if (!w->ring)
        fprintf(out, "# weights: %s, all resident\n", text_bytes(w->bytes, all));
    else
        fprintf(out, "# weights: %s, %s resident, %s read for a token; ring of %s, %s%s\n",
                text_bytes(w->bytes, all), text_bytes(w->resident_bytes, resident),
                text_bytes((uint64_t)passing, streamed),
                text_bytes(w->slots * w->slot_size, ring), reader_name(ring_reader(w->ring)),
                w->direct ? ", O_DIRECT" : "");
    fprintf(out, "# expected: %.1f tok/s, of ", e->expected);
    if (w->ring)
        fprintf(out, "%.2f GB/s from where it lies and ", e->rates.link / 1e9);
    fprintf(out, "%.1f GB/s from memory\n", e->rates.memory / 1e9);
}

void report_end(const struct engine *e, double seconds, FILE *out)
{
    const struct weights *w = &e->weights;
    if (!w->ring)
        return;
    const struct ring_stats *s = ring_stats(w->ring);
    char text[16];
    double bytes = (double)weights_streamed(w);
    fprintf(out, "# streamed: %s at %.2f GB/s, %.0f %% of what was expected; waited %.2f of %.2f s\n",
            text_bytes((uint64_t)bytes, text), bytes / (seconds + 1e-9) / 1e9,
            100 * bytes / (seconds + 1e-9) / e->rates.link, s->waited, seconds);
    for (int place = 0; place < PLACE_COUNT; place++)
        if (s->bytes[place])
            fprintf(out, "#   %s from %s\n", text_bytes(s->bytes[place], text), place_names[place]);
    if (s->damaged)
        fprintf(out, "#   %" PRIu64 " tiles in the mount's cache were damaged\n", s->damaged);
}

static void put(json_t *root, const char *key, uint64_t value)
{
    json_object_set_new(root, key, json_integer((json_int_t)value));
}

void report_json(const struct engine *e, json_t *root)
{
    const struct weights *w = &e->weights;
    struct reader *reader = w->ring ? ring_reader(w->ring) : NULL;
    json_object_set_new(root, "kernels", json_string(e->backend->name));
    put(root, "threads", team_size(e->team));
    put(root, "weights_bytes", w->bytes);
    put(root, "resident_bytes", w->resident_bytes);
    put(root, "ring_bytes", w->slots * w->slot_size);
    put(root, "passes", w->passes);
    put(root, "streamed_bytes", weights_streamed(w));
    put(root, "streamed_bytes_least", w->streamed_least);
    put(root, "short_reads", reader ? reader_stats(reader).again : 0);
    put(root, "damaged_tiles", w->ring ? ring_stats(w->ring)->damaged : 0);
    for (int place = 0; place < PLACE_COUNT; place++)
        put(root, place_keys[place], w->ring ? ring_stats(w->ring)->bytes[place] : 0);
    json_object_set_new(root, "io", json_string(io_names[reader ? reader_kind(reader) : READER_ANY]));
    json_object_set_new(root, "io_details", json_string(reader ? reader_name(reader) : ""));
    json_object_set_new(root, "direct", json_boolean(reader && w->direct));
    json_object_set_new(root, "waited_seconds",
                        json_real(w->ring ? ring_stats(w->ring)->waited : 0));
    json_object_set_new(root, "link_bytes_s", json_real(e->rates.link));
    json_object_set_new(root, "memory_bytes_s", json_real(e->rates.memory));
    json_object_set_new(root, "expected_tok_s", json_real(e->expected));
}

void report_print(json_t *root)
{
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}
