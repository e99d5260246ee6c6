/*
 * xmmu: the guest's micro-benchmark
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The only program of the benchmark's initramfs: the kernel starts it as
 * /init.  It runs each item a fixed number of times, so that runs on different
 * accelerators do the same work, and powers the machine off.
 *
 * It talks to tests/bench/bench over the console, a line each way.  Every line
 * it writes starts with "XB", and after those marked * it waits for a line, so
 * that the host can take its own time while the guest is idle:
 *
 *   XB ready *                           the machine has booted
 *   XB begin ITEM ROUND *
 *   XB end ITEM ROUND OPERATIONS NS *    NS by the guest's clock
 *   XB note TEXT                         something a reader should know
 *   XB fail TEXT                         the run is of no use
 *   XB done *                            power off follows
 *
 * Parameters come from the kernel command line, which hands unknown NAME=VALUE
 * words to init's environment: XB_ITEMS (a list with commas), XB_ROUNDS,
 * XB_PERCENT (of the usual number of iterations).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE            4096ul
#define HUGE            (2ul << 20)
#define MAP_PAGES       256     /* of an mmap or mprotect operation */
#define FORK_PAGES      256     /* what the parent has touched */
#define FORK_COW_PAGES  16      /* what the child writes */
#define WORK_PAGES      64      /* of each process that switches */
#define RANDOM_BYTES    (128ul << 20)
#define FILL_SPARE      (64ul << 20)    /* left to the kernel by the items "fill" */

typedef struct Item {
    const char *name;
    uint64_t iterations;        /* of run, in one round */
    uint64_t operations;        /* that one iteration stands for */
    void (*setup)(void);
    void (*run)(uint64_t iterations);
    void (*teardown)(void);
} Item;

static uint8_t *area;
static size_t area_size;
static volatile uint64_t sink;  /* keeps loads from being dropped */

/* ---- The console ------------------------------------------------------- */

static void say(const char *format, ...)
{
    va_list args;

    fputs("XB ", stdout);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

static void power_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    pause();
}

static void fail(const char *what)
{
    say("fail %s: %s", what, strerror(errno));
    power_off();
}

static void check(bool good, const char *what)
{
    if (!good) {
        fail(what);
    }
}

static void wait_for_host(void)
{
    char c;

    do {
        check(read(STDIN_FILENO, &c, 1) == 1, "read from the console");
    } while (c != '\n');
}

/* No echo, and no wait for the output queue in the middle of a line. */
static void console_raw(void)
{
    struct termios t;

    check(tcgetattr(STDIN_FILENO, &t) == 0, "tcgetattr");
    t.c_lflag &= ~(ECHO | ICANON | ISIG);
    t.c_iflag &= ~ICRNL;
    check(tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0, "tcsetattr");
}

/* ---- Memory ------------------------------------------------------------ */

static uint8_t *map(size_t size)
{
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    check(p != MAP_FAILED, "mmap");
    return p;
}

/*
 * A plain store: where a read-modify-write is emulated as a load and a store,
 * the load would make the kernel map its zero page first, and no huge page.
 */
static void write_pages(uint8_t *p, size_t pages)
{
    for (size_t i = 0; i < pages; i++) {
        *(volatile uint8_t *)(p + i * PAGE) = 1;
    }
}

static void read_pages(const uint8_t *p, size_t pages)
{
    for (size_t i = 0; i < pages; i++) {
        sink = *(const volatile uint8_t *)(p + i * PAGE);
    }
}

/* Maps and writes @size bytes at a 2 MiB boundary, with @advice. */
static void area_make(size_t size, int advice)
{
    uint8_t *p = map(size + HUGE);

    area_size = size;
    area = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
    check(munmap(p, area - p) == 0 || area == p, "munmap");
    check(madvise(area, size, advice) == 0, "madvise");
    write_pages(area, size / PAGE);
}

static void area_drop(void)
{
    /* What area_make() left unaligned behind the area is not worth keeping. */
    check(munmap(area, area_size) == 0, "munmap");
}

