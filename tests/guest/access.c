/*
 * xmmu guest "access": permissions, reserved bits, A/D bits, error codes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every combination of the permission bits of a leaf and of one table entry
 * above it, at every level, under every setting of WP, SMEP, SMAP, AC and NXE,
 * for read, write and fetch by user and supervisor; compared with the model in
 * paging.c.  Then reserved bits one by one, protection keys, and what the CPU
 * writes back into the tables.
 */
#include "paging.h"

static ulong test_page;         /* aligned as the largest page in use */

/* A path of new tables down to @level; nothing mapped yet.  The flush is what
 * makes a new PDPTE count in PAE paging. */
static void fresh_path(const Space *s, ulong at, int level)
{
    set(s, at, s->format->levels, 0);
    set(s, at, level, 0);
    flush_all();
}

typedef struct Tally {
    unsigned done, bad;
    Exc got, want;
    Mode mode;
    Kind kind;
    u64 leaf, above;
} Tally;

static Exc one_access(const Space *s, const Mode *m, Kind kind, ulong address,
                      Exc *want)
{
    u32 value = 0x1234c3;

    *want = expect(s, m, kind, address);
    put_code((void *)test_page);
    return mode_probe(m, kind, address, &value);
}

static bool same(const Exc *a, const Exc *b)
{
    return a->vector == b->vector && a->error == b->error && a->cr2 == b->cr2;
}

static void try_access(const Space *s, const Mode *m, Kind kind, ulong address,
                       Tally *tally, u64 leaf, u64 above)
{
    Exc want, got = one_access(s, m, kind, address, &want);

    tally->done++;
    if (same(&got, &want)) {
        return;
    }
    if (!tally->bad++) {
        *tally = (Tally) { tally->done, 1, got, want, *m, kind, leaf, above };
    }
}

static void tell(const Tally *t, const char *name)
{
    check(t->done && !t->bad, name,
          "%d of %d wrong; first: %s %s wp=%d smep=%d smap=%d ac=%d nxe=%d "
          "pkru=%x leaf=%X above=%X: got %d/%x cr2 %X, want %d/%x cr2 %X",
          t->bad, t->done, t->mode.user ? "user" : "supervisor",
          t->kind == READ ? "read" : t->kind == WRITE ? "write" : "fetch",
          t->mode.wp, t->mode.smep, t->mode.smap, t->mode.ac, t->mode.nxe,
          t->mode.pkru, t->leaf, t->above, t->got.vector, t->got.error,
          t->got.cr2, t->want.vector, t->want.error, t->want.cr2);
}

static const char *name_of(const Space *s, const char *what, int level)
{
    static char text[80];
    static const char *const size[] = { "", "4k", "large", "1g" };
    const char *parts[] = { s->format->name, "/", what, "/", size[level] };
    char *to = text;

    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        for (const char *from = parts[i]; *from;) {
            *to++ = *from++;
        }
    }
    *to = 0;
    return text;
}

/* The six kinds of access under one setting of the control bits. */
static void all_accesses(const Space *s, Mode m, ulong address, Tally *tally,
                         u64 leaf, u64 above)
{
    for (int who = 0; who < 3; who++) {
        m.user = who == 1;
        m.ac = who == 2;
        if (m.ac && !m.smap) {
            continue;
        }
        for (Kind kind = READ; kind <= EXEC; kind++) {
            try_access(s, &m, kind, address, tally, leaf, above);
        }
    }
}

static u64 permission_bits(unsigned i)
{
    return (i & 1 ? P : 0) | (i & 2 ? W : 0) | (i & 4 ? U : 0)
           | (i & 8 ? NX : 0);
}

