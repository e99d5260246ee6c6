/*
 * xmmu: unit test of accel/xmmu/mmu/slots.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Memory that comes, goes, moves and changes its rights, with everything mapped:
 * what changed must be gone and flushed, what did not must stay.  Each case runs
 * with TDP and with shadow paging, with large pages and without.
 */
#include "fixture.h"

typedef struct SlotCase {
    bool tdp, huge;
} SlotCase;

static Fixture *new_vm(const SlotCase *c)
{
    XmmuConfig config = fixture_config();

    config.tdp = c->tdp;
    config.huge_pages = c->huge;
    return fixture_new(&config, MIB(32));
}

static XmmuRegion region(const Fixture *fx, gpa_t start, gpa_t end, gpa_t from,
                         uint32_t flags)
{
    return (XmmuRegion) {
        .gfn = start >> 12, .npages = (end - start) >> 12,
        .hpa = (uintptr_t)fx->ram + from, .flags = flags,
    };
}

/* Touch every 64 KiB. */
static void touch(Fixture *fx, gpa_t start, gpa_t end)
{
    for (gpa_t gpa = start; gpa < end; gpa += KIB(64)) {
        fixture_expect_ok(fx, gpa, XMMU_PROT_WRITE, gpa);
    }
}

static XmmuStats stats_now(Fixture *fx)
{
    return fixture_stats(fx);
}

static void check_same(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuRegion split[2] = {
        region(fx, 0, MIB(8), 0, 0), region(fx, MIB(8), MIB(32), MIB(8), 0),
    };
    XmmuStats before, after;
    int flushes;

    touch(fx, 0, MIB(32));
    before = stats_now(fx);
    flushes = fx->flushes;
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, split, 2);
    touch(fx, 0, MIB(32));
    after = stats_now(fx);
    g_assert_cmpuint(after.faults, ==, before.faults);
    g_assert_cmpuint(after.zaps, ==, before.zaps);
    g_assert_cmpint(fx->flushes, ==, flushes);
    fixture_free(fx);
}

static void check_remove(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuRegion gap[2] = {
        region(fx, 0, MIB(4) + 0x5000, 0, 0),
        region(fx, MIB(4) + 0x7000, MIB(32), MIB(4) + 0x7000, 0),
    };
    XmmuRegion all = region(fx, 0, MIB(32), 0, 0);
    int flushes;

    touch(fx, 0, MIB(32));
    fixture_expect_ok(fx, MIB(4) + 0x5000, XMMU_PROT_READ, MIB(4) + 0x5000);
    flushes = fx->flushes;
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, gap, 2);
    g_assert_cmpint(fx->flushes, ==, flushes + 1);
    for (int round = 0; round < 2; round++) {
        XmmuHwResult r = fixture_access(fx, 0, MIB(4) + 0x6010, XMMU_PROT_READ);

        g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
        g_assert_true(r.mmio);
    }
    fixture_expect_ok(fx, MIB(4) + 0x7000, XMMU_PROT_WRITE, MIB(4) + 0x7000);
    fixture_expect_ok(fx, MIB(4) + 0x4000, XMMU_PROT_WRITE, MIB(4) + 0x4000);
    /* And back: the cached MMIO entry is of an older generation. */
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &all, 1);
    fixture_expect_ok(fx, MIB(4) + 0x6010, XMMU_PROT_WRITE, MIB(4) + 0x6010);
    touch(fx, 0, MIB(32));
    fixture_free(fx);
}

static void check_move(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuRegion moved[2] = {
        region(fx, 0, MIB(8), 0, 0), region(fx, MIB(8), MIB(16), MIB(16), 0),
    };
    XmmuHwResult r;
    XmmuStats before;

    touch(fx, 0, MIB(32));
    before = stats_now(fx);
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, moved, 2);
    g_assert_cmpuint(stats_now(fx).zaps, >, before.zaps);
    r = fixture_access(fx, 0, MIB(9), XMMU_PROT_WRITE);
    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    g_assert_cmphex(r.hpa, ==, (uintptr_t)fx->ram + MIB(17));
    g_assert_true(fixture_access(fx, 0, MIB(17), XMMU_PROT_READ).mmio);
    before = stats_now(fx);
    touch(fx, 0, MIB(8));
    g_assert_cmpuint(stats_now(fx).faults, ==, before.faults);
    fixture_free(fx);
}

