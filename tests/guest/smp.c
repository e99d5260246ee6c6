/*
 * xmmu guest "smp": several CPUs on the same tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The boot CPU changes tables and shoots down by IPI; from the moment a CPU has
 * answered, it must see what was changed.  Then all CPUs change entries of one
 * table at once, and CPUs with different control bits use one table.  Waits have
 * no time limit: whoever runs the guest has one.
 */
#include "paging.h"

#define AP_START        0x8000ul
#define PAGES           16
#define BAD             0xbad00000u

enum { JOB_NONE, JOB_SEQUENCE, JOB_COUNT, JOB_OWN_ENTRIES, JOB_WRITE_ONCE,
       JOB_PROBE_WP, JOB_STOP };

typedef struct Shared {
    u32 up;                     /* APs that have started */
    u32 job;
    u32 running;                /* APs that are in the job */
    bool stop;                  /* the job shall end */
    u32 intent;                 /* sequence number being put into the tables */
    u32 acked[MAX_CPUS];        /* ... that the CPU has flushed for */
    u32 errors[MAX_CPUS], rounds[MAX_CPUS];
    ulong flush_address;
    u32 flush_acks;
} Shared;

static volatile Shared shared;
ulong ap_stack;
static volatile ulong ap_index;
static u8 stacks[MAX_CPUS][8192] __attribute__((aligned(16)));
extern char ap_blob[], ap_blob_end[];

static Space space;
static ulong at;                /* the window */
static ulong pages[PAGES];
static unsigned cpu_count, rounds;

/* Also lets the other CPUs run where one thread plays all of them. */
static void pause(void)
{
    asm volatile("pause" : : : "memory");
}

static void add_one(volatile u32 *what)
{
    asm volatile("lock incl %0" : "+m"(*what) : : "memory", "cc");
}

static void sub_one(volatile u32 *what)
{
    asm volatile("lock decl %0" : "+m"(*what) : : "memory", "cc");
}

static u32 see(ulong address)
{
    u32 value = 0;
    Exc exc = probe(READ, address, &value);

    return exc.vector == -1 ? value : BAD + exc.error;
}

static u32 sign(unsigned i)
{
    return pages[i] | 1;
}

/* ---- Shootdown ---- */

static void on_ipi(Frame *frame)
{
    u32 intent = shared.intent;

    (void)frame;
    if (shared.flush_address) {
        invlpg(shared.flush_address);
    } else {
        flush_all();
    }
    shared.acked[this_cpu()] = intent;
    add_one(&shared.flush_acks);
    lapic_write(LAPIC_EOI, 0);
}

/* Flush @address (0: everything) on all CPUs and wait for their answers. */
static void shoot_down(ulong address)
{
    shared.flush_address = address;
    shared.flush_acks = 0;
    if (address) {
        invlpg(address);
    } else {
        flush_all();
    }
    for (unsigned cpu = 1; cpu < cpu_count; cpu++) {
        while (lapic_read(LAPIC_ICR_LOW) & BIT(12)) {
            pause();
        }
        lapic_write(LAPIC_ICR_HIGH, cpu << 24);
        lapic_write(LAPIC_ICR_LOW, 0x4000 | VEC_IPI);
    }
    while (shared.flush_acks != cpu_count - 1) {
        pause();
    }
}

/* ---- What the other CPUs do ---- */

/* Sequence number n: even: page n / 2 is mapped, odd: nothing is. */
static bool fits(u32 value, u32 sequence)
{
    return value == (sequence & 1 ? BAD : sign(sequence / 2 % PAGES));
}

static void job_sequence(int cpu)
{
    while (!shared.stop) {
        u32 oldest = shared.acked[cpu];
        u32 value = see(at);
        u32 newest = shared.intent;
        bool good = false;

        for (u32 n = oldest; n != newest + 1 && !good; n++) {
            good = fits(value, n);
        }
        shared.errors[cpu] += !good;
        shared.rounds[cpu]++;
        pause();
    }
}

/* Count in the window's page as long as it can be written. */
static void job_count(int cpu)
{
    while (!shared.stop) {
        u32 value = shared.rounds[cpu] + 1;
        Exc exc = probe(WRITE, at + 4 * cpu, &value);

        if (exc.vector == -1) {
            shared.rounds[cpu] = value;
        } else {
            shared.errors[cpu] += exc.vector != 14 || exc.error != 3;
        }
        pause();
    }
}

