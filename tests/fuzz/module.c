/*
 * xmmu fuzz: the kernel module's tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns runs of system calls to the module's own code (tests/fake/) as a hostile user
 * makes them: any operation with any operand, mostly such that much is accepted.  A
 * second table of what each entry should mean, kept by the words of linux/xmmu.h, says
 * what the answer must be; what hardware reads must say the same, and what is pinned is
 * what entries map.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include "fake.h"
#include "native_run.h"

#define PAGE        4096ull
#define REGIONS     4           /* ids that are used; one more that never exists */
#define TABLES      12
#define RAM_PAGES   1536ull     /* 6 MiB, aligned to 2 MiB */
#define AD          (XMMU_ACCESS_ACCESSED | XMMU_ACCESS_DIRTY)

typedef struct Meaning {
    enum { NOTHING, MEMORY, TABLE } kind;
    uint32_t target, access;
    uint64_t page;
} Meaning;

typedef struct Table {
    bool exists;
    uint32_t format, level;
    Meaning entry[512];
} Table;

typedef struct Region {
    bool exists, readonly;
    uint64_t first, pages;      /* in the RAM */
} Region;

typedef struct Run {
    const uint8_t *data;
    size_t left;
    XmmuDevice *device;
    XmmuDeviceVcpu vcpu;
    int root;                   /* of the vCPU, or -1 */
    int fd;
    uint8_t *ram;
    bool vmx;
    Region region[REGIONS + 1];
    Table table[TABLES + 1];
} Run;

static uint8_t byte(Run *run)
{
    if (!run->left) {
        return 0;
    }
    run->left--;
    return *run->data++;
}

static uint64_t number(Run *run, int bytes)
{
    uint64_t n = 0;

    while (bytes--) {
        n = n << 8 | byte(run);
    }
    return n;
}

/* ---- What must be answered: linux/xmmu.h in other words ---------------------- */

static unsigned entries(const Table *t)
{
    return t->format == XMMU_FORMAT_PAE ? 4 : 512;
}

static uint64_t pages_of(const Table *t)
{
    return 1ull << 9 * (t->level - 1);
}

static bool rights_ok(const Table *t, uint32_t access)
{
    uint32_t all = XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC | AD;

    if (t->format == XMMU_FORMAT_LONG) {
        all |= XMMU_ACCESS_USER | XMMU_ACCESS_GLOBAL | 15u << XMMU_ACCESS_PKEY_SHIFT;
    }
    /* The CPU has no leaves of 1 GiB. */
    if (t->format == XMMU_FORMAT_PAE || t->level > 2 || (access & ~all)) {
        return false;
    }
    /* EPT can allow nothing but fetches, where the CPU has that. */
    return (access & XMMU_ACCESS_READ) ||
           (t->format == XMMU_FORMAT_EPT && (access & ~AD) == XMMU_ACCESS_EXEC);
}

static int expect_new(Run *run, const struct xmmu_entry *e)
{
    Table *t = &run->table[e->table];

    if (e->access > XMMU_FORMAT_PAE || e->target || e->page || e->index < 1 ||
        e->index > 5 || (e->access == XMMU_FORMAT_PAE && e->index != 3)) {
        return -EINVAL;
    }
    if (t->exists) {
        return -EEXIST;
    }
    memset(t, 0, sizeof(*t));
    t->exists = true;
    t->format = e->access;
    t->level = e->index;
    return 0;
}

/* Entries of all tables that mean this. */
static unsigned count_uses(const Run *run, int kind, uint32_t target)
{
    unsigned count = 0;

    for (unsigned id = 0; id < TABLES; id++) {
        for (unsigned i = 0; run->table[id].exists && i < 512; i++) {
            const Meaning *m = &run->table[id].entry[i];

            count += (int)m->kind == kind && m->target == target;
        }
    }
    return count;
}

static bool is_empty(const Table *t)
{
    for (unsigned i = 0; i < 512; i++) {
        if (t->entry[i].kind != NOTHING) {
            return false;
        }
    }
    return true;
}

