/*
 * xmmu: unit test of accel/xmmu/engine/decode.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Instructions as an assembler writes them, and what they are; what is left to TCG; and
 * that never more bytes are looked at than there are.  How the operands work in a guest
 * is tested by tests/guest/direct.c.
 */
#include <glib.h>
#include <string.h>
#include "accel/xmmu/engine/decode.h"

#define NONE XMMU_INSN_NO_REG
#define RIP XMMU_INSN_RIP

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { ES, CS, SS, DS, FS, GS };

typedef struct Case {
    const char *text;
    const char *code;
    uint8_t count;
    bool wide;
    XmmuInsn insn;
} Case;

/* .length is that of the code. */
#define CODE(text, wide, code, ...) \
    { text, code, sizeof(code) - 1, wide, { __VA_ARGS__ } }
/* A memory operand of 64-bit code, and of 32-bit code. */
#define MEM(b, i, s, d) .segment = DS, .base = b, .index = i, .shift = s, .disp = d, \
    .address_size = 8
#define MEM32(seg, b, i, s, d) .segment = seg, .base = b, .index = i, .shift = s, \
    .disp = d, .address_size = 4
#define NO_MEM .base = NONE, .index = NONE, .address_size = 8
#define MOVE(k, r, n) .kind = XMMU_INSN_##k, .reg = r, .size = n, .reg_size = n

