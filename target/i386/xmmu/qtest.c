/*
 * xmmu: qtest commands
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Lets a qtest do to a vCPU what a guest's instruction would do: write control
 * registers, translate and access memory, enter and leave SMM; and look at what
 * the MMU made of it.  A command runs on the vCPU's own thread, through the same
 * helpers as translated code, and an exception is caught and reported.  Meant
 * for a vCPU that does not execute (-S).
 *
 * In engine native a command is a turn of TCG's; after it the module is given all
 * registers and gives them back, so it must accept every state that a test gets to.
 *
 * One line in, one line out, as with qtest's own commands.  CPU is an index,
 * numbers are as strtoull takes them:
 *
 *   xmmu_write_reg CPU REG VALUE   REG: cr0 cr3 cr4 cr8 efer pkru pkrs lmsw, dr0 to dr7
 *                                  > OK 0 | OK exception=VECTOR error=CODE
 *   xmmu_read_reg CPU REG          also cr2
 *                                  > OK VALUE
 *   xmmu_wrmsr CPU INDEX VALUE     > OK 0 | OK exception=VECTOR error=CODE
 *   xmmu_rdmsr CPU INDEX           > OK VALUE | OK exception=...
 *   xmmu_cpuid CPU LEAF SUBLEAF    > OK eax=A ebx=B ecx=C edx=D
 *   xmmu_set_cs_l CPU 0|1          as a far jump to a segment with that L bit
 *   xmmu_set_tss16 CPU 0|1         TR holds a 16-bit TSS
 *   xmmu_translate CPU GVA ACCESS  ACCESS: one of r w x, and one of u (user),
 *                                  s (supervisor), a (supervisor with EFLAGS.AC)
 *                                  > OK gpa=GPA prot=rwx ram=0|1
 *                                  | OK exception=VECTOR error=CODE cr2=ADDRESS
 *   xmmu_load CPU GVA SIZE         a supervisor's load
 *                                  > OK VALUE | OK exception=... as above
 *   xmmu_store CPU GVA SIZE VALUE  > OK 0 | OK exception=...
 *   xmmu_invlpg CPU GVA
 *   xmmu_invpcid CPU TYPE GVA      INVPCID with its descriptor at GVA
 *                                  > OK 0 | OK exception=...
 *   xmmu_smm CPU 0|1               take an SMI, execute RSM
 *   xmmu_roles CPU                 > OK role=WORD TEXT
 *   xmmu_roots CPU                 > OK pgd=PGD pcid=PCID role=WORD hpa=HPA; ...
 *   xmmu_counters [CPU]            > OK NAME=VALUE ...
 *   xmmu_zap_all                   forget all translations: memory that qtest
 *                                  wrote itself may be page tables
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "exec/page-protection.h"
#include "system/qtest.h"
#include "tcg/helper-tcg.h"
#include "accel/xmmu/enabled.h"
#include "target/i386/xmmu/native.h"
#include "target/i386/xmmu/xmmu-cpu.h"

typedef struct Command Command;

/* One command under way. */
typedef struct Job {
    const Command *command;
    char **words;               /* after the command's name and the CPU */
    GString *answer;
    const char *bad;            /* why the words cannot be understood */
} Job;

struct Command {
    const char *name;
    unsigned words;             /* besides the CPU */
    void (*run)(CPUState *cs, Job *job);
};

/* ---- Words ---------------------------------------------------------------- */

static uint64_t number(Job *job, unsigned index)
{
    uint64_t value = 0;

    if (qemu_strtou64(job->words[index], NULL, 0, &value) < 0) {
        job->bad = "not a number";
    }
    return value;
}

static bool flag(Job *job, unsigned index)
{
    uint64_t value = number(job, index);

    if (value > 1) {
        job->bad = "0 or 1 wanted";
    }
    return value;
}

static void answer_done(Job *job)
{
    g_string_append(job->answer, " 0");
}

/* ---- Exceptions ------------------------------------------------------------ */

/*
 * After the vCPU left an instruction by an exception: report it instead of
 * delivering it, and forget it.
 */
