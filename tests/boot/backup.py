#!/usr/bin/env python3
"""Backups of a running guest: backup.py CASE ENGINE. The guest writes to two qcow2 disks and a raw one, from a shell on its
serial console; what is restored is compared with what the guest had at that instant, and qemu-img judges the files."""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import vm
from vm import check

PACKAGE = 'linux-image-cloud-amd64'
DISKS = (('a', 'qcow2', 32), ('b', 'qcow2', 24), ('disk2', 'raw', 16)) # name in the backup, format, MiB
NAME = 'backup-vm'


def caisson(*arguments, code=0):
    run = subprocess.run([vm.CAISSON, *arguments], capture_output=True, text=True, check=False, timeout=vm.TIMEOUT)
    check(run.returncode == code, f'{" ".join(arguments)}: exit code {run.returncode}, not {code}: {run.stderr}')
    return run


def refused(code, text, *arguments):
    run = caisson(*arguments, code=code)
    check(run.stderr.startswith('caisson: ') and text in run.stderr and run.stderr.count('\n') == 1,
          f'{" ".join(arguments)}: said {run.stderr!r}, without {text!r}')


def ask(**request):
    """One request to the VM's control socket; the reply."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(vm.TIMEOUT)
        sock.connect(os.path.join(os.environ['XDG_RUNTIME_DIR'], 'caisson', 'vm', NAME + '.sock')
                     if os.getuid() else os.path.join(os.environ['CAISSON_RUNTIME_DIR'], 'vm', NAME + '.sock'))
        sock.send(json.dumps(request).encode())
        return json.loads(sock.recv(1 << 20))


class Guest:
    """A guest with a shell, and its disks."""

    def __init__(self, running):
        self.vm = running
        self.count = 0
        running.wait_for('this is a shell in the initrd')
        self.do('B=/bin/busybox; dev="vda vdb vdc"')

    def do(self, command):
        """Run it in the guest; what it printed."""
        self.count += 1
        start = len(self.vm.output)
        self.vm.type(f'{command}; echo "EN""D{self.count} $?"\n')
        match = self.vm.wait_for(rf'END{self.count} (\d+)', start=start)
        check(match.group(1) == '0', f'in the guest: {command}: {match.group(1)}')
        return self.vm.output[start:match.start()]

    def write(self, seed):
        """Change many places of each disk, some zeroes among them, until it is on the disk."""
        self.do(f'for d in $dev; do for i in 1 3 4 8; do $B dd if=/dev/urandom of=/dev/$d bs=48k count=20 '
                f'seek=$((i * {seed} * 17 % 230)) conv=notrunc 2>/dev/null || false; done; '
                f'$B dd if=/dev/zero of=/dev/$d bs=64k count=9 seek={seed * 13 % 200} conv=notrunc 2>/dev/null; done; '
                '$B sync; true')

    def sums(self):
        """md5 of each disk, by its name in the backup."""
        self.do('$B sync; echo 3 >/proc/sys/vm/drop_caches')
        text = self.do('for d in $dev; do $B md5sum /dev/$d; done')
        found = [line.split()[0] for line in text.splitlines() if '  /dev/vd' in line]
        check(len(found) == len(DISKS), f'sums: {text!r}')
        return {disk[0]: md5 for disk, md5 in zip(DISKS, found)}


class Place:
    def __init__(self, folder):
        self.folder = folder
        self.dir = os.path.join(folder, 'points')
        self.options = ['--name', NAME, '--net', 'none']
        for i, (name, form, size) in enumerate(DISKS):
            path = os.path.join(folder, f'{name}.{form}')
            subprocess.run(['qemu-img', 'create', '-q', '-f', form, path, f'{size}M'], check=True)
            self.options += ['--disk', f'{path},format={form}' + (f',serial={name}' if form == 'qcow2' else '')]
            check(i != 2 or name == 'disk2', 'a disk without serial is called by its index')

    @contextlib.contextmanager
    def guest(self, engine, program=None):
        arguments = vm.boot(PACKAGE, '', 'root=/dev/none', self.options, engine)
        with vm.started(arguments, program=program) as running:
            yield Guest(running)

    def restore(self, point, disk, directory=None, form='raw'):
        target = os.path.join(self.folder, f'restored-{disk}')
        caisson('disk', 'restore', directory or self.dir, '--point', str(point), '--disk', disk, '--to', target, '--format', form,
                '--force')
        return target

    def verify(self, point, sums, directory=None):
        """What is restored is what the guest had; qemu-img says so of the files of the backup, too."""
        directory = directory or self.dir
        for disk, md5 in sums.items():
            target = self.restore(point, disk, directory)
            with open(target, 'rb') as f:
                check(hashlib.md5(f.read()).hexdigest() == md5, f'point {point} of {disk} is not what the guest had')
            file = [row['file'] for row in self.points(directory) if (row['point'], row['disk']) == (point, disk)][0]
            subprocess.run(['qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'qcow2', target, os.path.join(directory, file)],
                           check=True)

    def points(self, directory=None):
        return json.loads(caisson('disk', 'backups', directory or self.dir, '--json').stdout)

    def check_images(self):
        for name in sorted(os.listdir(self.dir)):
            if name.endswith('.qcow2'):
                subprocess.run(['qemu-img', 'check', '-q', os.path.join(self.dir, name)], check=True)
                info = json.loads(subprocess.run(['qemu-img', 'info', '-U', '--output=json', os.path.join(self.dir, name)],
                                                 check=True, capture_output=True, text=True).stdout)
                check(('backing-filename' in info) == name.endswith('-inc.qcow2') and '/' not in info.get('backing-filename', ''),
                      f'{name}: its backing file is {info.get("backing-filename")}')

    def during(self, work, *arguments, **kinds):
        """Do work in the middle of a backup."""
        command = [vm.CAISSON, 'disk', 'backup', NAME, '--to', self.dir, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while True: # until the disks were frozen
                status = ask(op='backup-status')['backup']
                if (status['state'] == 'running' and status['total'] > 0) or process.poll() is not None:
                    break
                time.sleep(0.02)
            check(status['state'] == 'running' and process.poll() is None, f'it did not last long enough: {status}')
            work(process)
            out, err = process.communicate(timeout=vm.TIMEOUT)
            check(process.returncode == kinds.get('code', 0), f'backup: exit code {process.returncode}: {out} {err}')
            return err


@contextlib.contextmanager
def place():
    with vm.tempfile.TemporaryDirectory(prefix='caisson-backup-') as folder:
        os.environ['CAISSON_RUNTIME_DIR'] = os.path.join(folder, 'run')
        os.environ['CAISSON_STATE_DIR'] = os.path.join(folder, 'state')
        yield Place(folder)


def write_during(p, guest, seed, *arguments):
    """A backup at an instant that the guest does not write, while it writes right after; then what it was is restored."""
    before = guest.sums()
    p.during(lambda _: guest.write(seed), *arguments)
    check(guest.sums() != before, 'the guest has not written')
    p.verify(p.points()[-1]['point'], before)
    return before


def case_chain(engine):
    """A full backup and increments while the guest writes; the VM is started again between; the raw disk cannot go on then."""
    vm.need_engine(engine)
    with place() as p:
        with p.guest(engine) as guest:
            guest.write(1)
            first = write_during(p, guest, 2, '--bandwidth', '12M')
            second = write_during(p, guest, 3, '--bandwidth', '2M', '--incremental')
            write_during(p, guest, 5, '--bandwidth', '2M', '--compress')
            points = p.points()
            check([row['kind'] for row in points] == ['full'] * 3 + ['incremental'] * 6, f'kinds: {points}')
            check(all(row['copied'] < row['size'] / 2 for row in points[3:]), f'increments of {points[3:]}')
            p.verify(1, first) # the earlier ones are what they were
            p.verify(2, second)
            p.check_images()
            last = guest.sums()
            ask(op='quit')
            check(guest.vm.wait() == 0, 'the VM does not end by quit')
        with p.guest(engine) as guest:
            check(guest.sums() == last, 'the disks have changed while the VM was off')
            refused(2, 'is no qcow2 image', 'disk', 'backup', NAME, '--to', p.dir, '--incremental')
            check(len(p.points()) == 9, 'a refused backup has left a point')
            guest.do('dev="vda vdb"')
            guest.write(7)
            guest.do('dev="vda vdb vdc"')
            last = guest.sums()
            caisson('disk', 'backup', NAME, '--to', p.dir, '--disk', '1', '--disk', 'a', '--incremental')
            p.verify(4, {disk: last[disk] for disk in ('a', 'b')})
            run = caisson('disk', 'backup', NAME, '--to', p.dir)
            check('disk2 is no qcow2 image' in run.stderr and 'copied in full' in run.stderr, f'said {run.stderr!r}')
            p.verify(5, last)
            check([row['kind'] for row in p.points()[11:]] == ['incremental', 'incremental', 'full'], f'kinds: {p.points()[11:]}')
            p.check_images()


def case_instant(engine):
    """Backups at any time: of a counter that goes to one disk and then to the other, the first is ahead by one at most."""
    vm.need_engine(engine)
    with place() as p:
        with p.guest(engine) as guest:
            guest.do('(i=0; while [ ! -e /stop ]; do i=$((i + 1)); for d in vda vdb; do echo $i | '
                     '$B dd of=/dev/$d bs=512 seek=4096 conv=notrunc,sync,fsync 2>/dev/null; done; done) & true')
            seen = []
            for point in range(1, 6):
                caisson('disk', 'backup', NAME, '--to', p.dir)
                counters = []
                for disk in ('a', 'b'):
                    with open(p.restore(point, disk), 'rb') as f:
                        f.seek(4096 * 512)
                        counters.append(int(f.read(16).split(b'\n')[0].strip(b'\0') or b'0'))
                check(0 <= counters[0] - counters[1] <= 1, f'point {point}: the disks are at {counters}')
                seen.append(counters[0])
                print(f'figure: disks frozen for {ask(op="backup-status")["backup"]["frozen_us"]} us')
            check(seen == sorted(seen) and seen[-1] > seen[0], f'the counter did not count: {seen}')
            guest.do('echo >/stop')
            p.check_images()


def case_broken(engine):
    """Cancelled, out of room, killed: the earlier points stay, and the next increment lacks nothing."""
    vm.need_engine(engine)
    with place() as p:
        small = os.path.join(p.folder, 'small')
        os.mkdir(small)
        namespace = ['unshare', *([] if os.getuid() == 0 else ['-r']), '-m']
        room = subprocess.run([*namespace, 'true'], capture_output=True, check=False).returncode == 0
        script = f'mount -t tmpfs -o size=6M none {small} && exec "$@"'
        program = [*namespace, 'sh', '-c', script, 'sh', vm.CAISSON, 'vm', 'run'] if room else None
        with p.guest(engine, program) as guest:
            guest.write(1)
            first = guest.sums()
            caisson('disk', 'backup', NAME, '--to', p.dir)
            guest.write(2)
            err = p.during(lambda process: (guest.write(3), process.send_signal(signal.SIGINT)), '--bandwidth', '64K', code=130)
            check('canceled' in err, f'said {err!r}')
            check(len(p.points()) == 3 and len([n for n in os.listdir(p.dir) if n.endswith('.qcow2')]) == 3, 'files are left')
            second = guest.sums()
            caisson('disk', 'backup', NAME, '--to', p.dir, '--incremental')
            p.verify(2, second)
            p.verify(1, first)
            if room:
                refused(1, 'No space left on device', 'disk', 'backup', NAME, '--to', os.path.join(small, 'x'), '--name', 'other')
                check(guest.sums() == second, 'the guest has lost something')
            refused(3, 'no disk', 'disk', 'backup', NAME, '--to', p.dir, '--disk', '3')
            refused(3, 'no disk', 'disk', 'backup', NAME, '--to', p.dir, '--disk', 'nosuch')
            refused(2, 'has the chain default', 'disk', 'backup', NAME, '--to', p.dir, '--name', 'other')
            refused(3, 'make its parent', 'disk', 'backup', NAME, '--to', os.path.join(p.folder, 'no/such'))
            refused(4, 'running already', 'vm', 'run', *vm.boot(PACKAGE, '', '', ['--name', NAME, '--net', 'none'], engine))
            refused(2, 'several disks', 'disk', 'restore', p.dir, '--to', os.path.join(p.folder, 'r'))
            refused(3, 'no point 9', 'disk', 'restore', p.dir, '--point', '9', '--to', os.path.join(p.folder, 'r'))
            refused(3, "no disk 'z'", 'disk', 'restore', p.dir, '--disk', 'z', '--to', os.path.join(p.folder, 'r'))
            info = ask(op='info')['info']
            check([disk['format'] for disk in info['disks']] == ['qcow2', 'qcow2', 'raw'], f'info: {info}')
            check(info['disks'][0]['stats']['write']['ops'] == sum(info['disks'][0]['stats']['write']['response']['log2_us']) > 0,
                  'histogram')
            check(not ask(op='nonsense')['ok'] and not ask(op='quit', now=True)['ok'], 'nonsense is understood')
            check(ask(op='pause')['ok'], 'pause')
            check(ask(op='info')['info']['paused'], 'paused')
            at = len(guest.vm.output)
            guest.vm.type('echo "PAU""SED"\n')
            time.sleep(1)
            check('PAUSED' not in guest.vm.output[at:], 'the guest runs')
            check(ask(op='resume')['ok'], 'resume')
            guest.vm.wait_for('PAUSED', start=at)
            guest.write(5)
            pid = guest.vm.vmm_pid()

            def kill(_):
                guest.write(6)
                os.kill(pid, signal.SIGKILL)

            p.during(kill, '--bandwidth', '64K', code=1)
            guest.vm.wait()
        refused(3, 'no VM', 'disk', 'backup', NAME, '--to', p.dir)
        check(len(p.points()) == 6, 'a killed backup has left a point')
        p.verify(2, second)
        with p.guest(engine) as guest:
            refused(2, 'was not closed cleanly', 'disk', 'backup', NAME, '--to', p.dir, '--incremental', '--disk', 'a')
            last = guest.sums()
            caisson('disk', 'backup', NAME, '--to', p.dir)
            p.verify(3, last)
            p.verify(1, first)
            check([row['kind'] for row in p.points()[6:]] == ['full'] * 3, 'kinds after a crash')
            p.check_images()
        refused(3, 'no VM', 'disk', 'backup', 'nosuch', '--to', p.dir)
        refused(3, 'has no backups', 'disk', 'backups', p.folder)
        with open(os.path.join(p.dir, 'manifest.json'), encoding='utf-8') as f:
            text = f.read()
        shutil.copy(os.path.join(p.dir, 'manifest.json'), os.path.join(p.folder, 'manifest'))
        for old, new in (('a-0001-full.qcow2', '../secret'), ('"base": 1', '"base": 3'), ('"size"', '"siez"'), ('{', '[')):
            check(old in text.replace('"base":1', '"base": 1').replace('"size":', '"size" :') or old in text, f'no {old}')
            with open(os.path.join(p.dir, 'manifest.json'), 'w', encoding='utf-8') as f:
                f.write(text.replace('"base":1', '"base": 1').replace(old, new))
            refused(2, 'backup manifest', 'disk', 'backups', p.dir)


vm.main({name[len('case_'):]: function for name, function in globals().copy().items() if name.startswith('case_')})
