/*
 * xmmu native engine: the hardware's logs of writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what has been read of each vCPU's log.  Hardware fills a log from its last word
 * down; what it has not written holds NOTHING, which is no address of a page.  The vCPU's
 * thread reads it when it is full, who harvests D bits reads all logs at any time.
 *
 * The logs name all pages that got D since the core began to log writes, but for those
 * that a vCPU wrote which was in the guest without its log.  Such a vCPU says so before it
 * asks whether writes are logged; who harvests looks at that after logging has begun.  So
 * either he sees that the logs are not complete, and looks at everything, or the vCPU
 * goes in with its log.  What was not named before that does not matter: the core takes
 * every frame that comes to be logged for named, until the first harvest that believes
 * the logs has looked at it.
 */
#include <string.h>
#include "native_log.h"

#define NOTHING UINT64_MAX

bool xmmu_write_logs_useful(const XmmuDevice *device, const XmmuConfig *config)
{
    return config->dirty_log == XMMU_DIRTY_DBIT && config->tdp &&
           (device->caps.features & XMMU_FEATURE_WRITE_LOG) && device->caps.log_offset &&
           device->caps.run_size >= device->caps.log_offset +
                                    XMMU_LOG_ENTRIES * sizeof(uint64_t);
}

void xmmu_write_logs_init(XmmuWriteLogs *logs, XmmuVm *vm, const XmmuDevice *device, int fd)
{
    *logs = (XmmuWriteLogs) { .vm = vm, .device = device, .fd = fd };
    pthread_mutex_init(&logs->lock, NULL);
}

/* ---- Reading; with the lock ------------------------------------------------------ */

static void clear(XmmuWriteLog *log)
{
    memset(log->entry, 0xff, XMMU_LOG_ENTRIES * sizeof(*log->entry));
    log->unread = XMMU_LOG_ENTRIES - 1;
}

static void read_log(XmmuWriteLogs *logs, XmmuWriteLog *log)
{
    uint64_t pages = 0;

    while (log->unread >= 0) {
        gpa_t gpa = __atomic_load_n(&log->entry[log->unread], __ATOMIC_ACQUIRE);

        if (gpa == NOTHING) {
            break;
        }
        xmmu_vm_dirty_hint(logs->vm, gpa >> XMMU_PAGE_SHIFT);
        log->unread--;
        pages++;
    }
    __atomic_store_n(&log->pages, log->pages + pages, __ATOMIC_RELAXED);
}

/* ---- vCPUs ------------------------------------------------------------------------- */

void xmmu_write_log_add(XmmuWriteLogs *logs, XmmuWriteLog *log, const XmmuDeviceVcpu *vcpu)
{
    log->entry = (uint64_t *)((char *)vcpu->run + logs->device->caps.log_offset);
    log->on = log->unlogged = false;
    log->pages = 0;
    pthread_mutex_lock(&logs->lock);
    clear(log);
    log->next = logs->first;
    logs->first = log;
    pthread_mutex_unlock(&logs->lock);
}

void xmmu_write_log_remove(XmmuWriteLogs *logs, XmmuWriteLog *log)
{
    XmmuWriteLog **p = &logs->first;

    pthread_mutex_lock(&logs->lock);
    read_log(logs, log);
    while (*p != log) {
        p = &(*p)->next;
    }
    *p = log->next;
    pthread_mutex_unlock(&logs->lock);
}

void xmmu_write_log_renew(XmmuWriteLogs *logs, XmmuWriteLog *log)
{
    pthread_mutex_lock(&logs->lock);
    read_log(logs, log);
    clear(log);
    pthread_mutex_unlock(&logs->lock);
}

bool xmmu_write_log_enter(XmmuWriteLogs *logs, XmmuWriteLog *log)
{
    bool on;

    __atomic_store_n(&log->unlogged, true, __ATOMIC_SEQ_CST);
    on = xmmu_vm_dirty_logs_any(logs->vm);
    if (on) {
        __atomic_store_n(&log->unlogged, false, __ATOMIC_SEQ_CST);
    }
    if (on && !log->on) {
        xmmu_write_log_renew(logs, log);        /* as the hardware does when it is turned on */
    }
    log->on = on;
    return on;
}

void xmmu_write_log_leave(XmmuWriteLog *log)
{
    __atomic_store_n(&log->unlogged, false, __ATOMIC_SEQ_CST);
}

/* ---- Who harvests -------------------------------------------------------------------- */

/* What vCPUs have written by now can be read when they have left the guest. */
static bool wait_for_vcpus(XmmuWriteLogs *logs)
{
    struct xmmu_update update = { 0 };

    return !logs->device->ops->ioctl(logs->fd, XMMU_UPDATE, (uintptr_t)&update);
}

bool xmmu_write_logs_hint(XmmuWriteLogs *logs)
{
    bool complete = true;

    pthread_mutex_lock(&logs->lock);
    for (XmmuWriteLog *log = logs->first; log; log = log->next) {
        complete &= !__atomic_load_n(&log->unlogged, __ATOMIC_SEQ_CST);
    }
    complete = complete && wait_for_vcpus(logs);
    for (XmmuWriteLog *log = logs->first; log && complete; log = log->next) {
        read_log(logs, log);
    }
    pthread_mutex_unlock(&logs->lock);
    return complete;
}