static void report_exception(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    int vector = cs->exception_index;

    g_string_append_printf(job->answer, " exception=%d error=%d", vector,
                           env->error_code);
    if (vector == EXCP0E_PAGE) {
        g_string_append_printf(job->answer, " cr2=0x%" PRIx64,
                               (uint64_t)env->cr[2]);
    }
    cs->exception_index = -1;
    env->error_code = 0;
    /* The next one is not to become a double fault. */
    env->old_exception = -1;
}

/*
 * Runs the command as the vCPU's execution loop runs translated code: without
 * the big lock, inside RCU, and with a place for exceptions to go to.
 */
static void run_command(CPUState *cs, run_on_cpu_data data)
{
    Job *job = data.host_ptr;

    RCU_READ_LOCK_GUARD();
    bql_unlock();
    /* Device memory may be accessed: there is no instruction to restart. */
    cs->neg.can_do_io = true;
    if (xmmu_native_enabled()) {
        xmmu_native_begin_turn(cs, XMMU_GROUP_ALL);
    }
    if (sigsetjmp(cs->jmp_env, 0) == 0) {
        job->command->run(cs, job);
    } else {
        if (bql_locked()) {
            bql_unlock();
        }
        report_exception(cs, job);
    }
    if (xmmu_native_enabled()) {
        xmmu_native_end_turn(cs);
        job->bad = job->bad ?: xmmu_native_rehearse(cs);
    }
    bql_lock();
}

/* ---- Registers ------------------------------------------------------------- */

/*
 * A helper that takes its operands from EAX, ECX, EDX and EBX, the first four registers,
 * and leaves its results there; the vCPU's own values are put back.
 */
static void call_with(CPUX86State *env, void (*helper)(CPUX86State *env),
                      uint32_t operands[4])
{
    CPUState *cs = env_cpu(env);
    target_ulong saved[4];
    sigjmp_buf outer;
    bool left;

    for (int i = 0; i < 4; i++) {
        saved[i] = env->regs[i];
        env->regs[i] = operands[i];
    }
    memcpy(&outer, &cs->jmp_env, sizeof(outer));
    left = sigsetjmp(cs->jmp_env, 0);
    if (!left) {
        helper(env);
    }
    memcpy(&cs->jmp_env, &outer, sizeof(outer));
    for (int i = 0; i < 4; i++) {
        operands[i] = env->regs[i];
        env->regs[i] = saved[i];
    }
    if (left) {
        cpu_loop_exit(cs);
    }
}

static void write_msr(CPUX86State *env, uint32_t msr, uint64_t value)
{
    uint32_t operands[4] = {
        [R_EAX] = value, [R_EDX] = value >> 32, [R_ECX] = msr,
    };

    call_with(env, helper_wrmsr, operands);
}

static void cmd_wrmsr(CPUState *cs, Job *job)
{
    uint32_t msr = number(job, 0);
    uint64_t value = number(job, 1);

    if (!job->bad) {
        write_msr(cpu_env(cs), msr, value);
        answer_done(job);
    }
}

static void cmd_rdmsr(CPUState *cs, Job *job)
{
    uint32_t operands[4] = { [R_ECX] = number(job, 0) };

    if (!job->bad) {
        call_with(cpu_env(cs), helper_rdmsr, operands);
        g_string_append_printf(job->answer, " 0x%" PRIx64,
                               deposit64(operands[R_EAX], 32, 32, operands[R_EDX]));
    }
}

static void cmd_cpuid(CPUState *cs, Job *job)
{
    uint32_t operands[4] = { [R_EAX] = number(job, 0), [R_ECX] = number(job, 1) };

    if (!job->bad) {
        call_with(cpu_env(cs), helper_cpuid, operands);
        g_string_append_printf(job->answer, " eax=0x%x ebx=0x%x ecx=0x%x edx=0x%x",
                               operands[R_EAX], operands[R_EBX], operands[R_ECX],
                               operands[R_EDX]);
    }
}

/* Is @reg @prefix and one of @digits? */
static bool is_numbered(const char *reg, const char *prefix, const char *digits)
{
    return strlen(reg) == 3 && g_str_has_prefix(reg, prefix) && strchr(digits, reg[2]);
}

