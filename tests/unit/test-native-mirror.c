/*
 * xmmu unit tests: the native engine's mirror
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The core changes its tables, the mirror tells the module (its own code, tests/fake/),
 * a CPU walks the module's tables.  After each scenario the tables are compared entry
 * by entry, and what is pinned with what they map.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "../../accel/xmmu/engine/id_set.h"
#include "../../accel/xmmu/engine/native_parts.h"
#include "../../accel/xmmu/mmu/tdp.h"
#include "../../accel/xmmu/mmu/tdp_split.h"
#include "../../accel/xmmu/mmu/vm.h"
#include "native.h"

#define RW (XMMU_ACCESS_READ | XMMU_ACCESS_WRITE)

static XmmuConfig small_config(void)
{
    XmmuConfig config = fixture_config();

    config.huge_pages = false;
    return config;
}

/* RAM at 0 but for @holes pages from page @gfn on. */
static void set_memory(Native *n, gfn_t gfn, uint64_t holes, uint32_t flags)
{
    Fixture *fx = n->fx;
    uint64_t all = fx->ram_size >> XMMU_PAGE_SHIFT;
    XmmuRegion ram[] = {
        { 0, gfn, (uintptr_t)fx->ram, flags },
        { gfn + holes, all - gfn - holes,
          (uintptr_t)fx->ram + ((gfn + holes) << XMMU_PAGE_SHIFT), flags },
    };

    if (!holes) {
        ram[0].npages = all;
    }
    g_assert_true(xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, ram, holes ? 2 : 1));
}

static uint64_t stores(const Native *n, gpa_t gpa, uint64_t pages)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < pages; i++) {
        sum += *(uint64_t *)(n->fx->ram + gpa + i * XMMU_PAGE_SIZE);
    }
    return sum;
}

/* ---- The set of numbers ------------------------------------------------------ */

typedef struct SetTest {
    XmmuIdSet set;
    pthread_mutex_t taking;
    uint32_t added[3];          /* atomic; times that each was */
    uint32_t seen[3];           /* who takes */
    bool stop;
} SetTest;

static const uint32_t set_ids[3] = { 0, 70, XMMU_ID_MAX - 1 };

static void count_id(void *opaque, uint32_t id)
{
    SetTest *t = opaque;

    for (int i = 0; i < 3; i++) {
        if (set_ids[i] == id) {
            /* What was done before it was added is seen. */
            t->seen[i] = __atomic_load_n(&t->added[i], __ATOMIC_RELAXED);
            return;
        }
    }
    g_assert_not_reached();
}

static void take_all(SetTest *t)
{
    pthread_mutex_lock(&t->taking);
    xmmu_id_set_take(&t->set, count_id, t);
    pthread_mutex_unlock(&t->taking);
}

static void *take_ids(void *opaque)
{
    SetTest *t = opaque;

    while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
        take_all(t);
    }
    return NULL;
}

/* Whoever takes it: when a number was added and all was taken, it was among it. */
static void test_id_set(void)
{
    SetTest t = { .taking = PTHREAD_MUTEX_INITIALIZER };
    pthread_t taker;

    g_assert_true(xmmu_id_set_init(&t.set));
    pthread_create(&taker, NULL, take_ids, &t);
    for (unsigned n = 0; n < 60000 / fixture_stride(); n++) {
        unsigned i = n % 3;

        __atomic_fetch_add(&t.added[i], 1, __ATOMIC_RELAXED);
        xmmu_id_set_add(&t.set, set_ids[i]);
        take_all(&t);
        pthread_mutex_lock(&t.taking);
        g_assert_cmpuint(t.seen[i], ==, t.added[i]);
        pthread_mutex_unlock(&t.taking);
    }
    __atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
    pthread_join(taker, NULL);
    g_assert_true(xmmu_id_set_empty(&t.set));
    xmmu_id_set_cleanup(&t.set);
}

/* ---- TDP --------------------------------------------------------------------- */

static void test_tdp(gconstpointer data)
{
    XmmuConfig config = small_config();
    NativeWork work = { .count = 2000, .want = RW, .pages = 1024, .seed = 7 };
    Native *n;

    config.tdp_format = GPOINTER_TO_INT(data);
    n = native_new(&config, MIB(16));
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_DONE);
    g_assert_cmpuint(stores(n, 0, 1024), ==, 2000);
    native_check(n);
    /* Where nothing is: the access is made by hand, nothing is mapped. */
    work = (NativeWork) { .count = 1, .want = RW, .base = MIB(64), .pages = 1 };
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_EMULATE);
    native_check(n);
    native_free(n);
}

