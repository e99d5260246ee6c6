/*
 * xmmu: the limit of table memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the choice of the tables that go when there is no room for a new one.  Shadow
 * tables go least recently used first.  A table is used when a fault passes through
 * it, which moves it to the front of the VM's list under the lock that the fault holds
 * anyway, and when its root is loaded, which takes no lock: that only sets a flag, and
 * the table is spared once.
 *
 * Tables that the current fault has passed are never taken; xmmu_table_memory_floor()
 * is what such a fault and its stock need at most, so some other table can go always.
 * The guest notices nothing: what is needed again is built again.
 */
#include "mem.h"
#include "reclaim.h"
#include "reserve.h"
#include "shadow.h"

/* What one vCPU must have to make progress, and what the VM must have beside. */
#define PER_VCPU (128 * 1024)
#define PER_VM   (128 * 1024)

/* A table with its copy of the guest's. */
#define TABLE_BYTES (2 * XMMU_PAGE_SIZE + sizeof(XmmuTable))
#define PATH_BYTES  (XMMU_MAX_LEVEL * TABLE_BYTES)
/* In stock at the beginning; and as much in use at the end, by the path alone. */
#define STOCK_BYTES (XMMU_RESERVE_CHUNKS * sizeof(XmmuChunk) + \
                     XMMU_RESERVE_NODES * sizeof(XmmuPtrNode))
/* With nested paging both kinds: a path in the TDP tree as well. */
G_STATIC_ASSERT(PATH_BYTES + 2 * STOCK_BYTES + PATH_BYTES / 2 <= PER_VCPU);
G_STATIC_ASSERT(XMMU_AS_COUNT * TABLE_BYTES <= PER_VM);

/* Tables that go when the host has no memory. */
#define HOST_BATCH 16

uint64_t xmmu_table_memory_floor(unsigned vcpus)
{
    return PER_VM + (uint64_t)vcpus * PER_VCPU;
}

void xmmu_reclaim_begin(XmmuVm *vm)
{
    xmmu_assert_write_locked(vm);
    vm->fault_serial++;
}

static void to_front(XmmuVm *vm, XmmuTable *table)
{
    g_queue_unlink(&vm->shadow_tables, &table->link);
    g_queue_push_head_link(&vm->shadow_tables, &table->link);
}

void xmmu_reclaim_touch(XmmuTable *table)
{
    XmmuVm *vm = table->vm;

    table->used_by = vm->fault_serial;
    if (vm->shadow_tables.head != &table->link && !xmmu_table_stale(table)) {
        to_front(vm, table);
    }
}

/* Least recently used, not of the current fault, and not spared. */
static XmmuTable *shadow_victim(XmmuVm *vm)
{
    for (guint n = vm->shadow_tables.length; n > 0; n--) {
        XmmuTable *table = vm->shadow_tables.tail->data;

        if (table->used_by != vm->fault_serial &&
            !__atomic_exchange_n(&table->referenced, false, __ATOMIC_RELAXED)) {
            return table;
        }
        to_front(vm, table);
    }
    /* All were spared: now nobody is. */
    for (GList *l = vm->shadow_tables.tail; l; l = l->prev) {
        XmmuTable *table = l->data;

        if (table->used_by != vm->fault_serial) {
            return table;
        }
    }
    return NULL;
}

static bool reclaim_one(XmmuVm *vm)
{
    XmmuTable *table;

    if (vm->obsolete.head) {
        xmmu_shadow_zap(vm->obsolete.head->data);
        return true;
    }
    table = shadow_victim(vm);
    if (table) {
        xmmu_count_shared(&vm->stats.reclaimed_tables, 1);
        xmmu_shadow_zap(table);
    }
    return table;
}

bool xmmu_reclaim_for(XmmuVm *vm, size_t size)
{
    xmmu_assert_write_locked(vm);
    if (xmmu_mem_has_room(vm, size)) {
        return true;
    }
    xmmu_count_shared(&vm->stats.reclaims, 1);
    do {
        if (!reclaim_one(vm)) {
            return xmmu_reclaim_tdp(&vm->writer, size);
        }
    } while (!xmmu_mem_has_room(vm, size));
    return true;
}

void xmmu_reclaim_some(XmmuVm *vm)
{
    unsigned n = 0;

    xmmu_assert_write_locked(vm);
    xmmu_count_shared(&vm->stats.reclaims, 1);
    while (n < HOST_BATCH && reclaim_one(vm)) {
        n++;
    }
}
