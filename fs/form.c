/* SPDX-License-Identifier: MIT */
#include "fs/form.h"

#include <strings.h>

/* In the order of their forms. */
static const struct {
    const struct format *formats;
    unsigned count;
} tables[] = {
    {formats, FORMAT_COUNT},
    {guided_formats, GUIDED_FORMAT_COUNT},
    {spqr_formats, SPQR_FORMAT_COUNT},
    {gptq_formats, GPTQ_FORMAT_COUNT},
    {awq_formats, AWQ_FORMAT_COUNT},
    {bnb_formats, BNB_FORMAT_COUNT},
    {compressed_formats, COMPRESSED_FORMAT_COUNT},
};

const struct format *form_format(unsigned form)
{
    if (form == FORM_STORED)
        return NULL;
    form--;
    size_t i = 0;
    for (; form >= tables[i].count; i++)
        form -= tables[i].count;
    return &tables[i].formats[form];
}

unsigned form_of(const struct format *format)
{
    unsigned form = 1;
    while (form_format(form) != format)
        form++;
    return form;
}

unsigned form_by_name(const char *name)
{
    for (unsigned form = 1; form < FORM_COUNT; form++)
        if (strcasecmp(name, form_format(form)->name) == 0)
            return form;
    return FORM_STORED;
}
