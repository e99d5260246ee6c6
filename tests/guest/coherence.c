/*
 * xmmu guest "coherence": what a change of the tables must do, and when
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Tables are changed in every way that guests know (one entry, pieces of one,
 * several at once, through themselves, through another mapping, as data), then
 * flushed as the manuals ask (Intel SDM vol. 3, 4.10.4), then used.  Where a
 * stale translation is allowed nothing is checked.
 */
#include "paging.h"

static const Space *s;          /* the space under test, in use */
static const Format *f;
static ulong at;                /* its window */
static ulong span;                /* bytes one level-2 entry maps */
static unsigned entries;        /* in a table */

#define BAD 0xbad00000u         /* + error code: what see() says of a fault */

/* ---- Small helpers ---- */

static u32 see(ulong address)
{
    u32 value = 0;
    Exc exc = probe(READ, address, &value);

    return exc.vector == -1 ? value : BAD + exc.error;
}

static u32 store(ulong address, u32 value)
{
    Exc exc = probe(WRITE, address, &value);

    return exc.vector == -1 ? 0 : BAD + exc.error;
}

/* A page whose first word tells it from all others. */
static ulong signed_page(void)
{
    ulong page = pool_page();

    *(volatile u32 *)page = page | 1;
    return page;
}

static u32 sign(ulong page)
{
    return page | 1;
}

static ulong table_at(ulong address, int level)
{
    return entry_at(s, address, level) & ~(PAGE - 1);
}

static void start_path(void)
{
    set(s, at, f->levels, 0);
    set(s, at, 1, 0);
    flush_all();
}

static bool tell(bool good, const char *name)
{
    char text[80];
    char *to = text;
    const char *parts[] = { f->name, "/", name };

    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        for (const char *from = parts[i]; *from;) {
            *to++ = *from++;
        }
    }
    *to = 0;
    return check(good, text, "stale or wrong translation");
}

/* ---- Single changes ---- */

static void test_remap(void)
{
    ulong one = signed_page(), two = signed_page();
    bool good = true;

    start_path();
    for (int i = 0; i < 20; i++) {
        map(s, at, i & 1 ? two : one, P | W);
        invlpg(at);
        good &= see(at) == sign(i & 1 ? two : one);
    }
    tell(good, "remap-invlpg");
    for (int i = 0; i < 20; i++) {
        map(s, at, i & 1 ? two : one, P | W);
        flush_all();
        good &= see(at) == sign(i & 1 ? two : one);
    }
    tell(good, "remap-cr3");
}

static void test_present(void)
{
    ulong page = signed_page();
    int top = f->levels == 3 ? 2 : f->levels;
    bool good = true;

    start_path();
    map(s, at, page, P | W);
    for (int level = 1; level <= top; level++) {
        u64 entry = get(s, at, level);
        ulong where = entry_at(s, at, level);

        for (int i = 0; i < 4; i++) {
            entry_set(f, where, 0, 0);
            invlpg(at);
            good &= see(at) == BAD;
            /* Not-present is never cached: no flush (SDM vol. 3, 4.10.2.3). */
            entry_set(f, where, 0, entry);
            good &= see(at) == sign(page);
        }
    }
    tell(good, "present");
}

static void test_write_protect(void)
{
    ulong page = signed_page();
    int top = f->levels == 3 ? 2 : f->levels;
    bool good = true;

    write_cr0(read_cr0() | CR0_WP);
    start_path();
    map(s, at, page, P | W);
    for (int level = 1; level <= top; level++) {
        u64 entry = get(s, at, level) | A | (level == 1 ? D : 0);

        for (int i = 0; i < 4; i++) {
            set(s, at, level, entry & ~W);
            invlpg(at);
            good &= see(at) == sign(page) && store(at, 5) == BAD + 3;
            set(s, at, level, entry);
            invlpg(at);
            good &= store(at, sign(page)) == 0 && see(at) == sign(page);
        }
    }
    tell(good, "write-protect");
}

