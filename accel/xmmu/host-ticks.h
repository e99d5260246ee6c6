/*
 * xmmu: the host's ticks, at the speed of the guest's TSC
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU's timers count ticks of the host, stop them with the VM, and migrate them; a guest
 * reads them as its TSC.  system/cpu-timers.c includes this through a hook, so that it
 * counts the ticks of a TSC of another speed, just as the hardware does that scales the
 * TSC for engine native (Intel SDM vol. 3, 26.5.2; AMD APM vol. 2, 15.30.5).
 */
#ifndef ACCEL_XMMU_HOST_TICKS_H
#define ACCEL_XMMU_HOST_TICKS_H

#include "qemu/host-utils.h"
#include "qemu/timer.h"

#define XMMU_TICKS_FRACTION_BITS 32

/* Fixed point; 0: as fast as the host.  Changes only while the ticks stand still. */
extern uint64_t xmmu_ticks_ratio;

static inline int64_t xmmu_host_ticks(void)
{
    uint64_t low = cpu_get_host_ticks(), high;

    if (!xmmu_ticks_ratio) {
        return low;
    }
    mulu64(&low, &high, low, xmmu_ticks_ratio);
    return low >> XMMU_TICKS_FRACTION_BITS | high << (64 - XMMU_TICKS_FRACTION_BITS);
}

#define cpu_get_host_ticks() xmmu_host_ticks()

#endif /* ACCEL_XMMU_HOST_TICKS_H */
