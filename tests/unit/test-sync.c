/*
 * xmmu: unit test of how little synchronisation and write tracking do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The rules by which shadow tables follow the guest's, each with the count that it is
 * there for: what is compared at a CR3 load and at INVLPG, what a write to an upper
 * table drops, when a table is given up, where large pages end.
 */
#include "accel/xmmu/mmu/shadow.h"
#include "fixture.h"

/* Three pages in two page tables, used. */
#define A       0x5000ull
#define B       0x6000ull
#define C       (MIB(64) + 0x5000)

typedef struct Guest {
    Fixture *fx;
    XmmuRegs regs;
    gpa_t a, b, c;              /* where their entries are */
} Guest;

static void use_pages(Guest *g, gpa_t a, gpa_t b, gpa_t c)
{
    fixture_expect_ok(g->fx, A, XMMU_PROT_WRITE, a);
    fixture_expect_ok(g->fx, B, XMMU_PROT_WRITE, b);
    fixture_expect_ok(g->fx, C, XMMU_PROT_WRITE, c);
}

static Guest new_guest(unsigned mode)
{
    Guest g;

    g.fx = fixture_new_guest(mode, &g.regs);
    fixture_map_window(g.fx, &g.regs);
    fixture_map(g.fx, &g.regs, A, MIB(8) | PTE_PWU, 1);
    fixture_map(g.fx, &g.regs, B, MIB(9) | PTE_PWU, 1);
    fixture_map(g.fx, &g.regs, C, MIB(10) | PTE_PWU, 1);
    g.a = fixture_entry(g.fx, &g.regs, A, 1);
    g.b = fixture_entry(g.fx, &g.regs, B, 1);
    g.c = fixture_entry(g.fx, &g.regs, C, 1);
    fixture_load(g.fx, 0, g.regs);
    /* Tables are born unsync, those of the window too; in the end none is. */
    for (int i = 0; i < 3; i++) {
        use_pages(&g, MIB(8), MIB(9), MIB(10));
        fixture_expect_ok(g.fx, FIXTURE_WINDOW + MIB(30), XMMU_PROT_WRITE, MIB(30));
        fixture_load(g.fx, 0, g.regs);
    }
    return g;
}

static void write_entry(Guest *g, gpa_t at, uint64_t value)
{
    fixture_guest_write(g->fx, &g->regs, at, value);
}

/* Nothing is unsync: a CR3 load touches nothing at all. */
static void check_nothing_unsync(gconstpointer data)
{
    Guest g = new_guest(GPOINTER_TO_UINT(data));
    XmmuStats before = fixture_stats(g.fx), after;

    for (int i = 0; i < 10; i++) {
        fixture_load(g.fx, 0, g.regs);
        xmmu_vcpu_invlpg(g.fx->vcpu, A);
    }
    use_pages(&g, MIB(8), MIB(9), MIB(10));
    after = fixture_stats(g.fx);
    g_assert_cmpuint(after.syncs, ==, before.syncs);
    g_assert_cmpuint(after.syncs_changed, ==, before.syncs_changed);
    g_assert_cmpuint(after.zaps, ==, before.zaps);
    g_assert_cmpuint(after.faults, ==, before.faults);
    g_assert_cmpuint(after.roots_new, ==, before.roots_new);
    fixture_free(g.fx);
}

/* Three entries change; INVLPG sees its own, no other, and compares no page table as a
 * whole.  The CR3 load sees the rest, in the two tables that are unsync. */
static void check_invlpg(gconstpointer data)
{
    Guest g = new_guest(GPOINTER_TO_UINT(data));
    XmmuStats before, after;

    write_entry(&g, g.a, MIB(11) | PTE_PWU);
    write_entry(&g, g.b, MIB(12) | PTE_PWU);
    write_entry(&g, g.c, MIB(13) | PTE_PWU);
    before = fixture_stats(g.fx);
    xmmu_vcpu_invlpg(g.fx->vcpu, A);
    after = fixture_stats(g.fx);
    g_assert_cmpuint(after.syncs_changed, ==, before.syncs_changed + 1);
    g_assert_cmpuint(after.syncs, ==, before.syncs);
    use_pages(&g, MIB(11), MIB(9), MIB(10));
    before = fixture_stats(g.fx);
    fixture_load(g.fx, 0, g.regs);
    after = fixture_stats(g.fx);
    g_assert_cmpuint(after.syncs_changed, ==, before.syncs_changed + 2);
    g_assert_cmpuint(after.syncs, ==, before.syncs + 2);
    use_pages(&g, MIB(11), MIB(12), MIB(13));
    fixture_free(g.fx);
}