/* Another table at each level, with another page below. */
static void test_upper_change(void)
{
    int top = f->levels == 3 ? 2 : f->levels;
    bool good = true;

    for (int level = 2; level <= top; level++) {
        ulong page[2];
        u64 entry[2];

        for (int i = 0; i < 2; i++) {
            page[i] = signed_page();
            start_path();
            if (level <= f->levels) {
                set(s, at, level, 0);
            }
            map(s, at, page[i], P | W);
            entry[i] = get(s, at, level);
        }
        for (int i = 0; i < 10; i++) {
            set(s, at, level, entry[i & 1]);
            invlpg(at);
            good &= see(at) == sign(page[i & 1]);
        }
    }
    tell(good, "upper-change");
}

/* ---- Ways to write entries ---- */

static void write_pieces(ulong where, u64 value, int piece)
{
    for (int i = 0; i < f->entry_size; i += piece) {
        u64 part = value >> (8 * i);

        switch (piece) {
        case 1:
            *(volatile u8 *)(where + i) = part;
            break;
        case 2:
            *(volatile u16 *)(where + i) = part;
            break;
        default:
            *(volatile u32 *)(where + i) = part;
        }
    }
}

static void test_write_widths(void)
{
    ulong one = signed_page(), two = signed_page();
    bool good = true;

    start_path();
    for (int level = 1; level <= 2; level++) {
        u64 old[2];
        ulong where;

        map(s, at, one, P | W);
        old[0] = get(s, at, level);
        if (level == 2) {
            set(s, at, 2, 0);
        }
        map(s, at, two, P | W);
        old[1] = get(s, at, level);
        where = entry_at(s, at, level);
        flush_all();
        for (int piece = 1; piece <= 4; piece *= 2) {
            for (int i = 0; i < 4; i++) {
                good &= see(at) == sign(i & 1 ? one : two);
                write_pieces(where, old[i & 1], piece);
                invlpg(at);
                good &= see(at) == sign(i & 1 ? two : one);
            }
        }
    }
    tell(good, "write-widths");
}

/* A copy of @count bytes that is not split at @to's alignment. */
static void store_bytes(ulong to, const void *from, int count)
{
    if (count == 16) {
        asm volatile("movups (%0), %%xmm0; movups %%xmm0, (%1)"
                     : : "r"(from), "r"(to) : "memory");
    } else if (count == (int)sizeof(ulong)) {
        *(volatile ulong *)to = *(const volatile ulong *)from;
    } else {
        memcpy((void *)to, from, count);
    }
}

/*
 * The two entries around @boundary (the last of one and the first of the next)
 * get new values by stores that lie across it.
 */
static bool across(ulong boundary, ulong first, ulong second)
{
    static const int widths[] = { sizeof(ulong), 16, 3, 7 };
    ulong pages[4] = { signed_page(), signed_page(), signed_page(),
                       signed_page() };
    u8 image[32];
    int size = f->entry_size;
    bool good = true;

    for (unsigned i = 0; i < 24; i++) {
        int width = widths[i % 4];
        int back = width / 2 < size ? width / 2 : size;
        ulong a = pages[i & 1], b = pages[2 + (i & 1)];

        /* Start from whole entries that the store then changes in part. */
        memset(image, 0, sizeof(image));
        entry_set(f, (ulong)image, 0, a | P | W);
        entry_set(f, (ulong)image + size, 0, b | P | W);
        entry_set(f, boundary - size, 0, pages[!(i & 1)] | P | W);
        entry_set(f, boundary, 0, pages[2 + !(i & 1)] | P | W);
        flush_all();
        good &= see(first) == sign(pages[!(i & 1)]);
        good &= see(second) == sign(pages[2 + !(i & 1)]);
        memcpy((void *)(boundary - size), image, size - back);
        if (width - back < size) {
            memcpy((void *)(boundary + width - back), image + size + width - back,
                   size - (width - back));
        }
        if (width - back <= size) {
            store_bytes(boundary - back, image + size - back, width);
        } else {
            memcpy((void *)(boundary - back), image + size - back, back + size);
        }
        flush_all();
        good &= see(first) == sign(a) && see(second) == sign(b);
    }
    return good;
}

static void test_misaligned(void)
{
    ulong table;

    write_cr4(read_cr4() | CR4_OSFXSR);
    start_path();
    table = table_at(at, 1);
    tell(across(table + 7 * f->entry_size, at + 6 * PAGE, at + 7 * PAGE),
         "misaligned");

    /* The same across the border of two tables. */
    start_path();
    table = pool_pages(2);
    set(s, at, 2, table | P | W);
    set(s, at + span, 2, (table + PAGE) | P | W);
    flush_all();
    tell(across(table + PAGE, at + span - PAGE, at + span), "misaligned-pages");
}

