/*
 * xmmu guests: what every bare-metal guest uses
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Console and TAP, control registers, exceptions that a test expects, and code
 * that runs in user mode.  The same source builds as a 32-bit guest (starts
 * without paging) and as a 64-bit guest (starts with 4-level paging, 4 GiB
 * mapped one to one, supervisor only).
 */
#ifndef XMMU_GUEST_LIB_H
#define XMMU_GUEST_LIB_H

#ifndef __ASSEMBLER__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long ulong;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (1ull << (n))

#endif

/* Selectors; entry.S has the table. */
#define SEL_CODE        0x08    /* of the C code: 32 or 64 bit */
#define SEL_DATA        0x10
#define SEL_CODE32      0x18
#define SEL_USER_CODE   0x23
#define SEL_USER_DATA   0x2b
#define SEL_CODE16      0x30
#define SEL_DATA16      0x38
#define SEL_TSS         0x40    /* + 16 * CPU */

#define VEC_USER_EXIT   0x30
#define VEC_IPI         0x31

#define MAX_CPUS        4
#define STACK_SIZE      16384

#define CR0_PE          0x00000001
#define CR0_MP          0x00000002
#define CR0_ET          0x00000010
#define CR0_NE          0x00000020
#define CR0_WP          0x00010000
#define CR0_NW          0x20000000
#define CR0_CD          0x40000000
#define CR0_PG          0x80000000
#define CR4_PSE         0x00000010
#define CR4_PAE         0x00000020
#define CR4_PGE         0x00000080
#define CR4_OSFXSR      0x00000200
#define CR4_LA57        0x00001000
#define CR4_PCIDE       0x00020000
#define CR4_SMEP        0x00100000
#define CR4_SMAP        0x00200000
#define CR4_PKE         0x00400000
#define CR4_PKS         0x01000000
#define MSR_EFER        0xc0000080
#define MSR_PKRS        0x6e1
#define EFER_LME        0x100
#define EFER_LMA        0x400
#define EFER_NXE        0x800
#define DR7_GD          0x2000
#define TF              0x100
#define IF              0x200
#define RF              0x10000

#ifdef __ASSEMBLER__

/* From protected mode with CR3 loaded to long mode's compatibility mode; takes EAX, ECX
 * and EDX. */
        .macro long_mode_on
        mov %cr4, %eax
        or $CR4_PAE, %eax
        mov %eax, %cr4
        mov $MSR_EFER, %ecx
        rdmsr
        or $EFER_LME, %eax
        wrmsr
        mov %cr0, %eax
        or $CR0_PG, %eax
        mov %eax, %cr0
        .endm

#else

/* ---- Console and TAP (lib.c) ---- */

/* %s, %d, %x (u32), %X (u64, any width), %p (ulong), %% */
void print(const char *fmt, ...);
/* One TAP line.  The words say what was seen when it is wrong. */
bool check(bool good, const char *name, const char *fmt, ...);
void skip(const char *name, const char *why);
/* Prints the plan and ends the machine: status 33 all good, 35 not. */
void finish(void) __attribute__((noreturn));
void panic(const char *fmt, ...) __attribute__((noreturn));

/* What stands after -append; does it have this word? */
bool has_word(const char *word);
/* The number behind @prefix, of the first word that begins with it. */
u32 word_number(const char *prefix, u32 otherwise);

void *memset(void *to, int byte, ulong count);
void *memcpy(void *to, const void *from, ulong count);

u32 random32(void);     /* seeded with a constant: every run is the same */

