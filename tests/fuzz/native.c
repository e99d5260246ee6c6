/*
 * xmmu fuzz: the native engine's mirror
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns runs in which the core's tables change in every way there is, in TDP and shadow
 * paging, while the module refuses this and that.  After each step the module's tables
 * (its own code, tests/fake/) must say what the core's say.  Where writes are logged a
 * copy of memory is kept by what the log tells, and must be the memory.
 */
#include <errno.h>
#include <string.h>
#include "../../accel/xmmu/mmu/tdp.h"
#include "../../accel/xmmu/mmu/tdp_split.h"
#include "../../accel/xmmu/mmu/vm.h"
#include "../unit/native.h"
#include "native_run.h"

#define RAM_SIZE    MIB(16)
#define RAM_PAGES   (RAM_SIZE >> XMMU_PAGE_SHIFT)
#define STEPS       64
#define MAPPED      64          /* pages of the guest's own tables' range */
#define MAPPED_AT   0x400000

typedef struct Run {
    const uint8_t *data;
    size_t left;
    Native *n;
    unsigned cpus;
    bool shadow;
    bool disturbed;             /* something may have been refused */
    XmmuRegs regs;
    bool can_log, logs;         /* writes to all of RAM */
    FixtureLog told;
    uint64_t copy[RAM_PAGES];   /* the words that vCPUs count up */
} Run;

static uint8_t byte(Run *run)
{
    if (!run->left) {
        return 0;
    }
    run->left--;
    return *run->data++;
}

static unsigned below(Run *run, unsigned limit)
{
    return (byte(run) | byte(run) << 8) % limit;
}

/* ---- The VM ------------------------------------------------------------------ */

/* By the last byte, which is a step's, too.  Not in shadow paging: the fixture writes the
 * guest's tables, and no log says so. */
static void choose_log(Run *run, XmmuConfig *config)
{
    static const XmmuDirtyLog logs[] = { XMMU_DIRTY_WP, XMMU_DIRTY_DBIT, XMMU_DIRTY_RING };
    uint8_t how = run->left ? run->data[run->left - 1] : 0;

    run->can_log = how & 3;
    if (run->can_log) {
        config->dirty_log = logs[(how & 3) - 1];
        config->dirty_ring_size = config->dirty_log == XMMU_DIRTY_RING ? 8 << (how >> 6)
                                                                       : 0;
    }
}

static void begin_tdp(Run *run, uint8_t shape)
{
    XmmuConfig config = fixture_config();

    choose_log(run, &config);
    config.tdp_format = shape & 1 ? XMMU_TDP_EPT : XMMU_TDP_NPT;
    config.huge_pages = shape & 2;
    config.nx_huge_pages = shape & 4;
    config.tdp_levels = shape & 8 ? 5 : 4;
    fake_reset(native_vendor(&config),
               XMMU_FEATURE_AD | XMMU_FEATURE_EXECONLY |
               (config.tdp_format == XMMU_TDP_EPT && shape & 8 ? XMMU_FEATURE_WRITE_LOG
                                                                : 0));
    fake.scattered = shape & 16;
    run->n = native_new_on(&config, RAM_SIZE);
}

static void begin_shadow(Run *run, uint8_t shape)
{
    static const unsigned modes[] = { MODE_32, MODE_PAE, MODE_4L, MODE_5L };
    Fixture *fx;

    fake_reset(XMMU_VENDOR_SVM, 0);
    fake.scattered = shape & 16;
    fx = fixture_new_guest(modes[shape & 3], &run->regs);
    for (unsigned i = 0; i < MAPPED; i++) {
        fixture_map(fx, &run->regs, MAPPED_AT + i * 4096,
                    fixture_page(fx) | PTE_P | (i % 3 ? PTE_W : 0) | (i % 2 ? PTE_U : 0),
                    1);
    }
    fixture_map_window(fx, &run->regs);
    run->n = native_for(fx);
}

static void begin(Run *run)
{
    uint8_t shape = byte(run);

    run->shadow = shape & 128;
    if (run->shadow) {
        begin_shadow(run, shape);
    } else {
        begin_tdp(run, shape);
    }
    run->cpus = 1 + (shape >> 5 & 3) % 3;
    for (unsigned i = 0; i < run->cpus; i++) {
        if (i) {
            native_add_cpu(run->n, i);
        }
        if (run->shadow) {
            fixture_load(run->n->fx, i, run->regs);
        }
    }
    run->told.fx = run->n->fx;
    run->n->spilled = run->n->fx->dropped = fixture_logged;
    run->n->spilled_opaque = run->n->fx->dropped_opaque = &run->told;
}

