#!/usr/bin/env python3
"""Random sequences of operations on disk images of each kind, every operation by either side: ours, or qemu-img and
qemu-io. After each operation both sides see the content that a copy in memory says; after each sequence the checks find
nothing wrong and both sides tell the same facts about the image.

random_ops.py [-n SEQUENCES] [-j JOBS] [--first SEED] [-v]
"""
import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import traceback

from disk import Failure, blkio, caisson, caisson_json, check, fast_folder, qemu_img, qemu_json, run

K, M = 1024, 1024 * 1024
SECTOR = 512


class Kind:
    """A kind of image: how both sides make it, and what can be done with it."""

    def __init__(self, name, fmt='qcow2', options=None, cluster=64 * K, backing=None, secret=False, version=3,
                 snapshots=True, compress=True, size=4 * M):
        self.name, self.fmt, self.options, self.cluster = name, fmt, options or {}, cluster
        self.backing, self.secret, self.version, self.size = backing, secret, version, size
        qcow2 = fmt == 'qcow2'
        self.snapshots = qcow2 and snapshots
        self.bitmaps = qcow2 and version == 3
        self.compress = qcow2 and compress and not secret
        self.resize = 'data_file' not in self.options and 'preallocation' not in self.options

    def qemu_options(self, folder):
        words = []
        for key, value in self.options.items():
            if key == 'data_file':
                value = os.path.join(folder, value)
            words.append(f'{key}={value}')
        if self.fmt == 'qcow2':
            words += [f'cluster_size={self.cluster}', 'compat=' + ('1.1' if self.version == 3 else '0.10')]
        if self.secret:
            words += ['encrypt.format=luks', 'encrypt.key-secret=s0', 'encrypt.iter-time=50'] if self.fmt == 'qcow2' \
                else ['key-secret=s0', 'iter-time=50']
        return ['-o', ','.join(words)] if words else []

    def our_options(self, folder):
        flags = {'lazy_refcounts': '--lazy-refcounts', 'extended_l2': '--extended-l2', 'data_file_raw': '--data-file-raw'}
        values = {'refcount_bits': '--refcount-bits', 'preallocation': '--preallocation',
                  'compression_type': '--compression', 'data_file': '--data-file'}
        words = ['--format', self.fmt]
        for key, value in self.options.items():
            if key in flags:
                words.append(flags[key])
            else:
                words += [values[key], os.path.join(folder, value) if key == 'data_file' else value]
        if self.fmt == 'qcow2':
            words += ['--cluster-size', self.cluster, '--qcow2-version', self.version]
        return words


KINDS = [
    Kind('raw', 'raw', cluster=4096),
    Kind('qcow2'),
    Kind('cluster512', cluster=512, size=1 * M),
    Kind('cluster4k', cluster=4 * K),
    Kind('cluster2m', cluster=2 * M, size=16 * M),
    Kind('version2', version=2, options={}),
    Kind('refcount1', options={'refcount_bits': 1}, snapshots=False),
    Kind('refcount2', options={'refcount_bits': 2}, cluster=4 * K, compress=False), # compressed clusters share host clusters
    Kind('refcount8', options={'refcount_bits': 8}, cluster=1 * K, size=2 * M),
    Kind('refcount32', options={'refcount_bits': 32}),
    Kind('refcount64', options={'refcount_bits': 64}, cluster=2 * K),
    Kind('lazy', options={'lazy_refcounts': 'on'}),
    Kind('extl2', options={'extended_l2': 'on'}),
    Kind('extl2-16k', options={'extended_l2': 'on'}, cluster=16 * K),
    Kind('extl2-2m', options={'extended_l2': 'on'}, cluster=2 * M, size=16 * M),
    Kind('zstd', options={'compression_type': 'zstd'}),
    Kind('datafile', options={'data_file': 'data.bin'}, snapshots=False, compress=False),
    Kind('datafile-raw', options={'data_file': 'data.bin', 'data_file_raw': 'on'}, snapshots=False, compress=False),
    Kind('prealloc-metadata', options={'preallocation': 'metadata'}),
    Kind('prealloc-falloc', options={'preallocation': 'falloc'}),
    Kind('prealloc-full', options={'preallocation': 'full'}, size=2 * M),
    Kind('encrypted', secret=True),
    Kind('luks', 'luks', cluster=4096, secret=True),
    Kind('on-raw', backing='raw'),
    Kind('on-qcow2', backing='qcow2'),
    Kind('on-shorter', backing='shorter'),
    Kind('on-longer', backing='longer', cluster=4 * K),
    Kind('on-chain', backing='chain', cluster=32 * K),
    Kind('extl2-on-qcow2', backing='qcow2', options={'extended_l2': 'on'}),
    Kind('version2-on-raw', backing='raw', version=2),
]


