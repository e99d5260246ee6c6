/*
 * xmmu: regression tests named after security holes of other shadow MMUs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each test brings about the situation that the hole needs and shows that nothing of
 * it comes about here.  What was learned is about the mechanism, not about anybody's
 * code:
 *
 *  CVE-2026-53359  a child table of another kind (indirect where direct is wanted, or
 *                  the other way round) is followed because the rest of its key fits
 *  CVE-2026-46113  a child table that shadows another guest table is followed because
 *                  its role fits
 *  CVE-2021-38198  the rights in a child's key are those of the whole walk, or of
 *                  another path to it
 *  CVE-2026-23401  host user space turns a mapped page into MMIO behind write
 *                  tracking; the new entry replaces a present one that nobody drops
 *  CVE-2026-23402  host user space maps another page behind write tracking; the same
 */
#include "accel/xmmu/mmu/shadow.h"
#include "fixture.h"

#define RAM     MIB(32)
#define GVA     0x80000000ull
/* A page table at a multiple of 2 MiB, so that a large page can begin there. */
#define TABLE   MIB(4)
#define OTHER   MIB(6)
#define PAGE(n) (MIB(16) + (n) * 0x1000)

static Fixture *new_vm(unsigned mode, XmmuRegs *regs)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx;

    config.huge_pages = false;          /* a large guest page takes a direct table */
    fx = fixture_new(&config, RAM);
    *regs = fixture_regs(mode, fixture_page(fx));
    return fx;
}

static void write_pte(Fixture *fx, const XmmuRegs *regs, gpa_t table, unsigned index,
                      uint64_t entry)
{
    unsigned size = fixture_entry_size(regs);

    fixture_write(fx, table + index * size, entry, size);
}

/* A page table with two pages, mapped at GVA and used. */
static void use_table(Fixture *fx, XmmuRegs *regs)
{
    fixture_map(fx, regs, GVA, TABLE | PTE_PWU, 2);
    write_pte(fx, regs, TABLE, 5, PAGE(5) | PTE_PWU);
    write_pte(fx, regs, TABLE, 6, PAGE(6) | PTE_PWU);
    fixture_load(fx, 0, *regs);
    fixture_expect_ok(fx, GVA + 0x5000, XMMU_PROT_WRITE, PAGE(5));
    fixture_expect_ok(fx, GVA + 0x6000, XMMU_PROT_WRITE, PAGE(6));
}

static hfn_t hfn_of(const Fixture *fx, gpa_t gpa)
{
    return ((uintptr_t)fx->ram + gpa) >> XMMU_PAGE_SHIFT;
}

static bool is_mapped(Fixture *fx, gpa_t gpa)
{
    bool mapped;

    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    mapped = xmmu_rmap_first(fx->vm, hfn_of(fx, gpa), XMMU_LEVEL_4K);
    xmmu_write_unlock(fx->vm);
    return mapped;
}

/* ---- Role confusion ----------------------------------------------------------- */

/*
 * The directory entry turns, behind write tracking, from a page table into a large
 * page that begins with that very table, and back.  The table below has the same gfn
 * and level each time; only *direct* tells them apart.
 */
static void check_53359(gconstpointer data)
{
    uint64_t bits = PTE_PWU | PTE_A | PTE_D;
    XmmuRegs regs;
    Fixture *fx = new_vm(GPOINTER_TO_UINT(data), &regs);
    XmmuStats before;

    use_table(fx, &regs);
    before = fixture_stats(fx);
    fixture_map(fx, &regs, GVA, TABLE | bits | PTE_PS, 2);
    fixture_expect_ok(fx, GVA + 0x7000, XMMU_PROT_WRITE, TABLE + 0x7000);
    /* Nothing of the page table is left on the way. */
    fixture_expect_ok(fx, GVA + 0x5000, XMMU_PROT_WRITE, TABLE + 0x5000);
    fixture_expect_ok(fx, GVA + 0x6000, XMMU_PROT_WRITE, TABLE + 0x6000);
    g_assert_cmpuint(fixture_stats(fx).role_conflicts, >, before.role_conflicts);
    /* The tests above have not written; the table is what it was. */
    before = fixture_stats(fx);
    write_pte(fx, &regs, TABLE, 8, PAGE(8) | PTE_PWU);
    fixture_map(fx, &regs, GVA, TABLE | PTE_PWU, 2);
    fixture_expect_ok(fx, GVA + 0x8000, XMMU_PROT_WRITE, PAGE(8));
    fixture_expect_ok(fx, GVA + 0x5000, XMMU_PROT_WRITE, PAGE(5));
    g_assert_cmpuint(fixture_stats(fx).role_conflicts, >, before.role_conflicts);
    /* What the confusion would end in: entries that outlive their page. */
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, NULL, 0);
    g_assert_false(is_mapped(fx, TABLE + 0x7000));
    g_assert_false(is_mapped(fx, PAGE(5)));
    fixture_free(fx);
}

