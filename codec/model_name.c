/* SPDX-License-Identifier: MIT */
#include "codec/model_name.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What a part of the name was recognised as; a part may be more than one thing. */
enum mark {
    BASENAME = 1,
    SIZE_LABEL = 2,
    FINETUNE = 4,
    VERSION = 8,
    TYPE = 16,
};

struct part {
    char *text;
    unsigned marks;
};

/* ASCII only, whatever the locale; bytes of other scripts count as letters without case. */
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
static bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
static bool is_letter(char c) { return is_upper(c) || is_lower(c) || (unsigned char)c >= 0x80; }
static char to_upper(char c) { return is_lower(c) ? (char)(c - 'a' + 'A') : c; }
static char to_lower(char c) { return is_upper(c) ? (char)(c - 'A' + 'a') : c; }

static const char *skip_digits(const char *s)
{
    while (is_digit(*s))
        s++;
    return s;
}

static const char *skip_prefix(const char *s, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncasecmp(s, prefix, n) == 0 ? s + n : s;
}

/* digits, then any number of "." digits, and nothing more */
static bool is_dotted_number(const char *s)
{
    for (;;) {
        const char *end = skip_digits(s);
        if (end == s)
            return false;
        if (*end == '\0')
            return true;
        if (*end != '.')
            return false;
        s = end + 1;
    }
}

/* v1.2, iter3, 2.0 */
static bool is_version(const char *s)
{
    const char *rest = skip_prefix(s, "iter");
    if (rest == s)
        rest = skip_prefix(s, "v");
    return is_dotted_number(rest) || is_dotted_number(s);
}

/* q4_K_M (one word character behind each underscore), iq2, bf16, fp32 */
static bool is_quant_type(const char *s)
{
    const char *p = skip_prefix(s, "b");
    if (to_lower(*p) == 'f') {
        p = skip_prefix(p + 1, "p");
        if (strcmp(p, "16") == 0 || strcmp(p, "32") == 0)
            return true;
    }
    p = skip_prefix(s, "i");
    if (to_lower(*p) != 'q' || !is_digit(p[1]))
        return false;
    for (p += 2; *p == '_' && (is_letter(p[1]) || is_digit(p[1]) || p[1] == '_'); p += 2)
        ;
    return *p == '\0';
}

static bool is_size(const char *s)
{
    static const char *const words[] = {"small", "mini", "medium", "large", "xl", "xxl"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(s, words[i]) == 0)
            return true;
    const char *p = skip_prefix(s, "a");
    if (p == s) {
        const char *times = skip_digits(s);
        if (times != s && to_lower(*times) == 'x')
            p = times + 1;
    }
    const char *end = skip_digits(p);
    if (end == p)
        return false;
    if ((*end == '.' || *end == '_') && is_digit(end[1]))
        end = skip_digits(end + 1);
    if (*end == '\0' || !strchr("kmbt", to_lower(*end)))
        return false;
    end++;
    if (is_digit(*end))
        end++;
    return *end == '\0';
}

static bool is_finetune(const char *s)
{
    return strcasecmp(s, "chat") == 0 || strcasecmp(s, "instruct") == 0 ||
           strcasecmp(s, "vision") == 0 || strcasecmp(s, "lora") == 0;
}

/* digits, or digits "." digits: what can be a number before a size's unit */
static bool is_decimal(const char *s, size_t n)
{
    const char *end = skip_digits(s);
    if (end == s)
        return false;
    if (*end == '.' && is_digit(end[1]))
        end = skip_digits(end + 1);
    return end == s + n;
}

/* Normalises a size part in place and says whether it is one after all: "128k" of an 8B model is
 * a context length, hence part of the finetune's name. */