static void cmd_write_reg(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    const char *reg = job->words[0];
    uint64_t value = number(job, 1);

    if (job->bad) {
        return;
    }
    if (is_numbered(reg, "cr", "0348")) {
        helper_write_crN(env, reg[2] - '0', value);
    } else if (is_numbered(reg, "dr", "01234567")) {
        helper_set_dr(env, reg[2] - '0', value);
    } else if (g_str_equal(reg, "efer")) {
        write_msr(env, MSR_EFER, value);
    } else if (g_str_equal(reg, "pkrs")) {
        write_msr(env, MSR_IA32_PKRS, value);
    } else if (g_str_equal(reg, "pkru")) {
        helper_wrpkru(env, 0, value);
    } else if (g_str_equal(reg, "lmsw")) {
        /* As translated code does it: only bits 3:0, and PE stays set. */
        helper_write_crN(env, 0, (env->cr[0] & ~0xeull) | (value & 0xf));
    } else {
        job->bad = "unknown register";
        return;
    }
    answer_done(job);
}

static void cmd_read_reg(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    const struct {
        const char *name;
        uint64_t value;
    } regs[] = {
        { "cr0", env->cr[0] }, { "cr2", env->cr[2] }, { "cr3", env->cr[3] },
        { "cr4", env->cr[4] }, { "efer", env->efer }, { "pkru", env->pkru },
        { "pkrs", env->pkrs },
        { "smm", !!(env->hflags & HF_SMM_MASK) },
        { "lma", !!(env->hflags & HF_LMA_MASK) },
        { "cs64", !!(env->hflags & HF_CS64_MASK) },
    };

    for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
        if (g_str_equal(job->words[0], regs[i].name)) {
            g_string_append_printf(job->answer, " 0x%" PRIx64, regs[i].value);
            return;
        }
    }
    job->bad = "unknown register";
}

/* Flat segments: 64-bit code has L=1 D=0, 32-bit code L=0 D=1. */
static void cmd_set_cs_l(CPUState *cs, Job *job)
{
    uint32_t flags = DESC_G_MASK | DESC_P_MASK | DESC_S_MASK | DESC_CS_MASK |
                     DESC_R_MASK | DESC_A_MASK;
    bool l = flag(job, 0);

    if (!job->bad) {
        cpu_x86_load_seg_cache(cpu_env(cs), R_CS, 8, 0, 0xffffffff,
                               flags | (l ? DESC_L_MASK : DESC_B_MASK));
        answer_done(job);
    }
}

/* A busy TSS of 16 or 32 bits: Intel SDM vol. 3, table 3-2. */
static void cmd_set_tss16(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    bool small = flag(job, 0);

    if (!job->bad) {
        env->tr.flags = DESC_P_MASK | (small ? 3 : 11) << DESC_TYPE_SHIFT;
        answer_done(job);
    }
}

/* ---- Memory ----------------------------------------------------------------- */

typedef struct Wanted {
    MMUAccessType type;
    int mmu_idx;
} Wanted;

/* The index under which TCG keeps this kind of access. */
static int mmu_index(CPUX86State *env, char who)
{
    int base = who == 'u' ? MMU_USER64_IDX :
               who == 's' && (env->hflags & HF_SMAP_MASK) ? MMU_KSMAP64_IDX :
               MMU_KNOSMAP64_IDX;

    return base + !(env->hflags & HF_CS64_MASK);
}

static Wanted parse_access(CPUX86State *env, Job *job, const char *word)
{
    Wanted wanted = { MMU_DATA_LOAD, 0 };

    if (strlen(word) != 2 || !strchr("rwx", word[0]) ||
        !strchr("usa", word[1])) {
        job->bad = "access is r, w or x, and u, s or a";
        return wanted;
    }
    wanted.type = word[0] == 'r' ? MMU_DATA_LOAD :
                  word[0] == 'w' ? MMU_DATA_STORE : MMU_INST_FETCH;
    wanted.mmu_idx = mmu_index(env, word[1]);
    return wanted;
}

/* Linear addresses have 32 bits outside 64-bit code. */
static vaddr address(CPUX86State *env, Job *job, unsigned index)
{
    uint64_t gva = number(job, index);

    return env->hflags & HF_CS64_MASK ? gva : (uint32_t)gva;
}

