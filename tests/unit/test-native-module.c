/*
 * xmmu unit tests: what the kernel module accepts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The ioctls on regions, tables and entries, by the words of linux/xmmu.h, on the
 * module's own code (tests/fake/): what is refused, with which error, and that what is
 * refused leaves nothing behind.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "fake.h"
#include "fixture.h"

#define PAGE 4096ull
#define READ XMMU_ACCESS_READ
#define RW   (XMMU_ACCESS_READ | XMMU_ACCESS_WRITE)
#define RWX  (RW | XMMU_ACCESS_EXEC)

enum { RAM, ROM, NO_REGION };           /* regions */
enum { LEVEL1, LEVEL2, LEVEL3, LEVEL4, OTHER1, NO_TABLE };     /* tables, by id */

typedef struct Vm {
    XmmuDevice *device;
    int fd;
    uint8_t *ram;               /* 8 MiB, aligned to 2 MiB */
} Vm;

static int call(const Vm *vm, unsigned long request, uintptr_t argument)
{
    return fake_device_ops.ioctl(vm->fd, request, argument) < 0 ? -errno : 0;
}

static int region(const Vm *vm, uint32_t id, uint32_t flags, uint64_t addr,
                  uint64_t pages)
{
    struct xmmu_region r = { .id = id, .flags = flags, .addr = addr, .pages = pages };

    return call(vm, XMMU_SET_REGION, (uintptr_t)&r);
}

static int update(const Vm *vm, struct xmmu_entry *entries, uint32_t count,
                  uint32_t *done)
{
    struct xmmu_update u = { .entries = (uintptr_t)entries, .count = count };
    int ret = call(vm, XMMU_UPDATE, (uintptr_t)&u);

    *done = u.done;
    return ret;
}

/* One operation; *was if not NULL. */
static int op(const Vm *vm, struct xmmu_entry entry, uint32_t *was)
{
    uint32_t done;
    int ret = update(vm, &entry, 1, &done);

    g_assert_cmpuint(done, ==, !ret);
    if (was) {
        *was = entry.was;
    }
    return ret;
}

static int new_table(const Vm *vm, uint32_t id, uint32_t format, uint16_t level)
{
    return op(vm, (struct xmmu_entry) { .op = XMMU_OP_NEW, .table = id, .index = level,
                                        .access = format }, NULL);
}

static int free_table(const Vm *vm, uint32_t id)
{
    return op(vm, (struct xmmu_entry) { .op = XMMU_OP_FREE, .table = id }, NULL);
}

static int leaf(const Vm *vm, uint32_t table, uint16_t index, uint32_t in, uint64_t page,
                uint32_t access)
{
    return op(vm, (struct xmmu_entry) { .op = XMMU_OP_LEAF, .table = table,
                                        .index = index, .target = in, .page = page,
                                        .access = access }, NULL);
}

static int link_to(const Vm *vm, uint32_t table, uint16_t index, uint32_t target)
{
    return op(vm, (struct xmmu_entry) { .op = XMMU_OP_LINK, .table = table,
                                        .index = index, .target = target }, NULL);
}

static int clear(const Vm *vm, uint32_t table, uint16_t index)
{
    return op(vm, (struct xmmu_entry) { .op = XMMU_OP_CLEAR, .table = table,
                                        .index = index }, NULL);
}

static int change(const Vm *vm, uint16_t what, uint32_t table, uint16_t index,
                  uint32_t access, uint32_t *was)
{
    return op(vm, (struct xmmu_entry) { .op = what, .table = table, .index = index,
                                        .access = access }, was);
}

