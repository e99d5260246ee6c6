/*
 * xmmu: a guest whose memory arrives late
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The only program of the initramfs.  Two kinds of processes: one that works on a few
 * registers and counts, and one or more that read pages of a large piece of memory in
 * random order and check what is in them.  They begin when the host says so by a
 * line, which it does when the machine has been moved and its memory has not.
 *
 *   XL ready                              move me, then send a line
 *   XL done PAGES NS ROUNDS BAD           pages read; what the worker did meanwhile
 *
 * XL_READERS and XL_PAGES (of each reader) come from the kernel's command line.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE        4096
#define MEMORY      (64ul << 20)
#define WARM_UP_NS  500000000

typedef struct Shared {
    volatile uint64_t rounds, bad;
    volatile int stop;
} Shared;

static uint64_t *memory;
static Shared *shared;
static volatile uint64_t result;

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        printf("XL fail no memory\n");
        exit(1);
    }
    return p;
}

static uint64_t content(size_t page)
{
    uint64_t state = page + 1;

    return next(&state);
}

static void work(void)
{
    uint64_t state = 1;

    while (!shared->stop) {
        for (int i = 0; i < 10000; i++) {
            next(&state);
        }
        shared->rounds++;
    }
    result = state;
}

/* Each reader has a part of the memory to itself. */
static void read_pages(unsigned reader, unsigned readers, unsigned count)
{
    size_t part = MEMORY / PAGE / readers;
    uint64_t state = reader + 88172645463325252ull;

    for (unsigned i = 0; i < count; i++) {
        size_t page = reader * part + next(&state) % part;

        if (memory[page * (PAGE / 8)] != content(page)) {
            shared->bad++;
        }
    }
}

/* A process that waits for a byte, then reads, or works if there are no @readers. */
static pid_t start(int gate[2], unsigned reader, unsigned readers, unsigned count)
{
    pid_t pid = fork();
    char byte;

    if (pid) {
        return pid;
    }
    if (read(gate[0], &byte, 1) != 1) {
        _exit(1);
    }
    if (readers) {
        read_pages(reader, readers, count);
    } else {
        work();
    }
    _exit(0);
}

static unsigned parameter(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);

    return text ? strtoul(text, NULL, 10) : otherwise;
}

int main(void)
{
    unsigned readers = parameter("XL_READERS", 1), count = parameter("XL_PAGES", 100);
    int work_gate[2], read_gate[2];
    uint64_t begin, rounds, time;
    pid_t worker;
    char line[80];

    setvbuf(stdout, NULL, _IOLBF, 0);
    memory = map(MEMORY);
    shared = map(PAGE);
    for (size_t i = 0; i < MEMORY / PAGE; i++) {
        memory[i * (PAGE / 8)] = content(i);
    }
    if (pipe(work_gate) || pipe(read_gate)) {
        return 1;
    }
    worker = start(work_gate, 0, 0, 0);
    for (unsigned i = 0; i < readers; i++) {
        start(read_gate, i, readers, count);
    }
    printf("XL ready\n");
    if (!fgets(line, sizeof(line), stdin)) {
        return 1;
    }
    /* The worker's own pages come first. */
    if (write(work_gate[1], "", 1) != 1) {
        return 1;
    }
    while (!shared->rounds) {
        usleep(1000);
    }
    begin = now();
    while (now() < begin + WARM_UP_NS) {
        usleep(10000);
    }
    rounds = shared->rounds;
    begin = now();
    for (unsigned i = 0; i < readers; i++) {
        if (write(read_gate[1], "", 1) != 1) {
            return 1;
        }
    }
    for (unsigned i = 0; i < readers; i++) {
        wait(NULL);
    }
    time = now() - begin;
    rounds = shared->rounds - rounds;
    shared->stop = 1;
    waitpid(worker, NULL, 0);
    printf("XL done %u %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", readers * count, time,
           rounds, shared->bad);
    reboot(RB_POWER_OFF);
    return 0;
}
