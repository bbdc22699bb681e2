/* SPDX-License-Identifier: MIT */
#include "daemon/log.h"
#include "fs/gguf_file.h"
#include "fs/lora_file.h"
#include "fs/service.h"
#include "tools/command.h"
#include "tools/output.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { STEP = 4 << 20 };

struct request {
    const char *source, *recipe, *output;
    bool force;
};

/* Whether the adapter itself is wanted, not a model. */
static bool is_lora(const struct request *request)
{
    return strcasecmp(request->recipe, lora_file_kind) == 0;
}

static bool first_model(void *context, const struct store_entry *e)
{
    *(uint32_t *)context = e->number;
    return false;
}

/* The image of SRC, which must be a model itself. */
static int open_image(struct service *s, const struct request *request, struct image **image,
                      struct error *err)
{
    uint32_t number = 0;
    struct checkpoint *c;
    store_each_model(s->tree.store, first_model, &number);
    if (!store_is_model(s->tree.store) || !number)
        return error_set(err, -EINVAL,
                         "%s: no model: there is neither a config.json nor a file of weights in it",
                         request->source);
    int rc = store_get(s->tree.store, number, &c, err);
    if (rc)
        return rc;
    rc = is_lora(request) ? lora_file_get(c, image, err)
                          : gguf_file_get(c, NULL, recipe_by_name(request->recipe), image, err);
    checkpoint_unref(c);
    return rc;
}

static int copy_image(struct service *s, const struct image *image, struct output *out,
                      struct error *err)
{
    struct stream stream;
    struct progress progress;
    uint8_t *buf = malloc(STEP);
    int rc = buf ? 0 : error_set(err, -ENOMEM, "out of memory");
    stream_init(&stream, 0);
    progress_begin(&progress, "converting", NULL, image->size);
    for (uint64_t at = 0; !rc && at < image->size;) {
        size_t n;
        image_prefetch(image, s->tree.tiles, &stream, at, STEP);
        rc = image_read(image, s->tree.tiles, at, STEP, false, buf, &n, err);
        rc = rc ? rc : output_write(out, buf, n, err);
        at += rc ? 0 : n;
        progress_add(&progress, rc ? 0 : n);
    }
    progress_end(&progress);
    tiles_forget(s->tree.tiles, &stream);
    stream_destroy(&stream);
    free(buf);
    return rc;
}

static int convert(const struct request *request, struct options *options, struct error *err)
{
    struct service s;
    struct image *image = NULL;
    struct output out;
    int rc = service_open(&s, request->source, options, err);
    rc = rc ? rc : service_start(&s, NULL, err);
    rc = rc ? rc : open_image(&s, request, &image, err);
    rc = rc ? rc : output_open(&out, request->output, err);
    if (!rc)
        rc = output_close(&out, copy_image(&s, image, &out, err), request->force, err);
    image_unref(image);
    service_close(&s);
    return rc;
}

int run_convert(const struct command *self, int argc, char **argv)
{
    enum { IMATRIX = 256, CALIBRATION, WORKERS, FORCE, REQUANTIZE, BASE, ONTO_NF4 };
    static const struct option long_options[] = {
        {"help", no_argument, NULL, 'h'},       {"type", required_argument, NULL, 't'},
        {"output", required_argument, NULL, 'o'}, {"imatrix", required_argument, NULL, IMATRIX},
        {"calibration", required_argument, NULL, CALIBRATION},
        {"workers", required_argument, NULL, WORKERS}, {"force", no_argument, NULL, FORCE},
        {"allow-requantize", no_argument, NULL, REQUANTIZE},
        {"base", required_argument, NULL, BASE}, {"onto-nf4", no_argument, NULL, ONTO_NF4},
        {0},
    };
    struct request request = {0};
    struct options options;
    struct error err;
    options_init(&options);
    for (int c; (c = getopt_long(argc, argv, "t:o:h", long_options, NULL)) != -1;) {
        switch (c) {
        case 'h': return command_help(self);
        case 't': request.recipe = optarg; break;
        case 'o': request.output = optarg; break;
        case IMATRIX:
            free(options.imatrix);
            options.imatrix = strdup(optarg);
            break;
        case CALIBRATION:
            free(options.calibration);
            options.calibration = strdup(optarg);
            break;
        case WORKERS:
            if (!size_parse(optarg, &options.workers))
                return command_usage(self, "--workers %s: not a number", optarg);
            break;
        case FORCE: request.force = true; break;
        case REQUANTIZE: options.requantize = true; break;
        case BASE:
            free(options.base);
            options.base = strdup(optarg);
            break;
        case ONTO_NF4: options.onto_nf4 = true; break;
        default: return command_usage(self, "what is wanted?");
        }
    }
    if (argc - optind != 1 || !request.recipe || !request.output)
        return command_usage(self, "a checkpoint, a recipe (-t) and an output (-o) are needed");
    request.source = argv[optind];
    if (!recipe_by_name(request.recipe) && !is_lora(&request))
        return command_usage(self, "there is no recipe \"%s\"", request.recipe);
    if (options_finish(&options, &err))
        return command_usage(self, "%s", err.text);
    if (!request.force && access(request.output, F_OK) == 0)
        return command_fail("%s is there already (--force overwrites it)", request.output);
    int rc = convert(&request, &options, &err);
    options_free(&options);
    return rc ? command_fail("%s", err.text) : 0;
}
