/* SPDX-License-Identifier: MIT */
#include "fs/tree.h"

#include "daemon/log.h"
#include "fs/control.h"
#include "fs/extents.h"
#include "fs/gguf_file.h"
#include "fs/hf_file.h"
#include "fs/lora_file.h"
#include "fs/measure_file.h"
#include "fs/name.h"
#include "fs/tensor_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    HEADERS_MAX = 64 << 20, /* bytes of virtual headers kept for files nobody has open */
    PATH_SIZE = 4096,
    ITEM_MAX = (1 << 26) - 1,
};

enum kind {
    ROOT,
    GROUP,    /* of models; model: its number in the store */
    MODEL,
    FOLDER,   /* original/ (item 0) and those below; item: checkpoint file */
    ORIGINAL, /* item: checkpoint file */
    RECIPES,  /* gguf/ */
    RECIPE,   /* form: recipe */
    ADAPTER,  /* what a merged model adds to its base */
    HF,       /* hf/ */
    HF_FORM,  /* form: of hf_model.h */
    HF_FILE,  /* item: of hf_file.h; form */
    TENSORS,
    TENSOR,   /* item: tensor */
    FORM,     /* item: tensor; form: of tensor_file.h */
    INFO,     /* item: tensor */
    SENSITIVITY,   /* item: tensor; this and the next two are those of measure_file.h, in its order */
    ERROR_PICTURE, /* item: tensor; form */
    ERROR_FIGURES, /* likewise */
    CONTROLS, /* .quantfs/ */
    CONTROL,  /* item: control file */
};

struct node {
    uint32_t model; /* its number in the store */
    enum kind kind;
    uint32_t item;
    uint32_t form;
    bool extents; /* not the node itself, but what .quantfs/extents/ has in its place */
};

/* 24 bits of model, 1 of extents, 5 of kind, 26 of item, 8 of form. */
static uint64_t pack(struct node n)
{
    return n.kind == ROOT && !n.extents
               ? TREE_ROOT
               : (uint64_t)n.model << 40 | (uint64_t)n.extents << 39 | (uint64_t)n.kind << 34 |
                     (uint64_t)n.item << 8 | n.form;
}

static struct node unpack(uint64_t id)
{
    if (id == TREE_ROOT)
        return (struct node){.kind = ROOT};
    return (struct node){
        .model = (uint32_t)(id >> 40),
        .extents = id >> 39 & 1,
        .kind = (enum kind)(id >> 34 & 31),
        .item = (uint32_t)(id >> 8) & ITEM_MAX,
        .form = (uint32_t)id & 0xff,
    };
}

static bool is_measure(enum kind kind) { return kind >= SENSITIVITY && kind <= ERROR_FIGURES; }

static enum measure measure_of(enum kind kind) { return (enum measure)(kind - SENSITIVITY); }

/* The numbers of forms that have one begin with 0; that of a tensor has that alone. */
static uint32_t measured_forms(enum kind kind) { return kind == SENSITIVITY ? 1 : FORM_COUNT; }

static bool is_folder(enum kind kind)
{
    return kind == ROOT || kind == GROUP || kind == MODEL || kind == FOLDER || kind == RECIPES ||
           kind == HF || kind == HF_FORM || kind == TENSORS || kind == TENSOR || kind == CONTROLS;
}

/* Whether it is in .quantfs/. */
static bool is_control(struct node n)
{
    return n.extents || n.kind == CONTROLS || n.kind == CONTROL;
}

bool tree_is_unsized(uint64_t node)
{
    struct node n = unpack(node);
    return is_control(n) && !is_folder(n.kind);
}

bool tree_holds_models(uint64_t node)
{
    enum kind kind = unpack(node).kind;
    return kind == ROOT || kind == GROUP;
}

/* ---- what is shown ---- */

static bool shows_recipe(const struct tree *t, const struct checkpoint *c, uint32_t recipe)
{
    return recipe < RECIPE_COUNT && t->options->recipe_mask >> recipe & 1 &&
           gguf_file_offered(c, &recipes[recipe]);
}

static bool shows_hf(const struct tree *t, const struct checkpoint *c, uint32_t form)
{
    struct error err;
    return form < HF_FORM_COUNT && t->options->form_mask >> hf_form_shown_as(&hf_forms[form]) & 1 &&
           hf_offered(c) && hf_form_offered(c, &hf_forms[form], &err) == 0;
}

static bool shows_form(const struct tree *t, const struct checkpoint *c, const struct tensor *tensor,
                       uint32_t form)
{
    return form < FORM_COUNT && tensor_has_form(c, tensor, form) &&
           (form == FORM_STORED || t->options->form_mask >> form & 1);
}

