/*
 * xmmu unit test of asynchronous page faults
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Guest pages are missing until the test lets them come.  What the vCPU does meanwhile,
 * what the guest is told, and above all where a page is prefaulted when it comes: only
 * in the MMU that missed it (shadow, TDP, non-paging, SMM, nested).
 */
#include <pthread.h>
#include "../../accel/xmmu/mmu/vm.h"
#include "fixture.h"

#define RAM     MIB(64)
#define PAGES   (RAM >> XMMU_PAGE_SHIFT)
#define LATE    MIB(48)         /* from here on tests make pages missing */

typedef struct World {
    Fixture *fx;
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool missing[PAGES];
    unsigned fetching, fetched, arrived;
    XmmuApfCan can;
    bool busy;                  /* the guest has not acknowledged */
    uint32_t told[2 * XMMU_APF_MAX];
    unsigned tellings;
} World;

/* The core's opaque is the fixture; one world at a time. */
static World *world;

/* ---- Services ---------------------------------------------------------------- */

static uint64_t page_of(hpa_t hpa)
{
    return (hpa - (uintptr_t)world->fx->ram) >> XMMU_PAGE_SHIFT;
}

static bool service_resident(void *opaque, hpa_t hpa, uint64_t npages)
{
    bool all = true;

    g_assert_true(opaque == world->fx);
    pthread_mutex_lock(&world->lock);
    for (uint64_t i = 0; i < npages; i++) {
        all &= !world->missing[page_of(hpa) + i];
    }
    pthread_mutex_unlock(&world->lock);
    return all;
}

static void service_fetch(void *opaque, hpa_t hpa)
{
    g_assert_true(opaque == world->fx);
    pthread_mutex_lock(&world->lock);
    world->fetching++;
    pthread_cond_broadcast(&world->change);
    while (world->missing[page_of(hpa)]) {
        pthread_cond_wait(&world->change, &world->lock);
    }
    world->fetched++;
    pthread_cond_broadcast(&world->change);
    pthread_mutex_unlock(&world->lock);
}

static void service_arrived(void *opaque, unsigned index)
{
    g_assert_true(opaque == world->fx);
    g_assert_cmpuint(index, <, FIXTURE_CPUS);
    pthread_mutex_lock(&world->lock);
    world->arrived++;
    pthread_cond_broadcast(&world->change);
    pthread_mutex_unlock(&world->lock);
}

static XmmuApfCan service_can(void *opaque, unsigned index)
{
    (void)opaque;
    (void)index;
    return world->can;
}

static bool service_slot_free(void *opaque, unsigned index)
{
    (void)opaque;
    (void)index;
    return !world->busy;
}

static void service_ready(void *opaque, unsigned index, uint32_t token)
{
    (void)opaque;
    (void)index;
    g_assert_cmpuint(world->tellings, <, G_N_ELEMENTS(world->told));
    world->told[world->tellings++] = token;
    world->busy = true;
}

static const XmmuApfServices services = {
    .resident = service_resident,
    .fetch = service_fetch,
    .arrived = service_arrived,
    .can = service_can,
    .ready_slot_free = service_slot_free,
    .ready = service_ready,
};

/* ---- The world ----------------------------------------------------------------- */

static void world_begin(Fixture *fx)
{
    world = g_new0(World, 1);
    world->fx = fx;
    world->can = XMMU_APF_EVENT;
    pthread_mutex_init(&world->lock, NULL);
    pthread_cond_init(&world->change, NULL);
    xmmu_vm_enable_apf(fx->vm, &services);
    xmmu_vm_apf_watch(fx->vm, true);
}

static Fixture *world_new(const XmmuConfig *config)
{
    Fixture *fx = fixture_new(config, RAM);

    world_begin(fx);
    return fx;
}

static Fixture *world_tdp(void)
{
    XmmuConfig config = fixture_config();

    return world_new(&config);
}

static void lose(gpa_t gpa)
{
    pthread_mutex_lock(&world->lock);
    world->missing[gpa >> XMMU_PAGE_SHIFT] = true;
    pthread_mutex_unlock(&world->lock);
}

