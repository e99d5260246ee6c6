/*
 * xmmu: unit test of accel/xmmu/mmu/roots.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Going from one address space to another and back must find the first one's root
 * again: for every paging mode, with and without TDP.  The role that a root is
 * stored under is the role that is looked up.
 */
#include "accel/xmmu/mmu/role.h"
#include "accel/xmmu/mmu/shadow.h"
#include "accel/xmmu/mmu/vm.h"
#include "fixture.h"

#define SPACES 6

typedef struct RootCase {
    bool tdp;
    unsigned mode;
    uint64_t no_cr4;            /* bits that are not set beside what the mode has */
} RootCase;

static Fixture *new_vm(const RootCase *c, unsigned prev_roots)
{
    XmmuConfig config = fixture_config();

    config.tdp = c->tdp;
    config.prev_roots = prev_roots;
    return fixture_new(&config, MIB(16));
}

/* Address spaces that map the same address to different pages. */
static void build_spaces(Fixture *fx, const RootCase *c, XmmuRegs regs[SPACES])
{
    for (unsigned i = 0; i < SPACES; i++) {
        regs[i] = fixture_regs(c->mode, fixture_page(fx));
        regs[i].cr4 &= ~c->no_cr4;
        fixture_map(fx, &regs[i], 0x5000, (MIB(8) + i * 0x1000) | PTE_PWU, 1);
    }
}

static void go(Fixture *fx, const XmmuRegs *regs, unsigned i)
{
    fixture_load(fx, 0, regs[i]);
    fixture_expect_ok(fx, 0x5010, XMMU_PROT_WRITE, MIB(8) + i * 0x1000 + 0x10);
}

/* Every root alive is stored under the role that its registers compute to, and none
 * is there twice. */
static void check_keys(Fixture *fx)
{
    XmmuRootInfo roots[XMMU_PREV_ROOTS_MAX + 1];
    size_t n = xmmu_vcpu_roots(fx->vcpu, roots, G_N_ELEMENTS(roots));
    XmmuPageRole role = xmmu_root_role(xmmu_vm_config(fx->vm), fx->vcpu->mmu->role);

    g_assert_cmpuint(n, >=, 1);
    for (size_t i = 0; i < n; i++) {
        XmmuTable *table = xmmu_table_at(roots[i].hpa);

        g_assert_true(roots[i].valid);
        g_assert_cmphex(roots[i].page_role, ==, role.word);
        g_assert_cmphex(table->role.word, ==, roots[i].page_role);
        for (size_t j = i + 1; j < n; j++) {
            g_assert_cmphex(roots[i].pgd, !=, roots[j].pgd);
        }
    }
}

/* The role that the guest's entry at @sptep asks of the table below it. */
static XmmuPageRole role_below(const XmmuSpte *sptep, const XmmuTable *child)
{
    XmmuPageRole above = xmmu_table_of(sptep)->role;

    return child->role.direct
           ? xmmu_child_role_direct(above, child->role.access, child->role.pkey)
           : xmmu_child_role_indirect(above, xmmu_spte_index(sptep),
                                      child->role.access);
}

typedef struct PageCheck {
    Fixture *fx;
    XmmuTable *table;
    unsigned checked;
} PageCheck;

static void check_way(void *sptep, void *opaque)
{
    PageCheck *check = opaque;
    XmmuTable *table = check->table;
    XmmuPageRole role = role_below(sptep, table);

    g_assert_cmphex(table->role.word, ==, role.word);
    g_assert_true(xmmu_shadow_get(check->fx->vcpu, table->gfn, role) == table);
    check->checked++;
}

/* Every shadow page alive is what each way to it asks for, and is found under that. */
static void check_pages(Fixture *fx)
{
    PageCheck check = { .fx = fx };

    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    for (unsigned i = 0; i < g_queue_get_length(&fx->vm->shadow_tables); i++) {
        check.table = g_queue_peek_nth(&fx->vm->shadow_tables, i);
        xmmu_ptr_list_each(&check.table->parents, check_way, &check);
    }
    xmmu_write_unlock(fx->vm);
    g_assert_cmpuint(check.checked, >, 0);
}

/*
 * The first of the founding discussions: if the role that a root is stored under is not
 * the one that is looked up, the cache never hits.  From A to B and back to A nothing is
 * allocated, no entry is written and nothing is compared.
 */
