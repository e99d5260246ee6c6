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

static const XmmuGuestFormat *guest_format(XmmuVcpuRole role)
{
    if (!role.pg) {
        return &xmmu_guest_none;
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

static void compute_perm(XmmuVcpuRole role, bool wp, uint8_t perm[XMMU_PERM_COUNT])
{
    for (unsigned i = 0; i < XMMU_PERM_COUNT; i++) {
        perm[i] = 0;
        for (unsigned acc = 0; acc <= XMMU_ACC_ALL; acc++) {
            perm[i] |= access_allowed(role, wp, 1 << (i / 4), i & 2, i & 1, acc)
                       << acc;
        }
    }
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
        /* PDPTEs were checked when they were loaded. */
        masks->rsvd[XMMU_PAE_ROOT_LEVEL][0] = 0;
    }
}

void xmmu_masks_compute(XmmuVcpuRole role, XmmuMasks *masks)
{
    *masks = (XmmuMasks) {
        .guest = guest_format(role),
        .gpa_mask = role.a20_masked ? ~((gpa_t)1 << 20) : ~(gpa_t)0,
        .addr_mask = role.pae ? XMMU_GPTE_ADDR_MASK : 0xfffff000ull,
        .fetch_in_pfec = role.smep || role.nxe,
    };
    compute_perm(role, role.wp || !role.pg, masks->guest_perm);
    compute_perm(role, true, masks->shadow_perm);
    if (!role.pg) {
        return;
    }
    if (role.pae) {
        masks->large_levels = 1 << 2 | (role.page1g ? 1 << 3 : 0);
        rsvd_pae_long(role, masks);
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

XmmuPageRole xmmu_root_role(const XmmuConfig *config, XmmuVcpuRole role)
{
    XmmuPageRole page = {
        .access = XMMU_ACC_ALL,
        .smm = role.smm,
        .a20_masked = role.a20_masked,
    };

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

bool xmmu_pkey_denies(XmmuVcpuRole role, const XmmuRegs *regs, uint8_t want,
                      bool user, uint8_t page_access, uint8_t pkey)
{
    bool page_user = page_access & XMMU_ACC_USER;
    uint32_t rights;

    if (want == XMMU_PROT_EXEC || !(page_user ? role.pke : role.pks)) {
        return false;
    }
    rights = (page_user ? regs->pkru : regs->pkrs) >> (pkey * 2);
    if (rights & 1) {
        return true;                    /* AD: access disable */
    }
    return (rights & 2) && want == XMMU_PROT_WRITE && (user || role.wp);
}
