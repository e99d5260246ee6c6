/*
 * xmmu guests: console, TAP, exceptions, user mode
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See lib.h.  An access that may fault is made between setting cpus[].fixup and
 * the label it names; the exception handler records what came and goes on
 * there.  From user mode every exception, wanted or not, ends in user_leave().
 */
#include "lib.h"

#define CONSOLE_PORT    0xe9
#define EXIT_PORT       0xf4
#define EXIT_GOOD       0x10    /* QEMU's status: (value << 1) | 1 */
#define EXIT_BAD        0x11

typedef struct Multiboot {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline;
} Multiboot;

extern const Multiboot *multiboot_info;
extern char exc_stubs[];
extern u64 gdt_end[];
extern char boot_stack_top[];
extern const char user_read[], user_write[], user_exec[];

Features cpu_has;
void (*irq_handler[64])(Frame *frame);
ulong user_text_at;

Cpu cpus[MAX_CPUS];             /* modes-asm.S knows its layout */
static unsigned tests, failures;

/* ---- Console ---- */

static void put(char c)
{
    outb(CONSOLE_PORT, c);
}

static void put_string(const char *s)
{
    while (*s) {
        put(*s++);
    }
}

static void put_hex(u64 value)
{
    int shift = 60;

    while (shift && !(value >> shift)) {
        shift -= 4;
    }
    put_string("0x");
    for (; shift >= 0; shift -= 4) {
        put("0123456789abcdef"[value >> shift & 15]);
    }
}

static void put_decimal(int value)
{
    char text[12];
    int n = 0;
    u32 rest = value < 0 ? -(u32)value : (u32)value;

    if (value < 0) {
        put('-');
    }
    do {
        text[n++] = '0' + rest % 10;
        rest /= 10;
    } while (rest);
    while (n) {
        put(text[--n]);
    }
}

static void print_list(const char *fmt, __builtin_va_list list)
{
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        switch (*++fmt) {
        case 's':
            put_string(__builtin_va_arg(list, const char *));
            break;
        case 'd':
            put_decimal(__builtin_va_arg(list, int));
            break;
        case 'x':
            put_hex(__builtin_va_arg(list, u32));
            break;
        case 'X':
            put_hex(__builtin_va_arg(list, u64));
            break;
        case 'p':
            put_hex(__builtin_va_arg(list, ulong));
            break;
        default:
            put(*fmt);
        }
    }
}

void print(const char *fmt, ...)
{
    __builtin_va_list list;

    __builtin_va_start(list, fmt);
    print_list(fmt, list);
    __builtin_va_end(list);
}

bool check(bool good, const char *name, const char *fmt, ...)
{
    __builtin_va_list list;

    tests++;
    failures += !good;
    print("%s %d %s", good ? "ok" : "not ok", tests, name);
    if (!good) {
        put_string(" - ");
        __builtin_va_start(list, fmt);
        print_list(fmt, list);
        __builtin_va_end(list);
    }
    put('\n');
    return good;
}

void skip(const char *name, const char *why)
{
    tests++;
    print("ok %d %s # SKIP %s\n", tests, name, why);
}

static void leave(u8 status)
{
    for (;;) {
        outb(EXIT_PORT, status);
        asm volatile("cli; hlt");
    }
}

void finish(void)
{
    print("1..%d\n", tests);
    leave(failures ? EXIT_BAD : EXIT_GOOD);
    __builtin_unreachable();
}

void panic(const char *fmt, ...)
{
    __builtin_va_list list;

    put_string("Bail out! ");
    __builtin_va_start(list, fmt);
    print_list(fmt, list);
    __builtin_va_end(list);
    put('\n');
    leave(EXIT_BAD);
    __builtin_unreachable();
}

/* ---- Small things ---- */

/* Behind @prefix of the first word that begins with it, or is it; NULL: none. */
static const char *find_word(const char *prefix, bool whole)
{
    const char *at = (const char *)(ulong)multiboot_info->cmdline;

    while (*at) {
        const char *p = prefix;

        while (*p && *at == *p) {
            at++;
            p++;
        }
        if (!*p && (!whole || !*at || *at == ' ')) {
            return at;
        }
        while (*at && *at++ != ' ') {
        }
    }
    return NULL;
}

