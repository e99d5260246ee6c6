/*
 * xmmu: benchmarks of the core: walks and what a guest's instructions cost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Times translations that hit, CR3 loads with cached and with other roots, INVLPG, and
 * taking registers over with and without a re-initialisation.
 */
#include "core-bench.h"
#include "../../accel/xmmu/mmu/vm.h"

#define PAGES   4096u
#define BASE    0x40000000ull
#define DATA    MIB(96)         /* guest tables are below */
#define RAM     (DATA + MIB(16))

static void open_mode(Bench *b, unsigned mode, unsigned processes)
{
    b->count = PAGES;
    b->stride = XMMU_PAGE_SIZE;
    b->gva = BASE;
    bench_vm(b, RAM, b->item->tdp);
    for (unsigned i = 0; i < processes; i++) {
        bench_map_process(b, i, mode, DATA);
        fixture_load(b->fx, 0, b->regs[i]);
        for (unsigned k = 0; k < PAGES; k++) {
            fixture_access(b->fx, 0, bench_gva(b, k), XMMU_PROT_WRITE);
        }
        b->regs[i] = b->fx->regs[0];
        /* New tables are unsync until a flush. */
        fixture_set(b->fx, 0, &b->regs[i]);
    }
}

/* ---- Walks ------------------------------------------------------------------ */

static void open_walk(Bench *b)
{
    open_mode(b, b->item->arg, 1);
}

static void run_translate(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        fixture_access(b->fx, thread, bench_gva(b, i), XMMU_PROT_READ);
    }
}

/* Pages in an order that neither the walk cache nor the host's caches like. */
static void run_scattered(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        fixture_access(b->fx, thread, bench_gva(b, i * 1553), XMMU_PROT_READ);
    }
}

static void run_guest_walk(Bench *b, unsigned thread, unsigned operations)
{
    XmmuGuestWalk walk;

    (void)thread;
    for (unsigned i = 0; i < operations; i++) {
        XmmuAccess access = { .gva = bench_gva(b, i), .want = XMMU_PROT_READ };

        rcu_service_lock();
        xmmu_guest_walk(b->fx->vcpu->walk_mmu, &access, xmmu_map_through_slots, NULL, &walk);
        rcu_service_unlock();
    }
}

static void open_small_tdp(Bench *b)
{
    b->count = PAGES;
    b->stride = XMMU_PAGE_SIZE;
    bench_vm(b, RAM, false);
    for (unsigned i = 0; i < PAGES; i++) {
        fixture_access(b->fx, 0, bench_gva(b, i), XMMU_PROT_WRITE);
    }
}

static void run_gpa(Bench *b, unsigned thread, unsigned operations)
{
    unsigned pages = b->item->arg;
    XmmuHwResult result;

    for (unsigned i = 0; i < operations; i++) {
        xmmu_hw_translate_gpa(b->fx->cpus[thread], bench_gva(b, i % pages),
                              XMMU_PROT_READ, 8, &result);
    }
}

/* ---- CR3 ---------------------------------------------------------------------- */

static void open_processes(Bench *b)
{
    open_mode(b, MODE_4L, b->item->arg);
}

/* MOV to CR3 as an engine does it that dropped its own translations. */
static void load_cr3(Bench *b, unsigned thread, const XmmuRegs *regs)
{
    xmmu_vcpu_flushed(b->fx->cpus[thread]);
    xmmu_vcpu_load_cr3(b->fx->cpus[thread], regs, false);
}

static void run_switch(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        load_cr3(b, thread, &b->regs[i % b->item->arg]);
    }
}

/* A root that is not cached is only loaded when it is used. */
static void run_switch_use(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        load_cr3(b, thread, &b->regs[i % b->item->arg]);
        fixture_access(b->fx, thread, BASE, XMMU_PROT_READ);
    }
}

