/*
 * xmmu: unit test of who looks at the log of writes while leaves change
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What was written before somebody looks at the log is told by that look: the last one
 * of a migration has no other after it.  Here leaves come or go at that time, and the
 * entry of a leaf changes before its frame's bit is set.
 */
#include "accel/xmmu/mmu/table.h"
#include "accel/xmmu/mmu/tdp.h"
#include "fixture.h"

#define RAM     MIB(4)
#define ROUNDS  40
#define EARLIER KIB(64)         /* the log comes to it before it comes to ... */
#define PAGE    MIB(2)          /* that is looked at */

static Fixture *new_vm(const FixtureLogMode *mode)
{
    XmmuRegion all = { .npages = RAM >> 12, .flags = XMMU_REGION_LOG_DIRTY };
    XmmuConfig config = fixture_log_config(mode, 2048);
    Fixture *fx;

    fx = fixture_new(&config, RAM);
    fixture_add_cpu(fx, 1);
    all.hpa = (uintptr_t)fx->ram;
    g_assert_true(xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &all, 1));
    fixture_take_log(fx);
    return fx;
}

/* ---- Leaves go all the time ---------------------------------------------------- */

typedef struct Remover {
    Fixture *fx;
    void (*remove)(Fixture *fx);
    gint started, done;         /* rounds; atomic */
} Remover;

static void wait_for(const gint *rounds, gint round)
{
    while (g_atomic_int_get(rounds) < round) {
        g_thread_yield();
    }
}

static void remove_all(Fixture *fx)
{
    xmmu_vm_zap_all(fx->vm);
}

static void remove_range(Fixture *fx)
{
    xmmu_tdp_zap_gfns(fx->vm, XMMU_AS_NORMAL, 0, RAM >> 12);
}

static void *run_remover(void *opaque)
{
    Remover *r = opaque;

    for (gint round = 1; round <= ROUNDS; round++) {
        wait_for(&r->started, round);
        r->remove(r->fx);
        g_atomic_int_set(&r->done, round);
    }
    return NULL;
}

static void write_all(Fixture *fx)
{
    for (gpa_t gpa = 0; gpa < RAM; gpa += XMMU_PAGE_SIZE) {
        fixture_expect_ok(fx, gpa, XMMU_PROT_WRITE, gpa);
    }
}

static void look_while(Fixture *fx, void (*remove)(Fixture *fx))
{
    Remover r = { .fx = fx, .remove = remove };
    GThread *thread = g_thread_new("remover", run_remover, &r);

    for (gint round = 1; round <= ROUNDS; round++) {
        write_all(fx);
        g_atomic_int_set(&r.started, round);
        g_assert_cmpuint(fixture_take_log(fx).count, ==, RAM >> 12);
        wait_for(&r.done, round);
        fixture_take_log(fx);
    }
    g_thread_join(thread);
}

static void test_removal(gconstpointer data)
{
    Fixture *fx = new_vm(data);

    look_while(fx, remove_all);
    if (fx->config.tdp) {
        look_while(fx, remove_range);
    }
    fixture_free(fx);
}

/* ---- Between the change of an entry and its bit ------------------------------------ */

/* A change is told to what mirrors the table before the bit is set.  Here that takes
 * long, so that whoever does not wait for it goes by. */
typedef struct Gap {
    Fixture *fx;
    XmmuTable *table;           /* of the leaf for PAGE */
    GThread *changer;
    gint entered;               /* atomic */
} Gap;

static Gap gap;

/* With write protection a leaf gains W, with D bits one goes that has D. */
static void *change_leaf(G_GNUC_UNUSED void *opaque)
{
    if (gap.fx->config.dirty_log == XMMU_DIRTY_DBIT) {
        xmmu_tdp_zap_gfns(gap.fx->vm, XMMU_AS_NORMAL, PAGE >> 12, 1);
    } else {
        fixture_access(gap.fx, 1, PAGE, XMMU_PROT_WRITE);
    }
    return NULL;
}

static void enter_gap(void)
{
    if (!gap.changer) {
        gap.changer = g_thread_new("changer", change_leaf, NULL);
        wait_for(&gap.entered, 1);
    }
}

static void entry_changed(XmmuTable *table, G_GNUC_UNUSED unsigned index)
{
    if (table != gap.table) {
        enter_gap();            /* the harvest is at EARLIER */
    } else if (g_atomic_int_compare_and_exchange(&gap.entered, 0, 1)) {
        g_usleep(30000);
    }
}

static void table_gone(G_GNUC_UNUSED XmmuTable *table)
{
}

static XmmuTable *leaf_table(Fixture *fx, gpa_t gpa)
{
    uint64_t above = fixture_raw(fx, fixture_root(fx, 0), 4, gpa >> 12, XMMU_LEVEL_2M);

    return xmmu_table_at(xmmu_spte_hpa((XmmuSpte) { above }));
}

/* By the leaf that another one has just made. */
static void write_in_gap(Fixture *fx)
{
    fixture_expect_ok(fx, PAGE, XMMU_PROT_READ, PAGE);
    gap.table = leaf_table(fx, PAGE);
    gap.table->mirror = &gap;
    enter_gap();
    fixture_expect_ok(fx, PAGE, XMMU_PROT_WRITE, PAGE);
}

/* The leaf will go when the harvest has begun, and is not there yet. */
static void prepare_removal(Fixture *fx)
{
    fixture_expect_ok(fx, EARLIER, XMMU_PROT_WRITE, EARLIER);
    fixture_expect_ok(fx, PAGE, XMMU_PROT_WRITE, PAGE);
    gap.table = leaf_table(fx, PAGE);
    gap.table->mirror = &gap;
    leaf_table(fx, EARLIER)->mirror = &gap;
}

static void test_gap(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuServices services = *fx->vm->services;

    services.entry_changed = entry_changed;
    services.table_gone = table_gone;
    fx->vm->services = &services;
    gap = (Gap) { .fx = fx };
    if (fx->config.dirty_log == XMMU_DIRTY_DBIT) {
        prepare_removal(fx);
    } else {
        write_in_gap(fx);
    }
    g_assert_cmpuint(fixture_take_log(fx).page[PAGE >> 12], ==, 1);
    g_thread_join(gap.changer);
    fixture_free(fx);
}

static void add(const char *what, const FixtureLogMode *mode, GTestDataFunc fn)
{
    g_autofree char *name = g_strdup_printf("/dirty-look/%s/%s", what, mode->name);

    g_test_add_data_func(name, mode, fn);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t m = 0; m < FIXTURE_LOG_MODES; m++) {
        add("removal", &fixture_log_modes[m], test_removal);
        if (fixture_log_modes[m].tdp) {
            add("gap", &fixture_log_modes[m], test_gap);
        }
    }
    return g_test_run();
}
