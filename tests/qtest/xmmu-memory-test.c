/*
 * xmmu: guest memory under qtest: what lies where, and bad tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The memory map changes while translations exist: memory plugged and
 * unplugged, BARs moved, SMRAM, the A20 gate, ROM.  Page tables in places where
 * no table should be, and random ones.  Then what can be asked over QMP, and
 * what the qtest commands say to nonsense.
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "xmmu-qtest.h"

#define CR0_PE      0x1ull
#define CR0_ET      0x10ull
#define CR0_WP      0x10000ull
#define CR0_PG      0x80000000ull
#define CR4_PSE     0x10ull
#define CR4_PAE     0x20ull
#define CR4_LA57    0x1000ull
#define EFER_LME    0x100ull
#define EFER_NXE    0x800ull

#define P_          1ull
#define W_          2ull
#define U_          4ull
#define PS_         0x80ull

#define ROOT        0x100000ull
#define NEW_MEMORY  0x100000000ull      /* where the first pc-dimm goes */

/* ---- Modes ------------------------------------------------------------------------ */

/* 64-bit code under 4-level paging; everything below 512 GiB one to one. */
static void enter_long(QTestState *q)
{
    for (unsigned i = 0; i < 512; i++) {
        table_write(q, ROOT + 0x1000 + 8 * i,
                    (uint64_t)i * GiB | P_ | W_ | U_ | PS_);
    }
    table_write(q, ROOT, (ROOT + 0x1000) | P_ | W_ | U_);
    forget_all(q);
    command(q, "xmmu_set_cs_l 0 0");
    set_reg(q, "cr0", CR0_PE | CR0_ET);
    set_reg(q, "cr4", CR4_PAE);
    set_reg(q, "cr3", ROOT);
    set_reg(q, "efer", EFER_LME | EFER_NXE);
    set_reg(q, "cr0", CR0_PG | CR0_PE | CR0_ET | CR0_WP);
    command(q, "xmmu_set_cs_l 0 1");
}

static bool reaches_ram(QTestState *q, uint64_t gva, const char *access)
{
    Translation t = translate(q, gva, access);

    g_assert_cmpint(t.exception.vector, ==, -1);
    g_assert_cmphex(t.gpa, ==, gva);
    return t.ram;
}

/* ---- Memory that comes and goes ------------------------------------------------------ */

static void plug(QTestState *q)
{
    qtest_qmp_assert_success(q, "{ 'execute': 'object-add', 'arguments': {"
                             " 'qom-type': 'memory-backend-ram', 'id': 'm0',"
                             " 'size': %" PRIu64 " } }", (uint64_t)(128 * MiB));
    qtest_qmp_assert_success(q, "{ 'execute': 'device_add', 'arguments': {"
                             " 'driver': 'pc-dimm', 'id': 'd0',"
                             " 'memdev': 'm0' } }");
}

/* The guest's part of it: ACPI memory hotplug, slot 0, eject. */
static void unplug(QTestState *q)
{
    qtest_qmp_assert_success(q, "{ 'execute': 'device_del', 'arguments': {"
                             " 'id': 'd0' } }");
    qtest_outl(q, 0xa00, 0);
    qtest_outb(q, 0xa14, 8);
    qtest_qmp_eventwait(q, "DEVICE_DELETED");
    qtest_qmp_assert_success(q, "{ 'execute': 'object-del', 'arguments': {"
                             " 'id': 'm0' } }");
}

static void test_hotplug(const void *data)
{
    QTestState *q = start(data, "-m 128,slots=2,maxmem=1G");

    enter_long(q);
    for (unsigned round = 0; round < 3; round++) {
        g_assert_false(reaches_ram(q, NEW_MEMORY, "rs"));
        plug(q);
        g_assert_true(reaches_ram(q, NEW_MEMORY, "ws"));
        g_assert_true(reaches_ram(q, NEW_MEMORY + 128 * MiB - 8, "ws"));
        g_assert_false(reaches_ram(q, NEW_MEMORY + 128 * MiB, "rs"));
        g_assert_cmphex(load(q, NEW_MEMORY + 0x1234, 8), ==, 0);
        g_assert_cmpint(store(q, NEW_MEMORY + 0x1234, 8, 0x1122334455667788)
                        .vector, ==, -1);
        g_assert_cmphex(qtest_readq(q, NEW_MEMORY + 0x1234), ==,
                        0x1122334455667788);
        unplug(q);
    }
    qtest_quit(q);
}

