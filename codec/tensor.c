/* SPDX-License-Identifier: MIT */
#include "codec/tensor.h"

#include <stdlib.h>
#include <string.h>

struct tensor *tensor_list_add(struct tensor_list *list)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        struct tensor *items = reallocarray(list->items, capacity, sizeof *items);
        if (!items)
            return NULL;
        list->items = items;
        list->capacity = capacity;
    }
    struct tensor *t = &list->items[list->count++];
    memset(t, 0, sizeof *t);
    return t;
}

void tensor_list_free(struct tensor_list *list)
{
    free(list->items);
    arena_free(&list->arena);
    *list = (struct tensor_list){0};
}
