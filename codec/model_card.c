/* SPDX-License-Identifier: MIT */
#include "codec/model_card.h"

#include "codec/affix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum {
    CARD_MAX = 1 << 20, /* bytes; real ones have a few thousand */
    DEPTH_MAX = 32,
};

/* ---- the front matter ---- */

/* How many bytes at p end a line, by Python's idea of lines; 0: none. */
static size_t line_end(const uint8_t *p, size_t left)
{
    if (left >= 2 && p[0] == '\r' && p[1] == '\n')
        return 2;
    if ((p[0] >= '\n' && p[0] <= '\r') || (p[0] >= 0x1c && p[0] <= 0x1e))
        return 1;
    if (left >= 2 && p[0] == 0xc2 && p[1] == 0x85)
        return 2;
    if (left >= 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9))
        return 3;
    return 0;
}

/* The next line without its end; false at the end of the text. */
static bool next_line(struct reader *r, struct blob *line)
{
    size_t left = reader_left(r), end = 0;
    if (left == 0)
        return false;
    const uint8_t *start = r->pos, *p = start;
    while (p < r->end && !(end = line_end(p, (size_t)(r->end - p))))
        p++;
    *line = (struct blob){start, (size_t)(p - start)};
    r->pos = p + end;
    return true;
}

static bool is_fence(const struct blob *line)
{
    return line->size == 3 && memcmp(line->data, "---", 3) == 0;
}

/* As the converter prepares the text: a list item "no" is Norwegian and not false, tabs are two
 * spaces. */
static void add_line(struct buffer *yaml, const struct blob *line)
{
    const char *s = line->data;
    bool norwegian = line->size >= 4 && memcmp(s + line->size - 4, "- no", 4) == 0;
    size_t n = norwegian ? line->size - 2 : line->size;
    for (size_t i = 0; i < n; i++)
        buffer_add(yaml, s[i] == '\t' ? "  " : s + i, s[i] == '\t' ? 2 : 1);
    if (norwegian)
        buffer_add(yaml, "\"no\"", 4);
    buffer_add(yaml, "\n", 1);
}

/* Whether there is front matter; it ends at the next fence or with the file. */
static bool front_matter(struct blob readme, struct buffer *yaml)
{
    struct reader r = reader_make(readme.data, readme.size);
    struct blob line;
    if (!next_line(&r, &line) || !is_fence(&line))
        return false;
    while (yaml->size <= CARD_MAX && next_line(&r, &line) && !is_fence(&line))
        add_line(yaml, &line);
    return true;
}

/* ---- YAML to JSON ---- */

struct loader {
    yaml_parser_t parser;
    struct error *err;
};

static int fail(struct loader *l, size_t line, const char *what)
{
    return error_set(l->err, -EINVAL, "line %zu: %s", line + 2, what); /* 1, and the fence */
}

static int next_event(struct loader *l, yaml_event_t *e)
{
    if (yaml_parser_parse(&l->parser, e))
        return 0;
    if (l->parser.error == YAML_MEMORY_ERROR)
        return error_set(l->err, -ENOMEM, "out of memory");
    return fail(l, l->parser.problem_mark.line, l->parser.problem ? l->parser.problem : "invalid");
}

/* A plain scalar's truth value or null, by YAML 1.1; texts otherwise. */
static json_t *scalar(const yaml_event_t *e)
{
    static const struct {
        const char *text;
        bool is_null, truth;
    } words[] = {
        {"", true, false},       {"~", true, false},     {"null", true, false},
        {"Null", true, false},   {"NULL", true, false},  {"yes", false, true},
        {"Yes", false, true},    {"YES", false, true},   {"no", false, false},
        {"No", false, false},    {"NO", false, false},   {"true", false, true},
        {"True", false, true},   {"TRUE", false, true},  {"false", false, false},
        {"False", false, false}, {"FALSE", false, false}, {"on", false, true},
        {"On", false, true},     {"ON", false, true},    {"off", false, false},
        {"Off", false, false},   {"OFF", false, false},
    };
    const char *text = (const char *)e->data.scalar.value;
    if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && e->data.scalar.plain_implicit)
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (strcmp(text, words[i].text) == 0)
                return words[i].is_null ? json_null() : json_boolean(words[i].truth);
    return json_string(text); /* llama-quantize, too, cuts texts at a NUL */
}

