/*
 * xmmu unit test: PCIDs and the flushes that name them (roots.c, pcid.c)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A space is left, another vCPU changes its page table, the space is entered again
 * with CR3 bit 63.  Whether the old translation may still be there depends on what
 * was flushed in the meantime: for each kind of flush there is a test that it reaches
 * a root that is away, and where it must not need to, one that it does not.  That an
 * old translation is still there is no duty of a CPU; here it shows that nothing was
 * compared that need not be.
 */
#include "accel/xmmu/mmu/role.h"
#include "accel/xmmu/mmu/vm.h"
#include "fixture.h"

#define SPACES  6
#define PAGES   6               /* of each space that the tests use */
#define GVA     ((gva_t)0x5000)
#define GVA_OF(page) (GVA + (page) * XMMU_PAGE_SIZE)
#define OLD     MIB(8)
#define NEW     MIB(10)

typedef struct Pcid {
    Fixture *fx;
    XmmuRegs regs[SPACES];      /* PCID: the index plus 1 */
} Pcid;

static uint16_t pcid_of(unsigned space)
{
    return space + 1;
}

static gpa_t page_of(unsigned space, unsigned page)
{
    return (space * PAGES + page) * XMMU_PAGE_SIZE;
}

static void map(Pcid *p, unsigned space, unsigned page, uint64_t entry)
{
    XmmuRegs plain = p->regs[space];

    plain.cr3 &= XMMU_PAGE_MASK;
    fixture_map(p->fx, &plain, GVA_OF(page), entry, 1);
}

static void setup(Pcid *p, const XmmuConfig *config, unsigned levels)
{
    p->fx = fixture_new(config, MIB(16));
    for (unsigned i = 0; i < SPACES; i++) {
        p->regs[i] = fixture_regs(levels, fixture_page(p->fx));
        p->regs[i].cr4 |= XMMU_CR4_PCIDE;
        p->regs[i].cr3 |= pcid_of(i);
        for (unsigned page = 0; page < PAGES; page++) {
            map(p, i, page, (OLD + page_of(i, page)) | PTE_PWU);
        }
    }
    fixture_add_cpu(p->fx, 1);          /* without paging: writes physical memory */
}

static void setup_shadow(Pcid *p, unsigned prev_roots)
{
    XmmuConfig config = fixture_shadow_config();

    config.prev_roots = prev_roots;
    setup(p, &config, MODE_4L);
}

/* MOV to CR3, as the soft engine does it: its TLB has no PCIDs. */
static void load(Pcid *p, unsigned space, bool keep)
{
    xmmu_vcpu_flushed(p->fx->vcpu);
    xmmu_vcpu_load_cr3(p->fx->vcpu, &p->regs[space], keep);
}

static void expect(Pcid *p, unsigned space, unsigned page, gpa_t base)
{
    fixture_expect_ok(p->fx, GVA_OF(page) + 0x10, XMMU_PROT_READ,
                      base + page_of(space, page) + 0x10);
}

static void visit(Pcid *p, unsigned space)
{
    load(p, space, true);
    for (unsigned page = 0; page < PAGES; page++) {
        expect(p, space, page, OLD);
    }
}

/* vCPU 1 stores @entry for @page into the page table of @space. */
static void store_pte(Pcid *p, unsigned space, unsigned page, uint64_t entry)
{
    XmmuRegs plain = p->regs[space];

    plain.cr3 &= XMMU_PAGE_MASK;
    fixture_store(p->fx, 1, fixture_entry(p->fx, &plain, GVA_OF(page), 1), entry, 8);
}

static void change(Pcid *p, unsigned space, unsigned page)
{
    store_pte(p, space, page, (NEW + page_of(space, page)) | PTE_PWU);
}

