# SPDX-License-Identifier: GPL-2.0-or-later
"""One boot of the benchmark's guest.

Owns the host's side of the conversation that bench-init.c describes, and the
host's clock: the guest is idle at each line that it wants answered, so the CPU
time of the QEMU process between two such lines is what the work between them
cost. Unlike time by the clock on the wall it does not grow when other programs
want the host's CPUs.
"""

import re
import statistics
import time
from dataclasses import dataclass, field

import bootlib

LINE = re.compile(r'\bXB (\w+) ?(.*)')
BOOT_ITEM = 'boot'


@dataclass
class Sample:
    """One round of one item, in nanoseconds for all its operations."""
    operations: int
    wall: float
    cpu: float


@dataclass
class Record:
    """What one boot measured."""
    samples: dict = field(default_factory=dict)     # item: [Sample, …]
    notes: list = field(default_factory=list)
    mmu: dict = None

    def add(self, item, sample):
        self.samples.setdefault(item, []).append(sample)

    def ns_per_operation(self, item, clock):
        """The median over the rounds of this boot."""
        return statistics.median(getattr(sample, clock) / sample.operations
                                 for sample in self.samples[item])


class BenchBoot(bootlib.Boot):
    """A boot whose guest is bench-init."""

    def __init__(self, config, guest, log):
        super().__init__(config, log)
        self.guest = guest
        self.record = Record()
        self.cpu_at_begin = 0

    def prepare(self):
        return self.guest

    def cpu_ns(self):
        """CPU time of all threads of the QEMU process."""
        clock = (~self.process.pid << 3) | 2    # as clock_getcpuclockid(3) makes it
        return time.clock_gettime_ns(clock)

    def answer(self):
        try:
            self.process.stdin.write(b'\n')
            self.process.stdin.flush()
        except OSError:
            self.problem('QEMU ended while the guest was still running')

    def on_line(self, line):
        super().on_line(line)
        said = LINE.search(line)
        handler = getattr(self, 'on_xb_' + said[1], None) if said else None
        if handler:
            handler(said[2].strip())

    def on_xb_ready(self, _):
        self.result.system = 'bench-init'
        self.record.add(BOOT_ITEM, Sample(1, self.elapsed() * 1e9, self.cpu_ns()))
        self.answer()

    def on_xb_begin(self, _):
        self.cpu_at_begin = self.cpu_ns()
        self.answer()

    def on_xb_end(self, words):
        cpu = self.cpu_ns() - self.cpu_at_begin
        item, _, operations, wall = words.split()
        self.record.add(item, Sample(int(operations), int(wall), cpu))
        self.answer()

    def on_xb_note(self, words):
        self.record.notes.append(words)

    def on_xb_fail(self, words):
        self.problem(f'the guest gave up: {words}')

    def on_xb_done(self, _):
        self.on_end()


def tail(path, lines=5):
    with open(path, encoding='utf-8') as log:
        return ''.join('    ' + line for line in log.readlines()[-lines:])


def run(config, guest, log_path):
    """Boots once and returns the Record."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, 'w', encoding='utf-8') as log:
        boot = BenchBoot(config, guest, log)
        result = boot.run()
    if result.problems:
        raise bootlib.BootError(f'-accel {config.accel}: {"; ".join(result.problems)}\n'
                                f'{tail(log_path)}(all of it: {log_path})')
    boot.record.mmu = result.mmu
    return boot.record
