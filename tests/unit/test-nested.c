/*
 * xmmu: unit test of nested guests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * L1 translates the physical addresses of its guest L2, by NPT or by EPT; the core
 * shadows these tables.  Which MMU is in use, that going back and forth costs
 * nothing, what L1 is told of accesses that its tables refuse, and that L2 gets what
 * both dimensions allow together: examples by hand, every bit of every entry of a
 * path, and random tables against the reference.
 */
#include <string.h>

#include "accel/xmmu/mmu/shadow.h"
#include "accel/xmmu/mmu/vm.h"
#include "fixture.h"
#include "tests/fuzz/ref_mmu.h"

/* L2's page at gpa X is L1's at X + OFFSET where a test does not say otherwise. */
#define OFFSET  MIB(8)
#define RAM     MIB(64)

#define NPF_FINAL   ((uint64_t)1 << 32)
#define NPF_TABLE   ((uint64_t)1 << 33)

#define EPT_R   ((uint64_t)1 << 0)
#define EPT_W   ((uint64_t)1 << 1)
#define EPT_X   ((uint64_t)1 << 2)
#define EPT_RWX (EPT_R | EPT_W | EPT_X)
#define EPT_WB  ((uint64_t)6 << 3)
#define EPT_A   ((uint64_t)1 << 8)
#define EPT_D   ((uint64_t)1 << 9)
#define EPTP_AD ((uint64_t)1 << 6)

typedef struct L1 {
    Fixture *fx;
    XmmuRegs regs;              /* L1's; CR3 is where its nested tables begin */
    XmmuNestedTdp tdp;
} L1;

static const XmmuCpuCaps caps = {
    .maxphyaddr = 40, .page1g = true, .pse36 = true, .ept_1g = true,
};

static XmmuConfig config_for(XmmuTdpFormat host)
{
    XmmuConfig config = fixture_config();

    config.tdp_format = host;
    return config;
}

static gpa_t new_tables(L1 *l1, XmmuTdpFormat format, uint64_t eptp_flags, int levels)
{
    gpa_t root = fixture_page(l1->fx);

    l1->regs = fixture_regs(levels == 5 ? MODE_5L : MODE_4L, root);
    l1->tdp = (XmmuNestedTdp) {
        .format = format,
        .root = format == XMMU_TDP_EPT
                ? root | eptp_flags | (uint64_t)(levels - 1) << 3 | 6 : root,
        .cr0 = l1->regs.cr0, .cr4 = l1->regs.cr4, .efer = l1->regs.efer,
        .asid = 1,
    };
    return root;
}

static L1 l1_new(XmmuTdpFormat host, XmmuTdpFormat format, uint64_t eptp_flags)
{
    XmmuConfig config = config_for(host);
    L1 l1 = { .fx = fixture_new_caps(&config, RAM, &caps) };

    new_tables(&l1, format, eptp_flags, 4);
    return l1;
}

/* The entry for @gpa at @level of L1's nested tables; those above are built. */
static gpa_t nested_entry(L1 *l1, gpa_t gpa, int level)
{
    gpa_t table = l1->tdp.root & 0x000ffffffffff000;
    int top = l1->regs.cr4 & XMMU_CR4_LA57 ? 5 : 4;

    if (l1->tdp.format == XMMU_TDP_NPT) {
        return fixture_entry(l1->fx, &l1->regs, gpa, level);
    }
    for (int l = top;; l--) {
        gpa_t at = table + (gpa >> (12 + 9 * (l - 1)) & 511) * 8;
        uint64_t entry;

        if (l == level) {
            return at;
        }
        entry = fixture_read(l1->fx, at, 8);
        if (!(entry & 7)) {
            entry = fixture_page(l1->fx) | EPT_RWX;
            fixture_write(l1->fx, at, entry, 8);
        }
        table = entry & 0x000ffffffffff000;
    }
}

static void nested_map(L1 *l1, gpa_t gpa, uint64_t entry, int level)
{
    fixture_write(l1->fx, nested_entry(l1, gpa, level), entry, 8);
}

/* All rights, for a 4 KiB page. */
static uint64_t full_entry(const L1 *l1, gpa_t target)
{
    return target | (l1->tdp.format == XMMU_TDP_NPT ? PTE_PWU : EPT_RWX | EPT_WB);
}

static void map_l2_memory(L1 *l1, gpa_t gpa, uint64_t bytes)
{
    for (gpa_t at = gpa; at < gpa + bytes; at += XMMU_PAGE_SIZE) {
        nested_map(l1, at, full_entry(l1, at + OFFSET), 1);
    }
}

static void enter(L1 *l1, const XmmuRegs *l2)
{
    g_assert_true(xmmu_vcpu_enter_nested(l1->fx->vcpu, &l1->tdp, l2));
}

static void leave(L1 *l1)
{
    xmmu_vcpu_leave_nested(l1->fx->vcpu, &l1->fx->regs[0]);
}

static void expect_exit(L1 *l1, gva_t gva, unsigned how, XmmuNestedReason reason,
                        uint64_t info, gpa_t gpa)
{
    XmmuHwResult r = fixture_access(l1->fx, 0, gva, how);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_NESTED_EXIT);
    g_assert_cmpint(r.exit.reason, ==, reason);
    g_assert_cmphex(r.exit.info, ==, info);
    g_assert_cmphex(r.exit.gpa, ==, gpa);
}

static XmmuRegs no_paging(void)
{
    return fixture_regs(MODE_NONE, 0);
}

/* L2 with four-level tables: gva 0x5000 -> L2's @page; the tables are its pages from
 * 1 MiB.  Returns where the level-1 entry is, as a gpa of L2. */
static gpa_t l2_tables(L1 *l1, XmmuRegs *l2, uint64_t entry)
{
    gpa_t at = MIB(1);

    *l2 = fixture_regs(MODE_4L, at);
    map_l2_memory(l1, MIB(1), 4 * XMMU_PAGE_SIZE);
    for (int level = 4; level > 1; level--, at += XMMU_PAGE_SIZE) {
        fixture_write(l1->fx, at + OFFSET, (at + XMMU_PAGE_SIZE) | PTE_PWU, 8);
    }
    fixture_write(l1->fx, at + OFFSET + 5 * 8, entry, 8);
    return at + 5 * 8;
}

/* ---- Stored roles -------------------------------------------------------------- */

/* The role that @child's place asks for, as far as it does not depend on a walk. */
static XmmuPageRole role_by_place(const XmmuTable *child)
{
    const XmmuSpte *sptep = xmmu_ptr_list_first(&child->parents);
    const XmmuTable *parent = xmmu_table_of(sptep);

    if (child->role.direct) {
        return xmmu_child_role_direct(parent->role, child->role.access,
                                      child->role.pkey);
    }
    return xmmu_child_role_indirect(parent->role, xmmu_spte_index(sptep),
                                    child->role.access);
}