/* ---- The log of writes --------------------------------------------------------- */

/* Who begins to look takes it that all was written. */
static void tell_all(Run *run)
{
    memset(run->told.page, 1, sizeof(run->told.page));
}

static void set_logging(Run *run, bool on)
{
    Fixture *fx = run->n->fx;
    XmmuRegion all = {
        0, fx->ram_size >> XMMU_PAGE_SHIFT, (uintptr_t)fx->ram,
        on ? XMMU_REGION_LOG_DIRTY : 0,
    };

    if (xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &all, 1)) {
        run->logs = on;
        tell_all(run);
    }
}

static bool was_told(const Run *run, const FixtureLog *log, uint64_t page)
{
    return run->told.page[page] || log->page[page];
}

static void look_at_log(Run *run)
{
    FixtureLog log = fixture_take_log(run->n->fx);

    for (uint64_t page = 0; page < RAM_PAGES; page++) {
        uint64_t now = fixture_read(run->n->fx, page << XMMU_PAGE_SHIFT, 8);

        if (was_told(run, &log, page)) {
            run->copy[page] = now;
        }
        g_assert_cmphex(run->copy[page], ==, now);
    }
    memset(run->told.page, 0, sizeof(run->told.page));
}

/* Now and then, after step @number. */
static void log_step(Run *run, unsigned number)
{
    if (number % 16 == 0) {
        set_logging(run, number % 64);
    } else if (number % 4 == 1 && run->logs) {
        look_at_log(run);
    }
}

/* ---- Steps ------------------------------------------------------------------- */

static void step_access(Run *run)
{
    static const uint32_t kinds[] = {
        XMMU_ACCESS_READ, XMMU_ACCESS_READ | XMMU_ACCESS_WRITE,
        XMMU_ACCESS_READ | XMMU_ACCESS_EXEC,
        XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_USER,
    };
    unsigned cpu = byte(run) % run->cpus;
    NativeWork work = { .count = 1 + byte(run) % 32, .seed = 1 + byte(run) };
    char *error = NULL;

    work.want = kinds[byte(run) % (run->shadow ? 4 : 3)];
    work.pages = 1 + below(run, 600);
    work.base = (uint64_t)below(run, RAM_PAGES) << XMMU_PAGE_SHIFT;
    if (run->shadow && byte(run) % 2) {
        work.base = MAPPED_AT;
        work.pages = MAPPED;
    } else if (run->shadow) {
        work.base += FIXTURE_WINDOW;
    }
    if (native_run(run->n, cpu, &work, &error) == NATIVE_FAILED) {
        g_assert_true(run->disturbed);
        g_free(error);
    }
}

static void step_memory(Run *run)
{
    Fixture *fx = run->n->fx;
    uint64_t all = fx->ram_size >> XMMU_PAGE_SHIFT;
    gfn_t gfn = 1 + below(run, all / 2 - 1);
    uint64_t hole = 1 + below(run, all / 2 - 1);
    uint32_t readonly = byte(run) % 4 ? 0 : XMMU_REGION_READONLY;
    uint32_t log = run->logs ? XMMU_REGION_LOG_DIRTY : 0;
    uintptr_t ram = (uintptr_t)fx->ram;
    XmmuRegion regions[] = {
        { 0, gfn, ram, log },
        { gfn, hole, ram + (gfn << XMMU_PAGE_SHIFT), readonly | log },
        { gfn + hole, all - gfn - hole, ram + ((gfn + hole) << XMMU_PAGE_SHIFT), log },
    };
    bool gone = !readonly && byte(run) % 2;

    if (run->shadow) {
        /* The guest's tables are there: only rights change. */
        regions[1].flags = XMMU_REGION_READONLY;
        gone = false;
    }
    if (gone) {
        regions[1] = regions[2];
    }
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, gone ? 2 : 3);
    regions[0].npages = all;
    if (byte(run) % 2) {
        xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, 1);
    }
}

