/*
 * xmmu guest "migrate": writes all the time, and knows what must be in memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each CPU goes round its own pages.  It looks whether a page still has what it
 * wrote there in the round before, and writes the next pattern.  A write that a
 * migration lost, or a page that it brought twice, is seen one round later.  The
 * rounds go through two mappings by turns, small pages and large ones, and with the
 * small ones the A and D bits of the guest's own tables are checked in the same way:
 * the processor writes these, not the guest.
 *
 * Built for 32 bits it uses PAE paging and overwrites the page-directory pointers in
 * memory once they are loaded: a CPU goes on with those in its registers (Intel SDM
 * vol. 3, 4.4.1), before and after it has moved.
 *
 * The host sees how it goes in the mailbox.  Words: cpusN (1), mbN (8), writer (only
 * write, one word a page), idle (no CPU writes after the first round).
 */
#include "paging.h"
#include "../qtest/xmmu-migrate-guest.h"

#define AP_START        0x8000ul
#define WORDS           14      /* looked at in each page */
#define STATIC_PAGES    1024ul  /* written once */
#define STATIC_SHARE    16      /* ... and looked at in so many rounds */
#define WARM_ROUNDS     64      /* of a writer */

static volatile MigrateMailbox *const box = (void *)MIGRATE_MAILBOX;

static Space space;
#ifndef __x86_64__
static u64 own_pdptes[4];
#endif
static ulong small, large;      /* the two mappings */
static ulong page_count;
static unsigned cpu_count = 1;
static bool writer, idle;

/* ---- What is in a page ------------------------------------------------------ */

static u32 pattern(ulong page, u32 round, unsigned word)
{
    u32 x = page * 0x9e3779b1u ^ round * 0x85ebca6bu ^ word * 0xc2b2ae35u;

    x ^= x >> 15;
    return x * 0x2c1b3c6du | 1;
}

static volatile u32 *word_at(ulong map, ulong page, unsigned word)
{
    return (volatile u32 *)(map + page * PAGE + 64 + word * 256);
}

/* Lies across the border to the next page, which is the same CPU's. */
static volatile u32 *straddler(ulong map, ulong page)
{
    return (volatile u32 *)(map + page * PAGE + PAGE - 2);
}

static bool has_straddler(ulong page)
{
    return !(page & 1);
}

static bool is_mine(ulong page, unsigned cpu)
{
    return page / 2 % cpu_count == cpu;
}

static void expect_word(unsigned cpu, ulong page, unsigned word, u32 found, u32 wanted)
{
    volatile MigrateCpu *me = &box->cpus[cpu];

    if (found == wanted) {
        return;
    }
    if (!me->errors) {
        me->bad_page = page;
        me->bad_word = word;
        me->bad_found = found;
        me->bad_wanted = wanted;
    }
    me->errors++;
}

static void check_page(unsigned cpu, ulong map, ulong page, u32 round)
{
    for (unsigned w = 0; w < WORDS; w++) {
        expect_word(cpu, page, w, *word_at(map, page, w), pattern(page, round, w));
    }
    if (has_straddler(page)) {
        expect_word(cpu, page, WORDS, *straddler(map, page),
                    pattern(page, round, WORDS));
    }
}

static void write_page(ulong map, ulong page, u32 round)
{
    for (unsigned w = 0; w < WORDS; w++) {
        *word_at(map, page, w) = pattern(page, round, w);
    }
    if (has_straddler(page)) {
        *straddler(map, page) = pattern(page, round, WORDS);
    }
}

/* ---- Tables ------------------------------------------------------------------- */

/* The PDPTEs in memory are right only while CR3 is being loaded. */
static void reload_cr3(void)
{
#ifndef __x86_64__
    memcpy((void *)space.root, own_pdptes, sizeof(own_pdptes));
#endif
    flush_all();
#ifndef __x86_64__
    memset((void *)space.root, 0xee, sizeof(own_pdptes));
#endif
}

/* Tables of the small mapping; found while the root is still whole in memory. */
static ulong leaf_tables[512];

static volatile u64 *leaf_of(ulong page)
{
    return (volatile u64 *)leaf_tables[page / 512] + page % 512;
}

static void forget_marks(unsigned cpu)
{
    for (ulong page = 0; page < page_count; page++) {
        if (is_mine(page, cpu)) {
            *leaf_of(page) &= ~(A | D);
        }
    }
    reload_cr3();
}

/* Every page was written through its small mapping since forget_marks(). */
static void check_marks(unsigned cpu)
{
    for (ulong page = 0; page < page_count; page++) {
        if (is_mine(page, cpu)) {
            expect_word(cpu, page, MIGRATE_WORD_MARKS, *leaf_of(page) & (A | D), A | D);
        }
    }
}

/* ---- Rounds --------------------------------------------------------------------- */

static void check_static(unsigned cpu, u32 round)
{
    ulong part = STATIC_PAGES / STATIC_SHARE, first = round % STATIC_SHARE * part;

    for (ulong page = first; page < first + part; page++) {
        check_page(cpu, large, page_count + page, 0);
    }
}