/* Of every table that is in use: what it is stored under is what is computed. */
static unsigned check_stored_roles(XmmuVcpu *vcpu)
{
    XmmuVm *vm = vcpu->vm;
    XmmuMmu *mmus[] = { &vcpu->root_mmu, &vcpu->guest_mmu };
    unsigned count = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(mmus); i++) {
        XmmuMmu *mmu = mmus[i];

        if (!mmu->root.table) {
            continue;
        }
        g_assert_cmphex(mmu->root.role.word, ==,
                        xmmu_root_role(&vm->config, mmu->role).word);
        g_assert_cmphex(mmu->root.table->role.word, ==, mmu->root.role.word);
        for (unsigned j = 0; j < vm->config.prev_roots; j++) {
            if (mmu->prev[j].table) {
                g_assert_cmphex(mmu->prev[j].table->role.word, ==,
                                mmu->prev[j].role.word);
            }
        }
    }
    for (GList *l = vm->shadow_tables.head; l; l = l->next) {
        const XmmuTable *table = l->data;

        g_assert_false(table->role.tdp);
        g_assert_cmpuint(table->role.guest_mode, ==, vm->config.tdp);
        if (!xmmu_ptr_list_empty(&table->parents)) {
            g_assert_cmphex(table->role.word, ==, role_by_place(table).word);
            count++;
        }
    }
    return count;
}

/* ---- Which MMU ------------------------------------------------------------------ */

static void test_selects(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuVcpu *vcpu = l1.fx->vcpu;
    XmmuRegs l2 = no_paging(), long_mode = fixture_regs(MODE_4L, MIB(1));

    g_assert_true(vcpu->mmu == &vcpu->root_mmu && vcpu->walk_mmu == &vcpu->root_mmu);
    enter(&l1, &l2);
    g_assert_true(xmmu_vcpu_is_nested(vcpu));
    g_assert_true(vcpu->mmu == &vcpu->guest_mmu && vcpu->walk_mmu == &vcpu->nested_mmu);

    /* L2 switches to long mode: of L1's MMUs nothing changes. */
    xmmu_vcpu_set_regs(vcpu, &long_mode);
    g_assert_true(vcpu->mmu == &vcpu->guest_mmu);
    g_assert_true(vcpu->nested_mmu.role.lma && !vcpu->root_mmu.role.lma);
    g_assert_null(vcpu->nested_mmu.root.table);

    leave(&l1);
    g_assert_false(xmmu_vcpu_is_nested(vcpu));
    g_assert_true(vcpu->mmu == &vcpu->root_mmu && vcpu->walk_mmu == &vcpu->root_mmu);
    leave(&l1);
    g_assert_true(vcpu->mmu == &vcpu->root_mmu);

    enter(&l1, &l2);
    xmmu_vcpu_reset(vcpu);
    g_assert_true(vcpu->mmu == &vcpu->root_mmu && vcpu->walk_mmu == &vcpu->root_mmu);
    fixture_free(l1.fx);
}

/* What cannot be shadowed is refused, and nothing has changed. */
static void test_refuses(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuConfig shadow = fixture_shadow_config();
    Fixture *fx = fixture_new(&shadow, MIB(2));
    XmmuRegs l2 = no_paging();
    XmmuNestedTdp pae = l1.tdp;

    pae.efer = 0;
    g_assert_false(xmmu_vcpu_enter_nested(l1.fx->vcpu, &pae, &l2));
    g_assert_false(xmmu_vcpu_is_nested(l1.fx->vcpu));
    g_assert_false(xmmu_vcpu_enter_nested(fx->vcpu, &l1.tdp, &l2));
    g_assert_false(xmmu_vcpu_is_nested(fx->vcpu));
    fixture_free(l1.fx);
    fixture_free(fx);
}

/* ---- Costs nothing ---------------------------------------------------------------- */

typedef struct Pair {
    XmmuTdpFormat host, format;
    uint64_t eptp_flags;
    const char *name;
} Pair;

static const Pair pairs[] = {
    { XMMU_TDP_NPT, XMMU_TDP_NPT, 0, "npt on npt" },
    { XMMU_TDP_EPT, XMMU_TDP_NPT, 0, "npt on ept" },
    { XMMU_TDP_EPT, XMMU_TDP_EPT, 0, "ept on ept" },
    { XMMU_TDP_EPT, XMMU_TDP_EPT, EPTP_AD, "ept with A/D on ept" },
    { XMMU_TDP_NPT, XMMU_TDP_EPT, EPTP_AD, "ept with A/D on npt" },
};

/* Seed: a role that is edited after the key was made kills the cache.  Two guests of
 * L1 in turn. */
static void test_roots(gconstpointer data)
{
    const Pair *p = data;
    L1 a = l1_new(p->host, p->format, p->eptp_flags), b = a;
    XmmuRegs l2 = no_paging();
    XmmuStats before, after;

    map_l2_memory(&a, 0, XMMU_PAGE_SIZE);
    new_tables(&b, p->format, p->eptp_flags, 4);
    nested_map(&b, 0, full_entry(&b, MIB(16)), 1);
    for (int round = 0; round < 2; round++) {
        enter(&a, &l2);
        fixture_expect_ok(a.fx, 8, XMMU_PROT_WRITE, OFFSET + 8);
        leave(&a);
        enter(&b, &l2);
        fixture_expect_ok(a.fx, 8, XMMU_PROT_WRITE, MIB(16) + 8);
        leave(&b);
    }
    before = fixture_stats(a.fx);
    for (int round = 0; round < 10; round++) {
        enter(&a, &l2);
        fixture_expect_ok(a.fx, 8, XMMU_PROT_WRITE, OFFSET + 8);
        leave(&a);
        enter(&b, &l2);
        fixture_expect_ok(a.fx, 8, XMMU_PROT_WRITE, MIB(16) + 8);
        leave(&b);
    }
    after = fixture_stats(a.fx);
    g_assert_cmpuint(after.root_hits - before.root_hits, ==, 20);
    g_assert_cmpuint(after.root_misses, ==, before.root_misses);
    g_assert_cmpuint(after.roots_new, ==, before.roots_new);
    g_assert_cmpuint(after.tables, ==, before.tables);
    g_assert_cmpuint(after.nested_faults, ==, before.nested_faults);
    g_assert_cmpuint(check_stored_roles(a.fx->vcpu), ==, 6);
    fixture_free(a.fx);
}

