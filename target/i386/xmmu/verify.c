/*
 * xmmu: verify=on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Compares each translation with the parent class's own walker, which shares no
 * code with the core, and stops at the first difference with a report.
 *
 * Ours goes first: the walker sets guest accessed and dirty bits too, and
 * would hide that we did not.  It answers through the entry it leaves in TCG's
 * TLB, which ours then replaces.
 *
 * Where TCG deviates from the manuals, the comparison says so and allows it.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/memory.h"
#include "exec/page-protection.h"
#include "exec/tlb-common.h"
#include "target/i386/xmmu/xmmu-cpu.h"

/*
 * Another vCPU may change the guest's tables between the two walks, so a
 * difference counts only when it stays.
 */
#define MAX_TRIES 100

/* What the parent's walker says. */
typedef struct Answer {
    bool ok;
    hwaddr gpa;                 /* of the page */
    uint8_t prot;
    uintptr_t host;             /* of the page; meaningless for MMIO */
    uint32_t error_code;
} Answer;

/* ---- The parent's answer ----------------------------------------------------- */

static void read_tlb_entry(const XmmuFill *fill, Answer *answer)
{
    CPUTLB *tlb = &fill->cs->neg.tlb;
    vaddr page = fill->linear & TARGET_PAGE_MASK;
    uintptr_t size_mask = tlb->f[fill->mmu_idx].mask >> CPU_TLB_ENTRY_BITS;
    uintptr_t index = (page >> TARGET_PAGE_BITS) & size_mask;
    const CPUTLBEntry *entry = &tlb->f[fill->mmu_idx].table[index];
    const CPUTLBEntryFull *full = &tlb->d[fill->mmu_idx].fulltlb[index];

    answer->gpa = full->phys_addr;
    answer->prot = full->prot;
    answer->host = page + entry->addend;
}

/*
 * TCG sets the accessed bit of a PDPTE in PAE paging, where it is reserved: the
 * guest's next MOV to CR3 would get #GP.  Put the entries back.  With several vCPUs
 * they stay, lest the store undoes one of another vCPU, and xmmu_read_pdptes()
 * hides the bit from everybody, from here as well.
 */
static void restore_pdptes(CPUX86State *env, const uint64_t before[4])
{
    hwaddr base = (env->cr[3] & 0xffffffe0u) & x86_get_a20_mask(env);
    uint64_t now[4];

    xmmu_read_pdptes(env, env->cr[3], now);
    for (int i = 0; i < 4; i++) {
        if (now[i] == (before[i] | PG_ACCESSED_MASK) && now[i] != before[i]) {
            x86_stq_phys(env_cpu(env), base + 8 * i, before[i]);
        }
    }
}

/*
 * TCG knows nothing of metadata: it is asked about the address proper, and CR3
 * is without the bits that it would take for a part of the address of the tables.
 *
 * The parent may read a page table in device memory.  That must not make TCG
 * translate the current instruction anew: there is no return address for it.
 */
static void ask_parent(const XmmuFill *fill, Answer *answer)
{
    CPUX86State *env = cpu_env(fill->cs);
    bool can_do_io = fill->cs->neg.can_do_io;
    uint64_t cr3 = env->cr[3];
    bool pae = xmmu_is_pae_paging(env->cr[0], env->cr[4], env->efer);
    int error_code = env->error_code;
    uint64_t pdpte[4];

    if (pae) {
        xmmu_read_pdptes(env, env->cr[3], pdpte);
    }
    *answer = (Answer) { };
    fill->cs->neg.can_do_io = true;
    fill->cs->accel->asks_parent = true;
    env->cr[3] &= ~(XMMU_CR3_LAM_U48 | XMMU_CR3_LAM_U57);
    answer->ok = xmmu_parent_tcg_ops->tlb_fill(fill->cs, fill->linear, fill->size,
                                               fill->access_type, fill->mmu_idx,
                                               true, 0);
    env->cr[3] = cr3;
    fill->cs->accel->asks_parent = false;
    fill->cs->neg.can_do_io = can_do_io;
    answer->error_code = env->error_code;
    env->error_code = error_code;
    if (answer->ok) {
        read_tlb_entry(fill, answer);
    }
    if (pae) {
        restore_pdptes(env, pdpte);
    }
}

/* ---- Deviations of TCG --------------------------------------------------------- */