static unsigned mark_size(char *s, int64_t parameters)
{
    for (char *p = s; *p; p++)
        if (*p == '_')
            *p = '.';
    size_t n = strlen(s);
    if (is_digit(s[n - 1])) { /* bloom's "7b1" is 7.1b; there is room: "b1" becomes ".1b" */
        char unit = s[n - 2];
        s[n] = unit;
        s[n - 2] = '.';
        s[++n] = '\0';
    }
    if (is_digit(s[n - 2]))
        s[n - 1] = to_upper(s[n - 1]);
    if (parameters == 0 || !is_decimal(s, n - 1))
        return SIZE_LABEL;
    const char *units = " KMBT", *unit = strchr(units, s[n - 1]);
    double label = strtod(s, NULL) * pow(1000, (double)(unit - units));
    /* an adapter need not add to all of a model */
    if (parameters < 0 ? label < (double)(-parameters / 8)
                       : fabs(label - (double)parameters) > (double)(7 * parameters / 8)) {
        s[n - 1] = to_lower(s[n - 1]);
        return FINETUNE;
    }
    return SIZE_LABEL;
}

static void mark_part(struct part *p, bool first, int64_t parameters)
{
    if (is_version(p->text)) {
        p->marks = VERSION;
    } else if (is_quant_type(p->text)) {
        p->marks = TYPE;
        for (char *c = p->text; *c; c++)
            *c = to_upper(*c);
    } else if (!first && is_size(p->text)) {
        p->marks = mark_size(p->text, parameters);
    } else if (!first && is_finetune(p->text)) {
        p->marks = parameters < 0 && strcasecmp(p->text, "lora") == 0 ? TYPE : FINETUNE;
    }
}

static bool has_digit(const char *s) { return s[strcspn(s, "0123456789")] != '\0'; }

static bool all_letters(const char *s)
{
    for (; *s; s++)
        if (!is_letter(*s))
            return false;
    return true;
}

static void mark_parts(struct part *parts, size_t n, int64_t parameters)
{
    bool numeric_size = false;
    for (size_t i = 0; i < n; i++) {
        mark_part(&parts[i], i == 0, parameters);
        numeric_size |= parts[i].marks & SIZE_LABEL && has_digit(parts[i].text);
    }
    for (size_t i = 0; numeric_size && i < n; i++)
        if (all_letters(parts[i].text))
            parts[i].marks &= ~(unsigned)SIZE_LABEL;
    bool at_start = true;
    for (size_t i = 0; i < n; i++) {
        struct part *p = &parts[i];
        if (at_start && ((p->marks == 0 && is_letter(p->text[0])) || p->marks & VERSION)) {
            p->marks |= BASENAME;
        } else {
            at_start = false;
            if (p->marks == 0)
                p->marks = FINETUNE;
        }
    }
    for (size_t i = n; i-- > 0 && parts[i].marks & BASENAME && parts[i].marks != BASENAME;)
        parts[i].marks &= ~(unsigned)BASENAME;
}

/* The marked parts joined by "-"; NULL if there is none. distinct: each text once. */
static char *join(const struct part *parts, size_t n, enum mark with, unsigned without,
                  bool distinct, struct arena *arena)
{
    size_t size = 1;
    for (size_t i = 0; i < n; i++)
        size += strlen(parts[i].text) + 1;
    char *out = arena_alloc(arena, size);
    if (!out)
        return NULL;
    char *end = out;
    for (size_t i = 0; i < n; i++) {
        if (!(parts[i].marks & with) || parts[i].marks & without)
            continue;
        bool seen = false;
        for (size_t j = 0; distinct && j < i; j++)
            seen |= parts[j].marks & with && strcmp(parts[j].text, parts[i].text) == 0;
        if (!seen)
            end += sprintf(end, "%s%s", end == out ? "" : "-", parts[i].text);
    }
    return end == out ? NULL : out;
}

