/*
 * xmmu guest "events": NMIs, debug registers, traps, System Management Mode
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a CPU does between instructions, and what an engine that runs guests in hardware
 * divides between the hardware and its emulation: an NMI that waits for IRET, a trap
 * behind an instruction that exits, breakpoints in the guest's own debug registers, an
 * SMI after which nothing may have changed.
 */
#include "lib.h"

#define ICR_NMI_SELF    0x40400     /* shorthand self, delivery mode NMI */

#define PIC             0x20
#define PIC_MASK        0x21
#define PIC_READ_IRR    0x0a
#define TIMER_IRQ       0x01

#define DR6_B0          0x1
#define DR6_B1          0x2
#define DR6_BD          0x2000
#define DR6_BS          0x4000
#define DR7_L0          0x1         /* an instruction */
#define DR7_L1_WRITE4   0xd00004    /* R/W1 = 01, LEN1 = 11 */
#define CF              0x1
#define IOAPIC          0xfec00000ul
#define ARITHMETIC      0x8d5       /* CF PF AF ZF SF OF: this code's own */
#define PORT_SMI        0xb2
#define ROUNDS          20

/* ---- NMIs ---------------------------------------------------------------------- */

static volatile unsigned nmis, nmi_depth, nmi_nested, nmis_more;

static void send_nmi(void)
{
    lapic_write(LAPIC_ICR_LOW, ICR_NMI_SELF);
}

/* CPUID and IN leave the hardware: the blocking must outlast that. */
static void wait_a_little(void)
{
    u32 r[4];

    for (int i = 0; i < 20; i++) {
        cpuid(0, 0, r);
        inb(0x80);
    }
}

static void on_nmi(Frame *frame)
{
    (void)frame;
    nmi_nested |= nmi_depth;
    nmi_depth++;
    nmis++;
    if (nmis_more) {
        nmis_more--;
        send_nmi();
        wait_a_little();
    }
    nmi_depth--;
}

static void test_nmi(void)
{
    unsigned bad = 0;

    irq_handler[2] = on_nmi;
    for (unsigned i = 1; i <= ROUNDS; i++) {
        send_nmi();
        wait_a_little();
        bad += nmis != i;
    }
    check(!bad, "each NMI arrives once", "%d of %d", (int)nmis, ROUNDS);
    nmis = 0;
    nmis_more = ROUNDS;
    send_nmi();
    wait_a_little();
    check(nmis == ROUNDS + 1 && !nmi_nested, "an NMI in its handler waits for IRET",
          "%d arrived, nested %d", (int)nmis, (int)nmi_nested);
    irq_handler[2] = NULL;
}

/* ---- Locked accesses --------------------------------------------------------- */

static bool timer_is_waiting(void)
{
    outb(PIC, PIC_READ_IRR);
    return inb(PIC) & TIMER_IRQ;
}

/*
 * An emulator executes these with all other CPUs stopped.  Before each the port of the
 * interrupt controller makes an interrupt wait, as interrupts are disabled: whoever
 * takes a note of that for a reason not to begin will never begin.
 */
static void test_locked_device(void)
{
    volatile u32 *icr_high = (volatile u32 *)(LAPIC + LAPIC_ICR_HIGH);
    u32 bad = 0;

    while (!timer_is_waiting()) {
    }
    for (u32 i = 0; i < ROUNDS; i++) {
        *icr_high = i << 24;
        outb(PIC_MASK, (u8)~TIMER_IRQ);
        asm volatile("lock addl %1, %0" : "+m"(*icr_high) : "r"(1u << 24) : "cc");
        outb(PIC_MASK, 0xff);
        bad += *icr_high != (i + 1) << 24;
    }
    check(!bad, "locked access to a device", "%d wrong", (int)bad);
}

/* ---- Interrupts ----------------------------------------------------------------- */

#ifdef __x86_64__

#define VEC_TICK        0x30
#define VEC_SPURIOUS    0x3f
#define GATE_PRESENT    BIT(47)
#define STACK_ENTRY     504         /* of the root; nothing is mapped by it and below */
#define STACK_ENTRIES   120

static volatile unsigned ticks;
static volatile ulong tick_flags, tick_end;