/*
 * Intel SDM vol. 3, 4.7: RSVD comes only with P, which TCG forgets.  I/D is
 * reported for fetches with SMEP, or with NXE in PAE paging; TCG agrees.
 */
static uint32_t normalised_error_code(uint32_t code)
{
    return code & XMMU_PFEC_RSVD ? code | XMMU_PFEC_P : code;
}

/* TCG reads the PDPTEs from memory in each walk, hardware only at MOV CR3 etc. */
static bool pdptes_changed(const XmmuFill *fill)
{
    CPUX86State *env = cpu_env(fill->cs);
    uint64_t pdpte[4];

    if (!xmmu_is_pae_paging(env->cr[0], env->cr[4], env->efer)) {
        return false;
    }
    xmmu_read_pdptes(env, env->cr[3], pdpte);
    return memcmp(pdpte, fill->cs->accel->pdpte, sizeof(pdpte)) != 0;
}

/*
 * Reserved bits that TCG does not know: bit 8 of AMD's PML4E, the page size bit
 * of a PDPTE without 1 GiB pages, and PSE-36 address bits that the CPU does not
 * have.
 */
static bool tcg_lacks_reserved_bits(const XmmuFill *fill)
{
    const XmmuCpuCaps *caps = &fill->cs->accel->caps;

    return caps->amd_pml4e_bit8 || !caps->page1g || !caps->pse36 ||
           caps->maxphyaddr < 40;
}

/*
 * In PAE paging of a guest of the guest PDPTEs are read in each walk, and the accessed
 * bit that TCG sets there is reserved: it cannot be asked.
 */
static bool pdptes_spoilt(const XmmuFill *fill)
{
    CPUX86State *env = cpu_env(fill->cs);

    return (env->hflags2 & HF2_NPT_MASK) &&
           xmmu_is_pae_paging(env->cr[0], env->cr[4], env->efer);
}

/* ---- Comparison ------------------------------------------------------------------ */

/*
 * TCG does not say in which of the two walks it failed.  It forgets that with SMEP
 * fetches are reported, too.
 */
static const char *compare_exits(const XmmuFill *fill, const Answer *parent,
                                 const XmmuHwResult *result)
{
    uint32_t ours = result->exit.info;

    if ((ours & XMMU_PFEC_RSVD) && tcg_lacks_reserved_bits(fill)) {
        return NULL;
    }
    if (parent->ok) {
        return "a nested page fault where there is none";
    }
    if ((ours ^ normalised_error_code(parent->error_code)) & ~XMMU_PFEC_I) {
        return "another error code of a nested page fault";
    }
    return NULL;
}

static const char *compare_exceptions(const XmmuFill *fill, const Answer *parent,
                                      const XmmuHwResult *result)
{
    const XmmuException *ours = &result->exception;

    /* TCG goes on where the walk ends for us, to a page or to another fault. */
    if (ours->vector == XMMU_EXC_PF && (ours->error_code & XMMU_PFEC_RSVD) &&
        (parent->ok || !(parent->error_code & XMMU_PFEC_RSVD)) &&
        tcg_lacks_reserved_bits(fill)) {
        return NULL;
    }
    if (parent->ok) {
        return "an exception where there is none";
    }
    if (ours->error_code != normalised_error_code(parent->error_code)) {
        return "another error code";
    }
    if (ours->vector == XMMU_EXC_PF && ours->cr2 != fill->linear) {
        return "another address in CR2";
    }
    return NULL;
}

/*
 * The host address that TCG uses must be the one in our tables.  It may differ
 * for a moment after the memory map changed, until TCG has flushed.
 */
static bool same_host_page(const XmmuFill *fill, const Answer *parent,
                           const XmmuHwResult *result)
{
    MemTxAttrs attrs = cpu_get_mem_attrs(cpu_env(fill->cs));
    hwaddr xlat, len = TARGET_PAGE_SIZE;
    MemoryRegion *mr;

    if (parent->host == (result->hpa & XMMU_PAGE_MASK)) {
        return true;
    }
    mr = address_space_translate(cpu_addressspace(fill->cs, attrs), parent->gpa,
                                 &xlat, &len, false, attrs);
    return (uintptr_t)memory_region_get_ram_ptr(mr) + xlat ==
           (result->hpa & XMMU_PAGE_MASK);
}

