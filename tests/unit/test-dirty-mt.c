/*
 * xmmu: unit test of the log of writes, with threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What migration does: vCPUs that cache translations write to memory, while one thread
 * asks the log, waits until each vCPU has ended what it was at, and copies the pages that
 * it was told; another one forgets all tables, and takes logging off and on.  When the
 * vCPUs have stopped, what is told then has been copied too, and the copy must be the
 * memory.  Each step of a vCPU ("translation block") also tells the oracle, which ends the
 * test at once if a sync does not know of a write.  Work is bounded by rounds.
 */
#include <pthread.h>
#include <string.h>
#include "accel/xmmu/mmu/dirty.h"
#include "fixture.h"

#define CPUS        3
#define ROUNDS      150         /* of copying; the vCPUs run until these are done */
#define BLOCKS      64          /* of all vCPUs, between two rounds at least */
#define CHANGES     40
#define LOG         MIB(4)
#define PAGES       24u         /* that are written, a few KiB apart in ... */
#define LOGGED      MIB(4)
#define RAM         MIB(12)

typedef struct Cpu {
    struct World *world;
    unsigned index;
    pthread_mutex_t block;      /* held through a translation block */
    gint obeyed;                /* flushes, atomic */
    bool writable[PAGES];       /* its TLB */
    uint64_t random;
    GThread *thread;
} Cpu;

typedef struct World {
    Fixture *fx;
    Cpu cpus[CPUS];
    gint todo[LOGGED >> 12];    /* pages to copy; atomic */
    uint8_t *copy;
    pthread_mutex_t witness;    /* held to tell the oracle, and by who looks at the log */
    gint running;               /* the vCPUs may go on; atomic */
    gint blocks;                /* done by all vCPUs; atomic */
} World;

static gpa_t page_gpa(unsigned page)
{
    return LOG + page * (LOGGED / PAGES & XMMU_PAGE_MASK);
}

/* ---- The log ----------------------------------------------------------------- */

static void told(void *opaque, hpa_t hpa, const uint64_t *bits)
{
    World *w = opaque;

    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        if (bits[i / 64] >> (i % 64) & 1) {
            uint64_t offset = hpa + i * XMMU_PAGE_SIZE - (uintptr_t)w->fx->ram - LOG;

            g_assert_cmphex(offset, <, LOGGED);
            g_atomic_int_set(&w->todo[offset >> 12], 1);
        }
    }
}

static bool is_ring(const World *w)
{
    return w->fx->config.dirty_log == XMMU_DIRTY_RING;
}

static void ask_log(World *w)
{
    hpa_t hpa = (uintptr_t)w->fx->ram + LOG;

    pthread_mutex_lock(&w->witness);
    if (is_ring(w)) {
        xmmu_vm_dirty_reap(w->fx->vm, told, w);
    } else {
        xmmu_vm_dirty_sync(w->fx->vm, hpa, LOGGED >> 12, told, w);
        xmmu_vm_dirty_clear(w->fx->vm, hpa, LOGGED >> 12);
    }
    pthread_mutex_unlock(&w->witness);
}

/* Each vCPU has ended its block; the next begins with the flush that was ordered. */
static void wait_for_blocks(World *w)
{
    for (unsigned i = 0; i < CPUS; i++) {
        pthread_mutex_lock(&w->cpus[i].block);
        pthread_mutex_unlock(&w->cpus[i].block);
    }
}

static void copy_page(World *w, uint64_t offset)
{
    for (unsigned i = 0; i < XMMU_PAGE_SIZE; i += 8) {
        *(uint64_t *)(w->copy + offset + i) = fixture_read(w->fx, LOG + offset + i, 8);
    }
}

static void copy_some(World *w)
{
    gint take[LOGGED >> 12];

    ask_log(w);
    for (unsigned i = 0; i < LOGGED >> 12; i++) {
        take[i] = g_atomic_int_and((guint *)&w->todo[i], 0);
    }
    wait_for_blocks(w);
    for (unsigned i = 0; i < LOGGED >> 12; i++) {
        if (take[i]) {
            copy_page(w, (uint64_t)i << 12);
        }
    }
}

/* ---- vCPUs ----------------------------------------------------------------------- */

static bool has_to_flush(Cpu *cpu)
{
    return g_atomic_int_get(&cpu->world->fx->flushes) != g_atomic_int_get(&cpu->obeyed);
}

static void begin_block(Cpu *cpu)
{
    gint ordered = g_atomic_int_get(&cpu->world->fx->flushes);

    pthread_mutex_lock(&cpu->block);
    ordered = g_atomic_int_get(&cpu->world->fx->flushes);
    if (ordered != cpu->obeyed) {
        memset(cpu->writable, 0, sizeof(cpu->writable));
        xmmu_vcpu_flushed(cpu->world->fx->cpus[cpu->index]);
        g_atomic_int_set(&cpu->obeyed, ordered);
    }
}

/*
 * Only a write by a translation that the vCPU may still use has to be in the log.  If it
 * may is asked, and the write told, with nobody looking at the log in between: told after
 * the look that ordered the flush, it would be missed by the next one.
 */
static void tell_oracle(Cpu *cpu, hpa_t hpa)
{
    World *w = cpu->world;

    pthread_mutex_lock(&w->witness);
    if (!has_to_flush(cpu)) {
        xmmu_vm_dirty_seen(w->fx->vm, hpa, true);
    }
    pthread_mutex_unlock(&w->witness);
}

