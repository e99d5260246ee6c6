/*
 * xmmu: which frames the guest writes: the bits
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the log of writes, one bit for each logged frame, and who sets it:
 *
 *   write protection   a leaf of a logged frame has W only while the frame's bit is set
 *                      (in .dirty or .reported).  The writer of entries sets it when a
 *                      leaf gains W; dirty_protect.c takes W away again.
 *   D bits             leaves keep W; dirty_harvest.c clears D in them, and the writer
 *                      of entries sets the frame's bit whenever a leaf loses D, be it by
 *                      the harvest or because the leaf goes.
 *   rings              write protection; what becomes dirty is put into the ring of the
 *                      vCPU as well (dirty_ring.c), so that a harvest looks at nothing
 *                      else.
 *
 * A leaf changes first, then the bit is set, both within one holding of mmu_lock.
 * Called by the writer of entries (table.c), by faults, and by the engine for what it
 * knows itself.
 */
#include "dirty_priv.h"
#include "slots.h"

static void mark_word(XmmuVm *vm, XmmuVcpu *vcpu, XmmuDirtyChunk *chunk, unsigned i,
                      uint64_t mask)
{
    uint64_t set = mask & xmmu_dirty_load(&chunk->logged[i]) &
                   ~xmmu_dirty_known(chunk, i);

    if (!set) {
        return;
    }
    set &= ~__atomic_fetch_or(&chunk->dirty[i], set, __ATOMIC_SEQ_CST);
    if (set && vcpu) {
        __atomic_store_n(&vcpu->stats.dirty_pages, vcpu->stats.dirty_pages +
                         __builtin_popcountll(set), __ATOMIC_RELAXED);
    } else if (set) {
        xmmu_count_shared(&vm->stats.dirty_pages, __builtin_popcountll(set));
    }
    for (; set && vm->config.dirty_log == XMMU_DIRTY_RING; set &= set - 1) {
        xmmu_dirty_ring_put(vm, vcpu, chunk->hfn + i * 64 + __builtin_ctzll(set));
    }
}

static void mark_in(XmmuVm *vm, XmmuVcpu *vcpu, const XmmuDirtyMap *map, hfn_t hfn,
                    hfn_t end)
{
    for (size_t c = xmmu_dirty_chunk_after(map, hfn);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        XmmuDirtyChunk *chunk = map->chunk[c];

        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            uint64_t mask = xmmu_dirty_range_mask(chunk, i, hfn, end);

            if (mask) {
                mark_word(vm, vcpu, chunk, i, mask);
            }
        }
    }
}

/* Who holds the write side is not in an RCU read section yet. */
void xmmu_dirty_mark(XmmuVm *vm, XmmuVcpu *vcpu, hfn_t hfn, uint64_t npages)
{
    const XmmuDirtyMap *map;

    vm->services->rcu_read_lock();
    map = __atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE);
    if (map) {
        mark_in(vm, vcpu, map, hfn, hfn + npages);
    }
    vm->services->rcu_read_unlock();
}

void xmmu_vm_dirty_mark(XmmuVm *vm, hpa_t hpa, uint64_t npages)
{
    xmmu_dirty_mark(vm, NULL, hpa >> XMMU_PAGE_SHIFT, npages);
}

/* For whose ring: the holding's vCPU, or the one for which the write side was taken. */
static XmmuVcpu *vcpu_of(XmmuHold *hold)
{
    return hold->vcpu ? hold->vcpu : hold->on_behalf_of;
}

void xmmu_dirty_by_hand(XmmuHold *hold, hfn_t hfn)
{
    xmmu_assert_held(hold);
    xmmu_dirty_mark(hold->vm, vcpu_of(hold), hfn, 1);
}

static bool same_pages(const XmmuHostFormat *format, XmmuSpte a, XmmuSpte b)
{
    return !((a.raw ^ b.raw) & (XMMU_HOST_ADDR_MASK | format->large));
}

void xmmu_dirty_note(XmmuHold *hold, const XmmuTable *table, XmmuSpte old, XmmuSpte new)
{
    const XmmuHostFormat *format = hold->vm->format;
    int level = table->role.level;
    bool protect = xmmu_dirty_protects(hold->vm);
    uint64_t bit = protect ? format->write : format->dirty;
    /* A leaf that gains W, or one that loses D. */
    XmmuSpte from = protect ? old : new, to = protect ? new : old;

    if (xmmu_dirty_leaf_has(format, to, level, bit) &&
        !(xmmu_dirty_leaf_has(format, from, level, bit) && same_pages(format, from, to))) {
        xmmu_dirty_mark(hold->vm, vcpu_of(hold), xmmu_spte_hpa(to) >> XMMU_PAGE_SHIFT,
                        xmmu_level_pages(level));
    }
}

bool xmmu_vm_dirty_logs(XmmuVm *vm, hpa_t hpa)
{
    hfn_t hfn = hpa >> XMMU_PAGE_SHIFT;
    XmmuDirtyChunk *chunk;
    bool logs;

    vm->services->rcu_read_lock();
    chunk = xmmu_dirty_find(__atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE), hfn);
    logs = chunk && (xmmu_dirty_load(&chunk->logged[xmmu_dirty_word(hfn)]) &
                     xmmu_dirty_bit(hfn));
    vm->services->rcu_read_unlock();
    return logs;
}

void xmmu_vm_dirty_hint(XmmuVm *vm, gfn_t gfn)
{
    const XmmuRegion *slot;
    XmmuDirtyChunk *chunk = NULL;
    hfn_t hfn = 0;

    vm->services->rcu_read_lock();
    slot = xmmu_slot_find(vm, XMMU_AS_NORMAL, gfn);
    if (slot) {
        hfn = xmmu_slot_hpa(slot, gfn) >> XMMU_PAGE_SHIFT;
        chunk = xmmu_dirty_find(__atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE), hfn);
    }
    if (chunk) {
        __atomic_fetch_or(&chunk->hinted[xmmu_dirty_word(hfn)], xmmu_dirty_bit(hfn),
                          __ATOMIC_SEQ_CST);
    }
    vm->services->rcu_read_unlock();
}

bool xmmu_vm_dirty_logs_any(XmmuVm *vm)
{
    return __atomic_load_n(&vm->dirty_map, __ATOMIC_SEQ_CST);
}

bool xmmu_dirty_is_clean(XmmuVm *vm, hfn_t hfn)
{
    XmmuDirtyChunk *chunk;

    if (!xmmu_dirty_protects(vm)) {
        return false;
    }
    chunk = xmmu_dirty_find(__atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE), hfn);
    return chunk && !(xmmu_dirty_known(chunk, xmmu_dirty_word(hfn)) & xmmu_dirty_bit(hfn));
}