/* KiB that this process has in 2 MiB pages. */
static uint64_t huge_kib(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    char line[128];
    uint64_t kib = 0;

    check(f != NULL, "/proc/self/smaps_rollup");
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1) {
            break;
        }
    }
    fclose(f);
    return kib;
}

/* ---- Items ------------------------------------------------------------- */

static void run_syscall(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        sink = syscall(SYS_getpid);
    }
}

/*
 * Two processes hand a byte to and fro through two pipes; before each handing
 * over, each touches @pages pages of its own.
 */
static int to_child[2], to_parent[2];
static pid_t partner;
static size_t work_pages;

static bool hand_over(int in, int out)
{
    char c = 0;

    if (read(in, &c, 1) != 1) {
        return false;
    }
    write_pages(area, work_pages);
    return write(out, &c, 1) == 1;
}

static void partner_main(void)
{
    close(to_child[1]);
    close(to_parent[0]);
    while (hand_over(to_child[0], to_parent[1])) {
        ;
    }
    _exit(0);
}

static void setup_switch(size_t pages)
{
    work_pages = pages;
    area_size = WORK_PAGES * PAGE;
    area = map(area_size);
    write_pages(area, WORK_PAGES);
    check(pipe(to_child) == 0 && pipe(to_parent) == 0, "pipe");
    partner = fork();
    check(partner >= 0, "fork");
    if (partner == 0) {
        partner_main();
    }
    close(to_child[0]);
    close(to_parent[1]);
    write_pages(area, WORK_PAGES);
}

static void setup_switch_plain(void)
{
    setup_switch(0);
}

static void setup_switch_work(void)
{
    setup_switch(WORK_PAGES);
}

static void run_switch(uint64_t n)
{
    char c = 0;

    check(write(to_child[1], &c, 1) == 1, "write to the pipe");
    for (uint64_t i = 1; i < n; i++) {
        check(hand_over(to_parent[0], to_child[1]), "hand over");
    }
    check(read(to_parent[0], &c, 1) == 1, "read from the pipe");
}

static void teardown_switch(void)
{
    close(to_child[1]);
    close(to_parent[0]);
    check(waitpid(partner, NULL, 0) == partner, "waitpid");
    area_drop();
}

static void setup_fork(void)
{
    area_make(FORK_PAGES * PAGE, MADV_NOHUGEPAGE);
}

static void run_fork(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        pid_t child = fork();

        check(child >= 0, "fork");
        if (child == 0) {
            write_pages(area, FORK_COW_PAGES);
            _exit(0);
        }
        check(waitpid(child, NULL, 0) == child, "waitpid");
    }
}

static void run_mmap(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint8_t *p = map(MAP_PAGES * PAGE);

        write_pages(p, MAP_PAGES);
        check(munmap(p, MAP_PAGES * PAGE) == 0, "munmap");
    }
}

static void setup_mprotect(void)
{
    area_make(MAP_PAGES * PAGE, MADV_NOHUGEPAGE);
}

static void run_mprotect(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        check(mprotect(area, area_size, PROT_READ) == 0, "mprotect");
        read_pages(area, MAP_PAGES);
        check(mprotect(area, area_size, PROT_READ | PROT_WRITE) == 0, "mprotect");
        write_pages(area, MAP_PAGES);
    }
}

static void setup_random_4k(void)
{
    area_make(RANDOM_BYTES, MADV_NOHUGEPAGE);
}

static void setup_random_2m(void)
{
    uint64_t kib;

    area_make(RANDOM_BYTES, MADV_HUGEPAGE);
    kib = huge_kib();
    if (kib < RANDOM_BYTES / 1024 * 9 / 10) {
        say("note random-2m: only %" PRIu64 " KiB are in huge pages", kib);
    }
}

/* A full-period generator, so that every run makes the same accesses. */
static void run_random(uint64_t n)
{
    uint64_t x = 1, sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        sum += *(const volatile uint64_t *)(area + ((x >> 33) * 8) % RANDOM_BYTES);
    }
    sink = sum;
}

