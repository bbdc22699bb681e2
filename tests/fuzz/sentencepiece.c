/* SPDX-License-Identifier: MIT
 *
 * A tokenizer.model. What becomes of its pieces is in the target `model`.
 */
#include "codec/sentencepiece.h"
#include "codec/utf8.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct piece *pieces;
    size_t count;
    if (sentencepiece_parse((struct blob){data, size}, &pieces, &count, &err))
        return 0;
    assert(count);
    for (size_t i = 0; i < count; i++) {
        assert(utf8_valid(pieces[i].text, pieces[i].size));
        assert(pieces[i].type >= PIECE_NORMAL && pieces[i].type <= PIECE_BYTE);
    }
    free(pieces);
    return 0;
}
