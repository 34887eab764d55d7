"""The benchmark's rows of storage: fio in guests beside fio on the host's file, the virtio-blk device without an engine, and
`caisson disk convert` beside `qemu-img convert` (docs/bench.md)."""
import json
import mmap
import os
import re
import resource
import subprocess
import sys
import time

import agents
from agents import scratch
from iorows import Row
from subjects import ENGINES, ROOT, vm

FORMATS, CACHES = ('raw', 'qcow2'), ('writeback', 'none')
PATTERNS = [(rw, bs) for bs in (4, 64) for rw in ('read', 'write', 'randread', 'randwrite')]
DISKS = [(form, cache) for form in FORMATS for cache in CACHES]
SIZE_MIB = 256
SECONDS = 1
PART_MIB = 128
WARM_BYTES = 256 << 20
DEPTH = 32
CONVERSIONS = { # source, words of ours, words of qemu-img's
    'raw-qcow2': ('raw', [], ['-O', 'qcow2']),
    'qcow2-raw': ('part', ['--format', 'raw'], ['-O', 'raw']),
    'raw-raw': ('raw', ['--format', 'raw'], ['-O', 'raw']),
    'qcow2-qcow2': ('part', [], ['-O', 'qcow2']),
    'packed-raw': ('packed', ['--format', 'raw'], ['-O', 'raw']),
    'qcow2-zlib': ('part', ['--compress'], ['-O', 'qcow2', '-c']),
    'qcow2-zstd': ('part', ['--compress', '--compression', 'zstd'], ['-O', 'qcow2', '-c', '-o', 'compression_type=zstd']),
}
DURABILITIES = {'stable': ([], ['-t', 'writeback']), 'loose': (['--no-sync'], [])}


def names():
    rows = [f'{kind}-{form}-{cache}-{rw}-{bs}k' for kind in ('blk', 'dev') for form, cache in DISKS for rw, bs in PATTERNS]
    return rows + [f'convert-{name}-{durability}' for name in CONVERSIONS for durability in DURABILITIES]


def make_rows(wanted):
    return {name: Row(name, 's', higher=False, cpu_unit='s') if name.startswith('convert-') else
            Row(name, 'IOPS', cpu_unit='us') for name in wanted}


def make_disk(place, form, cache):
    """An image of random bytes, all of it allocated."""
    path = scratch(place, f'blk-{SIZE_MIB}-{cache}.{form}')
    if os.path.exists(path):
        return path
    raw = path if form == 'raw' else make_disk(place, 'raw', cache)
    if form == 'raw':
        with open(path + '.new', 'wb') as f:
            for _ in range(SIZE_MIB):
                f.write(os.urandom(1 << 20))
    else:
        subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', form, raw, path + '.new'], check=True)
    os.rename(path + '.new', path)
    return path


def fio_words(filename, direct, patterns, mark=''):
    """Command of one fio that does the patterns one after the other; mark: a command in front of each, with {name} in it."""
    words = ['fio', f'--filename={filename}', f'--direct={direct:d}', '--ioengine=io_uring', f'--iodepth={DEPTH}', '--time_based',
             f'--runtime={SECONDS}', '--norandommap', '--randrepeat=1', '--invalidate=0', '--thread', '--output-format=terse',
             '--terse-version=3', '--eta=never']
    for rw, bs in patterns:
        name = f'{rw}-{bs}k'
        words += [f'--name={name}', '--stonewall', f'--rw={rw}', f'--bs={bs}k', *([f"--exec_prerun={mark.format(name=name)}"] if mark else [])]
    return words


def read_fio(output):
    """{job: (IOPS, operations, ms)} of fio's terse lines."""
    results = {}
    for line in re.findall(r'^(3;fio-.*?)\r?$', output, re.M):
        words = line.split(';')
        name, error = words[2], words[4]
        first = 46 if 'write' in name else 5
        kib, iops, ms = int(words[first]), float(words[first + 2]), int(words[first + 3])
        if error != '0' or not iops or not ms:
            raise vm.Failure(f'fio {name}: error {error}, {iops} IOPS')
        results[name] = (kib * 1e3 / ms / int(re.search(r'(\d+)k$', name).group(1)), kib / int(re.search(r'(\d+)k$', name).group(1)), ms)
    return results


def patterns_of(rows, form, cache, kind='blk'):
    return [(rw, bs) for rw, bs in PATTERNS if f'{kind}-{form}-{cache}-{rw}-{bs}k' in rows]


def host_fio(rows, place):
    """fio on the host's raw file: the same figure stands in the rows of both formats and of the bare device."""
    for cache in CACHES:
        everything = [pattern for pattern in PATTERNS if any(pattern in patterns_of(rows, form, cache, kind)
                                                             for form in FORMATS for kind in ('blk', 'dev'))]
        if not everything:
            continue
        os.sync()
        run = subprocess.run(fio_words(make_disk(place, 'raw', cache), cache == 'none', everything), capture_output=True,
                             text=True, check=True)
        for job, (iops, _, _) in read_fio(run.stdout).items():
            for kind in ('blk', 'dev'):
                for form in FORMATS:
                    if f'{kind}-{form}-{cache}-{job}' in rows:
                        rows[f'{kind}-{form}-{cache}-{job}'].add('bare', iops)


