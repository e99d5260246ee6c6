/*
 * xmmu: a model of how TDP trees change while vCPUs walk them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For spin. Owns the protocol of table.c, tdp.c, tdp_zap.c, tdp_split.c, lock.c and
 * flush.c: the names are theirs. docs/devel/xmmu-model.rst says what is modelled,
 * what is left out and why. tests/model/run verifies it in several scenarios (-D
 * options, below), and shows by mutations (-DM_...) that each property can fail.
 *
 * The world: a root with one entry, below it a table with two; three table pages and
 * two pages for roots. Memory has two versions: OLD is replaced by NEW. vCPUs cache a
 * translation and use it; the host gives OLD's frames to somebody else when those
 * who change the memory map may believe that nobody uses them any more.
 */

#ifndef VCPUS
#define VCPUS 2
#endif
#ifndef ACCESSES
#define ACCESSES 2              /* of the first vCPU; the other makes one */
#endif
#ifndef TABLES
#define TABLES 3
#endif

/* ---- Entries ---------------------------------------------------------------- */

#define NONE        0
#define FROZEN      1           /* XMMU_SPTE_FROZEN */
#define HUGE(v)     (2 + (v))   /* a leaf in the root's entry */
#define LEAF(v)     (4 + (v))
#define DIRTY       8
#define TABLE(p)    (16 + (p))

#define is_table(e)     ((e) >= 16)
#define table_at(e)     ((e) - 16)
#define is_huge(e)      (((e) & 22) == 2)
#define is_leaf(e)      (((e) & 20) == 4)
#define version(e)      ((e) & 1)
#define present(e)      ((e) > FROZEN)

#define OLD 0
#define NEW 1

/* ---- Pages -------------------------------------------------------------------- */

#define ROOTS 2
#define PAGES (ROOTS + TABLES)
#define NO_PAGE 15

#define FREE    0               /* in the arena */
#define FRESH   1               /* allocated, not linked */
#define LINKED  2               /* in a tree, or a root; or dead and not yet retired */
#define DOOMED  3               /* xmmu_table_retire(): waits for the holding's end */
#define WAITING 4               /* rcu_call(): waits for a grace period */

byte spt[PAGES * 2];            /* entries; a root uses the first of its two */
byte state[PAGES];
bool unlinked[PAGES];
byte ptep[PAGES];               /* index into spt */
byte grace[PAGES];              /* readers that a waiting page waits for */
byte root_refs[ROOTS];
byte tdp_root = NO_PAGE;        /* vm->tdp_root[] */
byte gauge;                     /* leaves that the counters know */

/* ---- Services, locks, flushes ------------------------------------------------- */

byte slot = OLD;                /* the memory that faults find */
bool reused[2];                 /* its frames belong to somebody else now */
byte readers;                   /* mmu_lock */
bool writer;
byte in_rcu;                    /* bit for each process */
bool flush_asked[VCPUS];        /* services->flush_all() */
bool idle[VCPUS];               /* will run no instruction any more */
byte rights_lost;
bool batch_owed;                /* what slices left to who holds for the host next */
byte batch_doomed;
byte nx_list = NO_PAGE;         /* nx_huge.c's list, of one table */
byte running;                   /* processes that have not ended */
byte written;                   /* the guest wrote to: bit for each index */

/* Pages that one holding has retired. */
#define doom(p) state[p] = DOOMED; doomed = doomed | (1 << (p))

/* Sections nest; a grace period waits for those that it found. */
inline rcu_read_unlock()
{
    rcu_depth--;
    if
    :: rcu_depth == 0 ->
        in_rcu = in_rcu & ~(1 << me);
        i = 0;
        do
        :: i < PAGES -> grace[i] = grace[i] & ~(1 << me); i++
        :: else -> break
        od;
        i = 0
    :: else
    fi
}

inline rcu_call(p)
{
    state[p] = WAITING;
#ifdef M_FREE_WITHOUT_GRACE
    grace[p] = 0
#else
    grace[p] = in_rcu
#endif
}

/* Whoever looks into a table page: it must be one. */
#define readable(p) assert(state[p] >= LINKED)

inline rcu_read_lock()
{
    rcu_depth++;
    in_rcu = in_rcu | (1 << me)
}

inline read_lock()
{
    !writer ->
    readers++;
    rcu_read_lock()
}

inline write_lock()
{
    !writer && readers == 0 ->
    writer = true
}

