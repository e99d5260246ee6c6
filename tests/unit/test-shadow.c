/*
 * xmmu: unit test of shadow paging
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the tables of shadow paging are and when they change: sharing by (gfn, role),
 * write tracking with unsync and sync, INVLPG and CR3 loads, flooding, misaligned
 * writes, quadrants of 32-bit guests, large pages that must be split, CR0.WP=0, and
 * the limit on the number of tables.
 */
#include "accel/xmmu/mmu/vm.h"
#include "fixture.h"

#define RAM FIXTURE_GUEST_RAM

/* ---- Sharing ------------------------------------------------------------- */

/* Two directory entries that point to the same page table share its shadow when
 * they grant the same, and do not when they do not. */
static void test_sharing(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    gpa_t table = fixture_page(fx);
    XmmuStats before, after;

    fixture_map(fx, &regs, 0, table | PTE_PWU, 2);
    fixture_map(fx, &regs, MIB(2), table | PTE_PWU, 2);
    fixture_map(fx, &regs, MIB(4), table | PTE_P | PTE_U, 2);
    fixture_write(fx, table + 5 * 8, MIB(8) | PTE_PWU, 8);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    before = fixture_stats(fx);
    fixture_expect_ok(fx, MIB(2) + 0x5000, XMMU_PROT_WRITE, MIB(8));
    after = fixture_stats(fx);
    g_assert_cmpuint(after.tables, ==, before.tables);
    /* Inherited rights are part of what a table is (CVE-2021-38198). */
    fixture_expect_fault(fx, MIB(4) + 0x5000, XMMU_PROT_WRITE, 3);
    fixture_expect_ok(fx, MIB(4) + 0x5000, XMMU_PROT_READ, MIB(8));
    g_assert_cmphex(fx->last.prot & XMMU_PROT_WRITE, ==, 0);
    after = fixture_stats(fx);
    g_assert_cmpuint(after.tables, ==, before.tables + 1);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    fixture_expect_fault(fx, MIB(4) + 0x5000, XMMU_PROT_WRITE, 3);
    fixture_free(fx);
}

/* A table that contains itself: one guest page, a shadow at each level. */
static void test_recursive(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    gva_t self = 0xffffff7fbfdfe000;    /* index 0x1fe, four times */
    int i;

    fixture_write(fx, regs.cr3 + 0x1fe * 8, regs.cr3 | PTE_P | PTE_W, 8);
    fixture_load(fx, 0, regs);
    for (i = 0; i < 3; i++) {
        fixture_expect_ok(fx, self, XMMU_PROT_READ, regs.cr3);
    }
    /* Writing it is writing a table at every level at once. */
    fixture_store(fx, 0, self + 8, 0x1000 | PTE_P, 8);
    fixture_store(fx, 0, self + 0x1fe * 8, 0, 8);
    xmmu_vcpu_flush_guest(fx->vcpu);
    fixture_expect_fault(fx, self, XMMU_PROT_READ, 0);
    fixture_free(fx);
}

/* ---- Unsync and sync --------------------------------------------------------- */

static void check_invlpg(gconstpointer data)
{
    unsigned mode = GPOINTER_TO_UINT(data);
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(mode, &regs);
    gpa_t at;
    XmmuStats before, after;

    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    fixture_map(fx, &regs, 0x6000, MIB(8) | PTE_PWU, 1);
    at = fixture_entry(fx, &regs, 0x5000, 1);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    fixture_expect_ok(fx, 0x6000, XMMU_PROT_WRITE, MIB(8));

    /* The page table becomes unsync and is written freely then. */
    before = fixture_stats(fx);
    fixture_guest_write(fx, &regs, at, MIB(9) | PTE_PWU);
    fixture_guest_write(fx, &regs, at, MIB(10) | PTE_PWU);
    after = fixture_stats(fx);
    g_assert_cmpuint(after.faults, <=, before.faults + 1);
    g_assert_cmpuint(after.tracked_writes, ==, before.tracked_writes);

    /* INVLPG of another page need not, of this one must show it. */
    xmmu_vcpu_invlpg(fx->vcpu, 0x5123);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(10));
    fixture_expect_ok(fx, 0x6000, XMMU_PROT_WRITE, MIB(8));

    /* A CR3 load shows all. */
    fixture_guest_write(fx, &regs, at, 0);
    fixture_guest_write(fx, &regs, at + fixture_entry_size(&regs), MIB(11) | PTE_PWU);
    fixture_load(fx, 0, regs);
    fixture_expect_fault(fx, 0x5000, XMMU_PROT_READ, 0);
    fixture_expect_ok(fx, 0x6000, XMMU_PROT_WRITE, MIB(11));
    fixture_free(fx);
}

