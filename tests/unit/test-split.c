/*
 * xmmu: unit test of splitting and merging TDP leaves in place
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * That a split table says what the leaf said and a promoted leaf what the table said
 * (address, rights, A and D), when a promotion must be refused, what of it owes a
 * flush, and slots whose writes are logged.
 */
#include "accel/xmmu/mmu/flush.h"
#include "accel/xmmu/mmu/tdp.h"
#include "accel/xmmu/mmu/tdp_split.h"
#include "fixture.h"

#define FRAME_MASK 0x0007fffffffff000ull

typedef struct Encoding {
    const char *name;
    XmmuTdpFormat format;
    uint64_t write, accessed, dirty, large;
} Encoding;

/* AMD APM vol. 2, 5.4; Intel SDM vol. 3, tables 29-2 to 29-7. */
static const Encoding encodings[] = {
    { "npt", XMMU_TDP_NPT, 2, 0x20, 0x40, 0x80 },
    { "ept", XMMU_TDP_EPT, 2, 0x100, 0x200, 0x80 },
};

static Fixture *new_vm(const Encoding *e, uint64_t ram)
{
    XmmuConfig config = fixture_config();

    config.tdp_format = e->format;
    return fixture_new(&config, ram);
}

static uint64_t entry(Fixture *fx, gpa_t gpa, int level)
{
    return fixture_raw(fx, fixture_root(fx, 0), 4, gpa >> 12, level);
}

static XmmuTable *table_at(Fixture *fx, gpa_t gpa, int level)
{
    uint64_t above = entry(fx, gpa, level + 1);

    g_assert_cmphex(above & 7, !=, 0);
    return xmmu_table_at(above & FRAME_MASK);
}

/* The leaf for @gpa at @level, as a variable. */
static uint64_t *raw_entry(Fixture *fx, gpa_t gpa, int level)
{
    XmmuTable *table = table_at(fx, gpa, level);

    return &table->spt[xmmu_level_index(gpa >> 12, level)].raw;
}

static void touch(Fixture *fx, gpa_t gpa, unsigned want)
{
    fixture_expect_ok(fx, gpa, want, gpa);
}

static uint64_t faults(Fixture *fx)
{
    return fixture_stats(fx).faults;
}

static uint64_t promote(Fixture *fx, gpa_t start, uint64_t size)
{
    return xmmu_tdp_promote_range(fx->vm, XMMU_AS_NORMAL, start >> 12, size >> 12);
}

static bool split(Fixture *fx, gpa_t start, uint64_t size, int level)
{
    return xmmu_tdp_split_range(fx->vm, XMMU_AS_NORMAL, start >> 12, size >> 12, level);
}

/* ---- Splitting ------------------------------------------------------------- */

/* Each part is the huge leaf but for address and size. */
static void check_parts(Fixture *fx, const Encoding *e, gpa_t base, int level,
                        uint64_t huge)
{
    uint64_t pages = xmmu_level_pages(level - 1);
    uint64_t flags = huge & ~FRAME_MASK;

    if (level == 2) {
        flags &= ~e->large;
    }
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        uint64_t part = entry(fx, base + i * (pages << 12), level - 1);

        g_assert_cmphex(part & ~FRAME_MASK, ==, flags);
        g_assert_cmphex(part & FRAME_MASK, ==,
                        (uintptr_t)fx->ram + base + i * (pages << 12));
    }
}

