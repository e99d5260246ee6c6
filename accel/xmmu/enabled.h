/*
 * xmmu: whether it is the accelerator of this process
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Alone in a header because QEMU's own files include it through hooks.
 */
#ifndef ACCEL_XMMU_ENABLED_H
#define ACCEL_XMMU_ENABLED_H

extern bool xmmu_allowed;
#define xmmu_enabled() (xmmu_allowed)

#endif /* ACCEL_XMMU_ENABLED_H */
