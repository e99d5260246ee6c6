/*
 * xmmu: asynchronous page faults
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the faults of a vCPU whose pages are on their way: which fault may leave its
 * page to a helper thread, what the vCPU does meanwhile, and what happens when the page
 * has come.
 *
 * A work item remembers the MMU that faulted: its role and its root.  The page is
 * prefaulted only if the vCPU uses that same MMU when it comes; anywhere else the address
 * may mean something else, and the vCPU is only woken.  There the access is made again
 * and faults again, if it still is what the guest wants.
 *
 * The list of a vCPU's items is its thread's.  Two hold an item, the list and the helper
 * thread; they share .done and .dropped.
 */
#include "mem.h"
#include "nested.h"
#include "roots.h"
#include "vm.h"

struct XmmuApfWork {
    XmmuFetchJob job;
    XmmuApfWork *next;          /* in the vCPU's list, oldest first */
    XmmuVm *vm;
    unsigned index;             /* of the vCPU */
    hpa_t hpa;
    gfn_t gfn;
    unsigned as_id;
    uint32_t token;
    bool told;                  /* the guest knows that the page is missing */
    bool taken;                 /* it has come, and that was seen */

    /* The MMU that faulted.  Its role tells L1's from L2's, and all that the role of its
     * root is made of. */
    uint64_t role;              /* XmmuVcpuRole.word */
    uint64_t pgd;
    uint16_t pcid;
    XmmuFault fault;            /* to be repeated */

    unsigned holders;           /* atomic */
    bool done, dropped;         /* atomic */
};

/* ---- Life ---------------------------------------------------------------- */

void xmmu_vm_enable_apf(XmmuVm *vm, const XmmuApfServices *services)
{
    g_assert(!vm->apf.services);
    vm->apf.services = services;
    xmmu_fetch_init(&vm->apf.pool);
}

void xmmu_vm_apf_watch(XmmuVm *vm, bool watch)
{
    __atomic_store_n(&vm->apf.watch, watch && vm->apf.services, __ATOMIC_RELAXED);
}

void xmmu_apf_cleanup(XmmuVm *vm)
{
    if (vm->apf.services) {
        xmmu_fetch_cleanup(&vm->apf.pool);
    }
}

static void put(XmmuApfWork *work)
{
    if (__atomic_sub_fetch(&work->holders, 1, __ATOMIC_ACQ_REL) == 0) {
        g_free(work);
    }
}

static bool is_dropped(XmmuApfWork *work)
{
    return __atomic_load_n(&work->dropped, __ATOMIC_ACQUIRE);
}

/* On a helper thread. */
static void fetch(XmmuFetchJob *job)
{
    XmmuApfWork *work = (XmmuApfWork *)((char *)job - offsetof(XmmuApfWork, job));
    XmmuVm *vm = work->vm;

    if (!is_dropped(work)) {
        vm->apf.services->fetch(vm->opaque, work->hpa);
    }
    __atomic_store_n(&work->done, true, __ATOMIC_RELEASE);
    if (!is_dropped(work)) {
        vm->apf.services->arrived(vm->opaque, work->index);
    }
    put(work);
}

static void unlist(XmmuVcpu *vcpu, XmmuApfWork **at)
{
    XmmuApfWork *work = *at;

    *at = work->next;
    vcpu->apf.count--;
    __atomic_store_n(&work->dropped, true, __ATOMIC_RELEASE);
    put(work);
}

void xmmu_apf_clear(XmmuVcpu *vcpu)
{
    while (vcpu->apf.works) {
        xmmu_count(&vcpu->stats.async_pf_dropped);
        unlist(vcpu, &vcpu->apf.works);
    }
    vcpu->apf.wake_all = false;
}

void xmmu_apf_wake_all(XmmuVcpu *vcpu)
{
    vcpu->apf.wake_all = true;
}

/* ---- The fault ------------------------------------------------------------- */

static XmmuApfWork *find(XmmuVcpu *vcpu, unsigned as_id, gfn_t gfn)
{
    XmmuApfWork *work = vcpu->apf.works;

    while (work && (work->gfn != gfn || work->as_id != as_id)) {
        work = work->next;
    }
    return work;
}