static void cmd_translate(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    Wanted wanted = parse_access(env, job, job->words[1]);
    vaddr gva = address(env, job, 0);
    CPUTLBEntryFull *full;
    void *host;

    if (job->bad) {
        return;
    }
    probe_access_full(env, gva, 1, wanted.type, wanted.mmu_idx, false, &host,
                      &full, 0);
    g_string_append_printf(job->answer, " gpa=0x%" PRIx64 " prot=%s%s%s ram=%d",
                           (uint64_t)(full->phys_addr |
                                      (gva & ~TARGET_PAGE_MASK)),
                           full->prot & PAGE_READ ? "r" : "-",
                           full->prot & PAGE_WRITE ? "w" : "-",
                           full->prot & PAGE_EXEC ? "x" : "-", host != NULL);
}

static void cmd_load(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    vaddr gva = address(env, job, 0);
    uint64_t size = number(job, 1), value = 0;
    int index = mmu_index(env, 's');

    switch (job->bad ? 0 : size) {
    case 1:
        value = cpu_ldub_mmuidx_ra(env, gva, index, 0);
        break;
    case 2:
        value = cpu_lduw_le_mmuidx_ra(env, gva, index, 0);
        break;
    case 4:
        value = cpu_ldl_le_mmuidx_ra(env, gva, index, 0);
        break;
    case 8:
        value = cpu_ldq_le_mmuidx_ra(env, gva, index, 0);
        break;
    default:
        job->bad = "size is 1, 2, 4 or 8";
        return;
    }
    g_string_append_printf(job->answer, " 0x%" PRIx64, value);
}

static void cmd_store(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    vaddr gva = address(env, job, 0);
    uint64_t size = number(job, 1), value = number(job, 2);
    int index = mmu_index(env, 's');

    switch (job->bad ? 0 : size) {
    case 1:
        cpu_stb_mmuidx_ra(env, gva, value, index, 0);
        break;
    case 2:
        cpu_stw_le_mmuidx_ra(env, gva, value, index, 0);
        break;
    case 4:
        cpu_stl_le_mmuidx_ra(env, gva, value, index, 0);
        break;
    case 8:
        cpu_stq_le_mmuidx_ra(env, gva, value, index, 0);
        break;
    default:
        job->bad = "size is 1, 2, 4 or 8";
        return;
    }
    answer_done(job);
}

static void cmd_invlpg(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    vaddr gva = address(env, job, 0);

    if (!job->bad) {
        helper_flush_page(env, gva);
        answer_done(job);
    }
}

static void cmd_invpcid(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    uint64_t type = number(job, 0);
    vaddr gva = address(env, job, 1);

    if (!job->bad) {
        helper_xmmu_invpcid(env, type, gva);
        answer_done(job);
    }
}

static void cmd_smm(CPUState *cs, Job *job)
{
    CPUX86State *env = cpu_env(cs);
    bool enter = flag(job, 0);

    if (job->bad) {
        return;
    }
    if (enter == !!(env->hflags & HF_SMM_MASK)) {
        job->bad = "already so";
        return;
    }
    if (enter) {
        do_smm_enter(X86_CPU(cs));
    } else {
        helper_rsm(env);
    }
    answer_done(job);
}

/* ---- The MMU ---------------------------------------------------------------- */

static void cmd_roles(CPUState *cs, Job *job)
{
    XmmuVcpu *vcpu = cs->accel->vcpu;
    g_autofree char *text = NULL;

    xmmu_take_over(cs);
    text = xmmu_vcpu_role_text(vcpu);
    g_string_append_printf(job->answer, " role=0x%" PRIx64 " %s",
                           xmmu_vcpu_role_word(vcpu), text);
}

static void cmd_roots(CPUState *cs, Job *job)
{
    XmmuRootInfo roots[XMMU_PREV_ROOTS_MAX + 1];
    size_t count;

    xmmu_take_over(cs);
    count = xmmu_vcpu_roots(cs->accel->vcpu, roots, ARRAY_SIZE(roots));
    for (size_t i = 0; i < count; i++) {
        if (roots[i].valid) {
            g_string_append_printf(job->answer, " pgd=0x%" PRIx64 " pcid=%u "
                                   "role=0x%x hpa=0x%" PRIx64 ";", roots[i].pgd,
                                   roots[i].pcid, roots[i].page_role,
                                   roots[i].hpa);
        } else {
            g_string_append(job->answer, " none;");
        }
    }
}

