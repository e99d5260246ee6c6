/*
 * xmmu: a read-write lock whose readers scale
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the protocol between readers' slots and the writer's flag.  A reader enters
 * its slot and then looks at the flag; a writer sets the flag and then looks at the
 * slots.  All four are sequentially consistent, so at least one of two that come at
 * the same time sees the other (Dekker): the reader leaves again and waits, or
 * the writer waits for the slot to become empty.
 *
 * Who has to wait does so on condition variables.  Leaving a slot looks at the flag
 * again: either the writer sees the slot empty, or the reader sees the flag and
 * signals under the mutex, under which the writer looked.
 */
#include <glib.h>
#include <string.h>
#include "rw_lock.h"

/* A reader is inside for a fault, which is shorter than falling asleep. */
#define SPINS 200

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void add(uint32_t *counter, int n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

void xmmu_rw_init(XmmuRwLock *lock)
{
    memset(lock, 0, sizeof(*lock));
    pthread_mutex_init(&lock->mutex, NULL);
    pthread_cond_init(&lock->may_read, NULL);
    pthread_cond_init(&lock->may_write, NULL);
    pthread_cond_init(&lock->drained, NULL);
}

void xmmu_rw_destroy(XmmuRwLock *lock)
{
    pthread_cond_destroy(&lock->drained);
    pthread_cond_destroy(&lock->may_write);
    pthread_cond_destroy(&lock->may_read);
    pthread_mutex_destroy(&lock->mutex);
}

void xmmu_rw_slot_add(XmmuRwLock *lock, XmmuRwSlot *slot)
{
    g_assert(__atomic_load_n(&lock->writer, __ATOMIC_RELAXED));
    slot->readers = 0;
    slot->next = lock->shared.next;
    lock->shared.next = slot;
}

void xmmu_rw_slot_remove(XmmuRwLock *lock, XmmuRwSlot *slot)
{
    XmmuRwSlot *before = &lock->shared;

    g_assert(__atomic_load_n(&lock->writer, __ATOMIC_RELAXED));
    while (before->next != slot) {
        before = before->next;
    }
    before->next = slot->next;
}

/* ---- Readers -------------------------------------------------------------- */

static void enter(XmmuRwSlot *slot)
{
    __atomic_fetch_add(&slot->readers, 1, __ATOMIC_SEQ_CST);
}

static void leave(XmmuRwLock *lock, XmmuRwSlot *slot)
{
    __atomic_fetch_sub(&slot->readers, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&lock->writer, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&lock->mutex);
        pthread_cond_signal(&lock->drained);
        pthread_mutex_unlock(&lock->mutex);
    }
}

/* Under the mutex no writer can set the flag. */
static void wait_and_enter(XmmuRwLock *lock, XmmuRwSlot *slot)
{
    pthread_mutex_lock(&lock->mutex);
    add(&lock->waiting_readers, 1);
    while (__atomic_load_n(&lock->writer, __ATOMIC_RELAXED)) {
        pthread_cond_wait(&lock->may_read, &lock->mutex);
    }
    add(&lock->waiting_readers, -1);
    enter(slot);
    if (lock->readers_first && --lock->readers_first == 0) {
        pthread_cond_signal(&lock->may_write);
    }
    pthread_mutex_unlock(&lock->mutex);
}

void xmmu_rw_read_lock(XmmuRwLock *lock, XmmuRwSlot *slot)
{
    slot = slot ? slot : &lock->shared;
    enter(slot);
    if (__atomic_load_n(&lock->writer, __ATOMIC_SEQ_CST)) {
        leave(lock, slot);
        wait_and_enter(lock, slot);
    }
}

void xmmu_rw_read_unlock(XmmuRwLock *lock, XmmuRwSlot *slot)
{
    leave(lock, slot ? slot : &lock->shared);
}

/* ---- Writers ---------------------------------------------------------------- */

static bool is_empty(const XmmuRwSlot *slot)
{
    return !__atomic_load_n(&slot->readers, __ATOMIC_SEQ_CST);
}

static void wait_until_empty(XmmuRwLock *lock, const XmmuRwSlot *slot)
{
    for (unsigned i = 0; i < SPINS && !is_empty(slot); i++) {
        relax();
    }
    while (!is_empty(slot)) {
        pthread_cond_wait(&lock->drained, &lock->mutex);
    }
}

void xmmu_rw_write_lock(XmmuRwLock *lock)
{
    pthread_mutex_lock(&lock->mutex);
    add(&lock->waiting_writers, 1);
    while (lock->writer || lock->readers_first) {
        pthread_cond_wait(&lock->may_write, &lock->mutex);
    }
    add(&lock->waiting_writers, -1);
    __atomic_store_n(&lock->writer, 1, __ATOMIC_SEQ_CST);
    for (XmmuRwSlot *slot = &lock->shared; slot; slot = slot->next) {
        wait_until_empty(lock, slot);
    }
    pthread_mutex_unlock(&lock->mutex);
}

void xmmu_rw_write_unlock(XmmuRwLock *lock)
{
    pthread_mutex_lock(&lock->mutex);
    __atomic_store_n(&lock->writer, 0, __ATOMIC_SEQ_CST);
    lock->readers_first = lock->waiting_readers;
    if (lock->readers_first) {
        pthread_cond_broadcast(&lock->may_read);
    } else {
        pthread_cond_signal(&lock->may_write);
    }
    pthread_mutex_unlock(&lock->mutex);
}
