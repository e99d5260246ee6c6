/*
 * xmmu: CR0, CR3, CR4 and EFER under qtest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * "walk" goes through every state that the model in xmmu-cr-model.h can reach
 * from reset and makes every write there, legal or not.  The named tests under
 * "illegal" are the rules one by one.  "flip" changes one bit that matters for
 * permissions and looks at translations, role and root before and after.
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "xmmu-qtest.h"
#include "xmmu-cr-model.h"

#define WP      0x10000ull
#define PSE     0x10ull
#define PGE     0x80ull
#define SMEP    0x100000ull
#define SMAP    0x200000ull
#define PKE     0x400000ull
#define PKS     0x1000000ull
#define NXE     0x800ull
#define ET      0x10ull

#define P_      1ull
#define W_      2ull
#define U_      4ull
#define PS_     0x80ull
#define NX_     (1ull << 63)

/* ---- Tables for all modes ----------------------------------------------------- */

/*
 * One CR3 that all paging modes can use; PROBE leads to another page in each.
 * H[0] -> X.  X as 32-bit table, as PAE directory, PDPT or PML4 leads to
 * PAGE_32, or to Y; Y as PAE table to PAGE_PAE, or as directory or PDPT to Z;
 * and so on.
 */
#define H           0x100000ull
#define X           0x101000ull
#define Y           0x102000ull
#define Z           0x103000ull
#define LAST        0x104000ull
#define PROBE       0x2000ull
#define PAGE_32     0x200000ull
#define PAGE_PAE    0x201000ull
#define PAGE_4      0x202000ull
#define PAGE_5      0x203000ull

static void make_tables(QTestState *q)
{
    /* In a PDPTE bit 1 is reserved, so H[0] is not writable. */
    table_write(q, H, X | P_);
    table_write(q, X, Y | P_ | W_);
    table_write(q, X + 8, PAGE_32 | P_ | W_);
    table_write(q, Y, Z | P_ | W_);
    table_write(q, Y + 16, PAGE_PAE | P_ | W_);
    table_write(q, Z, LAST | P_ | W_);
    table_write(q, Z + 16, PAGE_4 | P_ | W_);
    table_write(q, LAST + 16, PAGE_5 | P_ | W_);
    forget_all(q);
}

static uint64_t expected_page(const CrmState *s)
{
    if (!(s->cr0 & CRM_PG)) {
        return PROBE;
    }
    if (s->efer & CRM_LMA) {
        return s->cr4 & CRM_LA57 ? PAGE_5 : PAGE_4;
    }
    return s->cr4 & CRM_PAE ? PAGE_PAE : PAGE_32;
}

/* ---- The model's state and the vCPU's ------------------------------------------- */

static bool cpu_has_pcid(QTestState *q)
{
    QDict *answer = qtest_qmp(q, "{ 'execute': 'qom-get', 'arguments': { 'path': "
                              "'/machine/unattached/device[0]', 'property': 'pcid' } }");
    bool has = qdict_get_bool(answer, "return");

    qobject_unref(answer);
    return has;
}

static const char *const reg_name[] = { "cr0", "cr3", "cr4", "efer" };

/*
 * What -cpu max has: whatever CR4 and EFER accept, bit by bit, in real mode, where
 * no bit depends on another one, but for PCIDE, which needs long mode (that it is
 * accepted there, the walk shows).  The bits the tests are about must be among them.
 */
#define BITS_OF_INTEREST (CRM_PAE | CRM_LA57 | PSE | PGE | SMEP | SMAP | PKE | PKS)

static CrmCpu probe_cpu(QTestState *q)
{
    CrmCpu cpu = { .maxphyaddr = 40 };

    for (unsigned i = 0; i < 32; i++) {
        if (write_reg(q, "cr4", 1ull << i).vector == -1) {
            cpu.cr4_bits |= 1ull << i;
        }
        if (write_reg(q, "efer", 1ull << i).vector == -1) {
            cpu.efer_bits |= 1ull << i;
        }
    }
    set_reg(q, "cr4", 0);
    set_reg(q, "efer", 0);
    cpu.lam = cpu.cr4_bits & CRM_LAM_SUP;
    g_assert_cmphex(cpu.cr4_bits & CRM_PCIDE, ==, 0);
    if (cpu_has_all()) {
        g_assert_cmphex(cpu.cr4_bits & BITS_OF_INTEREST, ==, BITS_OF_INTEREST);
        g_assert_true(cpu.lam);
    }
    if (cpu_has_pcid(q)) {
        cpu.cr4_bits |= CRM_PCIDE;
    }
    g_assert_cmphex(cpu.cr4_bits & (1ull << 15), ==, 0);
    g_assert_cmphex(cpu.efer_bits & (CRM_LME | NXE), ==, CRM_LME | NXE);
    g_assert_cmphex(cpu.efer_bits & 0x2fe, ==, 0);
    return cpu;
}