inline flush_all()
{
#ifndef M_NO_FLUSH
    flush_asked[0] = !idle[0];
#if VCPUS > 1
    flush_asked[1] = !idle[1];
#endif
#endif
    skip
}

#define GUEST 0                 /* XMMU_REASON_GUEST */
#define HOST  1                 /* XMMU_REASON_HOST */
#define SLICE 2                 /* XMMU_REASON_SLICE */

/* xmmu_flush_pay(): who holds for the host orders the flush, for the slices before him
 * too, and then lets go of the tables. A slice leaves its debt and its tables. */
inline pay(reason)
{
    if
    :: reason == HOST ->
        if
        :: flush_owed || batch_owed || batch_doomed -> flush_all()
        :: else
        fi;
        doomed = doomed | batch_doomed;
        batch_owed = false;
        batch_doomed = 0
    :: reason == SLICE && flush_owed ->
        batch_owed = true;
        batch_doomed = batch_doomed | doomed;
        doomed = 0
    :: else
    fi;
    flush_owed = false;
    i = 0;
    do
    :: i < PAGES ->
        if
        :: doomed & (1 << i) -> rcu_call(i)
        :: else
        fi;
        i++
    :: else -> break
    od;
    i = 0;
    doomed = 0
}

inline read_unlock(reason)
{
    pay(reason);
    readers--;
    rcu_read_unlock()
}

inline write_unlock(reason)
{
    pay(reason);
    writer = false
}

/* ---- The writer (table.c) --------------------------------------------------------- */

/* What goes with an exchange and is done at once. */
inline account(old, new)
{
    if
    :: is_huge(old) || is_leaf(old) -> gauge--
    :: else
    fi;
    if
    :: is_huge(new) || is_leaf(new) -> gauge++
    :: is_table(new) -> state[table_at(new)] = LINKED
    :: else
    fi
}

/* xmmu_flush_owe() */
inline owe()
{
    flush_owed = true;
    rights_lost++
}

/* xmmu_tdp_set(): ok says whether the entry still was @old. The flush is owed
 * after the exchange; the caller does that, where it makes a step of its own. */
inline tdp_set(at, old, new)
{
    d_step {
        if
        :: spt[at] == (old) ->
            assert((old) != FROZEN);
            spt[at] = (new);
            account(old, new);
            ok = true
        :: else -> ok = false
        fi
    }
}

/* xmmu_tdp_freeze() and xmmu_tdp_unfreeze() */
inline tdp_freeze(at, old)
{
    d_step {
        if
        :: spt[at] == (old) -> spt[at] = FROZEN; ok = true
        :: else -> ok = false
        fi
    }
}

inline tdp_unfreeze(at, old, new)
{
    d_step {
        assert(spt[at] == FROZEN);
        spt[at] = (new);
        account(old, new)
    }
}

/* xmmu_tdp_kill(): dirty collects what the hardware set until that moment. Nobody
 * but the one who cut the table off freezes its entries. */
inline tdp_kill(at)
{
    old = spt[at];
    assert(old != FROZEN);
#ifdef M_NO_FREEZE
    spt[at] = NONE;
#else
    spt[at] = FROZEN;
#endif
    account(old, NONE);
    dirty = dirty | (is_leaf(old) -> old & DIRTY : 0);
    old = NONE
}

/* xmmu_nx_track() and xmmu_nx_untrack(): the list has a lock of its own. */
inline nx_track(p)
{
    d_step {
        if
        :: !unlinked[p] -> nx_list = p
        :: else
        fi
    }
}

inline nx_untrack(p)
{
    if
    :: nx_list == p -> nx_list = NO_PAGE
    :: else
    fi
}

/* xmmu_tdp_detach(): the table p has lost its place. */
inline tdp_detach(p)
{
    d_step { unlinked[p] = true; nx_untrack(p) };
    d_step { tdp_kill(p * 2) };
    d_step { tdp_kill(p * 2 + 1); doom(p) }
}

/* xmmu_table_new_child() below the root r; p is NO_PAGE when there is none. */
inline table_new_child(p, r)
{
    p = ROOTS;
    do
    :: p == PAGES -> p = NO_PAGE; break
    :: p < PAGES && state[p] == FREE -> break
    :: else -> p++
    od;
    if
    :: p != NO_PAGE ->
        state[p] = FRESH;
        unlinked[p] = false;
        ptep[p] = (r) * 2
    :: else
    fi
}

/* xmmu_table_discard() */
inline table_discard(p)
{
    account(spt[p * 2], NONE);
    account(spt[p * 2 + 1], NONE);
    spt[p * 2] = NONE;
    spt[p * 2 + 1] = NONE;
    state[p] = FREE;
    p = NO_PAGE
}

