/*
 * xmmu native engine: the module's device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The one place that calls into the kernel module: opening /dev/xmmu, its ioctls and
 * mappings, each failure as a message for people.  The system calls are function
 * pointers, so that tests and fuzzers put the module's own code behind them
 * (tests/fake/).  Free of QEMU.  Any thread; an object is used by one at a time, but
 * for ioctls on a VM, which the mirror serialises.
 */
#ifndef XMMU_ENGINE_NATIVE_DEVICE_H
#define XMMU_ENGINE_NATIVE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/xmmu.h>

#define XMMU_DEVICE_PATH "/dev/xmmu"

/* System calls: -1 (or MAP_FAILED) and errno, as in libc. */
typedef struct XmmuDeviceOps {
    int (*open)(const char *path);
    int (*ioctl)(int fd, unsigned long request, unsigned long argument);
    void *(*map)(int fd, size_t size);
    void (*unmap)(void *address, size_t size);
    void (*close)(int fd);
} XmmuDeviceOps;

/* Those of the host. */
extern const XmmuDeviceOps xmmu_device_host;

typedef struct XmmuDevice {
    const XmmuDeviceOps *ops;
    int fd;
    struct xmmu_caps caps;
} XmmuDevice;

/*
 * Open @path and ask what the module and the CPU can do.  NULL: *@error says why,
 * for g_free().  The same goes for every `char **error` below.
 */
XmmuDevice *xmmu_device_open(const XmmuDeviceOps *ops, const char *path, char **error);
void xmmu_device_close(XmmuDevice *device);

/* A VM's file descriptor; -1: *@error. */
int xmmu_device_new_vm(XmmuDevice *device, char **error);

/* A vCPU: its file and what it shares with us. */
typedef struct XmmuDeviceVcpu {
    XmmuDevice *device;
    int fd;
    struct xmmu_run *run;
} XmmuDeviceVcpu;

/* False: *@error, and nothing is to be closed. */
bool xmmu_device_new_vcpu(XmmuDevice *device, int vm, unsigned index,
                          XmmuDeviceVcpu *vcpu, char **error);
void xmmu_device_close_vcpu(XmmuDeviceVcpu *vcpu);
/* XMMU_RUN: 0, or -errno. */
int xmmu_device_run(XmmuDeviceVcpu *vcpu);
/* Where the XSAVE image is; device->caps.xsave_size bytes. */
static inline void *xmmu_device_xsave(const XmmuDeviceVcpu *vcpu)
{
    return (char *)vcpu->run + XMMU_RUN_XSAVE_OFFSET;
}

#endif /* XMMU_ENGINE_NATIVE_DEVICE_H */
