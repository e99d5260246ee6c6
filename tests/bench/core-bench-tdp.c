/*
 * xmmu: benchmarks of the core: faults of two-dimensional paging
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Times xmmu_tdp_fault() itself, as an engine calls it, by the level of the leaf and
 * by how many tables are missing on the way to it.  No guest runs; the memory that
 * is mapped is never touched.
 */
#include "core-bench.h"

#define REGIONS 64u             /* of 2 MiB, for leaves of 4 KiB */
#define PAGES   (REGIONS * 511) /* the last page of each keeps the table */

static void fault(Bench *b, unsigned cpu, gpa_t gpa, uint8_t want)
{
    XmmuFault f = { .access.want = want, .tdp_gpa = gpa, .size = 8 };

    rcu_service_lock();
    xmmu_tdp_fault(b->fx->cpus[cpu], &f);
    rcu_service_unlock();
}

/* ---- Leaves of 4 KiB, with all tables there ------------------------------ */

static void open_4k(Bench *b)
{
    bench_vm(b, MIB(2) * REGIONS, false);
    for (unsigned i = 0; i < REGIONS; i++) {
        gpa_t gpa = i * MIB(2);

        bench_region_with_hole(b, gpa, MIB(2), gpa, 0, MIB(2) - XMMU_PAGE_SIZE);
        fault(b, 0, gpa + MIB(2) - XMMU_PAGE_SIZE, XMMU_PROT_WRITE);
    }
    bench_set_map(b);
    b->own = g_new(uint32_t, PAGES);
    for (unsigned i = 0; i < PAGES; i++) {
        ((uint32_t *)b->own)[i] = i / 511 * 512 + i % 511;
    }
}

static void open_4k_random(Bench *b)
{
    uint32_t *frame, x = 1;

    open_4k(b);
    frame = b->own;
    for (unsigned i = PAGES - 1; i > 0; i--) {
        unsigned k = (x = x * 1664525 + 1013904223) % (i + 1);
        uint32_t other = frame[k];

        frame[k] = frame[i];
        frame[i] = other;
    }
}

static void run_4k(Bench *b, unsigned thread, unsigned operations)
{
    const uint32_t *frame = b->own;

    for (unsigned i = 0; i < operations; i++) {
        fault(b, thread, (gpa_t)frame[i] << XMMU_PAGE_SHIFT, XMMU_PROT_WRITE);
    }
}

/* The same by the hardware model: a miss, the fault, the walk again. */
static void run_4k_access(Bench *b, unsigned thread, unsigned operations)
{
    const uint32_t *frame = b->own;
    XmmuHwResult result;

    for (unsigned i = 0; i < operations; i++) {
        xmmu_hw_translate_gpa(b->fx->cpus[thread], (gpa_t)frame[i] << XMMU_PAGE_SHIFT,
                              XMMU_PROT_WRITE, 8, &result);
    }
}

static void open_4k_there(Bench *b)
{
    open_4k(b);
    run_4k(b, 0, PAGES);
}

/* ---- One leaf, or one path, for each place ---------------------------------- */

static void run_places(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        fault(b, thread, bench_gva(b, i), XMMU_PROT_WRITE);
    }
}

/* Leaves of 2 MiB: a hole of one page takes each away. */
static void open_2m(Bench *b)
{
    b->count = 4096;
    b->stride = MIB(2);
    bench_vm(b, b->count * b->stride, true);
    for (unsigned i = 0; i < b->count; i++) {
        bench_region_with_hole(b, i * MIB(2), MIB(2), i * MIB(2), 0, XMMU_PAGE_SIZE);
    }
    bench_set_map(b);
    run_places(b, 0, b->count);
}

/* Leaves of 1 GiB; the guest's memory repeats. */
static void open_1g(Bench *b)
{
    b->count = 511;
    b->stride = GIB(1);
    bench_vm(b, GIB(1), true);
    for (unsigned i = 0; i < b->count; i++) {
        bench_region_with_hole(b, i * GIB(1), GIB(1), 0, 0, XMMU_PAGE_SIZE);
    }
    bench_set_map(b);
    run_places(b, 0, b->count);
}

/* Places for which as many tables are missing as the item says.  One more keeps the
 * tables above. */
