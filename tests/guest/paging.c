/*
 * xmmu guests: page tables of every format, and what they must do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See paging.h.
 */
#include "paging.h"

#define POOL_START  0x00400000ul
#define POOL_END    0x04000000ul

const Format format_32 = { "32-bit", 2, 4, 10, 0x80000000ul };
const Format format_pae = { "pae", 3, 8, 9, 0x80000000ul };
#ifdef __x86_64__
const Format format_4level = { "4-level", 4, 8, 9, 0x00007a4240000000ul };
const Format format_5level = { "5-level", 5, 8, 9, 0x00a17a4240000000ul };
void set_paging_levels(ulong root, ulong la57);
#endif

/* Where the user code appears in every space. */
#define USER_TEXT_AT 0x70000000ul

static ulong pool_next = POOL_START;

/* ---- Pool ---- */

ulong pool_pages(ulong count)
{
    ulong size = count * PAGE;
    ulong start = (pool_next + size - 1) & ~(size - 1);

    if (start + size > POOL_END) {
        panic("test wants more memory than the pool has");
    }
    pool_next = start + size;
    memset((void *)start, 0, size);
    return start;
}

ulong pool_page(void)
{
    return pool_pages(1);
}

/* ---- Tables ---- */

int level_shift(const Format *f, int level)
{
    return 12 + (level - 1) * f->index_bits;
}

u64 entry_get(const Format *f, ulong table, unsigned index)
{
    return f->entry_size == 8 ? ((volatile u64 *)table)[index]
                              : ((volatile u32 *)table)[index];
}

void entry_set(const Format *f, ulong table, unsigned index, u64 value)
{
    if (f->entry_size == 4) {
        ((volatile u32 *)table)[index] = value;
    } else {
        ((volatile u64 *)table)[index] = value;
    }
}

static unsigned index_of(const Format *f, ulong address, int level)
{
    return (u64)address >> level_shift(f, level) & ((1 << f->index_bits) - 1);
}

/* PDPTEs have no permission bits: Intel SDM vol. 3, table 4-8. */
static bool is_pdpte(const Format *f, int level)
{
    return f->levels == 3 && level == 3;
}

static ulong table_of(u64 entry)
{
    return entry & 0xfffffffffffffull & ~(PAGE - 1);
}

ulong entry_at(const Space *s, ulong address, int level)
{
    const Format *f = s->format;
    ulong table = s->root;

    for (int l = f->levels; l > level; l--) {
        unsigned index = index_of(f, address, l);
        u64 entry = entry_get(f, table, index);

        if (!(entry & P)) {
            entry = pool_page() | P | (is_pdpte(f, l) ? 0 : W | U);
            entry_set(f, table, index, entry);
        }
        if ((entry & PS) && l <= 3 && !is_pdpte(f, l)) {
            panic("table wanted below a large page at %p", address);
        }
        table = table_of(entry);
    }
    return table + index_of(f, address, level) * f->entry_size;
}

u64 get(const Space *s, ulong address, int level)
{
    return entry_get(s->format, entry_at(s, address, level), 0);
}

u64 look(const Space *s, ulong address, int level)
{
    ulong table = s->root;

    for (int l = s->format->levels;; l--) {
        u64 entry = entry_get(s->format, table, index_of(s->format, address, l));

        if (l == level || !(entry & P)) {
            return l == level ? entry : 0;
        }
        table = table_of(entry);
    }
}

void set(const Space *s, ulong address, int level, u64 value)
{
    entry_set(s->format, entry_at(s, address, level), 0, value);
}

void map(const Space *s, ulong address, ulong physical, u64 bits)
{
    set(s, address, 1, physical | bits);
}

Space space_new(const Format *f)
{
    Space s = { f, 0 };
    ulong step = 1ul << level_shift(f, 2);

    s.root = pool_page();
    for (ulong at = 0; at < POOL_END; at += step) {
        set(&s, at, 2, at | P | W | PS);
    }
    user_text_at = USER_TEXT_AT;
    map(&s, USER_TEXT_AT, (ulong)user_text, P | U);
    return s;
}

#ifdef __x86_64__
void space_use(const Space *s)
{
    bool la57 = s->format->levels == 5;

    if (!!(read_cr4() & CR4_LA57) == la57) {
        write_cr3(s->root);
    } else {
        set_paging_levels(s->root, la57 ? CR4_LA57 : 0);
    }
}
#else
void space_use(const Space *s)
{
    ulong pae = s->format->levels == 3 ? CR4_PAE : 0;

    if ((read_cr4() & CR4_PAE) != pae) {
        write_cr0(read_cr0() & ~CR0_PG);
    }
    write_cr4((read_cr4() & ~CR4_PAE) | CR4_PSE | pae);
    write_cr3(s->root);
    write_cr0(read_cr0() | CR0_PG);
}
#endif

void flush_all(void)
{
    write_cr3(read_cr3());
}

/* ---- The model ---- */

