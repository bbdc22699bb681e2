/* SPDX-License-Identifier: MIT */
#include "fs/options.h"

#include "daemon/log.h"
#include "daemon/tile.h"
#include "fs/form.h"
#include "fs/lora_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum kind { TEXT, SIZE, NUMBER, OCTAL, FLAG };

static const struct {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *value; /* what to call it in the table, NULL for flags */
    const char *standard, *help;
} table[] = {
#define FIELD(name) offsetof(struct options, name)
    {"cache", TEXT, FIELD(cache), "DIR", "~/.cache/quantfs, root: /var/cache/quantfs",
     "tile cache; none: memory only"},
    {"cache_size", SIZE, FIELD(cache_size), "SIZE", "20 % of its disk", "most that the cache takes"},
    {"keep_free", SIZE, FIELD(keep_free), "SIZE", "5 % of its disk", "what it leaves free there"},
    {"compress", TEXT, FIELD(compress), "sealed|off", "sealed",
     "rewrite complete cache objects compact"},
    {"memory", SIZE, FIELD(memory), "SIZE", "256M", "budget for buffers, at least 16M"},
    {"workers", NUMBER, FIELD(workers), "N", "all cores", "encoder threads"},
    {"readahead", SIZE, FIELD(readahead), "SIZE", "4M",
     "kernel read-ahead of the mount (raised by root only); 0: leave it"},
    {"imatrix", TEXT, FIELD(imatrix), "PATH", "none",
     "importance matrix for a store of one model, or a folder of MODEL.dat"},
    {"calibration", TEXT, FIELD(calibration), "DIR", "none",
     "calibration, for forms that take one: of a store's one model, or a folder of MODEL"},
    {"base", TEXT, FIELD(base), "ADAPTER:MODEL", "the one it names",
     "what an adapter adds to: a model of the store or a path; several with ;"},
    {"onto_nf4", FLAG, FIELD(onto_nf4), NULL, NULL,
     "adapters add to their base as NF4 has it (QLoRA)"},
    {"forms", TEXT, FIELD(forms), "LIST", "all", "recipes and formats shown, as in Q4_K_M:Q8_0"},
    {"notensors", FLAG, FIELD(notensors), NULL, NULL, "do not show tensors/"},
    {"requantize", FLAG, FIELD(requantize), NULL, NULL,
     "offer recipes of models that are quantized already, too"},
    {"follow_links", FLAG, FIELD(follow_links), NULL, NULL, "follow links that leave the store"},
    {"allow_other", FLAG, FIELD(allow_other), NULL, NULL, "let other users in"},
    {"uid", NUMBER, FIELD(uid), "N", "the source's", "owner of everything"},
    {"gid", NUMBER, FIELD(gid), "N", "the source's", "group of everything"},
    {"umask", OCTAL, FIELD(umask), "MASK", "0", "permissions to take away"},
    {"log", TEXT, FIELD(log), "PATH|syslog", "stderr, in the background syslog",
     "where lines are written"},
    {"loglevel", TEXT, FIELD(loglevel), "LEVEL", "warning", "error, warning, info or debug"},
#undef FIELD
};

enum { TABLE_SIZE = sizeof table / sizeof *table };

/* Words that mount(8), mount.fuse3 and fstab pass along; the mount is ro,nosuid,nodev whatever
 * they say. */
static const char *const ignored[] = {
    "auto",    "noauto",   "user",     "nouser",   "users",    "nousers",  "owner",
    "group",   "nofail",   "_netdev",  "defaults", "ro",       "rw",       "suid",
    "nosuid",  "dev",      "nodev",    "exec",     "noexec",   "sync",     "async",
    "atime",   "noatime",  "diratime", "nodiratime", "relatime", "norelatime", "strictatime",
    "nostrictatime",
};

int options_init(struct options *o)
{
    *o = (struct options){
        .keep_free = UINT64_MAX,
        .memory = 256 << 20,
        .readahead = 4 << 20,
        .uid = UINT64_MAX,
        .gid = UINT64_MAX,
    };
    return 0;
}

void options_free(struct options *o)
{
    for (int i = 0; i < TABLE_SIZE; i++)
        if (table[i].kind == TEXT)
            free(*(char **)((char *)o + table[i].offset));
    *o = (struct options){0};
}

static bool number_parse(const char *text, int base, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, base);
    *out = v;
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0;
}

bool size_parse(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    char copy[32];
    size_t n = strlen(text);
    unsigned shift = 0;
    if (n == 0 || n >= sizeof copy)
        return false;
    memcpy(copy, text, n + 1);
    for (unsigned i = 0; units[i]; i++)
        if (copy[n - 1] == units[i] || copy[n - 1] == units[i] + ('a' - 'A')) {
            shift = 10 * (i + 1);
            copy[n - 1] = '\0';
        }
    return number_parse(copy, 10, bytes) && *bytes <= UINT64_MAX >> shift &&
           (*bytes <<= shift, true);
}