static void test_string_writes(void)
{
    ulong pages[4], buffer = pool_page(), table;
    bool good = true;

    for (int i = 0; i < 4; i++) {
        pages[i] = signed_page();
    }
    start_path();
    table = table_at(at, 1);
    for (unsigned round = 0; round < 8; round++) {
        for (unsigned i = 0; i < entries; i++) {
            entry_set(f, buffer, i, pages[(i + round) & 3] | P | W);
        }
        memcpy((void *)table, (void *)buffer, PAGE);
        flush_all();
        for (unsigned i = 0; i < entries; i += 7) {
            good &= see(at + i * PAGE) == sign(pages[(i + round) & 3]);
        }
        if (round & 1) {
            memset((void *)table, 0, PAGE);
            flush_all();
            for (unsigned i = 0; i < entries; i += 31) {
                good &= see(at + i * PAGE) == BAD;
            }
        }
    }
    tell(good, "string-writes");
}

static void test_locked_writes(void)
{
    ulong one = signed_page(), two = signed_page(), where;
    bool good = true;

    start_path();
    map(s, at, one, P | W);
    where = entry_at(s, at, 1);
    for (int i = 0; i < 10; i++) {
        ulong next = i & 1 ? one : two;
        u64 old = entry_get(f, where, 0);
        u64 new = next | P | W;

        good &= see(at) == sign(i & 1 ? two : one);
        old = entry_get(f, where, 0);
        if (f->entry_size == 8) {
            u32 lo = old, hi = old >> 32;

            asm volatile("lock cmpxchg8b (%2)" : "+a"(lo), "+d"(hi)
                         : "r"(where), "b"((u32)new), "c"((u32)(new >> 32))
                         : "memory", "cc");
        } else {
            u32 v = new;

            asm volatile("xchg %0, (%1)" : "+r"(v) : "r"(where) : "memory");
            good &= v == (u32)old;
        }
        invlpg(at);
        good &= see(at) == sign(next);
        /* A locked OR and AND of single bits. */
        asm volatile("lock andb $0xfe, (%0)" : : "r"(where) : "memory", "cc");
        invlpg(at);
        good &= see(at) == BAD;
        asm volatile("lock orb $1, (%0)" : : "r"(where) : "memory", "cc");
        good &= see(at) == sign(next);
    }
    tell(good, "locked-writes");
}

/* ---- Tables seen through themselves ---- */

/*
 * The last entry of a level-2 table points to that table: the table is used at
 * levels 2 and 1 at once, and its level-1 tables appear as pages.
 */
static void test_recursive_level2(void)
{
    ulong one = signed_page(), two = signed_page();
    ulong directory, view, where;
    bool good = true;

    start_path();
    map(s, at, one, P | W);
    directory = table_at(at, 2);
    view = at + (entries - 1 - (at / span & (entries - 1))) * span;
    set(s, view, 2, directory | P | W);
    flush_all();

    where = view + (at / span & (entries - 1)) * PAGE;
    for (int i = 0; i < 10; i++) {
        ulong next = i & 1 ? one : two;

        entry_set(f, where, 0, next | P | W);
        invlpg(at);
        good &= see(at) == sign(next);
        good &= (get(s, at, 1) & ~(u64)(PAGE - 1)) == next;
    }
    /* The directory through itself: move the window's table elsewhere. */
    where = view + (entries - 1) * PAGE
            + (at / span & (entries - 1)) * f->entry_size;
    for (int i = 0; i < 10; i++) {
        ulong table = pool_page();
        ulong page = i & 1 ? one : two;

        entry_set(f, table, 0, page | P | W);
        entry_set(f, where, 0, table | P | W);
        flush_all();
        good &= see(at) == sign(page);
    }
    /* Take the way away through itself; a second store would find it gone. */
    *(volatile u32 *)(view + (entries - 1) * PAGE
                      + (entries - 1) * f->entry_size) = 0;
    flush_all();
    good &= see(view) == BAD && see(at) == sign(one);
    tell(good, "recursive-level2");
}