/* Guest page tables in memory that is taken away while they are in use. */
static void test_unplug_tables(const void *data)
{
    QTestState *q = start(data, "-m 128,slots=2,maxmem=1G");

    enter_long(q);
    plug(q);
    table_write(q, NEW_MEMORY, 0x400000 | P_ | W_ | PS_);
    table_write(q, ROOT + 0x1000 + 8 * 3, NEW_MEMORY | P_ | W_);
    forget_all(q);
    must_reach(q, 3 * GiB + 0x123, "ws", 0x400123);
    unplug(q);
    /* Where nothing is, reads give zero: not present. */
    must_fault(q, 3 * GiB + 0x123, "ws", 2);
    plug(q);
    table_write(q, NEW_MEMORY, 0x600000 | P_ | W_ | PS_);
    must_reach(q, 3 * GiB + 0x123, "ws", 0x600123);
    qtest_quit(q);
}

/* ---- PCI ---------------------------------------------------------------------------------- */

static void pci_write(QTestState *q, unsigned devfn, unsigned reg, uint32_t value)
{
    qtest_outl(q, 0xcf8, 0x80000000u | devfn << 8 | reg);
    qtest_outl(q, 0xcfc, value);
}

#define VGA_DEVFN   (4 << 3)

/* The frame buffer of the VGA card is memory behind BAR 0. */
static void test_bar(const void *data)
{
    static const uint64_t places[] = { 0xe0000000, 0xd0000000, 0xe1000000 };
    QTestState *q = start(data, "-m 128 -device VGA,addr=4");

    enter_long(q);
    for (unsigned i = 0; i < 12; i++) {
        uint64_t place = places[i % ARRAY_SIZE(places)];
        uint64_t last = places[(i + 2) % ARRAY_SIZE(places)];

        pci_write(q, VGA_DEVFN, 0x10, place);
        pci_write(q, VGA_DEVFN, 0x04, 2);
        g_assert_true(reaches_ram(q, place, "ws"));
        g_assert_true(reaches_ram(q, place + 0x1000, "rs"));
        g_assert_false(reaches_ram(q, last, "rs"));
        g_assert_cmpint(store(q, place, 4, 0x55aa0000 + i).vector, ==, -1);
        pci_write(q, VGA_DEVFN, 0x10, last);
        g_assert_cmphex(load(q, last, 4), ==, 0x55aa0000 + i);
        g_assert_false(reaches_ram(q, place, "rs"));
        pci_write(q, VGA_DEVFN, 0x04, 0);
        g_assert_false(reaches_ram(q, last, "rs"));
    }
    qtest_quit(q);
}

/* ---- ROM and PAM ---------------------------------------------------------------------------- */

static void test_rom(const void *data)
{
    QTestState *q = start(data, "-m 128");
    uint64_t before;

    enter_long(q);
    before = load(q, 0xfffffff0, 4);
    g_assert_true(reaches_ram(q, 0xfffffff0, "rs"));
    g_assert_cmpint(store(q, 0xfffffff0, 4, ~before & 0xffffffff).vector, ==, -1);
    g_assert_cmphex(load(q, 0xfffffff0, 4), ==, before);
    g_assert_cmphex(qtest_readl(q, 0xfffffff0), ==, before);

    /* i440FX PAM0, 0xf0000: memory for reads and writes, then for reads alone. */
    for (unsigned i = 0; i < 3; i++) {
        pci_write(q, 0, 0x58, 0x3000);
        g_assert_cmpint(store(q, 0xf0000, 4, 0x12340000 + i).vector, ==, -1);
        g_assert_cmphex(load(q, 0xf0000, 4), ==, 0x12340000 + i);
        pci_write(q, 0, 0x58, 0x1000);
        g_assert_cmphex(load(q, 0xf0000, 4), ==, 0x12340000 + i);
        g_assert_cmpint(store(q, 0xf0000, 4, 0x99).vector, ==, -1);
        g_assert_cmphex(load(q, 0xf0000, 4), ==, 0x12340000 + i);
    }
    qtest_quit(q);
}