/* Two regions and four tables of @format, which are not linked. */
static Vm *vm_new(uint32_t vendor, uint32_t features, uint32_t format)
{
    Vm *vm = g_new0(Vm, 1);
    char *error = NULL;
    uint8_t *memory = mmap(NULL, MIB(16), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    fake_reset(vendor, features);
    vm->ram = (uint8_t *)(((uintptr_t)memory + MIB(2) - 1) & ~(MIB(2) - 1));
    vm->device = xmmu_device_open(&fake_device_ops, XMMU_DEVICE_PATH, &error);
    vm->fd = xmmu_device_new_vm(vm->device, &error);
    g_assert_cmpint(vm->fd, >=, 0);
    g_assert_cmpint(region(vm, RAM, 0, (uintptr_t)vm->ram, 1024), ==, 0);
    g_assert_cmpint(region(vm, ROM, XMMU_REGION_RO, (uintptr_t)vm->ram + MIB(4), 1024),
                    ==, 0);
    for (unsigned level = 1; level <= 4; level++) {
        g_assert_cmpint(new_table(vm, LEVEL1 + level - 1, format, level), ==, 0);
    }
    g_assert_cmpint(new_table(vm, OTHER1, XMMU_FORMAT_LONG, 1), ==, 0);
    return vm;
}

static Vm *npt_vm(void)
{
    return vm_new(XMMU_VENDOR_SVM, XMMU_FEATURE_AD, XMMU_FORMAT_NPT);
}

static void vm_free(Vm *vm)
{
    fake_device_ops.close(vm->fd);
    xmmu_device_close(vm->device);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    g_assert_cmpuint(fake_charged_pages(), ==, 0);
    g_free(vm);
}

/* ---- Regions ----------------------------------------------------------------- */

static void test_regions(void)
{
    Vm *vm = npt_vm();
    uintptr_t ram = (uintptr_t)vm->ram;

    g_assert_cmpint(region(vm, RAM, 0, ram, 1), ==, -EEXIST);
    g_assert_cmpint(region(vm, vm->device->caps.max_regions, 0, ram, 1), ==, -EINVAL);
    g_assert_cmpint(region(vm, UINT32_MAX, 0, ram, 1), ==, -EINVAL);
    g_assert_cmpint(region(vm, 5, 2, ram, 1), ==, -EINVAL);
    g_assert_cmpint(region(vm, 5, 0, ram + 1, 1), ==, -EINVAL);
    g_assert_cmpint(region(vm, 5, 0, 0xffff800000000000ull, 1), ==, -EINVAL);
    g_assert_cmpint(region(vm, 5, 0, ram, UINT64_MAX), ==, -EINVAL);
    g_assert_cmpint(region(vm, 5, 0, ram, UINT64_MAX / PAGE + 2), ==, -EINVAL);
    g_assert_cmpint(region(vm, 5, 0, ram, (1ull << 52) + 1), ==, -EINVAL);
    g_assert_cmpint(region(vm, 5, 0, 0, 0), ==, -ENOENT);
    /* A region of a page that is not there; only mapping needs it. */
    fake.bad_from = 0x7000;
    fake.bad_to = 0x8000;
    g_assert_cmpint(region(vm, 5, 0, 0x7000, 1), ==, 0);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, 5, 0, RW), ==, -EFAULT);
    g_assert_cmpint(region(vm, 5, 0, 0, 0), ==, 0);
    /* In use. */
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RW), ==, 0);
    g_assert_cmpint(region(vm, RAM, 0, 0, 0), ==, -EBUSY);
    g_assert_cmpint(clear(vm, LEVEL1, 0), ==, 0);
    g_assert_cmpint(region(vm, RAM, 0, 0, 0), ==, 0);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RW), ==, -ENOENT);
    vm_free(vm);
}

/* ---- Tables ------------------------------------------------------------------ */

