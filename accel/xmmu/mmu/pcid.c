/*
 * xmmu: flushes that the guest asks for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what MOV to CR3, INVLPG and INVPCID mean for the MMU.  Two things are kept
 * apart here: the *guest asked* for translations to be forgotten, of one PCID or of
 * all, which decides when our tables must be compared with its own (roots.c); and
 * the *engine emptied* its TLB, which is told by xmmu_vcpu_flushed() and by nothing
 * else, and which write tracking relies on (flush.c).  The soft engine's TLB has no
 * PCIDs: it is emptied at every CR3 load, also at one that asks for no flush.
 *
 * While CR4.PCIDE=0 there is one PCID, 0.
 *
 * While L2 runs under L1's nested paging, its flushes concern no table of ours:
 * nested_mmu has no root, and what L1's tables say is L1's to flush (nested.c).
 *
 * Called by the vCPU's thread.
 */
#include "check.h"
#include "flush.h"
#include "roots.h"

void xmmu_vcpu_load_cr3(XmmuVcpu *vcpu, const XmmuRegs *regs, bool keep)
{
    XmmuMmu *mmu = vcpu->walk_mmu;

    xmmu_count(&vcpu->stats.cr3_loads);
    xmmu_walk_cache_flush(&vcpu->walk_cache);
    /* First, so that the root that is selected is compared once. */
    if (!keep) {
        xmmu_roots_owe(mmu, xmmu_regs_pcid(regs), NULL);
    }
    xmmu_vcpu_set_regs(vcpu, regs);
    xmmu_roots_pay(mmu);
}

void xmmu_vcpu_flush_guest(XmmuVcpu *vcpu)
{
    xmmu_count(&vcpu->stats.cr3_loads);
    /* The vCPU has run nothing since the engine emptied its TLB, so it is empty now. */
    xmmu_flush_done(vcpu);
    xmmu_walk_cache_flush(&vcpu->walk_cache);
    xmmu_roots_owe(vcpu->walk_mmu, XMMU_ALL_PCIDS, NULL);
    xmmu_roots_pay(vcpu->walk_mmu);
}

/*
 * Global translations go for all PCIDs, others for the current one.  Which they are
 * is not known of a page that is not mapped any more, so all roots are concerned.
 * Intel SDM vol. 3, 4.10.4.1.
 */
void xmmu_vcpu_invlpg(XmmuVcpu *vcpu, gva_t gva)
{
    xmmu_count(&vcpu->stats.invlpg);
    xmmu_check_invlpg(vcpu, gva);
    xmmu_walk_cache_flush(&vcpu->walk_cache);
    xmmu_roots_owe(vcpu->walk_mmu, XMMU_ALL_PCIDS, &gva);
    xmmu_roots_pay(vcpu->walk_mmu);
}

/* Intel SDM vol. 2, INVPCID.  Global translations may go where they need not. */
void xmmu_vcpu_invpcid(XmmuVcpu *vcpu, XmmuInvpcid type, uint16_t pcid, gva_t gva)
{
    xmmu_count(&vcpu->stats.invpcid);
    xmmu_walk_cache_flush(&vcpu->walk_cache);
    switch (type) {
    case XMMU_INVPCID_ADDRESS:
        xmmu_roots_owe(vcpu->walk_mmu, pcid, &gva);
        break;
    case XMMU_INVPCID_PCID:
        xmmu_roots_owe(vcpu->walk_mmu, pcid, NULL);
        break;
    case XMMU_INVPCID_ALL:
    case XMMU_INVPCID_NON_GLOBAL:
        xmmu_roots_owe(vcpu->walk_mmu, XMMU_ALL_PCIDS, NULL);
        break;
    }
    xmmu_roots_pay(vcpu->walk_mmu);
}