/* ---- SMM ---------------------------------------------------------------------------------------- */

/* With SMRAM enabled and closed, 0xa0000 is memory in SMM and the VGA outside. */
static void test_smm(const void *data)
{
    QTestState *q = start(data, "-m 128 -device VGA,addr=4");
    uint64_t role, smm_role;
    Root root, smm_root;

    pci_write(q, VGA_DEVFN, 0x04, 3);
    /* i440FX SMRAM: open, to write a mark; then closed. */
    pci_write(q, 0, 0x70, 0x4a << 16);
    qtest_writel(q, 0xa8000, 0x534d4d21);
    pci_write(q, 0, 0x70, 0x0a << 16);

    enter_long(q);
    for (unsigned i = 0; i < 4; i++) {
        g_assert_false(reaches_ram(q, 0xa8000, "rs"));
        role = role_word(q);
        root = current_root(q);
        command(q, "xmmu_smm 0 1");
        g_assert_cmpint(read_reg(q, "smm"), ==, 1);
        /* SMM starts without paging. */
        g_assert_true(reaches_ram(q, 0xa8000, "rs"));
        g_assert_cmphex(load(q, 0xa8000, 4), ==, 0x534d4d21);
        smm_role = role_word(q);
        smm_root = current_root(q);
        g_assert_cmphex(role, !=, smm_role);
        g_assert_cmphex(root.role, !=, smm_root.role);
        g_assert_cmphex(root.hpa, !=, smm_root.hpa);
        command(q, "xmmu_smm 0 0");
        g_assert_cmphex(role_word(q), ==, role);
        g_assert_cmphex(current_root(q).role, ==, root.role);
        g_assert_false(reaches_ram(q, 0xa8000, "rs"));
        g_assert_true(reaches_ram(q, 0x90000, "ws"));
    }
    qtest_quit(q);
}

/* ---- A20 ------------------------------------------------------------------------------------------ */

static void gate(QTestState *q, bool open)
{
    qtest_outb(q, 0x92, open ? 2 : 0);
}

static void test_a20(const void *data)
{
    QTestState *q = start(data, "-m 128");

    qtest_writel(q, 0x512340, 1);
    qtest_writel(q, 0x412340, 2);
    for (unsigned paging = 0; paging < 2; paging++) {
        if (paging) {
            enter_long(q);
            /* Tables must be found with bit 20 clear too. */
            table_write(q, 0x200000, 0x201000 | P_ | W_ | U_);
            table_write(q, 0x201000, P_ | W_ | U_ | PS_);
            forget_all(q);
            set_reg(q, "cr3", 0x200000);
        } else {
            command(q, "xmmu_set_cs_l 0 0");
            set_reg(q, "cr0", CR0_PE | CR0_ET);
        }
        for (unsigned i = 0; i < 4; i++) {
            gate(q, true);
            must_reach(q, 0x512340, "rs", 0x512340);
            g_assert_cmphex(load(q, 0x512340, 4), ==, 1);
            gate(q, false);
            must_reach(q, 0x512340, "rs", 0x412340);
            g_assert_cmphex(load(q, 0x512340, 4), ==, 2);
        }
    }
    qtest_quit(q);
}

/* ---- Tables where none should be -------------------------------------------------------------------- */

typedef struct Place {
    const char *name;
    uint64_t gpa;
} Place;

static const Place places[] = {
    { "lapic", 0xfee00000 }, { "ioapic", 0xfec00000 }, { "vga", 0xa0000 },
    { "rom", 0xffff0000 }, { "hole", 0xd0000000 }, { "above-ram", 0x10000000 },
    { "far-above", 0xff00000000 },
};