/* Seed: no mask is computed again while L1 and L2 run in turn. */
static void test_ping_pong(gconstpointer data)
{
    const Pair *p = data;
    L1 l1 = l1_new(p->host, p->format, p->eptp_flags);
    XmmuRegs l2 = fixture_regs(MODE_PAE, MIB(1));
    XmmuStats before, after;

    fixture_set(l1.fx, 0, &l1.regs);
    enter(&l1, &l2);
    leave(&l1);
    before = fixture_stats(l1.fx);
    g_assert_cmpuint(before.role_changes, >, 0);
    for (int round = 0; round < 100; round++) {
        l2.cr3 = MIB(1) + round % 4 * XMMU_PAGE_SIZE;
        enter(&l1, &l2);
        leave(&l1);
    }
    after = fixture_stats(l1.fx);
    g_assert_cmpuint(after.role_changes, ==, before.role_changes);
    g_assert_cmpuint(after.role_skips - before.role_skips, ==, 300);
    g_assert_cmpuint(after.nested_entries - before.nested_entries, ==, 100);
    fixture_free(l1.fx);
}

/* ---- NPT, by hand ------------------------------------------------------------------ */

static void test_npt_access(void)
{
    static const struct {
        uint64_t entry;         /* flags of the leaf */
        unsigned how;
        uint64_t code;          /* 0: allowed */
    } cases[] = {
        { PTE_PWU, XMMU_PROT_READ, 0 },
        { PTE_PWU, XMMU_PROT_WRITE, 0 },
        { PTE_PWU, XMMU_PROT_EXEC, 0 },
        { 0, XMMU_PROT_READ, 4 }, { 0, XMMU_PROT_WRITE, 6 }, { 0, XMMU_PROT_EXEC, 0x14 },
        /* A supervisor's page is nobody's. */
        { PTE_P | PTE_W, XMMU_PROT_READ, 5 },
        { PTE_P | PTE_W, XMMU_PROT_WRITE, 7 },
        { PTE_P | PTE_U, XMMU_PROT_READ, 0 },
        { PTE_P | PTE_U, XMMU_PROT_WRITE, 7 },
        { PTE_PWU | PTE_NX, XMMU_PROT_EXEC, 0x15 },
        { PTE_PWU | PTE_NX, XMMU_PROT_WRITE, 0 },
        { PTE_PWU | (uint64_t)1 << 45, XMMU_PROT_READ, 0xd },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
        XmmuRegs l2 = no_paging();

        nested_map(&l1, 0x7000, MIB(16) | cases[i].entry, 1);
        enter(&l1, &l2);
        if (cases[i].code) {
            expect_exit(&l1, 0x7123, cases[i].how, XMMU_NESTED_NPF,
                        cases[i].code | NPF_FINAL, 0x7123);
        } else {
            fixture_expect_ok(l1.fx, 0x7123, cases[i].how, MIB(16) + 0x123);
            g_assert_cmpuint(check_stored_roles(l1.fx->vcpu), ==, 3);
        }
        fixture_free(l1.fx);
    }
}

/* L1's tables get A and D from L2's accesses; a table of L2 counts as written. */
static void test_npt_flags(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuRegs l2;
    gpa_t pte = l2_tables(&l1, &l2, MIB(2) | PTE_PWU);
    Fixture *fx = l1.fx;

    map_l2_memory(&l1, MIB(2), XMMU_PAGE_SIZE);
    enter(&l1, &l2);
    fixture_expect_ok(fx, 0x5010, XMMU_PROT_READ, OFFSET + MIB(2) + 0x10);
    g_assert_cmphex(fixture_read(fx, nested_entry(&l1, MIB(2), 1), 8) & (PTE_A | PTE_D),
                    ==, PTE_A);
    g_assert_cmphex(fixture_read(fx, nested_entry(&l1, pte, 1), 8) & (PTE_A | PTE_D),
                    ==, PTE_A | PTE_D);
    g_assert_true(fixture_read(fx, pte + OFFSET, 8) & PTE_A);
    g_assert_false(fx->last.prot & XMMU_PROT_WRITE);
    fixture_expect_ok(fx, 0x5010, XMMU_PROT_WRITE, OFFSET + MIB(2) + 0x10);
    g_assert_true(fixture_read(fx, nested_entry(&l1, MIB(2), 1), 8) & PTE_D);
    fixture_free(fx);
}

/* The exit says whether L2's page or a table of L2 is concerned, and its address. */
static void test_npt_stage(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuRegs l2;
    gpa_t pte = l2_tables(&l1, &l2, MIB(2) | PTE_PWU);

    enter(&l1, &l2);
    expect_exit(&l1, 0x5123, XMMU_PROT_READ, XMMU_NESTED_NPF, NPF_FINAL | 4,
                MIB(2) + 0x123);
    nested_map(&l1, pte & XMMU_PAGE_MASK, 0, 1);
    xmmu_vcpu_flush_asid(l1.fx->vcpu, 1);
    /* Read, but it counts as a write. */
    expect_exit(&l1, 0x5123, XMMU_PROT_EXEC, XMMU_NESTED_NPF, NPF_TABLE | 6, pte);
    /* L2's own fault is L2's. */
    nested_map(&l1, pte & XMMU_PAGE_MASK,
               full_entry(&l1, (pte & XMMU_PAGE_MASK) + OFFSET), 1);
    fixture_expect_fault(l1.fx, 0x6123, XMMU_PROT_WRITE, 2);
    fixture_free(l1.fx);
}

/* Linux 5.15.7: "shadow nested paging does not have PKU". */
static void test_no_pku(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuRegs l2;

    l1.tdp.cr4 |= XMMU_CR4_PKE | XMMU_CR4_PKS;
    l2_tables(&l1, &l2, MIB(2) | PTE_PWU | PTE_PK(2));
    /* In L1's tables bits 62:59 mean nothing, whatever L1's CR4 and PKRU are. */
    nested_map(&l1, MIB(2), full_entry(&l1, OFFSET + MIB(2)) | PTE_PK(1), 1);
    l2.pkru = 3 << 2;
    l2.pkrs = 3 << 2;
    enter(&l1, &l2);
    fixture_expect_ok(l1.fx, 0x5000, XMMU_PROT_WRITE | ACC_USER, OFFSET + MIB(2));
    g_assert_false(l1.fx->vcpu->guest_mmu.role.pke || l1.fx->vcpu->guest_mmu.role.pks);
    g_assert_cmphex(l1.fx->vcpu->guest_mmu.masks.pkey_denies, ==, 0);
    g_assert_false(l1.fx->vcpu->guest_mmu.masks.has_pkey);

    /* L2's own keys are L2's. */
    l2.cr4 |= XMMU_CR4_PKE;
    l2.pkru = 3 << 4;
    xmmu_vcpu_set_regs(l1.fx->vcpu, &l2);
    fixture_expect_fault(l1.fx, 0x5000, XMMU_PROT_WRITE | ACC_USER, 0x27);
    fixture_free(l1.fx);
}