/* Never 0, so that the guest can tell a token from an empty place. */
static uint32_t next_token(XmmuVcpu *vcpu)
{
    uint32_t id = ++vcpu->apf.next_id;

    if (!(id << 12)) {
        id = vcpu->apf.next_id = 1;
    }
    return id << 12 | (vcpu->index & 0xfff);
}

/*
 * What is repeated when the page is there.  Not a write: the guest may have changed its
 * mind, and a CPU sets a dirty flag for no access that it did not make.
 */
static XmmuFault prefault_for(const XmmuFault *fault)
{
    XmmuFault again = *fault;

    again.access.restartable = false;
    if (again.access.want == XMMU_PROT_WRITE) {
        again.access.want = XMMU_PROT_READ;
    }
    return again;
}

static void remember_mmu(XmmuApfWork *work, XmmuVcpu *vcpu)
{
    work->role = vcpu->mmu->role.word;
    work->pgd = vcpu->mmu->root.pgd;
    work->pcid = vcpu->mmu->root.pcid;
}

static bool is_same_mmu(const XmmuApfWork *work, const XmmuVcpu *vcpu)
{
    const XmmuMmu *mmu = vcpu->mmu;

    return work->role == mmu->role.word && work->pgd == mmu->root.pgd &&
           work->pcid == mmu->root.pcid;
}

static void enlist(XmmuVcpu *vcpu, XmmuApfWork *work)
{
    XmmuApfWork **at = &vcpu->apf.works;

    while (*at) {
        at = &(*at)->next;
    }
    *at = work;
    vcpu->apf.count++;
}

static XmmuApfWork *start(XmmuVcpu *vcpu, const XmmuFault *fault, unsigned as_id,
                          gfn_t gfn, hpa_t hpa)
{
    XmmuVm *vm = vcpu->vm;
    XmmuApfWork *work;

    if (vcpu->apf.count >= XMMU_APF_MAX) {
        return NULL;
    }
    work = xmmu_try_new0(vm->services, vm->opaque, sizeof(*work));
    if (!work) {
        return NULL;
    }
    work->job.run = fetch;
    work->vm = vm;
    work->index = vcpu->index;
    work->hpa = hpa;
    work->gfn = gfn;
    work->as_id = as_id;
    work->token = next_token(vcpu);
    work->fault = prefault_for(fault);
    work->holders = 2;
    remember_mmu(work, vcpu);
    if (!xmmu_fetch_add(&vm->apf.pool, &work->job)) {
        g_free(work);
        return NULL;
    }
    enlist(vcpu, work);
    return work;
}

static bool halt(XmmuVcpu *vcpu, XmmuFault *fault)
{
    xmmu_count(&vcpu->stats.async_pf_halted);
    fault->async = (XmmuAsync) { .event = false };
    return true;
}

/*
 * The page is missing.  False: the vCPU has to wait for it in its access.  A page that
 * is on its way is not asked for again: who wants it too can only halt.
 */
static bool leave(XmmuVcpu *vcpu, XmmuFault *fault, unsigned as_id, gfn_t gfn, hpa_t hpa)
{
    XmmuApfCan can = fault->access.restartable
                     ? vcpu->vm->apf.services->can(vcpu->vm->opaque, vcpu->index)
                     : XMMU_APF_NOTHING;
    XmmuApfWork *work;

    if (can == XMMU_APF_NOTHING) {
        return false;
    }
    if (find(vcpu, as_id, gfn)) {
        return halt(vcpu, fault);
    }
    work = start(vcpu, fault, as_id, gfn, hpa);
    if (!work) {
        return false;
    }
    if (can == XMMU_APF_HALT) {
        return halt(vcpu, fault);
    }
    xmmu_count(&vcpu->stats.async_pf_sent);
    work->told = true;
    fault->async = (XmmuAsync) { .event = true, .token = work->token };
    return true;
}