static void any_access(QTestState *q, uint64_t gva)
{
    static const char *const kinds[] = { "rs", "ws", "xs", "ru", "wu", "xu" };

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        Translation t = translate(q, gva, kinds[i]);

        /* A translation or #PF for this address, nothing else. */
        if (t.exception.vector != -1) {
            g_assert_cmpint(t.exception.vector, ==, 14);
            g_assert_cmphex(t.exception.cr2, ==, gva);
            g_assert_cmpint(!!(t.exception.error & 4), ==, kinds[i][1] == 'u');
            g_assert_cmpint(!!(t.exception.error & 2), ==, kinds[i][0] == 'w');
        }
    }
}

/* CR3 itself, then each level of the tables, in such a place. */
static void test_places(const void *data)
{
    QTestState *q = start(data, "-m 128 -device VGA,addr=4");

    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        enter_long(q);
        set_reg(q, "cr3", places[i].gpa);
        any_access(q, 0);
        any_access(q, 0x7fff12345678);
        any_access(q, 0xffff800000001000);
        g_assert_cmphex(read_reg(q, "cr3"), ==, places[i].gpa);
        for (unsigned level = 3; level; level--) {
            uint64_t table = ROOT;

            enter_long(q);
            for (unsigned l = 3; l > level; l--) {
                table_write(q, table, (table + 0x1000) | P_ | W_ | U_);
                table += 0x1000;
            }
            table_write(q, table, places[i].gpa | P_ | W_ | U_);
            forget_all(q);
            any_access(q, 0);
            any_access(q, 0x1000);
            any_access(q, 0x40302000);
        }
    }
    /* The machine is fine afterwards. */
    enter_long(q);
    g_assert_true(reaches_ram(q, 0x1000, "ws"));
    qtest_quit(q);
}

static void paging_on(QTestState *q, uint64_t cr4, uint64_t efer, uint64_t cr3)
{
    command(q, "xmmu_set_cs_l 0 0");
    set_reg(q, "cr0", CR0_PE | CR0_ET);
    set_reg(q, "cr4", cr4);
    set_reg(q, "efer", efer);
    set_reg(q, "cr3", cr3);
    set_reg(q, "cr0", CR0_PG | CR0_PE | CR0_ET);
    if (efer & EFER_LME) {
        command(q, "xmmu_set_cs_l 0 1");
    }
}

static void fill_random(QTestState *q, GRand *rand)
{
    g_autofree uint32_t *words = g_new(uint32_t, 16 * 1024);

    for (unsigned i = 0; i < 16 * 1024; i++) {
        words[i] = g_rand_int(rand);
        /* Half of the entries lead back into the garbage. */
        if (i % 2 == 0 && g_rand_boolean(rand)) {
            words[i] = ROOT | (words[i] & 0xf027) | P_;
            words[i + 1] = 0;
            i++;
        }
    }
    qtest_memwrite(q, ROOT, words, 64 * KiB);
    forget_all(q);
}

/* Random tables of all kinds: an exception or a translation, and a live QEMU. */
static void test_garbage(const void *data)
{
    static const uint64_t modes[][2] = {
        { 0, 0 }, { CR4_PSE, 0 }, { CR4_PAE, EFER_NXE },
        { CR4_PAE, EFER_LME }, { CR4_PAE, EFER_LME | EFER_NXE },
        { CR4_PAE | CR4_LA57, EFER_LME | EFER_NXE },
    };
    QTestState *q = start(data, "-m 128");
    g_autoptr(GRand) rand = g_rand_new_with_seed(20260101);
    bool la57 = write_reg(q, "cr4", CR4_LA57).vector == -1;
    size_t count = ARRAY_SIZE(modes) - !la57;

    g_assert_true(la57 || !cpu_has_all());
    set_reg(q, "cr4", 0);
    for (unsigned i = 0; i < 5 * count; i++) {
        const uint64_t *mode = modes[i % count];
        bool lm = mode[1] & EFER_LME;

        command(q, "xmmu_set_cs_l 0 0");
        set_reg(q, "cr0", CR0_PE | CR0_ET);
        fill_random(q, rand);
        if ((mode[0] & CR4_PAE) && !lm) {
            /* PDPTEs that can be loaded. */
            for (unsigned n = 0; n < 4; n++) {
                table_write(q, ROOT + 8 * n, (ROOT + 0x1000 * n) | P_);
            }
        }
        paging_on(q, mode[0], mode[1], ROOT);
        for (unsigned n = 0; n < 60; n++) {
            uint64_t gva = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);

            /* Canonical also under 4 levels. */
            gva = lm ? (uint64_t)((int64_t)(gva << 16) >> 16) : (uint32_t)gva;
            any_access(q, gva);
        }
    }
    enter_long(q);
    g_assert_true(reaches_ram(q, 0x1000, "ws"));
    qtest_quit(q);
}