/* The page comes, and @count of all pages have been announced. */
static void come(gpa_t gpa, unsigned count)
{
    pthread_mutex_lock(&world->lock);
    world->missing[gpa >> XMMU_PAGE_SHIFT] = false;
    pthread_cond_broadcast(&world->change);
    while (world->arrived < count) {
        pthread_cond_wait(&world->change, &world->lock);
    }
    pthread_mutex_unlock(&world->lock);
}

static void world_free(void)
{
    pthread_mutex_lock(&world->lock);
    memset(world->missing, 0, sizeof(world->missing));
    pthread_cond_broadcast(&world->change);
    pthread_mutex_unlock(&world->lock);
    fixture_free(world->fx);
    pthread_cond_destroy(&world->change);
    pthread_mutex_destroy(&world->lock);
    g_free(world);
    world = NULL;
}

static XmmuHwResult touch(gva_t gva, unsigned how)
{
    XmmuAccess access = {
        .gva = gva, .want = how & XMMU_PROT_RWX, .user = how & ACC_USER,
        .restartable = true,
    };
    XmmuHwResult result;

    xmmu_hw_translate(world->fx->vcpu, &access, 8, &result);
    return result;
}

static uint32_t expect_event(gva_t gva, unsigned how)
{
    XmmuHwResult r = touch(gva, how);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_ASYNC);
    g_assert_true(r.async.event);
    g_assert_cmpuint(r.async.token, !=, 0);
    return r.async.token;
}

static void expect_halt(gva_t gva, unsigned how)
{
    XmmuHwResult r = touch(gva, how);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_ASYNC);
    g_assert_false(r.async.event);
}

static void expect_ok(gva_t gva, unsigned how, gpa_t gpa)
{
    XmmuHwResult r = touch(gva, how);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    g_assert_cmphex(r.hpa, ==, (uintptr_t)world->fx->ram + gpa);
}

static uint64_t faults(void)
{
    return fixture_stats(world->fx).faults;
}

/* One page comes; it is prefaulted or not. */
static void expect_complete(gpa_t gpa, bool prefaulted)
{
    uint64_t before = fixture_stats(world->fx).async_pf_prefaulted;

    come(gpa, world->arrived + 1);
    g_assert_true(xmmu_apf_complete(world->fx->vcpu));
    g_assert_cmpuint(fixture_stats(world->fx).async_pf_prefaulted, ==,
                     before + prefaulted);
}

/* As expect_complete(), seen from the next access. */
static void expect_hit_after(gva_t gva, unsigned how, gpa_t gpa, bool prefaulted)
{
    uint64_t before;

    expect_complete(gpa, prefaulted);
    before = faults();
    expect_ok(gva, how, gpa);
    g_assert_cmpuint(faults(), ==, before + !prefaulted);
}

/* A guest of its own with paging @mode where LATE's page is at the same address. */
static XmmuRegs paging(unsigned mode)
{
    Fixture *fx = world->fx;
    XmmuRegs regs = fixture_regs(mode, fixture_page(fx));

    if (mode != MODE_NONE) {
        fixture_map(fx, &regs, LATE, LATE | PTE_PWU, 1);
    }
    fixture_load(fx, 0, regs);
    return fx->regs[0];
}

typedef struct Case {
    const char *name;
    bool tdp;
    unsigned mode;
} Case;

static const Case cases[] = {
    { "tdp/no-paging", true, MODE_NONE },
    { "tdp/32-bit", true, MODE_32 },
    { "tdp/pae", true, MODE_PAE },
    { "tdp/4-level", true, MODE_4L },
    { "shadow/no-paging", false, MODE_NONE },
    { "shadow/32-bit", false, MODE_32 },
    { "shadow/pae", false, MODE_PAE },
    { "shadow/4-level", false, MODE_4L },
    { "shadow/5-level", false, MODE_5L },
};

static XmmuRegs world_for(const Case *c)
{
    XmmuConfig config = fixture_config();

    config.tdp = c->tdp;
    world_new(&config);
    return paging(c->mode);
}

/* ---- One page -------------------------------------------------------------------- */

