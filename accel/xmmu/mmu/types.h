/*
 * xmmu: basic types of the MMU core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Address spaces and table entries, each with a type of its own, so that a
 * guest entry cannot be stored where a host entry belongs.  No function here
 * takes a lock or can fail.
 */
#ifndef XMMU_MMU_TYPES_H
#define XMMU_MMU_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * For a large local of a hot path, all of whose members are written before they
 * are read, against being cleared first (-ftrivial-auto-var-init).
 */
#ifdef __has_attribute
#if __has_attribute(uninitialized)
#define XMMU_UNINITIALIZED __attribute__((uninitialized))
#endif
#endif
#ifndef XMMU_UNINITIALIZED
#define XMMU_UNINITIALIZED
#endif

typedef uint64_t gva_t;     /* guest virtual (linear) address, bytes */
typedef uint64_t gpa_t;     /* guest physical address, bytes */
typedef uint64_t gfn_t;     /* gpa >> XMMU_PAGE_SHIFT */
typedef uint64_t hpa_t;     /* address in the engine's "host physical" space, bytes */
typedef uint64_t hfn_t;     /* hpa >> XMMU_PAGE_SHIFT */

/* An entry of a table that we build and an engine walks (a "shadow PTE"). */
typedef struct XmmuSpte {
    uint64_t raw;
} XmmuSpte;

/* An entry of a table that the guest built; 4-byte entries are zero-extended. */
typedef struct XmmuGpte {
    uint64_t raw;
} XmmuGpte;

#define XMMU_PAGE_SHIFT     12
#define XMMU_PAGE_SIZE      ((uint64_t)1 << XMMU_PAGE_SHIFT)
#define XMMU_PAGE_MASK      (~(XMMU_PAGE_SIZE - 1))

#define XMMU_ENTRIES        512     /* entries of one of our tables */
#define XMMU_MAX_LEVEL      5       /* PML5 */
#define XMMU_LEVEL_4K       1
#define XMMU_LEVEL_2M       2
#define XMMU_LEVEL_1G       3
#define XMMU_PAE_ROOT_LEVEL 3       /* four PDPTEs */

#define XMMU_NO_GFN         (~(gfn_t)0)

/* Pages of 4 KiB that one entry at @level of a 64-bit table maps. */
static inline uint64_t xmmu_level_pages(int level)
{
    return (uint64_t)1 << (9 * (level - 1));
}

/* Index into a 64-bit table at @level for page number @frame (gva or gpa >> 12). */
static inline unsigned xmmu_level_index(uint64_t frame, int level)
{
    return (frame >> (9 * (level - 1))) & (XMMU_ENTRIES - 1);
}

/*
 * Permissions an entry or a path grants.  Read is implied by presence; in EPT,
 * which has no users but entries that can only be executed, USER means readable.
 */
enum {
    XMMU_ACC_EXEC  = 1 << 0,
    XMMU_ACC_WRITE = 1 << 1,
    XMMU_ACC_USER  = 1 << 2,
    XMMU_ACC_ALL   = XMMU_ACC_EXEC | XMMU_ACC_WRITE | XMMU_ACC_USER,
};

/* What an access wants to do, and what a translation allows (a set). */
enum {
    XMMU_PROT_READ  = 1 << 0,
    XMMU_PROT_WRITE = 1 << 1,
    XMMU_PROT_EXEC  = 1 << 2,
    XMMU_PROT_RWX   = XMMU_PROT_READ | XMMU_PROT_WRITE | XMMU_PROT_EXEC,
};

/* #PF error code, Intel SDM vol. 3, 4.7; AMD APM vol. 2, 8.4.2. */
enum {
    XMMU_PFEC_P    = 1 << 0,
    XMMU_PFEC_W    = 1 << 1,
    XMMU_PFEC_U    = 1 << 2,
    XMMU_PFEC_RSVD = 1 << 3,
    XMMU_PFEC_I    = 1 << 4,
    XMMU_PFEC_PK   = 1 << 5,
};

/* Exceptions a translation can raise. */
enum {
    XMMU_EXC_NONE = 0,
    XMMU_EXC_GP   = 13,
    XMMU_EXC_PF   = 14,
};

/* Register bits that decide how addresses are translated. */
#define XMMU_CR0_PE     (1u << 0)
#define XMMU_CR0_WP     (1u << 16)
#define XMMU_CR0_NW     (1u << 29)
#define XMMU_CR0_CD     (1u << 30)
#define XMMU_CR0_PG     (1u << 31)
#define XMMU_CR3_PCID_MASK 0xfffu
#define XMMU_CR3_NO_FLUSH ((uint64_t)1 << 63)   /* of MOV's operand; never stored */
#define XMMU_CR4_PSE    (1u << 4)
#define XMMU_CR4_PAE    (1u << 5)
#define XMMU_CR4_PGE    (1u << 7)
#define XMMU_CR4_LA57   (1u << 12)
#define XMMU_CR4_PCIDE  (1u << 17)
#define XMMU_CR4_SMEP   (1u << 20)
#define XMMU_CR4_SMAP   (1u << 21)
#define XMMU_CR4_PKE    (1u << 22)
#define XMMU_CR4_PKS    (1u << 24)
#define XMMU_CR4_LAM_SUP (1u << 28)
#define XMMU_CR3_LAM_U57 ((uint64_t)1 << 61)
#define XMMU_CR3_LAM_U48 ((uint64_t)1 << 62)
#define XMMU_EFER_LME   (1u << 8)
#define XMMU_EFER_LMA   (1u << 10)
#define XMMU_EFER_NXE   (1u << 11)

#endif /* XMMU_MMU_TYPES_H */