/* Space 0 is left for space 1, and all its pages are changed. */
static void leave_and_change(Pcid *p, unsigned prev_roots)
{
    setup_shadow(p, prev_roots);
    visit(p, 0);
    visit(p, 1);
    for (unsigned page = 0; page < PAGES; page++) {
        change(p, 0, page);
    }
}

static void expect_all(Pcid *p, unsigned space, gpa_t base)
{
    for (unsigned page = 0; page < PAGES; page++) {
        expect(p, space, page, base);
    }
}

static void end(Pcid *p)
{
    fixture_free(p->fx);
}

/* ---- Bit 63 --------------------------------------------------------------------- */

static void test_keep(void)
{
    XmmuStats before, after;
    Pcid p;

    leave_and_change(&p, 3);
    before = fixture_stats(p.fx);
    load(&p, 0, true);
    after = fixture_stats(p.fx);
    g_assert_cmpuint(after.root_hits, ==, before.root_hits + 1);
    g_assert_cmpuint(after.flushes_avoided, ==, before.flushes_avoided + 1);
    g_assert_cmpuint(after.syncs, ==, before.syncs);
    expect_all(&p, 0, OLD);
    /* The flush comes at last. */
    load(&p, 0, false);
    g_assert_cmpuint(fixture_stats(p.fx).syncs, >, after.syncs);
    expect_all(&p, 0, NEW);
    end(&p);
}

static void test_load_flushes(void)
{
    XmmuStats before, after;
    Pcid p;

    leave_and_change(&p, 3);
    before = fixture_stats(p.fx);
    load(&p, 0, false);
    after = fixture_stats(p.fx);
    g_assert_cmpuint(after.flushes_avoided, ==, before.flushes_avoided);
    g_assert_cmpuint(after.syncs, >, before.syncs);
    expect_all(&p, 0, NEW);
    end(&p);
}

/* Another root with the same PCID is loaded: the PCID is what is flushed. */
static void test_load_flushes_pcid(void)
{
    for (int same = 0; same < 2; same++) {
        Pcid p;

        leave_and_change(&p, 3);
        p.regs[2].cr3 = (p.regs[2].cr3 & XMMU_PAGE_MASK) | pcid_of(same ? 0 : 3);
        load(&p, 2, false);
        expect(&p, 2, 0, OLD);
        load(&p, 0, true);
        expect_all(&p, 0, same ? NEW : OLD);
        end(&p);
    }
}

/* ---- INVPCID, INVLPG and others, while the root is away ----------------------------- */

typedef struct FlushCase {
    const char *name;
    XmmuInvpcid type;
    uint16_t pcid;
    bool reaches_page_1;        /* of the space that is away */
    bool reaches_others;        /* and the rest of its pages */
} FlushCase;

static const FlushCase flush_cases[] = {
    { "address", XMMU_INVPCID_ADDRESS, 1, true, false },
    { "address-of-other", XMMU_INVPCID_ADDRESS, 3, false, false },
    { "pcid", XMMU_INVPCID_PCID, 1, true, true },
    { "pcid-of-other", XMMU_INVPCID_PCID, 3, false, false },
    { "all", XMMU_INVPCID_ALL, 0, true, true },
    { "non-global", XMMU_INVPCID_NON_GLOBAL, 0, true, true },
};

static void expect_flushed(Pcid *p, bool page_1, bool others)
{
    for (unsigned page = 0; page < PAGES; page++) {
        expect(p, 0, page, (page == 1 ? page_1 : others) ? NEW : OLD);
    }
}

static void test_invpcid(gconstpointer data)
{
    const FlushCase *c = data;
    uint64_t avoided;
    Pcid p;

    leave_and_change(&p, 3);
    avoided = fixture_stats(p.fx).flushes_avoided;
    xmmu_vcpu_invpcid(p.fx->vcpu, c->type, c->pcid, GVA_OF(1) + 0x123);
    load(&p, 0, true);
    g_assert_cmpuint(fixture_stats(p.fx).flushes_avoided, ==,
                     avoided + !c->reaches_page_1);
    expect_flushed(&p, c->reaches_page_1, c->reaches_others);
    g_assert_cmpuint(fixture_stats(p.fx).invpcid, ==, 1);
    end(&p);
}

