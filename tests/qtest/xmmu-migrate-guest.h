/*
 * xmmu guest "migrate": what it tells the host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Used by the guest and by tests/qtest/xmmu-migration-test.c; the programs in
 * tests/migration read the same layout (see their lib).  No pointers: both builds
 * of the guest have the same one.
 */
#ifndef XMMU_MIGRATE_GUEST_H
#define XMMU_MIGRATE_GUEST_H

#define MIGRATE_MAILBOX     0x3f0000
#define MIGRATE_MEMORY      0x4000000       /* above all that paging.c uses */
#define MIGRATE_MAGIC       0x4d494752
#define MIGRATE_MAX_CPUS    4
#define MIGRATE_WORD_MARKS  100             /* "word" of a page's A and D bits */

typedef struct MigrateCpu {
    unsigned rounds;            /* done */
    unsigned pages;             /* written */
    unsigned errors;
    unsigned bad_page, bad_word, bad_found, bad_wanted;     /* the first error */
    unsigned zero;
} MigrateCpu;

typedef struct MigrateMailbox {
    unsigned magic;             /* set last, before the boot CPU's first round */
    unsigned page_count;
    unsigned zero[6];
    MigrateCpu cpus[MIGRATE_MAX_CPUS];
} MigrateMailbox;

#endif /* XMMU_MIGRATE_GUEST_H */
