#!/usr/bin/env python3
"""Images that mean harm: each is refused with its reason, or found out by the check, within bounds of time and memory, and
nothing that an image names is opened behind the user's back."""
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

from disk import BLKIO, CAISSON, blkio, caisson, caisson_json, fast_folder, qemu_img

M = 1 << 20
MEMORY = 1 << 30
FAILED, PERMISSION = 1, 7
# Fields of the qcow2 header: offset, size.
FIELDS = {
    'magic': (0, 4), 'version': (4, 4), 'backing_offset': (8, 8), 'backing_size': (16, 4), 'cluster_bits': (20, 4),
    'size': (24, 8), 'crypt': (32, 4), 'l1_size': (36, 4), 'l1_offset': (40, 8), 'table_offset': (48, 8),
    'table_clusters': (56, 4), 'n_snapshots': (60, 4), 'snapshots_offset': (64, 8), 'incompatible': (72, 8),
    'compatible': (80, 8), 'autoclear': (88, 8), 'refcount_order': (96, 4), 'header_length': (100, 4), 'compression': (104, 1),
}
# What makes no sense in a header: fields, and words of the reason.
HEADERS = {
    'version 1': ({'version': 1}, 'version'),
    'version 4': ({'version': 4}, 'version'),
    'clusters of 256 bytes': ({'cluster_bits': 8}, 'cluster'),
    'clusters of 4 MiB': ({'cluster_bits': 22}, 'cluster'),
    'clusters of 2^63 bytes': ({'cluster_bits': 63}, 'cluster'),
    'clusters beyond numbers': ({'cluster_bits': 0xffffffff}, 'cluster'),
    'refcounts of 128 bits': ({'refcount_order': 7}, 'refcount'),
    'refcounts beyond numbers': ({'refcount_order': 0xffffffff}, 'refcount'),
    'L1 table of 16 GiB': ({'l1_size': 0x7fffffff}, 'L1'),
    'L1 table too small': ({'l1_size': 0}, 'L1'),
    'L1 table nowhere': ({'l1_offset': 1 << 60}, 'L1'),
    'L1 table not at a cluster': ({'l1_offset': 0x30200}, 'L1'),
    'refcount table of 256 TiB': ({'table_clusters': 0xffffffff}, 'refcount'),
    'refcount table nowhere': ({'table_offset': 1 << 60}, 'refcount'),
    'refcount table not at a cluster': ({'table_offset': 0x10200}, 'refcount'),
    'no refcount table': ({'table_clusters': 0}, 'refcount'),
    'size of 8 EiB': ({'size': 1 << 63}, 'EiB'),
    'size of 16 EiB': ({'size': (1 << 64) - 1}, 'EiB'),
    '2^32 snapshots': ({'n_snapshots': 0xffffffff}, 'snapshot'),
    'snapshots nowhere': ({'n_snapshots': 1, 'snapshots_offset': 1 << 60}, 'snapshot'),
    'snapshots in the header': ({'n_snapshots': 1, 'snapshots_offset': 8}, 'snapshot'),
    'header of 50 bytes': ({'header_length': 50}, 'header'),
    'header of 4 GiB': ({'header_length': 0xfffffff8}, 'header'),
    'unknown feature': ({'incompatible': 1 << 40}, 'feature'),
    'backing name outside the first cluster': ({'backing_offset': 0x20000, 'backing_size': 10}, 'backing'),
    'backing name of 5000 bytes': ({'backing_offset': 200, 'backing_size': 5000}, 'backing'),
    'unknown encryption': ({'crypt': 9}, 'encrypt'),
    'unknown compression': ({'incompatible': 8, 'compression': 7}, 'compress'),
    'extended L2 entries in tiny clusters': ({'incompatible': 16, 'cluster_bits': 9}, 'L2|cluster|table|header'),
    'LUKS without a header': ({'crypt': 2}, 'encrypt|LUKS'),
    'data file without a name': ({'incompatible': 4}, 'data file'),
}


def limits():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))


