/*
 * xmmu unit tests: a VM to test with
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See fixture.h.
 */
#include <string.h>
#include <sys/mman.h>

#include "fixture.h"

/* ---- Services -------------------------------------------------------- */

static uint64_t service_read_bus(void *opaque, unsigned as_id, gpa_t gpa, unsigned size)
{
    Fixture *fx = opaque;

    g_assert_cmpuint(as_id, <, XMMU_AS_COUNT);
    g_assert_cmpuint(gpa % size, ==, 0);
    g_atomic_int_inc(&fx->bus_reads);
    return size == 4 ? (uint32_t)fx->bus_value : fx->bus_value;
}

static void service_flush_all(void *opaque)
{
    Fixture *fx = opaque;

    g_atomic_int_inc(&fx->flushes);
}

static void service_flush_vcpu(void *opaque, unsigned index)
{
    Fixture *fx = opaque;

    g_assert_cmpuint(index, <, FIXTURE_CPUS);
    g_atomic_int_set(&fx->nudged[index], 1);
}

static void service_guest_written(void *opaque, hpa_t hpa, unsigned size)
{
    Fixture *fx = opaque;

    g_assert_cmphex(hpa - (uintptr_t)fx->ram, <, fx->ram_size);
    g_assert_cmpuint(hpa % size, ==, 0);
    g_atomic_int_inc(&fx->written);
}

static void service_dirty_dropped(void *opaque, hpa_t hpa, const uint64_t *bits)
{
    Fixture *fx = opaque;

    if (fx->dropped) {
        fx->dropped(fx->dropped_opaque, hpa, bits);
    }
}

static void service_dirty_missed(void *opaque, hpa_t hpa)
{
    Fixture *fx = opaque;

    g_error("a write to gpa %#" G_GINT64_MODIFIER "x is not in the log",
            hpa - (uintptr_t)fx->ram);
}

static bool service_may_allocate(void *opaque, size_t size)
{
    Fixture *fx = opaque;
    int n = g_atomic_int_add(&fx->allocations, 1) + 1;

    g_assert_cmpuint(size, >, 0);
    return n < fx->fail_from || n > fx->fail_to;
}

const XmmuServices fixture_services = {
    .rcu_read_lock = rcu_service_lock,
    .rcu_read_unlock = rcu_service_unlock,
    .rcu_call = rcu_service_call,
    .read_bus = service_read_bus,
    .flush_all = service_flush_all,
    .flush_vcpu = service_flush_vcpu,
    .guest_written = service_guest_written,
    .may_allocate = service_may_allocate,
    .dirty_dropped = service_dirty_dropped,
    .dirty_missed = service_dirty_missed,
};

/* ---- Life ------------------------------------------------------------ */

XmmuConfig fixture_config(void)
{
    return (XmmuConfig) {
        .tdp = true, .tdp_format = XMMU_TDP_NPT, .tdp_levels = 4, .huge_pages = true,
        .prev_roots = 3,
    };
}

XmmuConfig fixture_shadow_config(void)
{
    XmmuConfig config = fixture_config();

    config.tdp = false;
    return config;
}

static uint8_t *guest_memory(uint64_t size)
{
    uint8_t *p = mmap(NULL, size + GIB(1), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *aligned;

    g_assert_true(p != MAP_FAILED);
    aligned = (uint8_t *)(((uintptr_t)p + GIB(1) - 1) & ~(GIB(1) - 1));
    if (aligned > p) {
        munmap(p, aligned - p);
    }
    munmap(aligned + size, p + GIB(1) - aligned);
    return aligned;
}

Fixture *fixture_new_caps(const XmmuConfig *config, uint64_t ram_size,
                          const XmmuCpuCaps *caps)
{
    Fixture *fx = g_new0(Fixture, 1);
    XmmuRegion ram = { .gfn = 0, .npages = ram_size >> XMMU_PAGE_SHIFT };

    fx->config = *config;
    fx->caps = *caps;
    fx->ram_size = ram_size;
    fx->ram = guest_memory(ram_size);
    fx->next_page = MIB(1);
    fx->bus_value = ~(uint64_t)0;
    fx->vm = xmmu_vm_new(config, &fixture_services, fx);
    ram.hpa = (uintptr_t)fx->ram;
    for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
        xmmu_vm_set_memory(fx->vm, as, &ram, 1);
    }
    fx->vcpu = fixture_add_cpu(fx, 0);
    return fx;
}

Fixture *fixture_new(const XmmuConfig *config, uint64_t ram_size)
{
    XmmuCpuCaps caps = { .maxphyaddr = 40, .page1g = true, .pse36 = true };

    return fixture_new_caps(config, ram_size, &caps);
}

