/*
 * xmmu: a read-write lock whose readers scale
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The primitive below mmu_lock (lock.h, the only user).  Each reader that comes
 * often has a slot of its own and writes to no other memory, so readers do not
 * share a cache line.  A writer has to look at all slots: it is the rare one.
 * Nobody starves: a writer that waits keeps new readers out, and the readers that
 * waited for a writer come before the next one.
 */
#ifndef XMMU_MMU_RW_LOCK_H
#define XMMU_MMU_RW_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define XMMU_CACHE_LINE 64

typedef struct XmmuRwSlot XmmuRwSlot;
struct XmmuRwSlot {
    uint8_t before[XMMU_CACHE_LINE];    /* whatever lies around it: a line of its own */
    uint32_t readers;           /* atomic; inside, or about to go away again */
    XmmuRwSlot *next;           /* changed by who has the write side */
    uint8_t after[XMMU_CACHE_LINE];
};

typedef struct XmmuRwLock {
    uint32_t writer;            /* atomic; somebody has the write side, or waits for the
                                   readers to leave.  Set under the mutex */
    pthread_mutex_t mutex;      /* not GMutex: ThreadSanitizer does not see those */
    pthread_cond_t may_read, may_write, drained;
    /* Under the mutex; atomic for xmmu_rw_contended(). */
    uint32_t waiting_readers, waiting_writers;
    uint32_t readers_first;     /* that waited for the last writer */
    XmmuRwSlot shared;          /* for threads without a slot */
} XmmuRwLock;

void xmmu_rw_init(XmmuRwLock *lock);
/* Nobody uses it. */
void xmmu_rw_destroy(XmmuRwLock *lock);

/* Make @slot known, or forget it.  The caller has the write side, so nobody is in it. */
void xmmu_rw_slot_add(XmmuRwLock *lock, XmmuRwSlot *slot);
void xmmu_rw_slot_remove(XmmuRwLock *lock, XmmuRwSlot *slot);

/* @slot: that only the calling thread uses now; NULL: it has none. */
void xmmu_rw_read_lock(XmmuRwLock *lock, XmmuRwSlot *slot);
void xmmu_rw_read_unlock(XmmuRwLock *lock, XmmuRwSlot *slot);

void xmmu_rw_write_lock(XmmuRwLock *lock);
void xmmu_rw_write_unlock(XmmuRwLock *lock);

/* Does somebody wait whom the caller keeps out?  Asked by who has the lock. */
static inline bool xmmu_rw_reader_contended(const XmmuRwLock *lock)
{
    return __atomic_load_n(&lock->writer, __ATOMIC_RELAXED);
}

static inline bool xmmu_rw_writer_contended(const XmmuRwLock *lock)
{
    return __atomic_load_n(&lock->waiting_readers, __ATOMIC_RELAXED) ||
           __atomic_load_n(&lock->waiting_writers, __ATOMIC_RELAXED);
}

#endif /* XMMU_MMU_RW_LOCK_H */
