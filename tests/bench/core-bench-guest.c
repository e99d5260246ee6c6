/*
 * xmmu: benchmarks of the core: guests to measure with
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what several items need: VMs, guest tables, and memory maps with holes, by
 * which entries are taken away while their tables stay.
 */
#include "core-bench.h"

void bench_vm(Bench *b, uint64_t ram, bool huge_pages)
{
    XmmuConfig config = b->item->tdp ? fixture_config() : fixture_shadow_config();

    config.huge_pages = huge_pages;
    bench_vm_config(b, ram, config);
}

void bench_vm_config(Bench *b, uint64_t ram, XmmuConfig config)
{
    config.table_memory = GIB(8);       /* no reclaim unless an item wants it */
    b->fx = fixture_new(&config, ram);
    b->keep = g_array_new(false, false, sizeof(XmmuRegion));
    b->without = g_array_new(false, false, sizeof(XmmuRegion));
}

void bench_map_process(Bench *b, unsigned process, unsigned mode, gpa_t gpa)
{
    XmmuRegs *regs = &b->regs[process];

    if (mode == MODE_NONE) {
        *regs = fixture_regs(MODE_NONE, 0);
        return;
    }
    *regs = fixture_regs(mode, fixture_page(b->fx));
    for (unsigned i = 0; i < b->count; i++) {
        fixture_map(b->fx, regs, b->gva + i * b->stride,
                    (gpa + i * b->stride) | PTE_PWU | PTE_A | PTE_D, 1);
    }
}

static void append(GArray *list, const Bench *b, gpa_t gpa, uint64_t size, gpa_t backing)
{
    XmmuRegion region = {
        .gfn = gpa >> XMMU_PAGE_SHIFT, .npages = size >> XMMU_PAGE_SHIFT,
        .hpa = (uintptr_t)b->fx->ram + backing,
    };

    if (size) {
        g_array_append_val(list, region);
    }
}

void bench_region(Bench *b, gpa_t gpa, uint64_t size, gpa_t backing)
{
    append(b->keep, b, gpa, size, backing);
    append(b->without, b, gpa, size, backing);
}

void bench_region_with_hole(Bench *b, gpa_t gpa, uint64_t size, gpa_t backing,
                            uint64_t hole_at, uint64_t hole_size)
{
    uint64_t end = hole_at + hole_size;

    append(b->keep, b, gpa, size, backing);
    append(b->without, b, gpa, hole_at, backing);
    append(b->without, b, gpa + end, size - end, backing + end);
}

static void set_memory(Bench *b, const GArray *list)
{
    xmmu_vm_set_memory(b->fx->vm, XMMU_AS_NORMAL, (const XmmuRegion *)list->data,
                       list->len);
}

void bench_set_map(Bench *b)
{
    set_memory(b, b->keep);
}

void bench_punch_holes(Bench *b)
{
    set_memory(b, b->without);
    set_memory(b, b->keep);
    rcu_service_drain();
}
