/*
 * xmmu unit tests: the checker
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Only in a build with the checker.  Each test commits one sin through a back door, in
 * a process of its own, and sees that the checker stops it and says why.  The tests of
 * all other mechanisms, run in the same build, show that it does not stop what is right.
 */
#include <string.h>

#include "fixture.h"
#include "../../accel/xmmu/mmu/check.h"
#include "../../accel/xmmu/mmu/flush.h"
#include "../../accel/xmmu/mmu/roots.h"
#include "../../accel/xmmu/mmu/shadow.h"
#include "../../accel/xmmu/mmu/tdp.h"
#include "../../accel/xmmu/mmu/vm.h"

#define VA ((gva_t)0x40000000)

/* A shadow-paging VM that has VA mapped to @page, writable, and used. */
static Fixture *shadow_vm(gpa_t *page)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx = fixture_new(&config, MIB(64));
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));

    *page = fixture_page(fx);
    fixture_map(fx, &regs, VA, *page | PTE_PWU, 1);
    fixture_set(fx, 0, &regs);
    fixture_expect_ok(fx, VA, XMMU_PROT_WRITE, *page);
    return fx;
}

static Fixture *tdp_vm(void)
{
    XmmuConfig config = fixture_config();
    Fixture *fx;

    config.huge_pages = false;
    fx = fixture_new(&config, MIB(64));
    fixture_access(fx, 0, 0x5000, XMMU_PROT_WRITE);
    return fx;
}

/* The table at @level on the way to @gva. */
static XmmuTable *table_for(Fixture *fx, gva_t gva, int level)
{
    XmmuTable *table = fx->vcpu->mmu->root.table;

    while (table->role.level > level) {
        unsigned index = xmmu_level_index(gva >> XMMU_PAGE_SHIFT, table->role.level);

        table = xmmu_table_at(xmmu_spte_hpa(xmmu_spte_read(&table->spt[index])));
    }
    return table;
}

static void lock_and_unlock(Fixture *fx, XmmuReason reason)
{
    xmmu_write_lock(fx->vm, reason);
    xmmu_write_unlock(fx->vm);
}

/* ---- The sins ---------------------------------------------------------------- */

static void sin_edit_entry(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);

    table_for(fx, VA, 1)->spt[0].raw ^= XMMU_PAGE_SIZE;
    fixture_access(fx, 0, VA, XMMU_PROT_READ);
}

static void sin_edit_role(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);

    table_for(fx, VA, 1)->role.access ^= XMMU_ACC_WRITE;
    fixture_access(fx, 0, VA, XMMU_PROT_READ);
}

static void sin_wrong_count(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);
    XmmuTable *table = table_for(fx, VA, 1);

    table->present++;
    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    xmmu_spte_set(table, 0, (XmmuSpte) { 0 });
    xmmu_write_unlock(fx->vm);
}

static void sin_wrong_gauge(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);

    fx->vm->stats.pages_4k++;
    lock_and_unlock(fx, XMMU_REASON_GUEST);
}

/* Another place in the same level-2 table asks for another frame. */
static void sin_wrong_child(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);
    XmmuTable *table = table_for(fx, VA, 2);
    unsigned index = xmmu_level_index(VA >> XMMU_PAGE_SHIFT, 2);

    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    xmmu_spte_set(table, index + 1, xmmu_spte_read(&table->spt[index]));
}

static void sin_free_root(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);
    XmmuTable *root = fx->vcpu->mmu->root.table;

    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    root->root_refs = 0;
    xmmu_shadow_zap(root);
    xmmu_write_unlock(fx->vm);
}

static void sin_walk_freed(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);
    XmmuSpte *entries = fx->vcpu->mmu->root.table->spt;

    fixture_set(fx, 0, &(XmmuRegs) { 0 });
    xmmu_vm_zap_all(fx->vm);
    xmmu_roots_drop(&fx->vcpu->root_mmu);
    rcu_service_drain();
    xmmu_check_walk_begin(fx->vcpu);
    xmmu_check_read(fx->vcpu, entries);
}

/* The grace period is left out while the vCPU is in the middle of its walk. */
static void sin_no_grace_period(void)
{
    Fixture *fx = tdp_vm();
    XmmuTable *leaf = table_for(fx, 0x5000, 1);

    fx->vcpu->vm->services->rcu_read_lock();
    xmmu_check_walk_begin(fx->vcpu);
    xmmu_tdp_zap_gfns(fx->vm, XMMU_AS_NORMAL, 0, 512);
    xmmu_check_table_reclaimed(leaf);
}

