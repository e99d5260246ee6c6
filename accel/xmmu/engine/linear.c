/*
 * xmmu soft engine: linear addresses before their translation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns linear-address masking (LAM) and the canonical check, which a CPU does
 * before it looks into any TLB or table.  Nothing of it is in a table or a root:
 * CR3's LAM bits are no part of a root's key, and what a fault reports in CR2 has
 * no metadata.  A data access only: fetches, INVLPG and the addresses that
 * registers are loaded with are taken as they are.
 *
 * Intel SDM vol. 3, linear-address masking; vol. 1, 3.3.7.1 (canonical).
 */
#include <glib.h>
#include "linear.h"
#include "../mmu/vm.h"

/*
 * The highest bit of the address proper: above it, up to bit 62, is metadata.
 * 63: there is none.  Bit 63 says whose pointer it is, whoever makes the access.
 * Supervisor pointers are masked as wide as the paging mode allows; user pointers
 * as CR3 says, also 48 bits in 5-level paging, and LAM_U57 goes before LAM_U48.
 */
static unsigned lam_sign_bit(const XmmuMmu *mmu, gva_t pointer)
{
    if (pointer >> 63) {
        return !(mmu->regs.cr4 & XMMU_CR4_LAM_SUP) ? 63
               : mmu->role.la57 ? 56 : 47;
    }
    if (mmu->regs.cr3 & XMMU_CR3_LAM_U57) {
        return 56;
    }
    return mmu->regs.cr3 & XMMU_CR3_LAM_U48 ? 47 : 63;
}

/* Bits 62 down to @sign become copies of bit @sign. */
static gva_t without_metadata(gva_t pointer, unsigned sign)
{
    const gva_t bit63 = (gva_t)1 << 63;
    gva_t extended = (int64_t)(pointer << (63 - sign)) >> (63 - sign);

    return (extended & ~bit63) | (pointer & bit63);
}

static gva_t data_address(const XmmuVcpu *vcpu, gva_t pointer)
{
    if (!vcpu->caps.lam) {
        return pointer;
    }
    return without_metadata(pointer, lam_sign_bit(vcpu->walk_mmu, pointer));
}

gva_t xmmu_linear_address(const XmmuVcpu *vcpu, const XmmuAccess *access)
{
    if (!vcpu->walk_mmu->role.lma) {
        return access->gva & 0xffffffff;
    }
    return access->want == XMMU_PROT_EXEC ? access->gva
                                          : data_address(vcpu, access->gva);
}

/*
 * Through a pointer with metadata a fetch is refused where data is not, or, with
 * LAM_U48 in 5-level paging, goes elsewhere.
 */
uint8_t xmmu_linear_prot(const XmmuVcpu *vcpu, const XmmuAccess *access)
{
    if (!vcpu->walk_mmu->role.lma ||
        data_address(vcpu, access->gva) == access->gva) {
        return XMMU_PROT_RWX;
    }
    return access->want == XMMU_PROT_EXEC ? XMMU_PROT_EXEC
                                          : XMMU_PROT_READ | XMMU_PROT_WRITE;
}

bool xmmu_linear_canonical(const XmmuVcpu *vcpu, gva_t gva)
{
    XmmuVcpuRole role = vcpu->walk_mmu->role;
    int64_t high = (int64_t)gva >> (role.la57 ? 56 : 47);

    return !role.lma || high == 0 || high == -1;
}
