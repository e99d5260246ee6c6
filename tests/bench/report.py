# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark makes of its records: medians, ratios, table, JSON, picture.

Owns every number that a reader sees. A "column" is one accelerator with the
records of its boots; the first column is what the others are compared with.
"""

import json
import math
import shutil
import statistics
import subprocess
from dataclasses import dataclass

CLOCKS = ('cpu', 'wall')
MIB = 1 << 20
# The project's goals for a guest of 1 GiB that has touched all its memory: with
# huge pages in the tables, and without.
TABLE_LIMIT = {True: 4 * MIB, False: 16 * MIB}


@dataclass
class Column:
    """An accelerator and its boots, in the order in which they ran."""
    name: str
    accel: str
    records: list

    def values(self, item, clock):
        return [record.ns_per_operation(item, clock) for record in self.records]

    def median(self, item, clock):
        return statistics.median(self.values(item, clock))

    def spread(self, item, clock):
        """Distance of the extremes, relative to the median."""
        values = self.values(item, clock)
        return (max(values) - min(values)) / statistics.median(values)

    def items(self):
        return list(self.records[0].samples)


@dataclass
class Ratio:
    """One column's item against the base's; low and high from neighbouring boots."""
    value: float
    low: float
    high: float


def ratio(base, column, item, clock):
    pairs = [mine / theirs for mine, theirs in
             zip(column.values(item, clock), base.values(item, clock))]
    return Ratio(column.median(item, clock) / base.median(item, clock), min(pairs), max(pairs))


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def overall(base, column, clock):
    return geometric_mean(ratio(base, column, item, clock).value for item in base.items())


# ---- the table ----------------------------------------------------------------

def human_ns(ns):
    for unit, size in (('s', 1e9), ('ms', 1e6), ('us', 1e3)):
        if ns >= size:
            return f'{ns / size:.3g} {unit}'
    return f'{ns:.3g} ns'


def lay_out(rows):
    """Rows of cells as lines; the first cell to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield '  '.join(cell.rjust(width) if i else cell.ljust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip()


def time_rows(columns, clock):
    base, *others = columns
    head = ['per operation', base.name, '+-']
    for column in others:
        head += [column.name, '+-', 'ratio', '(low-high)']
    yield head
    for item in base.items():
        row = []
        for column in columns:
            row += [human_ns(column.median(item, clock)),
                    f'{column.spread(item, clock) / 2:.0%}']
            if column is not base:
                r = ratio(base, column, item, clock)
                row += [f'{r.value:.2f}', f'({r.low:.2f}-{r.high:.2f})']
        yield [item, *row]
    for name in CLOCKS:
        row = ['', '']
        for column in others:
            row += ['', '', f'{overall(base, column, name):.2f}', '']
        yield [f'geometric mean, {name}', *row]


def time_table(columns, clock):
    what = {'cpu': "CPU time of the QEMU process", 'wall': "the guest's clock"}[clock]
    boots = len(columns[0].records)
    yield f'Time by {what}; medians of {boots} boots, +- is half the distance of the extremes:'
    yield ''
    yield from lay_out(list(time_rows(columns, clock)))


def memory_rows(cases):
    yield ['tables of a full guest', 'its pages', 'tables', 'memory', 'limit', '']
    for case in cases:
        yield [case['accel'], case['guest-pages'], str(case['tables']), f"{case['table-bytes'] / MIB:.2f} MiB",
               f"{case['limit'] / MIB:.0f} MiB", 'good' if case['good'] else 'TOO MUCH']


def memory_table(cases):
    return lay_out(list(memory_rows(cases)))


def memory_case(accel, huge, guest_pages, record):
    """
    One memory row, of a guest that mapped all its memory in pages of guest_pages.
    Shadow tables can be no coarser than the guest's own.
    """
    mmu, stats = record.mmu, record.mmu['stats']
    limit = TABLE_LIMIT[huge and (mmu['tdp'] or guest_pages == '2M')]
    return {'accel': accel, 'huge-pages': huge, 'guest-pages': guest_pages,
            'notes': record.notes, 'tables': stats['tables'],
            'table-bytes': stats['table-bytes'], 'limit': limit,
            'good': stats['table-bytes'] <= limit, 'stats': stats}


# ---- JSON ---------------------------------------------------------------------

def summary(base, column):
    result = {}
    for clock in CLOCKS:
        items = {}
        for item in base.items():
            r = ratio(base, column, item, clock)
            items[item] = {'ns': column.median(item, clock),
                           'spread': column.spread(item, clock),
                           'ratio': r.value, 'low': r.low, 'high': r.high}
        result[clock] = {'geometric-mean': overall(base, column, clock), 'items': items}
    return result


def boot_as_json(record):
    samples = {item: [{'operations': s.operations, 'wall-ns': s.wall, 'cpu-ns': s.cpu}
                      for s in found] for item, found in record.samples.items()}
    return {'samples': samples, 'notes': record.notes,
            'stats': record.mmu['stats'] if record.mmu else None}


def write_json(path, about, columns, cases):
    base = columns[0]
    document = {
        'about': about,
        'accelerators': [{'name': column.name, 'accel': column.accel,
                          'summary': summary(base, column),
                          'boots': [boot_as_json(record) for record in column.records]}
                         for column in columns],
        'memory': cases,
    }
    path.write_text(json.dumps(document, indent=1) + '\n', encoding='utf-8')


# ---- the picture --------------------------------------------------------------

PLOT = '''
set title "{title}"
set ylabel "time relative to {base} (less is better)"
set style data histogram
set style histogram errorbars gap 1.5 lw 1
set style fill solid 0.8 border -1
set boxwidth 0.9
set xtics rotate by -35 nomirror
set ytics nomirror
set grid ytics
set yrange [0:*]
set key top left
set terminal {terminal}
set output "{output}"
plot 1 with lines lc rgb "#444444" dt 2 title "{base}", {series}
'''
COLOURS = ('#2b6cb0', '#dd8833', '#558855', '#995588')
TERMINALS = {'svg': 'svg size 900,480 font "sans,13" background "white"',
             'png': 'pngcairo size 900,480 font "sans,11"'}


def plot_data(columns, clock):
    base, *others = columns
    for item in base.items():
        ratios = [ratio(base, column, item, clock) for column in others]
        yield ' '.join([f'"{item}"'] + [f'{r.value} {r.low} {r.high}' for r in ratios])
    means = [overall(base, column, clock) for column in others]
    yield ' '.join(['"geometric mean"'] + [f'{mean} {mean} {mean}' for mean in means])


def plot_series(data, others):
    for i, column in enumerate(others):
        first = 2 + 3 * i
        labels = ':xtic(1)' if i == 0 else ''
        yield (f'"{data}" using {first}:{first + 1}:{first + 2}{labels} '
               f'lc rgb "{COLOURS[i % len(COLOURS)]}" title "{column.name}"')


def write_pictures(stem, title, columns, clock):
    """Returns the files written; none when gnuplot is missing."""
    if not shutil.which('gnuplot') or len(columns) < 2:
        return []
    data = stem.with_suffix('.dat')
    data.write_text('\n'.join(plot_data(columns, clock)) + '\n', encoding='utf-8')
    written = []
    for kind, terminal in TERMINALS.items():
        output = stem.with_suffix('.' + kind)
        script = PLOT.format(title=title, base=columns[0].name, terminal=terminal, output=output,
                             series=', '.join(plot_series(data, columns[1:])))
        subprocess.run(['gnuplot'], input=script, text=True, check=True)
        written.append(output)
    return written