static CrmState read_state(QTestState *q, bool cs_l)
{
    return (CrmState) {
        .cr0 = read_reg(q, "cr0"), .cr3 = read_reg(q, "cr3"),
        .cr4 = read_reg(q, "cr4"), .efer = read_reg(q, "efer"), .cs_l = cs_l,
    };
}

static bool same_state(const CrmState *a, const CrmState *b)
{
    return a->cr0 == b->cr0 && a->cr3 == b->cr3 && a->cr4 == b->cr4 &&
           a->efer == b->efer;
}

static void set_cs_l(QTestState *q, CrmState *s, bool cs_l)
{
    g_autofree char *line = g_strdup_printf("xmmu_set_cs_l 0 %d", cs_l);

    command(q, line);
    s->cs_l = cs_l;
}

static bool is_64bit(const CrmState *s)
{
    return s->cs_l && (s->efer & CRM_LMA);
}

/* MOV to CR has a 32-bit operand outside 64-bit code; WRMSR always has 64. */
static uint64_t operand(const CrmState *s, CrmReg reg, uint64_t value)
{
    return reg == CRM_EFER || is_64bit(s) ? value : (uint32_t)value;
}

/* One write on both sides; they must agree about everything. */
static bool do_write(QTestState *q, const CrmCpu *cpu, CrmState *s, CrmReg reg,
                     uint64_t value)
{
    CrmState old = *s, now;
    bool legal = crm_write(cpu, s, reg, operand(s, reg, value));
    Exception e = write_reg(q, reg_name[reg], value);

    now = read_state(q, s->cs_l);
    if (e.vector != (legal ? -1 : 13) || e.error || !same_state(&now, s)) {
        g_error("%s = 0x%" PRIx64 " in cr0 0x%" PRIx64 " cr4 0x%" PRIx64
                " efer 0x%" PRIx64 " cs.l %d: exception %d error 0x%x -> cr0 0x%"
                PRIx64 " cr3 0x%" PRIx64 " cr4 0x%" PRIx64 " efer 0x%" PRIx64
                ", should be %s", reg_name[reg], value, old.cr0, old.cr4,
                old.efer, old.cs_l, e.vector, e.error, now.cr0, now.cr3, now.cr4,
                now.efer, legal ? "legal" : "#GP(0)");
    }
    return legal;
}

/* ---- The walk --------------------------------------------------------------------- */

typedef struct Move {
    enum { MOVE_WRITE, MOVE_SEGMENT } kind;
    CrmReg reg;
    uint64_t value;             /* or the segment's L bit */
} Move;

#define STATES      256
#define MAX_MOVES   96

typedef struct Walk {
    QTestState *q;
    CrmCpu cpu;
    CrmState now;
    bool done[STATES][MAX_MOVES];
    bool visited[STATES];
    unsigned legal, refused, states;
} Walk;

static unsigned bit(uint64_t word, uint64_t mask, unsigned position)
{
    return word & mask ? 1u << position : 0;
}

static unsigned index_of(const CrmState *s)
{
    return bit(s->cr0, CRM_PE, 0) | bit(s->cr0, CRM_PG, 1) |
           bit(s->cr4, CRM_PAE, 2) | bit(s->cr4, CRM_LA57, 3) |
           bit(s->efer, CRM_LME, 4) | bit(s->efer, NXE, 5) |
           bit(s->cs_l, 1, 6) | bit(s->cr4, CRM_PCIDE, 7);
}

static void add_move(Move *moves, unsigned *count, CrmReg reg, uint64_t value)
{
    g_assert(*count < MAX_MOVES);
    moves[(*count)++] = (Move) { MOVE_WRITE, reg, value };
}

static void cr0_moves(const CrmState *s, Move *moves, unsigned *n)
{
    static const uint64_t caches[] = { 0, CRM_CD, CRM_NW, CRM_CD | CRM_NW };
    uint64_t cr0 = s->cr0 & ~(CRM_PE | CRM_PG | CRM_CD | CRM_NW);

    for (unsigned i = 0; i < 16; i++) {
        add_move(moves, n, CRM_CR0, cr0 | (i & 1 ? CRM_PE : 0) |
                                    (i & 2 ? CRM_PG : 0) | caches[i / 4]);
    }
    add_move(moves, n, CRM_CR0, s->cr0 ^ WP);
    add_move(moves, n, CRM_CR0, s->cr0 | 1ull << 32);
    add_move(moves, n, CRM_CR0, s->cr0 | 1ull << 63);
}

static void cr4_moves(const CrmState *s, Move *moves, unsigned *n)
{
    uint64_t cr4 = s->cr4 & ~(CRM_PAE | CRM_LA57);

    for (unsigned i = 0; i < 4; i++) {
        add_move(moves, n, CRM_CR4, cr4 | (i & 1 ? CRM_PAE : 0) |
                                    (i & 2 ? CRM_LA57 : 0));
    }
    /* Every single bit flipped, whether the CPU has it or not. */
    for (unsigned i = 0; i < 33; i++) {
        add_move(moves, n, CRM_CR4, s->cr4 ^ 1ull << i);
    }
    add_move(moves, n, CRM_CR4, s->cr4 | 1ull << 63);
}

