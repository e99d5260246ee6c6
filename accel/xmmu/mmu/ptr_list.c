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

static void add_node(XmmuPtrList *list, XmmuPtrPool *pool, void *item, void *other)
{
    XmmuPtrNode *node = xmmu_ptr_pool_get(pool);

    node->next = first_node(list);
    node->items[0] = item;
    node->items[1] = other;
    list->word = (uintptr_t)node + 1;
}

void xmmu_ptr_list_add(XmmuPtrList *list, void *ptr, XmmuPtrPool *pool)
{
    XmmuPtrNode *node = first_node(list);

    g_assert(ptr && !((uintptr_t)ptr & 1));
    if (!list->word) {
        list->word = (uintptr_t)ptr;
    } else if (!node) {
        add_node(list, pool, (void *)list->word, ptr);
    } else if (node->items[1]) {
        add_node(list, pool, ptr, NULL);
    } else {
        node->items[1] = ptr;
    }
}

static void **last_item(XmmuPtrNode *node)
{
    return &node->items[node->items[1] != NULL];
}

static void **find(XmmuPtrNode *node, void *ptr)
{
    for (; node; node = node->next) {
        for (size_t i = 0; i < G_N_ELEMENTS(node->items); i++) {
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
    void **last;

    if (!node) {
        g_assert(list->word == (uintptr_t)ptr);
        list->word = 0;
        return;
    }
    last = last_item(node);
    *find(node, ptr) = *last;
    *last = NULL;
    if (!node->items[0]) {
        list->word = (uintptr_t)node->next + 1;
        xmmu_ptr_pool_put(pool, node);
    } else if (!node->items[1] && !node->next) {
        list->word = (uintptr_t)node->items[0];
        xmmu_ptr_pool_put(pool, node);
    }
}

size_t xmmu_ptr_list_count(const XmmuPtrList *list)
{
    size_t count = list->word && !(list->word & 1);

    for (XmmuPtrNode *node = first_node(list); node; node = node->next) {
        count += 1 + (node->items[1] != NULL);
    }
    return count;
}

void *xmmu_ptr_list_first(const XmmuPtrList *list)
{
    XmmuPtrNode *node = first_node(list);

    g_assert(list->word);
    return node ? *last_item(node) : (void *)list->word;
}

void xmmu_ptr_list_each(const XmmuPtrList *list, void (*fn)(void *ptr, void *opaque),
                        void *opaque)
{
    XmmuPtrNode *node = first_node(list);

    if (list->word && !node) {
        fn((void *)list->word, opaque);
    }
    for (; node; node = node->next) {
        fn(node->items[0], opaque);
        if (node->items[1]) {
            fn(node->items[1], opaque);
        }
    }
}
