/* SPDX-License-Identifier: MIT */
#include "daemon/build_id.h"

#include <elf.h>
#include <link.h>
#include <string.h>

struct search {
    uint8_t *out;
    size_t max, found;
};

static size_t align_4(size_t n)
{
    return (n + 3) & ~(size_t)3;
}

/* Looks through the notes of the first object, which is the program. */
static int look(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    struct search *s = context;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        const char *at = (const char *)(info->dlpi_addr + p->p_vaddr), *end = at + p->p_memsz;
        while (p->p_type == PT_NOTE && (size_t)(end - at) >= sizeof(ElfW(Nhdr))) {
            const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)(const void *)at;
            const char *name = at + sizeof *note, *content = name + align_4(note->n_namesz);
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
                memcmp(name, "GNU", 4) == 0 && note->n_descsz <= s->max) {
                memcpy(s->out, content, note->n_descsz);
                s->found = note->n_descsz;
                return 1;
            }
            at = content + align_4(note->n_descsz);
        }
    }
    return 1; /* no further objects */
}

size_t build_id(uint8_t *out, size_t max)
{
    struct search s = {out, max, 0};
    dl_iterate_phdr(look, &s);
    return s.found;
}