static void test_tables(void)
{
    Vm *vm = npt_vm();

    g_assert_cmpint(new_table(vm, LEVEL1, XMMU_FORMAT_NPT, 1), ==, -EEXIST);
    g_assert_cmpint(new_table(vm, vm->device->caps.max_tables, XMMU_FORMAT_NPT, 1), ==,
                    -EINVAL);
    g_assert_cmpint(new_table(vm, 100, XMMU_FORMAT_COUNT, 1), ==, -EINVAL);
    g_assert_cmpint(new_table(vm, 100, UINT32_MAX, 1), ==, -EINVAL);
    g_assert_cmpint(new_table(vm, 100, XMMU_FORMAT_NPT, 0), ==, -EINVAL);
    g_assert_cmpint(new_table(vm, 100, XMMU_FORMAT_NPT, 6), ==, -EINVAL);
    /* 256 + 1: what is left of it in 8 bits would be a level. */
    g_assert_cmpint(new_table(vm, 100, XMMU_FORMAT_NPT, 257), ==, -EINVAL);
    g_assert_cmpint(new_table(vm, 100, XMMU_FORMAT_NPT + 256, 1), ==, -EINVAL);
    g_assert_cmpint(new_table(vm, 100, XMMU_FORMAT_PAE, 2), ==, -EINVAL);
    g_assert_cmpint(new_table(vm, 100, XMMU_FORMAT_PAE, 4), ==, -EINVAL);
    g_assert_cmpint(free_table(vm, 100), ==, -ENOENT);
    g_assert_cmpint(op(vm, (struct xmmu_entry) { .op = XMMU_OP_NEW, .table = 100,
                                                 .index = 1, .zero = 1 }, NULL), ==,
                    -EINVAL);
    /* Only what is empty and not pointed to is freed. */
    g_assert_cmpint(leaf(vm, LEVEL1, 3, RAM, 0, RW), ==, 0);
    g_assert_cmpint(free_table(vm, LEVEL1), ==, -EBUSY);
    g_assert_cmpint(clear(vm, LEVEL1, 3), ==, 0);
    g_assert_cmpint(link_to(vm, LEVEL2, 0, LEVEL1), ==, 0);
    g_assert_cmpint(link_to(vm, LEVEL2, 1, LEVEL1), ==, 0);
    g_assert_cmpint(clear(vm, LEVEL2, 0), ==, 0);
    g_assert_cmpint(free_table(vm, LEVEL1), ==, -EBUSY);
    g_assert_cmpint(clear(vm, LEVEL2, 1), ==, 0);
    g_assert_cmpint(free_table(vm, LEVEL1), ==, 0);
    g_assert_cmpint(free_table(vm, LEVEL1), ==, -ENOENT);
    g_assert_cmpint(link_to(vm, LEVEL2, 0, LEVEL1), ==, -ENOENT);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RW), ==, -ENOENT);
    vm_free(vm);
}

static void test_links(void)
{
    Vm *vm = npt_vm();
    FakeEntry entry;

    /* A cycle, and a level left out. */
    g_assert_cmpint(link_to(vm, LEVEL2, 0, LEVEL2), ==, -EINVAL);
    g_assert_cmpint(link_to(vm, LEVEL1, 0, LEVEL2), ==, -EINVAL);
    g_assert_cmpint(link_to(vm, LEVEL1, 0, LEVEL1), ==, -EINVAL);
    g_assert_cmpint(link_to(vm, LEVEL3, 0, LEVEL1), ==, -EINVAL);
    g_assert_cmpint(link_to(vm, LEVEL2, 0, OTHER1), ==, -EINVAL);
    g_assert_cmpint(link_to(vm, LEVEL2, 512, LEVEL1), ==, -EINVAL);
    g_assert_cmpint(link_to(vm, LEVEL2, 0, NO_TABLE), ==, -ENOENT);
    g_assert_cmpint(link_to(vm, NO_TABLE, 0, LEVEL1), ==, -ENOENT);
    g_assert_cmpint(op(vm, (struct xmmu_entry) { .op = XMMU_OP_LINK, .table = LEVEL2,
                                                 .target = LEVEL1, .access = RW }, NULL),
                    ==, -EINVAL);
    g_assert_cmpint(link_to(vm, LEVEL2, 511, LEVEL1), ==, 0);
    g_assert_true(fake_entry(vm->fd, LEVEL2, 511, &entry));
    g_assert_true(!entry.is_leaf && entry.table == LEVEL1);
    /* In one step from a table to a page and back. */
    g_assert_cmpint(leaf(vm, LEVEL2, 511, RAM, 0, RW), ==, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 512);
    g_assert_cmpint(link_to(vm, LEVEL2, 511, LEVEL1), ==, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    vm_free(vm);
}

/* PAE: the root has four entries and tables of long mode below. */
static void test_pae(void)
{
    Vm *vm = vm_new(XMMU_VENDOR_SVM, 0, XMMU_FORMAT_LONG);

    g_assert_cmpint(new_table(vm, 50, XMMU_FORMAT_PAE, 3), ==, 0);
    g_assert_cmpint(link_to(vm, 50, 3, LEVEL2), ==, 0);
    g_assert_cmpint(link_to(vm, 50, 4, LEVEL2), ==, -EINVAL);
    g_assert_cmpint(link_to(vm, 50, 0, LEVEL1), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, 50, 0, RAM, 0, RW), ==, -EINVAL);
    g_assert_cmpint(link_to(vm, LEVEL4, 0, 50), ==, -EINVAL);
    vm_free(vm);
}

