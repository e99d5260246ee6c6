/*
 * xmmu: unit test of TDP tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The entries that the hardware would walk, bit by bit in both encodings (AMD APM
 * vol. 2, 15.25 and 5.3; Intel SDM vol. 3, tables 29-2 to 29-7), for each page size
 * and depth; sharing between vCPUs; ROM; MMIO.
 */
#include "fixture.h"

#define FRAME_MASK 0x0007fffffffff000ull

typedef struct Encoding {
    const char *name;
    XmmuTdpFormat format;
    uint64_t table;             /* bits of an entry that points to a table */
    uint64_t leaf;              /* bits of a leaf that was read */
    uint64_t write, dirty, large;
    uint64_t must_be_zero;      /* reserved for hardware in a 4 KiB leaf */
} Encoding;

static const Encoding encodings[] = {
    /* P, W, U, A in tables; P, U, A in leaves; W is bit 1, D 6, PS 7, NX 63 clear. */
    { "npt", XMMU_TDP_NPT, 0x27, 0x25, 0x02, 0x40, 0x80, 1ull << 63 | 0x18 },
    /* R, W, X, A (8) in tables; R, X, WB (6 << 3), A in leaves; W bit 1, D 9. */
    { "ept", XMMU_TDP_EPT, 0x107, 0x135, 0x02, 0x200, 0x80, 1ull << 63 },
};

static Fixture *new_vm(const Encoding *e, unsigned levels, bool huge, uint64_t ram)
{
    XmmuConfig config = fixture_config();

    config.tdp_format = e->format;
    config.tdp_levels = levels;
    config.huge_pages = huge;
    return fixture_new(&config, ram);
}

/* Entries from the root to @leaf for @gpa. */
static void check_path(Fixture *fx, const Encoding *e, int levels, gpa_t gpa, int leaf,
                       uint64_t extra)
{
    hpa_t root = fixture_root(fx, 0);
    uint64_t size = xmmu_level_pages(leaf) << 12;
    uint64_t entry;

    g_assert_cmpuint(root & 0xfff, ==, 0);
    for (int level = levels; level > leaf; level--) {
        entry = fixture_raw(fx, root, levels, gpa >> 12, level);
        g_assert_cmphex(entry & ~FRAME_MASK, ==, e->table);
    }
    entry = fixture_raw(fx, root, levels, gpa >> 12, leaf);
    g_assert_cmphex(entry & FRAME_MASK, ==, (uintptr_t)fx->ram + (gpa & ~(size - 1)));
    g_assert_cmphex(entry & ~FRAME_MASK & ~((uint64_t)0x7ff << 52), ==,
                    e->leaf | (leaf > 1 ? e->large : 0) | extra);
    g_assert_cmphex(entry & e->must_be_zero, ==, 0);
}

static void check_encoding(const Encoding *e, int levels, bool huge, uint64_t ram,
                           gpa_t gpa, int leaf)
{
    Fixture *fx = new_vm(e, levels, huge, ram);
    XmmuStats stats;

    fixture_expect_ok(fx, gpa, XMMU_PROT_READ, gpa);
    g_assert_cmphex(fx->last.prot, ==, XMMU_PROT_READ | XMMU_PROT_EXEC);
    check_path(fx, e, levels, gpa, leaf, e->write);
    fixture_expect_ok(fx, gpa + 8, XMMU_PROT_WRITE, gpa + 8);
    check_path(fx, e, levels, gpa, leaf, e->write | e->dirty);
    fixture_expect_ok(fx, gpa + 16, XMMU_PROT_EXEC, gpa + 16);
    g_assert_cmphex(fx->last.prot, ==, XMMU_PROT_RWX);
    stats = fixture_stats(fx);
    g_assert_cmpuint(stats.pages_4k, ==, leaf == 1);
    g_assert_cmpuint(stats.pages_2m, ==, leaf == 2);
    g_assert_cmpuint(stats.pages_1g, ==, leaf == 3);
    g_assert_cmpuint(stats.tables, ==, levels - leaf + 1);
    g_assert_cmpuint(stats.faults, ==, 1);
    g_assert_cmpuint(stats.faults_fixed, ==, 1);
    fixture_free(fx);
}

static void test_encodings(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(encodings); i++) {
        for (int levels = 4; levels <= 5; levels++) {
            const Encoding *e = &encodings[i];

            check_encoding(e, levels, false, MIB(8), MIB(4) + 0x3000, 1);
            check_encoding(e, levels, true, MIB(8), MIB(4) + 0x3000, 2);
            check_encoding(e, levels, true, GIB(2), GIB(1) + MIB(5), 3);
            /* Memory that ends inside the gigabyte. */
            check_encoding(e, levels, true, GIB(1) + MIB(2), GIB(1) + 0x5000, 2);
        }
    }
}

