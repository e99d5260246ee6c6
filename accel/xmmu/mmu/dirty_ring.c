/*
 * xmmu: which frames the guest writes: rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the rings of vCPUs: each notes what its faults made writable, a fault that finds no
 * room is held back, and to reap looks at what the rings name instead of at all bits.
 */
#include "dirty_priv.h"

/* Room for what one fault may put there between the question and the deed. */
#define RING_RESERVE 4

static uint32_t ring_used(const XmmuDirtyRing *ring)
{
    return __atomic_load_n(&ring->tail, __ATOMIC_RELAXED) -
           __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
}

/* By the vCPU's thread.  No room: the bit alone says it, and all bits are looked at. */
void xmmu_dirty_ring_put(XmmuVm *vm, XmmuVcpu *vcpu, hfn_t hfn)
{
    XmmuDirtyRing *ring = vcpu ? &vcpu->dirty_ring : NULL;

    if (!ring || !ring->entry || ring_used(ring) == vm->config.dirty_ring_size) {
        __atomic_store_n(&vm->dirty_unringed, true, __ATOMIC_SEQ_CST);
        return;
    }
    ring->entry[ring->tail % vm->config.dirty_ring_size] = hfn;
    __atomic_store_n(&ring->tail, ring->tail + 1, __ATOMIC_RELEASE);
}

bool xmmu_dirty_no_room(const XmmuVcpu *vcpu)
{
    const XmmuConfig *config = &vcpu->vm->config;

    return config->dirty_log == XMMU_DIRTY_RING && vcpu->dirty_ring.entry &&
           ring_used(&vcpu->dirty_ring) + RING_RESERVE > config->dirty_ring_size;
}

/* One frame that a ring names; its bit says whether it still is to be reported. */
static bool reap_frame(XmmuVm *vm, hfn_t hfn, XmmuDirtyFn *fn, void *opaque)
{
    XmmuDirtyChunk *chunk = xmmu_dirty_find(vm->dirty_map, hfn);

    return chunk && xmmu_dirty_tell(vm, chunk, hfn, hfn + 1, fn, opaque) &&
           xmmu_dirty_protect_chunk(vm, chunk, hfn, hfn + 1);
}

/* The vCPU may go on filling it meanwhile: only what is there now. */
static bool reap_ring(XmmuVm *vm, XmmuDirtyRing *ring, XmmuDirtyFn *fn, void *opaque)
{
    uint32_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    bool any = false;

    for (; ring->head != tail; __atomic_store_n(&ring->head, ring->head + 1,
                                                __ATOMIC_RELEASE)) {
        any |= reap_frame(vm, ring->entry[ring->head % vm->config.dirty_ring_size], fn,
                          opaque);
    }
    return any;
}

/* slots_lock, so no vCPU comes or goes. */
static bool reap_all(XmmuVm *vm, XmmuDirtyFn *fn, void *opaque)
{
    bool all = __atomic_exchange_n(&vm->dirty_unringed, false, __ATOMIC_SEQ_CST);
    bool any = false;

    for (XmmuVcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        any |= reap_ring(vm, &vcpu->dirty_ring, fn, opaque);
    }
    if (all && vm->dirty_map->count) {
        hfn_t start = vm->dirty_map->chunk[0]->hfn;
        hfn_t end = vm->dirty_map->chunk[vm->dirty_map->count - 1]->hfn + XMMU_ENTRIES;

        any |= xmmu_dirty_sync_range(vm, start, end, fn, opaque) &&
               xmmu_dirty_protect_range(vm, start, end);
    }
    return any;
}

void xmmu_vm_dirty_reap(XmmuVm *vm, XmmuDirtyFn *fn, void *opaque)
{
    pthread_mutex_lock(&vm->slots_lock);
    if (vm->dirty_map && vm->config.dirty_log == XMMU_DIRTY_RING) {
        xmmu_dirty_hear_oracle(vm, 0, XMMU_NO_GFN);
        xmmu_dirty_settle(vm);
        for (size_t c = 0; c < vm->dirty_map->count; c++) {
            xmmu_dirty_ask_oracle(vm, vm->dirty_map->chunk[c]);
        }
        if (reap_all(vm, fn, opaque)) {
            xmmu_dirty_flush(vm);
        }
    }
    pthread_mutex_unlock(&vm->slots_lock);
}