/* What is measured of a form is hidden with it. */
static bool shows_measure(const struct tree *t, const struct checkpoint *c,
                          const struct tensor *tensor, struct node n)
{
    enum measure measure = measure_of(n.kind);
    return measure_exists(c, tensor, n.form, measure) &&
           (measure == MEASURE_SENSITIVITY || shows_form(t, c, tensor, n.form));
}

static bool shows_tensors(const struct tree *t, const struct checkpoint *c)
{
    return !t->options->notensors && c->tensors.count;
}

/* of: a recipe's name, or lora_file_kind */
static void gguf_file_name(const struct checkpoint *c, const char *of, char *out)
{
    char name[PATH_SIZE];
    snprintf(name, sizeof name, "%s-%s.gguf", c->base, of);
    if (strlen(name) <= NAME_BYTES)
        strcpy(out, name);
    else
        name_encode(name, out);
}

/* The last component of a checkpoint file's path. */
static const char *file_name(const struct checkpoint_file *f)
{
    const char *slash = strrchr(f->path, '/');
    return slash ? slash + 1 : f->path;
}

/* Whether a node of a model exists, as far as its own fields go. */
static bool exists(const struct tree *t, struct node n, const struct checkpoint *c)
{
    switch (n.kind) {
    case MODEL: return true;
    case FOLDER: return n.item < c->file_count && c->files[n.item].folder;
    case ORIGINAL: return n.item < c->file_count && !c->files[n.item].folder;
    case RECIPES: return c->mapped;
    case RECIPE: return shows_recipe(t, c, n.form);
    case ADAPTER: return t->options->lora && lora_file_offered(c);
    case HF: return hf_offered(c);
    case HF_FORM: return shows_hf(t, c, n.form);
    case HF_FILE: {
        const char *name = hf_file_name(c, n.item);
        return shows_hf(t, c, n.form) && name && *name;
    }
    case TENSORS: return shows_tensors(t, c);
    case TENSOR:
    case INFO: return shows_tensors(t, c) && n.item < c->tensors.count;
    case FORM:
        return shows_tensors(t, c) && n.item < c->tensors.count &&
               shows_form(t, c, &c->tensors.items[n.item], n.form);
    case SENSITIVITY:
    case ERROR_PICTURE:
    case ERROR_FIGURES:
        return shows_tensors(t, c) && n.item < c->tensors.count &&
               shows_measure(t, c, &c->tensors.items[n.item], n);
    default: return false;
    }
}

/* The path of a node below the mount point, or below .quantfs/extents: for messages, and for its
 * inode number. c: its checkpoint, which a model's own node may lack. */
static void node_path(const struct tree *t, struct node n, const struct checkpoint *c,
                      char out[PATH_SIZE])
{
    char name[NAME_BYTES + 1] = "", measure[MEASURE_NAME_MAX];
    if (n.kind == TENSOR || n.kind == FORM || n.kind == INFO || is_measure(n.kind))
        name_encode(c->tensors.items[n.item].name, name);
    if (n.kind == RECIPE || n.kind == ADAPTER)
        gguf_file_name(c, n.kind == RECIPE ? recipes[n.form].name : lora_file_kind, name);
    switch (n.kind) {
    case ROOT: strcpy(out, ""); break;
    case GROUP:
    case MODEL:
        if (c)
            snprintf(out, PATH_SIZE, "%s", c->name);
        else if (store_name(t->store, n.model, out))
            strcpy(out, "");
        break;
    case FOLDER:
    case ORIGINAL:
        snprintf(out, PATH_SIZE, "%s/original%s%s", c->name, n.item ? "/" : "",
                 c->files[n.item].path);
        break;
    case RECIPES: snprintf(out, PATH_SIZE, "%s/gguf", c->name); break;
    case RECIPE:
    case ADAPTER: snprintf(out, PATH_SIZE, "%s/gguf/%s", c->name, name); break;
    case HF: snprintf(out, PATH_SIZE, "%s/hf", c->name); break;
    case HF_FORM: snprintf(out, PATH_SIZE, "%s/hf/%s", c->name, hf_forms[n.form].name); break;
    case HF_FILE:
        snprintf(out, PATH_SIZE, "%s/hf/%s/%s", c->name, hf_forms[n.form].name,
                 hf_file_name(c, n.item));
        break;
    case TENSORS: snprintf(out, PATH_SIZE, "%s/tensors", c->name); break;
    case TENSOR: snprintf(out, PATH_SIZE, "%s/tensors/%s", c->name, name); break;
    case FORM:
        snprintf(out, PATH_SIZE, "%s/tensors/%s/%s", c->name, name,
                 tensor_form_name(&c->tensors.items[n.item], n.form));
        break;
    case INFO: snprintf(out, PATH_SIZE, "%s/tensors/%s/info.json", c->name, name); break;
    case SENSITIVITY:
    case ERROR_PICTURE:
    case ERROR_FIGURES:
        measure_name(&c->tensors.items[n.item], n.form, measure_of(n.kind), measure);
        snprintf(out, PATH_SIZE, "%s/tensors/%s/%s", c->name, name, measure);
        break;
    case CONTROLS: strcpy(out, ".quantfs"); break;
    case CONTROL: snprintf(out, PATH_SIZE, ".quantfs/%s", control_names[n.item]); break;
    }
}