static void do_round(unsigned cpu, u32 round)
{
    bool use_small = round & 1;
    ulong map = use_small ? small : large;

    if (use_small) {
        forget_marks(cpu);
    }
    for (ulong page = 0; page < page_count; page++) {
        if (is_mine(page, cpu)) {
            check_page(cpu, map, page, round - 1);
            write_page(map, page, round);
            box->cpus[cpu].pages++;
        }
    }
    if (use_small) {
        check_marks(cpu);
    }
    check_static(cpu, round);
}

/*
 * For the cost of logging: as many pages as possible are written.  TCG's TLB grows only
 * when it is flushed; with the first rounds it gets large enough to hold all pages, so
 * that it is not its size that is measured.
 */
static void do_writer_round(unsigned cpu, u32 round)
{
    if (round <= WARM_ROUNDS) {
        reload_cr3();
    }
    for (ulong page = 0; page < page_count; page++) {
        if (is_mine(page, cpu)) {
            *word_at(small, page, 0) = round;
        }
    }
    box->cpus[cpu].pages += page_count / cpu_count;
}

static void work(unsigned cpu)
{
    for (u32 round = 1;; round++) {
        if (writer) {
            do_writer_round(cpu, round);
        } else if (!idle || round == 1) {
            do_round(cpu, round);
        }
        box->cpus[cpu].rounds = round;
        asm volatile("pause" : : : "memory");
    }
}

/* ---- Other CPUs ------------------------------------------------------------------ */

#ifdef __x86_64__
ulong ap_stack;
static volatile ulong ap_index;
static volatile u32 aps_up;
static u8 stacks[MAX_CPUS][8192] __attribute__((aligned(16)));
extern char ap_blob[], ap_blob_end[];

void ap_main(void)
{
    unsigned cpu = ap_index;

    cpu_tables(cpu, (ulong)stacks[cpu] + sizeof(stacks[cpu]));
    write_cr0(read_cr0() | CR0_WP);
    write_cr3(space.root);
    aps_up++;
    work(cpu);
}

/* One at a time: they share the stack of the way in. */
static void start_cpu(unsigned cpu)
{
    u32 up = aps_up;

    ap_index = cpu;
    ap_stack = (ulong)stacks[cpu] + sizeof(stacks[cpu]);
    lapic_write(LAPIC_ICR_HIGH, cpu << 24);
    lapic_write(LAPIC_ICR_LOW, 0x4500);         /* INIT */
    for (volatile u32 i = 0; i < 10000; i++) {
    }
    lapic_write(LAPIC_ICR_HIGH, cpu << 24);
    lapic_write(LAPIC_ICR_LOW, 0x4600 | AP_START >> 12);
    while (aps_up == up) {
        asm volatile("pause" : : : "memory");
    }
}

static void start_cpus(void)
{
    memcpy((void *)AP_START, ap_blob, ap_blob_end - ap_blob);
    map(&space, LAPIC, LAPIC, P | W);
    for (unsigned cpu = 1; cpu < cpu_count; cpu++) {
        start_cpu(cpu);
    }
}
#else
static void start_cpus(void)
{
    if (cpu_count > 1) {
        panic("the 32-bit guest has one CPU");
    }
}
#endif

/* ---- Start ------------------------------------------------------------------------ */

static void read_words(void)
{
    cpu_count = word_number("cpus", 1);
    page_count = word_number("mb", 8) << 20 >> 12;
    writer = has_word("writer");
    idle = has_word("idle");
}

static void make_space(void)
{
#ifdef __x86_64__
    const Format *format = &format_4level;
#else
    const Format *format = &format_pae;
#endif
    ulong end = page_count + STATIC_PAGES;

    space = space_new(format);
    small = format->window;
    large = small + 0x40000000ul;
    for (ulong page = 0; page < page_count; page++) {
        map(&space, small + page * PAGE, MIGRATE_MEMORY + page * PAGE, P | W);
        if (page % 512 == 0) {
            leaf_tables[page / 512] = entry_at(&space, small + page * PAGE, 1);
        }
    }
    for (ulong page = 0; page < end; page += 512) {
        set(&space, large + page * PAGE, 2, (MIGRATE_MEMORY + page * PAGE) | P | W | PS);
    }
    space_use(&space);
#ifndef __x86_64__
    memcpy(own_pdptes, (void *)space.root, sizeof(own_pdptes));
    for (unsigned i = 0; i < ARRAY_SIZE(own_pdptes); i++) {
        own_pdptes[i] &= ~A;    /* a walker that reads memory may have set it */
    }
#endif
    write_cr0(read_cr0() | CR0_WP);
    reload_cr3();
}

static void fill_memory(void)
{
    for (ulong page = 0; page < page_count + STATIC_PAGES; page++) {
        write_page(large, page, 0);
    }
}

void guest_main(void)
{
    read_words();
    memset((void *)MIGRATE_MAILBOX, 0, sizeof(*box));
    make_space();
    fill_memory();
    start_cpus();
    box->page_count = page_count;
    box->magic = MIGRATE_MAGIC;
    work(0);
}
