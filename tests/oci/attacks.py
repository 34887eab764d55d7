#!/usr/bin/env python3
"""One test for each of the ways in which earlier runtimes were broken: attacks.py [CASE...]

The host's side is a file or folder of ours outside the root file system; it must come out untouched.
"""
import hashlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

import harness
from harness import BASE, Bundle, MARK, PROGRAMS, Runtime, Skip, WORK, expect, main, merged, mounts, nothing_left, until

ALL = ['CAP_SYS_ADMIN', 'CAP_DAC_OVERRIDE', 'CAP_DAC_READ_SEARCH', 'CAP_SYS_PTRACE', 'CAP_KILL', 'CAP_CHOWN', 'CAP_FOWNER', 'CAP_MKNOD']
STRONG = {'process': {'noNewPrivileges': False, 'capabilities': {kind: ALL for kind in ('bounding', 'effective', 'permitted')}}}
ROUNDS = int(os.environ.get('OCI_ROUNDS', '40'))


def digest(path):
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def outside():
    folder = os.path.join(WORK, 'host')
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder


def swapping(a, b):
    """A process that exchanges two names until it is killed."""
    return subprocess.Popen([PROGRAMS['attack'], 'swap', a, b], stdin=subprocess.DEVNULL,
                            env={**os.environ, MARK.split('=')[0]: MARK.split('=')[1]})


def end(child):
    child.kill()
    child.wait()


def cve_2019_5736():
    """The payload overwrites the runtime through /proc/PID/exe, of processes entering and of one that is started as a program."""
    copy = os.path.join(WORK, 'runtime-copy')
    shutil.copy(harness.RUNTIME, copy)
    before = digest(copy)
    runtime = Runtime(copy)
    bundle = Bundle(STRONG, ['/attack', 'exe', '4'])
    # What runs in the container is overwritten as well: that must not be the file that all bundles share.
    payload = os.path.join(bundle.rootfs, 'payload')
    os.unlink(payload)
    shutil.copy(PROGRAMS['payload'], payload)
    os.symlink('/proc/self/exe', os.path.join(bundle.rootfs, 'itself'))
    out = os.path.join(WORK, 'exe-out')
    with open(out, 'wb') as f:
        runtime('run', '--detach', '--bundle', bundle.path, bundle.id, stdout=f)
    while runtime.status(bundle.id) == 'running':
        for args in (['/proc/self/exe', '--version'], ['/itself', '--version'], ['/payload', 'true']):
            runtime('exec', bundle.id, *args, check=False)
        expect('the runtime is as it was', digest(copy), before)
    with open(out, encoding='ascii') as f:
        text = f.read()
    print(text)
    runtime('delete', '--force', bundle.id)
    for args in (['/proc/self/exe', '--version'], ['/itself', '--version']):
        other = Bundle(STRONG, args)
        os.symlink('/proc/self/exe', os.path.join(other.rootfs, 'itself'))
        runtime.run(other, check=False)
    expect('the attacker was at work', 'seen' in text, True)
    expect('the runtime is as it was', digest(copy), before)
    expect('and can be written again (nobody holds it)', os.access(copy, os.W_OK), True)
    nothing_left('5736', runtime)


