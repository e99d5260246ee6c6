/*
 * xmmu: roles and the masks derived from them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the one total function from registers to the vCPU role, the one from
 * there to the page roles, and the permission and reserved-bit masks.  All are
 * pure.  Whoever adds an input to a mask must take it from the role: there is no
 * other way in.
 */
#include <glib.h>
#include "role.h"

XmmuVcpuRole xmmu_vcpu_role(const XmmuCpuCaps *caps, const XmmuRegs *regs)
{
    bool pg = regs->cr0 & XMMU_CR0_PG;
    bool lma = pg && (regs->efer & XMMU_EFER_LMA);
    bool pae = pg && (regs->cr4 & XMMU_CR4_PAE);
    XmmuVcpuRole role = {
        .valid = 1,
        .smm = regs->smm,
        .a20_masked = regs->a20_masked,
    };

    if (!pg) {
        return role;
    }
    role.pg = 1;
    role.pae = pae;
    role.lma = lma;
    role.la57 = lma && (regs->cr4 & XMMU_CR4_LA57);
    role.pse = !pae && (regs->cr4 & XMMU_CR4_PSE);
    role.nxe = pae && (regs->efer & XMMU_EFER_NXE);
    role.wp = !!(regs->cr0 & XMMU_CR0_WP);
    role.smep = !!(regs->cr4 & XMMU_CR4_SMEP);
    role.smap = !!(regs->cr4 & XMMU_CR4_SMAP);
    role.pke = lma && (regs->cr4 & XMMU_CR4_PKE);
    role.pks = lma && (regs->cr4 & XMMU_CR4_PKS);
    role.maxphyaddr = caps->maxphyaddr;
    role.page1g = lma && caps->page1g;
    role.pse36 = role.pse && caps->pse36;
    role.amd_pml4e_bit8 = lma && caps->amd_pml4e_bit8;
    return role;
}

/*
 * With nested paging L2's PDPTEs are read as any other entry, each time: AMD APM
 * vol. 2, 15.25.10.
 */
XmmuVcpuRole xmmu_vcpu_role_l2_npt(const XmmuCpuCaps *caps, const XmmuRegs *regs)
{
    XmmuVcpuRole role = xmmu_vcpu_role(caps, regs);

    role.pdpte_memory = role.pae && !role.lma;
    return role;
}

/*
 * AMD APM vol. 2, 15.25.5: the format is what L1's CR0.PG, CR4 and EFER say, and
 * every access counts as a user's.  So WP and SMAP have no effect; SMEP has none
 * but that fetches are reported as such.  There are no protection keys in nested
 * tables: bits 62:59 mean nothing, whatever CR4.PKE of L1 is.
 */
XmmuVcpuRole xmmu_vcpu_role_npt(const XmmuCpuCaps *caps, const XmmuRegs *regs)
{
    XmmuVcpuRole role = xmmu_vcpu_role(caps, regs);

    role.npt = 1;
    role.wp = 1;
    role.smep = role.smep && !role.nxe;
    role.smap = 0;
    role.pke = 0;
    role.pks = 0;
    role.pdpte_memory = role.pae && !role.lma;
    return role;
}

XmmuVcpuRole xmmu_vcpu_role_ept(const XmmuCpuCaps *caps, const XmmuRegs *regs)
{
    return (XmmuVcpuRole) {
        .valid = 1,
        .pg = 1,
        .pae = 1,
        .la57 = XMMU_EPTP_LEVELS(regs->cr3) == 5,
        .wp = 1,
        .smm = regs->smm,
        .a20_masked = regs->a20_masked,
        .ept = 1,
        .ept_ad = !!(regs->cr3 & XMMU_EPTP_AD),
        .ept_execonly = caps->ept_execonly,
        .maxphyaddr = caps->maxphyaddr,
        .page1g = caps->ept_1g,
    };
}