/* ---- Entries ----------------------------------------------------------------- */

static void test_leaves(void)
{
    Vm *vm = npt_vm();
    FakeEntry entry;

    g_assert_cmpint(leaf(vm, LEVEL1, 0, NO_REGION, 0, RW), ==, -ENOENT);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, UINT32_MAX, 0, RW), ==, -ENOENT);
    g_assert_cmpint(leaf(vm, NO_TABLE, 0, RAM, 0, RW), ==, -ENOENT);
    g_assert_cmpint(leaf(vm, UINT32_MAX, 0, RAM, 0, RW), ==, -ENOENT);
    g_assert_cmpint(leaf(vm, LEVEL1, 512, RAM, 0, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 65535, RAM, 0, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 1024, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, UINT64_MAX, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 1ull << 52, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 1023, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 1024 - 511, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, UINT64_MAX - 511, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL3, 0, RAM, 0, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL4, 0, RAM, 0, RW), ==, -EINVAL);
    /* Contiguous, not aligned. */
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 1, RW), ==, -EINVAL);
    /* Rights that nobody has. */
    g_assert_cmpint(leaf(vm, LEVEL1, 0, ROM, 0, RW), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, 0), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, XMMU_ACCESS_WRITE), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, READ | XMMU_ACCESS_USER), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, READ | XMMU_ACCESS_GLOBAL), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, READ | 1 << XMMU_ACCESS_PKEY_SHIFT), ==,
                    -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, READ | 1u << 31), ==, -EINVAL);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    g_assert_cmpuint(fake_charged_pages(), ==, 0);

    g_assert_cmpint(leaf(vm, LEVEL1, 511, RAM, 1023, RWX), ==, 0);
    fake_entry(vm->fd, LEVEL1, 511, &entry);
    g_assert_true(entry.is_leaf);
    g_assert_cmphex(entry.address, ==, (uintptr_t)vm->ram + 1023 * PAGE);
    g_assert_cmpint(leaf(vm, LEVEL1, 510, ROM, 0, READ), ==, 0);
    /* A page is pinned once, until the last entry has gone. */
    g_assert_cmpint(leaf(vm, LEVEL1, 509, RAM, 1023, READ), ==, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 2);
    g_assert_cmpint(clear(vm, LEVEL1, 511), ==, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 2);
    g_assert_cmpint(clear(vm, LEVEL1, 509), ==, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 1);
    /* Replaced by another. */
    g_assert_cmpint(leaf(vm, LEVEL1, 510, RAM, 7, RW), ==, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 1);
    g_assert_cmpint(clear(vm, LEVEL1, 510), ==, 0);
    g_assert_cmpint(clear(vm, LEVEL1, 510), ==, 0);
    g_assert_cmpint(clear(vm, LEVEL1, 512), ==, -EINVAL);
    vm_free(vm);
}

static void test_large(void)
{
    Vm *vm = npt_vm();

    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 512, RW), ==, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 512);
    g_assert_cmpint(clear(vm, LEVEL2, 0), ==, 0);
    /* A page in the middle is not there: nothing stays pinned. */
    fake.bad_from = (uintptr_t)vm->ram + MIB(3);
    fake.bad_to = fake.bad_from + 1;
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 512, RW), ==, -EFAULT);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    fake.bad_to = 0;
    /* One page too many for the limit. */
    fake.memlock = 511 * PAGE;
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 512, RW), ==, -ENOMEM);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    g_assert_cmpuint(fake_charged_pages(), ==, 0);
    fake.memlock = 512 * PAGE;
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 512, RW), ==, 0);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 513, RW), ==, 0);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RW), ==, -ENOMEM);
    g_assert_cmpint(clear(vm, LEVEL1, 0), ==, 0);
    g_assert_cmpint(clear(vm, LEVEL2, 0), ==, 0);
    vm_free(vm);
}

static void test_scattered(void)
{
    Vm *vm = npt_vm();

    fake.scattered = true;
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 0, RW), ==, -EINVAL);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RW), ==, 0);
    vm_free(vm);
}

