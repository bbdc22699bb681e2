/* SPDX-License-Identifier: MIT */
#include "tools/run/chat.h"

#include <ctype.h>
#include <errno.h>

/* Stands for the text of EOS. */
#define EOS "\x01"

/* How a conversation looks whose template holds all of `has` and none of `lacks`: `open`, the system
 * message between its two texts if there is one, the user's between its own. */
struct style {
    const char *has[3], *lacks[2];
    const char *open, *system, *system_end, *user, *user_end;
    bool trims; /* white space around messages */
};

/* The first that fits is it. */
static const struct style styles[] = {
    /* ChatML */
    {.has = {"<|im_start|>"},
     .lacks = {"<|im_sep|>", "<end_of_utterance>"},
     .system = "<|im_start|>system\n",
     .system_end = "<|im_end|>\n",
     .user = "<|im_start|>user\n",
     .user_end = "<|im_end|>\n<|im_start|>assistant\n"},
    /* Mistral, from the newest to the oldest: v7 with the tokenizer Tekken and before, v3 likewise,
     * v1. The spaces are all that tells them apart. */
    {.has = {"[INST]", "[SYSTEM_PROMPT] "},
     .system = "[SYSTEM_PROMPT] ",
     .system_end = "[/SYSTEM_PROMPT]",
     .user = "[INST] ",
     .user_end = "[/INST]"},
    {.has = {"[INST]", "[SYSTEM_PROMPT]"},
     .system = "[SYSTEM_PROMPT]",
     .system_end = "[/SYSTEM_PROMPT]",
     .user = "[INST]",
     .user_end = "[/INST]"},
    {.has = {"[INST]", "' [INST] ' + system_message"},
     .open = " [INST] ",
     .system_end = "\n\n",
     .user_end = " [/INST]"},
    {.has = {" [INST]", "[AVAILABLE_TOOLS]"},
     .open = " [INST] ",
     .system_end = "\n\n",
     .user_end = " [/INST]"},
    {.has = {"\"[INST]\"", "[AVAILABLE_TOOLS]"},
     .open = "[INST]",
     .system_end = "\n\n",
     .user_end = "[/INST]"},
    {.has = {"[INST]", "[AVAILABLE_TOOLS]"},
     .open = "[INST] ",
     .system_end = "\n\n",
     .user_end = "[/INST]"},
    /* Llama 2, and what was made of it */
    {.has = {"[INST]", "content.strip()"},
     .open = "[INST] ",
     .system = "<<SYS>>\n",
     .system_end = "\n<</SYS>>\n\n",
     .user_end = " [/INST]",
     .trims = true},
    {.has = {"[INST]", "<<SYS>>"},
     .open = "[INST] ",
     .system = "<<SYS>>\n",
     .system_end = "\n<</SYS>>\n\n",
     .user_end = " [/INST]"},
    {.has = {"[INST]"}, .open = "[INST] ", .system_end = "\n", .user_end = " [/INST]"},
    /* Phi 3 */
    {.has = {"<|assistant|>", "<|end|>"},
     .system = "<|system|>\n",
     .system_end = "<|end|>\n",
     .user = "<|user|>\n",
     .user_end = "<|end|>\n<|assistant|>\n"},
    /* Zephyr, with the line feed as an escape and as itself */
    {.has = {"<|user|>\\n' + message['content'] + eos_token"},
     .system = "<|system|>\n",
     .system_end = EOS "\n",
     .user = "<|user|>\n",
     .user_end = EOS "\n<|assistant|>\n"},
    {.has = {"<|user|>\n' + message['content'] + eos_token"},
     .system = "<|system|>\n",
     .system_end = EOS "\n",
     .user = "<|user|>\n",
     .user_end = EOS "\n<|assistant|>\n"},
    /* Gemma has no place for a system message but the user's. */
    {.has = {"<start_of_turn>"},
     .open = "<start_of_turn>user\n",
     .system_end = "\n\n",
     .user_end = "<end_of_turn>\n<start_of_turn>model\n",
     .trims = true},
    /* Llama 3 */
    {.has = {"<|start_header_id|>", "<|end_header_id|>"},
     .system = "<|start_header_id|>system<|end_header_id|>\n\n",
     .system_end = "<|eot_id|>",
     .user = "<|start_header_id|>user<|end_header_id|>\n\n",
     .user_end = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     .trims = true},
};

static bool contains(struct gguf_string s, const char *word)
{
    return memmem(s.data, s.size, word, strlen(word));
}

static bool fits(const struct style *s, struct gguf_string template)
{
    for (size_t i = 0; i < sizeof s->has / sizeof *s->has && s->has[i]; i++)
        if (!contains(template, s->has[i]))
            return false;
    for (size_t i = 0; i < sizeof s->lacks / sizeof *s->lacks && s->lacks[i]; i++)
        if (contains(template, s->lacks[i]))
            return false;
    return true;
}

static const struct style *find(struct gguf_string template)
{
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++)
        if (fits(&styles[i], template))
            return &styles[i];
    return NULL;
}

static void add_frame(const struct gguf_vocab *v, const char *text, struct buffer *out)
{
    if (text && *text == *EOS) {
        if (v->eos != VOCAB_NONE)
            buffer_add(out, v->tokens[v->eos].text, v->tokens[v->eos].size);
        text++;
    }
    if (text)
        buffer_add(out, text, strlen(text));
}

static void add_message(const char *text, bool trims, struct buffer *out)
{
    size_t n = strlen(text);
    while (trims && n && isspace((unsigned char)text[n - 1]))
        n--;
    for (; trims && n && isspace((unsigned char)*text); n--)
        text++;
    buffer_add(out, text, n);
}

int chat_format(const struct gguf_header *h, const struct gguf_vocab *v, const char *system,
                const char *user, struct buffer *out, struct error *err)
{
    static const char key[] = "tokenizer.chat_template";
    struct gguf_string template;
    if (!gguf_find_text(h, key, &template))
        return error_set(err, -ENOTSUP, "there is no %s, and so no way to chat", key);
    const struct style *s = find(template);
    if (!s)
        return error_set(err, -ENOTSUP, "%s is none of those that are known", key);
    add_frame(v, s->open, out);
    if (system) {
        add_frame(v, s->system, out);
        add_message(system, s->trims, out);
        add_frame(v, s->system_end, out);
    }
    add_frame(v, s->user, out);
    add_message(user, s->trims, out);
    add_frame(v, s->user_end, out);
    return out->failed ? error_set(err, -ENOMEM, "out of memory") : 0;
}
