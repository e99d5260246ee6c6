/*
 * xmmu guest "pcid": process-context identifiers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * CR4.PCIDE, bit 63 of MOV to CR3 and INVPCID: when they raise an exception, and what
 * a translation may be after any sequence of changes, switches and flushes.  A model
 * keeps, for each PCID and page, the set of pages that a CPU could have cached: what was
 * mapped while the PCID was the current one, since the last flush that concerns it (Intel
 * SDM vol. 3, 4.10.2 to 4.10.4).  A load must find one of these.
 */
#include "paging.h"

#define NO_FLUSH    BIT(63)

enum { BY_ADDRESS, BY_PCID, ALL, NON_GLOBAL };

typedef struct Descriptor {
    u64 pcid;
    u64 address;
} Descriptor;

static bool has_invpcid;

static void invpcid(ulong type, u64 pcid, u64 address)
{
    Descriptor d = { pcid, address };

    asm volatile("invpcid %0, %1" : : "m"(d), "r"(type) : "memory");
}

static Exc try_invpcid(ulong type, u64 pcid, u64 address)
{
    Descriptor d = { pcid, address };
    Cpu *cpu = try_arm();

    TRY(cpu, "invpcid %[d], %[type]", : [d] "m"(d), [type] "r"(type)
        : TRY_CLOBBER, "memory");
    return cpu->exc;
}

static Exc try_invpcid_at(ulong type, ulong at)
{
    Cpu *cpu = try_arm();

    TRY(cpu, "invpcid (%[at]), %[type]", : [at] "r"(at), [type] "r"(type)
        : TRY_CLOBBER, "memory");
    return cpu->exc;
}

static bool is_gp(Exc e)
{
    return e.vector == 13 && e.error == 0;
}

/* ---- Rules ---------------------------------------------------------------------- */

static void test_pcide_rules(const Space *s)
{
    ulong cr4 = read_cr4();
    Exc e;

    e = try_write_cr(3, s->root | NO_FLUSH);
    check(is_gp(e), "bit-63-without-pcide", "vector %d", e.vector);
    write_cr3(s->root | 8);
    e = try_write_cr(4, cr4 | CR4_PCIDE);
    check(is_gp(e), "pcide-with-low-bits-in-cr3", "vector %d", e.vector);
    write_cr3(s->root);
    write_cr4(cr4 | CR4_PCIDE);
    check(read_cr4() & CR4_PCIDE, "pcide-set", "cr4 %p", read_cr4());
    for (u64 pcid = 0; pcid < 0x1000; pcid = pcid * 2 + 1) {
        write_cr3(s->root | pcid | (pcid & 2 ? NO_FLUSH : 0));
        check(read_cr3() == (s->root | pcid), "bit-63-not-stored", "cr3 %p",
              read_cr3());
    }
    e = try_write_cr(3, s->root | NO_FLUSH | BIT(60));
    check(is_gp(e), "cr3-bit-60", "vector %d", e.vector);
    check(read_cr3() == (s->root | 0xfff), "cr3-as-before", "cr3 %p", read_cr3());
    e = try_write_cr(0, read_cr0() & ~(ulong)CR0_PG);
    check(is_gp(e), "paging-off-with-pcide", "vector %d", e.vector);
    /* The PCID is no obstacle for clearing PCIDE. */
    write_cr4(cr4);
    check(read_cr3() == (s->root | 0xfff), "pcide-cleared", "cr3 %p", read_cr3());
    write_cr3(s->root);
}

static void test_operands(const Space *s, bool pcide)
{
    const char *name = pcide ? "operands" : "operands-without-pcide";
    ulong cr4 = read_cr4();

    write_cr3(s->root);
    write_cr4(cr4 | (pcide ? CR4_PCIDE : 0));
    for (ulong type = 0; type < 4; type++) {
        Exc e = try_invpcid(type, 0, 0x1000);
        check(e.vector == -1, name, "type %p: vector %d", type, e.vector);
        e = try_invpcid(type, 5, 0x1000);
        check(is_gp(e) == (!pcide && type <= BY_PCID), name,
              "type %p of PCID 5: vector %d", type, e.vector);
        for (int bit = 12; bit < 64; bit++) {
            e = try_invpcid(type, BIT(bit), 0x1000);
            check(is_gp(e), name, "type %p, bit %d: vector %d", type, bit, e.vector);
        }
        e = try_invpcid(type, 0, BIT(62));
        check(is_gp(e) == (type == BY_ADDRESS), name,
              "type %p, not canonical: vector %d", type, e.vector);
        e = try_invpcid(type, 0, ~(u64)0 << 20);
        check(e.vector == -1, name, "type %p, high half: vector %d", type, e.vector);
    }
    for (int bit = 2; bit < 64; bit++) {
        Exc e = try_invpcid(BIT(bit), 0, 0);
        check(is_gp(e), name, "type %p: vector %d", BIT(bit), e.vector);
    }
    write_cr4(cr4);
}

