/*
 * xmmu: the limit of table memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Who has to go when tables have taken all the memory that they may take.  See
 * reclaim.c.  mmu_lock for writing.
 */
#ifndef XMMU_MMU_RECLAIM_H
#define XMMU_MMU_RECLAIM_H

#include "table.h"

/* A fault begins: tables that it uses from now on are not taken from it. */
void xmmu_reclaim_begin(XmmuVm *vm);
/* The current fault uses @table, a shadow table. */
void xmmu_reclaim_touch(XmmuTable *table);

/* Make room for @size bytes; false if nothing is left that could go. */
bool xmmu_reclaim_for(XmmuVm *vm, size_t size);
/* The host has no memory: let go of what was used least recently.  False: nothing. */
bool xmmu_reclaim_some(XmmuVm *vm);

#endif /* XMMU_MMU_RECLAIM_H */
