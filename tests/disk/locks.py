#!/usr/bin/env python3
"""Our programs and QEMU's exclude each other from an image in the same way as among themselves: readers share, a writer is alone,
and whoever asks to look all the same may. One of them holds an image, the other tries."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import disk
from disk import CAISSON, check, run

CONFLICT = 4


def hold_qemu_io(path, form, writes):
    holder = subprocess.Popen(['qemu-io', '-f', form, *([] if writes else ['-r']), path], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    holder.stdin.write('read 0 512\n')
    holder.stdin.flush()
    seen = ''
    while '512 bytes' not in seen: # it answers when it has the image
        line = holder.stdout.readline()
        check(line, f'qemu-io: {seen}')
        seen += line
    return holder


def hold_qemu_nbd(path, form, writes):
    address = path + '.nbd'
    holder = subprocess.Popen(['qemu-nbd', '-k', address, '-f', form, '-t', *([] if writes else ['-r']), path])
    # It listens before it opens the image.
    while subprocess.run(['nbdinfo', '--size', f'nbd+unix:///?socket={address}'], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, check=False).returncode != 0:
        check(holder.poll() is None, 'qemu-nbd ended')
    return holder


def hold_ours(path, form, writes):
    """Its output is not read, so that it stands still with the image open as soon as the pipe is full."""
    holder = subprocess.Popen([disk.BLKIO, '-f', form, *([] if writes else ['-r']), path], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    with contextlib.suppress(BrokenPipeError): # it reads all before it opens the image
        holder.stdin.write('f 0 0 0\n' * 20000)
        holder.stdin.close()
    check(holder.stdout.read(5) == 'begin', 'it does not run')
    return holder


def end(holder):
    holder.kill()
    holder.wait()
    for pipe in (holder.stdin, holder.stdout):
        if pipe:
            pipe.close()


HOLDERS = {'qemu-io': hold_qemu_io, 'qemu-nbd': hold_qemu_nbd, 'ours': hold_ours}


class Locks(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='caisson-locks-', dir=disk.fast_folder())
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def ours(self, path, free_to_read, free_to_write):
        done = run(CAISSON, 'disk', 'map', path, code=0 if free_to_read else CONFLICT)
        if not free_to_read:
            self.assertIn('in use', done.stderr)
        done = run(CAISSON, 'disk', 'resize', path, '+1M', code=0 if free_to_write else CONFLICT)
        if not free_to_write:
            self.assertIn('in use', done.stderr)
        run(CAISSON, 'disk', 'info', path, '--force-share')

    def qemu(self, path, form, free_to_read, free_to_write):
        for free, command in ((free_to_read, ['-r']), (free_to_write, [])):
            done = run('qemu-io', '-f', form, *command, '-c', 'read 0 512', path, code=None)
            self.assertEqual(done.returncode == 0, free, done.stdout + done.stderr)
            if not free:
                self.assertIn('lock', done.stdout + done.stderr)

    def test_matrix(self):
        for holder, hold in HOLDERS.items():
            for form in ('raw', 'qcow2'):
                for writes in (False, True):
                    with self.subTest(holder=holder, form=form, writes=writes):
                        path = os.path.join(self.folder, f'{holder}-{form}-{writes}')
                        run('qemu-img', 'create', '-q', '-f', form, path, '4M')
                        process = hold(path, form, writes)
                        try:
                            self.ours(path, not writes, False)
                            if holder == 'ours': # what QEMU's programs do among themselves is their affair
                                self.qemu(path, form, not writes, False)
                        finally:
                            end(process)
                        self.ours(path, True, True)
                        self.qemu(path, form, True, True)

    def test_backing(self):
        """A base is only read: programs of both kinds may use it at once, and nobody may write to it."""
        base, one, two = (os.path.join(self.folder, name) for name in ('base', 'one', 'two'))
        run('qemu-img', 'create', '-q', '-f', 'qcow2', base, '4M')
        for top in (one, two):
            run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top)
        for first, second in ((hold_ours, hold_qemu_io), (hold_qemu_io, hold_ours)):
            holders = [first(one, 'qcow2', True), second(two, 'qcow2', True)]
            try:
                self.ours(base, True, False)
                self.qemu(base, 'qcow2', True, False)
            finally:
                for process in holders:
                    end(process)


if __name__ == '__main__':
    if not shutil.which('qemu-io') or not shutil.which('qemu-nbd'):
        print('needs qemu-io and qemu-nbd (qemu-utils), to exclude each other with')
        sys.exit(77)
    unittest.main()
