/*
 * xmmu: unit test of accel/xmmu/mmu/cr_rules.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A table of writes: from which registers, which value, and the words that the
 * refusal must contain (NULL: legal).  Each rule appears with a write that it
 * refuses and with the nearest write that it must let pass.  Two sweeps follow
 * the table: every single bit of CR3 and of the PDPTEs.
 */
#include <glib.h>

#include "accel/xmmu/mmu/mmu.h"

#define PE          XMMU_CR0_PE
#define WP          XMMU_CR0_WP
#define NW          XMMU_CR0_NW
#define CD          XMMU_CR0_CD
#define PG          XMMU_CR0_PG
#define PAE         XMMU_CR4_PAE
#define PSE         XMMU_CR4_PSE
#define LA57        XMMU_CR4_LA57
#define PCIDE       XMMU_CR4_PCIDE
#define CET         (1u << 23)
#define LME         XMMU_EFER_LME
#define LMA         XMMU_EFER_LMA
#define NXE         XMMU_EFER_NXE

#define BIT(n)      ((uint64_t)1 << (n))
#define MAXPHYADDR  40

typedef enum Reg { CR0, CR3, CR4, EFER } Reg;

typedef struct Case {
    const char *name;
    Reg reg;
    XmmuRegs old;
    uint64_t value;
    const char *refusal;
    bool cs_l, tss16, no_long_mode, lam;
    uint64_t cr4_reserved, efer_reserved;
} Case;

#define OFF         { .cr0 = 0 }
#define LEGACY      { .cr0 = PG | PE, .cr4 = PAE }
#define READY       { .cr0 = PE, .cr4 = PAE, .efer = LME }
#define LONG        { .cr0 = PG | PE, .cr4 = PAE, .efer = LME | LMA }
#define LONG_PCID   { .cr0 = PG | PE, .cr4 = PAE | PCIDE, .efer = LME | LMA }