static void on_tick(Frame *frame)
{
    ticks++;
    tick_flags = frame->flags;
    frame->ip = tick_end;
    lapic_write(LAPIC_EOI, 0);
}

/*
 * Waits for the timer with clear flags and @stack.  Just before, with CF set, it reads
 * a register of the APIC, which engines without a decoder of their own let TCG do.
 */
static void wait_for_tick(u64 *stack)
{
    lapic_write(LAPIC_COUNT, 20000);
    asm volatile("lea 2f(%%rip), %%rax\n"
                 "mov %%rax, %[end]\n"
                 "mov %%rsp, %%rbx\n"
                 "mov %[stack], %%rsp\n"
                 "stc\n"
                 "mov (%[id]), %%eax\n"
                 "test %%rsp, %%rsp\n"
                 "sti\n"
                 "1: pause\n"
                 "jmp 1b\n"
                 "2: cli\n"
                 "mov %%rbx, %%rsp\n"
                 : [end] "=m"(tick_end)
                 : [stack] "r"(stack), [id] "r"(LAPIC + LAPIC_ID)
                 : "rax", "rbx", "memory", "cc");
}

/* The stack is in a page table, so that shadow paging has to see what goes there: the
 * hardware cannot push, and the interrupt is delivered by TCG. */
static void test_interrupt_flags(void)
{
    u64 *root = (u64 *)(read_cr3() & ~0xffful);
    unsigned bad = 0;

    mask_pic();
    irq_handler[VEC_TICK] = on_tick;
    lapic_write(LAPIC_SVR, 0x100 | VEC_SPURIOUS);
    lapic_write(LAPIC_TIMER, VEC_TICK);
    for (unsigned i = 1; i <= ROUNDS; i++) {
        wait_for_tick(root + STACK_ENTRY);
        bad += ticks != i || (tick_flags & CF);
        memset(root + STACK_ENTRY - STACK_ENTRIES, 0, STACK_ENTRIES * sizeof(*root));
        write_cr3(read_cr3());
    }
    check(!bad, "an interrupt saves the flags of the moment", "%d of %d wrong, flags %p",
          (int)bad, ROUNDS, tick_flags);
    irq_handler[VEC_TICK] = NULL;
}

#else

static void test_interrupt_flags(void)
{
}

#endif

/* ---- #DB ----------------------------------------------------------------------- */

static volatile unsigned traps;
static volatile ulong trap_dr6, trap_dr7, trap_ip, trap_stop;

static void on_trap(Frame *frame)
{
    traps++;
    trap_dr6 = read_dr6();
    trap_dr7 = read_dr7();
    trap_ip = frame->ip;
    write_dr6(0);
    if (traps >= trap_stop) {
        frame->flags &= ~(ulong)TF;
    }
    frame->flags |= RF;
}

static void expect_traps(unsigned count)
{
    traps = 0;
    trap_dr6 = 0;
    trap_stop = count;
    write_dr6(0);
}

static void check_trap(const char *name, unsigned count, ulong dr6)
{
    check(traps == count && (trap_dr6 & 0xe00f) == dr6, name, "%d traps, dr6 %p",
          (int)traps, trap_dr6);
}

static ulong with_flag(ulong bit)
{
    ulong flags;

    asm volatile("pushf; pop %0" : "=r"(flags));
    return flags | bit;
}

/* Behind POPF come CPUID, IN and NOP: three traps, whoever executes these. */
static void test_single_step(void)
{
    u32 a = 0, b, c, d;

    expect_traps(3);
    asm volatile("push %[flags]; popf; cpuid; in $0x80, %%al; nop"
                 : "+a"(a), "=b"(b), "=c"(c), "=d"(d) : [flags] "r"(with_flag(TF))
                 : "memory", "cc");
    check_trap("TF traps behind CPUID, IN and NOP", 3, DR6_BS);
}

/* The same of a load from a device, and of MOV from and to CR3 and INVLPG, which exit
 * without two-dimensional paging. */