/* A write first: born dirty. */
static void test_born_dirty(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(encodings); i++) {
        const Encoding *e = &encodings[i];
        Fixture *fx = new_vm(e, 4, false, MIB(4));

        fixture_expect_ok(fx, 0x7000, XMMU_PROT_WRITE, 0x7000);
        check_path(fx, e, 4, 0x7000, 1, e->write | e->dirty);
        fixture_free(fx);
    }
}

static void set_rom(Fixture *fx, gpa_t start, gpa_t end)
{
    XmmuRegion regions[] = {
        { .gfn = 0, .npages = start >> 12, .hpa = (uintptr_t)fx->ram },
        { .gfn = start >> 12, .npages = (end - start) >> 12,
          .hpa = (uintptr_t)fx->ram + start, .flags = XMMU_REGION_READONLY },
        { .gfn = end >> 12, .npages = (fx->ram_size - end) >> 12,
          .hpa = (uintptr_t)fx->ram + end },
    };

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, 3);
}

static void test_rom(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(encodings); i++) {
        const Encoding *e = &encodings[i];
        Fixture *fx = new_vm(e, 4, true, MIB(8));
        XmmuHwResult r;

        set_rom(fx, MIB(2), MIB(4));
        fixture_expect_ok(fx, MIB(2) + 5, XMMU_PROT_READ, MIB(2) + 5);
        g_assert_cmphex(fx->last.prot, ==, XMMU_PROT_READ | XMMU_PROT_EXEC);
        check_path(fx, e, 4, MIB(2), 2, 0);
        r = fixture_access(fx, 0, MIB(2) + 5, XMMU_PROT_WRITE);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
        g_assert_cmphex(r.gpa, ==, MIB(2) + 5);
        /* Still readable, still the same entry. */
        fixture_expect_ok(fx, MIB(2) + 5, XMMU_PROT_EXEC, MIB(2) + 5);
        check_path(fx, e, 4, MIB(2), 2, 0);
        g_assert_cmpuint(fixture_stats(fx).faults_emulate, ==, 1);
        fixture_free(fx);
    }
}

static void test_mmio(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(encodings); i++) {
        const Encoding *e = &encodings[i];
        Fixture *fx = new_vm(e, 4, true, MIB(4));
        XmmuHwResult r = fixture_access(fx, 0, 0xfee00020, XMMU_PROT_READ);
        uint64_t entry = fixture_raw(fx, fixture_root(fx, 0), 4, 0xfee00, 1);
        XmmuStats stats;

        g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
        g_assert_true(r.mmio);
        g_assert_cmphex(r.gpa, ==, 0xfee00020);
        if (e->format == XMMU_TDP_EPT) {
            g_assert_cmphex(entry & 7, ==, 6);      /* W and X without R */
        } else {
            g_assert_cmphex(entry & 1, ==, 1);
            g_assert_cmphex(entry >> 51 & 1, ==, 1);    /* reserved */
        }
        /* The next ones are answered by the entry. */
        for (int n = 0; n < 5; n++) {
            r = fixture_access(fx, 0, 0xfee00030, XMMU_PROT_WRITE);
            g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
            g_assert_true(r.mmio);
        }
        stats = fixture_stats(fx);
        g_assert_cmpuint(stats.faults, ==, 1);
        g_assert_cmpuint(stats.mmio_cached, ==, 5);
        g_assert_cmpuint(stats.pages_4k, ==, 0);
        fixture_free(fx);
    }
}

/* Beyond what four levels translate. */
static void test_beyond(void)
{
    XmmuCpuCaps caps = { .maxphyaddr = 52, .page1g = true };
    XmmuConfig config = fixture_config();
    Fixture *fx = fixture_new_caps(&config, MIB(16), &caps);
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));
    XmmuHwResult r;

    fixture_map(fx, &regs, 0x5000, 1ull << 50 | PTE_PWU, 1);
    fixture_map(fx, &regs, 0x40000000, 1ull << 48 | PTE_PWU | PTE_PS, 3);
    fixture_load(fx, 0, regs);
    r = fixture_access(fx, 0, 0x5010, XMMU_PROT_WRITE);
    g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
    g_assert_true(r.mmio);
    g_assert_cmphex(r.gpa, ==, (1ull << 50) + 0x10);
    r = fixture_access(fx, 0, 0x40000010, XMMU_PROT_READ);
    g_assert_cmphex(r.gpa, ==, (1ull << 48) + 0x10);
    g_assert_true(r.mmio);
    fixture_free(fx);
}

