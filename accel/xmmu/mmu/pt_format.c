/*
 * xmmu: paging formats as const data
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the descriptions of all page-table encodings.  Anyone may read them;
 * nothing else in the core knows a bit position of a host entry.
 */
#include "pt_format.h"

#define BIT64(n) ((uint64_t)1 << (n))

/* Bit 51 is beyond the modelled MAXPHYADDR: a walk that meets it stops. */
#define LEGACY_MMIO (BIT64(51) | BIT64(0))

const XmmuHostFormat xmmu_host_legacy = {
    .name = "legacy",
    .present = BIT64(0),
    .table = BIT64(0) | BIT64(1) | BIT64(2) | BIT64(5),
    .leaf = BIT64(0),
    .write = BIT64(1),
    .no_exec = BIT64(63),
    .user = BIT64(2),
    .accessed = BIT64(5),
    .dirty = BIT64(6),
    .large = BIT64(7),
    .mmio_mask = LEGACY_MMIO,
    .mmio = LEGACY_MMIO,
};

const XmmuHostFormat xmmu_host_npt = {
    .name = "npt",
    .present = BIT64(0),
    .table = BIT64(0) | BIT64(1) | BIT64(2) | BIT64(5),
    /* Nested walks count as user accesses, so U must be set everywhere. */
    .leaf = BIT64(0) | BIT64(2),
    .write = BIT64(1),
    .no_exec = BIT64(63),
    .accessed = BIT64(5),
    .dirty = BIT64(6),
    .large = BIT64(7),
    .mmio_mask = LEGACY_MMIO,
    .mmio = LEGACY_MMIO,
};

const XmmuHostFormat xmmu_host_ept = {
    .name = "ept",
    .present = BIT64(0) | BIT64(1) | BIT64(2),
    .table = BIT64(0) | BIT64(1) | BIT64(2) | BIT64(8),
    .leaf = 6ull << 3,          /* memory type write-back */
    .user = BIT64(0),
    .write = BIT64(1),
    .exec = BIT64(2),
    .accessed = BIT64(8),
    .dirty = BIT64(9),
    .large = BIT64(7),
    /* Writable and executable but not readable: an EPT misconfiguration. */
    .mmio_mask = BIT64(0) | BIT64(1) | BIT64(2),
    .mmio = BIT64(1) | BIT64(2),
};

const XmmuGuestFormat xmmu_guest_none = {
    .name = "no paging",
};

const XmmuGuestFormat xmmu_guest_32bit = {
    .name = "32-bit",
    .levels = 2,
    .entry_size = 4,
    .index_bits = 10,
    .top_index_bits = 10,
};

const XmmuGuestFormat xmmu_guest_pae = {
    .name = "PAE",
    .levels = 3,
    .entry_size = 8,
    .index_bits = 9,
    .top_index_bits = 2,
};

const XmmuGuestFormat xmmu_guest_4level = {
    .name = "4-level",
    .levels = 4,
    .entry_size = 8,
    .index_bits = 9,
    .top_index_bits = 9,
};

const XmmuGuestFormat xmmu_guest_5level = {
    .name = "5-level",
    .levels = 5,
    .entry_size = 8,
    .index_bits = 9,
    .top_index_bits = 9,
};

const XmmuGuestFormat xmmu_guest_ept4 = {
    .name = "4-level EPT",
    .levels = 4,
    .entry_size = 8,
    .index_bits = 9,
    .top_index_bits = 9,
};

const XmmuGuestFormat xmmu_guest_ept5 = {
    .name = "5-level EPT",
    .levels = 5,
    .entry_size = 8,
    .index_bits = 9,
    .top_index_bits = 9,
};