/* The descriptor is read like any operand; across two pages, too. */
static void test_memory_operand(const Space *s)
{
    ulong at = s->format->window, page = pool_page();
    Exc e;

    write_cr3(s->root);
    map(s, at, page, P | A);
    set(s, at + PAGE, 1, 0);
    e = try_invpcid_at(ALL, at);
    check(e.vector == -1, "descriptor", "vector %d", e.vector);
    e = try_invpcid_at(ALL, at + PAGE - 8);
    check(e.vector == 14 && e.error == 0 && e.cr2 == at + PAGE, "descriptor-fault",
          "vector %d error %x cr2 %X", e.vector, e.error, e.cr2);
    e = try_invpcid_at(ALL, BIT(62));
    check(is_gp(e) || e.vector == 12, "descriptor-not-canonical", "vector %d",
          e.vector);
}

/* invpcid (%rcx), %rax in user mode, and its register form. */
static void test_encoding(const Space *s)
{
    static const u8 memory_form[] = { 0x66, 0x0f, 0x38, 0x82, 0x01 };
    static const u8 register_form[] = { 0x66, 0x0f, 0x38, 0x82, 0xc1 };
    static const u8 no_prefix[] = { 0x0f, 0x38, 0x82, 0x01 };
    const struct {
        const char *name;
        const u8 *code;
        ulong size;
        int vector;
    } cases[] = {
        { "user-mode", memory_form, sizeof(memory_form), has_invpcid ? 13 : 6 },
        { "register-form", register_form, sizeof(register_form), 6 },
        { "without-prefix", no_prefix, sizeof(no_prefix), 6 },
    };
    ulong at = s->format->window + 16 * PAGE, page = pool_page();

    map(s, at, page, P | W | U | A | D);
    flush_all();
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        u32 value = 0;
        Exc e;

        put_code((void *)page);
        memcpy((u8 *)page + 8, cases[i].code, cases[i].size);
        e = probe_user(EXEC, at, &value);
        check(e.vector == cases[i].vector, cases[i].name, "vector %d error %x",
              e.vector, e.error);
    }
}

/* ---- The model --------------------------------------------------------------------- */

#define PCIDS       5
#define SPACES      4           /* the last PCID shares the first one's tables */
#define TABLES      2           /* page tables for the window, in each space */
#define PAGES       6
#define VALUES      5           /* pages that a page may be mapped to; 0: none */

typedef struct Area {
    Space space;
    ulong table[TABLES];        /* physical */
    ulong pde;                  /* the entry that selects one of them */
    unsigned selected;
    u8 value[TABLES][PAGES];    /* in the page tables now */
    ulong data[TABLES][PAGES][VALUES];
} Area;

/* What the CPU may have cached for one PCID. */
typedef struct Cached {
    u8 tables;                  /* set of page tables, by paging-structure caches */
    u16 pages[PAGES];           /* set of table * VALUES + value */
} Cached;

static Area areas[SPACES];
static Cached cached[PCIDS];
static unsigned current;        /* PCID's index */

static Area *area_of(unsigned pcid)
{
    return &areas[pcid % SPACES];
}

static u64 pcid_of(unsigned pcid)
{
    static const u16 pcids[PCIDS] = { 0, 1, 0x7ff, 0xfff, 0x800 };

    return pcids[pcid];
}

static u16 bit_of(unsigned table, unsigned value)
{
    return 1u << (table * VALUES + value);
}

/* While its PCID is the current one, what is mapped may be cached at any time. */
static void may_be_cached(unsigned pcid)
{
    const Area *a = area_of(pcid);
    Cached *c = &cached[pcid];

    c->tables |= 1u << a->selected;
    for (unsigned t = 0; t < TABLES; t++) {
        for (unsigned page = 0; page < PAGES && (c->tables >> t & 1); page++) {
            c->pages[page] |= bit_of(t, a->value[t][page]);
        }
    }
}

static void forget(unsigned pcid)
{
    memset(&cached[pcid], 0, sizeof(cached[pcid]));
}