def cve_2019_16884():
    """An image or volume that brings its own /proc: nothing of the runtime's may be written into it."""
    fake = os.path.join(WORK, 'fake-proc')
    for name in ('self/attr/exec', 'self/attr/current', 'self/attr/keycreate', 'thread-self/attr/exec', 'thread-self/attr/apparmor/exec',
                 'self/attr/apparmor/exec', 'sys/net/ipv4/ip_forward', 'sys/kernel/cap_last_cap', 'self/oom_score_adj', 'self/setgroups'):
        os.makedirs(os.path.dirname(os.path.join(fake, name)), exist_ok=True)
        with open(os.path.join(fake, name), 'w', encoding='ascii') as f:
            f.write('40' if name.endswith('cap_last_cap') else 'untouched')
    untouched = tree(fake)
    rest = [m for m in BASE['mounts'] if m['destination'] != '/proc']
    for what, changes in (
            ('sysctl', {'linux': {'sysctl': {'net.ipv4.ip_forward': '1'}}}), ('label', {'process': {'apparmorProfile': 'some-profile'}}),
            ('SELinux', {'process': {'selinuxLabel': 'system_u:system_r:container_t:s0'}}), ('oom', {'process': {'oomScoreAdj': 100}})):
        for mount in ({'destination': '/proc', 'type': 'bind', 'source': fake, 'options': ['rbind']}, None):
            bundle = Bundle(merged(changes, {'mounts': [mount] + rest if mount else rest}), ['/payload', 'true'])
            if not mount:
                shutil.rmtree(os.path.join(bundle.rootfs, 'proc'))
                shutil.copytree(fake, os.path.join(bundle.rootfs, 'proc'))
            runtime = Runtime()
            done = runtime.run(bundle, check=False)
            here = fake if mount else os.path.join(bundle.rootfs, 'proc')
            expect(f'{what} beside a false /proc ({done.returncode} {done.stderr.strip()[-150:]})', tree(here), untouched)
            # Sysctls go through a procfs of the runtime's own, and are set whatever stands at /proc. Labels need a kernel with LSMs.
            if what in ('label', 'SELinux'):
                expect(f'{what} is not silently left away', done.returncode, 1)
            nothing_left(what, runtime)
    bundle = Bundle()
    os.rmdir(os.path.join(bundle.rootfs, 'proc'))
    os.makedirs(os.path.join(bundle.rootfs, 'volume'))
    os.symlink('/volume', os.path.join(bundle.rootfs, 'proc'))
    runtime = Runtime()
    done = runtime.run(bundle, check=False)
    expect('/proc as a symlink', done.returncode in (0, 1), True)
    nothing_left('16884', runtime)
    for place in ('/', '/proc', '/proc/sys', '/proc/self/attr'):  # without sysfs the image has the place of control groups
        bundle = Bundle({'mounts': [m for m in BASE['mounts'] if m['destination'] != '/sys']})
        os.makedirs(os.path.join(bundle.rootfs, 'sys/fs'))
        os.symlink(place, os.path.join(bundle.rootfs, 'sys/fs/cgroup'))
        done = runtime.run(bundle, check=False)
        expect(f'control groups over {place}: {done.stderr.strip()[-150:]}', done.returncode, 1)
        nothing_left('16884', runtime)


def tree(folder):
    out = {}
    for path, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(path, name), encoding='ascii') as f:
                out[os.path.relpath(os.path.join(path, name), folder)] = f.read()
    return out