/* All combinations for a leaf at @leaf_level and the table entry at @upper. */
static void permissions_at(const Space *s, const Mode *m, int leaf_level,
                           int upper, Tally *tally)
{
    const Format *f = s->format;
    ulong at = f->window;
    unsigned combinations = f->entry_size == 8 ? 16 : 8;
    u64 table = get(s, at, upper) & ~(P | W | U | NX | A);

    for (unsigned i = 0; i < combinations * combinations; i++) {
        u64 leaf = permission_bits(i % combinations);
        u64 above = permission_bits(i / combinations);

        /* A not-present upper entry is one case, not eight. */
        if (!(above & P) && above) {
            continue;
        }
        set(s, at, upper, table | P | W | U);
        set(s, at, leaf_level, test_page | leaf | (leaf_level > 1 ? PS : 0));
        set(s, at, upper, table | above);
        invlpg(at);
        all_accesses(s, *m, at, tally, leaf, above);
    }
    set(s, at, upper, table | P | W | U);
}

static void permissions(const Space *s, int leaf_level)
{
    const Format *f = s->format;
    Tally tally = { 0 };

    fresh_path(s, f->window, leaf_level);
    for (unsigned i = 0; i < 16; i++) {
        Mode m = { .wp = i & 1, .smep = i & 2, .smap = i & 4, .nxe = i & 8 };

        if ((m.smep && !cpu_has.smep) || (m.smap && !cpu_has.smap)
            || (m.nxe && !cpu_has.nx)) {
            continue;
        }
        mode_use(&m);
        for (int upper = leaf_level + 1; upper <= f->levels; upper++) {
            if (f->levels == 3 && upper == 3) {
                continue;               /* a PDPTE has no permissions */
            }
            permissions_at(s, &m, leaf_level, upper, &tally);
        }
        if (leaf_level == f->levels || (f->levels == 3 && leaf_level == 2)) {
            for (unsigned j = 0; j < 16; j++) {
                u64 leaf = permission_bits(j);

                if (f->entry_size == 4 && (leaf & NX)) {
                    continue;
                }
                set(s, f->window, leaf_level,
                    test_page | leaf | (leaf_level > 1 ? PS : 0));
                invlpg(f->window);
                all_accesses(s, m, f->window, &tally, leaf, 0);
            }
        }
    }
    tell(&tally, name_of(s, "permissions", leaf_level));
}

/* Set each bit that is reserved, alone, in the entry at each level. */
static void reserved_bits(const Space *s, int leaf_level)
{
    const Format *f = s->format;
    Tally tally = { 0 };
    ulong at = f->window;

    fresh_path(s, at, leaf_level);
    set(s, at, leaf_level, test_page | P | W | U | (leaf_level > 1 ? PS : 0));
    for (unsigned nxe = 0; nxe <= cpu_has.nx; nxe++) {
        Mode m = { .wp = true, .nxe = nxe };

        mode_use(&m);
        for (int level = leaf_level; level <= f->levels; level++) {
            u64 good = get(s, at, level);

            if (f->levels == 3 && level == 3) {
                continue;               /* checked when CR3 is loaded */
            }
            for (int bit = 7; bit < f->entry_size * 8; bit++) {
                u64 bad = good | BIT(bit);

                if (!reserved(f, &m, level, bad)) {
                    continue;
                }
                set(s, at, level, bad);
                invlpg(at);
                all_accesses(s, m, at, &tally, bad, level);
                set(s, at, level, good);
            }
        }
    }
    invlpg(at);
    if (tally.done) {
        tell(&tally, name_of(s, "reserved", leaf_level));
    }
}

#ifdef __x86_64__
static void protection_keys(const Space *s, int leaf_level)
{
    ulong at = s->format->window;
    Tally tally = { 0 };

    if (!cpu_has.pku) {
        skip(name_of(s, "pku", leaf_level), "no PKU");
        return;
    }
    fresh_path(s, at, leaf_level);
    for (unsigned i = 0; i < 64; i++) {
        u64 leaf = P | (i & 4 ? W : 0) | (i & 8 ? U : 0) | PKEY(5);
        Mode m = { .wp = i & 16, .smap = cpu_has.smap && (i & 32), .nxe = true,
                   .pke = true, .pkru = (i & 3) << 10 };

        set(s, at, leaf_level, test_page | leaf | (leaf_level > 1 ? PS : 0));
        invlpg(at);
        mode_use(&m);
        all_accesses(s, m, at, &tally, leaf, 0);
        /* WRPKRU needs no flush: another key's rights, then none. */
        m.pkru = ~(3u << 10) & ~3u;
        write_pkru(m.pkru);
        all_accesses(s, m, at, &tally, leaf, 0);
        m.pke = false;
        mode_use(&m);
        all_accesses(s, m, at, &tally, leaf, 0);
    }
    tell(&tally, name_of(s, "pku", leaf_level));
}

