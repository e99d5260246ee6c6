/*
 * xmmu unit tests: a VM to test with
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what every test needs around the core: guest memory, the services (with
 * an RCU that ThreadSanitizer understands), builders of guest tables for every
 * paging mode, and short ways to do an access as the soft engine does it.
 */
#ifndef XMMU_UNIT_FIXTURE_H
#define XMMU_UNIT_FIXTURE_H

#include <glib.h>

#include "../../accel/xmmu/engine/hw_model.h"
#include "../../accel/xmmu/engine/native_mirror.h"

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

/* Guest table entries. */
#define PTE_P       ((uint64_t)1 << 0)
#define PTE_W       ((uint64_t)1 << 1)
#define PTE_U       ((uint64_t)1 << 2)
#define PTE_A       ((uint64_t)1 << 5)
#define PTE_D       ((uint64_t)1 << 6)
#define PTE_PS      ((uint64_t)1 << 7)
#define PTE_G       ((uint64_t)1 << 8)
#define PTE_NX      ((uint64_t)1 << 63)
#define PTE_PK(n)   ((uint64_t)(n) << 59)
#define PTE_PWU     (PTE_P | PTE_W | PTE_U)

/* Paging modes by levels; 0: no paging. */
enum { MODE_NONE = 0, MODE_32 = 2, MODE_PAE = 3, MODE_4L = 4, MODE_5L = 5 };

/* Access flags beside XMMU_PROT_*. */
enum { ACC_USER = 8, ACC_AC = 16 };

#define FIXTURE_CPUS 4

typedef struct Fixture {
    XmmuConfig config;
    XmmuCpuCaps caps;
    XmmuVm *vm;
    XmmuVcpu *vcpu;             /* == cpus[0] */
    XmmuVcpu *cpus[FIXTURE_CPUS];
    XmmuRegs regs[FIXTURE_CPUS];
    uint8_t *ram;               /* gpa 0 .. ram_size, 1 GiB aligned */
    uint64_t ram_size;
    gpa_t next_page;            /* fixture_page() takes from here */
    int flushes;                /* flush_all calls; atomic */
    int nudged[FIXTURE_CPUS];   /* flush_vcpu calls that were not obeyed; atomic */
    int bus_reads, written;     /* atomic */
    uint64_t bus_value;
    int allocations;            /* of the core so far; atomic */
    int fail_from, fail_to;     /* those of this range fail; 0..0: none */
    XmmuDirtyFn *dropped;       /* takes what dirty_dropped tells; NULL: nobody */
    void *dropped_opaque;
    XmmuMirror *mirror;         /* of the native engine; NULL: none, see native.h */
    void *native;               /* then: the Native */
    XmmuHwResult last;
} Fixture;

/* What the core is given; opaque is a Fixture. */
extern const XmmuServices fixture_services;

/* The default: tdp=on, NPT, 4 levels, large pages, 3 previous roots. */
XmmuConfig fixture_config(void);
XmmuConfig fixture_shadow_config(void);

/* A VM with RAM at 0 in both address spaces, and one vCPU without paging. */
Fixture *fixture_new(const XmmuConfig *config, uint64_t ram_size);
Fixture *fixture_new_caps(const XmmuConfig *config, uint64_t ram_size,
                          const XmmuCpuCaps *caps);
XmmuVcpu *fixture_add_cpu(Fixture *fx, unsigned index);
/* Checks that no table is left. */
void fixture_free(Fixture *fx);

/* Add a test for each mode of shadow paging that pages: PATH/2-level and so on. */
void fixture_add_modes(const char *path, GTestDataFunc check);
/*
 * How large the steps of exhaustive loops are: 1, or XMMU_TEST_STRIDE from the
 * environment, for builds that are many times slower and are after something else.
 */
unsigned fixture_stride(void);
/* The next of a series of numbers; @state is not 0. */
uint64_t fixture_random(uint64_t *state);

/* ---- Memory, from the host's side (nothing is tracked) ---- */

uint64_t fixture_read(const Fixture *fx, gpa_t gpa, unsigned size);
void fixture_write(Fixture *fx, gpa_t gpa, uint64_t value, unsigned size);
/* A fresh zeroed page; from 1 MiB up. */
gpa_t fixture_page(Fixture *fx);