static void test_ept(void)
{
    Vm *vm = vm_new(XMMU_VENDOR_VMX, XMMU_FEATURE_AD, XMMU_FORMAT_EPT);
    FakeEntry entry;

    /* Writable and not readable is a misconfiguration: Intel SDM vol. 3, 29.3.3.1. */
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, XMMU_ACCESS_WRITE), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC), ==,
                    -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, XMMU_ACCESS_EXEC), ==, -EINVAL);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RWX), ==, 0);
    fake_entry(vm->fd, LEVEL1, 0, &entry);
    g_assert_cmphex(entry.access, ==, RWX);
    vm_free(vm);
    vm = vm_new(XMMU_VENDOR_VMX, XMMU_FEATURE_EXECONLY, XMMU_FORMAT_EPT);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, XMMU_ACCESS_EXEC), ==, 0);
    fake_entry(vm->fd, LEVEL1, 0, &entry);
    g_assert_cmphex(entry.access, ==, XMMU_ACCESS_EXEC);
    vm_free(vm);
}

/* The CPUs of "iTLB multihit": what is large is not executable, in any format. */
static void test_small_exec(void)
{
    static const struct { uint32_t vendor, format; } kinds[] = {
        { XMMU_VENDOR_VMX, XMMU_FORMAT_EPT }, { XMMU_VENDOR_VMX, XMMU_FORMAT_LONG },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        Vm *vm = vm_new(kinds[i].vendor, XMMU_FEATURE_AD | XMMU_FEATURE_SMALL_EXEC,
                        kinds[i].format);

        g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 0, RWX), ==, -EINVAL);
        g_assert_cmpuint(fake_pinned_pages(), ==, 0);
        g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RWX), ==, 0);
        g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 0, RW), ==, 0);
        g_assert_cmpint(change(vm, XMMU_OP_ACCESS, LEVEL2, 0, RWX, NULL), ==, -EINVAL);
        g_assert_cmpint(change(vm, XMMU_OP_ACCESS, LEVEL1, 0, READ | XMMU_ACCESS_EXEC,
                               NULL), ==, 0);
        vm_free(vm);
        vm = vm_new(kinds[i].vendor, XMMU_FEATURE_AD, kinds[i].format);
        g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 0, RWX), ==, 0);
        vm_free(vm);
    }
}

static void test_long(void)
{
    Vm *vm = vm_new(XMMU_VENDOR_SVM, 0, XMMU_FORMAT_LONG);
    uint32_t all = RWX | XMMU_ACCESS_USER | 13 << XMMU_ACCESS_PKEY_SHIFT;
    FakeEntry entry;

    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, all), ==, 0);
    fake_entry(vm->fd, LEVEL1, 0, &entry);
    g_assert_cmphex(entry.access, ==, all);
    g_assert_cmpint(leaf(vm, LEVEL1, 1, RAM, 0, READ), ==, 0);
    fake_entry(vm->fd, LEVEL1, 1, &entry);
    g_assert_cmphex(entry.access, ==, READ);
    vm_free(vm);
}

/* ---- Rights, A and D --------------------------------------------------------- */

