/*
 * xmmu fuzz: the comparison with the reference
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the verdict on a translation.  A fault must be the one that the tables in
 * memory give now.  A translation may also come from values that were overwritten,
 * if they were there while the PCID was the current one, and no flush of that address
 * came after (Intel SDM vol. 3, 4.10.2, 4.10.4).
 * The accessed and dirty flags in memory must be those of the path.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fuzz.h"

unsigned fz_as(const Cpu *cpu)
{
    return cpu->regs.smm ? XMMU_AS_SMM : XMMU_AS_NORMAL;
}

static unsigned view_read(void *opaque, uint64_t addr, unsigned size, RefValue *out)
{
    View *v = opaque;

    return world_values(&v->f->world, fz_as(v->cpu), addr, size, v->spans, out,
                        &v->lost);
}

RefMmu fz_ref_of(const Fuzz *f, const Cpu *cpu, View *view)
{
    const XmmuRegs *r = &cpu->regs;
    RefMmu mmu = {
        .caps = {
            .maxphyaddr = f->caps.maxphyaddr, .page1g = f->caps.page1g,
            .pse36 = f->caps.pse36, .amd = f->caps.amd_pml4e_bit8,
        },
        .regs = {
            .cr0 = r->cr0, .cr3 = r->cr3, .cr4 = r->cr4, .efer = r->efer,
            .pkru = r->pkru, .pkrs = r->pkrs, .a20_masked = r->a20_masked,
        },
        .read = view_read,
        .opaque = view,
    };

    memcpy(mmu.regs.pdpte, r->pdpte, sizeof(r->pdpte));
    return mmu;
}

unsigned fz_levels(const Cpu *cpu)
{
    RefRegs r = { .cr0 = cpu->regs.cr0, .cr4 = cpu->regs.cr4, .efer = cpu->regs.efer };

    return ref_paging_levels(&r);
}

RefAccess fz_ref_access(const XmmuAccess *a)
{
    RefAccess r = { .linear = a->gva, .user = a->user, .ac = a->smap_off };

    r.kind = a->want == XMMU_PROT_READ ? REF_READ
           : a->want == XMMU_PROT_WRITE ? REF_WRITE : REF_FETCH;
    return r;
}

/* ---- Comparison ------------------------------------------------------------ */

/* When the leaf could be loaded last, if it is a value of the past that says global. */
static uint64_t global_until(const Cpu *cpu, const RefResult *r)
{
    const RefStep *leaf = &r->step[r->steps - 1];
    bool global = (cpu->regs.cr4 & XMMU_CR4_PGE) && (leaf->value & 0x100);

    return global ? leaf->until : 0;
}

/*
 * May the processor still hold this translation, or what it was made of?  INVLPG and
 * INVPCID cover the page that maps the address and all upper entries of the PCID;
 * INVLPG covers global translations of every PCID (4.10.4.1).
 */
static bool still_cached(const Cpu *cpu, gva_t gva, const RefResult *r)
{
    uint64_t global = global_until(cpu, r);

    for (unsigned i = 0; i < cpu->invlpg_count && r->oldest; i++) {
        uint64_t when = cpu->invlpg[i].when;

        if ((cpu->invlpg[i].gva ^ gva) >> r->page_shift) {
            continue;
        }
        if ((cpu->invlpg[i].pcid == cpu->pcid && when >= r->oldest) ||
            (cpu->invlpg[i].globals && global && when >= global)) {
            return false;
        }
    }
    return true;
}

/* Could the processor set a D flag in the leaf? */
static bool leaf_settable(View *v, const RefResult *r)
{
    bool writable;

    return r->steps &&
           world_host(&v->f->world, fz_as(v->cpu), r->step[r->steps - 1].addr,
                      &writable) && writable;
}

static bool result_matches(View *v, const RefResult *r)
{
    const XmmuHwResult *got = v->got;

    if (r->fault || got->gpa != r->phys || (got->prot & ~r->allowed) ||
        !(got->prot & v->access->want)) {
        return false;
    }
    /* Leave to write may be kept only when D needs no setting any more. */
    return !(got->prot & XMMU_PROT_WRITE) || r->dirty ||
           got->outcome == XMMU_HW_DIRECT || !leaf_settable(v, r);
}

static bool view_visit(void *opaque, const RefResult *r)
{
    View *v = opaque;

    if (!v->have_now) {
        v->have_now = true;
        v->now = *r;
        v->matched = v->got->outcome <= XMMU_HW_DIRECT && result_matches(v, r);
        return false;
    }
    if (r->fault || !still_cached(v->cpu, v->access->gva, r)) {
        return false;
    }
    v->alternatives = true;
    for (unsigned i = 0; i < r->steps && v->extras < MAX_EXTRA; i++) {
        v->f->extra[v->extras++] = r->step[i];
    }
    v->matched |= v->got->outcome <= XMMU_HW_DIRECT && result_matches(v, r);
    return false;
}

/* Flags that were set on a path that is cached. */
static void absorb_extra(View *v)
{
    World *w = &v->f->world;

    for (unsigned i = 0; i < v->extras; i++) {
        const RefStep *step = &v->f->extra[i];
        bool writable;
        uint8_t *mem = world_host(w, fz_as(v->cpu), step->addr, &writable);
        uint64_t actual = 0;

        if (mem && writable && world_pool_index(w, mem) >= 0) {
            memcpy(&actual, mem, step->size);
            world_expect_set(w, mem, step->size, actual & step->set);
        }
    }
}

