/*
 * xmmu unit tests: a VM whose hardware walks the module's tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See native.h.
 */
#include <errno.h>
#include "../../accel/xmmu/mmu/vm.h"
#include "native.h"

/* ---- Services ---------------------------------------------------------------- */

static void service_flush_all(void *opaque)
{
    Fixture *fx = opaque;

    fixture_services.flush_all(opaque);
    xmmu_mirror_flush(fx->mirror);
}

static int service_max_level(void *opaque, hpa_t hpa, int level)
{
    Fixture *fx = opaque;

    return xmmu_mirror_max_level(fx->mirror, hpa, level);
}

static void service_harvest(void *opaque, XmmuHarvest *list, size_t count)
{
    Fixture *fx = opaque;

    xmmu_mirror_harvest(fx->mirror, list, count);
}

bool native_hint_dirty(void *opaque)
{
    Fixture *fx = opaque;
    Native *n = fx->native;

    return xmmu_write_logs_hint(&n->logs);
}

/* Those of the fixture, and the mirror's. */
static XmmuServices native_services(const Native *n)
{
    XmmuServices services = fixture_services;

    services.flush_all = service_flush_all;
    services.entry_changed = xmmu_mirror_changed;
    services.table_gone = xmmu_mirror_gone;
    services.max_level = service_max_level;
    services.harvest = service_harvest;
    services.hint_dirty = n->logs_writes ? native_hint_dirty : NULL;
    return services;
}

/* ---- Life -------------------------------------------------------------------- */

static void written(void *opaque, hpa_t hpa, uint64_t size)
{
    Native *n = opaque;

    g_assert_cmphex(hpa - (uintptr_t)n->fx->ram, <, n->fx->ram_size);
    xmmu_vm_dirty_mark(n->fx->vm, hpa, size >> XMMU_PAGE_SHIFT);
    __atomic_fetch_add(&n->written, size, __ATOMIC_RELAXED);
}

static const XmmuMirrorOps mirror_ops = { .written = written };
static const XmmuMirrorOps harvested_ops = {
    .written = written, .written_before = written,
};

uint32_t native_vendor(const XmmuConfig *config)
{
    return config->tdp && config->tdp_format == XMMU_TDP_EPT ? XMMU_VENDOR_VMX
                                                             : XMMU_VENDOR_SVM;
}

Native *native_for(Fixture *fx)
{
    Native *n = g_new0(Native, 1);
    char *error = NULL;

    n->fx = fx;
    n->device = xmmu_device_open(&fake_device_ops, XMMU_DEVICE_PATH, &error);
    g_assert_no_errno(error ? -1 : 0);
    n->mirror = xmmu_mirror_new(n->device, &fixture_services,
                                fx->config.dirty_log == XMMU_DIRTY_DBIT ? &harvested_ops
                                                                        : &mirror_ops,
                                n, &error);
    g_assert_null(error);
    g_assert_true(xmmu_mirror_add_ram(n->mirror, (uintptr_t)fx->ram, fx->ram_size,
                                      XMMU_PAGE_SIZE, false, &error));
    fx->mirror = n->mirror;
    fx->native = n;
    n->logs_writes = xmmu_write_logs_useful(n->device, &fx->config);
    if (n->logs_writes) {
        xmmu_write_logs_init(&n->logs, fx->vm, n->device, xmmu_mirror_fd(n->mirror));
    }
    n->services = native_services(n);
    fx->vm->services = &n->services;
    for (unsigned i = 0; i < FIXTURE_CPUS; i++) {
        if (fx->cpus[i]) {
            native_add_cpu(n, i);
        }
    }
    return n;
}

Native *native_new_on(const XmmuConfig *config, uint64_t ram_size)
{
    return native_for(fixture_new(config, ram_size));
}

Native *native_new(const XmmuConfig *config, uint64_t ram_size)
{
    fake_reset(native_vendor(config), XMMU_FEATURE_AD | XMMU_FEATURE_EXECONLY);
    return native_new_on(config, ram_size);
}

void native_add_cpu(Native *n, unsigned index)
{
    char *error = NULL;

    if (!n->fx->cpus[index]) {
        fixture_add_cpu(n->fx, index);
    }
    g_assert_true(xmmu_device_new_vcpu(n->device, xmmu_mirror_fd(n->mirror), index,
                                       &n->cpus[index], &error));
    if (n->logs_writes) {
        xmmu_write_log_add(&n->logs, &n->log[index], &n->cpus[index]);
    }
    n->made[index] = true;
}