/* Non-canonical addresses: #GP(0), never a walk. */
static void test_non_canonical(const void *data)
{
    QTestState *q = start(data, "-m 128");

    enter_long(q);
    for (unsigned bit = 47; bit < 64; bit++) {
        Translation t = translate(q, 1ull << bit, "rs");

        g_assert_cmpint(t.exception.vector, ==, 13);
        g_assert_cmpint(t.exception.error, ==, 0);
    }
    qtest_quit(q);
}

/* ---- Stores into tables, as the guest makes them ------------------------------------------------------- */

/* The guest changes a table with its own stores, then flushes as it must. */
static void test_guest_stores(const void *data)
{
    QTestState *q = start(data, "-m 128");
    const uint64_t pd = 0x200000, pt = 0x201000, gva = 3 * GiB;

    enter_long(q);
    table_write(q, ROOT + 0x1000 + 8 * 3, pd | P_ | W_ | U_);
    table_write(q, pd, pt | P_ | W_ | U_);
    for (unsigned i = 0; i < 8; i++) {
        table_write(q, pt + 8 * i, 0x400000 | P_ | W_ | U_);
    }
    forget_all(q);
    must_reach(q, gva, "ws", 0x400000);
    for (unsigned i = 1; i < 40; i++) {
        g_autofree char *line = g_strdup_printf("xmmu_invlpg 0 0x%" PRIx64, gva);
        uint64_t page = 0x400000 + 0x1000 * i;

        g_assert_cmpint(store(q, pt, 8, page | P_ | W_).vector, ==, -1);
        if (i % 3) {
            command(q, line);
        } else {
            set_reg(q, "cr3", ROOT);
        }
        must_reach(q, gva, "ws", page);
        must_fault(q, gva, "ru", 5);
        if (i % 5 == 0) {
            /* The directory, in two halves. */
            g_assert_cmpint(store(q, pd, 4, 0).vector, ==, -1);
            g_assert_cmpint(store(q, pd + 4, 4, 0).vector, ==, -1);
            command(q, line);
            must_fault(q, gva, "ws", 2);
            g_assert_cmpint(store(q, pd, 4, pt | P_ | W_ | U_).vector, ==, -1);
            must_reach(q, gva, "ws", page);
        }
    }
    /* The CPU wrote accessed and dirty bits. */
    g_assert_cmphex(qtest_readq(q, pt) & 0x60, ==, 0x60);
    qtest_quit(q);
}

/*
 * A device (DMA, a debugger, the other side of a migration) changes an entry
 * above a table that is in use: write tracking does not see it.  What hangs below
 * must not be taken for what the entry now says: not its rights, not its table,
 * not a table for a large page.  The class of CVE-2026-53359.
 */
typedef struct DeviceWrite {
    uint64_t entry, page;       /* what a device writes; what is mapped then */
    bool writable;
} DeviceWrite;

