/*
 * xmmu: benchmarks of the core: shadow paging
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Times xmmu_shadow_fault() in every mode of the guest, and what a guest's writes to
 * its page tables cost.
 */
#include "core-bench.h"

#define PAGES   4088u
#define BASE    0x40000000ull
#define DATA    MIB(64)         /* guest tables are below */
#define RAM     (DATA + MIB(32))
#define TABLES  0x80000000ull   /* where the guest sees its tables */

static void fault(Bench *b, gva_t gva, uint8_t want)
{
    XmmuFault f = { .access = { .gva = gva, .want = want }, .size = 8 };

    rcu_service_lock();
    xmmu_shadow_fault(b->fx->vcpu, &f);
    rcu_service_unlock();
}

static void run_fault(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    for (unsigned i = 0; i < operations; i++) {
        fault(b, bench_gva(b, i), XMMU_PROT_WRITE);
    }
}

/* Data with a hole in each 2 MiB but for the last page. */
static void add_data(Bench *b)
{
    bench_region(b, 0, DATA, 0);
    for (gpa_t gpa = DATA; gpa < RAM; gpa += MIB(2)) {
        bench_region_with_hole(b, gpa, MIB(2), gpa, 0, MIB(2) - XMMU_PAGE_SIZE);
    }
    bench_set_map(b);
}

static void start_guest(Bench *b, unsigned mode)
{
    bench_map_process(b, 0, mode, DATA);
    fixture_load(b->fx, 0, b->regs[0]);
}

static void open_pages(Bench *b)
{
    unsigned mode = b->item->arg;

    b->count = 511;
    b->stride = XMMU_PAGE_SIZE;
    b->gva = mode == MODE_NONE ? DATA : BASE;
    bench_vm(b, RAM, false);
    add_data(b);
    start_guest(b, mode);
    fault(b, b->gva + 511 * XMMU_PAGE_SIZE, XMMU_PROT_WRITE);
    run_fault(b, 0, b->count);
}

/* One page behind each page table of the guest. */
static void open_tables(Bench *b)
{
    b->count = 64;
    b->stride = b->item->arg == 1 ? MIB(2) : GIB(1);
    b->gva = b->stride;
    bench_vm(b, RAM, false);
    add_data(b);
    b->regs[0] = fixture_regs(MODE_4L, fixture_page(b->fx));
    for (unsigned i = 0; i < b->count; i++) {
        fixture_map(b->fx, &b->regs[0], bench_gva(b, i),
                    (DATA + i * XMMU_PAGE_SIZE) | PTE_PWU | PTE_A | PTE_D, 1);
    }
    fixture_load(b->fx, 0, b->regs[0]);
    run_fault(b, 0, b->count);
}

static void forget_all(Bench *b)
{
    xmmu_vm_zap_all(b->fx->vm);
    rcu_service_drain();
    fault(b, b->gva + b->count * b->stride, XMMU_PROT_READ);
}

static void run_guest_fault(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    for (unsigned i = 0; i < operations; i++) {
        fault(b, b->gva - MIB(4), XMMU_PROT_READ);
    }
}

static void run_again(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    for (unsigned i = 0; i < operations; i++) {
        fault(b, bench_gva(b, i), XMMU_PROT_WRITE);
    }
}

/* ---- The guest changes its tables ---------------------------------------------- */

static void open_change(Bench *b)
{
    b->count = 4096;
    b->stride = XMMU_PAGE_SIZE;
    b->gva = BASE;
    bench_vm(b, RAM, true);
    bench_map_process(b, 0, MODE_4L, DATA);
    for (gpa_t gpa = 0; gpa < DATA; gpa += MIB(2)) {
        fixture_map(b->fx, &b->regs[0], TABLES + gpa,
                    gpa | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS, 2);
    }
    fixture_load(b->fx, 0, b->regs[0]);
    b->entries = g_new(gpa_t, b->count);
    for (unsigned i = 0; i < b->count; i++) {
        b->entries[i] = fixture_entry(b->fx, &b->regs[0], bench_gva(b, i),
                                      b->item->arg);
        fixture_access(b->fx, 0, bench_gva(b, i), XMMU_PROT_WRITE);
    }
    /* New tables are unsync until a flush. */
    fixture_set(b->fx, 0, &b->fx->regs[0]);
}

/* Change an entry, flush it, use it. */
static void run_change(Bench *b, unsigned thread, unsigned operations)
{
    (void)thread;
    for (unsigned i = 0; i < operations; i++) {
        gpa_t entry = b->entries[i % b->count];
        uint64_t old = fixture_read(b->fx, entry, 8);

        fixture_store(b->fx, 0, TABLES + entry, old ^ PTE_W, 8);
        xmmu_vcpu_invlpg(b->fx->vcpu, bench_gva(b, i));
        fixture_access(b->fx, 0, bench_gva(b, i), XMMU_PROT_READ);
    }
}

#define ONE_LEAF "faults_fixed=1 tables=0 pages_4k=1"

static const CoreItem items[] = {
    { "fault/shadow/no-paging", "the guest does not page", 511, 32,
      open_pages, bench_punch_holes, run_fault, NULL, ONE_LEAF, false, MODE_NONE },
    { "fault/shadow/32-bit", "two levels of 4-byte entries", 511, 32,
      open_pages, bench_punch_holes, run_fault, NULL, ONE_LEAF, false, MODE_32 },
    { "fault/shadow/pae", "three levels", 511, 32,
      open_pages, bench_punch_holes, run_fault, NULL, ONE_LEAF, false, MODE_PAE },
    { "fault/shadow/4-level", "long mode", 511, 32,
      open_pages, bench_punch_holes, run_fault, NULL, ONE_LEAF, false, MODE_4L },
    { "fault/shadow/5-level", "long mode with LA57", 511, 32,
      open_pages, bench_punch_holes, run_fault, NULL, ONE_LEAF, false, MODE_5L },
    { "fault/shadow/1-table", "long mode; the leaf's table is missing", 64, 64,
      open_tables, forget_all, run_fault, NULL, "faults_fixed=1", false, 1 },
    { "fault/shadow/2-tables", "long mode; two tables are missing", 64, 64,
      open_tables, forget_all, run_fault, NULL, "faults_fixed=1", false, 2 },
    { "fault/shadow/again", "the entry is there already: made once more", 511, 32,
      open_pages, NULL, run_again, NULL, "tables=0", false, MODE_4L },
    { "fault/shadow/guest", "the fault is the guest's own", 4096, 8,
      open_pages, NULL, run_guest_fault, NULL, "faults_guest=1", false, MODE_4L },
    { "guest/shadow/change-pte", "the guest changes a PTE, INVLPG, uses the page",
      4096, 8, open_change, NULL, run_change, NULL, "invlpg=1", false, 1 },
    { "guest/shadow/change-pde", "the guest changes a PDE, INVLPG, uses a page",
      512, 8, open_change, NULL, run_change, NULL, "invlpg=1", false, 2 },
    { "guest/tdp/change-pte", "the guest changes a PTE, INVLPG, uses the page",
      4096, 8, open_change, NULL, run_change, NULL, "invlpg=1 faults=0", true, 1 },
};

const CoreItems core_bench_shadow = { items, G_N_ELEMENTS(items) };