static int load_value(struct loader *l, const yaml_event_t *e, int depth, json_t **out);

/* What follows a sequence's start. */
static int load_items(struct loader *l, int depth, json_t *list)
{
    for (;;) {
        yaml_event_t e;
        json_t *item;
        int rc = next_event(l, &e);
        if (rc)
            return rc;
        bool end = e.type == YAML_SEQUENCE_END_EVENT;
        rc = end ? 0 : load_value(l, &e, depth + 1, &item);
        yaml_event_delete(&e);
        if (rc || end)
            return rc;
        if (json_array_append_new(list, item))
            return error_set(l->err, -ENOMEM, "out of memory");
    }
}

static int load_member(struct loader *l, const yaml_event_t *key, int depth, json_t *object)
{
    yaml_event_t e;
    json_t *value;
    if (key->type != YAML_SCALAR_EVENT)
        return fail(l, key->start_mark.line, "a key that is no text");
    int rc = next_event(l, &e);
    if (rc)
        return rc;
    rc = load_value(l, &e, depth + 1, &value);
    yaml_event_delete(&e);
    if (!rc && json_object_set_new(object, (const char *)key->data.scalar.value, value))
        rc = fail(l, key->start_mark.line, "a key that is no text");
    return rc;
}

/* What follows a mapping's start. Of keys that stand twice the last counts. */
static int load_members(struct loader *l, int depth, json_t *object)
{
    for (;;) {
        yaml_event_t e;
        int rc = next_event(l, &e);
        if (rc)
            return rc;
        bool end = e.type == YAML_MAPPING_END_EVENT;
        rc = end ? 0 : load_member(l, &e, depth, object);
        yaml_event_delete(&e);
        if (rc || end)
            return rc;
    }
}

static int load_value(struct loader *l, const yaml_event_t *e, int depth, json_t **out)
{
    int rc = 0;
    *out = NULL;
    if (depth > DEPTH_MAX)
        return fail(l, e->start_mark.line, "nested too deeply");
    switch (e->type) {
    case YAML_SCALAR_EVENT: *out = scalar(e); break;
    case YAML_SEQUENCE_START_EVENT:
        *out = json_array();
        rc = *out ? load_items(l, depth, *out) : 0;
        break;
    case YAML_MAPPING_START_EVENT:
        *out = json_object();
        rc = *out ? load_members(l, depth, *out) : 0;
        break;
    default: return fail(l, e->start_mark.line, "an alias, which no model card needs");
    }
    if (!*out)
        return fail(l, e->start_mark.line, "not a UTF-8 text");
    if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

/* The first document. */
static int load_card(struct loader *l, json_t **card)
{
    for (;;) {
        yaml_event_t e;
        int rc = next_event(l, &e);
        if (rc)
            return rc;
        bool wrapper = e.type == YAML_STREAM_START_EVENT || e.type == YAML_DOCUMENT_START_EVENT;
        bool value = !wrapper && e.type != YAML_STREAM_END_EVENT;
        rc = value ? load_value(l, &e, 0, card) : 0;
        yaml_event_delete(&e);
        if (!wrapper)
            return rc;
    }
}

int model_card_parse(struct blob readme, json_t **card, struct error *err)
{
    struct buffer yaml = {0};
    struct loader l = {.err = err};
    *card = NULL;
    int rc = 0;
    if (!front_matter(readme, &yaml) || (yaml.size == 0 && !yaml.failed))
        return 0;
    if (yaml.size > CARD_MAX)
        rc = error_set(err, -EINVAL, "the model card is too long");
    else if (yaml.failed || !yaml_parser_initialize(&l.parser))
        rc = error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        yaml_parser_set_encoding(&l.parser, YAML_UTF8_ENCODING);
        yaml_parser_set_input_string(&l.parser, yaml.data, yaml.size);
        rc = load_card(&l, card);
        yaml_parser_delete(&l.parser);
    }
    buffer_free(&yaml);
    if (*card && !json_is_object(*card)) { /* nor does the converter take it for a card */
        json_decref(*card);
        *card = NULL;
    }
    return rc;
}