static uint64_t path_inode(const char *path, bool extents)
{
    uint64_t hash = XXH64(path, strlen(path), extents);
    return hash > TREE_ROOT ? hash : hash + 2;
}

/* The number that users see: the same over remounts, and for a model that has changed. */
static uint64_t inode_number(const struct tree *t, struct node n, const struct checkpoint *c)
{
    char path[PATH_SIZE];
    if (n.kind == ROOT && !n.extents)
        return TREE_ROOT;
    node_path(t, n, c, path);
    return path_inode(path, n.extents);
}

/* ---- models ---- */

/* The checkpoint of a node, NULL for the nodes that have none. */
static int get_checkpoint(struct tree *t, struct node n, bool current, struct checkpoint **out)
{
    struct error err;
    *out = NULL;
    if (n.kind == ROOT || (n.kind == CONTROLS && !n.model))
        return 0;
    if (n.kind == GROUP) {
        char name[STORE_NAME_MAX];
        return store_name(t->store, n.model, name);
    }
    if (n.kind == CONTROL)
        return n.item < CONTROL_COUNT && !n.model ? 0 : -ENOENT;
    int rc = current ? store_get_current(t->store, n.model, out, &err)
                     : store_get(t->store, n.model, out, &err);
    if (rc) {
        if (rc != -ESTALE)
            log_error("%s", err.text);
        return rc == -ESTALE ? rc : -EIO;
    }
    if (!exists(t, n, *out)) {
        checkpoint_unref(*out);
        *out = NULL;
        return -ENOENT;
    }
    return 0;
}

/* ---- attributes ---- */

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static int size_of(struct tree *t, struct node n, struct checkpoint *c, uint64_t *size)
{
    struct error err;
    int rc = 0;
    *size = 0;
    if (is_control(n))
        return 0;
    if (n.kind == ORIGINAL) {
        *size = c->files[n.item].identity.size;
    } else if (n.kind == FORM) {
        *size = tensor_form_size(&c->tensors.items[n.item], n.form);
    } else if (n.kind == INFO) {
        char *text = tensor_info(c, &c->tensors.items[n.item]);
        *size = text ? strlen(text) : 0;
        free(text);
    } else if (is_measure(n.kind)) {
        *size = measure_size(&c->tensors.items[n.item], n.form, measure_of(n.kind));
    } else if (n.kind == RECIPE) {
        rc = gguf_file_size(c, t->cache, &recipes[n.form], size, &err);
    } else if (n.kind == ADAPTER) {
        rc = lora_file_size(c, size, &err);
    } else if (n.kind == HF_FILE) {
        rc = hf_file_size(c, &hf_forms[n.form], n.item, size, &err);
        rc = rc ? error_prefix(&err, rc, "%s", c->name) : 0;
    }
    if (rc)
        log_error("%s", err.text);
    return rc ? -EIO : 0;
}

static int fill_stat(struct tree *t, struct node n, struct checkpoint *c, struct stat *st)
{
    uint64_t size;
    int rc = size_of(t, n, c, &size);
    if (rc)
        return rc;
    *st = (struct stat){.st_ino = inode_number(t, n, c), .st_nlink = 1, .st_blksize = 128 << 10};
    bool control = is_control(n);
    if (control)
        c = NULL; /* it is the daemon's own, whatever it tells of */
    mode_t mode = c ? c->mode : 0444;
    int64_t mtime = c ? c->mtime_ns : t->started.tv_sec * 1000000000LL;
    st->st_uid = c ? c->uid : getuid();
    st->st_gid = c ? c->gid : getgid();
    if (c && (n.kind == ORIGINAL || n.kind == FOLDER)) {
        const struct checkpoint_file *f = &c->files[n.item];
        mode = f->mode;
        mtime = f->identity.mtime_ns;
        st->st_uid = f->uid;
        st->st_gid = f->gid;
    } else if (c && is_folder(n.kind)) {
        mode = c->files[0].mode; /* as open as the checkpoint's own folder */
    }
    if (is_folder(n.kind)) {
        st->st_mode = S_IFDIR | (c ? mode & 0555 : control ? 0500 : 0555);
        st->st_nlink = 2;
    } else {
        st->st_mode = S_IFREG | (control ? 0400 : mode & 0444);
    }
    st->st_mode &= ~(mode_t)t->options->umask;
    if (t->options->uid != UINT64_MAX)
        st->st_uid = (uid_t)t->options->uid;
    if (t->options->gid != UINT64_MAX)
        st->st_gid = (gid_t)t->options->gid;
    st->st_size = (off_t)size;
    st->st_blocks = (blkcnt_t)((size + 511) / 512);
    st->st_mtim = st->st_ctim = st->st_atim = timespec_of(mtime);
    return 0;
}