static void test_access(void)
{
    Vm *vm = npt_vm();
    uint32_t was, dirty = XMMU_ACCESS_DIRTY;
    FakeEntry entry;

    g_assert_cmpint(change(vm, XMMU_OP_ACCESS, LEVEL1, 0, RW, NULL), ==, -ENOENT);
    g_assert_cmpint(change(vm, XMMU_OP_HARVEST, LEVEL1, 0, dirty, NULL), ==, -ENOENT);
    g_assert_cmpint(link_to(vm, LEVEL2, 0, LEVEL1), ==, 0);
    g_assert_cmpint(change(vm, XMMU_OP_ACCESS, LEVEL2, 0, RW, NULL), ==, -ENOENT);
    g_assert_cmpint(change(vm, XMMU_OP_HARVEST, LEVEL2, 0, dirty, NULL), ==, -ENOENT);
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RW), ==, 0);
    g_assert_cmpint(leaf(vm, LEVEL1, 1, ROM, 0, READ), ==, 0);
    g_assert_cmpint(change(vm, XMMU_OP_ACCESS, LEVEL1, 1, RW, NULL), ==, -EINVAL);
    g_assert_cmpint(change(vm, XMMU_OP_ACCESS, LEVEL1, 0, 0, NULL), ==, -EINVAL);
    g_assert_cmpint(change(vm, XMMU_OP_HARVEST, LEVEL1, 0, dirty | RW, NULL), ==, -EINVAL);

    fake_set_dirty(vm->fd, LEVEL1, 0);
    g_assert_cmpint(change(vm, XMMU_OP_ACCESS, LEVEL1, 0, READ, &was), ==, 0);
    g_assert_cmphex(was, ==, RW | dirty);
    fake_entry(vm->fd, LEVEL1, 0, &entry);
    g_assert_cmphex(entry.access & ~XMMU_ACCESS_USER, ==, READ | dirty);
    g_assert_cmpint(change(vm, XMMU_OP_HARVEST, LEVEL1, 0, dirty, &was), ==, 0);
    g_assert_cmphex(was, ==, READ | dirty);
    g_assert_cmpint(change(vm, XMMU_OP_HARVEST, LEVEL1, 0, dirty, &was), ==, 0);
    g_assert_cmphex(was, ==, READ);
    fake_set_dirty(vm->fd, LEVEL1, 0);
    g_assert_cmpint(op(vm, (struct xmmu_entry) { .op = XMMU_OP_CLEAR, .table = LEVEL1 },
                       &was), ==, 0);
    g_assert_cmphex(was, ==, READ | dirty);
    vm_free(vm);
}

/* ---- Batches ----------------------------------------------------------------- */

static void test_batch(void)
{
    Vm *vm = npt_vm();
    struct xmmu_entry entries[] = {
        { .op = XMMU_OP_LEAF, .table = LEVEL1, .index = 0, .target = RAM, .access = RW },
        { .op = XMMU_OP_LINK, .table = LEVEL2, .index = 0, .target = LEVEL1 },
        { .op = XMMU_OP_LEAF, .table = LEVEL1, .index = 1, .target = NO_REGION,
          .access = RW },
        { .op = XMMU_OP_CLEAR, .table = LEVEL2, .index = 0 },
    };
    struct xmmu_update many = { .entries = (uintptr_t)entries,
                                .count = XMMU_UPDATE_MAX + 1 };
    struct xmmu_update none = { .entries = 8 };
    struct xmmu_update nowhere = { .entries = 8, .count = 1 };
    FakeEntry entry;
    uint32_t done;

    g_assert_cmpint(update(vm, entries, 4, &done), ==, -ENOENT);
    g_assert_cmpuint(done, ==, 2);
    fake_entry(vm->fd, LEVEL2, 0, &entry);
    g_assert_cmpuint(entry.table, ==, LEVEL1);
    g_assert_cmphex(entry.access, !=, 0);
    /* A table that is let go in the batch in which the last link to it went. */
    entries[0] = (struct xmmu_entry) { .op = XMMU_OP_CLEAR, .table = LEVEL2 };
    entries[1] = (struct xmmu_entry) { .op = XMMU_OP_CLEAR, .table = LEVEL1 };
    entries[2] = (struct xmmu_entry) { .op = XMMU_OP_FREE, .table = LEVEL1 };
    g_assert_cmpint(update(vm, entries, 3, &done), ==, 0);
    g_assert_cmpuint(done, ==, 3);

    g_assert_cmpint(call(vm, XMMU_UPDATE, (uintptr_t)&many), ==, -E2BIG);
    many.count = UINT32_MAX;
    g_assert_cmpint(call(vm, XMMU_UPDATE, (uintptr_t)&many), ==, -E2BIG);
    g_assert_cmpint(call(vm, XMMU_UPDATE, (uintptr_t)&none), ==, 0);
    g_assert_cmpint(call(vm, XMMU_UPDATE, (uintptr_t)&nowhere), ==, -EFAULT);
    g_assert_cmpint(call(vm, XMMU_UPDATE, 8), ==, -EFAULT);
    g_assert_cmpint(call(vm, XMMU_SET_REGION, 8), ==, -EFAULT);
    g_assert_cmpint(call(vm, 0xb7ff, 0), ==, -ENOTTY);
    g_assert_cmpint(op(vm, (struct xmmu_entry) { .op = 99 }, NULL), ==, -EINVAL);
    g_assert_cmpint(op(vm, (struct xmmu_entry) { .op = 65535 }, NULL), ==, -EINVAL);
    vm_free(vm);
}

