/*
 * xmmu native engine: the hardware's logs of writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hardware with page-modification logging (Intel SDM vol. 3, 29.3.6) notes each page that
 * gets D while a vCPU runs; a harvest of D bits then looks at those only.  See
 * native_log.c for when the logs are complete.
 */
#ifndef XMMU_ENGINE_NATIVE_LOG_H
#define XMMU_ENGINE_NATIVE_LOG_H

#include <pthread.h>
#include "../mmu/mmu.h"
#include "native_device.h"

/* Of one vCPU. */
typedef struct XmmuWriteLog XmmuWriteLog;
struct XmmuWriteLog {
    XmmuWriteLog *next;         /* the lock of the list, as the next two */
    uint64_t *entry;            /* [XMMU_LOG_ENTRIES]; NULL: the hardware has none */
    int unread;                 /* the next word that it will write; -1: it is full */
    bool on;                    /* in the last run; the vCPU's thread */
    bool unlogged;              /* atomic; the vCPU may be in the guest without */
    uint64_t pages;             /* read so far; atomic */
};

/* All of a VM. */
typedef struct XmmuWriteLogs {
    pthread_mutex_t lock;
    XmmuVm *vm;
    const XmmuDevice *device;
    int fd;                     /* of the VM */
    XmmuWriteLog *first;
} XmmuWriteLogs;

/* @vm logs by D bits, and the module offers logs of writes. */
bool xmmu_write_logs_useful(const XmmuDevice *device, const XmmuConfig *config);

void xmmu_write_logs_init(XmmuWriteLogs *logs, XmmuVm *vm, const XmmuDevice *device, int fd);

/* A vCPU comes and goes; its thread. */
void xmmu_write_log_add(XmmuWriteLogs *logs, XmmuWriteLog *log,
                        const XmmuDeviceVcpu *vcpu);
void xmmu_write_log_remove(XmmuWriteLogs *logs, XmmuWriteLog *log);

/* Around each XMMU_RUN, by the vCPU's thread: must XMMU_WANT_WRITE_LOG be on? */
bool xmmu_write_log_enter(XmmuWriteLogs *logs, XmmuWriteLog *log);
void xmmu_write_log_leave(XmmuWriteLog *log);
/* After XMMU_EXIT_LOG_FULL: it begins anew. */
void xmmu_write_log_renew(XmmuWriteLogs *logs, XmmuWriteLog *log);

/* XmmuServices.hint_dirty. */
bool xmmu_write_logs_hint(XmmuWriteLogs *logs);

#endif /* XMMU_ENGINE_NATIVE_LOG_H */
