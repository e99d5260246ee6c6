/*
 * xmmu soft engine: the model's TLB for guest physical addresses
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what a vCPU of the hardware model remembers of TDP translations, as a CPU
 * does (AMD APM vol. 2, 15.25.7: the nested TLB; Intel SDM vol. 3, 29.4.2:
 * guest-physical mappings).  In two-dimensional paging each step of a guest walk
 * is such a translation, so nearly all of a TLB miss's work is here.
 *
 * An entry is good while no TDP entry has lost a right since it was made: the
 * writer of entries counts such losses in XmmuVm.rights_lost.  The count is read
 * before the tables are, so an entry that was made from a value that is gone
 * carries a count that is gone too.  Gaining a right needs nothing, a miss finds it.
 *
 * Only the vCPU's thread calls these.
 */
#ifndef XMMU_ENGINE_NESTED_TLB_H
#define XMMU_ENGINE_NESTED_TLB_H

#include <string.h>
#include "../mmu/types.h"

#define XMMU_NESTED_TLB_SIZE 256

typedef struct XmmuNestedTlbEntry {
    uint64_t tag;               /* 0: empty */
    uint64_t page;              /* host address, XMMU_PROT_* in the low bits */
} XmmuNestedTlbEntry;

typedef struct XmmuNestedTlb {
    uint64_t rights_lost;       /* XmmuVm's, when the entries were made */
    XmmuNestedTlbEntry entry[XMMU_NESTED_TLB_SIZE];
} XmmuNestedTlb;

/* Pages of 4 KiB, and of 2 MiB (which stand for larger ones too). */
static inline uint64_t xmmu_nested_tlb_tag(gpa_t gpa, unsigned shift, bool smm)
{
    return gpa >> shift << 3 | (shift == 21) << 2 | smm << 1 | 1;
}

static inline XmmuNestedTlbEntry *xmmu_nested_tlb_slot(XmmuNestedTlb *tlb, gpa_t gpa,
                                                       unsigned shift)
{
    return &tlb->entry[(gpa >> shift) % XMMU_NESTED_TLB_SIZE];
}

/* Drop everything: the addresses mean something else from now on. */
static inline void xmmu_nested_tlb_forget(XmmuNestedTlb *tlb)
{
    tlb->rights_lost = UINT64_MAX;
}

/* Before the first use in a translation: drop what may be stale.  False: it was. */
static inline bool xmmu_nested_tlb_validate(XmmuNestedTlb *tlb, const uint64_t *lost)
{
    uint64_t now = __atomic_load_n(lost, __ATOMIC_ACQUIRE);

    if (tlb->rights_lost == now) {
        return true;
    }
    memset(tlb->entry, 0, sizeof(tlb->entry));
    tlb->rights_lost = now;
    return false;
}

/* The host page of @gpa and its rights; 0: not known. */
static inline uint64_t xmmu_nested_tlb_find(XmmuNestedTlb *tlb, gpa_t gpa, bool smm)
{
    XmmuNestedTlbEntry *entry = xmmu_nested_tlb_slot(tlb, gpa, 21);

    if (entry->tag == xmmu_nested_tlb_tag(gpa, 21, smm)) {
        return entry->page + (gpa & 0x1ff000);
    }
    entry = xmmu_nested_tlb_slot(tlb, gpa, XMMU_PAGE_SHIFT);
    return entry->tag == xmmu_nested_tlb_tag(gpa, XMMU_PAGE_SHIFT, smm)
           ? entry->page : 0;
}

/*
 * @hpa: the host address of @gpa's 4 KiB page; @level: of the leaf that maps it.
 *
 * A leaf may have been split since it was remembered.  That takes no right away, but
 * the small leaf may have one more (execution), and the large entry would hide it.
 */
static inline void xmmu_nested_tlb_insert(XmmuNestedTlb *tlb, gpa_t gpa, bool smm,
                                          int level, hpa_t hpa, uint8_t prot)
{
    unsigned shift = level == XMMU_LEVEL_4K ? XMMU_PAGE_SHIFT : 21;
    hpa_t offset = gpa & (((gpa_t)1 << shift) - 1) & XMMU_PAGE_MASK;
    XmmuNestedTlbEntry *large = xmmu_nested_tlb_slot(tlb, gpa, 21);

    if (shift != 21 && large->tag == xmmu_nested_tlb_tag(gpa, 21, smm)) {
        large->tag = 0;
    }
    *xmmu_nested_tlb_slot(tlb, gpa, shift) = (XmmuNestedTlbEntry) {
        .tag = xmmu_nested_tlb_tag(gpa, shift, smm),
        .page = (hpa - offset) | prot,
    };
}

#endif /* XMMU_ENGINE_NESTED_TLB_H */
