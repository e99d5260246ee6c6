/*
 * xmmu: the VM, its vCPUs and their registers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the creation of VMs and vCPUs and what happens when a vCPU's registers
 * change: role, masks and root follow, and nothing is done when they are what
 * they were.
 */
#include <string.h>
#include "check.h"
#include "dirty.h"
#include "flush.h"
#include "mem.h"
#include "nested.h"
#include "nx_huge.h"
#include "roots.h"
#include "shadow.h"
#include "tdp.h"

/* What a VM is made of; all of it or nothing. */
static void free_parts(XmmuVm *vm)
{
    xmmu_apf_cleanup(vm);
    xmmu_reserve_cleanup(vm);
    xmmu_dirty_cleanup(vm);
    xmmu_slots_cleanup(vm);
    xmmu_nx_cleanup(vm);
    if (vm->arena) {
        xmmu_arena_free(vm->arena);
    }
    xmmu_rw_destroy(&vm->mmu_lock);
    g_free(vm);
}

XmmuVm *xmmu_vm_new(const XmmuConfig *config, const XmmuServices *services,
                    void *opaque)
{
    XmmuVm *vm = xmmu_try_new0(services, opaque, sizeof(*vm));

    if (!vm) {
        return NULL;
    }
    vm->config = *config;
    if (!vm->config.table_memory) {
        vm->config.table_memory = XMMU_TABLE_MEMORY_DEFAULT;
    }
    if (!vm->config.tdp_levels) {
        vm->config.tdp_levels = 4;
    }
    g_assert(vm->config.prev_roots <= XMMU_PREV_ROOTS_MAX);
    g_assert(config->dirty_log != XMMU_DIRTY_RING ||
             config->dirty_ring_size >= XMMU_DIRTY_RING_MIN);
    vm->services = services;
    vm->opaque = opaque;
    vm->format = !config->tdp ? &xmmu_host_legacy
               : config->tdp_format == XMMU_TDP_EPT ? &xmmu_host_ept
                                                    : &xmmu_host_npt;
    xmmu_rw_init(&vm->mmu_lock);
    g_queue_init(&vm->shadow_tables);
    g_queue_init(&vm->obsolete);
    xmmu_nx_init(vm);
    vm->arena = xmmu_arena_new(services, opaque);
    if (!xmmu_slots_init(vm) || !vm->arena) {
        free_parts(vm);
        return NULL;
    }
    xmmu_check_vm_new(vm);
    return vm;
}

/* Runs after the callbacks of all tables, which were queued before. */
static void vm_reclaim(XmmuRcuHead *head)
{
    XmmuVm *vm = (XmmuVm *)((char *)head - offsetof(XmmuVm, rcu));

    xmmu_check_vm_free(vm);
    free_parts(vm);
}

void xmmu_vm_free(XmmuVm *vm)
{
    g_assert(!vm->vcpus);
    xmmu_vm_zap_all(vm);
    g_assert(!vm->batch_doomed);
    vm->services->rcu_call(&vm->rcu, vm_reclaim);
}

const XmmuConfig *xmmu_vm_config(const XmmuVm *vm)
{
    return &vm->config;
}

/*
 * The vCPUs need new roots from now on; the old tables go bit by bit.  Nobody may look at
 * the log of writes meanwhile: D bits in a tree that no root leads to are not found.
 */
void xmmu_vm_zap_all(XmmuVm *vm)
{
    XmmuTable *old[XMMU_AS_COUNT];

    pthread_mutex_lock(&vm->slots_lock);
    xmmu_write_lock(vm, XMMU_REASON_HOST);
    xmmu_tdp_invalidate_roots(vm, old);
    xmmu_shadow_new_generation(vm);
    xmmu_check_invalidated(&vm->writer);
    xmmu_flush_owe(&vm->writer);
    xmmu_write_unlock(vm);
    xmmu_tdp_finish_roots(vm, old);
    xmmu_shadow_finish(vm, XMMU_REASON_GUEST);
    pthread_mutex_unlock(&vm->slots_lock);
}

/* ---- vCPU ------------------------------------------------------------- */

static void init_mmus(XmmuVcpu *vcpu)
{
    vcpu->root_mmu.vcpu = vcpu;
    vcpu->guest_mmu.vcpu = vcpu;
    vcpu->nested_mmu.vcpu = vcpu;
    vcpu->mmu = &vcpu->root_mmu;
    vcpu->walk_mmu = &vcpu->root_mmu;
}

static bool new_ring(XmmuVcpu *vcpu)
{
    XmmuVm *vm = vcpu->vm;
    size_t size = vm->config.dirty_ring_size * sizeof(*vcpu->dirty_ring.entry);

    if (vm->config.dirty_log != XMMU_DIRTY_RING) {
        return true;
    }
    vcpu->dirty_ring.entry = xmmu_try_new0(vm->services, vm->opaque, size);
    return vcpu->dirty_ring.entry;
}

