/*
 * xmmu: helper threads that fetch pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the threads.  Used by async_pf.c only.  A job may wait for another machine, so
 * a thread is made for each that finds no idle one, until there are enough.  Not
 * GLib's pool: ThreadSanitizer does not see the order that it makes.
 */
#include "async_fetch.h"

static XmmuFetchJob *take(XmmuFetchPool *pool)
{
    XmmuFetchJob *job = pool->first;

    pool->first = job->next;
    if (!pool->first) {
        pool->last = &pool->first;
    }
    pool->waiting--;
    return job;
}

static void *fetch_thread(void *opaque)
{
    XmmuFetchPool *pool = opaque;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        if (pool->first) {
            XmmuFetchJob *job = take(pool);

            pthread_mutex_unlock(&pool->lock);
            job->run(job);
            pthread_mutex_lock(&pool->lock);
        } else if (pool->ending) {
            break;
        } else {
            pool->idle++;
            pthread_cond_wait(&pool->wake, &pool->lock);
            pool->idle--;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void xmmu_fetch_init(XmmuFetchPool *pool)
{
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->last = &pool->first;
}

void xmmu_fetch_cleanup(XmmuFetchPool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->ending = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->threads; i++) {
        pthread_join(pool->thread[i], NULL);
    }
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
}

/* With the lock held; without a thread of its own a job waits for another's. */
static void add_thread(XmmuFetchPool *pool)
{
    if (pool->threads < XMMU_FETCH_THREADS &&
        !pthread_create(&pool->thread[pool->threads], NULL, fetch_thread, pool)) {
        pool->threads++;
    }
}

bool xmmu_fetch_add(XmmuFetchPool *pool, XmmuFetchJob *job)
{
    bool runs;

    pthread_mutex_lock(&pool->lock);
    /* An idle thread that was woken for another job still counts as idle. */
    if (pool->idle <= pool->waiting) {
        add_thread(pool);
    }
    runs = pool->threads;
    if (runs) {
        job->next = NULL;
        *pool->last = job;
        pool->last = &job->next;
        pool->waiting++;
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
    return runs;
}