/* The directory entry names another page table of the same kind. */
static void check_46113(gconstpointer data)
{
    XmmuRegs regs;
    Fixture *fx = new_vm(GPOINTER_TO_UINT(data), &regs);
    XmmuStats before;

    use_table(fx, &regs);
    write_pte(fx, &regs, OTHER, 5, PAGE(15) | PTE_PWU);
    write_pte(fx, &regs, OTHER, 7, PAGE(17) | PTE_PWU);
    before = fixture_stats(fx);
    fixture_map(fx, &regs, GVA, OTHER | PTE_PWU, 2);
    fixture_expect_ok(fx, GVA + 0x7000, XMMU_PROT_WRITE, PAGE(17));
    g_assert_cmpuint(fixture_stats(fx).role_conflicts, ==, before.role_conflicts + 1);
    fixture_expect_ok(fx, GVA + 0x5000, XMMU_PROT_WRITE, PAGE(15));
    fixture_expect_fault(fx, GVA + 0x6000, XMMU_PROT_READ, 0);
    fixture_free(fx);
}

/* ---- Inherited rights ------------------------------------------------------------ */

/*
 * Two upper entries, the second without W, share a directory, which has a read-only
 * entry and a writable one.  Whoever comes first, only the path that is writable all
 * the way may be written.
 */
static void access_in_order(const unsigned order[4])
{
    static const gva_t pointers[4] = { 0x5000, MIB(2) + 0x5000,
                                       GIB(1) + 0x5000, GIB(1) + MIB(2) + 0x5000 };
    XmmuRegs regs;
    Fixture *fx = new_vm(MODE_4L, &regs);
    gpa_t directory = fixture_page(fx), table[2] = { fixture_page(fx), fixture_page(fx) };

    fixture_map(fx, &regs, 0, directory | PTE_PWU, 3);
    fixture_map(fx, &regs, GIB(1), directory | PTE_P | PTE_U, 3);
    write_pte(fx, &regs, directory, 0, table[0] | PTE_P | PTE_U);
    write_pte(fx, &regs, directory, 1, table[1] | PTE_PWU);
    write_pte(fx, &regs, table[0], 5, PAGE(1) | PTE_PWU | PTE_D);
    write_pte(fx, &regs, table[1], 5, PAGE(2) | PTE_PWU | PTE_D);
    fixture_load(fx, 0, regs);
    for (int i = 0; i < 4; i++) {
        fixture_expect_ok(fx, pointers[order[i]], XMMU_PROT_READ | ACC_USER,
                          order[i] & 1 ? PAGE(2) : PAGE(1));
    }
    for (int i = 0; i < 4; i++) {
        gva_t gva = pointers[order[i]];

        if (order[i] == 1) {
            fixture_expect_ok(fx, gva, XMMU_PROT_WRITE | ACC_USER, PAGE(2));
        } else {
            fixture_expect_fault(fx, gva, XMMU_PROT_WRITE | ACC_USER, 7);
        }
    }
    /* Each path has its own tables, as far as its rights differ. */
    g_assert_cmpuint(fixture_stats(fx).role_conflicts, ==, 0);
    fixture_free(fx);
}

static void test_38198(void)
{
    for (unsigned n = 0; n < 256; n++) {
        const unsigned order[4] = { n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6 };
        unsigned seen = 0;

        for (int i = 0; i < 4; i++) {
            seen |= 1u << order[i];
        }
        if (seen == 15) {
            access_in_order(order);
        }
    }
}

/* ---- Behind write tracking ---------------------------------------------------------- */

/* A page is mapped for reading; writing it will fault, for D is not set. */
static gpa_t map_clean_page(Fixture *fx, XmmuRegs *regs)
{
    fixture_map(fx, regs, GVA, PAGE(1) | PTE_PWU, 1);
    fixture_load(fx, 0, *regs);
    fixture_expect_ok(fx, GVA, XMMU_PROT_READ, PAGE(1));
    g_assert_true(is_mapped(fx, PAGE(1)));
    return fixture_entry(fx, regs, GVA, 1);
}