int tree_getattr(struct tree *t, uint64_t id, struct stat *st)
{
    struct node n = unpack(id);
    struct checkpoint *c;
    int rc = get_checkpoint(t, n, false, &c);
    rc = rc ? rc : fill_stat(t, n, c, st);
    checkpoint_unref(c);
    return rc;
}

/* ---- lookup ---- */

static int lookup_entry(struct tree *t, struct node parent, const char *name, struct node *out)
{
    bool group;
    *out = (struct node){.kind = CONTROLS, .extents = parent.extents};
    if (parent.kind == ROOT && !parent.extents && strcmp(name, ".quantfs") == 0)
        return 0;
    int rc = store_find(t->store, parent.model, name, &out->model, &group);
    out->kind = group ? GROUP : MODEL;
    return rc;
}

static int lookup_original(const struct checkpoint *c, struct node parent, const char *name,
                           struct node *out)
{
    const char *folder = c->files[parent.item].path;
    char *path;
    if (asprintf(&path, "%s%s%s", folder, *folder ? "/" : "", name) < 0)
        return -ENOMEM;
    const struct checkpoint_file *f = checkpoint_find_file(c, path);
    free(path);
    if (!f || f->outside || f->missing)
        return -ENOENT;
    out->kind = f->folder ? FOLDER : ORIGINAL;
    out->item = (uint32_t)(f - c->files);
    return 0;
}

static int lookup_recipe(const struct checkpoint *c, const char *name, struct node *out)
{
    char candidate[NAME_BYTES + 1];
    for (out->form = 0; out->form < RECIPE_COUNT; out->form++) {
        gguf_file_name(c, recipes[out->form].name, candidate);
        if (strcmp(candidate, name) == 0)
            return 0;
    }
    out->kind = ADAPTER;
    out->form = 0;
    gguf_file_name(c, lora_file_kind, candidate);
    return strcmp(candidate, name) == 0 ? 0 : -ENOENT;
}

static int lookup_hf_form(const char *name, struct node *out)
{
    for (out->form = 0; out->form < HF_FORM_COUNT; out->form++)
        if (strcmp(hf_forms[out->form].name, name) == 0)
            return 0;
    return -ENOENT;
}

static int lookup_hf_file(const struct checkpoint *c, const char *name, struct node *out)
{
    const char *candidate;
    for (out->item = 0; (candidate = hf_file_name(c, out->item)); out->item++)
        if (*candidate && strcmp(candidate, name) == 0)
            return 0;
    return -ENOENT;
}

static int lookup_tensor(const struct checkpoint *c, const char *name, struct node *out)
{
    char raw[NAME_BYTES + 1];
    const struct tensor *found = name_decode(name, raw) ? checkpoint_find_tensor(c, raw) : NULL;
    if (found) {
        out->item = (uint32_t)(found - c->tensors.items);
        return 0;
    }
    /* a name that was cut, which may decode to one that nothing has: it can only be compared */
    for (out->item = 0; out->item < c->tensors.count; out->item++) {
        char candidate[NAME_BYTES + 1];
        name_encode(c->tensors.items[out->item].name, candidate);
        if (strcmp(candidate, name) == 0)
            return 0;
    }
    return -ENOENT;
}

static int lookup_measure(const struct checkpoint *c, const char *name, struct node *out)
{
    const struct tensor *tensor = &c->tensors.items[out->item];
    for (out->kind = SENSITIVITY; out->kind <= ERROR_FIGURES; out->kind++)
        for (out->form = 0; out->form < measured_forms(out->kind); out->form++) {
            char candidate[MEASURE_NAME_MAX];
            measure_name(tensor, out->form, measure_of(out->kind), candidate);
            if (strcmp(candidate, name) == 0)
                return 0;
        }
    return -ENOENT;
}

static int lookup_form(const struct checkpoint *c, const char *name, struct node *out)
{
    if (strcmp(name, "info.json") == 0) {
        out->kind = INFO;
        return 0;
    }
    for (out->form = 0; out->form < FORM_COUNT; out->form++)
        if (tensor_has_form(c, &c->tensors.items[out->item], out->form) &&
            strcmp(tensor_form_name(&c->tensors.items[out->item], out->form), name) == 0)
            return 0;
    return lookup_measure(c, name, out);
}