#ifdef __x86_64__
/* The root in itself: one page at all levels. */
static void test_recursive_root(void)
{
    ulong one = signed_page(), two = signed_page();
    unsigned slot = 300;
    ulong where = 0, path = at;
    bool good = true;

    start_path();
    map(s, at, one, P | W);
    entry_set(f, s->root, slot, s->root | P | W);
    flush_all();
    /* The address whose walk goes through @slot once, then as @at's does. */
    where = (path >> 9 & (BIT(level_shift(f, f->levels)) - 1) & ~7ul)
            | (ulong)slot << level_shift(f, f->levels);
    if (slot & 256) {
        where |= ~0ul << (level_shift(f, f->levels) + 9);
    }
    for (int i = 0; i < 10; i++) {
        ulong next = i & 1 ? one : two;

        good &= see(at) == sign(i & 1 ? two : one);
        entry_set(f, where, 0, next | P | W);
        invlpg(at);
        good &= see(at) == sign(next);
    }
    entry_set(f, s->root, slot, 0);
    flush_all();
    good &= see(where) == BAD;
    tell(good, "recursive-root");
}
#endif

/* ---- One table in two places ---- */

/* Intel SDM vol. 3, 4.6: each path has the rights of its own upper entries. */
static void test_shared_table(void)
{
    ulong page = signed_page(), table;
    ulong other = at + span;
    u32 value = 0;
    bool good = true;

    write_cr0(read_cr0() | CR0_WP);
    start_path();
    map(s, at, page, P | W | U);
    table = table_at(at, 1);
    set(s, at, 2, table | P | W | U);
    set(s, other, 2, table | P);
    flush_all();
    for (int i = 0; i < 8; i++) {
        bool swap = i & 1;
        ulong rw = swap ? other : at, ro = swap ? at : other;

        /* Which path faults first must not matter. */
        if (i & 2) {
            good &= store(rw, sign(page)) == 0;
            good &= store(ro, 5) == BAD + 3;
        } else {
            good &= store(ro, 5) == BAD + 3;
            good &= store(rw, sign(page)) == 0;
        }
        good &= probe_user(READ, rw, &value).vector == -1;
        good &= probe_user(READ, ro, &value).vector == 14;
        good &= see(rw) == sign(page) && see(ro) == sign(page);
        set(s, rw, 2, table | P);
        set(s, ro, 2, table | P | W | U);
        invlpg(rw);
        invlpg(ro);
    }
    /* A change of the shared table is a change in both places. */
    for (int i = 0; i < 8; i++) {
        ulong next = signed_page();

        entry_set(f, table, 0, next | P | W | U);
        invlpg(at);
        invlpg(other);
        good &= see(at) == sign(next) && see(other) == sign(next);
    }
    tell(good, "shared-table");
}

static void test_two_spaces(void)
{
    Space a = *s, b = space_new(f);
    ulong table, pages[8];
    bool good = true;

    for (unsigned i = 0; i < 8; i++) {
        pages[i] = signed_page();
    }
    start_path();
    table = table_at(at, 1);
    set(&b, at, 2, 0);
    set(&b, at, 2, table | P | W);
    for (int i = 0; i < 64; i++) {
        const Space *now = i & 1 ? &b : &a;
        ulong next = pages[random32() % 8];
        unsigned index = random32() % 4;

        write_cr3(now->root);
        entry_set(f, table, index, next | P | W);
        if (i % 3) {
            invlpg(at + index * PAGE);
            good &= see(at + index * PAGE) == sign(next);
        }
        write_cr3(i & 1 ? a.root : b.root);
        good &= see(at + index * PAGE) == sign(next);
    }
    /* A table that only the other space uses, changed from here. */
    write_cr3(b.root);
    good &= (see(at), true);
    write_cr3(a.root);
    set(s, at, 2, 0);
    for (int i = 0; i < 16; i++) {
        write_cr3(a.root);
        entry_set(f, table, 0, pages[i % 8] | P | W);
        write_cr3(b.root);
        good &= see(at) == sign(pages[i % 8]);
    }
    write_cr3(a.root);
    tell(good, "two-spaces");
}

/* ---- Large pages ---- */