XmmuVcpu *fixture_add_cpu(Fixture *fx, unsigned index)
{
    XmmuRegs regs = fixture_regs(MODE_NONE, 0);

    g_assert_cmpuint(index, <, FIXTURE_CPUS);
    fx->cpus[index] = xmmu_vcpu_new(fx->vm, index, &fx->caps);
    fixture_set(fx, index, &regs);
    return fx->cpus[index];
}

void fixture_free(Fixture *fx)
{
    XmmuStats stats;

    for (unsigned i = 0; i < FIXTURE_CPUS; i++) {
        if (fx->cpus[i]) {
            xmmu_vcpu_free(fx->cpus[i]);
        }
    }
    xmmu_vm_zap_all(fx->vm);
    rcu_service_drain();
    xmmu_vm_stats(fx->vm, &stats);
    /* TDP keeps its (empty) roots, one for each address space. */
    g_assert_cmpuint(stats.tables, <=, fx->config.tdp ? XMMU_AS_COUNT : 0);
    g_assert_cmpuint(stats.pages_4k + stats.pages_2m + stats.pages_1g, ==, 0);
    xmmu_vm_free(fx->vm);
    rcu_service_drain();
    munmap(fx->ram, fx->ram_size);
    g_free(fx);
}

void fixture_add_modes(const char *path, GTestDataFunc check)
{
    static const unsigned modes[] = { MODE_32, MODE_PAE, MODE_4L, MODE_5L };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        char *name = g_strdup_printf("%s/%u-level", path, modes[i]);

        g_test_add_data_func(name, GUINT_TO_POINTER(modes[i]), check);
        g_free(name);
    }
}

unsigned fixture_stride(void)
{
    const char *text = g_getenv("XMMU_TEST_STRIDE");

    return text ? MAX(g_ascii_strtoull(text, NULL, 10), 1) : 1;
}

/* Marsaglia's xorshift with 64 bits. */
uint64_t fixture_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- Memory ----------------------------------------------------------- */

uint64_t fixture_read(const Fixture *fx, gpa_t gpa, unsigned size)
{
    const uint8_t *host = fx->ram + gpa;

    g_assert_cmpuint(gpa + size, <=, fx->ram_size);
    g_assert_true(size == 4 || size == 8);
    /* Atomic, as vCPUs may be at it. */
    return size == 4 ? __atomic_load_n((const uint32_t *)host, __ATOMIC_ACQUIRE)
                     : __atomic_load_n((const uint64_t *)host, __ATOMIC_ACQUIRE);
}

void fixture_write(Fixture *fx, gpa_t gpa, uint64_t value, unsigned size)
{
    uint8_t *host = fx->ram + gpa;

    g_assert_cmpuint(gpa + size, <=, fx->ram_size);
    g_assert_true(size == 4 || size == 8);
    if (size == 4) {
        __atomic_store_n((uint32_t *)host, (uint32_t)value, __ATOMIC_RELEASE);
    } else {
        __atomic_store_n((uint64_t *)host, value, __ATOMIC_RELEASE);
    }
}

gpa_t fixture_page(Fixture *fx)
{
    gpa_t page = fx->next_page;

    fx->next_page += XMMU_PAGE_SIZE;
    g_assert_cmpuint(fx->next_page, <=, fx->ram_size);
    memset(fx->ram + page, 0, XMMU_PAGE_SIZE);
    return page;
}

/* ---- Guest tables ------------------------------------------------------- */

XmmuRegs fixture_regs(unsigned levels, gpa_t root)
{
    XmmuRegs regs = { .cr0 = XMMU_CR0_PE | XMMU_CR0_WP, .cr3 = root };

    if (levels) {
        regs.cr0 |= XMMU_CR0_PG;
    }
    if (levels == MODE_32) {
        regs.cr4 |= XMMU_CR4_PSE;
    }
    if (levels >= MODE_PAE) {
        regs.cr4 |= XMMU_CR4_PAE;
        regs.efer |= XMMU_EFER_NXE;
    }
    if (levels >= MODE_4L) {
        regs.efer |= XMMU_EFER_LME | XMMU_EFER_LMA;
    }
    if (levels == MODE_5L) {
        regs.cr4 |= XMMU_CR4_LA57;
    }
    return regs;
}

unsigned fixture_levels(const XmmuRegs *regs)
{
    if (!(regs->cr0 & XMMU_CR0_PG)) {
        return MODE_NONE;
    }
    if (!(regs->cr4 & XMMU_CR4_PAE)) {
        return MODE_32;
    }
    if (!(regs->efer & XMMU_EFER_LMA)) {
        return MODE_PAE;
    }
    return regs->cr4 & XMMU_CR4_LA57 ? MODE_5L : MODE_4L;
}

unsigned fixture_entry_size(const XmmuRegs *regs)
{
    return fixture_levels(regs) == MODE_32 ? 4 : 8;
}