/* Rights that a changed entry loses are lost at the flush, gained ones come by a
 * fault; the entry itself stays. */
static void test_rights_change(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    XmmuStats before;
    gpa_t at;

    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    at = fixture_entry(fx, &regs, 0x5000, 1);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE | ACC_USER, MIB(8));
    fixture_guest_write(fx, &regs, at, MIB(8) | PTE_P | PTE_U | PTE_A | PTE_D);
    xmmu_vcpu_invlpg(fx->vcpu, 0x5000);
    fixture_expect_fault(fx, 0x5000, XMMU_PROT_WRITE | ACC_USER, 7);
    before = fixture_stats(fx);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_READ | ACC_USER, MIB(8));
    g_assert_cmpuint(fixture_stats(fx).faults, ==, before.faults);
    /* D cleared: the next write must set it again. */
    fixture_guest_write(fx, &regs, at, MIB(8) | PTE_PWU | PTE_A);
    xmmu_vcpu_invlpg(fx->vcpu, 0x5000);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE | ACC_USER, MIB(8));
    g_assert_true(fixture_read(fx, at, 8) & PTE_D);
    /* A cleared: the next access must set it again. */
    fixture_guest_write(fx, &regs, at, MIB(8) | PTE_PWU);
    xmmu_vcpu_flush_guest(fx->vcpu);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_READ | ACC_USER, MIB(8));
    g_assert_true(fixture_read(fx, at, 8) & PTE_A);
    /* NX and a key. */
    fixture_guest_write(fx, &regs, at, MIB(8) | PTE_PWU | PTE_A | PTE_NX);
    xmmu_vcpu_invlpg(fx->vcpu, 0x5000);
    fixture_expect_fault(fx, 0x5000, XMMU_PROT_EXEC | ACC_USER, 0x15);
    fixture_free(fx);
}