/* ---- keys ---- */

/* The first of the fields that is not null; "" where that is no text, NULL where there is none. */
static const char *text_of(const json_t *card, const char *const *fields)
{
    for (; *fields; fields++) {
        const json_t *v = json_object_get(card, *fields);
        if (v && !json_is_null(v))
            return json_is_string(v) ? json_string_value(v) : "";
    }
    return NULL;
}

static void put_text(struct gguf_keys *keys, const char *key, const char *text)
{
    if (text && *text)
        gguf_put_string(keys, key, text);
}

void model_card_name(const json_t *card, struct model_name *name)
{
    static const char *const names[] = {"name", "model_name", NULL};
    static const char *const organizations[] = {"organization", "model_organization", NULL};
    static const char *const basenames[] = {"basename", "model_basename", "model_type", NULL};
    static const char *const finetunes[] = {"finetune", "model_finetune", NULL};
    static const char *const versions[] = {"version", "model_version", NULL};
    static const char *const size_labels[] = {"size_label", "model_size_label", NULL};
    struct model_name own = {
        .name = text_of(card, names),
        .organization = text_of(card, organizations),
        .basename = text_of(card, basenames),
        .finetune = text_of(card, finetunes),
        .version = text_of(card, versions),
        .size_label = text_of(card, size_labels),
    };
    model_name_merge(name, &own);
}

void model_card_put_author(const json_t *card, struct gguf_keys *keys)
{
    static const char *const fields[] = {"author", "model_author", "model_creator", NULL};
    put_text(keys, "general.author", text_of(card, fields));
}

void model_card_put_description(const json_t *card, struct gguf_keys *keys)
{
    static const char *const fields[] = {"description", "model_description", NULL};
    put_text(keys, "general.description", text_of(card, fields));
}

/* One text, or several joined by commas. */
static int put_license(const json_t *card, struct gguf_keys *keys)
{
    static const char *const fields[] = {"license", NULL};
    const json_t *list = json_object_get(card, "license");
    if (!json_is_array(list)) {
        put_text(keys, "general.license", text_of(card, fields));
        return 0;
    }
    struct buffer joined = {0};
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        buffer_add(&joined, ",", i ? 1 : 0);
        buffer_add(&joined, json_string_value(item), json_string_length(item));
    }
    if (joined.size)
        gguf_put_string_n(keys, "general.license", (char *)joined.data, joined.size);
    int rc = joined.failed ? -ENOMEM : 0;
    buffer_free(&joined);
    return rc;
}

/* ORG/NAME at the end of an address of Hugging Face; NULL for other addresses. */
static const char *id_of_address(const char *address)
{
    static const char *const hubs[] = {"http://huggingface.co/", "https://huggingface.co/"};
    for (size_t i = 0; i < sizeof hubs / sizeof *hubs; i++) {
        if (!starts_with(address, hubs[i]))
            continue;
        const char *id = address + strlen(hubs[i]), *slash = strchr(id, '/');
        return slash && slash != id && slash[1] && !strchr(slash + 1, '/') ? id : NULL;
    }
    return NULL;
}

/* The facts about a base model or a data set, in the order of their keys. */
static const char *const facts[] = {"name",        "author", "version", "organization",
                                    "description", "url",    "doi",     "uuid",
                                    "repo_url"};
enum { NAME = 0, VERSION = 2, ORGANIZATION = 3, REPO_URL = 8 };
enum { FACT_COUNT = sizeof facts / sizeof *facts };

/* What an id or an address tells. */
static int facts_of_id(const char *text, int64_t parameters, struct arena *arena,
                       const char *out[FACT_COUNT])
{
    struct model_name name;
    const char *id = text;
    bool address = starts_with(text, "http://") || starts_with(text, "https://") ||
                   starts_with(text, "ssh://");
    if (address) {
        out[REPO_URL] = text;
        id = id_of_address(text);
        if (!id)
            return 0;
    }
    if (model_name_parse(id, parameters, arena, &name))
        return -ENOMEM;
    out[NAME] = name.name;
    out[VERSION] = name.version;
    out[ORGANIZATION] = name.organization;
    if (!address && name.organization) {
        out[REPO_URL] = arena_printf(arena, "https://huggingface.co/%s", id);
        if (!out[REPO_URL])
            return -ENOMEM;
    }
    return 0;
}