static void test_large_split(void)
{
    unsigned count = entries;
    ulong large = pool_pages(count), table = pool_page(), odd = signed_page();
    bool good = true;

    for (unsigned i = 0; i < count; i++) {
        *(volatile u32 *)(large + i * PAGE) = sign(large + i * PAGE);
    }
    set(s, at, f->levels, 0);
    set(s, at, 2, 0);
    flush_all();
    for (int round = 0; round < 4; round++) {
        set(s, at, 2, large | P | W | PS);
        flush_all();
        for (unsigned i = 0; i < count; i += 17) {
            good &= see(at + i * PAGE) == sign(large + i * PAGE);
            good &= store(at + i * PAGE, sign(large + i * PAGE)) == 0;
        }
        for (unsigned i = 0; i < count; i++) {
            entry_set(f, table, i, (large + i * PAGE) | P | (i & 1 ? W : 0));
        }
        entry_set(f, table, 34, odd | P | W);
        set(s, at, 2, table | P | W);
        flush_all();
        for (unsigned i = 0; i < count; i += 17) {
            ulong page = i == 34 ? odd : large + i * PAGE;
            bool writable = (i & 1) || i == 34;

            good &= see(at + i * PAGE) == sign(page);
            good &= store(at + i * PAGE, sign(page))
                    == (writable ? 0 : BAD + 3);
        }
    }
    /* A large page that also holds a table in use: the same frame twice. */
    entry_set(f, large + 17 * PAGE, 0, odd | P | W);
    set(s, at + span, 2, (large + 17 * PAGE) | P | W);
    set(s, at, 2, large | P | W | PS);
    flush_all();
    good &= see(at + span) == sign(odd);
    for (int i = 0; i < 8; i++) {
        ulong page = signed_page();

        /* Change the table through the large page. */
        entry_set(f, at + 17 * PAGE, 0, page | P | W);
        invlpg(at + span);
        good &= see(at + span) == sign(page);
    }
    tell(good, "large-split");
}

#ifdef __x86_64__
static void test_gigabyte(void)
{
    ulong page = signed_page(), other = signed_page();
    ulong directory = pool_page(), base = at & ~(BIT(30) - 1);
    bool good = true;

    if (!cpu_has.page1g) {
        return;
    }
    set(s, at, f->levels, 0);
    set(s, at, 3, 0);
    for (ulong i = 0; i < 32; i++) {
        entry_set(f, directory, i, i << 21 | P | W | PS);
    }
    flush_all();
    for (int i = 0; i < 4; i++) {
        set(s, at, 3, P | W | PS);
        flush_all();
        good &= see(base + page) == sign(page);
        good &= see(base + other) == sign(other);
        set(s, at, 3, directory | P | W);
        flush_all();
        good &= see(base + page) == sign(page);
        good &= see(base + BIT(29)) == BAD;
    }
    tell(good, "gigabyte");
}
#endif

/* ---- Tables that become data and data that become tables ---- */

static void test_reuse(void)
{
    ulong page = signed_page(), table = pool_page();
    bool good = true;

    start_path();
    for (int round = 0; round < 16; round++) {
        memset((void *)table, 0, PAGE);
        entry_set(f, table, round, page | P | W);
        set(s, at, 2, table | P | W);
        flush_all();
        good &= see(at + round * PAGE) == sign(page);

        set(s, at, 2, 0);
        flush_all();
        for (unsigned i = 0; i < PAGE / 4; i++) {
            ((volatile u32 *)table)[i] = random32() | 1;
        }
        good &= see(at + round * PAGE) == BAD;
        for (unsigned i = 0; i < PAGE / 4; i++) {
            ((volatile u32 *)table)[i] = i;
        }
        for (unsigned i = 0; i < PAGE / 4; i++) {
            good &= ((volatile u32 *)table)[i] == i;
        }
    }
    tell(good, "reuse");
}