/* A table is synchronised only when every vCPU has flushed since it was protected. */
static void test_laggard(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    XmmuStats before, after;

    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    fixture_add_cpu(fx, 1);
    fixture_load(fx, 0, regs);
    fixture_load(fx, 1, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    fixture_access(fx, 1, 0x5000, XMMU_PROT_READ);
    fixture_load(fx, 0, regs);
    fixture_load(fx, 0, regs);
    before = fixture_stats(fx);
    fixture_load(fx, 0, regs);
    after = fixture_stats(fx);
    g_assert_cmpuint(after.syncs, >, before.syncs);
    /* In time it is asked to flush. */
    for (int i = 0; i < 1000 && !fx->nudged[1]; i++) {
        fixture_load(fx, 0, regs);
    }
    g_assert_cmpint(fx->nudged[1], ==, 1);
    xmmu_vcpu_flushed(fx->cpus[1]);
    fixture_load(fx, 0, regs);
    fixture_access(fx, 0, 0x5000, XMMU_PROT_READ);
    before = fixture_stats(fx);
    fixture_load(fx, 0, regs);
    after = fixture_stats(fx);
    g_assert_cmpuint(after.syncs, ==, before.syncs);
    fixture_free(fx);
}

/* Does a CR3 load still have something to compare? */
static bool is_unsync(Fixture *fx, XmmuRegs regs)
{
    uint64_t syncs = fixture_stats(fx).syncs;

    fixture_load(fx, 0, regs);
    fixture_access(fx, 0, 0x5000, XMMU_PROT_READ);
    return fixture_stats(fx).syncs > syncs;
}

/* Nor when they have, while hardware may have cached what was before: a flush that
 * began before the page was protected does not count. */
static void test_hardware_laggard(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    XmmuServices services = *fx->vm->services;
    uint64_t before;

    services.hardware_caches = true;
    fx->vm->services = &services;
    before = xmmu_vm_hardware_tick(fx->vm);
    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    g_assert_true(is_unsync(fx, regs));
    g_assert_true(is_unsync(fx, regs));
    xmmu_vm_hardware_flushed(fx->vm, before);
    g_assert_true(is_unsync(fx, regs));
    g_assert_true(is_unsync(fx, regs));
    xmmu_vm_hardware_flushed(fx->vm, xmmu_vm_hardware_tick(fx->vm));
    is_unsync(fx, regs);
    g_assert_false(is_unsync(fx, regs));
    fx->vm->services = &fixture_services;
    fixture_free(fx);
}

/* Nor while another vCPU is in a fault, for which it has read the guest's tables: what
 * it makes of them may be older than the comparison. */
static void test_fault_on_its_way(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    XmmuServices services = *fx->vm->services;
    XmmuVcpu *other = fixture_add_cpu(fx, 1);
    XmmuFault fault = { .access = { .gva = 0x5000, .want = XMMU_PROT_READ } };

    services.hardware_caches = true;
    fx->vm->services = &services;
    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    fixture_load(fx, 0, regs);
    fixture_load(fx, 1, regs);
    xmmu_vcpu_flushed(other);
    g_assert_cmpint(xmmu_shadow_fault(other, &fault), ==, XMMU_PF_FIXED);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    g_assert_true(is_unsync(fx, regs));
    xmmu_vm_hardware_flushed(fx->vm, xmmu_vm_hardware_tick(fx->vm));
    g_assert_true(is_unsync(fx, regs));
    g_assert_true(is_unsync(fx, regs));
    xmmu_vcpu_flushed(other);
    is_unsync(fx, regs);
    g_assert_false(is_unsync(fx, regs));
    fx->vm->services = &fixture_services;
    fixture_free(fx);
}

/*
 * A vCPU that has a writable translation from before the page became a table may
 * store through it until it flushes; the owner's INVLPG and CR3 load must show that,
 * at every level.
 */
static void test_stale_writer(void)
{
    for (int level = 1; level <= 4; level++) {
        for (int whole = 0; whole < 2; whole++) {
            XmmuRegs regs;
            Fixture *fx = fixture_new_guest(MODE_4L, &regs);
            gpa_t at;
            uint64_t entry;

            fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
            at = fixture_entry(fx, &regs, 0x5000, level);
            entry = fixture_read(fx, at, 8);
            fixture_add_cpu(fx, 1);
            g_assert_cmpint(fixture_access(fx, 1, at, XMMU_PROT_WRITE).outcome, ==,
                            XMMU_HW_OK);
            fixture_load(fx, 0, regs);
            fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
            for (int i = 0; i < 3; i++) {
                fixture_write(fx, at, entry & ~PTE_P, 8);       /* by vCPU 1 */
                if (whole) {
                    fixture_load(fx, 0, regs);
                } else {
                    xmmu_vcpu_invlpg(fx->vcpu, 0x5000);
                }
                fixture_expect_fault(fx, 0x5000, XMMU_PROT_READ, 0);
                fixture_write(fx, at, entry, 8);
                fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
            }
            fixture_free(fx);
        }
    }
}

/* ---- Upper tables ------------------------------------------------------------- */

static void check_upper_write(gconstpointer data)
{
    unsigned mode = GPOINTER_TO_UINT(data);
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(mode, &regs);
    gpa_t at, table = 0;
    XmmuStats before, after;
    XmmuHwResult r;

    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    table = fixture_page(fx);
    fixture_write(fx, table + 5 * fixture_entry_size(&regs), MIB(9) | PTE_PWU,
                  fixture_entry_size(&regs));
    at = fixture_entry(fx, &regs, 0x5000, 2);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));

    before = fixture_stats(fx);
    r = fixture_access_size(fx, 0, FIXTURE_WINDOW + at, XMMU_PROT_WRITE,
                            fixture_entry_size(&regs));
    g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
    g_assert_false(r.mmio);
    g_assert_cmphex(r.gpa, ==, at);
    fixture_write(fx, at, table | PTE_PWU, fixture_entry_size(&regs));
    after = fixture_stats(fx);
    g_assert_cmpuint(after.tracked_writes, ==, before.tracked_writes + 1);
    xmmu_vcpu_invlpg(fx->vcpu, 0x5000);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(9));
    /* The page is read as before. */
    fixture_expect_ok(fx, FIXTURE_WINDOW + at, XMMU_PROT_READ, at);
    fixture_free(fx);
}