/* With SMEP and without NXE, L1 is told of fetches too. */
static void test_npt_fetch(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuRegs l2 = no_paging();

    l1.tdp.efer &= ~(uint64_t)XMMU_EFER_NXE;
    enter(&l1, &l2);
    expect_exit(&l1, 0x7000, XMMU_PROT_EXEC, XMMU_NESTED_NPF, NPF_FINAL | 4, 0x7000);
    l1.tdp.cr4 |= XMMU_CR4_SMEP;
    enter(&l1, &l2);
    expect_exit(&l1, 0x7000, XMMU_PROT_EXEC, XMMU_NESTED_NPF, NPF_FINAL | 0x14, 0x7000);
    /* SMEP refuses nothing: all are users here. */
    nested_map(&l1, 0x7000, full_entry(&l1, MIB(16)), 1);
    fixture_expect_ok(l1.fx, 0x7000, XMMU_PROT_EXEC, MIB(16));
    fixture_free(l1.fx);
}

/* L2 in PAE paging: its PDPTEs are read from memory, through L1's tables. */
static void test_npt_pae_l2(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuRegs l2 = fixture_regs(MODE_PAE, MIB(1) + 0x40);
    Fixture *fx = l1.fx;

    map_l2_memory(&l1, MIB(1), 4 * XMMU_PAGE_SIZE);
    fixture_write(fx, OFFSET + MIB(1) + 0x40, (MIB(1) + 0x1000) | PTE_P, 8);
    fixture_write(fx, OFFSET + MIB(1) + 0x1000, (MIB(1) + 0x2000) | PTE_PWU, 8);
    fixture_write(fx, OFFSET + MIB(1) + 0x2000 + 5 * 8, (MIB(1) + 0x3000) | PTE_PWU, 8);
    enter(&l1, &l2);
    fixture_expect_ok(fx, 0x5004, XMMU_PROT_READ, OFFSET + MIB(1) + 0x3004);
    g_assert_cmphex(fixture_read(fx, OFFSET + MIB(1) + 0x40, 8), ==,
                    (MIB(1) + 0x1000) | PTE_P);
    fixture_expect_fault(fx, 0x40005004, XMMU_PROT_READ, 0);
    /* Reserved in a PDPTE. */
    fixture_write(fx, OFFSET + MIB(1) + 0x48, (MIB(1) + 0x1000) | PTE_P | PTE_W, 8);
    fixture_expect_fault(fx, 0x40005004, XMMU_PROT_READ, 9);
    fixture_free(fx);
}

/* Large pages of L1's tables, MMIO and ROM behind them. */
static void test_npt_large(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuRegs l2 = no_paging();
    XmmuHwResult r;

    nested_map(&l1, 0, MIB(32) | PTE_PWU | PTE_PS, 2);
    nested_map(&l1, GIB(1), GIB(3) | PTE_PWU | PTE_PS, 3);
    enter(&l1, &l2);
    fixture_expect_ok(l1.fx, MIB(1) + 0x123, XMMU_PROT_WRITE, MIB(33) + 0x123);
    g_assert_cmpuint(fixture_stats(l1.fx).pages_2m, ==, 1);
    for (int i = 0; i < 2; i++) {
        r = fixture_access(l1.fx, 0, GIB(1) + 0x5678, XMMU_PROT_READ);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
        g_assert_true(r.mmio);
        g_assert_cmphex(r.gpa, ==, GIB(3) + 0x5678);
        /* Not writable yet: L1's entry is not dirty. */
        g_assert_cmphex(r.prot, ==, XMMU_PROT_READ | XMMU_PROT_EXEC);
    }
    g_assert_cmpuint(fixture_stats(l1.fx).mmio_cached, ==, 1);
    check_stored_roles(l1.fx->vcpu);
    fixture_free(l1.fx);
}

/* L1's tables begin where no RAM is: read from the bus, and nothing is kept. */
static void test_root_nowhere(void)
{
    static const XmmuTdpFormat formats[] = { XMMU_TDP_NPT, XMMU_TDP_EPT };

    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        L1 l1 = l1_new(formats[i], formats[i], 0);
        XmmuRegs l2 = no_paging();
        bool ept = formats[i] == XMMU_TDP_EPT;

        l1.tdp.root = 0xf0000000 | (l1.tdp.root & 0xfff);
        enter(&l1, &l2);
        for (int round = 0; round < 2; round++) {
            expect_exit(&l1, 0x7000, XMMU_PROT_READ,
                        ept ? XMMU_NESTED_EPT_MISCONFIG : XMMU_NESTED_NPF,
                        ept ? 0 : NPF_FINAL | 0xd, 0x7000);
        }
        l1.fx->bus_value = 0;
        expect_exit(&l1, 0x7000, XMMU_PROT_READ,
                    ept ? XMMU_NESTED_EPT_VIOLATION : XMMU_NESTED_NPF,
                    ept ? 0x181 : NPF_FINAL | 4, 0x7000);
        g_assert_cmpuint(l1.fx->vm->tracked, ==, 0);
        fixture_free(l1.fx);
    }
}

static void test_five_levels(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    XmmuRegs l2 = no_paging();

    new_tables(&l1, XMMU_TDP_NPT, 0, 5);
    nested_map(&l1, 0x7000, full_entry(&l1, MIB(16)), 1);
    enter(&l1, &l2);
    fixture_expect_ok(l1.fx, 0x7008, XMMU_PROT_WRITE, MIB(16) + 8);
    g_assert_cmpuint(l1.fx->vcpu->guest_mmu.root.table->role.level, ==, 5);
    new_tables(&l1, XMMU_TDP_EPT, 0, 5);
    nested_map(&l1, 0x7000, full_entry(&l1, MIB(17)), 1);
    enter(&l1, &l2);
    fixture_expect_ok(l1.fx, 0x7008, XMMU_PROT_WRITE, MIB(17) + 8);
    g_assert_cmpuint(l1.fx->vcpu->guest_mmu.root.table->role.level, ==, 5);
    fixture_free(l1.fx);
}

/* ---- EPT: every bit of every entry --------------------------------------------------- */

/* What the manual says of a walk through @entry[4..leaf] (SDM vol. 3, 29.3). */
typedef struct EptAnswer {
    bool misconfig, violation;
    uint64_t qualification;
} EptAnswer;

typedef struct EptSetting {
    XmmuTdpFormat host;
    uint64_t eptp_flags;
    bool execonly, page1g;
    int leaf;
} EptSetting;