/* The flags that the core set on the path of current values. */
static void check_flags(View *v, bool exact)
{
    World *w = &v->f->world;
    const RefResult *now = &v->now;

    absorb_extra(v);
    if (v->lost) {
        /* The path may have been one that nobody knows any more. */
        world_absorb_flags(w);
    }
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < now->steps; i++) {
            const RefStep *step = &now->step[i];
            bool writable;
            uint8_t *mem = world_host(w, fz_as(v->cpu), step->addr, &writable);
            uint64_t actual = 0, allowed;

            if (!mem || !writable || world_pool_index(w, mem) < 0) {
                continue;
            }
            memcpy(&actual, mem, step->size);
            allowed = now->fault ? 0x20 : step->set;
            if (pass == 0) {
                world_expect_set(w, mem, step->size,
                                 exact ? allowed : allowed & actual);
            } else if (actual != world_expected(w, mem, step->size)) {
                fprintf(stderr, "entry at %#" PRIx64 " is %#" PRIx64 ", expected %#" PRIx64
                        "\n", step->addr, actual, world_expected(w, mem, step->size));
                fz_differ(v, "accessed or dirty flags");
            }
        }
    }
}

static void check_exception(View *v)
{
    const XmmuException *e = &v->got->exception;

    if (!v->now.fault) {
        fz_differ(v, "the core faults");
    }
    if (e->vector != XMMU_EXC_PF) {
        fz_differ(v, "vector");
    }
    if (e->error_code != v->now.error_code) {
        fz_differ(v, "error code");
    }
    if (e->cr2 != v->access->gva) {
        fz_differ(v, "CR2");
    }
}

/* A table in a hole may change at any time: then nothing need be cached. */
static bool table_in_hole(View *v)
{
    bool writable;

    for (unsigned i = 0; i < v->now.steps; i++) {
        if (!world_host(&v->f->world, fz_as(v->cpu), v->now.step[i].addr, &writable)) {
            return true;
        }
    }
    return v->alternatives;
}

static void check_place(View *v)
{
    const XmmuHwResult *got = v->got;
    bool writable = false;
    uint8_t *mem = world_host(&v->f->world, fz_as(v->cpu), got->gpa, &writable);

    if (got->outcome == XMMU_HW_OK) {
        if ((hpa_t)(uintptr_t)mem != got->hpa) {
            fz_differ(v, "host address");
        }
        if ((got->prot & XMMU_PROT_WRITE) && !writable) {
            fz_differ(v, "leave to write ROM");
        }
        return;
    }
    if (!mem) {
        if (!got->mmio) {
            fz_differ(v, "a hole is not MMIO");
        }
    } else if (!v->f->config.tdp && table_in_hole(v)) {
        return;
    } else if (v->access->want != XMMU_PROT_WRITE) {
        fz_differ(v, "a read of memory is not cacheable");
    } else if (writable && (got->mmio || v->f->config.tdp)) {
        fz_differ(v, "a write to RAM is not cacheable");
    }
}

static void note_hot(View *v)
{
    Fuzz *f = v->f;

    for (unsigned i = 0; i < v->now.steps; i++) {
        /* Where staleness is looked for: mostly the leaves, for only tables of level 1
         * may be out of sync, and what is cached. */
        if (f->switching &&
            (v->now.fault || (i + 1 < v->now.steps && (f->op + i) % 4))) {
            continue;
        }
        f->hot[f->hot_next++ % HOT] = (HotEntry) {
            .gpa = v->now.step[i].addr, .size = v->now.step[i].size,
            .as_id = fz_as(v->cpu),
        };
    }
}

void fz_check_result(Fuzz *f, Cpu *cpu, const XmmuAccess *access,
                         const XmmuHwResult *got, bool from_tlb)
{
    View v = {
        .f = f, .cpu = cpu, .access = access, .got = got, .spans = &cpu->current[cpu->pcid],
    };
    RefMmu mmu = fz_ref_of(f, cpu, &v);
    RefAccess ref = fz_ref_access(access);

    ref_translate_all(&mmu, &ref, view_visit, &v);
    note_hot(&v);
    if (f->limits->trace) {
        fflush(stdout);
        fz_print_result("reference", &v.now);
    }
    if (got->outcome == XMMU_HW_NOMEM) {
        fz_differ(&v, "no memory");
    }
    f->by_hole = table_in_hole(&v);
    if (got->outcome == XMMU_HW_EXCEPTION) {
        f->count->faults++;
        check_exception(&v);
        check_flags(&v, false);
        return;
    }
    f->count->ok += got->outcome == XMMU_HW_OK;
    f->count->direct += got->outcome == XMMU_HW_DIRECT;
    if (!v.matched) {
        if (!v.lost) {
            fz_differ(&v, v.alternatives ? "no translation that was ever right"
                                      : "translation");
        }
        f->count->unknown++;
    } else {
        f->count->stale += v.now.fault || !result_matches(&v, &v.now);
    }
    check_place(&v);
    if (!from_tlb) {
        check_flags(&v, !v.alternatives && !v.lost);
    }
}