static const Case cases[] = {
    CODE("cpuid", true, "\x0f\xa2", .kind = XMMU_INSN_CPUID, NO_MEM),
    CODE("rex.w cpuid", true, "\x48\x0f\xa2", .kind = XMMU_INSN_CPUID, NO_MEM),
    CODE("data16 cpuid", true, "\x66\x0f\xa2", .kind = XMMU_INSN_CPUID, NO_MEM),
    CODE("hlt", true, "\xf4", .kind = XMMU_INSN_HLT, NO_MEM),
    CODE("mov %cr3, %rax", true, "\x0f\x20\xd8", .kind = XMMU_INSN_READ_CR, .cr = 3,
         NO_MEM),
    CODE("mov %cr8, %r15", true, "\x45\x0f\x20\xc7", .kind = XMMU_INSN_READ_CR, .cr = 8,
         .reg = R15, NO_MEM),
    CODE("mov %r12, %cr3", true, "\x41\x0f\x22\xdc", .kind = XMMU_INSN_WRITE_CR, .cr = 3,
         .reg = R12, NO_MEM),
    CODE("mov %edi, %cr3 with mod 0", true, "\x0f\x22\x1f", .kind = XMMU_INSN_WRITE_CR,
         .cr = 3, .reg = RDI, NO_MEM),
    CODE("invlpg (%rdi)", true, "\x0f\x01\x3f", .kind = XMMU_INSN_INVLPG,
         MEM(RDI, NONE, 0, 0)),
    CODE("invlpg (%r12)", true, "\x41\x0f\x01\x3c\x24", .kind = XMMU_INSN_INVLPG,
         MEM(R12, NONE, 0, 0)),
    CODE("invlpg -8(%ebp,%ecx,4)", false, "\x0f\x01\x7c\x8d\xf8",
         .kind = XMMU_INSN_INVLPG, MEM32(SS, RBP, RCX, 2, -8)),

    CODE("mov (%rax), %ecx", true, "\x8b\x08", MOVE(LOAD, RCX, 4), MEM(RAX, NONE, 0, 0)),
    CODE("mov 0x11223344(%r9), %r8", true, "\x4d\x8b\x81\x44\x33\x22\x11",
         MOVE(LOAD, R8, 8), MEM(R9, NONE, 0, 0x11223344)),
    CODE("mov -2(%rip), %eax", true, "\x8b\x05\xfe\xff\xff\xff", MOVE(LOAD, RAX, 4),
         MEM(RIP, NONE, 0, -2)),
    CODE("mov 0x80000000, %eax", false, "\x8b\x05\x00\x00\x00\x80", MOVE(LOAD, RAX, 4),
         MEM32(DS, NONE, NONE, 0, -0x80000000ll)),
    CODE("mov (%r13), %eax", true, "\x41\x8b\x45\x00", MOVE(LOAD, RAX, 4),
         MEM(R13, NONE, 0, 0)),
    CODE("mov (%rsp), %eax", true, "\x8b\x04\x24", MOVE(LOAD, RAX, 4), .segment = SS,
         .base = RSP, .index = NONE, .address_size = 8),
    CODE("mov (%rax,%r12,8), %eax", true, "\x42\x8b\x04\xe0", MOVE(LOAD, RAX, 4),
         MEM(RAX, R12, 3, 0)),
    CODE("mov 16(,%rcx,2), %eax", true, "\x8b\x04\x4d\x10\x00\x00\x00",
         MOVE(LOAD, RAX, 4), MEM(NONE, RCX, 1, 16)),
    CODE("mov 16(%rbp,%rcx,2), %eax", true, "\x8b\x44\x4d\x10", MOVE(LOAD, RAX, 4),
         .segment = SS, .base = RBP, .index = RCX, .shift = 1, .disp = 16,
         .address_size = 8),
    CODE("mov %fs:(%edx), %ax", true, "\x64\x67\x66\x8b\x02", MOVE(LOAD, RAX, 2),
         MEM32(FS, RDX, NONE, 0, 0)),
    CODE("mov %es:(%edx), %eax", false, "\x26\x8b\x02", MOVE(LOAD, RAX, 4),
         MEM32(ES, RDX, NONE, 0, 0)),
    CODE("mov (%rax), %bh", true, "\x8a\x38", MOVE(LOAD, RBX, 1), .high = true,
         MEM(RAX, NONE, 0, 0)),
    CODE("mov (%rax), %dil", true, "\x40\x8a\x38", MOVE(LOAD, RDI, 1),
         MEM(RAX, NONE, 0, 0)),
    CODE("movabs 0x1122334455667788, %al", true,
         "\xa0\x88\x77\x66\x55\x44\x33\x22\x11", MOVE(LOAD, RAX, 1),
         MEM(NONE, NONE, 0, 0x1122334455667788)),
    CODE("mov %eax, %gs:0x1000", false, "\x65\xa3\x00\x10\x00\x00",
         MOVE(STORE, RAX, 4), MEM32(GS, NONE, NONE, 0, 0x1000)),
    CODE("movzbl (%rsi), %eax", true, "\x0f\xb6\x06", .kind = XMMU_INSN_LOAD, .size = 1,
         .reg_size = 4, MEM(RSI, NONE, 0, 0)),
    CODE("movzwq (%rsi), %rax", true, "\x48\x0f\xb7\x06", .kind = XMMU_INSN_LOAD,
         .size = 2, .reg_size = 8, MEM(RSI, NONE, 0, 0)),
    CODE("movsbw (%rsi), %si", true, "\x66\x0f\xbe\x36", .kind = XMMU_INSN_LOAD,
         .size = 1, .reg_size = 2, .reg = RSI, .sign = true, MEM(RSI, NONE, 0, 0)),
    CODE("movswl (%rsi), %eax", true, "\x0f\xbf\x06", .kind = XMMU_INSN_LOAD, .size = 2,
         .reg_size = 4, .sign = true, MEM(RSI, NONE, 0, 0)),
    CODE("movslq (%rsi), %rax", true, "\x48\x63\x06", .kind = XMMU_INSN_LOAD, .size = 4,
         .reg_size = 8, .sign = true, MEM(RSI, NONE, 0, 0)),

    CODE("mov %ecx, (%rax)", true, "\x89\x08", MOVE(STORE, RCX, 4),
         MEM(RAX, NONE, 0, 0)),
    CODE("mov %ch, (%rax)", true, "\x88\x28", MOVE(STORE, RCX, 1), .high = true,
         MEM(RAX, NONE, 0, 0)),
    CODE("movb $0x80, (%rax)", true, "\xc6\x00\x80", MOVE(STORE, RAX, 1),
         .is_imm = true, .imm = 0xffffffffffffff80, MEM(RAX, NONE, 0, 0)),
    CODE("movw $0x1234, 4(%rax)", true, "\x66\xc7\x40\x04\x34\x12",
         MOVE(STORE, RAX, 2), .is_imm = true, .imm = 0x1234, MEM(RAX, NONE, 0, 4)),
    CODE("movq $-2, (%r8)", true, "\x49\xc7\x00\xfe\xff\xff\xff", MOVE(STORE, RAX, 8),
         .is_imm = true, .imm = -2ull, MEM(R8, NONE, 0, 0)),
};

#define OTHER(text, wide, code) { text, code, sizeof(code) - 1, wide, { 0 } }