typedef struct Path {
    bool writable, user, nx;
    int pkey;
} Path;

/* Reserved bits of a present entry that none of the tests' features uses. */
bool reserved(const Format *f, const Mode *m, int level, u64 entry)
{
    bool leaf = level == 1 || (entry & PS);

    if (f->entry_size == 4) {
        /* Bit 21 of a 4 MiB page: Intel SDM vol. 3, table 4-4. */
        return level == 2 && leaf && (entry & BIT(21));
    }
    if (entry & (BIT(52) - BIT(cpu_has.maxphyaddr))) {
        return true;
    }
    if (f->levels == 3 && (entry & (BIT(63) - BIT(52)))) {
        return true;
    }
    if ((entry & NX) && !m->nxe) {
        return true;
    }
    if (level >= 4) {
        /* AMD APM vol. 2, 5.3.3: bit 8 must be zero; plain TCG lets it pass. */
        bool bit8 = cpu_has.amd && !has_word("tcg-walks");

        return entry & (bit8 ? PS | BIT(8) : PS);
    }
    if (level == 3 && leaf) {
        return !cpu_has.page1g || (entry & 0x3fffe000);
    }
    return level == 2 && leaf && (entry & 0x1fe000);
}

/* Access rights: Intel SDM vol. 3, 4.6.1. */
static bool denied(const Mode *m, Kind kind, const Path *p)
{
    bool write_checked = m->user || m->wp;

    if (kind == EXEC && (p->nx || (!m->user && p->user && m->smep))) {
        return true;
    }
    if (kind == WRITE && !p->writable && write_checked) {
        return true;
    }
    if (m->user) {
        return !p->user;
    }
    return kind != EXEC && p->user && m->smap && !m->ac;
}

/* Protection keys for user pages: Intel SDM vol. 3, 4.6.2. */
static bool key_denied(const Mode *m, Kind kind, const Path *p)
{
    u32 rights = m->pkru >> (2 * p->pkey);

    if (!m->pke || !p->user || kind == EXEC) {
        return false;
    }
    return (rights & 1)
           || (kind == WRITE && (rights & 2) && (m->user || m->wp));
}

/* Intel SDM vol. 3, 4.7. */
static Exc fault(const Format *f, const Mode *m, Kind kind, ulong address,
                 u32 error)
{
    bool fetch_reported = m->smep || (m->nxe && f->entry_size == 8);

    if ((error & 8) && has_word("tcg-walks")) {
        error &= ~1u;           /* what plain TCG says */
    }
    error |= (kind == WRITE) << 1 | m->user << 2
             | (kind == EXEC && fetch_reported) << 4;
    return (Exc) { 14, error, address };
}

Exc expect(const Space *s, const Mode *m, Kind kind, ulong address)
{
    const Format *f = s->format;
    Path path = { true, true, false, 0 };
    ulong table = s->root;
    bool key;

    if (kind == EXEC && m->user) {
        address += 8;           /* see put_code() */
    }
    for (int level = f->levels; level; level--) {
        u64 entry = entry_get(f, table, index_of(f, address, level));

        if (!(entry & P)) {
            return fault(f, m, kind, address, 0);
        }
        if (is_pdpte(f, level)) {
            table = table_of(entry);
            continue;
        }
        if (reserved(f, m, level, entry)) {
            return fault(f, m, kind, address, 1 | 8);
        }
        path.writable &= !!(entry & W);
        path.user &= !!(entry & U);
        path.nx |= entry >> 63;
        if (level == 1 || (entry & PS)) {
            path.pkey = f->levels >= 4 ? entry >> 59 & 15 : 0;
            break;
        }
        table = table_of(entry);
    }
    key = key_denied(m, kind, &path);
    if (key || denied(m, kind, &path)) {
        return fault(f, m, kind, address, 1 | key << 5);
    }
    return (Exc) { -1, 0, 0 };
}

void mode_use(const Mode *m)
{
    ulong cr0 = read_cr0() & ~(ulong)CR0_WP;
    ulong cr4 = read_cr4() & ~(ulong)(CR4_SMEP | CR4_SMAP | CR4_PKE);
    u64 efer;

    write_cr0(cr0 | (m->wp ? CR0_WP : 0));
    cr4 |= (m->smep ? CR4_SMEP : 0) | (m->smap ? CR4_SMAP : 0)
           | (m->pke ? CR4_PKE : 0);
    if (cr4 != read_cr4()) {
        write_cr4(cr4);
    }
    if (cpu_has.nx) {
        efer = rdmsr(MSR_EFER) & ~(u64)EFER_NXE;
        wrmsr(MSR_EFER, efer | (m->nxe ? EFER_NXE : 0));
    }
    if (m->pke) {
        write_pkru(m->pkru);
    }
}

Exc mode_probe(const Mode *m, Kind kind, ulong address, u32 *value)
{
    if (m->user) {
        return probe_user(kind, address, value);
    }
    return m->ac ? probe_ac(kind, address, value) : probe(kind, address, value);
}
