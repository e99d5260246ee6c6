/*
 * xmmu guest "direct": instructions that an engine may execute by itself
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Moves from and to a device, INVLPG and MOV from and to control registers, in the
 * forms in which they can be written.  Who executes them in place of the CPU must find
 * the same operands, and leave the same registers.  The device is the IOAPIC: a register
 * is chosen at its first word and seen in the fifth.  QEMU's lets bytes and words be
 * read at the first one only.
 */
#include "paging.h"

#define IOAPIC      0xfec00000ul
#define SELECT      0x00
#define DATA        0x10
#define REDIRECTION 0x1a            /* the lower half of the sixth one, */
#define VALUE       0x000187c5u     /* masked */
#define CHOICE      0xc5u           /* a register that is none; a negative byte */

#ifdef __x86_64__
#define REG(n)      "%%r" n
#define WINDOW      0x00007a4240000000
#define MORE        "rsi", "r8", "r9", "r10", "r12", "r13", "r14", "r15", "memory"
#else
#define REG(n)      "%%e" n
#define WINDOW      0x80000000
#define MORE        "memory"
#endif
#define MSR_FS_BASE 0xc0000100
#define CR4_PAE_BIT BIT(5)
#define LOW         0x81000000ul    /* for addresses of 32 bits, in either mode */

static const Format *format;
static Space space;
static ulong device;                /* where it is mapped */

static volatile u32 *at(ulong offset)
{
    return (volatile u32 *)(device + offset);
}

static void set_up_device(void)
{
    device = WINDOW;
    map(&space, device, IOAPIC, P | W);
    map(&space, LOW, IOAPIC, P | W);
    flush_all();
    *at(SELECT) = REDIRECTION;
    *at(DATA) = VALUE;
}

/* ---- Loads ---------------------------------------------------------------------- */

/* @code leaves in the accumulator what it loads from the address in its B register, C
 * and D being 0x20 and -0x40, and the accumulator all ones before. */
#define LOAD(code, base, expected) do {                                 \
        ulong a = ~0ul, b = (base), c = 0x20, d = -0x40;                \
        asm volatile(code : "+a"(a), "+b"(b), "+c"(c), "+d"(d)          \
                     : : MORE);                                     \
        check(a == (ulong)(expected) && b == (ulong)(base) && c == 0x20 && \
              d == -0x40ul, code, "%p, b %p", a, b);                    \
    } while (0)

#define ONES (~0ul)