XmmuVcpu *xmmu_vcpu_new(XmmuVm *vm, unsigned index, const XmmuCpuCaps *caps)
{
    XmmuVcpu *vcpu = xmmu_try_new0(vm->services, vm->opaque, sizeof(*vcpu));

    if (!vcpu) {
        return NULL;
    }
    vcpu->vm = vm;
    vcpu->index = index;
    vcpu->caps = *caps;
    init_mmus(vcpu);
    if (!new_ring(vcpu)) {
        g_free(vcpu);
        return NULL;
    }
    xmmu_check_vcpu_new(vcpu);
    pthread_mutex_lock(&vm->slots_lock);
    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    vcpu->next = vm->vcpus;
    vm->vcpus = vcpu;
    xmmu_rw_slot_add(&vm->mmu_lock, &vcpu->lock_slot);
    xmmu_write_unlock(vm);
    pthread_mutex_unlock(&vm->slots_lock);
    xmmu_vcpu_set_regs(vcpu, &(XmmuRegs) { 0 });
    return vcpu;
}

static void unlist(XmmuVm *vm, XmmuVcpu *vcpu)
{
    XmmuVcpu **p = &vm->vcpus;

    while (*p != vcpu) {
        p = &(*p)->next;
    }
    *p = vcpu->next;
}

void xmmu_vcpu_free(XmmuVcpu *vcpu)
{
    XmmuVm *vm = vcpu->vm;

    xmmu_apf_clear(vcpu);
    xmmu_roots_drop(&vcpu->root_mmu);
    xmmu_roots_drop(&vcpu->guest_mmu);
    xmmu_arena_empty(vm->arena, &vcpu->reserve);
    pthread_mutex_lock(&vm->slots_lock);        /* for who empties the rings */
    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    unlist(vm, vcpu);
    xmmu_rw_slot_remove(&vm->mmu_lock, &vcpu->lock_slot);
    xmmu_stats_add(&vm->stats, &vcpu->stats);        /* an unplugged vCPU's work stays */
    vm->dirty_unringed |= vcpu->dirty_ring.head != vcpu->dirty_ring.tail;
    xmmu_write_unlock(vm);
    pthread_mutex_unlock(&vm->slots_lock);
    xmmu_check_vcpu_free(vcpu);
    g_free(vcpu->dirty_ring.entry);
    g_free(vcpu);
}

/* Do the guest's tables begin at the same place? */
static bool same_tables(const XmmuRegs *a, const XmmuRegs *b)
{
    return a->cr3 == b->cr3 && !memcmp(a->pdpte, b->pdpte, sizeof(a->pdpte));
}

/* Then the vCPU role is the same, too. */
static bool same_mode(const XmmuRegs *a, const XmmuRegs *b)
{
    return a->cr0 == b->cr0 && a->cr4 == b->cr4 && a->efer == b->efer &&
           a->smm == b->smm && a->a20_masked == b->a20_masked;
}

void xmmu_mmu_take_regs(XmmuMmu *mmu, const XmmuRegs *regs, XmmuVcpuRole role)
{
    XmmuVcpu *vcpu = mmu->vcpu;

    if (role.word != mmu->role.word || !same_tables(&mmu->regs, regs)) {
        xmmu_walk_cache_flush(&vcpu->walk_cache);
    }
    mmu->regs = *regs;
    if (role.word == mmu->role.word) {
        xmmu_count(&vcpu->stats.role_skips);
    } else {
        xmmu_count(&vcpu->stats.role_changes);
        mmu->role = role;
        xmmu_masks_compute(role, &mmu->masks);
    }
}

void xmmu_vcpu_set_regs(XmmuVcpu *vcpu, const XmmuRegs *regs)
{
    XmmuMmu *mmu = &vcpu->root_mmu;
    XmmuVcpuRole role = mmu->role;

    if (xmmu_vcpu_is_nested(vcpu)) {
        xmmu_nested_set_regs(vcpu, regs);
        return;
    }
    if (mmu->regs.cr0 & ~regs->cr0 & XMMU_CR0_PG) {
        xmmu_apf_clear(vcpu);           /* addresses mean something else now */
    }
    if (!role.valid || !same_mode(&mmu->regs, regs)) {
        role = xmmu_vcpu_role(&vcpu->caps, regs);
    }
    xmmu_mmu_take_regs(mmu, regs, role);
    xmmu_roots_select(mmu);
    xmmu_roots_set_pdptes(mmu);
}

void xmmu_vcpu_reset(XmmuVcpu *vcpu)
{
    xmmu_apf_clear(vcpu);
    xmmu_roots_drop(&vcpu->root_mmu);
    xmmu_roots_drop(&vcpu->guest_mmu);
    init_mmus(vcpu);
    vcpu->root_mmu.role.word = 0;
    vcpu->guest_mmu.role.word = 0;
    vcpu->nested_mmu.role.word = 0;
    xmmu_vcpu_set_regs(vcpu, &(XmmuRegs) { 0 });
    xmmu_flush_done(vcpu);
}