static void test_single_step_direct(void)
{
    ulong a = 0, b = IOAPIC;

    expect_traps(5);
    asm volatile("push %[flags]; popf; mov (%[b]), %%ecx; mov %%cr3, %[a]; "
                 "mov %[a], %%cr3; invlpg (%[b]); nop"
                 : [a] "+a"(a), [b] "+b"(b) : [flags] "r"(with_flag(TF))
                 : "memory", "cc", "ecx");
    check_trap("TF traps behind a device's, CR3 and INVLPG", 5, DR6_BS);
}

#ifdef __x86_64__

static void on_wake(Frame *frame)
{
    (void)frame;
    lapic_write(LAPIC_EOI, 0);
}

/* Steps through HLT and NOP, and returns what is behind; the timer ends HLT. */
static ulong step_hlt(void)
{
    ulong end;

    irq_handler[VEC_TICK] = on_wake;
    lapic_write(LAPIC_TIMER, LAPIC_PERIODIC | VEC_TICK);
    lapic_write(LAPIC_COUNT, 2000000);
    asm volatile("push %[flags]; popf; hlt; nop; 1: cli; lea 1b(%%rip), %[end]"
                 : [end] "=r"(end) : [flags] "r"(with_flag(TF | IF)) : "memory", "cc");
    lapic_write(LAPIC_TIMER, LAPIC_MASKED);
    irq_handler[VEC_TICK] = NULL;
    return end;
}

/* The trap behind HLT comes when it ends, before the interrupt that ends it. */
static void test_single_step_hlt(void)
{
    ulong end;

    expect_traps(2);
    end = step_hlt();
    check(traps == 2 && trap_ip == end, "TF traps behind HLT", "%d traps, %p, not %p",
          (int)traps, trap_ip, end);
}

static volatile unsigned absents;
static volatile ulong absent_ip, absent_error;

static void on_absent(Frame *frame)
{
    absents++;
    absent_ip = frame->ip;
    absent_error = frame->error;
    frame->flags &= ~(ulong)TF;
}

/* Delivering that trap is no part of an instruction, and may fail all the same.  (The
 * error code's bit 0, EXT, is not looked at: TCG never sets it.) */
static void test_single_step_hlt_fails(void)
{
    struct { u16 limit; ulong base; } __attribute__((packed)) idtr;
    u64 *gate;
    ulong end;

    asm volatile("sidt %0" : "=m"(idtr));
    gate = (u64 *)idtr.base + 2 * 1;
    irq_handler[11] = on_absent;
    expect_traps(0);
    *gate &= ~GATE_PRESENT;
    end = step_hlt();
    *gate |= GATE_PRESENT;
    irq_handler[11] = NULL;
    check(absents == 1 && absent_ip == end - 1 && !traps &&
          (absent_error & ~1ul) == (1 << 3 | 2), "#NP when the trap behind HLT has no gate",
          "%d of them, %p, not %p, error %p", (int)absents, absent_ip, end - 1, absent_error);
}

#else

static void test_single_step_hlt(void)
{
}

static void test_single_step_hlt_fails(void)
{
}

#endif

static void test_int1(void)
{
    ulong end;

    expect_traps(1);
#ifdef __x86_64__
    asm volatile("lea 1f(%%rip), %0; .byte 0xf1; 1:" : "=r"(end) : : "memory");
#else
    asm volatile("mov $1f, %0; .byte 0xf1; 1:" : "=r"(end) : : "memory");
#endif
    check(traps == 1 && trap_ip == end && !(trap_dr6 & DR6_BS), "INT1 traps behind itself",
          "%d traps, %p, not %p, dr6 %p", (int)traps, trap_ip, end, trap_dr6);
}

void breakpoint_here(void);
asm(".globl breakpoint_here\nbreakpoint_here: nop\nret");

static void test_breakpoint(void)
{
    expect_traps(1);
    write_dr0((ulong)breakpoint_here);
    write_dr7(read_dr7() | DR7_L0);
    breakpoint_here();
    check_trap("DR0 stops at an instruction", 1, DR6_B0);
    check(trap_ip == (ulong)breakpoint_here && read_dr0() == trap_ip,
          "DR0 stops before the instruction", "at %p, dr0 %p", trap_ip, read_dr0());
    write_dr7(read_dr7() & ~(ulong)DR7_L0);
    breakpoint_here();
    check(traps == 1, "DR0 switched off stops nothing", "%d traps", (int)traps);
}