static void append_stats(GString *answer, const XmmuStats *stats)
{
    for (size_t i = 0; i < xmmu_stat_count; i++) {
        const XmmuStatDesc *d = &xmmu_stat_descs[i];
        uint64_t value;

        memcpy(&value, (const char *)stats + d->offset, sizeof(value));
        g_string_append_printf(answer, " %s=%" PRIu64, d->name, value);
    }
}

static void cmd_vcpu_counters(CPUState *cs, Job *job)
{
    XmmuStats stats;

    xmmu_take_over(cs);
    xmmu_vcpu_stats(cs->accel->vcpu, &stats);
    append_stats(job->answer, &stats);
}

/* ---- Dispatch ----------------------------------------------------------------- */

static const Command commands[] = {
    { "xmmu_write_reg", 2, cmd_write_reg },
    { "xmmu_read_reg", 1, cmd_read_reg },
    { "xmmu_wrmsr", 2, cmd_wrmsr },
    { "xmmu_rdmsr", 1, cmd_rdmsr },
    { "xmmu_cpuid", 2, cmd_cpuid },
    { "xmmu_set_cs_l", 1, cmd_set_cs_l },
    { "xmmu_set_tss16", 1, cmd_set_tss16 },
    { "xmmu_translate", 2, cmd_translate },
    { "xmmu_load", 2, cmd_load },
    { "xmmu_store", 3, cmd_store },
    { "xmmu_invlpg", 1, cmd_invlpg },
    { "xmmu_invpcid", 2, cmd_invpcid },
    { "xmmu_smm", 1, cmd_smm },
    { "xmmu_roles", 0, cmd_roles },
    { "xmmu_roots", 0, cmd_roots },
    { "xmmu_counters", 0, cmd_vcpu_counters },
};

/* Commands about the VM as a whole.  False: there is no such command. */
static bool vm_command(CharBackend *chr, char **words, unsigned count)
{
    g_autoptr(GString) answer = g_string_new("OK");
    XmmuStats stats;

    if (g_str_equal(words[0], "xmmu_zap_all") && count == 1) {
        xmmu_vm_zap_all(xmmu_state.vm);
        qtest_sendf(chr, "OK\n");
        return true;
    }
    if (g_str_equal(words[0], "xmmu_counters") && count == 1) {
        xmmu_vm_stats(xmmu_state.vm, &stats);
        append_stats(answer, &stats);
        qtest_sendf(chr, "%s\n", answer->str);
        return true;
    }
    return false;
}

static const char *vcpu_command(CharBackend *chr, const Command *command,
                                char **words, unsigned count)
{
    g_autoptr(GString) answer = g_string_new("OK");
    Job job = { command, words + 2, answer };
    CPUState *cs;
    int index;

    if (count != 2 + command->words) {
        return "wrong number of words";
    }
    if (qemu_strtoi(words[1], NULL, 0, &index) < 0) {
        return "the CPU is not a number";
    }
    cs = qemu_get_cpu(index);
    if (!cs || !cs->accel || !cs->accel->vcpu) {
        return "no such CPU";
    }
    run_on_cpu(cs, run_command, RUN_ON_CPU_HOST_PTR(&job));
    if (!job.bad) {
        qtest_sendf(chr, "%s\n", answer->str);
    }
    return job.bad;
}

static bool process_command(CharBackend *chr, gchar **words)
{
    unsigned count = g_strv_length(words);

    if (!xmmu_enabled()) {
        return false;
    }
    if (vm_command(chr, words, count)) {
        return true;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (g_str_equal(words[0], commands[i].name)) {
            const char *bad = vcpu_command(chr, &commands[i], words, count);

            if (bad) {
                qtest_sendf(chr, "FAIL %s: %s\n", words[0], bad);
            }
            return true;
        }
    }
    return false;
}

static void xmmu_qtest_register(void)
{
    qtest_set_command_cb(process_command);
}
type_init(xmmu_qtest_register);