/* A fault costs one ioctl beside the runs, and a run with nothing new none. */
static void test_cost(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    XmmuMirrorStats before, after;

    native_access(n, 0, 0, RW);
    native_access(n, 0, MIB(1), RW);
    xmmu_mirror_stats(n->mirror, &before);
    native_access(n, 0, MIB(1) + 4096, RW);
    xmmu_mirror_stats(n->mirror, &after);
    g_assert_cmpuint(after.updates - before.updates, ==, 1);
    g_assert_cmpuint(after.entries - before.entries, ==, 1);
    native_access(n, 0, MIB(1) + 4096, RW);
    xmmu_mirror_stats(n->mirror, &before);
    g_assert_cmpuint(after.updates, ==, before.updates);
    /* A table of its own for one page: made, filled and linked at once. */
    native_access(n, 0, MIB(3), RW);
    xmmu_mirror_stats(n->mirror, &after);
    g_assert_cmpuint(after.updates - before.updates, ==, 1);
    g_assert_cmpuint(after.entries - before.entries, ==, 3);
    /* And memory: what was told of each entry, and little more. */
    g_assert_cmpuint(after.tables - before.tables, ==, 1);
    g_assert_cmpuint(after.table_bytes - before.table_bytes, >=, 4096);
    g_assert_cmpuint(after.table_bytes - before.table_bytes, <, 4096 + 256);
    for (gpa_t gpa = MIB(4); gpa < MIB(16); gpa += MIB(2)) {
        native_access(n, 0, gpa, RW);
    }
    xmmu_mirror_stats(n->mirror, &before);
    xmmu_vm_zap_all(n->fx->vm);
    native_access(n, 0, 0, RW);
    rcu_service_drain();
    g_assert_true(xmmu_mirror_flush(n->mirror));
    xmmu_mirror_stats(n->mirror, &after);
    g_assert_cmpuint(after.table_bytes, <, before.table_bytes);
    native_free(n);
}

static void test_zap(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    NativeWork work = { .count = 1000, .want = RW, .pages = 1024, .seed = 3 };
    uint64_t pinned;

    native_run(n, 0, &work, NULL);
    pinned = fake_pinned_pages();
    set_memory(n, 100, 200, 0);
    g_assert_cmpuint(fake_pinned_pages(), <, pinned);
    native_check(n);
    work.base = 100 * XMMU_PAGE_SIZE;
    work.pages = 200;
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_EMULATE);
    set_memory(n, 0, 0, 0);
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_DONE);
    native_check(n);
    /* Read-only and back: rights come and go, the pages stay. */
    set_memory(n, 0, 0, XMMU_REGION_READONLY);
    native_check(n);
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_EMULATE);
    work.want = XMMU_ACCESS_READ;
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_DONE);
    native_check(n);
    native_free(n);
}

/* Losing and regaining W is a change of rights, not another mapping. */
static void test_rights(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    XmmuMirrorStats before, after;
    XmmuHold hold;

    native_access(n, 0, MIB(1), RW);
    xmmu_mirror_stats(n->mirror, &before);
    xmmu_read_lock(&hold, n->fx->vm, NULL, XMMU_REASON_HOST);
    g_assert_true(xmmu_tdp_write_protect_range(&hold, XMMU_AS_NORMAL, 256, 1));
    xmmu_read_unlock(&hold);
    xmmu_mirror_stats(n->mirror, &after);
    g_assert_cmpuint(after.entries - before.entries, ==, 1);
    native_check(n);
    native_access(n, 0, MIB(1), RW);
    native_check(n);
    xmmu_mirror_stats(n->mirror, &after);
    g_assert_cmpuint(after.entries - before.entries, ==, 2);
    g_assert_cmpuint(__atomic_load_n(&n->written, __ATOMIC_RELAXED), ==, 0);
    native_free(n);
}

/* ---- Huge pages -------------------------------------------------------------- */