/* table_reclaim(): after the grace period. Nothing may have survived in the page. */
inline table_reclaim(q)
{
    d_step {
        state[q] == WAITING && grace[q] == 0 ->
        assert(!present(spt[(q) * 2]) && !present(spt[(q) * 2 + 1]));
        spt[(q) * 2] = NONE;
        spt[(q) * 2 + 1] = NONE;
        state[q] = FREE
    }
}

active proctype reclaim()
{
end:
    do
    :: table_reclaim(0)
    :: table_reclaim(1)
    :: table_reclaim(2)
    :: table_reclaim(3)
#if TABLES > 2
    :: table_reclaim(4)
#endif
    od
}

/* ---- Roots (tdp.c) -------------------------------------------------------------------- */

/* xmmu_tdp_root_get(): a reference, or NO_PAGE. */
inline root_get(r)
{
    if
    :: tdp_root != NO_PAGE -> r = tdp_root; root_refs[r]++
    :: tdp_root == NO_PAGE && (state[0] == FREE || state[1] == FREE) ->
        if
        :: state[0] == FREE -> r = 0
        :: else -> r = 1
        fi;
        state[r] = LINKED;
        unlinked[r] = false;
        root_refs[r] = 2;           /* the VM's and the caller's */
        tdp_root = r
    :: else -> r = NO_PAGE
    fi
}

/* xmmu_tdp_root_find(): the same, but no new one. */
inline root_find(r)
{
    r = tdp_root;
    if
    :: r != NO_PAGE -> root_refs[r]++
    :: else
    fi
}

inline root_put(r)
{
    root_refs[r]--;
    if
#ifdef M_ROOT_WITHOUT_REFERENCES
    :: unlinked[r] && state[r] == LINKED -> doom(r)
#else
    :: root_refs[r] == 0 -> assert(unlinked[r]); doom(r)
#endif
    :: else
    fi
}

/* ---- vCPUs ---------------------------------------------------------------------------- */

/* The hardware sets D in the entry that it read, before it writes. */
inline set_dirty()
{
    d_step {
        if
        :: spt[at] == e -> spt[at] = e | DIRTY
        :: else -> ok = false
        fi
    }
}

/* Walk from the root to a leaf; ok: e is that leaf. */
inline hw_walk()
{
    readable(root);
    at = root * 2;
    e = spt[at];
    if
    :: is_table(e) ->
        at = table_at(e) * 2 + index;
        atomic { readable(at / 2); e = spt[at]; ok = is_leaf(e) }
    :: else -> ok = is_huge(e)
    fi;
    if
    :: ok && write && !(e & DIRTY) -> set_dirty()
    :: else
    fi
}

/* The vCPU's root, exchanged when it is invalid: current_root(). */
inline current_root()
{
    if
#ifdef M_FAULT_IN_INVALID_ROOT
    :: root != NO_PAGE
#else
    :: root != NO_PAGE && !unlinked[root]
#endif
    :: else ->
        root_get(r);
        if
        :: root != NO_PAGE -> root_put(root)
        :: else
        fi;
        root = r;
        r = NO_PAGE
    fi
}

/* Link the new table p; e becomes what the root's entry holds, or NONE: walk again. */
inline add_table()
{
    tdp_set(root * 2, NONE, TABLE(p));
    if
    :: ok ->
        e = TABLE(p);
        nx_track(p);
        p = NO_PAGE
    :: else -> d_step { table_discard(p); e = NONE }
    fi
}

/* xmmu_tdp_fault(): one attempt; the caller walks again. Who meets a frozen entry
 * waits for its owner, or sees that the table has left the tree. */
inline tdp_fault()
{
    atomic {
        read_lock();
        current_root();
        v = slot
    };
    if
    :: root != NO_PAGE ->
        atomic {
            spt[root * 2] != FROZEN ->
            readable(root);
            e = spt[root * 2];
            if
            :: e == NONE && !allow_huge -> table_new_child(p, root)
            :: else
            fi
        };
        if
        :: e == NONE && allow_huge ->
            tdp_set(root * 2, NONE, HUGE(v) | (write -> DIRTY : 0))
        :: e == NONE && p != NO_PAGE -> add_table()
        :: else
        fi;
        if
        :: is_table(e) ->
            at = table_at(e) * 2 + index;
            atomic {
#ifdef M_WAIT_IN_DEAD_TABLE
                spt[at] != FROZEN ->
#else
                spt[at] != FROZEN || unlinked[at / 2] ->
#endif
                readable(at / 2);
                e = spt[at]
            };
            if
            :: e == NONE -> tdp_set(at, NONE, LEAF(v) | (write -> DIRTY : 0))
            :: else
            fi
        :: else
        fi
    :: else
    fi;
    skip;
    d_step { e = NONE; at = 0; ok = false; v = 0; read_unlock(GUEST) }
}