/* The tree depends on no register: whatever a vCPU does, it is built once. */
static void test_shared(void)
{
    static const unsigned modes[] = { MODE_NONE, MODE_32, MODE_PAE, MODE_4L, MODE_5L };
    Fixture *fx = new_vm(&encodings[0], 4, false, MIB(16));
    XmmuRegs regs[G_N_ELEMENTS(modes)];
    XmmuStats before, after;

    fixture_add_cpu(fx, 1);
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        regs[i] = fixture_regs(modes[i], fixture_page(fx));
        if (modes[i]) {
            fixture_map(fx, &regs[i], 0x5000, 0x7000 | PTE_PWU, 1);
        }
        fixture_load(fx, 0, regs[i]);
        fixture_access(fx, 0, 0x5000, XMMU_PROT_WRITE);
    }
    fixture_access(fx, 0, 0x7000, XMMU_PROT_WRITE);
    before = fixture_stats(fx);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
            fixture_load(fx, 1, regs[i]);
            g_assert_cmpint(fixture_access(fx, 1, 0x5000, XMMU_PROT_WRITE).outcome, ==,
                            XMMU_HW_OK);
            g_assert_cmphex(fixture_root(fx, 0), ==, fixture_root(fx, 1));
        }
    }
    after = fixture_stats(fx);
    g_assert_cmpuint(after.faults, ==, before.faults);
    g_assert_cmpuint(after.tables, ==, before.tables);
    g_assert_cmpuint(after.roots_new, ==, before.roots_new);
    fixture_free(fx);
}

/* SMM has a tree of its own. */
static void test_smm(void)
{
    Fixture *fx = new_vm(&encodings[1], 4, false, MIB(4));
    XmmuRegion smram = { .gfn = 0xa0, .npages = 16, .hpa = (uintptr_t)fx->ram + MIB(2) };
    XmmuRegion low = { .gfn = 0, .npages = 0xa0, .hpa = (uintptr_t)fx->ram };
    XmmuRegion smm[2] = { low, smram };
    XmmuRegs regs = fixture_regs(MODE_NONE, 0);
    XmmuHwResult r;

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &low, 1);
    xmmu_vm_set_memory(fx->vm, XMMU_AS_SMM, smm, 2);
    g_assert_true(fixture_access(fx, 0, 0xa0123, XMMU_PROT_READ).mmio);
    regs.smm = true;
    xmmu_vcpu_set_regs(fx->vcpu, &regs);
    r = fixture_access(fx, 0, 0xa0123, XMMU_PROT_READ);
    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    g_assert_cmphex(r.hpa, ==, (uintptr_t)fx->ram + MIB(2) + 0x123);
    regs.smm = false;
    xmmu_vcpu_set_regs(fx->vcpu, &regs);
    g_assert_true(fixture_access(fx, 0, 0xa0123, XMMU_PROT_READ).mmio);
    fixture_free(fx);
}

static void test_a20(void)
{
    for (int tdp = 0; tdp < 2; tdp++) {
        XmmuConfig config = fixture_config();
        XmmuRegs regs = fixture_regs(MODE_NONE, 0);
        Fixture *fx;

        config.tdp = tdp;
        fx = fixture_new(&config, MIB(8));
        fixture_expect_ok(fx, MIB(1) + 0x10, XMMU_PROT_READ, MIB(1) + 0x10);
        regs.a20_masked = true;
        xmmu_vcpu_set_regs(fx->vcpu, &regs);
        fixture_expect_ok(fx, MIB(1) + 0x10, XMMU_PROT_WRITE, 0x10);
        fixture_expect_ok(fx, MIB(5) + 0x10, XMMU_PROT_WRITE, MIB(4) + 0x10);
        regs.a20_masked = false;
        xmmu_vcpu_set_regs(fx->vcpu, &regs);
        fixture_expect_ok(fx, MIB(1) + 0x10, XMMU_PROT_READ, MIB(1) + 0x10);
        fixture_free(fx);
    }
}

static void test_physical(void)
{
    for (int tdp = 0; tdp < 2; tdp++) {
        XmmuConfig config = fixture_config();
        XmmuHwResult r;
        Fixture *fx;

        config.tdp = tdp;
        fx = fixture_new(&config, MIB(8));
        set_rom(fx, MIB(2), MIB(4));
        xmmu_hw_translate_gpa(fx->vcpu, 0x5008, XMMU_PROT_WRITE, 8, &r);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
        g_assert_cmphex(r.hpa, ==, (uintptr_t)fx->ram + 0x5008);
        xmmu_hw_translate_gpa(fx->vcpu, MIB(2), XMMU_PROT_READ, 8, &r);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
        xmmu_hw_translate_gpa(fx->vcpu, MIB(2), XMMU_PROT_WRITE, 8, &r);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
        xmmu_hw_translate_gpa(fx->vcpu, 0xfee00000, XMMU_PROT_READ, 4, &r);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
        g_assert_true(r.mmio);
        fixture_free(fx);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tdp/encodings", test_encodings);
    g_test_add_func("/tdp/born dirty", test_born_dirty);
    g_test_add_func("/tdp/rom", test_rom);
    g_test_add_func("/tdp/mmio", test_mmio);
    g_test_add_func("/tdp/beyond", test_beyond);
    g_test_add_func("/tdp/shared", test_shared);
    g_test_add_func("/tdp/smm", test_smm);
    g_test_add_func("/tdp/a20", test_a20);
    g_test_add_func("/tdp/physical", test_physical);
    return g_test_run();
}
