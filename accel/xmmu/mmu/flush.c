/*
 * xmmu: flushes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A vCPU caches translations (a TLB).  When an entry loses a right, what is
 * cached becomes stale, and somebody owes a flush.  The writer of entries
 * records the debt in the holding of mmu_lock under which it works, so that it needs
 * no lock of its own; it is paid in one of two ways, and no caller has to think of it:
 *
 *  - The host took something away (a slot): before mmu_lock is released a flush of
 *    all vCPUs is ordered (XMMU_REASON_HOST).  A change that is done in many small
 *    holdings (XMMU_REASON_SLICE) gathers its debts in the VM's batch, and the
 *    holding at its end pays them all at once.
 *  - The entry changed because of the guest's tables: the guest's own rules (Intel
 *    SDM vol. 3, 4.10.4) say until when staleness is allowed, and its INVLPG and
 *    CR3 loads reach the engine's cache directly.  Only write tracking needs
 *    more: it may believe in a write protection only when no vCPU can have a
 *    writable translation left.  For that there is a clock: taking the write
 *    permission away ticks it, every full flush of a vCPU notes the time, and
 *    the protection holds once every vCPU has flushed since.  So protection costs
 *    no flush of its own; guests flush all the time.  A vCPU that idles does
 *    not; when others have waited long enough it is asked to (a nudge).
 *
 * A table that goes is carried along with the debt that its removal made.  Its page
 * is given back when that is paid, through a grace period, as a walk that began
 * before may still be in it.
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

static void free_tables(XmmuTable *list)
{
    while (list) {
        XmmuTable *table = list;

        list = table->doomed_next;
        xmmu_table_free_later(table);
    }
}

/* The debt first: who takes a table out of the batch must see that there is one. */
static void join_batch(XmmuHold *hold)
{
    XmmuVm *vm = hold->vm;

    __atomic_store_n(&vm->batch_owed, true, __ATOMIC_SEQ_CST);
    while (hold->doomed) {
        XmmuTable *table = hold->doomed;

        hold->doomed = table->doomed_next;
        table->doomed_next = __atomic_load_n(&vm->batch_doomed, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&vm->batch_doomed, &table->doomed_next,
                                            table, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_RELAXED)) {
            /* doomed_next is the new head. */
        }
    }
}

static void order_flush(XmmuHold *hold)
{
    XmmuVm *vm = hold->vm;

    XMMU_HOLD_COUNT(hold, flushes, 1);
    xmmu_check_ordered(vm);
    if (vm->services->flush_all) {
        vm->services->flush_all(vm->opaque);
    }
}

/* Pay for this holding and for the slices before it. */
static void close_batch(XmmuHold *hold)
{
    XmmuVm *vm = hold->vm;
    XmmuTable *list = __atomic_exchange_n(&vm->batch_doomed, NULL, __ATOMIC_SEQ_CST);
    bool owed = __atomic_exchange_n(&vm->batch_owed, false, __ATOMIC_SEQ_CST);

    /* Somebody else may have taken the debt of these tables and not ordered yet. */
    if (hold->flush_owed || owed || list) {
        order_flush(hold);
    }
    free_tables(list);
}

void xmmu_flush_pay(XmmuHold *hold)
{
    XmmuTable *doomed;

    xmmu_assert_held(hold);
    if (hold->reason == XMMU_REASON_HOST) {
        close_batch(hold);
    } else if (hold->reason == XMMU_REASON_SLICE && hold->flush_owed) {
        join_batch(hold);
    }
    hold->flush_owed = false;
    xmmu_check_paid(hold);
    doomed = hold->doomed;
    hold->doomed = NULL;
    free_tables(doomed);
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

uint64_t xmmu_vm_hardware_tick(XmmuVm *vm)
{
    return xmmu_flush_tick(vm);
}

/* Of those that do this at the same time the latest tick counts. */
void xmmu_vm_hardware_flushed(XmmuVm *vm, uint64_t tick)
{
    uint64_t old = __atomic_load_n(&vm->hardware_flushed_at, __ATOMIC_RELAXED);

    while (old < tick &&
           !__atomic_compare_exchange_n(&vm->hardware_flushed_at, &old, tick, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
        /* old is the value now. */
    }
}

static bool hardware_flushed_since(XmmuVm *vm, uint64_t tick)
{
    return !vm->services->hardware_caches ||
           __atomic_load_n(&vm->hardware_flushed_at, __ATOMIC_SEQ_CST) >= tick;
}

/* A vCPU that has cached nothing since its last flush is as good as flushed now;
 * what hardware cached nobody sees. */
static bool flushed_since(XmmuVcpu *vcpu, uint64_t tick)
{
    if (!hardware_flushed_since(vcpu->vm, tick)) {
        return false;
    }
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