bool has_word(const char *word)
{
    return find_word(word, true);
}

u32 word_number(const char *prefix, u32 otherwise)
{
    const char *at = find_word(prefix, false);
    u32 number = 0;

    if (!at) {
        return otherwise;
    }
    for (; *at >= '0' && *at <= '9'; at++) {
        number = number * 10 + *at - '0';
    }
    return number;
}

void *memset(void *to, int byte, ulong count)
{
    void *start = to;

    asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(byte) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, ulong count)
{
    void *start = to;

    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

u32 random32(void)
{
    static u32 state = 0x2545f491;

    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void find_features(void)
{
    u32 r[4], max_leaf;

    cpuid(0, 0, r);
    max_leaf = r[0];
    cpu_has.amd = r[1] == 0x68747541;           /* "Auth" */
    cpuid(1, 0, r);
    cpu_has.pcid = r[2] >> 17 & 1;
    if (max_leaf >= 7) {
        cpuid(7, 0, r);
        cpu_has.smep = r[1] >> 7 & 1;
        cpu_has.smap = r[1] >> 20 & 1;
        cpu_has.pku = r[2] >> 3 & 1;
        cpu_has.la57 = r[2] >> 16 & 1;
        cpu_has.pks = r[2] >> 31 & 1;
    }
    cpuid(0x80000001, 0, r);
    cpu_has.nx = r[3] >> 20 & 1;
    cpu_has.page1g = r[3] >> 26 & 1;
    cpuid(0x80000000, 0, r);
    if (r[0] < 0x80000008) {
        cpu_has.maxphyaddr = 36;        /* Intel SDM vol. 3, 4.1.4, with PAE */
        return;
    }
    cpuid(0x80000008, 0, r);
    cpu_has.maxphyaddr = r[0] & 0xff;
}

/* ---- CPU tables ---- */

typedef struct __attribute__((packed)) Desc {
    u16 limit;
    ulong base;
} Desc;

#define GATE_WORDS (sizeof(ulong) / 4)
static u64 idt[64 * GATE_WORDS];

/* An interrupt gate: Intel SDM vol. 3, 6.11 and 6.14.1. */
static void set_gate(int vector, ulong handler, int dpl)
{
    u64 *gate = &idt[vector * GATE_WORDS];

    gate[0] = (handler & 0xffff) | SEL_CODE << 16
              | (u64)(0x8e00 | dpl << 13) << 32
              | (u64)(handler >> 16 & 0xffff) << 48;
#ifdef __x86_64__
    gate[1] = handler >> 32;
#endif
}

void cpu_tables(int index, ulong stack_top)
{
    ulong tss = (ulong)tss0[index];
    u64 *desc = &gdt[(SEL_TSS + 16 * index) / 8];
    Desc gdtr = { (u16)((ulong)gdt_end - (ulong)gdt - 1), (ulong)gdt };
    Desc idtr = { sizeof(idt) - 1, (ulong)idt };

    *(ulong *)&tss0[index][4] = stack_top;
#ifndef __x86_64__
    *(u32 *)&tss0[index][8] = SEL_DATA;
#endif
    desc[0] = 103 | (u64)(tss & 0xffffff) << 16 | 0x89ull << 40
              | (u64)(tss >> 24 & 0xff) << 56;
    desc[1] = 0;
    asm volatile("lgdt %0" : : "m"(gdtr));
#ifdef __x86_64__
    asm volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:"
                 : : "i"(SEL_CODE) : "rax", "memory");
#else
    asm volatile("ljmp %0, $1f; 1:" : : "i"(SEL_CODE) : "memory");
#endif
    asm volatile("mov %0, %%ss" : : "r"(SEL_DATA));
    asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs"
                 : : "r"(SEL_USER_DATA));
    asm volatile("lidt %0" : : "m"(idtr));
    asm volatile("ltr %w0" : : "r"(SEL_TSS + 16 * index));
}

int this_cpu(void)
{
    ulong tr;

    asm volatile("str %0" : "=r"(tr));
    return ((tr & 0xffff) - SEL_TSS) / 16;
}

/* ---- Exceptions ---- */

