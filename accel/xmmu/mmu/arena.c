/*
 * xmmu: where table pages come from
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the memory of table pages.  Pages are carved from aligned blocks whose
 * first page lists the owners, so that the table of any entry is found from the
 * entry's address alone.  Used by table.c; has its own lock because pages come
 * back from RCU callbacks.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "arena.h"

#define BLOCK_PAGES 64
#define BLOCK_SIZE  (BLOCK_PAGES * XMMU_PAGE_SIZE)

typedef struct Block {
    void *owner[BLOCK_PAGES];           /* [0] is this header itself */
} Block;

struct XmmuArena {
    pthread_mutex_t lock;      /* not GMutex: ThreadSanitizer does not see those */
    GPtrArray *blocks;
    GPtrArray *free_pages;
};

static Block *block_of(const void *page)
{
    return (Block *)((uintptr_t)page & ~(BLOCK_SIZE - 1));
}

static void **owner_of(const void *page)
{
    return &block_of(page)->owner[((uintptr_t)page & (BLOCK_SIZE - 1)) >>
                                  XMMU_PAGE_SHIFT];
}

XmmuArena *xmmu_arena_new(void)
{
    XmmuArena *arena = g_new0(XmmuArena, 1);

    pthread_mutex_init(&arena->lock, NULL);
    arena->blocks = g_ptr_array_new_with_free_func(free);
    arena->free_pages = g_ptr_array_new();
    return arena;
}

void xmmu_arena_free(XmmuArena *arena)
{
    g_ptr_array_free(arena->free_pages, true);
    g_ptr_array_free(arena->blocks, true);
    pthread_mutex_destroy(&arena->lock);
    g_free(arena);
}

static bool add_block(XmmuArena *arena)
{
    void *memory;

    if (posix_memalign(&memory, BLOCK_SIZE, BLOCK_SIZE)) {
        return false;
    }
    memset(memory, 0, sizeof(Block));
    g_ptr_array_add(arena->blocks, memory);
    for (unsigned i = BLOCK_PAGES - 1; i > 0; i--) {
        g_ptr_array_add(arena->free_pages, (char *)memory + i * XMMU_PAGE_SIZE);
    }
    return true;
}

void *xmmu_arena_alloc(XmmuArena *arena, void *owner)
{
    void *page = NULL;

    pthread_mutex_lock(&arena->lock);
    if (arena->free_pages->len || add_block(arena)) {
        page = g_ptr_array_steal_index_fast(arena->free_pages,
                                            arena->free_pages->len - 1);
        *owner_of(page) = owner;
    }
    pthread_mutex_unlock(&arena->lock);
    if (page) {
        memset(page, 0, XMMU_PAGE_SIZE);
    }
    return page;
}

void xmmu_arena_release(XmmuArena *arena, void *page)
{
    pthread_mutex_lock(&arena->lock);
    *owner_of(page) = NULL;
    g_ptr_array_add(arena->free_pages, page);
    pthread_mutex_unlock(&arena->lock);
}

void *xmmu_arena_owner(const void *address)
{
    return *owner_of(address);
}