void fixture_set(Fixture *fx, unsigned cpu, const XmmuRegs *regs)
{
    fx->regs[cpu] = *regs;
    xmmu_vcpu_flushed(fx->cpus[cpu]);
    xmmu_vcpu_load_cr3(fx->cpus[cpu], regs, false);
}

bool fixture_try_load(Fixture *fx, unsigned cpu, XmmuRegs regs)
{
    if (fixture_levels(&regs) == MODE_PAE) {
        for (int i = 0; i < 4; i++) {
            regs.pdpte[i] = fixture_read(fx, (regs.cr3 & 0xffffffe0) + i * 8, 8);
        }
        if (xmmu_check_pdptes(&fx->caps, regs.pdpte)) {
            return false;
        }
    }
    fixture_set(fx, cpu, &regs);
    return true;
}

void fixture_load(Fixture *fx, unsigned cpu, XmmuRegs regs)
{
    g_assert_true(fixture_try_load(fx, cpu, regs));
}

static gpa_t entry_address(const XmmuRegs *regs, gpa_t table, gva_t gva, int level)
{
    unsigned bits = fixture_entry_size(regs) == 4 ? 10 : 9;
    unsigned index = gva >> (12 + bits * (level - 1)) & ((1u << bits) - 1);

    if (fixture_levels(regs) == MODE_PAE && level == 3) {
        index &= 3;
    }
    return table + index * fixture_entry_size(regs);
}

gpa_t fixture_entry(Fixture *fx, const XmmuRegs *regs, gva_t gva, int level)
{
    int top = fixture_levels(regs);
    unsigned size = fixture_entry_size(regs);
    gpa_t table = regs->cr3 & (size == 4 ? 0xfffff000 : 0x000fffffffffffe0);

    for (int l = top; ; l--) {
        gpa_t at = entry_address(regs, table, gva, l);
        uint64_t entry;

        if (l == level) {
            return at;
        }
        entry = fixture_read(fx, at, size);
        if (!(entry & PTE_P)) {
            entry = fixture_page(fx) | PTE_P;
            entry |= top == MODE_PAE && l == 3 ? 0 : PTE_W | PTE_U;
            fixture_write(fx, at, entry, size);
        }
        table = entry & 0x000ffffffffff000;
    }
}

void fixture_map(Fixture *fx, const XmmuRegs *regs, gva_t gva, uint64_t entry, int level)
{
    fixture_write(fx, fixture_entry(fx, regs, gva, level), entry,
                  fixture_entry_size(regs));
}

/* ---- A guest that writes its own tables ------------------------------------ */

Fixture *fixture_new_guest(unsigned mode, XmmuRegs *regs)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx = fixture_new(&config, FIXTURE_GUEST_RAM);

    *regs = fixture_regs(mode, fixture_page(fx));
    return fx;
}

void fixture_map_window(Fixture *fx, const XmmuRegs *regs)
{
    uint64_t size = fixture_levels(regs) == MODE_32 ? MIB(4) : MIB(2);

    for (gpa_t gpa = 0; gpa < fx->ram_size; gpa += size) {
        fixture_map(fx, regs, FIXTURE_WINDOW + gpa, gpa | PTE_P | PTE_W | PTE_PS, 2);
    }
}

/* ---- Accesses ------------------------------------------------------------ */

XmmuHwResult fixture_access_size(Fixture *fx, unsigned cpu, gva_t gva, unsigned how,
                                 unsigned size)
{
    XmmuAccess access = {
        .gva = gva, .want = how & XMMU_PROT_RWX, .user = how & ACC_USER,
        .smap_off = how & ACC_AC,
    };
    XmmuHwResult result;

    xmmu_hw_translate(fx->cpus[cpu], &access, size, &result);
    return result;
}

XmmuHwResult fixture_access(Fixture *fx, unsigned cpu, gva_t gva, unsigned how)
{
    return fixture_access_size(fx, cpu, gva, how, 8);
}

void fixture_store(Fixture *fx, unsigned cpu, gva_t gva, uint64_t value, unsigned size)
{
    XmmuHwResult r = fixture_access_size(fx, cpu, gva, XMMU_PROT_WRITE, size);

    g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
    if (r.outcome == XMMU_HW_OK) {
        g_assert_cmpuint(r.hpa, ==, (uintptr_t)fx->ram + r.gpa);
    }
    fixture_write(fx, r.gpa, value, size);
}

void fixture_guest_write(Fixture *fx, const XmmuRegs *regs, gpa_t gpa, uint64_t value)
{
    fixture_store(fx, 0, FIXTURE_WINDOW + gpa, value, fixture_entry_size(regs));
}

