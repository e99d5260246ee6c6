/*
 * xmmu fuzz: looks from outside
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns accesses that no page table of the guest decides, the debugger's, and what
 * can be seen of the core.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fuzz.h"

void fz_op_gpa(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    gpa_t gpa = f->world.pool[source_below(s, POOL_PAGES)].gpa | world_index(s) * 8;
    uint8_t want = source_percent(s, 30) ? XMMU_PROT_WRITE : XMMU_PROT_READ;
    bool writable = false;
    uint8_t *mem;
    XmmuHwResult r;

    if (gpa >> f->caps.maxphyaddr) {
        return;
    }
    if (cpu->regs.a20_masked) {
        gpa &= ~(gpa_t)0x100000;
    }
    mem = world_host(&f->world, fz_as(cpu), gpa, &writable);
    xmmu_hw_translate_gpa(cpu->vcpu, gpa, want, 8, &r);
    while (r.outcome == XMMU_HW_RING_FULL) {
        fz_spill(f, cpu);
        xmmu_hw_translate_gpa(cpu->vcpu, gpa, want, 8, &r);
    }
    fz_trace(f, "vCPU %u physical access gpa %#" PRIx64 " want %u -> %d", cpu->index, gpa,
             want, r.outcome);
    if (r.gpa != gpa || (r.outcome == XMMU_HW_OK && r.hpa != (uintptr_t)mem) ||
        r.outcome > XMMU_HW_DIRECT ||
        (r.outcome == XMMU_HW_OK && want == XMMU_PROT_WRITE && !writable) ||
        (r.outcome == XMMU_HW_DIRECT && want == XMMU_PROT_READ && mem)) {
        fprintf(stderr, "\nDIFFERENCE: physical access to %#" PRIx64 " want %u\n", gpa,
                want);
        fz_print_setting(f, cpu);
        fz_print_got(&r);
        abort();
    }
    /* Shadow paging does not track what the CPU writes without translation. */
    if (want == XMMU_PROT_WRITE && f->config.tdp) {
        uint64_t entry = world_entry(&f->world, s);

        if (fz_store(f, cpu, &r, &entry, sizeof(entry))) {
            fz_flush_after_write(f);
        }
    }
}

void fz_op_debug(Fuzz *f, Cpu *cpu)
{
    XmmuAccess a = { .gva = fz_random_gva(f, cpu, 8), .want = XMMU_PROT_READ };
    XmmuHwResult none = { .outcome = XMMU_HW_EXCEPTION };
    static const Spans never;
    View v = { .f = f, .cpu = cpu, .access = &a, .got = &none, .spans = &never };
    RefMmu mmu = fz_ref_of(f, cpu, &v);
    RefAccess ref = fz_ref_access(&a);
    gpa_t gpa = 0;
    bool mapped = xmmu_hw_translate_debug(cpu->vcpu, a.gva, &gpa);

    ref_translate(&mmu, &ref, &v.now);
    if (v.now.fault && (v.now.error_code & 8)) {
        return;
    }
    if (mapped != (!v.now.fault || (v.now.error_code & 1)) ||
        (mapped && gpa != v.now.phys)) {
        none.gpa = gpa;
        fz_differ(&v, "debugger's translation");
    }
}

/* A root is in the cache once, and under what it is looked up with. */
void fz_op_look(Fuzz *f, Cpu *cpu)
{
    XmmuRootInfo roots[XMMU_PREV_ROOTS_MAX + 1];
    size_t n = xmmu_vcpu_roots(cpu->vcpu, roots, G_N_ELEMENTS(roots));
    char *text = xmmu_vcpu_role_text(cpu->vcpu);
    XmmuStats stats;

    if (!text[0]) {
        fprintf(stderr, "empty role text\n");
        abort();
    }
    g_free(text);
    xmmu_vm_stats(f->vm, &stats);
    xmmu_vcpu_stats(cpu->vcpu, &stats);
    for (size_t i = 0; i < n; i++) {
        g_free(xmmu_page_role_text(roots[i].page_role));
        for (size_t j = i + 1; j < n; j++) {
            if (roots[i].valid && roots[j].valid && roots[i].pgd == roots[j].pgd &&
                roots[i].pcid == roots[j].pcid &&
                roots[i].page_role == roots[j].page_role) {
                fprintf(stderr, "\nDIFFERENCE: root pgd %#" PRIx64 " role %#x is cached "
                        "twice (%zu, %zu)\n", roots[i].pgd, roots[i].page_role, i, j);
                fz_print_setting(f, cpu);
                abort();
            }
        }
    }
}
