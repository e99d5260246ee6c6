/*
 * xmmu: roles
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two different things are called "role".  The vCPU role says what the guest's
 * registers ask for; the page role says what a table of ours is.  The masks that
 * decide permissions are a function of the vCPU role alone and are computed
 * once per change of it.
 */
#ifndef XMMU_MMU_ROLE_H
#define XMMU_MMU_ROLE_H

#include "mmu.h"
#include "pt_format.h"

typedef struct XmmuMmu XmmuMmu;

/*
 * What the registers say.  Bits that have no effect in a paging mode are zero in
 * it, so that equal words mean equal translation rules.
 */
typedef union XmmuVcpuRole {
    uint64_t word;
    struct {
        uint64_t valid : 1;     /* tells an unset role from all-zero registers */
        uint64_t pg : 1;
        uint64_t pae : 1;
        uint64_t lma : 1;
        uint64_t la57 : 1;      /* LMA only */
        uint64_t pse : 1;       /* 32-bit paging only */
        uint64_t nxe : 1;       /* PAE and long only */
        uint64_t wp : 1;
        uint64_t smep : 1;
        uint64_t smap : 1;
        uint64_t pke : 1;       /* LMA only */
        uint64_t pks : 1;       /* LMA only */
        uint64_t smm : 1;
        uint64_t a20_masked : 1;
        /* PDPTEs are entries in memory, not registers: L2 under NPT. */
        uint64_t pdpte_memory : 1;
        /* Whose tables these are, when they are not a CPU's own paging. */
        uint64_t npt : 1;
        uint64_t ept : 1;
        uint64_t ept_ad : 1;
        uint64_t ept_execonly : 1;
        /* From the CPU model: they decide reserved bits. */
        uint64_t maxphyaddr : 6;
        uint64_t page1g : 1;
        uint64_t pse36 : 1;
        uint64_t amd_pml4e_bit8 : 1;
    };
} XmmuVcpuRole;

/*
 * What a table of ours is.  A table is what (gfn, page role) says and nothing
 * edits the role after it was computed: the word that a root or a child is
 * stored under is the word it is looked up under.
 */
typedef union XmmuPageRole {
    uint32_t word;
    struct {
        uint32_t level : 3;
        uint32_t direct : 1;    /* maps gfns linearly; no guest table behind it */
        uint32_t tdp : 1;       /* of a TDP tree, not a shadow table */
        uint32_t pae_root : 1;  /* four PDPTEs; private to a cached root */
        uint32_t gpte4 : 1;     /* guest entries have 4 bytes */
        uint32_t quadrant : 2;  /* which part of a 4-byte guest table */
        uint32_t access : 3;    /* XMMU_ACC_* that all levels above grant */
        uint32_t smm : 1;
        uint32_t guest_mode : 1;
        uint32_t lma : 1;       /* PAE and long mode reserve different bits */
        uint32_t nxe : 1;
        uint32_t ept : 1;       /* guest entries are EPT entries */
        uint32_t ept_ad : 1;    /* with A and D flags */
        uint32_t pse : 1;       /* gpte4 only */
        uint32_t wp : 1;
        uint32_t smep_andnot_wp : 1;
        uint32_t smap_andnot_wp : 1;
        uint32_t pk_andnot_wp : 1;
        uint32_t a20_masked : 1;
        uint32_t pkey : 4;      /* direct pages below a large guest page */
    };
} XmmuPageRole;

/* Which table of permissions: want (0 R, 1 W, 2 X), user, smap_off. */
#define XMMU_PERM_COUNT 12

static inline unsigned xmmu_perm_index(uint8_t want, bool user, bool smap_off)
{
    return (want >> 1) * 4 + user * 2 + smap_off;
}

