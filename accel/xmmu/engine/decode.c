/*
 * xmmu native engine: the few instructions that exit often
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns their decoding.  See decode.h.  What is decoded has been executed by hardware up
 * to its intercept, which says what it was; so what the bytes say is compared with that
 * by the caller, as another vCPU may have changed them since.
 */
#include "decode.h"

/* General registers, segments. */
enum { RSP = 4, RBP = 5 };
enum { ES, CS, SS, DS, FS, GS, NO_SEGMENT };

typedef struct Decoder {
    const uint8_t *code;
    unsigned count, at;
    bool wide;
    bool good;
    uint8_t rex;                /* 0: none */
    uint8_t operand_size;       /* bytes: 2, 4 or 8 */
    uint8_t segment;            /* by a prefix */
    uint8_t modrm;
    XmmuInsn *insn;
} Decoder;

enum { REX_B = 1, REX_X = 2, REX_R = 4, REX_W = 8 };

/* Little endian, extended by its sign. */
static int64_t take(Decoder *d, unsigned bytes)
{
    uint64_t value = 0;

    if (d->count - d->at < bytes) {
        d->good = false;
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)d->code[d->at++] << (8 * i);
    }
    return bytes < 8 ? (int64_t)(value << (64 - 8 * bytes)) >> (64 - 8 * bytes)
                     : (int64_t)value;
}

static uint8_t take_byte(Decoder *d)
{
    return take(d, 1);
}

/* ---- Prefixes ------------------------------------------------------------------ */

static bool take_segment(Decoder *d, uint8_t segment)
{
    d->segment = segment;
    /* In 64-bit code the others mean nothing, and nobody writes them. */
    d->good = d->good && !(d->wide && segment < FS);
    return true;
}

/* Was @byte one?  REX is none of these, as nothing comes between it and the opcode. */
static bool take_prefix(Decoder *d, uint8_t byte)
{
    switch (byte) {
    case 0x26:
        return take_segment(d, ES);
    case 0x2e:
        return take_segment(d, CS);
    case 0x36:
        return take_segment(d, SS);
    case 0x3e:
        return take_segment(d, DS);
    case 0x64:
        return take_segment(d, FS);
    case 0x65:
        return take_segment(d, GS);
    case 0x66:
        d->operand_size = 2;
        return true;
    case 0x67:
        /* 16-bit addresses are left out. */
        d->good = d->good && d->wide;
        d->insn->address_size = 4;
        return true;
    default:
        return false;
    }
}

/* Returns the first byte of the opcode. */
static uint8_t take_prefixes(Decoder *d)
{
    uint8_t byte;

    do {
        byte = take_byte(d);
    } while (d->good && take_prefix(d, byte));
    if (d->wide && (byte & 0xf0) == 0x40) {
        d->rex = byte;
        byte = take_byte(d);
    }
    if (d->rex & REX_W) {
        d->operand_size = 8;
    }
    return byte;
}

/* ---- Operands ------------------------------------------------------------------ */

/* A number of three bits with the fourth in REX. */
static uint8_t extended(const Decoder *d, uint8_t number, uint8_t rex)
{
    return (number & 7) | (d->rex & rex ? 8 : 0);
}

static uint8_t modrm_reg(const Decoder *d)
{
    return extended(d, d->modrm >> 3, REX_R);
}

/* Intel SDM vol. 2, table 2-3. */
static void take_sib(Decoder *d)
{
    uint8_t sib = take_byte(d);

    d->insn->shift = sib >> 6;
    d->insn->index = extended(d, sib >> 3, REX_X);
    if (d->insn->index == RSP) {
        d->insn->index = XMMU_INSN_NO_REG;
    }
    d->insn->base = extended(d, sib, REX_B);
    if ((sib & 7) == RBP && d->modrm < 0x40) {
        d->insn->base = XMMU_INSN_NO_REG;
        d->insn->disp = take(d, 4);
    }
}

static void take_base(Decoder *d)
{
    if ((d->modrm & 7) == RSP) {
        take_sib(d);
    } else if ((d->modrm & 0xc7) == RBP) {
        d->insn->base = d->wide ? XMMU_INSN_RIP : XMMU_INSN_NO_REG;
        d->insn->disp = take(d, 4);
    } else {
        d->insn->base = extended(d, d->modrm, REX_B);
    }
}

static void choose_segment(Decoder *d)
{
    bool stack = d->insn->base == RSP || d->insn->base == RBP;

    d->insn->segment = d->segment != NO_SEGMENT ? d->segment : stack ? SS : DS;
}

/* Intel SDM vol. 2, table 2-2.  The ModRM byte was taken. */
static void take_memory(Decoder *d)
{
    switch (d->modrm >> 6) {
    case 0:
        take_base(d);
        break;
    case 1:
        take_base(d);
        d->insn->disp = take(d, 1);
        break;
    case 2:
        take_base(d);
        d->insn->disp = take(d, 4);
        break;
    default:
        d->good = false;        /* a register */
    }
    choose_segment(d);
}

static void take_modrm(Decoder *d)
{
    d->modrm = take_byte(d);
}

/* The register of an operand of @size bytes. */
static void choose_reg(Decoder *d, uint8_t reg, uint8_t size)
{
    d->insn->reg = reg;
    if (size == 1 && !d->rex && reg >= 4) {
        d->insn->reg = reg - 4;
        d->insn->high = true;
    }
}

/* ---- Instructions ------------------------------------------------------------------- */

/* A ModRM byte, and a register of @reg_size bytes, beside @size bytes of memory. */
static void move(Decoder *d, XmmuInsnKind kind, uint8_t size, uint8_t reg_size)
{
    take_modrm(d);
    take_memory(d);
    choose_reg(d, modrm_reg(d), reg_size);
    d->insn->kind = kind;
    d->insn->size = size;
    d->insn->reg_size = reg_size;
}