static int lookup_in_model(const struct checkpoint *c, struct node parent, const char *name,
                           struct node *out)
{
    *out = (struct node){.model = parent.model, .extents = parent.extents};
    switch (parent.kind) {
    case MODEL:
        if (strcmp(name, "original") == 0)
            out->kind = FOLDER;
        else if (strcmp(name, "gguf") == 0)
            out->kind = RECIPES;
        else if (strcmp(name, "hf") == 0)
            out->kind = HF;
        else if (strcmp(name, "tensors") == 0)
            out->kind = TENSORS;
        else
            return -ENOENT;
        return 0;
    case FOLDER: return lookup_original(c, parent, name, out);
    case RECIPES: out->kind = RECIPE; return lookup_recipe(c, name, out);
    case HF: out->kind = HF_FORM; return lookup_hf_form(name, out);
    case HF_FORM:
        out->kind = HF_FILE;
        out->form = parent.form;
        return lookup_hf_file(c, name, out);
    case TENSORS: out->kind = TENSOR; return lookup_tensor(c, name, out);
    case TENSOR:
        out->kind = FORM;
        out->item = parent.item;
        return lookup_form(c, name, out);
    default: return -ENOTDIR;
    }
}

static int lookup_control(const char *name, struct node *out)
{
    *out = (struct node){.kind = ROOT, .extents = true};
    if (strcmp(name, "extents") == 0)
        return 0;
    *out = (struct node){.kind = CONTROL};
    for (out->item = 0; out->item < CONTROL_COUNT; out->item++)
        if (strcmp(control_names[out->item], name) == 0)
            return 0;
    return -ENOENT;
}

int tree_lookup(struct tree *t, uint64_t parent, const char *name, uint64_t *node, struct stat *st)
{
    struct node p = unpack(parent), n;
    struct checkpoint *c = NULL;
    int rc;
    if (tree_holds_models(parent) || p.kind == CONTROLS) {
        rc = p.kind == CONTROLS ? lookup_control(name, &n) : lookup_entry(t, p, name, &n);
        rc = rc ? rc : get_checkpoint(t, n, false, &c);
    } else {
        rc = get_checkpoint(t, p, false, &c);
        rc = rc ? rc : lookup_in_model(c, p, name, &n);
        if (!rc && !exists(t, n, c))
            rc = -ENOENT;
    }
    rc = rc ? rc : fill_stat(t, n, c, st);
    checkpoint_unref(c);
    *node = rc ? 0 : pack(n);
    return rc;
}

/* ---- listing ---- */

struct lister {
    struct tree *tree;
    bool extents; /* of the folder */
    struct listing *listing;
    bool failed;
};

static void add_entry(struct lister *l, const char *name, uint64_t inode, bool folder)
{
    struct listing *list = l->listing;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 32;
        struct entry *entries = reallocarray(list->entries, capacity, sizeof *entries);
        if (!entries) {
            l->failed = true;
            return;
        }
        list->entries = entries;
        list->capacity = capacity;
    }
    struct entry *e = &list->entries[list->count++];
    *e = (struct entry){arena_strdup(&list->arena, name), inode, folder ? S_IFDIR : S_IFREG};
    l->failed |= !e->name;
}

static struct node child_of(struct node n, enum kind kind, uint32_t item, uint32_t form)
{
    return (struct node){n.model, kind, item, form, n.extents};
}

static void add_node(struct lister *l, const char *name, struct node n, const struct checkpoint *c)
{
    if (!c || exists(l->tree, n, c))
        add_entry(l, name, inode_number(l->tree, n, c), is_folder(n.kind));
}

/* Its inode number is a hash of its name, as tells node_path; the store is locked here. */
static bool add_store_entry(void *context, const struct store_entry *e)
{
    struct lister *l = context;
    add_entry(l, e->last, path_inode(e->name, l->extents), true);
    return !l->failed;
}

static void list_original(struct lister *l, struct node n, const struct checkpoint *c)
{
    const char *folder = c->files[n.item].path;
    size_t skip = *folder ? strlen(folder) + 1 : 0;
    for (uint32_t i = 1; i < c->file_count; i++) {
        const struct checkpoint_file *f = &c->files[i];
        if (f->outside || f->missing || strncmp(f->path, folder, skip ? skip - 1 : 0) != 0 ||
            (skip && f->path[skip - 1] != '/') || strchr(f->path + skip, '/'))
            continue;
        add_node(l, file_name(f), child_of(n, f->folder ? FOLDER : ORIGINAL, i, 0), c);
    }
}

static void list_measures(struct lister *l, struct node n, const struct checkpoint *c)
{
    char name[MEASURE_NAME_MAX];
    for (enum kind kind = SENSITIVITY; kind <= ERROR_FIGURES; kind++)
        for (uint32_t form = 0; form < measured_forms(kind); form++) {
            measure_name(&c->tensors.items[n.item], form, measure_of(kind), name);
            add_node(l, name, child_of(n, kind, n.item, form), c);
        }
}