static void test_loads(void)
{
    ulong data = device + DATA;

    check(*at(DATA) == VALUE, "the device keeps what it was given", "%x", *at(DATA));
    LOAD("movl (" REG("bx") "), %%eax", data, VALUE);
    LOAD("movl 0x7f(" REG("bx") "), %%eax", data - 0x7f, VALUE);
    LOAD("movl -0x80(" REG("bx") "), %%eax", data + 0x80, VALUE);
    LOAD("movl 0x12345(" REG("bx") "), %%eax", data - 0x12345, VALUE);
    LOAD("movl (" REG("bx") "," REG("cx") ",4), %%eax", data - 0x80, VALUE);
    LOAD("movl 8(" REG("bx") "," REG("dx") ",8), %%eax", data + 0x200 - 8, VALUE);
    LOAD("movl -4(" REG("dx") "," REG("bx") "), %%eax", data + 0x40 + 4, VALUE);
    LOAD("movl 0x11(," REG("bx") ",1), %%eax", data - 0x11, VALUE);

    *at(SELECT) = CHOICE;
    LOAD("movw (" REG("bx") "), %%ax", device, (ONES & ~0xfffful) | CHOICE);
    LOAD("movb (" REG("bx") "), %%al", device, (ONES & ~0xfful) | CHOICE);
    LOAD("movb (" REG("bx") "), %%ah", device, (ONES & ~0xff00ul) | CHOICE << 8);
    LOAD("movzbl (" REG("bx") "), %%eax", device, CHOICE);
    LOAD("movzwl (" REG("bx") "), %%eax", device, CHOICE);
    LOAD("movsbl (" REG("bx") "), %%eax", device, 0xffffffc5);
    LOAD("movswl (" REG("bx") "), %%eax", device, CHOICE);
    LOAD("movsbw (" REG("bx") "), %%ax", device, (ONES & ~0xfffful) | 0xffc5);
#ifdef __x86_64__
    LOAD("mov %%rax, %%r8; movb (%%rbx), %%r8b; mov %%r8, %%rax", device,
         (ONES & ~0xfful) | CHOICE);
    LOAD("mov %%rax, %%rsi; movb (%%rbx), %%sil; mov %%rsi, %%rax", device,
         (ONES & ~0xfful) | CHOICE);
    LOAD("movsbq (%%rbx), %%rax", device, 0xffffffffffffffc5);
    LOAD("movswq (%%rbx), %%rax", device, CHOICE);
    LOAD("movzbq (%%rbx), %%rax", device, 0xc5);
#endif
    *at(SELECT) = REDIRECTION;
#ifdef __x86_64__
    LOAD("movl (%%rbx,%%rdx,2), %%eax", data + 0x80, VALUE);
    LOAD("mov %%rbx, %%r12; movl (%%r12), %%eax", data, VALUE);
    LOAD("mov %%rbx, %%r13; movl (%%r13), %%eax", data, VALUE);
    LOAD("mov %%rcx, %%r12; movl (%%rbx,%%r12,2), %%eax", data - 0x40, VALUE);
    LOAD("mov %%rbx, %%r9; movl (%%r9), %%r10d; mov %%r10, %%rax", data, VALUE);
    LOAD("movslq (%%rbx), %%rax", data, VALUE);
    LOAD("movl (%%ebx), %%eax", LOW + DATA, VALUE);
    LOAD("movl 0x20(%%ebx,%%edx), %%eax", LOW + DATA + 0x20, VALUE);
    LOAD("movabs 0x7a4240000010, %%eax", 0, VALUE);
    wrmsr(MSR_FS_BASE, device);
    LOAD("movl %%fs:(%%rbx), %%eax", DATA, VALUE);
    wrmsr(MSR_FS_BASE, 0);
#else
    LOAD("movl 0x80000010, %%eax", 0, VALUE);
#endif
}

/* ---- Stores ---------------------------------------------------------------------- */

/* @code writes 0x2b to the register that chooses; B has its address, the accumulator
 * 0x2b2b. */
#define STORE(code, base) do {                                          \
        ulong a = 0x2b2b, b = (base);                                   \
        *at(SELECT) = 0;                                                \
        asm volatile(code : "+a"(a), "+b"(b) : : MORE, "edx");          \
        check(*at(SELECT) == 0x2b && a == 0x2b2b && b == (ulong)(base), \
              code, "%x", *at(SELECT));                                 \
    } while (0)

static void test_stores(void)
{
    STORE("movl $0x2b, (" REG("bx") ")", device);
    STORE("movl $0x2b, -0x12345(" REG("bx") ")", device + 0x12345);
    STORE("movw $0x2b, (" REG("bx") ")", device);
    STORE("movb $0x2b, 4(" REG("bx") ")", device - 4);
    STORE("movb %%al, (" REG("bx") ")", device);
    STORE("movb %%ah, (" REG("bx") ")", device);
    STORE("movzbl %%al, %%edx; movl %%edx, (" REG("bx") "); mov $0, %%edx", device);
#ifdef __x86_64__
    STORE("mov $0x2b, %%r15; movl %%r15d, (%%rbx)", device);
    STORE("mov $0x2b, %%r15; movb %%r15b, (%%rbx)", device);
    STORE("mov $0x2b, %%sil; movb %%sil, (%%rbx)", device);
    STORE("movl $0x2b, (%%ebx)", LOW);
#endif
    *at(SELECT) = REDIRECTION;
    *at(DATA) = VALUE & ~0x80u;
    check(*at(DATA) == (VALUE & ~0x80u), "what is stored is kept", "%x", *at(DATA));
    *at(DATA) = VALUE;
}

