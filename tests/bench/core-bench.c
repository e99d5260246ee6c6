/*
 * xmmu: benchmarks of the core and the hardware model alone
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where `make bench` says that something got slower, this says where to look: it
 * times one mechanism at a time, without QEMU, with two-dimensional and with
 * shadow paging.  One line an item, in nanoseconds for one operation; the best of
 * several rounds, as everything that disturbs only adds.
 *
 * usage: core-bench [ITEM...]
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../unit/fixture.h"

#define ROUNDS      7
#define PAGES       4096u               /* of 4 KiB that the guest maps: 16 MiB */
#define BASE        0x40000000ull
#define TABLES      0x80000000ull       /* where the guest sees its tables */
#define MEMORY      MIB(64)             /* what it maps at BASE; tables are below */
#define PROCESSES   3

typedef struct Bench {
    Fixture *fx;
    XmmuRegs regs[PROCESSES];
    gpa_t entries[PAGES];               /* of process 0: where its entries are */
} Bench;

typedef struct Item {
    const char *name;
    const char *what;
    unsigned operations;
    void (*run)(Bench *b, unsigned operations);
} Item;

/* ---- The guest ----------------------------------------------------------- */

/* All processes map the same pages, each by tables of its own. */
static void make_process(Bench *b, unsigned process)
{
    XmmuRegs *regs = &b->regs[process];

    *regs = fixture_regs(MODE_4L, fixture_page(b->fx));
    for (unsigned i = 0; i < PAGES; i++) {
        fixture_map(b->fx, regs, BASE + i * XMMU_PAGE_SIZE,
                    (MEMORY + i * XMMU_PAGE_SIZE) | PTE_PWU | PTE_A | PTE_D, 1);
    }
    for (gpa_t gpa = 0; gpa < MEMORY; gpa += MIB(2)) {
        fixture_map(b->fx, regs, TABLES + gpa,
                    gpa | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS, 2);
    }
}

static void touch_all(Bench *b, unsigned how)
{
    for (unsigned i = 0; i < PAGES; i++) {
        fixture_access(b->fx, 0, BASE + i * XMMU_PAGE_SIZE, how);
    }
}

static Bench *bench_new(bool tdp)
{
    XmmuConfig config = tdp ? fixture_config() : fixture_shadow_config();
    Bench *b = g_new0(Bench, 1);

    b->fx = fixture_new(&config, MIB(128));
    for (unsigned i = 0; i < PROCESSES; i++) {
        make_process(b, i);
    }
    for (unsigned i = 0; i < PAGES; i++) {
        b->entries[i] = fixture_entry(b->fx, &b->regs[0],
                                      BASE + i * XMMU_PAGE_SIZE, 1);
    }
    for (unsigned i = 0; i < PROCESSES; i++) {
        fixture_set(b->fx, 0, &b->regs[i]);
        touch_all(b, XMMU_PROT_WRITE);
    }
    fixture_set(b->fx, 0, &b->regs[0]);
    return b;
}

static void bench_free(Bench *b)
{
    fixture_free(b->fx);
    g_free(b);
}

/* ---- Items ------------------------------------------------------------------ */

static void run_next(Bench *b, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        fixture_access(b->fx, 0, BASE + i % PAGES * XMMU_PAGE_SIZE, XMMU_PROT_READ);
    }
}

static void run_random(Bench *b, unsigned operations)
{
    uint32_t x = 1;

    for (unsigned i = 0; i < operations; i++) {
        x = x * 1664525 + 1013904223;
        fixture_access(b->fx, 0, BASE + (x >> 12) % PAGES * XMMU_PAGE_SIZE,
                       XMMU_PROT_READ);
    }
}

static void run_fault(Bench *b, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        if (i % PAGES == 0) {
            xmmu_vm_zap_all(b->fx->vm);
        }
        fixture_access(b->fx, 0, BASE + i % PAGES * XMMU_PAGE_SIZE, XMMU_PROT_WRITE);
    }
    rcu_service_drain();
}

static void run_guest_fault(Bench *b, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        fixture_access(b->fx, 0, BASE - XMMU_PAGE_SIZE, XMMU_PROT_READ);
    }
}

static void run_switch(Bench *b, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        fixture_set(b->fx, 0, &b->regs[i % PROCESSES]);
        fixture_access(b->fx, 0, BASE, XMMU_PROT_READ);
    }
    fixture_set(b->fx, 0, &b->regs[0]);
}

/* The guest changes an entry, flushes it and uses it. */
static void run_change(Bench *b, unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        unsigned page = i % PAGES;
        gpa_t entry = b->entries[page];
        gva_t gva = BASE + page * XMMU_PAGE_SIZE;
        uint64_t old = fixture_read(b->fx, entry, 8);

        fixture_store(b->fx, 0, TABLES + entry, old ^ PTE_W, 8);
        xmmu_vcpu_invlpg(b->fx->vcpu, gva);
        fixture_access(b->fx, 0, gva, XMMU_PROT_READ);
    }
    fixture_set(b->fx, 0, &b->regs[0]);
}

static const Item items[] = {
    { "next", "translate the next page", 400000, run_next },
    { "random", "translate a random page of 16 MiB", 400000, run_random },
    { "fault", "build the way to a page", 40000, run_fault },
    { "guest-fault", "a page fault of the guest", 200000, run_guest_fault },
    { "switch", "load CR3, of three address spaces, and translate", 20000, run_switch },
    { "change", "change an entry, INVLPG, translate", 40000, run_change },
};

/* ---- Running them -------------------------------------------------------------- */

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double best_ns(const Item *item, bool tdp)
{
    Bench *b = bench_new(tdp);
    double best = G_MAXDOUBLE;

    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds();

        item->run(b, item->operations);
        best = MIN(best, seconds() - start);
    }
    bench_free(b);
    return best * 1e9 / item->operations;
}

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return true;
        }
    }
    return argc < 2;
}

static bool is_item(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(items); i++) {
        if (strcmp(items[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!is_item(argv[i])) {
            fprintf(stderr, "core-bench: no item '%s'\n", argv[i]);
            return 1;
        }
    }
    printf("%-12s %10s %10s  %s\n", "ns", "tdp", "shadow", "");
    for (size_t i = 0; i < G_N_ELEMENTS(items); i++) {
        if (wanted(items[i].name, argc, argv)) {
            printf("%-12s %10.1f %10.1f  %s\n", items[i].name, best_ns(&items[i], true),
                   best_ns(&items[i], false), items[i].what);
        }
    }
    return 0;
}
