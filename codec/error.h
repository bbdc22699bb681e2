/* SPDX-License-Identifier: MIT
 *
 * How the codec floor says what went wrong: a negative errno and one sentence. The sentence names
 * the place inside the input and the cause; whoever opened the file puts its name in front.
 */
#ifndef CODEC_ERROR_H
#define CODEC_ERROR_H

struct error {
    char text[512];
};

/* Writes the sentence (cut to fit) and returns code, so that callers write
 * `return error_set(err, -EINVAL, ...)`. err may be NULL. */
int error_set(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts a printf-formatted prefix and ": " in front of the sentence that is there; returns code. */
int error_prefix(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