/* The guest is told, goes on, is told again, and does not fault a second time. */
static void test_event(gconstpointer data)
{
    uint32_t token;
    XmmuStats stats;

    world_for(data);
    lose(LATE);
    token = expect_event(LATE, XMMU_PROT_READ);
    g_assert_false(xmmu_apf_complete(world->fx->vcpu));
    g_assert_cmpuint(world->tellings, ==, 0);
    expect_hit_after(LATE, XMMU_PROT_READ, LATE, true);
    g_assert_cmpuint(world->tellings, ==, 1);
    g_assert_cmphex(world->told[0], ==, token);
    g_assert_false(xmmu_apf_complete(world->fx->vcpu));
    stats = fixture_stats(world->fx);
    g_assert_cmpuint(stats.async_pf_sent, ==, 1);
    g_assert_cmpuint(stats.async_pf_ready, ==, 1);
    g_assert_cmpuint(stats.async_pf_halted + stats.async_pf_waited, ==, 0);
    world_free();
}

/* A guest that was told nothing is told nothing when the page comes. */
static void test_halt(gconstpointer data)
{
    world_for(data);
    world->can = XMMU_APF_HALT;
    lose(LATE);
    expect_halt(LATE, XMMU_PROT_READ);
    expect_hit_after(LATE, XMMU_PROT_READ, LATE, true);
    g_assert_cmpuint(world->tellings, ==, 0);
    g_assert_cmpuint(fixture_stats(world->fx).async_pf_halted, ==, 1);
    world_free();
}

/* It is missing again before the vCPU looks: the vCPU neither maps it nor waits. */
static void test_gone_again(gconstpointer data)
{
    XmmuStats stats;

    world_for(data);
    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    come(LATE, 1);
    lose(LATE);
    g_assert_true(xmmu_apf_complete(world->fx->vcpu));
    g_assert_cmpuint(world->tellings, ==, 1);
    stats = fixture_stats(world->fx);
    g_assert_cmpuint(stats.async_pf_prefaulted, ==, 0);
    g_assert_cmpuint(stats.async_pf_waited, ==, 0);
    g_assert_cmpuint(stats.pages_4k, ==, 0);
    expect_event(LATE, XMMU_PROT_READ);
    world_free();
}

/* An access that cannot be made again, and one where nothing else can be done. */
static void test_wait(void)
{
    Fixture *fx = world_tdp();

    lose(LATE);
    lose(LATE + KIB(8));
    fixture_expect_ok(fx, LATE, XMMU_PROT_READ, LATE);
    world->can = XMMU_APF_NOTHING;
    expect_ok(LATE + KIB(8), XMMU_PROT_READ, LATE + KIB(8));
    g_assert_cmpuint(fixture_stats(fx).async_pf_waited, ==, 2);
    g_assert_cmpuint(world->fetching, ==, 0);
    world_free();
}

/* The page comes when somebody waits for it, and nobody can make an entry before. */
static void *bring_late(void *opaque)
{
    XmmuVm *vm = world->fx->vm;

    (void)opaque;
    pthread_mutex_lock(&world->lock);
    while (!world->fetching) {
        pthread_cond_wait(&world->change, &world->lock);
    }
    pthread_mutex_unlock(&world->lock);
    g_assert_cmpuint(fixture_stats(world->fx).pages_4k, ==, 0);
    xmmu_write_lock(vm, XMMU_REASON_GUEST);     /* nobody waits with it */
    xmmu_write_unlock(vm);
    pthread_mutex_lock(&world->lock);
    world->missing[LATE >> XMMU_PAGE_SHIFT] = false;
    pthread_cond_broadcast(&world->change);
    pthread_mutex_unlock(&world->lock);
    return NULL;
}

/* Where an entry pins its page, who cannot but wait does so before there is one. */
static void test_wait_pins(gconstpointer data)
{
    XmmuServices pinning;
    Fixture *fx;
    pthread_t thread;

    world_for(data);
    fx = world->fx;
    pinning = *fx->vm->services;
    pinning.pins_pages = true;
    fx->vm->services = &pinning;
    world->can = XMMU_APF_NOTHING;
    lose(LATE);
    g_assert_cmpint(pthread_create(&thread, NULL, bring_late, NULL), ==, 0);
    expect_ok(LATE, XMMU_PROT_WRITE, LATE);
    pthread_join(thread, NULL);
    g_assert_cmpuint(fixture_stats(fx).async_pf_waited, ==, 1);
    g_assert_cmpuint(world->fetched, ==, 1);
    fx->vm->services = &fixture_services;
    world_free();
}

