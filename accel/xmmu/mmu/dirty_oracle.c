/*
 * xmmu: which frames the guest writes: a witness
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the comparison of the log with what somebody else saw of the vCPUs' writes, for
 * verify=on.  What was seen before a look at the log has to be in it.  The engine tells
 * what it sees, those who look at the log ask.
 */
#include "dirty_priv.h"

bool xmmu_vm_dirty_seen(XmmuVm *vm, hpa_t hpa, bool seen)
{
    hfn_t hfn = hpa >> XMMU_PAGE_SHIFT;
    unsigned i = xmmu_dirty_word(hfn);
    uint64_t bit = xmmu_dirty_bit(hfn);
    XmmuDirtyChunk *chunk;
    bool logs;

    vm->services->rcu_read_lock();
    chunk = xmmu_dirty_find(__atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE), hfn);
    logs = chunk && (xmmu_dirty_load(&chunk->logged[i]) & bit);
    if (logs && seen) {
        __atomic_fetch_or(&chunk->seen[i], bit, __ATOMIC_SEQ_CST);
    } else if (logs) {
        __atomic_fetch_and(&chunk->seen[i], ~bit, __ATOMIC_SEQ_CST);
    }
    vm->services->rcu_read_unlock();
    return logs;
}

void xmmu_dirty_hear_oracle(XmmuVm *vm, hfn_t start, hfn_t end)
{
    XmmuDirtyMap *map = vm->dirty_map;

    if (!vm->services->dirty_missed) {
        return;
    }
    for (size_t c = xmmu_dirty_chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        XmmuDirtyChunk *chunk = map->chunk[c];

        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            uint64_t mask = xmmu_dirty_range_mask(chunk, i, start, end);

            chunk->judged[i] = mask & __atomic_fetch_and(&chunk->seen[i], ~mask,
                                                         __ATOMIC_SEQ_CST);
        }
    }
}

void xmmu_dirty_ask_oracle(XmmuVm *vm, XmmuDirtyChunk *chunk)
{
    if (!vm->services->dirty_missed) {
        return;
    }
    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        uint64_t missed = chunk->judged[i] & xmmu_dirty_load(&chunk->logged[i]) &
                          ~xmmu_dirty_known(chunk, i);

        chunk->judged[i] = 0;
        for (; missed; missed &= missed - 1) {
            hfn_t hfn = chunk->hfn + i * 64 + __builtin_ctzll(missed);

            vm->services->dirty_missed(vm->opaque, hfn << XMMU_PAGE_SHIFT);
        }
    }
}

void xmmu_dirty_forget_seen(XmmuVm *vm)
{
    XmmuDirtyMap *map = vm->dirty_map;

    for (size_t c = 0; c < map->count; c++) {
        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            uint64_t *forget = &map->chunk[c]->forget[i];

            if (*forget) {
                __atomic_fetch_and(&map->chunk[c]->seen[i], ~*forget, __ATOMIC_SEQ_CST);
                *forget = 0;
            }
        }
    }
}
