/*
 * xmmu guest "measure": what exits and faults cost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Does one thing many times and prints what the TSC says of it. Where the TSC counts
 * instructions (-icount shift=0) that is the number of instructions that the whole
 * machine below executed. tests/machine/measure runs it and reads the lines
 *
 *   measure NAME TIMES TICKS
 */
#include "lib.h"

#define FRESH   (16ul << 20)    /* memory that nothing has touched yet */
#define PAGES   4096ul          /* up to 32 MiB */
#define IOAPIC  0xfec00000ul

static void do_nothing(ulong times)
{
    asm volatile("1: dec %0; jnz 1b" : "+r"(times));
}

static void do_loads(ulong times)
{
    volatile const u32 *at = (const u32 *)(2ul << 20);

    for (ulong i = 0; i < times; i++) {
        (void)at[i * 1031 % 65536];
    }
}

static void do_cpuid(ulong times)
{
    u32 out[4];

    while (times--) {
        cpuid(0, 0, out);
    }
}

static void do_out(ulong times)
{
    while (times--) {
        outb(0x80, 0);
    }
}

static void do_in(ulong times)
{
    while (times--) {
        inb(0x61);
    }
}

static void do_mmio(ulong times)
{
    while (times--) {
        (void)*(volatile u32 *)IOAPIC;
    }
}

/* One page after another, so that each is a fault unless one brings in its neighbours. */
static void do_faults(ulong times)
{
    for (ulong i = 0; i < times; i++) {
        *(volatile u32 *)(FRESH + i * 4096) = 1;
    }
}

static void measure(const char *name, void (*work)(ulong), ulong times)
{
    u64 start = rdtsc();

    work(times);
    print("measure %s %d %X\n", name, (int)times, rdtsc() - start);
}

void guest_main(void)
{
    print("TAP version 13\n");
    measure("faults", do_faults, PAGES);
    measure("faults-again", do_faults, PAGES);
    measure("loop", do_nothing, 1000000);
    measure("loads", do_loads, 100000);
    for (int i = 0; i < 2; i++) {
        /* The first round finds things out that the second knows. */
        measure(i ? "cpuid" : "cpuid-first", do_cpuid, 300);
        measure(i ? "out" : "out-first", do_out, 300);
        measure(i ? "in" : "in-first", do_in, 300);
        measure(i ? "mmio" : "mmio-first", do_mmio, 300);
    }
    check(true, "measured", "");
    finish();
}