static int set(struct options *o, int i, const char *value, struct error *err)
{
    void *field = (char *)o + table[i].offset;
    if ((table[i].kind == FLAG) != (value == NULL))
        return error_set(err, -EINVAL, value ? "option %s takes no value" : "option %s needs a value",
                         table[i].name);
    bool ok = true;
    switch (table[i].kind) {
    case FLAG: *(bool *)field = true; break;
    case SIZE: ok = size_parse(value, field); break;
    case NUMBER: ok = number_parse(value, 10, field); break;
    case OCTAL: ok = number_parse(value, 8, field); break;
    case TEXT:
        free(*(char **)field);
        if (!(*(char **)field = strdup(value)))
            return error_set(err, -ENOMEM, "out of memory");
        break;
    }
    return ok ? 0
              : error_set(err, -EINVAL, "option %s=%s: not a %s", table[i].name, value,
                          table[i].kind == SIZE ? "size" : "number");
}

static bool is_ignored(const char *word)
{
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        if (strcmp(word, ignored[i]) == 0)
            return true;
    return strncmp(word, "x-", 2) == 0 || strncmp(word, "comment=", 8) == 0;
}

static int parse_word(struct options *o, char *word, struct error *err)
{
    if (!*word || is_ignored(word))
        return 0;
    char *value = strchr(word, '=');
    if (value)
        *value++ = '\0';
    for (int i = 0; i < TABLE_SIZE; i++)
        if (strcmp(word, table[i].name) == 0)
            return set(o, i, value, err);
    return error_set(err, -EINVAL, "unknown option: %s", word);
}

int options_parse(struct options *o, const char *text, struct error *err)
{
    char *word = malloc(strlen(text) + 1);
    int rc = word ? 0 : error_set(err, -ENOMEM, "out of memory");
    while (!rc && *text) {
        char *end = word;
        for (; *text && *text != ','; text++) {
            if (*text == '\\' && text[1])
                text++;
            *end++ = *text;
        }
        *end = '\0';
        text += *text == ',';
        rc = parse_word(o, word, err);
    }
    free(word);
    return rc;
}

/* "Q4_K_M:Q8_0" to what it names. */
static int parse_forms(struct options *o, struct error *err)
{
    o->recipe_mask = 0;
    o->form_mask = 0;
    o->lora = false;
    char *copy = strdup(o->forms), *rest = copy, *word;
    int rc = copy ? 0 : error_set(err, -ENOMEM, "out of memory");
    while (!rc && (word = strsep(&rest, ":"))) {
        const struct recipe *recipe = recipe_by_name(word);
        unsigned form = form_by_name(word);
        if (recipe)
            o->recipe_mask |= 1u << (recipe - recipes);
        if (form != FORM_STORED)
            o->form_mask |= UINT64_C(1) << form;
        bool lora = strcasecmp(word, lora_file_kind) == 0;
        o->lora |= lora;
        if (!recipe && form == FORM_STORED && !lora)
            rc = error_set(err, -EINVAL, "option forms: \"%s\" is neither a recipe nor a format",
                           word);
    }
    free(copy);
    return rc;
}

int options_finish(struct options *o, struct error *err)
{
    enum log_level level;
    o->recipe_mask = UINT32_MAX;
    o->form_mask = UINT64_MAX;
    o->lora = true;
    if (o->forms && parse_forms(o, err))
        return -EINVAL;
    if (o->compress && strcmp(o->compress, "sealed") != 0 && strcmp(o->compress, "off") != 0)
        return error_set(err, -EINVAL, "option compress=%s: must be sealed or off", o->compress);
    if (o->loglevel && log_level_parse(o->loglevel, &level))
        return error_set(err, -EINVAL, "option loglevel=%s: must be error, warning, info or debug",
                         o->loglevel);
    if (o->memory < TILES_MEMORY_MIN)
        return error_set(err, -EINVAL, "option memory: at least %d MiB are needed",
                         TILES_MEMORY_MIN >> 20);
    if (o->cache_size && o->cache_size < TILES_MEMORY_MIN)
        return error_set(err, -EINVAL, "option cache_size: less than %d MiB are of no use",
                         TILES_MEMORY_MIN >> 20);
    if (!o->workers) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        o->workers = cores > 0 ? (uint64_t)cores : 1;
    }
    if (o->workers > 1024)
        return error_set(err, -EINVAL, "option workers=%" PRIu64 ": too many", o->workers);
    if (o->umask > 0777)
        return error_set(err, -EINVAL, "option umask: not a mask of permissions");
    return 0;
}

void options_print(FILE *out)
{
    for (int i = 0; i < TABLE_SIZE; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", table[i].name, table[i].value ? "=" : "",
                 table[i].value ? table[i].value : "");
        fprintf(out, "  %-22s %s", left, table[i].help);
        if (table[i].standard)
            fprintf(out, " [%s]", table[i].standard);
        fputc('\n', out);
    }
}
