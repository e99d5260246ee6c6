/*
 * xmmu: unit test with several vCPUs at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each thread is a vCPU of one guest with shared tables.  It owns some entries of
 * tables that others own entries of too, rewrites them through the guest's own
 * mapping of the tables, flushes, and then demands exact translations; meanwhile
 * it looks at the others' pages, and the main thread takes memory away and gives it
 * back.  A small TLB with the writable translations of the tables lives as long as
 * the architecture lets it, so that write protection is tested against stale
 * writers.  Meant for ThreadSanitizer and AddressSanitizer.
 */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

#define THREADS     3
#define ROUNDS      6000
#define SLOTS       16          /* entries that a thread owns, of each kind */

#define RAM         MIB(16)
#define DATA        MIB(8)      /* data pages: what entries point to */
#define DATA_PAGES  512
/* Comes and goes; inside the data. */
#define GAP         (DATA + MIB(2) - KIB(64))
#define GAP_SIZE    KIB(64)

/* Guest virtual layout, the same for all modes. */
#define WINDOW      0x40000000ull       /* all of RAM, to write tables through */
#define SMALL       0x80000000ull       /* one page table that all share */
#define DEEP        0x80400000ull       /* directory entries, one page table each */

typedef struct Guest {
    Fixture *fx;
    XmmuRegs regs;              /* the same on all vCPUs */
    unsigned shift;             /* of a directory entry */
    gpa_t table[2];             /* page tables that never change */
    gint checked, in_gap;
    /* Odd while memory is being changed; then twice the number of changes. */
    gint epoch;
} Guest;

typedef struct TlbEntry {
    gva_t page;
    hpa_t hpa;
    bool valid;
} TlbEntry;

typedef struct Thread {
    Guest *guest;
    unsigned index;
    uint64_t random;
    int obeyed;                 /* ordered flushes so far */
    TlbEntry tlb[16];           /* writable translations of the window */
    uint64_t small[SLOTS];      /* what I wrote */
    uint64_t deep[SLOTS];
} Thread;

static uint64_t next(Thread *t)
{
    return fixture_random(&t->random);
}

static void tlb_drop(Thread *t)
{
    memset(t->tlb, 0, sizeof(t->tlb));
}

/* Before each "instruction": obey an ordered flush. */
static void between_instructions(Thread *t)
{
    Fixture *fx = t->guest->fx;
    int ordered = g_atomic_int_get(&fx->flushes);

    if (ordered != t->obeyed || g_atomic_int_get(&fx->nudged[t->index])) {
        t->obeyed = ordered;
        g_atomic_int_set(&fx->nudged[t->index], 0);
        tlb_drop(t);
        xmmu_vcpu_flushed(fx->cpus[t->index]);
    }
}

/* Write a table entry as the guest does. */
static void guest_store(Thread *t, gpa_t gpa, uint64_t value)
{
    Fixture *fx = t->guest->fx;
    unsigned size = fixture_entry_size(&t->guest->regs);
    gva_t gva = WINDOW + gpa;
    TlbEntry *e = &t->tlb[(gva >> 12) % G_N_ELEMENTS(t->tlb)];
    XmmuHwResult r;

    between_instructions(t);
    if (e->valid && e->page == gva >> 12) {
        g_assert_cmphex(e->hpa, ==, (uintptr_t)fx->ram + (gpa & XMMU_PAGE_MASK));
        fixture_write(fx, gpa, value, size);
        return;
    }
    r = fixture_access_size(fx, t->index, gva, XMMU_PROT_WRITE, size);
    g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
    g_assert_cmphex(r.gpa, ==, gpa);
    if (r.outcome == XMMU_HW_OK) {
        g_assert_cmphex(r.hpa, ==, (uintptr_t)fx->ram + gpa);
        g_assert_true(r.prot & XMMU_PROT_WRITE);
        *e = (TlbEntry) { gva >> 12, r.hpa & XMMU_PAGE_MASK, true };
    }
    if (next(t) % 4 == 0) {
        g_thread_yield();       /* the race between translation and store */
    }
    fixture_write(fx, gpa, value, size);
}

