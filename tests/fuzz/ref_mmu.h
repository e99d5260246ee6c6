/*
 * xmmu tests: a naive reference of x86 address translation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns: the answer that the manuals give to "what does this access do", for
 * the fuzzer and the unit tests to hold against the core.  Written from Intel
 * SDM vol. 3, chapter 4, and AMD APM vol. 2, chapter 5; shares no code and no
 * constant with the core.  It caches nothing and writes nothing: what the
 * processor would set (accessed and dirty flags) is reported, not done.
 *
 * Stale translations.  A processor may use an entry that has been overwritten
 * as long as no invalidation covered it (SDM 4.10.2.3).  The memory reader may
 * therefore offer several values for one entry; every path through them is
 * reported to a visitor, the path of current values first.
 */
#ifndef XMMU_TESTS_REF_MMU_H
#define XMMU_TESTS_REF_MMU_H

#include <stdbool.h>
#include <stdint.h>

enum { REF_READ = 1, REF_WRITE = 2, REF_FETCH = 4 };

/* What the CPU model has. */
typedef struct RefCaps {
    unsigned maxphyaddr;
    bool page1g, pse36, amd;
} RefCaps;

typedef struct RefRegs {
    uint64_t cr0, cr3, cr4, efer;
    uint32_t pkru, pkrs;
    bool a20_masked;
    uint64_t pdpte[4];
} RefRegs;

typedef struct RefAccess {
    uint64_t linear;
    unsigned kind;              /* one of REF_READ, REF_WRITE, REF_FETCH */
    bool user;                  /* a user-mode access */
    bool ac;                    /* explicit supervisor access, EFLAGS.AC = 1 */
} RefAccess;

/* A value that a table entry has, or had and may still be cached. */
typedef struct RefValue {
    uint64_t value;
    uint64_t until;             /* when it could be loaded last; 0: current value */
} RefValue;

#define REF_MAX_VALUES 12
#define REF_MAX_STEPS  5

typedef struct RefStep {
    uint64_t addr;              /* guest physical address of the entry */
    unsigned size;              /* 4 or 8 */
    uint64_t value;
    uint64_t until;
    uint64_t set;               /* A and D flags that this access sets there */
} RefStep;

/* How one path ends. */
typedef struct RefResult {
    bool fault;
    uint32_t error_code;        /* of #PF; CR2 is the linear address */
    uint64_t phys;              /* of the byte at access.linear */
    unsigned allowed;           /* REF_* set that the rights allow this mode */
    unsigned page_shift;        /* of the page that maps it; 32 without paging */
    bool dirty;                 /* leaf's D flag is or becomes 1 */
    unsigned steps;
    RefStep step[REF_MAX_STEPS];
    uint64_t oldest;            /* smallest nonzero until on the path, or 0 */
} RefResult;

/*
 * Values of the entry at @addr: the current one first (until = 0), then those
 * that may still be cached.  Returns how many, at least 1.
 */
typedef unsigned RefReadFn(void *opaque, uint64_t addr, unsigned size,
                           RefValue out[REF_MAX_VALUES]);

/* Return true to stop. */
typedef bool RefVisitFn(void *opaque, const RefResult *result);

typedef struct RefMmu {
    RefCaps caps;
    RefRegs regs;
    RefReadFn *read;
    void *opaque;
} RefMmu;

/* The translation by the current values. */
void ref_translate(const RefMmu *mmu, const RefAccess *access, RefResult *result);

/* All paths, current values first; true when @visit stopped it. */
bool ref_translate_all(const RefMmu *mmu, const RefAccess *access,
                       RefVisitFn *visit, void *opaque);

/* MOV to CR3 and others in PAE paging: true when the PDPTEs raise #GP(0). */
bool ref_pdptes_bad(const RefCaps *caps, const uint64_t pdpte[4]);

/* Levels of paging that the registers select: 0 (none), 2, 3, 4 or 5. */
unsigned ref_paging_levels(const RefRegs *regs);

#endif