static void check_23401(gconstpointer data)
{
    XmmuRegs regs;
    Fixture *fx = new_vm(GPOINTER_TO_UINT(data), &regs);
    XmmuStats before, after;
    XmmuHwResult r;
    gpa_t at;

    at = map_clean_page(fx, &regs);
    before = fixture_stats(fx);
    fixture_write(fx, at, 0xfee00000 | PTE_PWU, fixture_entry_size(&regs));
    r = fixture_access(fx, 0, GVA + 0x20, XMMU_PROT_WRITE);
    g_assert_true(r.outcome == XMMU_HW_DIRECT && r.mmio);
    g_assert_cmphex(r.gpa, ==, 0xfee00020);
    /* The entry that was there is accounted for in every respect. */
    after = fixture_stats(fx);
    g_assert_cmpuint(after.pages_4k, ==, before.pages_4k - 1);
    g_assert_cmpuint(after.zaps, ==, before.zaps + 1);
    g_assert_false(is_mapped(fx, PAGE(1)));
    /* The frame may go now: nothing refers to it. */
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, NULL, 0);
    fixture_free(fx);
}

static void check_23402(gconstpointer data)
{
    XmmuRegion rest = { .gfn = 0, .npages = PAGE(2) >> XMMU_PAGE_SHIFT };
    XmmuRegs regs;
    Fixture *fx = new_vm(GPOINTER_TO_UINT(data), &regs);
    XmmuStats before;
    uint64_t rights;
    gpa_t at;

    at = map_clean_page(fx, &regs);
    before = fixture_stats(fx);
    rights = fx->vm->rights_lost;
    fixture_write(fx, at, PAGE(2) | PTE_PWU, fixture_entry_size(&regs));
    fixture_expect_ok(fx, GVA, XMMU_PROT_WRITE, PAGE(2));
    g_assert_false(is_mapped(fx, PAGE(1)));
    g_assert_true(is_mapped(fx, PAGE(2)));
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, before.pages_4k);
    g_assert_cmpuint(fx->vm->rights_lost, >, rights);
    /* The new frame goes: its mapping must be found. */
    rest.hpa = (uintptr_t)fx->ram;
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &rest, 1);
    g_assert_true(fixture_access(fx, 0, GVA, XMMU_PROT_READ).mmio);
    fixture_free(fx);
}

/*
 * The same below the fault: whoever writes over a present entry, the writer accounts
 * for it.  (A fault drops the entry first when the guest's entry moved, for the sake
 * of who reads it without a lock.)
 */
static void check_writer(XmmuSpte (*value)(Fixture *fx), gpa_t mapped)
{
    XmmuRegs regs;
    Fixture *fx = new_vm(MODE_4L, &regs);
    uint64_t pages, rights = fx->vm->rights_lost;
    XmmuSpte *sptep;

    map_clean_page(fx, &regs);
    pages = fixture_stats(fx).pages_4k;
    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    g_assert_true(xmmu_reserve_fill(fx->vm));
    sptep = xmmu_rmap_first(fx->vm, hfn_of(fx, PAGE(1)), XMMU_LEVEL_4K);
    xmmu_spte_set(xmmu_table_of(sptep), xmmu_spte_index(sptep), value(fx));
    xmmu_write_unlock(fx->vm);
    g_assert_false(is_mapped(fx, PAGE(1)));
    g_assert_cmpuint(fx->vm->rights_lost, >, rights);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, pages - !mapped);
    if (mapped) {
        g_assert_true(is_mapped(fx, mapped));
    }
    fixture_free(fx);
}

static XmmuSpte mmio_entry(Fixture *fx)
{
    return xmmu_spte_mmio(fx->vm->format, 1, XMMU_ACC_ALL);
}

static XmmuSpte other_page(Fixture *fx)
{
    XmmuLeaf leaf = {
        .hpa = (uintptr_t)fx->ram + PAGE(2), .level = XMMU_LEVEL_4K,
        .access = XMMU_ACC_ALL,
    };

    return xmmu_spte_leaf(fx->vm->format, &leaf);
}

static void test_23401_writer(void)
{
    check_writer(mmio_entry, 0);
}

static void test_23402_writer(void)
{
    check_writer(other_page, PAGE(2));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add_modes("/cve/2026-53359", check_53359);
    fixture_add_modes("/cve/2026-46113", check_46113);
    g_test_add_func("/cve/2021-38198", test_38198);
    fixture_add_modes("/cve/2026-23401", check_23401);
    fixture_add_modes("/cve/2026-23402", check_23402);
    g_test_add_func("/cve/2026-23401/writer", test_23401_writer);
    g_test_add_func("/cve/2026-23402/writer", test_23402_writer);
    return g_test_run();
}
