/*
 * xmmu unit tests: what the hardware model caches
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The nested TLB and the paging-structure caches may answer for the tables only
 * as long as a CPU's may: each event that must drop them is tried alone.
 */
#include <string.h>

#include "../../accel/xmmu/mmu/vm.h"
#include "fixture.h"

#define REGION  0x40000000ull           /* 2 MiB of guest addresses to play with */
#define PAGE_A  (REGION + 0x1000)
#define PAGE_B  (REGION + 0x2000)

/* A guest whose REGION has a page table; nothing is mapped in it yet. */
typedef struct Guest {
    Fixture *fx;
    XmmuRegs regs;
} Guest;

static Guest guest_new(unsigned levels)
{
    XmmuConfig config = fixture_config();
    Guest g = { .fx = fixture_new(&config, MIB(64)) };

    g.regs = fixture_regs(levels, fixture_page(g.fx));
    fixture_entry(g.fx, &g.regs, REGION, 1);
    return g;
}

static gpa_t map_page(Guest *g, gva_t gva)
{
    gpa_t page = fixture_page(g->fx);

    fixture_map(g->fx, &g->regs, gva, page | PTE_PWU, 1);
    return page;
}

static void start(Guest *g)
{
    fixture_load(g->fx, 0, g->regs);
}

/* Gives REGION another page table, without a flush; the old one stays as it is. */
static void change_table(Guest *g)
{
    fixture_map(g->fx, &g->regs, REGION, fixture_page(g->fx) | PTE_PWU | PTE_A, 2);
}

static void remove_table(Guest *g)
{
    fixture_map(g->fx, &g->regs, REGION, 0, 2);
}

/* ---- Paging-structure caches --------------------------------------------- */

/* Each drops the caches in one way. */
static void drop_by_cr3_load(Guest *g)
{
    fixture_load(g->fx, 0, g->regs);
}

static void drop_by_invlpg(Guest *g)
{
    xmmu_vcpu_invlpg(g->fx->vcpu, 0x7000);      /* any address will do */
}

static void drop_by_role(Guest *g)
{
    XmmuRegs regs = g->regs;

    regs.cr4 ^= XMMU_CR4_SMEP;
    xmmu_vcpu_set_regs(g->fx->vcpu, &regs);
}

static void drop_by_reset(Guest *g)
{
    xmmu_vcpu_reset(g->fx->vcpu);
    xmmu_vcpu_set_regs(g->fx->vcpu, &g->regs);
}

static void drop_by_zap(Guest *g)
{
    xmmu_vm_zap_all(g->fx->vm);
}

static void test_dropped(gconstpointer data)
{
    void (*drop)(Guest *g) = *(void (*const *)(Guest *))data;

    for (unsigned levels = MODE_PAE; levels <= MODE_5L; levels++) {
        Guest g = guest_new(levels);
        gpa_t a = map_page(&g, PAGE_A);

        start(&g);
        fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_READ, a);
        remove_table(&g);
        drop(&g);
        fixture_expect_fault(g.fx, PAGE_A, XMMU_PROT_READ, 0);
        fixture_free(g.fx);
    }
}

/* A path that another CR3 leads along is not this one's. */
static void test_other_cr3(void)
{
    Guest g = guest_new(MODE_4L), other = { .fx = g.fx };
    gpa_t a = map_page(&g, PAGE_A), b;

    other.regs = fixture_regs(MODE_4L, fixture_page(g.fx));
    b = map_page(&other, PAGE_A);
    start(&g);
    fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_READ, a);
    /* Only the registers: the flush that follows in a CPU is not needed for it. */
    xmmu_vcpu_set_regs(g.fx->vcpu, &other.regs);
    fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_READ, b);
    xmmu_vcpu_set_regs(g.fx->vcpu, &g.regs);
    fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_READ, a);
    fixture_free(g.fx);
}

/* What the old table does not have may be in the new one: no exception from a
 * stale path. */
static void test_no_stale_exception(void)
{
    Guest g = guest_new(MODE_4L);
    gpa_t a = map_page(&g, PAGE_A), b;

    start(&g);
    fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_READ, a);
    change_table(&g);
    b = map_page(&g, PAGE_B);
    fixture_expect_ok(g.fx, PAGE_B, XMMU_PROT_WRITE, b);
    fixture_free(g.fx);
}

