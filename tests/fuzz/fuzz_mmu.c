/*
 * xmmu fuzz: the MMU against the manuals
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns a run: a VM with one or two vCPUs and a third that writes physical
 * memory, guest tables that alias each other, and random operations.  The
 * vCPUs are driven as the soft engine drives them: results that may be cached
 * are kept in a software TLB until the core orders a flush or the guest flushes,
 * guest writes go through a translation for writing, and an access that may not
 * be cached is done by hand.  Every translation is compared with the reference.
 *
 * What is allowed: a fault must be the one that the tables in memory give now.
 * A translation may also come from values that were overwritten, as long as no
 * flush of that address came after (Intel SDM vol. 3, 4.10.2, 4.10.4).
 */
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../accel/xmmu/engine/hw_model.h"
#include "fuzz_mmu.h"

#define TLB_SIZE        64
#define INVLPG_LOG      32
#define RECENT          16
#define MAX_EXTRA       200
#define MAX_CPUS        3       /* the last one is the writer */

#define GIB             ((uint64_t)1 << 30)

typedef struct TlbEntry {
    bool valid;
    uint64_t page;              /* gva >> 12 */
    uint8_t page_shift, prot;
    bool mmio;
    bool by_hole;               /* a table on the way is in a hole */
    gpa_t gpa;                  /* of the page */
    hpa_t hpa;
} TlbEntry;

enum { TLB_USER, TLB_KERNEL, TLB_KERNEL_AC, TLB_MODES };

typedef struct Cpu {
    XmmuVcpu *vcpu;
    unsigned index;
    XmmuRegs regs;
    uint64_t flushed;           /* World.now of the last full guest flush */
    unsigned invlpg_count;
    struct {
        gva_t gva;
        uint64_t when;
    } invlpg[INVLPG_LOG];
    gva_t recent[RECENT];
    unsigned slot;              /* of recent[] that was last used */
    bool dropped;               /* the TLB was dropped for the core: tell it */
    bool nudged;                /* the core asks to drop it */
    TlbEntry tlb[TLB_MODES][TLB_SIZE];
} Cpu;

/* A store that was translated and has not happened yet: its vCPU is in the middle
 * of an instruction while others go on. */
typedef struct Pending {
    Cpu *cpu;                   /* NULL: none */
    XmmuHwResult result;
    uint64_t data[8];
    unsigned size, ops_left;
} Pending;

typedef struct Fuzz {
    World world;
    Pending pending;
    Source *s;
    const FuzzLimits *limits;
    FuzzCount *count;
    uint64_t seed;
    unsigned op;
    XmmuConfig config;
    XmmuCpuCaps caps;
    XmmuVm *vm;
    Cpu cpus[MAX_CPUS];
    unsigned cpu_count;         /* without the writer */
    RefStep extra[MAX_EXTRA];
    bool by_hole;               /* of the last translation */
    bool restless;              /* roles change all the time */
    bool calm;                  /* few changes, so that TLBs live long */
    unsigned writer_flushes;    /* percent of the writer's writes */
    unsigned flush_percent;     /* how often a table write is followed by a flush */
} Fuzz;