def cve_2021_30465():
    """A volume in which a folder and a link out of it are exchanged, while mounts are made on it."""
    host = outside()
    up = '../' * 40
    for target in (up.rstrip('/') + host, host, up + 'proc/self/cwd', '/proc/self/root' + host):
        volume = os.path.join(WORK, 'volume')
        shutil.rmtree(volume, ignore_errors=True)
        os.makedirs(os.path.join(volume, 'target'))
        os.symlink(target, os.path.join(volume, 'link'))
        child = swapping(os.path.join(volume, 'target'), os.path.join(volume, 'link'))
        failed = 0
        try:
            for _ in range(ROUNDS // 4):
                bundle = Bundle({'mounts': BASE['mounts'] + [
                    {'destination': '/volume', 'type': 'bind', 'source': volume, 'options': ['rbind']},
                    {'destination': '/volume/target', 'type': 'tmpfs', 'source': 'x'},
                    {'destination': '/volume/target/made', 'type': 'tmpfs', 'source': 'x'},
                    {'destination': '/volume/target/file', 'type': 'bind', 'source': '/etc/hostname', 'options': ['bind']}],
                    'linux': {'maskedPaths': ['/volume/target'], 'readonlyPaths': ['/volume/target'],
                              'devices': [{'path': '/volume/target/null', 'type': 'c', 'major': 1, 'minor': 3}]}})
                runtime = Runtime()
                failed += runtime.run(bundle, check=False).returncode != 0
                expect('nothing outside', (os.listdir(host), [m for m in mounts()]), ([], []))
        finally:
            end(child)
        print(f'{failed} of {ROUNDS // 4} were refused')
        nothing_left('30465', runtime)


def cve_2024_21626():
    """The working directory, programs and hooks by way of descriptors that the runtime may have open."""
    host = outside()
    marker = os.path.join(host, 'marker')
    with open(marker, 'w', encoding='ascii') as f:
        f.write('x')
    passed = os.open('/', os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(passed, True)
    runtime = Runtime()
    bundle = Bundle(STRONG, ['/payload', 'pause'])
    runtime.started(bundle)
    try:
        for number in [*range(3, 16), passed]:
            inner = Bundle(merged(STRONG, {'process': {'cwd': f'/proc/self/fd/{number}'}}), ['/attack', 'escape', marker])
            os.symlink(f'/proc/self/fd/{number}', os.path.join(inner.rootfs, 'link'))
            for cwd in (f'/proc/self/fd/{number}', '/link', f'/proc/thread-self/fd/{number}', f'/proc/1/fd/{number}', f'/proc/self/fd/{number}/../..'):
                inner.config['process']['cwd'] = cwd
                inner.write()
                done = runtime.run(inner, check=False, pass_fds=(passed,))
                expect(f'run in {cwd}: {done.returncode} {done.stderr.strip()[-80:]}', 'escaped' in done.stdout, False)
                done = runtime('exec', '--cwd', cwd, bundle.id, '/attack', 'escape', marker, check=False, pass_fds=(passed,))
                expect(f'exec in {cwd}: {done.returncode}', 'escaped' in done.stdout, False)
            program = f'/proc/self/fd/{number}{PROGRAMS["payload"]}'
            done = runtime('exec', bundle.id, program, 'echo', 'host program', check=False, pass_fds=(passed,))
            expect(f'program {program}', 'host program' in done.stdout, False)
        hook = Bundle(merged(STRONG, {'hooks': {'startContainer': [{'path': '/attack', 'args': ['attack', 'escape', marker]}]}}))
        done = runtime.run(hook, check=False, pass_fds=(passed,))
        expect(f'startContainer hook: {done.stdout}{done.stderr}', done.returncode, 0)
        lines = harness.report_of(runtime, Bundle(STRONG), pass_fds=(passed,))
        expect('descriptors of run', [line.split()[1] for line in lines if line.startswith('fd ')], ['0', '1', '2'])
        lines = runtime('exec', bundle.id, '/report', pass_fds=(passed,)).stdout.splitlines()
        expect('descriptors of exec', [line.split()[1] for line in lines if line.startswith('fd ')], ['0', '1', '2'])
    finally:
        os.close(passed)
        runtime('delete', '--force', bundle.id)
    nothing_left('21626', runtime)


def host_null_device():
    """The host's null device covers files of the container, and is its standard input: nothing may change it from inside."""
    before = os.stat('/dev/null')
    try:
        for user in (0, 1000):
            bundle = Bundle(merged(STRONG, {'process': {'user': {'uid': user, 'gid': user}}, 'mounts': [m for m in BASE['mounts'] if m['destination'] == '/proc']}),
                            ['/report', 'call:chmod-masked', 'call:chown-masked'])
            runtime = Runtime()
            done = runtime.run(bundle)
            after = os.stat('/dev/null')
            expect(f'owner and mode for user {user}', (after.st_uid, after.st_gid, after.st_mode), (before.st_uid, before.st_gid, before.st_mode))
            expect('the masked file is a device', 'call chmod-masked' in done.stdout, True)
    finally:
        os.chown('/dev/null', before.st_uid, before.st_gid)
        os.chmod('/dev/null', before.st_mode & 0o7777)
    nothing_left('null device', runtime)


def without_dev(volume, *kept):
    mounts_ = [m for m in BASE['mounts'] if not m['destination'].startswith('/dev')]
    return (mounts_ + [{'destination': '/dev', 'type': 'bind', 'source': volume, 'options': ['rbind']}] +
            [m for m in BASE['mounts'] if m['destination'] in kept])


def cve_2025_31133():
    """/dev/null is what masks files: an image or a volume puts something else there."""
    host = outside()
    for what in ('link', 'file', 'race'):
        volume = os.path.join(WORK, 'volume-dev')
        shutil.rmtree(volume, ignore_errors=True)
        os.makedirs(volume)
        null = os.path.join(volume, 'null')
        other = os.path.join(volume, 'other')
        child = None
        if what == 'link':
            os.symlink('/proc/sysrq-trigger', null)
        elif what == 'file':
            with open(null, 'w', encoding='ascii') as f:
                f.write('from the attacker')
        else:
            os.mknod(null, 0o20666, os.makedev(1, 3))
            os.symlink('/proc/sysrq-trigger', other)
            child = swapping(null, other)
        try:
            for _ in range(ROUNDS // 2 if child else 1):
                bundle = Bundle(merged(STRONG, {'mounts': without_dev(volume), 'linux': {'maskedPaths': ['/proc/timer_list', '/etc/secret']}}),
                                ['/report', 'look:/proc/timer_list', 'look:/etc/secret'])
                bundle.file('/etc/secret', 'secret')
                runtime = Runtime()
                done = runtime.run(bundle, check=False)
                text = done.stdout
                expect(f'{what}: no procfs file on a masked path',
                       re.findall(r'^mount \S+ \S+ \S+ /sysrq-trigger .*', text, re.M), [])
                if done.returncode == 0:
                    expect(f'{what}: masked by the null device', re.findall(r'^look /etc/secret mode (\S+) dev (\S+)', text, re.M), [('020666', '1:3')])
                    expect(f'{what}: nothing to read', 'look /etc/secret read empty' in text, True)
        finally:
            if child:
                end(child)
        expect('nothing outside', os.listdir(host), [])
        nothing_left('31133', runtime)


def cve_2025_52565():
    """/dev/console is where the terminal is mounted: an image or a volume puts a link there."""
    for what in ('link', 'race', 'pts'):
        volume = os.path.join(WORK, 'volume-console')
        shutil.rmtree(volume, ignore_errors=True)
        os.makedirs(volume)
        console, other = os.path.join(volume, 'console'), os.path.join(volume, 'other')
        os.symlink('/proc/sysrq-trigger', console)
        child = None
        if what == 'race':
            with open(other, 'w', encoding='ascii'):
                pass
            child = swapping(console, other)
        if what == 'pts':
            os.unlink(console)
            os.makedirs(os.path.join(volume, 'pts'))
            os.symlink('/proc/sysrq-trigger', os.path.join(volume, 'pts', '0'))
        try:
            for _ in range(ROUNDS // 2 if child else 1):
                bundle = Bundle(merged(STRONG, {'process': {'terminal': True}, 'mounts': without_dev(volume, *([] if what == 'pts' else ['/dev/pts'])),
                                        'linux': {'maskedPaths': None, 'readonlyPaths': None}}), ['/payload', 'pause'])
                runtime = Runtime()
                if create_with_console(runtime, bundle):
                    with open(f'/proc/{runtime.state(bundle.id)["pid"]}/mountinfo', encoding='utf-8') as f:
                        points = [line.split()[4] for line in f]
                    expect(f'{what}: no mount below /proc', [p for p in points if p.startswith('/proc/')], [])
                runtime('delete', '--force', bundle.id)
        finally:
            if child:
                end(child)
        nothing_left('52565', runtime)


def create_with_console(runtime, bundle):
    path = os.path.join(WORK, f'c-{bundle.id}')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        done = runtime.create(bundle, '--console-socket', path, check=False)
        if done.returncode != 0:
            print(f'refused: {done.stderr.strip()[-200:]}')
            return False
        peer, _ = listener.accept()
        with peer:
            _, fds, _, _ = socket.recv_fds(peer, 4096, 4)
    for fd in fds:
        os.close(fd)
    return True


def cve_2025_52881():
    """What the runtime writes to /proc is led elsewhere: by a false /proc with links, by mounts in it, by a race."""
    writes = {'process': {'oomScoreAdj': 50}, 'linux': {'sysctl': {'net.ipv4.ip_forward': '1', 'kernel.shmmax': '4096'}}}
    rest = [m for m in BASE['mounts'] if m['destination'] != '/proc']
    for what, mounts_ in (
            ('tmpfs', [{'destination': '/proc', 'type': 'tmpfs', 'source': 'x'}]),
            ('image', []),
            ('below', [{'destination': '/proc', 'type': 'proc', 'source': 'proc'},
                       {'destination': '/proc/sys', 'type': 'bind', 'source': 'VOLUME', 'options': ['rbind']}]),
            ('race', [{'destination': '/volume', 'type': 'bind', 'source': 'VOLUME', 'options': ['rbind']},
                      {'destination': '/proc', 'type': 'proc', 'source': 'proc'}])):
        volume = os.path.join(WORK, 'volume-proc')
        shutil.rmtree(volume, ignore_errors=True)
        os.makedirs(volume)
        child = None
        for _ in range(ROUNDS // 4 if what == 'race' else 1):
            bundle = Bundle(merged(writes, {'mounts': [merged(m, {'source': volume}) if m['source'] == 'VOLUME' else m for m in mounts_] + rest}))
            victim = bundle.file('/victim', 'untouched')
            link = '/victim'
            for base in (os.path.join(bundle.rootfs, 'proc'), volume):
                for name in ('sys/net/ipv4/ip_forward', 'net/ipv4/ip_forward', 'sys/kernel/shmmax', 'kernel/shmmax', 'self/oom_score_adj',
                             'self/attr/exec', 'thread-self/attr/exec'):
                    path = os.path.join(base, name)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    if not os.path.lexists(path):
                        os.symlink(link, path)
            if what == 'race':
                os.rename(os.path.join(bundle.rootfs, 'proc'), os.path.join(bundle.rootfs, 'false-proc'))
                os.mkdir(os.path.join(bundle.rootfs, 'proc'))
                child = swapping(os.path.join(bundle.rootfs, 'proc'), os.path.join(bundle.rootfs, 'false-proc'))
            runtime = Runtime()
            try:
                done = runtime.run(bundle, check=False)
            finally:
                if child:
                    end(child)
            with open(victim, encoding='ascii') as f:
                expect(f'{what}: the file behind the link ({done.returncode} {done.stderr.strip()[-150:]})', f.read(), 'untouched')
            nothing_left(f'52881 {what}', runtime)


def mount_points():
    """The host's, without those of other tests that run now."""
    with open('/proc/self/mountinfo', encoding='utf-8') as f:
        return sorted(point for point in (line.split()[4] for line in f)
                      if point.startswith(WORK) or not point.startswith(os.path.join(tempfile.gettempdir(), 'c')))


def host_mounts_below():
    """With --no-pivot the host's root lies below the container's: its procfs must not help to get one without masks."""
    for options in ((), ('--no-pivot',)):
        for masked in (True, False):
            bundle, runtime = Bundle(args=['/report', 'call:fresh-proc', 'tree:/']), Runtime()
            if not masked:
                bundle.config['linux'] |= {'maskedPaths': [], 'readonlyPaths': []}
                bundle.write()
            text = runtime.run(bundle, *options).stdout
            # Without masks it is allowed: so the call can work, and a refusal means something.
            expect(f'a fresh procfs {options} masked {masked}', re.findall('^call fresh-proc (.*)', text, re.M), ['EPERM' if masked else 'ok'])
            expect('the root is the bundle\'s', re.findall('^node (?:/)?/payload ', text, re.M) != [], True)
        bundle, runtime, before = Bundle({'linux': {'rootfsPropagation': 'shared'}}), Runtime(), mount_points()
        expect(f'shared root {options}', runtime.run(bundle, *options, check=False).returncode, 0)
        expect('the host has its mounts', mount_points(), before)
        nothing_left('no pivot', runtime)


def look_into_exec():
    """Root of a user namespace, which may look into all its processes, sees one of the runtime come in by exec, with descriptors that
    lead to the host. It is held there by strace."""
    if not shutil.which('strace'):
        raise Skip('no strace: apt-get install strace')
    marker = os.path.join(outside(), 'marker')
    with open(marker, 'w', encoding='ascii') as f:
        f.write('x')
    mapping = [{'containerID': 0, 'hostID': 100000, 'size': 65536}]
    runtime, out = Runtime(), os.path.join(WORK, 'look')
    bundle = Bundle(merged(STRONG, {'linux': {'uidMappings': mapping, 'gidMappings': mapping,
                                              'namespaces': BASE['linux']['namespaces'] + [{'type': 'user'}]}}), ['/attack', 'look', marker])
    for folder in (bundle.path, runtime.root):
        os.chmod(folder, 0o755)
    with open(out, 'wb') as f:
        runtime('run', '--detach', '--bundle', bundle.path, bundle.id, stdout=f)

    def said():
        with open(out, encoding='ascii') as f:
            return f.read()
    until('attack', lambda: 'ready' in said())
    slow = 'setresgid'
    name, value = MARK.split('=')
    done = subprocess.run(['strace', '-f', '-I', '2', '-o', '/dev/null', '-e', f'trace={slow}', '-e', f'inject={slow}:delay_enter=100000',
                           *runtime.command('exec', bundle.id, '/payload', 'true')], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, check=False, timeout=120, text=True, env={**os.environ, name: value})
    expect('seen', said(), 'ready\n')  # pid 1 ends when it sees the host, and all else with it
    expect(f'exec: {done.stderr[-200:]}', done.returncode, 0)
    runtime('delete', '--force', bundle.id)
    nothing_left('look', runtime)


CASES = (cve_2019_5736, cve_2019_16884, cve_2021_30465, cve_2024_21626, cve_2025_31133, cve_2025_52565, cve_2025_52881, host_null_device, host_mounts_below,
         look_into_exec)

if __name__ == '__main__':
    main(CASES)