/* What is unsync below another root does not concern a CR3 load. */
static void test_other_root(void)
{
    Guest g = new_guest(MODE_4L);
    XmmuRegs other = fixture_regs(MODE_4L, fixture_page(g.fx));
    XmmuStats before;

    fixture_map(g.fx, &other, A, MIB(14) | PTE_PWU, 1);
    fixture_load(g.fx, 0, other);
    fixture_expect_ok(g.fx, A, XMMU_PROT_WRITE, MIB(14));
    fixture_load(g.fx, 0, other);
    fixture_expect_ok(g.fx, A, XMMU_PROT_WRITE, MIB(14));
    fixture_load(g.fx, 0, g.regs);
    write_entry(&g, g.a, MIB(11) | PTE_PWU);
    before = fixture_stats(g.fx);
    fixture_load(g.fx, 0, other);
    fixture_load(g.fx, 0, other);
    g_assert_cmpuint(fixture_stats(g.fx).syncs, ==, before.syncs);
    fixture_load(g.fx, 0, g.regs);
    g_assert_cmpuint(fixture_stats(g.fx).syncs, >, before.syncs);
    use_pages(&g, MIB(11), MIB(9), MIB(10));
    fixture_free(g.fx);
}

/* ---- Writes to upper tables --------------------------------------------------------- */

static gpa_t directory(Guest *g)
{
    return fixture_entry(g->fx, &g->regs, A, 2) & XMMU_PAGE_MASK;
}

static void store(Guest *g, gpa_t gpa, unsigned size)
{
    XmmuHwResult r = fixture_access_size(g->fx, 0, FIXTURE_WINDOW + gpa,
                                         XMMU_PROT_WRITE, size);

    g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
}

/* Two writes are kept up with, the third one is too many; unless the table was used. */
static void test_flood_limit(void)
{
    Guest g = new_guest(MODE_4L);
    gpa_t at = directory(&g) + 100 * 8;
    XmmuStats before = fixture_stats(g.fx);

    for (int i = 0; i < 5; i++) {
        /* A new page of the table below is a fault through the directory. */
        store(&g, at, 8);
        store(&g, at + 8, 8);
        fixture_map(g.fx, &g.regs, 0x10000 + i * 0x1000, MIB(15) | PTE_PWU, 1);
        fixture_expect_ok(g.fx, 0x10000 + i * 0x1000, XMMU_PROT_READ, MIB(15));
    }
    g_assert_cmpuint(fixture_stats(g.fx).floods, ==, before.floods);
    store(&g, at, 8);
    store(&g, at, 8);
    g_assert_cmpuint(fixture_stats(g.fx).floods, ==, before.floods);
    store(&g, at, 8);
    g_assert_cmpuint(fixture_stats(g.fx).floods, ==, before.floods + 1);
    fixture_free(g.fx);
}

/* Whole entries and halves of them are how page tables are written; each drops what
 * was made from its entry and nothing else. */
static void test_split_writes(void)
{
    static const struct { unsigned offset, size; bool entry, misaligned; } writes[] = {
        { 0, 8, true, false }, { 0, 4, true, false }, { 4, 4, true, false },
        { 8, 8, false, false }, { 2, 4, true, false }, { 4, 8, true, true },
        { 6, 4, true, true }, { 0, 2, true, true }, { 0, 16, true, true },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(writes); i++) {
        Guest g = new_guest(MODE_4L);
        gpa_t at = fixture_entry(g.fx, &g.regs, A, 2) + writes[i].offset;
        XmmuStats before, after;

        /* Or the first write to this large page, which sets D, would take another
         * table than reads did. */
        fixture_expect_ok(g.fx, FIXTURE_WINDOW, XMMU_PROT_WRITE, 0);
        g_assert_cmphex(at, <, MIB(2));
        fixture_access(g.fx, 0, FIXTURE_WINDOW + at, XMMU_PROT_READ);
        before = fixture_stats(g.fx);
        store(&g, at, writes[i].size);
        after = fixture_stats(g.fx);
        g_assert_cmpuint(after.misaligned - before.misaligned, ==, writes[i].misaligned);
        g_test_message("%u bytes at %u", writes[i].size, writes[i].offset);
        if (!writes[i].misaligned) {
            g_assert_cmpuint(after.zaps - before.zaps, ==, writes[i].entry);
        }
        use_pages(&g, MIB(8), MIB(9), MIB(10));
        fixture_free(g.fx);
    }
}

