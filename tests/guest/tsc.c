/*
 * xmmu guest "tsc": how fast the TSC runs, and that it goes on evenly
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The TSC is timed by channel 2 of the PIT; both are the guest's clocks, so a busy host
 * does no harm that a median does not mend.  A TSC that the hardware scales is read in
 * the hardware, and in an emulator while System Management Mode or (tdp=off) no paging
 * is on: both must have the same speed and no jump between them.
 *
 * Words: khz=N, what it must be; forever: the host sees in the mailbox what it is, round
 * by round, and an error when there was a leap between two rounds.
 */
#include "paging.h"
#include "../qtest/xmmu-migrate-guest.h"

#define PIT_CHANNEL2    0x42
#define PIT_COMMAND     0x43
#define PIT_ONE_SHOT    0xb0            /* channel 2, both bytes, mode 0 */
#define PORT_B          0x61
#define GATE2           0x01
#define SPEAKER         0x02
#define OUT2            0x20
#define TICKS_50MS      59659u          /* of 1.193182 MHz */
#define MS              50
#define PORT_SMI        0xb2
#define TIMES           9
#define ROUNDS          50
#define PERCENT         2

static u32 khz_once(void)
{
    u64 start;

    outb(PORT_B, (inb(PORT_B) & ~SPEAKER) | GATE2);
    outb(PIT_COMMAND, PIT_ONE_SHOT);
    outb(PIT_CHANNEL2, TICKS_50MS & 0xff);
    outb(PIT_CHANNEL2, TICKS_50MS >> 8);
    start = rdtsc();
    while (!(inb(PORT_B) & OUT2)) {
    }
    return (u32)(rdtsc() - start) / MS;
}

static u32 median_khz(void)
{
    u32 khz[TIMES];

    for (unsigned i = 0; i < TIMES; i++) {
        u32 now = khz_once();
        unsigned at = i;

        for (; at && khz[at - 1] > now; at--) {
            khz[at] = khz[at - 1];
        }
        khz[at] = now;
    }
    return khz[TIMES / 2];
}

static bool about(u32 khz, u32 wanted)
{
    u32 off = wanted / 100 * PERCENT;

    return khz >= wanted - off && khz <= wanted + off;
}

static void test_speed(const char *name, u32 wanted)
{
    u32 khz = median_khz();

    check(about(khz, wanted ? wanted : khz), name, "%d kHz, not %d", (int)khz, (int)wanted);
}

/* The same TSC at both ends: a second between them would be far too much. */
static bool follows(u64 before, u64 after, u32 khz)
{
    return after > before && after - before < (u64)khz * 1000;
}

/* The firmware's handler does nothing for a command that it does not know. */
static void test_smi(u32 khz)
{
    unsigned bad = 0;

    for (unsigned i = 0; i < ROUNDS; i++) {
        u64 before = rdtsc();

        outb(PORT_SMI, 0xee);
        bad += !follows(before, rdtsc(), khz);
    }
    check(!bad, "an SMI takes no leap in time", "%d of %d do", (int)bad, ROUNDS);
}

#ifndef __x86_64__
static void turn_paging_on(u32 khz)
{
    u64 before = rdtsc();
    Space space = space_new(&format_pae);

    space_use(&space);
    check(follows(before, rdtsc(), khz), "paging takes no leap in time", "it does");
}
#endif

static void go_on_forever(void)
{
    volatile MigrateMailbox *box = (void *)MIGRATE_MAILBOX;
    volatile MigrateCpu *me = &box->cpus[0];
    u64 before = rdtsc();

    for (;;) {
        u64 now;

        me->pages = median_khz();
        now = rdtsc();
        /* A round is half a second of the guest's. */
        me->errors += now <= before || now - before > (u64)me->pages * 10000;
        before = now;
        me->rounds++;
        box->magic = MIGRATE_MAGIC;
    }
}

void guest_main(void)
{
    u32 wanted = word_number("khz=", 0);
    u32 khz = wanted ? wanted : median_khz();

    if (has_word("forever")) {
        go_on_forever();
    }
#ifndef __x86_64__
    test_speed("the TSC's speed without paging", wanted);
    turn_paging_on(khz);
#endif
    test_speed("the TSC's speed", wanted ? wanted : khz);
    test_smi(khz);
    finish();
}
