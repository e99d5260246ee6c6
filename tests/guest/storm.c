/*
 * xmmu guest "storm": random code in user mode, with random debug registers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * User mode executes random bytes while breakpoints lie on its code, on the stack that
 * its exceptions push to, and on the task state. Whatever the CPU makes of that, control
 * must come back to the kernel (by an exception or the timer), and the machine must live,
 * QEMU with it.
 */
#include "lib.h"

#define ARENA       0x4000000ul     /* 2 MiB, user mode's own */
#define ARENA_SIZE  0x200000ul
#define CODE_SIZE   256
#define PAGE_USER   0x4
#define INT3        0xcc
#define VEC_TICK    0x31
#define TICK        20000
#define TSS_IO_MAP  102
#define TSS_SIZE    104
#define DR7_FIXED   0x400
#define ROUNDS      2000

static volatile unsigned left[64], traps;

/* Everything that user mode does ends here, by whatever vector. */
static void on_exception(Frame *frame)
{
    if (!(frame->cs & 3)) {
        panic("exception %d in the kernel at %p", (int)frame->vector, frame->ip);
    }
    write_dr7(DR7_FIXED);
    left[frame->vector]++;
    if (frame->vector == VEC_TICK) {
        lapic_write(LAPIC_EOI, 0);
    }
    user_leave(0);
}

/*
 * User mode's traps go on, mostly. One in the kernel switches all off: IRET would hit the
 * slot of its own frame for ever.
 */
static void on_trap(Frame *frame)
{
    traps++;
    write_dr6(0);
    frame->flags |= RF;
    if (!(frame->cs & 3)) {
        write_dr7(DR7_FIXED);
    } else if (random32() % 8 == 0) {
        on_exception(frame);
    }
}

/* Not the IDT: each delivery of #DB would hit it again. */
static ulong watched(ulong code)
{
    ulong stack = (ulong)__builtin_frame_address(0), address;

    switch (random32() % 5) {
    case 0:
        address = (ulong)tss0 + random32() % TSS_SIZE;
        break;
    case 1:
    case 2:
        address = stack - 512 + random32() % 512;
        break;
    default:
        address = code + random32() % CODE_SIZE;
        break;
    }
    return address & ~(random32() & 7ul);
}

static void random_debug(ulong code)
{
    write_dr0(watched(code));
    write_dr1(watched(code));
    write_dr2(watched(code));
    write_dr3(watched(code));
    write_dr6(0);
    write_dr7((random32() & 0xffff00ff & ~DR7_GD) | DR7_FIXED);
}

static void one_round(void)
{
    u8 *code = (u8 *)ARENA + random32() % (ARENA_SIZE - CODE_SIZE);
    ulong value = ARENA + random32() % ARENA_SIZE;

    for (unsigned i = 0; i < CODE_SIZE; i++) {
        code[i] = random32();
    }
    user_flags = 2 | IF | (random32() % 4 ? 0 : TF) | (random32() % 8 ? 0 : RF);
    random_debug((ulong)code);
    user_run((ulong)code, value, &value);
}

static void open_arena(void)
{
    u64 *pml4 = (u64 *)(read_cr3() & ~0xffful);
    u64 *pdpt = (u64 *)(ulong)(pml4[0] & ~0xfffull);
    u64 *pd = (u64 *)(ulong)(pdpt[0] & ~0xfffull);

    pml4[0] |= PAGE_USER;
    pdpt[0] |= PAGE_USER;
    pd[ARENA / ARENA_SIZE] |= PAGE_USER;
    write_cr3(read_cr3());
    memset((void *)ARENA, INT3, ARENA_SIZE);
}

static void start_ticks(void)
{
    mask_pic();
    lapic_write(LAPIC_SVR, 0x100 | 0x3f);
    lapic_write(LAPIC_TIMER, LAPIC_PERIODIC | VEC_TICK);
    lapic_write(LAPIC_COUNT, TICK);
}

void guest_main(void)
{
    unsigned rounds = word_number("rounds=", ROUNDS), ways = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(irq_handler); i++) {
        irq_handler[i] = on_exception;
    }
    irq_handler[1] = on_trap;
    open_arena();
    /* By hand: user mode may use all ports, and end the machine by some of them. */
    if (!has_word("ports")) {
        tss0[0][TSS_IO_MAP] = TSS_SIZE;
    }
    start_ticks();
    for (unsigned i = 0; i < rounds; i++) {
        one_round();
    }
    for (unsigned i = 0; i < ARRAY_SIZE(left); i++) {
        ways += left[i] != 0;
    }
    check(traps && ways > 3, "random code comes back", "%d traps, %d ways", (int)traps,
          (int)ways);
    finish();
}