/* With PCIDs, and bit 63 of CR3's operand: no flush is asked for. */
static void open_pcids(Bench *b)
{
    open_processes(b);
    for (int i = 0; i < b->item->arg; i++) {
        b->regs[i].cr4 |= XMMU_CR4_PCIDE;
        b->regs[i].cr3 |= i + 1;
        fixture_set(b->fx, 0, &b->regs[i]);
        fixture_access(b->fx, 0, BASE, XMMU_PROT_READ);
    }
}

static void run_switch_keep(Bench *b, unsigned thread, unsigned operations)
{
    XmmuVcpu *vcpu = b->fx->cpus[thread];

    for (unsigned i = 0; i < operations; i++) {
        xmmu_vcpu_flushed(vcpu);
        xmmu_vcpu_load_cr3(vcpu, &b->regs[i % b->item->arg], true);
    }
}

/* Before each load, the guest has changed one entry of a page table. */
static void open_unsync(Bench *b)
{
    open_mode(b, MODE_4L, b->item->arg);
    b->entries = g_new(gpa_t, b->item->arg);
    for (int i = 0; i < b->item->arg; i++) {
        b->entries[i] = fixture_entry(b->fx, &b->regs[i], BASE, 1);
        /* The last page of the window is the process's own page table. */
        fixture_map(b->fx, &b->regs[i], BASE + PAGES * XMMU_PAGE_SIZE,
                    (b->entries[i] & XMMU_PAGE_MASK) | PTE_PWU | PTE_A | PTE_D, 1);
        fixture_set(b->fx, 0, &b->regs[i]);
    }
}

static void run_switch_unsync(Bench *b, unsigned thread, unsigned operations)
{
    gva_t window = BASE + PAGES * XMMU_PAGE_SIZE;

    for (unsigned i = 0; i < operations; i++) {
        unsigned process = i % b->item->arg;
        uint64_t old = fixture_read(b->fx, b->entries[process], 8);

        load_cr3(b, thread, &b->regs[process]);
        fixture_store(b->fx, thread, window, old ^ PTE_W, 8);
    }
}

static void run_reload(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        load_cr3(b, thread, &b->regs[0]);
    }
}

/* ---- INVLPG and registers ------------------------------------------------------- */

static void run_invlpg(Bench *b, unsigned thread, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        xmmu_vcpu_invlpg(b->fx->cpus[thread], bench_gva(b, i));
    }
}

/* The same registers but for the bits of CR4 that the item names, every other time. */
static void run_regs(Bench *b, unsigned thread, unsigned operations)
{
    XmmuRegs other = b->regs[0];

    if (b->item->arg) {
        other.cr4 ^= XMMU_CR4_SMEP;
    }
    for (unsigned i = 0; i < operations; i++) {
        xmmu_vcpu_set_regs(b->fx->cpus[thread], i & 1 ? &b->regs[0] : &other);
    }
}

static void open_regs(Bench *b)
{
    open_mode(b, MODE_4L, 1);
}

#define HIT "root_hits=1 roots_new=0 tables=0 syncs=0 zaps=0 faults=0 flushes=0"