/* ---- Slot edges ----------------------------------------------------------------------- */

/* The guest's large page lies over the edge of a slot: small pages, right to the edge. */
static void test_slot_edge(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    XmmuRegion slots[3] = {
        { .gfn = 0, .npages = (MIB(17)) >> 12 },
        { .gfn = MIB(17) >> 12, .npages = MIB(1) / 2 >> 12 },
        { .gfn = MIB(18) >> 12, .npages = (FIXTURE_GUEST_RAM - MIB(18)) >> 12 },
    };
    uint64_t pages;

    for (size_t i = 0; i < G_N_ELEMENTS(slots); i++) {
        slots[i].hpa = (uintptr_t)fx->ram + (slots[i].gfn << 12);
    }
    slots[1].hpa = (uintptr_t)fx->ram + MIB(20);
    g_assert_true(xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, slots, 3));
    fixture_map(fx, &regs, 0, MIB(16) | PTE_PWU | PTE_PS, 2);
    fixture_map(fx, &regs, MIB(2), MIB(22) | PTE_PWU | PTE_PS, 2);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0, XMMU_PROT_WRITE, MIB(16));
    fixture_expect_ok(fx, MIB(1) - 0x1000, XMMU_PROT_WRITE, MIB(17) - 0x1000);
    g_assert_cmphex(fixture_access(fx, 0, MIB(1), XMMU_PROT_WRITE).hpa, ==,
                    (uintptr_t)fx->ram + MIB(20));
    g_assert_true(fixture_access(fx, 0, MIB(1) + MIB(1) / 2, XMMU_PROT_READ).mmio);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 0);
    pages = fixture_stats(fx).pages_4k;
    /* Its neighbour lies wholly in a slot. */
    fixture_expect_ok(fx, MIB(2), XMMU_PROT_WRITE, MIB(22));
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 1);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, pages);
    fixture_free(fx);
}

/* ---- Direct tables ---------------------------------------------------------------------- */

/* A direct table below a large guest page has the gfn of a guest table; a write there
 * is no business of its. */
static void test_direct_is_not_asked(void)
{
    XmmuConfig config = fixture_shadow_config();
    XmmuStats before, after;
    Fixture *fx;

    config.huge_pages = false;
    fx = fixture_new(&config, FIXTURE_GUEST_RAM);
    /* Without paging all tables are direct. */
    for (gpa_t gpa = 0; gpa < MIB(4); gpa += KIB(64)) {
        fixture_expect_ok(fx, gpa, XMMU_PROT_WRITE, gpa);
    }
    before = fixture_stats(fx);
    for (gpa_t gpa = 0; gpa < MIB(4); gpa += 0x1000) {
        for (int i = 0; i < 4; i++) {
            fixture_store(fx, 0, gpa + i * 12, i, 4);
        }
    }
    after = fixture_stats(fx);
    g_assert_cmpuint(after.tracked_writes, ==, before.tracked_writes);
    g_assert_cmpuint(after.floods + after.misaligned + after.unsyncs, ==,
                     before.floods + before.misaligned + before.unsyncs);
    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    for (hfn_t n = 0; n < MIB(4) >> 12; n++) {
        g_assert_null(xmmu_track_first(fx->vm, ((uintptr_t)fx->ram >> 12) + n).table);
    }
    xmmu_write_unlock(fx->vm);
    fixture_free(fx);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add_modes("/sync/nothing unsync", check_nothing_unsync);
    fixture_add_modes("/sync/invlpg", check_invlpg);
    g_test_add_func("/sync/other root", test_other_root);
    g_test_add_func("/sync/flood limit", test_flood_limit);
    g_test_add_func("/sync/split writes", test_split_writes);
    g_test_add_func("/sync/slot edge", test_slot_edge);
    g_test_add_func("/sync/direct is not asked", test_direct_is_not_asked);
    return g_test_run();
}
