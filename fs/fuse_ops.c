/* SPDX-License-Identifier: MIT */
#define FUSE_USE_VERSION 312
#include "fs/fuse_ops.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

enum {
    MAX_BACKGROUND = 64,          /* requests of read-ahead in flight */
    CONGESTION_THRESHOLD = 48,
};

/* How long the kernel may keep what it was told. A model's number changes with its files, so all
 * below it is true for as long as it has that number; the model's own entry is what is asked
 * again. */
static const double model_timeout = 1, inner_timeout = 86400;

static struct tree *tree_of(fuse_req_t req) { return fuse_req_userdata(req); }

static void init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    /* Replies are copied from warm memory: splicing was measured to be slower. Listings do not
     * carry attributes: a plain ls must not build headers for their sizes. */
    conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                              FUSE_CAP_SPLICE_MOVE | FUSE_CAP_READDIRPLUS |
                              FUSE_CAP_READDIRPLUS_AUTO);
    conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS);
    conn->max_read = READ_MAX;
    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = CONGESTION_THRESHOLD;
    conn->time_gran = 1;
}

static void lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.generation = 1};
    int rc = tree_lookup(tree_of(req), parent, name, &entry.ino, &entry.attr);
    entry.entry_timeout = entry.attr_timeout =
        tree_holds_models(parent) ? model_timeout : inner_timeout;
    if (rc == 0 || rc == -ENOENT) /* an entry without a node is a name that is not there */
        fuse_reply_entry(req, &entry);
    else
        fuse_reply_err(req, -rc);
}

static void getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    (void)fi;
    struct stat st;
    int rc = tree_getattr(tree_of(req), node, &st);
    if (rc)
        fuse_reply_err(req, -rc);
    else
        fuse_reply_attr(req, &st, tree_holds_models(node) ? model_timeout : inner_timeout);
}

static void open_file(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    struct file *f;
    if ((fi->flags & O_ACCMODE) != O_RDONLY) {
        fuse_reply_err(req, EROFS);
        return;
    }
    int rc = tree_open(tree_of(req), node, &f);
    if (rc) {
        fuse_reply_err(req, -rc);
        return;
    }
    fi->fh = (uint64_t)(uintptr_t)f;
    fi->keep_cache = 1;
    fi->direct_io = tree_is_unsized(node);
    fi->noflush = 1;
    if (fuse_reply_open(req, fi))
        tree_close(tree_of(req), f);
}

static void release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    (void)node;
    tree_close(tree_of(req), (struct file *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

/* One reply buffer a thread, kept warm. */
static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void make_buffer_key(void) { pthread_key_create(&buffer_key, free); }

static uint8_t *reply_buffer(void)
{
    pthread_once(&buffer_once, make_buffer_key);
    uint8_t *buf = pthread_getspecific(buffer_key);
    if (!buf && (buf = aligned_alloc(4096, READ_MAX)))
        pthread_setspecific(buffer_key, buf);
    return buf;
}

static void read_file(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                      struct fuse_file_info *fi)
{
    (void)node;
    struct reading r;
    struct iovec iov[READING_PIECES];
    uint8_t *buf = reply_buffer();
    struct file *f = (struct file *)(uintptr_t)fi->fh;
    int rc = -EIO;
    if (buf && size <= READ_MAX && offset >= 0)
        rc = tree_read(tree_of(req), f, (uint64_t)offset, size, buf, &r);
    if (rc) {
        fuse_reply_err(req, -rc);
        return;
    }
    for (size_t i = 0; i < r.count; i++)
        iov[i] = (struct iovec){(void *)(uintptr_t)r.pieces[i].data, r.pieces[i].size};
    struct tiles *tiles = tree_of(req)->tiles; /* the request is gone once it is replied to */
    fuse_reply_iov(req, iov, (int)r.count);
    reading_end(tiles, &r);
}

static void open_folder(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    struct listing *l;
    int rc = tree_list(tree_of(req), node, &l);
    if (rc) {
        fuse_reply_err(req, -rc);
        return;
    }
    fi->fh = (uint64_t)(uintptr_t)l;
    fi->cache_readdir = fi->keep_cache = !tree_holds_models(node);
    if (fuse_reply_open(req, fi))
        listing_free(l);
}

static void release_folder(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    (void)node;
    listing_free((struct listing *)(uintptr_t)fi->fh);
    fuse_reply_err(req, 0);
}

static void read_folder(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                        struct fuse_file_info *fi)
{
    (void)node;
    const struct listing *l = (const struct listing *)(uintptr_t)fi->fh;
    char *buf = malloc(size);
    size_t used = 0;
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    for (size_t i = (size_t)offset; i < l->count; i++) {
        struct stat st = {.st_ino = l->entries[i].inode, .st_mode = l->entries[i].mode};
        size_t n = fuse_add_direntry(req, buf + used, size - used, l->entries[i].name, &st,
                                     (off_t)(i + 1));
        if (n > size - used)
            break;
        used += n;
    }
    fuse_reply_buf(req, buf, used);
    free(buf);
}

static void get_xattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size)
{
    char value[1024];
    if (size > sizeof value)
        size = sizeof value;
    ssize_t n = tree_getxattr(tree_of(req), node, name, value, size);
    if (n < 0)
        fuse_reply_err(req, (int)-n);
    else if (size == 0)
        fuse_reply_xattr(req, (size_t)n);
    else
        fuse_reply_buf(req, value, (size_t)n);
}

static void list_xattr(fuse_req_t req, fuse_ino_t node, size_t size)
{
    char list[1024];
    if (size > sizeof list)
        size = sizeof list;
    ssize_t n = tree_listxattr(tree_of(req), node, list, size);
    if (n < 0)
        fuse_reply_err(req, (int)-n);
    else if (size == 0)
        fuse_reply_xattr(req, (size_t)n);
    else
        fuse_reply_buf(req, list, (size_t)n);
}

/* The size of the store's file system, and no room on it. */
static void stat_fs(fuse_req_t req, fuse_ino_t node)
{
    (void)node;
    struct statvfs st;
    if (fstatvfs(store_root(tree_of(req)->store), &st)) {
        fuse_reply_err(req, errno);
        return;
    }
    st.f_bfree = st.f_bavail = st.f_ffree = st.f_favail = 0;
    st.f_namemax = 255;
    fuse_reply_statfs(req, &st);
}

const struct fuse_lowlevel_ops quantfs_ops = {
    .getattr = getattr,
    .getxattr = get_xattr,
    .init = init,
    .listxattr = list_xattr,
    .lookup = lookup,
    .open = open_file,
    .opendir = open_folder,
    .read = read_file,
    .readdir = read_folder,
    .release = release,
    .releasedir = release_folder,
    .statfs = stat_fs,
};
