"""Rows of storage and networks: figures, medians, ratios, their table and their JSON. Unlike bench/run's rows they have units of
their own, and each its own pair to compare (docs/bench.md)."""
import statistics

OURS = ('bt', 'interp', 'kvm', 'device', 'caisson')
PEERS = ('tcg', 'qemu-img')


class Row:
    """One row: what its figures mean, and for each subject one figure a round: (value, CPU time in cpu_unit, or None)."""

    def __init__(self, name, unit, higher=True, cpu_unit=None):
        self.name, self.unit, self.higher, self.cpu_unit = name, unit, higher, cpu_unit
        self.figures, self.error = {}, {}

    def add(self, subject, value, cpu=None):
        self.figures.setdefault(subject, []).append((value, cpu))

    def fail(self, subject, why):
        self.error[subject] = str(why)

    def middle(self, subject, best=False, field=0):
        """Median (or best) of a subject's figures; None where there is none, or a failure."""
        values = [figure[field] for figure in self.figures.get(subject, ())]
        if not values or subject in self.error or None in values:
            return None
        if best:
            return max(values) if self.higher and field == 0 else min(values)
        return statistics.median(values)

    def one_of(self, subjects):
        return next((subject for subject in subjects if subject in self.figures or subject in self.error), None)

    def ratios(self, best=False):
        """(ours as a share of the bare machine's, speed-up over the peer, our CPU time as a share of the peer's)"""
        ours, peer = self.one_of(OURS), self.one_of(PEERS)
        mine, theirs, bare = (self.middle(subject, best) for subject in (ours, peer, 'bare'))
        cpu, their_cpu = self.middle(ours, best, 1), self.middle(peer, best, 1)
        speedup = None
        if mine and theirs:
            speedup = mine / theirs if self.higher else theirs / mine
        return mine / bare if mine and bare else None, speedup, cpu / their_cpu if cpu and their_cpu else None

    def as_json(self, best=False):
        share, speedup, cpu = self.ratios(best)
        return {'unit': self.unit, 'cpu_unit': self.cpu_unit, 'share_of_bare': share, 'speedup_over_qemu': speedup,
                'cpu_of_qemu': cpu,
                **{subject: {'median': self.middle(subject, best), 'values': [value for value, _ in self.figures.get(subject, ())],
                             'cpu': [cpu for _, cpu in self.figures.get(subject, ())], 'failed': self.error.get(subject)}
                   for subject in {**self.figures, **self.error}}}


def wanted(names, only):
    """Those of the names that --only selects: by the whole name or its first words."""
    words = only.split(',')
    return [name for name in names if not only or any(name == word or name.startswith(word + '-') for word in words)]


def cell(value, width, digits):
    return f'{value:{width}.{digits}f}' if value is not None else ' ' * (width - 1) + '-'


def table(rows, best=False):
    lines = [f'{"row":32} {"unit":>7} {"bare":>9} {"caisson":>9} {"qemu":>9} {"of bare":>8} {"to qemu":>8} {"CPU":>6}  notes']
    for name, row in rows.items():
        digits = 2 if row.unit == 's' else 0
        share, speedup, cpu = row.ratios(best)
        values = [row.middle(subject, best) if subject else None for subject in ('bare', row.one_of(OURS), row.one_of(PEERS))]
        notes = [f'FAILED on {subject}' for subject in row.error] + (['behind QEMU'] if speedup and speedup < 1 else [])
        lines.append((f'{name:32} {row.unit:>7} ' + ' '.join(cell(value, 9, digits) for value in values) +
                      f' {cell(share, 8, 2)} {cell(speedup, 8, 2)} {cell(cpu, 6, 2)}  {"; ".join(notes)}').rstrip())
    return '\n'.join(lines)