/* The same of the current PCID. */
static void test_invpcid_current(gconstpointer data)
{
    const FlushCase *c = data;
    Pcid p;

    setup_shadow(&p, 3);
    visit(&p, 0);
    for (unsigned page = 0; page < PAGES; page++) {
        change(&p, 0, page);
    }
    xmmu_vcpu_invpcid(p.fx->vcpu, c->type, c->pcid, GVA_OF(1) + 0x123);
    expect_flushed(&p, c->reaches_page_1, c->reaches_others);
    end(&p);
}

/* A page may be global, and then INVLPG flushes it for all PCIDs. */
static void test_invlpg(void)
{
    Pcid p;

    leave_and_change(&p, 3);
    xmmu_vcpu_invlpg(p.fx->vcpu, GVA_OF(1));
    load(&p, 0, true);
    expect_flushed(&p, true, false);
    end(&p);
}

static void test_flush_guest(void)
{
    Pcid p;

    leave_and_change(&p, 3);
    xmmu_vcpu_flush_guest(p.fx->vcpu);
    load(&p, 0, true);
    expect_all(&p, 0, NEW);
    end(&p);
}

/* More addresses than are remembered one by one. */
static void test_many_addresses(void)
{
    Pcid p;

    G_STATIC_ASSERT(PAGES > XMMU_OWED_MAX + 1);
    leave_and_change(&p, 3);
    for (unsigned page = 0; page < XMMU_OWED_MAX; page++) {
        xmmu_vcpu_invpcid(p.fx->vcpu, XMMU_INVPCID_ADDRESS, pcid_of(0), GVA_OF(page));
    }
    load(&p, 0, true);
    for (unsigned page = 0; page < PAGES; page++) {
        expect(&p, 0, page, page < XMMU_OWED_MAX ? NEW : OLD);
    }
    end(&p);

    leave_and_change(&p, 3);
    for (unsigned page = 0; page <= XMMU_OWED_MAX; page++) {
        xmmu_vcpu_invpcid(p.fx->vcpu, XMMU_INVPCID_ADDRESS, pcid_of(0), GVA_OF(page));
    }
    load(&p, 0, true);
    for (unsigned page = 0; page <= XMMU_OWED_MAX; page++) {
        expect(&p, 0, page, NEW);
    }
    end(&p);
}

/* ---- What is owed is not forgotten -------------------------------------------------- */

/* The root moves on in prev[] and back into the middle of others' switches. */
static void test_owed_moves(void)
{
    Pcid p;

    leave_and_change(&p, 4);
    xmmu_vcpu_invpcid(p.fx->vcpu, XMMU_INVPCID_PCID, pcid_of(0), 0);
    visit(&p, 2);
    visit(&p, 3);
    visit(&p, 2);
    visit(&p, 4);
    load(&p, 0, true);
    expect_all(&p, 0, NEW);
    end(&p);
}

/* Paid once: what is changed later is not covered by it. */
static void test_owed_paid(void)
{
    Pcid p;

    leave_and_change(&p, 3);
    xmmu_vcpu_invpcid(p.fx->vcpu, XMMU_INVPCID_PCID, pcid_of(0), 0);
    load(&p, 0, true);
    expect_all(&p, 0, NEW);
    visit(&p, 1);
    store_pte(&p, 0, 1, OLD + page_of(0, 1) + PTE_PWU);
    load(&p, 0, true);
    expect(&p, 0, 1, NEW);
    end(&p);
}

