/*
 * xmmu fuzz: registers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the changes of registers: modes, CR3, control bits, keys, SMM, A20.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fuzz.h"

void fz_take_regs(Fuzz *f, Cpu *cpu, const XmmuRegs *regs)
{
    cpu->regs = *regs;
    fz_note_pcid(f, cpu);
    fz_trace(f, "vCPU %u regs: %u levels cr0 %#" PRIx64 " cr3 %#" PRIx64 " cr4 %#" PRIx64
             " efer %#" PRIx64 " pkru %#x pkrs %#x smm %d a20 masked %d", cpu->index,
             fz_levels(cpu), regs->cr0, regs->cr3, regs->cr4, regs->efer, regs->pkru,
             regs->pkrs, regs->smm, regs->a20_masked);
    xmmu_vcpu_set_regs(cpu->vcpu, regs);
    fz_tlb_drop(cpu);
}

static uint64_t read_now(Fuzz *f, unsigned as_id, gpa_t gpa)
{
    static const Spans never;
    RefValue values[REF_MAX_VALUES];
    bool lost;

    return world_values(&f->world, as_id, gpa, 8, &never, values, &lost) ?
           values[0].value : 0;
}

/* MOV to CR3 in PAE paging loads the PDPTEs, or raises #GP. */
static bool load_pdptes(Fuzz *f, XmmuRegs *regs)
{
    RefCaps caps = { .maxphyaddr = f->caps.maxphyaddr };
    gpa_t base = regs->cr3 & 0xffffffe0;
    bool bad;

    for (int i = 0; i < 4; i++) {
        gpa_t gpa = base + i * 8;

        gpa &= regs->a20_masked ? ~(gpa_t)0x100000 : ~(gpa_t)0;
        regs->pdpte[i] = read_now(f, regs->smm ? XMMU_AS_SMM : XMMU_AS_NORMAL, gpa);
    }
    bad = ref_pdptes_bad(&caps, regs->pdpte);
    if (bad != (xmmu_check_pdptes(&f->caps, regs->pdpte) != NULL)) {
        fprintf(stderr, "xmmu_check_pdptes() disagrees with the reference: %#" PRIx64
                " %#" PRIx64 " %#" PRIx64 " %#" PRIx64 "\n", regs->pdpte[0],
                regs->pdpte[1], regs->pdpte[2], regs->pdpte[3]);
        abort();
    }
    return !bad;
}

static void write_pdptes(Fuzz *f, const XmmuRegs *regs)
{
    Source *s = f->s;
    uint64_t pdpte[4];

    for (int i = 0; i < 4; i++) {
        pdpte[i] = f->world.pool[source_below(s, POOL_PAGES)].gpa;
        pdpte[i] |= source_percent(s, 90) ? 1 : 0;
    }
    fz_write_physical(f, regs->smm ? XMMU_AS_SMM : XMMU_AS_NORMAL, regs->cr3 & 0xffffffe0,
                   pdpte, sizeof(pdpte));
}

static void random_cr3(Fuzz *f, XmmuRegs *regs, unsigned levels)
{
    Source *s = f->s;
    /* Few roots, so that cached ones are met again. */
    unsigned page = source_percent(s, f->switching ? 99 : 70)
                    ? world_root(&f->world, s, levels, f->switching ? 3 : 6)
                    : source_below(s, POOL_PAGES);

    regs->cr3 = f->world.pool[page].gpa;
    if (source_percent(s, 5)) {
        regs->cr3 = world_alias(regs->cr3);
    }
    if (levels <= 3) {
        regs->cr3 &= 0xffffffff;
    } else {
        regs->cr3 &= ((uint64_t)1 << f->caps.maxphyaddr) - 1;
    }
    if (levels == 3) {
        /* Away from the indices that tables are filled at. */
        regs->cr3 |= 0x200 + source_below(s, 3) * 0x20;
        if (source_percent(s, 60)) {
            write_pdptes(f, regs);
        }
    } else if (regs->cr4 & XMMU_CR4_PCIDE) {
        /* The PCIDs of a guest are mostly bound to its address spaces. */
        regs->cr3 |= f->switching && source_percent(s, 70)
                     ? page / 5 % FUZZ_PCIDS : source_below(s, FUZZ_PCIDS);
    } else {
        regs->cr3 |= source_percent(s, 20) ? 0x18 : 0;
    }
}

/* Load CR3 for @levels into @regs and take them over; with a flush, unless the mode is
 * the same and the guest asks for none. */
