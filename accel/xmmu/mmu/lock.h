/*
 * xmmu: mmu_lock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The lock of a VM's tables, and the holder object that stands for one holding
 * of it.  Everything that changes an entry says by which holding it does so: the
 * holding carries the flush that is owed, the tables that are to be freed once it
 * is paid, and whose counters are counted up.
 *
 *   write side   one thread: shadow paging, changes of slots, vCPUs and roots
 *   read side    many threads: everything in TDP trees, by atomic entries
 *
 * A thread holds the lock once at a time.
 */
#ifndef XMMU_MMU_LOCK_H
#define XMMU_MMU_LOCK_H

#include <glib.h>
#include "mmu.h"

/*
 * Why entries change under the lock, which decides who owes the flush when the
 * lock is released (flush.c).
 */
typedef enum XmmuReason {
    /* What vCPUs may still have cached is what the guest's own flush rules
     * allow to be stale, or is harmless because it maps the same page. */
    XMMU_REASON_GUEST,
    /* The host took something away: every vCPU must forget it. */
    XMMU_REASON_HOST,
    /* A part of a larger change by the host, which ends with a holding for
     * XMMU_REASON_HOST that pays for all parts. */
    XMMU_REASON_SLICE,
} XmmuReason;

typedef enum XmmuSide {
    XMMU_UNLOCKED,
    XMMU_READ_SIDE,
    XMMU_WRITE_SIDE,
} XmmuSide;

/* From lock to unlock; touched by the holding thread only. */
typedef struct XmmuHold {
    XmmuVm *vm;
    XmmuVcpu *vcpu;             /* that the thread runs; NULL: none */
    XmmuVcpu *on_behalf_of;     /* write side: whose access it is about; NULL: nobody's */
    XmmuReason reason;
    XmmuSide side;
    bool flush_owed;            /* see flush.c */
    XmmuTable *doomed;          /* out of use, freed when the flush is paid */
#ifdef XMMU_CHECK
    uint64_t check_lost;        /* check.c: when it last took something from vCPUs */
#endif
} XmmuHold;

/*
 * Take the read side into @hold, which lives on the caller's stack until the
 * unlock.  The holding is an RCU read section as well, so tables that others
 * remove stay readable.  @vcpu: the vCPU that the thread runs, or NULL.
 */
void xmmu_read_lock(XmmuHold *hold, XmmuVm *vm, XmmuVcpu *vcpu, XmmuReason reason);
/* Pays what is owed, then releases. */
void xmmu_read_unlock(XmmuHold *hold);

/* The write side; its holding is &vm->writer.  Unlocking pays what is owed. */
void xmmu_write_lock(XmmuVm *vm, XmmuReason reason);
void xmmu_write_unlock(XmmuVm *vm);

/* Does somebody wait for the lock, of which the caller holds either side? */
bool xmmu_lock_contended(XmmuVm *vm);

/*
 * Let others have the read side's lock: pay, release, take again.  Nothing that
 * was read of the tables before is true any more, and no table but a root that the
 * caller has a reference to may be touched again.
 */
void xmmu_hold_yield(XmmuHold *hold);

/* The first line of whatever changes or relies on entries. */
static inline void xmmu_assert_held(const XmmuHold *hold)
{
    g_assert(hold->side != XMMU_UNLOCKED);
}
#endif /* XMMU_MMU_LOCK_H */