static void test_huge(void)
{
    XmmuConfig config = fixture_config();
    Native *n = native_new(&config, MIB(16));
    NativeWork work = { .count = 500, .want = RW, .pages = 2048, .seed = 9 };

    native_run(n, 0, &work, NULL);
    g_assert_cmpuint(fixture_stats(n->fx).pages_2m, ==, 4);
    g_assert_cmpuint(fake_pinned_pages(), ==, 2048);
    native_check(n);
    g_assert_true(xmmu_tdp_split_range(n->fx->vm, XMMU_AS_NORMAL, 512, 512,
                                       XMMU_LEVEL_4K));
    g_assert_cmpuint(fixture_stats(n->fx).pages_4k, ==, 512);
    native_check(n);
    g_assert_cmpuint(xmmu_tdp_promote_range(n->fx->vm, XMMU_AS_NORMAL, 512, 512), ==, 1);
    native_check(n);
    native_run(n, 0, &work, NULL);
    g_assert_cmpuint(stores(n, 0, 2048), ==, 1000);
    native_free(n);
}

/* Host memory that is not contiguous: small leaves, tried once for each 2 MiB. */
static void test_scattered(void)
{
    XmmuConfig config = fixture_config();
    NativeWork work = { .count = 500, .want = RW, .pages = 2048, .seed = 9 };
    XmmuMirrorStats stats;
    Native *n;

    fake_reset(XMMU_VENDOR_SVM, XMMU_FEATURE_AD);
    fake.scattered = true;
    n = native_new_on(&config, MIB(16));
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_DONE);
    native_check(n);
    g_assert_cmpuint(fixture_stats(n->fx).pages_2m, ==, 0);
    xmmu_mirror_stats(n->mirror, &stats);
    g_assert_cmpuint(stats.not_huge, ==, 4);
    g_assert_cmpuint(stores(n, 0, 2048), ==, 500);
    xmmu_vm_zap_all(n->fx->vm);
    native_run(n, 0, &work, NULL);
    xmmu_mirror_stats(n->mirror, &stats);
    g_assert_cmpuint(stats.not_huge, ==, 4);
    native_free(n);
}

/* ---- Roots ------------------------------------------------------------------- */

/* A vCPU that sits in the guest must not go on by a root that the core gave up. */
static void test_root_given_up(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    int vm = xmmu_mirror_fd(n->mirror);
    uint32_t root, after;
    FakeEntry entry;
    char *error;

    native_access(n, 0, MIB(1), RW);
    g_assert_cmpint(xmmu_mirror_enter(n->mirror, n->fx->vcpu, &root, &error), ==, 0);
    fake_entry(vm, root, 0, &entry);
    g_assert_cmphex(entry.access, !=, 0);
    xmmu_vm_zap_all(n->fx->vm);
    fake_entry(vm, root, 0, &entry);
    g_assert_cmphex(entry.access, ==, 0);
    /* What was below it is told with the next submit. */
    g_assert_true(xmmu_mirror_flush(n->mirror));
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    /* No good root: one without entries, then a new one. */
    g_assert_cmpint(xmmu_mirror_enter(n->mirror, n->fx->vcpu, &after, &error), ==, 0);
    g_assert_cmpuint(after, !=, root);
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        fake_entry(vm, after, i, &entry);
        g_assert_cmphex(entry.access, ==, 0);
    }
    native_access(n, 0, MIB(1), RW);
    native_check(n);
    native_free(n);
}

static unsigned count_tables(Native *n)
{
    int vm = xmmu_mirror_fd(n->mirror);
    unsigned count = 0;

    for (uint32_t id = fake_next_table(vm, 0); id != UINT32_MAX;
         id = fake_next_table(vm, id + 1)) {
        count++;
    }
    return count;
}

/* Tables that the core gave back are freed in the module; a vCPU's root later. */
static void test_tables_go(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    NativeWork work = { .count = 100, .want = RW, .pages = 4096, .seed = 5 };

    for (int round = 0; round < 20; round++) {
        g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_DONE);
        native_check(n);
        xmmu_vm_zap_all(n->fx->vm);
        rcu_service_drain();
        native_check(n);
        native_access(n, 0, 0, RW);     /* moves to the new root */
        native_access(n, 0, 4096, RW);
        rcu_service_drain();
        native_check(n);
        /* The path of one page, an empty root, and one root that was left last. */
        g_assert_cmpuint(count_tables(n), <=, 4 + 1 + 1);
    }
    native_free(n);
}

