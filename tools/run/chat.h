/* SPDX-License-Identifier: MIT
 *
 * A message as a conversation's beginning, in the words of the model's chat template. Templates are
 * programs, and these are not run: they are recognised by texts that they hold, as llama.cpp
 * recognises its own. What a template adds by itself (a system message, today's date) is left out.
 */
#ifndef TOOLS_RUN_CHAT_H
#define TOOLS_RUN_CHAT_H

#include "codec/gguf_vocab.h"

/* Appends the conversation, up to where the model's answer begins and without BOS, which the
 * vocabulary adds. system: NULL for none. -ENOTSUP where the file has no template, or one that is
 * not known. */
int chat_format(const struct gguf_header *h, const struct gguf_vocab *v, const char *system,
                const char *user, struct buffer *out, struct error *err);

#endif
