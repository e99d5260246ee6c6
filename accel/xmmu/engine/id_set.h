/*
 * xmmu native engine: a set of small numbers that many threads add to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Which tables of a mirror have changed.  Adding takes no lock and is the same for
 * everybody: when it returns, the number is in the set, whoever put it there.  (A list
 * does not have that: who finds a table claimed for the list does not know whether the
 * other thread has put it there yet.)
 *
 * A word of a level says which words of the level below are not 0.  Adding goes from
 * the lowest level up, taking from the highest down, so whoever sees a bit set above
 * knows that the taker has yet to come to what is below.  All is sequentially
 * consistent.  One thread takes at a time.
 */
#ifndef XMMU_ENGINE_ID_SET_H
#define XMMU_ENGINE_ID_SET_H

#include <stdbool.h>
#include <stdint.h>

#define XMMU_ID_BITS    22
#define XMMU_ID_MAX     (1u << XMMU_ID_BITS)
#define XMMU_ID_LEVELS  3       /* below the one word on top */

typedef struct XmmuIdSet {
    uint64_t top;
    uint64_t *level[XMMU_ID_LEVELS];    /* the lowest first: a bit for each number */
} XmmuIdSet;

/* False: no memory.  The memory is only touched where numbers are. */
bool xmmu_id_set_init(XmmuIdSet *set);
void xmmu_id_set_cleanup(XmmuIdSet *set);
/* Take all out; @visit is called for each, and may add. */
void xmmu_id_set_take(XmmuIdSet *set, void (*visit)(void *opaque, uint32_t id),
                      void *opaque);

/* Set bit @n % 64; does not write when it is set. */
static inline void xmmu_bit_add(uint64_t *word, uint32_t n)
{
    uint64_t bit = (uint64_t)1 << (n % 64);

    if (!(__atomic_load_n(word, __ATOMIC_SEQ_CST) & bit)) {
        __atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST);
    }
}

static inline void xmmu_id_set_add(XmmuIdSet *set, uint32_t id)
{
    for (int i = 0; i < XMMU_ID_LEVELS; i++, id /= 64) {
        xmmu_bit_add(&set->level[i][id / 64], id);
    }
    xmmu_bit_add(&set->top, id);
}

static inline bool xmmu_id_set_empty(const XmmuIdSet *set)
{
    return !__atomic_load_n(&set->top, __ATOMIC_SEQ_CST);
}

#endif /* XMMU_ENGINE_ID_SET_H */
