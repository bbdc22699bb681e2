/* SPDX-License-Identifier: MIT
 *
 * Model cards: the YAML between two lines of "---" at the beginning of README.md, as far as GGUF
 * has keys for it. Values come as JSON: scalars that are written plainly as null or as a truth
 * value become that, all others stay texts.
 */
#ifndef CODEC_MODEL_CARD_H
#define CODEC_MODEL_CARD_H

#include "codec/arena.h"
#include "codec/bytes.h"
#include "codec/error.h"
#include "codec/gguf.h"
#include "codec/model_name.h"

#include <jansson.h>

/* *card becomes the card, a new reference, or NULL where the file has none. -EINVAL with the line
 * where it is damaged, or of more than one would read by hand; -ENOMEM. */
int model_card_parse(struct blob readme, json_t **card, struct error *err);

/* Fills in what the card says about the name. Borrowed from the card, which may be NULL. */
void model_card_name(const json_t *card, struct model_name *name);

/* Put general.author and general.description, which stand among the keys of the name. */
void model_card_put_author(const json_t *card, struct gguf_keys *keys);
void model_card_put_description(const json_t *card, struct gguf_keys *keys);

/* Puts what follows these: license, source, base models, data sets, tags, languages. parameters: as
 * for model_name_parse. Returns 0 or -ENOMEM. */
int model_card_put_rest(const json_t *card, int64_t parameters, struct gguf_keys *keys);

#endif