static void flush(Thread *t)
{
    between_instructions(t);
    tlb_drop(t);
    xmmu_vcpu_flush_guest(t->guest->fx->cpus[t->index]);
}

static void invlpg(Thread *t, gva_t gva)
{
    between_instructions(t);
    xmmu_vcpu_invlpg(t->guest->fx->cpus[t->index], gva);
}

static bool in_gap(gpa_t gpa)
{
    return gpa >= GAP && gpa < GAP + GAP_SIZE;
}

/* An access; where memory comes and goes it must be as it is at the time. */
static XmmuHwResult access_now(Thread *t, gva_t gva, unsigned how)
{
    Guest *g = t->guest;
    gint epoch;
    XmmuHwResult r;

    between_instructions(t);
    epoch = g_atomic_int_get(&g->epoch);
    r = fixture_access(g->fx, t->index, gva, how);
    if (r.outcome <= XMMU_HW_DIRECT && in_gap(r.gpa) && !(epoch & 1) &&
        epoch == g_atomic_int_get(&g->epoch)) {
        bool gone = epoch & 2;

        g_assert_cmpint(r.outcome == XMMU_HW_DIRECT && r.mmio, ==, gone);
        g_atomic_int_inc(&g->in_gap);
    }
    return r;
}

/* What I wrote and flushed must be what I get. */
static void expect(Thread *t, gva_t gva, uint64_t entry, gpa_t page_mask)
{
    bool write = next(t) & 1;
    XmmuHwResult r;
    gpa_t gpa = (entry & 0x000ffffffffff000 & page_mask) | (gva & ~page_mask);

    r = access_now(t, gva, (write ? XMMU_PROT_WRITE : XMMU_PROT_READ) | ACC_USER);
    g_atomic_int_inc(&t->guest->checked);
    if (!(entry & PTE_P) || (write && !(entry & PTE_W))) {
        g_assert_cmpint(r.outcome, ==, XMMU_HW_EXCEPTION);
        g_assert_cmphex(r.exception.error_code, ==,
                        (entry & PTE_P) | (write ? 2 : 0) | 4);
        return;
    }
    g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
    g_assert_cmphex(r.gpa, ==, gpa);
    if (r.outcome == XMMU_HW_OK) {
        g_assert_cmphex(r.hpa, ==, (uintptr_t)t->guest->fx->ram + gpa);
    } else if (r.mmio) {
        g_assert_true(in_gap(gpa));
    }
}

static uint64_t random_entry(Thread *t)
{
    uint64_t r = next(t);

    return (DATA + (r >> 20) % DATA_PAGES * XMMU_PAGE_SIZE) | PTE_U |
           (r & 7 ? PTE_P : 0) | (r & 0x18 ? PTE_W : 0);
}

static gva_t small_gva(const Thread *t, unsigned slot)
{
    return SMALL + (uint64_t)(slot * THREADS + t->index) * XMMU_PAGE_SIZE;
}

static gva_t deep_gva(const Thread *t, unsigned slot)
{
    return DEEP + ((uint64_t)(slot * THREADS + t->index) << t->guest->shift);
}

static gpa_t entry_of(const Thread *t, gva_t gva, int level)
{
    return fixture_entry(t->guest->fx, &t->guest->regs, gva, level);
}

static void change_small(Thread *t)
{
    unsigned slot = next(t) % SLOTS;
    gva_t gva = small_gva(t, slot);

    t->small[slot] = random_entry(t);
    guest_store(t, entry_of(t, gva, 1), t->small[slot]);
    if (next(t) & 1) {
        invlpg(t, gva);
    } else {
        flush(t);
    }
    expect(t, gva | 8, t->small[slot], XMMU_PAGE_MASK);
}