static const Case cases[] = {
    { "cr0/high-bit", CR0, OFF, BIT(32), "CR0[63:32]" },
    { "cr0/highest-bit", CR0, OFF, BIT(63) | PE, "CR0[63:32]" },
    { "cr0/low-bits-ignored", CR0, OFF, 0x1ffaffc0 & ~NW, NULL },

    { "cr0/pg-without-pe", CR0, OFF, PG, "CR0.PE=0" },
    { "cr0/pe-cleared-with-pg", CR0, LEGACY, PG, "CR0.PE=0" },
    { "cr0/pg-with-pe-at-once", CR0, OFF, PG | PE, NULL },
    { "cr0/pe-alone", CR0, OFF, PE, NULL },
    { "cr0/both-cleared", CR0, LEGACY, 0, NULL },

    { "cr0/nw-without-cd", CR0, OFF, NW, "CR0.NW=1" },
    { "cr0/nw-with-cd", CR0, OFF, NW | CD, NULL },
    { "cr0/cd-alone", CR0, OFF, CD, NULL },

    { "cr0/wp-cleared-with-cet", CR0, { .cr0 = PE | WP, .cr4 = CET }, PE,
      "CR4.CET=1" },
    { "cr0/wp-cleared", CR0, { .cr0 = PE | WP }, PE, NULL },
    { "cr0/wp-kept-with-cet", CR0, { .cr0 = PE | WP, .cr4 = CET }, WP | CD | PE,
      NULL },

    { "cr0/long-without-pae", CR0, { .cr0 = PE, .efer = LME }, PG | PE,
      "CR4.PAE=0" },
    { "cr0/long-with-pae", CR0, READY, PG | PE, NULL },
    { "cr0/32-bit-without-pae", CR0, { .cr0 = PE }, PG | PE, NULL },
    { "cr0/long-from-cs-l", CR0, READY, PG | PE, "CS.L=1", .cs_l = true },
    { "cr0/legacy-from-cs-l", CR0, { .cr0 = PE, .cr4 = PAE }, PG | PE, NULL,
      .cs_l = true },
    { "cr0/long-with-16-bit-tss", CR0, READY, PG | PE, "16-bit TSS",
      .tss16 = true },
    { "cr0/legacy-with-16-bit-tss", CR0, { .cr0 = PE }, PG | PE, NULL,
      .tss16 = true },
    { "cr0/other-bit-in-64-bit-mode", CR0, LONG, PG | PE | WP, NULL,
      .cs_l = true },

    { "cr0/pg-cleared-in-64-bit-mode", CR0, LONG, PE, "64-bit mode",
      .cs_l = true },
    { "cr0/pg-cleared-in-compat-mode", CR0, LONG, PE, NULL },
    { "cr0/pg-cleared-in-legacy-mode-cs-l", CR0, LEGACY, PE, NULL,
      .cs_l = true },
    { "cr0/pg-cleared-with-pcide", CR0, LONG_PCID, PE, "CR4.PCIDE=1" },
    { "cr0/pg-kept-with-pcide", CR0, LONG_PCID, PG | PE | WP, NULL },

    { "cr3/at-maxphyaddr", CR3, LONG, BIT(MAXPHYADDR), "MAXPHYADDR" },
    { "cr3/below-maxphyaddr", CR3, LONG, BIT(MAXPHYADDR) - 0x1000, NULL },
    { "cr3/bit63-without-pcide", CR3, LONG, BIT(63), "MAXPHYADDR" },
    { "cr3/bit63-with-pcide", CR3, LONG_PCID, BIT(63) | 0xfff, NULL },
    { "cr3/bit62-with-pcide", CR3, LONG_PCID, BIT(62), "MAXPHYADDR" },
    { "cr3/lam", CR3, LONG, BIT(62) | BIT(61), NULL, .lam = true },
    { "cr3/lam-and-no-flush", CR3, LONG_PCID, BIT(63) | BIT(62) | BIT(61) | 7, NULL,
      .lam = true },
    { "cr3/bit63-with-lam", CR3, LONG, BIT(63) | BIT(62), "MAXPHYADDR", .lam = true },
    { "cr3/bit60-with-lam", CR3, LONG, BIT(60), "MAXPHYADDR", .lam = true },
    { "cr3/legacy", CR3, LEGACY, 0xffffffff, NULL },
    { "cr3/low-bits-ignored", CR3, LONG, 0xfff, NULL },

    { "cr4/reserved", CR4, OFF, BIT(15), "does not have",
      .cr4_reserved = BIT(15) },
    { "cr4/reserved-high", CR4, OFF, BIT(63), "does not have",
      .cr4_reserved = ~(uint64_t)0 << 32 },
    { "cr4/not-reserved", CR4, OFF, BIT(14), NULL, .cr4_reserved = BIT(15) },

    { "cr4/pae-cleared-in-long", CR4, LONG, 0, "CR4.PAE cleared" },
    { "cr4/pae-cleared-in-64-bit", CR4, LONG, PSE, "CR4.PAE cleared",
      .cs_l = true },
    { "cr4/pae-cleared-in-legacy", CR4, LEGACY, 0, NULL },
    { "cr4/pae-cleared-before-paging", CR4, READY, 0, NULL },
    { "cr4/pae-kept-in-long", CR4, LONG, PAE | PSE, NULL },

    { "cr4/la57-set-in-long", CR4, LONG, PAE | LA57, "CR4.LA57 changed" },
    { "cr4/la57-cleared-in-long", CR4,
      { .cr0 = PG | PE, .cr4 = PAE | LA57, .efer = LME | LMA }, PAE,
      "CR4.LA57 changed" },
    { "cr4/la57-kept-in-long", CR4,
      { .cr0 = PG | PE, .cr4 = PAE | LA57, .efer = LME | LMA },
      PAE | LA57 | PSE, NULL },
    { "cr4/la57-set-before-paging", CR4, READY, PAE | LA57, NULL },
    { "cr4/la57-set-in-legacy", CR4, LEGACY, PAE | LA57, NULL },

    { "cr4/pcide-outside-long", CR4, LEGACY, PAE | PCIDE, "outside IA-32e" },
    { "cr4/pcide-before-paging", CR4, READY, PAE | PCIDE, "outside IA-32e" },
    { "cr4/pcide-in-long", CR4, LONG, PAE | PCIDE, NULL },
    { "cr4/pcide-with-low-cr3-bits", CR4,
      { .cr0 = PG | PE, .cr3 = 0x1008, .cr4 = PAE, .efer = LME | LMA },
      PAE | PCIDE, "CR3[11:0]" },
    { "cr4/pcide-with-high-cr3-bits", CR4,
      { .cr0 = PG | PE, .cr3 = 0x1000, .cr4 = PAE, .efer = LME | LMA },
      PAE | PCIDE, NULL },
    { "cr4/pcide-kept-with-pcid", CR4,
      { .cr0 = PG | PE, .cr3 = 0x1008, .cr4 = PAE | PCIDE, .efer = LME | LMA },
      PAE | PCIDE | PSE, NULL },
    { "cr4/pcide-cleared-with-pcid", CR4,
      { .cr0 = PG | PE, .cr3 = 0x1008, .cr4 = PAE | PCIDE, .efer = LME | LMA },
      PAE, NULL },

    { "cr4/cet-without-wp", CR4, { .cr0 = PE }, CET, "CR0.WP=0" },
    { "cr4/cet-with-wp", CR4, { .cr0 = PE | WP }, CET, NULL },

    { "efer/reserved", EFER, OFF, BIT(1), "does not have",
      .efer_reserved = BIT(1) },
    { "efer/feature-absent", EFER, OFF, NXE, "does not have",
      .efer_reserved = NXE },
    { "efer/feature-present", EFER, OFF, NXE, NULL,
      .efer_reserved = BIT(1) },

    { "efer/lme-set-with-paging", EFER, LEGACY, LME, "CR0.PG=1" },
    { "efer/lme-cleared-with-paging", EFER, LONG, LMA, "CR0.PG=1" },
    { "efer/lme-set-before-paging", EFER, OFF, LME, NULL },
    { "efer/lme-cleared-before-paging", EFER, READY, 0, NULL },
    { "efer/lme-kept-with-paging", EFER, LONG, LME | LMA | NXE, NULL },
    { "efer/lme-without-long-mode", EFER, OFF, LME, "without long mode",
      .no_long_mode = true },
    { "efer/nxe-without-long-mode", EFER, OFF, NXE, NULL,
      .no_long_mode = true },

    /* LMA cannot be written; an attempt is not an error. */
    { "efer/lma-set", EFER, OFF, LMA, NULL, .efer_reserved = ~(uint64_t)0 },
    { "efer/lma-cleared", EFER, LONG, LME, NULL },
};