static void open_missing(Bench *b)
{
    int missing = b->item->arg;

    b->count = missing == 3 ? 255 : 511;
    b->stride = missing == 3 ? GIB(512) : missing == 2 ? GIB(1) : MIB(2);
    bench_vm(b, MIB(2), false);
    for (unsigned i = 0; i <= b->count; i++) {
        bench_region(b, i * b->stride, MIB(2), 0);
    }
    bench_set_map(b);
}

static void prepare_missing(Bench *b)
{
    xmmu_vm_zap_all(b->fx->vm);
    rcu_service_drain();
    fault(b, 0, b->count * b->stride, XMMU_PROT_WRITE);
}

/* ---- Faults that install no RAM ---------------------------------------------- */

static void open_mmio(Bench *b)
{
    b->count = 511 * 8;
    b->stride = XMMU_PAGE_SIZE;
    b->gva = GIB(1);
    bench_vm(b, MIB(2), false);
    bench_region(b, 0, MIB(2), 0);
    bench_set_map(b);
    run_places(b, 0, b->count);
}

/* A change of the map makes all cached MMIO old. */
static void prepare_mmio(Bench *b)
{
    bench_set_map(b);
    rcu_service_drain();
}

static void run_mmio_access(Bench *b, unsigned thread, unsigned operations)
{
    XmmuHwResult result;

    for (unsigned i = 0; i < operations; i++) {
        xmmu_hw_translate_gpa(b->fx->cpus[thread], bench_gva(b, i), XMMU_PROT_WRITE, 8,
                              &result);
    }
}

static void open_rom(Bench *b)
{
    XmmuRegion rom = { .npages = 512, .flags = XMMU_REGION_READONLY };

    b->count = 512;
    b->stride = XMMU_PAGE_SIZE;
    bench_vm(b, MIB(2), false);
    rom.hpa = (uintptr_t)b->fx->ram;
    xmmu_vm_set_memory(b->fx->vm, XMMU_AS_NORMAL, &rom, 1);
}

#define FIXED "faults_fixed=1 tables=0"

static const CoreItem items[] = {
    { "fault/tdp/4k", "tables are there; pages in order", PAGES, 8,
      open_4k, bench_punch_holes, run_4k, NULL, FIXED " pages_4k=1", true },
    { "fault/tdp/4k-random", "tables are there; pages in random order", PAGES, 8,
      open_4k_random, bench_punch_holes, run_4k, NULL, FIXED " pages_4k=1", true },
    { "fault/tdp/4k-access", "the same with both walks by the hardware model",
      PAGES, 8, open_4k_random, bench_punch_holes, run_4k_access, NULL,
      FIXED " pages_4k=1", true },
    { "fault/tdp/2m", "tables are there", 4096, 16,
      open_2m, bench_punch_holes, run_places, NULL, FIXED " pages_2m=1", true },
    { "fault/tdp/1g", "tables are there", 511, 64,
      open_1g, bench_punch_holes, run_places, NULL, FIXED " pages_1g=1", true },
    { "fault/tdp/4k-1-table", "the leaf's table is missing", 511, 16,
      open_missing, prepare_missing, run_places, NULL, "faults_fixed=1 tables=1",
      true, 1 },
    { "fault/tdp/4k-2-tables", "two tables are missing", 511, 16,
      open_missing, prepare_missing, run_places, NULL, "faults_fixed=1 tables=2",
      true, 2 },
    { "fault/tdp/4k-3-tables", "all tables but the root are missing", 255, 16,
      open_missing, prepare_missing, run_places, NULL, "faults_fixed=1 tables=3",
      true, 3 },
    { "fault/tdp/spurious", "the entry is there already", PAGES, 8,
      open_4k_there, NULL, run_4k, NULL, "faults_spurious=1 faults_fixed=0", true },
    { "fault/tdp/mmio", "no memory there; the entry that says so is made",
      511 * 8, 8, open_mmio, prepare_mmio, run_places, NULL, "faults_emulate=1", true },
    { "fault/tdp/mmio-cached", "no memory there, as an entry says: no fault",
      511 * 8, 8, open_mmio, NULL, run_mmio_access, NULL, "mmio_cached=1 faults=0",
      true },
    { "fault/tdp/rom-write", "a write to read-only memory", 4096, 8,
      open_rom, NULL, run_places, NULL, "faults_emulate=1", true },
};

const CoreItems core_bench_tdp = { items, G_N_ELEMENTS(items) };