void native_free(Native *n)
{
    Fixture *fx = n->fx;

    for (unsigned i = 0; i < FIXTURE_CPUS; i++) {
        if (n->made[i]) {
            if (n->logs_writes) {
                xmmu_write_log_remove(&n->logs, &n->log[i]);
            }
            xmmu_device_close_vcpu(&n->cpus[i]);
            xmmu_mirror_forget_vcpu(n->mirror, i);
        }
    }
    fixture_free(fx);
    rcu_service_drain();
    xmmu_mirror_free(n->mirror);
    rcu_service_drain();
    xmmu_device_close(n->device);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    g_assert_cmpuint(fake_charged_pages(), ==, 0);
    g_free(n);
}

/* ---- Running ----------------------------------------------------------------- */

static uint8_t prot_of(uint32_t access)
{
    return access & XMMU_ACCESS_WRITE ? XMMU_PROT_WRITE
         : access & XMMU_ACCESS_EXEC ? XMMU_PROT_EXEC : XMMU_PROT_READ;
}

/* True: run again. */
static bool handle_fault(Native *n, unsigned cpu, const struct xmmu_run *run,
                         uint32_t want, NativeEnd *end)
{
    XmmuFault fault = { .size = 8 };
    XmmuPfResult result;

    fault.access.want = prot_of(want);
    rcu_service_lock();
    if (run->exit.reason == XMMU_EXIT_MEMORY) {
        fault.tdp_gpa = run->exit.memory.gpa;
        result = xmmu_tdp_fault(n->fx->cpus[cpu], &fault);
    } else {
        g_assert_cmpuint(run->exit.reason, ==, XMMU_EXIT_EXCEPTION);
        fault.access.gva = run->exit.exception.address;
        fault.access.user = want & XMMU_ACCESS_USER;
        result = xmmu_shadow_fault(n->fx->cpus[cpu], &fault);
    }
    rcu_service_unlock();
    switch (result) {
    case XMMU_PF_EMULATE:
        *end = NATIVE_EMULATE;
        return false;
    case XMMU_PF_GUEST:
        *end = NATIVE_GUEST;
        return false;
    case XMMU_PF_NOMEM:
        *end = NATIVE_NOMEM;
        return false;
    case XMMU_PF_RING_FULL:
        xmmu_vcpu_dirty_spill(n->fx->cpus[cpu], n->spilled, n->spilled_opaque);
        return true;
    default:
        return true;
    }
}

static int run_device(Native *n, unsigned cpu)
{
    struct xmmu_run *run = n->cpus[cpu].run;
    bool logs = n->logs_writes && xmmu_write_log_enter(&n->logs, &n->log[cpu]);
    int ret;

    run->controls.want = logs ? XMMU_WANT_WRITE_LOG : 0;
    run->commit |= XMMU_GROUP_CONTROLS;
    ret = xmmu_device_run(&n->cpus[cpu]);
    xmmu_write_log_leave(&n->log[cpu]);
    return ret;
}

static void give_work(struct xmmu_run *run, const NativeWork *work)
{
    uint64_t seed = work->seed ? work->seed : 1;

    run->gprs.gpr[FAKE_COUNT] = work->count;
    run->gprs.gpr[FAKE_WANT] = work->want;
    run->gprs.gpr[FAKE_BASE] = work->base;
    run->gprs.gpr[FAKE_PAGES] = work->pages;
    run->gprs.gpr[FAKE_SEED] = seed;
    run->commit |= XMMU_GROUP_GPRS;
}

NativeEnd native_run(Native *n, unsigned cpu, const NativeWork *work, char **error)
{
    struct xmmu_run *run = n->cpus[cpu].run;
    NativeEnd end = NATIVE_DONE;

    run->wanted = XMMU_GROUP_GPRS;
    give_work(run, work);
    for (;;) {
        char *text = NULL;
        int ret;

        if (xmmu_mirror_enter(n->mirror, n->fx->cpus[cpu], &run->controls.root, &text)) {
            g_assert_nonnull(text);
            if (!error) {
                g_error("%s", text);
            }
            *error = text;
            return NATIVE_FAILED;
        }
        ret = run_device(n, cpu);
        if (ret == -EINTR || (error && ret && ret == -fake.fail_errno)) {
            continue;           /* nothing was committed */
        }
        g_assert_cmpint(ret, ==, 0);
        if (run->exit.reason == XMMU_EXIT_HLT) {
            return NATIVE_DONE;
        }
        if (run->exit.reason == XMMU_EXIT_LOG_FULL) {
            xmmu_write_log_renew(&n->logs, &n->log[cpu]);
            continue;
        }
        if (!handle_fault(n, cpu, run, work->want, &end)) {
            return end;
        }
    }
}

