/*
 * xmmu: unit test of the reference MMU itself (tests/fuzz/ref_mmu.c)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The reference judges the core, so its answers for plain cases are worked out by
 * hand here, from the same chapters: each case is one path of entries.
 */
#include <glib.h>
#include <string.h>

#include "tests/fuzz/ref_mmu.h"

#define P  1ull
#define W  2ull
#define U  4ull
#define A  0x20ull
#define D  0x40ull
#define PS 0x80ull
#define NX (1ull << 63)
#define PK(n) ((uint64_t)(n) << 59)

#define PGON   0x80000001ull
#define WP     0x10000ull
#define PSE    0x10ull
#define PAE    0x20ull
#define LA57   0x1000ull
#define SMEP   0x100000ull
#define SMAP   0x200000ull
#define PKE    0x400000ull
#define PKS    0x1000000ull
#define LMA    0x500ull
#define NXE    0x800ull

typedef struct Case {
    const char *name;
    RefRegs regs;
    RefCaps caps;
    RefAccess access;
    uint64_t path[5];           /* entries, from the top */
    bool fault;
    uint32_t error_code;
    uint64_t phys;
    unsigned allowed, shift;
    uint64_t set[5];
} Case;

#define CAPS { .maxphyaddr = 40, .page1g = true, .pse36 = true }
#define RD REF_READ
#define WR REF_WRITE
#define FE REF_FETCH