static void test_parts(gconstpointer data)
{
    const Encoding *e = data;

    /* Read only, and written: D is clear or set in every part; so with A. */
    for (unsigned how = 0; how < 4; how++) {
        Fixture *fx = new_vm(e, GIB(2));
        uint64_t huge;

        touch(fx, GIB(1), how & 1 ? XMMU_PROT_WRITE : XMMU_PROT_READ);
        if (how & 2) {
            *raw_entry(fx, GIB(1), 3) &= ~e->accessed;
        }
        huge = entry(fx, GIB(1), 3);
        g_assert_cmpint(!!(huge & e->dirty), ==, how & 1);
        g_assert_true(split(fx, GIB(1), GIB(1), 2));
        check_parts(fx, e, GIB(1), 3, huge);
        huge = entry(fx, GIB(1) + MIB(6), 2);
        g_assert_true(split(fx, GIB(1) + MIB(6), MIB(2), 1));
        check_parts(fx, e, GIB(1) + MIB(6), 2, huge);
        g_assert_cmpuint(fixture_stats(fx).pages_1g, ==, 0);
        g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 511);
        g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 512);
        g_assert_cmpuint(fixture_stats(fx).splits, ==, 2);
        g_assert_cmpuint(fixture_stats(fx).tables, ==, 4);
        fixture_free(fx);
    }
}

/* No right is lost, so nobody has to flush or to fault; and execution is kept. */
static void test_costs_nothing(gconstpointer data)
{
    Fixture *fx = new_vm(data, GIB(1));
    uint64_t before;
    int flushes;

    touch(fx, 0x1000, XMMU_PROT_WRITE);
    before = faults(fx);
    flushes = fx->flushes;
    g_assert_true(split(fx, 0, GIB(1), 1));
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, GIB(1) >> 12);
    for (gpa_t gpa = 0; gpa < GIB(1); gpa += MIB(2) + KIB(4)) {
        touch(fx, gpa, XMMU_PROT_EXEC);
        g_assert_cmphex(fx->last.prot, ==, XMMU_PROT_RWX);
    }
    g_assert_cmpuint(faults(fx), ==, before);
    g_assert_cmpint(fx->flushes, ==, flushes);
    g_assert_cmpuint(fixture_stats(fx).zaps, ==, 0);
    fixture_free(fx);
}

/* Only leaves that map something of the range, and only above the level. */
static void test_range(gconstpointer data)
{
    const Encoding *e = data;
    Fixture *fx = new_vm(e, GIB(3));

    for (gpa_t gpa = 0; gpa < GIB(3); gpa += GIB(1)) {
        touch(fx, gpa, XMMU_PROT_READ);
    }
    g_assert_true(split(fx, GIB(1) + MIB(2) - KIB(4), KIB(8), 1));
    g_assert_true(entry(fx, 0, 3) & e->large);
    g_assert_true(entry(fx, GIB(2), 3) & e->large);
    g_assert_cmphex(entry(fx, GIB(1), 1), !=, 0);
    g_assert_cmphex(entry(fx, GIB(1) + MIB(2), 1), !=, 0);
    g_assert_true(entry(fx, GIB(1) + MIB(4), 2) & e->large);
    g_assert_true(split(fx, 0, GIB(3), 2));
    g_assert_cmpuint(fixture_stats(fx).pages_1g, ==, 0);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 1024);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 3 * 512 - 2);
    /* Nothing left to do; nothing there; beyond everything. */
    g_assert_true(split(fx, 0, GIB(3), 2));
    g_assert_true(split(fx, GIB(700), GIB(1), 1));
    g_assert_true(split(fx, 0, ~(uint64_t)0 >> 12, 2));
    g_assert_true(split(fx, 0, 0, 1));
    g_assert_cmpuint(fixture_stats(fx).splits, ==, 5);
    fixture_free(fx);
}

/* ROM stays ROM. */
static void test_rom(gconstpointer data)
{
    const Encoding *e = data;
    Fixture *fx = new_vm(e, MIB(8));
    XmmuRegion rom = { .gfn = 0, .npages = 1024, .hpa = (uintptr_t)fx->ram,
                       .flags = XMMU_REGION_READONLY };

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &rom, 1);
    touch(fx, MIB(2), XMMU_PROT_READ);
    g_assert_true(split(fx, 0, MIB(4), 1));
    g_assert_cmphex(entry(fx, MIB(2) + 0x5000, 1) & e->write, ==, 0);
    g_assert_cmpint(fixture_access(fx, 0, MIB(2) + 0x5000, XMMU_PROT_WRITE).outcome, ==,
                    XMMU_HW_DIRECT);
    g_assert_cmpuint(promote(fx, 0, MIB(4)), ==, 1);
    g_assert_cmphex(entry(fx, MIB(2), 2) & (e->write | e->large), ==, e->large);
    fixture_free(fx);
}