/* A page is written through one mapping while it is a table of another. */
static void test_alias(void)
{
    ulong table = pool_page(), view = at + PAGE;
    ulong one = signed_page(), two = signed_page();
    ulong target = at + span;
    bool good = true;

    start_path();
    map(s, view, table, P | W);
    invlpg(view);
    good &= store(view, 0) == 0;        /* a writable translation is cached */
    set(s, target, 2, table | P | W);
    for (int i = 0; i < 32; i++) {
        ulong next = i & 1 ? one : two;

        entry_set(f, view, 0, next | P | W);
        invlpg(target);
        good &= see(target) == sign(next);
        good &= entry_get(f, view, 0) >> 12 << 12 == next;
    }
    /* Entries written by one mapping, read back by the other, with A set. */
    good &= (entry_get(f, table, 0) & (P | W | A)) == (P | W | A);
    tell(good, "alias");
}

/* ---- Registers that change what entries mean ---- */

static void test_flips(void)
{
    ulong page = signed_page();
    u32 value = 0x1234c3;
    bool good = true;

    start_path();
    put_code((void *)page);
    map(s, at, page, P | U);
    flush_all();
    for (int i = 0; i < 8; i++) {
        write_cr0(i & 1 ? read_cr0() | CR0_WP : read_cr0() & ~(ulong)CR0_WP);
        good &= (probe(WRITE, at, &value).vector == 14) == (i & 1);
        put_code((void *)page);
    }
    tell(good, "flip-wp");
    for (int i = 0; cpu_has.smap && i < 8; i++) {
        write_cr4(i & 1 ? read_cr4() | CR4_SMAP : read_cr4() & ~(ulong)CR4_SMAP);
        good &= (probe(READ, at, &value).vector == 14) == (i & 1);
        good &= probe_ac(READ, at, &value).vector == -1;
    }
    write_cr4(read_cr4() & ~(ulong)CR4_SMAP);
    tell(good, "flip-smap");
    for (int i = 0; cpu_has.smep && i < 8; i++) {
        write_cr4(i & 1 ? read_cr4() | CR4_SMEP : read_cr4() & ~(ulong)CR4_SMEP);
        good &= (probe(EXEC, at, &value).vector == 14) == (i & 1);
    }
    write_cr4(read_cr4() & ~(ulong)CR4_SMEP);
    tell(good, "flip-smep");
    if (f->entry_size == 8 && cpu_has.nx) {
        map(s, at, page, P | NX);
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
        flush_all();
        for (int i = 0; i < 8; i++) {
            u64 efer = rdmsr(MSR_EFER) & ~(u64)EFER_NXE;

            wrmsr(MSR_EFER, efer | (i & 1 ? 0 : EFER_NXE));
            flush_all();
            /* With NXE=0 bit 63 is reserved. */
            good &= (probe(READ, at, &value).vector == 14) == (i & 1);
            good &= probe(EXEC, at, &value).vector == 14;
        }
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
        tell(good, "flip-nxe");
    }
}

static void test_global(void)
{
    ulong one = signed_page(), two = signed_page();
    bool good = true;

    start_path();
    write_cr4(read_cr4() | CR4_PGE);
    for (int i = 0; i < 10; i++) {
        ulong next = i & 1 ? one : two;

        map(s, at, next, P | W | G);
        /* MOV to CR3 may keep a global translation; INVLPG may not. */
        flush_all();
        (void)see(at);
        invlpg(at);
        good &= see(at) == sign(next);
    }
    for (int i = 0; i < 10; i++) {
        ulong next = i & 1 ? one : two;

        map(s, at, next, P | W | G);
        write_cr4(read_cr4() ^ CR4_PGE);
        good &= see(at) == sign(next);
    }
    write_cr4(read_cr4() & ~(ulong)CR4_PGE);
    tell(good, "global");
}

#ifndef __x86_64__
/* Tables change while paging is off. */
static void test_paging_off(void)
{
    ulong one = signed_page(), two = signed_page();
    bool good = true;

    start_path();
    for (int i = 0; i < 10; i++) {
        ulong next = i & 1 ? one : two;

        write_cr0(read_cr0() & ~CR0_PG);
        good &= *(volatile u32 *)next == sign(next);
        map(s, at, next, P | W);
        write_cr0(read_cr0() | CR0_PG);
        good &= see(at) == sign(next);
    }
    tell(good, "paging-off");
}

