/*
 * xmmu: memory of the core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the account of table memory: the gauge table_bytes, and the limit that it never
 * exceeds.  A table is on the account while it is in use; one that was taken out of
 * use waits for a grace period (and perhaps for a vCPU to notice) without being
 * counted, or no access could make room for itself.
 *
 * Any thread, no lock.
 */
#include "mem.h"
#include "vm.h"

bool xmmu_mem_has_room(XmmuVm *vm, size_t size)
{
    uint64_t used = __atomic_load_n(&vm->stats.table_bytes, __ATOMIC_RELAXED);

    return used + size <= vm->config.table_memory;
}

bool xmmu_mem_charge(XmmuVm *vm, size_t size)
{
    uint64_t *gauge = &vm->stats.table_bytes;
    uint64_t used = __atomic_load_n(gauge, __ATOMIC_RELAXED);

    do {
        if (used + size > vm->config.table_memory) {
            return false;
        }
    } while (!__atomic_compare_exchange_n(gauge, &used, used + size, true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

void xmmu_mem_uncharge(XmmuVm *vm, size_t size)
{
    xmmu_count_shared(&vm->stats.table_bytes, -(int64_t)size);
}

void *xmmu_mem_new(XmmuVm *vm, size_t size)
{
    void *memory;

    if (!xmmu_mem_charge(vm, size)) {
        return NULL;
    }
    memory = xmmu_try_new0(vm->services, vm->opaque, size);
    if (!memory) {
        xmmu_mem_uncharge(vm, size);
    }
    return memory;
}

void xmmu_mem_free(XmmuVm *vm, void *memory, size_t size)
{
    xmmu_mem_uncharge(vm, size);
    g_free(memory);
}