static void non_canonical(const Space *s)
{
    int top = s->format->levels == 5 ? 56 : 47;
    static const Kind kinds[] = { READ, WRITE };
    bool good = true;
    u32 value = 0;

    for (unsigned i = 0; i < 2; i++) {
        for (int bit = top; bit < 64; bit++) {
            Exc exc = probe(kinds[i], BIT(bit), &value);

            good &= exc.vector == 13 && exc.error == 0;
        }
    }
    check(good, name_of(s, "non-canonical", 0), "not #GP(0)");
}

/* Supervisor keys; the model in paging.c knows only user keys. */
static void supervisor_keys(const Space *s)
{
    static const struct {
        u32 pkrs;
        Kind kind;
        bool wp;
        int vector;
        u32 error;
    } cases[] = {
        { 0, READ, true, -1, 0 }, { 0, WRITE, true, -1, 0 },
        { 1u << 6, READ, true, 14, 0x21 }, { 1u << 6, WRITE, true, 14, 0x23 },
        { 1u << 6, EXEC, true, -1, 0 },
        { 2u << 6, READ, true, -1, 0 }, { 2u << 6, WRITE, true, 14, 0x23 },
        { 2u << 6, WRITE, false, -1, 0 }, { 1u << 6, WRITE, false, 14, 0x23 },
        { ~(3u << 6), WRITE, true, -1, 0 },
    };
    ulong at = s->format->window;

    if (!cpu_has.pks) {
        skip(name_of(s, "pks", 1), "no PKS");
        return;
    }
    fresh_path(s, at, 1);
    set(s, at, 1, test_page | P | W | PKEY(3));
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        Mode m = { .wp = cases[i].wp };
        u32 value = 0x1234c3;
        Exc exc;

        mode_use(&m);
        put_code((void *)test_page);
        write_cr4(read_cr4() | CR4_PKS);
        wrmsr(MSR_PKRS, cases[i].pkrs & ~3u);
        exc = probe(cases[i].kind, at, &value);
        wrmsr(MSR_PKRS, 0);
        write_cr4(read_cr4() & ~(ulong)CR4_PKS);
        check(exc.vector == cases[i].vector && exc.error == cases[i].error,
              name_of(s, "pks", 1), "case %d: got %d/%x, want %d/%x", i,
              exc.vector, exc.error, cases[i].vector, cases[i].error);
    }
}
#endif

/* ---- Accessed and dirty bits: Intel SDM vol. 3, 4.8 ---- */

static bool has_bits(const Space *s, ulong at, int level, u64 mask, u64 want)
{
    return (get(s, at, level) & mask) == want;
}

static bool upper_accessed(const Space *s, ulong at, int leaf_level, bool want)
{
    bool good = true;

    for (int level = leaf_level + 1; level <= s->format->levels; level++) {
        if (s->format->levels == 3 && level == 3) {
            continue;
        }
        /* Bit 6 of a table entry is ignored and never set. */
        good &= has_bits(s, at, level, A | D, want ? A : 0);
    }
    return good;
}

static void clear_bits(const Space *s, ulong at, int leaf_level)
{
    for (int level = leaf_level; level <= s->format->levels; level++) {
        if (!(s->format->levels == 3 && level == 3)) {
            set(s, at, level, get(s, at, level) & ~(A | D));
        }
    }
    flush_all();
}

