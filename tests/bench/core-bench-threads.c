/*
 * xmmu: benchmarks of the core: several vCPUs at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Times the same work on one and on two threads that are vCPUs of one VM.  What the
 * machine itself loses with both processors busy is shown by an item that has
 * nothing to do with the core.
 */
#include "core-bench.h"

#define REGIONS 512u            /* of 2 MiB; all but the last page of each */
#define PAGES   (REGIONS * 511)
#define SHARE   (PAGES / BENCH_THREADS)

static void fault(Bench *b, unsigned thread, unsigned i)
{
    XmmuFault f = {
        .access.want = XMMU_PROT_WRITE, .size = 8,
        .tdp_gpa = (gpa_t)(i / 511 * 512 + i % 511) << XMMU_PAGE_SHIFT,
    };

    rcu_service_lock();
    xmmu_tdp_fault(b->fx->cpus[thread], &f);
    rcu_service_unlock();
}

static void open_faults(Bench *b)
{
    bench_vm(b, MIB(2) * REGIONS, false);
    for (unsigned i = 1; i < BENCH_THREADS; i++) {
        fixture_add_cpu(b->fx, i);
    }
    for (unsigned i = 0; i < REGIONS; i++) {
        XmmuFault f = { .access.want = XMMU_PROT_WRITE, .size = 8,
                        .tdp_gpa = (i + 1) * MIB(2) - XMMU_PAGE_SIZE };

        bench_region_with_hole(b, i * MIB(2), MIB(2), i * MIB(2), 0,
                               MIB(2) - XMMU_PAGE_SIZE);
        rcu_service_lock();
        xmmu_tdp_fault(b->fx->vcpu, &f);
        rcu_service_unlock();
    }
    bench_set_map(b);
}

/* Each thread has memory of its own. */
static void run_apart(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        fault(b, thread, thread * SHARE + i);
    }
}

/* Neighbouring pages belong to different threads: they write to one table. */
static void run_mixed(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        fault(b, thread, i * BENCH_THREADS + thread);
    }
}

static void open_nothing(Bench *b)
{
    bench_vm(b, MIB(2), false);
}

/* Dependent arithmetic in registers. */
static void run_private(Bench *b, unsigned thread, unsigned operations)
{
    volatile uint64_t sink;
    uint64_t x = thread + 1;

    (void)b;
    for (unsigned i = 0; i < operations * 16; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
    }
    sink = x;
    (void)sink;
}

static const CoreItem items[] = {
    { "threads/machine/1", "arithmetic in registers, 1 thread", SHARE, 4,
      open_nothing, NULL, run_private, NULL, "", true, 0, 1 },
    { "threads/machine/2", "the same on 2 threads", SHARE, 4,
      open_nothing, NULL, run_private, NULL, "", true, 0, 2 },
    { "threads/tdp-apart/1", "TDP faults of 4 KiB, 1 thread", SHARE, 4,
      open_faults, bench_punch_holes, run_apart, NULL, "faults_fixed=1", true, 0, 1 },
    { "threads/tdp-apart/2", "the same on 2 threads, each in its own tables", SHARE, 4,
      open_faults, bench_punch_holes, run_apart, NULL, "faults_fixed=1", true, 0, 2 },
    { "threads/tdp-mixed/1", "every other page, 1 thread", SHARE, 4,
      open_faults, bench_punch_holes, run_mixed, NULL, "faults_fixed=1", true, 0, 1 },
    { "threads/tdp-mixed/2", "the same on 2 threads, in the same tables", SHARE, 4,
      open_faults, bench_punch_holes, run_mixed, NULL, "faults_fixed=1", true, 0, 2 },
};

const CoreItems core_bench_threads = { items, G_N_ELEMENTS(items) };
