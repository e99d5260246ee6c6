/*
 * xmmu: which frames the guest writes: what its parts have in common
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Between the files dirty_*.c only; what others may call is in dirty.h and mmu.h.  With
 * slots_lock held where nothing else is said.
 */
#ifndef XMMU_MMU_DIRTY_PRIV_H
#define XMMU_MMU_DIRTY_PRIV_H

#include "dirty.h"

/* ---- Bits of a chunk ------------------------------------------------------- */

static inline unsigned xmmu_dirty_word(hfn_t hfn)
{
    return hfn % XMMU_ENTRIES / 64;
}

static inline uint64_t xmmu_dirty_bit(hfn_t hfn)
{
    return (uint64_t)1 << (hfn % 64);
}

static inline uint64_t xmmu_dirty_load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/* What may have leaves with W.  Bits go from .dirty to .reported: in this order none is
 * overlooked. */
static inline uint64_t xmmu_dirty_known(const XmmuDirtyChunk *chunk, unsigned i)
{
    uint64_t dirty = xmmu_dirty_load(&chunk->dirty[i]);

    return dirty | xmmu_dirty_load(&chunk->reported[i]);
}

static inline bool xmmu_dirty_has_bit(const uint64_t *bits, unsigned i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

/* The bits of word @i of @chunk that stand for frames of [start, end). */
static inline uint64_t xmmu_dirty_range_mask(const XmmuDirtyChunk *chunk, unsigned i,
                                             hfn_t start, hfn_t end)
{
    hfn_t first = chunk->hfn + i * 64;
    uint64_t mask = UINT64_MAX;

    if (end <= first || start >= first + 64) {
        return 0;
    }
    if (start > first) {
        mask &= UINT64_MAX << (start - first);
    }
    if (end < first + 64) {
        mask &= UINT64_MAX >> (first + 64 - end);
    }
    return mask;
}

/* Is it W that says that a frame may be written, or D? */
static inline bool xmmu_dirty_protects(const XmmuVm *vm)
{
    return vm->config.dirty_log != XMMU_DIRTY_DBIT;
}

/* ---- Chunks: dirty_map.c; slots_lock or an RCU read section ------------------ */

/* Index of the first chunk that ends after @hfn, or count. */
size_t xmmu_dirty_chunk_after(const XmmuDirtyMap *map, hfn_t hfn);
/* The chunk of @hfn or NULL; so may @map be. */
XmmuDirtyChunk *xmmu_dirty_find(const XmmuDirtyMap *map, hfn_t hfn);

/* ---- Setting bits: dirty_mark.c; no lock needed ------------------------------- */

/* The logged ones of the frames were written.  @vcpu: whose ring says so, or NULL. */
void xmmu_dirty_mark(XmmuVm *vm, XmmuVcpu *vcpu, hfn_t hfn, uint64_t npages);
/* By the vCPU's thread, or NULL: @hfn became dirty. */
void xmmu_dirty_ring_put(XmmuVm *vm, XmmuVcpu *vcpu, hfn_t hfn);

/* Does @spte map pages with @bit (W or D)? */
static inline bool xmmu_dirty_leaf_has(const XmmuHostFormat *format, XmmuSpte spte,
                                       int level, uint64_t bit)
{
    return xmmu_spte_present(format, spte) && xmmu_spte_is_leaf(format, spte, level) &&
           (spte.raw & bit);
}

/* ---- Leaves: dirty_leaves.c --------------------------------------------------- */

/* What is done to the leaves of the frames of @chunk that have their bit in @bits. */
typedef struct XmmuDirtyVisit XmmuDirtyVisit;
struct XmmuDirtyVisit {
    XmmuVm *vm;
    const XmmuDirtyChunk *chunk;
    const uint64_t *bits;
    void (*tdp)(XmmuDirtyVisit *visit, XmmuHold *hold, unsigned as_id, gfn_t gfn,
                uint64_t npages);
    void (*shadow)(void *sptep, void *visit);
    /* Before mmu_lock is released; may be NULL. */
    void (*leave)(XmmuDirtyVisit *visit);
};

void xmmu_dirty_visit(XmmuDirtyVisit *visit);
/* The shadow leaf @sptep loses @bit.  Write side. */
void xmmu_dirty_without(XmmuVm *vm, XmmuSpte *sptep, uint64_t bit);

/* ---- dirty_protect.c, dirty_harvest.c ------------------------------------------- */

/* What is reported of [start, end) may be written only through a fault again.  True:
 * there was some, so a flush is owed. */
bool xmmu_dirty_protect_chunk(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end);
bool xmmu_dirty_protect_range(XmmuVm *vm, hfn_t start, hfn_t end);
/* Bring the D bits of the leaves of [start, end) into .dirty. */
void xmmu_dirty_harvest(XmmuVm *vm, hfn_t start, hfn_t end);

/* ---- Telling: dirty_sync.c ------------------------------------------------------- */

/* Everything that is under way has set its bits when this returns. */
void xmmu_dirty_settle(XmmuVm *vm);
/* Order the flush of all vCPUs that is owed for what was taken. */
void xmmu_dirty_flush(XmmuVm *vm);
/* Tell what of @chunk and [start, end) is dirty.  False: nothing is. */
bool xmmu_dirty_tell(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end,
                     XmmuDirtyFn *fn, void *opaque);
/* After the harvest, for all chunks.  True: some was told. */
bool xmmu_dirty_sync_range(XmmuVm *vm, hfn_t start, hfn_t end, XmmuDirtyFn *fn,
                           void *opaque);

/* ---- The witness: dirty_oracle.c --------------------------------------------------- */

/* Move what was seen in [start, end) to .judged, before the log is looked at. */
void xmmu_dirty_hear_oracle(XmmuVm *vm, hfn_t start, hfn_t end);
/* Everything that it saw is in the log, as it is now. */
void xmmu_dirty_ask_oracle(XmmuVm *vm, XmmuDirtyChunk *chunk);
/* vCPUs may have written by what they were ordered to forget just now: that belongs to
 * what was told of these pages. */
void xmmu_dirty_forget_seen(XmmuVm *vm);

#endif /* XMMU_MMU_DIRTY_PRIV_H */