/* A root that the core gives back while a vCPU has it in the module. */
static void test_busy_root(void)
{
    XmmuConfig config = fixture_shadow_config();
    XmmuRegs regs[2];
    Fixture *fx;
    Native *n;

    config.prev_roots = 0;
    fake_reset(XMMU_VENDOR_SVM, 0);
    n = native_new_on(&config, MIB(16));
    fx = n->fx;
    for (int i = 0; i < 2; i++) {
        regs[i] = fixture_regs(MODE_PAE, fixture_page(fx));
        fixture_map(fx, &regs[i], 0x400000, fixture_page(fx) | PTE_P | PTE_W, 1);
    }
    for (int i = 0; i < 10; i++) {
        fixture_load(fx, 0, regs[i % 2]);
        rcu_service_drain();
        native_access(n, 0, 0x400000, RW);
        native_check(n);
    }
    native_access(n, 0, 0x400000, RW);
    native_check(n);
    /* One root, two tables for each of the two, and an empty one. */
    g_assert_cmpuint(count_tables(n), <=, 1 + 4 + 1);
    native_free(n);
}

/* ---- Shadow paging ----------------------------------------------------------- */

static void test_shadow(gconstpointer data)
{
    unsigned mode = GPOINTER_TO_UINT(data);
    NativeWork work = { .count = 300, .want = RW, .base = 0x400000, .pages = 64 };
    XmmuRegs regs;
    Fixture *fx;
    Native *n;

    fake_reset(XMMU_VENDOR_SVM, XMMU_FEATURE_AD);
    fx = fixture_new_guest(mode, &regs);
    n = native_for(fx);
    for (unsigned i = 0; i < 64; i++) {
        fixture_map(fx, &regs, 0x400000 + i * 4096,
                    fixture_page(fx) | PTE_P | PTE_W | (i % 2 ? PTE_U : 0), 1);
    }
    fixture_map_window(fx, &regs);
    fixture_load(fx, 0, regs);
    for (unsigned round = 1; round < 8; round++) {
        work.seed = round;
        g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_DONE);
        native_check(n);
        /* The guest protects a page, moves another one, and flushes. */
        fixture_map(fx, &regs, 0x400000 + round * 4096, fixture_page(fx) | PTE_P, 1);
        fixture_map(fx, &regs, 0x410000 + round * 4096,
                    fixture_page(fx) | PTE_P | PTE_W, 1);
        fixture_load(fx, 0, regs);
        native_check(n);
        work.want = XMMU_ACCESS_READ;
    }
    /* The window is made of large pages, a page table in it is not. */
    work = (NativeWork) { .count = 200, .want = RW, .base = FIXTURE_WINDOW + MIB(16),
                          .pages = 1024, .seed = 77 };
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_DONE);
    native_check(n);
    xmmu_vm_zap_all(fx->vm);
    native_check(n);
    g_assert_cmpint(native_run(n, 0, &work, NULL), ==, NATIVE_DONE);
    native_check(n);
    native_free(n);
}

/* ---- Dirty bits -------------------------------------------------------------- */

/* The core's leaf for page @gfn. */
static const XmmuSpte *leaf_of(Native *n, gfn_t gfn)
{
    XmmuTable *table = n->fx->vcpu->mmu->root.table;
    const XmmuSpte *sptep;

    for (;;) {
        sptep = &table->spt[xmmu_level_index(gfn, table->role.level)];
        if (xmmu_spte_is_leaf(table->vm->format, *sptep, table->role.level)) {
            return sptep;
        }
        table = xmmu_table_at(xmmu_spte_hpa(*sptep));
    }
}

static void test_harvest(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    XmmuHarvest list[2];

    native_access(n, 0, MIB(1), XMMU_ACCESS_READ);
    native_access(n, 0, MIB(2), XMMU_ACCESS_READ);
    list[0].sptep = leaf_of(n, 256);
    list[1].sptep = leaf_of(n, 512);
    xmmu_mirror_harvest(n->mirror, list, 2);
    g_assert_false(list[0].dirty || list[1].dirty);
    /* A read made them writable: the write sets D and nothing else happens. */
    native_access(n, 0, MIB(2), RW);
    xmmu_mirror_harvest(n->mirror, list, 2);
    g_assert_true(!list[0].dirty && list[1].dirty);
    xmmu_mirror_harvest(n->mirror, list, 2);
    g_assert_false(list[0].dirty || list[1].dirty);
    /* No answer: then everything was written. */
    fake.fail_errno = EIO;
    fake.fail_ioctl = 1;
    xmmu_mirror_harvest(n->mirror, list, 2);
    g_assert_true(list[0].dirty && list[1].dirty);
    /* The vCPU's TLB had D cached: it must be set again. */
    native_access(n, 0, MIB(2), RW);
    n->written = 0;
    set_memory(n, 512, 1, 0);
    g_assert_cmpuint(n->written, ==, 4096);
    native_free(n);
}

