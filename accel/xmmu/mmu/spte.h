/*
 * xmmu: encoding and decoding of our entries
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The one place that builds an entry or takes one apart.  Pure functions of the
 * host format; no entry is read or written here.
 *
 * Bits that the hardware ignores and we own, the same in every format
 * (Intel SDM vol. 3, 4.5.4 and 29.3.2; AMD APM vol. 2, 5.3.3):
 *
 *   52        XMMU_SPTE_HOST_RO   the slot is read-only: W must never be set
 *   54..56    in cached MMIO: XMMU_ACC_* of the guest's translation
 *   59..62    protection key (legacy format only, where hardware defines it)
 *
 * Cached MMIO keeps the slot generation in the frame number.
 */
#ifndef XMMU_MMU_SPTE_H
#define XMMU_MMU_SPTE_H

#include "pt_format.h"

#define XMMU_SPTE_HOST_RO       ((uint64_t)1 << 52)
/*
 * An entry of a TDP tree that somebody works on, or of a table that has left the
 * tree.  Bits 2:0 are clear, so no hardware takes it for present, and nothing else
 * that is not present has other bits set.  Only who froze an entry may change it.
 */
#define XMMU_SPTE_FROZEN        ((uint64_t)0x5a << 53)
#define XMMU_SPTE_MMIO_ACC_SHIFT 54
#define XMMU_SPTE_MMIO_GEN_BITS 32

/* What a leaf maps. */
typedef struct XmmuLeaf {
    hpa_t hpa;
    uint8_t level;
    uint8_t access;             /* XMMU_ACC_*; USER is ignored where the format has no U */
    uint8_t pkey;
    bool host_ro;
    bool dirty;                 /* born dirty: this access is a write */
} XmmuLeaf;

XmmuSpte xmmu_spte_leaf(const XmmuHostFormat *format, const XmmuLeaf *leaf);
/* @pae_root: a PDPTE, in which all but P and the address is reserved. */
XmmuSpte xmmu_spte_table(const XmmuHostFormat *format, hpa_t table, bool pae_root);
XmmuSpte xmmu_spte_mmio(const XmmuHostFormat *format, uint32_t generation,
                        uint8_t access);

/* Of the 512 leaves that @huge at @level can be split into, the one at @index: same
 * rights, same A and D. */
XmmuSpte xmmu_spte_part(const XmmuHostFormat *format, XmmuSpte huge, int level,
                        unsigned index);
XmmuSpte xmmu_spte_executable(const XmmuHostFormat *format, XmmuSpte leaf);

uint8_t xmmu_spte_access(const XmmuHostFormat *format, XmmuSpte spte);

static inline bool xmmu_spte_is_mmio(const XmmuHostFormat *format, XmmuSpte spte)
{
    return (spte.raw & format->mmio_mask) == format->mmio;
}

static inline bool xmmu_spte_is_frozen(XmmuSpte spte)
{
    return spte.raw == XMMU_SPTE_FROZEN;
}

/* Present for the hardware: maps a page or points to a table. */
static inline bool xmmu_spte_present(const XmmuHostFormat *format, XmmuSpte spte)
{
    return (spte.raw & format->present) && !xmmu_spte_is_mmio(format, spte);
}

static inline bool xmmu_spte_is_leaf(const XmmuHostFormat *format, XmmuSpte spte,
                                     int level)
{
    return level == XMMU_LEVEL_4K || (spte.raw & format->large);
}

static inline hpa_t xmmu_spte_hpa(XmmuSpte spte)
{
    return spte.raw & XMMU_HOST_ADDR_MASK;
}

static inline bool xmmu_spte_writable(const XmmuHostFormat *format, XmmuSpte spte)
{
    return spte.raw & format->write;
}

static inline XmmuSpte xmmu_spte_write_protected(const XmmuHostFormat *format,
                                                 XmmuSpte spte)
{
    return (XmmuSpte) { spte.raw & ~format->write };
}

static inline uint8_t xmmu_spte_pkey(XmmuSpte spte)
{
    return spte.raw >> XMMU_GPTE_PK_SHIFT & 15;
}

static inline uint32_t xmmu_spte_mmio_generation(XmmuSpte spte)
{
    return xmmu_spte_hpa(spte) >> XMMU_PAGE_SHIFT;
}

static inline uint8_t xmmu_spte_mmio_access(XmmuSpte spte)
{
    return spte.raw >> XMMU_SPTE_MMIO_ACC_SHIFT & XMMU_ACC_ALL;
}

#endif /* XMMU_MMU_SPTE_H */
