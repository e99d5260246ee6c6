/*
 * xmmu: benchmarks of the core and the hardware model alone
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where `make bench` says that something got slower, this says where to look: it
 * times one mechanism at a time, without QEMU.  Owns the command line, the clocks
 * and the report.
 *
 * All items run once in turn, and again, for a number of rounds, so that a change in
 * the host's mood meets all of them; the median of the rounds counts.  Items of one
 * thread are timed by that thread's CPU time, which other load on the host hardly
 * changes; items of several threads by the time on the wall.
 *
 * usage: core-bench [--rounds N] [--json] [--smoke] [--list] [PREFIX...]
 *   PREFIX   only items whose names begin so
 *   --json   one object for each item and round
 *   --cpu-time  items of several threads by CPU time too: for a host that is busy
 *   --smoke  one short round, as a test: TAP, no verdict on any time
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "core-bench.h"

#define DEFAULT_ROUNDS 7

static const CoreItems *const groups[] = {
    &core_bench_tdp, &core_bench_shadow, &core_bench_vcpu, &core_bench_zap, &core_bench_nx,
    &core_bench_threads,
};

/* What one item did in one round. */
typedef struct Sample {
    double operations;          /* of all threads */
    double ns, wall_ns, cycles, allocations;
    XmmuStats stats;
} Sample;

typedef struct Options {
    unsigned rounds;
    bool json, smoke, list, cpu_time;
    char **prefixes;
    int prefix_count;
} Options;

/* ---- Clocks ------------------------------------------------------------------ */

typedef struct Moment {
    double cpu, wall;           /* ns */
    uint64_t tsc, allocations;
} Moment;

static double clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static Moment now(void)
{
    return (Moment) {
        .cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID), .wall = clock_ns(CLOCK_MONOTONIC),
        .tsc = __rdtsc(), .allocations = bench_allocations(),
    };
}

static Moment since(Moment start)
{
    Moment end = now();

    return (Moment) {
        end.cpu - start.cpu, end.wall - start.wall, end.tsc - start.tsc,
        end.allocations - start.allocations,
    };
}

/* ---- Running a batch ----------------------------------------------------------- */

typedef struct Worker {
    Bench *b;
    unsigned index, operations;
    pthread_barrier_t *barrier;
    Moment took;
} Worker;

