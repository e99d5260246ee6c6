/*
 * xmmu: nested guests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what changes when the guest (L1) runs a guest of its own (L2) whose physical
 * addresses it translates by nested or extended page tables: which MMU is used, the
 * faults of L2 there, and what L1 is told of those that its tables refuse.
 *
 * Three MMUs.  root_mmu is L1's.  guest_mmu translates L2's physical addresses: its
 * tables shadow those that L1 made, in the format of our own TDP tables.  nested_mmu
 * says how L2's own tables are walked; it has no tables, the hardware (its model)
 * walks L2's.  Entering and leaving select them; no caller does.
 *
 * A root of guest_mmu is known by nested CR3 or EPTP, ASID, and page role.  The ASID
 * takes the place of the PCID: to L1, a new ASID is as good as a flush.  With EPT it
 * is 0, as mappings of guest physical addresses have no VPID (Intel SDM vol. 3,
 * 29.4.1).
 *
 * Called by the vCPU's thread.
 */
#include "nested.h"
#include "roots.h"
#include "shadow.h"

static bool is_nested(const XmmuVcpu *vcpu)
{
    return vcpu->mmu == &vcpu->guest_mmu;
}

/* L1 translates with four or five levels; others are for the caller to walk. */
static bool can_shadow(const XmmuVm *vm, const XmmuNestedTdp *tdp)
{
    return vm->config.tdp &&
           (tdp->format == XMMU_TDP_EPT ||
            ((tdp->cr0 & XMMU_CR0_PG) && (tdp->efer & XMMU_EFER_LMA)));
}

static XmmuRegs guest_mmu_regs(const XmmuNestedTdp *tdp, const XmmuRegs *l2)
{
    XmmuRegs regs = {
        .cr3 = tdp->root,
        .smm = l2->smm,
        .a20_masked = l2->a20_masked,
    };

    if (tdp->format == XMMU_TDP_NPT) {
        regs.cr0 = tdp->cr0;
        regs.cr4 = tdp->cr4;
        regs.efer = tdp->efer;
    }
    return regs;
}

static void take_guest_mmu(XmmuVcpu *vcpu, const XmmuRegs *regs, bool ept)
{
    xmmu_mmu_take_regs(&vcpu->guest_mmu, regs,
                       ept ? xmmu_vcpu_role_ept(&vcpu->caps, regs)
                           : xmmu_vcpu_role_npt(&vcpu->caps, regs));
    xmmu_roots_select(&vcpu->guest_mmu);
}

/* What the hardware model remembers belongs to the MMU that was current. */
static void forget_translations(XmmuVcpu *vcpu)
{
    xmmu_nested_tlb_forget(&vcpu->nested_tlb);
    xmmu_walk_cache_flush(&vcpu->walk_cache);
}

bool xmmu_vcpu_enter_nested(XmmuVcpu *vcpu, const XmmuNestedTdp *tdp,
                            const XmmuRegs *l2)
{
    XmmuTable *before = is_nested(vcpu) ? vcpu->mmu->root.table : NULL;
    XmmuRegs regs = guest_mmu_regs(tdp, l2);

    if (!can_shadow(vcpu->vm, tdp)) {
        return false;
    }
    if (!is_nested(vcpu)) {
        xmmu_count(&vcpu->stats.nested_entries);
    }
    vcpu->mmu = &vcpu->guest_mmu;
    vcpu->walk_mmu = &vcpu->nested_mmu;
    vcpu->guest_mmu.asid = tdp->format == XMMU_TDP_NPT ? tdp->asid : 0;
    take_guest_mmu(vcpu, &regs, tdp->format == XMMU_TDP_EPT);
    xmmu_nested_set_regs(vcpu, l2);
    xmmu_roots_pay(&vcpu->guest_mmu);
    if (!before || before != vcpu->mmu->root.table) {
        forget_translations(vcpu);
    }
    return true;
}

void xmmu_nested_set_regs(XmmuVcpu *vcpu, const XmmuRegs *l2)
{
    XmmuMmu *guest = &vcpu->guest_mmu;
    XmmuRegs regs = *l2;

    /* L2's physical addresses are not the bus's: A20 is masked behind L1's tables. */
    regs.a20_masked = false;
    xmmu_mmu_take_regs(&vcpu->nested_mmu, &regs,
                       guest->role.npt ? xmmu_vcpu_role_l2_npt(&vcpu->caps, &regs)
                                       : xmmu_vcpu_role(&vcpu->caps, &regs));
    if (guest->regs.smm != l2->smm || guest->regs.a20_masked != l2->a20_masked) {
        regs = guest->regs;
        regs.smm = l2->smm;
        regs.a20_masked = l2->a20_masked;
        take_guest_mmu(vcpu, &regs, guest->role.ept);
        forget_translations(vcpu);
    }
}

void xmmu_vcpu_leave_nested(XmmuVcpu *vcpu, const XmmuRegs *l1)
{
    if (is_nested(vcpu)) {
        vcpu->mmu = &vcpu->root_mmu;
        vcpu->walk_mmu = &vcpu->root_mmu;
        forget_translations(vcpu);
    }
    xmmu_vcpu_set_regs(vcpu, l1);
}