/* ---- Guest tables ---- */

/* Registers for @levels with the given root; WP and NXE set. */
XmmuRegs fixture_regs(unsigned levels, gpa_t root);
/* Take registers over; with a flush, as after MOV to CR3. */
void fixture_set(Fixture *fx, unsigned cpu, const XmmuRegs *regs);
/* Load PDPTEs from memory as MOV to CR3 does, then take over. */
void fixture_load(Fixture *fx, unsigned cpu, XmmuRegs regs);
/* False: the PDPTEs are such that it faults. */
bool fixture_try_load(Fixture *fx, unsigned cpu, XmmuRegs regs);

/* Address of the entry for @gva at @level; tables above are built with P, W and
 * U when absent. */
gpa_t fixture_entry(Fixture *fx, const XmmuRegs *regs, gva_t gva, int level);
/* Write the entry for @gva at @level. */
void fixture_map(Fixture *fx, const XmmuRegs *regs, gva_t gva, uint64_t entry,
                 int level);
unsigned fixture_entry_size(const XmmuRegs *regs);
unsigned fixture_levels(const XmmuRegs *regs);

/* ---- A guest under shadow paging that writes its own tables ---- */

#define FIXTURE_GUEST_RAM   MIB(32)
/* The supervisor sees all RAM here, through large pages. */
#define FIXTURE_WINDOW      0x40000000ull

/* A VM with shadow paging, and registers for @mode with an empty root table. */
Fixture *fixture_new_guest(unsigned mode, XmmuRegs *regs);
void fixture_map_window(Fixture *fx, const XmmuRegs *regs);
/* vCPU 0 stores a guest entry at @gpa through the window. */
void fixture_guest_write(Fixture *fx, const XmmuRegs *regs, gpa_t gpa, uint64_t value);

/* ---- Accesses ---- */

/* @how: one XMMU_PROT_* and ACC_* flags. */
XmmuHwResult fixture_access(Fixture *fx, unsigned cpu, gva_t gva, unsigned how);
XmmuHwResult fixture_access_size(Fixture *fx, unsigned cpu, gva_t gva, unsigned how,
                                 unsigned size);
/* A guest store: translated, then done at the result. */
void fixture_store(Fixture *fx, unsigned cpu, gva_t gva, uint64_t value,
                   unsigned size);

/* Shorthands on vCPU 0 that check. */
void fixture_expect_ok(Fixture *fx, gva_t gva, unsigned how, gpa_t gpa);
void fixture_expect_fault(Fixture *fx, gva_t gva, unsigned how, uint32_t error_code);

XmmuStats fixture_stats(Fixture *fx);

/* ---- What the guest wrote ---- */

typedef struct FixtureLog {
    Fixture *fx;
    uint8_t page[MIB(32) >> XMMU_PAGE_SHIFT];   /* 1: told; fx has no more RAM than that */
    unsigned count;
} FixtureLog;

/* An XmmuDirtyFn; @opaque: the log. */
void fixture_logged(void *opaque, hpa_t hpa, const uint64_t *bits);
/* What was written since the last time. */
FixtureLog fixture_take_log(Fixture *fx);

/* Ways to log: each, with both formats of two dimensions and with shadow paging. */
typedef struct FixtureLogMode {
    const char *name;
    bool tdp;
    XmmuTdpFormat format;
    XmmuDirtyLog log;
} FixtureLogMode;

#define FIXTURE_LOG_MODES 9
extern const FixtureLogMode fixture_log_modes[FIXTURE_LOG_MODES];
/* @ring: entries of a ring. */
XmmuConfig fixture_log_config(const FixtureLogMode *mode, unsigned ring);

/* ---- Our tables, raw ---- */

/* Entry of our tables for @frame at @level below @root, or 0. */
uint64_t fixture_raw(const Fixture *fx, hpa_t root, int root_level, uint64_t frame,
                     int level);
hpa_t fixture_root(Fixture *fx, unsigned cpu);

/* ---- RCU ---- */

void rcu_service_lock(void);
void rcu_service_unlock(void);
void rcu_service_call(XmmuRcuHead *head, void (*fn)(XmmuRcuHead *head));
/* Wait for readers and run the callbacks that were queued so far. */
void rcu_service_drain(void);

#endif