/* What is to be had at @inside of what a directory entry maps: the entry of the page
 * table that it points to, with the rights of both, or itself. */
static void expect_deep(Thread *t, unsigned slot, gva_t inside)
{
    uint64_t size = 1ull << t->guest->shift, entry = t->deep[slot], leaf;
    unsigned entry_size = fixture_entry_size(&t->guest->regs);

    if (!(entry & PTE_P) || (entry & PTE_PS)) {
        expect(t, deep_gva(t, slot) + inside, entry, ~(size - 1));
        return;
    }
    leaf = fixture_read(t->guest->fx, (entry & 0xfffff000) +
                        (inside >> 12) * entry_size, entry_size);
    leaf &= entry | ~PTE_W;
    expect(t, deep_gva(t, slot) + inside, leaf, XMMU_PAGE_MASK);
}

/* A directory entry: a large page, one of two page tables that never change, or
 * nothing. */
static void change_deep(Thread *t)
{
    unsigned slot = next(t) % SLOTS;
    gva_t gva = deep_gva(t, slot), inside = (next(t) << 12) & ((1ull << t->guest->shift) - 1);
    uint64_t entry = t->guest->table[next(t) & 1] | PTE_U;

    if (next(t) & 1) {
        entry = ((next(t) & 1) ? DATA : DATA + MIB(4)) | PTE_U | PTE_PS;
    }
    entry |= (next(t) & 3 ? PTE_P : 0) | (next(t) & 1 ? PTE_W : 0);
    t->deep[slot] = entry;
    guest_store(t, entry_of(t, gva, 2), entry);
    if (next(t) & 1) {
        invlpg(t, gva);
    } else {
        flush(t);
    }
    expect_deep(t, slot, inside);
}

/* Others may be changing these: any of their pages will do. */
static void look_around(Thread *t)
{
    gva_t gva = SMALL + (next(t) % (SLOTS * THREADS)) * XMMU_PAGE_SIZE;
    XmmuHwResult r;

    r = access_now(t, gva, XMMU_PROT_READ);
    if (r.outcome <= XMMU_HW_DIRECT) {
        g_assert_cmphex(r.gpa, >=, DATA);
        g_assert_cmphex(r.gpa, <, DATA + DATA_PAGES * XMMU_PAGE_SIZE);
    } else {
        g_assert_cmphex(r.exception.error_code, ==, 0);
    }
}

static void check_all(Thread *t)
{
    flush(t);
    for (unsigned i = 0; i < SLOTS; i++) {
        expect(t, small_gva(t, i), t->small[i], XMMU_PAGE_MASK);
        expect_deep(t, i, 0x5000);
    }
}

static gpointer run(gpointer opaque)
{
    Thread *t = opaque;

    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned pick = next(t) % 32;

        if (pick < 12) {
            change_small(t);
        } else if (pick < 18) {
            change_deep(t);
        } else if (pick < 30) {
            look_around(t);
        } else if (pick < 31) {
            flush(t);
        } else {
            check_all(t);
        }
    }
    return NULL;
}

static void build_guest(Guest *g, unsigned mode)
{
    Fixture *fx = g->fx;
    uint64_t large = MIB(2);

    g->regs = fixture_regs(mode, fixture_page(fx));
    g->shift = mode == MODE_32 ? 22 : 21;
    large = 1ull << g->shift;
    for (gpa_t gpa = 0; gpa < RAM; gpa += large) {
        fixture_map(fx, &g->regs, WINDOW + gpa, gpa | PTE_P | PTE_W | PTE_PS, 2);
    }
    fixture_entry(fx, &g->regs, SMALL, 1);
    fixture_entry(fx, &g->regs, DEEP, 2);
    for (unsigned i = 0; i < 2; i++) {
        unsigned size = fixture_entry_size(&g->regs);

        g->table[i] = fixture_page(fx);
        for (unsigned k = 0; k < XMMU_PAGE_SIZE / size; k++) {
            uint64_t entry = (DATA + (k * 5 + i * 7) % DATA_PAGES * XMMU_PAGE_SIZE) | PTE_U;

            fixture_write(fx, g->table[i] + k * size,
                          entry | PTE_P | (k % 3 ? PTE_W : 0), size);
        }
    }
    for (unsigned i = 0; i < THREADS; i++) {
        if (i) {
            fixture_add_cpu(fx, i);
        }
        fixture_load(fx, i, g->regs);
    }
}

