#!/usr/bin/env python3
"""VMs as instances, from an image to clones: vms.py CASE (see meson.build)

    create     what vm create makes of its options, and refuses
    states     a guest that counts is saved, snapshotted, taken back and cloned; its memory and disk tell
    copy       exec and cp, also where the guest lies
    ports      a port of the host leads to a VM on a network, and goes with it
    taken      a port that somebody else has costs a saved VM nothing, nor the one that has it
    broken     saved memory and snapshots that are damaged or gone are refused before anything is lost
    halfway    a restore that fails in the middle is ended
"""
import io
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time

import vmimage
from lab import CAISSON, CONFLICT, ENGINE, FAILED, MACHINE, NOT_FOUND, USAGE, Failure, check, inspect, output, refused, run, until_log

BOOT = 240 # seconds; the machine may be slow
DISK = os.path.join(vmimage.guest_cache(), 'disk/root.ext4')


def state(name):
    return inspect(name)['state']


class Console:
    """A shell in the guest, by attach."""

    def __init__(self, name):
        self.process = subprocess.Popen([CAISSON, 'attach', name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.serial = 0

    def __enter__(self):
        for _ in range(2): # whatever is lost while the shell starts does no harm
            self.ask('true')
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, command, timeout=BOOT):
        """What a command prints. A backslash is in the mark, so that the echo of the command is not taken for it."""
        self.serial += 1
        mark = f'done-{os.getpid()}-{self.serial}'
        # A shell that has just begun may lose the beginning of the line: no quotes, of which it would then wait for the end.
        line = f'{command}; echo {mark[:4]}\\{mark[4:]}\n'.encode()
        seen, end, sent = b'', time.monotonic() + timeout, 0
        while time.monotonic() < end:
            if time.monotonic() - sent > 5: # a shell that is not there yet loses what is typed
                self.process.stdin.write(line)
                self.process.stdin.flush()
                sent = time.monotonic()
            seen += self.process.stdout.read() or b''
            text = re.sub(r'\x1b\[[?0-9;]*[a-zA-Z]|\r', '', seen.decode(errors='replace'))
            at = text.find(f'\n{mark}')
            if at >= 0:
                return text[:at].rsplit(f'\\{mark[4:]}', 1)[-1].strip()
            time.sleep(0.02)
        raise Failure(f'{command!r}: no answer; the console says {seen[-500:]!r}')


def import_image(disk=None, append='', name='debian'):
    folder = os.path.join(os.environ['CAISSON_STATE_DIR'] + '.image')
    vmimage.make_guest(folder, disk, append)
    output('image', 'import', '--name', name, folder)
    shutil.rmtree(folder)


def case_create():
    """Options, defaults of the image, and one line for what is wrong."""
    import_image()
    key = os.path.join(os.environ['CAISSON_STATE_DIR'], 'key.pub')
    with open(key, 'w', encoding='utf-8') as f:
        f.write('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0 me\n')
    check(output('vm', 'create', 'web', '--image', 'debian', '--disk', '1G', '--disk', '32M', '--ssh-key', key, '--user', 'anna',
                 '--hostname', 'web.example', '--restart', 'on-failure:3', '--label', 'a=b', '-p', '0.0.0.0:8080:80',
                 '--health-cmd', 'systemctl is-system-running', '--health-retries', '5') == 'web\n',
          'create does not print the name')
    web = inspect('web')
    vm, folder = web['spec']['vm'], web['directory']
    check(vm['memory'] == 256 << 20 and vm['cpus'] == 1 and 'root=/dev/vda' in vm['append'], f'defaults of the image: {vm}')
    check(os.path.realpath(vm['kernel']).startswith(os.environ['CAISSON_STATE_DIR']), f'kernel {vm["kernel"]}')
    health = web['spec']['health']
    check(health['command'] == ['/bin/sh', '-c', 'systemctl is-system-running'] and health['retries'] == 5, f'health {health}')
    disks = [os.path.basename(d['path']) for d in vm['disks']]
    check(disks == ['root.qcow2', 'disk1.qcow2', 'seed.iso'], f'disks {disks}')
    check(vm['disks'][2]['read_only'], 'the seed can be written to')
    for name, size in (('root', 1 << 30), ('disk1', 32 << 20)):
        info = json.loads(subprocess.run(['qemu-img', 'info', '--output=json', f'{folder}/{name}.qcow2'], capture_output=True,
                                         text=True, check=True).stdout)
        check(info['virtual-size'] == size, f'{name}: {info}')
        check(('backing-filename' in info) == (name == 'root'), f'{name}: {info}')
    check(vm['nets'][0]['network'] == 'default' and vm['nets'][0]['mac'], f'nets {vm["nets"]}')
    check(vm['nets'][0]['forwards'][0]['host_port'] == 8080, f'nets {vm["nets"]}')
    label = subprocess.run(['blkid', '-p', '-s', 'LABEL', '-o', 'value', f'{folder}/seed.iso'], capture_output=True, text=True,
                           check=True).stdout.strip()
    check(label.lower() == 'cidata', f'the seed is labelled {label!r}')

    created = output('vm', 'create', '--kernel', vm['kernel'], '--no-seed', '--net', 'none').strip()
    check(re.fullmatch('[a-z]+-[a-z]+(-[0-9]+)?', created), f'generated name {created!r}')
    check(not inspect(created)['spec']['vm'].get('disks'), 'disks out of nothing')
    names = set(output('ls', '-q').split()) and {i['name'] for i in json.loads(output('ls', '--json'))}
    for arguments, code, *words in (
            (('vm', 'create', 'x'), USAGE, '--image'),
            (('vm', 'create', 'x', '--image', 'debain'), NOT_FOUND, "debian"),
            (('vm', 'create', 'web', '--image', 'debian'), CONFLICT, 'web'),
            (('vm', 'create', 'x', '--image', 'debian', '--disk', '32M'), USAGE, 'at least'),
            (('vm', 'create', 'x', '--image', 'debian', '--memory', '1K'), USAGE, 'memory'),
            (('vm', 'create', 'x', '--image', 'debian', '--ssh-key', '/dev/null'), USAGE, r'\.pub'),
            (('vm', 'create', 'x', '--image', 'debian', '--user-data', key), USAGE, 'cloud-config'),
            (('vm', 'create', 'x', '--image', 'debian', '--disk', '/nonexistent.qcow2'), NOT_FOUND, 'nonexistent'),
            (('vm', 'create', 'x', '--image', 'debian', '-p', '80'), USAGE, 'HOSTPORT'),
            (('vm', 'create', 'x', '--image', 'debian', '--health-interval', '1ms'), USAGE, 'health-interval'),
            (('create', 'debian'), CONFLICT, 'VM'),
            (('vm', 'create', 'x', '--image', 'debian', '--hostname', 'a b'), USAGE, 'host name'),
            (('vm', 'create', 'X!', '--image', 'debian'), USAGE, 'name')):
        refused(arguments, code, *words)
    check({i['name'] for i in json.loads(output('ls', '--json'))} == names, 'a refused VM was made')
    check(len(os.listdir(os.path.dirname(folder))) == len(names), 'a refused VM left a folder')
    output('clone', 'web', 'copy')
    copy = inspect('copy')['spec']['vm']
    check(copy['nets'][0]['mac'] != vm['nets'][0]['mac'] and not copy['nets'][0].get('forwards'), 'a clone without an identity')
    check(all(d['path'].startswith(inspect('copy')['directory']) for d in copy['disks']), f'disks of the clone: {copy["disks"]}')
    for name in (*names, 'copy'):
        output('rm', name)
    check(not os.listdir(os.path.dirname(folder)), 'rm leaves files')


def case_states():
    """What the guest had in memory and on its disk says to which state it went back."""
    import_image(DISK, 'console=ttyS0 quiet root=LABEL=caisson-root')
    output('vm', 'create', 'web', '--image', 'debian', '--net', 'none', '--start')
    with Console('web') as guest:
        guest.ask('word=first; echo one >/root/file; sync')
        said = guest.ask('echo $word $(cat /root/file)')
        check(said == 'first one', f'the guest does not keep words: {said!r}')
        check(output('snapshot', 'create', 'web', 'early') == 'early\n', 'snapshot create')
        guest.ask('word=second; echo two >/root/file; sync')
    refused(('snapshot', 'create', 'web', 'early'), CONFLICT, 'early')
    refused(('snapshot', 'restore', 'web', 'erly'), NOT_FOUND, "did you mean 'early'")
    check(output('save', 'web') == 'web\n' and state('web') == 'saved', 'save')
    output('start', 'web')
    with Console('web') as guest:
        check(guest.ask('echo $word $(cat /root/file)') == 'second two', 'after save and start')
    output('clone', 'web', 'copy')
    output('snapshot', 'restore', 'web', 'early')
    check(state('web') == 'running', 'a VM that ran does not run after restore')
    with Console('web') as guest:
        check(guest.ask('echo $word $(cat /root/file)') == 'first one', 'after restore')
        guest.ask('word=third; echo three >/root/file; sync')
    output('save', 'web')
    rows = json.loads(output('snapshot', 'ls', '--json'))
    check([r['name'] for r in rows] == ['early'] and rows[0]['memory_bytes'] > 1 << 20, f'snapshots {rows}')
    output('save', '--discard', 'web')
    check(state('web') == 'exited', f'after discard it is {state("web")}')
    output('start', 'web')
    with Console('web') as guest:
        check(guest.ask('echo [$word] $(cat /root/file)') == '[] three', 'a discarded memory came back')
    output('kill', 'web')
    output('start', 'copy')
    with Console('copy') as guest:
        check(guest.ask('cat /root/file') == 'two', 'the clone has another disk')
    output('kill', 'copy')
    output('snapshot', 'rm', 'web', 'early')
    root = os.path.join(inspect('web')['directory'], 'root.qcow2')
    for disk in (root, os.path.join(inspect('copy')['directory'], 'root.qcow2')):
        left = subprocess.run(['qemu-img', 'snapshot', '-l', disk], capture_output=True, text=True, check=True).stdout
        check('caisson-' not in left, f'{disk}: {left}')
        subprocess.run(['qemu-img', 'check', disk], capture_output=True, check=True)
    output('rm', 'web', 'copy')


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def case_ports():
    """A connection to the host's port is answered in the guest, while the VM runs and no longer."""
    import_image(DISK, 'console=ttyS0 quiet root=LABEL=caisson-root')
    port = free_port()
    output('vm', 'create', 'web', '--image', 'debian', '-p', f'{port}:7', '--start')
    with Console('web') as guest:
        guest.ask('while :; do busybox nc -l -p 7 -e cat; done >/dev/null 2>&1 & true')
    end = time.monotonic() + BOOT
    said = b''
    while said != b'hello\n' and time.monotonic() < end:
        try:
            with socket.create_connection(('127.0.0.1', port), 5) as s:
                s.settimeout(5)
                s.sendall(b'hello\n')
                said = s.recv(64)
        except OSError:
            time.sleep(0.3)
    check(said == b'hello\n', f'the guest says {said!r}')
    output('vm', 'create', 'other', '--image', 'debian', '-p', f'{port}:7')
    done = run('start', 'other')
    check(done.returncode != 0 and str(port) in done.stderr, f'a port twice: {done.returncode} {done.stderr!r}')
    output('kill', 'web')
    output('start', 'other')
    output('rm', '-f', 'web', 'other')


def lying_tar(entries):
    """An archive of (name, type, link, mode), each file with content."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as tar:
        for name, kind, link, mode in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode, entry.size = kind, link, mode, 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(b'evil'))
    return data.getvalue()


def case_copy():
    """exec and cp by the agent, also of a guest that lies."""
    with tempfile.TemporaryDirectory() as folder:
        output('vm', 'create', 'web', '--kernel', os.path.join(vmimage.guest_cache(), 'linux-image-cloud-amd64/vmlinuz'), '--initrd',
               vmimage.agent_initrd(folder), '--append', 'console=ttyS0 quiet panic=-1 caisson.test=agent', '--no-seed', '--net', 'none', '--start')
        check(run('exec', 'web', 'echo', 'up').stdout == 'up\n', 'exec')
        output('exec', '-t', '-d', 'web', 'sh', '-c', 'echo here >/tmp/detached')
        here, out = os.path.join(folder, 'here'), os.path.join(folder, 'out')
        os.makedirs(os.path.join(here, 'sub'))
        os.mkdir(out)
        for name in ('a', 'sub/b'):
            with open(os.path.join(here, name), 'w', encoding='ascii') as f:
                f.write(name)
        os.chmod(os.path.join(here, 'a'), 0o4755)
        for source, target, found in ((here, '/tmp', '/tmp/here/sub/b'), (here, '/tmp/new', '/tmp/new/sub/b'),
                                      (f'{here}/.', '/tmp/content', '/tmp/content/sub/b'), (f'{here}/sub/..', '/tmp/up', '/tmp/up/sub/b'), (f'{here}/a', '/tmp/b', '/tmp/b')):
            output('cp', source, f'web:{target}')
            output('exec', 'web', 'test', '-f', found)
            check('caisson-cp' not in output('exec', 'web', 'ls', '-a', '/tmp'), f'{source} to {target} leaves something')
        for source, target, found in (('/tmp/new', out, 'new/sub/b'), ('/tmp/new', f'{out}/named', 'named/sub/b'), ('/tmp/new/a', f'{out}/f', 'f'),
                                      ('/tmp/new/.', f'{out}/content', 'content/sub/b'), ('/tmp/new/.', out, 'sub/b')):
            output('cp', f'web:{source}', target)
            check(os.path.isfile(os.path.join(out, found)), f'{source} to {target}: {found} is not there')
            check(not [n for n in os.listdir(out) if 'caisson-cp' in n], f'{source} to {target} leaves something')
        check(os.stat(f'{out}/new/a').st_mode & 0o7777 == 0o755, 'setuid came out of a guest')
        # What fails here is told, not that the pipe is broken.
        output('exec', 'web', 'sh', '-c', 'mkdir /tmp/big && head -c 5000000 /dev/zero >/tmp/big/a && cp /tmp/big/a /tmp/big/b')
        os.makedirs(f'{out}/big/a')
        refused(('cp', 'web:/tmp/big', out), 1, 'tar big/a: Is a directory')
        refused(('cp', f'{here}/none', 'web:/tmp'), NOT_FOUND, 'none: No such file')
        refused(('cp', 'web:/tmp/none', out), NOT_FOUND, 'none')
        refused(('cp', 'web:/tmp/..', out), USAGE, 'absolute path')
        # A tar of the guest's own making.
        DIR, FILE, SYM, LNK, CHR = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
        with open(f'{out}/.profile', 'w', encoding='ascii') as f:
            f.write('mine')
        for lie in ([('.profile', FILE, '', 0o644)], [('new', DIR, '', 0o755), ('../out/.profile', FILE, '', 0o644)],
                    [('new', DIR, '', 0o755), ('new/l', SYM, '..', 0o777), ('new/l/.profile', FILE, '', 0o644)],
                    [('new', DIR, '', 0o755), ('new/h', LNK, '.profile', 0o644)], [('new', DIR, '', 0o755), ('new/n', CHR, '', 0o666)]):
            with open(os.path.join(folder, 'lie'), 'wb') as f:
                f.write(lying_tar(lie))
            output('cp', os.path.join(folder, 'lie'), 'web:/tmp/lie')
            output('exec', 'web', 'sh', '-c', 'printf "#!/bin/sh\\ncat /tmp/lie\\n" >/tmp/tar && chmod 755 /tmp/tar && '
                   'for at in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do test -d $at && break; done; '
                   'test -e $at/tar && mv $at/tar /tmp/tar.real; cp /tmp/tar $at/tar')
            done = run('cp', 'web:/tmp/new', out)
            check(('not what was asked for' in done.stderr) == (SYM not in [kind for _, kind, _, _ in lie]), f'{lie}: {done.stderr!r}')
            output('exec', 'web', 'sh', '-c', 'for at in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do test -d $at && break; done; '
                   'rm $at/tar; test -e /tmp/tar.real && mv /tmp/tar.real $at/tar; true')
            with open(f'{out}/.profile', encoding='ascii') as f:
                check(f.read() == 'mine' and os.stat(f.fileno()).st_nlink == 1, f'written outside: {lie}')
            check(not os.path.exists(f'{out}/new/n'), 'a device')
        # Nobody answers, which is said while the user waits.
        output('vm', 'create', 'deaf', '--kernel', MACHINE, '--memory', '16M', '--no-seed', '--net', 'none', '--engine', ENGINE, '--start')
        done = run('exec', '--timeout', '1s', 'deaf', 'true')
        check(done.returncode == 125 and 'no agent answers' in done.stderr and done.stderr.count('\n') == 1, f'{done.stderr!r}')
        done = run('cp', '--timeout', '4s', here, 'deaf:/tmp')
        check(done.returncode != 0 and 'waiting for the agent of VM deaf' in done.stderr and 'no agent answers' in done.stderr, f'{done.stderr!r}')
        output('rm', '-f', 'web', 'deaf')


def small(name, *options):
    """A VM that is up at once (machine.c)."""
    output('vm', 'create', name, '--kernel', MACHINE, '--memory', '16M', '--disk', '8M', '--no-seed', *options)


def boots(name):
    return output('logs', name).count('machine up')


def case_taken():
    """Who fails to get a port keeps his memory, and leaves the port to who has it."""
    port, own = free_port(), free_port()
    small('web', '-p', f'{port}:7', '--start')
    small('user', '--net', f'user,fwd=tcp:127.0.0.1:{own}:7', '--start') # caisson-vmm's own
    for name, mine in (('web', port), ('user', own)):
        until_log(name, 'ready>')
        output('save', name)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(('127.0.0.1', mine))
            taken.listen()
            for _ in range(2):
                done = run('start', name)
                check(done.returncode != 0 and str(mine) in done.stderr and done.stderr.count('\n') == 1, f'a taken port: {done}')
                check(state(name) == 'saved', f'after a start that failed it is {state(name)}')
    output('start', 'user')
    check(boots('user') == 1, 'it did not go on from its memory')
    output('rm', '-f', 'user')
    small('other', '-p', f'{port}:7')
    output('start', 'web')
    check(state('web') == 'running' and boots('web') == 1, 'it did not go on from its memory')
    for _ in range(2): # the second time as the first: that failure gave nothing away
        done = run('start', 'other')
        check(done.returncode != 0 and str(port) in done.stderr, f'the port of another VM: {done}')
        check(state('other') == 'created', state('other'))
    output('kill', 'web')
    output('start', 'other')
    output('rm', '-f', 'web', 'other')


def damage(path, how):
    with open(path, 'rb') as f:
        data = bytearray(f.read())
    if how == 'truncated':
        del data[-1000:]
    else:
        data[len(data) // 2] ^= 1
    with open(path, 'wb') as f:
        f.write(data)


def case_broken():
    """One line says what is wrong; what is there stays, and a start after the repair goes on."""
    small('web', '--net', 'none', '--start')
    until_log('web', 'ready>')
    output('save', 'web')
    folder = inspect('web')['directory']
    memory, disk, kept = (os.path.join(folder, name) for name in ('memory.vm', 'disk1.qcow2', 'kept'))
    shutil.copyfile(memory, kept)
    for how in ('truncated', 'flipped'):
        damage(memory, how)
        with open(memory, 'rb') as f:
            before = f.read()
        refused(('start', 'web'), FAILED, 'saved memory', 'save --discard web')
        check(state('web') == 'saved', f'{how}: {state("web")}')
        with open(memory, 'rb') as f:
            check(f.read() == before, f'{how}: the file is another one')
        shutil.copyfile(kept, memory)
    refused(('update', '--memory', '32M', 'web'), CONFLICT, 'is saved', 'save --discard web')
    refused(('update', '--cpus', '2', 'web'), CONFLICT, 'is saved')
    output('update', '--label', 'a=b', 'web')
    os.unlink(memory)
    for _ in range(2):
        refused(('start', 'web'), NOT_FOUND, 'memory is missing', folder, 'save --discard web')
        check(state('web') == 'saved', f'without its file: {state("web")}')
    os.rename(kept, memory)
    output('start', 'web')
    check(boots('web') == 1 and not os.path.exists(memory), 'after the repair it did not go on')

    for name in ('one', 'two'):
        output('snapshot', 'create', 'web', name)
    tags = {r['name']: r['tag'] for r in json.loads(output('snapshot', 'ls', '--json'))}
    output('save', 'web')
    subprocess.run(['qemu-img', 'snapshot', '-d', tags['one'], disk], check=True)
    refused(('snapshot', 'restore', 'web', 'one'), NOT_FOUND, 'disk1.qcow2', 'nothing was changed', 'snapshot rm web one')
    check(state('web') == 'saved' and os.path.exists(memory), f'a snapshot that was refused changed it: {state("web")}')
    output('start', 'web')
    pid = inspect('web')['pid']
    refused(('snapshot', 'restore', 'web', 'one'), NOT_FOUND, 'disk1.qcow2')
    lost = os.path.join(folder, 'snapshots', tags['two'] + '.vm')
    damage(lost, 'truncated')
    refused(('snapshot', 'restore', 'web', 'two'), NOT_FOUND, 'length', 'nothing was changed')
    os.unlink(lost)
    refused(('snapshot', 'restore', 'web', 'two'), NOT_FOUND, 'is missing', 'nothing was changed')
    check(inspect('web')['pid'] == pid and boots('web') == 1, 'a snapshot that was refused ended the VM')
    with sqlite3.connect(os.path.join(os.environ['CAISSON_STATE_DIR'], 'state.db')) as db:
        jobs = db.execute('SELECT verb, plan FROM jobs').fetchall()
    check(not jobs, f'jobs {jobs} are left')
    output('snapshot', 'rm', 'web', 'one', 'two')

    # What it was saved with counts, not what its next boot will have; nor what its memory file was linked to.
    output('update', '--memory', '32M', '--cpus', '2', 'web')
    output('save', 'web')
    output('start', 'web')
    output('snapshot', 'create', 'web', 'three')
    output('kill', 'web')
    output('snapshot', 'restore', 'web', 'three')
    output('snapshot', 'rm', 'web', 'three')
    output('start', 'web')
    check(boots('web') == 1, 'it was booted')
    output('kill', 'web')
    output('rm', 'web')


def case_halfway():
    """A restore that fails when one of the disks has gone back is ended by the next command."""
    small('web', '--disk', '8M', '--net', 'none', '--start')
    until_log('web', 'ready>')
    output('snapshot', 'create', 'web', 'one')
    output('save', 'web')
    folder = inspect('web')['directory']
    with subprocess.Popen(['qemu-io', os.path.join(folder, 'disk2.qcow2')], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.read(1) # its prompt: it has the disk
        done = run('snapshot', 'restore', 'web', 'one')
        check(done.returncode != 0 and 'disk2.qcow2' in done.stderr, f'a disk in use: {done}')
        check(not os.path.exists(os.path.join(folder, 'memory.vm')), 'memory of another time than the disks')
        holder.communicate(b'quit\n')
    check(state('web') == 'saved' and os.path.exists(os.path.join(folder, 'memory.vm')), 'it was not ended')
    output('start', 'web')
    check(boots('web') == 1, 'it did not go on from the snapshot')
    output('save', 'web')
    with sqlite3.connect(os.path.join(os.environ['CAISSON_STATE_DIR'], 'state.db')) as db:
        check(not db.execute('SELECT * FROM jobs').fetchall(), 'a job is left')
    output('rm', 'web')


def main():
    case = sys.argv[1]
    for name in ('qemu-img', 'qemu-io', 'blkid'):
        if not shutil.which(name):
            print(f'skipped: {name} is missing')
            return 77
    folder = tempfile.mkdtemp(prefix='csn-')
    os.environ.update(CAISSON_STATE_DIR=os.path.join(folder, 's'), CAISSON_RUNTIME_DIR=os.path.join(folder, 'r'))
    os.makedirs(os.environ['CAISSON_STATE_DIR'], mode=0o700)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        globals()[f'case_{case}']()
    except Failure as e:
        print(f'{case}: {e}')
        return 1
    finally:
        names = [i['name'] for i in json.loads(run('ls', '--json').stdout or '[]')]
        if names:
            run('rm', '-f', *names)
        run('network', 'rm', '--force', 'default')
        shutil.rmtree(folder, ignore_errors=True)
    print(f'{case}: ok')
    return 0


if __name__ == '__main__':
    sys.exit(main())
