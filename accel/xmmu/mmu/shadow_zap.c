/*
 * xmmu: zapping of shadow tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what happens to shadow tables when guest memory changes or everything must
 * go.
 */
#include "flush.h"
#include "shadow.h"

static bool overlaps(gfn_t a, uint64_t na, gfn_t b, uint64_t nb)
{
    return a < b + nb && b < a + na;
}

static void zap_leaves(XmmuTable *table, gfn_t gfn, uint64_t npages)
{
    const XmmuHostFormat *format = table->vm->format;
    int level = table->role.level;

    for (unsigned i = 0; i < XMMU_ENTRIES && table->present; i++) {
        XmmuSpte spte = xmmu_spte_read(&table->spt[i]);

        if (xmmu_spte_present(format, spte) &&
            xmmu_spte_is_leaf(format, spte, level) &&
            overlaps(xmmu_table_leaf_gfn(table, i), xmmu_level_pages(level),
                     gfn, npages)) {
            xmmu_spte_set(table, i, (XmmuSpte) { 0 });
        }
    }
}

/* A frame's A20 alias moves with it, so such tables go on any change. */
static bool shadows(const XmmuTable *table, gfn_t gfn, uint64_t npages)
{
    return table->role.a20_masked ||
           (!table->role.direct && overlaps(table->gfn, 1, gfn, npages));
}

/* Zapping one table may zap others, so they are listed first; RCU keeps those that
 * went on the way readable, and they say so. */
void xmmu_shadow_zap_gfns(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages)
{
    xmmu_assert_write_locked(vm);
    vm->services->rcu_read_lock();
    g_ptr_array_set_size(vm->scratch, 0);
    for (GList *l = vm->shadow_tables.head; l; l = l->next) {
        g_ptr_array_add(vm->scratch, l->data);
    }
    for (guint i = 0; i < vm->scratch->len; i++) {
        XmmuTable *table = g_ptr_array_index(vm->scratch, i);

        if (table->unlinked || xmmu_role_as(table->role) != as_id) {
            continue;
        }
        if (shadows(table, gfn, npages)) {
            xmmu_shadow_zap(table);
        } else {
            zap_leaves(table, gfn, npages);
        }
    }
    vm->services->rcu_read_unlock();
}

void xmmu_shadow_zap_all(XmmuVm *vm)
{
    xmmu_assert_write_locked(vm);
    while (vm->shadow_tables.head) {
        xmmu_shadow_zap(vm->shadow_tables.head->data);
    }
}