static void load_cr3(Fuzz *f, Cpu *cpu, XmmuRegs *regs, unsigned levels, bool same_mode)
{
    unsigned before = fz_levels(cpu);

    if (levels == 3 && !load_pdptes(f, regs)) {
        fz_trace(f, "vCPU %u #GP: PDPTEs", cpu->index);
        return;
    }
    if (same_mode && source_percent(f->s, f->switching ? 95 : 60)) {
        fz_mov_cr3(f, cpu, regs);
    } else {
        fz_take_regs(f, cpu, regs);
        fz_flush(f, cpu);
    }
    if (levels != before) {
        for (int i = 0; i < RECENT; i++) {
            cpu->recent[i] = fz_random_page(f, levels);
        }
    }
}

void fz_op_cr3(Fuzz *f, Cpu *cpu)
{
    XmmuRegs regs = cpu->regs;
    unsigned levels = fz_levels(cpu);

    if (!levels) {
        return;
    }
    if (source_percent(f->s, 75)) {
        random_cr3(f, &regs, levels);
    }
    load_cr3(f, cpu, &regs, levels, true);
}

static uint64_t random_set(Source *s, const uint32_t *bits, unsigned n)
{
    uint64_t set = 0, pick = source_bits(s, 16);

    for (unsigned i = 0; i < n; i++) {
        set |= pick >> i & 1 ? bits[i] : 0;
    }
    return set;
}

static const uint32_t free_cr4_bits[] = {
    XMMU_CR4_PSE, XMMU_CR4_PGE, XMMU_CR4_SMEP, XMMU_CR4_SMAP, XMMU_CR4_PKE,
    XMMU_CR4_PKS,
};

void fz_op_mode(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    static const uint8_t modes[] = { 0, 2, 3, 4, 5, 2, 3, 4 };
    XmmuRegs regs = cpu->regs;
    unsigned levels = f->switching ? 4 + source_below(s, 2)
                                   : modes[source_below(s, sizeof(modes))];
    unsigned allowed = f->limits->features;

    if (!(f->limits->modes & (1 << levels))) {
        return;
    }
    regs.cr0 = XMMU_CR0_PE | (source_percent(s, 70) ? XMMU_CR0_WP : 0);
    regs.cr4 = random_set(s, free_cr4_bits, G_N_ELEMENTS(free_cr4_bits));
    regs.efer = source_percent(s, 80) ? XMMU_EFER_NXE : 0;
    if (levels) {
        regs.cr0 |= XMMU_CR0_PG;
    }
    if (levels >= 3) {
        regs.cr4 |= XMMU_CR4_PAE;
    }
    if (levels >= 4) {
        regs.efer |= XMMU_EFER_LME | XMMU_EFER_LMA;
        regs.cr4 |= allowed & FUZZ_PCID && source_percent(s, f->switching ? 97 : 60)
                    ? XMMU_CR4_PCIDE : 0;
    }
    if (levels == 5) {
        regs.cr4 |= XMMU_CR4_LA57;
    }
    random_cr3(f, &regs, levels);
    load_cr3(f, cpu, &regs, levels, false);
}

/* Bits that may change without a change of mode. */
void fz_op_flip(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    XmmuRegs regs = cpu->regs;
    unsigned pick = source_below(s, 10);
    uint64_t flushing = XMMU_CR4_PSE | XMMU_CR4_PGE;
    bool flush = false;

    if (pick < G_N_ELEMENTS(free_cr4_bits)) {
        regs.cr4 ^= free_cr4_bits[pick];
        flush = ((regs.cr4 ^ cpu->regs.cr4) & flushing) ||
                (regs.cr4 & ~cpu->regs.cr4 & XMMU_CR4_SMEP);
    } else if (pick < 8) {
        regs.cr0 ^= XMMU_CR0_WP;
    } else {
        regs.efer ^= XMMU_EFER_NXE;
    }
    fz_take_regs(f, cpu, &regs);
    if (flush) {
        fz_flush(f, cpu);
    }
}

void fz_op_keys(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    XmmuRegs regs = cpu->regs;
    uint32_t *reg = source_percent(s, 50) ? &regs.pkru : &regs.pkrs;

    *reg = source_percent(s, 30) ? 0 : source_bits(s, 32) & source_bits(s, 32);
    fz_take_regs(f, cpu, &regs);
}

void fz_op_smm(Fuzz *f, Cpu *cpu)
{
    XmmuRegs regs = cpu->regs;

    regs.smm = !regs.smm;
    fz_take_regs(f, cpu, &regs);
}

void fz_op_a20(Fuzz *f, Cpu *cpu)
{
    XmmuRegs regs = cpu->regs;

    regs.a20_masked = !regs.a20_masked;
    fz_take_regs(f, cpu, &regs);
}