static void test_flooding(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    XmmuStats before, after;
    gpa_t at;

    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    at = fixture_entry(fx, &regs, 0x5000, 2) & XMMU_PAGE_MASK;
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    before = fixture_stats(fx);
    for (unsigned i = 0; i < 40; i++) {
        fixture_guest_write(fx, &regs, at + (100 + i) * 8, 0);
    }
    after = fixture_stats(fx);
    g_assert_cmpuint(after.floods, ==, before.floods + 1);
    /* Not a table any more: the writes do not come to us. */
    g_assert_cmpuint(after.tracked_writes, <, before.tracked_writes + 10);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    fixture_free(fx);
}

static void test_misaligned(void)
{
    static const struct { unsigned offset, size; } writes[] = {
        { 0x101, 8 }, { 0x107, 2 }, { 0x100, 1 }, { 0x100, 16 }, { 0x102, 2 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(writes); i++) {
        XmmuRegs regs;
        Fixture *fx = fixture_new_guest(MODE_4L, &regs);
        XmmuStats before;
        XmmuHwResult r;
        gpa_t at;

        fixture_map_window(fx, &regs);
        fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
        at = fixture_entry(fx, &regs, 0x5000, 2) & XMMU_PAGE_MASK;
        fixture_load(fx, 0, regs);
        fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
        before = fixture_stats(fx);
        r = fixture_access_size(fx, 0, FIXTURE_WINDOW + at + writes[i].offset,
                                XMMU_PROT_WRITE, writes[i].size);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
        g_assert_cmpuint(fixture_stats(fx).misaligned, ==, before.misaligned + 1);
        fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
        fixture_free(fx);
    }
}

/* ---- 32-bit guests over 64-bit tables ------------------------------------------ */

static void test_quadrants(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_32, &regs);

    /* Each half of a page table, each quarter of the directory. */
    for (unsigned q = 0; q < 4; q++) {
        for (unsigned half = 0; half < 2; half++) {
            gva_t gva = GIB(1) * q + MIB(12) + half * MIB(2) + 0x3000;
            gpa_t page = MIB(8) + (q * 2 + half) * 0x1000;

            fixture_map(fx, &regs, gva, page | PTE_PWU, 1);
        }
    }
    fixture_load(fx, 0, regs);
    for (int round = 0; round < 2; round++) {
        for (unsigned q = 0; q < 4; q++) {
            for (unsigned half = 0; half < 2; half++) {
                gva_t gva = GIB(1) * q + MIB(12) + half * MIB(2) + 0x3010;

                fixture_expect_ok(fx, gva, XMMU_PROT_WRITE,
                                  MIB(8) + (q * 2 + half) * 0x1000 + 0x10);
            }
        }
    }
    fixture_free(fx);
}

/* A 4 MiB page is two of ours; a change of the entry changes both. */
static void test_4m(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_32, &regs);
    gpa_t at;

    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x80000000, MIB(8) | PTE_PWU | PTE_PS, 2);
    at = fixture_entry(fx, &regs, 0x80000000, 2);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x80001000, XMMU_PROT_WRITE, MIB(8) + 0x1000);
    fixture_expect_ok(fx, 0x80201000, XMMU_PROT_WRITE, MIB(10) + 0x1000);
    g_assert_cmpuint(fx->last.page_shift, ==, 22);
    fixture_guest_write(fx, &regs, at, MIB(12) | PTE_PWU | PTE_PS);
    xmmu_vcpu_invlpg(fx->vcpu, 0x80000000);
    fixture_expect_ok(fx, 0x80201000, XMMU_PROT_WRITE, MIB(14) + 0x1000);
    fixture_expect_ok(fx, 0x80001000, XMMU_PROT_WRITE, MIB(12) + 0x1000);
    fixture_free(fx);
}

