/*
 * xmmu: memory of the core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every allocation of the core goes through here.  Each may fail: it is made before
 * anything is changed, and its caller has an outcome for it.  What belongs to tables
 * is counted against the VM's limit as well.  See mem.c.
 */
#ifndef XMMU_MMU_MEM_H
#define XMMU_MMU_MEM_H

#include <glib.h>
#include "mmu.h"

/* Asked before each allocation: tests let it fail. */
static inline bool xmmu_may_allocate(const XmmuServices *services, void *opaque,
                                     size_t size)
{
    return !services->may_allocate || services->may_allocate(opaque, size);
}

/* Zeroed memory for g_free(), or NULL. */
static inline void *xmmu_try_new0(const XmmuServices *services, void *opaque,
                                  size_t size)
{
    return xmmu_may_allocate(services, opaque, size) ? g_try_malloc0(size) : NULL;
}

/* Count @size bytes as memory of tables; false: that would exceed the limit. */
bool xmmu_mem_charge(XmmuVm *vm, size_t size);
void xmmu_mem_uncharge(XmmuVm *vm, size_t size);

/* Is there room for @size bytes more? */
bool xmmu_mem_has_room(XmmuVm *vm, size_t size);

/* Charged and zeroed memory, or NULL; and back. */
void *xmmu_mem_new(XmmuVm *vm, size_t size);
void xmmu_mem_free(XmmuVm *vm, void *memory, size_t size);

#endif /* XMMU_MMU_MEM_H */
