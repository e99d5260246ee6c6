/*
 * xmmu: a compact set of pointers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the tagged-word representation.  Used by the reverse maps only; not
 * thread safe, callers hold mmu_lock for writing.
 */
#include <glib.h>
#include "ptr_list.h"

typedef struct PtrVector {
    uint32_t count, room;
    void *items[];
} PtrVector;

static PtrVector *vector_of(const XmmuPtrList *list)
{
    return list->word & 1 ? (PtrVector *)(list->word - 1) : NULL;
}

static PtrVector *vector_resize(PtrVector *vec, uint32_t room)
{
    vec = g_realloc(vec, sizeof(*vec) + room * sizeof(vec->items[0]));
    vec->room = room;
    return vec;
}

void xmmu_ptr_list_add(XmmuPtrList *list, void *ptr)
{
    PtrVector *vec = vector_of(list);

    g_assert(ptr && !((uintptr_t)ptr & 1));
    if (!list->word) {
        list->word = (uintptr_t)ptr;
        return;
    }
    if (!vec) {
        vec = vector_resize(NULL, 4);
        vec->items[0] = (void *)list->word;
        vec->count = 1;
    } else if (vec->count == vec->room) {
        vec = vector_resize(vec, vec->room * 2);
    }
    vec->items[vec->count++] = ptr;
    list->word = (uintptr_t)vec + 1;
}

static void vector_remove(PtrVector *vec, void *ptr)
{
    for (uint32_t i = vec->count; i-- > 0;) {
        if (vec->items[i] == ptr) {
            vec->items[i] = vec->items[--vec->count];
            return;
        }
    }
    g_assert_not_reached();
}

void xmmu_ptr_list_remove(XmmuPtrList *list, void *ptr)
{
    PtrVector *vec = vector_of(list);

    if (!vec) {
        g_assert(list->word == (uintptr_t)ptr);
        list->word = 0;
        return;
    }
    vector_remove(vec, ptr);
    if (vec->count == 1) {
        list->word = (uintptr_t)vec->items[0];
        g_free(vec);
    }
}

size_t xmmu_ptr_list_count(const XmmuPtrList *list)
{
    PtrVector *vec = vector_of(list);

    return vec ? vec->count : list->word != 0;
}

void *xmmu_ptr_list_get(const XmmuPtrList *list, size_t index)
{
    PtrVector *vec = vector_of(list);

    if (!vec) {
        g_assert(index == 0 && list->word);
        return (void *)list->word;
    }
    g_assert(index < vec->count);
    return vec->items[index];
}