/* Between two instructions: obey. */
inline boundary()
{
    if
    :: flush_asked[me] -> flush_asked[me] = false; tlb = 0
    :: else
    fi;
#ifdef EVICT
    if
    :: tlb = 0                  /* to make room, for example */
    :: true
    fi
#endif
}

/* What the next instruction does. */
inline choose_access()
{
    if :: index = 0 :: index = 1 fi;
#ifndef SMALL_ONLY
    if :: allow_huge = false :: allow_huge = true fi;
#endif
#ifdef WRITES
    if :: write = false :: write = true fi
#endif
}

/* xmmu_hw_translate() */
inline hw_translate()
{
    /* xmmu_nested_tlb_validate(): the count is read before the tables are. */
    d_step {
        rcu_read_lock();
        if
        :: lost != rights_lost -> nested = 0; lost = rights_lost
        :: else
        fi
    };
    if
    :: nested != 0 && !write -> tlb = nested
    :: else ->
        do
        :: ok -> break
        :: !ok ->
            if
#if defined(M_WALK_INVALID_ROOT) || defined(M_FAULT_IN_INVALID_ROOT)
            :: root != NO_PAGE -> hw_walk()
#else
            :: root != NO_PAGE && !unlinked[root] -> hw_walk()
#endif
            :: else
            fi;
            if
            :: ok
            :: else -> tdp_fault()
            fi
        od;
        skip;                   /* no jump may end at a d_step */
        d_step {
            tlb = 1 + version(e);
            nested = tlb;
            written = written | (write -> 1 << index : 0);
            e = NONE;
            at = 0;
            ok = false
        }
    fi;
    skip;
    d_step { rcu_read_unlock() }
}

proctype vcpu(byte me)
{
    byte root = NO_PAGE;        /* mmu->root.table */
    byte tlb;                   /* the engine's: 1 + version; 0: nothing */
    byte nested, lost;          /* the nested TLB: the same, and rights_lost then */
    byte n, i, index, e, at, v, r = NO_PAGE, p = NO_PAGE, doomed, rcu_depth;
    bool write, allow_huge, ok, flush_owed;

    n = (me == 0 -> ACCESSES : 1);
    do
    :: n > 0 ->
        atomic {
            boundary();
            if
            :: tlb == 0 -> choose_access()
            :: else
            fi
        };
        if
        :: tlb == 0 -> hw_translate()
        :: else
        fi;
        skip;
        /* The instruction's access. */
        d_step {
            assert(tlb == 0 || !reused[tlb - 1]);
            index = 0;
            write = false;
            allow_huge = false;
            n--;
#ifdef WRITES
            tlb = 0             /* so that every access walks */
#endif
        }
    :: n == 0 -> break
    od;
    atomic {
        read_lock();
        idle[me] = true;
        flush_asked[me] = false;
        if
        :: root != NO_PAGE -> root_put(root)
        :: else
        fi;
        read_unlock(GUEST);
        d_step { root = NO_PAGE; tlb = 0; nested = 0; lost = 0; ok = false; running-- }
    }
}

/* ---- Those who change the tree ----------------------------------------------------------- */

/* A process that has ended must not make two states of one. */
#define forget() i = 0; e = 0; old = 0; p = 0; r = 0; at = 0; dirty = 0; ok = false

#define WORKER_STATE \
    byte i, e, old, p = NO_PAGE, r = NO_PAGE, at, doomed, rcu_depth, dirty; \
    bool ok, flush_owed

/* Cut off whatever the root's entry holds, or make its leaves go one by one. */
inline remove_entries(r, one_by_one, owes)
{
    do
    :: true ->
        atomic { spt[(r) * 2] != FROZEN -> e = spt[(r) * 2] };
        if
        :: e == NONE -> break
        :: is_table(e) && (one_by_one) -> break
        :: else
        fi;
#ifdef M_COUNT_FIRST
        if :: owes -> owe() :: else fi;
#endif
        tdp_set((r) * 2, e, NONE);
        if
        :: ok ->
#ifndef M_COUNT_FIRST
            if :: owes -> owe() :: else fi;
#endif
            if
            :: is_table(e) -> p = table_at(e); tdp_detach(p); p = NO_PAGE
            :: else
            fi;
            e = NONE;
            break
        :: else
        fi
    od
}