/* ---- RAM --------------------------------------------------------------------- */

static void test_ram(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    uintptr_t ram = (uintptr_t)n->fx->ram;
    char *error = NULL;

    /* Overlaps, holes in pages, nothing. */
    g_assert_false(xmmu_mirror_add_ram(n->mirror, ram + MIB(1), 4096, 4096, false, &error));
    g_clear_pointer(&error, g_free);
    g_assert_false(xmmu_mirror_add_ram(n->mirror, ram + MIB(64) + 1, 4096, 4096, false,
                                       &error));
    g_clear_pointer(&error, g_free);
    g_assert_false(xmmu_mirror_add_ram(n->mirror, ram + MIB(64), 0, 4096, false, &error));
    g_clear_pointer(&error, g_free);
    /* The module's say: not of user space. */
    g_assert_false(xmmu_mirror_add_ram(n->mirror, (hpa_t)1 << 50, 4096, 4096, false,
                                       &error));
    g_clear_pointer(&error, g_free);
    g_assert_false(xmmu_mirror_remove_ram(n->mirror, ram + 4096, &error));
    g_clear_pointer(&error, g_free);
    for (unsigned i = 1; i < n->device->caps.max_regions; i++) {
        g_assert_true(xmmu_mirror_add_ram(n->mirror, ram + MIB(64) + i * 8192, 4096, 4096,
                                          i % 2, &error));
    }
    g_assert_false(xmmu_mirror_add_ram(n->mirror, ram + MIB(128), 4096, 4096, false,
                                       &error));
    g_clear_pointer(&error, g_free);
    g_assert_true(xmmu_mirror_remove_ram(n->mirror, ram + MIB(64) + 5 * 8192, &error));
    g_assert_true(xmmu_mirror_add_ram(n->mirror, ram + MIB(128), 4096, 4096, false,
                                      &error));
    /* In use: the module keeps it. */
    native_access(n, 0, MIB(1), RW);
    g_assert_false(xmmu_mirror_remove_ram(n->mirror, ram, &error));
    g_clear_pointer(&error, g_free);
    native_check(n);
    set_memory(n, 0, MIB(16) >> XMMU_PAGE_SHIFT, 0);
    g_assert_true(xmmu_mirror_remove_ram(n->mirror, ram, &error));
    /* A slot over memory that nobody told of. */
    set_memory(n, 0, 0, 0);
    {
        NativeWork work = { .count = 1, .want = RW, .pages = 1 };

        g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_FAILED);
        g_assert_nonnull(strstr(error, "not known"));
        g_clear_pointer(&error, g_free);
        g_assert_true(xmmu_mirror_add_ram(n->mirror, ram, MIB(16), 4096, false, &error));
        g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_DONE);
    }
    native_check(n);
    native_free(n);
}

/* ---- Refusals ---------------------------------------------------------------- */

/* The limit of locked memory: the vCPU stops with a message that says so, and goes on
 * when there is room. */
static void test_memlock(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    NativeWork work = { .count = 400, .want = RW, .pages = 100, .seed = 3 };
    char *error = NULL;

    fake.memlock = 10 * XMMU_PAGE_SIZE;
    g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_FAILED);
    g_assert_nonnull(strstr(error, "pinned"));
    g_clear_pointer(&error, g_free);
    g_assert_cmpuint(fake_pinned_pages(), ==, 10);
    fake.memlock = 0;
    g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_DONE);
    native_check(n);
    native_free(n);
}

