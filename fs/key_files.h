/* SPDX-License-Identifier: MIT
 *
 * The files of a checkpoint that GGUF's keys are made from (model.h), read whole and kept until the
 * keys are there.
 */
#ifndef FS_KEY_FILES_H
#define FS_KEY_FILES_H

#include "fs/checkpoint.h"

struct key_files {
    const struct checkpoint *checkpoint;
    bool own; /* of an adapter its own alone; else those of the merged model */
    struct loaded_file *loaded;
};

struct model_files key_files(struct key_files *k);
void key_files_free(struct key_files *k);

#endif