static void check_rights(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuRegion rom[3] = {
        region(fx, 0, MIB(2), 0, 0),
        region(fx, MIB(2), MIB(4), MIB(2), XMMU_REGION_READONLY),
        region(fx, MIB(4), MIB(32), MIB(4), 0),
    };
    XmmuRegion all = region(fx, 0, MIB(32), 0, 0);

    touch(fx, 0, MIB(8));
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, rom, 3);
    fixture_expect_ok(fx, MIB(3), XMMU_PROT_READ, MIB(3));
    g_assert_cmphex(fx->last.prot & XMMU_PROT_WRITE, ==, 0);
    g_assert_cmpint(fixture_access(fx, 0, MIB(3), XMMU_PROT_WRITE).outcome, ==,
                    XMMU_HW_DIRECT);
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &all, 1);
    fixture_expect_ok(fx, MIB(3), XMMU_PROT_WRITE, MIB(3));
    fixture_free(fx);
}

static void check_empty(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuRegion all = region(fx, 0, MIB(32), 0, 0);
    XmmuStats stats;

    touch(fx, 0, MIB(8));
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, NULL, 0);
    stats = stats_now(fx);
    g_assert_cmpuint(stats.pages_4k + stats.pages_2m + stats.pages_1g, ==, 0);
    g_assert_true(fixture_access(fx, 0, 0x1000, XMMU_PROT_EXEC).mmio);
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &all, 1);
    touch(fx, 0, MIB(8));
    fixture_free(fx);
}

/* Hundreds of small slots: each page is found, each hole is one. */
static void check_many(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuRegion regions[300];

    for (unsigned i = 0; i < G_N_ELEMENTS(regions); i++) {
        gpa_t start = i * KIB(64);

        regions[i] = region(fx, start, start + KIB(32), start, 0);
    }
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, G_N_ELEMENTS(regions));
    for (unsigned i = 0; i < G_N_ELEMENTS(regions); i++) {
        gpa_t start = i * KIB(64);

        fixture_expect_ok(fx, start, XMMU_PROT_READ, start);
        fixture_expect_ok(fx, start + KIB(28), XMMU_PROT_READ, start + KIB(28));
        g_assert_true(fixture_access(fx, 0, start + KIB(32), XMMU_PROT_READ).mmio);
    }
    fixture_free(fx);
}

/* The host address is not aligned like the guest's: no large page. */
static void check_unaligned(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuRegion odd = region(fx, 0, MIB(16), 0x1000, 0);
    XmmuHwResult r;

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &odd, 1);
    for (gpa_t gpa = 0; gpa < MIB(16); gpa += KIB(60)) {
        r = fixture_access(fx, 0, gpa, XMMU_PROT_WRITE);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
        g_assert_cmphex(r.hpa, ==, (uintptr_t)fx->ram + gpa + 0x1000);
    }
    g_assert_cmpuint(stats_now(fx).pages_2m, ==, 0);
    fixture_free(fx);
}

/* A guest table that moves to other memory is another table. */
static void check_table_moves(gconstpointer data)
{
    Fixture *fx = new_vm(data);
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));
    XmmuRegion moved[3];
    gpa_t table;

    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    table = fixture_entry(fx, &regs, 0x5000, 1) & XMMU_PAGE_MASK;
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5010, XMMU_PROT_WRITE, MIB(8) + 0x10);
    fixture_write(fx, MIB(20) + 0x28, MIB(9) | PTE_PWU, 8);
    moved[0] = region(fx, 0, table, 0, 0);
    moved[1] = region(fx, table, table + 0x1000, MIB(20), 0);
    moved[2] = region(fx, table + 0x1000, MIB(32), table + 0x1000, 0);
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, moved, 3);
    fixture_expect_ok(fx, 0x5010, XMMU_PROT_WRITE, MIB(9) + 0x10);
    fixture_free(fx);
}

typedef void SlotCheck(gconstpointer data);

static const struct {
    const char *name;
    SlotCheck *check;
} checks[] = {
    { "same", check_same },
    { "remove", check_remove },
    { "move", check_move },
    { "rights", check_rights },
    { "empty", check_empty },
    { "many", check_many },
    { "unaligned", check_unaligned },
    { "table moves", check_table_moves },
};

int main(int argc, char **argv)
{
    static SlotCase cases[4];

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        cases[i] = (SlotCase) { i & 1, i & 2 };
        for (size_t k = 0; k < G_N_ELEMENTS(checks); k++) {
            char *path = g_strdup_printf("/slots/%s/%s%s", checks[k].name,
                                         cases[i].tdp ? "tdp" : "shadow",
                                         cases[i].huge ? " large" : "");

            g_test_add_data_func(path, &cases[i], checks[k].check);
            g_free(path);
        }
    }
    return g_test_run();
}
