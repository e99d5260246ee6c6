/*
 * xmmu fuzz: process-context identifiers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns MOV to CR3 with and without bit 63 and INVPCID, and for each PCID the time of
 * its last flush: what was overwritten before that may not be used under it any more
 * (Intel SDM vol. 3, 4.10.4.1).  The software TLB has no PCIDs, so it is emptied
 * whenever CR3 is loaded, as the soft engine does.
 */
#include <inttypes.h>
#include "fuzz.h"

static bool has_pcids(const XmmuRegs *regs)
{
    return regs->cr4 & XMMU_CR4_PCIDE;
}

unsigned fz_pcid(const XmmuRegs *regs)
{
    return has_pcids(regs) ? regs->cr3 & 0xfff : 0;
}

uint64_t fz_flushed_at(const Cpu *cpu)
{
    return MAX(cpu->flushed, cpu->pcid_flushed[fz_pcid(&cpu->regs)]);
}

static void empty_tlb(Cpu *cpu)
{
    fz_tlb_drop(cpu);
    xmmu_vcpu_flushed(cpu->vcpu);
}

void fz_mov_cr3(Fuzz *f, Cpu *cpu, const XmmuRegs *regs)
{
    bool keep = has_pcids(regs) && source_percent(f->s, 50);

    fz_finish_of(f, cpu);
    cpu->regs = *regs;
    fz_trace(f, "vCPU %u MOV to CR3 %#" PRIx64 "%s", cpu->index, regs->cr3,
             keep ? ", keeping translations" : "");
    empty_tlb(cpu);
    xmmu_vcpu_load_cr3(cpu->vcpu, regs, keep);
    if (!keep) {
        cpu->pcid_flushed[fz_pcid(regs)] = ++f->world.now;
    }
}

static void invpcid_address(Fuzz *f, Cpu *cpu, unsigned pcid)
{
    gva_t gva = cpu->recent[source_below(f->s, RECENT)];

    fz_trace(f, "vCPU %u INVPCID of %#" PRIx64 " in %u", cpu->index, gva, pcid);
    xmmu_vcpu_invpcid(cpu->vcpu, XMMU_INVPCID_ADDRESS, pcid, gva);
    fz_note_invlpg(f, cpu, pcid, gva);
}

void fz_op_invpcid(Fuzz *f, Cpu *cpu)
{
    static const XmmuInvpcid types[] = {
        XMMU_INVPCID_ADDRESS, XMMU_INVPCID_ADDRESS, XMMU_INVPCID_PCID,
        XMMU_INVPCID_PCID, XMMU_INVPCID_ALL, XMMU_INVPCID_NON_GLOBAL,
    };
    XmmuInvpcid type = types[source_below(f->s, G_N_ELEMENTS(types))];
    unsigned pcid = has_pcids(&cpu->regs) ? source_below(f->s, FUZZ_PCIDS) : 0;

    fz_finish_of(f, cpu);
    empty_tlb(cpu);
    if (type == XMMU_INVPCID_ADDRESS) {
        invpcid_address(f, cpu, pcid);
        return;
    }
    fz_trace(f, "vCPU %u INVPCID type %d of %u", cpu->index, type, pcid);
    xmmu_vcpu_invpcid(cpu->vcpu, type, pcid, 0);
    if (type == XMMU_INVPCID_PCID) {
        cpu->pcid_flushed[pcid] = ++f->world.now;
    } else {
        cpu->flushed = ++f->world.now;
    }
}
