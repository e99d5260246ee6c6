/*
 * xmmu: which frames the guest writes: write protection
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns how W is taken away from the leaves of frames that were reported, so that the next
 * write is noticed.  Clearing, reaping and the begin of a log with rings use it, with
 * slots_lock held; they owe the flush.
 */
#include "dirty_priv.h"
#include "tdp.h"

static void protect_tdp(XmmuDirtyVisit *visit, XmmuHold *hold, unsigned as_id, gfn_t gfn,
                        uint64_t npages)
{
    (void)visit;
    xmmu_tdp_write_protect_range(hold, as_id, gfn, npages);
}

/* A leaf of 2 MiB stays one; the fault of the next write puts a table there. */
static void protect_shadow(void *sptep, void *opaque)
{
    const XmmuDirtyVisit *visit = opaque;

    xmmu_dirty_without(visit->vm, sptep, visit->vm->format->write);
}

bool xmmu_dirty_protect_chunk(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end)
{
    uint64_t bits[XMMU_DIRTY_WORDS];
    XmmuDirtyVisit visit = {
        .vm = vm, .chunk = chunk, .bits = bits,
        .tdp = protect_tdp, .shadow = protect_shadow,
    };
    uint64_t count = 0;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        bits[i] = xmmu_dirty_load(&chunk->reported[i]) &
                  xmmu_dirty_range_mask(chunk, i, start, end);
        count += __builtin_popcountll(bits[i]);
        /* Before the leaves are looked at: who makes one writable from now on sets
         * the bit of .dirty, also if we pass before he does. */
        if (bits[i]) {
            __atomic_fetch_and(&chunk->reported[i], ~bits[i], __ATOMIC_SEQ_CST);
            chunk->forget[i] |= bits[i];
        }
    }
    if (count) {
        xmmu_dirty_visit(&visit);
        xmmu_count_shared(&vm->stats.dirty_cleared, count);
    }
    return count;
}

bool xmmu_dirty_protect_range(XmmuVm *vm, hfn_t start, hfn_t end)
{
    XmmuDirtyMap *map = vm->dirty_map;
    bool any = false;

    for (size_t c = xmmu_dirty_chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        any |= xmmu_dirty_protect_chunk(vm, map->chunk[c], start, end);
    }
    return any;
}