/* PDPTEs are read when CR3 is loaded, not during walks: SDM vol. 3, 4.4.1. */
static void test_pdptes(void)
{
    ulong one = signed_page(), two = signed_page();
    u64 first, second;
    bool good = true;
    int count = 0;

    if (f->levels != 3) {
        return;
    }
    if (has_word("plain-tcg")) {
        skip("pae/pdptes", "TCG reads PDPTEs at each walk and does not check");
        return;
    }
    start_path();
    map(s, at, one, P | W);
    first = get(s, at, 3);
    start_path();
    map(s, at, two, P | W);
    second = get(s, at, 3);
    flush_all();
    good &= see(at) == sign(two);
    set(s, at, 3, first);
    invlpg(at);
    good &= see(at) == sign(two);
    flush_all();
    good &= see(at) == sign(one);
    set(s, at, 3, 0);
    invlpg(at);
    good &= see(at) == sign(one);
    flush_all();
    good &= see(at) == BAD;
    tell(good, "pdptes-latched");

    good = true;
    for (int bit = 1; bit < 64; bit++) {
        u64 mask = BIT(bit);

        if (mask & (BIT(cpu_has.maxphyaddr) - 1) & ~0x1e6ull) {
            continue;
        }
        set(s, at, 3, second | mask);
        good &= try_write_cr(3, read_cr3()).vector == 13;
        /* Refused means: nothing changed. */
        good &= see(at) == BAD;
        set(s, at, 3, (second | mask) & ~P);
        good &= try_write_cr(3, read_cr3()).vector == -1;
        count++;
    }
    set(s, at, 3, second);
    flush_all();
    tell(good && count > 10, "pdptes-reserved");
}
#endif

/* ---- Code ---- */

/* mov $value, %eax; ret */
static void put_function(ulong page, u32 value)
{
    volatile u8 *code = (volatile u8 *)page;

    code[0] = 0xb8;
    *(volatile u32 *)(page + 1) = value;
    code[5] = 0xc3;
}

static u32 run(ulong address)
{
    u32 value;

    asm volatile("call *%1" : "=a"(value) : "r"(address) : "memory", "cc");
    return value;
}

static void test_code(void)
{
    ulong one = pool_page(), two = pool_page();
    bool good = true;

    start_path();
    put_function(one, 111);
    put_function(two, 222);
    for (int i = 0; i < 10; i++) {
        map(s, at, i & 1 ? two : one, P | W);
        invlpg(at);
        good &= run(at) == (i & 1 ? 222u : 111u);
    }
    /* Written through its other address. */
    for (u32 i = 0; i < 10; i++) {
        put_function(two, i);
        good &= run(at) == i;
    }
    tell(good, "code");
}

/* ---- Everything at once, at random ---- */

#define ROOTS   2
#define SLOTS   4               /* level-2 entries in use, per root */
#define TABLES  6
#define INDEXES 8               /* level-1 entries in use, per table */
#define PAGES   16

typedef struct Mix {
    Space root[ROOTS];
    int now;
    ulong table[TABLES], page[PAGES];
    ulong slot_table[ROOTS][SLOTS];
    bool stale[ROOTS][SLOTS][INDEXES];
} Mix;

static Mix mix;

static ulong mix_address(unsigned slot, unsigned index)
{
    return at + slot * span + index * PAGE;
}

static void mix_all_fresh(void)
{
    memset(mix.stale, 0, sizeof(mix.stale));
}

static u64 random_rights(void)
{
    u64 bits = random32() & (W | U);

    return random32() % 8 ? bits | P : bits;
}

static void mix_set_page(void)
{
    ulong table = mix.table[random32() % TABLES];
    unsigned index = random32() % INDEXES;

    entry_set(f, table, index, mix.page[random32() % PAGES] | random_rights());
    for (unsigned i = 0; i < ROOTS * SLOTS; i++) {
        if (mix.slot_table[i / SLOTS][i % SLOTS] == table) {
            mix.stale[i / SLOTS][i % SLOTS][index] = true;
        }
    }
}

static void mix_set_table(void)
{
    unsigned root = random32() % ROOTS, slot = random32() % SLOTS;
    ulong table = mix.table[random32() % TABLES];

    set(&mix.root[root], mix_address(slot, 0), 2, table | random_rights());
    mix.slot_table[root][slot] = table;
    memset(mix.stale[root][slot], 1, INDEXES);
}

