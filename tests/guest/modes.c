/*
 * xmmu guest "modes": every way between the paging modes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Walks the graph of states (PG, PAE, LME, LA57, PSE, PGE, NXE; protected mode
 * and compatibility mode) until each single-register write has been made once in
 * each state, with real instructions, and compares the outcome with the model
 * that the qtest uses too.  After each write a load from one address tells by
 * its value which paging mode translated it.  Then what only 64-bit code and
 * real mode can do.
 *
 * One CR3 serves all modes: its tables are arranged so that the image at 2 MiB
 * is mapped one to one whether they are read as 32-bit, PAE, 4-level or 5-level
 * tables.  See make_tables().
 */
#include "lib.h"
#include "paging.h"
#include "../qtest/xmmu-cr-model.h"

enum { OP_END, OP_CR0, OP_CR3, OP_CR4, OP_EFER, OP_READ, OP_SEGMENT };

typedef struct Step {
    u32 op, lo, hi;
    int vector;
    u32 error, cr0, cr3, cr4, efer, data;
} Step;

_Static_assert(sizeof(Step) == 40, "modes-asm.S knows the layout of Step");

void run_steps(Step *steps, ulong cr3, u32 *clear);
void real_mode(void);
extern u64 *idt32_gates;
extern u64 exc32_handlers[2];
extern u32 real_results[4];
extern u8 real_legal_only;

#define PROBE_AT    0x2000u     /* the address that tells the mode */
#define SEL_CODE_L  0x70        /* 32-bit code with L=1: only legacy mode takes it */

static ulong root, mode_page[5];

/* ---- Tables for all modes ---- */

/*
 * H is the root.  H[0] -> X.  As PAE directory, X[1] is the large page with the
 * image; as 32-bit table, X is one to one from 2 MiB on and X[2] is the low half
 * of that same entry; as PDPT or PML4, X[0] -> Y.  Y[1] and Z[1] are the large
 * page again (4 and 5 levels).  H[0] is not writable, because in a PDPTE that
 * bit is reserved: CR0.WP stays 0.
 */
static void make_tables(void)
{
    ulong h = pool_page(), x = pool_page(), y = pool_page(), z = pool_page();
    ulong last = pool_page();
    u64 image = 0x200000 | P | W | PS | A | D;

    ((u64 *)h)[0] = x | P;
    for (u32 i = 512; i < 1024; i++) {
        ((u32 *)x)[i] = i << 12 | P | W;
    }
    ((u64 *)x)[0] = y | P | W;
    ((u64 *)x)[1] = image;
    ((u64 *)y)[0] = z | P | W;
    ((u64 *)y)[1] = image;
    ((u64 *)z)[0] = last | P | W;
    ((u64 *)z)[1] = image;

    /* Where PROBE_AT leads: nowhere (paging off), 32-bit, PAE, 4, 5 levels. */
    mode_page[0] = PROBE_AT;
    mode_page[1] = 0x200000;
    for (int i = 2; i < 5; i++) {
        mode_page[i] = pool_page();
    }
    ((u64 *)y)[2] = mode_page[2] | P | W;
    ((u64 *)z)[2] = mode_page[3] | P | W;
    ((u64 *)last)[2] = mode_page[4] | P | W;
    for (int i = 0; i < 5; i++) {
        if (i != 1) {
            *(volatile u32 *)mode_page[i] = 0xabcd0000 + i;
        }
    }
    root = h;
}

static u32 expected_data(const CrmState *s)
{
    int mode = !(s->cr0 & CRM_PG) ? 0
               : s->efer & CRM_LMA ? (s->cr4 & CRM_LA57 ? 4 : 3)
               : s->cr4 & CRM_PAE ? 2 : 1;

    return *(volatile u32 *)mode_page[mode];
}

/* ---- The walk ---- */

#define FREE_CR4    (CR4_PAE | CR4_PSE | CR4_PGE | CR4_LA57)
#define FREE_EFER   (EFER_LME | EFER_NXE)
#define STATES      128
#define WRITES      26
#define CHUNK       600

typedef struct Write {
    CrmReg reg;
    u64 value;
} Write;

static CrmCpu cpu_model;
static bool done[STATES][WRITES];
static Step steps[CHUNK + 64];
static CrmState after[CHUNK + 64];      /* what the model says */
static bool refused[CHUNK + 64];
static unsigned step_count, legal_count, refused_count;
static const CrmState home = {
    .cr0 = CR0_PE | CR0_PG | CR0_ET, .cr4 = CR4_PAE,
    .efer = EFER_LME | EFER_LMA,
};

