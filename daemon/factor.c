/* SPDX-License-Identifier: MIT */
#include "daemon/factor.h"

#include "codec/spqr/prepare.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(FACTOR_DIGEST == crypto_hash_sha256_BYTES, "digests are SHA-256");

enum { ALIGNMENT = 64 };

void factor_set_init(struct factor_set *set)
{
    *set = (struct factor_set){.kept = NULL};
    pthread_mutex_init(&set->lock, NULL);
}

void factor_set_destroy(struct factor_set *set) { pthread_mutex_destroy(&set->lock); }

/* ---- the file ---- */

static int read_at(int fd, void *to, size_t n, uint64_t at, struct error *err)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (uint8_t *)to + done, n - done, (off_t)(at + done));
        if (got == 0)
            return error_set(err, -EIO, "the file ends at byte %zu", (size_t)at + done);
        if (got < 0 && errno != EINTR)
            return error_set(err, -errno, "%s", strerror(errno));
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int read_order(struct factor *f, int fd, struct error *err)
{
    size_t n = (size_t)f->layout.columns;
    uint8_t *data = malloc(n * 4);
    f->order = malloc(n * sizeof *f->order);
    int rc = data && f->order ? read_at(fd, data, n * 4, FACTOR_HEADER, err)
                              : error_set(err, -ENOMEM, "out of memory");
    rc = rc ? rc : factor_order_parse(data, n, f->order, err);
    free(data);
    return rc;
}

static int read_head(struct factor *f, int fd, uint64_t columns, struct error *err)
{
    uint8_t head[FACTOR_HEADER];
    int rc = read_at(fd, head, sizeof head, 0, err);
    rc = rc ? rc : factor_parse(head, sizeof head, f->identity.size, &f->layout, err);
    if (!rc && f->layout.columns != columns)
        rc = error_set(err, -EINVAL, "it is of %llu columns, and the matrix has %llu",
                       (unsigned long long)f->layout.columns, (unsigned long long)columns);
    rc = rc ? rc : read_order(f, fd, err);
    return rc ? rc : read_at(fd, f->digest, FACTOR_DIGEST, f->layout.digest, err);
}

static void discard(struct factor *f)
{
    free(f->packed);
    free(f->dead);
    free(f->order);
    free(f->path);
    free(f);
}

static struct factor *find(struct factor_set *set, const char *path,
                           const struct source_identity *id)
{
    struct factor *f = set->first;
    while (f && (strcmp(f->path, path) != 0 || memcmp(&f->identity, id, sizeof *id) != 0))
        f = f->next;
    return f;
}

/* The set's lock is held. */
static int open_new(struct factor_set *set, const char *path, int fd,
                    const struct source_identity *id, uint64_t columns, struct factor **out,
                    struct error *err)
{
    struct factor *f = calloc(1, sizeof *f);
    if (!f)
        return error_set(err, -ENOMEM, "out of memory");
    f->set = set;
    f->refs = 1;
    f->identity = *id;
    f->path = strdup(path);
    int rc = f->path ? read_head(f, fd, columns, err) : error_set(err, -ENOMEM, "out of memory");
    if (rc) {
        discard(f);
        return rc;
    }
    f->next = set->first;
    set->first = f;
    *out = f;
    return 0;
}