/* A page that cannot be pinned stops who needs it; what others lose is lost. */
static void test_no_page(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    NativeWork work = { .count = 1, .want = RW, .base = MIB(2), .pages = 1 };
    char *error = NULL;

    native_access(n, 0, MIB(1), RW);
    fake.bad_from = (uintptr_t)n->fx->ram + MIB(2);
    fake.bad_to = fake.bad_from + 1;
    g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_FAILED);
    g_assert_nonnull(strstr(error, "pinned"));
    g_clear_pointer(&error, g_free);
    set_memory(n, 256, 1, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    g_assert_false(xmmu_mirror_broken(n->mirror));
    set_memory(n, 512, 1, 0);
    g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_EMULATE);
    native_check(n);
    native_free(n);
}

/* An entry that maps another page now, which is refused: not the old one either. */
static void test_refused_instead(void)
{
    NativeWork work = { .count = 1, .want = RW, .base = 0x400000, .pages = 1 };
    char *error = NULL;
    XmmuRegs regs;
    Fixture *fx;
    gpa_t a, b;
    Native *n;

    fake_reset(XMMU_VENDOR_SVM, 0);
    fx = fixture_new_guest(MODE_4L, &regs);
    n = native_for(fx);
    a = fixture_page(fx);
    b = fixture_page(fx);
    fixture_map(fx, &regs, 0x400000, a | PTE_P, 1);
    fixture_load(fx, 0, regs);
    native_access(n, 0, 0x400000, XMMU_ACCESS_READ);
    g_assert_cmpuint(fake_pinned_pages(), ==, 1);
    fixture_map(fx, &regs, 0x400000, b | PTE_P | PTE_W, 1);
    fake.bad_from = (uintptr_t)fx->ram + b;
    fake.bad_to = fake.bad_from + 1;
    g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_FAILED);
    g_clear_pointer(&error, g_free);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    g_assert_false(xmmu_mirror_broken(n->mirror));
    fake.bad_to = 0;
    g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_DONE);
    g_assert_cmpuint(stores(n, b, 1), ==, 1);
    native_check(n);
    native_free(n);
}

typedef void (*Inject)(unsigned n);

static void fail_alloc(unsigned n)
{
    fake_fail_alloc(n);
}

static void fail_ioctl(unsigned n)
{
    fake.fail_errno = n % 2 ? ENOMEM : EIO;
    fake.fail_ioctl = n;
}

/* Everything that can fail fails once, at every moment; then all is well again. */
static void test_inject(gconstpointer data)
{
    Inject inject = (Inject)data;
    XmmuConfig config = fixture_config();
    unsigned failed = 0;

    for (unsigned at = 1; at < 120; at += fixture_stride()) {
        NativeWork work = { .count = 30, .want = RW, .pages = 4096, .seed = at };
        Native *n = native_new(&config, MIB(16));
        char *error = NULL;

        inject(at);
        if (native_run(n, 0, &work, &error) == NATIVE_FAILED) {
            failed++;
            g_clear_pointer(&error, g_free);
        }
        xmmu_tdp_split_range(n->fx->vm, XMMU_AS_NORMAL, 0, 2048, XMMU_LEVEL_4K);
        set_memory(n, 700, 500, 0);
        xmmu_tdp_promote_range(n->fx->vm, XMMU_AS_NORMAL, 0, 512);
        xmmu_vm_zap_all(n->fx->vm);
        inject(0);
        set_memory(n, 0, 0, 0);
        g_assert_cmpint(native_run(n, 0, &work, &error), ==, NATIVE_DONE);
        native_check(n);
        native_free(n);
    }
    g_assert_cmpuint(failed, >, 0);
}

/* ---- Changes in between ------------------------------------------------------- */

/* Another vCPU empties an entry of a table that is just being announced. */
static void test_emptied_at_once(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    XmmuFault fault = { .access.want = XMMU_PROT_WRITE, .tdp_gpa = MIB(3), .size = 8 };
    gfn_t gfn = MIB(3) >> XMMU_PAGE_SHIFT;
    XmmuTable *table;
    XmmuHold hold;

    native_access(n, 0, MIB(1), RW);
    rcu_service_lock();
    g_assert_cmpint(xmmu_tdp_fault(n->fx->vcpu, &fault), ==, XMMU_PF_FIXED);
    table = xmmu_table_of(leaf_of(n, gfn));
    g_assert_null(table->mirror);
    xmmu_mirror_begin(n->mirror);
    g_assert_nonnull(xmmu_mirror_announce(n->mirror, table));
    xmmu_read_lock(&hold, n->fx->vm, NULL, XMMU_REASON_GUEST);
    g_assert_true(xmmu_tdp_set(&hold, table, xmmu_level_index(gfn, XMMU_LEVEL_4K),
                               *leaf_of(n, gfn), (XmmuSpte) { 0 }));
    xmmu_read_unlock(&hold);
    xmmu_mirror_tell_all(n->mirror);
    xmmu_mirror_end(n->mirror);
    rcu_service_unlock();
    native_check(n);
    native_free(n);
}