static const Case others[] = {
    OTHER("rep hlt", true, "\xf3\xf4"),
    OTHER("lock mov %cr0", true, "\xf0\x0f\x20\xc0"),
    OTHER("16-bit address", false, "\x67\x8b\x07"),
    OTHER("%ds: in 64-bit code", true, "\x3e\x8b\x00"),
    OTHER("inc %eax, no REX", false, "\x40\x8b\x00"),
    OTHER("mov %eax, %ecx", true, "\x89\xc1"),
    OTHER("arpl", false, "\x63\x06"),
    OTHER("movslq without REX.W", true, "\x63\x06"),
    OTHER("xabort", true, "\xc6\xf8\x00"),
    OTHER("c7 /1", true, "\xc7\x08\x00\x00\x00\x00"),
    OTHER("invlpg of a register: swapgs", true, "\x0f\x01\xf8"),
    OTHER("lgdt", true, "\x0f\x01\x10"),
    OTHER("add", true, "\x01\x08"),
    OTHER("xchg", true, "\x87\x08"),
    OTHER("a prefix behind REX", true, "\x48\x66\x8b\x00"),
};

static bool decode(const Case *c, unsigned count, XmmuInsn *insn)
{
    /* Just as much, so that a sanitizer sees any byte more. */
    uint8_t *code = g_memdup2(c->code, count);
    bool good = xmmu_insn_decode(code, count, c->wide, insn);

    g_free(code);
    return good;
}

static void compare(const Case *c, const XmmuInsn *insn)
{
    const XmmuInsn *e = &c->insn;

    g_test_message("%s", c->text);
    g_assert_cmpint(insn->kind, ==, e->kind);
    g_assert_cmpint(insn->length, ==, c->count);
    g_assert_cmpint(insn->reg, ==, e->reg);
    g_assert_cmpint(insn->cr, ==, e->cr);
    g_assert_cmpint(insn->base, ==, e->base);
    g_assert_cmpint(insn->index, ==, e->index);
    g_assert_cmpint(insn->address_size, ==, e->address_size);
    g_assert_cmphex(insn->disp, ==, e->disp);
    if (insn->index != NONE) {
        g_assert_cmpint(insn->shift, ==, e->shift);
    }
    if (e->kind >= XMMU_INSN_LOAD || e->kind == XMMU_INSN_INVLPG) {
        g_assert_cmpint(insn->segment, ==, e->segment);
    }
    g_assert_cmpint(insn->size, ==, e->size);
    g_assert_cmpint(insn->reg_size, ==, e->reg_size);
    g_assert_cmpint(insn->sign, ==, e->sign);
    g_assert_cmpint(insn->high, ==, e->high);
    g_assert_cmpint(insn->is_imm, ==, e->is_imm);
    g_assert_cmphex(insn->imm, ==, e->imm);
}

static void test_cases(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        XmmuInsn insn;

        g_assert_true(decode(&cases[i], cases[i].count, &insn));
        compare(&cases[i], &insn);
    }
}

/* With a byte less there is no instruction. */
static void test_cut(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        for (unsigned count = 0; count < cases[i].count; count++) {
            XmmuInsn insn;

            g_assert_false(decode(&cases[i], count, &insn));
        }
    }
}

static void test_others(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        XmmuInsn insn;

        g_test_message("%s", others[i].text);
        g_assert_false(decode(&others[i], others[i].count, &insn));
    }
}

/* 15 bytes are the most: Intel SDM vol. 2, 2.3.11. */
static void test_too_long(void)
{
    uint8_t code[16];
    XmmuInsn insn;

    memset(code, 0x66, sizeof(code));
    code[14] = 0xf4;
    g_assert_true(xmmu_insn_decode(code, 16, true, &insn));
    g_assert_cmpint(insn.length, ==, 15);
    code[14] = 0x66;
    code[15] = 0xf4;
    g_assert_false(xmmu_insn_decode(code, 16, true, &insn));
}

/* Any bytes: a register is one, and a length is within the bytes. */
static void test_random(void)
{
    for (unsigned i = 0; i < 200000; i++) {
        unsigned count = g_test_rand_int_range(0, 17);
        uint8_t *code = g_malloc(count);
        XmmuInsn insn;

        for (unsigned j = 0; j < count; j++) {
            /* Mostly such as are known. */
            code[j] = j == 0 && (i & 3) ? "\x0f\x8b\x89\xc7"[i >> 2 & 3]
                                        : g_test_rand_int_range(0, 256);
        }
        if (xmmu_insn_decode(code, count, i & 1, &insn)) {
            g_assert_cmpuint(insn.length, <=, MIN(count, XMMU_INSN_MAX));
            g_assert_cmpuint(insn.length, >, 0);
            g_assert_cmpuint(insn.reg, <, 16);
            g_assert_cmpuint(insn.cr, <, 16);
            g_assert_cmpuint(insn.base, <=, RIP);
            g_assert_cmpuint(insn.index, <=, NONE);
            g_assert_cmpuint(insn.shift, <, 4);
            g_assert_cmpuint(insn.segment, <=, GS);
        }
        g_free(code);
    }
}