/* ---- vCPUs and the end ------------------------------------------------------- */

static int run_by(XmmuDeviceVcpu *vcpu, uint32_t root)
{
    vcpu->run->controls.root = root;
    vcpu->run->commit = XMMU_GROUP_CONTROLS;
    return xmmu_device_run(vcpu);
}

static void test_vcpu(void)
{
    Vm *vm = npt_vm();
    XmmuDeviceVcpu vcpu, another;
    char *error = NULL;

    g_assert_true(xmmu_device_new_vcpu(vm->device, vm->fd, 0, &vcpu, &error));
    g_assert_false(xmmu_device_new_vcpu(vm->device, vm->fd, 0, &another, &error));
    g_clear_pointer(&error, g_free);
    g_assert_false(xmmu_device_new_vcpu(vm->device, vm->fd, vm->device->caps.max_vcpus,
                                        &another, &error));
    g_clear_pointer(&error, g_free);
    /* No root, none that there is, and none that is one. */
    g_assert_cmpint(xmmu_device_run(&vcpu), ==, -ENOENT);
    g_assert_cmpint(run_by(&vcpu, NO_TABLE), ==, -ENOENT);
    g_assert_cmpint(run_by(&vcpu, LEVEL1), ==, -ENOENT);
    g_assert_cmpint(run_by(&vcpu, OTHER1), ==, -ENOENT);
    g_assert_cmpint(run_by(&vcpu, LEVEL4), ==, 0);
    g_assert_cmpuint(vcpu.run->exit.reason, ==, XMMU_EXIT_HLT);
    /* It is in use, until the vCPU runs by another one. */
    g_assert_cmpint(free_table(vm, LEVEL4), ==, -EBUSY);
    g_assert_cmpint(new_table(vm, 60, XMMU_FORMAT_NPT, 4), ==, 0);
    g_assert_cmpint(run_by(&vcpu, 60), ==, 0);
    g_assert_cmpint(free_table(vm, LEVEL4), ==, 0);
    fake.signal = true;
    g_assert_cmpint(xmmu_device_run(&vcpu), ==, -EINTR);
    fake.signal = false;
    vcpu.run->commit = 1u << 31;
    g_assert_cmpint(xmmu_device_run(&vcpu), ==, -EINVAL);
    g_assert_cmpuint(vcpu.run->commit, ==, 1u << 31);
    /* The VM's file goes first. */
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RW), ==, 0);
    fake_device_ops.close(vm->fd);
    g_assert_cmpuint(fake_pinned_pages(), ==, 1);
    xmmu_device_close_vcpu(&vcpu);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    xmmu_device_close(vm->device);
    g_free(vm);
}

static unsigned flushes_after(XmmuDeviceVcpu *vcpu, uint32_t commit)
{
    unsigned before = fake_guest_flushes(vcpu->fd);

    vcpu->run->commit = commit;
    g_assert_cmpint(xmmu_device_run(vcpu), ==, 0);
    return fake_guest_flushes(vcpu->fd) - before;
}

