/*
 * xmmu fuzz: the vCPUs' software TLB
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what a vCPU of a run keeps of its translations, as the soft engine does in
 * TCG: until the core orders a flush or the guest flushes.
 */
#include "../../accel/xmmu/mmu/check.h"
#include "fuzz.h"

void fz_tlb_drop(Cpu *cpu)
{
    for (int mode = 0; mode < TLB_MODES; mode++) {
        for (int i = 0; i < TLB_SIZE; i++) {
            cpu->tlb[mode][i].valid = false;
        }
    }
}

void fz_tlb_drop_gva(Cpu *cpu, gva_t gva)
{
    for (int mode = 0; mode < TLB_MODES; mode++) {
        for (int i = 0; i < TLB_SIZE; i++) {
            TlbEntry *e = &cpu->tlb[mode][i];

            if (!((e->page << XMMU_PAGE_SHIFT ^ gva) >> e->page_shift)) {
                e->valid = false;
            }
        }
    }
}

void fz_tlb_drop_holes(Cpu *cpu)
{
    for (int mode = 0; mode < TLB_MODES; mode++) {
        for (int i = 0; i < TLB_SIZE; i++) {
            TlbEntry *e = &cpu->tlb[mode][i];

            e->valid &= !e->mmio && !e->by_hole;
        }
    }
}

static unsigned tlb_mode(const XmmuAccess *a)
{
    return a->user ? TLB_USER : a->smap_off ? TLB_KERNEL_AC : TLB_KERNEL;
}

static TlbEntry *tlb_slot(Cpu *cpu, const XmmuAccess *a)
{
    uint64_t page = a->gva >> XMMU_PAGE_SHIFT;
    unsigned slot = (page ^ (page >> 9) * 5 ^ (page >> 18) * 11) % TLB_SIZE;

    return &cpu->tlb[tlb_mode(a)][slot];
}

bool fz_tlb_lookup(Cpu *cpu, const XmmuAccess *a, XmmuHwResult *r)
{
    TlbEntry *e = tlb_slot(cpu, a);
    uint64_t offset = a->gva & ~XMMU_PAGE_MASK;

    if (!e->valid || e->page != a->gva >> XMMU_PAGE_SHIFT || !(e->prot & a->want)) {
        return false;
    }
    *r = (XmmuHwResult) {
        .outcome = e->mmio ? XMMU_HW_DIRECT : XMMU_HW_OK,
        .gpa = e->gpa | offset, .hpa = e->mmio ? 0 : e->hpa | offset,
        .prot = e->prot, .page_shift = e->page_shift, .mmio = e->mmio,
    };
    if (!e->mmio) {
        xmmu_check_used(cpu->vcpu, a, r->hpa, a->want);
    }
    return true;
}

/* As the engine does: one-shot accesses leave nothing, MMIO may stay. */
void fz_tlb_fill(Cpu *cpu, const XmmuAccess *a, const XmmuHwResult *r, bool by_hole)
{
    TlbEntry *e = tlb_slot(cpu, a);

    if (r->outcome > XMMU_HW_DIRECT || (r->outcome == XMMU_HW_DIRECT && !r->mmio)) {
        return;
    }
    *e = (TlbEntry) {
        .valid = true, .page = a->gva >> XMMU_PAGE_SHIFT, .page_shift = r->page_shift,
        .prot = r->prot, .mmio = r->outcome == XMMU_HW_DIRECT,
        .by_hole = by_hole,
        .gpa = r->gpa & XMMU_PAGE_MASK, .hpa = r->hpa & XMMU_PAGE_MASK,
    };
    if (e->mmio) {
        /* A write to ROM is MMIO to the engine, but reads are not. */
        e->prot &= a->want;
    }
}
