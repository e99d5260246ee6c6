/*
 * xmmu: unit test of the log of writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For each way to log (write protection, D bits, rings), with TDP in both formats and
 * with shadow paging: what is logged and what is not, that nothing is missed when
 * leaves go, are replaced or are written by hand, aliases, sizes of pages, flushes, and
 * what happens to the log when regions come and go.
 */
#include <string.h>
#include "accel/xmmu/mmu/dirty.h"
#include "accel/xmmu/mmu/tdp.h"
#include "fixture.h"

#define RAM     MIB(32)
#define LOG     MIB(8)          /* the logged region begins here */
#define LOGGED  MIB(8)
#define ALIAS   MIB(64)         /* the same memory again, not logged */
#define PAGE    KIB(4)

static bool is_ring(const Fixture *fx)
{
    return fx->config.dirty_log == XMMU_DIRTY_RING;
}

static bool is_dbit(const Fixture *fx)
{
    return fx->config.dirty_log == XMMU_DIRTY_DBIT;
}

/* ---- Regions --------------------------------------------------------------- */

static XmmuRegion region(Fixture *fx, gpa_t gpa, uint64_t offset, uint64_t size,
                         uint32_t flags)
{
    return (XmmuRegion) {
        .gfn = gpa >> 12, .npages = size >> 12, .hpa = (uintptr_t)fx->ram + offset,
        .flags = flags,
    };
}

static void set_memory(Fixture *fx, bool log, bool alias)
{
    uint32_t flags = log ? XMMU_REGION_LOG_DIRTY : 0;
    XmmuRegion regions[] = {
        region(fx, 0, 0, LOG, 0),
        region(fx, LOG, LOG, LOGGED, flags),
        region(fx, LOG + LOGGED, LOG + LOGGED, RAM - LOG - LOGGED, 0),
        region(fx, ALIAS, LOG, LOGGED, 0),
    };

    g_assert_true(xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, alias ? 4 : 3));
}

/* ---- The log ------------------------------------------------------------------ */

static void expect_only(Fixture *fx, gpa_t gpa)
{
    FixtureLog log = fixture_take_log(fx);

    g_assert_cmpuint(log.page[gpa >> 12], ==, 1);
    g_assert_cmpuint(log.count, ==, 1);
}

static void expect_none(Fixture *fx)
{
    g_assert_cmpuint(fixture_take_log(fx).count, ==, 0);
}

/* ---- A guest --------------------------------------------------------------------- */

/* Without paging, so that gva is gpa. */
static Fixture *new_vm(const FixtureLogMode *mode)
{
    XmmuConfig config = fixture_log_config(mode, 16);
    Fixture *fx;

    fx = fixture_new(&config, RAM);
    set_memory(fx, false, false);
    return fx;
}

static Fixture *new_logging(const FixtureLogMode *mode)
{
    Fixture *fx = new_vm(mode);

    set_memory(fx, true, false);
    fixture_take_log(fx);
    return fx;
}

static void write_page(Fixture *fx, gpa_t gpa)
{
    XmmuHwResult r = fixture_access(fx, 0, gpa, XMMU_PROT_WRITE);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
}

static XmmuHwResult read_page(Fixture *fx, gpa_t gpa)
{
    XmmuHwResult r = fixture_access(fx, 0, gpa, XMMU_PROT_READ);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    return r;
}

/* ---- What is logged --------------------------------------------------------------- */

static void test_writes(gconstpointer data)
{
    Fixture *fx = new_logging(data);

    expect_none(fx);
    for (gpa_t gpa = LOG; gpa < LOG + LOGGED; gpa += MIB(1) + 3 * PAGE) {
        write_page(fx, gpa);
        write_page(fx, gpa);
        expect_only(fx, gpa);
        /* The next write to the same page too, and once more. */
        write_page(fx, gpa);
        expect_only(fx, gpa);
        expect_none(fx);
    }
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 0);
    fixture_free(fx);
}