/* A right that the path has gained since. */
static void test_gained_right(void)
{
    Guest g = guest_new(MODE_4L);
    gpa_t a = map_page(&g, PAGE_A), entry = fixture_entry(g.fx, &g.regs, REGION, 2);
    uint64_t pde = fixture_read(g.fx, entry, 8);

    fixture_write(g.fx, entry, pde & ~PTE_W, 8);
    start(&g);
    fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_READ, a);
    fixture_expect_fault(g.fx, PAGE_A, XMMU_PROT_WRITE, XMMU_PFEC_P | XMMU_PFEC_W);
    fixture_write(g.fx, entry, pde, 8);
    fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_WRITE, a);
    fixture_free(g.fx);
}

/* The rights of the levels above are kept with the path. */
static void test_rights_of_path(void)
{
    Guest g = guest_new(MODE_4L);
    gpa_t entry = fixture_entry(g.fx, &g.regs, REGION, 3);
    gpa_t a = map_page(&g, PAGE_A), b = map_page(&g, PAGE_B);

    fixture_write(g.fx, entry, fixture_read(g.fx, entry, 8) & ~(PTE_W | PTE_U), 8);
    start(&g);
    fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_READ, a);
    fixture_expect_ok(g.fx, PAGE_B, XMMU_PROT_READ, b);
    fixture_expect_fault(g.fx, PAGE_B, XMMU_PROT_WRITE, XMMU_PFEC_P | XMMU_PFEC_W);
    fixture_expect_fault(g.fx, PAGE_B, XMMU_PROT_READ | ACC_USER,
                         XMMU_PFEC_P | XMMU_PFEC_U);
    fixture_free(g.fx);
}

/* A and D of the entries that a walk from the cache does read are still set. */
static void test_accessed_and_dirty(void)
{
    Guest g = guest_new(MODE_4L);
    gpa_t b, entry;

    map_page(&g, PAGE_A);
    b = map_page(&g, PAGE_B);
    entry = fixture_entry(g.fx, &g.regs, PAGE_B, 1);
    start(&g);
    fixture_access(g.fx, 0, PAGE_A, XMMU_PROT_READ);
    fixture_expect_ok(g.fx, PAGE_B, XMMU_PROT_READ, b);
    g_assert_cmphex(fixture_read(g.fx, entry, 8), ==, b | PTE_PWU | PTE_A);
    fixture_expect_ok(g.fx, PAGE_B, XMMU_PROT_WRITE, b);
    g_assert_cmphex(fixture_read(g.fx, entry, 8), ==, b | PTE_PWU | PTE_A | PTE_D);
    fixture_free(g.fx);
}

static void test_epoch_wraps(void)
{
    g_autofree XmmuWalkCache *cache = g_new0(XmmuWalkCache, 1);

    xmmu_walk_cache_flush(cache);
    xmmu_walk_cache_insert(cache, 1, 5, 0x1000, XMMU_ACC_ALL);
    g_assert_nonnull(xmmu_walk_cache_find(cache, 1, 5));
    g_assert_null(xmmu_walk_cache_find(cache, 2, 5));
    cache->epoch = UINT32_MAX;          /* all but one of its lives later */
    xmmu_walk_cache_flush(cache);
    g_assert_cmpuint(cache->epoch, ==, 1);
    g_assert_null(xmmu_walk_cache_find(cache, 1, 5));
}

/* ---- The nested TLB ----------------------------------------------------------- */

/* RAM as before, but the 2 MiB at @gpa are those at @target. */
static void move_memory(Fixture *fx, unsigned as_id, gpa_t gpa, gpa_t target)
{
    uint64_t ram = (uintptr_t)fx->ram;
    XmmuRegion regions[] = {
        { .gfn = 0, .npages = gpa >> 12, .hpa = ram },
        { .gfn = gpa >> 12, .npages = 512, .hpa = ram + target },
        { .gfn = (gpa >> 12) + 512, .npages = (fx->ram_size - gpa - MIB(2)) >> 12,
          .hpa = ram + gpa + MIB(2) },
    };

    /* Nothing is before the first page. */
    xmmu_vm_set_memory(fx->vm, as_id, regions + !gpa, G_N_ELEMENTS(regions) - !gpa);
}

static hpa_t host_of(Fixture *fx, gva_t gva)
{
    XmmuHwResult r = fixture_access(fx, 0, gva, XMMU_PROT_READ);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    return r.hpa - (uintptr_t)fx->ram;
}