static void list_in_model(struct lister *l, struct node n, const struct checkpoint *c)
{
    char name[NAME_BYTES + 1];
    switch (n.kind) {
    case MODEL:
        add_node(l, "original", child_of(n, FOLDER, 0, 0), c);
        add_node(l, "gguf", child_of(n, RECIPES, 0, 0), c);
        add_node(l, "hf", child_of(n, HF, 0, 0), c);
        add_node(l, "tensors", child_of(n, TENSORS, 0, 0), c);
        break;
    case FOLDER: list_original(l, n, c); break;
    case RECIPES:
        for (uint32_t i = 0; i < RECIPE_COUNT; i++) {
            gguf_file_name(c, recipes[i].name, name);
            add_node(l, name, child_of(n, RECIPE, 0, i), c);
        }
        gguf_file_name(c, lora_file_kind, name);
        add_node(l, name, child_of(n, ADAPTER, 0, 0), c);
        break;
    case HF:
        for (uint32_t i = 0; i < HF_FORM_COUNT; i++)
            add_node(l, hf_forms[i].name, child_of(n, HF_FORM, 0, i), c);
        break;
    case HF_FORM: {
        const char *file;
        for (uint32_t i = 0; (file = hf_file_name(c, i)); i++)
            add_node(l, file, child_of(n, HF_FILE, i, n.form), c);
        break;
    }
    case TENSORS:
        for (uint32_t i = 0; i < c->tensors.count; i++) {
            name_encode(c->tensors.items[i].name, name);
            add_node(l, name, child_of(n, TENSOR, i, 0), c);
        }
        break;
    case TENSOR:
        for (uint32_t i = 0; i < FORM_COUNT; i++)
            add_node(l, tensor_form_name(&c->tensors.items[n.item], i),
                     child_of(n, FORM, n.item, i), c);
        add_node(l, "info.json", child_of(n, INFO, n.item, 0), c);
        list_measures(l, n, c);
        break;
    default: break;
    }
}

static void list_controls(struct lister *l, struct node n)
{
    for (uint32_t i = 0; i < CONTROL_COUNT; i++)
        add_node(l, control_names[i], child_of(n, CONTROL, i, 0), NULL);
    struct node extents = {.kind = ROOT, .extents = true};
    add_node(l, "extents", extents, NULL);
}

int tree_list(struct tree *t, uint64_t id, struct listing **out)
{
    struct node n = unpack(id);
    struct checkpoint *c;
    if (!is_folder(n.kind))
        return -ENOTDIR;
    int rc = get_checkpoint(t, n, false, &c);
    if (rc)
        return rc;
    struct lister l = {t, n.extents, calloc(1, sizeof *l.listing), false};
    if (!l.listing) {
        checkpoint_unref(c);
        return -ENOMEM;
    }
    add_entry(&l, ".", inode_number(t, n, c), true);
    add_entry(&l, "..", TREE_ROOT, true);
    if (tree_holds_models(id))
        store_each(t->store, n.model, add_store_entry, &l);
    else if (n.kind == CONTROLS)
        list_controls(&l, n);
    else
        list_in_model(&l, n, c);
    checkpoint_unref(c);
    if (l.failed) {
        listing_free(l.listing);
        return -ENOMEM;
    }
    *out = l.listing;
    return 0;
}

void listing_free(struct listing *l)
{
    if (!l)
        return;
    free(l->entries);
    arena_free(&l->arena);
    free(l);
}

/* ---- files ---- */

/* An image of a whole source file. */
static int original_file(const struct checkpoint *c, const struct checkpoint_file *f,
                         struct image **out, struct error *err)
{
    struct source *s;
    int rc = checkpoint_open(c, f->path, &s, err);
    if (rc)
        return rc;
    *out = image_new();
    if (*out)
        image_add_file(*out, s, 0, f->identity.size);
    source_unref(s);
    if (*out && !(*out)->failed)
        return 0;
    image_unref(*out);
    return error_set(err, -ENOMEM, "out of memory");
}

/* Once, that something is made without what it should be made with. */
static void tell_uncalibrated(struct tree *t, const struct file *f)
{
    if (image_lacks_factor(f->image) && !atomic_exchange(&t->told_uncalibrated, true))
        log_info("%s: without a calibration columns stay in their order, and errors are not fed back",
                 f->path);
}