/* Reads are not writes, whoever wrote before; nor are writes elsewhere. */
static void test_reads(gconstpointer data)
{
    Fixture *fx = new_logging(data);
    XmmuHwResult r = read_page(fx, LOG);

    g_assert_false(r.prot & XMMU_PROT_WRITE);
    write_page(fx, LOG - PAGE);
    write_page(fx, LOG + LOGGED);
    expect_none(fx);
    write_page(fx, LOG);
    expect_only(fx, LOG);
    r = read_page(fx, LOG);
    g_assert_false(r.prot & XMMU_PROT_WRITE);
    expect_none(fx);
    fixture_free(fx);
}

/* Who begins to look takes it that all was written; a ring says nothing. */
static void test_begin(gconstpointer data)
{
    Fixture *fx = new_vm(data);

    write_page(fx, LOG + PAGE);
    set_memory(fx, true, false);
    g_assert_cmpuint(fixture_take_log(fx).count, ==, is_ring(fx) ? 0 : LOGGED >> 12);
    expect_none(fx);
    /* What was writable before. */
    write_page(fx, LOG + PAGE);
    expect_only(fx, LOG + PAGE);
    /* Setting the same again is not a beginning. */
    write_page(fx, LOG);
    set_memory(fx, true, false);
    expect_only(fx, LOG);
    fixture_free(fx);
}

/* A page that is told and not cleared may be written without being told again. */
static void test_two_steps(gconstpointer data)
{
    Fixture *fx = new_logging(data);
    FixtureLog log = { .fx = fx };

    if (is_ring(fx) || is_dbit(fx)) {
        fixture_free(fx);
        return;
    }
    write_page(fx, LOG);
    write_page(fx, LOG + PAGE);
    /* Not told yet, so not cleared. */
    xmmu_vm_dirty_clear(fx->vm, (uintptr_t)fx->ram, RAM >> 12);
    xmmu_vm_dirty_sync(fx->vm, (uintptr_t)fx->ram + LOG, 1, fixture_logged, &log);
    g_assert_cmpuint(log.count, ==, 1);
    write_page(fx, LOG);
    xmmu_vm_dirty_sync(fx->vm, (uintptr_t)fx->ram, RAM >> 12, fixture_logged, &log);
    g_assert_cmpuint(log.count, ==, 2);
    g_assert_cmpuint(log.page[(LOG + PAGE) >> 12], ==, 1);
    xmmu_vm_dirty_clear(fx->vm, (uintptr_t)fx->ram + LOG, 1);
    write_page(fx, LOG);
    write_page(fx, LOG + PAGE);
    memset(&log.page, 0, sizeof(log.page));
    log.count = 0;
    xmmu_vm_dirty_sync(fx->vm, (uintptr_t)fx->ram, RAM >> 12, fixture_logged, &log);
    g_assert_cmpuint(log.count, ==, 1);
    g_assert_cmpuint(log.page[LOG >> 12], ==, 1);
    fixture_free(fx);
}

/* A vCPU that has cached that it may write has to flush, whatever became of the leaf. */
static void test_flush(gconstpointer data)
{
    Fixture *fx = new_logging(data);
    int flushes;

    for (unsigned gone = 0; gone < 2; gone++) {
        write_page(fx, LOG);
        if (gone) {
            xmmu_vm_zap_all(fx->vm);
        }
        flushes = fx->flushes;
        expect_only(fx, LOG);
        g_assert_cmpint(fx->flushes, ==, flushes + 1);
        expect_none(fx);
        g_assert_cmpint(fx->flushes, ==, flushes + 1);
    }
    fixture_free(fx);
}

/* Leaves go, before the log is looked at and after. */
static void test_zapped(gconstpointer data)
{
    Fixture *fx = new_logging(data);

    write_page(fx, LOG);
    write_page(fx, LOG + MIB(4));
    xmmu_vm_zap_all(fx->vm);
    g_assert_cmpuint(fixture_take_log(fx).count, ==, 2);
    write_page(fx, LOG);
    xmmu_vm_zap_all(fx->vm);
    read_page(fx, LOG);
    expect_only(fx, LOG);
    read_page(fx, LOG);
    expect_none(fx);
    fixture_free(fx);
}

