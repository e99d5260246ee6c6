/*
 * xmmu: unit test of huge pages that may not be executed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Which leaves are executable, what a fetch splits, what is on the list of possible
 * huge pages, and the three ways to recover one: which of them leaves a hole, what
 * stays of accessed and dirty, which flush is owed, and what happens to a table that
 * has lost its place before its turn.
 */
#include "accel/xmmu/mmu/flush.h"
#include "accel/xmmu/mmu/nx_huge.h"
#include "accel/xmmu/mmu/tdp.h"
#include "accel/xmmu/mmu/tdp_split.h"
#include "fixture.h"

typedef struct Encoding {
    const char *name;
    XmmuTdpFormat format;
    uint64_t exec, no_exec, write, accessed, dirty, large;
} Encoding;

/* AMD APM vol. 2, 5.4; Intel SDM vol. 3, tables 29-2 to 29-7. */
static const Encoding encodings[] = {
    { "npt", XMMU_TDP_NPT, 0, 1ull << 63, 2, 0x20, 0x40, 0x80 },
    { "ept", XMMU_TDP_EPT, 4, 0, 2, 0x100, 0x200, 0x80 },
};

static const char *const strategy_names[] = {
    [XMMU_NX_PROMOTE] = "promote",
    [XMMU_NX_PRECISE] = "precise",
    [XMMU_NX_RANGE] = "range",
};

/* One case of what is tested for every encoding and strategy. */
typedef struct Case {
    const Encoding *e;
    XmmuNxStrategy strategy;
} Case;

static Fixture *new_vm(const Case *c, uint64_t ram)
{
    XmmuConfig config = fixture_config();

    config.tdp_format = c->e->format;
    config.nx_huge_pages = true;
    config.nx_strategy = c->strategy;
    return fixture_new(&config, ram);
}

static uint64_t entry(Fixture *fx, gpa_t gpa, int level)
{
    return fixture_raw(fx, fixture_root(fx, 0), 4, gpa >> 12, level);
}

static bool is_exec(const Encoding *e, uint64_t entry)
{
    return e->exec ? entry & e->exec : !(entry & e->no_exec);
}

static bool is_large(const Encoding *e, uint64_t raw)
{
    return raw & e->large;
}

static XmmuTable *table_at(Fixture *fx, gpa_t gpa, int level)
{
    uint64_t above = entry(fx, gpa, level + 1);

    g_assert_cmphex(above & 7, !=, 0);
    return xmmu_table_at(above & 0x0007fffffffff000);
}

static void fetch(Fixture *fx, gpa_t gpa)
{
    fixture_expect_ok(fx, gpa, XMMU_PROT_EXEC, gpa);
}

static uint64_t faults_of(Fixture *fx, gpa_t gpa, unsigned want)
{
    uint64_t before = fixture_stats(fx).faults;

    fixture_expect_ok(fx, gpa, want, gpa);
    return fixture_stats(fx).faults - before;
}

/* ---- Policy ------------------------------------------------------------- */

