/*
 * xmmu: benchmarks of the core: taking translations away
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Times how 1 GiB of guest memory is unmapped, by the size of its leaves.
 */
#include "core-bench.h"

/* ---- 1 GiB of a TDP tree -------------------------------------------------------- */

static void open_tdp(Bench *b)
{
    bool huge = b->item->arg == XMMU_LEVEL_2M;

    b->stride = huge ? MIB(2) : XMMU_PAGE_SIZE;
    b->count = GIB(1) / b->stride;
    /* 1 GiB that is not aligned as a page of that size. */
    b->gva = MIB(2);
    bench_vm(b, GIB(1) + MIB(4), huge);
    bench_region(b, 0, MIB(2), 0);
    bench_region_with_hole(b, MIB(2), GIB(1) + MIB(2), MIB(2), 0, GIB(1));
    bench_set_map(b);
}

static void fill_tdp(Bench *b)
{
    XmmuHwResult result;

    bench_set_map(b);
    for (unsigned i = 0; i < b->count; i++) {
        xmmu_hw_translate_gpa(b->fx->vcpu, bench_gva(b, i), XMMU_PROT_WRITE, 8, &result);
    }
    rcu_service_drain();
}

/* As an operation counts each leaf. */
static void run_zap(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    (void)operations;
    xmmu_vm_set_memory(b->fx->vm, XMMU_AS_NORMAL,
                       (const XmmuRegion *)b->without->data, b->without->len);
}

static void run_zap_all(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    (void)operations;
    xmmu_vm_zap_all(b->fx->vm);
}

/* ---- Shadow tables ----------------------------------------------------------------- */

#define DATA MIB(16)

static void open_shadow(Bench *b)
{
    b->count = 65536;
    b->stride = XMMU_PAGE_SIZE;
    b->gva = 0x40000000;
    bench_vm(b, DATA + MIB(256), false);
    bench_region_with_hole(b, 0, DATA + MIB(256), 0, DATA, MIB(256));
    bench_map_process(b, 0, MODE_4L, DATA);
    fixture_load(b->fx, 0, b->regs[0]);
}

static void fill_shadow(Bench *b)
{
    bench_set_map(b);
    for (unsigned i = 0; i < b->count; i++) {
        fixture_access(b->fx, 0, bench_gva(b, i), XMMU_PROT_WRITE);
    }
    rcu_service_drain();
}

static const CoreItem items[] = {
    { "zap/tdp/4k", "unmap 1 GiB of 4 KiB leaves; for each leaf", 262144, 2,
      open_tdp, fill_tdp, run_zap, NULL, "zaps=1 pages_4k=-1", true, XMMU_LEVEL_4K },
    { "zap/tdp/2m", "unmap 1 GiB of 2 MiB leaves; for each leaf", 512, 32,
      open_tdp, fill_tdp, run_zap, NULL, "zaps=1 pages_2m=-1", true, XMMU_LEVEL_2M },
    { "zap/tdp/all-4k", "forget everything, 1 GiB of 4 KiB leaves; for each",
      262144, 2, open_tdp, fill_tdp, run_zap_all, NULL, "pages_4k=-1", true,
      XMMU_LEVEL_4K },
    { "zap/shadow/4k", "unmap 256 MiB of 4 KiB leaves; for each leaf", 65536, 2,
      open_shadow, fill_shadow, run_zap, NULL, "pages_4k=-1", false },
    { "zap/shadow/all-4k", "forget everything, 256 MiB of 4 KiB leaves; for each",
      65536, 2, open_shadow, fill_shadow, run_zap_all, NULL, "", false },
};

const CoreItems core_bench_zap = { items, G_N_ELEMENTS(items) };
