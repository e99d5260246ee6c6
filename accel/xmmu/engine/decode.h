/*
 * xmmu native engine: the few instructions that exit often
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Says what an instruction is of which the hardware only said that it was intercepted:
 * CPUID, HLT, INVLPG, MOV from and to control registers, and those moves between a
 * general register or an immediate and memory that drivers make.  Everything else is
 * TCG's.  Pure, and free of QEMU.  See Intel SDM vol. 2, chapter 2.
 */
#ifndef XMMU_ENGINE_DECODE_H
#define XMMU_ENGINE_DECODE_H

#include <stdbool.h>
#include <stdint.h>

#define XMMU_INSN_MAX 15

typedef enum XmmuInsnKind {
    XMMU_INSN_CPUID,
    XMMU_INSN_HLT,
    XMMU_INSN_INVLPG,           /* memory operand */
    XMMU_INSN_READ_CR,          /* reg = .cr */
    XMMU_INSN_WRITE_CR,         /* .cr = reg */
    XMMU_INSN_LOAD,             /* reg = memory operand */
    XMMU_INSN_STORE,            /* memory operand = reg or imm */
} XmmuInsnKind;

enum {
    XMMU_INSN_NO_REG = 16,      /* as .base or .index */
    XMMU_INSN_RIP = 17,         /* as .base */
};

typedef struct XmmuInsn {
    XmmuInsnKind kind;
    uint8_t length;             /* with prefixes */
    uint8_t reg;                /* a general register, in the order of their encoding */
    uint8_t cr;

    /* The memory operand: segment's base + base + (index << shift) + disp. */
    uint8_t segment;            /* in the order of their encoding: 0 is ES */
    uint8_t base, index, shift;
    uint8_t address_size;       /* bytes: 4 or 8 */
    int64_t disp;

    /* LOAD and STORE. */
    uint8_t size;               /* bytes of memory */
    uint8_t reg_size;           /* LOAD: of the register; 4 clears what is above */
    bool sign;                  /* LOAD: extends the sign, if it extends */
    bool high;                  /* .reg is AH, CH, DH or BH: bits 8..15 of .reg */
    bool is_imm;                /* STORE: .imm, not .reg */
    uint64_t imm;
} XmmuInsn;

/*
 * @code: @count bytes from the instruction's first one on, of 64-bit code if @wide, else
 * of 32-bit code.  False: it is none of the above, has more bytes than these, or
 * prefixes with which it is better left to TCG.
 */
bool xmmu_insn_decode(const uint8_t *code, unsigned count, bool wide, XmmuInsn *insn);

/* The offset of the memory operand in its segment.  @rip: of the instruction. */
uint64_t xmmu_insn_offset(const XmmuInsn *insn, const uint64_t gpr[16], uint64_t rip);

/* LOAD: the register's next value, @old is that of all of it and @memory what was
 * read.  STORE: what is written, of which .size bytes count. */
uint64_t xmmu_insn_loaded(const XmmuInsn *insn, uint64_t old, uint64_t memory);
uint64_t xmmu_insn_stored(const XmmuInsn *insn, const uint64_t gpr[16]);

#endif /* XMMU_ENGINE_DECODE_H */
