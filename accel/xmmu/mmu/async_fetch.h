/*
 * xmmu: helper threads that fetch pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Private to the core.  Jobs are done in their order by as many threads as there are
 * jobs, up to a limit; a thread stays until the pool ends.
 */
#ifndef XMMU_MMU_ASYNC_FETCH_H
#define XMMU_MMU_ASYNC_FETCH_H

#include <pthread.h>
#include <stdbool.h>

/* Pages that one VM fetches at a time. */
#define XMMU_FETCH_THREADS 32

typedef struct XmmuFetchJob XmmuFetchJob;
struct XmmuFetchJob {
    XmmuFetchJob *next;
    void (*run)(XmmuFetchJob *job);     /* may free the job */
};

typedef struct XmmuFetchPool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    XmmuFetchJob *first, **last;        /* waiting */
    unsigned waiting, idle;             /* jobs, threads */
    bool ending;
    unsigned threads;
    pthread_t thread[XMMU_FETCH_THREADS];
} XmmuFetchPool;

void xmmu_fetch_init(XmmuFetchPool *pool);
/* All jobs that were added are run first. */
void xmmu_fetch_cleanup(XmmuFetchPool *pool);
/* False: there is no thread to run it. */
bool xmmu_fetch_add(XmmuFetchPool *pool, XmmuFetchJob *job);

#endif /* XMMU_MMU_ASYNC_FETCH_H */
