/*
 * xmmu fuzz: process-context identifiers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns MOV to CR3 with and without bit 63 and INVPCID, and for each PCID the times since
 * its last flush when it was the current one.  Only then can a vCPU have loaded what it
 * uses under that PCID (Intel SDM vol. 3, 4.10.2.2, 4.10.4.1); what came and went while
 * the PCID was away must not be seen.  The software TLB has no PCIDs, so it is emptied
 * whenever CR3 is loaded, as the soft engine does.
 *
 * A global translation outlives a load of CR3 and may be used under any PCID (4.10.2.4).
 * The core makes no use of that, and the reference gives no leave to.  What flushes
 * globals must flush those of all PCIDs, though.
 */
#include <inttypes.h>
#include <string.h>
#include "fuzz.h"

static bool has_pcids(const XmmuRegs *regs)
{
    return regs->cr4 & XMMU_CR4_PCIDE;
}

unsigned fz_pcid(const XmmuRegs *regs)
{
    return has_pcids(regs) ? regs->cr3 & 0xfff : 0;
}

static void begin_span(Spans *s, uint64_t now)
{
    if (s->n == MAX_SPANS) {
        /* As if it had been the current one in between. */
        s->span[0].to = s->span[1].to;
        memmove(&s->span[1], &s->span[2], sizeof(s->span[0]) * (MAX_SPANS - 2));
        s->n--;
    }
    s->span[s->n].from = now;
    s->span[s->n].to = UINT64_MAX;
    s->n++;
}

void fz_forget_pcid(Fuzz *f, Cpu *cpu, unsigned pcid)
{
    f->world.now++;
    cpu->current[pcid].n = 0;
    if (pcid == cpu->pcid) {
        begin_span(&cpu->current[pcid], f->world.now);
    }
}

void fz_forget_all(Fuzz *f, Cpu *cpu)
{
    for (unsigned pcid = 0; pcid < FUZZ_PCIDS; pcid++) {
        fz_forget_pcid(f, cpu, pcid);
    }
    cpu->invlpg_count = 0;
}

void fz_note_pcid(Fuzz *f, Cpu *cpu)
{
    unsigned pcid = fz_pcid(&cpu->regs);
    Spans *old = &cpu->current[cpu->pcid];

    if (pcid == cpu->pcid) {
        return;
    }
    f->world.now++;
    if (old->n) {
        old->span[old->n - 1].to = f->world.now;
    }
    cpu->pcid = pcid;
    begin_span(&cpu->current[pcid], f->world.now);
}

static void empty_tlb(Cpu *cpu)
{
    fz_tlb_drop(cpu);
    xmmu_vcpu_flushed(cpu->vcpu);
}

void fz_mov_cr3(Fuzz *f, Cpu *cpu, const XmmuRegs *regs)
{
    bool keep = has_pcids(regs) && source_percent(f->s, f->switching ? 80 : 50);

    fz_finish_of(f, cpu);
    cpu->regs = *regs;
    fz_note_pcid(f, cpu);
    fz_trace(f, "vCPU %u MOV to CR3 %#" PRIx64 "%s", cpu->index, regs->cr3,
             keep ? ", keeping translations" : "");
    empty_tlb(cpu);
    xmmu_vcpu_load_cr3(cpu->vcpu, regs, keep);
    if (!keep) {
        fz_forget_pcid(f, cpu, cpu->pcid);
    }
}

static void invpcid_address(Fuzz *f, Cpu *cpu, unsigned pcid)
{
    gva_t gva = cpu->recent[source_below(f->s, RECENT)];

    fz_trace(f, "vCPU %u INVPCID of %#" PRIx64 " in %u", cpu->index, gva, pcid);
    xmmu_vcpu_invpcid(cpu->vcpu, XMMU_INVPCID_ADDRESS, pcid, gva);
    fz_note_invlpg(f, cpu, pcid, gva, false);
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
        fz_forget_pcid(f, cpu, pcid);
    } else {
        fz_forget_all(f, cpu);
    }
}