static int expect_free(Run *run, const struct xmmu_entry *e)
{
    Table *t = &run->table[e->table];

    if (!t->exists) {
        return -ENOENT;
    }
    if (!is_empty(t) || run->root == (int)e->table || count_uses(run, TABLE, e->table)) {
        return -EBUSY;
    }
    t->exists = false;
    return 0;
}

static int expect_leaf(Run *run, Table *t, const struct xmmu_entry *e)
{
    const Region *region = &run->region[MIN(e->target, REGIONS)];
    uint64_t pages = pages_of(t);

    if (!rights_ok(t, e->access)) {
        return -EINVAL;
    }
    if (!region->exists) {
        return -ENOENT;
    }
    if (e->page >= region->pages || region->pages - e->page < pages ||
        (region->readonly && (e->access & XMMU_ACCESS_WRITE)) ||
        (region->first + e->page) % pages) {
        return -EINVAL;
    }
    t->entry[e->index] = (Meaning) { MEMORY, e->target, e->access & ~AD, e->page };
    return 0;
}

static int expect_link(Run *run, Table *t, const struct xmmu_entry *e)
{
    const Table *child = &run->table[MIN(e->target, TABLES)];
    uint32_t format = t->format == XMMU_FORMAT_PAE ? XMMU_FORMAT_LONG : t->format;

    if (!child->exists) {
        return -ENOENT;
    }
    if (child->format != format || child->level + 1 != t->level || e->access || e->page) {
        return -EINVAL;
    }
    t->entry[e->index] = (Meaning) { TABLE, e->target, 0, 0 };
    return 0;
}

static int expect_access(Run *run, Table *t, const struct xmmu_entry *e)
{
    Meaning *m = &t->entry[e->index];

    if (m->kind != MEMORY) {
        return -ENOENT;
    }
    if ((run->region[m->target].readonly && (e->access & XMMU_ACCESS_WRITE)) ||
        !rights_ok(t, e->access & ~AD)) {
        return -EINVAL;
    }
    m->access = e->access & ~AD;
    return 0;
}

static int expect_harvest(const Table *t, const struct xmmu_entry *e)
{
    if (t->entry[e->index].kind != MEMORY) {
        return -ENOENT;
    }
    return e->access & ~AD ? -EINVAL : 0;
}

/* The answer to @e; what it changes is changed here too. */
static int expect(Run *run, const struct xmmu_entry *e)
{
    Table *t = &run->table[MIN(e->table, TABLES)];

    if (e->zero || e->op > XMMU_OP_HARVEST) {
        return -EINVAL;
    }
    if (e->op == XMMU_OP_NEW) {
        return expect_new(run, e);
    }
    if (e->op == XMMU_OP_FREE) {
        return expect_free(run, e);
    }
    if (!t->exists) {
        return -ENOENT;
    }
    if (e->index >= entries(t)) {
        return -EINVAL;
    }
    switch (e->op) {
    case XMMU_OP_LEAF:
        return expect_leaf(run, t, e);
    case XMMU_OP_LINK:
        return expect_link(run, t, e);
    case XMMU_OP_ACCESS:
        return expect_access(run, t, e);
    case XMMU_OP_HARVEST:
        return expect_harvest(t, e);
    default:
        t->entry[e->index] = (Meaning) { 0 };
        return 0;
    }
}

/* ---- What there is ----------------------------------------------------------- */

static void check_entry(Run *run, const Table *t, uint32_t id, unsigned i,
                        GHashTable *pages)
{
    const Meaning *m = &t->entry[i];
    const Region *region = &run->region[MIN(m->target, REGIONS)];
    uint32_t seen = XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC |
                    15u << XMMU_ACCESS_PKEY_SHIFT |
                    (t->format == XMMU_FORMAT_LONG ? XMMU_ACCESS_USER : 0);
    uintptr_t at = (uintptr_t)run->ram + (region->first + m->page) * PAGE;
    FakeEntry entry;

    g_assert_true(fake_entry(run->fd, id, i, &entry));
    if (m->kind == NOTHING) {
        g_assert_cmphex(entry.access, ==, 0);
    } else if (m->kind == TABLE) {
        g_assert_true(!entry.is_leaf && entry.access);
        g_assert_cmpuint(entry.table, ==, m->target);
    } else {
        g_assert_true(entry.is_leaf);
        g_assert_cmphex(entry.address, ==, at);
        g_assert_cmphex(entry.access & seen, ==, m->access & seen);
        for (uint64_t p = 0; p < pages_of(t); p++) {
            g_hash_table_add(pages, (void *)(at + p * PAGE));
        }
    }
}

