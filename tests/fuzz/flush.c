/*
 * xmmu fuzz: the guest's flushes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what a vCPU drops and the core is told when the guest flushes, and the log
 * that the verdict on a stale translation needs.
 */
#include <inttypes.h>
#include <string.h>
#include "fuzz.h"

void fz_flush(Fuzz *f, Cpu *cpu)
{
    fz_finish_of(f, cpu);
    fz_trace(f, "vCPU %u flush", cpu->index);
    xmmu_vcpu_flush_guest(cpu->vcpu);
    fz_tlb_drop(cpu);
    fz_forget_all(f, cpu);
}

void fz_invlpg(Fuzz *f, Cpu *cpu, gva_t gva)
{
    fz_finish_of(f, cpu);
    if (source_percent(f->s, 25)) {
        /* Elsewhere in the same large page. */
        gva ^= source_bits(f->s, 9) << XMMU_PAGE_SHIFT;
    }
    fz_trace(f, "vCPU %u invlpg %#" PRIx64, cpu->index, gva);
    xmmu_vcpu_invlpg(cpu->vcpu, gva);
    fz_tlb_drop_gva(cpu, gva);
    fz_note_invlpg(f, cpu, fz_pcid(&cpu->regs), gva, true);
}

void fz_note_invlpg(Fuzz *f, Cpu *cpu, unsigned pcid, gva_t gva, bool globals)
{
    if (cpu->invlpg_count == INVLPG_LOG) {
        memmove(&cpu->invlpg[0], &cpu->invlpg[1],
                sizeof(cpu->invlpg[0]) * (INVLPG_LOG - 1));
        cpu->invlpg_count--;
    }
    cpu->invlpg[cpu->invlpg_count].gva = gva;
    cpu->invlpg[cpu->invlpg_count].pcid = pcid;
    cpu->invlpg[cpu->invlpg_count].globals = globals;
    cpu->invlpg[cpu->invlpg_count].when = ++f->world.now;
    cpu->invlpg_count++;
}

void fz_flush_after_write(Fuzz *f)
{
    if (!source_percent(f->s, f->flush_percent)) {
        return;
    }
    for (unsigned i = 0; i < f->cpu_count; i++) {
        Cpu *cpu = &f->cpus[i];

        if (f->flush_percent == 100 || source_percent(f->s, 30)) {
            fz_flush(f, cpu);
        } else {
            fz_invlpg(f, cpu, cpu->recent[source_below(f->s, RECENT)]);
        }
    }
}