/* NULL: both walkers agree. */
static const char *compare(const XmmuFill *fill, const Answer *parent,
                           const XmmuHwResult *result)
{
    if (result->outcome == XMMU_HW_EXCEPTION) {
        return compare_exceptions(fill, parent, result);
    }
    if (result->outcome == XMMU_HW_NESTED_EXIT) {
        return compare_exits(fill, parent, result);
    }
    if (!parent->ok) {
        return "a translation where there is an exception";
    }
    if (parent->gpa != (result->gpa & XMMU_PAGE_MASK)) {
        return "another guest physical address";
    }
    if (!(result->prot & fill->access.want)) {
        return "a translation without the permission that was asked for";
    }
    /*
     * Ours may allow less (write tracking, ROM): the next access asks again.
     * Write permission on a page that is not dirty shows here too.
     */
    if (result->prot & ~parent->prot) {
        return "a permission too much";
    }
    if (result->outcome == XMMU_HW_OK && !same_host_page(fill, parent, result)) {
        return "another host page";
    }
    return NULL;
}

/* ---- Report ------------------------------------------------------------------------ */

static void print_prot(const char *who, hwaddr gpa, uint8_t prot)
{
    fprintf(stderr, "  %s: gpa 0x%" HWADDR_PRIx " %c%c%c", who, gpa,
            prot & PAGE_READ ? 'r' : '-', prot & PAGE_WRITE ? 'w' : '-',
            prot & PAGE_EXEC ? 'x' : '-');
}

static void print_answers(const Answer *parent, const XmmuHwResult *result)
{
    if (result->outcome == XMMU_HW_NESTED_EXIT) {
        fprintf(stderr, "  xmmu: nested page fault 0x%" PRIx64 " at 0x%" PRIx64 "\n",
                result->exit.info, result->exit.gpa);
    } else if (result->outcome == XMMU_HW_EXCEPTION) {
        fprintf(stderr, "  xmmu: exception %u, error code 0x%x, address 0x%"
                PRIx64 "\n", result->exception.vector,
                result->exception.error_code, result->exception.cr2);
    } else {
        print_prot("xmmu", result->gpa, result->prot);
        fprintf(stderr, ", host 0x%" PRIx64 "%s%s\n", result->hpa,
                result->outcome == XMMU_HW_DIRECT ? ", this access only" : "",
                result->mmio ? ", MMIO" : "");
    }
    if (parent->ok) {
        print_prot("TCG ", parent->gpa, parent->prot);
        fprintf(stderr, ", host 0x%" PRIxPTR "\n", parent->host);
    } else {
        fprintf(stderr, "  TCG : exception, error code 0x%x\n",
                parent->error_code);
    }
}

/* One entry of the guest's tables; returns it. */
static uint64_t print_entry(CPUX86State *env, int level, hwaddr table,
                            unsigned index, unsigned size)
{
    hwaddr gpa = (table + (hwaddr)index * size) & x86_get_a20_mask(env);
    uint64_t entry = size == 8 ? x86_ldq_phys(env_cpu(env), gpa)
                               : x86_ldl_phys(env_cpu(env), gpa);

    fprintf(stderr, "  guest entry of level %d at 0x%" HWADDR_PRIx ": 0x%016"
            PRIx64 "\n", level, gpa, entry);
    return entry;
}

static void print_guest_walk(CPUX86State *env, vaddr gva)
{
    bool wide = env->cr[4] & CR4_PAE_MASK;
    bool lma = env->efer & MSR_EFER_LMA;
    int level = !wide ? 2 : !lma ? 3 : env->cr[4] & CR4_LA57_MASK ? 5 : 4;
    unsigned bits = wide ? 9 : 10;
    hwaddr table = env->cr[3] & (wide && !lma ? ~0x1full : PG_ADDRESS_MASK);

    if (!(env->cr[0] & CR0_PG_MASK)) {
        return;
    }
    for (; level > 0; level--) {
        unsigned index = (gva >> (12 + bits * (level - 1))) & ((1u << bits) - 1);
        uint64_t entry = print_entry(env, level, table, index, wide ? 8 : 4);

        if (!(entry & PG_PRESENT_MASK) ||
            (level > 1 && level < 4 && (entry & PG_PSE_MASK))) {
            return;
        }
        table = entry & PG_ADDRESS_MASK;
    }
}

