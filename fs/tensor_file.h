/* SPDX-License-Identifier: MIT
 *
 * Single tensors as files: in the type they are stored in, byte for byte, packed in every format
 * whose block divides their width, and in SpQR. Names and row order are the checkpoint's own.
 */
#ifndef FS_TENSOR_FILE_H
#define FS_TENSOR_FILE_H

#include "fs/checkpoint.h"

/* The forms of a tensor: number 0 is its stored type, number 1 + i is formats[i], and behind these
 * come spqr_formats. */
enum { FORM_STORED = 0, FORM_SPQR = 1 + FORMAT_COUNT, FORM_COUNT = 1 + FORMAT_COUNT + SPQR_FORMAT_COUNT };

bool tensor_form_is_spqr(unsigned form);

/* Whether a tensor is a matrix of floats, or of what can be widened to them: those have forms. */
bool tensor_is_matrix(const struct tensor *t);

/* The format of a form that is not as stored. */
const struct format *tensor_form_format(unsigned form);

/* Whether a tensor is offered in a form: matrices of floats in all formats that fit, everything as
 * it is stored. A format that is the stored type is offered only as that. */
bool tensor_has_form(const struct checkpoint *c, const struct tensor *t, unsigned form);

/* The file name of a form: "bf16", "q4_k". */
const char *tensor_form_name(const struct tensor *t, unsigned form);

uint64_t tensor_form_size(const struct tensor *t, unsigned form);

/* The importance of the matrix's columns, NULL where none is known. It is the checkpoint's. -EINVAL
 * where the importance matrix does not fit. */
int tensor_importance(const struct checkpoint *c, const struct tensor *t, const float **importance,
                      struct error *err);

/* What a form knows of the inputs of its matrix: *out becomes the factor, a new reference, or NULL
 * where there is none for it. -errno with a sentence where there is one, but it cannot be used. */
int tensor_factor(const struct checkpoint *c, const struct tensor *t, unsigned form,
                  struct factor **out, struct error *err);

/* The file. One reference is the caller's. */
int tensor_file_get(const struct checkpoint *c, const struct tensor *t, unsigned form,
                    struct image **out, struct error *err);

/* Shape, type, source, bits per weight and forms as JSON, fixed by the checkpoint alone. free()
 * it; NULL when memory is out. */
char *tensor_info(const struct checkpoint *c, const struct tensor *t);

#endif