/* general.KIND.N.*: an item is an id, an address, or an object with the facts. */
static int put_relative(const char *kind, size_t n, const json_t *item, int64_t parameters,
                        struct gguf_keys *keys)
{
    struct arena arena = {0};
    const char *found[FACT_COUNT] = {NULL};
    char key[64];
    int rc = 0;
    if (json_is_string(item))
        rc = facts_of_id(json_string_value(item), parameters, &arena, found);
    for (int i = 0; !rc && i < FACT_COUNT; i++) {
        if (json_is_object(item))
            found[i] = json_string_value(json_object_get(item, facts[i]));
        snprintf(key, sizeof key, "general.%s.%zu.%s", kind, n, facts[i]);
        put_text(keys, key, found[i]);
    }
    arena_free(&arena);
    return rc;
}

/* The first of the fields that is present, even as null, says how many there are. */
static int put_relatives(const json_t *card, const char *kind, const char *const *fields,
                         int64_t parameters, struct gguf_keys *keys)
{
    const json_t *v = NULL;
    char key[64];
    for (; !v && *fields; fields++)
        v = json_object_get(card, *fields);
    if (!v)
        return 0;
    size_t n = json_is_string(v) ? 1 : json_array_size(v);
    snprintf(key, sizeof key, "general.%s.count", kind);
    gguf_put_u32(keys, key, (uint32_t)n);
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++)
        rc = put_relative(kind, i, json_is_string(v) ? v : json_array_get(v, i), parameters, keys);
    return rc;
}

/* All texts of the fields, one after the other. */
static int put_list(const json_t *card, const char *key, const char *const *fields,
                    struct gguf_keys *keys)
{
    struct buffer texts = {0};
    uint64_t count = 0;
    for (; *fields; fields++) {
        const json_t *v = json_object_get(card, *fields);
        size_t n = json_is_string(v) ? 1 : json_array_size(v);
        for (size_t i = 0; i < n; i++) {
            const json_t *item = json_is_string(v) ? v : json_array_get(v, i);
            if (!json_is_string(item))
                continue;
            gguf_add_string(&texts, json_string_value(item), json_string_length(item));
            count++;
        }
    }
    if (count && !texts.failed) {
        gguf_put_array(keys, key, GGUF_STRING, count);
        buffer_add(&keys->bytes, texts.data, texts.size);
    }
    int rc = texts.failed ? -ENOMEM : 0;
    buffer_free(&texts);
    return rc;
}

int model_card_put_rest(const json_t *card, int64_t parameters, struct gguf_keys *keys)
{
    static const struct {
        const char *key, *fields[3];
    } texts[] = {
        {"general.license.name", {"license_name"}},
        {"general.license.link", {"license_link"}},
        {"general.source.url", {"url", "model_url"}},
        {"general.source.doi", {"doi", "model_doi"}},
        {"general.source.uuid", {"uuid", "model_uuid"}},
        {"general.source.repo_url", {"repo_url", "model_repo_url"}},
    };
    static const char *const base_models[] = {"base_model", "base_models", "base_model_sources",
                                              NULL};
    static const char *const datasets[] = {"datasets", "dataset", "dataset_sources", NULL};
    static const char *const tags[] = {"tags", "pipeline_tag", NULL};
    static const char *const languages[] = {"languages", "language", NULL};
    int rc = put_license(card, keys);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        put_text(keys, texts[i].key, text_of(card, texts[i].fields));
    rc = rc ? rc : put_relatives(card, "base_model", base_models, parameters, keys);
    rc = rc ? rc : put_relatives(card, "dataset", datasets, parameters, keys);
    rc = rc ? rc : put_list(card, "general.tags", tags, keys);
    return rc ? rc : put_list(card, "general.languages", languages, keys);
}