static void test_offset(void)
{
    uint64_t gpr[16] = { [RBX] = 0xffffffff00001000, [RCX] = 0x30, [R13] = 0x8000 };
    XmmuInsn insn = { MEM(RBX, RCX, 3, -0x10), .length = 7 };

    g_assert_cmphex(xmmu_insn_offset(&insn, gpr, 0), ==, 0xffffffff00001170);
    insn.address_size = 4;
    g_assert_cmphex(xmmu_insn_offset(&insn, gpr, 0), ==, 0x1170);
    insn = (XmmuInsn) { MEM(NONE, NONE, 0, -1) };
    g_assert_cmphex(xmmu_insn_offset(&insn, gpr, 0), ==, UINT64_MAX);
    insn = (XmmuInsn) { MEM(R13, NONE, 0, 4) };
    g_assert_cmphex(xmmu_insn_offset(&insn, gpr, 0), ==, 0x8004);
    insn = (XmmuInsn) { MEM(RIP, NONE, 0, 0x10), .length = 7 };
    g_assert_cmphex(xmmu_insn_offset(&insn, gpr, 0x1000), ==, 0x1017);
}

static uint64_t loaded(unsigned size, unsigned reg_size, bool sign, bool high,
                       uint64_t memory)
{
    XmmuInsn insn = { .size = size, .reg_size = reg_size, .sign = sign, .high = high };

    return xmmu_insn_loaded(&insn, 0x1122334455667788, memory);
}

static void test_loaded(void)
{
    g_assert_cmphex(loaded(1, 1, false, false, 0xffc5), ==, 0x11223344556677c5);
    g_assert_cmphex(loaded(1, 1, false, true, 0xffc5), ==, 0x112233445566c588);
    g_assert_cmphex(loaded(2, 2, false, false, 0xf87c5), ==, 0x11223344556687c5);
    g_assert_cmphex(loaded(4, 4, false, false, 0xf87654321), ==, 0x87654321);
    g_assert_cmphex(loaded(8, 8, false, false, 0x8765432187654321), ==,
                    0x8765432187654321);
    g_assert_cmphex(loaded(1, 4, false, false, 0xc5), ==, 0xc5);
    g_assert_cmphex(loaded(1, 2, true, false, 0xc5), ==, 0x112233445566ffc5);
    g_assert_cmphex(loaded(1, 4, true, false, 0xc5), ==, 0xffffffc5);
    g_assert_cmphex(loaded(2, 4, true, false, 0x7fc5), ==, 0x7fc5);
    g_assert_cmphex(loaded(2, 8, true, false, 0x87c5), ==, 0xffffffffffff87c5);
    g_assert_cmphex(loaded(4, 8, true, false, 0x80000000), ==, 0xffffffff80000000);
}

static void test_stored(void)
{
    uint64_t gpr[16] = { [RDX] = 0x1122334455667788 };
    XmmuInsn insn = { .reg = RDX, .size = 2 };

    g_assert_cmphex(xmmu_insn_stored(&insn, gpr), ==, 0x7788);
    insn.size = 8;
    g_assert_cmphex(xmmu_insn_stored(&insn, gpr), ==, 0x1122334455667788);
    insn.size = 1;
    insn.high = true;
    g_assert_cmphex(xmmu_insn_stored(&insn, gpr), ==, 0x77);
    insn = (XmmuInsn) { .size = 4, .is_imm = true, .imm = -2ull };
    g_assert_cmphex(xmmu_insn_stored(&insn, gpr), ==, 0xfffffffe);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/decode/cases", test_cases);
    g_test_add_func("/decode/cut", test_cut);
    g_test_add_func("/decode/others", test_others);
    g_test_add_func("/decode/too-long", test_too_long);
    g_test_add_func("/decode/random", test_random);
    g_test_add_func("/decode/offset", test_offset);
    g_test_add_func("/decode/loaded", test_loaded);
    g_test_add_func("/decode/stored", test_stored);
    return g_test_run();
}