static void mix_flush_one(void)
{
    unsigned slot = random32() % SLOTS, index = random32() % INDEXES;

    invlpg(mix_address(slot, index));
    mix.stale[mix.now][slot][index] = false;
}

static void mix_switch(void)
{
    mix.now = random32() % ROOTS;
    write_cr3(mix.root[mix.now].root);
    mix_all_fresh();
}

static bool mix_access(unsigned step)
{
    unsigned slot = random32() % SLOTS, index = random32() % INDEXES;
    ulong address = mix_address(slot, index);
    Mode m = { .wp = true, .nxe = f->entry_size == 8 && cpu_has.nx,
               .user = random32() & 1 };
    Kind kind = random32() & 1 ? WRITE : READ;
    Exc want = expect(&mix.root[mix.now], &m, kind, address), got;
    u64 leaf = look(&mix.root[mix.now], address, 1);
    u32 page = leaf & ~(PAGE - 1), value = page | 1;

    got = mode_probe(&m, kind, address, &value);
    if (mix.stale[mix.now][slot][index]) {
        /* A stale write went to some page: restore all signatures. */
        for (unsigned i = 0; i < PAGES; i++) {
            *(volatile u32 *)mix.page[i] = sign(mix.page[i]);
        }
        return true;
    }
    if (got.vector == want.vector && got.error == want.error
        && got.cr2 == want.cr2
        && (got.vector != -1 || value == sign(page))) {
        return true;
    }
    print("# step %d: %s %s at %p: got %d/%x value %x, want %d/%x value %x\n",
          step, m.user ? "user" : "supervisor", kind == READ ? "read" : "write",
          address, got.vector, got.error, value, want.vector, want.error,
          sign(page));
    return false;
}

static void test_mix(void)
{
    unsigned steps = has_word("long") ? 2000000 : 40000;
    bool good = true;

    write_cr0(read_cr0() | CR0_WP);
    mix.root[0] = *s;
    mix.root[1] = space_new(f);
    for (unsigned i = 0; i < TABLES; i++) {
        mix.table[i] = pool_page();
    }
    for (unsigned i = 0; i < PAGES; i++) {
        mix.page[i] = signed_page();
    }
    for (unsigned i = 0; i < ROOTS * SLOTS; i++) {
        const Space *root = &mix.root[i / SLOTS];
        ulong table = mix.table[i % TABLES];

        if (i % SLOTS == 0) {
            set(root, at, f->levels, 0);
        }
        set(root, mix_address(i % SLOTS, 0), 2, table | P | W | U);
        mix.slot_table[i / SLOTS][i % SLOTS] = table;
    }
    mix.now = 0;
    flush_all();
    mix_all_fresh();
    for (unsigned i = 0; i < steps && good; i++) {
        u32 what = random32() % 100;

        if (what < 30) {
            mix_set_page();
        } else if (what < 36) {
            mix_set_table();
        } else if (what < 60) {
            mix_flush_one();
        } else if (what < 70) {
            mix_switch();
        } else {
            good = mix_access(i);
        }
    }
    write_cr3(s->root);
    tell(good, "mix");
}

static void run_format(const Format *format)
{
    Space space = space_new(format);
    Mode plain = { .wp = true, .nxe = cpu_has.nx };

    s = &space;
    f = format;
    at = f->window;
    span = BIT(level_shift(f, 2));
    entries = 1u << f->index_bits;
    space_use(s);
    mode_use(&plain);

    test_remap();
    test_present();
    test_write_protect();
    test_upper_change();
    test_write_widths();
    test_misaligned();
    test_string_writes();
    test_locked_writes();
    test_recursive_level2();
    test_shared_table();
    test_two_spaces();
    test_large_split();
    test_reuse();
    test_alias();
    test_flips();
    mode_use(&plain);
    test_global();
    test_code();
#ifdef __x86_64__
    test_recursive_root();
    test_gigabyte();
#else
    test_paging_off();
    test_pdptes();
#endif
    test_mix();
}

void guest_main(void)
{
    print("TAP version 13\n");
#ifdef __x86_64__
    run_format(&format_4level);
    if (cpu_has.la57) {
        run_format(&format_5level);
        run_format(&format_4level);
    }
#else
    run_format(&format_32);
    run_format(&format_pae);
    run_format(&format_32);
#endif
}