#ifndef __x86_64__

#define SEL_BASED   (SEL_TSS + 8)   /* a slot that only 64-bit task states need */
#define CODE_BASE   0x12340u

void breakpoint_far(void);
asm(".globl breakpoint_far\nbreakpoint_far: nop\nlret");

static void call_based(ulong offset)
{
    const struct { u32 offset; u16 selector; } __attribute__((packed)) to = {offset, SEL_BASED};

    asm volatile("lcall *%0" : : "m"(to) : "memory", "cc");
}

/* DR0 has a linear address, EIP an offset. */
static void test_breakpoint_in_segment(void)
{
    ulong linear = (ulong)breakpoint_far, offset = linear - CODE_BASE;

    gdt[SEL_BASED >> 3] = gdt[SEL_CODE >> 3] | (u64)CODE_BASE << 16;
    expect_traps(1);
    write_dr7(read_dr7() | DR7_L0);
    write_dr0(offset);
    call_based(offset);
    check(!traps, "DR0 lets an instruction with its offset pass", "%d traps", (int)traps);
    write_dr0(linear);
    call_based(offset);
    check_trap("DR0 stops in a segment with a base", 1, DR6_B0);
    check(trap_ip == offset, "the trap saves the offset", "%p, not %p", trap_ip, offset);
    write_dr7(read_dr7() & ~(ulong)DR7_L0);
}

#else

static void test_breakpoint_in_segment(void)
{
}

#endif

static void test_watchpoint(void)
{
    static volatile u32 watched;

    expect_traps(1);
    write_dr1((ulong)&watched);
    write_dr7(read_dr7() | DR7_L1_WRITE4);
    (void)watched;
    check(!traps, "DR1 lets reads pass", "%d traps", (int)traps);
    watched = 0x1234;
    check_trap("DR1 stops behind a write", 1, DR6_B1);
    check(watched == 0x1234 && read_dr1() == (ulong)&watched, "the write was made",
          "%x", watched);
    write_dr7(read_dr7() & ~(ulong)DR7_L1_WRITE4);
    watched = 0x4321;
    check(traps == 1, "DR1 switched off stops nothing", "%d traps", (int)traps);
}

#ifdef __x86_64__
#define PUSHED_IP   "mov %%rsp, %[slot]; and $-16, %[slot]; sub $40, %[slot]"
#else
#define PUSHED_IP   "lea -12(%%esp), %[slot]"
#endif

static volatile unsigned invalids;

static void on_invalid(Frame *frame)
{
    invalids++;
    frame->ip += 2;
}

/* @event's delivery pushes, and no instruction does: DR1 is the slot of the saved IP. */
#define WATCH_PUSHED(event) ({                                          \
    ulong slot_, on_ = read_dr7() | DR7_L1_WRITE4, off_ = read_dr7();   \
                                                                        \
    asm volatile(PUSHED_IP "; mov %[slot], %%dr1; mov %[on], %%dr7; "   \
                 event "; mov %[off], %%dr7"                            \
                 : [slot] "=&r"(slot_)                                  \
                 : [on] "r"(on_), [off] "r"(off_), [icr] "r"(LAPIC + LAPIC_ICR_LOW), \
                   [nmi] "r"((u32)ICR_NMI_SELF) : "memory", "cc");           \
})

static void invalid_watched(void)
{
    WATCH_PUSHED("ud2");
}

static void nmi_watched(void)
{
    WATCH_PUSHED("mov %[nmi], (%[icr]); pause; pause; pause");
}

/* @each: the traps of one event; the handler that steps over UD2 writes to the slot, too. */
static void test_pushes(const char *name, void (*event)(void), volatile unsigned *count,
                        unsigned each)
{
    *count = 0;
    for (unsigned i = 1; i <= ROUNDS; i++) {
        expect_traps(each);
        event();
        if (*count != i || traps != each || !(trap_dr6 & DR6_B1)) {
            break;
        }
    }
    check_trap(name, each, DR6_B1);
    check(*count == ROUNDS, "and each is delivered once", "%d", (int)*count);
}

