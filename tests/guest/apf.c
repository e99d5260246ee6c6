/*
 * xmmu guest "apf": KVM's asynchronous page faults
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The rules of the three MSRs, and what happens at pages that the host has to read
 * first.  Our memory is a file: at each STEP from the fourth on there is one page that is not
 * in the host's memory, and its first word says which it is.  Each page can be missed
 * once.
 */
#include "paging.h"

#define MSR_EN          0x4b564d02
#define MSR_INT         0x4b564d06
#define MSR_ACK         0x4b564d07
#define EN_ENABLED      1
#define EN_ALWAYS       2
#define EN_VMEXIT       4
#define EN_INT          8
#define VEC_READY       0x32

/* As in run-guests. */
#define STEP            (16ul << 20)
#define FIRST           4
#define END             48

static volatile struct {
    u32 flags, token;
    u8 rest[56];
} shared __attribute__((aligned(64)));

static volatile u32 ready[64];
static volatile unsigned readies;
static volatile bool acknowledge = true;
static Space space;
static ulong window;
static unsigned next_page = FIRST;

static void acknowledge_one(void)
{
    shared.token = 0;
    wrmsr(MSR_ACK, 1);
}

static void on_ready(Frame *frame)
{
    (void)frame;
    ready[readies++ % ARRAY_SIZE(ready)] = shared.token;
    lapic_write(LAPIC_EOI, 0);
    if (acknowledge) {
        acknowledge_one();
    }
}

/* A page that nobody has touched, for user and supervisor. */
static ulong fresh_page(u32 *content)
{
    unsigned page = next_page++;
    ulong address = window + page * PAGE;

    if (page == END) {
        panic("no more pages");
    }
    map(&space, address, page * STEP, P | W | U);
    *content = 0x5a000000 | page;
    return address;
}

/* Let interrupts in, for a short while or until one more has come. */
static void listen(void)
{
    asm volatile("sti; nop; nop; nop; cli" : : : "memory");
}

static void listen_until(unsigned count)
{
    while (readies < count) {
        asm volatile("sti; pause; pause; cli" : : : "memory");
    }
}

static void enable(u64 how)
{
    wrmsr(MSR_EN, (ulong)&shared | how);
}

static u64 read_msr(u32 index)
{
    return rdmsr(index);
}

/* ---- Rules ------------------------------------------------------------------- */

static void test_cpuid(void)
{
    u32 r[4];

    cpuid(0x40000000, 0, r);
    check(r[0] == 0x40000001 && r[1] == 0x4b4d564b && r[2] == 0x564b4d56 &&
          r[3] == 0x4d, "signature", "%x %x %x %x", r[0], r[1], r[2], r[3]);
    cpuid(0x40000001, 0, r);
    check(r[0] == (BIT(4) | BIT(14)) && !r[1] && !r[2] && !r[3], "features",
          "%x %x %x %x", r[0], r[1], r[2], r[3]);
}

static void check_wrmsr(const char *name, u32 msr, u64 value, bool good)
{
    u64 before = read_msr(msr);
    Exc exc = try_wrmsr(msr, value);
    u64 after = read_msr(msr);

    check(exc.vector == (good ? -1 : 13) && after == (good ? value : before), name,
          "exception %d, %X", exc.vector, after);
}

static void test_msrs(void)
{
    ulong area = (ulong)&shared;

    check_wrmsr("INT: a vector", MSR_INT, VEC_READY, true);
    check_wrmsr("INT: bit 8", MSR_INT, 0x100 | VEC_READY, false);
    check_wrmsr("INT: bit 63", MSR_INT, BIT(63) | VEC_READY, false);
    check_wrmsr("EN: bit 4", MSR_EN, area | 0x10, false);
    check_wrmsr("EN: bit 5", MSR_EN, area | 0x20, false);
    check_wrmsr("EN: as #VMEXIT, which is not offered", MSR_EN, area | EN_VMEXIT, false);
    check_wrmsr("EN: where no RAM is", MSR_EN, LAPIC | EN_ENABLED | EN_INT, false);
    check_wrmsr("EN: far above", MSR_EN, BIT(50) | EN_ENABLED | EN_INT, false);
    check_wrmsr("EN: all bits that are offered", MSR_EN,
                area | EN_ENABLED | EN_ALWAYS | EN_INT, true);
    listen();
    check_wrmsr("EN: off", MSR_EN, 0, true);
    check(read_msr(MSR_ACK) == 0, "ACK reads as 0", "%X", read_msr(MSR_ACK));
    check(try_wrmsr(MSR_ACK, ~0ull).vector == -1, "ACK takes any value", "");
}

/* Who waits from before is woken when events are turned on. */
static void test_wake_all(void)
{
    readies = 0;
    enable(EN_ENABLED | EN_INT);
    listen_until(1);
    listen();
    check(readies == 1 && ready[0] == ~0u, "turned on: all are woken", "%d, %x", readies,
          ready[0]);
    readies = 0;
    enable(EN_ENABLED);
    listen();
    check(readies == 0, "without interrupts there are no events", "%d", readies);
    enable(EN_ENABLED | EN_INT);
    listen_until(1);
}

/* ---- Missing pages ------------------------------------------------------------ */