static void test_not_watched(void)
{
    Fixture *fx = world_tdp();

    lose(LATE);
    xmmu_vm_apf_watch(fx->vm, false);
    expect_ok(LATE, XMMU_PROT_READ, LATE);
    world_free();
}

/* What is not RAM is nobody's to fetch. */
static void test_no_ram(void)
{
    world_tdp();
    g_assert_cmpint(touch(RAM + KIB(4), XMMU_PROT_READ).outcome, ==, XMMU_HW_DIRECT);
    world_free();
}

/* Whoever wants the same page halts; the page is fetched once. */
static void test_same_page(void)
{
    Fixture *fx = world_tdp();

    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    expect_halt(LATE + 8, XMMU_PROT_WRITE);
    expect_halt(LATE + 16, XMMU_PROT_EXEC);
    expect_complete(LATE, true);
    g_assert_cmpuint(world->fetched, ==, 1);
    g_assert_cmpuint(world->tellings, ==, 1);
    g_assert_cmpuint(fixture_stats(fx).async_pf_halted, ==, 2);
    world_free();
}

/* A missing table of the guest, under TDP, is a missing page like others. */
static void test_table(void)
{
    Fixture *fx = world_tdp();
    XmmuRegs regs = paging(MODE_4L);
    gpa_t table = fixture_entry(fx, &regs, LATE, 1) & XMMU_PAGE_MASK;

    lose(table);
    expect_event(LATE, XMMU_PROT_READ);
    expect_complete(table, true);
    expect_ok(LATE, XMMU_PROT_READ, LATE);
    world_free();
}

/* No huge leaf over pages that are missing: nobody would ask about them again. */
static void test_huge(gconstpointer data)
{
    const Case *c = data;
    XmmuRegs regs = world_for(data);
    Fixture *fx = world->fx;
    /* Where the guest's tables are, nothing is missing. */
    uint64_t others = c->tdp && c->mode != MODE_NONE;

    gpa_t size = c->mode == MODE_32 ? MIB(4) : MIB(2);

    if (c->mode != MODE_NONE) {
        fixture_map(fx, &regs, MIB(56), MIB(56) | PTE_PWU | PTE_PS, 2);
        fixture_map(fx, &regs, MIB(56) + size, (MIB(56) + size) | PTE_PWU | PTE_PS, 2);
    }
    lose(MIB(56) + KIB(64));
    expect_ok(MIB(56), XMMU_PROT_READ, MIB(56));
    expect_event(MIB(56) + KIB(64), XMMU_PROT_READ);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, ==, others);
    g_assert_cmpuint(fixture_stats(fx).pages_1g, ==, 0);
    expect_hit_after(MIB(56) + KIB(64), XMMU_PROT_READ, MIB(56) + KIB(64), true);
    /* Nothing is missing there. */
    expect_ok(MIB(56) + size, XMMU_PROT_READ, MIB(56) + size);
    g_assert_cmpuint(fixture_stats(fx).pages_2m, >=, others + 1);
    world_free();
}

/* A CPU does not set D for a write that it did not make. */
static void test_write(gconstpointer data)
{
    XmmuRegs regs = world_for(data);
    Fixture *fx = world->fx;
    unsigned size = fixture_entry_size(&regs);
    gpa_t at = fixture_entry(fx, &regs, LATE, 1);

    lose(LATE);
    expect_event(LATE, XMMU_PROT_WRITE);
    fixture_write(fx, at, LATE | PTE_PWU, size);
    expect_complete(LATE, true);
    g_assert_cmphex(fixture_read(fx, at, size) & PTE_D, ==, 0);
    expect_ok(LATE, XMMU_PROT_WRITE, LATE);
    g_assert_cmphex(fixture_read(fx, at, size) & PTE_D, ==, PTE_D);
    world_free();
}