/* ---- Large pages ------------------------------------------------------------------ */

/* A guest table inside a large page: only its 4 KiB may be protected. */
static void test_split(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    gpa_t at;

    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    at = fixture_entry(fx, &regs, 0x5000, 2);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, FIXTURE_WINDOW + MIB(16), XMMU_PROT_WRITE, MIB(16));
    fixture_expect_ok(fx, FIXTURE_WINDOW + at, XMMU_PROT_READ, at);
    g_assert_cmphex(fx->last.prot & XMMU_PROT_WRITE, ==, 0);
    g_assert_cmpuint(fx->last.page_shift, ==, 21);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    fixture_store(fx, 0, FIXTURE_WINDOW + MIB(1) + 0x80000, 1, 8);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, >, 0);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, >, 0);
    fixture_free(fx);
}

/* Large pages with different keys or rights that map the same frames. */
static void test_split_roles(void)
{
    XmmuConfig config = fixture_shadow_config();
    /* Or rights would differ because a read one may not be written yet. */
    uint64_t dirty = PTE_A | PTE_D;
    XmmuRegs regs;
    Fixture *fx;

    config.huge_pages = false;
    fx = fixture_new(&config, RAM);
    regs = fixture_regs(MODE_4L, fixture_page(fx));
    regs.cr4 |= XMMU_CR4_PKE;
    regs.pkru = 2 << 4;                 /* key 2: no writes */
    fixture_map(fx, &regs, 0, MIB(8) | PTE_PWU | PTE_PS | dirty | PTE_PK(1), 2);
    fixture_map(fx, &regs, MIB(2), MIB(8) | PTE_PWU | PTE_PS | dirty | PTE_PK(2), 2);
    fixture_map(fx, &regs, MIB(4), MIB(8) | PTE_P | PTE_U | PTE_PS | dirty, 2);
    fixture_map(fx, &regs, MIB(6), MIB(8) | PTE_P | PTE_W | PTE_PS | dirty, 2);
    fixture_load(fx, 0, regs);
    for (int round = 0; round < 2; round++) {
        fixture_expect_ok(fx, 0x7000, XMMU_PROT_WRITE | ACC_USER, MIB(8) + 0x7000);
        fixture_expect_fault(fx, MIB(2) + 0x7000, XMMU_PROT_WRITE | ACC_USER, 0x27);
        fixture_expect_ok(fx, MIB(2) + 0x7000, XMMU_PROT_READ | ACC_USER, MIB(8) + 0x7000);
        fixture_expect_fault(fx, MIB(4) + 0x7000, XMMU_PROT_WRITE | ACC_USER, 7);
        fixture_expect_fault(fx, MIB(6) + 0x7000, XMMU_PROT_READ | ACC_USER, 5);
        fixture_expect_ok(fx, MIB(6) + 0x7000, XMMU_PROT_WRITE, MIB(8) + 0x7000);
    }
    fixture_free(fx);
}

/* A gigabyte page and one of 2 MiB in it ask for tables of the same frames. */
static void test_1g(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);

    fixture_map(fx, &regs, 0, PTE_PWU | PTE_PS, 3);
    fixture_map(fx, &regs, GIB(1) + MIB(2), MIB(2) | PTE_PWU | PTE_PS, 2);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, MIB(2) + 0x5000, XMMU_PROT_WRITE, MIB(2) + 0x5000);
    g_assert_cmpuint(fx->last.page_shift, ==, 30);
    fixture_expect_ok(fx, GIB(1) + MIB(2) + 0x5000, XMMU_PROT_WRITE, MIB(2) + 0x5000);
    g_assert_cmpuint(fx->last.page_shift, >=, 21);
    fixture_free(fx);
}