static const XmmuGuestFormat *guest_format(XmmuVcpuRole role)
{
    if (!role.pg) {
        return &xmmu_guest_none;
    }
    if (role.ept) {
        return role.la57 ? &xmmu_guest_ept5 : &xmmu_guest_ept4;
    }
    if (!role.pae) {
        return &xmmu_guest_32bit;
    }
    if (!role.lma) {
        return &xmmu_guest_pae;
    }
    return role.la57 ? &xmmu_guest_5level : &xmmu_guest_4level;
}

/* Intel SDM vol. 3, 4.6.1.  Supervisor access to a supervisor page never meets
 * SMEP or SMAP; user access to a supervisor page is always refused. */
static bool access_allowed(XmmuVcpuRole role, bool wp, uint8_t want, bool user,
                           bool smap_off, uint8_t acc)
{
    bool page_user = acc & XMMU_ACC_USER;

    if (user && !page_user) {
        return false;
    }
    if (want == XMMU_PROT_EXEC) {
        return (acc & XMMU_ACC_EXEC) && (user || !page_user || !role.smep);
    }
    if (!user && page_user && role.smap && !smap_off) {
        return false;
    }
    return want == XMMU_PROT_READ || (acc & XMMU_ACC_WRITE) || (!user && !wp);
}

/* Intel SDM vol. 3, 29.3.3.2; USER is "readable". */
static bool ept_allowed(uint8_t want, uint8_t acc)
{
    return acc & (want == XMMU_PROT_EXEC ? XMMU_ACC_EXEC
                : want == XMMU_PROT_WRITE ? XMMU_ACC_WRITE : XMMU_ACC_USER);
}

static bool allowed(XmmuVcpuRole role, bool wp, unsigned i, uint8_t acc)
{
    uint8_t want = 1 << (i / 4);

    if (role.ept) {
        return ept_allowed(want, acc);
    }
    /* The bits of an index are user and smap_off; NPT knows users only. */
    return access_allowed(role, wp, want, role.npt || (i & 2), i & 1, acc);
}

static void compute_perm(XmmuVcpuRole role, bool wp, uint8_t perm[XMMU_PERM_COUNT])
{
    for (unsigned i = 0; i < XMMU_PERM_COUNT; i++) {
        perm[i] = 0;
        for (unsigned acc = 0; acc <= XMMU_ACC_ALL; acc++) {
            perm[i] |= allowed(role, wp, i, acc) << acc;
        }
    }
}

/* AD refuses all data accesses; WD writes, those of a supervisor if CR0.WP=1. */
static uint32_t pkey_denies(XmmuVcpuRole role)
{
    uint32_t mask = 0;

    for (unsigned i = 0; i < XMMU_PERM_COUNT; i++) {
        uint8_t want = 1 << (i / 4);
        bool user = i & 2, page_user = i & 1;
        uint32_t bits = 1;

        if (want == XMMU_PROT_EXEC || !(page_user ? role.pke : role.pks)) {
            continue;
        }
        if (want == XMMU_PROT_WRITE && (user || role.wp)) {
            bits |= 2;
        }
        mask |= bits << (i * 2);
    }
    return mask;
}

static uint64_t bits(unsigned high, unsigned low)
{
    return high < low ? 0 : (~0ull >> (63 - high)) & (~0ull << low);
}

/* Intel SDM vol. 3, table 4-4 ff.; PSE-36 widens a 4 MiB page's frame to
 * min(MAXPHYADDR, 40) bits, the rest up to bit 21 is reserved. */
static void rsvd_32bit(XmmuVcpuRole role, XmmuMasks *masks)
{
    unsigned frame_bits = role.pse36 ? MIN(role.maxphyaddr, 40) : 32;

    masks->rsvd[2][1] = bits(21, frame_bits - 19);
}