/* For a page that is missing.  Where entries pin, it has to be here before its entry. */
static void wait_for(XmmuVcpu *vcpu, hpa_t hpa)
{
    XmmuVm *vm = vcpu->vm;

    xmmu_count(&vcpu->stats.async_pf_waited);
    if (vm->services->pins_pages) {
        vm->apf.services->fetch(vm->opaque, hpa);
    }
}

bool xmmu_apf_fault_slow(XmmuVcpu *vcpu, XmmuFault *fault, gpa_t gpa)
{
    XmmuVm *vm = vcpu->vm;
    unsigned as_id = xmmu_vcpu_as(vcpu);
    gfn_t gfn = gpa >> XMMU_PAGE_SHIFT;
    const XmmuRegion *slot;
    hpa_t hpa;

    vm->services->rcu_read_lock();
    slot = xmmu_slot_find(vm, as_id, gfn);
    hpa = slot ? xmmu_slot_hpa(slot, gfn) : 0;
    vm->services->rcu_read_unlock();
    if (!slot || vm->apf.services->resident(vm->opaque, hpa, 1)) {
        return false;
    }
    if (vcpu->apf.prefaulting) {
        return true;
    }
    if (!leave(vcpu, fault, as_id, gfn, hpa)) {
        wait_for(vcpu, hpa);
        return false;
    }
    return true;
}

int xmmu_apf_max_level_slow(XmmuVm *vm, hpa_t hpa)
{
    uint64_t npages = xmmu_level_pages(XMMU_LEVEL_2M);

    hpa &= ~((npages << XMMU_PAGE_SHIFT) - 1);
    return vm->apf.services->resident(vm->opaque, hpa, npages) ? XMMU_LEVEL_2M
                                                               : XMMU_LEVEL_4K;
}

/* ---- The page has come -------------------------------------------------------- */

/*
 * Nobody waits for this access.  If its page is missing (it has gone again, or the guest's
 * tables lead to another one by now) nothing is done.
 */
static void prefault(XmmuVcpu *vcpu, XmmuApfWork *work)
{
    XmmuFault fault = work->fault;
    XmmuPfResult result;

    if (!is_same_mmu(work, vcpu)) {
        return;
    }
    vcpu->apf.prefaulting = true;
    vcpu->vm->services->rcu_read_lock();
    if (xmmu_vcpu_is_nested(vcpu)) {
        result = xmmu_nested_fault(vcpu, &fault);
    } else if (vcpu->vm->config.tdp) {
        result = xmmu_tdp_fault(vcpu, &fault);
    } else {
        result = xmmu_shadow_fault(vcpu, &fault);
    }
    vcpu->vm->services->rcu_read_unlock();
    vcpu->apf.prefaulting = false;
    if (result == XMMU_PF_FIXED || result == XMMU_PF_SPURIOUS) {
        xmmu_count(&vcpu->stats.async_pf_prefaulted);
    }
}

static bool may_tell(XmmuVcpu *vcpu)
{
    return vcpu->vm->apf.services->ready_slot_free(vcpu->vm->opaque, vcpu->index);
}

static void tell(XmmuVcpu *vcpu, uint32_t token)
{
    xmmu_count(&vcpu->stats.async_pf_ready);
    vcpu->vm->apf.services->ready(vcpu->vm->opaque, vcpu->index, token);
}

bool xmmu_apf_complete(XmmuVcpu *vcpu)
{
    XmmuApfWork **at = &vcpu->apf.works;
    bool came = false;

    while (*at) {
        XmmuApfWork *work = *at;

        if (!__atomic_load_n(&work->done, __ATOMIC_ACQUIRE)) {
            at = &work->next;
            continue;
        }
        came = true;
        if (!work->taken) {
            work->taken = true;
            prefault(vcpu, work);
        }
        if (work->told && !may_tell(vcpu)) {
            at = &work->next;           /* when the guest has acknowledged the last */
            continue;
        }
        if (work->told) {
            tell(vcpu, work->token);
        }
        unlist(vcpu, at);
    }
    if (vcpu->apf.wake_all && may_tell(vcpu)) {
        vcpu->apf.wake_all = false;
        tell(vcpu, XMMU_APF_ALL_TOKENS);
    }
    return came;
}