static void extend(Decoder *d, uint8_t size, bool sign)
{
    move(d, XMMU_INSN_LOAD, size, d->operand_size);
    d->insn->sign = sign;
}

/* The accumulator and an address that is part of the instruction. */
static void move_offset(Decoder *d, XmmuInsnKind kind, uint8_t size)
{
    d->insn->disp = take(d, d->insn->address_size);
    d->insn->kind = kind;
    d->insn->size = d->insn->reg_size = size;
    choose_segment(d);
}

static void store_imm(Decoder *d, uint8_t size)
{
    move(d, XMMU_INSN_STORE, size, size);
    /* /0, and no more than 32 bits, extended by their sign. */
    d->good = d->good && !(d->modrm >> 3 & 7);
    d->insn->is_imm = true;
    d->insn->high = false;
    d->insn->imm = take(d, size < 4 ? size : 4);
}

/* Both operands are registers, whatever the mode in ModRM. */
static void move_cr(Decoder *d, XmmuInsnKind kind)
{
    take_modrm(d);
    d->insn->kind = kind;
    d->insn->cr = modrm_reg(d);
    d->insn->reg = extended(d, d->modrm, REX_B);
}

static void group_7(Decoder *d)
{
    take_modrm(d);
    take_memory(d);
    d->insn->kind = XMMU_INSN_INVLPG;
    d->good = d->good && (d->modrm >> 3 & 7) == 7;
}

static void decode_0f(Decoder *d)
{
    switch (take_byte(d)) {
    case 0x01:
        group_7(d);
        break;
    case 0x20:
        move_cr(d, XMMU_INSN_READ_CR);
        break;
    case 0x22:
        move_cr(d, XMMU_INSN_WRITE_CR);
        break;
    case 0xa2:
        d->insn->kind = XMMU_INSN_CPUID;
        break;
    case 0xb6:
        extend(d, 1, false);
        break;
    case 0xb7:
        extend(d, 2, false);
        break;
    case 0xbe:
        extend(d, 1, true);
        break;
    case 0xbf:
        extend(d, 2, true);
        break;
    default:
        d->good = false;
    }
}

/* MOVSXD; in 32-bit code that is ARPL. */
static void decode_63(Decoder *d)
{
    d->good = d->good && d->operand_size == 8;
    extend(d, 4, true);
}

static void decode(Decoder *d)
{
    uint8_t opcode = take_prefixes(d);
    uint8_t size = opcode & 1 ? d->operand_size : 1;

    switch (opcode) {
    case 0x0f:
        decode_0f(d);
        break;
    case 0x63:
        decode_63(d);
        break;
    case 0x88 ... 0x89:
        move(d, XMMU_INSN_STORE, size, size);
        break;
    case 0x8a ... 0x8b:
        move(d, XMMU_INSN_LOAD, size, size);
        break;
    case 0xa0 ... 0xa1:
        move_offset(d, XMMU_INSN_LOAD, size);
        break;
    case 0xa2 ... 0xa3:
        move_offset(d, XMMU_INSN_STORE, size);
        break;
    case 0xc6 ... 0xc7:
        store_imm(d, size);
        break;
    case 0xf4:
        d->insn->kind = XMMU_INSN_HLT;
        break;
    default:
        d->good = false;
    }
}

bool xmmu_insn_decode(const uint8_t *code, unsigned count, bool wide, XmmuInsn *insn)
{
    Decoder d = {
        .code = code,
        .count = count < XMMU_INSN_MAX ? count : XMMU_INSN_MAX,
        .wide = wide,
        .good = true,
        .operand_size = 4,
        .segment = NO_SEGMENT,
        .insn = insn,
    };

    *insn = (XmmuInsn) {
        .base = XMMU_INSN_NO_REG,
        .index = XMMU_INSN_NO_REG,
        .address_size = wide ? 8 : 4,
    };
    decode(&d);
    insn->length = d.at;
    return d.good;
}

/* ---- What they do -------------------------------------------------------------------- */

static uint64_t low_bytes(uint64_t value, unsigned bytes)
{
    return bytes < 8 ? value & ((1ull << (8 * bytes)) - 1) : value;
}

uint64_t xmmu_insn_offset(const XmmuInsn *insn, const uint64_t gpr[16], uint64_t rip)
{
    uint64_t offset = insn->disp;

    if (insn->base == XMMU_INSN_RIP) {
        offset += rip + insn->length;
    } else if (insn->base != XMMU_INSN_NO_REG) {
        offset += gpr[insn->base];
    }
    if (insn->index != XMMU_INSN_NO_REG) {
        offset += gpr[insn->index] << insn->shift;
    }
    return low_bytes(offset, insn->address_size);
}

uint64_t xmmu_insn_loaded(const XmmuInsn *insn, uint64_t old, uint64_t memory)
{
    unsigned shift = insn->high ? 8 : 0;
    uint64_t value = low_bytes(memory, insn->size);

    if (insn->sign) {
        uint64_t top = 1ull << (8 * insn->size - 1);

        value = (value ^ top) - top;
    }
    value = low_bytes(value, insn->reg_size);
    if (insn->reg_size >= 4) {
        return value;
    }
    return (old & ~(low_bytes(UINT64_MAX, insn->reg_size) << shift)) | value << shift;
}

uint64_t xmmu_insn_stored(const XmmuInsn *insn, const uint64_t gpr[16])
{
    if (insn->is_imm) {
        return low_bytes(insn->imm, insn->size);
    }
    return low_bytes(gpr[insn->reg] >> (insn->high ? 8 : 0), insn->size);
}
