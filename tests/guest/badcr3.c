/*
 * xmmu guest "badcr3": CR3 that leads nowhere
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Loads a CR3 under which not even the next instruction can be fetched.  Real
 * hardware ends in a triple fault and a reset; whoever runs this guest must see
 * that, and the emulator alive.  The command line says which CR3.
 */
#include "paging.h"

static void triple_fault(void)
{
    static const u8 empty[10];

    asm volatile("lidt %0; ud2" : : "m"(empty));
}

void guest_main(void)
{
    static const struct {
        const char *word;
        u64 cr3;
    } cases[] = {
        { "lapic", 0xfee00000 }, { "vga", 0xa0000 }, { "hole", 0xd0000000 },
        { "rom", 0xffff0000 }, { "above-ram", 0x10000000 },
        { "far-above", 0xff00000000ull },
    };
    ulong root = 0;

#ifndef __x86_64__
    Space s = space_new(has_word("pae") ? &format_pae : &format_32);

    space_use(&s);
#endif
    print("TAP version 13\n");
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        if (has_word(cases[i].word)) {
            root = cases[i].cr3;
        }
    }
    if (has_word("garbage")) {
        root = pool_page();
        for (unsigned i = 0; i < PAGE / 4; i++) {
            ((volatile u32 *)root)[i] = random32() & ~1u;
        }
    }
    if (!root) {
        panic("the command line names no case");
    }
    print("# loading CR3 = %p\n", root);
    if (try_write_cr(3, root).vector == 13) {
        /* PAE: what lies there cannot be PDPTEs.  No table, no way on. */
        triple_fault();
    }
    print("not ok 1 still running\n");
}
