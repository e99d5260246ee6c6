/*
 * xmmu fuzz: what a run of the MMU fuzzer is made of
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Shared by the entries for fuzzing engines (target_*.c) and the stand-alone driver
 * (fuzz_main.c).  A run is in run.c, what it is made of in the files that fuzz.h
 * lists.
 */
#ifndef XMMU_FUZZ_MMU_H
#define XMMU_FUZZ_MMU_H

#include "world.h"

/* Things a run may do; the driver's --without takes them away for triage. */
#define FUZZ_FEATURES(X) \
    X(SLOTS,  "slots",  "change the memory layout") \
    X(SMM,    "smm",    "enter and leave SMM") \
    X(A20,    "a20",    "toggle the A20 gate") \
    X(REGS,   "regs",   "change the paging mode and control bits") \
    X(HOLES,  "holes",  "let holes answer with entries") \
    X(WRITES, "writes", "write through the vCPU's own mappings") \
    X(LAX,    "lax",    "leave out flushes after table writes") \
    X(PCID,   "pcid",   "use PCIDs, CR3 loads without a flush, INVPCID") \
    X(RACES,  "races",  "let others run between a translation and its store") \
    X(LIMIT,  "limit",  "limit the number of tables") \
    X(LARGE,  "large",  "use large pages in our tables") \
    X(LOG,    "log",    "log writes") \
    X(RARE,   "rare",   "zap, reset, debugger reads, re-created vCPUs")

enum {
#define X(name, option, text) FUZZ_BIT_##name,
    FUZZ_FEATURES(X)
#undef X
    FUZZ_BITS,
};
enum {
#define X(name, option, text) FUZZ_##name = 1 << FUZZ_BIT_##name,
    FUZZ_FEATURES(X)
#undef X
    FUZZ_EVERYTHING = (1 << FUZZ_BITS) - 1,
};

enum {
    FUZZ_SHADOW = 1, FUZZ_NPT = 2, FUZZ_EPT = 4, FUZZ_ALL_PAGING = 7,
};

/* Guest paging modes, as a set of 1 << levels (0 = no paging). */
#define FUZZ_ALL_MODES  ((1 << 0) | (1 << 2) | (1 << 3) | (1 << 4) | (1 << 5))

/* What a run has: one vCPU; or two whose operations interleave, and mostly a third
 * that writes physical memory. */
typedef enum FuzzTarget {
    FUZZ_SINGLE,
    FUZZ_SMP,
} FuzzTarget;

typedef struct FuzzLimits {
    FuzzTarget target;
    unsigned features;          /* FUZZ_* */
    unsigned paging;            /* FUZZ_SHADOW | FUZZ_NPT | FUZZ_EPT */
    unsigned modes;
    bool trace;
} FuzzLimits;

typedef struct FuzzCount {
    uint64_t ops, accesses, tlb_hits, ok, direct, faults, stale, unknown, writes;
    uint64_t by_levels[6];
} FuzzCount;

/*
 * One life of a VM: about @ops operations, or until @source is dry.  A
 * difference is printed and aborts.
 */
void fuzz_run(Source *source, uint64_t seed, unsigned ops,
              const FuzzLimits *limits, FuzzCount *count);

/* A fuzzing engine's input, as a run; returns 0. */
int fuzz_input(const uint8_t *data, size_t size, FuzzTarget target);

#endif