/* ---- Another MMU ------------------------------------------------------------------- */

/* CR0.PG was cleared: forgotten, and the page finds nobody. */
static void test_paging_off(gconstpointer data)
{
    XmmuRegs regs = world_for(data);
    XmmuRegs off = fixture_regs(MODE_NONE, regs.cr3);
    uint64_t before;

    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    fixture_set(world->fx, 0, &off);
    g_assert_cmpuint(fixture_stats(world->fx).async_pf_dropped, ==, 1);
    /* And on again, to where it was: it stays forgotten. */
    fixture_set(world->fx, 0, &regs);
    before = faults();
    come(LATE, 0);
    g_assert_false(xmmu_apf_complete(world->fx->vcpu));
    g_assert_cmpuint(faults(), ==, before);
    g_assert_cmpuint(world->tellings, ==, 0);
    world_free();
}

/* The page was missed without paging and comes with paging: only a wakeup. */
static void test_paging_on(gconstpointer data)
{
    const Case *c = data;
    XmmuRegs on;

    world_for(data);
    on = paging(c->mode);
    fixture_map(world->fx, &on, LATE, MIB(40) | PTE_PWU, 1);
    paging(MODE_NONE);
    world->can = XMMU_APF_HALT;
    lose(LATE);
    expect_halt(LATE, XMMU_PROT_READ);
    fixture_set(world->fx, 0, &on);
    expect_complete(LATE, false);
    expect_ok(LATE, XMMU_PROT_READ, MIB(40));
    world_free();
}

/* Another role with the same tables; and back in the first one it would have fitted. */
static void test_role(gconstpointer data)
{
    XmmuRegs regs = world_for(data), other = regs;

    other.cr0 ^= XMMU_CR0_WP;
    lose(LATE);
    lose(LATE + KIB(4));
    fixture_map(world->fx, &regs, LATE + KIB(4), (LATE + KIB(4)) | PTE_PWU, 1);
    expect_event(LATE, XMMU_PROT_READ);
    expect_event(LATE + KIB(4), XMMU_PROT_READ);
    xmmu_vcpu_set_regs(world->fx->vcpu, &other);
    expect_complete(LATE, false);
    world->busy = false;
    xmmu_vcpu_set_regs(world->fx->vcpu, &regs);
    expect_complete(LATE + KIB(4), true);
    g_assert_cmpuint(world->tellings, ==, 2);
    world_free();
}

/* Another address space: for shadow tables another MMU, for TDP the same. */
static void test_cr3(gconstpointer data)
{
    const Case *c = data;
    XmmuRegs other;

    world_for(data);
    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    other = fixture_regs(c->mode, fixture_page(world->fx));
    fixture_map(world->fx, &other, LATE, MIB(40) | PTE_PWU, 1);
    fixture_load(world->fx, 0, other);
    expect_complete(LATE, c->tdp);
    expect_ok(LATE, XMMU_PROT_READ, MIB(40));
    world_free();
}

/* Missed in SMM, comes outside, and the other way round. */
static void test_smm(gconstpointer data)
{
    XmmuRegs regs = world_for(data), smm = regs;

    smm.smm = true;
    fixture_map(world->fx, &regs, LATE + KIB(4), (LATE + KIB(4)) | PTE_PWU, 1);
    lose(LATE);
    lose(LATE + KIB(4));
    xmmu_vcpu_set_regs(world->fx->vcpu, &smm);
    expect_event(LATE, XMMU_PROT_READ);
    xmmu_vcpu_set_regs(world->fx->vcpu, &regs);
    expect_complete(LATE, false);
    world->busy = false;
    expect_event(LATE + KIB(4), XMMU_PROT_READ);
    xmmu_vcpu_set_regs(world->fx->vcpu, &smm);
    expect_complete(LATE + KIB(4), false);
    world_free();
}

/* SMM has another page at the same address: it is not the one that is on its way. */
static void test_smm_page(void)
{
    Fixture *fx = world_tdp();
    XmmuRegs smm = fx->regs[0];

    smm.smm = true;
    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    xmmu_vcpu_set_regs(fx->vcpu, &smm);
    expect_event(LATE, XMMU_PROT_READ);
    world_free();
}

