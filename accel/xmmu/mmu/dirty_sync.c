/*
 * xmmu: which frames the guest writes: telling and clearing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what of the log has been told to whoever asks, and what that asks of vCPUs.
 *
 * Who reads the log takes the write side of mmu_lock once before, after the harvest if
 * there is one, so that he sees the bits of all leaves that were there when he began: a
 * leaf may have gone just before the harvest came to it, its bit not yet set.  Whenever a
 * bit is taken, a flush of all vCPUs is ordered before he is told: also for a leaf that
 * went earlier some vCPU may still have a translation that writes.
 */
#include "dirty_priv.h"
#include "flush.h"

void xmmu_dirty_settle(XmmuVm *vm)
{
    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    xmmu_write_unlock(vm);
}

void xmmu_dirty_flush(XmmuVm *vm)
{
    xmmu_write_lock(vm, XMMU_REASON_HOST);
    xmmu_flush_owe(&vm->writer);
    xmmu_write_unlock(vm);
    xmmu_dirty_forget_seen(vm);
}

/* Take the bits of [start, end) out of .dirty into @bits. */
static bool take(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end,
                 uint64_t *bits)
{
    uint64_t any = 0;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        bits[i] = xmmu_dirty_load(&chunk->dirty[i]) & xmmu_dirty_load(&chunk->logged[i]) &
                  xmmu_dirty_range_mask(chunk, i, start, end);
        if (!bits[i]) {
            continue;
        }
        any = 1;
        if (xmmu_dirty_protects(vm)) {
            /* In this order: a writable leaf's bit is in one of the two. */
            __atomic_fetch_or(&chunk->reported[i], bits[i], __ATOMIC_SEQ_CST);
        } else {
            chunk->forget[i] |= bits[i];
        }
        __atomic_fetch_and(&chunk->dirty[i], ~bits[i], __ATOMIC_SEQ_CST);
    }
    return any;
}

static void count_reported(XmmuVm *vm, const uint64_t *bits)
{
    int64_t count = 0;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        count += __builtin_popcountll(bits[i]);
    }
    xmmu_count_shared(&vm->stats.dirty_reported, count);
}

bool xmmu_dirty_tell(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end,
                     XmmuDirtyFn *fn, void *opaque)
{
    uint64_t bits[XMMU_DIRTY_WORDS];

    if (!take(vm, chunk, start, end, bits)) {
        return false;
    }
    count_reported(vm, bits);
    fn(opaque, chunk->hfn << XMMU_PAGE_SHIFT, bits);
    return true;
}

bool xmmu_dirty_sync_range(XmmuVm *vm, hfn_t start, hfn_t end, XmmuDirtyFn *fn,
                           void *opaque)
{
    XmmuDirtyMap *map = vm->dirty_map;
    bool any = false;

    for (size_t c = xmmu_dirty_chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        xmmu_dirty_ask_oracle(vm, map->chunk[c]);
        any |= xmmu_dirty_tell(vm, map->chunk[c], start, end, fn, opaque);
    }
    return any;
}

void xmmu_vm_dirty_sync(XmmuVm *vm, hpa_t hpa, uint64_t npages, XmmuDirtyFn *fn,
                        void *opaque)
{
    hfn_t start = hpa >> XMMU_PAGE_SHIFT;

    pthread_mutex_lock(&vm->slots_lock);
    if (vm->dirty_map) {
        xmmu_dirty_hear_oracle(vm, start, start + npages);
        if (!xmmu_dirty_protects(vm)) {
            xmmu_dirty_harvest(vm, start, start + npages);
        }
        xmmu_dirty_settle(vm);
        /* With write protection nothing was taken away yet. */
        if (xmmu_dirty_sync_range(vm, start, start + npages, fn, opaque) &&
            !xmmu_dirty_protects(vm)) {
            xmmu_dirty_flush(vm);
        }
    }
    pthread_mutex_unlock(&vm->slots_lock);
}

void xmmu_vm_dirty_clear(XmmuVm *vm, hpa_t hpa, uint64_t npages)
{
    hfn_t start = hpa >> XMMU_PAGE_SHIFT;

    pthread_mutex_lock(&vm->slots_lock);
    if (vm->dirty_map && xmmu_dirty_protects(vm) &&
        xmmu_dirty_protect_range(vm, start, start + npages)) {
        xmmu_dirty_flush(vm);
    }
    pthread_mutex_unlock(&vm->slots_lock);
}