/* A directory entry that changes from a table to a large page and back. */
static void test_role_conflict(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    gpa_t at;
    uint64_t table;

    fixture_map_window(fx, &regs);
    fixture_map(fx, &regs, 0x80005000, MIB(8) | PTE_PWU, 1);
    at = fixture_entry(fx, &regs, 0x80005000, 2);
    table = fixture_read(fx, at, 8);
    fixture_load(fx, 0, regs);
    for (int i = 0; i < 3; i++) {
        fixture_expect_ok(fx, 0x80005000, XMMU_PROT_WRITE, MIB(8));
        fixture_guest_write(fx, &regs, at, MIB(16) | PTE_PWU | PTE_PS);
        xmmu_vcpu_invlpg(fx->vcpu, 0x80005000);
        fixture_expect_ok(fx, 0x80005000, XMMU_PROT_WRITE, MIB(16) + 0x5000);
        fixture_guest_write(fx, &regs, at, table & ~PTE_W);
        xmmu_vcpu_invlpg(fx->vcpu, 0x80005000);
        fixture_expect_fault(fx, 0x80005000, XMMU_PROT_WRITE, 3);
        fixture_guest_write(fx, &regs, at, table);
        fixture_load(fx, 0, regs);
    }
    /* Unnoticed (a device wrote): the fault meets a child of another role. */
    fixture_expect_ok(fx, 0x80005000, XMMU_PROT_READ, MIB(8));
    fixture_write(fx, at, table & ~PTE_U, 8);
    fixture_map(fx, &regs, 0x80006000, MIB(9) | PTE_PWU, 1);
    fixture_expect_ok(fx, 0x80006000, XMMU_PROT_READ, MIB(9));
    fixture_expect_fault(fx, 0x80006000, XMMU_PROT_READ | ACC_USER, 5);
    g_assert_cmpuint(fixture_stats(fx).role_conflicts, >, 0);
    fixture_free(fx);
}

/* ---- CR0.WP = 0 ----------------------------------------------------------------- */

static void test_without_wp(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    XmmuHwResult r;

    regs.cr0 &= ~(uint64_t)XMMU_CR0_WP;
    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_P | PTE_U, 1);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    /* The supervisor's page now; the user's read makes it the user's again. */
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_READ | ACC_USER, MIB(8));
    fixture_expect_fault(fx, 0x5000, XMMU_PROT_WRITE | ACC_USER, 7);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_EXEC, MIB(8));
    /* SMEP: not executable for the supervisor, whatever the entry is. */
    regs.cr4 |= XMMU_CR4_SMEP;
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    fixture_expect_fault(fx, 0x5000, XMMU_PROT_EXEC, 0x11);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_EXEC | ACC_USER, MIB(8));
    /* SMAP: no entry can say it; the write is done once. */
    regs.cr4 |= XMMU_CR4_SMAP;
    fixture_load(fx, 0, regs);
    fixture_expect_fault(fx, 0x5000, XMMU_PROT_WRITE, 3);
    r = fixture_access(fx, 0, 0x5000, XMMU_PROT_WRITE | ACC_AC);
    g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
    g_assert_cmphex(r.gpa, ==, MIB(8));
    /* With WP the write is refused again. */
    regs.cr0 |= XMMU_CR0_WP;
    regs.cr4 &= ~(uint64_t)XMMU_CR4_SMAP;
    fixture_load(fx, 0, regs);
    fixture_expect_fault(fx, 0x5000, XMMU_PROT_WRITE, 3);
    fixture_free(fx);
}

/* An entry made so knows nothing of keys and SMAP: switching them on is another role. */
static void test_without_wp_then_checks(void)
{
    static const uint64_t bits[] = { XMMU_CR4_SMAP, XMMU_CR4_PKE };
    static const uint32_t codes[] = { 1, 0x21 };

    for (size_t i = 0; i < G_N_ELEMENTS(bits); i++) {
        XmmuRegs regs;
        Fixture *fx = fixture_new_guest(MODE_4L, &regs);

        regs.cr0 &= ~(uint64_t)XMMU_CR0_WP;
        regs.pkru = 1 << 6;
        fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_P | PTE_U | PTE_PK(3), 1);
        fixture_load(fx, 0, regs);
        fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
        regs.cr4 |= bits[i];
        /* MOV to CR4 flushes nothing here. */
        xmmu_vcpu_set_regs(fx->vcpu, &regs);
        fixture_expect_fault(fx, 0x5000, XMMU_PROT_READ, codes[i]);
        regs.cr4 &= ~bits[i];
        xmmu_vcpu_set_regs(fx->vcpu, &regs);
        fixture_expect_ok(fx, 0x5000, XMMU_PROT_READ, MIB(8));
        fixture_free(fx);
    }
}