void fixture_expect_ok(Fixture *fx, gva_t gva, unsigned how, gpa_t gpa)
{
    XmmuHwResult r = fx->last = fixture_access(fx, 0, gva, how);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    g_assert_cmphex(r.gpa, ==, gpa);
    g_assert_cmphex(r.hpa, ==, (uintptr_t)fx->ram + gpa);
    g_assert_cmphex(r.prot & how & XMMU_PROT_RWX, ==, how & XMMU_PROT_RWX);
}

void fixture_expect_fault(Fixture *fx, gva_t gva, unsigned how, uint32_t error_code)
{
    XmmuHwResult r = fx->last = fixture_access(fx, 0, gva, how);

    g_assert_cmpint(r.outcome, ==, XMMU_HW_EXCEPTION);
    g_assert_cmpint(r.exception.vector, ==, XMMU_EXC_PF);
    g_assert_cmphex(r.exception.error_code, ==, error_code);
    g_assert_cmphex(r.exception.cr2, ==, gva);
}

XmmuStats fixture_stats(Fixture *fx)
{
    XmmuStats stats;

    xmmu_vm_stats(fx->vm, &stats);
    return stats;
}

/* ---- What the guest wrote ---------------------------------------------------- */

void fixture_logged(void *opaque, hpa_t hpa, const uint64_t *bits)
{
    FixtureLog *log = opaque;

    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        if (bits[i / 64] >> (i % 64) & 1) {
            uint64_t offset = hpa + i * XMMU_PAGE_SIZE - (uintptr_t)log->fx->ram;

            g_assert_cmphex(offset, <, log->fx->ram_size);
            log->count += !log->page[offset >> XMMU_PAGE_SHIFT];
            log->page[offset >> XMMU_PAGE_SHIFT] = 1;
        }
    }
}

FixtureLog fixture_take_log(Fixture *fx)
{
    FixtureLog log = { .fx = fx };
    uint64_t pages = fx->ram_size >> XMMU_PAGE_SHIFT;
    hpa_t ram = (uintptr_t)fx->ram;

    g_assert_cmpuint(pages, <=, G_N_ELEMENTS(log.page));
    if (fx->config.dirty_log == XMMU_DIRTY_RING) {
        xmmu_vm_dirty_reap(fx->vm, fixture_logged, &log);
    } else {
        xmmu_vm_dirty_sync(fx->vm, ram, pages, fixture_logged, &log);
        xmmu_vm_dirty_clear(fx->vm, ram, pages);
    }
    return log;
}

const FixtureLogMode fixture_log_modes[FIXTURE_LOG_MODES] = {
    { "wp/npt", true, XMMU_TDP_NPT, XMMU_DIRTY_WP },
    { "wp/ept", true, XMMU_TDP_EPT, XMMU_DIRTY_WP },
    { "wp/shadow", false, XMMU_TDP_NPT, XMMU_DIRTY_WP },
    { "dbit/npt", true, XMMU_TDP_NPT, XMMU_DIRTY_DBIT },
    { "dbit/ept", true, XMMU_TDP_EPT, XMMU_DIRTY_DBIT },
    { "dbit/shadow", false, XMMU_TDP_NPT, XMMU_DIRTY_DBIT },
    { "ring/npt", true, XMMU_TDP_NPT, XMMU_DIRTY_RING },
    { "ring/ept", true, XMMU_TDP_EPT, XMMU_DIRTY_RING },
    { "ring/shadow", false, XMMU_TDP_NPT, XMMU_DIRTY_RING },
};

XmmuConfig fixture_log_config(const FixtureLogMode *mode, unsigned ring)
{
    XmmuConfig config = fixture_config();

    config.tdp = mode->tdp;
    config.tdp_format = mode->format;
    config.dirty_log = mode->log;
    config.dirty_ring_size = mode->log == XMMU_DIRTY_RING ? ring : 0;
    return config;
}

/* ---- Our tables ------------------------------------------------------------ */

uint64_t fixture_raw(const Fixture *fx, hpa_t root, int root_level, uint64_t frame,
                     int level)
{
    uint64_t large = (uint64_t)1 << 7;
    hpa_t table = root;

    (void)fx;
    for (int l = root_level; table; l--) {
        uint64_t entry = ((uint64_t *)(uintptr_t)table)[xmmu_level_index(frame, l)];

        if (l == level) {
            return entry;
        }
        if (!(entry & 7) || (entry & large)) {
            return 0;
        }
        table = entry & 0x0007fffffffff000;
    }
    return 0;
}

hpa_t fixture_root(Fixture *fx, unsigned cpu)
{
    XmmuRootInfo info;
    size_t n = xmmu_vcpu_roots(fx->cpus[cpu], &info, 1);

    g_assert_cmpuint(n, ==, 1);
    return info.hpa;
}
