/*
 * xmmu: what TCG tells of writes to RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Alone in a header because QEMU's own file includes it through a hook, which defines
 * the variable.
 */
#ifndef ACCEL_XMMU_WRITTEN_H
#define ACCEL_XMMU_WRITTEN_H

#include "exec/cpu-common.h"

/*
 * @cpu is about to write to the RAM page at @addr by an entry of its TLB that is marked
 * as not dirty.  True: xmmu logs writes to it, QEMU's bitmaps are none of TCG's
 * business, and the mark may go.  On the vCPU's thread.
 */
typedef bool XmmuRamWritten(CPUState *cpu, ram_addr_t addr);

/* NULL: nobody wants to know. */
extern XmmuRamWritten *xmmu_ram_written;

#endif /* ACCEL_XMMU_WRITTEN_H */