/* A word keeps its case if it has capitals, no letters, begins with a digit or is a version. */
static bool keeps_case(const char *word, size_t n)
{
    bool lower = false;
    for (size_t i = 0; i < n; i++) {
        if (is_upper(word[i]))
            return true;
        lower |= is_lower(word[i]);
    }
    if (!lower || is_digit(word[0]))
        return true;
    char copy[64];
    if (word[0] != 'v' || n >= sizeof copy)
        return false;
    memcpy(copy, word + 1, n - 1);
    copy[n - 1] = '\0';
    return is_dotted_number(copy);
}

/* "llama-3.1-8b it" to "Llama 3.1 8b It" */
static char *title(const char *s, size_t n, struct arena *arena)
{
    char *out = arena_alloc(arena, n + 1);
    if (!out)
        return NULL;
    char *end = out;
    for (size_t i = 0; i < n;) {
        while (i < n && (s[i] == '-' || strchr(" \t\n\v\f\r", s[i])))
            i++;
        size_t start = i;
        while (i < n && s[i] != '-' && !strchr(" \t\n\v\f\r", s[i]))
            i++;
        if (i == start)
            break;
        if (end != out)
            *end++ = ' ';
        bool keep = keeps_case(s + start, i - start);
        for (size_t k = start; k < i; k++)
            *end++ = !keep && (k == start || !is_letter(s[k - 1])) ? to_upper(s[k]) : s[k];
    }
    return out;
}

/* Splits at "-" into non-empty parts, each with one spare byte. */
static struct part *split(const char *s, size_t *count, struct arena *arena)
{
    struct part *parts = arena_array(arena, strlen(s) / 2 + 1, sizeof *parts);
    *count = 0;
    while (parts && *s) {
        size_t n = strcspn(s, "-");
        if (n) {
            char *text = arena_alloc(arena, n + 2);
            if (!text)
                return NULL;
            memcpy(text, s, n);
            parts[(*count)++].text = text;
        }
        s += n + (s[n] == '-');
    }
    return parts;
}

int model_name_parse(const char *id, int64_t parameters, struct arena *arena,
                     struct model_name *out)
{
    *out = (struct model_name){0};
    const char *rest = id, *slash = strchr(id, '/');
    if (strchr(id, ' ')) {
        out->name = title(id, strlen(id), arena);
        return out->name ? 0 : -ENOMEM;
    }
    if (slash) {
        rest = slash + 1;
        if (id[0] != '.')
            out->organization = title(id, (size_t)(slash - id), arena);
    }
    size_t n;
    struct part *parts = split(rest, &n, arena);
    out->name = title(rest, strlen(rest), arena);
    if (!parts || !out->name)
        return -ENOMEM;
    mark_parts(parts, n, parameters);
    out->basename = join(parts, n, BASENAME, 0, false, arena);
    out->size_label = join(parts, n, SIZE_LABEL, 0, true, arena);
    out->finetune = join(parts, n, FINETUNE, 0, false, arena);
    out->version = join(parts, n, VERSION, BASENAME, false, arena);
    if (!out->size_label && !out->finetune && !out->version)
        out->basename = NULL; /* too little to tell */
    return 0;
}

void model_name_merge(struct model_name *into, const struct model_name *from)
{
#define MERGE(field) into->field = into->field ? into->field : from->field
    MERGE(name);
    MERGE(organization);
    MERGE(basename);
    MERGE(finetune);
    MERGE(version);
    MERGE(size_label);
#undef MERGE
}

char *model_name_size_label(uint64_t parameters, struct arena *arena)
{
    static const struct {
        double above, scale;
        char unit;
    } units[] = {{1e12, 1e-12, 'T'}, {1e9, 1e-9, 'B'}, {1e6, 1e-6, 'M'}, {-1, 1e-3, 'K'}};
    double count = (double)parameters;
    size_t i = 0;
    while (!(count > units[i].above))
        i++;
    double scaled = count * units[i].scale;
    double rounded = nearbyint(scaled);
    int digits = rounded >= 10 ? 2 : rounded >= 1 ? 1 : 0;
    return arena_printf(arena, "%.*f%c", 2 - digits, scaled, units[i].unit);
}
