# SPDX-License-Identifier: GPL-2.0-or-later
#
# The front door: prepares, builds, boots, tests. Each target can be typed on a
# fresh clone; what it needs is made first, and only what is out of date is made
# again. Everything lies below build/. `make help` lists the targets.

# Two builds in one directory at the same time would spoil each other.
ninja   = flock $(1)/.lock ninja -C $(1)
MESON  := build/tools/venv/bin/meson
QEMU   := build/qemu/qemu-system-x86_64
# qtest programs: one for each tests/qtest/xmmu-*-test.c
QTESTS := $(patsubst %.c,%,$(wildcard tests/qtest/xmmu-*-test.c))

# Options of `make boot`; see `make help`.
ACCEL   ?= xmmu
MACHINE ?= q35
SMP     ?= 2
MEM     ?= 1G
KERNEL  ?= amd64
COMPARE ?=
STAGE   ?=
JOBS    ?=

all: qemu

help:
	@sed -n 's/^## \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

## make             build qemu-system-x86_64 with xmmu (runs ./configure when needed)
## make boot        boot a Debian kernel with xmmu, show its console and a summary
##                  ACCEL=xmmu,tdp=off MACHINE=q35|pc SMP=2 MEM=1G KERNEL=amd64|686|686-pae
##                  COMPARE=tcg boots a second time with that accelerator for the ratio
## make check       all tests; STAGE="unit boots" runs only these stages (see tests/stages),
##                  JOBS=1 one after the other [as many at a time as there are CPUs]
## make unit        the core's unit tests alone: seconds, no QEMU
## make fuzz        the core's fuzzers; FUZZ_TIME=SECONDS for each [60]
## make qemu-asan   QEMU with AddressSanitizer and UndefinedBehaviorSanitizer, in
##                  build/qemu-asan; bad-streams-asan lets it load STREAMS=1000 bad streams
## make bench       compare with -accel tcg, and time the core's mechanisms: tables, JSON,
##                  pictures
## make module      build/module/xmmu.ko for the kernel that runs (KDIR=... for another one)
## make install-module  install it and its udev rule (make -C module dkms: by DKMS)
## make check-host  the native engine's tests on this host's own VMX or SVM (as root)
## make machine-long  those tests that are too long for `make check`, in emulated machines
## make measure     the native engine and KVM compared by instructions
## make install     install in the prefix given to ./configure (DESTDIR is honoured)
## make clean       remove what was built, keep what was fetched
## make distclean   remove build/

# --- QEMU with xmmu ---

# Links, hooks and QEMU's configure, as far as they are out of date.
sync:
	@./configure --sync

qemu: sync
	@$(call ninja,build/qemu) qemu-system-x86_64

# With AddressSanitizer and UndefinedBehaviorSanitizer, beside the other build.
qemu-asan:
	@./configure --variant=asan
	@$(call ninja,build/qemu-asan) qemu-system-x86_64

# STREAMS bad streams of migration; see docs/devel/xmmu-migration.rst.
STREAMS ?= 1000
bad-streams-asan: qemu-asan
	@XMMU_QEMU=$(CURDIR)/build/qemu-asan/qemu-system-x86_64 tests/migration/endurance \
	    --moves 0 --kills 0 --source-kills 0 --streams $(STREAMS)

qtests: sync
	@$(call ninja,build/qemu) qemu-system-x86_64 $(QTESTS)

# Of all that QEMU's build could make, only this is installed.
install: sync
	@$(call ninja,build/qemu) qemu-system-x86_64 trace/trace-events-all
	@DESTDIR="$(DESTDIR)" $(MESON) install --no-rebuild -C build/qemu

# --- the core alone ---

# $(call core-build,DIRECTORY,COMPILER,MESON OPTIONS)
define core-build
	@scripts/need check build core
	@scripts/get-meson build
	@test -e $(1)/build.ninja || CC=$(2) $(MESON) setup $(3) $(1) . > $(1)-setup.log || \
	    { tail -n 20 $(1)-setup.log; exit 1; }
	@$(call ninja,$(1))
endef

SANITIZE := -Db_sanitize=address,undefined -Db_lundef=false

core:
	$(call core-build,build/core,gcc,)
core-asan:
	$(call core-build,build/core-asan,gcc,-Dcheck=true $(SANITIZE))
core-tsan:
	$(call core-build,build/core-tsan,gcc,-Db_sanitize=thread -Db_lundef=false)
core-cov:
	$(call core-build,build/core-cov,gcc,-Db_coverage=true --optimization=0)
core-fuzz:
	$(call core-build,build/core-fuzz,clang,-Dfuzzer=true -Dcheck=true $(SANITIZE))
# With the checker beside the core (docs/devel/xmmu-testing.rst), no sanitizer.
core-check:
	$(call core-build,build/core-check,gcc,-Dcheck=true)
core-bench:
	$(call core-build,build/core-bench,gcc,--buildtype=release)
check-host:
	@scripts/need check build boot machine
	@$(MAKE) --no-print-directory qemu
	@tests/machine/check-host

machine-long measure:
	@scripts/need install build boot machine
	@$(MAKE) --no-print-directory qemu
	@$(if $(filter measure,$@),tests/machine/measure,tests/machine/run --long svm && tests/machine/run --long vmx)

unit: core
	@scripts/run-unit build/core

FUZZ_TIME ?= 60
fuzz: core-fuzz
	@scripts/run-fuzz build/core-fuzz $(FUZZ_TIME)

# --- the kernel module ---

# For the kernel that runs; KDIR= names other headers. kbuild writes beside the sources,
# so it gets a copy.
KDIR ?= /lib/modules/$(shell uname -r)/build

module:
	@test -d "$(KDIR)" || { echo "no kernel headers in $(KDIR): install" \
	    "linux-headers-amd64, or say where they are with KDIR="; exit 1; }
	@mkdir -p build/module
	@cp -Ru module/Kbuild module/*.[chS] module/include build/module/
	@$(MAKE) -s -C "$(KDIR)" M="$(CURDIR)/build/module" modules
	@echo "build/module/xmmu.ko"

install-module: module
	@$(MAKE) -s -C "$(KDIR)" M="$(CURDIR)/build/module" \
	    $(if $(DESTDIR),INSTALL_MOD_PATH="$(DESTDIR)") modules_install
	@$(MAKE) -s -C module install-rule

# --- running ---

boot:
	@scripts/need install build boot
	@$(MAKE) --no-print-directory qemu
	@tests/boot/boot-test --show --qemu $(QEMU) --accel '$(ACCEL)' --machine '$(MACHINE)' \
	    --smp '$(SMP)' --memory '$(MEM)' --kernel '$(KERNEL)' \
	    $(if $(COMPARE),--compare '$(COMPARE)')

check:
	@scripts/need install build core boot machine check
	@scripts/check $(JOBS:%=--jobs %) $(STAGE)

bench:
	@scripts/need install build core boot bench
	@$(MAKE) --no-print-directory qemu
	@tests/bench/bench $(BENCH_OPTIONS)
	@$(MAKE) --no-print-directory core-bench
	@tests/bench/core

clean:
	rm -rf build/qemu build/qemu-asan build/core build/core-* build/logs build/boot-work build/bench build/stamps/qemu build/stamps/qemu-asan

distclean:
	rm -rf build

.PHONY: module install-module all help sync qemu qemu-asan bad-streams-asan qtests install core core-asan core-tsan core-cov core-check core-fuzz \
        core-bench unit fuzz boot check check-host machine-long measure bench clean distclean