static bool ept_entry_bad(const EptSetting *s, uint64_t e, int level, bool leaf)
{
    unsigned type = e >> 3 & 7;

    if ((e & 3) == EPT_W || (!s->execonly && (e & 7) == EPT_X)) {
        return true;
    }
    if (e >> 40 & 0xfff) {
        return true;                    /* bits 51:40, MAXPHYADDR is 40 */
    }
    if (level >= 4) {
        return e & 0xf8;
    }
    if (!leaf) {
        return (e & 0x78) || (level == 3 && (e & 0x80) && !s->page1g);
    }
    if (type == 2 || type == 3 || type == 7) {
        return true;
    }
    return (level == 3 && (e & 0x3ffff000)) || (level == 2 && (e & 0x1ff000));
}

static bool ept_is_leaf(const EptSetting *s, uint64_t e, int level)
{
    return level == 1 || ((e & 0x80) && (level == 2 || (level == 3 && s->page1g)));
}

/* @entries by level.  Levels below a leaf are not looked at. */
static EptAnswer ept_answer(const EptSetting *s, const uint64_t *entries, unsigned want)
{
    EptAnswer answer = { .qualification = want | 1 << 7 | 1 << 8 };
    uint64_t rights = EPT_RWX;

    for (int level = 4;; level--) {
        uint64_t e = entries[level];
        bool leaf = ept_is_leaf(s, e, level);

        if (!(e & 7)) {
            answer.violation = true;
            return answer;
        }
        /* Bits 51:40 of an entry are address bits beyond MAXPHYADDR; above is free. */
        if (ept_entry_bad(s, e & 0x000fffffffffffff, level, leaf)) {
            answer.misconfig = true;
            return answer;
        }
        rights &= e;
        if (leaf) {
            break;
        }
    }
    answer.violation = !(rights & want);
    answer.qualification |= rights << 3;
    return answer;
}

static void ept_compare(L1 *l1, const EptSetting *s, const uint64_t *entries,
                        unsigned want)
{
    const gpa_t gpa = 0x7000;
    EptAnswer answer = ept_answer(s, entries, want);
    XmmuHwResult r;

    xmmu_vm_zap_all(l1->fx->vm);
    r = fixture_access(l1->fx, 0, gpa + 0x10, want);
    if (answer.misconfig || answer.violation) {
        g_assert_cmpint(r.outcome, ==, XMMU_HW_NESTED_EXIT);
        g_assert_cmphex(r.exit.gpa, ==, gpa + 0x10);
        g_assert_cmpint(r.exit.reason, ==, answer.misconfig ? XMMU_NESTED_EPT_MISCONFIG
                                                            : XMMU_NESTED_EPT_VIOLATION);
        g_assert_cmphex(r.exit.info, ==, answer.misconfig ? 0 : answer.qualification);
        return;
    }
    g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
    g_assert_cmphex(r.prot & want, ==, want);
    for (unsigned other = 1; other <= 4; other <<= 1) {
        EptAnswer more = ept_answer(s, entries, other);

        if (more.violation) {
            g_assert_cmphex(r.prot & other, ==, 0);
        }
    }
}

/* All that is done with one value of the entry at @level of a path. */
static void ept_try(L1 *l1, const EptSetting *s, gpa_t at, const uint64_t *entries,
                    int level)
{
    fixture_write(l1->fx, at, entries[level], 8);
    for (unsigned want = 1; want <= 4; want <<= 1) {
        ept_compare(l1, s, entries, want);
        /* A and D may have been set. */
        fixture_write(l1->fx, at, entries[level], 8);
    }
}

/* An entry that leads to a table elsewhere ends in an unknown place. */
static bool leads_elsewhere(const EptSetting *s, uint64_t e, int level, unsigned bit)
{
    return (bit >= 12 && bit < 40 && !ept_is_leaf(s, e, level)) ||
           (bit == 7 && (level == 2 || level == 3));
}

static void test_ept_bits(gconstpointer data)
{
    const EptSetting *s = data;
    XmmuConfig config = config_for(s->host);
    XmmuCpuCaps model = caps;
    L1 l1 = { .fx = NULL };
    XmmuRegs l2 = no_paging();
    uint64_t good[5] = { 0 };
    gpa_t at[5];

    model.ept_execonly = s->execonly;
    model.ept_1g = s->page1g;
    l1.fx = fixture_new_caps(&config, RAM, &model);
    new_tables(&l1, XMMU_TDP_EPT, s->eptp_flags, 4);
    nested_map(&l1, 0x7000, EPT_RWX | EPT_WB | (s->leaf > 1 ? 0x80 : MIB(16)), s->leaf);
    for (int level = s->leaf; level <= 4; level++) {
        at[level] = nested_entry(&l1, 0x7000, level);
        good[level] = fixture_read(l1.fx, at[level], 8);
    }
    enter(&l1, &l2);
    for (int level = s->leaf; level <= 4; level++) {
        for (unsigned i = 0; i < 8 * 62; i++) {
            unsigned bit = 3 + i / 8;           /* 64: none */
            uint64_t entries[5];

            memcpy(entries, good, sizeof(good));
            entries[level] = (entries[level] & ~(uint64_t)7) | i % 8;
            entries[level] ^= bit < 64 ? (uint64_t)1 << bit : 0;
            if (!leads_elsewhere(s, entries[level], level, bit)) {
                ept_try(&l1, s, at[level], entries, level);
            }
        }
        fixture_write(l1.fx, at[level], good[level], 8);
        rcu_service_drain();
    }
    fixture_free(l1.fx);
}

/* Without A and D flags L1's entries stay as they are; with them they are set. */
static void test_ept_flags(void)
{
    for (int ad = 0; ad < 2; ad++) {
        L1 l1 = l1_new(XMMU_TDP_EPT, XMMU_TDP_EPT, ad ? EPTP_AD : 0);
        XmmuRegs l2;
        gpa_t pte = l2_tables(&l1, &l2, MIB(2) | PTE_PWU);
        Fixture *fx = l1.fx;
        uint64_t flags = EPT_A | EPT_D;

        map_l2_memory(&l1, MIB(2), XMMU_PAGE_SIZE);
        enter(&l1, &l2);
        fixture_expect_ok(fx, 0x5010, XMMU_PROT_READ, OFFSET + MIB(2) + 0x10);
        g_assert_cmphex(fixture_read(fx, nested_entry(&l1, MIB(2), 1), 8) & flags, ==,
                        ad ? EPT_A : 0);
        g_assert_cmphex(fixture_read(fx, nested_entry(&l1, pte, 1), 8) & flags, ==,
                        ad ? flags : 0);
        fixture_expect_ok(fx, 0x5010, XMMU_PROT_WRITE, OFFSET + MIB(2) + 0x10);
        g_assert_cmphex(fixture_read(fx, nested_entry(&l1, MIB(2), 1), 8) & flags, ==,
                        ad ? flags : 0);
        fixture_free(fx);
    }
}

