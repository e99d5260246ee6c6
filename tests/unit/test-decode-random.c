/*
 * xmmu: accel/xmmu/engine/decode.c against capstone
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Random instructions around those that it knows, with prefixes, all kinds of operands
 * and bytes cut off at the end.  What it says it knows must be what capstone says, operand
 * by operand; and it must know enough of them, or this would be no test.
 */
#include <capstone/capstone.h>
#include <glib.h>
#include <string.h>
#include "accel/xmmu/engine/decode.h"

#define COUNT 400000

static const char *const names[4][16] = {
    { "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b",
      "r12b", "r13b", "r14b", "r15b" },
    { "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w",
      "r13w", "r14w", "r15w" },
    { "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d",
      "r12d", "r13d", "r14d", "r15d" },
    { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
      "r13", "r14", "r15" },
};
static const char *const high_names[] = { "ah", "ch", "dh", "bh" };
static const char *const segment_names[] = { "es", "cs", "ss", "ds", "fs", "gs" };

static const char *reg_name(uint8_t reg, uint8_t size, bool high)
{
    return high ? high_names[reg] : names[__builtin_ctz(size)][reg];
}

/* What capstone calls a register; NULL: there is none. */
static const char *their_name(csh cs, unsigned reg)
{
    return reg == X86_REG_INVALID ? NULL : cs_reg_name(cs, reg);
}

static const char *address_reg(const XmmuInsn *insn, uint8_t reg)
{
    switch (reg) {
    case XMMU_INSN_NO_REG:
        return NULL;
    case XMMU_INSN_RIP:
        return insn->address_size == 8 ? "rip" : "eip";
    default:
        return reg_name(reg, insn->address_size, false);
    }
}

static bool is_reg(csh cs, const cs_x86_op *op, const char *name)
{
    return op->type == X86_OP_REG && !g_strcmp0(their_name(cs, op->reg), name);
}

/* Without a prefix capstone leaves the segment open. */
static bool same_segment(csh cs, const XmmuInsn *insn, unsigned segment)
{
    bool stack = insn->base == 4 || insn->base == 5;

    return !g_strcmp0(segment == X86_REG_INVALID ? (stack ? "ss" : "ds")
                                                 : their_name(cs, segment),
                      segment_names[insn->segment]);
}

static bool is_memory(csh cs, const XmmuInsn *insn, const cs_x86_op *op)
{
    uint64_t mask = insn->address_size == 8 ? UINT64_MAX : UINT32_MAX;
    const char *index = their_name(cs, op->mem.index);

    /* Its names for "no index". */
    if (index && (!strcmp(index, "riz") || !strcmp(index, "eiz"))) {
        index = NULL;
    }
    return op->type == X86_OP_MEM && same_segment(cs, insn, op->mem.segment) &&
           !g_strcmp0(their_name(cs, op->mem.base), address_reg(insn, insn->base)) &&
           !g_strcmp0(index, address_reg(insn, insn->index)) &&
           (insn->index == XMMU_INSN_NO_REG || op->mem.scale == 1 << insn->shift) &&
           !(((uint64_t)op->mem.disp ^ (uint64_t)insn->disp) & mask);
}

static bool is_cr(csh cs, const cs_x86_op *op, unsigned cr)
{
    g_autofree char *name = g_strdup_printf("cr%u", cr);

    return is_reg(cs, op, name);
}

static bool is_load(csh cs, const XmmuInsn *insn, unsigned id, const cs_x86_op *op)
{
    bool sign = id == X86_INS_MOVSX || id == X86_INS_MOVSXD;

    return (sign || id == X86_INS_MOV || id == X86_INS_MOVABS || id == X86_INS_MOVZX) &&
           sign == insn->sign && is_memory(cs, insn, &op[1]) && op[1].size == insn->size &&
           is_reg(cs, &op[0], reg_name(insn->reg, insn->reg_size, insn->high));
}

static bool is_store(csh cs, const XmmuInsn *insn, unsigned id, const cs_x86_op *op)
{
    uint64_t mask = insn->size == 8 ? UINT64_MAX : (1ull << 8 * insn->size) - 1;

    if ((id != X86_INS_MOV && id != X86_INS_MOVABS) || !is_memory(cs, insn, &op[0]) ||
        op[0].size != insn->size) {
        return false;
    }
    return insn->is_imm
           ? op[1].type == X86_OP_IMM && !(((uint64_t)op[1].imm ^ insn->imm) & mask)
           : is_reg(cs, &op[1], reg_name(insn->reg, insn->size, insn->high));
}