static void efer_moves(const CrmState *s, Move *moves, unsigned *n)
{
    uint64_t efer = s->efer & ~(CRM_LME | NXE);

    for (unsigned i = 0; i < 4; i++) {
        add_move(moves, n, CRM_EFER, efer | (i & 1 ? CRM_LME : 0) |
                                     (i & 2 ? NXE : 0));
    }
    add_move(moves, n, CRM_EFER, s->efer ^ CRM_LMA);
    for (unsigned i = 1; i < 8; i++) {
        add_move(moves, n, CRM_EFER, s->efer | 1ull << i);
    }
    add_move(moves, n, CRM_EFER, s->efer | 1ull << 9);
    add_move(moves, n, CRM_EFER, s->efer | 1ull << 16);
    add_move(moves, n, CRM_EFER, s->efer | 1ull << 32);
    add_move(moves, n, CRM_EFER, s->efer | 1ull << 63);
}

static void cr3_moves(Move *moves, unsigned *n)
{
    static const unsigned bits[] = { 0, 3, 4, 11, 39, 40, 51, 52, 60, 61, 62, 63 };

    for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
        add_move(moves, n, CRM_CR3, H | 1ull << bits[i]);
    }
}

/* What is tried in a state.  The list has the same order in equal states. */
static unsigned list_moves(const CrmState *s, Move *moves)
{
    unsigned n = 0;

    cr0_moves(s, moves, &n);
    cr4_moves(s, moves, &n);
    efer_moves(s, moves, &n);
    cr3_moves(moves, &n);
    if (s->cr0 & CRM_PE) {
        moves[n++] = (Move) { MOVE_SEGMENT, 0, !s->cs_l };
    }
    return n;
}

static bool model_move(const CrmCpu *cpu, CrmState *s, const Move *m)
{
    if (m->kind == MOVE_SEGMENT) {
        s->cs_l = m->value;
        return true;
    }
    return crm_write(cpu, s, m->reg, operand(s, m->reg, m->value));
}

/* Bits that are no part of the graph go back to what they are everywhere. */
static void tidy(Walk *w)
{
    CrmState *s = &w->now;

    if (s->cr3 != H) {
        do_write(w->q, &w->cpu, s, CRM_CR3, H);
    }
    if (s->cr4 & ~(CRM_PAE | CRM_LA57 | CRM_PCIDE)) {
        do_write(w->q, &w->cpu, s, CRM_CR4,
                 s->cr4 & (CRM_PAE | CRM_LA57 | CRM_PCIDE));
    }
    if (s->efer & ~(CRM_LME | CRM_LMA | NXE)) {
        do_write(w->q, &w->cpu, s, CRM_EFER,
                 s->efer & (CRM_LME | CRM_LMA | NXE));
    }
    if (s->cr0 & (WP | CRM_CD | CRM_NW)) {
        do_write(w->q, &w->cpu, s, CRM_CR0,
                 s->cr0 & ~(WP | CRM_CD | CRM_NW));
    }
}

/* A first visit: the vCPU must translate as this paging mode does. */
static void visit(Walk *w)
{
    unsigned index = index_of(&w->now);
    bool user_page = !(w->now.cr0 & CRM_PG);

    if (w->visited[index]) {
        return;
    }
    w->visited[index] = true;
    w->states++;
    must_reach(w->q, PROBE, "rs", expected_page(&w->now));
    if (user_page) {
        must_reach(w->q, PROBE, "ru", PROBE);
    } else {
        must_fault(w->q, PROBE, "ru", 5);
        must_fault(w->q, 0x3fe000, "rs", 0);
    }
    g_assert_cmpint(read_reg(w->q, "cs64"), ==, is_64bit(&w->now));
}

static void take(Walk *w, const Move *m)
{
    CrmState old = w->now;

    /* Accessed bits that one mode set are reserved bits in a PDPTE. */
    table_write(w->q, H, X | P_);
    if (m->kind == MOVE_SEGMENT) {
        set_cs_l(w->q, &w->now, m->value);
    } else if (do_write(w->q, &w->cpu, &w->now, m->reg, m->value)) {
        w->legal++;
    } else {
        w->refused++;
    }
    if (index_of(&old) != index_of(&w->now)) {
        forget_all(w->q);
    }
    tidy(w);
    visit(w);
}