static void rsvd_pae_long(XmmuVcpuRole role, XmmuMasks *masks)
{
    uint64_t common = bits(51, role.maxphyaddr);

    if (!role.nxe) {
        common |= XMMU_GPTE_NX;
    }
    if (!role.lma) {
        common |= bits(62, 52);
    }
    for (int level = 1; level <= XMMU_MAX_LEVEL; level++) {
        masks->rsvd[level][0] = common;
        masks->rsvd[level][1] = common;
    }
    masks->rsvd[2][1] |= bits(20, 13);
    masks->rsvd[3][1] |= bits(29, 13);
    if (!role.page1g) {
        masks->rsvd[3][0] |= XMMU_GPTE_PS;
    }
    for (int level = 4; level <= XMMU_MAX_LEVEL; level++) {
        masks->rsvd[level][0] |= XMMU_GPTE_PS;
        masks->rsvd[level][0] |= role.amd_pml4e_bit8 ? bits(8, 8) : 0;
    }
    if (!role.lma) {
        /* PDPTE registers were checked when they were loaded. */
        masks->rsvd[XMMU_PAE_ROOT_LEVEL][0] =
            role.pdpte_memory ? bits(63, role.maxphyaddr) | bits(8, 5) | bits(2, 1)
                              : 0;
    }
}

/* EPT misconfigurations: Intel SDM vol. 3, 29.3.3.1. */
static void rsvd_ept(XmmuVcpuRole role, XmmuMasks *masks)
{
    uint64_t address = bits(51, role.maxphyaddr);

    for (int level = 1; level <= XMMU_MAX_LEVEL; level++) {
        masks->rsvd[level][0] = address | (level > 1 ? bits(6, 3) : 0);
        masks->rsvd[level][1] = address;
    }
    masks->rsvd[2][1] |= bits(20, 12);
    masks->rsvd[3][1] |= bits(29, 12);
    masks->rsvd[3][0] |= role.page1g ? 0 : XMMU_GPTE_PS;
    masks->rsvd[4][0] |= XMMU_GPTE_PS;
    masks->rsvd[5][0] |= XMMU_GPTE_PS;
    for (unsigned low = 0; low < 64; low++) {
        unsigned rwx = low & 7, type = low >> 3;
        bool bad = rwx == XMMU_EPTE_W || rwx == (XMMU_EPTE_W | XMMU_EPTE_X) ||
                   (rwx == XMMU_EPTE_X && !role.ept_execonly) ||
                   type == 2 || type == 3 || type == 7;

        masks->bad_low |= (uint64_t)bad << low;
    }
}

static void compute_format(XmmuVcpuRole role, XmmuMasks *masks)
{
    bool pae_paging = role.pae && !role.lma && !role.ept;

    masks->guest = guest_format(role);
    masks->addr_mask = role.pae ? XMMU_GPTE_ADDR_MASK : 0xfffff000ull;
    masks->root_mask = pae_paging ? 0xffffffe0 : masks->addr_mask;
    masks->present = role.ept ? XMMU_EPTE_RWX : XMMU_GPTE_P;
    masks->pdpte_registers = pae_paging && !role.pdpte_memory;
    masks->pdpte_memory = role.pdpte_memory;
    masks->has_pkey = role.lma && !role.npt;
    if (!role.ept) {
        masks->accessed = XMMU_GPTE_A;
        masks->dirty = XMMU_GPTE_D;
    } else if (role.ept_ad) {
        masks->accessed = XMMU_EPTE_A;
        masks->dirty = XMMU_EPTE_D;
    }
}

void xmmu_masks_compute(XmmuVcpuRole role, XmmuMasks *masks)
{
    *masks = (XmmuMasks) {
        .gpa_mask = role.a20_masked ? ~((gpa_t)1 << 20) : ~(gpa_t)0,
        .fetch_in_pfec = role.smep || role.nxe || role.ept,
        .pkey_denies = pkey_denies(role),
    };
    compute_format(role, masks);
    compute_perm(role, role.wp || !role.pg, masks->guest_perm);
    compute_perm(role, true, masks->shadow_perm);
    if (!role.pg) {
        return;
    }
    if (role.pae) {
        masks->large_levels = 1 << 2 | (role.page1g ? 1 << 3 : 0);
        role.ept ? rsvd_ept(role, masks) : rsvd_pae_long(role, masks);
    } else {
        masks->large_levels = role.pse ? 1 << 2 : 0;
        rsvd_32bit(role, masks);
    }
}