static void fz_trace(const Fuzz *f, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void fz_trace(const Fuzz *f, const char *format, ...)
{
    va_list ap;

    if (!f->limits->trace) {
        return;
    }
    printf("%5u ", f->op);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
}

/* ---- Services ------------------------------------------------------------ */

static void tlb_drop(Cpu *cpu)
{
    for (int mode = 0; mode < TLB_MODES; mode++) {
        for (int i = 0; i < TLB_SIZE; i++) {
            cpu->tlb[mode][i].valid = false;
        }
    }
}

static void service_flush_all(void *opaque)
{
    Fuzz *f = opaque;

    fz_trace(f, "  core: flush all");
    for (unsigned i = 0; i <= f->cpu_count; i++) {
        tlb_drop(&f->cpus[i]);
        f->cpus[i].dropped = true;
    }
}

static void service_flush_vcpu(void *opaque, unsigned index)
{
    Fuzz *f = opaque;

    fz_trace(f, "  core: asks vCPU %u to flush", index);
    f->cpus[index].nudged = true;
}

static uint64_t service_read_bus(void *opaque, unsigned as_id, gpa_t gpa,
                                 unsigned size)
{
    Fuzz *f = opaque;
    bool writable;

    if (world_host(&f->world, as_id, gpa, &writable)) {
        fprintf(stderr, "the core reads gpa %#" PRIx64 " from the bus, but RAM is there\n",
                gpa);
        abort();
    }
    return world_bus(&f->world, as_id, gpa, size);
}

static const XmmuServices services = {
    .rcu_read_lock = world_rcu_lock,
    .rcu_read_unlock = world_rcu_unlock,
    .rcu_call = world_rcu_call,
    .read_bus = service_read_bus,
    .flush_all = service_flush_all,
    .flush_vcpu = service_flush_vcpu,
};

/* ---- The reference's view ------------------------------------------------- */

typedef struct View {
    Fuzz *f;
    Cpu *cpu;
    const XmmuAccess *access;
    const XmmuHwResult *got;
    uint64_t since;             /* values gone before this are out */
    bool lost;                  /* values are missing: anything may be right */
    RefResult now;              /* by the values in memory */
    bool have_now, matched, alternatives;
    /* Entries of paths that may be cached: their flags may be set too. */
    unsigned extras;            /* in Fuzz.extra[] */
} View;

static unsigned cpu_as(const Cpu *cpu)
{
    return cpu->regs.smm ? XMMU_AS_SMM : XMMU_AS_NORMAL;
}

static unsigned view_read(void *opaque, uint64_t addr, unsigned size, RefValue *out)
{
    View *v = opaque;

    return world_values(&v->f->world, cpu_as(v->cpu), addr, size, v->since, out,
                        &v->lost);
}

static RefMmu ref_of(const Fuzz *f, const Cpu *cpu, View *view)
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

static unsigned cpu_levels(const Cpu *cpu)
{
    RefRegs r = { .cr0 = cpu->regs.cr0, .cr4 = cpu->regs.cr4, .efer = cpu->regs.efer };

    return ref_paging_levels(&r);
}

static RefAccess ref_access(const XmmuAccess *a)
{
    RefAccess r = { .linear = a->gva, .user = a->user, .ac = a->smap_off };

    r.kind = a->want == XMMU_PROT_READ ? REF_READ
           : a->want == XMMU_PROT_WRITE ? REF_WRITE : REF_FETCH;
    return r;
}

/* ---- Reports --------------------------------------------------------------- */

static void print_result(const char *who, const RefResult *r)
{
    if (r->fault) {
        fprintf(stderr, "  %s: #PF error code %#x\n", who, r->error_code);
    } else {
        fprintf(stderr, "  %s: gpa %#" PRIx64 " allowed %u page shift %u%s\n", who,
                r->phys, r->allowed, r->page_shift, r->dirty ? " dirty" : "");
    }
    for (unsigned i = 0; i < r->steps; i++) {
        const RefStep *step = &r->step[i];

        fprintf(stderr, "    entry at %#" PRIx64 " = %#" PRIx64, step->addr, step->value);
        if (step->until) {
            fprintf(stderr, " (until %" PRIu64 ")", step->until);
        }
        fprintf(stderr, " sets %#" PRIx64 "\n", step->set);
    }
}

static void print_got(const XmmuHwResult *got)
{
    static const char *const outcomes[] = { "OK", "DIRECT", "EXCEPTION", "NOMEM" };

    fprintf(stderr, "  core: %s gpa %#" PRIx64 " hpa %#" PRIx64 " prot %u page shift %u%s"
            " vector %u error code %#x cr2 %#" PRIx64 "\n", outcomes[got->outcome], got->gpa,
            got->hpa, got->prot, got->page_shift, got->mmio ? " mmio" : "",
            got->exception.vector, got->exception.error_code, got->exception.cr2);
}

static void print_setting(const Fuzz *f, const Cpu *cpu)
{
    const XmmuRegs *r = &cpu->regs;

    fprintf(stderr, "  reproduce: --world=%#" PRIx64 " (operation %u)\n", f->seed, f->op);
    fprintf(stderr, "  VM: %s%s%u-level, large pages %d, prev-roots %u, max-tables %u\n",
            f->config.tdp ? "tdp " : "shadow ",
            !f->config.tdp ? "" : f->config.tdp_format == XMMU_TDP_EPT ? "ept " : "npt ",
            f->config.tdp_levels, f->config.huge_pages, f->config.prev_roots,
            f->config.max_tables);
    fprintf(stderr, "  CPU: maxphyaddr %u page1g %d pse36 %d amd %d\n", f->caps.maxphyaddr,
            f->caps.page1g, f->caps.pse36, f->caps.amd_pml4e_bit8);
    fprintf(stderr, "  vCPU %u: %u levels cr0 %#" PRIx64 " cr3 %#" PRIx64 " cr4 %#" PRIx64
            " efer %#" PRIx64 " pkru %#x pkrs %#x smm %d a20 masked %d\n", cpu->index,
            cpu_levels(cpu), r->cr0, r->cr3, r->cr4, r->efer, r->pkru, r->pkrs, r->smm,
            r->a20_masked);
    if (cpu_levels(cpu) == 3) {
        fprintf(stderr, "  pdpte %#" PRIx64 " %#" PRIx64 " %#" PRIx64 " %#" PRIx64 "\n",
                r->pdpte[0], r->pdpte[1], r->pdpte[2], r->pdpte[3]);
    }
    fprintf(stderr, "  flushed at %" PRIu64 ", now %" PRIu64 "\n", cpu->flushed,
            f->world.now);
}

static void G_GNUC_NORETURN differ(View *v, const char *what)
{
    const XmmuAccess *a = v->access;

    fflush(stdout);
    fprintf(stderr, "\nDIFFERENCE: %s\n", what);
    print_setting(v->f, v->cpu);
    fprintf(stderr, "  access: gva %#" PRIx64 " want %u %s%s\n", a->gva, a->want,
            a->user ? "user" : "supervisor", a->smap_off ? " AC" : "");
    print_result("reference", &v->now);
    print_got(v->got);
    abort();
}

/* ---- Comparison ------------------------------------------------------------ */

/* May the processor still hold a translation whose oldest part was gone at
 * @oldest?  INVLPG covers the page that maps the address. */
static bool still_cached(const Cpu *cpu, gva_t gva, uint64_t oldest, unsigned shift)
{
    if (!oldest) {
        return true;
    }
    for (unsigned i = 0; i < cpu->invlpg_count; i++) {
        if (cpu->invlpg[i].when >= oldest &&
            !((cpu->invlpg[i].gva ^ gva) >> shift)) {
            return false;
        }
    }
    return oldest > cpu->flushed;
}

/* Could the processor set a D flag in the leaf? */
static bool leaf_settable(View *v, const RefResult *r)
{
    bool writable;

    return r->steps &&
           world_host(&v->f->world, cpu_as(v->cpu), r->step[r->steps - 1].addr,
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
    if (r->fault ||
        !still_cached(v->cpu, v->access->gva, r->oldest, r->page_shift)) {
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
        uint8_t *mem = world_host(w, cpu_as(v->cpu), step->addr, &writable);
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
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < now->steps; i++) {
            const RefStep *step = &now->step[i];
            bool writable;
            uint8_t *mem = world_host(w, cpu_as(v->cpu), step->addr, &writable);
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
                differ(v, "accessed or dirty flags");
            }
        }
    }
}

static void check_exception(View *v)
{
    const XmmuException *e = &v->got->exception;

    if (!v->now.fault) {
        differ(v, "the core faults");
    }
    if (e->vector != XMMU_EXC_PF) {
        differ(v, "vector");
    }
    if (e->error_code != v->now.error_code) {
        differ(v, "error code");
    }
    if (e->cr2 != v->access->gva) {
        differ(v, "CR2");
    }
}

/* A table in a hole may change at any time: then nothing need be cached. */
static bool table_in_hole(View *v)
{
    bool writable;

    for (unsigned i = 0; i < v->now.steps; i++) {
        if (!world_host(&v->f->world, cpu_as(v->cpu), v->now.step[i].addr, &writable)) {
            return true;
        }
    }
    return v->alternatives;
}