/* Breadth first: the moves to the nearest state where something is left to do. */
static GArray *path_to_work(Walk *w)
{
    CrmState queue[STATES];
    int from[STATES];
    Move by[STATES], moves[MAX_MOVES];
    bool seen[STATES] = { 0 };
    unsigned head = 0, tail = 1;

    queue[0] = w->now;
    from[0] = -1;
    seen[index_of(&w->now)] = true;
    for (; head < tail; head++) {
        unsigned count = list_moves(&queue[head], moves);

        for (unsigned i = 0; i < count; i++) {
            CrmState next = queue[head];

            if (!w->done[index_of(&queue[head])][i]) {
                GArray *path = g_array_new(false, false, sizeof(Move));

                for (int at = head; from[at] >= 0; at = from[at]) {
                    g_array_prepend_val(path, by[at]);
                }
                return path;
            }
            if (!model_move(&w->cpu, &next, &moves[i])) {
                continue;
            }
            /* As tidy() will leave it. */
            next.cr0 &= CRM_PE | CRM_PG | ET;
            next.cr4 &= CRM_PAE | CRM_LA57;
            next.efer &= CRM_LME | CRM_LMA | NXE;
            next.cr3 = H;
            if (!seen[index_of(&next)]) {
                seen[index_of(&next)] = true;
                queue[tail] = next;
                from[tail] = head;
                by[tail++] = moves[i];
            }
        }
    }
    return NULL;
}

/* The first move that was not yet made here. */
static void work_here(Walk *w)
{
    unsigned index = index_of(&w->now);
    Move moves[MAX_MOVES];
    unsigned count = list_moves(&w->now, moves);

    for (unsigned i = 0; i < count && index_of(&w->now) == index; i++) {
        if (!w->done[index][i]) {
            w->done[index][i] = true;
            take(w, &moves[i]);
        }
    }
}

static void test_walk(const void *data)
{
    Walk *w = g_new0(Walk, 1);
    unsigned states;
    GArray *path;

    w->q = start(data, "-m 64");
    w->cpu = probe_cpu(w->q);
    make_tables(w->q);
    w->now = read_state(w->q, false);
    set_cs_l(w->q, &w->now, false);
    tidy(w);
    visit(w);
    while ((path = path_to_work(w))) {
        for (unsigned i = 0; i < path->len; i++) {
            take(w, &g_array_index(path, Move, i));
        }
        g_array_free(path, true);
        work_here(w);
    }
    g_test_message("%u states, %u legal writes, %u refused", w->states, w->legal,
                   w->refused);
    /*
     * 16 without paging for each of real and protected mode (PAE, LA57, LME,
     * NXE), times two for CS.L; and with paging, where LME needs PAE.  In long
     * mode also with PCIDE.
     */
    states = 2 * (16 + 16 + 12 + (w->cpu.cr4_bits & CRM_PCIDE ? 4 : 0));
    g_assert_cmpuint(w->states, ==, w->cpu.cr4_bits & CRM_LA57 ? states : states / 2);
    g_assert_cmpuint(w->refused, >, 1000);
    qtest_quit(w->q);
    g_free(w);
}

/* ---- Rules, one by one --------------------------------------------------------------- */

typedef enum Mode { REAL, PROTECTED, PAGING32, PAE, COMPAT, LONG, COMPAT5, LONG5 } Mode;

static const char *const mode_name[] = { "real", "protected", "32-bit", "pae",
                                         "compat", "long", "compat5", "long5" };

static void enter(QTestState *q, Mode mode)
{
    bool lm = mode >= COMPAT;

    make_tables(q);
    command(q, "xmmu_set_cs_l 0 0");
    set_reg(q, "cr0", ET);
    set_reg(q, "cr3", H);
    if (mode == REAL) {
        return;
    }
    set_reg(q, "cr0", ET | CRM_PE);
    if (mode == PROTECTED) {
        return;
    }
    set_reg(q, "cr4", (mode >= PAE ? CRM_PAE : 0) |
                      (mode >= COMPAT5 ? CRM_LA57 : 0));
    if (lm) {
        set_reg(q, "efer", CRM_LME);
    }
    set_reg(q, "cr0", ET | CRM_PE | CRM_PG);
    if (mode == LONG || mode == LONG5) {
        command(q, "xmmu_set_cs_l 0 1");
    }
    g_assert_cmpint(read_reg(q, "lma"), ==, lm);
}

typedef struct Rule {
    const char *name;
    Mode mode;
    const char *reg;
    uint64_t set, clear;        /* how the value differs from the register */
    /* Before the write: */
    uint64_t efer, cr4, cr3;    /* bits to set */
    uint64_t h0;                /* H[0]; 0: as it is */
    bool cs_l, tss16;
} Rule;