/* Another address of the same memory: a large page, in a region that is not logged. */
static void test_alias(gconstpointer data)
{
    const FixtureLogMode *mode = data;
    Fixture *fx = new_logging(mode);
    gpa_t there = ALIAS + MIB(2) + PAGE, here = LOG + MIB(2) + PAGE;
    FixtureLog log;

    set_memory(fx, true, true);
    for (unsigned i = 0; i < 3; i++) {
        write_page(fx, there);
        log = fixture_take_log(fx);
        g_assert_cmpuint(log.page[here >> 12], ==, 1);
        g_assert_cmpuint(log.count, <=, XMMU_ENTRIES);
        write_page(fx, here);
        g_assert_cmpuint(fixture_take_log(fx).page[here >> 12], ==, 1);
    }
    fixture_free(fx);
}

/* Also through SMM's address space. */
static void test_smm(gconstpointer data)
{
    Fixture *fx = new_logging(data);
    XmmuRegs regs = fx->regs[0];

    write_page(fx, LOG);
    regs.smm = true;
    fixture_set(fx, 0, &regs);
    write_page(fx, LOG + PAGE);
    g_assert_cmpuint(fixture_take_log(fx).page[(LOG + PAGE) >> 12], ==, 1);
    write_page(fx, LOG + PAGE);
    g_assert_cmpuint(fixture_take_log(fx).page[(LOG + PAGE) >> 12], ==, 1);
    fixture_free(fx);
}

/* ---- Sizes ------------------------------------------------------------------------ */

static void test_sizes(gconstpointer data)
{
    const FixtureLogMode *mode = data;
    Fixture *fx = new_vm(mode);
    uint64_t splits;

    write_page(fx, LOG);
    write_page(fx, LOG + MIB(2));
    write_page(fx, 0);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 3);
    set_memory(fx, true, false);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 1);
    fixture_take_log(fx);
    splits = fixture_stats(fx).splits;
    g_assert_cmpuint(splits, ==, mode->tdp ? 2 : 0);
    write_page(fx, LOG);
    read_page(fx, LOG + MIB(2));
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 1);
    /* And back: in place, or with the next access. */
    set_memory(fx, false, false);
    read_page(fx, LOG);
    read_page(fx, LOG + MIB(2));
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, 3);
    g_assert_cmpuint(fixture_stats(fx).promotions, ==, mode->tdp ? 2 : 0);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 0);
    fixture_free(fx);
}

/* ---- Regions come and go -------------------------------------------------------- */

/* What was written to a region that goes is told while it goes. */
static void test_dropped(gconstpointer data)
{
    Fixture *fx = new_logging(data);
    FixtureLog log = { .fx = fx };
    XmmuRegion low = region(fx, 0, 0, LOG, 0);

    write_page(fx, LOG + 5 * PAGE);
    fx->dropped = fixture_logged;
    fx->dropped_opaque = &log;
    for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
        g_assert_true(xmmu_vm_set_memory(fx->vm, as, &low, 1));
    }
    g_assert_cmpuint(log.count, ==, 1);
    g_assert_cmpuint(log.page[(LOG + 5 * PAGE) >> 12], ==, 1);
    fx->dropped = NULL;
    fixture_free(fx);
}

/* ---- Rings, marks, writes by hand --------------------------------------------------- */

/* A vCPU cannot make more pages writable than its ring takes. */
static void test_ring_full(gconstpointer data)
{
    Fixture *fx = new_logging(data);
    unsigned written = 0, refused = 0;
    FixtureLog log;

    for (gpa_t gpa = LOG; is_ring(fx) && gpa < LOG + 20 * PAGE; gpa += PAGE) {
        XmmuHwResult r = fixture_access(fx, 0, gpa, XMMU_PROT_WRITE);

        written += r.outcome == XMMU_HW_OK;
        refused += r.outcome == XMMU_HW_RING_FULL;
    }
    log = fixture_take_log(fx);
    g_assert_cmpuint(log.count, ==, written);
    if (is_ring(fx)) {
        g_assert_cmpuint(written, <=, fx->config.dirty_ring_size);
        g_assert_cmpuint(written, >=, fx->config.dirty_ring_size / 2);
        g_assert_cmpuint(written + refused, ==, 20);
        g_assert_cmpuint(fixture_stats(fx).dirty_ring_full, ==, refused);
        /* What was refused is there now. */
        write_page(fx, LOG + 19 * PAGE);
        expect_only(fx, LOG + 19 * PAGE);
    }
    fixture_free(fx);
}