static void check(Run *run)
{
    g_autoptr(GHashTable) pages = g_hash_table_new(NULL, NULL);

    for (uint32_t id = 0; id < TABLES; id++) {
        const Table *t = &run->table[id];
        FakeEntry entry;

        if (!t->exists) {
            g_assert_false(fake_entry(run->fd, id, 0, &entry));
            continue;
        }
        for (unsigned i = 0; i < entries(t); i++) {
            check_entry(run, t, id, i, pages);
        }
    }
    g_assert_cmpuint(fake_pinned_pages(), ==, g_hash_table_size(pages));
}

/* Two regions may have the same page: then it is charged twice. */
static void check_charge(void)
{
    g_assert_cmpuint(fake_charged_pages(), >=, fake_pinned_pages());
}

/* ---- Steps ------------------------------------------------------------------- */

static int call(Run *run, unsigned long request, void *argument)
{
    return fake_device_ops.ioctl(run->fd, request, (uintptr_t)argument) < 0 ? -errno : 0;
}

static void step_region(Run *run)
{
    uint32_t id = byte(run) % REGIONS;
    Region *region = &run->region[id];
    Region r = {
        .exists = true, .readonly = byte(run) % 4 == 0,
        .first = number(run, 2) % (RAM_PAGES - 1),
    };
    struct xmmu_region arg = { .id = id };
    int expected;

    r.pages = byte(run) % 4 ? 1 + number(run, 2) % (RAM_PAGES - r.first) : 0;
    arg.addr = (uintptr_t)run->ram + r.first * PAGE;
    arg.pages = r.pages;
    arg.flags = r.readonly ? XMMU_REGION_RO : 0;
    if (!r.pages) {
        expected = !region->exists ? -ENOENT : count_uses(run, MEMORY, id) ? -EBUSY : 0;
        r.exists = false;
    } else {
        expected = region->exists ? -EEXIST : 0;
    }
    g_assert_cmpint(call(run, XMMU_SET_REGION, &arg), ==, expected);
    if (!expected) {
        *region = r;
    }
}

/* Mostly something that can be. */
static struct xmmu_entry random_entry(Run *run)
{
    uint8_t how = byte(run);
    struct xmmu_entry e = {
        .op = byte(run) % 8, .index = byte(run) % 8, .table = byte(run) % (TABLES + 1),
        .target = byte(run) % (REGIONS + 1), .page = number(run, 2) % RAM_PAGES,
    };

    switch (e.op) {
    case XMMU_OP_NEW:
        e.table %= TABLES;
        e.index = byte(run) % 7;
        e.access = byte(run) % 5;
        e.target = e.page = 0;
        if (how & 16) {
            /* So that many fit together. */
            e.access = e.table / 4;
            e.index = 1 + e.table % 4;
        }
        break;
    case XMMU_OP_LINK:
        e.target = how & 16 ? e.table - 1 : byte(run) % (TABLES + 1);
        e.page = 0;
        break;
    case XMMU_OP_HARVEST:
        e.access = byte(run) & AD;
        break;
    default:
        e.access = number(run, 2) & 0xfff;
        e.access |= how & 3 ? XMMU_ACCESS_READ : 0;
        e.access &= how & 4 ? 0xf6f : 0x67;
        if (how & 8) {
            e.page &= ~511ull;
        }
    }
    if (how < 8) {
        e.index = number(run, 2);
        e.zero = byte(run) % 2;
        e.page = number(run, 8);
    }
    return e;
}