static const Rule rules[] = {
    { "pg-without-pe", REAL, "cr0", CRM_PG },
    { "pe-cleared-under-pg", PAGING32, "cr0", 0, CRM_PE },
    { "pe-cleared-under-pg-long", COMPAT, "cr0", 0, CRM_PE },
    { "nw-without-cd", REAL, "cr0", CRM_NW },
    { "nw-without-cd-paging", PAGING32, "cr0", CRM_NW },
    { "nw-without-cd-long", LONG, "cr0", CRM_NW },
    { "cr0-bit-32", LONG, "cr0", 1ull << 32 },
    { "cr0-bit-63", LONG, "cr0", 1ull << 63 },
    { "long-without-pae", PROTECTED, "cr0", CRM_PG, .efer = CRM_LME },
    { "long-from-cs-l", PROTECTED, "cr0", CRM_PG, .efer = CRM_LME,
      .cr4 = CRM_PAE, .cs_l = true },
    { "long-with-16-bit-tss", PROTECTED, "cr0", CRM_PG, .efer = CRM_LME,
      .cr4 = CRM_PAE, .tss16 = true },
    { "pg-cleared-in-64-bit-code", LONG, "cr0", 0, CRM_PG },
    { "pg-cleared-in-64-bit-code-5", LONG5, "cr0", 0, CRM_PG },
    { "lme-set-with-paging", PAGING32, "efer", CRM_LME },
    { "lme-set-with-pae-paging", PAE, "efer", CRM_LME },
    { "lme-cleared-in-long", LONG, "efer", 0, CRM_LME },
    { "lme-cleared-in-compat", COMPAT, "efer", 0, CRM_LME },
    { "efer-reserved-1", REAL, "efer", 1ull << 1 },
    { "efer-reserved-9", LONG, "efer", 1ull << 9 },
    { "efer-reserved-63", LONG, "efer", 1ull << 63 },
    { "pae-cleared-in-long", LONG, "cr4", 0, CRM_PAE },
    { "pae-cleared-in-compat", COMPAT, "cr4", 0, CRM_PAE },
    { "pae-cleared-in-long5", LONG5, "cr4", 0, CRM_PAE },
    { "la57-set-in-long", LONG, "cr4", CRM_LA57 },
    { "la57-set-in-compat", COMPAT, "cr4", CRM_LA57 },
    { "la57-cleared-in-long", LONG5, "cr4", 0, CRM_LA57 },
    { "la57-cleared-in-compat", COMPAT5, "cr4", 0, CRM_LA57 },
    { "pcide-in-real-mode", REAL, "cr4", CRM_PCIDE },
    { "pcide-without-lme", PAE, "cr4", CRM_PCIDE },
    { "pcide-with-a-pcid", LONG, "cr4", CRM_PCIDE, .cr3 = 1 },
    { "pcide-with-bit-11", COMPAT, "cr4", CRM_PCIDE, .cr3 = 0x800 },
    { "pg-cleared-with-pcide", COMPAT, "cr0", 0, CRM_PG, .cr4 = CRM_PCIDE },
    { "pg-and-pe-cleared-with-pcide", COMPAT, "cr0", 0, CRM_PG | CRM_PE,
      .cr4 = CRM_PCIDE },
    { "cr3-bit-60-with-pcide", LONG, "cr3", 1ull << 60, .cr4 = CRM_PCIDE },
    { "cr4-reserved-15", REAL, "cr4", 1ull << 15 },
    { "cr4-reserved-31", PAE, "cr4", 1ull << 31 },
    { "cr4-reserved-32", LONG, "cr4", 1ull << 32 },
    { "cr4-reserved-63", LONG, "cr4", 1ull << 63 },
    { "cr4-vmxe-not-offered", LONG, "cr4", 1ull << 13 },
    { "cr3-above-maxphyaddr", LONG, "cr3", 1ull << 40 },
    { "cr3-bit-51", LONG, "cr3", 1ull << 51 },
    { "cr3-bit-63-without-pcide", LONG, "cr3", 1ull << 63 },
    { "cr3-bit-60-with-lam", LONG, "cr3", 1ull << 60 },
    { "pdpte-reserved-low", PAE, "cr3", .h0 = X | P_ | 2 },
    { "pdpte-reserved-5", PAE, "cr3", .h0 = X | P_ | 0x20 },
    { "pdpte-reserved-8", PAE, "cr3", .h0 = X | P_ | 0x100 },
    { "pdpte-reserved-nx", PAE, "cr3", .h0 = X | P_ | NX_ },
    { "pdpte-above-maxphyaddr", PAE, "cr3", .h0 = X | P_ | 1ull << 40 },
    { "pdpte-at-cr0", PROTECTED, "cr0", CRM_PG, .cr4 = CRM_PAE,
      .h0 = X | P_ | 2 },
    { "pdpte-at-cr4-pae", PAGING32, "cr4", CRM_PAE, .h0 = X | P_ | 2 },
    { "pdpte-at-cr4-pge", PAE, "cr4", PGE, .h0 = X | P_ | 2 },
    { "pdpte-at-cr0-cd", PAE, "cr0", CRM_CD, .h0 = X | P_ | 2 },
};

typedef struct RuleTest {
    const Config *config;
    const Rule *rule;
} RuleTest;

static void prepare(QTestState *q, const Rule *r)
{
    enter(q, r->mode);
    if (r->efer) {
        set_reg(q, "efer", read_reg(q, "efer") | r->efer);
    }
    if (r->cr4) {
        set_reg(q, "cr4", read_reg(q, "cr4") | r->cr4);
    }
    if (r->cr3) {
        set_reg(q, "cr3", read_reg(q, "cr3") | r->cr3);
    }
    if (r->cs_l) {
        command(q, "xmmu_set_cs_l 0 1");
    }
    if (r->tss16) {
        command(q, "xmmu_set_tss16 0 1");
    }
}

