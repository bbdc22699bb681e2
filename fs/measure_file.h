/* SPDX-License-Identifier: MIT
 *
 * What is measured of a matrix, as files beside it: how sensitive its weights are, and how far off
 * those of a form are, as pictures (codec/picture.h) and in figures. Their sizes follow from the
 * matrix's shape; reading one reads all of the matrix, and of the form.
 */
#ifndef FS_MEASURE_FILE_H
#define FS_MEASURE_FILE_H

#include "fs/tensor_file.h"

enum measure { MEASURE_SENSITIVITY, MEASURE_ERROR_PICTURE, MEASURE_ERROR_FIGURES };

/* Whether there is one: the sensitivity of every matrix that can be packed, whatever the form; errors
 * of every form that it has, but of plain floats and of what it is stored as. */
bool measure_exists(const struct checkpoint *c, const struct tensor *t, unsigned form,
                    enum measure measure);

enum { MEASURE_NAME_MAX = 64 };

void measure_name(const struct tensor *t, unsigned form, enum measure measure,
                  char out[MEASURE_NAME_MAX]);

/* Of one that exists. */
uint64_t measure_size(const struct tensor *t, unsigned form, enum measure measure);

/* The file, of one that exists. One reference is the caller's. */
int measure_file_get(struct checkpoint *c, const struct tensor *t, unsigned form,
                     enum measure measure, struct image **out, struct error *err);

#endif