/* Leaves below the table that e points to. */
inline remove_leaf(at, owes)
{
    do
    :: true ->
        atomic { spt[at] != FROZEN || unlinked[(at) / 2] -> old = spt[at] };
        if
        :: !present(old) -> break
        :: else
        fi;
        tdp_set(at, old, NONE);
        if
        :: ok ->
            if :: owes -> owe() :: else fi;
            break
        :: else
        fi
    od;
    old = NONE
}

/* xmmu_vm_set_memory(): publish, zap, flush; then OLD's frames are somebody else's. */
proctype set_memory(byte me)
{
    WORKER_STATE;
    bool one_by_one;

#ifdef M_PUBLISH_UNLOCKED
    slot = NEW;
#else
    atomic { write_lock(); slot = NEW; write_unlock(GUEST) };
#endif
    /* xmmu_tdp_zap_gfns() */
    atomic {
        read_lock();
        root_find(r);
        if :: one_by_one = true :: one_by_one = false fi
    };
    if
    :: r != NO_PAGE ->
        remove_entries(r, one_by_one, true);
        if
        :: is_table(e) ->
            at = table_at(e) * 2;
            remove_leaf(at, true);
            remove_leaf(at + 1, true)
        :: else
        fi;
        skip;
        d_step { root_put(r) }
    :: else
    fi;
    skip;
#ifdef ALONE
    d_step { read_unlock(HOST) };
#else
    d_step { read_unlock(SLICE) };
    /* flush_everyone(): whoever removed entries that this did not find any more may
     * not have ordered his flush yet. */
    atomic { write_lock(); owe(); write_unlock(HOST) };
#endif
    /* Every vCPU obeys before its next instruction. */
    d_step {
        !flush_asked[0] && !flush_asked[VCPUS - 1] ->
        reused[OLD] = true;
        one_by_one = false;
        forget();
        running--
    }
}

/* xmmu_vm_zap_all() */
proctype zap_all(byte me)
{
    WORKER_STATE;

    /* xmmu_tdp_invalidate_roots() */
    atomic {
        write_lock();
        r = tdp_root;
        if
        :: r != NO_PAGE -> unlinked[r] = true; tdp_root = NO_PAGE
        :: else
        fi
    };
    d_step { owe(); write_unlock(HOST) };
    if
    :: r != NO_PAGE ->
        /* take_apart(): nothing is owed, nobody walks this tree. */
        atomic { read_lock() };
        remove_entries(r, false, false);
        skip;
        d_step { root_put(r); read_unlock(SLICE) }
    :: else
    fi;
    skip;
    d_step { forget(); running-- }
}

/* Precise recovery: a table goes by the pointer to its parent's entry. */
proctype nx_precise(byte me)
{
    WORKER_STATE;

    atomic {
        read_lock();
        p = nx_list
    };
    if
    :: p != NO_PAGE ->
        readable(p);
#ifdef M_PRECISE_WITHOUT_CMPXCHG
        if
        :: spt[ptep[p]] == TABLE(p) -> spt[ptep[p]] = NONE; ok = true
        :: else
        fi;
#else
        tdp_set(ptep[p], TABLE(p), NONE);
#endif
        if
        :: ok -> owe(); tdp_detach(p)
        :: else
        fi
    :: else
    fi;
    skip;
    d_step { read_unlock(HOST); forget(); running-- }
}

/* Do the parts, as far as there are any, map what the slot says? merge() */
#define fits(part) (part == NONE || (is_leaf(part) && version(part) == slot))

/* Promotion in place: xmmu_tdp_promote(). */
proctype nx_promote(byte me)
{
    WORKER_STATE;

    atomic {
        read_lock();
        p = nx_list
    };
    if
    :: p != NO_PAGE && !unlinked[ptep[p] / 2] ->
        readable(p);
        e = spt[p * 2];
        old = spt[p * 2 + 1];
#ifdef M_PROMOTE_FROM_ENTRY
        if
        :: is_leaf(e) && fits(old) -> at = version(e); ok = true
#else
        if
        :: fits(e) && fits(old) -> at = slot; ok = true
#endif
        :: else
        fi;
#ifdef M_PROMOTE_LOSES_DIRTY
        dirty = (e | old) & DIRTY;
#endif
        if
        :: ok -> tdp_freeze(ptep[p], TABLE(p))
        :: else
        fi;
        if
        :: ok ->
            owe();
#ifdef M_PROMOTE_LOSES_DIRTY
            e = dirty;
            tdp_detach(p);
            dirty = e;
#else
            tdp_detach(p);
#endif
            tdp_unfreeze(ptep[p], TABLE(p), HUGE(at) | dirty)
        :: else
        fi
    :: else
    fi;
    skip;
    d_step { read_unlock(HOST); forget(); running-- }
}