static void test_rule(const void *data)
{
    const RuleTest *t = data;
    const Rule *r = t->rule;
    QTestState *q = start(t->config, "-m 64");
    CrmState before, after;
    Exception e;

    prepare(q, r);
    before = read_state(q, false);
    must_reach(q, PROBE, "rs", expected_page(&before));
    table_write(q, H, X | P_);
    if (r->h0) {
        table_write(q, H, r->h0);
    }
    e = write_reg(q, r->reg, (read_reg(q, r->reg) | r->set) & ~r->clear);
    g_assert_cmpint(e.vector, ==, 13);
    g_assert_cmpint(e.error, ==, 0);
    after = read_state(q, false);
    g_assert_true(same_state(&before, &after));
    if (!r->h0) {
        must_reach(q, PROBE, "rs", expected_page(&before));
    } else if (r->mode == PAE) {
        /* The PDPTEs that were loaded before are still in force. */
        must_reach(q, PROBE, "rs", PAGE_PAE);
    }
    qtest_quit(q);
}

static void add_rules(void)
{
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
        for (size_t r = 0; r < ARRAY_SIZE(rules); r++) {
            RuleTest *t = g_new(RuleTest, 1);
            g_autofree char *path =
                g_strdup_printf("xmmu/%s/illegal/%s/%s", configs[c].name,
                                mode_name[rules[r].mode], rules[r].name);

            *t = (RuleTest) { &configs[c], &rules[r] };
            qtest_add_data_func_full(path, t, test_rule, g_free);
        }
    }
}

/* LMA is read-only, and writing it is not an error. */
static void test_lma(const void *data)
{
    QTestState *q = start(data, "-m 64");

    enter(q, LONG);
    set_reg(q, "efer", CRM_LME);
    g_assert_cmphex(read_reg(q, "efer"), ==, CRM_LME | CRM_LMA);
    enter(q, PROTECTED);
    set_reg(q, "efer", CRM_LME | CRM_LMA);
    g_assert_cmphex(read_reg(q, "efer"), ==, CRM_LME);
    qtest_quit(q);
}

/* LAM takes effect with the write, and its bits are no part of the address of the
 * tables; a 4-level table leads elsewhere for another address. */
static void test_lam(const void *data)
{
    QTestState *q = start(data, "-m 64");

    for (Mode mode = LONG; mode <= LONG5; mode += LONG5 - LONG) {
        uint64_t page = mode == LONG ? PAGE_4 : PAGE_5;
        uint64_t cr4;

        enter(q, mode);
        cr4 = read_reg(q, "cr4");
        must_gp(q, PROBE | 1ull << 60, "rs");
        set_reg(q, "cr3", H | 1ull << 61);
        must_reach(q, PROBE | 1ull << 60, "rs", page);
        must_gp(q, PROBE | 1ull << 60, "xs");
        must_gp(q, PROBE | 1ull << 63, "rs");
        set_reg(q, "cr3", H | 1ull << 62);
        must_reach(q, PROBE | 1ull << 50, "rs", page);
        must_gp(q, PROBE | 1ull << 47, "rs");
        set_reg(q, "cr3", H);
        must_gp(q, PROBE | 1ull << 60, "rs");
        set_reg(q, "cr4", cr4 | CRM_LAM_SUP);
        must_gp(q, PROBE | 1ull << 60, "rs");
        set_reg(q, "cr4", cr4);
    }
    qtest_quit(q);
}

/* LMSW sets PE and cannot clear it. */
static void test_lmsw(const void *data)
{
    QTestState *q = start(data, "-m 64");

    enter(q, REAL);
    set_reg(q, "lmsw", 1);
    g_assert_cmphex(read_reg(q, "cr0"), ==, ET | CRM_PE);
    set_reg(q, "lmsw", 0xe);
    g_assert_cmphex(read_reg(q, "cr0"), ==, ET | CRM_PE | 0xe);
    qtest_quit(q);
}

/* ---- Single bits ------------------------------------------------------------------------ */

/*
 * 4-level tables of their own: V_* are pages below one table.  All are mapped
 * by upper entries that grant everything.
 */
#define T4          0x300000ull
#define V_RO        0x0000ull           /* supervisor, read-only, NX clear */
#define V_USER_RO   0x1000ull           /* user, read-only */
#define V_USER      0x2000ull           /* user, writable, key 1 */
#define V_KEY       0x3000ull           /* supervisor, writable, key 2 */
#define V_NX        0x4000ull           /* supervisor, NX */
#define DATA        0x400000ull

static void make_flip_tables(QTestState *q)
{
    static const uint64_t leaf[] = {
        P_, P_ | U_, P_ | W_ | U_ | 1ull << 59, P_ | W_ | 2ull << 59,
        P_ | W_ | NX_,
    };

    for (unsigned level = 0; level < 3; level++) {
        table_write(q, T4 + 0x1000 * level,
                    (T4 + 0x1000 * (level + 1)) | P_ | W_ | U_);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(leaf); i++) {
        table_write(q, T4 + 0x3000 + 8 * i, (DATA + 0x1000 * i) | leaf[i]);
    }
    forget_all(q);
}

