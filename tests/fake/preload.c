/*
 * xmmu tests: /dev/xmmu for a QEMU of any machine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A library for LD_PRELOAD, which puts itself between the program and those system calls
 * that native_device.c makes: what is about /dev/xmmu goes to the fake device, so to the
 * module's own code.  For qtests: vCPUs take and give back registers, no guest runs.
 * tests/qtest/xmmu-fake-cpu.h says how a test gets at the registers of vCPU 0.
 */
#define _GNU_SOURCE
/* These are the functions that the program calls, under each name that they have. */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <glib.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "fake.h"
#include "../qtest/xmmu-fake-cpu.h"

/* All that the engine makes use of. */
#define FEATURES (XMMU_FEATURE_1G | XMMU_FEATURE_AD | XMMU_FEATURE_REALMODE | \
                  XMMU_FEATURE_TSC_SCALE | XMMU_FEATURE_NEXT_RIP)
/* x87, SSE, AVX, AVX-512 and PKRU: what the module offers (module/vcpu.c). */
#define XCR0 0x2e7ull

#define EXPORT __attribute__((visibility("default")))
/* The function of that name that is behind ours. */
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static FakeFile *file;          /* NULL: no test looks */
static int file_fd = -1;
static GHashTable *mappings;    /* of vCPUs: addresses */
static pthread_mutex_t mappings_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- The CPU's registers ------------------------------------------------------ */

/* The image is as large as the module has it. */
static void change_xsave(uint8_t *xsave)
{
    struct xmmu_caps caps = { .size = sizeof(caps) };
    int fd = fake_device_ops.open(XMMU_DEVICE_PATH);

    g_assert_cmpint(fake_device_ops.ioctl(fd, XMMU_GET_CAPS, (uintptr_t)&caps), ==, 0);
    fake_device_ops.close(fd);
    g_assert_cmpuint(caps.xsave_size, <=, sizeof(file->cpu.xsave));
    memcpy(xsave, file->cpu.xsave, caps.xsave_size);
}

static void change_registers(struct xmmu_run *state, void *xsave, uint32_t groups)
{
    const struct xmmu_run *now = &file->cpu.state;

    file->cpu.fetches++;
    groups &= file->cpu.groups;
    state->gprs = groups & XMMU_GROUP_GPRS ? now->gprs : state->gprs;
    state->segments = groups & XMMU_GROUP_SEGMENTS ? now->segments : state->segments;
    state->crs = groups & XMMU_GROUP_CRS ? now->crs : state->crs;
    state->drs = groups & XMMU_GROUP_DRS ? now->drs : state->drs;
    state->msrs = groups & XMMU_GROUP_MSRS ? now->msrs : state->msrs;
    state->events = groups & XMMU_GROUP_EVENTS ? now->events : state->events;
    if (groups & XMMU_GROUP_XSAVE) {
        change_xsave(xsave);
    }
}

/* Intel SDM vol. 1, 13.3: what this machine's kernel has on. */
static uint64_t host_xcr0(void)
{
    uint32_t eax, ebx, ecx, edx;

    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) {
        return 0;
    }
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (uint64_t)edx << 32 | eax;
}

__attribute__((constructor)) static void load_module(void)
{
    const char *cpu = g_getenv(FAKE_CPU_ENV), *path = g_getenv(FAKE_FILE_ENV);

    /* Programs on the way to QEMU, a shell perhaps. */
    if (!cpu) {
        return;
    }
    mappings = g_hash_table_new(NULL, NULL);
    fake_reset_xsave(g_str_equal(cpu, "vmx") ? XMMU_VENDOR_VMX : XMMU_VENDOR_SVM,
                     FEATURES, host_xcr0() & XCR0);
    if (path) {
        file_fd = NEXT(open64)(path, O_RDWR | O_CLOEXEC);
        file = NEXT(mmap64)(NULL, sizeof(*file), PROT_READ | PROT_WRITE, MAP_SHARED,
                            file_fd, 0);
        g_assert_true(file != MAP_FAILED);
        file->cpu.xcr0 = host_xcr0() & XCR0;
        fake.fetch = change_registers;
    }
}

/* ---- System calls --------------------------------------------------------------- */

static bool needs_mode(int flags)
{
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

static int open_any(const char *path, int flags, mode_t mode)
{
    if (mappings && g_str_equal(path, XMMU_DEVICE_PATH)) {
        return fake_device_ops.open(path);
    }
    return NEXT(open64)(path, flags, mode);
}

#define OPEN(name)                                      \
    EXPORT int name(const char *path, int flags, ...)   \
    {                                                   \
        mode_t mode = 0;                                \
                                                        \
        if (needs_mode(flags)) {                        \
            va_list more;                               \
                                                        \
            va_start(more, flags);                      \
            mode = va_arg(more, mode_t);                \
            va_end(more);                               \
        }                                               \
        return open_any(path, flags, mode);             \
    }
OPEN(open)
OPEN(open64)

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    unsigned long argument;
    va_list more;

    va_start(more, request);
    argument = va_arg(more, unsigned long);
    va_end(more);
    return fake_has_file(fd) ? fake_device_ops.ioctl(fd, request, argument)
                             : NEXT(ioctl)(fd, request, argument);
}

/* The first vCPU's is the test's file from then on. */
static void *map_vcpu(int fd, size_t size)
{
    static bool again;
    void *run = fake_device_ops.map(fd, size);

    if (run == MAP_FAILED) {
        return run;
    }
    if (file && !again) {
        g_assert_cmpuint(size, <=, FAKE_RUN_SIZE);
        g_assert_true(NEXT(mmap64)(run, size, PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_FIXED, file_fd, 0) == run);
    }
    again = true;
    pthread_mutex_lock(&mappings_lock);
    g_hash_table_add(mappings, run);
    pthread_mutex_unlock(&mappings_lock);
    return run;
}

#define MMAP(name, type)                                                    \
    EXPORT void *name(void *address, size_t size, int prot, int flags, int fd, \
                      type offset)                                          \
    {                                                                       \
        return fake_has_file(fd) ? map_vcpu(fd, size)                       \
            : NEXT(mmap64)(address, size, prot, flags, fd, offset);         \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

EXPORT int munmap(void *address, size_t size)
{
    bool ours = false;

    if (mappings) {
        pthread_mutex_lock(&mappings_lock);
        ours = g_hash_table_remove(mappings, address);
        pthread_mutex_unlock(&mappings_lock);
    }
    return ours ? 0 : NEXT(munmap)(address, size);
}

EXPORT int close(int fd)
{
    if (!fake_has_file(fd)) {
        return NEXT(close)(fd);
    }
    fake_device_ops.close(fd);
    return 0;
}