/* ---- Promotion -------------------------------------------------------------- */

static void test_there_and_back(gconstpointer data)
{
    const Encoding *e = data;
    Fixture *fx = new_vm(e, GIB(2));
    uint64_t huge, before;
    int flushes;

    touch(fx, GIB(1), XMMU_PROT_WRITE);
    huge = entry(fx, GIB(1), 3);
    g_assert_true(split(fx, GIB(1), GIB(1), 1));
    before = faults(fx);
    flushes = fx->flushes;
    g_assert_cmpuint(promote(fx, GIB(1), GIB(1)), ==, 513);
    g_assert_cmphex(entry(fx, GIB(1), 3), ==, huge);
    /* Tables have gone that a CPU may remember the way through. */
    g_assert_cmpint(fx->flushes, >, flushes);
    touch(fx, GIB(1) + MIB(77), XMMU_PROT_EXEC);
    g_assert_cmpuint(faults(fx), ==, before);
    g_assert_cmpuint(fixture_stats(fx).promotions, ==, 513);
    g_assert_cmpuint(fixture_stats(fx).pages_1g, ==, 1);
    g_assert_cmpuint(fixture_stats(fx).pages_2m + fixture_stats(fx).pages_4k, ==, 0);
    rcu_service_drain();
    g_assert_cmpuint(fixture_stats(fx).tables, ==, 2);
    fixture_free(fx);
}

/* A or D of one part is A or D of the whole; of none, of nothing. */
static void test_merge(gconstpointer data)
{
    const Encoding *e = data;

    for (unsigned how = 0; how < 4; how++) {
        Fixture *fx = new_vm(e, MIB(8));
        uint64_t now;

        touch(fx, MIB(2), XMMU_PROT_READ);
        g_assert_true(split(fx, MIB(2), MIB(2), 1));
        for (gpa_t gpa = MIB(2); gpa < MIB(4); gpa += KIB(4)) {
            *raw_entry(fx, gpa, 1) &= ~e->accessed;
        }
        if (how & 1) {
            touch(fx, MIB(3), XMMU_PROT_WRITE);
        }
        if (how & 2) {
            *raw_entry(fx, MIB(4) - KIB(4), 1) |= e->accessed;
        }
        g_assert_cmpuint(promote(fx, MIB(2), MIB(2)), ==, 1);
        now = entry(fx, MIB(2), 2);
        g_assert_true(now & e->large);
        g_assert_cmpint(!!(now & e->dirty), ==, how & 1);
        g_assert_cmpint(!!(now & e->accessed), ==, how >> 1);
        fixture_free(fx);
    }
}

/*
 * D that comes between the look at the parts and their freezing; in the second case
 * somebody has split one of them as well.
 */
static void test_late_dirty(gconstpointer data)
{
    const Encoding *e = data;

    for (int level = 2; level <= 3; level++) {
        Fixture *fx = new_vm(e, GIB(1));
        XmmuRegion ram = { .gfn = 0, .npages = GIB(1) >> 12,
                           .hpa = (uintptr_t)fx->ram };
        XmmuTable *table;
        XmmuSpte huge;
        XmmuHold hold;

        touch(fx, 0, XMMU_PROT_READ);
        g_assert_true(split(fx, 0, GIB(1), 2));
        g_assert_true(split(fx, MIB(2), MIB(2), 1));
        table = table_at(fx, MIB(2), level - 1);
        huge = xmmu_tdp_leaf(fx->vm, &ram, 512, level, false);
        g_assert_cmphex(huge.raw & e->dirty, ==, 0);
        touch(fx, MIB(2) + 0x5000, XMMU_PROT_WRITE);
        xmmu_read_lock(&hold, fx->vm, NULL, XMMU_REASON_HOST);
        g_assert_true(xmmu_tdp_put_leaf(&hold, table, huge));
        g_assert_false(xmmu_tdp_put_leaf(&hold, table, huge));
        xmmu_read_unlock(&hold);
        g_assert_cmphex(entry(fx, MIB(2), level), ==, huge.raw | e->dirty);
        fixture_free(fx);
    }
}