static void check_a_b_a(gconstpointer data)
{
    const RootCase *c = data;
    Fixture *fx = new_vm(c, 3);
    XmmuRegs regs[SPACES];
    XmmuStats before, after;
    uint64_t filled;

    build_spaces(fx, c, regs);
    /* Tables are unsync at first, until all vCPUs have flushed. */
    for (unsigned i = 0; i < 6; i++) {
        go(fx, regs, i % 2);
    }
    before = fixture_stats(fx);
    filled = fx->vm->fill_clock;
    for (unsigned i = 0; i < 10; i++) {
        go(fx, regs, i % 2);
        check_keys(fx);
    }
    after = fixture_stats(fx);
    g_assert_cmpuint(after.root_hits, ==, before.root_hits + (c->tdp ? 0 : 10));
    g_assert_cmpuint(after.root_misses, ==, before.root_misses);
    g_assert_cmpuint(after.flushes_avoided, ==,
                     before.flushes_avoided + (c->tdp ? 0 : 10));
    g_assert_cmpuint(after.roots_new, ==, before.roots_new);
    g_assert_cmpuint(after.tables, ==, before.tables);
    g_assert_cmpuint(after.role_changes, ==, before.role_changes);
    g_assert_cmpuint(after.faults, ==, before.faults);
    g_assert_cmpuint(after.syncs, ==, before.syncs);
    g_assert_cmpuint(after.zaps, ==, before.zaps);
    g_assert_cmpuint(fx->vm->fill_clock, ==, filled);
    if (!c->tdp) {
        check_pages(fx);
    }
    fixture_free(fx);
}

static void check_back_and_forth(gconstpointer data)
{
    const RootCase *c = data;
    Fixture *fx = new_vm(c, 3);
    XmmuRegs regs[SPACES];
    XmmuStats before, after;

    build_spaces(fx, c, regs);
    for (unsigned i = 0; i < 4; i++) {
        go(fx, regs, i);
    }
    before = fixture_stats(fx);
    for (unsigned round = 0; round < 5; round++) {
        for (unsigned i = 0; i < 4; i++) {
            go(fx, regs, i);
            check_keys(fx);
        }
    }
    after = fixture_stats(fx);
    g_assert_cmpuint(after.roots_new, ==, before.roots_new);
    g_assert_cmpuint(after.root_misses, ==, before.root_misses);
    g_assert_cmpuint(after.root_hits, ==, before.root_hits + (c->tdp ? 0 : 20));
    g_assert_cmpuint(after.tables, ==, before.tables);
    if (c->tdp) {
        g_assert_cmpuint(after.roots_new, <=, 2);
    }
    fixture_free(fx);
}

/* One more than fits: the least recently used one goes, the others stay. */
static void check_replacement(gconstpointer data)
{
    const RootCase *c = data;
    Fixture *fx;
    XmmuRegs regs[SPACES];
    XmmuStats before, after;

    g_assert_false(c->tdp);             /* it has one root, see main() */
    fx = new_vm(c, 2);
    build_spaces(fx, c, regs);
    for (unsigned i = 0; i < 4; i++) {
        go(fx, regs, i);
    }
    before = fixture_stats(fx);
    go(fx, regs, 2);
    go(fx, regs, 1);
    after = fixture_stats(fx);
    g_assert_cmpuint(after.root_hits, ==, before.root_hits + 2);
    before = after;
    go(fx, regs, 0);
    after = fixture_stats(fx);
    g_assert_cmpuint(after.root_hits, ==, before.root_hits);
    g_assert_cmpuint(after.root_misses, ==, before.root_misses + 1);
    fixture_free(fx);
}

static void check_no_cache(gconstpointer data)
{
    const RootCase *c = data;
    Fixture *fx = new_vm(c, 0);
    XmmuRegs regs[SPACES];
    XmmuRootInfo roots[4];

    build_spaces(fx, c, regs);
    for (unsigned i = 0; i < 12; i++) {
        go(fx, regs, i % SPACES);
        g_assert_cmpuint(xmmu_vcpu_roots(fx->vcpu, roots, 4), ==, 1);
    }
    g_assert_cmpuint(fixture_stats(fx).root_hits, ==, 0);
    fixture_free(fx);
}

