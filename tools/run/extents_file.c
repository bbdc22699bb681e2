/* SPDX-License-Identifier: MIT */
#include "tools/run/extents_file.h"

#include "codec/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where in an absolute path the part below its mount begins: behind the last folder, going up, that
 * is on the file's own file system. */
static size_t mount_length(char *path)
{
    struct stat file, above;
    size_t length = strlen(path);
    if (stat(path, &file))
        return 0;
    for (char *slash; (slash = strrchr(path, '/')) && slash > path; length = strlen(path)) {
        *slash = '\0';
        bool same = stat(path, &above) == 0 && above.st_dev == file.st_dev;
        if (!same)
            break;
    }
    return length;
}

static bool text_path(const char *path, char *out, size_t size)
{
    char full[PATH_MAX], cut[PATH_MAX];
    if (!realpath(path, full))
        return false;
    strcpy(cut, full);
    size_t mount = mount_length(cut);
    int n = snprintf(out, size, "%.*s/.quantfs/extents%s", (int)mount, full, full + mount);
    return mount && n > 0 && (size_t)n < size;
}

static bool read_all(int fd, struct buffer *text)
{
    enum { CHUNK = 1 << 16 };
    for (;;) {
        uint8_t chunk[CHUNK];
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n == 0)
            return !text->failed;
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0)
            buffer_add(text, chunk, (size_t)n);
    }
}

bool extents_file_open(struct extents_file *f, const char *path)
{
    char name[2 * PATH_MAX];
    struct buffer text = {0};
    *f = (struct extents_file){.fd = -1};
    if (!text_path(path, name, sizeof name))
        return false;
    f->fd = open(name, O_RDONLY | O_CLOEXEC);
    bool good = f->fd >= 0 && read_all(f->fd, &text) &&
                extents_parse((const char *)text.data, text.size, &f->extents, NULL) == 0;
    buffer_free(&text);
    if (!good && f->fd >= 0)
        close(f->fd);
    return good;
}

void extents_file_close(struct extents_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    extents_free(&f->extents);
    *f = (struct extents_file){.fd = -1};
}

const struct extent *extents_file_find(const struct extents_file *f, uint64_t offset)
{
    size_t from = 0, to = f->extents.count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (f->extents.items[middle].offset < offset)
            from = middle + 1;
        else
            to = middle;
    }
    return from < f->extents.count ? &f->extents.items[from] : NULL;
}