/*
 * The trap comes when the event is delivered, before its handler's first instruction.
 * An emulator has no instruction then that it could begin again.
 */
static void test_watched_delivery(void)
{
    irq_handler[6] = on_invalid;
    test_pushes("DR1 stops behind an exception's push", invalid_watched, &invalids, 2);
    irq_handler[6] = NULL;
    irq_handler[2] = on_nmi;
    test_pushes("DR1 stops behind an interrupt's push", nmi_watched, &nmis, 1);
    irq_handler[2] = NULL;
}

/* A breakpoint is noticed by whoever makes the access. */
static void test_watched_device(void)
{
    expect_traps(1);
    write_dr1(IOAPIC);
    write_dr7(read_dr7() | DR7_L1_WRITE4);
    *(volatile u32 *)IOAPIC = 0x10;
    check_trap("DR1 stops behind a write to a device", 1, DR6_B1);
    check(*(volatile u32 *)IOAPIC == 0x10, "the device got it", "%x",
          *(volatile u32 *)IOAPIC);
    write_dr7(read_dr7() & ~(ulong)DR7_L1_WRITE4);
}

static void test_general_detect(void)
{
    expect_traps(1);
    write_dr7(read_dr7() | DR7_GD);
    (void)read_dr0();
    check_trap("GD stops an access to DR0", 1, DR6_BD);
    check(!(trap_dr7 & DR7_GD), "the trap clears GD", "dr7 %p", trap_dr7);
}

/* ---- SMIs ----------------------------------------------------------------------- */

/* ---- Hypercalls ----------------------------------------------------------------- */

/* No feature that is offered has any. */
static void test_hypercalls(void)
{
    Cpu *cpu = try_arm();
    int intel, amd;

    TRY(cpu, "vmcall", : "a"(0) : TRY_CLOBBER, "memory");
    intel = cpu->exc.vector;
    cpu = try_arm();
    TRY(cpu, "vmmcall", : "a"(0) : TRY_CLOBBER, "memory");
    amd = cpu->exc.vector;
    check(intel == 6 && amd == 6, "VMCALL and VMMCALL raise #UD", "vectors %d %d", intel, amd);
}

typedef struct Registers {
    ulong cr0, cr3, cr4, dr7, flags;
    u64 efer;
} Registers;

static Registers read_all(void)
{
    return (Registers) {
        read_cr0(), read_cr3(), read_cr4(), read_dr7(),
        with_flag(0) & ~(ulong)ARITHMETIC, rdmsr(MSR_EFER),
    };
}

static bool same(const Registers *a, const Registers *b)
{
    const u8 *x = (const u8 *)a, *y = (const u8 *)b;

    for (unsigned i = 0; i < sizeof(*a); i++) {
        if (x[i] != y[i]) {
            return false;
        }
    }
    return true;
}

/* The firmware's handler does nothing for a command that it does not know. */
static void test_smi(void)
{
    Registers before, after;
    unsigned bad = 0;

    memset(&before, 0, sizeof(before));
    memset(&after, 0, sizeof(after));
    for (unsigned i = 0; i < ROUNDS; i++) {
        ulong a = 0xee, b = 0x11110000 + i, c = 0x2222, d = PORT_SMI;

        before = read_all();
        asm volatile("outb %%al, %%dx; nop" : "+a"(a), "+b"(b), "+c"(c), "+d"(d)
                     : : "memory");
        after = read_all();
        bad += a != 0xee || b != 0x11110000 + i || c != 0x2222 || d != PORT_SMI;
        bad += !same(&before, &after);
    }
    check(!bad, "an SMI changes nothing", "%d differences; cr0 %p", (int)bad, after.cr0);
}

void guest_main(void)
{
    test_nmi();
    test_locked_device();
    test_interrupt_flags();
    irq_handler[1] = on_trap;
    test_single_step();
    test_single_step_direct();
    test_single_step_hlt();
    test_single_step_hlt_fails();
    test_int1();
    test_breakpoint();
    test_breakpoint_in_segment();
    test_watchpoint();
    test_watched_device();
    test_watched_delivery();
    test_general_detect();
    irq_handler[1] = NULL;
    test_smi();
    test_hypercalls();
    finish();
}
