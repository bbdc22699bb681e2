/* SPDX-License-Identifier: MIT
 *
 * Classes of characters, as the tokenizers of GGUF files know them: the general categories of
 * Unicode 15.1. A table of its own, because what a text is split into must not depend on the
 * version of a library.
 */
#ifndef CODEC_CHAR_CLASS_H
#define CODEC_CHAR_CLASS_H

#include <stdint.h>

enum char_class {
    CHAR_OTHER, /* controls, formats, private and unassigned */
    CHAR_NUMBER,
    CHAR_LETTER,
    CHAR_PUNCTUATION,
    CHAR_MARK,
    CHAR_SYMBOL,
    CHAR_SPACE, /* White_Space, whatever its category */
};

enum char_class char_class(uint32_t code);

#endif