static void step_update(Run *run)
{
    struct xmmu_entry list[8];
    struct xmmu_update update = { .entries = (uintptr_t)list };
    uint32_t done = 0;
    int expected = 0;

    update.count = 1 + byte(run) % 8;
    for (unsigned i = 0; i < update.count; i++) {
        list[i] = random_entry(run);
    }
    while (done < update.count && !expected) {
        expected = expect(run, &list[done]);
        done += !expected;
    }
    g_assert_cmpint(call(run, XMMU_UPDATE, &update), ==, expected);
    g_assert_cmpuint(update.done, ==, done);
}

/* Anything at all: of tables that do not exist, so nothing can come of it. */
static void step_garbage(Run *run)
{
    struct xmmu_entry e = {
        .op = 1 + number(run, 2) % 65535, .index = number(run, 2),
        .table = TABLES + number(run, 4) % (UINT32_MAX - TABLES),
        .target = number(run, 4), .access = number(run, 4), .page = number(run, 8),
    };
    struct xmmu_update update = { .entries = (uintptr_t)&e, .count = 1 };

    g_assert_cmpint(call(run, XMMU_UPDATE, &update), <, 0);
    g_assert_cmpuint(update.done, ==, 0);
}

static bool is_root(const Run *run, uint32_t id)
{
    const Table *t = &run->table[id];
    uint32_t second = run->vmx ? XMMU_FORMAT_EPT : XMMU_FORMAT_NPT;

    return t->exists && (t->format == XMMU_FORMAT_PAE ||
                         (t->level >= 4 && (t->format == XMMU_FORMAT_LONG ||
                                            t->format == second)));
}

static void step_run(Run *run)
{
    struct xmmu_run *shared = run->vcpu.run;
    uint32_t root = byte(run) % (TABLES + 1);
    bool good = is_root(run, root);

    shared->controls.root = root;
    shared->gprs.gpr[FAKE_COUNT] = 3;
    shared->gprs.gpr[FAKE_WANT] = XMMU_ACCESS_READ | (byte(run) & XMMU_ACCESS_WRITE);
    shared->gprs.gpr[FAKE_BASE] = (uint64_t)(byte(run) % 8) << (12 + 9 * (byte(run) % 4));
    shared->gprs.gpr[FAKE_PAGES] = 1 + byte(run);
    shared->gprs.gpr[FAKE_SEED] = 1 + byte(run);
    shared->commit = XMMU_GROUP_CONTROLS | XMMU_GROUP_GPRS;
    g_assert_cmpint(xmmu_device_run(&run->vcpu), ==, good ? 0 : -ENOENT);
    if (good) {
        run->root = root;
    }
}

int fuzz_module(const uint8_t *data, size_t size)
{
    static uint8_t *memory;
    g_autofree Run *run = g_new0(Run, 1);
    char *error = NULL;

    if (!memory) {
        memory = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);
    }
    run->data = data;
    run->left = size;
    run->root = -1;
    run->ram = (uint8_t *)(((uintptr_t)memory + (2 << 20) - 1) & ~((2ull << 20) - 1));
    run->vmx = byte(run) & 1;
    fake_reset(run->vmx ? XMMU_VENDOR_VMX : XMMU_VENDOR_SVM,
               XMMU_FEATURE_AD | XMMU_FEATURE_EXECONLY);
    run->device = xmmu_device_open(&fake_device_ops, XMMU_DEVICE_PATH, &error);
    run->fd = xmmu_device_new_vm(run->device, &error);
    g_assert_true(xmmu_device_new_vcpu(run->device, run->fd, 0, &run->vcpu, &error));
    for (unsigned i = 0; i < 64 && run->left; i++) {
        switch (byte(run) % 8) {
        case 0:
        case 1:
            step_region(run);
            break;
        case 2:
            step_run(run);
            break;
        case 3:
            step_garbage(run);
            break;
        default:
            step_update(run);
        }
        check(run);
        check_charge();
    }
    xmmu_device_close_vcpu(&run->vcpu);
    fake_device_ops.close(run->fd);
    xmmu_device_close(run->device);
    g_assert_cmpuint(fake_pinned_pages() + fake_charged_pages(), ==, 0);
    return 0;
}