static const Case cases[] = {
    { "none", { .cr0 = 1 }, CAPS, { 0x123456789, WR }, { 0 },
      false, 0, 0x23456789, 7, 32 },
    { "none, A20", { .cr0 = 1, .a20_masked = true }, CAPS, { 0x100010, RD }, { 0 },
      false, 0, 0x10, 7, 32 },
    { "32: not present", { .cr0 = PGON, .cr3 = 0x1000 }, CAPS, { 0x400000, WR, true },
      { 0 }, true, 6 },
    { "32: 4K", { .cr0 = PGON | WP, .cr3 = 0x1000 }, CAPS, { 0x401234, RD, true },
      { 0x2000 | P | U, 0x5000 | P | U }, false, 0, 0x5234, 5, 12, { A, A } },
    { "32: write sets D", { .cr0 = PGON | WP, .cr3 = 0x1000 }, CAPS,
      { 0x401234, WR, true }, { 0x2000 | P | U | W, 0x5000 | P | U | W },
      false, 0, 0x5234, 7, 12, { A, A | D } },
    { "32: PS without PSE is a table", { .cr0 = PGON, .cr3 = 0x1000 }, CAPS,
      { 0x400000, RD }, { 0x2000 | P | PS, 0x5000 | P }, false, 0, 0x5000, 7, 12, { A, A } },
    { "32: 4M", { .cr0 = PGON | WP, .cr3 = 0x1000, .cr4 = PSE }, CAPS,
      { 0x412345, WR }, { 0x800000 | P | W | PS }, false, 0, 0x812345, 7, 22, { A | D } },
    { "32: PSE-36", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PSE }, CAPS, { 0x412345, RD },
      { 0x800000 | P | PS | 0x102000 }, false, 0, 0x8100812345, 7, 22, { A } },
    { "32: PSE-36 bit 21 is reserved", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PSE }, CAPS,
      { 0x412345, RD }, { 0x800000 | P | PS | 0x200000 }, true, 9 },
    { "32: without PSE-36 bit 13 is reserved", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PSE },
      { .maxphyaddr = 40 }, { 0x412345, RD }, { 0x800000 | P | PS | 0x2000 }, true, 9 },
    { "32: user to supervisor", { .cr0 = PGON, .cr3 = 0x1000 }, CAPS,
      { 0x401234, RD, true }, { 0x2000 | P | U, 0x5000 | P }, true, 5 },
    { "32: WP", { .cr0 = PGON | WP, .cr3 = 0x1000 }, CAPS, { 0x401234, WR },
      { 0x2000 | P, 0x5000 | P | W }, true, 3 },
    { "32: without WP", { .cr0 = PGON, .cr3 = 0x1000 }, CAPS, { 0x401234, WR },
      { 0x2000 | P, 0x5000 | P | W }, false, 0, 0x5234, 7, 12, { A, A | D } },
    { "32: fetch is not told apart", { .cr0 = PGON, .cr3 = 0x1000 }, CAPS,
      { 0x400000, FE, true }, { 0 }, true, 4 },
    { "32: fetch with SMEP is", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = SMEP }, CAPS,
      { 0x400000, FE }, { 0x2000 | P | U, 0x5000 | P | U }, true, 0x11 },
    { "PAE: PDPTE absent", { .cr0 = PGON, .cr4 = PAE }, CAPS, { 0x40000000, RD }, { 0 },
      true, 0 },
    { "PAE: 4K", { .cr0 = PGON, .cr4 = PAE, .pdpte = { [1] = 0x2000 | P } }, CAPS,
      { 0x40001008, RD, true }, { 0x3000 | P | U, 0x5000 | P | U },
      false, 0, 0x5008, 5, 12, { A, A } },
    { "PAE: 2M", { .cr0 = PGON, .cr4 = PAE, .pdpte = { 0x2000 | P } }, CAPS,
      { 0x12345, RD }, { 0x80000000 | P | PS }, false, 0, 0x80012345, 7, 21, { A } },
    { "PAE: bit 52 is reserved", { .cr0 = PGON, .cr4 = PAE, .pdpte = { 0x2000 | P } }, CAPS,
      { 0x12345, RD }, { 0x3000 | P | 1ull << 52 }, true, 9 },
    { "PAE: XD without NXE", { .cr0 = PGON, .cr4 = PAE, .pdpte = { 0x2000 | P } }, CAPS,
      { 0x12345, FE, true }, { 0x3000 | P | U | NX }, true, 0xd },
    { "PAE: XD", { .cr0 = PGON, .cr4 = PAE, .efer = NXE, .pdpte = { 0x2000 | P } }, CAPS,
      { 0x12345, FE }, { 0x3000 | P | U | NX, 0x5000 | P | U }, true, 0x11 },
    { "4: 4K", { .cr0 = PGON | WP, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA | NXE }, CAPS,
      { 0xffff800000001008, WR, true },
      { 0x2000 | P | W | U, 0x3000 | P | W | U, 0x4000 | P | W | U, 0x5000 | P | W | U },
      false, 0, 0x5008, 7, 12, { A, A, A, A | D } },
    { "4: 1G", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA }, CAPS,
      { 0x3fffffff, RD }, { 0x2000 | P, 0x40000000 | P | PS }, false, 0, 0x7fffffff, 7, 30,
      { A, A } },
    { "4: 1G without the feature", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA },
      { .maxphyaddr = 40 }, { 0, RD }, { 0x2000 | P, 0x40000000 | P | PS }, true, 9 },
    { "4: 2M reserved bit 13", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA }, CAPS,
      { 0, RD }, { 0x2000 | P, 0x3000 | P, 0x202000 | P | PS }, true, 9 },
    { "4: PML4E PS", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA }, CAPS,
      { 0, WR }, { 0x2000 | P | PS }, true, 0xb },
    { "4: AMD PML4E bit 8", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA },
      { .maxphyaddr = 40, .amd = true }, { 0, RD }, { 0x2000 | P | 0x100 }, true, 9 },
    { "4: MAXPHYADDR", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA }, CAPS,
      { 0, RD }, { 0x2000 | P | 1ull << 40 }, true, 9 },
    { "4: bits 62:52 are free", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA },
      CAPS, { 0, RD }, { 0x2000 | P | 0x7ffull << 52, 0x3000 | P, 0x4000 | P, 0x5000 | P },
      false, 0, 0x5000, 7, 12, { A, A, A, A } },
    { "4: SMAP", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE | SMAP, .efer = LMA }, CAPS,
      { 0, WR }, { 0x2000 | P | W | U, 0x40000000 | P | W | U | PS }, true, 3 },
    { "4: SMAP with AC", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE | SMAP, .efer = LMA },
      CAPS, { 0, RD, false, true }, { 0x2000 | P | U, 0x40000000 | P | U | PS },
      false, 0, 0x40000000, 7, 30, { A, A } },
    { "4: PKE AD", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE | PKE, .efer = LMA,
      .pkru = 1 << 6 }, CAPS, { 0, RD }, { 0x2000 | P | U, 0x40000000 | P | U | PS | PK(3) },
      true, 0x21 },
    { "4: PKE WD, user", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE | PKE, .efer = LMA,
      .pkru = 2 << 6 }, CAPS, { 0, WR, true },
      { 0x2000 | P | W | U, 0x40000000 | P | W | U | PS | PK(3) }, true, 0x27 },
    { "4: PKE WD, supervisor without WP", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE | PKE,
      .efer = LMA, .pkru = 2 << 6 }, CAPS, { 0, WR },
      { 0x2000 | P | W | U, 0x40000000 | P | W | U | PS | PK(3) },
      false, 0, 0x40000000, 7, 30, { A, A | D } },
    { "4: a key does not stop fetches", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE | PKE,
      .efer = LMA, .pkru = 1 << 6 }, CAPS, { 0, FE },
      { 0x2000 | P | U, 0x40000000 | P | U | PS | PK(3) },
      false, 0, 0x40000000, 4, 30, { A, A } },
    { "4: PKS", { .cr0 = PGON | WP, .cr3 = 0x1000, .cr4 = PAE | PKS, .efer = LMA,
      .pkrs = 2 << 2 }, CAPS, { 0, WR }, { 0x2000 | P | W, 0x40000000 | P | W | PS | PK(1) },
      true, 0x23 },
    { "4: key and rights both deny", { .cr0 = PGON | WP, .cr3 = 0x1000, .cr4 = PAE | PKE,
      .efer = LMA, .pkru = 1 << 2 }, CAPS, { 0, WR, true },
      { 0x2000 | P | U, 0x40000000 | P | U | PS | PK(1) }, true, 0x27 },
    { "4: an absent entry below a reserved bit is not seen",
      { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE, .efer = LMA }, CAPS, { 0, RD, true },
      { 0x2000 | P, 0x3000 | P | 1ull << 45 }, true, 0xd },
    { "5: 4K", { .cr0 = PGON, .cr3 = 0x1000, .cr4 = PAE | LA57, .efer = LMA }, CAPS,
      { 0xff00000000000010, RD }, { 0x2000 | P, 0x3000 | P, 0x4000 | P, 0x5000 | P,
      0x6000 | P }, false, 0, 0x6010, 7, 12, { A, A, A, A, A } },
};

