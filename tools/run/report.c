/* SPDX-License-Identifier: MIT */
#include "tools/run/report.h"

#include "tools/command.h"

#include <inttypes.h>

static const char *const place_names[PLACE_COUNT] = {"the file", "the mount's cache", "the mount"};
static const char *const place_keys[PLACE_COUNT] = {"from_file_bytes", "from_objects_bytes",
                                                    "from_mount_bytes"};
static const char *const io_names[] = {
    [READER_ANY] = "none", [READER_URING] = "uring", [READER_PREAD] = "pread"};

static const char *const lift_names[] = {[LIFT_COPY] = "copy", [LIFT_MAPPED] = "mapped"};

/* What stays where, on a machine whose memory is the host's. */
static void tell_weights(const struct engine *e, FILE *out)
{
    const struct weights *w = &e->weights;
    char all[16], resident[16], streamed[16], ring[16];
    double passing = plan_streamed(w->blocks, w->block_count);
    if (e->by_layer)
        fprintf(out, "# weights: %s, read a layer at a time\n", text_bytes(w->bytes, all));
    else if (!w->ring)
        fprintf(out, "# weights: %s, all resident\n", text_bytes(w->bytes, all));
    else
        fprintf(out, "# weights: %s, %s resident, %s read for a token; ring of %s, %s%s\n",
                text_bytes(w->bytes, all), text_bytes(w->resident_bytes, resident),
                text_bytes((uint64_t)passing, streamed), text_bytes(w->slots * w->slot_size, ring),
                reader_name(ring_reader(w->ring)), w->direct ? ", O_DIRECT" : "");
}

/* And on one that has its own. */
static void tell_lift(const struct engine *e, FILE *out)
{
    const struct weights *w = &e->weights;
    char all[16], resident[16], lifted[16], slot[16], held[16], ring[16], vram[16];
    double passing = plan_streamed(w->blocks, w->block_count);
    fprintf(out, "# weights: %s, %s resident in %s of the GPU's memory", text_bytes(w->bytes, all),
            text_bytes(w->resident_bytes, resident), text_bytes(e->vram, vram));
    if (w->lift && w->lift_slots)
        fprintf(out, "; %s lifted for a token, by copies to %" PRIu32 " slots of %s",
                text_bytes((uint64_t)passing, lifted), w->lift_slots,
                text_bytes(w->slot_size, slot));
    else if (w->lift)
        fprintf(out, "; %s lifted for a token, read by kernels over the link",
                text_bytes((uint64_t)passing, lifted));
    if (w->held)
        fprintf(out, "; %s of them held in RAM", text_bytes(w->held_bytes, held));
    if (w->ring)
        fprintf(out, "; ring of %s, %s%s", text_bytes(w->slots * w->slot_size, ring),
                reader_name(ring_reader(w->ring)), w->direct ? ", O_DIRECT" : "");
    fputc('\n', out);
}

void report_plan(const struct engine *e, FILE *out)
{
    const struct weights *w = &e->weights;
    char rest[16];
    fprintf(out, "# %s, ", e->backend->name);
    if (e->backend->unified)
        fprintf(out, "%u threads; ", team_size(e->team));
    fprintf(out, "context %" PRIu32 " (%s)\n", e->context,
            text_bytes(forward_bytes(e->forward), rest));
    if (e->backend->unified)
        tell_weights(e, out);
    else
        tell_lift(e, out);
    if (e->by_layer || e->expected <= 0)
        return;
    fprintf(out, "# expected: %.1f tok/s, of ", e->expected);
    if (w->ring)
        fprintf(out, "%.2f GB/s from where it lies and ", e->rates.link / 1e9);
    if (w->lift)
        fprintf(out, "%.2f GB/s over the link and ", e->lift_rate / 1e9);
    fprintf(out, "%.1f GB/s from memory\n", e->rates.memory / 1e9);
}

static void tell_lifted(const struct engine *e, double seconds, FILE *out)
{
    const struct lift_stats *s = lift_stats(e->weights.lift);
    char text[16];
    fprintf(out, "# lifted: %s in %" PRIu64 " pieces at %.2f GB/s", text_bytes(s->bytes, text),
            s->pieces, (double)s->bytes / (seconds + 1e-9) / 1e9);
    if (e->lift_rate > 0)
        fprintf(out, ", %.0f %% of the link",
                100 * (double)s->bytes / (seconds + 1e-9) / e->lift_rate);
    fprintf(out, "; waited for the GPU %.2f of %.2f s\n", s->waited, seconds);
}

void report_end(const struct engine *e, double seconds, FILE *out)
{
    const struct weights *w = &e->weights;
    if (w->lift)
        tell_lifted(e, seconds, out);
    if (!w->ring)
        return;
    const struct ring_stats *s = ring_stats(w->ring);
    char text[16];
    double bytes = (double)weights_streamed(w);
    fprintf(out,
            "# streamed: %s at %.2f GB/s, %.0f %% of what was expected; waited %.2f of %.2f s\n",
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
    json_object_set_new(root, "io",
                        json_string(io_names[reader ? reader_kind(reader) : READER_ANY]));
    json_object_set_new(root, "io_details", json_string(reader ? reader_name(reader) : ""));
    json_object_set_new(root, "lift",
                        w->lift ? json_string(lift_names[w->lift_slots ? LIFT_COPY : LIFT_MAPPED])
                                : json_null());
    put(root, "vram_bytes", e->vram);
    put(root, "vram_used_bytes", e->backend->allocated);
    put(root, "held_bytes", w->held_bytes);
    put(root, "lift_slots_bytes", w->lift_slots * w->slot_size);
    put(root, "lifted_bytes", weights_lifted(w));
    put(root, "lifted_bytes_least", w->lifted_least);
    json_object_set_new(root, "lift_waited_seconds",
                        json_real(w->lift ? lift_stats(w->lift)->waited : 0));
    json_object_set_new(root, "lift_bytes_s", json_real(e->lift_rate));
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