static int open_model_file(struct tree *t, struct node n, struct checkpoint *c, struct file *f,
                           struct error *err)
{
    int rc;
    const struct tensor *tensor = &c->tensors.items[n.item];
    switch (n.kind) {
    case ORIGINAL: return original_file(c, &c->files[n.item], &f->image, err);
    case FORM: return tensor_file_get(c, tensor, n.form, &f->image, err);
    case RECIPE:
        rc = gguf_file_get(c, t->cache, &recipes[n.form], &f->image, err);
        store_trim(t->store, HEADERS_MAX);
        return rc;
    case ADAPTER:
        rc = lora_file_get(c, &f->image, err);
        store_trim(t->store, HEADERS_MAX);
        return rc;
    case HF_FILE: return hf_file_get(c, &hf_forms[n.form], n.item, &f->image, err);
    case INFO: {
        char *text = tensor_info(c, tensor);
        f->text = text ? bytes_new(text, strlen(text)) : NULL;
        free(text);
        return f->text ? 0 : error_set(err, -ENOMEM, "out of memory");
    }
    case SENSITIVITY:
    case ERROR_PICTURE:
    case ERROR_FIGURES:
        return measure_file_get(c, tensor, n.form, measure_of(n.kind), &f->image, err);
    default: return error_set(err, -EISDIR, "a folder");
    }
}

/* What .quantfs/extents/ has in the place of the file that was opened. */
static int open_extents(struct tree *t, struct file *f, struct error *err)
{
    uint64_t size = f->image ? f->image->size : f->text->size;
    struct bytes *text = extents_text(t, size, f->image, &f->held);
    bytes_unref(f->text);
    f->text = text;
    if (text)
        return 0;
    image_unref(f->image);
    return error_set(err, -ENOMEM, "out of memory");
}

int tree_open(struct tree *t, uint64_t id, struct file **out)
{
    struct node n = unpack(id);
    struct checkpoint *c = NULL;
    struct error err;
    if (is_folder(n.kind))
        return -EISDIR;
    int rc = get_checkpoint(t, n, true, &c);
    if (rc)
        return rc;
    struct file *f = calloc(1, sizeof *f + PATH_SIZE);
    if (!f) {
        checkpoint_unref(c);
        return -ENOMEM;
    }
    node_path(t, n, c, f->path);
    stream_init(&f->stream, t->readahead);
    if (n.kind == CONTROL) {
        char *text = control_text(t, n.item);
        f->text = text ? bytes_new(text, strlen(text)) : NULL;
        free(text);
        rc = f->text ? 0 : error_set(&err, -ENOMEM, "out of memory");
    } else {
        rc = open_model_file(t, n, c, f, &err);
        if (!rc && f->image)
            tell_uncalibrated(t, f);
        rc = rc || !n.extents ? rc : open_extents(t, f, &err);
    }
    checkpoint_unref(c);
    if (rc) {
        if (rc != -ESTALE)
            log_error("%s: %s", f->path, err.text);
        stream_destroy(&f->stream);
        free(f);
        return rc == -ESTALE || rc == -ENOMEM ? rc : -EIO;
    }
    stats_add(&t->stats->open_files, 1);
    *out = f;
    return 0;
}

int tree_read(struct tree *t, struct file *f, uint64_t offset, size_t size, uint8_t *buf,
              struct reading *r)
{
    if (f->text) {
        size_t left = offset < f->text->size ? f->text->size - (size_t)offset : 0;
        *r = (struct reading){.count = 1, .size = left < size ? left : size};
        r->pieces[0] = (struct piece){f->text->data + (left ? offset : 0), r->size, NULL};
        return 0;
    }
    struct error err;
    bool urgent = stream_is_fault(&f->stream, offset);
    image_prefetch(f->image, t->tiles, &f->stream, offset, size);
    int rc = image_map(f->image, t->tiles, offset, size, urgent, buf, r, &err);
    if (rc) {
        stats_add(&t->stats->errors, 1);
        /* a source that changed has said so itself, once */
        if (rc != -ESTALE)
            log_error("%s: %s", f->path, err.text);
        return -EIO;
    }
    stats_add(&t->stats->reads, 1);
    stats_add(&t->stats->read_bytes, r->size);
    return 0;
}

void tree_close(struct tree *t, struct file *f)
{
    tiles_forget(t->tiles, &f->stream);
    stats_add(&t->stats->open_files, (uint64_t)-1);
    extents_release(t, f->held);
    image_unref(f->image);
    bytes_unref(f->text);
    stream_destroy(&f->stream);
    free(f);
}

/* ---- extended attributes ---- */

/* The attributes of a node: their values, by number; NULL where it has none. */
enum {
    XATTR_FORMAT,
    XATTR_RECIPE,
    XATTR_SOURCE,
    XATTR_REFERENCE,
    XATTR_CALIBRATION,
    XATTR_PROBLEM,
    XATTR_COUNT
};

static const char *const xattr_names[XATTR_COUNT] = {
    "user.quantfs.format",    "user.quantfs.recipe",      "user.quantfs.source",
    "user.quantfs.reference", "user.quantfs.calibration", "user.quantfs.problem",
};

