/*
 * xmmu soft engine: a model of the hardware's address translation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Walks the tables that the MMU core built, in their real encodings, sets their
 * accessed and dirty bits, and makes the exits that hardware would make; the
 * core handles them and the walk is retried.  Free of QEMU, so that unit tests
 * and fuzzers drive it as the soft engine does.
 *
 * With TDP the model walks the guest's tables (each access to them translated
 * by TDP) and then TDP: Intel SDM vol. 3, 29.3; AMD APM vol. 2, 15.25.  Without,
 * it walks the shadow tables only.  L2 under L1's nested paging is translated like a
 * guest with TDP; the second dimension are the tables that shadow L1's.
 *
 * "Host physical" addresses are host virtual addresses of this process.
 */
#ifndef XMMU_ENGINE_HW_MODEL_H
#define XMMU_ENGINE_HW_MODEL_H

#include "../mmu/mmu.h"

typedef enum XmmuHwOutcome {
    XMMU_HW_OK,                 /* RAM (or ROM read): gpa, hpa, prot are valid */
    XMMU_HW_DIRECT,             /* do this one access at gpa and cache nothing:
                                   MMIO, a ROM write, a tracked write */
    XMMU_HW_EXCEPTION,          /* exception is valid; no state changed but A bits */
    XMMU_HW_NESTED_EXIT,        /* the CPU leaves L2: exit is valid */
    XMMU_HW_NOMEM,              /* host memory for tables ran out */
    XMMU_HW_ASYNC,              /* the page is not here: do what async says */
    XMMU_HW_RING_FULL,          /* xmmu_vcpu_dirty_spill(), then the access again */
} XmmuHwOutcome;

typedef struct XmmuHwResult {
    XmmuHwOutcome outcome;
    gpa_t gpa;                  /* of the byte at access.gva */
    hpa_t hpa;                  /* OK only */
    uint8_t prot;               /* what may be cached for the same privilege (OK),
                                   or what the guest allows (DIRECT) */
    uint8_t page_shift;         /* size of the guest's page: INVLPG scope */
    bool mmio;                  /* DIRECT: no RAM there */
    XmmuException exception;
    union {
        XmmuNestedExit exit;    /* NESTED_EXIT */
        XmmuAsync async;        /* ASYNC */
    };
} XmmuHwResult;

/*
 * Translate one access of @size bytes that does not cross a page.  Enters and
 * leaves an RCU read section.  @size 0 means unknown (treated as 8).
 */
void xmmu_hw_translate(XmmuVcpu *vcpu, const XmmuAccess *access, unsigned size,
                       XmmuHwResult *result);

/*
 * Translate a guest physical address (a physical access of the CPU itself: page
 * tables, SMM save state, VMCB).  tdp=off: the slots decide; tdp=on: through TDP.
 */
void xmmu_hw_translate_gpa(XmmuVcpu *vcpu, gpa_t gpa, uint8_t want, unsigned size,
                           XmmuHwResult *result);

/*
 * Translate without side effects for a debugger: guest A/D bits are not set and
 * no guest permission is checked (Present only).  False when not mapped.
 */
bool xmmu_hw_translate_debug(XmmuVcpu *vcpu, gva_t gva, gpa_t *gpa);

#endif /* XMMU_ENGINE_HW_MODEL_H */