/* Such a write to a guest table is tracked like any other. */
static void test_without_wp_to_table(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    gpa_t at;

    regs.cr0 &= ~(uint64_t)XMMU_CR0_WP;
    regs.cr4 |= XMMU_CR4_SMAP;
    fixture_map(fx, &regs, 0x80005000, MIB(8) | PTE_PWU, 1);
    at = fixture_entry(fx, &regs, 0x80005000, 2);
    fixture_map(fx, &regs, 0x7000, (at & XMMU_PAGE_MASK) | PTE_P, 1);
    fixture_load(fx, 0, regs);
    for (int i = 0; i < 3; i++) {
        fixture_expect_ok(fx, 0x80005000, XMMU_PROT_WRITE | ACC_USER, MIB(8));
        fixture_load(fx, 0, regs);
    }
    fixture_store(fx, 0, 0x7000 + (at & 0xfff), 0, 8);
    fixture_load(fx, 0, regs);
    fixture_expect_fault(fx, 0x80005000, XMMU_PROT_READ | ACC_USER, 4);
    fixture_free(fx);
}

/* ---- MMIO, limits --------------------------------------------------------------- */

static void test_mmio(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_4L, &regs);
    XmmuStats before;
    XmmuHwResult r;

    fixture_map(fx, &regs, 0x5000, 0xfee00000 | PTE_P | PTE_U, 1);
    fixture_load(fx, 0, regs);
    r = fixture_access(fx, 0, 0x5020, XMMU_PROT_READ);
    g_assert_true(r.outcome == XMMU_HW_DIRECT && r.mmio);
    before = fixture_stats(fx);
    r = fixture_access(fx, 0, 0x5030, XMMU_PROT_READ);
    g_assert_true(r.outcome == XMMU_HW_DIRECT && r.mmio);
    g_assert_cmphex(r.gpa, ==, 0xfee00030);
    g_assert_cmpuint(fixture_stats(fx).mmio_cached, ==, before.mmio_cached + 1);
    g_assert_cmpuint(fixture_stats(fx).faults, ==, before.faults);
    /* Rights are kept with it. */
    fixture_expect_fault(fx, 0x5020, XMMU_PROT_WRITE | ACC_USER, 7);
    fixture_free(fx);
}

static void test_limit(void)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx;
    XmmuRegs regs;

    config.table_memory = xmmu_table_memory_floor(1);
    fx = fixture_new(&config, RAM);
    regs = fixture_regs(MODE_4L, fixture_page(fx));
    for (unsigned i = 0; i < 64; i++) {
        fixture_map(fx, &regs, i * GIB(1), (MIB(8) + i * 0x1000) | PTE_PWU, 1);
    }
    fixture_load(fx, 0, regs);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 64; i++) {
            fixture_expect_ok(fx, i * GIB(1), XMMU_PROT_WRITE, MIB(8) + i * 0x1000);
            g_assert_cmpuint(fixture_stats(fx).table_bytes, <=, config.table_memory);
        }
        rcu_service_drain();
    }
    g_assert_cmpuint(fixture_stats(fx).reclaims, >, 0);
    fixture_free(fx);
}

/* Spurious: two vCPUs fault on the same page. */
static void test_second_cpu(void)
{
    XmmuRegs regs;
    Fixture *fx = fixture_new_guest(MODE_5L, &regs);
    XmmuStats before;

    fixture_map(fx, &regs, 0x5000, MIB(8) | PTE_PWU, 1);
    fixture_add_cpu(fx, 1);
    fixture_load(fx, 0, regs);
    fixture_load(fx, 1, regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, MIB(8));
    before = fixture_stats(fx);
    g_assert_cmpint(fixture_access(fx, 1, 0x5000, XMMU_PROT_WRITE).outcome, ==,
                    XMMU_HW_OK);
    g_assert_cmpuint(fixture_stats(fx).tables, ==, before.tables);
    g_assert_cmphex(fixture_root(fx, 0), ==, fixture_root(fx, 1));
    fixture_free(fx);
}

