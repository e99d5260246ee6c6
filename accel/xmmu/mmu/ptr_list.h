/*
 * xmmu: a compact set of pointers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The reverse maps (frame -> entries that map it, table -> entries that point to
 * it) hold one pointer in nearly all cases.  Such a list is one word; only a
 * second pointer allocates.  Order is not kept.  The caller serialises access.
 */
#ifndef XMMU_MMU_PTR_LIST_H
#define XMMU_MMU_PTR_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct XmmuPtrList {
    uintptr_t word;     /* 0: empty; even: the pointer; odd: a vector, plus 1 */
} XmmuPtrList;

/* @ptr is not NULL and at least 2-byte aligned. */
void xmmu_ptr_list_add(XmmuPtrList *list, void *ptr);
/* @ptr must be in the list: a reverse map that lost an entry is a bug. */
void xmmu_ptr_list_remove(XmmuPtrList *list, void *ptr);
size_t xmmu_ptr_list_count(const XmmuPtrList *list);
void *xmmu_ptr_list_get(const XmmuPtrList *list, size_t index);

static inline bool xmmu_ptr_list_empty(const XmmuPtrList *list)
{
    return list->word == 0;
}

#endif /* XMMU_MMU_PTR_LIST_H */