def bounded(*words):
    """Our command, with little memory and time."""
    return subprocess.run([CAISSON, 'disk', *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, timeout=60, preexec_fn=limits)


class BadImages(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='caisson-bad-', dir=fast_folder())
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.secret = os.path.join(self.folder, 'elsewhere', 'secret')
        os.mkdir(os.path.dirname(self.secret))
        with open(self.secret, 'wb') as f:
            f.write(b'root:$6$' * 512)
        self.inside = os.path.join(self.folder, 'inside')
        os.mkdir(self.inside)

    def image(self, name='image', size='64M', *options):
        path = os.path.join(self.inside, name)
        qemu_img('create', '-q', '-f', 'qcow2', *options, path, size)
        return path

    def naming(self, backing, fmt='raw', name='image'):
        path = os.path.join(self.inside, name)
        qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b', backing, '-F', fmt, path, '4096')
        return path

    def set(self, path, **fields):
        with open(path, 'r+b') as f:
            for name, value in fields.items():
                off, size = FIELDS[name]
                f.seek(off)
                f.write(value.to_bytes(size, 'big'))

    def get(self, path, name):
        with open(path, 'rb') as f:
            f.seek(FIELDS[name][0])
            return int.from_bytes(f.read(FIELDS[name][1]), 'big')

    def refused(self, code, reason, *words):
        done = bounded(*words)
        self.assertEqual(done.returncode, code, (words, done.stderr, done.stdout[:500]))
        self.assertRegex(done.stderr, r'\Acaisson: [^\n]+\n\Z', words)
        self.assertRegex(done.stderr, reason, words)

    # ---- what an image names

    def test_backing_is_shown_not_opened(self):
        fifo = os.path.join(self.folder, 'fifo')
        os.mkfifo(fifo)
        for backing in (self.secret, fifo, '/no/such/file', 'nbd://198.51.100.1/x', '/dev/mem'):
            path = self.naming(backing)
            done = bounded('info', path, '--json')
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(backing, done.stdout)
            self.assertNotIn('root:$6$', done.stdout)

    def test_data_file_is_shown_not_opened(self):
        path = self.image('image', '4096', '-o', f'data_file={self.folder}/data')
        os.remove(f'{self.folder}/data')
        caisson('bitmap', 'add', path, 'b')
        os.mkfifo(os.path.join(self.folder, 'fifo'))
        with open(path, 'rb') as f:
            whole = f.read()
        at = whole.index(struct.pack('>I', 0x44415441))
        behind = at + 8 + (int.from_bytes(whole[at + 4:at + 8], 'big') + 7) // 8 * 8
        for name in (self.secret, os.path.join(self.folder, 'fifo'), '/no/such/file', 'nbd://198.51.100.1/x', '/dev/mem'):
            text = struct.pack('>II', 0x44415441, len(name)) + name.encode() + bytes(-len(name) % 8)
            with open(path, 'wb') as f:
                f.write((whole[:at] + text + whole[behind:65536])[:65536].ljust(65536, b'\0') + whole[65536:])
            done = bounded('info', path, '--json')
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(name, done.stdout.replace('\\/', '/'))
            for verb in (['check', path], ['bitmap', 'ls', path], ['bitmap', 'clear', path, 'b']):
                done = bounded(*verb)
                self.assertEqual(done.returncode, 0, (verb, name, done.stderr))

    def test_backing_outside(self):
        os.symlink(self.secret, os.path.join(self.inside, 'link'))
        target = os.path.join(self.folder, 'target')
        for backing in (self.secret, '../elsewhere/secret', 'link', 'nbd://198.51.100.1/x', '/proc/self/environ'):
            path = self.naming(backing)
            self.refused(PERMISSION, 'outside|not allowed', 'convert', path, target, '--format', 'raw', '--allow-dir', self.inside)
            self.refused(PERMISSION, 'outside|not allowed', 'map', path, '--allow-dir', self.inside)
            self.refused(PERMISSION, 'outside|not allowed', 'info', path, '--chain', '--allow-dir', self.inside)
            self.assertFalse(os.path.exists(target))
        path = self.naming(self.secret)
        bounded('convert', path, target, '--format', 'raw', '--allow-dir', self.inside, '--allow-dir', os.path.dirname(self.secret))
        self.assertTrue(os.path.exists(target)) # that is what was asked for

    def test_folder_whose_name_begins_alike(self):
        neighbour = self.inside + '-not'
        os.mkdir(neighbour)
        with open(os.path.join(neighbour, 'file'), 'wb') as f:
            f.write(bytes(4096))
        self.refused(PERMISSION, 'outside', 'map', self.naming(os.path.join(neighbour, 'file')), '--allow-dir', self.inside)

    def test_data_file_outside(self):
        path = self.image('image', '4096', '-o', f'data_file={self.secret}x,data_file_raw=on')
        os.replace(self.secret, self.secret + 'x')
        self.refused(PERMISSION, 'outside', 'convert', path, os.path.join(self.folder, 't'), '--allow-dir', self.inside)

    def test_raw_stays_raw(self):
        """A guest writes an image header into its raw disk."""
        path = self.naming(self.secret)
        with open(path, 'ab') as f:
            f.truncate(1 * M)
        target = os.path.join(self.folder, 'target')
        caisson('convert', path, target, '--source-format', 'raw', '--format', 'raw')
        with open(path, 'rb') as a, open(target, 'rb') as b:
            self.assertEqual(a.read(), b.read())
        # As a backing file without a stated format it would be probed, and lead on to the secret.
        top = self.image('top', '1M')
        with open(top, 'r+b') as f:
            f.seek(8)
            f.write(struct.pack('>QI', 0x200, len('image')))
            f.seek(0x200)
            f.write(b'image')
        self.refused(PERMISSION, 'not stated', 'map', top)
        os.remove(path)
        os.rename(self.image('image2', '4096', '-o', f'data_file={self.secret}x,data_file_raw=on'), path)
        os.replace(self.secret, self.secret + 'x')
        self.refused(PERMISSION, 'not stated', 'map', top)
        self.refused(PERMISSION, 'not stated', 'convert', top, target, '--format', 'raw', '--force')

    # ---- loops

    def test_loops(self):
        self.refused(FAILED, 'own backing file', 'map', self.naming('image', 'qcow2'))
        self.naming('b', 'qcow2', 'a')
        self.naming('a', 'qcow2', 'b')
        for verb in ('map', 'commit', 'rebase'):
            self.refused(FAILED, 'own backing file', verb, os.path.join(self.inside, 'a'))
        os.symlink('image', os.path.join(self.inside, 'alias'))
        self.refused(FAILED, 'own backing file', 'map', self.naming('alias', 'qcow2'))
        for i in range(70):
            self.naming(f'c{i + 1}', 'qcow2', f'c{i}')
        self.image('c70', '4096')
        self.refused(FAILED, 'chain', 'map', os.path.join(self.inside, 'c0'))

    # ---- headers

    def test_headers(self):
        for name, (fields, reason) in HEADERS.items():
            with self.subTest(name):
                path = self.image()
                self.set(path, **fields)
                for verb in (['info'], ['map'], ['check'], ['check', '--repair', 'all'], ['snapshot', 'ls'], ['resize', '+1M']):
                    operands = [path] + verb[1:] if verb[0] in ('resize', 'check') else verb[1:] + [path]
                    self.refused(FAILED, reason, verb[0], *operands, '--image-format' if verb[0] == 'snapshot' else '--format', 'qcow2')

    def test_truncated(self):
        whole = self.image()
        blkio(whole, ['w 0 1048576 1'])
        size = os.stat(whole).st_size
        for length in (4, 71, 72, 100, 511, 512, 65536, 65536 + 8, 3 * 65536, size // 2):
            cut = os.path.join(self.inside, 'cut')
            shutil.copyfile(whole, cut)
            os.truncate(cut, length)
            for words in (['info', cut], ['map', cut], ['check', cut], ['check', cut, '--repair', 'all'],
                          ['convert', cut, os.path.join(self.folder, 'out'), '--force', '--format', 'raw']):
                done = bounded(*words, *(['--source-format'] if words[0] == 'convert' else ['--format']), 'qcow2')
                self.assertIn(done.returncode, (0, 1), (length, words, done.stderr)) # no crash, no hang
                if done.returncode:
                    self.assertRegex(done.stderr, r'\Acaisson: [^\n]+\n\Z')
                if length <= 72:
                    self.assertEqual(done.returncode, 1, (length, words))

    def extension(self, path, kind, data, length=None):
        with open(path, 'r+b') as f:
            f.seek(100)
            f.seek(int.from_bytes(f.read(4), 'big'))
            f.write(struct.pack('>II', kind, len(data) if length is None else length) + data)

    def test_extensions(self):
        for name, kind, data, length, reason in (
                ('longer than the cluster', 0x12345678, b'', 1 << 20, 'extension'),
                ('longer than numbers', 0x12345678, b'', 0xffffffff, 'extension'),
                ('bitmaps of 4 GiB', 0x23852875, struct.pack('>IIQQ', 1, 0, 1 << 32, 65536), None, 'bitmap'),
                ('bitmaps nowhere', 0x23852875, struct.pack('>IIQQ', 1, 0, 64, 1 << 60), None, 'bitmap'),
                ('2^32 bitmaps', 0x23852875, struct.pack('>IIQQ', 0xffffffff, 0, 64, 65536), None, 'bitmap')):
            with self.subTest(name):
                path = self.image()
                self.set(path, autoclear=1)
                self.extension(path, kind, data, length)
                self.refused(FAILED, reason, 'bitmap', 'add', path, 'one') # for reading it would do

    # ---- tables

    def tables(self):
        path = self.image()
        blkio(path, ['w 0 1048576 1', 'p 2097152 65536 2'])
        l1 = self.get(path, 'l1_offset')
        with open(path, 'rb') as f:
            f.seek(l1)
            l2 = int.from_bytes(f.read(8), 'big') & 0x00fffffffffffe00
        return path, l1, l2

    def poke(self, path, off, value):
        with open(path, 'r+b') as f:
            f.seek(off)
            f.write(value.to_bytes(8, 'big'))

    def test_tables(self):
        copied, compressed = 1 << 63, 1 << 62
        for name, table, value in (
                ('L1 entry nowhere', 'l1', copied | 1 << 50), ('L1 entry not at a cluster', 'l1', copied | 0x50200),
                ('L1 entry at the header', 'l1', copied), ('L1 entry at the L1 table', 'l1', copied | 0x30000),
                ('L2 entry nowhere', 'l2', copied | 1 << 50), ('L2 entry not at a cluster', 'l2', copied | 0x50200),
                ('L2 entry at the refcounts', 'l2', copied | 0x10000), ('L2 entry at the L1 table', 'l2', copied | 0x30000),
                ('compressed cluster nowhere', 'l2', compressed | 1 << 50), ('all bits', 'l2', (1 << 64) - 1)):
            with self.subTest(name):
                path, l1, l2 = self.tables()
                self.poke(path, l1 if table == 'l1' else l2, value)
                with open(path, 'rb') as f:
                    before = f.read(4 * 65536)
                done = bounded('check', path, '--json')
                self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
                self.assertRegex(done.stderr, 'corruption')
                for words in (['convert', path, os.path.join(self.folder, 'o'), '--force', '--format', 'raw'], ['map', path],
                              ['info', path]):
                    self.assertIn(bounded(*words).returncode, (0, 1), words)
                # A write that would go over metadata is refused, and harms nothing but the flags of the header.
                subprocess.run([BLKIO, path], input='w 4096 4096 9\nf\n', capture_output=True, text=True, check=False,
                               timeout=60, preexec_fn=limits)
                with open(path, 'rb') as f:
                    after = f.read(4 * 65536)
                self.assertEqual(after[0x30008:], before[0x30008:])
                self.assertEqual(after[:72] + after[96:0x20000], before[:72] + before[96:0x20000])
                bounded('check', path, '--repair', 'all')
                self.assertIn(bounded('check', path).returncode, (0, 1))

    def test_shared_cluster(self):
        """Two guest clusters in one host cluster: a write to one would change the other."""
        path, _, l2 = self.tables()
        with open(path, 'rb') as f:
            f.seek(l2)
            entry = int.from_bytes(f.read(8), 'big')
        self.poke(path, l2 + 8, entry)
        self.refused(FAILED, 'corruption', 'check', path)
        caisson('check', path, '--repair', 'all')
        qemu_img('check', path)

    def test_garbage_compressed(self):
        path, _, l2 = self.tables()
        with open(path, 'r+b') as f:
            f.seek(l2 + 8 * 32)
            off = int.from_bytes(f.read(8), 'big') & ((1 << 54) - 1)
            f.seek(off)
            f.write(os.urandom(64))
        self.refused(FAILED, 'read', 'convert', path, os.path.join(self.folder, 'o'), '--format', 'raw')
        self.assertFalse(os.path.exists(os.path.join(self.folder, 'o')))

    # ---- what is only big

    def test_huge_disks(self):
        path = self.image('huge', '1P', '-o', 'cluster_size=2M')
        self.assertEqual(caisson_json('info', path)[0]['virtual_size'], 1 << 50)
        self.assertEqual(len(caisson_json('map', path)), 1)
        done = bounded('convert', path, os.path.join(self.folder, 'copy'), '--cluster-size', '2M')
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_noise(self):
        path = os.path.join(self.inside, 'noise')
        for magic in (b'QFI\xfb\0\0\0\3', b'KDMV', b'vhdxfile', b'LUKS\xba\xbe\0\1', b'# Disk DescriptorFile\n', b'COWD'):
            for _ in range(5):
                with open(path, 'wb') as f:
                    f.write(magic + os.urandom(70000) + bytes(200000 - len(magic) - 70000 + 192))
                done = bounded('info', path)
                self.assertIn(done.returncode, (0, 1), (magic, done.stderr))


if __name__ == '__main__':
    if not shutil.which('qemu-img'):
        print('needs qemu-img (qemu-utils), to make images with')
        sys.exit(77)
    unittest.main()
