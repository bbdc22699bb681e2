/* SPDX-License-Identifier: MIT */
#include "codec/hf_quant.h"
#include "codec/recipe.h"
#include "fs/form.h"
#include "tools/command.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* What a recipe does beside its default format, for people. */
static const char *mix(const struct recipe *r)
{
    return r->attn_v.when == WHEN_NEVER && r->ffn_down.when == WHEN_NEVER &&
                   r->attn_output.when == WHEN_NEVER
               ? ""
               : " and better for some";
}

/* Of a matrix of 4096 x 4096. */
static double spqr_bpw(const struct format *f)
{
    enum { SIDE = 4096 };
    struct spqr_layout layout;
    uint64_t size = 0;
    if (spqr_format_layout(f, SIDE, &layout, NULL) == 0)
        spqr_size(&layout, SIDE, &size, NULL);
    return 8.0 * (double)size / SIDE / SIDE;
}

/* What most matrices of a recipe have. */
static const struct format *most(const struct recipe *r)
{
    return r->matrices ? r->matrices : &formats[r->base];
}

static double recipe_bpw(const struct recipe *r)
{
    return r->matrices ? spqr_bpw(r->matrices) : format_bpw(&formats[r->base]);
}

/* What a format looks at besides weights. */
static const char *uses(const struct format *f)
{
    return f->plain         ? ", needs a calibration"
           : f->damping > 0 ? ", uses a calibration"
           : f->importance  ? ", uses an importance matrix"
                            : "";
}

/* Which matrices it is offered for. */
static const char *of_type(const struct format *f)
{
    return !f->type                        ? ""
           : f->type == &formats[FORMAT_F32] ? ", of F32"
           : f->type == &formats[FORMAT_F16] ? ", of F16"
                                             : ", of BF16";
}

static void print_format(const struct format *f)
{
    if (f->stripe_bits)
        printf("  %-18s %11.4g  of wide matrices: stripes of %d rows, %g %% of outliers; type %u in "
               "GGUF%s\n",
               f->name, spqr_bpw(f), SPQR_ROWS, 100 * SPQR_BUDGET, f->ggml_type, uses(f));
    else if (f->row_head)
        printf("  %-18s %11.4g  rows of %u byte a weight, and %u more%s\n", f->name, format_bpw(f),
               f->block_size, f->row_head, of_type(f));
    else
        printf("  %-18s %11.4g  %u weights in %u bytes%s%s\n", f->name, format_bpw(f), f->block,
               f->block_size, uses(f), of_type(f));
}

/* What most of a folder for transformers is packed in. */
static const struct format *folder_format(const struct hf_form *form)
{
    return form->method ? hf_form_packed(form) : &formats[form->format];
}

static void print_folders(void)
{
    puts("\nfolders for transformers (hf/NAME)");
    for (int i = 0; i < HF_FORM_COUNT; i++) {
        const struct hf_form *form = &hf_forms[i];
        printf("  %-22s %s", form->name, folder_format(form)->name);
        printf("%s%s%s\n", form->method ? " for linear layers, else " : "",
               form->method ? formats[form->format].name : "",
               form->scaled ? "; scaled, needs a calibration" : "");
    }
}

static json_t *json_folders(void)
{
    json_t *list = json_array();
    for (int i = 0; i < HF_FORM_COUNT; i++) {
        const struct hf_form *form = &hf_forms[i];
        json_array_append_new(list, json_pack("{s:s, s:s?, s:s, s:s}", "name", form->name, "method",
                                              form->method ? form->method->name : NULL, "layers",
                                              folder_format(form)->name, "rest",
                                              formats[form->format].name));
    }
    return list;
}

static void print_text(void)
{
    puts("formats (tensors/*/NAME)\n  name               bits/weight  block");
    for (unsigned form = 1; form < FORM_COUNT; form++)
        print_format(form_format(form));
    puts("\nrecipes (gguf/MODEL-NAME.gguf)\n  name           bits/weight of most matrices");
    for (int i = 0; i < RECIPE_COUNT; i++) {
        const struct recipe *r = &recipes[i];
        printf("  %-14s %.4g: %s%s", r->name, recipe_bpw(r), most(r)->title, mix(r));
        if (r->matrices)
            printf(", %s for embedding and output", formats[r->output].title);
        else if (r->output != r->base)
            printf(", %s for the output", formats[r->output].title);
        if (r->guided)
            printf(", guided by a calibration");
        putchar('\n');
    }
    print_folders();
}