typedef struct PathReader {
    const Case *c;
    unsigned next;
} PathReader;

static unsigned read_path(void *opaque, uint64_t addr, unsigned size, RefValue *out)
{
    PathReader *r = opaque;

    g_assert_cmpuint(r->next, <, 5);
    g_assert_cmpuint(addr % size, ==, 0);
    out[0] = (RefValue) { r->c->path[r->next++], 0 };
    return 1;
}

static void check(gconstpointer data)
{
    const Case *c = data;
    PathReader reader = { c, 0 };
    RefMmu mmu = { c->caps, c->regs, read_path, &reader };
    RefResult r;

    ref_translate(&mmu, &c->access, &r);
    g_assert_cmpint(r.fault, ==, c->fault);
    if (c->fault) {
        g_assert_cmphex(r.error_code, ==, c->error_code);
        return;
    }
    g_assert_cmphex(r.phys, ==, c->phys);
    g_assert_cmphex(r.allowed, ==, c->allowed);
    g_assert_cmpuint(r.page_shift, ==, c->shift);
    for (unsigned i = 0; i < r.steps; i++) {
        g_assert_cmphex(r.step[i].set, ==, c->set[i]);
    }
}

static void test_pdptes(void)
{
    RefCaps caps = { .maxphyaddr = 40 };
    uint64_t pdpte[4] = { 0 };

    for (int bit = 0; bit < 64; bit++) {
        bool reserved = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= 40;

        for (int i = 0; i < 4; i++) {
            pdpte[i] = 1ull << bit;
            g_assert_false(ref_pdptes_bad(&caps, pdpte));
            pdpte[i] |= 1;
            g_assert_cmpint(ref_pdptes_bad(&caps, pdpte), ==, reserved);
            pdpte[i] = 0;
        }
    }
}

/* Values that may be cached are offered after the current path. */
static unsigned read_two(void *opaque, uint64_t addr, unsigned size, RefValue *out)
{
    (void)opaque;
    (void)size;
    out[0] = (RefValue) { 0x2000 | P, 0 };
    out[1] = (RefValue) { 0x7000 | P, 5 + (addr >= 0x2000) };
    return 2;
}

static bool collect(void *opaque, const RefResult *r)
{
    GArray *all = opaque;

    g_array_append_val(all, *r);
    return false;
}

static void test_stale(void)
{
    RefMmu mmu = {
        .caps = CAPS, .regs = { .cr0 = PGON, .cr3 = 0x1000 }, .read = read_two,
    };
    RefAccess access = { 0x400123, RD };
    GArray *all = g_array_new(false, false, sizeof(RefResult));
    static const uint64_t phys[4] = { 0x2123, 0x7123, 0x2123, 0x7123 };
    static const uint64_t oldest[4] = { 0, 6, 5, 5 };

    g_assert_false(ref_translate_all(&mmu, &access, collect, all));
    g_assert_cmpuint(all->len, ==, 4);
    for (int i = 0; i < 4; i++) {
        RefResult *r = &g_array_index(all, RefResult, i);

        g_assert_cmphex(r->phys, ==, phys[i]);
        g_assert_cmpuint(r->oldest, ==, oldest[i]);
    }
    g_array_free(all, true);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *path = g_strdup_printf("/ref-mmu/%zu %s", i, cases[i].name);

        g_test_add_data_func(path, &cases[i], check);
        g_free(path);
    }
    g_test_add_func("/ref-mmu/pdptes", test_pdptes);
    g_test_add_func("/ref-mmu/stale", test_stale);
    return g_test_run();
}
