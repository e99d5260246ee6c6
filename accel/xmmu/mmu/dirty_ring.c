/*
 * xmmu: which frames the guest writes: rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the rings of vCPUs: each notes what its faults made writable, a fault that finds no
 * room is held back until its vCPU has spilled its ring, and to reap looks at what the
 * rings name instead of at all bits, unless some were spilled.
 *
 * A spill only tells.  What it told stays writable, so the next reap tells it again and
 * takes W away: a page costs one fault for each reap, however small the ring.
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

/* What was spilled stays in .reported: it may have been written ever since. */
static void tell_again(XmmuDirtyChunk *chunk, XmmuDirtyFn *fn, void *opaque)
{
    uint64_t bits[XMMU_DIRTY_WORDS], any = 0;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        bits[i] = xmmu_dirty_load(&chunk->reported[i]) & xmmu_dirty_load(&chunk->logged[i]);
        any |= bits[i];
    }
    if (any) {
        fn(opaque, chunk->hfn << XMMU_PAGE_SHIFT, bits);
    }
}

static bool spill_chunk(XmmuVm *vm, XmmuDirtyChunk *chunk, XmmuDirtyFn *fn, void *opaque)
{
    return xmmu_dirty_tell(vm, chunk, chunk->hfn, chunk->hfn + XMMU_ENTRIES, fn, opaque);
}

static bool reap_chunk(XmmuVm *vm, XmmuDirtyChunk *chunk, XmmuDirtyFn *fn, void *opaque)
{
    tell_again(chunk, fn, opaque);
    spill_chunk(vm, chunk, fn, opaque);
    return xmmu_dirty_protect_chunk(vm, chunk, chunk->hfn, chunk->hfn + XMMU_ENTRIES);
}

/*
 * Empty @ring into @each, once for each chunk that it names and that has something to
 * tell.  The vCPU may go on filling it meanwhile: only what is there now.
 */
static bool empty_ring(XmmuVm *vm, XmmuDirtyRing *ring,
                       bool (*each)(XmmuVm *vm, XmmuDirtyChunk *chunk, XmmuDirtyFn *fn,
                                    void *opaque),
                       XmmuDirtyFn *fn, void *opaque)
{
    uint32_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE), head = ring->head;
    bool any = false;

    for (; head != tail; head++) {
        hfn_t hfn = ring->entry[head % vm->config.dirty_ring_size];
        XmmuDirtyChunk *chunk = xmmu_dirty_find(vm->dirty_map, hfn);

        if (chunk &&
            (xmmu_dirty_load(&chunk->dirty[xmmu_dirty_word(hfn)]) & xmmu_dirty_bit(hfn))) {
            any |= each(vm, chunk, fn, opaque);
        }
    }
    __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
    return any;
}

/* slots_lock, so no vCPU comes or goes. */
static bool reap_all(XmmuVm *vm, XmmuDirtyFn *fn, void *opaque)
{
    bool all = __atomic_exchange_n(&vm->dirty_unringed, false, __ATOMIC_SEQ_CST);
    bool any = false;

    for (XmmuVcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        any |= empty_ring(vm, &vcpu->dirty_ring, reap_chunk, fn, opaque);
    }
    for (size_t c = 0; all && c < vm->dirty_map->count; c++) {
        any |= reap_chunk(vm, vm->dirty_map->chunk[c], fn, opaque);
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

void xmmu_vcpu_dirty_spill(XmmuVcpu *vcpu, XmmuDirtyFn *fn, void *opaque)
{
    XmmuVm *vm = vcpu->vm;

    pthread_mutex_lock(&vm->slots_lock);
    if (vm->dirty_map) {
        /* The next reap has to look at all bits: no ring names these any more. */
        __atomic_store_n(&vm->dirty_unringed, true, __ATOMIC_SEQ_CST);
        empty_ring(vm, &vcpu->dirty_ring, spill_chunk, fn, opaque);
    } else {
        __atomic_store_n(&vcpu->dirty_ring.head, vcpu->dirty_ring.tail, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&vm->slots_lock);
}