static void access_page(Cpu *cpu, unsigned page, unsigned want)
{
    World *w = cpu->world;
    XmmuHwResult r;

    if (want == XMMU_PROT_WRITE && cpu->writable[page]) {
        return;
    }
    r = fixture_access(w->fx, cpu->index, page_gpa(page), want);
    while (r.outcome == XMMU_HW_RING_FULL) {
        xmmu_vcpu_dirty_spill(w->fx->cpus[cpu->index], told, w);
        r = fixture_access(w->fx, cpu->index, page_gpa(page), want);
    }
    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    cpu->writable[page] = r.prot & XMMU_PROT_WRITE;
}

static void *run_cpu(void *opaque)
{
    Cpu *cpu = opaque;
    World *w = cpu->world;

    for (unsigned n = 1; g_atomic_int_get(&w->running); n++) {
        uint64_t random = fixture_random(&cpu->random);
        unsigned page = random % PAGES;

        begin_block(cpu);
        if (random >> 32 & 3) {
            gpa_t gpa = page_gpa(page) + 8 * cpu->index;

            access_page(cpu, page, XMMU_PROT_WRITE);
            fixture_write(w->fx, gpa, (uint64_t)n << 8 | cpu->index, 8);
            tell_oracle(cpu, (uintptr_t)w->fx->ram + (gpa & XMMU_PAGE_MASK));
        } else {
            access_page(cpu, page, XMMU_PROT_READ);
        }
        pthread_mutex_unlock(&cpu->block);
        g_atomic_int_inc(&w->blocks);
        if (n % 32 == 0) {
            g_thread_yield();           /* mutexes are not fair */
        }
    }
    return NULL;
}

/* ---- The host ------------------------------------------------------------------------ */

static void set_logging(World *w, bool on)
{
    XmmuRegion regions[] = {
        { 0, LOG >> 12, (uintptr_t)w->fx->ram, 0 },
        { LOG >> 12, LOGGED >> 12, (uintptr_t)w->fx->ram + LOG,
          on ? XMMU_REGION_LOG_DIRTY : 0 },
    };

    pthread_mutex_lock(&w->witness);
    g_assert_true(xmmu_vm_set_memory(w->fx->vm, XMMU_AS_NORMAL, regions, 2));
    pthread_mutex_unlock(&w->witness);
    /* Who begins to look takes it that all was written. */
    for (unsigned i = 0; on && i < LOGGED >> 12; i++) {
        g_atomic_int_set(&w->todo[i], 1);
    }
}

static void *run_host(void *opaque)
{
    World *w = opaque;

    for (unsigned i = 0; i < CHANGES && g_atomic_int_get(&w->running); i++) {
        if (i % 4 == 3) {
            set_logging(w, false);
            set_logging(w, true);
        } else {
            xmmu_vm_zap_all(w->fx->vm);
        }
        g_usleep(500);
    }
    return NULL;
}

static World *new_world(const FixtureLogMode *mode)
{
    World *w = g_new0(World, 1);
    XmmuConfig config = fixture_log_config(mode, 16);

    w->fx = fixture_new(&config, RAM);
    w->copy = g_malloc0(LOGGED);
    pthread_mutex_init(&w->witness, NULL);
    w->running = 1;
    for (unsigned i = 0; i < CPUS; i++) {
        w->cpus[i] = (Cpu) { .world = w, .index = i, .random = i + 1 };
        pthread_mutex_init(&w->cpus[i].block, NULL);
        if (i) {
            fixture_add_cpu(w->fx, i);
        }
    }
    set_logging(w, true);
    return w;
}

static void free_world(World *w)
{
    for (unsigned i = 0; i < CPUS; i++) {
        pthread_mutex_destroy(&w->cpus[i].block);
    }
    pthread_mutex_destroy(&w->witness);
    fixture_free(w->fx);
    g_free(w->copy);
    g_free(w);
}

/* Since now: or all rounds could be over in one turn of this thread. */
static void wait_for_progress(World *w)
{
    guint before = g_atomic_int_get(&w->blocks);

    while ((guint)g_atomic_int_get(&w->blocks) - before < BLOCKS) {
        g_thread_yield();
    }
}

static void test_copy(gconstpointer data)
{
    World *w = new_world(data);
    GThread *host;

    for (unsigned i = 0; i < CPUS; i++) {
        w->cpus[i].thread = g_thread_new("vcpu", run_cpu, &w->cpus[i]);
    }
    host = g_thread_new("host", run_host, w);
    for (unsigned i = 0; i < ROUNDS; i++) {
        wait_for_progress(w);
        copy_some(w);
    }
    g_atomic_int_set(&w->running, 0);
    for (unsigned i = 0; i < CPUS; i++) {
        g_thread_join(w->cpus[i].thread);
    }
    g_thread_join(host);
    copy_some(w);
    for (unsigned page = 0; page < PAGES; page++) {
        uint64_t offset = page_gpa(page) - LOG;

        for (unsigned i = 0; i < CPUS; i++) {
            g_assert_cmphex(*(uint64_t *)(w->copy + offset + 8 * i), ==,
                            fixture_read(w->fx, page_gpa(page) + 8 * i, 8));
        }
    }
    g_assert_cmpuint(fixture_stats(w->fx).dirty_pages, >, 0);
    free_world(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t m = 0; m < FIXTURE_LOG_MODES; m++) {
        char *name = g_strdup_printf("/dirty-mt/%s", fixture_log_modes[m].name);

        g_test_add_data_func(name, &fixture_log_modes[m], test_copy);
        g_free(name);
    }
    return g_test_run();
}
