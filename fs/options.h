/* SPDX-License-Identifier: MIT
 *
 * The mount options: one table, from which they are parsed, documented and defaulted. Unknown ones
 * are refused by name; the words that fstab and mount(8) add are accepted and ignored.
 */
#ifndef FS_OPTIONS_H
#define FS_OPTIONS_H

#include "codec/error.h"
#include "codec/recipe.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

struct options {
    char *cache;         /* folder, or "none"; NULL: the user's cache folder */
    uint64_t cache_size; /* 0: a fifth of its disk */
    uint64_t keep_free;  /* UINT64_MAX: a twentieth of its disk */
    char *compress;      /* "sealed" or "off" */
    uint64_t memory, workers, readahead;
    char *imatrix;
    char *calibration;
    char *base;
    char *forms;         /* as given */
    bool notensors, onto_nf4, requantize, follow_links, allow_other;
    uint64_t uid, gid, umask; /* UINT64_MAX: not given */
    char *log, *loglevel;
    /* Derived. */
    uint32_t recipe_mask; /* which are shown: bit i is recipes[i] */
    uint64_t form_mask;   /* likewise, form i */
    bool lora;            /* whether adapters are shown as files of their own */
};

/* The defaults. Strings are owned by the options. */
int options_init(struct options *o);
void options_free(struct options *o);

/* Parses "name=value,name,...", as it follows -o; a backslash protects a comma. -EINVAL with the
 * offending word. May be called several times. */
int options_parse(struct options *o, const char *text, struct error *err);

/* Checks what depends on several options and fills in what is derived; call once, at the end. */
int options_finish(struct options *o, struct error *err);

/* The table, for --help. */
void options_print(FILE *out);

/* "64M" to bytes: K, M, G, T, powers of 1024. False where it is no size. */
bool size_parse(const char *text, uint64_t *bytes);

#endif
