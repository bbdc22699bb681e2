/* SPDX-License-Identifier: MIT
 *
 * What a run says of itself: before it starts, what it expects; at its end, what came from where.
 */
#ifndef TOOLS_RUN_REPORT_H
#define TOOLS_RUN_REPORT_H

#include "tools/run/engine.h"

#include <jansson.h>
#include <stdio.h>

/* Lines that begin with "# ". */
void report_plan(const struct engine *e, FILE *out);
void report_end(const struct engine *e, double seconds, FILE *out);

/* The same, into an object. */
void report_json(const struct engine *e, json_t *root);

/* Prints an object to stdout and lets go of it. */
void report_print(json_t *root);

#endif