/* This CPU's entries of a table that all CPUs change. */
static void job_own_entries(int cpu)
{
    ulong table = entry_at(&space, at, 1) & ~(PAGE - 1);

    for (u32 i = 0; i < rounds; i++) {
        unsigned index = 8 * (i % 16) + cpu, page = (i * 7 + cpu) % PAGES;

        entry_set(space.format, table, index, pages[page] | P | W);
        if (i & 1) {
            invlpg(at + index * PAGE);
        } else {
            flush_all();
        }
        shared.errors[cpu] += see(at + index * PAGE) != sign(page);
        entry_set(space.format, table, index, 0);
        invlpg(at + index * PAGE);
        shared.errors[cpu] += see(at + index * PAGE) != BAD;
        shared.rounds[cpu]++;
    }
}

static void job_write_once(int cpu)
{
    u32 value = sign(0);

    shared.errors[cpu] += probe(WRITE, at, &value).vector != -1;
    shared.rounds[cpu]++;
}

/* WP=0 here, WP=1 on the boot CPU; the page is read-only. */
static void job_probe_wp(int cpu)
{
    write_cr0(read_cr0() & ~(ulong)CR0_WP);
    while (!shared.stop) {
        u32 value = sign(0);

        shared.errors[cpu] += probe(WRITE, at, &value).vector != -1;
        shared.rounds[cpu]++;
        if (shared.rounds[cpu] % 16 == 0) {
            invlpg(at);
        }
        pause();
    }
    write_cr0(read_cr0() | CR0_WP);
}

static void do_job(u32 job, int cpu)
{
    switch (job) {
    case JOB_SEQUENCE:
        job_sequence(cpu);
        break;
    case JOB_COUNT:
        job_count(cpu);
        break;
    case JOB_OWN_ENTRIES:
        job_own_entries(cpu);
        break;
    case JOB_WRITE_ONCE:
        job_write_once(cpu);
        break;
    case JOB_PROBE_WP:
        job_probe_wp(cpu);
        break;
    }
}

void ap_main(void)
{
    int cpu = ap_index;
    u32 last = JOB_NONE;

    cpu_tables(cpu, (ulong)stacks[cpu] + sizeof(stacks[cpu]));
    write_cr0(read_cr0() | CR0_WP);
    write_cr3(space.root);
    lapic_write(LAPIC_SVR, 0x1ff);
    asm volatile("sti");
    add_one(&shared.up);
    for (;;) {
        u32 job = shared.job;

        if (job != last) {
            last = job;
            do_job(job & 0xff, cpu);
            sub_one(&shared.running);
        }
        pause();
    }
}

/* ---- The boot CPU ---- */

static void start_job(u32 job)
{
    static u32 serial;

    for (unsigned i = 0; i < MAX_CPUS; i++) {
        shared.errors[i] = shared.rounds[i] = 0;
    }
    shared.stop = false;
    shared.running = cpu_count - 1;
    shared.job = job | ++serial << 8;
}

static void end_job(void)
{
    shared.stop = true;
    while (shared.running) {
        pause();
    }
}

/* Let every other CPU do at least one more round. */
static void let_run(void)
{
    u32 before[MAX_CPUS];

    for (unsigned i = 1; i < cpu_count; i++) {
        before[i] = shared.rounds[i];
    }
    for (unsigned i = 1; i < cpu_count; i++) {
        while (shared.rounds[i] - before[i] < 2) {
            pause();
        }
    }
}

static u32 all_errors(void)
{
    u32 sum = 0;

    for (unsigned i = 0; i < cpu_count; i++) {
        sum += shared.errors[i];
    }
    return sum;
}

static void fresh_window(void)
{
    set(&space, at, 4, 0);
    map(&space, at, pages[0], P | W);
    for (unsigned i = 0; i < PAGES; i++) {
        *(volatile u32 *)pages[i] = sign(i);
    }
    shoot_down(0);
}

static void test_sequence(void)
{
    fresh_window();
    shared.intent = 0;
    shoot_down(0);
    start_job(JOB_SEQUENCE);
    for (u32 n = 1; n <= 2 * rounds; n++) {
        shared.intent = n;
        map(&space, at, pages[n / 2 % PAGES], n & 1 ? 0 : P | W);
        shoot_down(n % 3 ? at : 0);
        if (n % 16 == 0) {
            let_run();
        }
    }
    end_job();
    check(!all_errors(), "shootdown", "%d stale reads", all_errors());
}

/* A table above changes too: its old table is given another use at once. */
static void test_table_reuse(void)
{
    ulong table[2] = { pool_page(), pool_page() };

    fresh_window();
    shared.intent = 0;
    shoot_down(0);
    start_job(JOB_SEQUENCE);
    for (u32 n = 2; n <= 2 * rounds; n += 2) {
        ulong now = table[n / 2 & 1], old = table[~n / 2 & 1];

        memset((void *)now, 0, PAGE);
        entry_set(space.format, now, 0, pages[n / 2 % PAGES] | P | W);
        shared.intent = n;
        set(&space, at, 2, now | P | W);
        shoot_down(n % 3 ? at : 0);
        memset((void *)old, 0x5a, PAGE);
    }
    end_job();
    check(!all_errors(), "table-reuse", "%d stale reads", all_errors());
}