/* Everything derived from a vCPU role. */
typedef struct XmmuMasks {
    const XmmuGuestFormat *guest;
    /* Bit n of an element: the access is allowed to a page of XMMU_ACC_* n. */
    uint8_t guest_perm[XMMU_PERM_COUNT];
    /* The same for shadow entries: hardware runs with CR0.WP=1. */
    uint8_t shadow_perm[XMMU_PERM_COUNT];
    /* Reserved bits of a guest entry, by level and by "is a leaf above 1". */
    uint64_t rsvd[XMMU_MAX_LEVEL + 1][2];
    uint64_t addr_mask;         /* of guest entries, 4-byte PSE36 aside */
    uint64_t root_mask;         /* of the register that names the first table */
    uint64_t gpa_mask;          /* A20 */
    uint64_t present;           /* of guest entries: any of these */
    uint64_t accessed, dirty;   /* of guest entries; 0: not kept */
    uint64_t bad_low;           /* bit n: reserved combination n of entry bits 5:0 */
    /*
     * Two bits for each xmmu_pkey_index(): which of AD and WD of the page's key
     * in PKRU (user pages) or PKRS (others) refuse the access.
     */
    uint32_t pkey_denies;
    uint8_t large_levels;       /* bit n: PS in a level-n entry means a page */
    bool fetch_in_pfec;         /* the I/D bit is reported */
    bool has_pkey;              /* leaves have a protection key */
    bool pdpte_registers;       /* level 3 is in XmmuRegs.pdpte */
    bool pdpte_memory;          /* level 3 has PDPTEs, but in memory */
} XmmuMasks;

/* Of a CPU's own paging. */
XmmuVcpuRole xmmu_vcpu_role(const XmmuCpuCaps *caps, const XmmuRegs *regs);
/* Of L2's own paging when its physical addresses are translated by NPT. */
XmmuVcpuRole xmmu_vcpu_role_l2_npt(const XmmuCpuCaps *caps, const XmmuRegs *regs);
/* Of L1's nested page tables: @regs are L1's, CR3 is the nested one. */
XmmuVcpuRole xmmu_vcpu_role_npt(const XmmuCpuCaps *caps, const XmmuRegs *regs);
/* Of L1's extended page tables: CR3 is the EPTP; no other register matters. */
XmmuVcpuRole xmmu_vcpu_role_ept(const XmmuCpuCaps *caps, const XmmuRegs *regs);
void xmmu_masks_compute(XmmuVcpuRole role, XmmuMasks *masks);

/* Page role of the root for a vCPU in @role. */
XmmuPageRole xmmu_root_role(const XmmuConfig *config, XmmuVcpuRole role);
/* Role of a table one level below @parent that shadows a guest table. */
XmmuPageRole xmmu_child_role_indirect(XmmuPageRole parent, unsigned index,
                                      uint8_t access);
/* Role of a table one level below @parent that maps frames linearly. */
XmmuPageRole xmmu_child_role_direct(XmmuPageRole parent, uint8_t access,
                                    uint8_t pkey);

static inline unsigned xmmu_pkey_index(uint8_t want, bool user, bool page_user)
{
    return (want >> 1) * 4 + user * 2 + page_user;
}

/* Does a protection key forbid the access to a page with @page_access and @pkey?
 * Intel SDM vol. 3, 4.6.2. */
static inline bool xmmu_pkey_denies(const XmmuMasks *masks, const XmmuRegs *regs,
                                    uint8_t want, bool user, uint8_t page_access,
                                    uint8_t pkey)
{
    bool page_user = page_access & XMMU_ACC_USER;
    uint32_t rights = (page_user ? regs->pkru : regs->pkrs) >> (pkey * 2);

    return rights & 3 &
           masks->pkey_denies >> (xmmu_pkey_index(want, user, page_user) * 2);
}

static inline bool xmmu_perm_allows(const uint8_t perm[XMMU_PERM_COUNT],
                                    uint8_t want, bool user, bool smap_off,
                                    uint8_t page_access)
{
    return perm[xmmu_perm_index(want, user, smap_off)] >> page_access & 1;
}

static inline unsigned xmmu_role_as(XmmuPageRole role)
{
    return role.smm ? XMMU_AS_SMM : XMMU_AS_NORMAL;
}

#endif /* XMMU_MMU_ROLE_H */