void native_access(Native *n, unsigned cpu, uint64_t address, uint32_t want)
{
    NativeWork work = { .count = 1, .want = want, .base = address, .pages = 1 };

    g_assert_cmpint(native_run(n, cpu, &work, NULL), ==, NATIVE_DONE);
}

/* ---- Comparing --------------------------------------------------------------- */

/* What the module's entry should allow. */
static uint32_t expected_access(const XmmuHostFormat *format, XmmuSpte spte)
{
    uint64_t raw = spte.raw;
    uint32_t access = 0;

    if (format == &xmmu_host_ept) {
        return (raw & 1 ? XMMU_ACCESS_READ : 0) | (raw & 2 ? XMMU_ACCESS_WRITE : 0) |
               (raw & 4 ? XMMU_ACCESS_EXEC : 0);
    }
    access = XMMU_ACCESS_READ | (raw & PTE_W ? XMMU_ACCESS_WRITE : 0) |
             (raw & PTE_NX ? 0 : XMMU_ACCESS_EXEC);
    if (format == &xmmu_host_npt) {
        return access | XMMU_ACCESS_USER;
    }
    return access | (raw & PTE_U ? XMMU_ACCESS_USER : 0) |
           (uint32_t)(raw >> 59 & 15) << XMMU_ACCESS_PKEY_SHIFT;
}

static void compare_table(Native *n, XmmuTable *table, uint32_t id)
{
    const XmmuHostFormat *format = table->vm->format;
    unsigned count = table->role.pae_root ? 4 : XMMU_ENTRIES;
    uint32_t ad = XMMU_ACCESS_ACCESSED | XMMU_ACCESS_DIRTY;

    for (unsigned i = 0; i < count; i++) {
        XmmuSpte spte = xmmu_spte_read(&table->spt[i]);
        FakeEntry entry;

        g_assert_true(fake_entry(xmmu_mirror_fd(n->mirror), id, i, &entry));
        if (!xmmu_spte_present(format, spte)) {
            g_assert_cmphex(entry.access, ==, 0);
            continue;
        }
        g_assert_cmphex(entry.access, !=, 0);
        g_assert_cmpint(entry.is_leaf, ==,
                        xmmu_spte_is_leaf(format, spte, table->role.level));
        if (entry.is_leaf) {
            g_assert_cmphex(entry.address, ==, xmmu_spte_hpa(spte));
            g_assert_cmphex(entry.access & ~ad, ==, expected_access(format, spte));
            if (spte.raw & format->dirty) {
                /* Set when it was told, and only cleared when the core's is. */
                continue;
            }
        } else {
            compare_table(n, xmmu_table_at(xmmu_spte_hpa(spte)), entry.table);
        }
    }
}

/* The pages that the module's entries map. */
static uint64_t mapped_pages(Native *n)
{
    g_autoptr(GHashTable) pages = g_hash_table_new(NULL, NULL);
    int vm = xmmu_mirror_fd(n->mirror);

    for (uint32_t id = fake_next_table(vm, 0); id != UINT32_MAX;
         id = fake_next_table(vm, id + 1)) {
        for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
            FakeEntry entry;

            fake_entry(vm, id, i, &entry);
            for (uint64_t p = 0; entry.is_leaf && p < fake_pages(vm, id); p++) {
                g_hash_table_add(pages, (void *)(entry.address + p * XMMU_PAGE_SIZE));
            }
        }
    }
    return g_hash_table_size(pages);
}

void native_check(Native *n)
{
    g_assert_true(xmmu_mirror_flush(n->mirror));
    for (unsigned i = 0; i < FIXTURE_CPUS; i++) {
        XmmuTable *root = n->made[i] ? n->fx->cpus[i]->mmu->root.table : NULL;
        char *error = NULL;
        uint32_t id;

        if (!root || xmmu_table_stale(root)) {
            continue;
        }
        g_assert_cmpint(xmmu_mirror_enter(n->mirror, n->fx->cpus[i], &id, &error), ==,
                        XMMU_MIRROR_OK);
        compare_table(n, root, id);
    }
    g_assert_cmpuint(fake_pinned_pages(), ==, mapped_pages(n));
    g_assert_cmpuint(fake_pinned_pages(), ==, fake_charged_pages());
}
