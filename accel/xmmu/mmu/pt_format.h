/*
 * xmmu: paging formats as const data
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Everything that differs between the encodings of page tables, as data.  A
 * format is never modified; a VM points to the one it uses, so that EPT and NPT
 * can exist side by side in one process.
 */
#ifndef XMMU_MMU_PT_FORMAT_H
#define XMMU_MMU_PT_FORMAT_H

#include "types.h"

/*
 * Encoding of the entries that we write and an engine's hardware reads.
 * A right is granted when its "set" bits are set and its "clear" bits are clear.
 */
typedef struct XmmuHostFormat {
    const char *name;
    uint64_t present;           /* present when any of these is set */
    uint64_t table;             /* every entry that points to a table */
    uint64_t leaf;              /* every entry that maps a page */
    uint64_t write;             /* set: writable */
    uint64_t exec;              /* set: executable */
    uint64_t no_exec;           /* set: not executable */
    uint64_t user;              /* set: for CPL 3 too; EPT: readable (0: always) */
    uint64_t accessed, dirty;
    uint64_t large;             /* a leaf above level 1 */
    uint64_t mmio_mask, mmio;   /* (entry & mask) == mmio: cached MMIO, which the
                                   hardware reports as a misconfiguration */
} XmmuHostFormat;

/* Legacy long-mode/PAE entries: shadow paging.  Intel SDM vol. 3, 4.5. */
extern const XmmuHostFormat xmmu_host_legacy;
/* Nested page tables, AMD APM vol. 2, 15.25: legacy entries, always "user". */
extern const XmmuHostFormat xmmu_host_npt;
/* Extended page tables, Intel SDM vol. 3, 29.3.2. */
extern const XmmuHostFormat xmmu_host_ept;

/* Frame number in any of our entries: the modelled CPU has MAXPHYADDR 51, so
 * that bit 51 is reserved and can mark cached MMIO. */
#define XMMU_HOST_PHYS_BITS 51
#define XMMU_HOST_ADDR_MASK \
    ((((uint64_t)1 << XMMU_HOST_PHYS_BITS) - 1) & XMMU_PAGE_MASK)

/* Shape of the guest's tables.  Reserved bits depend on registers and the CPU
 * model, see role.c. */
typedef struct XmmuGuestFormat {
    const char *name;
    uint8_t levels;             /* 0: not paging */
    uint8_t entry_size;         /* 4 or 8 bytes */
    uint8_t index_bits;         /* per level below the top */
    uint8_t top_index_bits;     /* PAE: 2 */
} XmmuGuestFormat;

extern const XmmuGuestFormat xmmu_guest_none;
extern const XmmuGuestFormat xmmu_guest_32bit;     /* SDM 4.3 */
extern const XmmuGuestFormat xmmu_guest_pae;       /* SDM 4.4 */
extern const XmmuGuestFormat xmmu_guest_4level;    /* SDM 4.5 */
extern const XmmuGuestFormat xmmu_guest_5level;
/* Extended page tables of a nested hypervisor, Intel SDM vol. 3, 29.3. */
extern const XmmuGuestFormat xmmu_guest_ept4;
extern const XmmuGuestFormat xmmu_guest_ept5;

/* Bits of guest entries, the same in all legacy formats. */
enum {
    XMMU_GPTE_P  = 1 << 0,
    XMMU_GPTE_W  = 1 << 1,
    XMMU_GPTE_U  = 1 << 2,
    XMMU_GPTE_A  = 1 << 5,
    XMMU_GPTE_D  = 1 << 6,
    XMMU_GPTE_PS = 1 << 7,
};
#define XMMU_GPTE_NX        ((uint64_t)1 << 63)
#define XMMU_GPTE_PK_SHIFT  59
#define XMMU_GPTE_ADDR_MASK (0x000ffffffffff000ull)

/* Bits of EPT entries. */
enum {
    XMMU_EPTE_R   = 1 << 0,
    XMMU_EPTE_W   = 1 << 1,
    XMMU_EPTE_X   = 1 << 2,
    XMMU_EPTE_RWX = XMMU_EPTE_R | XMMU_EPTE_W | XMMU_EPTE_X,
    XMMU_EPTE_A   = 1 << 8,
    XMMU_EPTE_D   = 1 << 9,
};

/* EPTP, Intel SDM vol. 3, 25.6.11. */
#define XMMU_EPTP_LEVELS(eptp)  (((eptp) >> 3 & 7) + 1)
#define XMMU_EPTP_AD            (1u << 6)

/* Read one guest entry of @size bytes at @entry, once: other vCPUs write there. */
static inline uint64_t xmmu_gpte_load(const void *entry, unsigned size)
{
    if (size == 4) {
        return __atomic_load_n((const uint32_t *)entry, __ATOMIC_RELAXED);
    }
    return __atomic_load_n((const uint64_t *)entry, __ATOMIC_RELAXED);
}

/* First address bit that an entry at @level translates. */
static inline unsigned xmmu_guest_shift(const XmmuGuestFormat *format, int level)
{
    return XMMU_PAGE_SHIFT + format->index_bits * (level - 1);
}

static inline unsigned xmmu_guest_index(const XmmuGuestFormat *format, int level,
                                        gva_t gva)
{
    unsigned bits = level == format->levels ? format->top_index_bits
                                            : format->index_bits;

    return (gva >> xmmu_guest_shift(format, level)) & ((1u << bits) - 1);
}

#endif /* XMMU_MMU_PT_FORMAT_H */
