/* SPDX-License-Identifier: MIT
 *
 * Single tensors as files: in the type they are stored in, byte for byte, packed in every format
 * that can pack their width. Names and row order are the checkpoint's own.
 */
#ifndef FS_TENSOR_FILE_H
#define FS_TENSOR_FILE_H

#include "fs/checkpoint.h"
#include "fs/form.h"

/* Whether a form looks at the inputs of its matrix. */
bool tensor_form_is_calibrated(unsigned form);

/* Whether a tensor is a matrix of floats, or of what can be widened to them: those have forms. */
bool tensor_is_matrix(const struct tensor *t);

/* Whether a tensor is offered in a form: matrices of floats in all formats that fit, everything that
 * lies in a file as it is stored. A format that is the stored type is offered only as that; one that only differs from
 * another with a calibration, only with one. */
bool tensor_has_form(const struct checkpoint *c, const struct tensor *t, unsigned form);

/* The file name of a form: "bf16", "q4_k". */
const char *tensor_form_name(const struct tensor *t, unsigned form);

uint64_t tensor_form_size(const struct tensor *t, unsigned form);

/* The importance of the matrix's columns: from its calibration, if it has one, else from the importance
 * matrix that was given; NULL where there is neither. It is the checkpoint's. -EINVAL where it does not
 * fit. */
int tensor_importance(const struct checkpoint *c, const struct tensor *t, const float **importance,
                      struct error *err);

/* What a form that looks at the inputs of its matrix knows of them: *out becomes the factor, a new
 * reference, or NULL
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
