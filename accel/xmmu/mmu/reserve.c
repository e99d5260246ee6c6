/*
 * xmmu: what a change of shadow tables may need
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns a VM's stock of chunks and list nodes.  Installing an entry adds it to a
 * reverse map, which may need a node and a chunk; at that point nothing may fail any
 * more.  So a fault fills the stock first ("check, then commit"), and if it cannot, it
 * has not changed anything yet.  Used by shadow_fault.c, slots.c and the lists' users.
 */
#include "mem.h"
#include "reclaim.h"
#include "reserve.h"
#include "vm.h"

static void put_node(XmmuVm *vm)
{
    xmmu_mem_free(vm, xmmu_ptr_pool_get(&vm->reserve.nodes), sizeof(XmmuPtrNode));
}

static bool fill_nodes(XmmuVm *vm)
{
    XmmuPtrPool *pool = &vm->reserve.nodes;

    while (pool->count > XMMU_RESERVE_NODES) {
        put_node(vm);
    }
    while (pool->count < XMMU_RESERVE_NODES) {
        XmmuPtrNode *node = NULL;

        if (xmmu_reclaim_for(vm, sizeof(*node))) {
            node = xmmu_mem_new(vm, sizeof(*node));
        }
        if (!node) {
            return false;
        }
        xmmu_ptr_pool_put(pool, node);
    }
    return true;
}

static void keep_chunk(XmmuVm *vm, XmmuChunk *chunk)
{
    chunk->next = vm->reserve.chunks;
    vm->reserve.chunks = chunk;
    vm->reserve.chunk_count++;
}

static bool fill_chunks(XmmuVm *vm)
{
    while (vm->reserve.chunk_count < XMMU_RESERVE_CHUNKS) {
        XmmuChunk *chunk = NULL;

        if (xmmu_reclaim_for(vm, sizeof(*chunk))) {
            chunk = xmmu_mem_new(vm, sizeof(*chunk));
        }
        if (!chunk) {
            return false;
        }
        keep_chunk(vm, chunk);
    }
    return true;
}

bool xmmu_reserve_fill(XmmuVm *vm)
{
    xmmu_assert_write_locked(vm);
    return fill_nodes(vm) && fill_chunks(vm);
}

XmmuChunk *xmmu_reserve_chunk(XmmuVm *vm)
{
    XmmuChunk *chunk = vm->reserve.chunks;

    g_assert(chunk);
    vm->reserve.chunks = chunk->next;
    vm->reserve.chunk_count--;
    return chunk;
}

void xmmu_reserve_put_chunk(XmmuVm *vm, XmmuChunk *chunk)
{
    if (vm->reserve.chunk_count < XMMU_RESERVE_CHUNKS) {
        keep_chunk(vm, chunk);
    } else {
        xmmu_mem_free(vm, chunk, sizeof(*chunk));
    }
}

void xmmu_reserve_cleanup(XmmuVm *vm)
{
    while (vm->reserve.nodes.count) {
        put_node(vm);
    }
    while (vm->reserve.chunk_count) {
        xmmu_mem_free(vm, xmmu_reserve_chunk(vm), sizeof(XmmuChunk));
    }
}
