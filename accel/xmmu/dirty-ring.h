/*
 * xmmu: the dirty ring, for who asks for KVM's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU's dirty limit, and the dirty rate of each vCPU, need a dirty ring and ask for it by
 * KVM's names.  Their files include this through hooks, so that they find ours as well;
 * one of them defines the variable.  What they do with a ring is said in dirty-limit.c.
 */
#ifndef ACCEL_XMMU_DIRTY_RING_H
#define ACCEL_XMMU_DIRTY_RING_H

#include "system/kvm.h"

/* Entries of each vCPU's ring; 0: there are none. */
extern uint32_t xmmu_dirty_ring_entries;

#undef kvm_enabled
#define kvm_enabled() (kvm_allowed || xmmu_dirty_ring_entries)
#define kvm_dirty_ring_enabled() (xmmu_dirty_ring_entries || (kvm_dirty_ring_enabled)())
#define kvm_dirty_ring_size() \
    (xmmu_dirty_ring_entries ? xmmu_dirty_ring_entries : (kvm_dirty_ring_size)())

#endif /* ACCEL_XMMU_DIRTY_RING_H */