static void set_gap(Guest *g, bool gap)
{
    Fixture *fx = g->fx;
    XmmuRegion regions[2] = {
        { .gfn = 0, .npages = (gap ? GAP : RAM) >> 12, .hpa = (uintptr_t)fx->ram },
        { .gfn = (GAP + GAP_SIZE) >> 12, .npages = (RAM - GAP - GAP_SIZE) >> 12,
          .hpa = (uintptr_t)fx->ram + GAP + GAP_SIZE },
    };

    g_atomic_int_inc(&g->epoch);
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, gap ? 2 : 1);
    g_atomic_int_inc(&g->epoch);
}

typedef struct Start {
    Thread *thread;
    gint *running;
} Start;

static gpointer start(gpointer opaque)
{
    Start *s = opaque;

    run(s->thread);
    g_atomic_int_add(s->running, -1);
    return NULL;
}

typedef struct MtCase {
    const char *name;
    bool tdp, huge;
    XmmuTdpFormat format;
    unsigned mode;
    uint64_t table_memory;
} MtCase;

static void check(gconstpointer data)
{
    const MtCase *c = data;
    XmmuConfig config = fixture_config();
    Guest g = { 0 };
    Thread threads[THREADS];
    Start starts[THREADS];
    GThread *handles[THREADS];
    gint running = THREADS;

    config.tdp = c->tdp;
    config.tdp_format = c->format;
    config.huge_pages = c->huge;
    config.table_memory = c->table_memory;
    g.fx = fixture_new(&config, RAM);
    build_guest(&g, c->mode);
    for (unsigned i = 0; i < THREADS; i++) {
        threads[i] = (Thread) { .guest = &g, .index = i, .random = 0x9e3779b9 + i * 77 };
        starts[i] = (Start) { &threads[i], &running };
        handles[i] = g_thread_new("vcpu", start, &starts[i]);
    }
    for (unsigned i = 1; g_atomic_int_get(&running); i++) {
        set_gap(&g, i & 1);
        if (i % 16 == 0) {
            xmmu_vm_zap_all(g.fx->vm);
        }
        fixture_stats(g.fx);
        rcu_service_drain();
        g_usleep(500);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        g_thread_join(handles[i]);
    }
    g_assert_cmpint(g.checked, >, ROUNDS);
    g_test_message("%d exact translations, %d where memory came and went", g.checked,
                   g.in_gap);
    fixture_free(g.fx);
}

static const MtCase cases[] = {
    { "npt", true, true, XMMU_TDP_NPT, MODE_4L, 0 },
    { "npt small pages", true, false, XMMU_TDP_NPT, MODE_PAE, 0 },
    { "ept", true, true, XMMU_TDP_EPT, MODE_5L, 0 },
    { "shadow 4-level", false, true, XMMU_TDP_NPT, MODE_4L, 0 },
    { "shadow 4-level small pages", false, false, XMMU_TDP_NPT, MODE_4L, 0 },
    { "shadow 5-level", false, true, XMMU_TDP_NPT, MODE_5L, 0 },
    { "shadow PAE", false, true, XMMU_TDP_NPT, MODE_PAE, 0 },
    { "shadow 32-bit", false, true, XMMU_TDP_NPT, MODE_32, 0 },
    { "shadow with few tables", false, true, XMMU_TDP_NPT, MODE_4L, KIB(640) },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *path = g_strdup_printf("/mt/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], check);
        g_free(path);
    }
    return g_test_run();
}