static inline void outb(u16 port, u8 value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 inb(u16 port)
{
    u8 value;

    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void outl(u16 port, u32 value)
{
    asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline u32 inl(u16 port)
{
    u32 value;

    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* The firmware's interrupts, whose vectors here are those of exceptions. */
static inline void mask_pic(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

/* ---- The local APIC, where it is after reset: Intel SDM vol. 3, 10.4.1 ---- */

#define LAPIC           0xfee00000ul
#define LAPIC_ID        0x20
#define LAPIC_EOI       0xb0
#define LAPIC_SVR       0xf0    /* 0x100: on */
#define LAPIC_ICR_LOW   0x300
#define LAPIC_ICR_HIGH  0x310
#define LAPIC_TIMER     0x320
#define LAPIC_COUNT     0x380
#define LAPIC_MASKED    0x10000
#define LAPIC_PERIODIC  0x20000

static inline u32 lapic_read(u32 reg)
{
    return *(volatile u32 *)(LAPIC + reg);
}

static inline void lapic_write(u32 reg, u32 value)
{
    *(volatile u32 *)(LAPIC + reg) = value;
}

/* ---- Registers ---- */

#define DEFINE_REGISTER(name)                                           \
    static inline ulong read_##name(void)                               \
    {                                                                   \
        ulong value;                                                    \
        asm volatile("mov %%" #name ", %0" : "=r"(value) : : "memory"); \
        return value;                                                   \
    }                                                                   \
    static inline void write_##name(ulong value)                        \
    {                                                                   \
        asm volatile("mov %0, %%" #name : : "r"(value) : "memory");     \
    }
DEFINE_REGISTER(cr0)
DEFINE_REGISTER(cr2)
DEFINE_REGISTER(cr3)
DEFINE_REGISTER(cr4)
DEFINE_REGISTER(dr0)
DEFINE_REGISTER(dr1)
DEFINE_REGISTER(dr2)
DEFINE_REGISTER(dr3)
DEFINE_REGISTER(dr6)
DEFINE_REGISTER(dr7)

static inline u64 rdmsr(u32 index)
{
    u32 lo, hi;

    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
    return lo | (u64)hi << 32;
}

static inline u64 rdtsc(void)
{
    u32 lo, hi;

    asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return lo | (u64)hi << 32;
}

static inline void wrmsr(u32 index, u64 value)
{
    asm volatile("wrmsr" : : "c"(index), "a"((u32)value),
                 "d"((u32)(value >> 32)) : "memory");
}

static inline void invlpg(ulong address)
{
    asm volatile("invlpg (%0)" : : "r"(address) : "memory");
}

static inline void write_pkru(u32 value)
{
    asm volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory");
}

static inline void cpuid(u32 leaf, u32 sub, u32 out[4])
{
    asm volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]),
                 "=d"(out[3]) : "a"(leaf), "c"(sub));
}

typedef struct Features {
    bool nx, page1g, smep, smap, pku, pks, la57, pcid, amd;
    unsigned maxphyaddr;
} Features;

extern Features cpu_has;

/* ---- Exceptions ---- */

typedef struct Exc {
    int vector;                 /* -1: none */
    u32 error;
    u64 cr2;                    /* of vector 14 */
} Exc;

/* As the stubs in entry.S leave it. */
typedef struct Frame {
#ifdef __x86_64__
    ulong r15, r14, r13, r12, r11, r10, r9, r8;
    ulong di, si, bp, bx, dx, cx, ax;
#else
    ulong di, si, bp, unused_sp, bx, dx, cx, ax;
#endif
    ulong vector, error, ip, cs, flags;
    ulong sp, ss;               /* 32-bit: only when it came from user mode */
} Frame;

/* Interrupts that are not errors; the handler runs on the interrupted CPU. */
extern void (*irq_handler[64])(Frame *frame);

typedef enum Kind { READ, WRITE, EXEC } Kind;

/*
 * One access by the supervisor.  EXEC calls @address, where a "ret" must be (see
 * put_code()).  The value read or written is 32 bits wide.
 */
Exc probe(Kind kind, ulong address, u32 *value);
/* The same from user mode; EXEC needs put_code() too. */
Exc probe_user(Kind kind, ulong address, u32 *value);
/* The same with EFLAGS.AC=1. */
Exc probe_ac(Kind kind, ulong address, u32 *value);

/* Make the start of the page at @page executable for both probes. */
void put_code(void *page);

Exc try_write_cr(int cr, ulong value);
Exc try_wrmsr(u32 index, u64 value);

/* EFLAGS of user mode: bit 1, which is fixed, and what a test adds. */
extern ulong user_flags;

/* User mode from @code on with @address in AX and *@value in CX; an exception handler that
 * calls user_leave() makes it return. */
void user_run(ulong code, ulong address, ulong *value);
void user_leave(ulong value) __attribute__((noreturn));

/* Where probe_user()'s code lies (one page), and where it must be mapped. */
extern char user_text[];
extern ulong user_text_at;

/* ---- CPUs ---- */

typedef struct Cpu {
    ulong fixup;                /* where to go on after an expected exception */
    Exc exc;
} Cpu;

/* Ready for one TRY() on this CPU. */
Cpu *try_arm(void);

/*
 * Run an instruction that may raise an exception; @cpu is try_arm()'s, and its
 * .exc says what came.  The exception handler jumps to label 9; the stack pointer
 * is put back because a call may have moved it.  The clobbers that follow must
 * name TRY_CLOBBER.
 */
#ifdef __x86_64__
#define TRY(cpu, code, ...)                                             \
    asm volatile("movq $9f, %[fix]; mov %%rsp, %%rbx; " code            \
                 "; 9: mov %%rbx, %%rsp; movq $0, %[fix]"               \
                 : [fix] "+m"((cpu)->fixup) __VA_ARGS__)
#define TRY_CLOBBER "rbx"
#else
#define TRY(cpu, code, ...)                                             \
    asm volatile("movl $9f, %[fix]; mov %%esp, %%ebx; " code            \
                 "; 9: mov %%ebx, %%esp; movl $0, %[fix]"               \
                 : [fix] "+m"((cpu)->fixup) __VA_ARGS__)
#define TRY_CLOBBER "ebx"
#endif

extern u64 gdt[];
extern u8 tss0[MAX_CPUS][128];  /* all task states */

int this_cpu(void);
/* GDT, IDT and TSS of CPU @index; its stack for exceptions from user mode. */
void cpu_tables(int index, ulong stack_top);

void guest_main(void);

#endif /* __ASSEMBLER__ */
#endif /* XMMU_GUEST_LIB_H */