static void step_tdp(Run *run)
{
    XmmuVm *vm = run->n->fx->vm;
    gfn_t gfn = below(run, RAM_PAGES);
    uint64_t count = 1 + below(run, 1024);
    XmmuHold hold;

    switch (byte(run) % 3) {
    case 0:
        xmmu_tdp_split_range(vm, XMMU_AS_NORMAL, gfn, count, XMMU_LEVEL_4K);
        break;
    case 1:
        xmmu_tdp_promote_range(vm, XMMU_AS_NORMAL, gfn, count);
        break;
    case 2:
        xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_HOST);
        xmmu_tdp_write_protect_range(&hold, XMMU_AS_NORMAL, gfn, count);
        xmmu_read_unlock(&hold);
        break;
    }
}

/* The guest changes a page table, and flushes or not. */
static void step_guest(Run *run)
{
    Fixture *fx = run->n->fx;
    gva_t gva = MAPPED_AT + (uint64_t)(byte(run) % MAPPED) * 4096;
    uint64_t entry = MIB(2) + (uint64_t)(byte(run) % 64) * 4096;
    uint8_t how = byte(run);

    entry |= (how & 1 ? PTE_P : 0) | (how & 2 ? PTE_W : 0) | (how & 4 ? PTE_U : 0);
    fixture_map(fx, &run->regs, gva, entry, 1);
    if (how & 8) {
        xmmu_vcpu_invlpg(fx->cpus[byte(run) % run->cpus], gva);
    } else if (how & 16) {
        /* What vCPUs wrote may be in the guest's PDPTEs. */
        fixture_try_load(fx, byte(run) % run->cpus, run->regs);
    }
}

static void step_disturb(Run *run)
{
    uint8_t how = byte(run);

    run->disturbed = true;
    switch (how % 4) {
    case 0:
        fake_fail_alloc(1 + how / 4);
        break;
    case 1:
        fake.fail_errno = how & 4 ? ENOMEM : EIO;
        fake.fail_ioctl = 1 + how / 8;
        break;
    case 2:
        fake.memlock = (1 + how) * XMMU_PAGE_SIZE;
        break;
    case 3:
        fake.bad_from = (uintptr_t)run->n->fx->ram + how * 37 * XMMU_PAGE_SIZE;
        fake.bad_to = fake.bad_from + 1;
        break;
    }
}

static void step_harvest(Run *run)
{
    XmmuVm *vm = run->n->fx->vm;
    XmmuTable *table = vm->tdp_root[XMMU_AS_NORMAL];
    XmmuHarvest list[XMMU_ENTRIES];

    rcu_service_lock();
    for (int level = byte(run) % 4; table && level > 0; level--) {
        XmmuSpte spte = table->spt[0];

        table = table->role.level > 1 && xmmu_spte_present(vm->format, spte) &&
                !xmmu_spte_is_leaf(vm->format, spte, table->role.level)
                ? xmmu_table_at(xmmu_spte_hpa(spte)) : NULL;
    }
    if (table) {
        for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
            list[i].sptep = &table->spt[i];
        }
        xmmu_mirror_harvest(run->n->mirror, list, XMMU_ENTRIES);
    }
    rcu_service_unlock();
}

static void end_disturbance(Run *run)
{
    fake_fail_alloc(0);
    fake.fail_ioctl = 0;
    fake.memlock = 0;
    fake.bad_to = 0;
    run->disturbed = false;
}

static void step(Run *run)
{
    switch (byte(run) % 16) {
    case 0 ... 5:
        step_access(run);
        break;
    case 6:
        step_memory(run);
        break;
    case 7 ... 9:
        if (run->shadow) {
            step_guest(run);
        } else {
            step_tdp(run);
        }
        break;
    case 10:
        xmmu_vm_zap_all(run->n->fx->vm);
        break;
    case 11:
        step_harvest(run);
        break;
    case 12:
        rcu_service_drain();
        break;
    case 13:
        xmmu_mirror_flush(run->n->mirror);
        break;
    case 14:
        step_disturb(run);
        break;
    case 15:
        end_disturbance(run);
        break;
    }
}

int fuzz_native(const uint8_t *data, size_t size)
{
    Run run = { .data = data, .left = size };

    begin(&run);
    for (unsigned i = 0; i < STEPS && run.left; i++) {
        step(&run);
        if (run.can_log) {
            log_step(&run, i);
        }
        if (!run.disturbed) {
            native_check(run.n);
        }
    }
    end_disturbance(&run);
    native_check(run.n);
    native_free(run.n);
    return 0;
}