/* A role change is another root; going back finds the first. */
static void check_role_switch(gconstpointer data)
{
    const RootCase *c = data;
    Fixture *fx = new_vm(c, 3);
    XmmuRegs regs[SPACES], no_wp, real = fixture_regs(MODE_NONE, 0);
    XmmuStats before, after;

    build_spaces(fx, c, regs);
    no_wp = regs[0];
    no_wp.cr0 &= ~(uint64_t)XMMU_CR0_WP;
    go(fx, regs, 0);
    fixture_load(fx, 0, no_wp);
    fixture_access(fx, 0, 0x5000, XMMU_PROT_READ);
    fixture_load(fx, 0, real);
    fixture_access(fx, 0, 0x5000, XMMU_PROT_READ);
    before = fixture_stats(fx);
    for (int i = 0; i < 4; i++) {
        go(fx, regs, 0);
        fixture_load(fx, 0, no_wp);
        fixture_expect_ok(fx, 0x5010, XMMU_PROT_READ, MIB(8) + 0x10);
        fixture_load(fx, 0, real);
        fixture_expect_ok(fx, 0x5010, XMMU_PROT_READ, 0x5010);
    }
    after = fixture_stats(fx);
    g_assert_cmpuint(after.roots_new, ==, before.roots_new);
    g_assert_cmpuint(after.root_hits, ==, before.root_hits + (c->tdp ? 0 : 12));
    fixture_free(fx);
}

/* Roots that were zapped while they were cached are not used again. */
static void check_zapped(gconstpointer data)
{
    const RootCase *c = data;
    Fixture *fx = new_vm(c, 3);
    XmmuRegs regs[SPACES];

    build_spaces(fx, c, regs);
    for (unsigned i = 0; i < 3; i++) {
        go(fx, regs, i);
    }
    xmmu_vm_zap_all(fx->vm);
    rcu_service_drain();
    for (unsigned i = 0; i < 6; i++) {
        go(fx, regs, i % 3);
    }
    /* And after a reset nothing is remembered. */
    xmmu_vcpu_reset(fx->vcpu);
    rcu_service_drain();
    for (unsigned i = 0; i < 3; i++) {
        go(fx, regs, i);
    }
    fixture_free(fx);
}

/* What changed while a space was away is seen when it comes back. */
static void check_changed_while_away(gconstpointer data)
{
    const RootCase *c = data;
    Fixture *fx = new_vm(c, 3);
    XmmuRegs regs[SPACES];
    gpa_t at;

    build_spaces(fx, c, regs);
    fixture_add_cpu(fx, 1);         /* writes physical memory */
    go(fx, regs, 0);
    go(fx, regs, 1);
    at = fixture_entry(fx, &regs[0], 0x5000, 1);
    fixture_store(fx, 1, at, MIB(9) | PTE_PWU, fixture_entry_size(&regs[0]));
    fixture_load(fx, 0, regs[0]);
    fixture_expect_ok(fx, 0x5010, XMMU_PROT_WRITE, MIB(9) + 0x10);
    /* The directory entry, too. */
    fixture_load(fx, 0, regs[1]);
    at = fixture_entry(fx, &regs[0], 0x5000, 2);
    fixture_store(fx, 1, at, 0, fixture_entry_size(&regs[0]));
    fixture_load(fx, 0, regs[0]);
    fixture_expect_fault(fx, 0x5010, XMMU_PROT_WRITE, 2);
    fixture_free(fx);
}

/* PDPTEs are registers: what memory says later does not matter, until CR3 is loaded;
 * and each cached root has its own. */
static void test_pdptes(void)
{
    for (int tdp = 0; tdp < 2; tdp++) {
        RootCase c = { tdp, MODE_PAE };
        Fixture *fx = new_vm(&c, 3);
        XmmuRegs regs[SPACES];
        gpa_t at;
        uint64_t old;

        build_spaces(fx, &c, regs);
        go(fx, regs, 0);
        at = fixture_entry(fx, &regs[0], 0x5000, 3);
        old = fixture_read(fx, at, 8);
        fixture_write(fx, at, 0, 8);
        xmmu_vcpu_flush_guest(fx->vcpu);
        fixture_expect_ok(fx, 0x5010, XMMU_PROT_READ, MIB(8) + 0x10);
        fixture_load(fx, 0, regs[0]);
        fixture_expect_fault(fx, 0x5010, XMMU_PROT_READ, 0);
        fixture_write(fx, at, old, 8);
        go(fx, regs, 0);
        go(fx, regs, 1);
        /* Same CR3, other PDPTEs. */
        fixture_write(fx, at, fixture_read(fx, fixture_entry(fx, &regs[1], 0x5000, 3), 8),
                      8);
        fixture_load(fx, 0, regs[0]);
        fixture_expect_ok(fx, 0x5010, XMMU_PROT_READ, MIB(8) + 0x1010);
        fixture_free(fx);
    }
}