/* What must not be done to a table that others see. */
inline fill_entry(at)
{
    d_step {
        account(spt[at], LEAF(version(e)));
        spt[at] = LEAF(version(e)) | (e & DIRTY)
    }
}

/* Splitting in place: xmmu_tdp_split(). Nothing is owed: the parts map the same. */
proctype split(byte me)
{
    WORKER_STATE;

    atomic { read_lock(); root_find(r) };
    if
    :: r != NO_PAGE ->
        d_step {
            e = spt[r * 2];
            if
            :: is_huge(e) -> table_new_child(p, r)
            :: else
            fi
        };
        do
        :: p == NO_PAGE || !is_huge(e) -> break
        :: else ->
#ifndef M_SPLIT_BEFORE_FILL
            d_step {                    /* nobody sees the table yet */
                spt[p * 2] = LEAF(version(e)) | (e & DIRTY);
                spt[p * 2 + 1] = spt[p * 2];
                gauge = gauge + 2
            };
#endif
#ifdef M_SPLIT_LOSES_DIRTY
            tdp_set(r * 2, e | (spt[r * 2] & DIRTY), TABLE(p));
#else
            tdp_set(r * 2, e, TABLE(p));
#endif
            if
            :: ok ->
#ifdef M_SPLIT_BEFORE_FILL
                fill_entry(p * 2);
                fill_entry(p * 2 + 1);
#endif
                nx_track(p);
                p = NO_PAGE;
                break
            :: else ->
                d_step {
                    gauge = gauge - (is_leaf(spt[p * 2]) -> 2 : 0);
                    spt[p * 2] = NONE;
                    spt[p * 2 + 1] = NONE;
                    e = spt[r * 2]      /* the hardware may have set D */
                }
            fi
        od;
        skip;
        d_step {
            if
            :: p != NO_PAGE -> table_discard(p)
            :: else
            fi;
            root_put(r)
        }
    :: else
    fi;
    skip;
    d_step { read_unlock(HOST); forget(); running-- }
}

/* ---- The end: what the tree and the counters must say ---------------------------------- */

inline check_leaf(leaf, which)
{
    count = count + present(leaf);
#ifdef MEMORY
    assert(!present(leaf) || version(leaf) == NEW);
#endif
#if defined(WRITES)
    assert(!(written & (which)) || (leaf & DIRTY));
#endif
}

inline check_tree()
{
    i = 0;
    do
    :: i < PAGES ->
        /* Nothing is lost, nothing forgotten. */
        assert(state[i] == FREE || state[i] == WAITING || i == tdp_root ||
               (tdp_root != NO_PAGE && spt[tdp_root * 2] == TABLE(i)));
        i++
    :: else -> break
    od;
    if
    :: tdp_root != NO_PAGE && is_table(spt[tdp_root * 2]) ->
        p = table_at(spt[tdp_root * 2]);
        assert(state[p] == LINKED && !unlinked[p]);
        check_leaf(spt[p * 2], 1);
        check_leaf(spt[p * 2 + 1], 2)
    :: tdp_root != NO_PAGE && !is_table(spt[tdp_root * 2]) ->
        assert(spt[tdp_root * 2] != FROZEN);
        check_leaf(spt[tdp_root * 2], 3)
    :: else
    fi;
    assert(gauge == count)
}

init
{
    byte i, p, count;

    atomic {
        running = VCPUS;
        run vcpu(0);
#if VCPUS > 1
        run vcpu(1);
#endif
#ifdef MEMORY
        running++;
        run set_memory(3);
#endif
#ifdef ZAP_ALL
        running++;
        run zap_all(4);
#endif
#ifdef PRECISE
        running++;
        run nx_precise(5);
#endif
#ifdef PROMOTE
        running++;
        run nx_promote(6);
#endif
#ifdef SPLIT
        running++;
        run split(7);
#endif
    };
    d_step { running == 0 -> check_tree() }
}
