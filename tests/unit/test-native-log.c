/*
 * xmmu unit tests: the hardware's logs of writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A harvest of D bits believes the logs, so each write must be told by the next sync in
 * whatever way D came to be set: before the log began, by the core, by a vCPU that was in
 * the guest without its log, when the log was full.  And what was not written is not even
 * asked of the hardware.
 */
#include <string.h>
#include "../../accel/xmmu/mmu/tdp.h"
#include "native.h"

#define RAM     MIB(4)
#define PAGES   (RAM >> 12)
#define RW      (XMMU_ACCESS_READ | XMMU_ACCESS_WRITE)

static guint asked;             /* leaves, of the hardware; atomic */
static void (*harvest)(void *opaque, XmmuHarvest *list, size_t count);

static void count_asked(void *opaque, XmmuHarvest *list, size_t count)
{
    g_atomic_int_add(&asked, count);
    harvest(opaque, list, count);
}

static void set_logging(Native *n, bool on)
{
    XmmuRegion all = {
        .npages = PAGES, .hpa = (uintptr_t)n->fx->ram,
        .flags = on ? XMMU_REGION_LOG_DIRTY : 0,
    };

    g_assert_true(xmmu_vm_set_memory(n->fx->vm, XMMU_AS_NORMAL, &all, 1));
}

/* @logs: the hardware does. */
static Native *new_vm(bool logs, bool huge_pages)
{
    XmmuConfig config = fixture_config();
    Native *n;

    config.huge_pages = huge_pages;
    config.tdp_format = XMMU_TDP_EPT;
    config.dirty_log = XMMU_DIRTY_DBIT;
    fake_reset(XMMU_VENDOR_VMX, XMMU_FEATURE_AD | (logs ? XMMU_FEATURE_WRITE_LOG : 0));
    n = native_new_on(&config, RAM);
    g_assert_true(n->logs_writes == logs);
    harvest = n->services.harvest;
    n->services.harvest = count_asked;
    return n;
}

static void write_page(Native *n, unsigned page)
{
    native_access(n, 0, (uint64_t)page << 12, RW);
}

static void write_pages(Native *n, unsigned count)
{
    for (unsigned page = 0; page < count; page++) {
        write_page(n, page);
    }
}

static Native *new_logging(bool logs)
{
    Native *n = new_vm(logs, true);

    set_logging(n, true);
    write_pages(n, PAGES);
    g_assert_cmpuint(fixture_take_log(n->fx).count, ==, PAGES);
    g_atomic_int_set(&asked, 0);
    return n;
}

static void expect_only(Native *n, unsigned page)
{
    FixtureLog log = fixture_take_log(n->fx);

    g_assert_cmpuint(log.page[page], ==, 1);
    g_assert_cmpuint(log.count, ==, 1);
}

static void test_named(void)
{
    Native *n = new_logging(true);

    write_page(n, 7);
    write_page(n, 7);
    native_access(n, 0, 8 << 12, XMMU_ACCESS_READ);
    expect_only(n, 7);
    g_assert_cmpuint(g_atomic_int_get(&asked), ==, 1);
    g_assert_cmpuint(fixture_take_log(n->fx).count, ==, 0);
    g_assert_cmpuint(g_atomic_int_get(&asked), ==, 1);
    write_page(n, 7);
    expect_only(n, 7);
    g_assert_cmpuint(n->log[0].pages, >=, 2);
    native_free(n);
}

static void test_full(void)
{
    Native *n = new_logging(true);

    write_pages(n, XMMU_LOG_ENTRIES);
    g_assert_cmpuint(fixture_take_log(n->fx).count, ==, XMMU_LOG_ENTRIES);
    write_pages(n, PAGES);
    g_assert_cmpuint(fixture_take_log(n->fx).count, ==, PAGES);
    write_page(n, 9);
    expect_only(n, 9);
    native_free(n);
}

/* While a vCPU may be in the guest without its log everything is looked at. */
static void test_unlogged(void)
{
    Native *n = new_logging(true);

    n->log[0].unlogged = true;
    write_page(n, 5);
    n->log[0].unlogged = true;
    expect_only(n, 5);
    g_assert_cmpuint(g_atomic_int_get(&asked), ==, PAGES);
    n->log[0].unlogged = false;
    write_page(n, 6);
    expect_only(n, 6);
    native_free(n);
}

/* The module does not answer: all the same. */
static void test_no_answer(void)
{
    Native *n = new_logging(true);

    write_page(n, 5);
    fake.fail_errno = EINTR;
    fake.fail_ioctl = 1;
    expect_only(n, 5);
    g_assert_cmpuint(g_atomic_int_get(&asked), ==, PAGES);
    native_free(n);
}

/* D of the core's own leaf is told to the hardware with the leaf, which then does not
 * set it. */
static void test_core_sets_d(void)
{
    Native *n = new_logging(true);

    xmmu_vm_zap_all(n->fx->vm);
    fixture_take_log(n->fx);
    fixture_expect_ok(n->fx, 3 << 12, XMMU_PROT_WRITE, 3 << 12);
    native_access(n, 0, 3 << 12, XMMU_ACCESS_READ);
    expect_only(n, 3);
    write_page(n, 3);
    expect_only(n, 3);
    native_free(n);
}

/* The leaf loses W before anybody has asked it for D: write tracking does that. */
static void check_protected(Native *n)
{
    XmmuHold hold;

    write_page(n, 3);
    xmmu_read_lock(&hold, n->fx->vm, NULL, XMMU_REASON_HOST);
    xmmu_tdp_write_protect_range(&hold, XMMU_AS_NORMAL, 3, 1);
    xmmu_read_unlock(&hold);
    expect_only(n, 3);
    write_page(n, 3);
    expect_only(n, 3);
    native_free(n);
}

