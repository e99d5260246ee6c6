/*
 * xmmu native engine: the module's device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the system calls that go to the kernel module, and the words in which their
 * failures are told.  What the calls mean is in linux/xmmu.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "native_device.h"

/* ---- The host's -------------------------------------------------------------- */

static int host_open(const char *path)
{
    return open(path, O_RDWR | O_CLOEXEC);
}

static int host_ioctl(int fd, unsigned long request, unsigned long argument)
{
    return ioctl(fd, request, argument);
}

static void *host_map(int fd, size_t size)
{
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

static void host_unmap(void *address, size_t size)
{
    munmap(address, size);
}

static void host_close(int fd)
{
    close(fd);
}

const XmmuDeviceOps xmmu_device_host = {
    .open = host_open,
    .ioctl = host_ioctl,
    .map = host_map,
    .unmap = host_unmap,
    .close = host_close,
};

/* ---- The device -------------------------------------------------------------- */

static char *why_not_open(const char *path)
{
    switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        return g_strdup_printf("%s is not there: is the xmmu module loaded?", path);
    case EACCES:
    case EPERM:
        return g_strdup_printf("%s may not be opened by this user", path);
    default:
        return g_strdup_printf("%s cannot be opened: %s", path, g_strerror(errno));
    }
}

/* False: *@error. */
static bool ask_caps(XmmuDevice *device, const char *path, char **error)
{
    struct xmmu_caps *caps = &device->caps;

    memset(caps, 0, sizeof(*caps));
    caps->size = sizeof(*caps);
    if (device->ops->ioctl(device->fd, XMMU_GET_CAPS, (uintptr_t)caps)) {
        *error = g_strdup_printf("%s does not answer as xmmu's module: %s", path,
                                 g_strerror(errno));
        return false;
    }
    if (caps->version != XMMU_API_VERSION) {
        *error = g_strdup_printf("the xmmu module speaks version %u of its interface, "
                                 "this program version %u", caps->version,
                                 XMMU_API_VERSION);
        return false;
    }
    if (caps->size < sizeof(*caps) || !caps->max_tables || !caps->max_regions ||
        caps->run_size < sizeof(struct xmmu_run)) {
        *error = g_strdup("the xmmu module's answer makes no sense");
        return false;
    }
    return true;
}

XmmuDevice *xmmu_device_open(const XmmuDeviceOps *ops, const char *path, char **error)
{
    XmmuDevice *device = g_new0(XmmuDevice, 1);

    device->ops = ops;
    device->fd = ops->open(path);
    if (device->fd < 0) {
        *error = why_not_open(path);
        g_free(device);
        return NULL;
    }
    if (!ask_caps(device, path, error)) {
        xmmu_device_close(device);
        return NULL;
    }
    return device;
}

void xmmu_device_close(XmmuDevice *device)
{
    device->ops->close(device->fd);
    g_free(device);
}

int xmmu_device_new_vm(XmmuDevice *device, char **error)
{
    int fd = device->ops->ioctl(device->fd, XMMU_CREATE_VM, 0);

    if (fd >= 0) {
        return fd;
    }
    *error = errno == EBUSY
             ? g_strdup("another hypervisor (KVM?) uses the CPU's virtualisation")
             : g_strdup_printf("the xmmu module makes no VM: %s", g_strerror(errno));
    return -1;
}

/* ---- vCPUs ------------------------------------------------------------------- */

bool xmmu_device_new_vcpu(XmmuDevice *device, int vm, unsigned index,
                          XmmuDeviceVcpu *vcpu, char **error)
{
    const XmmuDeviceOps *ops = device->ops;
    void *run;

    vcpu->device = device;
    vcpu->fd = ops->ioctl(vm, XMMU_CREATE_VCPU, index);
    if (vcpu->fd < 0) {
        *error = g_strdup_printf("the xmmu module makes no vCPU %u: %s", index,
                                 g_strerror(errno));
        return false;
    }
    run = ops->map(vcpu->fd, device->caps.run_size);
    if (run == MAP_FAILED) {
        *error = g_strdup_printf("the state of vCPU %u cannot be mapped: %s", index,
                                 g_strerror(errno));
        ops->close(vcpu->fd);
        return false;
    }
    vcpu->run = run;
    return true;
}

void xmmu_device_close_vcpu(XmmuDeviceVcpu *vcpu)
{
    vcpu->device->ops->unmap(vcpu->run, vcpu->device->caps.run_size);
    vcpu->device->ops->close(vcpu->fd);
}

int xmmu_device_run(XmmuDeviceVcpu *vcpu)
{
    return vcpu->device->ops->ioctl(vcpu->fd, XMMU_RUN, 0) ? -errno : 0;
}