/* INVLPG covers the guest's page, whoever answers behind it: the fault, which comes
 * first, and the cached entry must both say how large that is. */
static void test_mmio_in_large_page(void)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx = fixture_new(&config, MIB(64));
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));
    gva_t va = GIB(1);

    fixture_map(fx, &regs, va, MIB(512) | PTE_PWU | PTE_PS, 2);
    fixture_set(fx, 0, &regs);
    for (int i = 0; i < 2; i++) {
        XmmuHwResult r = fixture_access(fx, 0, va + 0x5000, XMMU_PROT_READ);

        g_assert_true(r.outcome == XMMU_HW_DIRECT && r.mmio);
        g_assert_cmpuint(r.page_shift, ==, 21);
    }
    fixture_free(fx);
}

/* A large page that holds the very directory that maps it: the directory comes to be
 * tracked on the way to the leaf, which must not be large then. */
static void test_large_page_over_its_table(void)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx = fixture_new(&config, MIB(64));
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));
    gva_t self = MIB(2), data = MIB(4);
    gpa_t entry = fixture_entry(fx, &regs, data, 2);

    g_assert_cmphex(entry, <, MIB(2));
    fixture_map(fx, &regs, self, 0 | PTE_PWU | PTE_PS, 2);
    fixture_map(fx, &regs, data, MIB(8) | PTE_PWU | PTE_PS, 2);
    fixture_set(fx, 0, &regs);
    fixture_expect_ok(fx, self, XMMU_PROT_WRITE, 0);
    fixture_expect_ok(fx, data, XMMU_PROT_READ, MIB(8));
    /* All that changed is known now. */
    fixture_set(fx, 0, &regs);
    fixture_store(fx, 0, self + entry, MIB(16) | PTE_PWU | PTE_PS, 8);
    fixture_set(fx, 0, &regs);
    fixture_expect_ok(fx, data, XMMU_PROT_READ, MIB(16));
    fixture_free(fx);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add_modes("/shadow/invlpg", check_invlpg);
    fixture_add_modes("/shadow/upper write", check_upper_write);
    g_test_add_func("/shadow/sharing", test_sharing);
    g_test_add_func("/shadow/recursive", test_recursive);
    g_test_add_func("/shadow/rights change", test_rights_change);
    g_test_add_func("/shadow/laggard", test_laggard);
    g_test_add_func("/shadow/hardware-laggard", test_hardware_laggard);
    g_test_add_func("/shadow/fault on its way", test_fault_on_its_way);
    g_test_add_func("/shadow/stale writer", test_stale_writer);
    g_test_add_func("/shadow/flooding", test_flooding);
    g_test_add_func("/shadow/misaligned", test_misaligned);
    g_test_add_func("/shadow/quadrants", test_quadrants);
    g_test_add_func("/shadow/4m", test_4m);
    g_test_add_func("/shadow/split", test_split);
    g_test_add_func("/shadow/split roles", test_split_roles);
    g_test_add_func("/shadow/1g", test_1g);
    g_test_add_func("/shadow/role conflict", test_role_conflict);
    g_test_add_func("/shadow/without wp", test_without_wp);
    g_test_add_func("/shadow/without wp, then checks", test_without_wp_then_checks);
    g_test_add_func("/shadow/without wp to a table", test_without_wp_to_table);
    g_test_add_func("/shadow/mmio", test_mmio);
    g_test_add_func("/shadow/limit", test_limit);
    g_test_add_func("/shadow/second cpu", test_second_cpu);
    g_test_add_func("/shadow/mmio-in-large-page", test_mmio_in_large_page);
    g_test_add_func("/shadow/large-page-over-its-table", test_large_page_over_its_table);
    return g_test_run();
}