/* Nothing was stale when it was flushed; what changes afterwards has not been cached. */
static void test_owed_for_later(void)
{
    Pcid p;

    for (unsigned how = 0; how < 2; how++) {
        setup_shadow(&p, 3);
        visit(&p, 0);
        xmmu_vcpu_flushed(p.fx->cpus[1]);
        load(&p, 0, false);             /* the tables settle */
        visit(&p, 1);
        xmmu_vcpu_invpcid(p.fx->vcpu, how ? XMMU_INVPCID_PCID : XMMU_INVPCID_ADDRESS,
                          pcid_of(0), GVA_OF(1));
        change(&p, 0, 1);
        change(&p, 0, 2);
        load(&p, 0, true);
        expect(&p, 0, 1, NEW);
        expect(&p, 0, 2, how ? NEW : OLD);
        end(&p);
    }
}

/* A root that fell out of the cache is compared when it is loaded again. */
static void test_evicted(void)
{
    XmmuStats before, after;
    Pcid p;

    leave_and_change(&p, 1);
    visit(&p, 2);
    visit(&p, 3);
    before = fixture_stats(p.fx);
    load(&p, 0, true);
    after = fixture_stats(p.fx);
    g_assert_cmpuint(after.root_misses, ==, before.root_misses + 1);
    expect_all(&p, 0, NEW);
    end(&p);
}

/* ---- What was built while the root was away ------------------------------------------- */

/* vCPU 1 runs in space 0's tables, under PCID 0, and touches @page. */
static void touch_on_other(Pcid *p, unsigned space, unsigned page)
{
    XmmuRegs real = p->fx->regs[1];
    XmmuRegs regs = p->regs[space];

    regs.cr3 &= XMMU_PAGE_MASK;
    fixture_set(p->fx, 1, &regs);
    g_assert_cmpint(fixture_access(p->fx, 1, GVA_OF(page), XMMU_PROT_READ).outcome, ==,
                    XMMU_HW_OK);
    fixture_set(p->fx, 1, &real);
}

/*
 * A page is mapped, used by another vCPU and mapped anew while the PCID was not current
 * here: what was there in between this vCPU cannot have cached.
 */
static void test_filled_by_others(void)
{
    Pcid p;

    setup_shadow(&p, 3);
    map(&p, 0, 2, 0);
    load(&p, 0, true);
    expect(&p, 0, 1, OLD);
    load(&p, 1, true);
    store_pte(&p, 0, 2, (OLD + page_of(0, 2)) | PTE_PWU);
    touch_on_other(&p, 0, 2);
    change(&p, 0, 2);
    load(&p, 0, true);
    expect(&p, 0, 2, NEW);
    end(&p);
}

/* The same of a whole page table, which has been there for long, but elsewhere. */
static void test_linked_by_others(void)
{
    XmmuRegs plain[2];
    gpa_t pde[2];
    uint64_t entry;
    Pcid p;

    setup_shadow(&p, 3);
    for (unsigned i = 0; i < 2; i++) {
        plain[i] = p.regs[i];
        plain[i].cr3 &= XMMU_PAGE_MASK;
        pde[i] = fixture_entry(p.fx, &plain[i], GVA, 2);
    }
    /* Space 1's page table, filled; space 0 has none there, but uses another. */
    fixture_write(p.fx, pde[0], 0, 8);
    fixture_map(p.fx, &plain[0], MIB(2), OLD | PTE_PWU, 1);
    visit(&p, 1);
    load(&p, 0, true);
    fixture_expect_ok(p.fx, MIB(2), XMMU_PROT_READ, OLD);
    load(&p, 2, true);
    /* It becomes space 0's as well, another vCPU uses that, and it is changed. */
    entry = fixture_read(p.fx, pde[1], 8);
    fixture_store(p.fx, 1, pde[0], entry, 8);
    touch_on_other(&p, 0, 2);
    change(&p, 1, 2);
    load(&p, 0, true);
    fixture_expect_ok(p.fx, GVA_OF(2), XMMU_PROT_READ, NEW + page_of(1, 2));
    end(&p);
}