/* Intel SDM vol. 3, table 28-7, for L2's tables. */
static void test_ept_stage(void)
{
    for (int ad = 0; ad < 2; ad++) {
        L1 l1 = l1_new(XMMU_TDP_EPT, XMMU_TDP_EPT, ad ? EPTP_AD : 0);
        XmmuRegs l2;
        gpa_t pte = l2_tables(&l1, &l2, MIB(2) | PTE_PWU | PTE_A | PTE_D);
        gpa_t page = pte & XMMU_PAGE_MASK;

        map_l2_memory(&l1, MIB(2), XMMU_PAGE_SIZE);
        nested_map(&l1, page, 0, 1);
        enter(&l1, &l2);
        expect_exit(&l1, 0x5010, XMMU_PROT_READ, XMMU_NESTED_EPT_VIOLATION,
                    ad ? 0x83 : 0x81, pte);
        /* Readable only: enough without A and D flags, if none must be set. */
        nested_map(&l1, page, (OFFSET + page) | EPT_R | EPT_WB, 1);
        if (ad) {
            expect_exit(&l1, 0x5010, XMMU_PROT_READ, XMMU_NESTED_EPT_VIOLATION,
                        0x83 | 8, pte);
        } else {
            fixture_expect_ok(l1.fx, 0x5010, XMMU_PROT_READ, OFFSET + MIB(2) + 0x10);
            fixture_write(l1.fx, OFFSET + pte, MIB(2) | PTE_PWU, 8);
            xmmu_vcpu_flush_guest(l1.fx->vcpu);
            expect_exit(&l1, 0x5010, XMMU_PROT_READ, XMMU_NESTED_EPT_VIOLATION,
                        0x83 | 8, pte);
        }
        fixture_free(l1.fx);
    }
}

/* Execute-only pages: kept where our own tables can say so, else done each time. */
static void test_ept_execonly(void)
{
    static const XmmuTdpFormat hosts[] = { XMMU_TDP_EPT, XMMU_TDP_NPT };

    for (size_t i = 0; i < G_N_ELEMENTS(hosts); i++) {
        XmmuConfig config = config_for(hosts[i]);
        XmmuCpuCaps model = caps;
        L1 l1 = { .fx = NULL };
        XmmuRegs l2 = no_paging();

        model.ept_execonly = true;
        l1.fx = fixture_new_caps(&config, RAM, &model);
        new_tables(&l1, XMMU_TDP_EPT, 0, 4);
        nested_map(&l1, 0x7000, MIB(16) | EPT_X | EPT_WB, 1);
        enter(&l1, &l2);
        for (int round = 0; round < 2; round++) {
            XmmuHwResult r = fixture_access(l1.fx, 0, 0x7000, XMMU_PROT_EXEC);

            g_assert_cmpint(r.outcome, ==, hosts[i] == XMMU_TDP_EPT ? XMMU_HW_OK
                                                                    : XMMU_HW_DIRECT);
            g_assert_cmphex(r.prot, ==, XMMU_PROT_EXEC);
            g_assert_cmphex(r.gpa, ==, MIB(16));
            g_assert_false(r.mmio);
            expect_exit(&l1, 0x7000, XMMU_PROT_READ, XMMU_NESTED_EPT_VIOLATION,
                        0x1a1, 0x7000);
        }
        fixture_free(l1.fx);
    }
}

/* Beyond what four levels translate nothing is mapped. */
static void test_beyond(void)
{
    XmmuConfig config = config_for(XMMU_TDP_EPT);
    XmmuCpuCaps wide = caps;
    L1 l1 = { .fx = NULL };
    XmmuRegs l2;

    wide.maxphyaddr = 52;
    l1.fx = fixture_new_caps(&config, RAM, &wide);
    new_tables(&l1, XMMU_TDP_EPT, 0, 4);
    l2_tables(&l1, &l2, (uint64_t)1 << 48 | PTE_PWU);
    nested_map(&l1, 0, full_entry(&l1, MIB(16)), 1);
    enter(&l1, &l2);
    expect_exit(&l1, 0x5123, XMMU_PROT_READ, XMMU_NESTED_EPT_VIOLATION, 0x181,
                ((uint64_t)1 << 48) + 0x123);
    fixture_free(l1.fx);
}

/* ---- L1 writes to its tables ------------------------------------------------------- */

/* What our TDP tree says of L1's page at @gpa: the leaf at level 1, or 0. */
static uint64_t tdp_leaf(L1 *l1, gpa_t gpa)
{
    return fixture_raw(l1->fx, xmmu_table_hpa(l1->fx->vcpu->root_mmu.root.table), 4,
                       gpa >> XMMU_PAGE_SHIFT, 1);
}

/*
 * L1's stores reach its nested tables through TDP.  A page table proper becomes
 * unsync and is compared when L1 flushes; an upper table loses what was written.
 */
static void test_tracking(gconstpointer data)
{
    const Pair *p = data;
    L1 l1 = l1_new(p->host, p->format, p->eptp_flags);
    Fixture *fx = l1.fx;
    XmmuRegs l2 = no_paging();
    uint64_t write = (uint64_t)1 << 1;
    gpa_t pte, pde;
    XmmuStats before;

    fixture_add_cpu(fx, 1);
    nested_map(&l1, 0x7000, full_entry(&l1, MIB(16)), 1);
    nested_map(&l1, MIB(2) + 0x7000, full_entry(&l1, MIB(17)), 1);
    pte = nested_entry(&l1, 0x7000, 1);
    pde = nested_entry(&l1, 0x7000, 2);
    /* Writable, by a large leaf, before it is known to be a table. */
    fixture_expect_ok(fx, pte, XMMU_PROT_WRITE, pte);
    g_assert_cmpuint(tdp_leaf(&l1, pte), ==, 0);

    enter(&l1, &l2);
    fixture_expect_ok(fx, 0x7000, XMMU_PROT_WRITE, MIB(16));
    leave(&l1);
    fixture_expect_ok(fx, pte, XMMU_PROT_READ, pte);
    g_assert_false(fx->last.prot & XMMU_PROT_WRITE);
    g_assert_cmphex(tdp_leaf(&l1, pte) & write, ==, 0);
    g_assert_cmphex(tdp_leaf(&l1, pte) & 5, !=, 0);

    /* Another processor of L1 writes to the page table. */
    before = fixture_stats(fx);
    fixture_store(fx, 1, pte, full_entry(&l1, MIB(18)), 8);
    g_assert_cmphex(tdp_leaf(&l1, pte) & write, ==, write);
    g_assert_cmpuint(fixture_stats(fx).tracked_writes, ==, before.tracked_writes);
    enter(&l1, &l2);
    xmmu_vcpu_flush_asid(fx->vcpu, XMMU_ALL_ASIDS);
    xmmu_vcpu_invept(fx->vcpu, NULL);
    fixture_expect_ok(fx, 0x7000, XMMU_PROT_WRITE, MIB(18));
    leave(&l1);
    /* It is protected again. */
    g_assert_cmphex(tdp_leaf(&l1, pte) & write, ==, 0);

    /* An upper table: done by hand, and it stays protected. */
    before = fixture_stats(fx);
    fixture_store(fx, 1, pde, fixture_read(fx, nested_entry(&l1, MIB(2) + 0x7000, 2), 8), 8);
    g_assert_cmpuint(fixture_stats(fx).tracked_writes, ==, before.tracked_writes + 1);
    g_assert_cmphex(tdp_leaf(&l1, pde) & write, ==, 0);
    enter(&l1, &l2);
    fixture_expect_ok(fx, 0x7000, XMMU_PROT_WRITE, MIB(17));
    check_stored_roles(fx->vcpu);
    fixture_free(fx);
}