static void test_reset(void)
{
    Fixture *fx = world_tdp();
    uint64_t before;

    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    xmmu_apf_wake_all(fx->vcpu);
    xmmu_vcpu_reset(fx->vcpu);
    before = faults();
    come(LATE, 0);
    g_assert_false(xmmu_apf_complete(fx->vcpu));
    g_assert_cmpuint(faults(), ==, before);
    g_assert_cmpuint(world->tellings, ==, 0);
    world_free();
}

/* ---- Nested guests ------------------------------------------------------------------ */

typedef struct Nested {
    XmmuRegs l1, l2;
    XmmuNestedTdp tdp;
} Nested;

/* L1's tables put L2's page LATE at LATE + 4 KiB; L2 does not page. */
static Nested nested_world(void)
{
    Fixture *fx = world_tdp();
    Nested n = { .l2 = fixture_regs(MODE_NONE, 0) };

    n.l1 = paging(MODE_4L);
    n.tdp = (XmmuNestedTdp) {
        .format = XMMU_TDP_NPT, .root = fixture_page(fx), .asid = 1,
        .cr0 = n.l1.cr0, .cr4 = n.l1.cr4, .efer = n.l1.efer,
    };
    XmmuRegs tables = fixture_regs(MODE_4L, n.tdp.root);
    fixture_map(fx, &tables, LATE, (LATE + KIB(4)) | PTE_PWU, 1);
    return n;
}

static void enter(const Nested *n)
{
    g_assert_true(xmmu_vcpu_enter_nested(world->fx->vcpu, &n->tdp, &n->l2));
}

static void test_nested_same(void)
{
    Nested n = nested_world();
    gpa_t page = LATE + KIB(4);

    lose(page);
    enter(&n);
    expect_event(LATE, XMMU_PROT_READ);
    expect_complete(page, true);
    expect_ok(LATE, XMMU_PROT_READ, page);
    world_free();
}

/* Missed by L2, comes while L1 runs: only a wakeup.  Then L2 again. */
static void test_nested_left(void)
{
    Nested n = nested_world();
    gpa_t page = LATE + KIB(4);
    uint64_t before;

    lose(page);
    enter(&n);
    expect_event(LATE, XMMU_PROT_READ);
    xmmu_vcpu_leave_nested(world->fx->vcpu, &n.l1);
    expect_complete(page, false);
    /* L1 has something else there. */
    expect_ok(LATE, XMMU_PROT_READ, LATE);
    enter(&n);
    before = faults();
    expect_ok(LATE, XMMU_PROT_READ, page);
    g_assert_cmpuint(faults(), >, before);
    world_free();
}

/* Missed by L1, comes while L2 runs. */
static void test_nested_entered(void)
{
    Nested n = nested_world();

    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    enter(&n);
    expect_complete(LATE, false);
    expect_ok(LATE, XMMU_PROT_READ, LATE + KIB(4));
    world_free();
}

/* L1 runs another guest now: another ASID, another nested CR3. */
static void test_nested_other(void)
{
    Nested n = nested_world(), other = n;

    lose(LATE + KIB(4));
    enter(&n);
    expect_event(LATE, XMMU_PROT_READ);
    other.tdp.asid = 2;
    enter(&other);
    expect_complete(LATE + KIB(4), false);
    world_free();
}

/* L2 turning its paging off does not concern what L1 waits for. */
static void test_nested_paging_off(void)
{
    Nested n = nested_world();
    XmmuRegs paged = n.l1;

    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    n.l2 = paged;
    enter(&n);
    n.l2 = fixture_regs(MODE_NONE, 0);
    enter(&n);
    xmmu_vcpu_leave_nested(world->fx->vcpu, &n.l1);
    g_assert_cmpuint(fixture_stats(world->fx).async_pf_dropped, ==, 0);
    expect_complete(LATE, true);
    g_assert_cmpuint(world->tellings, ==, 1);
    world_free();
}

/* ---- What the guest is told ------------------------------------------------------------ */