static unsigned bit(u64 word, u64 mask, unsigned position)
{
    return (word & mask ? 1u : 0u) << position;
}

static unsigned state_index(const CrmState *s)
{
    return bit(s->cr0, CRM_PG, 0) | bit(s->cr4, CR4_PAE, 1)
           | bit(s->cr4, CR4_PSE, 2) | bit(s->cr4, CR4_PGE, 3)
           | bit(s->cr4, CR4_LA57, 4) | bit(s->efer, EFER_LME, 5)
           | bit(s->efer, EFER_NXE, 6);
}

/* The @i-th write to make in state @s. */
static Write nth_write(const CrmState *s, unsigned i)
{
    if (i < 4) {
        u64 cr0 = s->cr0 & ~(CRM_PG | CRM_NW | CRM_CD);

        return (Write) { CRM_CR0, cr0 | (i & 1 ? CRM_PG : 0)
                                  | (i & 2 ? CRM_NW : 0) };
    }
    if (i < 20) {
        return (Write) { CRM_CR4, (s->cr4 & ~(u64)FREE_CR4)
                                  | (i & 1 ? CR4_PAE : 0)
                                  | (i & 2 ? CR4_PSE : 0)
                                  | (i & 4 ? CR4_PGE : 0)
                                  | (i >= 12 ? CR4_LA57 : 0) };
    }
    if (i < 24) {
        return (Write) { CRM_EFER, (s->efer & ~(u64)FREE_EFER)
                                   | (i & 1 ? EFER_LME : 0)
                                   | (i & 2 ? EFER_NXE : 0) };
    }
    return i == 24 ? (Write) { CRM_CR4, s->cr4 | BIT(15) }
                   : (Write) { CRM_EFER, s->efer | BIT(1) };
}

/*
 * What must not be tried: 32-bit paging to PAE paging without turning paging off
 * (the CPU has set the accessed bit of H[0], which is reserved in a PDPTE), and,
 * on an emulator that is known not to refuse it, what is illegal.
 */
static bool allowed(const CrmState *from, const CrmState *to, bool legal)
{
    bool to_pae = (from->cr0 & to->cr0 & CRM_PG) && (~from->cr4 & to->cr4 & CR4_PAE);

    return !to_pae && (legal || !has_word("plain-tcg"));
}

static void add_write(CrmState *s, unsigned i)
{
    static const u32 op[] = { OP_CR0, OP_CR3, OP_CR4, OP_EFER };
    Write w = nth_write(s, i);

    steps[step_count] = (Step) { op[w.reg], w.value, w.value >> 32 };
    done[state_index(s)][i] = true;
    refused[step_count] = !crm_write(&cpu_model, s, w.reg, w.value);
    after[step_count++] = *s;
    if (refused[step_count - 1]) {
        refused_count++;
    } else {
        legal_count++;
    }
    steps[step_count] = (Step) { OP_READ, PROBE_AT };
    refused[step_count] = false;
    after[step_count++] = *s;
}

/*
 * Breadth first from @s over legal writes, until a state is found that still has
 * a write to make (@target < 0) or that is @target.  Fills @path backwards.
 */
static int find_path(const CrmState *s, int target, u8 path[STATES])
{
    static CrmState queue[STATES];
    static short from[STATES];
    static u8 by[STATES];
    static bool seen[STATES];
    unsigned head = 0, tail = 0;

    memset(seen, 0, sizeof(seen));
    queue[tail++] = *s;
    seen[state_index(s)] = true;
    from[0] = -1;
    while (head < tail) {
        CrmState here = queue[head];
        unsigned index = state_index(&here);
        bool found = (int)index == target;

        for (unsigned i = 0; i < WRITES; i++) {
            CrmState next = here;
            Write w = nth_write(&here, i);
            bool legal = crm_write(&cpu_model, &next, w.reg, w.value);

            if (!allowed(&here, &next, legal)) {
                continue;
            }
            found |= target < 0 && !done[index][i];
            if (legal && !seen[state_index(&next)]) {
                seen[state_index(&next)] = true;
                from[tail] = head;
                by[tail] = i;
                queue[tail++] = next;
            }
        }
        if (found) {
            int length = 0;

            for (int at = head; from[at] >= 0; at = from[at]) {
                path[length++] = by[at];
            }
            return length;
        }
        head++;
    }
    return -1;
}

static void follow(CrmState *s, const u8 *path, int length)
{
    while (length--) {
        add_write(s, path[length]);
    }
}