void exc_handler(Frame *frame)
{
    Cpu *cpu = &cpus[this_cpu()];

    if (frame->vector < ARRAY_SIZE(irq_handler) && irq_handler[frame->vector]) {
        irq_handler[frame->vector](frame);
        return;
    }
    cpu->exc.vector = frame->vector == VEC_USER_EXIT ? -1 : (int)frame->vector;
    cpu->exc.error = frame->error;
    cpu->exc.cr2 = frame->vector == 14 ? read_cr2() : 0;
    if (frame->cs & 3) {
        user_leave(frame->cx);
    }
    if (!cpu->fixup) {
        panic("exception %d error %p cr2 %X at %p", (int)frame->vector,
              frame->error, cpu->exc.cr2, frame->ip);
    }
    frame->ip = cpu->fixup;
    cpu->fixup = 0;
    frame->flags &= ~BIT(18);
}

Cpu *try_arm(void)
{
    Cpu *cpu = &cpus[this_cpu()];

    cpu->exc = (Exc) { .vector = -1 };
    return cpu;
}

Exc probe(Kind kind, ulong address, u32 *value)
{
    Cpu *cpu = try_arm();
    u32 v = *value;

    switch (kind) {
    case READ:
        TRY(cpu, "movl (%[a]), %[v]", , [v] "+r"(v) : [a] "r"(address)
            : TRY_CLOBBER, "memory");
        break;
    case WRITE:
        TRY(cpu, "movl %[v], (%[a])", , [v] "+r"(v) : [a] "r"(address)
            : TRY_CLOBBER, "memory");
        break;
    case EXEC:
        TRY(cpu, "call *%[a]", : [a] "r"(address) : TRY_CLOBBER, "memory");
        break;
    }
    *value = v;
    return cpu->exc;
}

/* POPF, not STAC: it works on a CPU without SMAP too. */
static void set_ac(bool on)
{
    ulong flags;

    asm volatile("pushf; pop %0" : "=r"(flags));
    flags = on ? flags | BIT(18) : flags & ~BIT(18);
    asm volatile("push %0; popf" : : "r"(flags) : "memory", "cc");
}

Exc probe_ac(Kind kind, ulong address, u32 *value)
{
    Exc exc;

    set_ac(true);
    exc = probe(kind, address, value);
    set_ac(false);
    return exc;
}

/*
 * probe() calls the first byte, probe_user() jumps to the ninth: "ret" and
 * "int $0x30" (VEC_USER_EXIT).
 */
void put_code(void *page)
{
    u8 *byte = page;

    byte[0] = 0xc3;
    byte[8] = 0xcd;
    byte[9] = VEC_USER_EXIT;
}

Exc probe_user(Kind kind, ulong address, u32 *value)
{
    const char *code = kind == READ ? user_read : kind == WRITE ? user_write
                                                                : user_exec;
    Cpu *cpu = try_arm();
    ulong v = *value;

    user_run((ulong)code - (ulong)user_text + user_text_at,
             kind == EXEC ? address + 8 : address, &v);
    *value = v;
    return cpu->exc;
}

Exc try_write_cr(int cr, ulong value)
{
    Cpu *cpu = try_arm();

    switch (cr) {
    case 0:
        TRY(cpu, "mov %[v], %%cr0", : [v] "r"(value) : TRY_CLOBBER, "memory");
        break;
    case 3:
        TRY(cpu, "mov %[v], %%cr3", : [v] "r"(value) : TRY_CLOBBER, "memory");
        break;
    case 4:
        TRY(cpu, "mov %[v], %%cr4", : [v] "r"(value) : TRY_CLOBBER, "memory");
        break;
    }
    return cpu->exc;
}

Exc try_wrmsr(u32 index, u64 value)
{
    Cpu *cpu = try_arm();

    TRY(cpu, "wrmsr", : "c"(index), "a"((u32)value), "d"((u32)(value >> 32))
        : TRY_CLOBBER, "memory");
    return cpu->exc;
}

void boot_main(void)
{
    cpu_tables(0, (ulong)boot_stack_top);
    set_gate(0, 0, 0);
    for (int v = 0; v < 64; v++) {
        set_gate(v, (ulong)exc_stubs + 16 * v, v == VEC_USER_EXIT ? 3 : 0);
    }
    find_features();
    guest_main();
    finish();
}
