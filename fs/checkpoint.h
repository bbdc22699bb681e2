/* SPDX-License-Identifier: MIT
 *
 * One model of a store as it was found: its files, its tensors, its config, and how it maps to
 * GGUF. It is a folder, or a GGUF file with its further parts. Loading reads config.json and the
 * headers of the weight files, nothing else. Once loaded it does not change; a checkpoint whose
 * files change is replaced by a new one.
 *
 * What is wrong with a checkpoint takes away only what depends on it: without a mapping there are
 * no recipes but still tensors, without readable headers still its own files.
 */
#ifndef FS_CHECKPOINT_H
#define FS_CHECKPOINT_H

#include "codec/lora_gguf.h"
#include "codec/model.h"
#include "daemon/calibration.h"
#include "daemon/factor.h"
#include "daemon/source.h"
#include "fs/container.h"
#include "fs/image.h"

#include <pthread.h>
#include <sys/types.h>

/* A file or folder of the checkpoint. */
struct checkpoint_file {
    const char *path; /* relative to the checkpoint */
    bool folder;
    bool outside; /* a link that leaves the store: not shown */
    bool missing; /* a link to nothing, or a part of a split file that is not there: not shown */
    mode_t mode;
    uid_t uid;
    gid_t gid;
    struct source_identity identity;
};

struct checkpoint {
    _Atomic unsigned refs;
    /* All constant once loaded. */
    char *name;   /* in the tree */
    char *base;   /* the name that its GGUF files have, and from which general.name and others
                     derive: that of its folder or file */
    char *path;   /* its folder, relative to the root; "" for the root itself */
    char *file;   /* a GGUF model's (first) file in that folder; NULL: all of the folder */
    const struct beneath *root; /* not owned */
    bool requantize;            /* recipes of what is quantized already */
    struct source_set *set;
    struct checkpoint_file *files; /* sorted by path */
    size_t file_count;
    struct arena arena;
    enum container_kind container;
    struct source **shards; /* by the file number of the tensors */
    size_t shard_count;
    struct tensor_list tensors; /* sorted by name */
    struct adapter_base *looked_for; /* an adapter's base, as it was found (adapter.h); else NULL */
    struct checkpoint *onto;        /* what it is merged onto: then it is that; NULL: nothing */
    struct tensor_list own_tensors; /* an adapter's; tensors are the merged model's then */
    double lora_alpha;              /* likewise, of its config */
    struct lora_gguf lora;          /* likewise, as a file of its own (lora_file.h); empty: none */
    struct error lora_problem;      /* why there is none */
    struct config config;
    struct model model;
    char architecture[64];     /* GGUF's name for it, else that of config.json's class, else "" */
    bool mapped;               /* recipes are offered */
    const struct tensor *quantized; /* of a folder: one that is quantized already, where making other
                                       formats of that is not asked for; NULL: none */
    bool incomplete;           /* files are missing: then the problem says which */
    struct error problem;      /* why not; "" if they are */
    struct error unreadable;   /* why there are no tensors; "" if there are */
    struct calibration *calibration;
    char *factor_folder;       /* of its calibration; NULL: none */
    char *sequential;                /* the only format that its factors are for; NULL: any */
    struct error sequential_problem; /* why that is not known; "" if it is */
    struct factor_set *factors;
    struct calibration *own_imatrix;   /* in that folder; NULL: none */
    struct error own_imatrix_problem;  /* why it cannot be used; "" if it can */
    struct calibration *awq;           /* AWQ's scales in that folder; NULL: none */
    struct error awq_problem;          /* why they cannot be used; "" if they can */
    bool miscalibrated;        /* an importance matrix is given but unusable: nothing quantized */
    int64_t mtime_ns;          /* of the newest file */
    mode_t mode;               /* permissions to read that all weight files give */
    uid_t uid;                 /* owner of the weight files */
    gid_t gid;
    /* What is made at first use, by lock; see gguf_file.h, lora_file.h and
     * hf_file.h. */
    pthread_mutex_t lock;
    struct hf_model *hf;
    struct bytes *hf_texts[2];
    struct bytes *keys;
    uint64_t key_count;
    struct image *images[RECIPE_COUNT];
    uint64_t sizes[RECIPE_COUNT]; /* 0: not known yet */
    struct image *lora_image;
    uint64_t lora_size; /* likewise */
    _Atomic size_t footprint;     /* of all these; not by lock */
};

struct hf_model;

struct checkpoint_options {
    const char *name, *base, *path, *file; /* as in struct checkpoint */
    const struct beneath *root;
    struct source_set *set;
    bool requantize;
    const char *imatrix;         /* a file to read, or NULL */
    const char *imatrix_name;    /* what to call it in metadata */
    const char *calibration;     /* the folder of one, or NULL */
    struct factor_set *factors;  /* where factors of it are opened; NULL with none */
    /* Finds what an adapter adds to, by the name that the adapter has for it (NULL: none): a checkpoint
     * that is loaded, with a reference that is the caller's. -ENOENT with a sentence. NULL: nobody
     * knows. */
    int (*find_base)(void *context, const char *adapter, const char *name, struct checkpoint **out,
                     struct error *err);
    void *context;
    bool onto_nf4; /* adapters add to the base as NF4 has it */
};

/* Loads what there is. Only a folder that cannot be read at all is an error. */
int checkpoint_load(const struct checkpoint_options *options, struct checkpoint **out,
                    struct error *err);
struct checkpoint *checkpoint_ref(struct checkpoint *c);
void checkpoint_unref(struct checkpoint *c);

/* Whether the folder and all its files are what they were. */
bool checkpoint_is_current(const struct checkpoint *c);

/* Opens one of its files, by path relative to the checkpoint. -ESTALE where it is no longer what it
 * was when the checkpoint was loaded. */
int checkpoint_open(const struct checkpoint *c, const char *path, struct source **out,
                    struct error *err);

/* One of its small files, as a whole; data is to be freed. -EFBIG where it is not small. */
int checkpoint_read(const struct checkpoint *c, const char *path, struct blob *out,
                    struct error *err);

/* Whether other formats than plain floats may be made of all tensors; -ENOTSUP where one is quantized
 * already. */
int checkpoint_may_quantize(const struct checkpoint *c, struct error *err);

/* NULL if there is none of that name. */
const struct checkpoint_file *checkpoint_find_file(const struct checkpoint *c, const char *path);
const struct tensor *checkpoint_find_tensor(const struct checkpoint *c, const char *name);

#endif
