/* SPDX-License-Identifier: MIT */
#include "daemon/calibration.h"

#include "codec/config.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 1 << 30 }; /* a 400B model's matrix has some 200 MB */

static int read_file(const char *path, struct blob *out, struct error *err)
{
    struct stat st;
    char *data = NULL;
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, -errno, "%s", strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        rc = error_set(err, -EINVAL, "not a regular file");
    else if (st.st_size > FILE_MAX)
        rc = error_set(err, -EFBIG, "too large for a part of a calibration");
    else if (!(data = malloc((size_t)st.st_size + 1)))
        rc = error_set(err, -ENOMEM, "out of memory");
    size_t size = 0;
    while (!rc && size < (size_t)st.st_size) {
        ssize_t n = read(fd, data + size, (size_t)st.st_size - size);
        if (n > 0)
            size += (size_t)n;
        else if (n == 0)
            rc = error_set(err, -EIO, "truncated while it was read");
        else if (errno != EINTR)
            rc = error_set(err, -errno, "%s", strerror(errno));
    }
    close(fd);
    if (rc) {
        free(data);
        return rc;
    }
    *out = (struct blob){data, size};
    return 0;
}

/* An empty one. */
static int make(const char *name, struct calibration **out, struct error *err)
{
    struct calibration *c = calloc(1, sizeof *c);
    if (c)
        c->name = strdup(name);
    if (!c || !c->name) {
        free(c);
        return error_set(err, -ENOMEM, "out of memory");
    }
    c->refs = 1;
    *out = c;
    return 0;
}

int calibration_load(const char *path, const char *name, struct calibration **out,
                     struct error *err)
{
    struct blob file;
    struct calibration *c = NULL;
    int rc = read_file(path, &file, err);
    if (rc)
        return error_prefix(err, rc, "%s", path);
    rc = make(name, &c, err);
    rc = rc ? rc : imatrix_parse(file, &c->imatrix, err);
    free((void *)file.data);
    if (rc) {
        calibration_unref(c);
        return error_prefix(err, rc, "%s", path);
    }
    *out = c;
    return 0;
}

static void set_digest(struct calibration *c, struct blob file)
{
    uint8_t digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(digest, (const uint8_t *)file.data, file.size);
    sodium_bin2hex(c->digest, sizeof c->digest, digest, sizeof digest);
}

int calibration_load_scales(const char *path, struct calibration **out, struct error *err)
{
    struct blob file;
    struct calibration *c = NULL;
    int rc = read_file(path, &file, err);
    if (rc)
        return error_prefix(err, rc, "%s", path);
    rc = make(path, &c, err);
    rc = rc ? rc : awq_scales_parse(file, &c->scales, err);
    if (!rc)
        set_digest(c, file);
    free((void *)file.data);
    if (rc) {
        calibration_unref(c);
        return error_prefix(err, rc, "%s", path);
    }
    *out = c;
    return 0;
}

/* What is no text there is none of ours: then nothing can be said of the factors. */
static int find_sequential(struct blob file, char **format, struct error *err)
{
    json_t *root;
    int rc = json_parse(file, &root, err);
    if (rc)
        return rc;
    const json_t *value = json_object_get(root, "sequential");
    if (!json_is_object(root) || (value && !json_is_string(value)))
        rc = error_set(err, -EINVAL, "not what a calibration was made from");
    else if (value && !(*format = strdup(json_string_value(value))))
        rc = error_set(err, -ENOMEM, "out of memory");
    json_decref(root);
    return rc;
}

int calibration_sequential(const char *folder, char **format, struct error *err)
{
    char path[PATH_MAX];
    struct blob file;
    *format = NULL;
    if (snprintf(path, sizeof path, "%s/calibration.json", folder) >= (int)sizeof path)
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", folder);
    int rc = read_file(path, &file, err);
    if (!rc) {
        rc = find_sequential(file, format, err);
        free((void *)file.data);
    }
    return rc ? error_prefix(err, rc, "%s", path) : 0;
}

struct calibration *calibration_ref(struct calibration *c)
{
    if (c)
        c->refs++;
    return c;
}

void calibration_unref(struct calibration *c)
{
    if (!c || --c->refs)
        return;
    imatrix_free(&c->imatrix);
    awq_scales_free(&c->scales);
    free(c->name);
    free(c);
}