/* ---- Keys -------------------------------------------------------------------------------- */

static size_t roots_of(Pcid *p, XmmuRootInfo out[XMMU_PREV_ROOTS_MAX + 1])
{
    return xmmu_vcpu_roots(p->fx->vcpu, out, XMMU_PREV_ROOTS_MAX + 1);
}

/* One set of tables under two PCIDs: two roots, one table. */
static void test_same_tables(void)
{
    XmmuRootInfo roots[XMMU_PREV_ROOTS_MAX + 1];
    XmmuStats before;
    Pcid p;

    setup_shadow(&p, 3);
    p.regs[1].cr3 = (p.regs[0].cr3 & XMMU_PAGE_MASK) | pcid_of(1);
    load(&p, 0, true);
    expect(&p, 0, 1, OLD);
    load(&p, 1, true);
    expect(&p, 0, 1, OLD);
    g_assert_cmpuint(roots_of(&p, roots), ==, 2);
    g_assert_cmphex(roots[0].hpa, ==, roots[1].hpa);
    g_assert_cmphex(roots[0].pgd, ==, roots[1].pgd);
    g_assert_cmphex(roots[0].pcid, ==, pcid_of(1));
    g_assert_cmphex(roots[1].pcid, ==, pcid_of(0));
    before = fixture_stats(p.fx);
    load(&p, 0, true);
    g_assert_cmpuint(fixture_stats(p.fx).root_hits, ==, before.root_hits + 1);
    g_assert_cmpuint(fixture_stats(p.fx).roots_new, ==, before.roots_new);
    end(&p);
}

/* Without CR4.PCIDE the low bits of CR3 are no PCID, and MOV to CR3 flushes all. */
static void test_disabled(void)
{
    XmmuRootInfo roots[XMMU_PREV_ROOTS_MAX + 1];
    Pcid p;

    setup_shadow(&p, 3);
    for (unsigned i = 0; i < SPACES; i++) {
        p.regs[i].cr4 &= ~(uint64_t)XMMU_CR4_PCIDE;
    }
    visit(&p, 0);
    visit(&p, 1);
    change(&p, 0, 1);
    load(&p, 1, false);
    load(&p, 0, true);
    expect(&p, 0, 1, NEW);
    g_assert_cmpuint(roots_of(&p, roots), ==, 2);
    g_assert_cmphex(roots[0].pcid | roots[1].pcid, ==, 0);
    end(&p);
}

/* Setting CR4.PCIDE, with CR3[11:0] zero, keeps PCID 0 and its root. */
static void test_enable(void)
{
    XmmuStats before, after;
    XmmuRegs off;
    Pcid p;

    setup_shadow(&p, 3);
    p.regs[0].cr3 &= XMMU_PAGE_MASK;
    off = p.regs[0];
    off.cr4 &= ~(uint64_t)XMMU_CR4_PCIDE;
    fixture_set(p.fx, 0, &off);
    expect(&p, 0, 1, OLD);
    before = fixture_stats(p.fx);
    xmmu_vcpu_set_regs(p.fx->vcpu, &p.regs[0]);
    after = fixture_stats(p.fx);
    g_assert_cmpuint(after.root_misses, ==, before.root_misses);
    g_assert_cmpuint(after.role_changes, ==, before.role_changes);
    expect(&p, 0, 1, OLD);
    end(&p);
}

/* ---- TDP: the guest's tables are read at each walk, and what is cached of them goes --- */

