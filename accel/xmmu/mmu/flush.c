/*
 * xmmu: flushes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A vCPU caches translations (a TLB).  When an entry loses a right, what is
 * cached becomes stale, and somebody owes a flush.  The writer of entries
 * records the debt; it is paid in one of two ways, and no caller has to think of
 * it:
 *
 *  - The host took something away (a slot): releasing mmu_lock orders a flush of
 *    all vCPUs (XMMU_REASON_HOST).
 *  - The entry changed because of the guest's tables: the guest's own rules (Intel
 *    SDM vol. 3, 4.10.4) say until when staleness is allowed, and its INVLPG and
 *    CR3 loads reach the engine's cache directly.  Only write tracking needs
 *    more: it may believe in a write protection only when no vCPU can have a
 *    writable translation left.  For that there is a clock: taking the write
 *    permission away ticks it, every full flush of a vCPU notes the time, and
 *    the protection holds once every vCPU has flushed since.  So protection costs
 *    no flush of its own; guests flush all the time.  A vCPU that idles does
 *    not; when others have waited long enough it is asked to (a nudge).
 */
#include "check.h"
#include "flush.h"

void xmmu_flush_owe(XmmuHold *hold)
{
    xmmu_assert_held(hold);
    hold->flush_owed = true;
    __atomic_fetch_add(&hold->vm->rights_lost, 1, __ATOMIC_RELEASE);
}

void xmmu_flush_doom(XmmuHold *hold, XmmuTable *table)
{
    xmmu_assert_held(hold);
    table->doomed_next = hold->doomed;
    hold->doomed = table;
}

static void free_doomed(XmmuHold *hold)
{
    while (hold->doomed) {
        XmmuTable *table = hold->doomed;

        hold->doomed = table->doomed_next;
        xmmu_table_free_later(table);
    }
}

void xmmu_flush_pay(XmmuHold *hold)
{
    XmmuVm *vm = hold->vm;

    xmmu_assert_held(hold);
    if (hold->flush_owed && hold->reason == XMMU_REASON_HOST) {
        XMMU_HOLD_COUNT(hold, flushes, 1);
        xmmu_check_ordered(vm);
        if (vm->services->flush_all) {
            vm->services->flush_all(vm->opaque);
        }
    }
    hold->flush_owed = false;
    xmmu_check_paid(hold);
    free_doomed(hold);
}

uint64_t xmmu_flush_tick(XmmuVm *vm)
{
    return __atomic_add_fetch(&vm->flush_clock, 1, __ATOMIC_SEQ_CST);
}

void xmmu_flush_done(XmmuVcpu *vcpu)
{
    xmmu_check_flushed(vcpu);
    __atomic_store_n(&vcpu->cached, false, __ATOMIC_SEQ_CST);
    __atomic_store_n(&vcpu->flushed_at, xmmu_flush_tick(vcpu->vm), __ATOMIC_SEQ_CST);
}

void xmmu_vcpu_flushed(XmmuVcpu *vcpu)
{
    xmmu_flush_done(vcpu);
}

/* A vCPU that has cached nothing since its last flush is as good as flushed now. */
static bool flushed_since(XmmuVcpu *vcpu, uint64_t tick)
{
    return __atomic_load_n(&vcpu->flushed_at, __ATOMIC_SEQ_CST) >= tick ||
           !__atomic_load_n(&vcpu->cached, __ATOMIC_SEQ_CST);
}

void xmmu_flush_nudge(XmmuVm *vm, uint64_t tick)
{
    xmmu_assert_write_locked(vm);
    if (!vm->services->flush_vcpu) {
        return;
    }
    for (XmmuVcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        if (!flushed_since(vcpu, tick) && !vcpu->nudged) {
            vcpu->nudged = true;
            vm->services->flush_vcpu(vm->opaque, vcpu->index);
        }
    }
}

bool xmmu_flush_all_since(XmmuVm *vm, uint64_t tick)
{
    xmmu_assert_write_locked(vm);
    for (XmmuVcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        if (!flushed_since(vcpu, tick)) {
            return false;
        }
        vcpu->nudged = false;
    }
    return true;
}