static void sin_use_after_flush(void)
{
    XmmuAccess access = { .gva = VA, .want = XMMU_PROT_READ };
    gpa_t page;
    Fixture *fx = shadow_vm(&page);

    fx->last = fixture_access(fx, 0, VA, XMMU_PROT_READ);
    xmmu_check_used(fx->vcpu, &access, fx->last.hpa, XMMU_PROT_READ);
    xmmu_vcpu_flushed(fx->vcpu);
    xmmu_check_used(fx->vcpu, &access, fx->last.hpa, XMMU_PROT_READ);
}

static void sin_unpaid_debt(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);

    xmmu_write_lock(fx->vm, XMMU_REASON_HOST);
    xmmu_spte_set(table_for(fx, VA, 1), 0, (XmmuSpte) { 0 });
    fx->vm->writer.flush_owed = false;
    xmmu_write_unlock(fx->vm);
}

/* A slice orders nothing by itself. */
static void sin_unpaid_slices(void)
{
    Fixture *fx = tdp_vm();

    xmmu_tdp_zap_gfns(fx->vm, XMMU_AS_NORMAL, 0, 512);
    xmmu_check_map_changed(fx->vm);
}

/* The nested TLB is not told that an entry went. */
static void sin_stale_nested_tlb(void)
{
    Fixture *fx = tdp_vm();
    uint64_t lost;

    fixture_access(fx, 0, 0x5000, XMMU_PROT_WRITE);
    lost = fx->vm->rights_lost;
    xmmu_tdp_zap_gfns(fx->vm, XMMU_AS_NORMAL, 5, 1);
    fx->vm->rights_lost = lost;
    fixture_access(fx, 0, 0x5000, XMMU_PROT_WRITE);
}

/* The page becomes a page table while another vCPU has it writable in its TLB, and
 * the flush clock lies about that vCPU. */
static void sin_believe_too_early(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);
    XmmuRegs regs = fx->regs[0];

    fixture_add_cpu(fx, 1);
    fixture_set(fx, 1, &regs);
    fixture_access(fx, 1, VA, XMMU_PROT_WRITE);
    fixture_map(fx, &regs, VA + GIB(1), page | PTE_PWU, 2);
    fixture_write(fx, page, 0x5000 | PTE_PWU, 8);
    fixture_access(fx, 0, VA + GIB(1), XMMU_PROT_READ);
    fx->cpus[1]->cached = false;
    fixture_set(fx, 0, &regs);
    fixture_set(fx, 0, &regs);
}

static void sin_leak(void)
{
    gpa_t page;
    Fixture *fx = shadow_vm(&page);

    xmmu_check_vm_free(fx->vm);
}

/* ---- And the stops ------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*commit)(void);
    const char *message;
} sins[] = {
    { "entry", sin_edit_entry, "*entry 0 changed outside the writer*" },
    { "role", sin_edit_role, "*role or frame of a table was edited*" },
    { "present", sin_wrong_count, "*a table counts * entries present, but*" },
    { "gauge", sin_wrong_gauge, "*leaves at level 1, but the gauge says*" },
    { "child", sin_wrong_child, "*a child is linked that entry * does not ask for*" },
    { "root", sin_free_root, "*a root of vCPU 0 is no table in use*" },
    { "freed", sin_walk_freed, "*vCPU 0 walks into a freed table page*" },
    { "grace-period", sin_no_grace_period, "*is freed while vCPU 0 may still walk it*" },
    { "flushed", sin_use_after_flush, "*uses a translation that it has flushed*" },
    { "owed", sin_unpaid_debt, "*mmu_lock is released, but a flush of all vCPUs is owed*" },
    { "slices", sin_unpaid_slices, "*map has changed, but a flush of all vCPUs is owed*" },
    { "nested-tlb", sin_stale_nested_tlb, "*from its nested TLB, whose entry lost a right*" },
    { "protection", sin_believe_too_early, "*counts as sync, but vCPU 1 may still write*" },
    { "leak", sin_leak, "*tables are left when the VM goes*" },
};

static void test_sin(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);

    if (g_test_subprocess()) {
        sins[i].commit();
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr(sins[i].message);
    g_test_trap_assert_stderr("*XMMU_CHECK: *");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(sins); i++) {
        char *path = g_strdup_printf("/check/%s", sins[i].name);

        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_sin);
        g_free(path);
    }
    return g_test_run();
}