/* Parts that were not mapped yet are mapped by the whole: the slot has them. */
static void test_partly_mapped(gconstpointer data)
{
    XmmuConfig config = fixture_config();
    const Encoding *e = data;
    Fixture *fx;

    config.tdp_format = e->format;
    config.nx_huge_pages = true;        /* the way to get such a table */
    fx = fixture_new(&config, MIB(8));
    touch(fx, MIB(2) + 0x3000, XMMU_PROT_EXEC);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 1);
    g_assert_cmpuint(promote(fx, MIB(2), MIB(2)), ==, 1);
    g_assert_true(entry(fx, MIB(2), 2) & e->large);
    g_assert_cmphex(entry(fx, MIB(2), 2) & FRAME_MASK, ==, (uintptr_t)fx->ram + MIB(2));
    fixture_free(fx);
}

static void expect_refused(Fixture *fx)
{
    uint64_t before = entry(fx, MIB(2), 2);

    g_assert_cmpuint(promote(fx, MIB(2), MIB(2)), ==, 0);
    g_assert_cmphex(entry(fx, MIB(2), 2), ==, before);
    g_assert_cmpuint(fixture_stats(fx).promotions, ==, 0);
}

/* Take W away, by the writer. */
static void protect(Fixture *fx, uint64_t *raw, uint64_t write)
{
    XmmuTable *table = xmmu_table_of((XmmuSpte *)raw);
    XmmuHold hold;

    xmmu_read_lock(&hold, fx->vm, NULL, XMMU_REASON_HOST);
    g_assert_true(xmmu_tdp_set(&hold, table, xmmu_spte_index((XmmuSpte *)raw),
                               (XmmuSpte) { *raw }, (XmmuSpte) { *raw & ~write }));
    xmmu_read_unlock(&hold);
}

/* One part that differs in address or in a right forbids it. */
static void test_unequal(gconstpointer data)
{
    const Encoding *e = data;
    Fixture *fx = new_vm(e, MIB(8));
    uint64_t *first, *middle, saved, swap;

    touch(fx, MIB(2), XMMU_PROT_READ);
    g_assert_true(split(fx, MIB(2), MIB(2), 1));
    first = raw_entry(fx, MIB(2), 1);
    middle = raw_entry(fx, MIB(3), 1);
    swap = *first;
    saved = *middle;

    *middle = saved ^ (e->format == XMMU_TDP_EPT ? 4 : 1ull << 63);     /* X */
    expect_refused(fx);
    *first = saved;                     /* another frame */
    *middle = swap;
    expect_refused(fx);
    *first = swap;
    *middle = XMMU_SPTE_FROZEN;         /* somebody is at work */
    expect_refused(fx);
    *middle = saved;
    /* The range has to have all of the huge page. */
    g_assert_cmpuint(promote(fx, MIB(2) + KIB(4), MIB(2)), ==, 0);
    g_assert_cmpuint(promote(fx, MIB(2), MIB(2) - KIB(4)), ==, 0);
    /* Write-protected for a log of writes that has ended. */
    protect(fx, middle, e->write);
    g_assert_cmpuint(promote(fx, MIB(2), MIB(2)), ==, 1);
    g_assert_true(entry(fx, MIB(2), 2) & e->write);
    fixture_free(fx);
}

