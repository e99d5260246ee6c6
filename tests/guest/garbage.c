/*
 * xmmu guest "garbage": tables that no sane kernel would build
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Random bits as tables at all levels, the tables overlapping each other, and
 * tables that lie in ROM, in holes and in device memory.  Every access must end
 * as the model in paging.c says, from the same bits; and the machine must live.
 */
#include "paging.h"

#define ARENA_PAGES 16

static ulong arena;

static u64 random64(void)
{
    u64 high = random32();

    return high << 32 | random32();
}

/* Mostly an entry that leads on into the arena. */
static u64 random_entry(const Format *f)
{
    u64 entry = arena | (random32() % ARENA_PAGES) * PAGE;

    entry |= random32() & 0xf7f;
    entry |= random32() % 8 ? P : 0;
    entry |= random32() % 6 ? 0 : PS;
    if (f->entry_size == 8 && cpu_has.nx && random32() % 8 == 0) {
        entry |= NX;
    }
    if (random32() % 32 == 0) {
        entry ^= BIT(random32() % (f->entry_size * 8));
    }
    return entry;
}

static bool in_arena(u64 entry)
{
    u64 address = entry & (BIT(52) - PAGE);

    return !(entry & P)
           || (address >= arena && address < arena + ARENA_PAGES * PAGE);
}

/*
 * A stray bit can lead an entry out of the arena, where the CPU would set A and
 * D bits in things we need: such entries may only be not-present or reserved.
 */
static bool harmless(const Format *f, const Mode *m, u64 entry)
{
    if (in_arena(entry)) {
        return true;
    }
    for (int level = 1; level <= f->levels; level++) {
        if (!reserved(f, m, level, entry)) {
            return false;
        }
    }
    return true;
}

static void fill_arena(const Format *f, const Mode *m)
{
    unsigned count = ARENA_PAGES * PAGE / f->entry_size;

    for (unsigned i = 0; i < count; i++) {
        u64 entry;

        do {
            entry = random_entry(f);
        } while (!harmless(f, m, entry));
        entry_set(f, arena, i, entry);
    }
}

static ulong random_address(const Format *f)
{
    int shift = level_shift(f, f->levels == 3 ? 3 : f->levels);

    return f->window + ((ulong)random64() & (BIT(shift) - 1) & ~7ul);
}

/* A write changes the low half of some entry: the next walks see it. */
static bool one_probe(const Space *s, Mode *m, unsigned step)
{
    ulong address = random_address(s->format);
    Kind kind = random32() & 1 ? READ : WRITE;
    u32 value;
    Exc want, got;

    do {
        value = random_entry(s->format);
    } while (!in_arena(value));

    m->user = random32() & 1;
    want = expect(s, m, kind, address);
    got = mode_probe(m, kind, address, &value);
    if (got.vector == want.vector && got.error == want.error
        && got.cr2 == want.cr2) {
        return true;
    }
    print("# step %d: %s %s at %p: got %d/%x, want %d/%x\n", step,
          m->user ? "user" : "supervisor", kind == READ ? "read" : "write",
          address, got.vector, got.error, want.vector, want.error);
    return false;
}

static void tell(const Format *f, const char *what, bool good)
{
    print("# %s\n", f->name);
    check(good, what, "see above");
}

static void test_random(const Space *s)
{
    const Format *f = s->format;
    Mode m = { .wp = true, .nxe = cpu_has.nx };
    bool good = true;

    arena = pool_pages(f->entry_size == 8 ? 512 : 1024);
    mode_use(&m);
    set(s, f->window, f->levels, 0);
    if (f->levels == 3) {
        set(s, f->window, 3, arena | P);
    } else {
        set(s, f->window, f->levels, arena | P | W | U);
    }
    for (unsigned round = 0; round < 24 && good; round++) {
        m.nxe = cpu_has.nx && round % 4 != 3;
        mode_use(&m);
        fill_arena(f, &m);
        for (unsigned i = 0; i < 400 && good; i++) {
            flush_all();
            good = one_probe(s, &m, round * 1000 + i);
        }
    }
    m.nxe = cpu_has.nx;
    mode_use(&m);
    set(s, f->window, f->levels, 0);
    flush_all();
    tell(f, "random-tables", good);
}

/* Places that are no RAM; reading them has no effect that matters here. */
static void test_places(const Space *s)
{
    static const struct {
        const char *name;
        u64 address;
    } places[] = {
        { "rom", 0xfffff000 }, { "rom-low", 0xf0000 }, { "vga", 0xa0000 },
        { "hole", 0xd0000000 }, { "lapic", 0xfee00000 },
        { "ioapic", 0xfec00000 }, { "above-ram", 0x10000000 },
        { "far-above", 0xff00000000ull },
    };
    const Format *f = s->format;
    Mode m = { .wp = true, .nxe = cpu_has.nx };

    mode_use(&m);
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        u64 place = places[i].address;
        int top = f->levels == 3 ? 2 : f->levels;
        bool good = true;

        if (place >> (f->entry_size == 4 ? 32 : cpu_has.maxphyaddr)) {
            continue;
        }
        for (int level = 2; level <= top; level++) {
            set(s, f->window, f->levels, 0);
            set(s, f->window, level, place | P | W | U);
            flush_all();
            for (unsigned n = 0; n < 4; n++) {
                ulong address = f->window + n * PAGE;
                u32 value = 0;
                Exc got = probe(READ, address, &value);

                /* A table that reads as zeroes, or leads nowhere good. */
                good &= got.vector == -1 || (got.vector == 14
                                             && got.cr2 == address);
            }
        }
        /* The page itself in such a place. */
        set(s, f->window, f->levels, 0);
        set(s, f->window, 1, place | P | W | U);
        flush_all();
        {
            u32 value = 0;

            good &= probe(READ, f->window, &value).vector == -1;
            if (place == 0xfffff000) {
                u32 before = value, other = ~value;

                /* ROM: the write is dropped, not refused. */
                good &= probe(WRITE, f->window, &other).vector == -1;
                good &= probe(READ, f->window, &value).vector == -1;
                good &= value == before;
            }
        }
        set(s, f->window, f->levels, 0);
        flush_all();
        tell(f, places[i].name, good);
    }
}

static void run_format(const Format *f)
{
    Space s = space_new(f);

    space_use(&s);
    test_random(&s);
    test_places(&s);
}

void guest_main(void)
{
    print("TAP version 13\n");
#ifdef __x86_64__
    run_format(&format_4level);
    if (cpu_has.la57) {
        run_format(&format_5level);
    }
#else
    run_format(&format_32);
    run_format(&format_pae);
#endif
}
