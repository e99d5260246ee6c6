/*
 * xmmu: encoding and decoding of our entries
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the translation between "what a leaf maps" and bits.  Callable from
 * anywhere; touches no memory but its arguments.
 */
#include <assert.h>
#include <glib.h>
#include "spte.h"

static_assert(XMMU_SPTE_MMIO_GEN_BITS + XMMU_PAGE_SHIFT < XMMU_HOST_PHYS_BITS,
              "the MMIO generation fits into the frame number");
static_assert(!(XMMU_SPTE_HOST_RO & XMMU_HOST_ADDR_MASK) &&
              XMMU_SPTE_HOST_RO < (1ull << XMMU_SPTE_MMIO_ACC_SHIFT),
              "our own bits do not overlap");
static_assert(!(XMMU_SPTE_FROZEN & 7), "no format sees a frozen entry as present");
static_assert(XMMU_SPTE_MMIO_ACC_SHIFT + 3 <= XMMU_GPTE_PK_SHIFT,
              "our own bits leave the protection key alone");

static uint64_t access_bits(const XmmuHostFormat *format, uint8_t access)
{
    uint64_t raw = 0;

    if (access & XMMU_ACC_WRITE) {
        raw |= format->write;
    }
    if (access & XMMU_ACC_USER) {
        raw |= format->user;
    }
    raw |= access & XMMU_ACC_EXEC ? format->exec : format->no_exec;
    return raw;
}

XmmuSpte xmmu_spte_leaf(const XmmuHostFormat *format, const XmmuLeaf *leaf)
{
    uint64_t raw = format->leaf | format->accessed | leaf->hpa;

    g_assert(!(leaf->hpa & ~XMMU_HOST_ADDR_MASK));
    raw |= access_bits(format, leaf->host_ro ? leaf->access & ~XMMU_ACC_WRITE
                                             : leaf->access);
    if (leaf->level > XMMU_LEVEL_4K) {
        raw |= format->large;
    }
    if (leaf->host_ro) {
        raw |= XMMU_SPTE_HOST_RO;
    }
    if (leaf->dirty) {
        raw |= format->dirty;
    }
    if (format == &xmmu_host_legacy) {
        raw |= (uint64_t)leaf->pkey << XMMU_GPTE_PK_SHIFT;
    }
    return (XmmuSpte) { raw };
}

XmmuSpte xmmu_spte_table(const XmmuHostFormat *format, hpa_t table, bool pae_root)
{
    g_assert(!(table & ~XMMU_HOST_ADDR_MASK));
    return (XmmuSpte) { (pae_root ? format->present : format->table) | table };
}

XmmuSpte xmmu_spte_mmio(const XmmuHostFormat *format, uint32_t generation,
                        uint8_t access)
{
    return (XmmuSpte) {
        format->mmio | ((uint64_t)generation << XMMU_PAGE_SHIFT) |
        (uint64_t)access << XMMU_SPTE_MMIO_ACC_SHIFT
    };
}

XmmuSpte xmmu_spte_part(const XmmuHostFormat *format, XmmuSpte huge, int level,
                        unsigned index)
{
    uint64_t size = xmmu_level_pages(level - 1) << XMMU_PAGE_SHIFT;
    uint64_t raw = huge.raw + index * size;

    g_assert(level > XMMU_LEVEL_4K && (huge.raw & format->large));
    return (XmmuSpte) { level - 1 == XMMU_LEVEL_4K ? raw & ~format->large : raw };
}

XmmuSpte xmmu_spte_executable(const XmmuHostFormat *format, XmmuSpte leaf)
{
    return (XmmuSpte) { (leaf.raw & ~format->no_exec) | format->exec };
}

uint8_t xmmu_spte_access(const XmmuHostFormat *format, XmmuSpte spte)
{
    uint8_t access = 0;

    if (spte.raw & format->write) {
        access |= XMMU_ACC_WRITE;
    }
    if (!format->user || (spte.raw & format->user)) {
        access |= XMMU_ACC_USER;
    }
    if (format->exec ? spte.raw & format->exec : !(spte.raw & format->no_exec)) {
        access |= XMMU_ACC_EXEC;
    }
    return access;
}