/* Until L1 flushes, the old translation may be used; a new ASID is as good. */
static void test_new_asid(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    Fixture *fx = l1.fx;
    XmmuRegs l2 = no_paging();
    gpa_t pte;

    nested_map(&l1, 0x7000, full_entry(&l1, MIB(16)), 1);
    pte = nested_entry(&l1, 0x7000, 1);
    enter(&l1, &l2);
    fixture_expect_ok(fx, 0x7000, XMMU_PROT_WRITE, MIB(16));
    leave(&l1);
    fixture_store(fx, 0, pte, full_entry(&l1, MIB(18)), 8);
    l1.tdp.asid = 2;
    enter(&l1, &l2);
    fixture_expect_ok(fx, 0x7000, XMMU_PROT_WRITE, MIB(18));
    fixture_free(fx);
}

/* A page that has lost its shadow is writable again. */
static void test_untracked(void)
{
    L1 l1 = l1_new(XMMU_TDP_NPT, XMMU_TDP_NPT, 0);
    Fixture *fx = l1.fx;
    XmmuRegs l2 = no_paging();
    gpa_t pde;

    nested_map(&l1, 0x7000, full_entry(&l1, MIB(16)), 1);
    pde = nested_entry(&l1, 0x7000, 2);
    enter(&l1, &l2);
    fixture_expect_ok(fx, 0x7000, XMMU_PROT_WRITE, MIB(16));
    leave(&l1);
    fixture_expect_ok(fx, pde, XMMU_PROT_READ, pde);
    /* L1 uses the page for something else. */
    for (unsigned i = 0; i < 8; i++) {
        fixture_store(fx, 0, pde + 64 + i * 8, i, 8);
    }
    g_assert_cmpuint(fixture_stats(fx).floods, ==, 1);
    fixture_expect_ok(fx, pde, XMMU_PROT_WRITE, pde);
    g_assert_cmphex(tdp_leaf(&l1, pde) & 2, ==, 2);
    fixture_free(fx);
}

/* ---- Random tables against the reference --------------------------------------------- */

/* L2's translation as the manuals say: two walks of the reference. */
typedef struct Both {
    L1 *l1;
    RefMmu npt, l2;
    bool exits;
    uint64_t info, gpa;
} Both;

static unsigned read_l1(void *opaque, uint64_t addr, unsigned size, RefValue *out)
{
    Fixture *fx = opaque;

    out[0].until = 0;
    out[0].value = addr + size <= fx->ram_size ? fixture_read(fx, addr, size)
                                               : fx->bus_value;
    return 1;
}

static bool second_walk(Both *b, uint64_t gpa, unsigned kind, uint64_t stage,
                        RefResult *out)
{
    RefAccess access = { .linear = gpa, .kind = kind, .user = true };

    ref_translate(&b->npt, &access, out);
    if (out->fault && !b->exits) {
        b->exits = true;
        b->info = out->error_code | stage;
        b->gpa = gpa;
    }
    return !out->fault;
}

static unsigned read_l2(void *opaque, uint64_t addr, unsigned size, RefValue *out)
{
    Both *b = opaque;
    RefResult second;

    out[0].until = 0;
    out[0].value = 0;
    if (!b->exits && second_walk(b, addr, REF_WRITE, NPF_TABLE, &second)) {
        read_l1(b->l1->fx, second.phys, size, out);
    }
    return 1;
}

static Both both_for(L1 *l1, const XmmuRegs *l2)
{
    const XmmuNestedTdp *t = &l1->tdp;
    RefCaps model = { caps.maxphyaddr, caps.page1g, caps.pse36, caps.amd_pml4e_bit8 };

    return (Both) {
        .l1 = l1,
        .npt = {
            .caps = model, .read = read_l1, .opaque = l1->fx,
            .regs = { .cr0 = t->cr0, .cr3 = t->root, .efer = t->efer,
                      .cr4 = t->cr4 & ~(uint64_t)(XMMU_CR4_PKE | XMMU_CR4_PKS) },
        },
        .l2 = {
            .caps = model, .read = read_l2,
            .regs = { .cr0 = l2->cr0, .cr3 = l2->cr3, .cr4 = l2->cr4,
                      .efer = l2->efer, .pkru = l2->pkru, .pkrs = l2->pkrs },
        },
    };
}

/* True: L2 has access. */
static bool compare_both(L1 *l1, const XmmuRegs *l2, gva_t gva, unsigned how)
{
    Both b = both_for(l1, l2);
    RefAccess access = { gva, how & XMMU_PROT_RWX, how & ACC_USER, how & ACC_AC };
    RefResult first, second = { .fault = true };
    XmmuHwResult r;

    b.l2.opaque = &b;
    ref_translate(&b.l2, &access, &first);
    if (!b.exits && !first.fault) {
        second_walk(&b, first.phys, access.kind, NPF_FINAL, &second);
    }
    r = fixture_access(l1->fx, 0, gva, how);
    if (b.exits) {
        g_assert_cmpint(r.outcome, ==, XMMU_HW_NESTED_EXIT);
        g_assert_cmphex(r.exit.info, ==, b.info);
        g_assert_cmphex(r.exit.gpa, ==, b.gpa);
    } else if (first.fault) {
        g_assert_cmpint(r.outcome, ==, XMMU_HW_EXCEPTION);
        g_assert_cmphex(r.exception.error_code, ==, first.error_code);
    } else {
        g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
        g_assert_cmphex(r.gpa, ==, second.phys);
        g_assert_cmphex(r.prot & ~(first.allowed & second.allowed), ==, 0);
        g_assert_cmphex(r.prot & how & XMMU_PROT_RWX, !=, 0);
    }
    return r.outcome <= XMMU_HW_DIRECT;
}