static const CoreItem items[] = {
    { "walk/guest/32-bit", "a guest walk alone, its tables by the slots", PAGES, 16,
      open_walk, NULL, run_guest_walk, NULL, "guest_walks=1", false, MODE_32 },
    { "walk/guest/4-level", "the same", PAGES, 16,
      open_walk, NULL, run_guest_walk, NULL, "guest_walks=1", false, MODE_4L },
    { "walk/guest/5-level", "the same", PAGES, 16,
      open_walk, NULL, run_guest_walk, NULL, "guest_walks=1", false, MODE_5L },
    { "walk/tdp/4k", "a guest physical address to a 4 KiB leaf", PAGES, 16,
      open_small_tdp, NULL, run_gpa, NULL, "walks=1 faults=0", true, PAGES },
    { "walk/tdp/cached", "the same, found in the nested TLB", PAGES, 16,
      open_small_tdp, NULL, run_gpa, NULL, "faults=0", true, 128 },
    { "walk/both/4-level", "both dimensions, pages in order", PAGES, 16,
      open_walk, NULL, run_translate, NULL, "faults=0 guest_walks=1", true, MODE_4L },
    { "walk/both/scattered", "both dimensions, pages scattered", PAGES, 16,
      open_walk, NULL, run_scattered, NULL, "faults=0 guest_walks=1", true, MODE_4L },
    { "walk/shadow/32-bit", "a translation that shadow tables hold", PAGES, 16,
      open_walk, NULL, run_translate, NULL, "walks=1 faults=0", false, MODE_32 },
    { "walk/shadow/4-level", "the same", PAGES, 16,
      open_walk, NULL, run_translate, NULL, "walks=1 faults=0", false, MODE_4L },
    { "walk/shadow/5-level", "the same", PAGES, 16,
      open_walk, NULL, run_translate, NULL, "walks=1 faults=0", false, MODE_5L },
    { "walk/shadow/scattered", "the same, pages scattered", PAGES, 16,
      open_walk, NULL, run_scattered, NULL, "walks=1 faults=0", false, MODE_4L },
    { "cr3/shadow/hit", "load CR3 of three in turn: cached roots", 4096, 16,
      open_processes, NULL, run_switch, NULL, HIT, false, 3 },
    { "cr3/shadow/keep", "the same of three PCIDs, with bit 63", 4096, 16,
      open_pcids, NULL, run_switch_keep, NULL, HIT " flushes_avoided=1", false, 3 },
    { "cr3/shadow/hit-use", "the same, and one translation", 4096, 16,
      open_processes, NULL, run_switch_use, NULL, HIT, false, 3 },
    { "cr3/shadow/miss-use", "load CR3 of eight in turn, and one translation", 4096, 16,
      open_processes, NULL, run_switch_use, NULL, "root_misses=1 root_hits=0", false, 8 },
    { "cr3/shadow/unsync", "cached roots; a page table was written since", 4096, 4,
      open_unsync, NULL, run_switch_unsync, NULL, "root_hits=1", false, 3 },
    { "cr3/shadow/same", "load the same CR3 again", 4096, 16,
      open_regs, NULL, run_reload, NULL, "tables=0 syncs=0", false },
    { "cr3/tdp/other", "load CR3 of three in turn", 4096, 16,
      open_processes, NULL, run_switch, NULL, "tables=0 zaps=0 faults=0", true, 3 },
    { "cr3/tdp/other-use", "the same, and one translation", 4096, 16,
      open_processes, NULL, run_switch_use, NULL, "tables=0 zaps=0 faults=0", true, 3 },
    { "cr3/tdp/same", "load the same CR3 again", 4096, 16,
      open_regs, NULL, run_reload, NULL, "tables=0 zaps=0 faults=0", true },
    { "invlpg/shadow", "nothing is unsync", PAGES, 16,
      open_regs, NULL, run_invlpg, NULL, "invlpg=1 zaps=0 syncs=0", false },
    { "invlpg/tdp", "tables depend on no guest entry", PAGES, 16,
      open_regs, NULL, run_invlpg, NULL, "invlpg=1 zaps=0", true },
    { "regs/tdp/same", "take registers over: re-initialisation skipped", 4096, 16,
      open_regs, NULL, run_regs, NULL, "role_skips=1 role_changes=0", true, 0 },
    { "regs/tdp/changed", "CR4.SMEP flips: masks are computed", 4096, 16,
      open_regs, NULL, run_regs, NULL, "role_changes=1", true, 1 },
    { "regs/shadow/same", "re-initialisation skipped", 4096, 16,
      open_regs, NULL, run_regs, NULL, "role_skips=1 role_changes=0", false, 0 },
    { "regs/shadow/changed", "CR4.SMEP flips: masks and root change", 4096, 16,
      open_regs, NULL, run_regs, NULL, "role_changes=1", false, 1 },
};

const CoreItems core_bench_vcpu = { items, G_N_ELEMENTS(items) };