static void test_memory_moves(void)
{
    for (int huge = 0; huge <= 1; huge++) {
        XmmuConfig config = fixture_config();
        Fixture *fx;

        config.huge_pages = huge;
        fx = fixture_new(&config, MIB(64));
        g_assert_cmphex(host_of(fx, MIB(8)), ==, MIB(8));
        move_memory(fx, XMMU_AS_NORMAL, MIB(8), MIB(32));
        g_assert_cmphex(host_of(fx, MIB(8)), ==, MIB(32));
        g_assert_cmphex(host_of(fx, MIB(8) + 0x5000), ==, MIB(32) + 0x5000);
        g_assert_cmphex(host_of(fx, MIB(10)), ==, MIB(10));
        fixture_free(fx);
    }
}

static void test_address_spaces(void)
{
    XmmuConfig config = fixture_config();
    Fixture *fx = fixture_new(&config, MIB(64));
    XmmuRegs regs = fixture_regs(MODE_NONE, 0);

    move_memory(fx, XMMU_AS_SMM, MIB(8), MIB(32));
    for (int round = 0; round < 3; round++) {
        regs.smm = round % 2;
        xmmu_vcpu_set_regs(fx->vcpu, &regs);
        g_assert_cmphex(host_of(fx, MIB(8)), ==, regs.smm ? MIB(32) : MIB(8));
    }
    fixture_free(fx);
}

/* The page that a cached path leads through is another one now. */
static void test_table_moves(void)
{
    Guest g = guest_new(MODE_4L);
    gpa_t a = map_page(&g, PAGE_A), other = MIB(32);
    gpa_t table = fixture_entry(g.fx, &g.regs, REGION, 1) & XMMU_PAGE_MASK;
    gpa_t base = table & ~(MIB(2) - 1);

    start(&g);
    fixture_expect_ok(g.fx, PAGE_A, XMMU_PROT_READ, a);
    /* A copy of all the tables, in which PAGE_A is not mapped. */
    memcpy(g.fx->ram + other, g.fx->ram + base, MIB(2));
    fixture_write(g.fx, other + (table - base) + 8, 0, 8);
    move_memory(g.fx, XMMU_AS_NORMAL, base, other);
    fixture_expect_fault(g.fx, PAGE_A, XMMU_PROT_READ, 0);
    fixture_free(g.fx);
}

/* Write permission is given only once the page is dirty in our tables. */
static void test_dirty_after_read(void)
{
    XmmuConfig config = fixture_config();
    Fixture *fx = fixture_new(&config, MIB(64));
    XmmuHwResult r = fixture_access(fx, 0, MIB(8), XMMU_PROT_READ);

    g_assert_false(r.prot & XMMU_PROT_WRITE);
    r = fixture_access(fx, 0, MIB(8), XMMU_PROT_WRITE);
    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    g_assert_true(r.prot & XMMU_PROT_WRITE);
    r = fixture_access(fx, 0, MIB(8), XMMU_PROT_READ);
    g_assert_true(r.prot & XMMU_PROT_WRITE);
    fixture_free(fx);
}

int main(int argc, char **argv)
{
    static void (*const drops[])(Guest *) = {
        drop_by_cr3_load, drop_by_invlpg, drop_by_role, drop_by_reset, drop_by_zap,
    };
    static const char *const names[] = {
        "cr3-load", "invlpg", "role", "reset", "zap",
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(drops); i++) {
        g_autofree char *path = g_strconcat("/caches/walk/dropped-by-", names[i], NULL);

        g_test_add_data_func(path, &drops[i], test_dropped);
    }
    g_test_add_func("/caches/walk/other-cr3", test_other_cr3);
    g_test_add_func("/caches/walk/no-stale-exception", test_no_stale_exception);
    g_test_add_func("/caches/walk/gained-right", test_gained_right);
    g_test_add_func("/caches/walk/rights-of-path", test_rights_of_path);
    g_test_add_func("/caches/walk/accessed-and-dirty", test_accessed_and_dirty);
    g_test_add_func("/caches/walk/epoch-wraps", test_epoch_wraps);
    g_test_add_func("/caches/nested/memory-moves", test_memory_moves);
    g_test_add_func("/caches/nested/address-spaces", test_address_spaces);
    g_test_add_func("/caches/nested/table-moves", test_table_moves);
    g_test_add_func("/caches/nested/dirty-after-read", test_dirty_after_read);
    return g_test_run();
}
