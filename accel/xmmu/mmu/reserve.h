/*
 * xmmu: what a change of shadow tables may need
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Chunks and list nodes in stock, so that the writer of entries, who keeps reverse
 * maps, cannot fail.  See reserve.c.
 */
#ifndef XMMU_MMU_RESERVE_H
#define XMMU_MMU_RESERVE_H

#include "mmu.h"
#include "ptr_list.h"

typedef struct XmmuChunk XmmuChunk;

typedef struct XmmuReserve {
    XmmuPtrPool nodes;
    XmmuChunk *chunks;
    unsigned chunk_count;
} XmmuReserve;

/*
 * One fault adds at most XMMU_MAX_LEVEL entries, and begins to shadow at most that many
 * guest tables: one list node for each entry, one chunk for each guest table and
 * one for the page.
 */
#define XMMU_RESERVE_NODES  XMMU_MAX_LEVEL
#define XMMU_RESERVE_CHUNKS (XMMU_MAX_LEVEL + 1)

/* Stock for one fault; before it changes anything.  False: no memory.  mmu_lock for
 * writing, as all here. */
bool xmmu_reserve_fill(XmmuVm *vm);
/* From and to the stock; what is too much goes back to the host. */
XmmuChunk *xmmu_reserve_chunk(XmmuVm *vm);
void xmmu_reserve_put_chunk(XmmuVm *vm, XmmuChunk *chunk);
/* The VM ends. */
void xmmu_reserve_cleanup(XmmuVm *vm);

#endif /* XMMU_MMU_RESERVE_H */