/* Formats with one scale for a block or a row, and codes by a formula. */
static json_t *json_scaled(void)
{
    json_t *list = json_array();
    for (unsigned form = 1; form < FORM_COUNT; form++) {
        const struct format *f = form_format(form);
        if (f->encoder)
            json_array_append_new(
                list, json_pack("{s:s, s:i, s:i, s:i, s:f, s:s?}", "name", f->name,
                                "block_weights", (int)f->block, "block_bytes", (int)f->block_size,
                                "row_bytes", (int)f->row_head, "bpw", format_bpw(f), "type",
                                f->type ? f->type->name : NULL));
    }
    return list;
}

static void print_json(void)
{
    json_t *root = json_object(), *format_list = json_array(), *recipe_list = json_array();
    json_t *spqr_list = json_array(), *guided_list = json_array(), *gptq_list = json_array();
    json_t *awq_list = json_array();
    for (int i = 0; i < FORMAT_COUNT; i++) {
        const struct format *f = &formats[i];
        json_array_append_new(
            format_list,
            json_pack("{s:s, s:s, s:i, s:i, s:i, s:f, s:b}", "name", f->name, "ggml", f->title,
                      "ggml_type", (int)f->ggml_type, "block_weights", (int)f->block, "block_bytes",
                      (int)f->block_size, "bpw", format_bpw(f), "importance", (int)f->importance));
    }
    for (int i = 0; i < SPQR_FORMAT_COUNT; i++) {
        const struct format *f = &spqr_formats[i];
        json_array_append_new(spqr_list,
                              json_pack("{s:s, s:i, s:i, s:i, s:f, s:f}", "name", f->name, "ggml_type",
                                        (int)f->ggml_type, "bits", (int)f->stripe_bits,
                                        "stripe_rows", SPQR_ROWS, "outliers", SPQR_BUDGET,
                                        "bpw_4096", spqr_bpw(f)));
    }
    for (int i = 0; i < GUIDED_FORMAT_COUNT; i++) {
        const struct format *f = &guided_formats[i];
        json_array_append_new(guided_list, json_pack("{s:s, s:s, s:f}", "name", f->name, "plain",
                                                     f->plain->name, "bpw", format_bpw(f)));
    }
    for (int i = 0; i < GPTQ_FORMAT_COUNT; i++) {
        const struct format *f = &gptq_formats[i];
        json_array_append_new(gptq_list,
                              json_pack("{s:s, s:i, s:i, s:i, s:f, s:b, s:b}", "name", f->name,
                                        "bits", gptq_bits(f), "block_weights", (int)f->block,
                                        "block_bytes", (int)f->block_size, "bpw", format_bpw(f),
                                        "calibration", f->damping > 0, "natural", (int)f->natural));
    }
    for (int i = 0; i < AWQ_FORMAT_COUNT; i++) {
        const struct format *f = &awq_formats[i];
        json_array_append_new(awq_list, json_pack("{s:s, s:i, s:i, s:f}", "name", f->name,
                                                  "block_weights", (int)f->block, "block_bytes",
                                                  (int)f->block_size, "bpw", format_bpw(f)));
    }
    for (int i = 0; i < RECIPE_COUNT; i++) {
        const struct recipe *r = &recipes[i];
        json_array_append_new(recipe_list,
                              json_pack("{s:s, s:i, s:s, s:s, s:f}", "name", r->name, "ftype",
                                        (int)r->ftype, "base", most(r)->name, "output",
                                        formats[r->output].name, "bpw", recipe_bpw(r)));
    }
    json_object_set_new(root, "formats", format_list);
    json_object_set_new(root, "guided", guided_list);
    json_object_set_new(root, "spqr", spqr_list);
    json_object_set_new(root, "gptq", gptq_list);
    json_object_set_new(root, "awq", awq_list);
    json_object_set_new(root, "scaled", json_scaled());
    json_object_set_new(root, "recipes", recipe_list);
    json_object_set_new(root, "folders", json_folders());
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

int run_formats(const struct command *self, int argc, char **argv)
{
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return command_help(self);
    if (argc == 2 && strcmp(argv[1], "--json") == 0) {
        print_json();
        return 0;
    }
    if (argc != 1)
        return command_usage(self, "no argument is needed");
    print_text();
    return 0;
}