/* The translations of one page, and the ways to it. */
static void forget_page(unsigned pcid, unsigned page)
{
    cached[pcid].tables = 0;
    cached[pcid].pages[page] = 0;
}

/* ---- What the guest does -------------------------------------------------------------- */

static ulong window(const Area *a, unsigned page)
{
    return a->space.format->window + page * PAGE;
}

static void change_page(void)
{
    Area *a = &areas[random32() % SPACES];
    unsigned t = random32() % TABLES, page = random32() % PAGES;
    unsigned value = random32() % VALUES;

    a->value[t][page] = value;
    entry_set(a->space.format, a->table[t], page,
              value ? a->data[t][page][value] | P | W | U | A | D : 0);
}

static void change_table(void)
{
    Area *a = &areas[random32() % SPACES];

    a->selected = random32() % TABLES;
    *(volatile u64 *)a->pde = a->table[a->selected] | P | W | U | A;
}

static void switch_to(unsigned pcid, bool keep)
{
    current = pcid;
    if (!keep) {
        forget(pcid);
    }
    write_cr3(area_of(pcid)->space.root | pcid_of(pcid) | (keep ? NO_FLUSH : 0));
}

static void flush_somehow(void)
{
    unsigned pcid = random32() % PCIDS, page = random32() % PAGES;
    unsigned how = random32() % 8;

    switch (how) {
    case BY_ADDRESS:
        invpcid(how, pcid_of(pcid), window(area_of(pcid), page));
        forget_page(pcid, page);
        break;
    case BY_PCID:
        invpcid(how, pcid_of(pcid), 0);
        forget(pcid);
        break;
    case ALL:
    case NON_GLOBAL:
        invpcid(how, 0, 0);
        memset(cached, 0, sizeof(cached));
        break;
    case 4:
        write_cr4(read_cr4() ^ CR4_PGE);
        memset(cached, 0, sizeof(cached));
        break;
    default:
        invlpg(window(area_of(current), page));
        forget_page(current, page);
        break;
    }
}

static bool allowed(unsigned page, Exc e, u32 found)
{
    const Area *a = area_of(current);

    for (unsigned t = 0; t < TABLES; t++) {
        for (unsigned value = 0; value < VALUES; value++) {
            if (!(cached[current].pages[page] & bit_of(t, value))) {
                continue;
            }
            if (value ? e.vector == -1 && found == *(u32 *)a->data[t][page][value]
                      : e.vector == 14 && e.error == 0) {
                return true;
            }
        }
    }
    return false;
}

static bool load(void)
{
    unsigned page = random32() % PAGES;
    u32 found = 0;
    Exc e;

    may_be_cached(current);
    e = probe(READ, window(area_of(current), page), &found);
    if (allowed(page, e, found)) {
        return true;
    }
    print("# PCID %x page %d: vector %d error %x found %x, allowed %x\n",
          (u32)pcid_of(current), page, e.vector, e.error, found,
          cached[current].pages[page]);
    return false;
}

static void build_area(Area *a, const Format *f, u32 *next)
{
    a->space = space_new(f);
    a->pde = entry_at(&a->space, f->window, 2);
    a->selected = 0;
    for (unsigned t = 0; t < TABLES; t++) {
        a->table[t] = pool_page();
        for (unsigned page = 0; page < PAGES; page++) {
            a->value[t][page] = 0;
            for (unsigned value = 1; value < VALUES; value++) {
                a->data[t][page][value] = pool_page();
                *(u32 *)a->data[t][page][value] = (*next)++;
            }
        }
    }
    *(u64 *)a->pde = a->table[0] | P | W | U | A;
}

static void test_model(const Format *f)
{
    u32 rounds = has_word("long") ? 2000000 : 60000, next = 0x1d000000;
    bool good = true;

    for (unsigned i = 0; i < SPACES; i++) {
        build_area(&areas[i], f, &next);
    }
    space_use(&areas[0].space);
    write_cr4(read_cr4() | CR4_PCIDE);
    memset(cached, 0, sizeof(cached));
    current = 0;
    for (u32 i = 0; i < rounds && good; i++) {
        u32 what = random32() % 100;

        may_be_cached(current);
        if (what < 25) {
            change_page();
        } else if (what < 28) {
            change_table();
        } else if (what < 45) {
            switch_to(random32() % PCIDS, random32() % 4);
        } else if (what < 55) {
            flush_somehow();
        } else {
            good = load();
        }
    }
    check(good, f->levels == 5 ? "model-5-level" : "model-4-level", "see above");
    write_cr3(areas[0].space.root);
    write_cr4(read_cr4() & ~(ulong)(CR4_PCIDE | CR4_PGE));
}

