/*
 * xmmu: unit test of the core without memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Lets the n-th allocation of the core fail, for every n that a fixed workload gets
 * to, in each way of paging.  One failure is never seen by the guest; while the host
 * has nothing at all, accesses end in XMMU_HW_NOMEM, a change of the memory map and a
 * new vCPU are refused, and nothing is damaged: when there is memory again everything
 * is as it would have been.  That nothing leaks is for AddressSanitizer to say.
 */
#include "accel/xmmu/mmu/mem.h"
#include "fixture.h"

#define RAM     MIB(32)
#define PAGES   24u
#define STEPS   160u

typedef struct Case {
    const char *name;
    bool tdp, huge;
    XmmuTdpFormat format;
    unsigned mode;
} Case;

/* What the guest sees of one access. */
typedef struct Seen {
    XmmuHwOutcome outcome;
    gpa_t gpa;
    uint32_t error_code;
} Seen;

typedef struct Run {
    const Case *c;
    Fixture *fx;
    XmmuRegs regs;
    unsigned count;
    Seen seen[STEPS];
} Run;

/* ---- The workload ------------------------------------------------------------------ */

static gva_t page_gva(const Run *run, unsigned i)
{
    return i % 2 ? i * 0x1000 : i * (run->c->mode >= MODE_4L ? GIB(1) : MIB(16));
}

static void step(Run *run, unsigned cpu, gva_t gva, unsigned how)
{
    XmmuHwResult r = fixture_access(run->fx, cpu, gva, how);

    g_assert_cmpuint(run->count, <, STEPS);
    run->seen[run->count++] = (Seen) {
        .outcome = r.outcome,
        .gpa = r.outcome == XMMU_HW_OK ? r.gpa : 0,
        .error_code = r.outcome == XMMU_HW_EXCEPTION ? r.exception.error_code : 0,
    };
}

/* The first half in frames of its own; or all as at first. */
static bool change_memory(Run *run, bool back)
{
    Fixture *fx = run->fx;
    XmmuRegion regions[2] = {
        { .gfn = 0, .npages = MIB(16) >> 12, .hpa = (uintptr_t)fx->ram },
        { .gfn = MIB(16) >> 12, .npages = MIB(8) >> 12,
          .hpa = (uintptr_t)fx->ram + MIB(24), .flags = XMMU_REGION_LOG_DIRTY },
    };

    if (back) {
        regions[0].npages = RAM >> 12;
    }
    return xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, back ? 1 : 2);
}

static void touch_all(Run *run, unsigned cpu)
{
    for (unsigned i = 0; i < PAGES; i++) {
        step(run, cpu, page_gva(run, i), i % 3 ? XMMU_PROT_WRITE : XMMU_PROT_READ);
    }
}

static void add_second_cpu(Run *run)
{
    Fixture *fx = run->fx;

    for (int tries = 0; !fx->cpus[1] && tries < 2; tries++) {
        fx->cpus[1] = xmmu_vcpu_new(fx->vm, 1, &fx->caps);
    }
}

/* Each refusal is tried again once: if only one allocation fails, that is enough. */
static void workload(Run *run)
{
    Fixture *fx = run->fx;

    run->count = 0;
    fixture_load(fx, 0, run->regs);
    touch_all(run, 0);
    add_second_cpu(run);
    if (fx->cpus[1]) {
        fixture_load(fx, 1, run->regs);
    }
    touch_all(run, fx->cpus[1] ? 1 : 0);
    if (change_memory(run, false) || change_memory(run, false)) {
        touch_all(run, 0);
    }
    if (change_memory(run, true) || change_memory(run, true)) {
        touch_all(run, 0);
    }
    xmmu_vm_zap_all(fx->vm);
    touch_all(run, 0);
    rcu_service_drain();
}

static void begin(Run *run, const Case *c)
{
    XmmuConfig config = c->tdp ? fixture_config() : fixture_shadow_config();

    config.huge_pages = c->huge;
    config.tdp_format = c->format;
    *run = (Run) { .c = c, .fx = fixture_new(&config, RAM) };
    run->regs = fixture_regs(c->mode, c->mode ? fixture_page(run->fx) : 0);
    for (unsigned i = 0; c->mode && i < PAGES; i++) {
        fixture_map(run->fx, &run->regs, page_gva(run, i),
                    (MIB(8) + i * 0x90000) | PTE_PWU, 1);
    }
}

static void expect_same(const Run *run, const Run *reference)
{
    g_assert_cmpuint(run->count, ==, reference->count);
    for (unsigned i = 0; i < run->count; i++) {
        g_assert_cmpint(run->seen[i].outcome, ==, reference->seen[i].outcome);
        g_assert_cmphex(run->seen[i].gpa, ==, reference->seen[i].gpa);
        g_assert_cmphex(run->seen[i].error_code, ==, reference->seen[i].error_code);
    }
}

