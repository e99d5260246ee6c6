/*
 * xmmu: mmu_lock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns taking and releasing the lock of a VM's tables.  What has to happen before
 * a release (paying flushes, freeing tables) is flush.c's.
 */
#include "flush.h"
#include "vm.h"

static void begin(XmmuHold *hold, XmmuVm *vm, XmmuVcpu *vcpu, XmmuReason reason,
                  XmmuSide side)
{
    *hold = (XmmuHold) { .vm = vm, .vcpu = vcpu, .reason = reason, .side = side };
}

void xmmu_write_lock(XmmuVm *vm, XmmuReason reason)
{
    xmmu_rw_write_lock(&vm->mmu_lock);
    __atomic_store_n(&vm->write_locked, true, __ATOMIC_RELAXED);
    begin(&vm->writer, vm, NULL, reason, XMMU_WRITE_SIDE);
    vm->held_zaps = 0;
}

void xmmu_write_unlock(XmmuVm *vm)
{
    xmmu_assert_write_locked(vm);
    xmmu_flush_pay(&vm->writer);
    vm->writer.side = XMMU_UNLOCKED;
    __atomic_store_n(&vm->write_locked, false, __ATOMIC_RELAXED);
    xmmu_rw_write_unlock(&vm->mmu_lock);
}

static XmmuRwSlot *slot_of(XmmuVcpu *vcpu)
{
    return vcpu ? &vcpu->lock_slot : NULL;
}

void xmmu_read_lock(XmmuHold *hold, XmmuVm *vm, XmmuVcpu *vcpu, XmmuReason reason)
{
    vm->services->rcu_read_lock();
    xmmu_rw_read_lock(&vm->mmu_lock, slot_of(vcpu));
    begin(hold, vm, vcpu, reason, XMMU_READ_SIDE);
}

void xmmu_read_unlock(XmmuHold *hold)
{
    XmmuVm *vm = hold->vm;

    g_assert(hold->side == XMMU_READ_SIDE);
    xmmu_flush_pay(hold);
    hold->side = XMMU_UNLOCKED;
    xmmu_rw_read_unlock(&vm->mmu_lock, slot_of(hold->vcpu));
    vm->services->rcu_read_unlock();
}

bool xmmu_lock_contended(XmmuVm *vm)
{
    return __atomic_load_n(&vm->write_locked, __ATOMIC_RELAXED)
           ? xmmu_rw_writer_contended(&vm->mmu_lock)
           : xmmu_rw_reader_contended(&vm->mmu_lock);
}

void xmmu_hold_yield(XmmuHold *hold)
{
    XmmuVm *vm = hold->vm;
    XmmuVcpu *vcpu = hold->vcpu;
    XmmuReason reason = hold->reason;

    xmmu_read_unlock(hold);
    xmmu_read_lock(hold, vm, vcpu, reason);
}