static const char *check(const Case *c)
{
    XmmuCrRules rules = {
        .cr4_reserved = c->cr4_reserved,
        .efer_reserved = c->efer_reserved,
        .maxphyaddr = MAXPHYADDR,
        .long_mode = !c->no_long_mode,
        .cs_l = c->cs_l,
        .tr_tss16 = c->tss16,
        .lam = c->lam,
    };

    switch (c->reg) {
    case CR0:
        return xmmu_check_cr0(&rules, &c->old, c->value);
    case CR3:
        return xmmu_check_cr3(&rules, &c->old, c->value);
    case CR4:
        return xmmu_check_cr4(&rules, &c->old, c->value);
    case EFER:
        return xmmu_check_efer(&rules, &c->old, c->value);
    }
    g_assert_not_reached();
}

static void test_case(gconstpointer data)
{
    const Case *c = data;
    const char *said = check(c);

    if (!c->refusal) {
        g_assert_cmpstr(said, ==, NULL);
        return;
    }
    g_assert_nonnull(said);
    if (!strstr(said, c->refusal)) {
        g_error("%s: refused for another reason: %s", c->name, said);
    }
}

/* Each bit of CR3 alone, for every MAXPHYADDR, with and without PCIDE. */
static void test_cr3_bits(void)
{
    for (unsigned width = 32; width <= 52; width++) {
        XmmuCrRules rules = { .maxphyaddr = width, .long_mode = true };

        for (unsigned bit = 0; bit < 64; bit++) {
            XmmuRegs plain = LONG, pcid = LONG_PCID;
            XmmuCrRules lam = rules;
            bool high = bit >= width;

            lam.lam = true;
            g_assert_cmpint(!!xmmu_check_cr3(&lam, &plain, BIT(bit)), ==,
                            high && bit != 61 && bit != 62);
            g_assert_cmpint(!!xmmu_check_cr3(&lam, &pcid, BIT(bit)), ==,
                            high && bit < 61);

            g_assert_cmpint(!!xmmu_check_cr3(&rules, &plain, BIT(bit)), ==,
                            high);
            g_assert_cmpint(!!xmmu_check_cr3(&rules, &pcid, BIT(bit)), ==,
                            high && bit != 63);
        }
    }
}

static bool pdpte_bit_reserved(unsigned bit, unsigned width)
{
    return bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= width;
}

/* Each bit of each PDPTE, present and not. */
static void test_pdpte_bits(void)
{
    for (unsigned width = 32; width <= 52; width++) {
        XmmuCpuCaps caps = { .maxphyaddr = width };

        for (unsigned i = 0; i < 4 * 64; i++) {
            uint64_t pdpte[4] = { 0 };
            unsigned bit = i % 64;

            pdpte[i / 64] = BIT(bit) | 1;
            g_assert_cmpint(!!xmmu_check_pdptes(&caps, pdpte), ==,
                            pdpte_bit_reserved(bit, width));
            pdpte[i / 64] = BIT(bit) & ~BIT(0);
            g_assert_null(xmmu_check_pdptes(&caps, pdpte));
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *path = g_strdup_printf("/cr-rules/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_case);
        g_free(path);
    }
    g_test_add_func("/cr-rules/cr3/every-bit", test_cr3_bits);
    g_test_add_func("/cr-rules/pdpte/every-bit", test_pdpte_bits);
    return g_test_run();
}