/* ---- INVLPG, CR3 ------------------------------------------------------------------ */

static ulong page[2];

static void set_up_pages(void)
{
    for (unsigned i = 0; i < 2; i++) {
        page[i] = pool_page();
        *(volatile u32 *)page[i] = 0x1000 + i;
    }
}

/* The page at @where maps another one than the CPU has cached; what @code flushes must
 * be seen.  B has @base. */
#define FLUSH(code, where, base) do {                                   \
        volatile u32 *p = (volatile u32 *)(where);                      \
        ulong b = (base), c = 0x1000, d = space.root;                   \
        u32 seen;                                                       \
        map(&space, (where), page[0], P | W);                           \
        invlpg(where);                                                  \
        (void)*p;                                                       \
        map(&space, (where), page[1], P | W);                           \
        asm volatile(code : "+b"(b), "+c"(c), "+d"(d) : : MORE, "eax"); \
        seen = *p;                                                      \
        check(seen == 0x1001 && b == (ulong)(base), code, "%x", seen);  \
    } while (0)

static void test_flushes(void)
{
    ulong where = device + 0x10000;

    FLUSH("invlpg (" REG("bx") ")", where, where);
    FLUSH("invlpg 0x18(" REG("bx") ")", where, where);
    FLUSH("invlpg -0x2000(" REG("bx") "," REG("cx") ",4)", where, where - 0x2000);
    FLUSH("mov " REG("dx") ", %%cr3", where, where);
    FLUSH("mov %%cr3, " REG("ax") "; mov " REG("ax") ", %%cr3", where, where);
#ifdef __x86_64__
    FLUSH("mov %%rbx, %%r13; invlpg (%%r13)", where, where);
    FLUSH("mov %%rdx, %%r14; mov %%r14, %%cr3", where, where);
    FLUSH("invlpg (%%ebx)", LOW + 0x10000, LOW + 0x10000);
    wrmsr(MSR_FS_BASE, where);
    FLUSH("invlpg %%fs:(%%rbx)", where, 0);
    wrmsr(MSR_FS_BASE, 0);
#endif
}

/* ---- Reading control registers -------------------------------------------------------- */

static void test_reads(void)
{
    ulong cr0, cr2, cr3, cr4;

    probe(READ, device + 0x20000, NULL);        /* nothing is there */
    asm volatile("mov %%cr0, %0; mov %%cr2, %1" : "=S"(cr0), "=D"(cr2));
    asm volatile("mov %%cr3, %0; mov %%cr4, %1" : "=S"(cr3), "=c"(cr4));
    check((cr0 & (CR0_PE | CR0_PG)) == (CR0_PE | CR0_PG), "CR0", "%p", cr0);
    check(cr2 == device + 0x20000, "CR2", "%p", cr2);
    check(cr3 == space.root, "CR3", "%p", cr3);
    check(cr4 == read_cr4() && (cr4 & (CR4_PSE | CR4_PAE_BIT)), "CR4", "%p", cr4);
}

/* What the CPU does with CR3, and refuses. */
static void test_refused(void)
{
    Exc e = try_write_cr(3, space.root);

    check(e.vector == -1, "a good CR3", "%d", e.vector);
#ifdef __x86_64__
    if (!has_word("tcg-walks")) {
        e = try_write_cr(3, space.root | BIT(55));
        check(e.vector == 13 && read_cr3() == space.root, "a CR3 with reserved bits",
              "%d, %p", e.vector, read_cr3());
    }
#endif
}

void guest_main(void)
{
    print("TAP version 13\n");
#ifdef __x86_64__
    format = &format_4level;
#else
    write_cr4(read_cr4() | CR4_PSE);
    format = &format_32;
#endif
    space = space_new(format);
    space_use(&space);
    set_up_device();
    set_up_pages();
    test_loads();
    test_stores();
    test_flushes();
    test_reads();
    test_refused();
    finish();
}