static void enter_flip(QTestState *q)
{
    enter(q, LONG);
    make_flip_tables(q);
    set_reg(q, "efer", CRM_LME | NXE);
    set_reg(q, "cr0", CRM_PG | CRM_PE | ET | WP);
    set_reg(q, "cr3", T4);
}

/* What one access gives with the bit clear and with it set; -1: no fault. */
typedef struct Probe {
    uint64_t gva;
    const char *access;
    int clear, set;
} Probe;

typedef struct Flip {
    const char *name, *reg;
    uint64_t bit;
    Probe probes[8];
    bool role;                  /* the vCPU role must differ */
    bool shadow_root;           /* with tdp=off the root must differ */
    uint64_t cr0, cr4;          /* bits that differ from enter_flip()'s */
} Flip;

static const Flip flips[] = {
    { "wp", "cr0", WP,
      { { V_RO, "ws", -1, 3 }, { V_USER_RO, "ws", -1, 3 },
        { V_RO, "rs", -1, -1 }, { V_USER_RO, "wu", 7, 7 },
        { V_USER, "ws", -1, -1 }, { V_USER, "wu", -1, -1 } },
      .role = true, .shadow_root = true },
    { "pse", "cr4", PSE,
      { { V_RO, "rs", -1, -1 }, { V_USER, "wu", -1, -1 } } },
    { "pge", "cr4", PGE,
      { { V_RO, "rs", -1, -1 }, { V_USER, "wu", -1, -1 } } },
    { "smep", "cr4", SMEP,
      { { V_USER, "xs", -1, 0x11 }, { V_USER_RO, "xs", -1, 0x11 },
        { V_USER, "xu", -1, -1 }, { V_USER, "rs", -1, -1 },
        { V_RO, "xs", -1, -1 }, { V_RO, "xu", 0x15, 0x15 } },
      .role = true },
    { "smep-without-wp", "cr4", SMEP,
      { { V_USER, "xs", -1, 0x11 }, { V_USER_RO, "xs", -1, 0x11 },
        { V_USER_RO, "ws", -1, -1 }, { V_USER_RO, "xu", -1, -1 } },
      .role = true, .shadow_root = true, .cr0 = WP },
    { "smap", "cr4", SMAP,
      { { V_USER, "rs", -1, 1 }, { V_USER, "ws", -1, 3 },
        { V_USER, "ra", -1, -1 }, { V_USER, "wa", -1, -1 },
        { V_USER, "ru", -1, -1 }, { V_USER, "xs", -1, -1 },
        { V_RO, "rs", -1, -1 } },
      .role = true },
    { "smap-without-wp", "cr4", SMAP,
      { { V_USER_RO, "ws", -1, 3 }, { V_USER_RO, "wa", -1, -1 },
        { V_USER_RO, "rs", -1, 1 }, { V_USER_RO, "ru", -1, -1 } },
      .role = true, .shadow_root = true, .cr0 = WP },
    { "pke", "cr4", PKE,
      { { V_USER, "ru", -1, -1 }, { V_USER, "wu", -1, 0x27 },
        { V_USER, "ws", -1, 0x23 }, { V_USER, "xu", -1, -1 },
        { V_USER_RO, "ru", -1, -1 }, { V_KEY, "ws", -1, -1 } },
      .role = true },
    { "pks", "cr4", PKS,
      { { V_KEY, "rs", -1, 0x21 }, { V_KEY, "ws", -1, 0x23 },
        { V_KEY, "xs", -1, -1 }, { V_RO, "rs", -1, -1 },
        { V_USER, "wu", -1, -1 } },
      .role = true },
    { "nxe", "efer", NXE,
      { { V_NX, "rs", 9, -1 }, { V_NX, "xs", 9, 0x11 },
        { V_NX, "ws", 0xb, -1 }, { V_RO, "xs", -1, -1 },
        { V_RO, "xu", 5, 0x15 } },
      .role = true, .shadow_root = true },
};

typedef struct FlipTest {
    const Config *config;
    const Flip *flip;
} FlipTest;

static void check_probes(QTestState *q, const Flip *f, bool set)
{
    for (const Probe *p = f->probes; p->access; p++) {
        int want = set ? p->set : p->clear;

        if (want < 0) {
            must_reach(q, p->gva, p->access, DATA + p->gva);
        } else {
            must_fault(q, p->gva, p->access, want);
        }
    }
}

static bool same_root(const Root *a, const Root *b)
{
    return a->hpa == b->hpa && a->role == b->role && a->pgd == b->pgd;
}

/* Only with engine=native, on a host that lacks it, is a bit of ours refused. */
static bool accepts(QTestState *q, const char *reg, uint64_t bit)
{
    uint64_t value = read_reg(q, reg);
    bool good = write_reg(q, reg, value | bit).vector == -1;

    set_reg(q, reg, value);
    g_assert_true(good || !cpu_has_all());
    return good;
}