static void test_user(void)
{
    u32 content, value = 0;
    ulong page = fresh_page(&content);
    Exc exc;

    readies = 0;
    user_flags = 2 | IF;
    exc = probe_user(READ, page, &value);
    check(exc.vector == 14 && exc.error == 0 && exc.cr2 && shared.flags == 1,
          "user: page not present", "exception %d error %x token %X flags %x",
          exc.vector, exc.error, exc.cr2, shared.flags);
    shared.flags = 0;
    listen_until(1);
    check(ready[0] == exc.cr2, "user: the same token is ready", "%x, %X", ready[0],
          exc.cr2);
    exc = probe_user(READ, page, &value);
    check(exc.vector == -1 && value == content, "user: then the access succeeds",
          "exception %d, %x", exc.vector, value);
    exc = probe_user(WRITE, page, &value);
    listen();
    check(exc.vector == -1 && readies == 1, "user: no more events", "exception %d, %d",
          exc.vector, readies);
}

/* Halts, or waits with interrupts off; not a word either way. */
static void check_silent(const char *name, bool user, bool interrupts)
{
    u32 content, value = 0;
    ulong page = fresh_page(&content);
    Exc exc;

    readies = 0;
    user_flags = 2 | (interrupts ? IF : 0);
    if (user) {
        exc = probe_user(READ, page, &value);
    } else {
        if (interrupts) {
            asm volatile("sti; nop");
        }
        exc = probe(READ, page, &value);
        asm volatile("cli");
    }
    listen();
    check(exc.vector == -1 && value == content && readies == 0 && shared.flags == 0,
          name, "exception %d, %x, %d events", exc.vector, value, readies);
}

static void test_always(void)
{
    u32 content, value = 0;
    ulong page = fresh_page(&content);
    Exc exc;

    readies = 0;
    enable(EN_ENABLED | EN_INT | EN_ALWAYS);
    listen_until(1);
    readies = 0;
    asm volatile("sti; nop");
    exc = probe(READ, page, &value);
    asm volatile("cli");
    check(exc.vector == 14 && exc.error == 0 && shared.flags == 1,
          "supervisor: told if it wants to be", "exception %d", exc.vector);
    shared.flags = 0;
    listen_until(1);
    check(ready[0] == exc.cr2, "supervisor: ready", "%x", ready[0]);
    exc = probe(READ, page, &value);
    check(exc.vector == -1 && value == content, "supervisor: the access succeeds", "%x",
          value);
}

/* A missing page that is executed, and one that is written. */
static void test_kinds(void)
{
    u32 content, value = 0x12345678;
    ulong page = fresh_page(&content);
    Exc exc = probe_user(WRITE, page, &value);

    check(exc.vector == 14 && exc.error == 0 && shared.flags == 1,
          "write: page not present", "exception %d error %x", exc.vector, exc.error);
    shared.flags = 0;
    listen_until(1);
    exc = probe_user(WRITE, page, &value);
    check(exc.vector == -1 && *(volatile u32 *)page == 0x12345678, "write: done", "%d",
          exc.vector);
    readies = 0;
    page = fresh_page(&content);
    exc = probe_user(EXEC, page, &value);
    check(exc.vector == 14 && exc.error == 0 && shared.flags == 1,
          "fetch: page not present", "exception %d error %x", exc.vector, exc.error);
    shared.flags = 0;
    listen_until(1);
    put_code((void *)page);
    exc = probe_user(EXEC, page, &value);
    check(exc.vector == -1, "fetch: done", "%d", exc.vector);
}

/* The second "page ready" waits for the acknowledgement of the first. */
static void test_one_at_a_time(void)
{
    u32 content, value;
    Exc first, second;

    readies = 0;
    acknowledge = false;
    first = probe_user(READ, fresh_page(&content), &value);
    shared.flags = 0;
    listen_until(1);
    second = probe_user(READ, fresh_page(&content), &value);
    shared.flags = 0;
    for (int i = 0; i < 100000; i++) {
        asm volatile("sti; pause; cli" : : : "memory");
    }
    check(first.vector == 14 && second.vector == 14 && first.cr2 != second.cr2,
          "two tokens", "%X %X", first.cr2, second.cr2);
    check(readies == 1 && shared.token == first.cr2, "the second waits", "%d, %x",
          readies, shared.token);
    acknowledge = true;
    acknowledge_one();
    listen_until(2);
    check(ready[1] == second.cr2, "the second comes when the first is acknowledged",
          "%x", ready[1]);
}

/* Turned off with a page on its way: not a word.  Turned on: all are woken. */
static void test_off(void)
{
    u32 content, value = 0;
    ulong page = fresh_page(&content);
    Exc exc = probe_user(READ, page, &value);

    check(exc.vector == 14, "off: told before", "%d", exc.vector);
    shared.flags = 0;
    wrmsr(MSR_EN, 0);
    /* It may have come before the events were off. */
    listen();
    readies = 0;
    for (int i = 0; i < 100000; i++) {
        asm volatile("sti; pause; cli" : : : "memory");
    }
    check(readies == 0, "off: nothing is ready", "%d", readies);
    exc = probe_user(READ, page, &value);
    check(exc.vector == -1 && value == content, "off: the access succeeds", "%d %x",
          exc.vector, value);
    check_silent("off: a user is not told", true, true);
}

void guest_main(void)
{
    space = space_new(&format_4level);
    set(&space, LAPIC & ~(BIT(21) - 1), 2, (LAPIC & ~(BIT(21) - 1)) | P | W | PS);
    window = format_4level.window;
    space_use(&space);
    mask_pic();
    lapic_write(LAPIC_SVR, 0x1ff);
    irq_handler[VEC_READY] = on_ready;

    test_cpuid();
    test_msrs();
    test_wake_all();
    test_user();
    check_silent("supervisor: not told", false, true);
    check_silent("interrupts off: a user is not told", true, false);
    check_silent("interrupts off: the supervisor is not told", false, false);
    user_flags = 2 | IF;
    readies = 0;
    test_kinds();
    test_one_at_a_time();
    test_always();
    test_off();
    finish();
}
