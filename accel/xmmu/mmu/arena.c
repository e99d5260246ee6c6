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
#include "mem.h"

#define BLOCK_PAGES 64
#define BLOCK_SIZE  (BLOCK_PAGES * XMMU_PAGE_SIZE)

typedef struct Block Block;
struct Block {
    union {
        Block *next;                    /* the header has no owner */
        void *owner[BLOCK_PAGES];       /* [0] would be this header itself */
    };
};

/* What is in a page that nobody owns. */
typedef struct FreePage FreePage;
struct FreePage {
    FreePage *next;
};

struct XmmuArena {
    const XmmuServices *services;
    void *opaque;
    pthread_mutex_t lock;      /* not GMutex: ThreadSanitizer does not see those */
    Block *blocks;
    FreePage *free_pages;
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

XmmuArena *xmmu_arena_new(const XmmuServices *services, void *opaque)
{
    XmmuArena *arena = xmmu_try_new0(services, opaque, sizeof(*arena));

    if (arena) {
        arena->services = services;
        arena->opaque = opaque;
        pthread_mutex_init(&arena->lock, NULL);
    }
    return arena;
}

void xmmu_arena_free(XmmuArena *arena)
{
    while (arena->blocks) {
        Block *block = arena->blocks;

        arena->blocks = block->next;
        free(block);
    }
    pthread_mutex_destroy(&arena->lock);
    g_free(arena);
}

static void put_page(XmmuArena *arena, void *page)
{
    FreePage *free_page = page;

    free_page->next = arena->free_pages;
    arena->free_pages = free_page;
}

static bool add_block(XmmuArena *arena)
{
    void *memory;
    Block *block;

    if (!xmmu_may_allocate(arena->services, arena->opaque, BLOCK_SIZE) ||
        posix_memalign(&memory, BLOCK_SIZE, BLOCK_SIZE)) {
        return false;
    }
    block = memory;
    memset(block, 0, sizeof(*block));
    block->next = arena->blocks;
    arena->blocks = block;
    for (unsigned i = BLOCK_PAGES - 1; i > 0; i--) {
        put_page(arena, (char *)memory + i * XMMU_PAGE_SIZE);
    }
    return true;
}

/* Under the lock. */
static void *get_page(XmmuArena *arena)
{
    FreePage *page = arena->free_pages;

    if (!page && !add_block(arena)) {
        return NULL;
    }
    page = arena->free_pages;
    arena->free_pages = page->next;
    return page;
}

/* No block is made for more than the first page. */
static void fill(XmmuArena *arena, XmmuArenaReserve *reserve, unsigned count)
{
    pthread_mutex_lock(&arena->lock);
    do {
        void *page = get_page(arena);

        if (!page) {
            break;
        }
        reserve->page[reserve->count++] = page;
    } while (reserve->count < count && arena->free_pages);
    pthread_mutex_unlock(&arena->lock);
}

void *xmmu_arena_alloc(XmmuArena *arena, XmmuArenaReserve *reserve, void *owner)
{
    XmmuArenaReserve one = { .count = 0 };
    void *page;

    if (!reserve) {
        fill(arena, &one, 1);
        reserve = &one;
    } else if (!reserve->count) {
        fill(arena, reserve, XMMU_ARENA_RESERVE);
    }
    if (!reserve->count) {
        return NULL;
    }
    page = reserve->page[--reserve->count];
    *owner_of(page) = owner;
    memset(page, 0, XMMU_PAGE_SIZE);
    return page;
}

void xmmu_arena_empty(XmmuArena *arena, XmmuArenaReserve *reserve)
{
    pthread_mutex_lock(&arena->lock);
    while (reserve->count) {
        put_page(arena, reserve->page[--reserve->count]);
    }
    pthread_mutex_unlock(&arena->lock);
}

void xmmu_arena_release(XmmuArena *arena, void *page)
{
    pthread_mutex_lock(&arena->lock);
    *owner_of(page) = NULL;
    put_page(arena, page);
    pthread_mutex_unlock(&arena->lock);
}

void *xmmu_arena_owner(const void *address)
{
    return *owner_of(address);
}
