/*
 * xmmu fuzz: what is printed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the trace of a run and the report of a difference: what the reference says,
 * what the core said, and how to see it again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "fuzz.h"

void fz_trace(const Fuzz *f, const char *format, ...)
{
    va_list ap;

    if (!f->limits->trace) {
        return;
    }
    printf("%5u ", f->op);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
}

void fz_print_result(const char *who, const RefResult *r)
{
    if (r->fault) {
        fprintf(stderr, "  %s: #PF error code %#x\n", who, r->error_code);
    } else {
        fprintf(stderr, "  %s: gpa %#" PRIx64 " allowed %u page shift %u%s\n", who,
                r->phys, r->allowed, r->page_shift, r->dirty ? " dirty" : "");
    }
    for (unsigned i = 0; i < r->steps; i++) {
        const RefStep *step = &r->step[i];

        fprintf(stderr, "    entry at %#" PRIx64 " = %#" PRIx64, step->addr, step->value);
        if (step->until) {
            fprintf(stderr, " (until %" PRIu64 ")", step->until);
        }
        fprintf(stderr, " sets %#" PRIx64 "\n", step->set);
    }
}

void fz_print_got(const XmmuHwResult *got)
{
    static const char *const outcomes[] = { "OK", "DIRECT", "EXCEPTION", "NOMEM" };

    fprintf(stderr, "  core: %s gpa %#" PRIx64 " hpa %#" PRIx64 " prot %u page shift %u%s"
            " vector %u error code %#x cr2 %#" PRIx64 "\n", outcomes[got->outcome], got->gpa,
            got->hpa, got->prot, got->page_shift, got->mmio ? " mmio" : "",
            got->exception.vector, got->exception.error_code, got->exception.cr2);
}

void fz_print_setting(const Fuzz *f, const Cpu *cpu)
{
    const XmmuRegs *r = &cpu->regs;

    fprintf(stderr, "  reproduce: --world=%#" PRIx64 " (operation %u)\n", f->seed, f->op);
    fprintf(stderr, "  VM: %s%s%u-level, large pages %d, prev-roots %u, table-memory %" PRIu64 "\n",
            f->config.tdp ? "tdp " : "shadow ",
            !f->config.tdp ? "" : f->config.tdp_format == XMMU_TDP_EPT ? "ept " : "npt ",
            f->config.tdp_levels, f->config.huge_pages, f->config.prev_roots,
            f->config.table_memory);
    fprintf(stderr, "  CPU: maxphyaddr %u page1g %d pse36 %d amd %d\n", f->caps.maxphyaddr,
            f->caps.page1g, f->caps.pse36, f->caps.amd_pml4e_bit8);
    fprintf(stderr, "  vCPU %u: %u levels cr0 %#" PRIx64 " cr3 %#" PRIx64 " cr4 %#" PRIx64
            " efer %#" PRIx64 " pkru %#x pkrs %#x smm %d a20 masked %d\n", cpu->index,
            fz_levels(cpu), r->cr0, r->cr3, r->cr4, r->efer, r->pkru, r->pkrs, r->smm,
            r->a20_masked);
    if (fz_levels(cpu) == 3) {
        fprintf(stderr, "  pdpte %#" PRIx64 " %#" PRIx64 " %#" PRIx64 " %#" PRIx64 "\n",
                r->pdpte[0], r->pdpte[1], r->pdpte[2], r->pdpte[3]);
    }
    fprintf(stderr, "  PCID %u current since its last flush:", cpu->pcid);
    for (unsigned i = 0; i < cpu->current[cpu->pcid].n; i++) {
        fprintf(stderr, " %" PRIu64 "..", cpu->current[cpu->pcid].span[i].from);
        if (i + 1 < cpu->current[cpu->pcid].n) {
            fprintf(stderr, "%" PRIu64 ",", cpu->current[cpu->pcid].span[i].to);
        }
    }
    fprintf(stderr, " now %" PRIu64 "\n", f->world.now);
}

void fz_differ(View *v, const char *what)
{
    const XmmuAccess *a = v->access;

    fflush(stdout);
    fprintf(stderr, "\nDIFFERENCE: %s\n", what);
    fz_print_setting(v->f, v->cpu);
    fprintf(stderr, "  access: gva %#" PRIx64 " want %u %s%s\n", a->gva, a->want,
            a->user ? "user" : "supervisor", a->smap_off ? " AC" : "");
    fz_print_result("reference", &v->now);
    fz_print_got(v->got);
    abort();
}