static void pin_to_cpu(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    /* Where that is not possible the numbers are what the host makes of them. */
    (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *worker_run(void *opaque)
{
    Worker *w = opaque;
    Moment start;

    pin_to_cpu(w->index);
    pthread_barrier_wait(w->barrier);
    start = now();
    w->b->item->run(w->b, w->index, w->operations);
    w->took = since(start);
    return NULL;
}

/* The average of the threads: each does its share at the same time. */
static Moment run_threads(Bench *b, unsigned operations)
{
    unsigned n = b->item->threads;
    pthread_t thread[BENCH_THREADS];
    Worker worker[BENCH_THREADS];
    pthread_barrier_t barrier;
    Moment sum = { 0 };

    pthread_barrier_init(&barrier, NULL, n);
    for (unsigned i = 0; i < n; i++) {
        worker[i] = (Worker) { b, i, operations, &barrier, { 0 } };
        pthread_create(&thread[i], NULL, worker_run, &worker[i]);
    }
    for (unsigned i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        sum.cpu += worker[i].took.cpu / n;
        sum.wall += worker[i].took.wall / n;
        sum.tsc += worker[i].took.tsc / n;
        sum.allocations += worker[i].took.allocations;
    }
    pthread_barrier_destroy(&barrier);
    return sum;
}

static Moment run_batch(Bench *b, unsigned operations)
{
    Moment start;

    if (b->item->threads) {
        return run_threads(b, operations);
    }
    start = now();
    b->item->run(b, 0, operations);
    return since(start);
}

/* ---- Counters ------------------------------------------------------------------- */

static uint64_t *field(XmmuStats *stats, const XmmuStatDesc *desc)
{
    return (uint64_t *)((char *)stats + desc->offset);
}

static void add_difference(XmmuStats *sum, XmmuStats *before, XmmuStats *after)
{
    for (size_t i = 0; i < xmmu_stat_count; i++) {
        const XmmuStatDesc *desc = &xmmu_stat_descs[i];

        *field(sum, desc) += *field(after, desc) - *field(before, desc);
    }
}

/* Events of that name for each operation. */
static double per_operation(Sample *sample, const char *name)
{
    for (size_t i = 0; i < xmmu_stat_count; i++) {
        if (strcmp(xmmu_stat_descs[i].name, name) == 0) {
            return (int64_t)*field(&sample->stats, &xmmu_stat_descs[i]) /
                   sample->operations;
        }
    }
    g_error("core-bench: the core counts no '%s'", name);
}

/* Why the item did not do what it says; NULL when it did.  Of a thousand operations
 * one may be different: the first of a batch sometimes is. */
static char *wrong_count(const CoreItem *item, Sample *sample)
{
    char **wants = g_strsplit(item->counts, " ", -1), *why = NULL;

    for (char **want = wants; *want && **want && !why; want++) {
        char **parts = g_strsplit(*want, "=", 2);
        double expected = atof(parts[1]), found = per_operation(sample, parts[0]);

        if (found < expected - 0.01 || found > expected + 0.01) {
            why = g_strdup_printf("%s: %g %s for each operation, and not %g", item->name,
                                  found, parts[0], expected);
        }
        g_strfreev(parts);
    }
    g_strfreev(wants);
    return why;
}

/* ---- Running an item --------------------------------------------------------------- */

static void bench_free(Bench *b)
{
    if (b->item->close) {
        b->item->close(b);
    }
    fixture_free(b->fx);
    g_array_free(b->keep, true);
    g_array_free(b->without, true);
    g_free(b->entries);
    g_free(b->own);
}

static Sample run_item(const CoreItem *item, unsigned batches, bool wall)
{
    Bench b = { .item = item, .count = 1 };
    Sample sample = { 0 };

    item->open(&b);
    for (unsigned i = 0; i < batches; i++) {
        XmmuStats before, after;
        Moment took;

        if (item->prepare) {
            item->prepare(&b);
        }
        before = fixture_stats(b.fx);
        took = run_batch(&b, item->operations);
        after = fixture_stats(b.fx);
        add_difference(&sample.stats, &before, &after);
        sample.operations += (double)item->operations * MAX(1, item->threads);
        sample.ns += item->threads && wall ? took.wall : took.cpu;
        sample.wall_ns += took.wall;
        sample.cycles += took.tsc;
        sample.allocations += took.allocations;
    }
    bench_free(&b);
    return sample;
}

/* ---- Reports --------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, unsigned n)
{
    qsort(values, n, sizeof(*values), compare_doubles);
    return n & 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static void print_row(const CoreItem *item, Sample *samples, unsigned rounds)
{
    double *ns = g_new(double, rounds), *cycles = g_new(double, rounds), middle;
    Sample *last = &samples[rounds - 1];

    for (unsigned i = 0; i < rounds; i++) {
        ns[i] = samples[i].ns / samples[i].operations;
        cycles[i] = samples[i].cycles / samples[i].operations;
    }
    middle = median(ns, rounds);
    printf("%-24s %9.1f %8.1f %9.1f %8.0f %8.2f %8.2f  %s\n", item->name, middle, ns[0],
           ns[rounds - 1], median(cycles, rounds), last->allocations / last->operations,
           per_operation(last, "tables"), item->what);
    g_free(ns);
    g_free(cycles);
}

static void print_json(const CoreItem *item, unsigned round, Sample *s)
{
    const char *comma = "";

    printf("{\"item\": \"%s\", \"what\": \"%s\", \"round\": %u, \"threads\": %u, "
           "\"operations\": %.0f, \"ns\": %.0f, \"wall-ns\": %.0f, \"tsc\": %.0f, "
           "\"allocations\": %.0f, \"stats\": {", item->name, item->what, round,
           item->threads, s->operations, s->ns, s->wall_ns, s->cycles, s->allocations);
    for (size_t i = 0; i < xmmu_stat_count; i++) {
        int64_t n = *field(&s->stats, &xmmu_stat_descs[i]);

        if (n) {
            printf("%s\"%s\": %" G_GINT64_FORMAT, comma, xmmu_stat_descs[i].name, n);
            comma = ", ";
        }
    }
    printf("}}\n");
    fflush(stdout);
}

/* ---- The program ------------------------------------------------------------------------- */

static bool wanted(const CoreItem *item, const Options *options)
{
    for (int i = 0; i < options->prefix_count; i++) {
        if (g_str_has_prefix(item->name, options->prefixes[i])) {
            return true;
        }
    }
    return options->prefix_count == 0;
}

static GPtrArray *choose(const Options *options)
{
    GPtrArray *chosen = g_ptr_array_new();

    for (size_t g = 0; g < G_N_ELEMENTS(groups); g++) {
        for (size_t i = 0; i < groups[g]->count; i++) {
            if (wanted(&groups[g]->items[i], options)) {
                g_ptr_array_add(chosen, (gpointer)&groups[g]->items[i]);
            }
        }
    }
    return chosen;
}

static void smoke(const GPtrArray *items)
{
    printf("1..%u\n", items->len);
    for (guint i = 0; i < items->len; i++) {
        const CoreItem *item = g_ptr_array_index(items, i);
        Sample sample = run_item(item, 1, false);
        char *why = wrong_count(item, &sample);

        printf("%sok %u - core-bench: %s\n", why ? "not " : "", i + 1, item->name);
        if (why) {
            printf("# %s\n", why);
        }
        g_free(why);
        fflush(stdout);
    }
}

static void measure(const GPtrArray *items, const Options *options)
{
    Sample *samples = g_new0(Sample, items->len * options->rounds);

    for (unsigned round = 0; round < options->rounds; round++) {
        for (guint i = 0; i < items->len; i++) {
            const CoreItem *item = g_ptr_array_index(items, i);
            Sample *sample = &samples[i * options->rounds + round];
            char *why;

            *sample = run_item(item, item->batches, !options->cpu_time);
            why = wrong_count(item, sample);
            if (why) {
                fprintf(stderr, "core-bench: %s\n", why);
                g_free(why);
            }
            if (options->json) {
                print_json(item, round, sample);
            }
        }
    }
    if (!options->json) {
        printf("%-24s %9s %8s %9s %8s %8s %8s\n", "per operation", "ns", "least", "most",
               "TSC", "allocs", "tables");
        for (guint i = 0; i < items->len; i++) {
            print_row(g_ptr_array_index(items, i), &samples[i * options->rounds],
                      options->rounds);
        }
    }
    g_free(samples);
}

static bool parse(int argc, char **argv, Options *options)
{
    GOptionEntry entries[] = {
        { "rounds", 0, 0, G_OPTION_ARG_INT, &options->rounds, "", "N" },
        { "json", 0, 0, G_OPTION_ARG_NONE, &options->json, "", NULL },
        { "smoke", 0, 0, G_OPTION_ARG_NONE, &options->smoke, "", NULL },
        { "cpu-time", 0, 0, G_OPTION_ARG_NONE, &options->cpu_time, "", NULL },
        { "list", 0, 0, G_OPTION_ARG_NONE, &options->list, "", NULL },
        { NULL }
    };
    GOptionContext *context = g_option_context_new("[PREFIX...]");
    GError *error = NULL;
    bool good;

    g_option_context_add_main_entries(context, entries, NULL);
    good = g_option_context_parse(context, &argc, &argv, &error);
    if (!good) {
        fprintf(stderr, "core-bench: %s\n", error->message);
        g_error_free(error);
    }
    g_option_context_free(context);
    options->prefixes = argv + 1;
    options->prefix_count = argc - 1;
    return good && options->rounds > 0;
}

int main(int argc, char **argv)
{
    Options options = { .rounds = DEFAULT_ROUNDS };
    GPtrArray *items;

    if (!parse(argc, argv, &options)) {
        return 1;
    }
    items = choose(&options);
    if (!items->len) {
        fprintf(stderr, "core-bench: no item begins with that\n");
        return 1;
    }
    if (options.list) {
        for (guint i = 0; i < items->len; i++) {
            const CoreItem *item = g_ptr_array_index(items, i);

            printf("%-24s %s\n", item->name, item->what);
        }
    } else if (options.smoke) {
        smoke(items);
    } else {
        measure(items, &options);
    }
    g_ptr_array_free(items, true);
    return 0;
}