static void test_period(void)
{
    static const struct {
        bool tdp, nx;
        uint32_t ratio, period, expected;
    } rows[] = {
        { true, true, 60, 0, 60000 },           /* all within an hour */
        { true, true, 1, 0, 3600000 },
        { true, true, 3600, 0, 1000 },
        { true, true, 4000000000u, 0, 1000 },   /* not below a second */
        { true, true, 60, 7, 7 },
        { true, true, 0, 7, 0 },
        { true, false, 60, 7, 0 },
        { false, true, 60, 7, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        XmmuConfig config = {
            .tdp = rows[i].tdp, .nx_huge_pages = rows[i].nx,
            .nx_ratio = rows[i].ratio, .nx_period_ms = rows[i].period,
        };

        g_assert_cmpuint(xmmu_nx_period_ms(&config), ==, rows[i].expected);
    }
}

/* Leaves above 4 KiB are not executable, others are. */
static void test_leaves(gconstpointer data)
{
    const Case *c = data;
    Fixture *fx = new_vm(c, GIB(1) + MIB(2) + KIB(8));

    fixture_expect_ok(fx, 0x5000, XMMU_PROT_READ, 0x5000);
    g_assert_cmphex(fx->last.prot & XMMU_PROT_EXEC, ==, 0);
    g_assert_true(is_large(c->e, entry(fx, 0x5000, 3)));
    g_assert_false(is_exec(c->e, entry(fx, 0x5000, 3)));
    fixture_expect_ok(fx, GIB(1) + 8, XMMU_PROT_WRITE, GIB(1) + 8);
    g_assert_true(is_large(c->e, entry(fx, GIB(1), 2)));
    g_assert_false(is_exec(c->e, entry(fx, GIB(1), 2)));
    fixture_expect_ok(fx, GIB(1) + MIB(2), XMMU_PROT_READ, GIB(1) + MIB(2));
    g_assert_true(is_exec(c->e, entry(fx, GIB(1) + MIB(2), 1)));
    g_assert_true(fx->last.prot & XMMU_PROT_EXEC);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    g_assert_cmpuint(fixture_stats(fx).nx_faults, ==, 0);
    fixture_free(fx);
}

/* A fetch from a huge page: split in place, down to the page that is executed. */
static void test_fetch_splits(gconstpointer data)
{
    const Case *c = data;
    gpa_t gpa = MIB(4) + 0x3000;
    Fixture *fx = new_vm(c, GIB(1));
    XmmuStats stats;

    fixture_expect_ok(fx, 0x1000, XMMU_PROT_WRITE, 0x1000);
    g_assert_true(is_large(c->e, entry(fx, gpa, 3)));
    fetch(fx, gpa);
    g_assert_true(is_exec(c->e, entry(fx, gpa, 1)));
    /* The other 511 of this table are mapped too, with the rights and D of the whole. */
    g_assert_cmphex(entry(fx, gpa + 0x1000, 1), ==, entry(fx, gpa, 1) + 0x1000);
    g_assert_true(entry(fx, MIB(4), 1) & c->e->dirty);
    g_assert_true(entry(fx, MIB(4), 1) & c->e->write);
    /* The other 511 of the gigabyte stay large and not executable. */
    g_assert_true(is_large(c->e, entry(fx, MIB(6), 2)));
    g_assert_false(is_exec(c->e, entry(fx, MIB(6), 2)));
    g_assert_cmphex(entry(fx, MIB(6), 2) - entry(fx, MIB(8), 2), ==, -MIB(2));
    stats = fixture_stats(fx);
    g_assert_cmpuint(stats.splits, ==, 2);
    g_assert_cmpuint(stats.nx_lpage_splits, ==, 2);
    g_assert_cmpuint(stats.nx_faults, ==, 1);
    g_assert_cmpuint(stats.faults, ==, 2);
    g_assert_cmpuint(stats.pages_1g, ==, 0);
    g_assert_cmpuint(stats.pages_2m, ==, 511);
    g_assert_cmpuint(stats.pages_4k, ==, 512);
    /* Nothing lost a right. */
    g_assert_cmpuint(stats.zaps, ==, 0);
    g_assert_cmpint(fx->flushes, ==, 0);
    g_assert_cmpuint(faults_of(fx, GIB(1) - 8, XMMU_PROT_WRITE), ==, 0);
    /* What the vCPU remembers of the large page does not hide what it gained. */
    fixture_expect_ok(fx, MIB(6), XMMU_PROT_READ, MIB(6));
    fetch(fx, MIB(6));
    stats = fixture_stats(fx);
    fetch(fx, MIB(6));
    g_assert_cmpuint(fixture_stats(fx).walks, ==, stats.walks);
    fixture_free(fx);
}

/* A fetch where nothing was mapped makes small pages at once. */
static void test_fetch_first(gconstpointer data)
{
    const Case *c = data;
    Fixture *fx = new_vm(c, GIB(1));

    fetch(fx, MIB(2));
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 2);
    g_assert_cmpuint(fixture_stats(fx).nx_faults, ==, 1);
    g_assert_cmpuint(fixture_stats(fx).splits, ==, 0);
    /* Data beside it goes into the same table. */
    fixture_expect_ok(fx, MIB(2) + 0x1000, XMMU_PROT_READ, MIB(2) + 0x1000);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 2);
    fetch(fx, MIB(2) + 0x1000);
    g_assert_cmpuint(fixture_stats(fx).nx_faults, ==, 1);
    fixture_free(fx);

    fx = new_vm(c, MIB(8));             /* no gigabyte possible */
    fetch(fx, MIB(2));
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 1);
    fixture_free(fx);
}

