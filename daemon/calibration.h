/* SPDX-License-Identifier: MIT
 *
 * What is known about a model's activations, shared by all that encodes it: an importance matrix, or
 * AWQ's scales. Loaded once, counted, never changed.
 */
#ifndef DAEMON_CALIBRATION_H
#define DAEMON_CALIBRATION_H

#include "codec/awq/scales.h"
#include "codec/imatrix.h"

struct calibration {
    _Atomic unsigned refs;
    char *name; /* the path as the user gave it: it goes into metadata */
    struct imatrix imatrix;
    struct awq_scales scales;
    char digest[2 * 32 + 1]; /* of the file with the scales: SHA-256, in hexadecimal; else "" */
};

/* Loads an importance matrix. name is kept as given. -errno with a sentence. */
int calibration_load(const char *path, const char *name, struct calibration **out,
                     struct error *err);
/* Loads AWQ's scales, likewise. */
int calibration_load_scales(const char *path, struct calibration **out, struct error *err);
/* The format that a calibration's factors are for alone (codec/CALIBRATION.md, `sequential`), from its
 * calibration.json: to be freed, NULL where they are for all. -ENOENT where there is no such file,
 * else -errno; with a sentence. */
int calibration_sequential(const char *folder, char **format, struct error *err);

struct calibration *calibration_ref(struct calibration *c);
void calibration_unref(struct calibration *c);

#endif