/* ---- Failures ------------------------------------------------------------------------ */

/* Runs it as it should be; returns the number of allocations. */
static int run_reference(Run *reference, const Case *c)
{
    int first, last;

    begin(reference, c);
    first = reference->fx->allocations;
    workload(reference);
    last = reference->fx->allocations;
    fixture_free(reference->fx);
    for (unsigned i = 0; i < reference->count; i++) {
        g_assert_cmpint(reference->seen[i].outcome, !=, XMMU_HW_NOMEM);
    }
    g_assert_cmpint(last - first, >, 10);
    return last - first;
}

static void check_one(gconstpointer data)
{
    static Run reference, run;
    int count = run_reference(&reference, data);

    for (int n = 1; n <= count; n++) {
        begin(&run, data);
        run.fx->fail_from = run.fx->fail_to = run.fx->allocations + n;
        workload(&run);
        g_assert_cmpint(run.fx->allocations, >=, run.fx->fail_from);
        expect_same(&run, &reference);
        fixture_free(run.fx);
    }
    g_test_message("%d allocations, each failed once", count);
}

static void check_from_then_on(gconstpointer data)
{
    static Run reference, run;
    int count = run_reference(&reference, data);
    unsigned refused = 0;

    for (int n = 1; n <= count; n++) {
        begin(&run, data);
        run.fx->fail_from = run.fx->allocations + n;
        run.fx->fail_to = G_MAXINT;
        workload(&run);
        for (unsigned i = 0; i < run.count; i++) {
            refused += run.seen[i].outcome == XMMU_HW_NOMEM;
        }
        /* The map may be the one in the middle: who could not change it knows. */
        run.fx->fail_from = run.fx->fail_to = 0;
        g_assert_true(change_memory(&run, true));
        workload(&run);
        expect_same(&run, &reference);
        fixture_free(run.fx);
    }
    g_assert_cmpuint(refused, >, 0);
    g_test_message("%d allocations, %u accesses ended without memory", count, refused);
}

/*
 * The tables are there, only the bookkeeping of the frames is not: each page is in a
 * chunk of its own.  A fault that could not fill its stock does not begin.
 */
static void test_stock(void)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx = fixture_new(&config, RAM);
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));
    unsigned refused = 0;

    for (unsigned i = 0; i < 12; i++) {
        fixture_map(fx, &regs, i * 0x1000, (MIB(4) + i * MIB(2)) | PTE_PWU, 1);
    }
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0, XMMU_PROT_WRITE, MIB(4));
    fx->fail_from = fx->allocations + 1;
    fx->fail_to = G_MAXINT;
    for (unsigned i = 1; i < 12; i++) {
        refused += fixture_access(fx, 0, i * 0x1000, XMMU_PROT_WRITE).outcome ==
                   XMMU_HW_NOMEM;
    }
    g_assert_cmpuint(refused, >, 0);
    fx->fail_from = fx->fail_to = 0;
    for (unsigned i = 0; i < 12; i++) {
        fixture_expect_ok(fx, i * 0x1000, XMMU_PROT_WRITE, MIB(4) + i * MIB(2));
    }
    fixture_free(fx);
}

/* A VM is there as a whole or not at all. */
static void test_vm(void)
{
    XmmuConfig config = fixture_config();
    Fixture fx = { 0 };
    XmmuVm *vm = NULL;
    int n;

    for (n = 1; !vm; n++) {
        fx.allocations = 0;
        fx.fail_from = fx.fail_to = n;
        vm = xmmu_vm_new(&config, &fixture_services, &fx);
        g_assert_cmpint(n, <, 100);
    }
    g_assert_cmpint(n, >, 3);
    xmmu_vm_free(vm);
    rcu_service_drain();
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        { "npt", true, false, XMMU_TDP_NPT, MODE_4L },
        { "ept large", true, true, XMMU_TDP_EPT, MODE_PAE },
        { "shadow 32-bit", false, true, XMMU_TDP_NPT, MODE_32 },
        { "shadow pae", false, false, XMMU_TDP_NPT, MODE_PAE },
        { "shadow 4-level", false, true, XMMU_TDP_NPT, MODE_4L },
        { "shadow 5-level", false, false, XMMU_TDP_NPT, MODE_5L },
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *path = g_strdup_printf("/nomem/one/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], check_one);
        g_free(path);
        path = g_strdup_printf("/nomem/from then on/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], check_from_then_on);
        g_free(path);
    }
    g_test_add_func("/nomem/stock", test_stock);
    g_test_add_func("/nomem/vm", test_vm);
    return g_test_run();
}