/* An entry for a table or a page in the first @pages pages of 4 KiB from @base. */
static uint64_t random_entry(GRand *rand, gpa_t base, unsigned pages)
{
    uint64_t entry = base + (uint64_t)g_rand_int_range(rand, 0, pages) * XMMU_PAGE_SIZE;

    entry |= PTE_PWU;
    switch (g_rand_int_range(rand, 0, 24)) {
    case 0: return 0;
    case 1: return entry & ~PTE_W;
    case 2: return entry & ~PTE_U;
    case 3: return entry | PTE_NX;
    case 4: return entry | PTE_PS;
    case 5: return entry | (uint64_t)1 << g_rand_int_range(rand, 3, 64);
    case 6: return entry | PTE_PK(g_rand_int_range(rand, 0, 16));
    default: return entry;
    }
}

/*
 * Sixteen pages of L1 are at once its nested tables, L2's tables and L2's memory; a
 * table at one level may be one at any other.
 */
static void test_random(gconstpointer data)
{
    const Pair *p = data;
    GRand *rand = g_rand_new_with_seed(42);
    const unsigned pages = 16;
    L1 l1 = l1_new(p->host, XMMU_TDP_NPT, 0);
    Fixture *fx = l1.fx;
    unsigned good = 0;

    for (unsigned round = 0; round < 300; round++) {
        XmmuRegs l2 = fixture_regs(MODE_4L, MIB(1));
        gpa_t at;

        l1.tdp.root = MIB(1) + (uint64_t)g_rand_int_range(rand, 0, pages) * 0x1000;
        l2.pkru = g_rand_int(rand);
        l2.cr4 |= g_rand_boolean(rand) ? XMMU_CR4_PKE : 0;
        l1.tdp.cr4 ^= g_rand_boolean(rand) ? XMMU_CR4_PKE | XMMU_CR4_SMAP : 0;
        l1.tdp.cr0 ^= g_rand_boolean(rand) ? XMMU_CR0_WP : 0;
        leave(&l1);
        for (at = MIB(1); at < MIB(1) + pages * XMMU_PAGE_SIZE; at += 8) {
            if (round == 0 || g_rand_int_range(rand, 0, 16) == 0) {
                fixture_store(fx, 0, at, random_entry(rand, MIB(1), pages), 8);
            }
        }
        l1.tdp.asid = 1 + round % 3;
        enter(&l1, &l2);
        xmmu_vcpu_flushed(fx->vcpu);
        xmmu_vcpu_flush_asid(fx->vcpu, XMMU_ALL_ASIDS);
        for (unsigned i = 0; i < 100; i++) {
            static const unsigned hows[] = {
                XMMU_PROT_READ, XMMU_PROT_WRITE, XMMU_PROT_EXEC,
                XMMU_PROT_READ | ACC_USER, XMMU_PROT_WRITE | ACC_USER,
            };
            gva_t gva = g_rand_int(rand) & 0x3fffffff;

            good += compare_both(&l1, &l2, gva, hows[i % G_N_ELEMENTS(hows)]);
        }
        check_stored_roles(fx->vcpu);
        rcu_service_drain();
    }
    g_assert_cmpuint(good, >, 1000);
    g_assert_cmpuint(fixture_stats(fx).nested_reflected, >, 1000);
    g_rand_free(rand);
    fixture_free(fx);
}

static void add_ept_settings(void)
{
    static const EptSetting settings[] = {
        { XMMU_TDP_EPT, 0, false, true, 1 }, { XMMU_TDP_EPT, EPTP_AD, false, true, 1 },
        { XMMU_TDP_EPT, 0, true, true, 1 }, { XMMU_TDP_NPT, 0, true, true, 1 },
        { XMMU_TDP_EPT, EPTP_AD, true, false, 2 }, { XMMU_TDP_NPT, 0, false, true, 2 },
        { XMMU_TDP_EPT, 0, true, true, 3 }, { XMMU_TDP_NPT, EPTP_AD, false, true, 3 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        const EptSetting *s = &settings[i];
        char *path = g_strdup_printf("/nested/ept bits/%s%s%s%s level %d",
                                     s->host == XMMU_TDP_EPT ? "on ept" : "on npt",
                                     s->eptp_flags ? " ad" : "",
                                     s->execonly ? " execonly" : "",
                                     s->page1g ? "" : " no 1G", s->leaf);

        g_test_add_data_func(path, s, test_ept_bits);
        g_free(path);
    }
}

static void add_for_pairs(const char *name, GTestDataFunc test)
{
    for (size_t i = 0; i < G_N_ELEMENTS(pairs); i++) {
        char *path = g_strdup_printf("/nested/%s/%s", name, pairs[i].name);

        g_test_add_data_func(path, &pairs[i], test);
        g_free(path);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nested/selects the MMU", test_selects);
    g_test_add_func("/nested/refuses", test_refuses);
    add_for_pairs("roots come back", test_roots);
    add_for_pairs("ping-pong", test_ping_pong);
    add_for_pairs("tracking", test_tracking);
    g_test_add_func("/nested/tracking of a new ASID", test_new_asid);
    g_test_add_func("/nested/not tracked any more", test_untracked);
    g_test_add_data_func("/nested/random/on npt", &pairs[0], test_random);
    g_test_add_data_func("/nested/random/on ept", &pairs[1], test_random);
    g_test_add_func("/nested/npt/access", test_npt_access);
    g_test_add_func("/nested/npt/flags", test_npt_flags);
    g_test_add_func("/nested/npt/stage", test_npt_stage);
    g_test_add_func("/nested/npt/shadow nested paging does not have PKU", test_no_pku);
    g_test_add_func("/nested/npt/fetch", test_npt_fetch);
    g_test_add_func("/nested/npt/PAE in L2", test_npt_pae_l2);
    g_test_add_func("/nested/npt/large", test_npt_large);
    g_test_add_func("/nested/five levels", test_five_levels);
    g_test_add_func("/nested/root nowhere", test_root_nowhere);
    g_test_add_func("/nested/ept/flags", test_ept_flags);
    g_test_add_func("/nested/ept/stage", test_ept_stage);
    g_test_add_func("/nested/ept/execute-only", test_ept_execonly);
    g_test_add_func("/nested/ept/beyond the tables", test_beyond);
    add_ept_settings();
    return g_test_run();
}
