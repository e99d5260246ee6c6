/*
 * xmmu unit tests: a small RCU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns read sections and grace periods for the tests: each reader publishes the
 * epoch it entered in, and a grace period waits until none is in an older one.
 * All of it is C11 atomics and mutexes, so that ThreadSanitizer sees the order
 * (liburcu's barriers are invisible to it).  Callbacks run in the order of the
 * calls, in the thread that drains.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fixture.h"

typedef struct Reader Reader;
struct Reader {
    _Atomic uint64_t epoch;     /* 0: not in a section */
    unsigned depth;
    Reader *next;
} __attribute__((aligned(64)));         /* readers do not disturb each other */

typedef struct Waiting Waiting;
struct Waiting {
    Waiting *next;
    void (*fn)(XmmuRcuHead *head);
};
G_STATIC_ASSERT(sizeof(Waiting) <= sizeof(XmmuRcuHead));

static _Atomic uint64_t current = 1;
/* Not GMutex: ThreadSanitizer does not see those. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;     /* readers, the queue */
static pthread_mutex_t drain_lock = PTHREAD_MUTEX_INITIALIZER;
static Reader *readers;
static Waiting *queue, **queue_end = &queue;

/* Readers are few and live until the process ends. */
static Reader *this_reader(void)
{
    static _Thread_local Reader *mine;

    if (!mine) {
        mine = aligned_alloc(64, sizeof(*mine));
        *mine = (Reader) { 0 };
        pthread_mutex_lock(&lock);
        mine->next = readers;
        readers = mine;
        pthread_mutex_unlock(&lock);
    }
    return mine;
}

void rcu_service_lock(void)
{
    Reader *reader = this_reader();

    if (reader->depth++ == 0) {
        atomic_store(&reader->epoch, atomic_load(&current));
    }
}

void rcu_service_unlock(void)
{
    Reader *reader = this_reader();

    g_assert_cmpuint(reader->depth, >, 0);
    if (--reader->depth == 0) {
        atomic_store(&reader->epoch, 0);
    }
}

void rcu_service_call(XmmuRcuHead *head, void (*fn)(XmmuRcuHead *head))
{
    Waiting *waiting = (Waiting *)head;

    waiting->fn = fn;
    waiting->next = NULL;
    pthread_mutex_lock(&lock);
    *queue_end = waiting;
    queue_end = &waiting->next;
    pthread_mutex_unlock(&lock);
}

static void wait_for_readers(void)
{
    uint64_t epoch = atomic_fetch_add(&current, 1) + 1;
    Reader *reader;

    pthread_mutex_lock(&lock);
    reader = readers;
    pthread_mutex_unlock(&lock);
    for (; reader; reader = reader->next) {
        uint64_t entered;

        while ((entered = atomic_load(&reader->epoch)) && entered < epoch) {
            g_thread_yield();
        }
    }
}

void rcu_service_drain(void)
{
    Waiting *list;

    pthread_mutex_lock(&drain_lock);
    do {
        pthread_mutex_lock(&lock);
        list = queue;
        queue = NULL;
        queue_end = &queue;
        pthread_mutex_unlock(&lock);
        wait_for_readers();
        for (Waiting *w = list, *next; w; w = next) {
            next = w->next;
            w->fn((XmmuRcuHead *)w);
        }
    } while (list);
    pthread_mutex_unlock(&drain_lock);
}
