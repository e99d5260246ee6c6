/*
 * xmmu guests: page tables of every format
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Builds tables in physical memory from a pool, and says by a small model of
 * its own, written from the manuals, what an access must end in.  All tables
 * and test pages lie below 4 GiB and are reached one to one.
 */
#ifndef XMMU_GUEST_PAGING_H
#define XMMU_GUEST_PAGING_H

#include "lib.h"

#define P           BIT(0)
#define W           BIT(1)
#define U           BIT(2)
#define A           BIT(5)
#define D           BIT(6)
#define PS          BIT(7)
#define G           BIT(8)
#define NX          BIT(63)
#define PKEY(n)     ((u64)(n) << 59)

#define PAGE        4096ul

/* Paging formats: Intel SDM vol. 3, 4.3, 4.4, 4.5. */
typedef struct Format {
    const char *name;
    int levels;                 /* 2, 3, 4, 5 */
    int entry_size;             /* bytes */
    int index_bits;             /* of every level but PAE's top */
    ulong window;               /* a free linear address for tests, 1 GiB aligned
                                   (64-bit, PAE) or 4 MiB (32-bit) */
} Format;

extern const Format format_32, format_pae, format_4level, format_5level;

typedef struct Space {
    const Format *format;
    ulong root;
} Space;

/* ---- Pool of physical pages (zeroed; never given back) ---- */

ulong pool_page(void);
/* A naturally aligned run of @count pages (a power of two). */
ulong pool_pages(ulong count);

/* ---- Tables ---- */

int level_shift(const Format *f, int level);
u64 entry_get(const Format *f, ulong table, unsigned index);
void entry_set(const Format *f, ulong table, unsigned index, u64 value);

/*
 * A space that maps the image and the pool one to one (supervisor), and the user
 * code at its place.  With format_32 it needs CR4.PSE.
 */
Space space_new(const Format *f);
/* The entry that translates @address at @level; tables above it are made. */
ulong entry_at(const Space *s, ulong address, int level);
u64 get(const Space *s, ulong address, int level);
void set(const Space *s, ulong address, int level, u64 value);
/* As get(), but makes nothing; 0 where the tables above are missing. */
u64 look(const Space *s, ulong address, int level);
/* Map one 4 KiB page: the leaf gets @bits, the tables above P, W and U. */
void map(const Space *s, ulong address, ulong physical, u64 bits);

/* Load this space's tables and switch the paging mode if need be.  32-bit: turns
 * paging on; 64-bit: goes through compatibility mode to change LA57. */
void space_use(const Space *s);
void flush_all(void);           /* MOV to CR3 */

/* ---- The model ---- */

typedef struct Mode {
    bool wp, smep, smap, nxe, ac, user;
    bool pke;
    u32 pkru;
} Mode;

/* Has this present entry at @level a reserved bit set? */
bool reserved(const Format *f, const Mode *m, int level, u64 entry);

/* What @kind at @address must end in. */
Exc expect(const Space *s, const Mode *m, Kind kind, ulong address);

/* Set CR0.WP, CR4.SMEP, CR4.SMAP, EFER.NXE, CR4.PKE, PKRU to what @m says. */
void mode_use(const Mode *m);
/* probe(), probe_ac() or probe_user(), as @m says. */
Exc mode_probe(const Mode *m, Kind kind, ulong address, u32 *value);

#endif /* XMMU_GUEST_PAGING_H */