def plain_kinds():
    return [kind for kind in KINDS if not kind.backing and not kind.secret and 'data_file' not in kind.options]


class Image:
    """An image under test, its shadow and everything that is known about it."""

    def __init__(self, rng, folder, verbose):
        self.rng, self.folder, self.verbose = rng, folder, verbose
        self.count = 0
        self.secret = os.path.join(folder, 'secret')
        with open(self.secret, 'w', encoding='ascii') as f:
            f.write('correct horse')
        self.shadow_path = os.path.join(folder, 'shadow.raw')
        self.log = []

    # -- how it is named on the command lines

    def say(self, text):
        self.log.append(text)
        if self.verbose:
            print(text, flush=True)

    def qemu_words(self):
        if not self.kind.secret:
            return ['-f', self.kind.fmt, self.path]
        key = 'encrypt.key-secret' if self.kind.fmt == 'qcow2' else 'key-secret'
        return ['--object', f'secret,id=s0,file={self.secret}', '--image-opts',
                f'driver={self.kind.fmt},{key}=s0,file.driver=file,file.filename={self.path}']

    def our_words(self):
        return ['--secret', f'file:{self.secret}'] if self.kind.secret else []

    def our_blkio(self, lines):
        options = ['-f', self.kind.fmt] + (['-s', self.secret] if self.kind.secret else [])
        blkio(self.path, lines, *options)

    def new_path(self, name):
        self.count += 1
        return os.path.join(self.folder, f'{name}{self.count}')

    # -- making it

    def make(self, kind):
        self.kind, self.path, self.size = kind, self.new_path(kind.name), kind.size
        self.snapshots, self.bitmaps = {}, {}
        self.backing = self.backing_fmt = None
        base = bytearray()
        if kind.backing:
            self.make_backing(kind.backing)
            base = bytearray(self.read(self.backing, self.backing_fmt))
        ours = self.rng.random() < 0.5
        self.say(f'create {kind.name} by {"us" if ours else "qemu"}')
        if ours:
            words = kind.our_options(self.folder) + (['--encrypt', '--iter-time', '10'] if kind.secret else [])
            if kind.backing:
                words += ['--backing', f'{os.path.basename(self.backing)},format={self.backing_fmt}']
            caisson('create', self.path, self.size, *words, *self.our_words(), '--force')
        else:
            words = ['--object', f'secret,id=s0,file={self.secret}'] if kind.secret else []
            if kind.backing:
                words += ['-b', os.path.basename(self.backing), '-F', self.backing_fmt]
            for attempt in range(5): # on a busy machine its measurement for the key derivation fails now and then
                done = qemu_img('create', '-q', '-f', kind.fmt, *words, *kind.qemu_options(self.folder), self.path, self.size,
                                code=None)
                if done.returncode == 0 or 'CPU usage' not in done.stderr:
                    break
            check(done.returncode == 0, f'qemu-img create: {done.stderr}')
        self.shadow = (base + bytearray(self.size))[:self.size]
        if kind.fmt == 'luks': # nothing was written: what decrypted zeroes are, nobody knows
            self.io_lines([('w', 0, self.size, 0)], ours)

    def make_backing(self, what):
        size = {'shorter': self.size // 2 - 3 * SECTOR, 'longer': self.size + 5 * SECTOR}.get(what, self.size)
        fmt = 'raw' if what in ('raw', 'longer') else 'qcow2'
        path = self.new_path('base')
        qemu_img('create', '-q', '-f', fmt, path, size)
        if what == 'chain':
            self.scribble(path, fmt, size)
            lower, path = path, self.new_path('base')
            qemu_img('create', '-q', '-f', 'qcow2', '-b', os.path.basename(lower), '-F', fmt, path)
        self.scribble(path, fmt, size)
        self.backing, self.backing_fmt = path, fmt

    def scribble(self, path, fmt, size):
        commands = []
        for _ in range(6):
            off, length = self.range(size, SECTOR, size // 4)
            commands += ['-c', f'write -q -P {self.rng.randrange(1, 256)} {off} {length}']
        run('qemu-io', '-f', fmt, *commands, path)

    # -- content

    def range(self, size, align, most):
        """A random range; small ones are likely, and so are ends at clusters."""
        most = max(align, min(most, size))
        length = min(most, int(2 ** self.rng.uniform(9, most.bit_length())))
        length = max(align, length // align * align)
        off = self.rng.randrange(0, size - length + 1) // align * align
        if self.rng.random() < 0.4:
            off = off // self.kind.cluster * self.kind.cluster
        return off, length

    def read(self, path, fmt):
        """What QEMU reads."""
        out = self.new_path('read')
        qemu_img('convert', '-f', fmt, '-O', 'raw', path, out)
        with open(out, 'rb') as f:
            data = f.read()
        os.unlink(out)
        return data

    def read_top(self):
        out = self.new_path('read')
        qemu_img('convert', *self.qemu_words(), '-O', 'raw', out)
        with open(out, 'rb') as f:
            data = f.read()
        os.unlink(out)
        return data

    def io(self, ours):
        """A batch of writes, zeroes, discards and reads."""
        lines, discards = [], []
        before = bytearray(self.shadow)
        taken = None if ours or not self.can_compress(ours) else self.taken()
        for _ in range(self.rng.randrange(3, 12)):
            op = self.rng.choice('wwwwzudpr')
            if op == 'd' and self.kind.fmt == 'luks': # what discarded sectors decrypt to, nobody knows
                continue
            if op == 'p':
                if not self.can_compress(ours) or self.size < self.kind.cluster:
                    continue
                off = self.rng.randrange(0, self.size // self.kind.cluster) * self.kind.cluster
                length = self.kind.cluster
                if taken is not None and off // length in taken: # QEMU compresses only what is not allocated
                    continue
            elif op == 'd':
                off, length = self.range(self.size, SECTOR, self.size // 2)
            else:
                off, length = self.range(self.size, SECTOR, self.size // 4)
            byte = self.rng.randrange(1, 256)
            if op == 'r': # where all bytes are the same, as reads expect one
                length = min(length, SECTOR)
                if self.shadow[off] is None or len(set(self.shadow[off:off + length])) != 1 or \
                        any(a < off + length and off < a + n for a, n in discards):
                    continue
                byte = self.shadow[off]
            lines.append((op, off, length, byte))
            if taken is not None:
                taken.update(range(off // self.kind.cluster, (off + length - 1) // self.kind.cluster + 1))
            if op in 'wp':
                self.shadow[off:off + length] = bytes([byte]) * length
            elif op in 'zu':
                self.shadow[off:off + length] = bytes(length)
            elif op == 'd':
                discards.append((off, length))
            if op in 'wpzu':
                discards = [piece for a, n in discards for piece in
                            ((a, min(off, a + n) - a), (max(off + length, a), a + n - max(off + length, a))) if piece[1] > 0]
        self.io_lines(lines, ours)
        for bitmap in self.bitmaps.values():
            if bitmap['enabled']:
                bitmap['ranges'] += [(off, length) for op, off, length, _ in lines if op in 'wp']
        if discards:
            self.settle_discards(before, discards)

    def can_compress(self, ours):
        # QEMU 7.2 writes compressed clusters of 512 bytes over its own L2 tables, in its own images too.
        return self.kind.compress and (ours or self.kind.cluster > SECTOR)

    def taken(self):
        """Clusters that the image has itself."""
        return {c for x in qemu_json('map', *self.qemu_words()) if x['depth'] == 0 and (x['data'] or x['present'])
                for c in range(x['start'] // self.kind.cluster, (x['start'] + x['length'] - 1) // self.kind.cluster + 1)}

    def io_lines(self, lines, ours):
        self.say(f'{"blkio" if ours else "qemu-io"} {lines}')
        if not lines:
            return
        if ours:
            self.our_blkio([f'{op} {off} {length} {byte}' for op, off, length, byte in lines])
            return
        names = {'w': 'write -q -P {2} {0} {1}', 'p': 'write -q -c -P {2} {0} {1}', 'z': 'write -q -z {0} {1}',
                 'u': 'write -q -z -u {0} {1}', 'd': 'discard -q {0} {1}', 'r': 'read -q -P {2} {0} {1}'}
        commands = []
        for op, off, length, byte in lines:
            commands += ['-c', names[op].format(off, length, byte)]
        out = run('qemu-io', '-d', 'unmap', *commands, *self.qemu_words())
        check('failed' not in out.stdout + out.stderr, f'qemu-io: {out.stdout} {out.stderr}')

    def settle_discards(self, before, discards):
        """What was discarded may be what it was, zero, or the backing file's; from now on it is what it is."""
        now = self.read_top()
        base = self.read(self.backing, self.backing_fmt) if self.backing else b''
        base = (base + bytes(self.size))[:self.size]
        for off, length in discards:
            for at in range(off, off + length, SECTOR):
                sector = now[at:at + SECTOR]
                check(sector in (self.shadow[at:at + SECTOR], before[at:at + SECTOR], bytes(SECTOR), base[at:at + SECTOR]),
                      f'byte {at} was discarded and has become something else')
                self.shadow[at:at + SECTOR] = sector

    # -- other operations

    def snapshot(self, ours):
        name = f's{self.rng.randrange(4)}'
        verb = self.rng.choice(['create', 'create', 'apply', 'rm'])
        if verb == 'create':
            if name in self.snapshots or (self.kind.options.get('refcount_bits') == 2 and len(self.snapshots) >= 2):
                return False
            self.snapshots[name] = bytearray(self.shadow)
        elif name not in self.snapshots:
            return False
        elif verb == 'apply' and not ours and self.bitmaps: # QEMU refuses
            return False
        elif verb == 'apply':
            self.shadow = bytearray(self.snapshots[name])
            self.size = len(self.shadow)
        else:
            del self.snapshots[name]
        self.say(f'snapshot {verb} {name} by {"us" if ours else "qemu"}')
        if ours:
            caisson('snapshot', verb, self.path, name)
        else:
            words = self.qemu_words()
            if words[0] == '-f':
                words = words[2:]
            qemu_img('snapshot', {'create': '-c', 'apply': '-a', 'rm': '-d'}[verb], name, *words)
        return True

    def resize(self, ours):
        if not self.kind.resize or self.bitmaps or (self.kind.version == 2 and (self.snapshots or self.backing)):
            return False
        size = max(SECTOR, (self.size + self.rng.randrange(-self.size // 3, self.size // 3)) // SECTOR * SECTOR)
        if self.rng.random() < 0.4:
            size = max(self.kind.cluster, size // self.kind.cluster * self.kind.cluster)
        self.say(f'resize {size} by {"us" if ours else "qemu"}')
        if ours and size < self.size and self.snapshots: # we refuse that
            return False
        shrink = ['--shrink'] if size < self.size else []
        if ours:
            caisson('resize', self.path, size, *shrink, *self.our_words())
        else:
            qemu_img('resize', '-q', *shrink, *self.qemu_words(), size)
        old = self.size
        self.shadow = (self.shadow + bytearray(max(0, size - self.size)))[:size]
        self.size = size
        if self.kind.fmt == 'luks' and size > old:
            self.io_lines([('w', old, size - old, 0)], ours)
        return True

    def bitmap(self, ours):
        name = f'b{self.rng.randrange(3)}'
        verb = self.rng.choice(['add', 'add', 'rm', 'enable', 'disable', 'clear'])
        if not self.kind.bitmaps or (verb == 'add') == (name in self.bitmaps):
            return False
        options = []
        if verb == 'add':
            granularity = self.rng.choice([512, 4096, 65536, 131072])
            self.bitmaps[name] = {'granularity': granularity, 'enabled': True, 'ranges': []}
            options = ['--granularity' if ours else '-g', granularity]
        elif verb == 'rm':
            del self.bitmaps[name]
        elif verb == 'clear':
            self.bitmaps[name]['ranges'] = []
        else:
            self.bitmaps[name]['enabled'] = verb == 'enable'
        self.say(f'bitmap {verb} {name} {options} by {"us" if ours else "qemu"}')
        if ours:
            caisson('bitmap', verb, self.path, name, *options)
        else:
            words = self.qemu_words()
            qemu_verb = {'rm': '--remove'}.get(verb, '--' + verb)
            qemu_img('bitmap', qemu_verb, *options, *words, name)
        return True

    def commit(self, ours):
        if not self.backing or self.snapshots:
            return False
        keep = self.rng.random() < 0.3
        self.say(f'commit keep={keep} by {"us" if ours else "qemu"}')
        if ours:
            caisson('commit', self.path, *(['--keep'] if keep else []))
        else:
            qemu_img('commit', '-q', '-f', self.kind.fmt, *(['-d'] if keep else []), self.path)
        base = self.read(self.backing, self.backing_fmt)
        check(base[:self.size] == bytes(self.shadow), 'the backing file has not got what was committed')
        return True

    def rebase(self, ours):
        if self.kind.fmt != 'qcow2' or self.kind.secret or self.snapshots or self.kind.options.get('data_file_raw'):
            return False
        old = self.backing
        if old and self.rng.random() < 0.3:
            self.backing = self.backing_fmt = None
        else:
            self.make_backing(self.rng.choice(['raw', 'qcow2', 'shorter', 'longer', 'chain']))
        self.say(f'rebase from {old} to {self.backing} by {"us" if ours else "qemu"}')
        name = os.path.basename(self.backing) if self.backing else ''
        if ours:
            caisson('rebase', self.path, *(['--backing', f'{name},format={self.backing_fmt}'] if name else []))
        else:
            qemu_img('rebase', '-q', '-f', self.kind.fmt, '-b', name, *(['-F', self.backing_fmt] if name else []), self.path)
        return True

    def convert(self, ours):
        kind = self.rng.choice(plain_kinds())
        source, words = self.path, self.qemu_words()
        target = self.new_path(kind.name)
        compress = kind.compress and 'preallocation' not in kind.options and (ours or kind.cluster > SECTOR) and \
            self.rng.random() < 0.4
        names = [name for name, data in sorted(self.snapshots.items()) if ours or len(data) == self.size] # QEMU copies the size of now
        snapshot = self.rng.choice(names) if names and self.rng.random() < 0.5 else None
        self.say(f'convert to {kind.name} compress={compress} snapshot={snapshot} by {"us" if ours else "qemu"}')
        if ours:
            caisson('convert', source, target, *kind.our_options(self.folder), *self.our_words(),
                    *(['--compress'] if compress else []), *(['--snapshot', snapshot] if snapshot else []),
                    '--sparse', self.rng.choice(['512', '4K', '64K', '0']))
        else:
            qemu_img('convert', *words[:-1], '-O', kind.fmt, *kind.qemu_options(self.folder),
                     *(['-c'] if compress else []), *(['-l', f'snapshot.name={snapshot}'] if snapshot else []),
                     words[-1], target)
        if snapshot:
            self.shadow = bytearray(self.snapshots[snapshot])
            self.size = len(self.shadow)
        self.kind, self.path, self.backing, self.backing_fmt = kind, target, None, None
        self.snapshots, self.bitmaps = {}, {}
        return True

    # -- agreement

    def verify_content(self):
        with open(self.shadow_path, 'wb') as f:
            f.write(self.shadow)
        ours = caisson('compare', self.path, self.shadow_path, '--format', self.kind.fmt, '--other-format', 'raw',
                       *self.our_words(), code=None)
        check(ours.returncode == 0, f'we read something else: {ours.stdout} {ours.stderr}')
        check(caisson_size(self) == self.size, 'we see another size')
        words = self.qemu_words()
        if words[0] == '-f':
            theirs = qemu_img('compare', '-q', '-f', self.kind.fmt, '-F', 'raw', self.path, self.shadow_path, code=None)
        else:
            theirs = qemu_img('compare', '-q', *words, f'driver=raw,file.driver=file,file.filename={self.shadow_path}',
                              code=None)
        check(theirs.returncode == 0, f'QEMU reads something else: {theirs.stdout} {theirs.stderr}')

    def verify_checks(self):
        if self.kind.fmt != 'qcow2':
            return
        theirs = qemu_img('check', *self.qemu_words(), '--output=json', code=None)
        check(theirs.returncode == 0, f'qemu-img check: {theirs.returncode} {theirs.stdout} {theirs.stderr}')
        told = json.loads(theirs.stdout)
        ours = caisson_json('check', self.path)[0]
        check(ours['corruptions'] == 0 and ours['leaks'] == 0, f'our check: {ours}')
        for mine, other in (('total_clusters', 'total-clusters'), ('allocated_clusters', 'allocated-clusters'),
                            ('compressed_clusters', 'compressed-clusters'), ('image_end', 'image-end-offset')):
            check(ours[mine] == told.get(other, 0), f'check: {mine} is {ours[mine]}, QEMU says {told.get(other, 0)}')

    def verify_info(self):
        words = self.qemu_words()
        theirs = qemu_json('info', *words)
        ours = caisson_json('info', self.path)[0]
        pairs = [('virtual_size', 'virtual-size'), ('format', 'format'), ('actual_size', 'actual-size')]
        if self.kind.fmt == 'qcow2':
            pairs.append(('cluster_size', 'cluster-size'))
        for mine, other in pairs:
            check(ours[mine] == theirs[other], f'info: {mine} is {ours[mine]}, QEMU says {theirs[other]}')
        if self.kind.fmt == 'qcow2':
            self.verify_qcow2(ours, theirs)

    def verify_qcow2(self, ours, theirs):
        data = theirs['format-specific']['data']
        mine = (ours['qcow2_version'], ours['refcount_bits'], ours['lazy_refcounts'], ours['extended_l2'],
                ours['corrupt'], ours['compression'], ours.get('encryption'))
        other = (3 if data['compat'] == '1.1' else 2, data['refcount-bits'], data.get('lazy-refcounts', False),
                 data.get('extended-l2', False), data.get('corrupt', False), data['compression-type'],
                 'luks' if 'encrypt' in data else None)
        check(mine == other, f'info: {mine}, QEMU says {other}')
        backing = ours.get('backing', {})
        mine = (backing.get('path'), backing.get('format'), backing.get('full_path'), ours.get('data_file'))
        other = (theirs.get('backing-filename'), theirs.get('backing-filename-format'),
                 theirs.get('full-backing-filename'), data.get('data-file'))
        check(mine == other, f'info: {mine}, QEMU says {other}')
        mine = [(s['id'], s['name'], s['vm_state_size'], s['vm_clock_ns']) for s in ours['snapshots']]
        other = [(s['id'], s['name'], s['vm-state-size'], s['vm-clock-sec'] * 10 ** 9 + s['vm-clock-nsec'])
                 for s in theirs.get('snapshots', [])]
        check(mine == other, f'snapshots: {mine}, QEMU says {other}')
        check({s['name'] for s in ours['snapshots']} == set(self.snapshots), 'snapshots are missing')
        for s in ours['snapshots']:
            check(s['disk_size'] == len(self.snapshots[s['name']]), f'snapshot {s} has another size')
        mine = sorted((b['name'], b['granularity'], b['enabled'], b['in_use']) for b in ours['bitmaps'])
        other = sorted((b['name'], b['granularity'], 'auto' in b['flags'], 'in-use' in b['flags'])
                       for b in data.get('bitmaps', []))
        check(mine == other, f'bitmaps: {mine}, QEMU says {other}')
        for b in ours['bitmaps']:
            bitmap = self.bitmaps[b['name']]
            grain = bitmap['granularity']
            granules = {g for off, n in bitmap['ranges'] for g in range(off // grain, (off + n - 1) // grain + 1)
                        if g * grain < self.size}
            least = sum(min(grain, self.size - g * grain) for g in granules)
            check(b['dirty_bytes'] >= least, f'bitmap {b}: {least} bytes were written')

    def verify_map(self):
        """Both sides see data, and the places of it, alike."""
        theirs = qemu_json('map', *self.qemu_words())
        ours = caisson_json('map', self.path, *self.our_words())

        def flat(extents): # of the parts that hold data, QEMU also says which are holes in the file
            return [(x['start'], x.get('offset') if x['data'] else None, x['length'], x['data'],
                     x['depth'] if x['data'] else 0) for x in extents]

        mine, other = flat(ours), flat(theirs)
        check(points(mine) == points(other), f'map: {mine}, QEMU says {other}')


def points(extents):
    """Extents, put together where they continue each other."""
    out = []
    for start, place, length, data, depth in extents:
        last = out[-1] if out else None
        if last and last[3:] == [data, depth] and ((place is None and last[1] is None) or
                                                         (None not in (place, last[1]) and place == last[1] + last[2])):
            last[2] += length
        else:
            out.append([start, place, length, data, depth])
    return out


def caisson_size(image):
    return caisson_json('info', image.path)[0]['virtual_size']


def sequence(seed, verbose):
    rng = random.Random(seed)
    folder = tempfile.mkdtemp(prefix=f'caisson-ops-{seed}-', dir=fast_folder())
    image = Image(rng, folder, verbose)
    try:
        image.make(KINDS[seed % len(KINDS)])
        image.verify_content()
        for _ in range(rng.randrange(3, 7)):
            image.io(rng.random() < 0.5)
            for _ in range(4): # until one is possible
                what = rng.choice([image.snapshot] * 4 * image.kind.snapshots + [image.bitmap] * 2 * image.kind.bitmaps +
                                  [image.resize, image.commit, image.commit, image.rebase, image.convert])
                if what(rng.random() < 0.5):
                    break
            image.verify_content()
        image.verify_checks()
        image.verify_info()
        image.verify_map()
        return None
    except Exception as e: # pylint: disable=broad-except
        text = '' if isinstance(e, Failure) else traceback.format_exc()
        return f'seed {seed} ({KINDS[seed % len(KINDS)].name}): {e}\n' + text + \
            '\n'.join('    ' + line[:2000] for line in image.log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('-n', type=int, default=300)
    parser.add_argument('-j', type=int, default=2)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('-v', action='store_true')
    options = parser.parse_args()
    if not shutil.which('qemu-img'):
        print('needs qemu-img (qemu-utils), to compare with')
        return 77
    seeds = range(options.first, options.first + options.n)
    with multiprocessing.Pool(options.j) as pool:
        results = pool.starmap(sequence, [(seed, options.v) for seed in seeds], chunksize=1)
    failures = [text for text in results if text]
    for text in failures[:20]:
        print(text)
    print(f'{len(seeds) - len(failures)} of {len(seeds)} sequences agree')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