/* The device itself. */
static void test_device(void)
{
    XmmuDevice *device;
    XmmuMirror *mirror;
    char *error = NULL;

    fake_reset(XMMU_VENDOR_SVM, 0);
    g_assert_null(xmmu_device_open(&fake_device_ops, "/dev/nothing", &error));
    g_assert_nonnull(strstr(error, "loaded"));
    g_clear_pointer(&error, g_free);
    fake.fail_ioctl = 1;
    fake.fail_errno = ENOTTY;
    g_assert_null(xmmu_device_open(&fake_device_ops, XMMU_DEVICE_PATH, &error));
    g_clear_pointer(&error, g_free);
    device = xmmu_device_open(&fake_device_ops, XMMU_DEVICE_PATH, &error);
    g_assert_cmpuint(device->caps.vendor, ==, XMMU_VENDOR_SVM);
    fake.fail_ioctl = 1;
    fake.fail_errno = EBUSY;
    g_assert_null(xmmu_mirror_new(device, &fixture_services, NULL, NULL, &error));
    g_assert_nonnull(strstr(error, "another hypervisor"));
    g_clear_pointer(&error, g_free);
    mirror = xmmu_mirror_new(device, &fixture_services, NULL, NULL, &error);
    g_assert_nonnull(mirror);
    xmmu_mirror_free(mirror);
    xmmu_device_close(device);
    rcu_service_drain();
}

/* ---- Waiting ---------------------------------------------------------------------- */

typedef struct Waiter {
    Native *n;
    pthread_t thread;
    bool entered, too_early;    /* the first: atomic */
} Waiter;

static void *enter_guest(void *opaque)
{
    Waiter *w = opaque;
    uint32_t root;
    char *error;

    g_assert_cmpint(xmmu_mirror_enter(w->n->mirror, w->n->fx->vcpu, &root, &error), ==, 0);
    __atomic_store_n(&w->entered, true, __ATOMIC_SEQ_CST);
    return NULL;
}

/* The module is being told; another vCPU has nothing to tell. */
static void while_telling(void *opaque)
{
    Waiter *w = opaque;

    pthread_create(&w->thread, NULL, enter_guest, w);
    g_usleep(50000);
    w->too_early = __atomic_load_n(&w->entered, __ATOMIC_SEQ_CST);
}

/* Nothing to tell is not enough to enter, while somebody else is at it. */
static void test_waits(void)
{
    XmmuConfig config = small_config();
    Native *n = native_new(&config, MIB(16));
    Waiter w = { .n = n };
    XmmuHold hold;

    native_access(n, 0, MIB(1), RW);
    xmmu_read_lock(&hold, n->fx->vm, NULL, XMMU_REASON_GUEST);
    g_assert_true(xmmu_tdp_write_protect_range(&hold, XMMU_AS_NORMAL, 256, 1));
    xmmu_read_unlock(&hold);
    fake.opaque = &w;
    __atomic_store_n(&fake.in_ioctl, while_telling, __ATOMIC_RELEASE);
    g_assert_true(xmmu_mirror_flush(n->mirror));
    pthread_join(w.thread, NULL);
    g_assert_true(w.entered && !w.too_early);
    native_check(n);
    native_free(n);
}

/* ---- Threads ----------------------------------------------------------------- */

#define THREADS 3

typedef struct Worker {
    Native *n;
    unsigned cpu;
    bool *stop;
    uint64_t done;
} Worker;

static void *work_in_guest(void *opaque)
{
    Worker *worker = opaque;
    NativeWork work = { .count = 200, .want = RW, .pages = 2048, .seed = worker->cpu + 1 };

    while (!__atomic_load_n(worker->stop, __ATOMIC_RELAXED)) {
        NativeEnd end = native_run(worker->n, worker->cpu, &work, NULL);

        g_assert_true(end == NATIVE_DONE || end == NATIVE_EMULATE);
        worker->done += end == NATIVE_DONE;
        work.seed = work.seed * 3 + 1;
    }
    return NULL;
}

