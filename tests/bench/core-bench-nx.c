/*
 * xmmu: benchmarks of the core: splitting and recovering huge pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Times the three ways to recover pages that fetches have split, and what each leaves
 * for the guest to do afterwards; and splitting and promoting ranges in place.  The
 * answers decide which way is the default: docs/devel/xmmu-nx-huge-pages.rst.
 */
#include "accel/xmmu/mmu/tdp_split.h"
#include "core-bench.h"

#define EXECUTED 16u            /* small pages of a large one, for exec-again */

/* Pages of 2 MiB, so placed in host memory that no gigabyte can be one leaf. */
static void open_pages(Bench *b, bool nx, unsigned pages)
{
    XmmuConfig config = fixture_config();

    config.nx_huge_pages = nx;
    config.nx_strategy = b->item->arg;
    bench_vm_config(b, MIB(2) * (pages + 2), config);
    b->gva = MIB(2);
    b->stride = MIB(2);
    b->count = pages;
    bench_region(b, b->gva, MIB(2) * pages, MIB(4));
    bench_set_map(b);
}

static void use(Bench *b, gpa_t gpa, uint8_t want)
{
    XmmuHwResult result;

    xmmu_hw_translate_gpa(b->fx->vcpu, gpa, want, 8, &result);
}

/* ---- Recovery ----------------------------------------------------------------- */

static void open_nx(Bench *b)
{
    open_pages(b, true, b->item->operations);
}

/* Each page is mapped, written and fetched from: a full table of 4 KiB leaves. */
static void fetch_all(Bench *b)
{
    for (unsigned i = 0; i < b->count; i++) {
        use(b, bench_gva(b, i), XMMU_PROT_WRITE);
        use(b, bench_gva(b, i), XMMU_PROT_EXEC);
    }
    rcu_service_drain();
}

static void recover_all(Bench *b)
{
    fetch_all(b);
    xmmu_vm_nx_recover(b->fx->vm, b->count);
    rcu_service_drain();
}

static void run_recover(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    xmmu_vm_nx_recover(b->fx->vm, operations);
}

static void run_read(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    for (unsigned i = 0; i < operations; i++) {
        use(b, bench_gva(b, i), XMMU_PROT_READ);
    }
}

static void run_exec(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    for (unsigned i = 0; i < operations; i++) {
        for (unsigned k = 0; k < EXECUTED; k++) {
            use(b, bench_gva(b, i) + k * MIB(2) / EXECUTED, XMMU_PROT_EXEC);
        }
    }
}

/* ---- Ranges --------------------------------------------------------------------- */

#define RANGE 64u               /* pages of 2 MiB */

static void split_range(Bench *b)
{
    xmmu_tdp_split_range(b->fx->vm, XMMU_AS_NORMAL, b->gva >> XMMU_PAGE_SHIFT,
                         RANGE * 512, XMMU_LEVEL_4K);
    rcu_service_drain();
}

static void promote_range(Bench *b)
{
    xmmu_tdp_promote_range(b->fx->vm, XMMU_AS_NORMAL, b->gva >> XMMU_PAGE_SHIFT,
                           RANGE * 512);
    rcu_service_drain();
}

static void open_range(Bench *b)
{
    open_pages(b, false, RANGE);
    for (unsigned i = 0; i < RANGE; i++) {
        use(b, bench_gva(b, i), XMMU_PROT_WRITE);
    }
}

static void run_split(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    (void)operations;
    xmmu_tdp_split_range(b->fx->vm, XMMU_AS_NORMAL, b->gva >> XMMU_PAGE_SHIFT,
                         RANGE * 512, XMMU_LEVEL_4K);
}

static void run_promote(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    (void)operations;
    xmmu_tdp_promote_range(b->fx->vm, XMMU_AS_NORMAL, b->gva >> XMMU_PAGE_SHIFT,
                           RANGE * 512);
}

#define RECOVER(name, strategy, n, batches) \
    { "nx/recover-" #n "/" name, "recover " #n " pages of 2 MiB; for each", n, batches, \
      open_nx, fetch_all, run_recover, NULL, "nx_recovered=1 pages_4k=-512", true, \
      strategy }
#define READ(name, strategy, n, batches, faults) \
    { "nx/read-after-" #n "/" name, "the first read of each afterwards", n, batches, \
      open_nx, recover_all, run_read, NULL, "faults=" faults, true, strategy }
#define EXEC(name, strategy, faults) \
    { "nx/exec-again/" name, "16 small pages of each are executed again", 64, 16, \
      open_nx, recover_all, run_exec, NULL, "faults=" faults, true, strategy }
#define ITEMS(name, strategy, reads, execs) \
    RECOVER(name, strategy, 1, 64), RECOVER(name, strategy, 64, 16), \
    RECOVER(name, strategy, 4096, 1), READ(name, strategy, 1, 64, reads), \
    READ(name, strategy, 64, 16, reads), READ(name, strategy, 4096, 1, reads), \
    EXEC(name, strategy, execs)

static const CoreItem items[] = {
    ITEMS("promote", XMMU_NX_PROMOTE, "0", "1"),
    ITEMS("precise", XMMU_NX_PRECISE, "1", "16"),
    ITEMS("range", XMMU_NX_RANGE, "1", "16"),
    { "split/2m", "split 64 pages of 2 MiB in place; for each", RANGE, 16, open_range,
      promote_range, run_split, NULL, "splits=1 pages_4k=512 faults=0", true },
    { "promote/2m", "promote them in place; for each", RANGE, 16, open_range,
      split_range, run_promote, NULL, "promotions=1 pages_4k=-512 faults=0", true },
};

const CoreItems core_bench_nx = { items, G_N_ELEMENTS(items) };