int factor_open(struct factor_set *set, const char *path, uint64_t columns, struct factor **out,
                struct error *err)
{
    struct stat st;
    struct source_identity id;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;
    if (fd < 0 || fstat(fd, &st)) {
        rc = error_set(err, -errno, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    source_identity_of(&st, &id);
    pthread_mutex_lock(&set->lock);
    struct factor *f = find(set, path, &id);
    if (!f)
        rc = open_new(set, path, fd, &id, columns, out, err);
    else if (f->layout.columns != columns)
        rc = error_set(err, -EINVAL, "it is of other matrices");
    else
        *out = f, f->refs++;
    pthread_mutex_unlock(&set->lock);
    close(fd);
    return rc ? error_prefix(err, rc, "%s", path) : 0;
}

/* ---- U ---- */

static void drop(struct factor *f)
{
    free(f->packed);
    free(f->dead);
    f->packed = NULL;
    f->dead = NULL;
}

/* Reads all of the file once more, in rows of the triangle, which are proven by the digest. */
static int read_rows(struct factor *f, int fd, struct error *err)
{
    size_t n = (size_t)f->layout.columns;
    crypto_hash_sha256_state state;
    uint8_t digest[FACTOR_DIGEST], *head = malloc((size_t)f->layout.triangle);
    float *row = malloc(n * sizeof *row);
    int rc = head && row ? read_at(fd, head, (size_t)f->layout.triangle, 0, err)
                         : error_set(err, -ENOMEM, "out of memory");
    crypto_hash_sha256_init(&state);
    if (!rc)
        crypto_hash_sha256_update(&state, head, f->layout.triangle);
    uint64_t at = f->layout.triangle;
    for (size_t i = 0; !rc && i < n; i++) {
        size_t size = (n - i) * sizeof *row;
        rc = read_at(fd, row, size, at, err);
        if (rc)
            break;
        crypto_hash_sha256_update(&state, (const uint8_t *)row, size);
        spqr_factor_put_row(f->packed, n, i, row);
        /* Such a row alone is that of a column that was never seen. */
        f->dead[i] &= row[0] == 1;
        for (size_t c = 1; c < n - i; c++)
            if (row[c] != 0)
                f->dead[i] = f->dead[i + c] = 0;
        at += size;
    }
    crypto_hash_sha256_final(&state, digest);
    free(head);
    free(row);
    if (!rc && memcmp(digest, f->digest, sizeof digest) != 0)
        rc = error_set(err, -EIO, "its bytes are not those of its digest");
    return rc;
}

static int load(struct factor *f, struct error *err)
{
    size_t n = (size_t)f->layout.columns, size = spqr_factor_size(n) * sizeof(float);
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, -EIO, "%s: %s", f->path, strerror(errno));
    f->packed = aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    f->dead = malloc(n);
    int rc = f->packed && f->dead ? 0 : error_set(err, -ENOMEM, "out of memory");
    if (!rc) {
        memset(f->dead, 1, n);
        spqr_factor_begin(f->packed, n);
        rc = read_rows(f, fd, err);
        /* An expert that no token has chosen: nothing is known of its inputs, and none is left out. */
        if (!memchr(f->dead, 0, n))
            memset(f->dead, 0, n);
    }
    close(fd);
    if (rc) {
        drop(f);
        return error_prefix(err, rc, "%s", f->path);
    }
    return 0;
}

/* The set's lock is held. */
static void keep(struct factor *f)
{
    struct factor *before = f->set->kept;
    if (before && before != f && before->users == 0)
        drop(before);
    f->set->kept = f;
}

int factor_take(struct factor *f, const float **packed, const uint8_t **dead, struct error *err)
{
    pthread_mutex_lock(&f->set->lock);
    int rc = f->packed ? 0 : load(f, err);
    if (!rc) {
        keep(f);
        f->users++;
        *packed = f->packed;
        *dead = f->dead;
    }
    pthread_mutex_unlock(&f->set->lock);
    return rc;
}

void factor_give(struct factor *f)
{
    pthread_mutex_lock(&f->set->lock);
    if (--f->users == 0 && f->set->kept != f)
        drop(f);
    pthread_mutex_unlock(&f->set->lock);
}

struct factor *factor_ref(struct factor *f)
{
    if (!f)
        return NULL;
    pthread_mutex_lock(&f->set->lock);
    f->refs++;
    pthread_mutex_unlock(&f->set->lock);
    return f;
}

void factor_unref(struct factor *f)
{
    if (!f)
        return;
    struct factor_set *set = f->set;
    pthread_mutex_lock(&set->lock);
    bool last = --f->refs == 0;
    if (last) {
        struct factor **link = &set->first;
        while (*link != f)
            link = &(*link)->next;
        *link = f->next;
        set->kept = set->kept == f ? NULL : set->kept;
    }
    pthread_mutex_unlock(&set->lock);
    if (last)
        discard(f);
}