static void test_device_writes(const void *data)
{
    enum { PD = 0x200000, PT = 0x201000, PT2 = 0x202000 };
    static const DeviceWrite writes[] = {
        { PT | P_ | U_, 0x400000, false },
        { PT2 | P_ | W_ | U_, 0x500000, true },
        { 0x600000 | P_ | W_ | U_ | PS_, 0x600000, true },
        { PT | P_ | W_ | U_, 0x400000, true },
        { 0x600000 | P_ | U_ | PS_, 0x600000, false },
        { PT2 | P_ | U_, 0x500000, false },
    };
    const Config *config = data;
    QTestState *q = start(config, "-m 128");
    const uint64_t gva = 3 * GiB;
    uint64_t conflicts, last = 0;

    enter_long(q);
    table_write(q, ROOT + 0x1000 + 8 * 3, PD | P_ | W_ | U_);
    table_write(q, PD, PT | P_ | W_ | U_);
    for (unsigned i = 0; i < 512; i++) {
        table_write(q, PT + 8 * i, (0x400000 + 0x1000 * i) | P_ | W_ | U_);
        table_write(q, PT2 + 8 * i, (0x500000 + 0x1000 * i) | P_ | W_ | U_);
    }
    forget_all(q);
    /* Some flushes, until what is protected is known to be so. */
    for (unsigned i = 0; i < 4; i++) {
        must_reach(q, gva, "ws", 0x400000);
        set_reg(q, "cr3", ROOT);
    }
    conflicts = counter(q, "role_conflicts");

    for (unsigned i = 0; i < 10 * ARRAY_SIZE(writes); i++) {
        const DeviceWrite *w = &writes[i % ARRAY_SIZE(writes)];
        uint64_t offset = 0x1000 * (i + 1);

        table_write(q, PD, w->entry);
        if (last & PS_) {
            /* A large page maps all there is: no fault would find the change. */
            forget_all(q);
        }
        last = w->entry;
        set_reg(q, "cr3", ROOT);
        /* A page below the entry that was not used yet. */
        must_reach(q, gva + offset, "rs", w->page + offset);
        if (w->writable) {
            must_reach(q, gva + offset, "ws", w->page + offset);
            must_reach(q, gva, "ws", w->page);
        } else {
            must_fault(q, gva + offset, "ws", 3);
            must_fault(q, gva, "ws", 3);
        }
        for (unsigned n = 0; n < 4; n++) {
            must_reach(q, gva, "ru", w->page);
            set_reg(q, "cr3", ROOT);
        }
    }
    /* With shadow paging it was these checks that found the difference. */
    g_assert_cmpint(counter(q, "role_conflicts") > conflicts, ==, !config->tdp);
    qtest_quit(q);
}

/* ---- QMP ------------------------------------------------------------------------------------------------ */

static QDict *query(QTestState *q)
{
    return qtest_qmp_assert_success_ref(q, "{ 'execute': 'x-query-xmmu' }");
}

static bool is_gauge(const char *name)
{
    return g_str_has_prefix(name, "table") || g_str_has_prefix(name, "pages");
}

static void test_query(const void *data)
{
    const Config *config = data;
    QTestState *q = start(config, "-m 128 -smp 2");
    const QDictEntry *e;
    QDict *first, *second, *old, *now;
    bool moved = false;

    enter_long(q);
    g_assert_true(reaches_ram(q, 0x1000, "ws"));
    first = query(q);
    g_assert_cmpstr(qdict_get_str(first, "engine"), ==, "soft");
    g_assert_cmpint(qdict_get_bool(first, "tdp"), ==, config->tdp);
    g_assert_true(strstr(config->options, qdict_get_str(first, "pt-format")));
    g_assert_false(qdict_get_bool(first, "verify"));
    g_assert_true(qdict_get_bool(first, "huge-pages"));
    g_assert_cmpint(qdict_get_int(first, "prev-roots"), >=, 0);
    g_assert_cmpint(qlist_size(qdict_get_qlist(first, "vcpus")), ==, 2);

    for (unsigned i = 0; i < 100; i++) {
        g_assert_true(reaches_ram(q, 0x200000 + i * 0x1000, "ws"));
        set_reg(q, "cr3", ROOT);
    }
    second = query(q);
    old = qdict_get_qdict(first, "stats");
    now = qdict_get_qdict(second, "stats");
    g_assert_cmpint(qdict_size(old), ==, qdict_size(now));
    for (e = qdict_first(old); e; e = qdict_next(old, e)) {
        const char *name = qdict_entry_key(e);
        int64_t before = qdict_get_int(old, name);
        int64_t after = qdict_get_int(now, name);

        if (!is_gauge(name)) {
            g_assert_cmpint(before, <=, after);
            moved |= before < after;
        }
    }
    g_assert_true(moved);
    g_assert_cmpint(qdict_get_int(now, "cr3-loads"), >=,
                    qdict_get_int(old, "cr3-loads") + 100);
    g_assert_cmpint(qdict_get_int(now, "tables"), >, 0);
    qobject_unref(first);
    qobject_unref(second);
    qtest_quit(q);
}