static void test_protected(void)
{
    check_protected(new_logging(true));
    check_protected(new_logging(false));
}

/* The module cannot clear the leaf now: D is not known, so it may be there. */
static void test_not_cleared(void)
{
    Native *n = new_logging(true);

    write_page(n, 3);
    fake_fail_alloc(1);
    xmmu_vm_zap_all(n->fx->vm);
    g_assert_cmpuint(fixture_take_log(n->fx).page[3], ==, 1);
    fake_fail_alloc(0);
    fixture_take_log(n->fx);
    write_page(n, 4);
    expect_only(n, 4);
    native_free(n);
}

/* What was written before the log began, and is written again by the same leaf. */
static void test_begins_again(void)
{
    Native *n = new_vm(true, false);

    for (unsigned i = 0; i < 3; i++) {
        set_logging(n, false);
        write_pages(n, 20);
        set_logging(n, true);
        g_assert_cmpuint(fixture_take_log(n->fx).count, ==, PAGES);
        write_page(n, 11);
        expect_only(n, 11);
    }
    native_free(n);
}

/* ---- vCPUs that write while pages are copied ------------------------------------- */

typedef struct Writer {
    Native *n;
    unsigned cpu;
    gint *running;
    gint runs;                  /* atomic */
} Writer;

static void *run_writer(void *opaque)
{
    Writer *w = opaque;
    uint64_t seed = w->cpu + 1;

    while (g_atomic_int_get(w->running)) {
        NativeWork work = { 200, RW, 0, PAGES, fixture_random(&seed) };

        g_assert_cmpint(native_run(w->n, w->cpu, &work, NULL), ==, NATIVE_DONE);
        g_atomic_int_inc(&w->runs);
    }
    return NULL;
}

static uint64_t *word_of(Native *n, unsigned page)
{
    return (uint64_t *)(n->fx->ram + ((uint64_t)page << 12));
}

/* Otherwise all is looked at in one turn of this thread, and nothing happens. */
static void wait_for_run(const Writer *writer)
{
    gint before = g_atomic_int_get(&writer->runs);

    while (g_atomic_int_get(&writer->runs) == before) {
        g_thread_yield();
    }
}

static void copy_told(Native *n, uint64_t *copy)
{
    FixtureLog log = fixture_take_log(n->fx);

    for (unsigned page = 0; page < PAGES; page++) {
        if (log.page[page]) {
            copy[page] = __atomic_load_n(word_of(n, page), __ATOMIC_RELAXED);
        }
    }
}

static void test_copy(void)
{
    Native *n = new_vm(true, true);
    uint64_t copy[PAGES] = { 0 };
    gint running = 1;
    Writer writer[2] = { { n, 0, &running, 0 }, { n, 1, &running, 0 } };
    GThread *thread[2];

    native_add_cpu(n, 1);
    for (unsigned i = 0; i < 2; i++) {
        thread[i] = g_thread_new("vcpu", run_writer, &writer[i]);
    }
    for (unsigned round = 0; round < 100; round++) {
        wait_for_run(&writer[round % 2]);
        if (round % 50 == 0) {
            set_logging(n, false);
            set_logging(n, true);
        } else if (round % 20 == 0) {
            xmmu_vm_zap_all(n->fx->vm);
        }
        copy_told(n, copy);
    }
    g_atomic_int_set(&running, 0);
    for (unsigned i = 0; i < 2; i++) {
        g_thread_join(thread[i]);
    }
    copy_told(n, copy);
    for (unsigned page = 0; page < PAGES; page++) {
        g_assert_cmpuint(copy[page], ==, *word_of(n, page));
    }
    g_assert_cmpuint(n->log[0].pages, >, 0);
    native_free(n);
}

/* A CPU, or a way of logging, that has no use for it. */
static void test_not_there(void)
{
    XmmuConfig config = fixture_config();
    Native *n;

    config.tdp_format = XMMU_TDP_EPT;
    config.dirty_log = XMMU_DIRTY_DBIT;
    fake_reset(XMMU_VENDOR_VMX, XMMU_FEATURE_AD);
    n = native_new_on(&config, RAM);
    g_assert_false(n->logs_writes);
    n->cpus[0].run->controls.want = XMMU_WANT_WRITE_LOG;
    n->cpus[0].run->commit = XMMU_GROUP_CONTROLS;
    g_assert_cmpint(xmmu_device_run(&n->cpus[0]), ==, -EINVAL);
    n->cpus[0].run->controls.want = 0;
    native_free(n);
    fake_reset(XMMU_VENDOR_VMX, XMMU_FEATURE_AD | XMMU_FEATURE_WRITE_LOG);
    config.dirty_log = XMMU_DIRTY_WP;
    n = native_new_on(&config, RAM);
    g_assert_false(n->logs_writes);
    native_free(n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/native-log/named", test_named);
    g_test_add_func("/native-log/full", test_full);
    g_test_add_func("/native-log/unlogged", test_unlogged);
    g_test_add_func("/native-log/no-answer", test_no_answer);
    g_test_add_func("/native-log/core-sets-d", test_core_sets_d);
    g_test_add_func("/native-log/protected", test_protected);
    g_test_add_func("/native-log/not-cleared", test_not_cleared);
    g_test_add_func("/native-log/begins-again", test_begins_again);
    g_test_add_func("/native-log/copy", test_copy);
    g_test_add_func("/native-log/not-there", test_not_there);
    return g_test_run();
}
