# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made of core-bench's samples: medians, a table, JSON, a picture.

Owns every number that a reader of the core's micro-benchmarks sees. A sample is the
JSON object that core-bench prints for one item and one round.
"""

import json
import shutil
import statistics
import subprocess
from dataclasses import dataclass

import report


@dataclass
class Item:
    """One mechanism and its samples, in the order of the rounds."""
    name: str
    what: str
    samples: list

    def per_operation(self, key):
        return [sample[key] / sample['operations'] for sample in self.samples]

    def median(self, key):
        return statistics.median(self.per_operation(key))

    def events(self):
        """Of the core's counters, for each operation; from the last round."""
        last = self.samples[-1]
        return {name: n / last['operations'] for name, n in last['stats'].items()}


@dataclass
class Scaling:
    """Throughput of two threads relative to one: the median of the rounds, and extremes."""
    name: str
    value: float
    low: float
    high: float


def read_items(lines):
    items = {}
    for line in lines:
        sample = json.loads(line)
        item = items.setdefault(sample['item'], Item(sample['item'], sample['what'], []))
        item.samples.append(sample)
    return list(items.values())


def scalings(items):
    """NAME/1 and NAME/2 are the same work on one and on two threads."""
    by_name = {item.name: item for item in items}
    for one in items:
        two = by_name.get(one.name.removesuffix('/1') + '/2')
        if one.name.endswith('/1') and two:
            ratios = [a / b for a, b in zip(one.per_operation('ns'), two.per_operation('ns'))]
            yield Scaling(one.name[:-2], statistics.median(ratios), min(ratios), max(ratios))


def rows(items):
    yield ['per operation', 'ns', 'least', 'most', 'TSC ticks', 'allocations', 'tables']
    for item in items:
        ns = item.per_operation('ns')
        yield [item.name, f'{statistics.median(ns):.1f}', f'{min(ns):.1f}', f'{max(ns):.1f}',
               f"{item.median('tsc'):.0f}", f"{item.median('allocations'):.2f}",
               f"{round(item.events().get('tables', 0), 2) + 0.0:.2f}"]


def scaling_rows(found):
    yield ['throughput of 2 threads to 1', 'ratio', '(low-high)']
    for s in found:
        yield [s.name, f'{s.value:.2f}', f'({s.low:.2f}-{s.high:.2f})']


def table(items):
    yield from report.lay_out(list(rows(items)))
    found = list(scalings(items))
    if found:
        yield ''
        yield from report.lay_out(list(scaling_rows(found)))


def write_json(path, about, items):
    document = {
        'about': about,
        'items': [{'name': item.name, 'what': item.what, 'ns': item.median('ns'),
                   'low': min(item.per_operation('ns')), 'high': max(item.per_operation('ns')),
                   'tsc': item.median('tsc'), 'allocations': item.median('allocations'),
                   'events': item.events(), 'samples': item.samples} for item in items],
        'threads': [vars(s) for s in scalings(items)],
    }
    path.write_text(json.dumps(document, indent=1) + '\n', encoding='utf-8')


PLOT = '''
set title "{title}"
set xlabel "ns for each operation"
set logscale x
set xrange [1:*]
set yrange [{count}:-1]
set grid xtics
set ytics nomirror font ",9"
set style fill solid 0.8
unset key
set terminal {terminal}
set output "{output}"
plot "{data}" using (($2)/2+0.5):0:(1):2:($0-0.35):($0+0.35):ytic(1) with boxxyerror \\
     lc rgb "#2b6cb0", "" using 2:0:3:4 with xerrorbars lc rgb "#222222" pt 0
'''
TERMINALS = {'svg': 'svg size 900,{height} font "sans,11" background "white"',
             'png': 'pngcairo size 900,{height} font "sans,9"'}


def write_pictures(stem, title, items):
    """Returns the files written; none when gnuplot is missing."""
    if not shutil.which('gnuplot'):
        return []
    data = stem.with_suffix('.dat')
    data.write_text(''.join(f'"{item.name}" {item.median("ns")} {min(item.per_operation("ns"))} '
                            f'{max(item.per_operation("ns"))}\n' for item in items),
                    encoding='utf-8')
    written = []
    for kind, terminal in TERMINALS.items():
        output = stem.with_suffix('.' + kind)
        script = PLOT.format(title=title, count=len(items), output=output, data=data,
                             terminal=terminal.format(height=100 + 16 * len(items)))
        subprocess.run(['gnuplot'], input=script, text=True, check=True)
        written.append(output)
    return written
