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

void xmmu_ptr_pool_put(XmmuPtrPool *pool, XmmuPtrNode *node)
{
    node->next = pool->nodes;
    pool->nodes = node;
    pool->count++;
}

XmmuPtrNode *xmmu_ptr_pool_get(XmmuPtrPool *pool)
{
    XmmuPtrNode *node = pool->nodes;

    g_assert(node);
    pool->nodes = node->next;
    pool->count--;
    return node;
}

static XmmuPtrNode *first_node(const XmmuPtrList *list)
{
    return list->word & 1 ? (XmmuPtrNode *)(list->word - 1) : NULL;
}

static void add_node(XmmuPtrList *list, XmmuPtrNode *next, XmmuPtrPool *pool)
{
    XmmuPtrNode *node = xmmu_ptr_pool_get(pool);

    node->next = next;
    node->count = 0;
    list->word = (uintptr_t)node + 1;
}

void xmmu_ptr_list_add(XmmuPtrList *list, void *ptr, XmmuPtrPool *pool)
{
    XmmuPtrNode *node = first_node(list);

    g_assert(ptr && !((uintptr_t)ptr & 1));
    if (!list->word) {
        list->word = (uintptr_t)ptr;
        return;
    }
    if (!node) {
        void *only = (void *)list->word;

        add_node(list, NULL, pool);
        first_node(list)->items[first_node(list)->count++] = only;
    } else if (node->count == XMMU_PTR_NODE_ITEMS) {
        add_node(list, node, pool);
    }
    node = first_node(list);
    node->items[node->count++] = ptr;
}

static void **find(XmmuPtrNode *node, void *ptr)
{
    for (; node; node = node->next) {
        for (size_t i = node->count; i-- > 0;) {
            if (node->items[i] == ptr) {
                return &node->items[i];
            }
        }
    }
    g_assert_not_reached();
}

void xmmu_ptr_list_remove(XmmuPtrList *list, void *ptr, XmmuPtrPool *pool)
{
    XmmuPtrNode *node = first_node(list);

    if (!node) {
        g_assert(list->word == (uintptr_t)ptr);
        list->word = 0;
        return;
    }
    *find(node, ptr) = node->items[node->count - 1];
    if (--node->count == 0) {
        list->word = (uintptr_t)node->next + 1;
        xmmu_ptr_pool_put(pool, node);
    } else if (node->count == 1 && !node->next) {
        list->word = (uintptr_t)node->items[0];
        xmmu_ptr_pool_put(pool, node);
    }
}

size_t xmmu_ptr_list_count(const XmmuPtrList *list)
{
    size_t count = list->word && !(list->word & 1);

    for (XmmuPtrNode *node = first_node(list); node; node = node->next) {
        count += node->count;
    }
    return count;
}

void *xmmu_ptr_list_first(const XmmuPtrList *list)
{
    XmmuPtrNode *node = first_node(list);

    g_assert(list->word);
    return node ? node->items[node->count - 1] : (void *)list->word;
}

void xmmu_ptr_list_each(const XmmuPtrList *list, void (*fn)(void *ptr, void *opaque),
                        void *opaque)
{
    XmmuPtrNode *node = first_node(list);

    if (list->word && !node) {
        fn((void *)list->word, opaque);
    }
    for (; node; node = node->next) {
        for (size_t i = 0; i < node->count; i++) {
            fn(node->items[i], opaque);
        }
    }
}