/* Where no huge page is possible anyway, nothing is to be recovered. */
static void test_small_only(gconstpointer data)
{
    const Case *c = data;
    XmmuConfig config = fixture_config();
    Fixture *fx;

    config.tdp_format = c->e->format;
    config.nx_huge_pages = true;
    config.huge_pages = false;
    fx = fixture_new(&config, MIB(8));
    fetch(fx, MIB(2));
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    g_assert_cmpuint(fixture_stats(fx).nx_faults, ==, 0);
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 9), ==, 0);
    fixture_free(fx);

    config.huge_pages = true;
    config.nx_huge_pages = false;
    fx = fixture_new(&config, MIB(8));
    fetch(fx, MIB(2));
    g_assert_true(is_large(c->e, entry(fx, MIB(2), 2)));
    g_assert_true(is_exec(c->e, entry(fx, MIB(2), 2)));
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    fixture_free(fx);
}

/* Shadow paging: the same rule, without a list. */
static void test_shadow(void)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx;

    for (int nx = 0; nx < 2; nx++) {
        config.nx_huge_pages = nx;
        fx = fixture_new(&config, MIB(8));
        fetch(fx, MIB(2));
        g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, !nx);
        g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, nx);
        fixture_free(fx);
    }
}

/* ---- Recovery ------------------------------------------------------------ */

/* What there is after the recovery of the table that mapped @gpa; it was dirty. */
static void check_recovered(Fixture *fx, const Case *c, gpa_t gpa)
{
    uint64_t now = entry(fx, gpa, 2);

    if (c->strategy == XMMU_NX_PROMOTE) {
        g_assert_true(is_large(c->e, now));
        g_assert_false(is_exec(c->e, now));
        g_assert_true(now & c->e->dirty);
        g_assert_true(now & c->e->write);
        g_assert_cmpuint(faults_of(fx, gpa + 0x9000, XMMU_PROT_WRITE), ==, 0);
    } else {
        g_assert_cmphex(now, ==, 0);
        g_assert_cmpuint(faults_of(fx, gpa + 0x9000, XMMU_PROT_WRITE), ==, 1);
    }
    g_assert_true(is_large(c->e, entry(fx, gpa, 2)));
}

static void test_recover(gconstpointer data)
{
    const Case *c = data;
    Fixture *fx = new_vm(c, MIB(16));
    int flushes;

    for (unsigned i = 1; i <= 3; i++) {
        fetch(fx, MIB(2) * i);
        fixture_expect_ok(fx, MIB(2) * i + 0x5000, XMMU_PROT_WRITE, MIB(2) * i + 0x5000);
    }
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 3);
    flushes = fx->flushes;
    /* The oldest, and no other. */
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 1), ==, 1);
    g_assert_cmpint(fx->flushes, ==, flushes + 1);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 2);
    g_assert_cmpuint(fixture_stats(fx).nx_recovered, ==, 1);
    g_assert_cmpuint(fixture_stats(fx).promotions, ==, c->strategy == XMMU_NX_PROMOTE);
    g_assert_cmpuint(entry(fx, MIB(4), 1), !=, 0);
    check_recovered(fx, c, MIB(2));
    /* Nobody goes on executing by what he remembers. */
    g_assert_cmpuint(faults_of(fx, MIB(2), XMMU_PROT_EXEC), ==, 1);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 3);

    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 100), ==, 3);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 0);
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 100), ==, 0);
    fixture_free(fx);
}