/* ---- The roots from another thread ---------------------------------------------- */

#define LOOKS 100000

typedef struct Onlooker {
    Fixture *fx;
    const XmmuRegs *regs;       /* SPACES */
    bool stop;                  /* atomic */
    unsigned looked;            /* atomic */
} Onlooker;

static bool is_space(const Onlooker *on, uint64_t pgd)
{
    for (unsigned i = 0; i < SPACES; i++) {
        if (on->regs[i].cr3 == pgd) {
            return true;
        }
    }
    return false;
}

static void *look_on(void *opaque)
{
    Onlooker *on = opaque;
    XmmuRootInfo roots[XMMU_PREV_ROOTS_MAX + 1];

    while (!__atomic_load_n(&on->stop, __ATOMIC_ACQUIRE)) {
        size_t n = xmmu_vcpu_roots(on->fx->vcpu, roots, G_N_ELEMENTS(roots));

        g_assert_cmpuint(n, <=, 4);
        for (size_t i = 0; i < n; i++) {
            g_assert_true(is_space(on, roots[i].pgd));
            for (size_t j = i + 1; j < n; j++) {
                g_assert_cmphex(roots[i].pgd, !=, roots[j].pgd);
            }
        }
        __atomic_fetch_add(&on->looked, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* The owner moves its roots without a lock; who looks on sees them before or after. */
static void test_onlooker(void)
{
    RootCase c = { false, MODE_4L };
    Fixture *fx = new_vm(&c, 3);
    XmmuRegs regs[SPACES];
    Onlooker on = { .fx = fx, .regs = regs };
    GThread *thread;

    build_spaces(fx, &c, regs);
    for (unsigned i = 0; i < 4; i++) {
        go(fx, regs, i);
    }
    thread = g_thread_new("onlooker", look_on, &on);
    for (unsigned i = 0; __atomic_load_n(&on.looked, __ATOMIC_RELAXED) < LOOKS; i++) {
        fixture_load(fx, 0, regs[i % 4]);
        if (i % 1000 == 0) {
            go(fx, regs, 4);            /* others go, and come back */
            go(fx, regs, i / 1000 % 4);
        }
    }
    __atomic_store_n(&on.stop, true, __ATOMIC_RELEASE);
    g_thread_join(thread);
    fixture_free(fx);
}

typedef void RootCheck(gconstpointer data);

static const struct {
    const char *name;
    RootCheck *check;
} checks[] = {
    { "A to B to A", check_a_b_a },
    { "back and forth", check_back_and_forth },
    { "replacement", check_replacement },
    { "no cache", check_no_cache },
    { "role switch", check_role_switch },
    { "zapped", check_zapped },
    { "changed while away", check_changed_while_away },
};

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        unsigned mode;
        uint64_t no_cr4;
    } modes[] = {
        { "32-bit", MODE_32, XMMU_CR4_PSE },
        { "32-bit with PSE", MODE_32, 0 },
        { "PAE", MODE_PAE, 0 },
        { "4-level", MODE_4L, 0 },
        { "5-level", MODE_5L, 0 },
    };
    static RootCase cases[2 * G_N_ELEMENTS(modes)];

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        cases[i] = (RootCase) { i & 1, modes[i / 2].mode, modes[i / 2].no_cr4 };
        for (size_t k = 0; k < G_N_ELEMENTS(checks); k++) {
            char *path;

            /* With TDP nothing can be replaced. */
            if (cases[i].tdp && checks[k].check == check_replacement) {
                continue;
            }
            path = g_strdup_printf("/roots/%s/%s %s", checks[k].name,
                                   modes[i / 2].name, cases[i].tdp ? "tdp" : "shadow");

            g_test_add_data_func(path, &cases[i], checks[k].check);
            g_free(path);
        }
    }
    g_test_add_func("/roots/pdptes", test_pdptes);
    g_test_add_func("/roots/onlooker", test_onlooker);
    return g_test_run();
}