/* Which commits make the CPU forget what the guest's own tables said. */
static void test_forgets(void)
{
    static const uint32_t formats[] = { XMMU_FORMAT_NPT, XMMU_FORMAT_LONG };

    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        bool own_tables = formats[i] == XMMU_FORMAT_NPT;
        Vm *vm = vm_new(XMMU_VENDOR_SVM, XMMU_FEATURE_AD, formats[i]);
        XmmuDeviceVcpu vcpu;
        char *error = NULL;

        g_assert_true(xmmu_device_new_vcpu(vm->device, vm->fd, 0, &vcpu, &error));
        g_assert_cmpint(run_by(&vcpu, LEVEL4), ==, 0);
        vcpu.run->crs.xcr0 = 1;
        flushes_after(&vcpu, XMMU_GROUP_CRS);
        g_assert_cmpuint(flushes_after(&vcpu, XMMU_GROUP_CRS), ==, 0);
        g_assert_cmpuint(flushes_after(&vcpu, XMMU_GROUP_CONTROLS), ==, 0);
        g_assert_cmpuint(flushes_after(&vcpu, XMMU_GROUP_CRS | XMMU_GROUP_CONTROLS), ==,
                         own_tables);
        vcpu.run->crs.cr2 = vcpu.run->crs.cr8 = 5;
        g_assert_cmpuint(flushes_after(&vcpu, XMMU_GROUP_CRS), ==, 0);
        vcpu.run->crs.cr3 += PAGE;
        g_assert_cmpuint(flushes_after(&vcpu, XMMU_GROUP_CRS), ==, own_tables);
        vcpu.run->crs.hw_cr0 |= 1 << 16;
        g_assert_cmpuint(flushes_after(&vcpu, XMMU_GROUP_CRS), ==, 1);
        vcpu.run->crs.hw_cr4 |= 1 << 7;
        g_assert_cmpuint(flushes_after(&vcpu, XMMU_GROUP_CRS), ==, 1);
        vcpu.run->crs.pdpte[3] ^= PAGE;
        g_assert_cmpuint(flushes_after(&vcpu, XMMU_GROUP_CRS), ==, 1);
        xmmu_device_close_vcpu(&vcpu);
        vm_free(vm);
    }
}

static void test_other_process(void)
{
    Vm *vm = npt_vm();
    XmmuDeviceVcpu vcpu;
    char *error = NULL;

    g_assert_true(xmmu_device_new_vcpu(vm->device, vm->fd, 0, &vcpu, &error));
    fake.other_mm = true;
    g_assert_cmpint(leaf(vm, LEVEL1, 0, RAM, 0, RW), ==, -EIO);
    g_assert_cmpint(region(vm, 9, 0, (uintptr_t)vm->ram, 1), ==, -EIO);
    g_assert_cmpint(run_by(&vcpu, LEVEL4), ==, -EIO);
    fake.other_mm = false;
    /* The process ends: its pins go, whoever still has the files. */
    g_assert_cmpint(leaf(vm, LEVEL2, 0, RAM, 0, RW), ==, 0);
    g_assert_cmpint(run_by(&vcpu, LEVEL4), ==, 0);
    fake_mm_exit();
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    xmmu_device_close_vcpu(&vcpu);
    vm_free(vm);
}

/* Every allocation fails once: an error, and nothing is lost or left. */
static void test_no_memory(void)
{
    for (unsigned n = 1; n < 40; n++) {
        Vm *vm = npt_vm();
        XmmuDeviceVcpu vcpu;
        char *error = NULL;
        bool made;

        fake_fail_alloc(n);
        new_table(vm, 200, XMMU_FORMAT_NPT, 1);
        region(vm, 20, 0, (uintptr_t)vm->ram, 16);
        leaf(vm, LEVEL2, 0, RAM, 0, RW);
        link_to(vm, LEVEL2, 1, LEVEL1);
        made = xmmu_device_new_vcpu(vm->device, vm->fd, 0, &vcpu, &error);
        g_free(error);
        fake_fail_alloc(0);
        g_assert_cmpuint(fake_pinned_pages(), ==, fake_charged_pages());
        if (made) {
            g_assert_cmpint(run_by(&vcpu, LEVEL4), ==, 0);
            xmmu_device_close_vcpu(&vcpu);
        }
        vm_free(vm);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/module/regions", test_regions);
    g_test_add_func("/module/tables", test_tables);
    g_test_add_func("/module/links", test_links);
    g_test_add_func("/module/pae", test_pae);
    g_test_add_func("/module/leaves", test_leaves);
    g_test_add_func("/module/large", test_large);
    g_test_add_func("/module/scattered", test_scattered);
    g_test_add_func("/module/ept", test_ept);
    g_test_add_func("/module/small-exec", test_small_exec);
    g_test_add_func("/module/long", test_long);
    g_test_add_func("/module/access", test_access);
    g_test_add_func("/module/batch", test_batch);
    g_test_add_func("/module/vcpu", test_vcpu);
    g_test_add_func("/module/forgets", test_forgets);
    g_test_add_func("/module/other-process", test_other_process);
    g_test_add_func("/module/no-memory", test_no_memory);
    return g_test_run();
}