/* A gigabyte: the table of its 2 MiB leaves was on the list first. */
static void test_gigabyte(gconstpointer data)
{
    const Case *c = data;
    Fixture *fx = new_vm(c, GIB(1));

    fixture_expect_ok(fx, 0, XMMU_PROT_WRITE, 0);
    fetch(fx, MIB(2));
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 1), ==,
                     c->strategy == XMMU_NX_PROMOTE ? 0 : 1);
    if (c->strategy == XMMU_NX_PROMOTE) {
        /* Not while part of it is small; its turn comes again. */
        g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 2);
        g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 1), ==, 1);
        g_assert_true(is_large(c->e, entry(fx, MIB(2), 2)));
        g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 1), ==, 1);
        g_assert_true(is_large(c->e, entry(fx, MIB(2), 3)));
        g_assert_true(entry(fx, MIB(2), 3) & c->e->dirty);
    } else {
        g_assert_cmphex(entry(fx, MIB(2), 3), ==, 0);
    }
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 0);
    fixture_free(fx);
}

static void test_due(gconstpointer data)
{
    const Case *c = data;
    static const struct {
        uint32_t ratio;
        uint64_t due;
    } rows[] = { { 0, 0 }, { 1, 7 }, { 2, 4 }, { 6, 2 }, { 7, 1 }, { 1000, 1 } };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        XmmuConfig config = fixture_config();
        Fixture *fx;

        config.tdp_format = c->e->format;
        config.nx_huge_pages = true;
        config.nx_strategy = c->strategy;
        config.nx_ratio = rows[i].ratio;
        fx = fixture_new(&config, MIB(16));
        g_assert_cmpuint(xmmu_vm_nx_recover_due(fx->vm), ==, 0);
        for (unsigned n = 0; n < 7; n++) {
            fetch(fx, MIB(2) * n);
        }
        g_assert_cmpuint(xmmu_vm_nx_recover_due(fx->vm), ==, rows[i].due);
        g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 7 - rows[i].due);
        fixture_free(fx);
    }
}

/* ---- Tables that lose their place ----------------------------------------- */

static void set_ram(Fixture *fx, gpa_t start, gpa_t end, uint32_t flags)
{
    XmmuRegion ram = {
        .gfn = start >> 12, .npages = (end - start) >> 12,
        .hpa = (uintptr_t)fx->ram + start, .flags = flags,
    };

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &ram, 1);
}

static void test_gone(gconstpointer data)
{
    const Case *c = data;
    Fixture *fx = new_vm(c, MIB(16));

    fetch(fx, MIB(2));
    fetch(fx, MIB(4));
    set_ram(fx, MIB(4), MIB(16), 0);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 1);
    xmmu_vm_zap_all(fx->vm);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 10), ==, 0);
    fixture_free(fx);
}

/* The slot has shrunk so that a huge page does not fit any more, around the table. */
static void test_slot_changed(gconstpointer data)
{
    const Case *c = data;
    Fixture *fx = new_vm(c, MIB(16));

    fetch(fx, MIB(2));
    set_ram(fx, MIB(2), MIB(4) - KIB(4), 0);
    if (c->strategy == XMMU_NX_PROMOTE) {
        g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 10), ==, 0);
        g_assert_true(is_exec(c->e, entry(fx, MIB(2), 1)));
    } else {
        g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 10), ==, 1);
        g_assert_cmphex(entry(fx, MIB(2), 2), ==, 0);
    }
    fetch(fx, MIB(2));
    g_assert_true(is_exec(c->e, entry(fx, MIB(2), 1)));
    g_assert_cmpint(fixture_access(fx, 0, MIB(4) - 8, XMMU_PROT_READ).outcome, ==,
                    XMMU_HW_DIRECT);
    fixture_free(fx);
}