/* Writes pages of a round until the ring is full; the first that has no room. */
static gpa_t fill_ring(Fixture *fx)
{
    for (gpa_t gpa = LOG;; gpa += PAGE) {
        if (fixture_access(fx, 0, gpa, XMMU_PROT_WRITE).outcome == XMMU_HW_RING_FULL) {
            return gpa;
        }
    }
}

static FixtureLog spill(Fixture *fx)
{
    FixtureLog log = { .fx = fx };

    xmmu_vcpu_dirty_spill(fx->cpus[0], fixture_logged, &log);
    return log;
}

/* What was spilled is told, stays writable, and is told again by the next reap. */
static void test_ring_spill(gconstpointer data)
{
    Fixture *fx = new_logging(data);
    unsigned count;
    FixtureLog log;
    gpa_t end;
    uint64_t flushes;

    if (is_ring(fx)) {
        end = fill_ring(fx);
        count = (end - LOG) / PAGE;
        flushes = fixture_stats(fx).flushes;
        log = spill(fx);
        g_assert_cmpuint(log.count, ==, count);
        g_assert_cmpuint(spill(fx).count, ==, 0);
        /* There is room, and nothing has lost W. */
        write_page(fx, end);
        g_assert_true(fixture_access(fx, 0, LOG, XMMU_PROT_READ).prot & XMMU_PROT_WRITE);
        g_assert_cmpuint(fixture_stats(fx).flushes, ==, flushes);
        log = fixture_take_log(fx);
        g_assert_cmpuint(log.count, ==, count + 1);
        g_assert_cmpuint(fixture_stats(fx).flushes, ==, flushes + 1);
        g_assert_false(fixture_access(fx, 0, LOG, XMMU_PROT_READ).prot & XMMU_PROT_WRITE);
        expect_none(fx);
        write_page(fx, LOG);
        expect_only(fx, LOG);
    }
    fixture_free(fx);
}

/* No ring names anything any more. */
static void test_ring_spill_alone(gconstpointer data)
{
    Fixture *fx = new_logging(data);

    if (is_ring(fx)) {
        gpa_t end = fill_ring(fx);

        spill(fx);
        g_assert_cmpuint(fixture_take_log(fx).count, ==, (end - LOG) / PAGE);
        expect_none(fx);
    }
    fixture_free(fx);
}

/* Other memory comes to be logged after a spill: that protects all of it, no more. */
static void test_ring_spill_begin(gconstpointer data)
{
    Fixture *fx = new_logging(data);

    if (is_ring(fx)) {
        XmmuRegion all = region(fx, 0, 0, RAM, XMMU_REGION_LOG_DIRTY);
        gpa_t end = fill_ring(fx);

        spill(fx);
        g_assert_true(xmmu_vm_set_memory(fx->vm, XMMU_AS_SMM, &all, 1));
        g_assert_cmpuint(fixture_take_log(fx).count, ==, (end - LOG) / PAGE);
        expect_none(fx);
    }
    fixture_free(fx);
}

/* What was spilled before its region goes may have been written since. */
static void test_ring_spill_dropped(gconstpointer data)
{
    Fixture *fx = new_logging(data);
    XmmuRegion low = region(fx, 0, 0, LOG, 0);
    FixtureLog log = { .fx = fx };

    if (is_ring(fx)) {
        gpa_t end = fill_ring(fx);

        spill(fx);
        fx->dropped = fixture_logged;
        fx->dropped_opaque = &log;
        for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
            g_assert_true(xmmu_vm_set_memory(fx->vm, as, &low, 1));
        }
        g_assert_cmpuint(log.count, ==, (end - LOG) / PAGE);
        fx->dropped = NULL;
    }
    fixture_free(fx);
}

