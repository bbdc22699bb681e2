/* SPDX-License-Identifier: MIT
 *
 * The files that bytes are made from. A source is opened once for its identity; from then on every
 * read proves that the file is still the same: it is checked before and after, and a source that
 * was found changed stays failed. So old and new bytes never mix. Files are read with pread and
 * never mapped, since a truncation would kill whoever touches the mapping.
 *
 * Descriptors are opened on demand and only so many are kept; which one is open is nobody else's
 * business.
 */
#ifndef DAEMON_SOURCE_H
#define DAEMON_SOURCE_H

#include "codec/error.h"
#include "daemon/beneath.h"
#include "daemon/stats.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* All that tells one state of a file from another, short of reading it. */
struct source_identity {
    uint64_t inode, size;
    int64_t mtime_ns, ctime_ns;
};

struct source;

/* Keeps at most max descriptors open over all its sources. Freed with source_set_free when the
 * last source is gone. */
struct source_set *source_set_new(unsigned max_open, struct stats *stats);
void source_set_free(struct source_set *set);

/* A regular file beneath root (which must stay as it is as long as the source lives). Takes the file's
 * identity. One reference is the caller's. -errno with a sentence. */
int source_open(struct source_set *set, const struct beneath *root, const char *path,
                struct source **out, struct error *err);
struct source *source_ref(struct source *s);
void source_unref(struct source *s);

const char *source_path(const struct source *s);
const struct source_identity *source_identity(const struct source *s);

/* The id that its file system gives itself (f_fsid of statfs), which tells one file of that identity
 * from another. */
uint64_t source_filesystem(const struct source *s);

/* The SHA-256 of the content, in hexadecimal, where the store says it: a hub cache calls its blobs
 * so. "" elsewhere. It is taken at its word: it goes into cache keys. */
const char *source_content(const struct source *s);

/* Reads exactly n bytes. -ESTALE once the file has changed, else -errno. Threads may read at once. */
int source_read(struct source *s, void *buf, uint64_t offset, size_t n, struct error *err);

/* 0 while the file is what it was, else as source_read. */
int source_check(struct source *s, struct error *err);

void source_identity_of(const struct stat *st, struct source_identity *id);

#endif