/* While writes are logged the list forgets its tables; they stay. */
static void test_logged(gconstpointer data)
{
    const Case *c = data;
    Fixture *fx = new_vm(c, MIB(16));

    set_ram(fx, 0, MIB(16), XMMU_REGION_LOG_DIRTY);
    fetch(fx, MIB(2));
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    set_ram(fx, 0, MIB(16), 0);
    fetch(fx, MIB(4));
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 1);
    set_ram(fx, 0, MIB(16), XMMU_REGION_LOG_DIRTY);
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 10), ==, 0);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    g_assert_cmphex(entry(fx, MIB(4), 1), !=, 0);
    fixture_free(fx);
}

/*
 * What a strategy meets when others were faster than it.  @spoil does within the same
 * holding what they do; the table was on the list before.
 */
static void unlink_table(XmmuHold *hold, XmmuTable *table)
{
    g_assert_true(xmmu_tdp_unlink(hold, table, (XmmuSpte) { 0 }));
}

/* Another table has taken the place. */
static void replace_table(XmmuHold *hold, XmmuTable *table)
{
    XmmuSpte *ptep = table->ptep;
    XmmuTable *other = xmmu_table_new(hold->vm, table->gfn, table->role);

    unlink_table(hold, table);
    other->ptep = ptep;
    g_assert_true(xmmu_tdp_set(hold, xmmu_table_of(ptep), xmmu_spte_index(ptep),
                               (XmmuSpte) { 0 },
                               xmmu_spte_table(hold->vm->format, xmmu_table_hpa(other),
                                               false)));
}

/* So has a leaf. */
static void promote_table(XmmuHold *hold, XmmuTable *table)
{
    g_assert_true(xmmu_tdp_promote(hold, table));
}

/* Somebody is at work on the parent's entry. */
static void freeze_parent(XmmuHold *hold, XmmuTable *table)
{
    XmmuSpte *ptep = table->ptep;

    g_assert_true(xmmu_tdp_freeze(hold, xmmu_table_of(ptep), xmmu_spte_index(ptep),
                                  xmmu_spte_read(ptep)));
}

static void check_too_late(const Case *c, void (*spoil)(XmmuHold *, XmmuTable *),
                           bool thaw)
{
    Fixture *fx = new_vm(c, MIB(16));
    XmmuTable *table;
    XmmuSpte *ptep, before, after;
    XmmuHold hold;

    fetch(fx, MIB(2));
    table = table_at(fx, MIB(2), 1);
    ptep = table->ptep;
    before = xmmu_spte_read(ptep);
    xmmu_read_lock(&hold, fx->vm, NULL, XMMU_REASON_HOST);
    spoil(&hold, table);
    after = xmmu_spte_read(ptep);
    if (c->strategy == XMMU_NX_PROMOTE) {
        g_assert_false(xmmu_tdp_promote(&hold, table));
    } else {
        g_assert_false(xmmu_tdp_unlink(&hold, table, (XmmuSpte) { 0 }));
    }
    g_assert_cmphex(xmmu_spte_read(ptep).raw, ==, after.raw);
    if (thaw) {
        xmmu_tdp_unfreeze(&hold, xmmu_table_of(ptep), xmmu_spte_index(ptep), before,
                          before);
    }
    xmmu_read_unlock(&hold);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, thaw);
    fixture_free(fx);
}

static void test_too_late(gconstpointer data)
{
    check_too_late(data, unlink_table, false);
    check_too_late(data, replace_table, false);
    check_too_late(data, promote_table, false);
    check_too_late(data, freeze_parent, true);
}