static void check_place(View *v)
{
    const XmmuHwResult *got = v->got;
    bool writable = false;
    uint8_t *mem = world_host(&v->f->world, cpu_as(v->cpu), got->gpa, &writable);

    if (got->outcome == XMMU_HW_OK) {
        if ((hpa_t)(uintptr_t)mem != got->hpa) {
            differ(v, "host address");
        }
        if ((got->prot & XMMU_PROT_WRITE) && !writable) {
            differ(v, "leave to write ROM");
        }
        return;
    }
    if (!mem) {
        if (!got->mmio) {
            differ(v, "a hole is not MMIO");
        }
    } else if (!v->f->config.tdp && table_in_hole(v)) {
        return;
    } else if (v->access->want != XMMU_PROT_WRITE) {
        differ(v, "a read of memory is not cacheable");
    } else if (writable && (got->mmio || v->f->config.tdp)) {
        differ(v, "a write to RAM is not cacheable");
    }
}

static void check_result(Fuzz *f, Cpu *cpu, const XmmuAccess *access,
                         const XmmuHwResult *got, bool from_tlb)
{
    View v = { .f = f, .cpu = cpu, .access = access, .got = got, .since = cpu->flushed };
    RefMmu mmu = ref_of(f, cpu, &v);
    RefAccess ref = ref_access(access);

    ref_translate_all(&mmu, &ref, view_visit, &v);
    if (got->outcome == XMMU_HW_NOMEM) {
        differ(&v, "no memory");
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
            differ(&v, v.alternatives ? "no translation that was ever right"
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

/* ---- Accesses ---------------------------------------------------------------- */

static unsigned tlb_mode(const XmmuAccess *a)
{
    return a->user ? TLB_USER : a->smap_off ? TLB_KERNEL_AC : TLB_KERNEL;
}

static TlbEntry *tlb_slot(Cpu *cpu, const XmmuAccess *a)
{
    uint64_t page = a->gva >> XMMU_PAGE_SHIFT;
    unsigned slot = (page ^ (page >> 9) * 5 ^ (page >> 18) * 11) % TLB_SIZE;

    return &cpu->tlb[tlb_mode(a)][slot];
}

static bool tlb_lookup(Cpu *cpu, const XmmuAccess *a, XmmuHwResult *r)
{
    TlbEntry *e = tlb_slot(cpu, a);
    uint64_t offset = a->gva & ~XMMU_PAGE_MASK;

    if (!e->valid || e->page != a->gva >> XMMU_PAGE_SHIFT || !(e->prot & a->want)) {
        return false;
    }
    *r = (XmmuHwResult) {
        .outcome = e->mmio ? XMMU_HW_DIRECT : XMMU_HW_OK,
        .gpa = e->gpa | offset, .hpa = e->mmio ? 0 : e->hpa | offset,
        .prot = e->prot, .page_shift = e->page_shift, .mmio = e->mmio,
    };
    return true;
}

/* As the engine does: one-shot accesses leave nothing, MMIO may stay. */
static void tlb_fill(Cpu *cpu, const XmmuAccess *a, const XmmuHwResult *r, bool by_hole)
{
    TlbEntry *e = tlb_slot(cpu, a);

    if (r->outcome > XMMU_HW_DIRECT || (r->outcome == XMMU_HW_DIRECT && !r->mmio)) {
        return;
    }
    *e = (TlbEntry) {
        .valid = true, .page = a->gva >> XMMU_PAGE_SHIFT, .page_shift = r->page_shift,
        .prot = r->prot, .mmio = r->outcome == XMMU_HW_DIRECT,
        .by_hole = by_hole,
        .gpa = r->gpa & XMMU_PAGE_MASK, .hpa = r->hpa & XMMU_PAGE_MASK,
    };
    if (e->mmio) {
        /* A write to ROM is MMIO to the engine, but reads are not. */
        e->prot &= a->want;
    }
}

/* Translate, compare, keep.  True when the access may be done. */
static bool translate(Fuzz *f, Cpu *cpu, const XmmuAccess *a, unsigned size,
                      XmmuHwResult *r)
{
    bool hit = tlb_lookup(cpu, a, r);

    f->count->accesses++;
    f->count->by_levels[cpu_levels(cpu)]++;
    if (hit) {
        f->count->tlb_hits++;
    } else {
        memset(r, 0xa5, sizeof(*r));
        xmmu_hw_translate(cpu->vcpu, a, size, r);
    }
    fz_trace(f, "vCPU %u access gva %#" PRIx64 " want %u %s%s size %u%s -> outcome %d gpa %#"
             PRIx64 " prot %u error code %#x", cpu->index, a->gva, a->want,
             a->user ? "user" : "supervisor", a->smap_off ? " AC" : "", size,
             hit ? " (TLB)" : "", r->outcome, r->outcome <= XMMU_HW_DIRECT ? r->gpa : 0,
             r->outcome <= XMMU_HW_DIRECT ? r->prot : 0,
             r->outcome == XMMU_HW_EXCEPTION ? r->exception.error_code : 0);
    if (world_rcu_depth()) {
        fprintf(stderr, "the core left an RCU read section open\n");
        abort();
    }
    check_result(f, cpu, a, r, hit);
    if (!hit) {
        tlb_fill(cpu, a, r, f->by_hole);
    }
    return r->outcome <= XMMU_HW_DIRECT;
}

/* A store that was translated; true when memory changed. */
static bool store(Fuzz *f, const Cpu *cpu, const XmmuHwResult *r, const void *data,
                  unsigned size)
{
    bool writable = false;
    uint8_t *mem = world_host(&f->world, cpu_as(cpu), r->gpa, &writable);

    if (!mem || !writable || world_pool_index(&f->world, mem) < 0) {
        return false;
    }
    f->count->writes++;
    fz_trace(f, "  store %u bytes at gpa %#" PRIx64 ": %#" PRIx64, size, r->gpa,
             size == 4 ? *(const uint32_t *)data
             : size == 8 ? *(const uint64_t *)data : 0);
    world_store(&f->world, mem, data, size);
    return true;
}

static void finish_pending(Fuzz *f)
{
    Cpu *cpu = f->pending.cpu;

    f->pending.cpu = NULL;
    if (cpu) {
        fz_trace(f, "vCPU %u finishes its store", cpu->index);
        store(f, cpu, &f->pending.result, f->pending.data, f->pending.size);
    }
}

/* @cpu is about to do something else. */
static void finish_of(Fuzz *f, const Cpu *cpu)
{
    if (f->pending.cpu == cpu) {
        finish_pending(f);
    }
}

/* Store now, or let the others run first.  True when memory changed. */
static bool store_soon(Fuzz *f, Cpu *cpu, const XmmuHwResult *r, const void *data,
                       unsigned size)
{
    if (f->pending.cpu || !(f->limits->features & FUZZ_RACES) ||
        !source_percent(f->s, 15)) {
        return store(f, cpu, r, data, size);
    }
    fz_trace(f, "  (the store comes later)");
    f->pending = (Pending) {
        .cpu = cpu, .result = *r, .size = size, .ops_left = 1 + source_below(f->s, 5),
    };
    memcpy(f->pending.data, data, size);
    return false;
}

static gva_t canonical(gva_t gva, unsigned levels)
{
    unsigned unused = levels == 5 ? 7 : 16;

    return (gva_t)((int64_t)(gva << unused) >> unused);
}

static gva_t random_page(Fuzz *f, unsigned levels)
{
    Source *s = f->s;
    gva_t gva = 0;

    switch (levels) {
    case 0:
        return f->world.pool[source_below(s, POOL_PAGES)].gpa & 0xfffff000;
    case 2:
        for (int i = 0; i < 2; i++) {
            gva = gva << 10 | ((world_index(s) * 2 + source_percent(s, 5)) & 0x3ff);
        }
        return gva << 12;
    case 3:
        gva = source_bits(s, 2);
        gva = (gva << 9 | world_index(s)) << 9;
        return (gva | world_index(s)) << 12;
    }
    for (unsigned i = 0; i < levels; i++) {
        gva = gva << 9 | world_index(s);
    }
    return canonical(gva << 12, levels);
}

static gva_t random_gva(Fuzz *f, Cpu *cpu, unsigned size)
{
    Source *s = f->s;
    unsigned levels = cpu_levels(cpu);
    unsigned slot = cpu->slot = source_below(s, RECENT);
    gva_t offset;

    if (source_percent(s, 25)) {
        cpu->recent[slot] = random_page(f, levels);
        if (source_percent(s, 2)) {
            cpu->recent[slot] = canonical(source_bits(s, 64) & XMMU_PAGE_MASK,
                                          levels);
        }
    }
    offset = source_percent(s, 80) ? world_index(s) * 8 : source_bits(s, 12);
    if (offset + size > XMMU_PAGE_SIZE) {
        offset = XMMU_PAGE_SIZE - size;
    }
    offset |= cpu->recent[slot] & XMMU_PAGE_MASK;
    return levels >= 4 ? canonical(offset, levels) : offset & 0xffffffff;
}

static void flush_cpu(Fuzz *f, Cpu *cpu)
{
    finish_of(f, cpu);
    fz_trace(f, "vCPU %u flush", cpu->index);
    xmmu_vcpu_flush_guest(cpu->vcpu);
    tlb_drop(cpu);
    cpu->flushed = ++f->world.now;
    cpu->invlpg_count = 0;
}

static void invlpg(Fuzz *f, Cpu *cpu, gva_t gva)
{
    finish_of(f, cpu);
    if (source_percent(f->s, 25)) {
        /* Elsewhere in the same large page. */
        gva ^= source_bits(f->s, 9) << XMMU_PAGE_SHIFT;
    }
    fz_trace(f, "vCPU %u invlpg %#" PRIx64, cpu->index, gva);
    xmmu_vcpu_invlpg(cpu->vcpu, gva);
    for (int mode = 0; mode < TLB_MODES; mode++) {
        for (int i = 0; i < TLB_SIZE; i++) {
            TlbEntry *e = &cpu->tlb[mode][i];

            if (!((e->page << XMMU_PAGE_SHIFT ^ gva) >> e->page_shift)) {
                e->valid = false;
            }
        }
    }
    if (cpu->invlpg_count == INVLPG_LOG) {
        memmove(&cpu->invlpg[0], &cpu->invlpg[1],
                sizeof(cpu->invlpg[0]) * (INVLPG_LOG - 1));
        cpu->invlpg_count--;
    }
    cpu->invlpg[cpu->invlpg_count].gva = gva;
    cpu->invlpg[cpu->invlpg_count].when = ++f->world.now;
    cpu->invlpg_count++;
}

/* What a careful guest does after it changed a table. */
static void flush_after_write(Fuzz *f)
{
    if (!source_percent(f->s, f->flush_percent)) {
        return;
    }
    for (unsigned i = 0; i < f->cpu_count; i++) {
        Cpu *cpu = &f->cpus[i];

        if (f->flush_percent == 100 || source_percent(f->s, 30)) {
            flush_cpu(f, cpu);
        } else {
            invlpg(f, cpu, cpu->recent[source_below(f->s, RECENT)]);
        }
    }
}

/* What a store puts there: entries, as tables are what matters. */
static void random_data(Fuzz *f, const Cpu *cpu, const XmmuHwResult *r, uint64_t data[8],
                        unsigned size)
{
    bool writable;
    uint8_t *mem = world_host(&f->world, cpu_as(cpu), r->gpa, &writable);
    bool in_pool = mem && world_pool_index(&f->world, mem) >= 0;

    memset(data, 0, 64);
    data[0] = in_pool ? world_changed_entry(&f->world, f->s, mem)
                      : world_entry(&f->world, f->s);
    for (unsigned i = 1; i < 8 && size > 8; i++) {
        data[i] = world_entry(&f->world, f->s);
    }
}

static void op_access(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    static const uint8_t sizes[] = { 8, 8, 8, 4, 8, 4, 1, 2, 16, 32, 64, 3 };
    unsigned size = sizes[source_below(s, sizeof(sizes))];
    unsigned bits = source_bits(s, 8);
    XmmuAccess a = {
        .gva = random_gva(f, cpu, size),
        .want = bits & 3 ? (bits & 1 ? XMMU_PROT_READ : XMMU_PROT_WRITE) : XMMU_PROT_EXEC,
        .user = bits >> 2 & 1,
        .smap_off = !(bits >> 2 & 1) && (bits >> 3 & 1),
    };
    uint64_t data[8];
    XmmuHwResult r;

    if (!translate(f, cpu, &a, size, &r)) {
        if (source_percent(s, 50)) {
            /* Stay where something is mapped. */
            cpu->recent[cpu->slot] = random_page(f, cpu_levels(cpu));
        }
        return;
    }
    if (a.want != XMMU_PROT_WRITE || !(f->limits->features & FUZZ_WRITES) ||
        bits >> 6 == 0 || (f->calm && bits >> 6 != 1)) {
        return;
    }
    random_data(f, cpu, &r, data, size);
    if (store_soon(f, cpu, &r, data, size)) {
        flush_after_write(f);
    }
}

/* A write by the vCPU without paging. */
static void write_physical(Fuzz *f, unsigned as_id, gpa_t gpa, const void *data,
                           unsigned size)
{
    Cpu *writer = &f->cpus[f->cpu_count];
    XmmuAccess a = { .gva = gpa, .want = XMMU_PROT_WRITE };
    XmmuHwResult r;

    if (gpa >= 4 * GIB) {
        return;
    }
    finish_of(f, writer);
    if (writer->regs.smm != (as_id == XMMU_AS_SMM)) {
        writer->regs.smm = as_id == XMMU_AS_SMM;
        xmmu_vcpu_set_regs(writer->vcpu, &writer->regs);
        tlb_drop(writer);
    }
    if (translate(f, writer, &a, size, &r)) {
        store_soon(f, writer, &r, data, size);
    }
    /* Tables count as synchronised only when every vCPU has flushed. */
    if (source_percent(f->s, f->writer_flushes)) {
        flush_cpu(f, writer);
    }
}

static void op_write_table(Fuzz *f)
{
    Source *s = f->s;
    const PoolPage *page = &f->world.pool[source_below(s, POOL_PAGES)];
    unsigned as_id = f->limits->features & FUZZ_SMM && source_percent(s, 10);
    unsigned offset = world_index(s) * 8, size = 8;
    uint64_t entry = world_changed_entry(&f->world, s, page->mem + offset);

    if (source_percent(s, 20)) {
        size = 4;
        offset += source_percent(s, 30) ? 4 : 0;
    } else if (source_percent(s, 10)) {
        entry = 0;
    }
    write_physical(f, as_id, source_percent(s, 5) ? world_alias(page->gpa) + offset
                                                  : page->gpa + offset, &entry, size);
    flush_after_write(f);
}

/* ---- Registers ----------------------------------------------------------------- */

static void take_regs(Fuzz *f, Cpu *cpu, const XmmuRegs *regs)
{
    cpu->regs = *regs;
    fz_trace(f, "vCPU %u regs: %u levels cr0 %#" PRIx64 " cr3 %#" PRIx64 " cr4 %#" PRIx64
             " efer %#" PRIx64 " pkru %#x pkrs %#x smm %d a20 masked %d", cpu->index,
             cpu_levels(cpu), regs->cr0, regs->cr3, regs->cr4, regs->efer, regs->pkru,
             regs->pkrs, regs->smm, regs->a20_masked);
    xmmu_vcpu_set_regs(cpu->vcpu, regs);
    tlb_drop(cpu);
}

static uint64_t read_now(Fuzz *f, unsigned as_id, gpa_t gpa)
{
    RefValue values[REF_MAX_VALUES];
    bool lost;

    return world_values(&f->world, as_id, gpa, 8, UINT64_MAX, values, &lost) ?
           values[0].value : 0;
}

/* MOV to CR3 in PAE paging loads the PDPTEs, or raises #GP. */
static bool load_pdptes(Fuzz *f, XmmuRegs *regs)
{
    RefCaps caps = { .maxphyaddr = f->caps.maxphyaddr };
    gpa_t base = regs->cr3 & 0xffffffe0;
    bool bad;

    for (int i = 0; i < 4; i++) {
        gpa_t gpa = base + i * 8;

        gpa &= regs->a20_masked ? ~(gpa_t)0x100000 : ~(gpa_t)0;
        regs->pdpte[i] = read_now(f, regs->smm ? XMMU_AS_SMM : XMMU_AS_NORMAL, gpa);
    }
    bad = ref_pdptes_bad(&caps, regs->pdpte);
    if (bad != (xmmu_check_pdptes(&f->caps, regs->pdpte) != NULL)) {
        fprintf(stderr, "xmmu_check_pdptes() disagrees with the reference: %#" PRIx64
                " %#" PRIx64 " %#" PRIx64 " %#" PRIx64 "\n", regs->pdpte[0],
                regs->pdpte[1], regs->pdpte[2], regs->pdpte[3]);
        abort();
    }
    return !bad;
}

static void write_pdptes(Fuzz *f, const XmmuRegs *regs)
{
    Source *s = f->s;
    uint64_t pdpte[4];

    for (int i = 0; i < 4; i++) {
        pdpte[i] = f->world.pool[source_below(s, POOL_PAGES)].gpa;
        pdpte[i] |= source_percent(s, 90) ? 1 : 0;
    }
    write_physical(f, regs->smm ? XMMU_AS_SMM : XMMU_AS_NORMAL, regs->cr3 & 0xffffffe0,
                   pdpte, sizeof(pdpte));
}

static void random_cr3(Fuzz *f, XmmuRegs *regs, unsigned levels)
{
    Source *s = f->s;
    /* Few roots, so that cached ones are met again. */
    unsigned page = source_percent(s, 70) ? source_below(s, 6)
                                          : source_below(s, POOL_PAGES);

    regs->cr3 = f->world.pool[page].gpa;
    if (source_percent(s, 5)) {
        regs->cr3 = world_alias(regs->cr3);
    }
    if (levels <= 3) {
        regs->cr3 &= 0xffffffff;
    } else {
        regs->cr3 &= ((uint64_t)1 << f->caps.maxphyaddr) - 1;
    }
    if (levels == 3) {
        /* Away from the indices that tables are filled at. */
        regs->cr3 |= 0x200 + source_below(s, 3) * 0x20;
        if (source_percent(s, 60)) {
            write_pdptes(f, regs);
        }
    } else {
        regs->cr3 |= source_percent(s, 20) ? 0x18 : 0;
    }
}

/* Load CR3 for @levels into @regs and take them over with a flush. */
static void load_cr3(Fuzz *f, Cpu *cpu, XmmuRegs *regs, unsigned levels)
{
    unsigned before = cpu_levels(cpu);

    if (levels == 3 && !load_pdptes(f, regs)) {
        fz_trace(f, "vCPU %u #GP: PDPTEs", cpu->index);
        return;
    }
    take_regs(f, cpu, regs);
    flush_cpu(f, cpu);
    if (levels != before) {
        for (int i = 0; i < RECENT; i++) {
            cpu->recent[i] = random_page(f, levels);
        }
    }
}

static void op_cr3(Fuzz *f, Cpu *cpu)
{
    XmmuRegs regs = cpu->regs;
    unsigned levels = cpu_levels(cpu);

    if (!levels) {
        return;
    }
    if (source_percent(f->s, 75)) {
        random_cr3(f, &regs, levels);
    }
    load_cr3(f, cpu, &regs, levels);
}

static uint64_t random_set(Source *s, const uint32_t *bits, unsigned n)
{
    uint64_t set = 0, pick = source_bits(s, 16);

    for (unsigned i = 0; i < n; i++) {
        set |= pick >> i & 1 ? bits[i] : 0;
    }
    return set;
}

static const uint32_t free_cr4_bits[] = {
    XMMU_CR4_PSE, XMMU_CR4_PGE, XMMU_CR4_SMEP, XMMU_CR4_SMAP, XMMU_CR4_PKE,
    XMMU_CR4_PKS,
};

static void op_mode(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    static const uint8_t modes[] = { 0, 2, 3, 4, 5, 2, 3, 4 };
    XmmuRegs regs = cpu->regs;
    unsigned levels = modes[source_below(s, sizeof(modes))];

    if (!(f->limits->modes & (1 << levels))) {
        return;
    }
    regs.cr0 = XMMU_CR0_PE | (source_percent(s, 70) ? XMMU_CR0_WP : 0);
    regs.cr4 = random_set(s, free_cr4_bits, G_N_ELEMENTS(free_cr4_bits));
    regs.efer = source_percent(s, 80) ? XMMU_EFER_NXE : 0;
    if (levels) {
        regs.cr0 |= XMMU_CR0_PG;
    }
    if (levels >= 3) {
        regs.cr4 |= XMMU_CR4_PAE;
    }
    if (levels >= 4) {
        regs.efer |= XMMU_EFER_LME | XMMU_EFER_LMA;
    }
    if (levels == 5) {
        regs.cr4 |= XMMU_CR4_LA57;
    }
    random_cr3(f, &regs, levels);
    load_cr3(f, cpu, &regs, levels);
}

/* Bits that may change without a change of mode. */
static void op_flip(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    XmmuRegs regs = cpu->regs;
    unsigned pick = source_below(s, 10);
    uint64_t flushing = XMMU_CR4_PSE | XMMU_CR4_PGE;
    bool flush = false;

    if (pick < G_N_ELEMENTS(free_cr4_bits)) {
        regs.cr4 ^= free_cr4_bits[pick];
        flush = ((regs.cr4 ^ cpu->regs.cr4) & flushing) ||
                (regs.cr4 & ~cpu->regs.cr4 & XMMU_CR4_SMEP);
    } else if (pick < 8) {
        regs.cr0 ^= XMMU_CR0_WP;
    } else {
        regs.efer ^= XMMU_EFER_NXE;
    }
    take_regs(f, cpu, &regs);
    if (flush) {
        flush_cpu(f, cpu);
    }
}

static void op_keys(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    XmmuRegs regs = cpu->regs;
    uint32_t *reg = source_percent(s, 50) ? &regs.pkru : &regs.pkrs;

    *reg = source_percent(s, 30) ? 0 : source_bits(s, 32) & source_bits(s, 32);
    take_regs(f, cpu, &regs);
}

static void op_smm(Fuzz *f, Cpu *cpu)
{
    XmmuRegs regs = cpu->regs;

    regs.smm = !regs.smm;
    take_regs(f, cpu, &regs);
}

static void op_a20(Fuzz *f, Cpu *cpu)
{
    XmmuRegs regs = cpu->regs;

    regs.a20_masked = !regs.a20_masked;
    take_regs(f, cpu, &regs);
}

/* ---- The VM -------------------------------------------------------------------- */

static void set_memory(Fuzz *f, unsigned as_id)
{
    xmmu_vm_set_memory(f->vm, as_id, f->world.regions[as_id],
                       f->world.region_count[as_id]);
}

static void op_slots(Fuzz *f)
{
    unsigned as_id = source_below(f->s, XMMU_AS_COUNT);
    unsigned layout = f->world.layout[as_id] ^ (1 << source_below(f->s, 4));

    finish_pending(f);
    fz_trace(f, "layout of address space %u: %#x", as_id, layout);
    world_set_layout(&f->world, as_id, layout);
    set_memory(f, as_id);
    /* The engine's own reaction to a change of topology: what the bus answered is
     * forgotten.  The rest is the core's to flush. */
    for (unsigned i = 0; i <= f->cpu_count; i++) {
        for (int mode = 0; mode < TLB_MODES; mode++) {
            for (int slot = 0; slot < TLB_SIZE; slot++) {
                TlbEntry *e = &f->cpus[i].tlb[mode][slot];

                e->valid &= !e->mmio && !e->by_hole;
            }
        }
    }
}

static void op_gpa(Fuzz *f, Cpu *cpu)
{
    Source *s = f->s;
    gpa_t gpa = f->world.pool[source_below(s, POOL_PAGES)].gpa | world_index(s) * 8;
    uint8_t want = source_percent(s, 30) ? XMMU_PROT_WRITE : XMMU_PROT_READ;
    bool writable = false;
    uint8_t *mem;
    XmmuHwResult r;

    if (gpa >> f->caps.maxphyaddr) {
        return;
    }
    if (cpu->regs.a20_masked) {
        gpa &= ~(gpa_t)0x100000;
    }
    mem = world_host(&f->world, cpu_as(cpu), gpa, &writable);
    xmmu_hw_translate_gpa(cpu->vcpu, gpa, want, 8, &r);
    fz_trace(f, "vCPU %u physical access gpa %#" PRIx64 " want %u -> %d", cpu->index, gpa,
             want, r.outcome);
    if (r.gpa != gpa || (r.outcome == XMMU_HW_OK && r.hpa != (uintptr_t)mem) ||
        r.outcome > XMMU_HW_DIRECT ||
        (r.outcome == XMMU_HW_OK && want == XMMU_PROT_WRITE && !writable) ||
        (r.outcome == XMMU_HW_DIRECT && want == XMMU_PROT_READ && mem)) {
        fprintf(stderr, "\nDIFFERENCE: physical access to %#" PRIx64 " want %u\n", gpa,
                want);
        print_setting(f, cpu);
        print_got(&r);
        abort();
    }
    /* Shadow paging does not track what the CPU writes without translation. */
    if (want == XMMU_PROT_WRITE && f->config.tdp) {
        uint64_t entry = world_entry(&f->world, s);

        if (store(f, cpu, &r, &entry, sizeof(entry))) {
            flush_after_write(f);
        }
    }
}

static void op_debug(Fuzz *f, Cpu *cpu)
{
    XmmuAccess a = { .gva = random_gva(f, cpu, 8), .want = XMMU_PROT_READ };
    XmmuHwResult none = { .outcome = XMMU_HW_EXCEPTION };
    View v = { .f = f, .cpu = cpu, .access = &a, .got = &none, .since = UINT64_MAX };
    RefMmu mmu = ref_of(f, cpu, &v);
    RefAccess ref = ref_access(&a);
    gpa_t gpa = 0;
    bool mapped = xmmu_hw_translate_debug(cpu->vcpu, a.gva, &gpa);

    ref_translate(&mmu, &ref, &v.now);
    if (v.now.fault && (v.now.error_code & 8)) {
        return;
    }
    if (mapped != (!v.now.fault || (v.now.error_code & 1)) ||
        (mapped && gpa != v.now.phys)) {
        none.gpa = gpa;
        differ(&v, "debugger's translation");
    }
}

/* A root is in the cache once, and under what it is looked up with. */
static void op_look(Fuzz *f, Cpu *cpu)
{
    XmmuRootInfo roots[XMMU_PREV_ROOTS_MAX + 1];
    size_t n = xmmu_vcpu_roots(cpu->vcpu, roots, G_N_ELEMENTS(roots));
    char *text = xmmu_vcpu_role_text(cpu->vcpu);
    XmmuStats stats;

    if (!text[0]) {
        fprintf(stderr, "empty role text\n");
        abort();
    }
    g_free(text);
    xmmu_vm_stats(f->vm, &stats);
    xmmu_vcpu_stats(cpu->vcpu, &stats);
    for (size_t i = 0; i < n; i++) {
        g_free(xmmu_page_role_text(roots[i].page_role));
        for (size_t j = i + 1; j < n; j++) {
            if (roots[i].valid && roots[j].valid && roots[i].pgd == roots[j].pgd &&
                roots[i].page_role == roots[j].page_role) {
                fprintf(stderr, "\nDIFFERENCE: root pgd %#" PRIx64 " role %#x is cached "
                        "twice (%zu, %zu)\n", roots[i].pgd, roots[i].page_role, i, j);
                print_setting(f, cpu);
                abort();
            }
        }
    }
}

static void op_rare(Fuzz *f, Cpu *cpu)
{
    switch (source_below(f->s, 8)) {
    case 0:
        fz_trace(f, "zap all");
        xmmu_vm_zap_all(f->vm);
        f->world.now++;
        for (unsigned i = 0; i < f->cpu_count; i++) {
            f->cpus[i].flushed = f->world.now;
        }
        break;
    case 1:
        fz_trace(f, "vCPU %u reset", cpu->index);
        xmmu_vcpu_reset(cpu->vcpu);
        take_regs(f, cpu, &cpu->regs);
        cpu->flushed = ++f->world.now;
        break;
    case 2:
        fz_trace(f, "vCPU %u re-created", cpu->index);
        xmmu_vcpu_free(cpu->vcpu);
        cpu->vcpu = xmmu_vcpu_new(f->vm, cpu->index, &f->caps);
        take_regs(f, cpu, &cpu->regs);
        cpu->flushed = ++f->world.now;
        break;
    case 3:
    case 4:
        op_look(f, cpu);
        break;
    default:
        op_debug(f, cpu);
        break;
    }
}

/* What the engine does between instructions. */
static void obey_flushes(Fuzz *f)
{
    if (f->pending.cpu && f->pending.ops_left-- == 0) {
        finish_pending(f);
    }
    for (unsigned i = 0; i <= f->cpu_count; i++) {
        Cpu *cpu = &f->cpus[i];

        if (cpu == f->pending.cpu) {
            continue;
        }
        if (cpu->nudged && source_percent(f->s, 20)) {
            tlb_drop(cpu);
            cpu->nudged = false;
            cpu->dropped = true;
        }
        if (cpu->dropped) {
            cpu->dropped = false;
            fz_trace(f, "vCPU %u tells that it dropped its TLB", i);
            xmmu_vcpu_flushed(cpu->vcpu);
        }
    }
}

/* What changes the vCPU role but flushes nothing. */
static void op_role(Fuzz *f, Cpu *cpu)
{
    unsigned allowed = f->limits->features, pick = source_below(f->s, 10);

    if (pick == 0 && (allowed & FUZZ_SMM)) {
        op_smm(f, cpu);
    } else if (pick == 1 && (allowed & FUZZ_A20)) {
        op_a20(f, cpu);
    } else if (allowed & FUZZ_REGS) {
        op_flip(f, cpu);
    }
}

static void one_op(Fuzz *f)
{
    Source *s = f->s;
    unsigned allowed = f->limits->features;
    Cpu *cpu = &f->cpus[f->cpu_count > 1 ? source_below(s, f->cpu_count) : 0];
    unsigned pick = source_below(s, 1000);

    finish_of(f, cpu);
    if (f->restless && pick % 16 == 0) {
        op_role(f, cpu);
    } else if (pick < 700 || (f->calm && pick < 935 && pick % 5)) {
        op_access(f, cpu);
    } else if (pick < 830) {
        op_write_table(f);
    } else if (pick < 890) {
        invlpg(f, cpu, cpu->recent[source_below(s, RECENT)]);
    } else if (pick < 940) {
        op_cr3(f, cpu);
    } else if (pick < 954) {
        op_gpa(f, cpu);
    } else if (pick < 964) {
        op_keys(f, cpu);
    } else if (pick < 974 && (allowed & FUZZ_REGS)) {
        op_mode(f, cpu);
    } else if (pick < 992) {
        op_role(f, cpu);
    } else if (pick < 995 && (allowed & FUZZ_SLOTS)) {
        op_slots(f);
    } else if (pick >= 995 && (allowed & FUZZ_RARE)) {
        op_rare(f, cpu);
    }
}

static void random_config(Fuzz *f)
{
    static const uint8_t prev_roots[] = { 0, 1, 3, XMMU_PREV_ROOTS_MAX };
    static const uint8_t addr_bits[] = { 32, 36, 40, 46, 48, 52 };
    Source *s = f->s;
    unsigned kind, allowed = f->limits->features;

    do {
        kind = 1 << (source_bits(s, 2) % 3);
    } while (!(f->limits->paging & kind) && !source_dry(s));
    f->config = (XmmuConfig) {
        .tdp = kind != FUZZ_SHADOW,
        .tdp_format = kind == FUZZ_EPT ? XMMU_TDP_EPT : XMMU_TDP_NPT,
        .tdp_levels = source_percent(s, 50) ? 4 : 5,
        .huge_pages = (allowed & FUZZ_LARGE) && source_percent(s, 70),
        .prev_roots = prev_roots[source_below(s, 4)],
        .max_tables = (allowed & FUZZ_LIMIT) && source_percent(s, 25)
                      ? 24 + source_below(s, 64) : 0,
    };
    f->caps = (XmmuCpuCaps) {
        .maxphyaddr = addr_bits[source_below(s, sizeof(addr_bits))],
        .page1g = source_percent(s, 60), .pse36 = source_percent(s, 60),
        .amd_pml4e_bit8 = source_percent(s, 30),
    };
    if (f->config.tdp_levels == 4 && f->caps.maxphyaddr > 48) {
        f->caps.maxphyaddr = 48;
    }
    f->cpu_count = (allowed & FUZZ_PEERS) && source_percent(s, 40) ? 2 : 1;
    f->writer_flushes = source_percent(s, 20) ? 0 : 30;
    f->restless = source_percent(s, 25);
    f->calm = source_percent(s, 50);
    f->flush_percent = allowed & FUZZ_LAX ? source_below(s, 3) * 50 : 100;
}

static void start_cpus(Fuzz *f)
{
    for (unsigned i = 0; i <= f->cpu_count; i++) {
        Cpu *cpu = &f->cpus[i];
        XmmuRegs regs = { .cr0 = XMMU_CR0_PE };

        cpu->index = i;
        cpu->vcpu = xmmu_vcpu_new(f->vm, i, &f->caps);
        take_regs(f, cpu, &regs);
    }
    /* Off into the first mode that is allowed. */
    for (unsigned i = 0; i < f->cpu_count; i++) {
        for (int tries = 0; tries < 50 && !cpu_levels(&f->cpus[i]); tries++) {
            op_mode(f, &f->cpus[i]);
        }
    }
}

static void check_memory(Fuzz *f)
{
    const uint8_t *mem = world_differs(&f->world);

    if (mem) {
        int page = world_pool_index(&f->world, mem);

        fprintf(stderr, "\nDIFFERENCE: guest memory of pool page %d (gpa %#" PRIx64
                ") offset %#x is %#" PRIx64 ", expected %#" PRIx64 "\n", page,
                f->world.pool[page].gpa, (unsigned)((uintptr_t)mem & 0xfff),
                *(const uint64_t *)mem, world_expected(&f->world, mem, 8));
        print_setting(f, &f->cpus[0]);
        abort();
    }
}

static void finish(Fuzz *f)
{
    XmmuStats stats;

    finish_pending(f);
    check_memory(f);
    for (unsigned i = 0; i <= f->cpu_count; i++) {
        xmmu_vcpu_free(f->cpus[i].vcpu);
    }
    xmmu_vm_zap_all(f->vm);
    world_rcu_run();
    xmmu_vm_stats(f->vm, &stats);
    /* TDP keeps its roots, which are empty now. */
    if (stats.tables > (f->config.tdp ? XMMU_AS_COUNT : 0) || stats.pages_4k || stats.pages_2m || stats.pages_1g) {
        fprintf(stderr, "\nDIFFERENCE: after zap all: %" PRIu64 " tables, %" PRIu64 " + %"
                PRIu64 " + %" PRIu64 " pages left\n", stats.tables, stats.pages_4k,
                stats.pages_2m, stats.pages_1g);
        print_setting(f, &f->cpus[0]);
        abort();
    }
    xmmu_vm_free(f->vm);
    world_rcu_run();
}

void fuzz_run(Source *source, uint64_t seed, unsigned ops, const FuzzLimits *limits,
              FuzzCount *count)
{
    static Fuzz fuzz;
    Fuzz *f = &fuzz;

    memset(f, 0, sizeof(*f));
    f->s = source;
    f->limits = limits;
    f->count = count;
    f->seed = seed;
    world_init_process();
    random_config(f);
    world_start(&f->world, seed, limits->features & FUZZ_HOLES);
    f->vm = xmmu_vm_new(&f->config, &services, f);
    for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
        set_memory(f, as);
    }
    start_cpus(f);
    for (f->op = 0; f->op < ops && !source_dry(source); f->op++) {
        obey_flushes(f);
        one_op(f);
        world_rcu_run();
        if (f->op % 512 == 511 || limits->trace) {
            check_memory(f);
        }
    }
    count->ops += f->op;
    finish(f);
}

#ifdef XMMU_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzLimits limits = {
        .features = FUZZ_EVERYTHING, .paging = FUZZ_ALL_PAGING, .modes = FUZZ_ALL_MODES,
        .trace = getenv("XMMU_FUZZ_TRACE") != NULL,
    };
    FuzzCount count = { 0 };
    Source source = { .data = data, .end = data + size };
    uint64_t seed = source_bits(&source, 16);

    if (size > 8) {
        fuzz_run(&source, seed, 100000, &limits, &count);
    }
    return 0;
}
#endif