/* What a form of a tensor knows of its inputs: "none", or a digest in hexadecimal. NULL for those
 * that need to know nothing, and where it cannot be told. out: room for the latter. */
static const char *calibration_of(const struct checkpoint *c, const struct tensor *t, unsigned form,
                                  char out[2 * FACTOR_DIGEST + 1])
{
    struct factor *factor;
    if (!tensor_form_is_calibrated(form) || tensor_factor(c, t, form, &factor, NULL))
        return NULL;
    strcpy(out, "none");
    for (int i = 0; factor && i < FACTOR_DIGEST; i++)
        sprintf(out + 2 * i, "%02x", factor->digest[i]);
    factor_unref(factor);
    return out;
}

/* digest: as for calibration_of. */
static void xattr_values(struct node n, const struct checkpoint *c, const char *out[XATTR_COUNT],
                         char digest[2 * FACTOR_DIGEST + 1])
{
    const struct tensor *tensor = n.kind == FORM ? &c->tensors.items[n.item] : NULL;
    for (int i = 0; i < XATTR_COUNT; i++)
        out[i] = NULL;
    if (n.extents)
        return;
    if (n.kind == RECIPE) {
        out[XATTR_FORMAT] = "gguf";
        out[XATTR_RECIPE] = recipes[n.form].name;
    } else if (n.kind == ADAPTER) {
        out[XATTR_FORMAT] = "gguf";
        out[XATTR_RECIPE] = lora_file_kind;
    } else if (n.kind == HF_FILE) {
        out[XATTR_FORMAT] = hf_forms[n.form].name;
    } else if (tensor) {
        out[XATTR_FORMAT] = tensor_form_name(tensor, n.form);
    } else if (n.kind == MODEL && *c->problem.text) {
        out[XATTR_PROBLEM] = c->problem.text;
    }
    if (tensor)
        out[XATTR_SOURCE] = source_path(c->shards[tensor->file]);
    else if (n.kind == ORIGINAL)
        out[XATTR_SOURCE] = c->files[n.item].path;
    else if (n.kind == RECIPE || n.kind == ADAPTER || n.kind == HF_FILE || n.kind == MODEL)
        out[XATTR_SOURCE] = *c->path ? c->path : ".";
    if (tensor && tensor_form_is_calibrated(n.form))
        out[XATTR_CALIBRATION] = calibration_of(c, tensor, n.form, digest);
    bool llamas = (n.kind == RECIPE && n.form < RECIPE_LLAMA_COUNT) ||
                  (n.kind == ADAPTER && !c->lora.folded);
    if (n.kind == HF_FILE)
        out[XATTR_CALIBRATION] = hf_form_calibration(c, &hf_forms[n.form]);
    if (n.kind == RECIPE && recipes[n.form].matrices && !c->factor_folder)
        out[XATTR_CALIBRATION] = "none"; /* with one, each matrix has a digest of its own */
    if (llamas || (tensor && n.form != FORM_STORED && form_format(n.form)->encode))
        out[XATTR_REFERENCE] = "llama.cpp " QUANTFS_REFERENCE;
}

ssize_t tree_getxattr(struct tree *t, uint64_t id, const char *name, char *value, size_t size)
{
    struct node n = unpack(id);
    const char *values[XATTR_COUNT];
    char digest[2 * FACTOR_DIGEST + 1];
    struct checkpoint *c;
    ssize_t rc = get_checkpoint(t, n, false, &c);
    if (rc || !c)
        return rc ? rc : -ENODATA;
    xattr_values(n, c, values, digest);
    rc = -ENODATA;
    for (int i = 0; i < XATTR_COUNT; i++) {
        if (!values[i] || strcmp(name, xattr_names[i]) != 0)
            continue;
        size_t length = strlen(values[i]);
        rc = size && length > size ? -ERANGE : (ssize_t)length;
        if (size && rc >= 0)
            memcpy(value, values[i], length);
    }
    checkpoint_unref(c);
    return rc;
}

ssize_t tree_listxattr(struct tree *t, uint64_t id, char *list, size_t size)
{
    struct node n = unpack(id);
    const char *values[XATTR_COUNT];
    char digest[2 * FACTOR_DIGEST + 1];
    struct checkpoint *c;
    ssize_t rc = get_checkpoint(t, n, false, &c);
    if (rc || !c)
        return rc;
    xattr_values(n, c, values, digest);
    size_t used = 0;
    for (int i = 0; i < XATTR_COUNT; i++) {
        size_t length = values[i] ? strlen(xattr_names[i]) + 1 : 0;
        if (length && used + length <= size)
            memcpy(list + used, xattr_names[i], length);
        used += length;
    }
    checkpoint_unref(c);
    return size && used > size ? -ERANGE : (ssize_t)used;
}