static void print_registers(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);
    AccelCPUState *accel = cs->accel;

    fprintf(stderr, "  CR0 %08" PRIx64 " CR3 %016" PRIx64 " CR4 %08" PRIx64
            " EFER %08" PRIx64 " PKRU %08x PKRS %08x A20 %d SMM %d CPL %d\n",
            (uint64_t)env->cr[0], (uint64_t)env->cr[3], (uint64_t)env->cr[4],
            env->efer, env->pkru, env->pkrs, (env->a20_mask >> 20) & 1,
            !!(env->hflags & HF_SMM_MASK), env->hflags & HF_CPL_MASK);
    fprintf(stderr, "  PDPTEs %016" PRIx64 " %016" PRIx64 " %016" PRIx64
            " %016" PRIx64 "\n", accel->pdpte[0], accel->pdpte[1],
            accel->pdpte[2], accel->pdpte[3]);
}

static void print_mmu(XmmuVcpu *vcpu)
{
    g_autofree char *role = xmmu_vcpu_role_text(vcpu);
    XmmuRootInfo root;

    fprintf(stderr, "  vCPU role 0x%" PRIx64 ": %s\n",
            xmmu_vcpu_role_word(vcpu), role);
    if (xmmu_vcpu_roots(vcpu, &root, 1) && root.valid) {
        g_autofree char *page_role = xmmu_page_role_text(root.page_role);

        fprintf(stderr, "  root at 0x%" PRIx64 ", pgd 0x%" PRIx64
                ", role 0x%x: %s\n", root.hpa, root.pgd, root.page_role,
                page_role);
    }
}

static G_NORETURN void report(const XmmuFill *fill, const Answer *parent,
                              const XmmuHwResult *result, const char *what)
{
    static const char *const kinds[] = { "read", "write", "fetch" };
    CPUState *cs = fill->cs;

    fprintf(stderr, "xmmu: verify: CPU %d: xmmu gives %s\n"
            "  %s of %d bytes at 0x%" VADDR_PRIx ", %s%s, MMU index %d\n",
            cs->cpu_index, what, kinds[fill->access_type], fill->size,
            fill->addr, fill->access.user ? "user" : "supervisor",
            fill->access.smap_off ? "" : ", SMAP applies", fill->mmu_idx);
    print_answers(parent, result);
    print_registers(cs);
    print_mmu(cs->accel->vcpu);
    print_guest_walk(cpu_env(cs), fill->linear);
    fprintf(stderr, "  after %" PRIu64 " equal translations (%" PRIu64
            " of them not yet flushed by the guest)\n", cs->accel->verified,
            cs->accel->verified_stale);
    fflush(stderr);
    exit(EXIT_FAILURE);
}

/*
 * A CPU may go on using a translation until the guest flushes it (Intel SDM
 * vol. 3, 4.10.2), and shadow tables do; the parent's walker always looks.  So a
 * difference is judged after the flush that the guest still owes.
 */
void xmmu_verify(const XmmuFill *fill, XmmuHwResult *result)
{
    CPUState *cs = fill->cs;
    AccelCPUState *accel = cs->accel;
    const char *what;
    Answer parent;
    int tries;

    if (result->outcome == XMMU_HW_NOMEM || pdptes_spoilt(fill)) {
        return;
    }
    for (tries = 0;; tries++) {
        ask_parent(fill, &parent);
        if (pdptes_changed(fill)) {
            break;
        }
        what = compare(fill, &parent, result);
        if (!what) {
            break;
        }
        if (tries == MAX_TRIES) {
            report(fill, &parent, result, what);
        }
        xmmu_vcpu_invlpg(accel->vcpu, fill->linear);
        xmmu_vcpu_flush_asid(accel->vcpu, XMMU_ALL_ASIDS);
        xmmu_translate(cs, &fill->access, fill->size, result);
    }
    accel->verified++;
    accel->verified_stale += tries > 0;
    /* The parent's walker left an entry that ours will not replace. */
    if (parent.ok && (result->outcome == XMMU_HW_EXCEPTION ||
                      result->outcome == XMMU_HW_NESTED_EXIT ||
                      ((fill->addr ^ fill->linear) & TARGET_PAGE_MASK))) {
        tlb_flush_page(cs, fill->linear & TARGET_PAGE_MASK);
    }
}
