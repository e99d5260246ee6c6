/*
 * xmmu: the checker
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * In a checker build (meson option `check`, -DXMMU_CHECK) a model runs beside the
 * core: which table pages live, what their entries were last set to, what each vCPU
 * may still have cached, which flushes are owed.  Where the core and the model part,
 * the process stops with a report.  The core's files call these hooks at the few
 * places where something of it changes; without XMMU_CHECK they are nothing.
 *
 * check.c has the table pages and their entries, check_vcpu.c what vCPUs do and hold.
 */
#ifndef XMMU_MMU_CHECK_H
#define XMMU_MMU_CHECK_H

#include "lock.h"
#include "mmu.h"
#include "spte.h"

typedef struct XmmuCheck XmmuCheck;
typedef struct XmmuCheckVcpu XmmuCheckVcpu;

#ifdef XMMU_CHECK
#define XMMU_CHECK_HOOK(name, ...) void name(__VA_ARGS__);
#else
#define XMMU_CHECK_HOOK(name, ...) \
    static inline void __attribute__((unused)) name(__VA_ARGS__) { }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif

/* ---- Life: mmu.c, table.c ---- */
XMMU_CHECK_HOOK(xmmu_check_vm_new, XmmuVm *vm)
/* No table may be left. */
XMMU_CHECK_HOOK(xmmu_check_vm_free, XmmuVm *vm)
XMMU_CHECK_HOOK(xmmu_check_vcpu_new, XmmuVcpu *vcpu)
XMMU_CHECK_HOOK(xmmu_check_vcpu_free, XmmuVcpu *vcpu)
XMMU_CHECK_HOOK(xmmu_check_table_new, XmmuTable *table)
/* It never was linked. */
XMMU_CHECK_HOOK(xmmu_check_table_discarded, XmmuTable *table)
/* Nothing leads to it any more; a walk that began before may still read it. */
XMMU_CHECK_HOOK(xmmu_check_table_released, XmmuTable *table)
/* Its page may be used again. */
XMMU_CHECK_HOOK(xmmu_check_table_reclaimed, XmmuTable *table)

/* ---- The one writer: table.c ---- */
/* Around the atomic operation that changes an entry. */
XMMU_CHECK_HOOK(xmmu_check_write_begin, XmmuTable *table)
XMMU_CHECK_HOOK(xmmu_check_write_end, XmmuTable *table, unsigned index, XmmuSpte old,
                XmmuSpte new, bool changed)
/* What depends on this thread's last change, of this entry, has been told: from now on
 * caches must not give what was there. */
XMMU_CHECK_HOOK(xmmu_check_accounted, XmmuHold *hold, XmmuTable *table, unsigned index)

/* ---- Flushes: flush.c ---- */
/* All vCPUs are ordered to flush. */
XMMU_CHECK_HOOK(xmmu_check_ordered, XmmuVm *vm)
/* All tables were given up at once: every vCPU must forget what they said. */
XMMU_CHECK_HOOK(xmmu_check_invalidated, XmmuHold *hold)
/* @hold says that it owes nothing any more. */
XMMU_CHECK_HOOK(xmmu_check_paid, XmmuHold *hold)
/* A change of the memory map is complete: nor do its slices. */
XMMU_CHECK_HOOK(xmmu_check_map_changed, XmmuVm *vm)

/* ---- What a vCPU does: hw_model.c, mmu.c ---- */
/* Inside the RCU read section that covers the walk. */
XMMU_CHECK_HOOK(xmmu_check_walk_begin, XmmuVcpu *vcpu)
XMMU_CHECK_HOOK(xmmu_check_walk_end, XmmuVcpu *vcpu)
/* The walk is about to read this entry. */
XMMU_CHECK_HOOK(xmmu_check_read, XmmuVcpu *vcpu, const XmmuSpte *sptep)
/* The nested TLB keeps what the entry @sptep says of @gpa, or gives it. */
XMMU_CHECK_HOOK(xmmu_check_nested_filled, XmmuVcpu *vcpu, gpa_t gpa, int level,
                const XmmuSpte *sptep)
XMMU_CHECK_HOOK(xmmu_check_nested_hit, XmmuVcpu *vcpu, gpa_t gpa, bool smm)
/* @prot of @gva was given away: it may be cached until the vCPU flushes. */
XMMU_CHECK_HOOK(xmmu_check_translated, XmmuVcpu *vcpu, const XmmuAccess *access,
                hpa_t hpa, uint8_t prot, uint8_t page_shift)
/* For engines and tests that keep translations themselves: one is used. */
XMMU_CHECK_HOOK(xmmu_check_used, XmmuVcpu *vcpu, const XmmuAccess *access, hpa_t hpa,
                uint8_t prot)
/* The vCPU has nothing cached. */
XMMU_CHECK_HOOK(xmmu_check_flushed, XmmuVcpu *vcpu)
/* The guest flushed the page of @gva. */
XMMU_CHECK_HOOK(xmmu_check_invlpg, XmmuVcpu *vcpu, gva_t gva)

/* ---- Write protection: sync.c, shadow.c ---- */
/* @table counts as equal to the guest's: no vCPU may be able to write there. */
XMMU_CHECK_HOOK(xmmu_check_synced, XmmuTable *table)
XMMU_CHECK_HOOK(xmmu_check_unsynced, XmmuTable *table)

#ifndef XMMU_CHECK
#pragma GCC diagnostic pop
#endif

#endif /* XMMU_MMU_CHECK_H */