/* All the memory that there is; left mapped. */
static void fill(int advice)
{
    struct sysinfo info;
    size_t size;

    check(sysinfo(&info) == 0, "sysinfo");
    size = (info.freeram * info.mem_unit - FILL_SPARE) & ~(HUGE - 1);
    area_make(size, advice);
    say("note filled %zu MiB of %lu MiB, %" PRIu64 " MiB in huge pages",
        size >> 20, (unsigned long)((info.totalram * info.mem_unit) >> 20),
        huge_kib() >> 10);
}

static void run_fill(uint64_t n)
{
    (void)n;
    fill(MADV_HUGEPAGE);
}

static void run_fill_4k(uint64_t n)
{
    (void)n;
    fill(MADV_NOHUGEPAGE);
}

static const Item items[] = {
    { "syscall", 500000, 1, NULL, run_syscall, NULL },
    { "switch", 4000, 2, setup_switch_plain, run_switch, teardown_switch },
    { "switch-work", 2500, 2, setup_switch_work, run_switch, teardown_switch },
    { "fork", 150, 1, setup_fork, run_fork, area_drop },
    { "mmap", 50, MAP_PAGES, NULL, run_mmap, NULL },
    { "mprotect", 1500, 2 * MAP_PAGES, setup_mprotect, run_mprotect, area_drop },
    { "random-4k", 1000000, 1, setup_random_4k, run_random, area_drop },
    { "random-2m", 1000000, 1, setup_random_2m, run_random, area_drop },
    /* Not in the default list: the guests of the memory rows. */
    { "fill", 1, 1, NULL, run_fill, NULL },
    { "fill-4k", 1, 1, NULL, run_fill_4k, NULL },
};

#define DEFAULT_ITEMS \
    "syscall,switch,switch-work,fork,mmap,mprotect,random-4k,random-2m"

/* ---- Running them ------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec t;

    check(clock_gettime(CLOCK_MONOTONIC, &t) == 0, "clock_gettime");
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t parameter(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    char *end;
    uint64_t value;

    if (!text) {
        return fallback;
    }
    value = strtoull(text, &end, 10);
    errno = EINVAL;
    check(*text && !*end && value > 0, name);
    return value;
}

static void run_round(const Item *item, uint64_t iterations, uint64_t round)
{
    uint64_t start;

    say("begin %s %" PRIu64, item->name, round);
    wait_for_host();
    start = now_ns();
    item->run(iterations);
    say("end %s %" PRIu64 " %" PRIu64 " %" PRIu64, item->name, round,
        iterations * item->operations, now_ns() - start);
    wait_for_host();
}

static void run_item(const Item *item, uint64_t rounds, uint64_t percent)
{
    uint64_t iterations = item->iterations * percent / 100;

    iterations = iterations ? iterations : 1;
    if (item->setup) {
        item->setup();
    }
    for (uint64_t round = 0; round < rounds; round++) {
        run_round(item, iterations, round);
    }
    if (item->teardown) {
        item->teardown();
    }
}

static const Item *find_item(const char *name)
{
    for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++) {
        if (strcmp(items[i].name, name) == 0) {
            return &items[i];
        }
    }
    return NULL;
}

static void run_list(const char *list, uint64_t rounds, uint64_t percent)
{
    char *copy = strdup(list), *rest = copy, *name;

    while ((name = strsep(&rest, ",")) != NULL) {
        const Item *item = find_item(name);

        errno = EINVAL;
        check(item != NULL, name);
        run_item(item, rounds, percent);
    }
    free(copy);
}

int main(void)
{
    const char *list = getenv("XB_ITEMS");
    uint64_t rounds, percent;

    console_raw();
    mkdir("/proc", 0555);
    check(mount("proc", "/proc", "proc", 0, NULL) == 0, "mount /proc");
    rounds = parameter("XB_ROUNDS", 5);
    percent = parameter("XB_PERCENT", 100);
    say("ready");
    wait_for_host();
    run_list(list ? list : DEFAULT_ITEMS, rounds, percent);
    say("done");
    wait_for_host();
    power_off();
    return 1;
}