/* What hardware tells, without a vCPU. */
static void test_mark(gconstpointer data)
{
    Fixture *fx = new_logging(data);

    xmmu_vm_dirty_mark(fx->vm, (uintptr_t)fx->ram + LOG + PAGE, 1);
    xmmu_vm_dirty_mark(fx->vm, (uintptr_t)fx->ram, 1);
    expect_only(fx, LOG + PAGE);
    expect_none(fx);
    fixture_free(fx);
}

/* An upper table of the guest, in logged memory: each write to it is done by hand. */
static void test_by_hand(gconstpointer data)
{
    const FixtureLogMode *mode = data;
    Fixture *fx = new_logging(mode);
    gva_t window = GIB(1);
    XmmuRegs regs;
    gpa_t directory;

    if (mode->tdp) {
        fixture_free(fx);
        return;
    }
    regs = fixture_regs(MODE_4L, fixture_page(fx));
    fx->next_page = LOG + 16 * PAGE;
    fixture_map(fx, &regs, window, LOG | PTE_PWU | PTE_PS, 2);
    fixture_map(fx, &regs, window + MIB(2), (LOG + 15 * PAGE) | PTE_PWU, 1);
    directory = fixture_entry(fx, &regs, window, 2);
    fixture_load(fx, 0, regs);
    g_assert_cmpint(fixture_access(fx, 0, window + MIB(2), XMMU_PROT_READ).outcome, ==,
                    XMMU_HW_OK);
    fixture_take_log(fx);
    for (unsigned i = 0; i < 2; i++) {
        XmmuHwResult r = fixture_access(fx, 0, window + (directory - LOG) + 64,
                                        XMMU_PROT_WRITE);

        g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
        g_assert_cmpuint(fixture_take_log(fx).page[directory >> 12], ==, 1);
    }
    fixture_free(fx);
}

/* Loss of D is loss of a right: who has cached it does not set it again. */
static void test_d_lost(gconstpointer data)
{
    const FixtureLogMode *mode = data;
    Fixture *fx = new_vm(mode);
    const XmmuHostFormat *format = mode->format == XMMU_TDP_EPT ? &xmmu_host_ept
                                                                : &xmmu_host_npt;
    uint64_t raw, above;
    int flushes;
    XmmuHold hold;

    if (mode->tdp) {
        write_page(fx, LOG);
        above = fixture_raw(fx, fixture_root(fx, 0), 4, LOG >> 12, 3);
        raw = fixture_raw(fx, fixture_root(fx, 0), 4, LOG >> 12, 2);
        flushes = fx->flushes;
        xmmu_read_lock(&hold, fx->vm, NULL, XMMU_REASON_HOST);
        g_assert_true(xmmu_tdp_set(&hold, xmmu_table_at(above & XMMU_HOST_ADDR_MASK),
                                   xmmu_level_index(LOG >> 12, 2), (XmmuSpte) { raw },
                                   (XmmuSpte) { raw & ~format->dirty }));
        xmmu_read_unlock(&hold);
        g_assert_cmpint(fx->flushes, ==, flushes + 1);
    }
    fixture_free(fx);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        GTestDataFunc run;
    } tests[] = {
        { "writes", test_writes },
        { "reads", test_reads },
        { "begin", test_begin },
        { "two-steps", test_two_steps },
        { "flush", test_flush },
        { "zapped", test_zapped },
        { "alias", test_alias },
        { "smm", test_smm },
        { "sizes", test_sizes },
        { "dropped", test_dropped },
        { "ring-full", test_ring_full },
        { "ring-spill", test_ring_spill },
        { "ring-spill-alone", test_ring_spill_alone },
        { "ring-spill-begin", test_ring_spill_begin },
        { "ring-spill-dropped", test_ring_spill_dropped },
        { "mark", test_mark },
        { "by-hand", test_by_hand },
        { "d-lost", test_d_lost },
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t m = 0; m < FIXTURE_LOG_MODES; m++) {
        for (size_t t = 0; t < G_N_ELEMENTS(tests); t++) {
            char *name = g_strdup_printf("/dirty/%s/%s", fixture_log_modes[m].name,
                                         tests[t].name);

            g_test_add_data_func(name, &fixture_log_modes[m], tests[t].run);
            g_free(name);
        }
    }
    return g_test_run();
}