static void test_write_protect(void)
{
    u32 changed = 0;
    volatile u32 *counters = (volatile u32 *)pages[1];

    fresh_window();
    map(&space, at, pages[1], P | W);
    shoot_down(at);
    start_job(JOB_COUNT);
    for (u32 n = 0; n < rounds / 4 + 1; n++) {
        u32 seen[MAX_CPUS];

        let_run();
        map(&space, at, pages[1], P);
        shoot_down(at);
        for (unsigned i = 1; i < cpu_count; i++) {
            seen[i] = counters[i];
        }
        for (unsigned i = 0; i < 300; i++) {
            pause();
        }
        for (unsigned i = 1; i < cpu_count; i++) {
            changed += seen[i] != counters[i];
        }
        map(&space, at, pages[1], P | W);
        shoot_down(at);
    }
    end_job();
    check(!changed && !all_errors(), "write-protect",
          "%d writes to a protected page, %d wrong faults", changed,
          all_errors());
}

static void test_own_entries(void)
{
    fresh_window();
    start_job(JOB_OWN_ENTRIES);
    job_own_entries(0);
    end_job();
    check(!all_errors() && shared.rounds[0] == rounds, "own-entries",
          "%d wrong translations", all_errors());
}

static void test_dirty(void)
{
    ulong where;
    u32 missing = 0, errors = 0;

    fresh_window();
    where = entry_at(&space, at, 1);
    for (u32 n = 0; n < rounds / 8 + 1; n++) {
        asm volatile("lock andb $0x9f, (%0)" : : "r"(where) : "memory", "cc");
        shoot_down(n & 1 ? at : 0);
        start_job(JOB_WRITE_ONCE);
        end_job();
        if (cpu_count == 1) {
            job_write_once(0);
        }
        errors += all_errors();
        missing += (entry_get(space.format, where, 0) & (A | D)) != (A | D);
    }
    check(!missing && !errors, "dirty", "%d times no A or D, %d faults", missing,
          errors);
}

static void test_different_wp(void)
{
    u32 wrong = 0;

    fresh_window();
    map(&space, at, pages[0], P);
    shoot_down(at);
    start_job(JOB_PROBE_WP);
    for (u32 n = 0; n < rounds; n++) {
        u32 value = sign(0);
        Exc exc = probe(WRITE, at, &value);

        wrong += exc.vector != 14 || exc.error != 3;
        wrong += see(at) != sign(0);
        if (n % 16 == 0) {
            invlpg(at);
        }
    }
    let_run();
    end_job();
    check(!wrong && !all_errors(), "different-wp", "%d here, %d there", wrong,
          all_errors());
}

static void delay(unsigned n)
{
    while (n--) {
        (void)inb(0x80);
    }
}

static void start_cpu(unsigned cpu)
{
    ap_index = cpu;
    ap_stack = (ulong)stacks[cpu] + 4096;
    lapic_write(LAPIC_ICR_HIGH, cpu << 24);
    lapic_write(LAPIC_ICR_LOW, 0x4500);                 /* INIT */
    delay(10000);
    lapic_write(LAPIC_ICR_HIGH, cpu << 24);
    lapic_write(LAPIC_ICR_LOW, 0x4600 | AP_START >> 12);
    while (shared.up != cpu) {
        pause();
    }
}

void guest_main(void)
{
    print("TAP version 13\n");
    cpu_count = has_word("smp4") ? 4 : has_word("smp2") ? 2 : 1;
    rounds = has_word("long") ? 4000 : 80;
    irq_handler[VEC_IPI] = on_ipi;
    write_cr0(read_cr0() | CR0_WP);

    space = space_new(&format_4level);
    map(&space, LAPIC, LAPIC, P | W);
    at = format_4level.window;
    for (unsigned i = 0; i < PAGES; i++) {
        pages[i] = pool_page();
    }
    space_use(&space);
    lapic_write(LAPIC_SVR, 0x1ff);
    memcpy((void *)AP_START, ap_blob, ap_blob_end - ap_blob);
    for (unsigned cpu = 1; cpu < cpu_count; cpu++) {
        start_cpu(cpu);
    }
    check(shared.up == cpu_count - 1, "start", "%d up", shared.up);
    test_sequence();
    test_table_reuse();
    test_write_protect();
    test_own_entries();
    test_dirty();
    test_different_wp();
}
