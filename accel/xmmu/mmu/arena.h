/*
 * xmmu: where table pages come from
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Page-aligned pages of XMMU_PAGE_SIZE bytes that know their owner.  All
 * functions may be called from any thread.
 */
#ifndef XMMU_MMU_ARENA_H
#define XMMU_MMU_ARENA_H

#include <glib.h>
#include "mmu.h"

typedef struct XmmuArena XmmuArena;

/* NULL: out of memory. */
XmmuArena *xmmu_arena_new(const XmmuServices *services, void *opaque);
/* All pages must have been released. */
void xmmu_arena_free(XmmuArena *arena);
/* Pages that a thread has taken ahead, so that it rarely needs the arena's lock.  All
 * zero is an empty one. */
#define XMMU_ARENA_RESERVE 8

typedef struct XmmuArenaReserve {
    void *page[XMMU_ARENA_RESERVE];
    unsigned count;
} XmmuArenaReserve;

/* A zeroed page; NULL when the host has no memory.  @reserve: that only the calling
 * thread uses now, or NULL. */
void *xmmu_arena_alloc(XmmuArena *arena, XmmuArenaReserve *reserve, void *owner);
/* Give back what @reserve holds. */
void xmmu_arena_empty(XmmuArena *arena, XmmuArenaReserve *reserve);
void xmmu_arena_release(XmmuArena *arena, void *page);
/* Owner of the page that contains @address. */
void *xmmu_arena_owner(const void *address);

#endif /* XMMU_MMU_ARENA_H */