static void accessed_dirty(const Space *s, int leaf_level)
{
    Mode m = { .wp = true, .nxe = cpu_has.nx };
    ulong at = s->format->window;
    u64 large = leaf_level > 1 ? PS : 0;
    u32 value = 0;
    bool good;

    mode_use(&m);
    put_code((void *)test_page);
    fresh_path(s, at, leaf_level);
    set(s, at, leaf_level, test_page | P | W | U | large);

    clear_bits(s, at, leaf_level);
    probe(READ, at, &value);
    good = has_bits(s, at, leaf_level, A | D, A)
           && upper_accessed(s, at, leaf_level, true);
    probe(WRITE, at, &value);
    good &= has_bits(s, at, leaf_level, A | D, A | D)
            && upper_accessed(s, at, leaf_level, true);
    check(good, name_of(s, "ad-read-then-write", leaf_level), "leaf %X",
          get(s, at, leaf_level));

    clear_bits(s, at, leaf_level);
    probe_user(WRITE, at, &value);
    good = has_bits(s, at, leaf_level, A | D, A | D);
    put_code((void *)test_page);
    clear_bits(s, at, leaf_level);
    probe_user(EXEC, at, &value);
    good &= has_bits(s, at, leaf_level, A | D, A);
    check(good, name_of(s, "ad-user", leaf_level), "leaf %X",
          get(s, at, leaf_level));

    /* A write that faults must not set D; then the same with the right to. */
    clear_bits(s, at, leaf_level);
    set(s, at, leaf_level, test_page | P | U | large);
    flush_all();
    probe(WRITE, at, &value);
    good = has_bits(s, at, leaf_level, D, 0);
    set(s, at, leaf_level, test_page | P | W | U | large);
    invlpg(at);
    probe(WRITE, at, &value);
    good &= has_bits(s, at, leaf_level, A | D, A | D);
    check(good, name_of(s, "ad-faulting-write", leaf_level), "leaf %X",
          get(s, at, leaf_level));

    /* WP=0 lets the supervisor write a read-only page: D is set there too. */
    m.wp = false;
    mode_use(&m);
    set(s, at, leaf_level, test_page | P | large);
    flush_all();
    probe(READ, at, &value);
    good = has_bits(s, at, leaf_level, A | D, A);
    probe(WRITE, at, &value);
    good &= has_bits(s, at, leaf_level, A | D, A | D);
    check(good, name_of(s, "ad-wp0", leaf_level), "leaf %X",
          get(s, at, leaf_level));
    m.wp = true;
    mode_use(&m);

    /* D cleared and flushed by INVLPG is set again by the next write. */
    set(s, at, leaf_level, test_page | P | W | large);
    flush_all();
    good = true;
    for (int i = 0; i < 3; i++) {
        probe(WRITE, at, &value);
        good &= has_bits(s, at, leaf_level, A | D, A | D);
        set(s, at, leaf_level, get(s, at, leaf_level) & ~D);
        invlpg(at);
        probe(READ, at, &value);
        good &= has_bits(s, at, leaf_level, A | D, A);
    }
    check(good, name_of(s, "ad-again", leaf_level), "leaf %X",
          get(s, at, leaf_level));
}

static void run_format(const Format *f, int largest)
{
    Space s;

    test_page = largest == 2 ? pool_pages(f->entry_size == 8 ? 512 : 1024) : 0;
    s = space_new(f);
    if (largest == 3) {
        /* The gigabyte at 0: its first page is the test page. */
        test_page = 0;
    }
    space_use(&s);
    for (int level = 1; level <= largest; level++) {
        if (level == 3) {
            test_page = 0;
        } else if (!test_page) {
            test_page = pool_pages(512);
        }
        permissions(&s, level);
        reserved_bits(&s, level);
#ifdef __x86_64__
        protection_keys(&s, level);
#endif
        accessed_dirty(&s, level);
    }
#ifdef __x86_64__
    supervisor_keys(&s);
    non_canonical(&s);
#endif
}

void guest_main(void)
{
    print("TAP version 13\n");
#ifdef __x86_64__
    run_format(&format_4level, cpu_has.page1g ? 3 : 2);
    if (cpu_has.la57) {
        run_format(&format_5level, cpu_has.page1g ? 3 : 2);
    } else {
        skip("5-level", "no LA57");
    }
#else
    run_format(&format_32, 2);
    run_format(&format_pae, 2);
    run_format(&format_32, 2);
#endif
}
