/* SPDX-License-Identifier: MIT
 *
 * What will fit and how fast it will be, told before anything is loaded or even downloaded: from a
 * file's header, or from a config.json alone.
 */
#ifndef TOOLS_RUN_FORECAST_H
#define TOOLS_RUN_FORECAST_H

#include "tools/run/model.h"

enum { LINKS_MAX = 8, FORMATS_MAX = 32 };

/* What weights lie in and are multiplied by, and what is assumed of it: rates unless they are told,
 * links from a slow disk to a fast one, and from two disks to two generations of PCIe. */
struct device {
    const char *name, *title;
    uint64_t program; /* bytes that it takes itself */
    unsigned run_alignment; /* as a backend's */
    bool lifts; /* weights to slots of its own; else they come through a ring */
    double memory, efficiency, launch, flops; /* launch: seconds for a layer */
    double links[4];
};

/* What was asked for, with what is assumed. */
struct wanted {
    const struct device *device;
    uint64_t size; /* bytes of its memory */
    double links[LINKS_MAX];
    size_t link_count;
    double memory, flops;
    bool links_given, memory_given, flops_given, size_given;
    uint32_t context; /* 0: as the model was trained, at most ENGINE_CONTEXT */
    const char *config, *formats;
    bool json;
};

/* A model in one format, placed. */
struct forecast {
    char name[24];
    struct weights weights;                      /* their order and blocks */
    uint64_t embedding_bytes, embedding_weights; /* of which a pass reads single rows */
    double pass_weights;                         /* that a token is multiplied with */
    uint64_t all_weights;
    bool fits;
    uint64_t needs;      /* bytes at least, with all that is not weights */
    uint32_t slots;      /* of a device that lifts, if it does; */
    uint64_t slot_size;  /* bytes */
    uint64_t on_the_way; /* bytes of ring or slots */
    double touched, streamed;
    double speed[LINKS_MAX], prefill[LINKS_MAX]; /* tokens a second, for each link */
};

/* A model in all formats that were asked for. */
struct outlook {
    const char *path;
    struct facts facts;
    uint32_t context, batch;
    uint64_t cache, activations, logits;
    struct forecast forecasts[FORMATS_MAX];
    size_t count;
};

/* "3.22 GB": in powers of 1000, so that a rate in GB/s divides it. out: 16 bytes. Returns out. */
const char *forecast_bytes(double bytes, char *out);

/* For people, and for machines. */
void forecast_print(const struct outlook *o, const struct wanted *w);
void forecast_print_json(const struct outlook *o, const struct wanted *w);

#endif