static void all_from_here(CrmState *s)
{
    for (unsigned i = 0; i < WRITES; i++) {
        CrmState next = *s;
        Write w = nth_write(s, i);
        bool legal = crm_write(&cpu_model, &next, w.reg, w.value);

        if (!done[state_index(s)][i] && allowed(s, &next, legal)) {
            add_write(s, i);
            if (state_index(s) != state_index(&home) && legal) {
                return;
            }
        }
    }
}

static bool compare(unsigned i)
{
    const Step *step = &steps[i];
    const CrmState *want = &after[i];
    bool good;

    if (step->op == OP_READ) {
        good = step->vector == -1 && step->data == expected_data(want);
    } else {
        good = refused[i] ? step->vector == 13 && step->error == 0
                          : step->vector == -1;
    }
    good &= step->cr0 == want->cr0 && step->cr4 == want->cr4
            && step->efer == want->efer && step->cr3 == root;
    if (!good) {
        print("# op %d value %x: vector %d error %x cr0 %x cr4 %x efer %x data "
              "%x; want %s cr0 %X cr4 %X efer %X data %x\n", step->op, step->lo,
              step->vector, step->error, step->cr0, step->cr4, step->efer,
              step->data, refused[i] ? "#GP" : "no #GP", want->cr0, want->cr4,
              want->efer, expected_data(want));
    }
    return good;
}

/* Run what was gathered; it starts and ends in home. */
static unsigned run_chunk(void)
{
    unsigned wrong = 0;

    steps[step_count] = (Step) { OP_END };
    run_steps(steps, root, (u32 *)root);
    for (unsigned i = 0; i < step_count && wrong < 5; i++) {
        wrong += !compare(i);
    }
    step_count = 0;
    return wrong;
}

static void test_walk(const char *name)
{
    CrmState s = home;
    unsigned wrong = 0, states = 0;
    u8 path[STATES];
    int length;

    memset(done, 0, sizeof(done));
    legal_count = refused_count = 0;
    cpu_model = (CrmCpu) {
        .cr4_bits = CR4_PAE | CR4_PSE | CR4_PGE
                    | (cpu_has.la57 ? CR4_LA57 : 0),
        .efer_bits = EFER_LME | (cpu_has.nx ? EFER_NXE : 0),
        .maxphyaddr = cpu_has.maxphyaddr,
    };
    while (!wrong && (length = find_path(&s, -1, path)) >= 0) {
        follow(&s, path, length);
        all_from_here(&s);
        if (step_count >= CHUNK - 200) {
            length = find_path(&s, state_index(&home), path);
            follow(&s, path, length);
            wrong += run_chunk();
        }
    }
    length = find_path(&s, state_index(&home), path);
    follow(&s, path, length);
    if (!wrong) {
        wrong += run_chunk();
    }
    for (unsigned i = 0; i < STATES; i++) {
        states += done[i][0];
    }
    print("# %d states, %d legal writes, %d refused ones\n", states, legal_count,
          refused_count);
    check(!wrong && states >= 20, name, "%d wrong, %d states", wrong, states);
}

/* ---- What needs particular code segments ---- */

/* Entering long mode while CS.L=1 is refused: Intel SDM vol. 3, 9.8.5. */
static void test_enter_from_l(void)
{
    u32 cr0 = CR0_PE | CR0_ET;
    Step list[] = {
        { OP_CR0, cr0 },
        { OP_SEGMENT, SEL_CODE_L },
        { OP_CR0, cr0 | CR0_PG },
        { OP_SEGMENT, SEL_CODE32 },
        { OP_CR0, cr0 | CR0_PG },
        { OP_END },
    };

    if (has_word("plain-tcg")) {
        skip("enter-from-l", "TCG does not check");
        return;
    }
    gdt[SEL_CODE_L / 8] = 0x00ef9b000000ffffull;
    run_steps(list, root, (u32 *)root);
    check(list[2].vector == 13 && list[2].error == 0 && !(list[2].cr0 & CR0_PG)
          && !(list[2].efer & EFER_LMA) && list[4].vector == -1
          && (list[4].efer & EFER_LMA), "enter-from-l", "vectors %d %d",
          list[2].vector, list[4].vector);
}

typedef struct Refusal {
    const char *name;
    int cr;                     /* -1: EFER */
    u64 value;
} Refusal;