/* ---- What flushes all PCIDs ---------------------------------------------------------------- */

static ulong frame[3];

static u32 read_at(ulong address)
{
    return *(volatile u32 *)address;
}

static void map_frame(const Space *s, unsigned n, u64 bits)
{
    map(s, s->format->window, frame[n], P | W | U | A | D | bits);
}

typedef struct Everything {
    const char *name;
    void (*flush)(const Space *here);
    bool globals;               /* global translations, too */
} Everything;

static void clear_pcide(const Space *here)
{
    ulong cr3 = read_cr3();

    write_cr4(read_cr4() & ~(ulong)CR4_PCIDE);
    write_cr3(here->root);
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(cr3 | NO_FLUSH);
}

static void flip_pge(const Space *here)
{
    (void)here;
    write_cr4(read_cr4() ^ CR4_PGE);
    write_cr4(read_cr4() ^ CR4_PGE);
}

static void type_2(const Space *here)
{
    (void)here;
    invpcid(ALL, 0, 0);
}

static void type_3(const Space *here)
{
    (void)here;
    invpcid(NON_GLOBAL, 0, 0);
}

static void invlpg_window(const Space *here)
{
    invlpg(here->format->window);
}

static const Everything everything[] = {
    { "pcide-cleared-flushes-all", clear_pcide, true },
    { "pge-flushes-all", flip_pge, true },
    { "type-2-flushes-all", type_2, true },
    { "type-3-flushes-all", type_3, false },
    { "invlpg-flushes-a-global-page", invlpg_window, true },
};

/* The page of another PCID, seen there before the flush and after. */
static void test_everything(const Format *f)
{
    Space here = space_new(f), there = space_new(f);

    for (unsigned i = 0; i < ARRAY_SIZE(frame); i++) {
        frame[i] = pool_page();
        *(u32 *)frame[i] = i;
    }
    space_use(&here);
    write_cr4(read_cr4() | CR4_PCIDE | CR4_PGE);
    for (unsigned i = 0; i < 2 * ARRAY_SIZE(everything); i++) {
        const Everything *e = &everything[i / 2];
        bool global = i & 1;
        u32 before, after;

        if (global ? !e->globals : e->flush == invlpg_window) {
            continue;
        }
        map_frame(&here, 1, global ? G : 0);
        map_frame(&there, 1, global ? G : 0);
        write_cr3(there.root | 7);
        invlpg(f->window);
        before = read_at(f->window);
        write_cr3(here.root | 3);
        map_frame(&here, 2, global ? G : 0);
        map_frame(&there, 2, global ? G : 0);
        e->flush(&here);
        write_cr3(there.root | 7 | NO_FLUSH);
        after = read_at(f->window);
        check(before == 1 && after == 2, e->name, "%s page: before %d after %d",
              global ? "global" : "plain", before, after);
    }
    write_cr3(here.root);
    write_cr4(read_cr4() & ~(ulong)(CR4_PCIDE | CR4_PGE));
}

/* ---- Without the features --------------------------------------------------------------------- */

static void test_not_offered(const Space *s)
{
    Exc e = try_invpcid(ALL, 0, 0);

    check(e.vector == 6, "invpcid-not-offered", "vector %d", e.vector);
    test_encoding(s);
    if (!has_word("plain-tcg")) {
        e = try_write_cr(4, read_cr4() | CR4_PCIDE);
        check(is_gp(e), "pcide-not-offered", "vector %d", e.vector);
    }
}

void guest_main(void)
{
    const Format *formats[] = { &format_4level, &format_5level };
    Space s = space_new(&format_4level);
    u32 r[4];

    cpuid(7, 0, r);
    has_invpcid = r[1] >> 10 & 1;
    space_use(&s);
    if (!cpu_has.pcid || !has_invpcid) {
        test_not_offered(&s);
        finish();
    }
    test_pcide_rules(&s);
    test_operands(&s, false);
    test_operands(&s, true);
    test_memory_operand(&s);
    test_encoding(&s);
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        if (formats[i]->levels == 5 && !cpu_has.la57) {
            skip("5-level", "the CPU has no LA57");
            continue;
        }
        test_model(formats[i]);
        test_everything(formats[i]);
    }
    finish();
}