static XmmuPageRole tdp_root_role(const XmmuConfig *config, XmmuVcpuRole role)
{
    /* TDP translates guest physical addresses: no control register matters. */
    return (XmmuPageRole) {
        .level = config->tdp_levels,
        .direct = 1,
        .tdp = 1,
        .access = XMMU_ACC_ALL,
        .smm = role.smm,
    };
}

/* A strict part of the vCPU role: of L1's EPT no more than its shape matters. */
static XmmuPageRole nested_root_role(XmmuVcpuRole role)
{
    return (XmmuPageRole) {
        .level = 4 + role.la57,
        .access = XMMU_ACC_ALL,
        .smm = role.smm,
        .guest_mode = 1,
        .lma = role.lma,
        .nxe = role.nxe,
        .ept = role.ept,
        .ept_ad = role.ept_ad,
        .wp = 1,
        .a20_masked = role.a20_masked,
    };
}

XmmuPageRole xmmu_root_role(const XmmuConfig *config, XmmuVcpuRole role)
{
    XmmuPageRole page = {
        .access = XMMU_ACC_ALL,
        .smm = role.smm,
        .a20_masked = role.a20_masked,
    };

    if (role.npt || role.ept) {
        return nested_root_role(role);
    }
    if (config->tdp) {
        return tdp_root_role(config, role);
    }
    page.pae_root = !role.lma;
    page.level = role.lma ? 4 + role.la57 : XMMU_PAE_ROOT_LEVEL;
    page.direct = !role.pg;
    if (role.pg) {
        page.gpte4 = !role.pae;
        page.lma = role.lma;
        page.nxe = role.nxe;
        page.pse = role.pse;
        page.wp = role.wp;
        page.smep_andnot_wp = role.smep && !role.wp;
        page.smap_andnot_wp = role.smap && !role.wp;
        page.pk_andnot_wp = (role.pke || role.pks) && !role.wp;
    }
    return page;
}

/*
 * A 4-byte guest table has 1024 entries where ours has 512.  A guest page
 * directory is covered by four of our level-2 tables, a guest page table by two
 * of our level-1 tables: the quadrant says which part.
 */
static unsigned child_quadrant(XmmuPageRole parent, unsigned index)
{
    if (!parent.gpte4) {
        return 0;
    }
    return parent.level == XMMU_PAE_ROOT_LEVEL ? index : index & 1;
}

XmmuPageRole xmmu_child_role_indirect(XmmuPageRole parent, unsigned index,
                                      uint8_t access)
{
    XmmuPageRole role = parent;

    role.level--;
    role.direct = 0;
    role.pae_root = 0;
    role.quadrant = child_quadrant(parent, index);
    role.access = access;
    return role;
}

/*
 * A direct table does not depend on the guest's tables or on how they would be
 * read, so that part of the role is cleared: one table serves every mode.  What
 * CR0.WP=0 does to an entry (shadow_fault.c, write_without_wp()) does depend on WP.
 */
XmmuPageRole xmmu_child_role_direct(XmmuPageRole parent, uint8_t access,
                                    uint8_t pkey)
{
    return (XmmuPageRole) {
        .level = parent.level - 1,
        .direct = 1,
        .access = access,
        .smm = parent.smm,
        .guest_mode = parent.guest_mode,
        .wp = parent.wp,
        .smep_andnot_wp = parent.smep_andnot_wp,
        .smap_andnot_wp = parent.smap_andnot_wp,
        .pk_andnot_wp = parent.pk_andnot_wp,
        .a20_masked = parent.a20_masked,
        .pkey = pkey,
    };
}
