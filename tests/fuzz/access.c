/*
 * xmmu fuzz: accesses
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns one access as the soft engine does it: from the software TLB, else by the
 * hardware model; judged, kept, and done if it is a store.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fuzz.h"

bool fz_translate(Fuzz *f, Cpu *cpu, const XmmuAccess *a, unsigned size,
                      XmmuHwResult *r)
{
    bool hit = fz_tlb_lookup(cpu, a, r);

    f->count->accesses++;
    f->count->by_levels[fz_levels(cpu)]++;
    if (hit) {
        f->count->tlb_hits++;
    } else {
        memset(r, 0xa5, sizeof(*r));
        xmmu_hw_translate(cpu->vcpu, a, size, r);
        while (r->outcome == XMMU_HW_RING_FULL) {
            fz_spill(f, cpu);
            xmmu_hw_translate(cpu->vcpu, a, size, r);
        }
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
    fz_check_result(f, cpu, a, r, hit);
    if (!hit) {
        fz_tlb_fill(cpu, a, r, f->by_hole);
    }
    return r->outcome <= XMMU_HW_DIRECT;
}

static gva_t canonical(gva_t gva, unsigned levels)
{
    unsigned unused = levels == 5 ? 7 : 16;

    return (gva_t)((int64_t)(gva << unused) >> unused);
}

/* As an address of a mode with @levels. */
static gva_t usable(gva_t gva, unsigned levels)
{
    return levels >= 4 ? canonical(gva, levels) : gva & 0xffffffff;
}

gva_t fz_random_page(Fuzz *f, unsigned levels)
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

gva_t fz_random_gva(Fuzz *f, Cpu *cpu, unsigned size)
{
    Source *s = f->s;
    unsigned levels = fz_levels(cpu);
    unsigned slot = cpu->slot = source_below(s, f->switching ? 4 : RECENT);
    gva_t offset;

    if (source_percent(s, f->switching ? 2 : f->calm ? 6 : 20)) {
        cpu->recent[slot] = fz_random_page(f, levels);
        if (source_percent(s, 2)) {
            cpu->recent[slot] = canonical(source_bits(s, 64) & XMMU_PAGE_MASK,
                                          levels);
        }
    }
    offset = source_percent(s, 80) ? world_index(s) * 8 : source_bits(s, 12);
    if (offset + size > XMMU_PAGE_SIZE) {
        offset = XMMU_PAGE_SIZE - size;
    }
    return usable(offset | (cpu->recent[slot] & XMMU_PAGE_MASK), levels);
}

/* What a store puts there: entries, as tables are what matters. */
static void random_data(Fuzz *f, const Cpu *cpu, const XmmuHwResult *r, uint64_t data[8],
                        unsigned size)
{
    bool writable;
    uint8_t *mem = world_host(&f->world, fz_as(cpu), r->gpa, &writable);
    bool in_pool = mem && world_pool_index(&f->world, mem) >= 0;

    memset(data, 0, 64);
    data[0] = in_pool ? world_changed_entry(&f->world, f->s, mem)
                      : world_entry(&f->world, f->s);
    for (unsigned i = 1; i < 8 && size > 8; i++) {
        data[i] = world_entry(&f->world, f->s);
    }
}

/* True: it may be done. */
static bool access_somewhere(Fuzz *f, Cpu *cpu, uint8_t want, unsigned size,
                             unsigned bits, XmmuHwResult *r)
{
    XmmuAccess a = {
        .gva = fz_random_gva(f, cpu, size),
        .want = want,
        .user = bits >> 2 & 1,
        .smap_off = !(bits >> 2 & 1) && (bits >> 3 & 1),
    };

    if (source_percent(f->s, f->switching ? 35 : f->calm ? 20 : 10)) {
        /* What may be cached: does it survive what it must not? */
        a.gva = usable((cpu->good.gva & XMMU_PAGE_MASK) | (a.gva & ~XMMU_PAGE_MASK),
                       fz_levels(cpu));
        a.user = cpu->good.user;
        a.smap_off = cpu->good.smap_off;
    }
    if (fz_translate(f, cpu, &a, size, r)) {
        cpu->good = a;
        return true;
    }
    if (source_percent(f->s, f->switching ? 8 : 50)) {
        /* Stay where something is mapped. */
        cpu->recent[cpu->slot] = fz_random_page(f, fz_levels(cpu));
    }
    return false;
}

static unsigned random_size(Source *s)
{
    static const uint8_t sizes[] = { 8, 8, 8, 4, 8, 4, 1, 2, 16, 32, 64, 3 };

    return sizes[source_below(s, sizeof(sizes))];
}

static void store_there(Fuzz *f, Cpu *cpu, const XmmuHwResult *r, unsigned size)
{
    uint64_t data[8];

    random_data(f, cpu, r, data, size);
    if (fz_store_soon(f, cpu, r, data, size)) {
        fz_flush_after_write(f);
    }
}

void fz_op_access(Fuzz *f, Cpu *cpu)
{
    unsigned size = random_size(f->s);
    unsigned bits = source_bits(f->s, 8);
    uint8_t want = !(bits & 3) ? XMMU_PROT_EXEC
                 : bits & 1 ? XMMU_PROT_READ : XMMU_PROT_WRITE;
    XmmuHwResult r;

    if (!access_somewhere(f, cpu, want, size, bits, &r) || want != XMMU_PROT_WRITE ||
        !(f->limits->features & FUZZ_WRITES) ||
        bits >> 6 == 0 || (f->calm && bits >> 6 != 1)) {
        return;
    }
    store_there(f, cpu, &r, size);
}

void fz_op_store(Fuzz *f, Cpu *cpu)
{
    unsigned size = random_size(f->s);
    unsigned bits = source_bits(f->s, 8);
    XmmuHwResult r;

    if (access_somewhere(f, cpu, XMMU_PROT_WRITE, size, bits, &r) &&
        (f->limits->features & FUZZ_WRITES)) {
        store_there(f, cpu, &r, size);
    }
}

/* Change an entry that is in use; true when there is one. */
static bool write_hot(Fuzz *f)
{
    const HotEntry *hot = &f->hot[source_below(f->s, HOT)];
    bool writable;
    uint8_t *mem = hot->size ? world_host(&f->world, hot->as_id, hot->gpa, &writable)
                             : NULL;
    uint64_t entry;

    if (!mem || world_pool_index(&f->world, mem) < 0) {
        return false;
    }
    entry = world_changed_entry(&f->world, f->s, mem);
    if (hot->size == 4 && (hot->gpa & 4)) {
        entry >>= 32;
    }
    fz_write_physical(f, hot->as_id, hot->gpa, &entry, hot->size);
    fz_flush_after_write(f);
    return true;
}

static void write_random(Fuzz *f)
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
    fz_write_physical(f, as_id, source_percent(s, 5) ? world_alias(page->gpa) + offset
                                                  : page->gpa + offset, &entry, size);
    fz_flush_after_write(f);
}

void fz_op_write_table(Fuzz *f)
{
    if (source_percent(f->s, f->hot_percent) && write_hot(f)) {
        return;
    }
    write_random(f);
}