/* Linked and at once unlinked by another: it does not get on the list afterwards. */
static void test_late_track(gconstpointer data)
{
    Fixture *fx = new_vm(data, MIB(16));
    XmmuTable *table;
    XmmuHold hold;

    fetch(fx, MIB(2));
    table = table_at(fx, MIB(2), 1);
    xmmu_read_lock(&hold, fx->vm, NULL, XMMU_REASON_HOST);
    xmmu_nx_track(table);               /* twice is once */
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 1);
    unlink_table(&hold, table);
    xmmu_nx_track(table);
    xmmu_read_unlock(&hold);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 10), ==, 0);
    fixture_free(fx);
}

/*
 * The tree has been invalidated, and nobody has come to take it apart yet; vCPUs go on
 * in a new one.  Range zap looks only there; precise zap takes the table out of the old
 * tree, which takes nothing from anybody; promotion leaves the old tree alone.
 */
static void test_invalid_root(gconstpointer data)
{
    const Case *c = data;
    bool precise = c->strategy == XMMU_NX_PRECISE;
    Fixture *fx = new_vm(c, MIB(16));
    XmmuTable *root, *table;
    uint64_t flushes, lost;

    fetch(fx, MIB(2));
    table = table_at(fx, MIB(2), 1);
    root = table->root;
    root->unlinked = true;
    fx->vm->tdp_root[XMMU_AS_NORMAL] = NULL;
    flushes = fixture_stats(fx).flushes;
    lost = fx->vm->rights_lost;
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 10), ==, precise);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, !precise);
    g_assert_cmpuint(fixture_stats(fx).promotions, ==, 0);
    if (precise) {
        g_assert_cmpuint(fixture_stats(fx).flushes, ==, flushes);
        g_assert_cmpuint(fx->vm->rights_lost, ==, lost);
    }
    /* What is left goes with its tree. */
    fx->vm->tdp_root[XMMU_AS_NORMAL] = root;
    xmmu_vm_zap_all(fx->vm);
    g_assert_cmpuint(fixture_stats(fx).nx_lpage_splits, ==, 0);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 0);
    fetch(fx, MIB(2));
    g_assert_true(table_at(fx, MIB(2), 1)->root != root);
    g_assert_cmpuint(xmmu_vm_nx_recover(fx->vm, 10), ==, 1);
    fixture_free(fx);
}

/* ---- Which tests, for whom -------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(gconstpointer data);
    bool strategies;            /* for each of them, not only for each encoding */
} tests[] = {
    { "leaves", test_leaves, false },
    { "fetch splits", test_fetch_splits, false },
    { "fetch first", test_fetch_first, false },
    { "small only", test_small_only, false },
    { "recover", test_recover, true },
    { "gigabyte", test_gigabyte, true },
    { "due", test_due, true },
    { "gone", test_gone, true },
    { "slot changed", test_slot_changed, true },
    { "logged", test_logged, true },
    { "too late", test_too_late, true },
    { "invalid root", test_invalid_root, true },
    { "late track", test_late_track, false },
};

static Case cases[G_N_ELEMENTS(encodings)][G_N_ELEMENTS(strategy_names)];

static void add(size_t test, size_t e, size_t s)
{
    char *path = g_strdup_printf("/nx/%s/%s/%s", encodings[e].name, strategy_names[s],
                                 tests[test].name);

    cases[e][s] = (Case) { &encodings[e], s };
    g_test_add_data_func(path, &cases[e][s], tests[test].run);
    g_free(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nx/period", test_period);
    g_test_add_func("/nx/shadow", test_shadow);
    for (size_t t = 0; t < G_N_ELEMENTS(tests); t++) {
        for (size_t e = 0; e < G_N_ELEMENTS(encodings); e++) {
            for (size_t s = 0; s < (tests[t].strategies ? 3 : 1); s++) {
                add(t, e, s);
            }
        }
    }
    return g_test_run();
}