static void test_tdp(void)
{
    XmmuConfig config = fixture_config();
    XmmuStats before, after;
    Pcid p;

    setup(&p, &config, MODE_5L);
    visit(&p, 0);
    visit(&p, 1);
    change(&p, 0, 1);
    before = fixture_stats(p.fx);
    load(&p, 0, true);
    after = fixture_stats(p.fx);
    expect(&p, 0, 1, NEW);
    g_assert_cmpuint(after.root_misses, ==, before.root_misses);
    for (unsigned type = 0; type <= XMMU_INVPCID_NON_GLOBAL; type++) {
        uint64_t base = type & 1 ? NEW : OLD;

        store_pte(&p, 0, 1, (base + page_of(0, 1)) | PTE_PWU);
        xmmu_vcpu_invpcid(p.fx->vcpu, type, pcid_of(0), GVA_OF(1));
        expect(&p, 0, 1, base);
    }
    end(&p);
}

/* ---- The rules of the instruction --------------------------------------------------------- */

static bool refused(uint64_t cr4, unsigned bits, uint64_t type, uint64_t low,
                    uint64_t address)
{
    XmmuRegs regs = fixture_regs(MODE_4L, 0x1000);
    uint64_t descriptor[2] = { low, address };

    regs.cr4 |= cr4;
    return xmmu_check_invpcid(&regs, bits, type, descriptor) != NULL;
}

static void test_rules(void)
{
    const uint64_t hole = (uint64_t)1 << 47, high = ~(hole - 1);

    for (uint64_t type = 0; type < 4; type++) {
        g_assert_false(refused(0, 48, type, 0, 0x5000));
        g_assert_false(refused(XMMU_CR4_PCIDE, 48, type, 0xfff, 0x5000));
        /* The first two types name a PCID, and without PCIDs there is only 0. */
        g_assert_cmpint(refused(0, 48, type, 1, 0), ==, type < 2);
        for (unsigned bit = 12; bit < 64; bit++) {
            g_assert_true(refused(XMMU_CR4_PCIDE, 48, type, (uint64_t)1 << bit, 0));
        }
        /* The address counts for the first type. */
        g_assert_cmpint(refused(0, 48, type, 0, hole), ==, type == 0);
        g_assert_false(refused(0, 48, type, 0, high));
        g_assert_false(refused(0, 57, type, 0, hole));
        g_assert_cmpint(refused(0, 57, type, 0, (uint64_t)1 << 56), ==, type == 0);
    }
    for (unsigned bit = 2; bit < 64; bit++) {
        g_assert_true(refused(XMMU_CR4_PCIDE, 48, (uint64_t)1 << bit, 0, 0));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pcid/keep", test_keep);
    g_test_add_func("/pcid/load flushes", test_load_flushes);
    g_test_add_func("/pcid/load flushes the PCID", test_load_flushes_pcid);
    for (size_t i = 0; i < G_N_ELEMENTS(flush_cases); i++) {
        char *away = g_strdup_printf("/pcid/invpcid/away/%s", flush_cases[i].name);
        char *here = g_strdup_printf("/pcid/invpcid/current/%s", flush_cases[i].name);

        g_test_add_data_func(away, &flush_cases[i], test_invpcid);
        g_test_add_data_func(here, &flush_cases[i], test_invpcid_current);
        g_free(away);
        g_free(here);
    }
    g_test_add_func("/pcid/invlpg", test_invlpg);
    g_test_add_func("/pcid/flush of everything", test_flush_guest);
    g_test_add_func("/pcid/many addresses", test_many_addresses);
    g_test_add_func("/pcid/owed/moves", test_owed_moves);
    g_test_add_func("/pcid/owed/paid once", test_owed_paid);
    g_test_add_func("/pcid/owed/for later", test_owed_for_later);
    g_test_add_func("/pcid/evicted", test_evicted);
    g_test_add_func("/pcid/filled by others", test_filled_by_others);
    g_test_add_func("/pcid/linked by others", test_linked_by_others);
    g_test_add_func("/pcid/same tables", test_same_tables);
    g_test_add_func("/pcid/disabled", test_disabled);
    g_test_add_func("/pcid/enable", test_enable);
    g_test_add_func("/pcid/tdp", test_tdp);
    g_test_add_func("/pcid/rules", test_rules);
    return g_test_run();
}