/* In 64-bit code; each must be #GP(0) and change nothing. */
static void test_64bit_refusals(void)
{
    ulong cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
    u64 efer = rdmsr(MSR_EFER);
    const Refusal list[] = {
        { "64bit-pg-clear", 0, cr0 & ~(ulong)CR0_PG },
        { "64bit-pe-clear", 0, cr0 & ~(ulong)CR0_PE },
        { "64bit-pe-pg-clear", 0, cr0 & ~(ulong)(CR0_PE | CR0_PG) },
        { "64bit-nw", 0, (cr0 & ~(ulong)CR0_CD) | CR0_NW },
        { "64bit-cr0-high", 0, cr0 | BIT(32) },
        { "64bit-cr0-highest", 0, cr0 | BIT(63) },
        { "64bit-pae-clear", 4, cr4 & ~(ulong)CR4_PAE },
        { "64bit-la57-set", 4, cr4 | CR4_LA57 },
        { "64bit-cr4-bit15", 4, cr4 | BIT(15) },
        { "64bit-cr4-high", 4, cr4 | BIT(33) },
        { "64bit-cr4-highest", 4, cr4 | BIT(63) },
        { "64bit-cr3-63", 3, cr3 | BIT(63) },
        { "64bit-cr3-maxphyaddr", 3, cr3 | BIT(cpu_has.maxphyaddr) },
        { "64bit-cr3-52", 3, cr3 | BIT(52) },
        { "64bit-efer-lme", -1, efer & ~(u64)EFER_LME },
        { "64bit-efer-bit1", -1, efer | BIT(1) },
        { "64bit-efer-high", -1, efer | BIT(40) },
        { "64bit-pcide", 4, cr4 | CR4_PCIDE },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
        const Refusal *r = &list[i];
        Exc exc;

        if (has_word("plain-tcg")) {
            skip(r->name, "TCG does not check");
            continue;
        }
        if (r->value == cr4 + CR4_PCIDE && cpu_has.pcid) {
            write_cr3(cr3 | 8);         /* legal only with CR3[11:0] = 0 */
        }
        exc = r->cr < 0 ? try_wrmsr(MSR_EFER, r->value)
                        : try_write_cr(r->cr, r->value);
        write_cr3(read_cr3() & ~0xffful);
        check(exc.vector == 13 && exc.error == 0 && read_cr0() == cr0
              && read_cr3() == cr3 && read_cr4() == cr4
              && rdmsr(MSR_EFER) == efer, r->name,
              "vector %d cr0 %p cr3 %p cr4 %p", exc.vector, read_cr0(),
              read_cr3(), read_cr4());
    }
}

/* LMA cannot be written, and an attempt is no error. */
static void test_lma(void)
{
    u64 efer = rdmsr(MSR_EFER);
    Exc exc = try_wrmsr(MSR_EFER, efer & ~(u64)EFER_LMA);

    check(exc.vector == -1 && rdmsr(MSR_EFER) == efer, "64bit-lma-ignored",
          "vector %d efer %X", exc.vector, rdmsr(MSR_EFER));
}

static void test_real_mode(void)
{
    *(volatile u32 *)0x500 = 0x11111111;
    *(volatile u32 *)0x100500 = 0x22222222;
    real_legal_only = has_word("plain-tcg");
    real_mode();
    if (has_word("plain-tcg")) {
        skip("real-illegal", "TCG does not check");
    } else {
        check(real_results[0] == 0x200 && !(real_results[1] & CR0_PG)
              && !(real_results[1] & CR0_NW), "real-illegal",
              "count %x cr0 %x", real_results[0], real_results[1]);
    }
    check(real_results[2] == 0x22222222 && real_results[3] == 0x11111111,
          "real-a20", "open %x closed %x", real_results[2], real_results[3]);
}

static void test_a20(void)
{
    volatile u32 *low = (volatile u32 *)0x500, *high = (volatile u32 *)0x100500;
    u8 port = (inb(0x92) | 2) & ~1;
    bool good = true;

    for (int i = 0; i < 4; i++) {
        outb(0x92, port);
        *low = 1;
        *high = 2;
        good &= *low == 1 && *high == 2;
        outb(0x92, port & ~2);
        good &= *high == 1;
        *high = 3;
        good &= *low == 3;
        outb(0x92, port);
        good &= *high == 2 && *low == 3;
    }
    check(good, "64bit-a20", "low %x high %x", *low, *high);
}

void guest_main(void)
{
    print("TAP version 13\n");
    idt32_gates[0] |= (exc32_handlers[0] & 0xffff)
                      | (exc32_handlers[0] >> 16) << 48;
    idt32_gates[1] |= (exc32_handlers[1] & 0xffff)
                      | (exc32_handlers[1] >> 16) << 48;
    make_tables();
    test_walk("walk");
    test_enter_from_l();
    test_64bit_refusals();
    test_lma();
    test_real_mode();
    test_a20();
    test_walk("walk-again");
}
