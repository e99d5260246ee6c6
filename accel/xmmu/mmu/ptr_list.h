/*
 * xmmu: a compact set of pointers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The reverse maps (frame -> entries that map it, table -> entries that point to
 * it) hold one pointer in nearly all cases, and two where the guest's kernel maps all
 * memory and a process some of it.  A list of one is a word; a second pointer takes a
 * node, which has no room for more, as nearly all would stay empty.  Nodes come from a
 * pool that was filled before (reserve.c), so adding cannot fail.  Order is not kept.
 * The caller serialises access.
 */
#ifndef XMMU_MMU_PTR_LIST_H
#define XMMU_MMU_PTR_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first node of a list has one item or two, the others have two. */
typedef struct XmmuPtrNode XmmuPtrNode;
struct XmmuPtrNode {
    XmmuPtrNode *next;
    void *items[2];             /* [1] is NULL when there is only one */
};

typedef struct XmmuPtrPool {
    XmmuPtrNode *nodes;
    unsigned count;
} XmmuPtrPool;

typedef struct XmmuPtrList {
    uintptr_t word;     /* 0: empty; even: the pointer; odd: the first node, plus 1 */
} XmmuPtrList;

/* @ptr is not NULL and at least 2-byte aligned; @pool has a node. */
void xmmu_ptr_list_add(XmmuPtrList *list, void *ptr, XmmuPtrPool *pool);
/* @ptr must be in the list: a reverse map that lost an entry is a bug. */
void xmmu_ptr_list_remove(XmmuPtrList *list, void *ptr, XmmuPtrPool *pool);
size_t xmmu_ptr_list_count(const XmmuPtrList *list);
/* Any of a list that is not empty; the one that is removed fastest. */
void *xmmu_ptr_list_first(const XmmuPtrList *list);
/* For each pointer; @fn does not change the list. */
void xmmu_ptr_list_each(const XmmuPtrList *list, void (*fn)(void *ptr, void *opaque),
                        void *opaque);

static inline bool xmmu_ptr_list_empty(const XmmuPtrList *list)
{
    return list->word == 0;
}

void xmmu_ptr_pool_put(XmmuPtrPool *pool, XmmuPtrNode *node);
XmmuPtrNode *xmmu_ptr_pool_get(XmmuPtrPool *pool);

#endif /* XMMU_MMU_PTR_LIST_H */