/* One "page ready" at a time; a page that the guest was not told of needs none. */
static void test_one_at_a_time(void)
{
    Fixture *fx = world_tdp();
    uint32_t first, second;

    for (int i = 0; i < 3; i++) {
        lose(LATE + i * KIB(4));
    }
    first = expect_event(LATE, XMMU_PROT_READ);
    second = expect_event(LATE + KIB(4), XMMU_PROT_READ);
    g_assert_cmphex(first, !=, second);
    world->can = XMMU_APF_HALT;
    expect_halt(LATE + KIB(8), XMMU_PROT_READ);
    expect_complete(LATE, true);
    expect_complete(LATE + KIB(4), true);
    g_assert_cmpuint(world->tellings, ==, 1);
    expect_complete(LATE + KIB(8), true);
    g_assert_cmpuint(world->tellings, ==, 1);
    world->busy = false;
    xmmu_apf_complete(fx->vcpu);
    g_assert_cmpuint(world->tellings, ==, 2);
    g_assert_cmphex(world->told[0], ==, first);
    g_assert_cmphex(world->told[1], ==, second);
    /* Mapped once. */
    g_assert_cmpuint(fixture_stats(fx).async_pf_prefaulted, ==, 3);
    world_free();
}

/* After a migration: one token for all, when the guest can take it. */
static void test_wake_all(void)
{
    Fixture *fx = world_tdp();

    world->busy = true;
    xmmu_apf_wake_all(fx->vcpu);
    g_assert_false(xmmu_apf_complete(fx->vcpu));
    g_assert_cmpuint(world->tellings, ==, 0);
    world->busy = false;
    xmmu_apf_complete(fx->vcpu);
    world->busy = false;
    xmmu_apf_complete(fx->vcpu);
    g_assert_cmpuint(world->tellings, ==, 1);
    g_assert_cmphex(world->told[0], ==, XMMU_APF_ALL_TOKENS);
    world_free();
}

/* The guest turned its events off. */
static void test_clear(void)
{
    Fixture *fx = world_tdp();

    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    xmmu_apf_clear(fx->vcpu);
    come(LATE, 0);
    g_assert_false(xmmu_apf_complete(fx->vcpu));
    g_assert_cmpuint(world->tellings, ==, 0);
    /* The same page again, from the beginning. */
    lose(LATE);
    expect_event(LATE, XMMU_PROT_READ);
    world_free();
}

static void test_token_not_zero(void)
{
    Fixture *fx = world_tdp();

    fx->vcpu->apf.next_id = 0xffffe;
    for (int i = 0; i < 4; i++) {
        lose(LATE + i * KIB(4));
        g_assert_cmphex(expect_event(LATE + i * KIB(4), XMMU_PROT_READ) >> 12, !=, 0);
    }
    world_free();
}

/* ---- Limits -------------------------------------------------------------------------- */

static void test_limit(void)
{
    Fixture *fx = world_tdp();

    for (unsigned i = 0; i <= XMMU_APF_MAX; i++) {
        lose(LATE + i * KIB(4));
    }
    for (unsigned i = 0; i < XMMU_APF_MAX; i++) {
        expect_event(LATE + i * KIB(4), XMMU_PROT_READ);
    }
    expect_ok(LATE + XMMU_APF_MAX * KIB(4), XMMU_PROT_READ, LATE + XMMU_APF_MAX * KIB(4));
    g_assert_cmpuint(fixture_stats(fx).async_pf_waited, ==, 1);
    /* They are fetched by fewer threads, and all come. */
    for (unsigned i = 0; i < XMMU_APF_MAX; i++) {
        come(LATE + i * KIB(4), i + 1);
    }
    for (unsigned i = 0; i < XMMU_APF_MAX; i++) {
        world->busy = false;
        xmmu_apf_complete(fx->vcpu);
    }
    g_assert_cmpuint(world->tellings, ==, XMMU_APF_MAX);
    world_free();
}

static void test_no_memory(void)
{
    Fixture *fx = world_tdp();

    expect_ok(MIB(56), XMMU_PROT_READ, MIB(56));        /* the tables are there */
    lose(MIB(60));
    fx->fail_from = fx->allocations;
    fx->fail_to = fx->allocations + 1;
    expect_ok(MIB(60), XMMU_PROT_READ, MIB(60));
    g_assert_cmpuint(fixture_stats(fx).async_pf_waited, ==, 1);
    world_free();
}