/* Host memory that is not contiguous, or not aligned as the guest's. */
static void test_not_contiguous(gconstpointer data)
{
    const Encoding *e = data;
    Fixture *fx = new_vm(e, MIB(16));
    XmmuRegion regions[] = {
        { .gfn = 512, .npages = 256, .hpa = (uintptr_t)fx->ram + MIB(2) },
        { .gfn = 768, .npages = 256, .hpa = (uintptr_t)fx->ram + MIB(8) },
        { .gfn = 1024, .npages = 512, .hpa = (uintptr_t)fx->ram + MIB(10) + KIB(4) },
    };

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, 3);
    for (gpa_t gpa = MIB(2); gpa < MIB(6); gpa += KIB(4)) {
        g_assert_cmpint(fixture_access(fx, 0, gpa, XMMU_PROT_WRITE).outcome, ==,
                        XMMU_HW_OK);
    }
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 1024);
    g_assert_cmpuint(promote(fx, 0, MIB(16)), ==, 0);
    fixture_free(fx);
}

/* With huge pages that are not executable, a right is lost: nobody may keep it. */
static void test_exec_lost(gconstpointer data)
{
    XmmuConfig config = fixture_config();
    const Encoding *e = data;
    Fixture *fx;
    uint64_t before;
    int flushes;

    config.tdp_format = e->format;
    config.nx_huge_pages = true;
    fx = fixture_new(&config, MIB(8));
    touch(fx, MIB(2), XMMU_PROT_EXEC);
    flushes = fx->flushes;
    before = faults(fx);
    g_assert_cmpuint(promote(fx, MIB(2), MIB(2)), ==, 1);
    g_assert_cmpint(fx->flushes, ==, flushes + 1);
    touch(fx, MIB(2), XMMU_PROT_READ);
    g_assert_cmphex(fx->last.prot & XMMU_PROT_EXEC, ==, 0);
    g_assert_cmpuint(faults(fx), ==, before);
    touch(fx, MIB(2), XMMU_PROT_EXEC);
    g_assert_cmpuint(faults(fx), ==, before + 1);
    fixture_free(fx);
}

/* ---- Dirty logging ------------------------------------------------------------ */

static void set_logging(Fixture *fx, bool on)
{
    XmmuRegion ram = {
        .gfn = 0, .npages = fx->ram_size >> 12, .hpa = (uintptr_t)fx->ram,
        .flags = on ? XMMU_REGION_LOG_DIRTY : 0,
    };

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &ram, 1);
}

static void test_logging(gconstpointer data)
{
    const Encoding *e = data;
    Fixture *fx = new_vm(e, MIB(8));
    uint64_t before;

    touch(fx, MIB(2), XMMU_PROT_WRITE);
    before = faults(fx);
    set_logging(fx, true);
    /* What was huge is small now, without a hole; what comes is born small. */
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 0);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 512);
    touch(fx, MIB(2) + 0x5000, XMMU_PROT_WRITE);
    g_assert_cmpuint(faults(fx), ==, before);
    touch(fx, MIB(4), XMMU_PROT_WRITE);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 0);
    g_assert_cmpuint(promote(fx, 0, MIB(8)), ==, 0);

    before = faults(fx);
    set_logging(fx, false);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 0);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 2);
    touch(fx, MIB(4) + 0x5000, XMMU_PROT_WRITE);
    g_assert_cmpuint(faults(fx), ==, before);
    fixture_free(fx);
}

static const struct {
    const char *name;
    void (*run)(gconstpointer data);
} tests[] = {
    { "parts", test_parts },
    { "costs nothing", test_costs_nothing },
    { "range", test_range },
    { "rom", test_rom },
    { "there and back", test_there_and_back },
    { "merge", test_merge },
    { "late dirty", test_late_dirty },
    { "partly mapped", test_partly_mapped },
    { "unequal", test_unequal },
    { "not contiguous", test_not_contiguous },
    { "exec lost", test_exec_lost },
    { "logging", test_logging },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t t = 0; t < G_N_ELEMENTS(tests); t++) {
        for (size_t e = 0; e < G_N_ELEMENTS(encodings); e++) {
            char *path = g_strdup_printf("/split/%s/%s", encodings[e].name,
                                         tests[t].name);

            g_test_add_data_func(path, &encodings[e], tests[t].run);
            g_free(path);
        }
    }
    return g_test_run();
}