static bool same(csh cs, const XmmuInsn *insn, const cs_insn *theirs, bool wide)
{
    const cs_x86_op *op = theirs->detail->x86.operands;
    const char *reg = reg_name(insn->reg, wide ? 8 : 4, false);

    if (theirs->size != insn->length) {
        return false;
    }
    switch (insn->kind) {
    case XMMU_INSN_CPUID:
        return theirs->id == X86_INS_CPUID;
    case XMMU_INSN_HLT:
        return theirs->id == X86_INS_HLT;
    case XMMU_INSN_INVLPG:
        return theirs->id == X86_INS_INVLPG && is_memory(cs, insn, &op[0]);
    case XMMU_INSN_READ_CR:
        return theirs->id == X86_INS_MOV && is_reg(cs, &op[0], reg) &&
               is_cr(cs, &op[1], insn->cr);
    case XMMU_INSN_WRITE_CR:
        return theirs->id == X86_INS_MOV && is_cr(cs, &op[0], insn->cr) &&
               is_reg(cs, &op[1], reg);
    case XMMU_INSN_LOAD:
        return is_load(cs, insn, theirs->id, op);
    case XMMU_INSN_STORE:
        return is_store(cs, insn, theirs->id, op);
    }
    return false;
}

/* Prefixes now and then, an opcode of those that it knows or any other, anything. */
static unsigned make_code(GRand *random, uint8_t *code)
{
    static const uint8_t prefixes[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0,
                                        0xf2, 0xf3 };
    static const uint8_t one[] = { 0x63, 0x88, 0x89, 0x8a, 0x8b, 0xa0, 0xa1, 0xa2, 0xa3, 0xc6,
                                   0xc7, 0xf4 };
    static const uint8_t two[] = { 0x01, 0x20, 0x22, 0xa2, 0xb6, 0xb7, 0xbe, 0xbf };
    unsigned at = 0;

    while (!g_rand_int_range(random, 0, 3) && at < 3) {
        code[at++] = prefixes[g_rand_int_range(random, 0, G_N_ELEMENTS(prefixes))];
    }
    if (g_rand_boolean(random)) {
        code[at++] = 0x40 | g_rand_int_range(random, 0, 16);
    }
    if (g_rand_boolean(random)) {
        code[at++] = one[g_rand_int_range(random, 0, G_N_ELEMENTS(one))];
    } else {
        code[at++] = 0x0f;
        code[at++] = two[g_rand_int_range(random, 0, G_N_ELEMENTS(two))];
    }
    while (at < XMMU_INSN_MAX + 1) {
        code[at++] = g_rand_int_range(random, 0, 256);
    }
    return g_rand_int_range(random, 0, 4) ? at : (unsigned)g_rand_int_range(random, 1, at + 1);
}

static void test_random(const void *data)
{
    bool wide = GPOINTER_TO_INT(data);
    GRand *random = g_rand_new_with_seed(0x64656300 + wide);
    unsigned known = 0;
    csh cs;

    g_assert_cmpint(cs_open(CS_ARCH_X86, wide ? CS_MODE_64 : CS_MODE_32, &cs), ==, CS_ERR_OK);
    cs_option(cs, CS_OPT_DETAIL, CS_OPT_ON);
    for (unsigned i = 0; i < COUNT; i++) {
        uint8_t code[XMMU_INSN_MAX + 1];
        unsigned count = make_code(random, code);
        cs_insn *theirs;
        XmmuInsn insn;

        if (!xmmu_insn_decode(code, count, wide, &insn)) {
            continue;
        }
        known++;
        if (!cs_disasm(cs, code, count, 0, 1, &theirs)) {
            g_error("%u: capstone knows no such instruction", i);
        }
        if (!same(cs, &insn, theirs, wide)) {
            g_error("%u: kind %d, %u bytes, capstone: %u bytes, %s %s", i, insn.kind,
                    insn.length, theirs->size, theirs->mnemonic, theirs->op_str);
        }
        cs_free(theirs, 1);
    }
    g_test_message("%u of %u", known, COUNT);
    g_assert_cmpuint(known, >, COUNT / 8);
    cs_close(&cs);
    g_rand_free(random);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/decode/random/32", GINT_TO_POINTER(false), test_random);
    g_test_add_data_func("/decode/random/64", GINT_TO_POINTER(true), test_random);
    return g_test_run();
}
