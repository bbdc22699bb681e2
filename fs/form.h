/* SPDX-License-Identifier: MIT
 *
 * The forms that a tensor can be had in, by number: as it is stored, and packed in each of the
 * formats there are, whatever table they stand in.
 */
#ifndef FS_FORM_H
#define FS_FORM_H

#include "codec/awq/format.h"
#include "codec/bnb/format.h"
#include "codec/compressed/format.h"
#include "codec/gptq/format.h"
#include "codec/guided.h"
#include "codec/spqr/format.h"

enum {
    FORM_STORED,
    FORM_COUNT = 1 + FORMAT_COUNT + GUIDED_FORMAT_COUNT + SPQR_FORMAT_COUNT + GPTQ_FORMAT_COUNT +
                 AWQ_FORMAT_COUNT + BNB_FORMAT_COUNT + COMPRESSED_FORMAT_COUNT
};

/* The format of a form; NULL of FORM_STORED. */
const struct format *form_format(unsigned form);

/* The form of a format. */
unsigned form_of(const struct format *format);

/* The form of a format's name ("q4_k"), any case; FORM_STORED, which has no name, for others. */
unsigned form_by_name(const char *name);

#endif
