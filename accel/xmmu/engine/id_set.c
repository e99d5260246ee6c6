/*
 * xmmu native engine: a set of small numbers that many threads add to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the memory of the set and the way down from its top.  See id_set.h.
 */
#include <glib.h>
#include "id_set.h"

/* Words of level @i. */
static size_t words(int i)
{
    return (size_t)XMMU_ID_MAX >> (6 * (i + 1));
}

bool xmmu_id_set_init(XmmuIdSet *set)
{
    bool good = true;

    set->top = 0;
    for (int i = 0; i < XMMU_ID_LEVELS; i++) {
        set->level[i] = g_try_new0(uint64_t, words(i));
        good = good && set->level[i];
    }
    if (!good) {
        xmmu_id_set_cleanup(set);
    }
    return good;
}

void xmmu_id_set_cleanup(XmmuIdSet *set)
{
    for (int i = 0; i < XMMU_ID_LEVELS; i++) {
        g_free(set->level[i]);
        set->level[i] = NULL;
    }
}

typedef struct Visitor {
    void (*visit)(void *opaque, uint32_t id);
    void *opaque;
} Visitor;

/* What is below the word that stands for @prefix; level -1 are the numbers. */
static void take_below(XmmuIdSet *set, int level, uint32_t prefix, uint64_t *word,
                       const Visitor *visitor)
{
    uint64_t bits = __atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST);

    for (; bits; bits &= bits - 1) {
        uint32_t n = prefix * 64 + __builtin_ctzll(bits);

        if (level < 0) {
            visitor->visit(visitor->opaque, n);
        } else {
            take_below(set, level - 1, n, &set->level[level][n], visitor);
        }
    }
}

void xmmu_id_set_take(XmmuIdSet *set, void (*visit)(void *opaque, uint32_t id),
                      void *opaque)
{
    Visitor visitor = { visit, opaque };

    take_below(set, XMMU_ID_LEVELS - 1, 0, &set->top, &visitor);
}