/* Under another accelerator the command says so. */
static void test_query_tcg(void)
{
    QTestState *q = qtest_init("-accel tcg -nodefaults -S -m 64");
    QDict *answer = qtest_qmp(q, "{ 'execute': 'x-query-xmmu' }");
    g_autofree char *line = ask(q, "xmmu_read_reg 0 cr0");

    g_assert_true(qdict_haskey(answer, "error"));
    g_assert_true(g_str_has_prefix(line, "FAIL"));
    qobject_unref(answer);
    qtest_quit(q);
}

/* ---- Reset ------------------------------------------------------------------------------------------------ */

static void test_reset(const void *data)
{
    QTestState *q = start(data, "-m 128");

    for (unsigned i = 0; i < 3; i++) {
        enter_long(q);
        g_assert_true(reaches_ram(q, 0x1000, "ws"));
        qtest_qmp_assert_success(q, "{ 'execute': 'system_reset' }");
        qtest_qmp_eventwait(q, "RESET");
        g_assert_cmphex(read_reg(q, "cr0"), ==, 0x60000010);
        g_assert_cmphex(read_reg(q, "cr3"), ==, 0);
        g_assert_cmphex(read_reg(q, "efer"), ==, 0);
        /* Without paging again. */
        must_reach(q, 0x1000, "ru", 0x1000);
    }
    qtest_quit(q);
}

/* ---- Nonsense ------------------------------------------------------------------------------------------------ */

static void test_bad_commands(const void *data)
{
    static const char *const bad[] = {
        "xmmu_read_reg", "xmmu_read_reg 0", "xmmu_read_reg 7 cr0",
        "xmmu_read_reg -1 cr0", "xmmu_read_reg x cr0", "xmmu_read_reg 0 cr9",
        "xmmu_read_reg 0 cr0 cr0", "xmmu_write_reg 0 cr0", "xmmu_write_reg 0 cr9 0",
        "xmmu_write_reg 0 cr0 nine", "xmmu_translate 0 0 r", "xmmu_translate 0 0 zz",
        "xmmu_translate 0 0 rss", "xmmu_translate 0 zero rs", "xmmu_load 0 0 3",
        "xmmu_store 0 0 16 0", "xmmu_set_cs_l 0 2", "xmmu_smm 0 0",
        "xmmu_zap_all now", "xmmu_counters 9", "xmmu_nothing",
    };
    QTestState *q = start(data, "-m 128");

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *answer = ask(q, "%s", bad[i]);

        if (!g_str_has_prefix(answer, "FAIL ")) {
            g_error("%s: %s", bad[i], answer);
        }
    }
    g_assert_cmphex(read_reg(q, "cr0"), ==, 0x60000010);
    qtest_quit(q);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_for_all("hotplug", test_hotplug);
    add_for_all("unplug-tables", test_unplug_tables);
    add_for_all("bar", test_bar);
    add_for_all("rom", test_rom);
    add_for_all("smm", test_smm);
    add_for_all("a20", test_a20);
    add_for_all("places", test_places);
    add_for_all("garbage", test_garbage);
    add_for_all("non-canonical", test_non_canonical);
    add_for_all("guest-stores", test_guest_stores);
    add_for_all("device-writes", test_device_writes);
    add_for_all("query", test_query);
    add_for_all("reset", test_reset);
    add_for_all("bad-commands", test_bad_commands);
    qtest_add_func("xmmu/query-other-accelerator", test_query_tcg);
    return g_test_run();
}