/* The VM ends while pages are on their way. */
static void test_end(void)
{
    world_tdp();
    lose(LATE);
    lose(LATE + KIB(4));
    expect_event(LATE, XMMU_PROT_READ);
    expect_event(LATE + KIB(4), XMMU_PROT_READ);
    world_free();
}

/* ---- Threads ---------------------------------------------------------------------------- */

#define ROUNDS 2000

/* Pages come while the vCPU takes others in and its memory map changes. */
static void test_threads(void)
{
    Fixture *fx = world_tdp();
    uint64_t state = 88172645463325252ull;
    unsigned lost = 0;

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t r = fixture_random(&state);
        gpa_t page = LATE + (r % 32) * KIB(4);

        pthread_mutex_lock(&world->lock);
        if (r >> 32 & 1) {
            memset(world->missing, 0, sizeof(world->missing));
            pthread_cond_broadcast(&world->change);
        } else {
            world->missing[page >> XMMU_PAGE_SHIFT] = true;
        }
        world->tellings = 0;
        pthread_mutex_unlock(&world->lock);
        lost += touch(page, XMMU_PROT_READ).outcome == XMMU_HW_ASYNC;
        world->busy = false;
        xmmu_apf_complete(fx->vcpu);
        if ((r >> 33) % 16 == 0) {
            xmmu_apf_clear(fx->vcpu);
        }
        if (i % 16 == 0) {
            xmmu_vm_zap_all(fx->vm);
            rcu_service_drain();
        }
    }
    g_assert_cmpuint(lost, >, 0);
    world_free();
}

/* ---- Main ------------------------------------------------------------------------------- */

enum { PAGED = 1, UNPAGED = 2 };

static void add(const char *path, GTestDataFunc fn, unsigned which)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = g_strdup_printf("/async-pf/%s/%s", path, cases[i].name);

        if (cases[i].mode == MODE_NONE ? which & UNPAGED : which & PAGED) {
            g_test_add_data_func(name, &cases[i], fn);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("event", test_event, PAGED | UNPAGED);
    add("halt", test_halt, PAGED | UNPAGED);
    add("gone-again", test_gone_again, PAGED | UNPAGED);
    add("huge", test_huge, PAGED | UNPAGED);
    add("write", test_write, PAGED);
    add("paging-off", test_paging_off, PAGED);
    add("paging-on", test_paging_on, PAGED);
    add("role", test_role, PAGED);
    add("cr3", test_cr3, PAGED);
    add("smm", test_smm, PAGED);
    g_test_add_func("/async-pf/wait", test_wait);
    add("wait-pins", test_wait_pins, PAGED | UNPAGED);
    g_test_add_func("/async-pf/not-watched", test_not_watched);
    g_test_add_func("/async-pf/no-ram", test_no_ram);
    g_test_add_func("/async-pf/same-page", test_same_page);
    g_test_add_func("/async-pf/table", test_table);
    g_test_add_func("/async-pf/smm-page", test_smm_page);
    g_test_add_func("/async-pf/reset", test_reset);
    g_test_add_func("/async-pf/nested/same", test_nested_same);
    g_test_add_func("/async-pf/nested/left", test_nested_left);
    g_test_add_func("/async-pf/nested/entered", test_nested_entered);
    g_test_add_func("/async-pf/nested/other", test_nested_other);
    g_test_add_func("/async-pf/nested/paging-off", test_nested_paging_off);
    g_test_add_func("/async-pf/one-at-a-time", test_one_at_a_time);
    g_test_add_func("/async-pf/wake-all", test_wake_all);
    g_test_add_func("/async-pf/clear", test_clear);
    g_test_add_func("/async-pf/token-not-zero", test_token_not_zero);
    g_test_add_func("/async-pf/limit", test_limit);
    g_test_add_func("/async-pf/no-memory", test_no_memory);
    g_test_add_func("/async-pf/end", test_end);
    g_test_add_func("/async-pf/threads", test_threads);
    return g_test_run();
}
