/*
 * xmmu guest "dimm": memory that comes and goes while it runs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Does with the first memory slot what an operating system does by ACPI, through QEMU's
 * registers for memory hotplug.  Memory that came must be empty, and keep what is
 * written; where it was must be nothing once it has gone, though the guest's tables still
 * map it: whoever translates must have forgotten it, too.
 *
 * The host sees how it goes in the mailbox: a round is over when the memory that came was
 * written and read, an error is a page that was not as it must be.
 */
#include "paging.h"
#include "../qtest/xmmu-migrate-guest.h"

#define SLOT            0xa00   /* write: which one; read: where its memory is, 64 bits */
#define SLOT_SIZE       0xa08   /* 64 bits */
#define SLOT_STATUS     0xa14
#define ENABLED         0x01    /* read */
#define REMOVING        0x04    /* an event; written, it is answered */
#define EJECT           0x08    /* write */
#define LARGE           0x200000ul

static volatile MigrateMailbox *const box = (void *)MIGRATE_MAILBOX;
static Space space;
static ulong start, size;

static u64 slot_register(u16 port)
{
    return inl(port) | (u64)inl(port + 4) << 32;
}

static u8 slot_status(void)
{
    outl(SLOT, 0);
    return inb(SLOT_STATUS);
}

static volatile u32 *word(ulong offset)
{
    return (volatile u32 *)(space.format->window + offset);
}

static u32 pattern(ulong offset, u32 round)
{
    return (offset >> 12) * 0x9e3779b1u ^ round * 0x85ebca6bu ^ 0x5eed;
}

static void must_be(ulong offset, u32 found, u32 wanted)
{
    volatile MigrateCpu *me = &box->cpus[0];

    if (found != wanted && !me->errors++) {
        me->bad_page = offset >> 12;
        me->bad_found = found;
        me->bad_wanted = wanted;
    }
}

static void take(void)
{
    start = slot_register(SLOT);
    size = slot_register(SLOT_SIZE);
    for (ulong at = 0; at < size; at += LARGE) {
        set(&space, space.format->window + at, 2, (start + at) | P | W | PS);
    }
    flush_all();
}

static void use(u32 round)
{
    for (ulong at = 0; at < size; at += PAGE) {
        must_be(at, *word(at), 0);
        *word(at) = pattern(at, round);
    }
    for (ulong at = 0; at < size; at += PAGE) {
        must_be(at, *word(at), pattern(at, round));
    }
    box->cpus[0].pages += size / PAGE;
}

/* Nothing is flushed: that the memory goes is not the guest's doing.  Reading where
 * nothing is gives 0 or all ones. */
static void give_back(u32 round)
{
    outb(SLOT_STATUS, REMOVING);
    outb(SLOT_STATUS, EJECT);
    for (ulong at = 0; at < size; at += LARGE) {
        u32 found = *word(at);

        if (found == pattern(at, round)) {
            must_be(at, found, 0);
        }
    }
}

void guest_main(void)
{
    space = space_new(&format_4level);
    space_use(&space);
    box->magic = MIGRATE_MAGIC;
    for (u32 round = 1;; round++) {
        while (!(slot_status() & ENABLED)) {
        }
        take();
        use(round);
        box->cpus[0].rounds = round;
        while (!(slot_status() & REMOVING)) {
        }
        give_back(round);
    }
}