/* Nothing reaches the pages of a hole after xmmu_vm_set_memory() has returned. */
static void check_hole(Native *n, gfn_t gfn, uint64_t pages)
{
    uint64_t before = 0, after = 0;

    for (int i = 0; i < 2; i++) {
        uint64_t *sum = i ? &after : &before;

        for (uint64_t p = gfn; p < gfn + pages; p++) {
            *sum += __atomic_load_n((uint64_t *)(n->fx->ram + p * XMMU_PAGE_SIZE),
                                    __ATOMIC_RELAXED);
        }
        g_usleep(200);
    }
    g_assert_cmpuint(before, ==, after);
}

static void disturb(Native *n, unsigned round)
{
    gfn_t gfn = (round * 331) % 1500;

    switch (round % 5) {
    case 0:
    case 1:
        set_memory(n, gfn + 1, 300, 0);
        check_hole(n, gfn + 1, 300);
        set_memory(n, 0, 0, 0);
        break;
    case 2:
        xmmu_tdp_split_range(n->fx->vm, XMMU_AS_NORMAL, gfn, 600, XMMU_LEVEL_4K);
        break;
    case 3:
        xmmu_tdp_promote_range(n->fx->vm, XMMU_AS_NORMAL, 0, 2048);
        break;
    case 4:
        xmmu_vm_zap_all(n->fx->vm);
        break;
    }
    rcu_service_drain();
}

static void test_threads(gconstpointer data)
{
    XmmuConfig config = fixture_config();
    pthread_t threads[THREADS];
    Worker workers[THREADS];
    bool stop = false;
    uint64_t done = 0;
    Native *n;

    config.huge_pages = GPOINTER_TO_INT(data);
    n = native_new(&config, MIB(16));
    for (unsigned i = 0; i < THREADS; i++) {
        if (i) {
            native_add_cpu(n, i);
        }
        workers[i] = (Worker) { .n = n, .cpu = i, .stop = &stop };
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, work_in_guest, &workers[i]);
    }
    for (unsigned round = 0; round < 100 / fixture_stride(); round++) {
        disturb(n, round);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        done += workers[i].done;
    }
    g_test_message("%" PRIu64 " runs of 200 accesses", done);
    native_check(n);
    rcu_service_drain();
    native_check(n);
    native_free(n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mirror/id-set", test_id_set);
    g_test_add_func("/mirror/device", test_device);
    g_test_add_data_func("/mirror/tdp/npt", GINT_TO_POINTER(XMMU_TDP_NPT), test_tdp);
    g_test_add_data_func("/mirror/tdp/ept", GINT_TO_POINTER(XMMU_TDP_EPT), test_tdp);
    g_test_add_func("/mirror/cost", test_cost);
    g_test_add_func("/mirror/zap", test_zap);
    g_test_add_func("/mirror/rights", test_rights);
    g_test_add_func("/mirror/huge", test_huge);
    g_test_add_func("/mirror/scattered", test_scattered);
    g_test_add_func("/mirror/root-given-up", test_root_given_up);
    g_test_add_func("/mirror/tables-go", test_tables_go);
    g_test_add_func("/mirror/busy-root", test_busy_root);
    fixture_add_modes("/mirror/shadow", test_shadow);
    g_test_add_func("/mirror/harvest", test_harvest);
    g_test_add_func("/mirror/ram", test_ram);
    g_test_add_func("/mirror/memlock", test_memlock);
    g_test_add_func("/mirror/no-page", test_no_page);
    g_test_add_func("/mirror/refused-instead", test_refused_instead);
    g_test_add_data_func("/mirror/inject/alloc", (void *)fail_alloc, test_inject);
    g_test_add_data_func("/mirror/inject/ioctl", (void *)fail_ioctl, test_inject);
    g_test_add_func("/mirror/emptied-at-once", test_emptied_at_once);
    g_test_add_func("/mirror/waits", test_waits);
    g_test_add_data_func("/mirror/threads/small", GINT_TO_POINTER(0), test_threads);
    g_test_add_data_func("/mirror/threads/huge", GINT_TO_POINTER(1), test_threads);
    return g_test_run();
}