bool xmmu_vcpu_is_nested(const XmmuVcpu *vcpu)
{
    return is_nested(vcpu);
}

/* ---- Flushes that L1 asks for ------------------------------------------------- */

/* What is owed to roots that are away is paid when they come back. */
static void pay_if_current(XmmuVcpu *vcpu)
{
    if (is_nested(vcpu)) {
        xmmu_roots_pay(&vcpu->guest_mmu);
        forget_translations(vcpu);
    }
}

void xmmu_vcpu_flush_asid(XmmuVcpu *vcpu, int asid)
{
    xmmu_roots_owe(&vcpu->guest_mmu,
                   asid == XMMU_ALL_ASIDS ? XMMU_ALL_PCIDS : asid, NULL);
    pay_if_current(vcpu);
}

void xmmu_vcpu_invept(XmmuVcpu *vcpu, const uint64_t *eptp)
{
    if (eptp) {
        xmmu_roots_owe_pgd(&vcpu->guest_mmu, *eptp & XMMU_GPTE_ADDR_MASK);
    } else {
        xmmu_roots_owe(&vcpu->guest_mmu, XMMU_ALL_PCIDS, NULL);
    }
    pay_if_current(vcpu);
}

/* ---- Faults ------------------------------------------------------------------- */

/* AMD APM vol. 2, 15.25.6: as an error code of #PF, and which kind of access. */
#define NPF_FINAL   ((uint64_t)1 << 32)
#define NPF_TABLE   ((uint64_t)1 << 33)

static void npf(XmmuFault *fault)
{
    fault->exit.reason = XMMU_NESTED_NPF;
    fault->exit.info = fault->exception.error_code |
                       (fault->table ? NPF_TABLE : NPF_FINAL);
}

/* Intel SDM vol. 3, table 28-7. */
enum {
    EPT_READ = 1 << 0, EPT_WRITE = 1 << 1, EPT_FETCH = 1 << 2,
    EPT_READABLE = 1 << 3, EPT_WRITABLE = 1 << 4, EPT_EXECUTABLE = 1 << 5,
    EPT_LINEAR_VALID = 1 << 7, EPT_FINAL = 1 << 8,
};

static uint64_t ept_qualification(const XmmuFault *fault)
{
    uint8_t want = fault->access.want, access = fault->path_access;
    uint64_t info = EPT_LINEAR_VALID;

    info |= want == XMMU_PROT_READ ? EPT_READ
          : want == XMMU_PROT_WRITE ? EPT_WRITE : EPT_FETCH;
    if (fault->table) {
        /* To set a flag there, the entry is read and written. */
        info |= EPT_READ;
    } else {
        info |= EPT_FINAL;
    }
    info |= access & XMMU_ACC_USER ? EPT_READABLE : 0;
    info |= access & XMMU_ACC_WRITE ? EPT_WRITABLE : 0;
    info |= access & XMMU_ACC_EXEC ? EPT_EXECUTABLE : 0;
    return info;
}

static void ept_exit(XmmuFault *fault)
{
    if (fault->exception.error_code & XMMU_PFEC_RSVD) {
        fault->exit.reason = XMMU_NESTED_EPT_MISCONFIG;
        fault->exit.info = 0;
    } else {
        fault->exit.reason = XMMU_NESTED_EPT_VIOLATION;
        fault->exit.info = ept_qualification(fault);
    }
}

static XmmuPfResult reflect(XmmuVcpu *vcpu, XmmuFault *fault)
{
    xmmu_count(&vcpu->stats.nested_reflected);
    fault->exit.gpa = fault->tdp_gpa;
    if (vcpu->guest_mmu.role.ept) {
        ept_exit(fault);
    } else {
        npf(fault);
    }
    return XMMU_PF_REFLECT;
}

/* Beyond what L1's tables can translate: as if an entry were not present. */
static bool beyond(const XmmuMmu *mmu, gpa_t gpa)
{
    return gpa >> xmmu_guest_shift(mmu->masks.guest, mmu->masks.guest->levels + 1);
}

static XmmuPfResult not_mapped(XmmuFault *fault)
{
    uint8_t want = fault->access.want;

    fault->path_access = 0;
    fault->exception.error_code = XMMU_PFEC_U |
        (want == XMMU_PROT_WRITE ? XMMU_PFEC_W : 0) |
        (want == XMMU_PROT_EXEC ? XMMU_PFEC_I : 0);
    return XMMU_PF_GUEST;
}

XmmuPfResult xmmu_nested_fault(XmmuVcpu *vcpu, XmmuFault *fault)
{
    XmmuPfResult result;

    xmmu_count(&vcpu->stats.nested_faults);
    fault->access.gva = fault->tdp_gpa;
    fault->access.user = true;
    result = beyond(vcpu->mmu, fault->tdp_gpa) ? not_mapped(fault)
                                               : xmmu_shadow_build(vcpu, fault);
    if (result == XMMU_PF_GUEST) {
        result = reflect(vcpu, fault);
    }
    return xmmu_count_fault(vcpu, result);
}