static void set_keys(QTestState *q)
{
    if (accepts(q, "cr4", PKS)) {
        set_reg(q, "pkrs", 1ull << 4);          /* key 2: access disabled */
    }
    if (accepts(q, "cr4", PKE)) {
        set_reg(q, "cr4", read_reg(q, "cr4") | PKE);
        set_reg(q, "pkru", 2ull << 2);          /* key 1: write disabled */
        set_reg(q, "cr4", read_reg(q, "cr4") & ~PKE);
    }
}

static void test_flip(const void *data)
{
    const FlipTest *t = data;
    const Flip *f = t->flip;
    QTestState *q = start(t->config, "-m 64");
    uint64_t value, role[2];
    Root root[2];

    enter_flip(q);
    if (!accepts(q, f->reg, f->bit)) {
        g_test_skip("the CPU has no such bit");
        qtest_quit(q);
        return;
    }
    set_keys(q);
    set_reg(q, "cr4", read_reg(q, "cr4") ^ f->cr4);
    set_reg(q, "cr0", read_reg(q, "cr0") ^ f->cr0);

    for (unsigned round = 0; round < 6; round++) {
        bool set = round & 1;

        value = read_reg(q, f->reg) & ~f->bit;
        set_reg(q, f->reg, value | (set ? f->bit : 0));
        check_probes(q, f, set);
        /* And from TCG's TLB, which the first time filled. */
        check_probes(q, f, set);
        if (round >= 2) {
            /* The second time round the same role and root must come back. */
            Root again = current_root(q);

            g_assert_cmphex(role_word(q), ==, role[set]);
            g_assert_true(same_root(&again, &root[set]));
            continue;
        }
        role[set] = role_word(q);
        root[set] = current_root(q);
    }
    g_assert_cmpint(role[0] != role[1], ==, f->role);
    g_assert_cmpint(!same_root(&root[0], &root[1]), ==,
                    !t->config->tdp && f->shadow_root);
    qtest_quit(q);
}

static void add_flips(void)
{
    for (size_t c = 0; c < ARRAY_SIZE(configs); c++) {
        for (size_t i = 0; i < ARRAY_SIZE(flips); i++) {
            FlipTest *t = g_new(FlipTest, 1);
            g_autofree char *path = g_strdup_printf("xmmu/%s/flip/%s",
                                                    configs[c].name,
                                                    flips[i].name);

            *t = (FlipTest) { &configs[c], &flips[i] };
            qtest_add_data_func_full(path, t, test_flip, g_free);
        }
    }
}

/* PSE in 32-bit paging decides what PS means, so there it is in role and root. */
static void test_pse_32bit(const void *data)
{
    const Config *config = data;
    QTestState *q = start(config, "-m 64");
    uint64_t role[2];
    Root root[2];

    enter(q, PAGING32);
    /* PDE 1: a 4 MiB page at 8 MiB, or a table that lies there. */
    qtest_writel(q, H + 4, 0x800000 | P_ | W_ | PS_);
    qtest_writel(q, 0x800000, DATA | P_ | W_);
    forget_all(q);
    for (unsigned round = 0; round < 4; round++) {
        bool pse = round & 1;

        set_reg(q, "cr4", pse ? PSE : 0);
        must_reach(q, 0x400000, "rs", pse ? 0x800000 : DATA);
        if (pse) {
            must_reach(q, 0x412345, "ws", 0x812345);
        } else {
            must_fault(q, 0x412345, "ws", 2);
        }
        role[pse] = role_word(q);
        root[pse] = current_root(q);
    }
    g_assert_cmphex(role[0], !=, role[1]);
    g_assert_cmpint(!same_root(&root[0], &root[1]), ==, !config->tdp);
    qtest_quit(q);
}

/* A -> B -> A: the root that was there is found again, none is made. */
static void test_root_cache(const void *data)
{
    const Config *config = data;
    QTestState *q = start(config, "-m 64");
    uint64_t made;
    Root first;

    enter_flip(q);
    must_reach(q, V_RO, "rs", DATA);
    first = current_root(q);
    set_reg(q, "cr3", H);
    must_reach(q, PROBE, "rs", PAGE_4);
    set_reg(q, "cr3", T4);
    must_reach(q, V_RO, "rs", DATA);
    made = counter(q, "roots_new");
    for (unsigned i = 0; i < 20; i++) {
        Root again;

        set_reg(q, "cr3", H);
        must_reach(q, PROBE, "rs", PAGE_4);
        set_reg(q, "cr3", T4);
        must_reach(q, V_RO, "rs", DATA);
        again = current_root(q);
        g_assert_true(same_root(&first, &again));
        g_assert_cmphex(again.pgd, ==, config->tdp ? 0 : T4);
    }
    g_assert_cmpuint(counter(q, "roots_new"), ==, made);
    qtest_quit(q);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_for_all("walk", test_walk);
    add_for_all("lma-read-only", test_lma);
    add_for_all("lam", test_lam);
    add_for_all("lmsw", test_lmsw);
    add_for_all("flip/pse-32-bit", test_pse_32bit);
    add_for_all("root-cache", test_root_cache);
    add_rules();
    add_flips();
    return g_test_run();
}