def guest_fio(rows, place, subject):
    """fio in a guest that has all four disks. The guest's clock must not be ahead of the host's by a tenth."""
    disks = [(form, cache) for form, cache in DISKS if patterns_of(rows, form, cache)]
    if not disks:
        return
    os.sync()
    agent = agents.Agent(place, subject, [(make_disk(place, form, cache), form, cache) for form, cache in disks])
    try:
        for n, (form, cache) in enumerate(disks):
            patterns = patterns_of(rows, form, cache)
            words = fio_words(f'/dev/vd{"bcde"[n]}', True, patterns, 'cd /tmp;echo CAISSON-JOB {name} >/dev/console;true')
            output, start = agent.run('$T ' + ' '.join(f"'{word}'" if ' ' in word else word for word in words))
            marks = [(match.group(1), *agent.machine.at(start + match.start()))
                     for match in re.finditer(r'CAISSON-JOB (\S+)', output)]
            marks.append(('end', *agent.machine.at(start + len(output))))
            results = read_fio(output)
            for (job, began, cpu), (_, ended, cpu_end) in zip(marks, marks[1:]):
                iops, operations, ms = results[job]
                if ended - began < 0.9 * ms:
                    raise vm.Failure(f'fio {job} took {ms} ms by the guest\'s clock and {ended - began:.0f} ms by the host\'s')
                rows[f'blk-{form}-{cache}-{job}'].add(subject, iops, (cpu_end - cpu) * 1000 / operations if cpu is not None and cpu_end is not None else None)
    finally:
        agent.close()


def device(rows, place, subject, aio='auto'):
    """The device without an engine: a host program plays the driver."""
    for form, cache in DISKS:
        for rw, bs in patterns_of(rows, form, cache, 'dev'):
            path = make_disk(place, form, cache)
            os.sync()
            run = subprocess.run([os.path.join(vm.BUILD, 'bench/blkbench'), path, form, cache, aio, rw, str(bs << 10), str(DEPTH),
                                  str(SECONDS)], capture_output=True, text=True, check=False)
            if run.returncode != 0:
                raise vm.Failure(f'blkbench: {run.stderr.strip() or run.stdout.strip()}')
            found = json.loads(run.stdout)
            rows[f'dev-{form}-{cache}-{rw}-{bs}k'].add(subject, found['iops'], found['cpu_us_per_op'])


def timed(command, target):
    """(elapsed, CPU) seconds of a command that makes target, which is removed before and after."""
    if os.path.exists(target):
        os.unlink(target)
    os.sync()
    # A host that is a VM itself may have given its free memory back: nobody shall have to fetch it first.
    mmap.mmap(-1, WARM_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    elapsed, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    os.unlink(target)
    return elapsed, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def sources(place):
    """The first PART_MIB of the Debian tree's disk, 99 MiB of data, as raw file, as qcow2 and as compressed qcow2. Kept from run to
    run."""
    key = os.path.basename(os.path.dirname(place.work_disk))
    found = {kind: scratch(place, f'{key}-{kind}.{"raw" if kind == "raw" else "qcow2"}') for kind in ('raw', 'part', 'packed')}
    disk = json.dumps({'driver': 'raw', 'size': PART_MIB << 20, 'file': {'driver': 'file', 'filename': place.work_disk}})
    for kind, path in found.items():
        if not os.path.exists(path):
            words = ['-O', 'raw'] if kind == 'raw' else ['-O', 'qcow2', *(['-c'] if kind == 'packed' else [])]
            subprocess.run(['qemu-img', 'convert', *words, f'json:{disk}', path + '.new'], check=True)
            os.rename(path + '.new', path)
    return found


def convert(rows, place, turn, realtime):
    """Both programs in turns; the one that begins changes with the round. qemu-img syncs with `-t writeback` only."""
    wanted = [(name, durability) for name in CONVERSIONS for durability in DURABILITIES if f'convert-{name}-{durability}' in rows]
    images = sources(place) if wanted else {}
    target = scratch(place, 'convert.target')
    for name, durability in wanted:
        kind, ours, theirs = CONVERSIONS[name]
        sync_ours, sync_theirs = DURABILITIES[durability]
        source_format = 'raw' if kind == 'raw' else 'qcow2'
        commands = [('caisson', [vm.CAISSON, 'disk', 'convert', '--source-format', source_format, *ours, *sync_ours, images[kind], target]),
                    ('qemu-img', ['qemu-img', 'convert', '-f', source_format, *theirs, *sync_theirs, images[kind], target])]
        for who, command in commands[::-1] if turn % 2 else commands:
            rows[f'convert-{name}-{durability}'].add(who, *timed([*(['chrt', '-r', '1'] if realtime else []), *command], target))


def attempt(rows, prefix, subject, work):
    """A failure is one of all rows that it kept from their figure."""
    try:
        work()
    except (vm.Failure, subprocess.CalledProcessError, OSError) as failure:
        print(f'bench: {subject} {prefix}: {failure}', file=sys.stderr, flush=True)
        for name, row in rows.items():
            if name.startswith(prefix):
                row.fail(subject, failure)


def measure(rows, place, subjects, turn, realtime):
    """One round of the rows. realtime: conversions at real-time priority."""
    engine = next((subject for subject in subjects if subject in ENGINES), None)
    order = subjects[turn % len(subjects):] + subjects[:turn % len(subjects)]
    if any(name.startswith('dev-') for name in rows):
        subprocess.run(['ninja', '-C', vm.BUILD, 'bench/blkbench'], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    for subject in order:
        if subject == 'bare':
            attempt(rows, 'blk-', 'bare', lambda: host_fio(rows, place))
        else:
            attempt(rows, 'blk-', subject, lambda who=subject: guest_fio(rows, place, who))
        if subject == engine:
            attempt(rows, 'dev-', 'device', lambda: device(rows, place, 'device'))
    attempt(rows, 'convert-', 'caisson', lambda: convert(rows, place, turn, realtime))
