#!/usr/bin/env python3
"""Every verb of `caisson disk`: what it does, what it prints, and its errors with their exit codes."""
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import disk
from disk import CAISSON, blkio, caisson, caisson_json, fast_folder, qemu_img, qemu_json, run

FAILED, USAGE, NOT_FOUND, CONFLICT, PERMISSION = 1, 2, 3, 4, 7
M = 1 << 20


class Verbs(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='caisson-verbs-', dir=fast_folder())
        self.addCleanup(shutil.rmtree, self.folder, True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def make(self, name, size='8M', *words):
        caisson('create', self.path(name), size, *words)
        return self.path(name)

    def secret(self, text='correct horse'):
        with open(self.path('secret'), 'w', encoding='ascii') as f:
            f.write(text)
        return 'file:' + self.path('secret')

    def refused(self, code, words, *command, env=None):
        """Fails with that exit code and one line on stderr that says all of the words, nothing on stdout."""
        done = caisson(*command, code=code, env=env)
        self.assertEqual(done.stdout, '', command)
        self.assertRegex(done.stderr, r'\Acaisson: [^\n]+\n\Z', command)
        for word in words:
            self.assertIn(word, done.stderr, command)

    def files(self):
        return sorted(os.listdir(self.folder))

    # ---- create

    def test_create(self):
        for number, words in enumerate((['--format', 'raw'], [], ['--cluster-size', '4K'], ['--lazy-refcounts'],
                                        ['--extended-l2', '--cluster-size', '128K'], ['--compression', 'zstd'],
                                        ['--refcount-bits', '1'], ['--qcow2-version', '2'],
                                        ['--preallocation', 'metadata'], ['--preallocation', 'falloc'],
                                        ['--preallocation', 'full'],
                                        ['--data-file', self.path('data'), '--data-file-raw', '--force'])):
            path = self.make(f'c{number}', '3M', *words)
            info = qemu_json('info', path)
            self.assertEqual(info['virtual-size'], 3 * M)
            self.assertEqual(info['format'], 'raw' if 'raw' in words else 'qcow2')
            if info['format'] == 'qcow2':
                qemu_img('check', '-q', path)

    def test_create_size_of_backing(self):
        base = self.make('base', '5M')
        caisson('create', self.path('top'), '--backing', 'base,format=qcow2')
        info = qemu_json('info', self.path('top'))
        self.assertEqual((info['virtual-size'], info['backing-filename'], info['backing-filename-format']),
                         (5 * M, 'base', 'qcow2'))
        caisson('create', self.path('probed'), '--backing', base) # the format is found out, and written down
        self.assertEqual(qemu_json('info', self.path('probed'))['backing-filename-format'], 'qcow2')

    def test_create_comma(self):
        self.make('a,b', '1M')
        caisson('create', self.path('top'), '--backing', 'a,,b,format=qcow2')
        self.assertEqual(qemu_json('info', self.path('top'))['backing-filename'], 'a,b')

    def test_create_never_overwrites(self):
        path = self.make('a', '1M')
        with open(path, 'rb') as f:
            before = f.read()
        self.refused(CONFLICT, [path, 'exists', '--force'], 'create', path, '2M')
        with open(path, 'rb') as f:
            self.assertEqual(f.read(), before)
        caisson('create', path, '2M', '--force')
        self.assertEqual(qemu_json('info', path)['virtual-size'], 2 * M)
        self.assertEqual(self.files(), ['a'])

    @unittest.skipUnless(shutil.which('strace'), 'no strace: apt-get install strace')
    def test_without_noreplace(self):
        """A file system that cannot rename without replacing (NFS): a link does as well."""
        def there(code, *words):
            run('strace', '-f', '-qq', '-o', self.path('log'), '-e', 'trace=renameat2', '-e', 'inject=renameat2:error=EINVAL',
                CAISSON, 'disk', *words, code=code)
            os.remove(self.path('log'))
        there(0, 'create', self.path('a'), '1M')
        there(0, 'convert', self.path('a'), self.path('b'), '--format', 'raw')
        there(CONFLICT, 'create', self.path('a'), '2M')
        there(CONFLICT, 'convert', self.path('a'), self.path('b'))
        self.assertEqual(self.files(), ['a', 'b'])
        self.assertEqual(qemu_json('info', self.path('a'))['virtual-size'], M)

    def test_create_errors(self):
        path = self.path('x')
        for code, words, command in (
                (USAGE, ['FILE'], []), (USAGE, ['size'], [path]), (USAGE, ['10X'], [path, '10X']), (USAGE, ['512'], [path, '0']),
                (USAGE, ['-5'], [path, '-5']), (NOT_FOUND, ['no/such'], [self.path('no/such'), '1M']),
                (USAGE, ['vdi', 'qcow2'], [path, '1M', '--format', 'vdi']),
                (USAGE, ['cluster-size', '512'], [path, '1M', '--cluster-size', '3000']),
                (USAGE, ['cluster-size'], [path, '1M', '--cluster-size', '4M']),
                (USAGE, ['cluster-size', 'qcow2'], [path, '1M', '--format', 'raw', '--cluster-size', '64K']),
                (USAGE, ['refcount-bits'], [path, '1M', '--refcount-bits', '3']),
                (USAGE, ['compression'], [path, '1M', '--compression', 'lzma']),
                (USAGE, ['preallocation'], [path, '1M', '--preallocation', 'some']),
                (USAGE, ['backing files', 'qcow2'], [path, '1M', '--format', 'raw', '--backing', 'base']),
                (NOT_FOUND, ['base'], [path, '1M', '--backing', 'base']),
                (USAGE, ['format=F'], [path, '1M', '--backing', 'base,size=3']),
                (USAGE, ['passphrase', '--secret'], [path, '1M', '--encrypt']),
                (USAGE, ['file:PATH'], [path, '1M', '--encrypt', '--secret', 'swordfish']),
                (NOT_FOUND, ['missing'], [path, '1M', '--encrypt', '--secret', 'file:' + self.path('missing')]),
                (NOT_FOUND, ['env:NONE_SUCH'], [path, '1M', '--encrypt', '--secret', 'env:NONE_SUCH'])):
            self.refused(code, words, 'create', *command)
        self.assertEqual(self.files(), [])

    def test_secret_is_not_repeated(self):
        done = caisson('create', self.path('x'), '1M', '--encrypt', '--secret', 'swordfish', code=USAGE)
        self.assertNotIn('swordfish', done.stderr)

    # ---- encryption

    def test_encrypted(self):
        secret = self.secret()
        for number, words in enumerate((['--encrypt'], ['--format', 'luks'])):
            path = self.make(f'e{number}', '4M', *words, '--secret', secret, '--iter-time', '10')
            fmt = ['qcow2', 'luks'][number]
            key = ['encrypt.key-secret', 'key-secret'][number]
            run('qemu-io', '--object', f'secret,id=s,file={self.path("secret")}', '-c', 'write -P 7 64K 100K', '--image-opts',
                f'driver={fmt},{key}=s,file.driver=file,file.filename={path}')
            blkio(path, ['r 65536 102400 7'], '-f', fmt, '-s', self.path('secret'))
            caisson('convert', path, self.path('clear'), '--format', 'raw', '--secret', 'env:KEY', '--force',
                    env={'KEY': 'correct horse'})
            with open(self.path('clear'), 'rb') as f:
                self.assertEqual(f.read()[65536:65536 + 102400], b'\7' * 102400)
            self.refused(FAILED, [path, 'passphrase'], 'compare', path, path)
            self.refused(FAILED, [path, 'passphrase'], 'compare', path, path, '--secret', 'env:KEY', env={'KEY': 'wrong'})
            info = caisson_json('info', path)[0] # facts need no passphrase
            self.assertEqual((info['virtual_size'], info['encryption']), (4 * M, 'luks'))

    def test_encrypting_convert(self):
        path = self.make('plain', '4M')
        blkio(path, ['w 1048576 65536 9'])
        caisson('convert', path, self.path('enc'), '--encrypt', '--target-secret', self.secret(), '--iter-time', '10')
        self.assertEqual(qemu_json('info', self.path('enc'))['format-specific']['data']['encrypt']['format'], 'luks')
        caisson('compare', path, self.path('enc'), '--secret', self.secret())
        # A new LUKS volume does not read as zeroes: those of the source have to be written.
        caisson('convert', path, self.path('luks'), '--format', 'luks', '--target-secret', self.secret(), '--iter-time', '10')
        caisson('compare', path, self.path('luks'), '--other-format', 'luks', '--secret', self.secret())
        qemu_img('compare', '--object', f'secret,id=s,file={self.path("secret")}', '--image-opts',
                 f'driver=qcow2,file.filename={path}',
                 f'driver=luks,key-secret=s,file.filename={self.path("luks")}')

    def test_encrypted_preallocation(self):
        """What is preallocated reads as zeroes; version 2 has no way to say so of a cluster that decrypts to noise."""
        words = ['--encrypt', '--secret', self.secret(), '--iter-time', '10']
        zeroes = self.make('zeroes', '1M', '--format', 'raw')
        path = self.make('three', '1M', '--preallocation', 'metadata', *words)
        caisson('resize', path, '2M', '--preallocation', 'metadata', '--secret', self.secret())
        caisson('compare', path, zeroes, '--secret', self.secret())
        self.refused(FAILED, ['version 3'], 'create', self.path('two'), '1M', '--preallocation', 'metadata', '--qcow2-version', '2',
                     *words)
        path = self.make('two', '1M', '--qcow2-version', '2', *words)
        self.refused(FAILED, ['version 3'], 'resize', path, '2M', '--preallocation', 'metadata', '--secret', self.secret())
        caisson('resize', path, '2M', '--secret', self.secret())
        caisson('compare', path, zeroes, '--secret', self.secret())

    # ---- info, check, map

    def test_info(self):
        base = self.make('base', '4M')
        top = self.path('top')
        caisson('create', top, '--backing', 'base,format=qcow2')
        info = caisson_json('info', top)
        self.assertEqual(len(info), 1)
        self.assertEqual(info[0]['backing'], {'path': 'base', 'format': 'qcow2', 'full_path': base})
        chain = caisson_json('info', top, '--chain')
        self.assertEqual([x['path'] for x in chain], [top, base])
        text = caisson('info', top).stdout
        for word in ('qcow2', '4.0 MiB', '4194304', 'base'):
            self.assertIn(word, text)
        os.unlink(base)
        caisson('info', top) # does not need it
        self.refused(NOT_FOUND, ['base'], 'info', top, '--chain')

    def test_info_escapes(self):
        top = self.path('top')
        qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b', 'a\x1b[31m\x9b31m\x7f\nb', '-F', 'raw', top, '1M')
        shown, failed = caisson('info', top).stdout, caisson('map', top, code=NOT_FOUND).stderr
        self.assertIn('a?[31m?31m??b', shown)
        self.assertIn('a?[31m??31m?', failed)
        for control in '\x1b', '\x9b', '\x7f':
            self.assertNotIn(control, shown + failed)

    def test_info_errors(self):
        empty = self.path('empty')
        with open(empty, 'wb'):
            pass
        self.refused(USAGE, ['FILE'], 'info')
        self.refused(NOT_FOUND, ['missing'], 'info', self.path('missing'))
        self.refused(FAILED, [self.folder, 'folder'], 'info', self.folder)
        self.refused(FAILED, ['empty'], 'info', empty)
        self.refused(FAILED, ['known'], 'info', empty, '--format', 'vdi')

    def test_in_use(self):
        for words in (['--format', 'raw'], []):
            path = self.make('used' + ''.join(words), '4M', *words)
            holder = subprocess.Popen([disk.BLKIO, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                holder.stdin.write(b'h\n')
                holder.stdin.close()
                holder.stdout.readline()
                self.refused(CONFLICT, [path, 'in use'], 'info', path)
                self.refused(CONFLICT, [path, 'in use'], 'resize', path, '+1M')
                self.refused(CONFLICT, [path, 'in use'], 'convert', path, self.path('new'))
                self.refused(CONFLICT, [path, 'in use'], 'create', path, '1M', '--force')
                self.refused(CONFLICT, [path, 'in use'], 'create', self.path('new'), '1M', '--data-file', path, '--force')
                self.refused(CONFLICT, [path, 'in use'], 'convert', self.make('src' + ''.join(words), '1M'), path, '--force')
                self.assertEqual(caisson_json('info', path, '--force-share')[0]['virtual_size'], 4 * M)
            finally:
                holder.kill()
                holder.stdout.close()
                holder.wait()

    def test_check(self):
        path = self.make('a', '8M')
        blkio(path, ['w 0 1048576 1', 'p 2097152 65536 2'])
        told = caisson_json('check', path)[0]
        self.assertEqual((told['corruptions'], told['leaks'], told['allocated_clusters'], told['compressed_clusters']),
                         (0, 0, 17, 1))
        self.assertIn('0 corruptions', caisson('check', path).stdout)
        self.refused(FAILED, ['raw', 'structure'], 'check', self.make('r', '1M', '--format', 'raw'))
        self.refused(USAGE, ['--repair', 'leaks or all'], 'check', path, '--repair', 'some')
        self.refused(USAGE, ['--force-share'], 'check', path, '--repair', 'all', '--force-share')

    def damage(self, path, what):
        """Take a data cluster's refcount to 0 (a corruption), or give an unused cluster one (a leak)."""
        with open(path, 'r+b') as f:
            header = f.read(104)
            table = int.from_bytes(header[48:56], 'big')
            l1 = int.from_bytes(header[40:48], 'big')
            f.seek(table)
            block = int.from_bytes(f.read(8), 'big')
            f.seek(l1)
            l2 = int.from_bytes(f.read(8), 'big') & 0x00fffffffffffe00
            f.seek(l2)
            data = int.from_bytes(f.read(8), 'big') & 0x00fffffffffffe00
            f.seek(0, 2)
            end = f.tell()
            if what == 'leak':
                f.truncate((end + 65535) // 65536 * 65536 + 65536)
                cluster, count = (end + 65535) // 65536, 1
            else:
                cluster, count = data // 65536, 0
            f.seek(block + 2 * cluster)
            f.write(count.to_bytes(2, 'big'))

    def test_check_leak(self):
        path = self.make('a', '8M')
        blkio(path, ['w 0 1048576 1'])
        self.damage(path, 'leak')
        told = caisson_json('check', path)[0] # exit code 0
        self.assertEqual((told['corruptions'], told['leaks']), (0, 1))
        qemu_img('check', path, code=3)
        self.assertIn('--repair leaks', caisson('check', path).stdout)
        told = caisson_json('check', path, '--repair', 'leaks')[0]
        self.assertEqual((told['leaks'], told['leaks_fixed']), (0, 1))
        qemu_img('check', path)

    def test_check_corruption(self):
        path = self.make('a', '8M')
        blkio(path, ['w 0 1048576 1'])
        self.damage(path, 'corruption')
        qemu_img('check', path, code=2)
        done = caisson('check', path, code=FAILED)
        self.assertRegex(done.stdout, r'(?m)^[1-9]\d* corruptions')
        self.assertRegex(done.stderr, r'\Acaisson: disk .*--repair all\n\Z')
        told = caisson_json('check', path, '--repair', 'all')[0]
        self.assertEqual(told['corruptions'], 0)
        self.assertGreater(told['corruptions_fixed'], 0)
        qemu_img('check', path)
        blkio(path, ['r 0 1048576 1'])

    def test_map(self):
        path = self.make('a', '8M')
        blkio(path, ['w 1048576 131072 1', 'w 4194304 65536 1', 'z 4194304 65536'])
        extents = caisson_json('map', path)
        self.assertEqual([(x['start'], x['length'], x['zero'], x['data'], x['allocated']) for x in extents if x['allocated']],
                         [(1048576, 131072, False, True, True), (4194304, 65536, True, False, True)])
        self.assertEqual(sum(x['length'] for x in extents), 8 * M)
        self.assertRegex(caisson('map', path).stdout, r'(?m)^0x100000 +0x20000 +data')
        self.refused(NOT_FOUND, ['missing'], 'map', self.path('missing'), '--json')

    # ---- convert

    def test_convert(self):
        source = self.make('source.raw', '40M', '--format', 'raw')
        blkio(source, [f'w {i * 3 * M} {M + 512 * i} {i + 1}' for i in range(12)], '-f', 'raw')
        for number, words in enumerate((['--format', 'raw'], [], ['--compress'], ['--compress', '--compression', 'zstd'],
                                        ['--cluster-size', '2M'], ['--cluster-size', '512'], ['--extended-l2', '--cluster-size', '64K'],
                                        ['--sparse', '0'], ['--preallocation', 'metadata'], ['--threads', '1'], ['--no-sync'],
                                        ['--preallocation', 'full', '--format', 'raw'], ['--threads', '16', '--compress'])):
            target = self.path(f't{number}')
            caisson('convert', source, target, *words)
            fmt = 'raw' if 'raw' in words else 'qcow2'
            qemu_img('compare', '-f', 'raw', '-F', fmt, source, target)
            if fmt == 'qcow2':
                qemu_img('check', '-q', target)
            caisson('convert', target, self.path('back'), '--format', 'raw', '--force')
            qemu_img('compare', '-f', 'raw', '-F', 'raw', source, self.path('back'))
        self.assertFalse([name for name in self.files() if 'part' in name])

    def test_raw_of_odd_length(self):
        """Can be read, alone and as a backing file; the rest of its last sector is zeroes."""
        path = self.path('odd')
        for length in (100, 1000, 300 * 1024 + 1):
            with open(path, 'wb') as f:
                f.write(b'\xab' * length)
            size = (length + 511) // 512 * 512
            self.assertEqual(caisson_json('info', path, '--format', 'raw')[0]['virtual_size'], size)
            told = caisson_json('map', path, '--format', 'raw')
            self.assertEqual(told[-1]['start'] + told[-1]['length'], size)
            for name, words in (('a', []), ('b', ['--format', 'raw']), ('c', ['--compress']), ('d', ['--backing', path])):
                caisson('convert', path, self.path(name), '--source-format', 'raw', '--force', *words)
                caisson('compare', path, self.path(name), '--format', 'raw', '--other-format', 'raw' if name == 'b' else 'qcow2')
                qemu_img('compare', '-f', 'raw', '-F', 'raw' if name == 'b' else 'qcow2', path, self.path(name))
            caisson('create', self.path('top'), '--backing', path + ',format=raw', '--force')
            blkio(self.path('top'), [f'r 0 {length} 171', f'r {length} {size - length} 0'], '-f', 'qcow2')
            qemu_img('compare', '-f', 'raw', '-F', 'qcow2', path, self.path('top'))
            self.refused(FAILED, [path, '512'], 'resize', path, '1M', '--format', 'raw')

    def test_convert_finds_zeroes(self):
        source = self.path('zeroes')
        with open(source, 'wb') as f:
            f.write(bytes(16 * M))
        for fmt in ('raw', 'qcow2'):
            caisson('convert', source, self.path(fmt), '--format', fmt)
            self.assertLess(os.stat(self.path(fmt)).st_blocks * 512, 2 * M)

    def test_convert_snapshot(self):
        path = self.make('a', '8M')
        blkio(path, ['w 0 1048576 1'])
        caisson('snapshot', 'create', path, 'one')
        blkio(path, ['w 0 2097152 2'])
        caisson('convert', path, self.path('old'), '--snapshot', 'one', '--format', 'raw')
        caisson('convert', path, self.path('new'), '--format', 'raw')
        blkio(self.path('old'), ['r 0 1048576 1', 'r 1048576 1048576 0'], '-f', 'raw')
        blkio(self.path('new'), ['r 0 2097152 2'], '-f', 'raw')
        self.refused(NOT_FOUND, ['two'], 'convert', path, self.path('none'), '--snapshot', 'two')

    def test_convert_onto_backing(self):
        base = self.make('base', '16M')
        blkio(base, ['w 0 8388608 1'])
        caisson('create', self.path('top'), '--backing', 'base,format=qcow2')
        blkio(self.path('top'), ['w 1048576 65536 2', 'z 4194304 131072'])
        caisson('convert', self.path('top'), self.path('flat'))
        caisson('convert', self.path('flat'), self.path('thin'), '--backing', 'base,format=qcow2')
        qemu_img('compare', self.path('top'), self.path('thin'))
        self.assertLess(os.stat(self.path('thin')).st_blocks * 512, M)

    def test_backing_is_not_replaced(self):
        """--force does not put an image in the place of a file that it is going to stand on."""
        base, source = self.make('base', '1M', '--data-file', self.path('data')), self.make('source', '1M')
        for path in (base, source):
            blkio(path, ['w 0 65536 4'], '-f', 'qcow2')
        middle = self.make('middle', '1M', '--backing', base)
        for backing in (base, middle):
            self.refused(FAILED, [base, 'its own backing'], 'convert', source, base, '--backing', backing, '--force')
            self.refused(FAILED, [base, 'its own backing'], 'create', base, '--backing', backing, '--force')
            self.refused(CONFLICT, ['data', 'in use'], 'convert', source, self.path('data'), '--backing', backing, '--force')
        caisson('compare', source, middle)
        caisson('convert', source, middle, '--backing', base, '--force')
        caisson('compare', source, middle)

    def test_convert_errors(self):
        source, target = self.make('source', '4M'), self.path('target')
        other = self.make('other', '4M')
        before = self.files()
        for code, words, command in (
                (USAGE, ['SOURCE'], []), (USAGE, ['TARGET'], [source]), (NOT_FOUND, ['missing'], [self.path('missing'), target]),
                (CONFLICT, ['other', '--force'], [source, other]), (USAGE, ['source and the target'], [source, source, '--force']),
                (USAGE, ['compression'], [source, target, '--format', 'raw', '--compress']),
                (USAGE, ['sparse'], [source, target, '--sparse', '3000']), (USAGE, ['sparse'], [source, target, '--sparse', 'x']),
                (USAGE, ['threads'], [source, target, '--threads', '0']), (USAGE, ['progress'], [source, target, '--progress', 'x']),
                (NOT_FOUND, ['no/'], [source, self.path('no/such')]), (NOT_FOUND, ['one'], [source, target, '--snapshot', 'one']),
                (USAGE, ['backing files'], [source, target, '--format', 'raw', '--backing', 'other'])):
            self.refused(code, words, 'convert', *command)
        self.assertEqual(self.files(), before)

    def test_convert_full_disk(self):
        """No space left: one line, and nothing left behind."""
        if os.geteuid() != 0:
            self.skipTest('needs root, for a small file system')
        source = self.path('source')
        with open(source, 'wb') as f:
            f.write(os.urandom(16 * M))
        script = f'mount -t tmpfs -o size=8M none {self.folder}/small && {CAISSON} disk convert {source} {self.folder}/small/x; ' \
                 f'echo $?; ls -A {self.folder}/small'
        os.mkdir(self.path('small'))
        done = run('unshare', '-m', 'sh', '-c', script)
        self.assertEqual(done.stdout, '1\n')
        self.assertRegex(done.stderr, r'\Acaisson: disk .*/small/x: .*space.*\n\Z')

    def big(self):
        path = self.path('big')
        with open(path, 'wb') as f:
            for _ in range(24):
                f.write(os.urandom(8 * M))
        return path

    def test_convert_interrupted(self):
        """Ctrl-C: nothing is left, the source is untouched, the exit code says which signal."""
        source = self.big()
        for number, words in ((signal.SIGINT, ['--compress', '--compression', 'zlib']), (signal.SIGTERM, ['--compress'])):
            with subprocess.Popen([CAISSON, 'disk', 'convert', source, self.path('target'), *words, '--progress', 'json',
                                   '--threads', '1'], stderr=subprocess.PIPE, text=True) as job:
                line = job.stderr.readline() # it is under way
                self.assertEqual(json.loads(line)['state'], 'running')
                job.send_signal(number)
                rest = job.stderr.read().splitlines()
                job.wait()
            self.assertEqual(job.returncode, 128 + number)
            self.assertIn('cancelled', rest[-1])
            self.assertEqual(json.loads(rest[-2])['state'], 'failed')
            self.assertEqual(self.files(), ['big'])

    def test_progress(self):
        source = self.big()
        done = caisson('convert', source, self.path('target'), '--format', 'raw', '--sparse', '0', '--progress', 'json')
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        self.assertEqual((lines[-1]['state'], lines[-1]['done_bytes'], lines[-1]['total_bytes']), ('done', 192 * M, 192 * M))
        seen = [line['done_bytes'] for line in lines]
        self.assertEqual(seen, sorted(seen))
        done = caisson('convert', source, self.path('target'), '--force', '--format', 'raw')
        self.assertEqual(done.stderr, '') # no terminal, no bar
        self.assertIn('\x1b[32m', self.bar(source, {}))
        plain = self.bar(source, {'NO_COLOR': '1'})
        self.assertNotIn('\x1b[32m', plain)
        self.assertRegex(plain, r'convert +\d+% \[')
        self.assertTrue(plain.endswith('\r\x1b[K'), repr(plain[-40:]))

    def bar(self, source, env):
        master, slave = os.openpty()
        job = subprocess.Popen([CAISSON, 'disk', 'convert', source, self.path('target'), '--compress', '--force'], stderr=slave,
                               env={**os.environ, 'TERM': 'xterm', **env})
        os.close(slave)
        text = b''
        while job.poll() is None or select.select([master], [], [], 0)[0]:
            try:
                if select.select([master], [], [], 0.1)[0]:
                    text += os.read(master, 4096)
            except OSError:
                break
        os.close(master)
        self.assertEqual(job.wait(), 0)
        return text.decode()

    # ---- resize

    def test_resize(self):
        for words in (['--format', 'raw'], []):
            path = self.make('r' + ''.join(words), '8M', *words)
            blkio(path, ['w 0 8388608 5'], '-f', 'raw' if words else 'qcow2')
            for text, size in (('16M', 16 * M), ('+4M', 20 * M), ('4M', None), ('-2M', None)):
                shrink = [] if size else ['--shrink']
                if not size:
                    self.refused(USAGE, [path, '--shrink'], 'resize', path, text)
                caisson('resize', path, text, *shrink)
            self.assertEqual(qemu_json('info', path)['virtual-size'], 2 * M)
            caisson('resize', path, '8M')
            blkio(path, ['r 0 2097152 5', 'r 2097152 6291456 0'], '-f', 'raw' if words else 'qcow2')
            for text in ('x', '0', '1', '+', '-8M', '-100M', '+8E', '1000'):
                self.refused(USAGE, [], 'resize', path, text)
        # A shrink that was killed has changed the size, and left the clusters behind the new end.
        for backing in (None, self.make('below', '8M')):
            path = self.make('killed', '8M', '--cluster-size', '4K', '--force', *(['--backing', backing] if backing else []))
            blkio(path, ['w 0 8388608 5'], '-f', 'qcow2')
            with open(path, 'r+b') as f:
                f.seek(24)
                f.write((2 * M - 1024).to_bytes(8, 'big'))
            caisson('resize', path, '8M')
            blkio(path, ['r 0 2096128 5', 'r 2096128 6292480 0'], '-f', 'qcow2')
            qemu_img('check', path)
        self.refused(USAGE, ['SIZE'], 'resize', path)
        self.refused(NOT_FOUND, ['missing'], 'resize', self.path('missing'), '1M')

    # ---- snapshots and bitmaps

    def test_snapshots(self):
        path = self.make('a', '8M')
        blkio(path, ['w 0 65536 1'])
        caisson('snapshot', 'create', path, 'one')
        blkio(path, ['w 0 65536 2'])
        caisson('snapshot', 'create', path, 'two')
        listed = caisson_json('snapshot', 'ls', path)
        self.assertEqual([s['name'] for s in listed], ['one', 'two'])
        age = time.time() - time.mktime(time.strptime(listed[0]['date'][:19], '%Y-%m-%dT%H:%M:%S')) + time.timezone
        self.assertLess(abs(age), 600)
        self.assertIn('one', caisson('snapshot', 'ls', path).stdout)
        self.refused(CONFLICT, ['one', 'exists'], 'snapshot', 'create', path, 'one')
        caisson('snapshot', 'apply', path, 'one')
        blkio(path, ['r 0 65536 1'])
        caisson('snapshot', 'apply', path, 'two')
        blkio(path, ['r 0 65536 2'])
        caisson('snapshot', 'rm', path, 'one')
        for verb in ('apply', 'rm'):
            self.refused(NOT_FOUND, ['one', 'snapshot ls'], 'snapshot', verb, path, 'one')
        caisson('snapshot', 'rm', path, 'two')
        self.assertEqual(caisson_json('snapshot', 'ls', path), [])
        qemu_img('check', '-q', path)
        raw = self.make('r', '1M', '--format', 'raw')
        for words in (['ls', raw], ['create', raw, 'x'], ['apply', raw, 'x'], ['rm', raw, 'x']):
            self.refused(FAILED, ['raw', 'snapshots', 'qcow2'], 'snapshot', *words)
        for name in ('', 'x' * 2000, 'a\nb'):
            self.refused(USAGE, ['snapshot'] if name else [], 'snapshot', 'create', path, name)

    def test_bitmaps(self):
        path = self.make('a', '8M')
        caisson('bitmap', 'add', path, 'b')
        caisson('bitmap', 'add', path, 'small', '--granularity', '4K', '--disabled')
        blkio(path, ['w 1048576 65536 1'])
        told = {b['name']: b for b in caisson_json('bitmap', 'ls', path)}
        self.assertEqual((told['b']['granularity'], told['b']['enabled'], told['b']['dirty_bytes']), (65536, True, 65536))
        self.assertEqual((told['small']['granularity'], told['small']['enabled'], told['small']['dirty_bytes']), (4096, False, 0))
        caisson('bitmap', 'enable', path, 'small')
        caisson('bitmap', 'disable', path, 'b')
        caisson('bitmap', 'clear', path, 'b')
        blkio(path, ['w 2097152 4096 1'])
        told = {b['name']: (b['enabled'], b['dirty_bytes']) for b in caisson_json('bitmap', 'ls', path)}
        self.assertEqual(told, {'b': (False, 0), 'small': (True, 4096)})
        theirs = qemu_json('info', path)['format-specific']['data']['bitmaps']
        self.assertEqual({b['name']: 'auto' in b['flags'] for b in theirs}, {'b': False, 'small': True})
        self.assertIn('small', caisson('bitmap', 'ls', path).stdout)
        self.refused(CONFLICT, ['b', 'exists'], 'bitmap', 'add', path, 'b')
        self.refused(USAGE, ['granularity'], 'bitmap', 'add', path, 'c', '--granularity', '1000')
        for verb in ('rm', 'enable', 'disable', 'clear'):
            self.refused(NOT_FOUND, ['none'], 'bitmap', verb, path, 'none')
        caisson('bitmap', 'rm', path, 'b')
        self.assertEqual([b['name'] for b in caisson_json('bitmap', 'ls', path)], ['small'])
        self.refused(FAILED, ['raw'], 'bitmap', 'ls', self.make('r', '1M', '--format', 'raw'))

    # ---- chains

    def chain(self):
        base, top = self.make('base', '8M'), self.path('top')
        blkio(base, ['w 0 4194304 1'])
        caisson('create', top, '--backing', 'base,format=qcow2')
        blkio(top, ['w 1048576 65536 2', 'z 2097152 65536'])
        return base, top

    def test_commit(self):
        base, top = self.chain()
        caisson('commit', top, '--keep')
        self.assertTrue([x for x in caisson_json('map', top) if x['allocated'] and x['depth'] == 0])
        caisson('commit', top)
        self.assertFalse([x for x in caisson_json('map', top) if x['allocated'] and x['depth'] == 0])
        blkio(base, ['r 0 1048576 1', 'r 1048576 65536 2', 'r 2097152 65536 0', 'r 2162688 65536 1'])
        for path in (base, top):
            qemu_img('check', '-q', path)
        self.refused(USAGE, [base, 'no backing file'], 'commit', base)
        os.unlink(base)
        self.refused(NOT_FOUND, ['base'], 'commit', top)

    def test_rebase(self):
        base, top = self.chain()
        other = self.make('other', '6M', '--format', 'raw')
        blkio(other, ['w 0 6291456 7'], '-f', 'raw')
        caisson('convert', top, self.path('copy'))
        for words in (['--backing', 'other,format=raw'], ['--backing', 'base'], []):
            caisson('rebase', top, *words)
            qemu_img('compare', top, self.path('copy'))
            qemu_img('check', '-q', top)
        self.assertNotIn('backing-filename', qemu_json('info', top))
        caisson('rebase', top, '--backing', 'anything,format=raw', '--unsafe')
        self.assertEqual(qemu_json('info', top)['backing-filename'], 'anything')
        self.refused(USAGE, ['format'], 'rebase', top, '--backing', 'anything', '--unsafe')
        caisson('rebase', top, '--unsafe')
        self.refused(NOT_FOUND, ['missing'], 'rebase', top, '--backing', 'missing')
        self.refused(FAILED, [top, 'its own backing file'], 'rebase', top, '--backing', 'top')
        caisson('create', self.path('above'), '--backing', 'top,format=qcow2')
        self.refused(FAILED, [top, 'its own backing file'], 'rebase', top, '--backing', 'above,format=qcow2')
        self.refused(FAILED, ['raw'], 'rebase', other, '--backing', 'base')
        self.assertEqual(qemu_json('info', base)['virtual-size'], 8 * M)

    def test_compare(self):
        a, b = self.make('a', '8M'), self.make('b', '8M', '--format', 'raw')
        self.assertEqual(caisson('compare', a, b).stdout, 'identical\n')
        for path, fmt in ((a, 'qcow2'), (b, 'raw')):
            blkio(path, ['w 1048576 4096 1'], '-f', fmt)
        caisson('compare', a, b)
        blkio(b, ['w 1052160 512 2'], '-f', 'raw')
        done = caisson('compare', a, b, code=FAILED)
        self.assertEqual((done.stdout, done.stderr), ('different: content, from byte 1052160 on\n', ''))
        self.assertEqual(caisson_json('compare', a, b, code=FAILED), [{'identical': False, 'difference': 'content', 'offset': 1052160}])
        longer = self.make('longer', '9M')
        caisson('compare', self.make('c', '8M'), longer)
        done = caisson('compare', self.path('c'), longer, '--strict', code=FAILED)
        self.assertIn('size', done.stdout)
        blkio(longer, ['w 0 65536 0'])
        self.assertIn('allocation', caisson('compare', self.make('d', '9M'), longer, '--strict', code=FAILED).stdout)
        self.refused(NOT_FOUND, ['missing'], 'compare', a, self.path('missing'))
        self.refused(USAGE, ['FILE2'], 'compare', a)

    def test_words(self):
        self.refused(USAGE, ["did you mean 'caisson disk convert'"], 'konvert')
        self.refused(USAGE, ["did you mean 'caisson disk snapshot apply'"], 'snapshot', 'aply')
        self.refused(USAGE, ['--cluster-size'], 'create', 'x', '1M', '--cluster-siz', '4K')
        self.assertTrue(re.search(r'disk convert', run(CAISSON, 'disk', '--help').stdout))


if __name__ == '__main__':
    if not shutil.which('qemu-img'):
        print('needs qemu-img (qemu-utils), to compare with')
        sys.exit(77)
    unittest.main()
