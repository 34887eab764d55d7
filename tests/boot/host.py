#!/usr/bin/env python3
"""How caisson behaves towards its host: bad input, locks, kill -9, the terminal: host.py CASE (see meson.build)."""
import os
import re
import signal
import socket
import subprocess
import tempfile
import time

import vm
from vm import check

KERNEL = 'linux-image-cloud-amd64'
FAILED, USAGE, NOT_FOUND, CONFLICT, PERMISSION = 1, 2, 3, 4, 7


def refused(arguments, code, *words, program=(), env=None):
    """The command fails at once with that exit code and one line on stderr that has all the words."""
    command = [*program, vm.CAISSON, *arguments]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
                             env={**os.environ, **(env or {})})
    except subprocess.TimeoutExpired:
        return [f'{arguments}: no end']
    problems = []
    lines = run.stderr.splitlines()
    if run.returncode != code:
        problems.append(f'exit code {run.returncode} instead of {code}')
    if len(lines) != 1:
        problems.append(f'{len(lines)} lines on stderr')
    if not run.stderr.startswith('caisson: '):
        problems.append('the line does not say who speaks')
    problems += [f'no {word!r} in it' for word in words if not re.search(word, run.stderr)]
    if run.stdout:
        problems.append('something on stdout')
    shown = ' '.join(argument if len(argument) < 200 else argument[:20] + '...' for argument in arguments)
    return [f'{shown}: {problem}: {run.stderr.strip()!r}' for problem in problems]


def bad_inputs(folder):
    """(arguments of vm run, exit code, words that the line must have)"""
    kernel, initrd = vm.guest_kernel(KERNEL)

    def make(name, content=b'', size=None, mode=None):
        path = os.path.join(folder, name)
        with open(path, 'wb') as f:
            f.write(content)
            if size is not None:
                f.truncate(size)
        if mode is not None:
            os.chmod(path, mode)
        return path

    with open(kernel, 'rb') as f:
        image = f.read()
    missing = os.path.join(folder, 'missing')
    text = make('text', b'This is not a kernel.\n' * 100)
    empty = make('empty')
    big = make('big-initrd', size=600 << 20)
    odd = make('odd.img', size=1 << 20 | 100)
    good = make('good.img', size=1 << 20)
    start = ['--kernel', kernel, '--initrd', initrd]
    yield [], USAGE, ['kernel', '--kernel FILE']
    yield ['--kernel', missing], NOT_FOUND, ['missing', 'kernel']
    yield ['--kernel', folder], None, [folder]
    yield ['--kernel', text], FAILED, ['text', 'not a']
    yield ['--kernel', empty], FAILED, ['empty']
    promised = (image[0x1f1] + 1) * 512 + int.from_bytes(image[0x1f4:0x1f8], 'little') * 16 # behind it: the signature
    for length in (100, 600, 5000, len(image) // 2, promised - 17):
        yield ['--kernel', make(f'cut-{length}', image[:length])], FAILED, [f'cut-{length}', '--kernel']
    yield ['--kernel', kernel, '--initrd', missing], NOT_FOUND, ['missing', 'initrd']
    yield ['--kernel', kernel, '--initrd', big], FAILED, ['big-initrd', '--memory']
    for memory in ('0', '1', '100', '536870913', '1M'):
        yield [*start, '--memory', memory], USAGE, ['memory', '--memory']
    for memory in ('abc', '', '-1', '5X', '99999999999G'):
        yield [*start, '--memory', memory], USAGE, ['--memory']
    yield [*start, '--memory', '64T'], None, ['memory']
    for cpus in ('0', '65', 'x', '-1', ''):
        yield [*start, '--cpus', cpus], USAGE, ['--cpus']
    yield [*start, '--disk', missing], NOT_FOUND, ['missing']
    yield [*start, '--disk', make('empty.img')], USAGE, ['empty.img', 'empty']
    yield [*start, '--disk', odd], USAGE, ['odd.img', '512']
    yield [*start, '--disk', folder], USAGE, [folder]
    yield [*start, '--disk', good + ',wrong'], USAGE, ['wrong', 'serial=']
    yield [*start, '--disk', good + ',serial=' + 'x' * 21], USAGE, ['serial', '20']
    for option, words in (('cache=warm', 'writethrough'), ('aio=x', 'io_uring'), ('discard=no', 'discard=ignore'), ('on-error=stop', 'on-error=wait'),
                          ('iops=0', 'iops=N.*BURST'), ('iops-rd=5:', 'iops-rd=N'), ('bps=1Q', 'bps=SIZE'), ('bps-wr=1M:x', 'bps-wr=SIZE'),
                          ('weight=10001', '10000'), ('queues=17', '16'), ('readahead=17M', 'readahead=off'), ('secret=x', 'secret=file:PATH'),
                          ('format=', 'format'), ('format=raw,format=raw', 'twice'), ('format=iso9660', 'good.img.*format.*not known'), ('cache', 'cache')):
        yield [*start, '--disk', f'{good},{option}'], USAGE, [words]
    yield [*start, '--disk', f'{good},secret=file:{missing}'], NOT_FOUND, ['secret .*missing']
    yield [*start, '--disk', f'{good},secret=file:{empty}'], USAGE, ['secret .*empty']
    yield [*start, '--cdrom', missing], NOT_FOUND, ['missing']
    yield [*start, '--disk', good, '--disk', good], CONFLICT, ['good.img', 'in use']
    yield [*start, '--net', 'no-such-network'], NOT_FOUND, ['no-such-network']
    for net, words in ((('',), 'caisson network ls'), (('Bridge',), 'Bridge'), (('user=x',), 'user'), (('none,fwd=tcp:8080:80',), '--net user'),
                       (('user,fwd=tcp:0:80',), 'tcp:0:80.*65535'), (('user,fwd=tcp:1.2.3:80:80',), '1.2.3'), (('user,fwd=sctp:1:2',), 'sctp.*udp'),
                       (('user,fwd=tcp:80',), 'HOSTPORT'), (('user,fwd=tcp:1:1', 'user,fwd=tcp:0.0.0.0:1:2'), 'TCP port 1 .*twice'),
                       (('user,mac=52:54',), '52:54:00:12:34:56'), (('user,mac=01:00:00:00:00:01',), 'even'), (('user,mac=00:00:00:00:00:00',), 'mac='),
                       (('user,mac=02:00:00:00:00:01',) * 2, 'same MAC'), (('user,name=a',) * 2, 'another name'), (('user,name=A',), "'A'"),
                       (('user,mtu=100',), '576 to 65520'), (('user,mtu=65521',), '65520'), (('user,queues=9',), '1 to 8'),
                       (('user,queues=2',), '--cpus'), (('user,offload=maybe',), 'on or off'), (('user,vlan=5',), 'NETWORK,vlan=5'),
                       (('user,speed=9',), 'speed.*mtu='), (('user,',), 'unknown part'), (('user', 'none'), 'none'), (('user',) * 9, '8 times'),
                       (('tap=',), 'tap='), (('tap=interface-number-1',), '15'), (('tap=x,fwd=tcp:1:1',), '--net user'), (('web,fwd=tcp:1:1',), 'network create'), (('user,fwd=' + 'x' * 200,), 'too long')):
        yield [*start, *(word for one in net for word in ('--net', one))], USAGE, [words]
    if os.geteuid() == 0 and os.path.exists('/dev/net/tun'):
        yield [*start, '--net', 'tap=nosuchtap'], NOT_FOUND, ['nosuchtap', 'ip tuntap add']
        yield [*start, '--net', 'tap=lo'], USAGE, ['lo', 'no tap']
    with socket.create_server(('127.0.0.1', 0)) as taken:
        yield [*start, '--net', f'user,fwd=tcp:{taken.getsockname()[1]}:80'], CONFLICT, [f'TCP port {taken.getsockname()[1]}', 'in use']
    yield [*start, '--net', 'user,fwd=tcp:192.0.2.1:8080:80'], USAGE, ['8080', 'address']
    yield [*start, '--engine', 'fast'], USAGE, ['fast', 'interp']
    yield [*start, '--cpu', ''], USAGE, ['--cpu', 'MODEL']
    yield [*start, '--cpu', 'x86-64-v9'], USAGE, ['x86-64-v9', 'did you mean', 'cpu ls']
    yield [*start, '--cpu', 'x86-64-v3,-avx3'], USAGE, ['avx3', "'avx2?'"]
    yield [*start, '--cpu', 'x86-64-v3,avx2'], USAGE, ['avx2', r'\+FEATURE']
    yield [*start, '--cpu', 'x86-64-v3,-avx,+avx2'], USAGE, [r'\+avx2', '-avx']
    yield [*start, '--cpu', 'host,+amx_tile', '--engine', 'interp'], FAILED, ['amx_tile', 'interp']
    yield [*start, '--console', 'printer'], USAGE, ['printer', 'stdio']
    yield [*start, '--console', f'file={missing}/x'], NOT_FOUND, ['missing/x']
    yield [*start, '--name', 'Upper'], USAGE, ['Upper']
    yield [*start, '--append', 'x' * 5000], USAGE, ['command line']
    yield [*start, '--kernl', 'x'], USAGE, ['--kernl', '--kernel']
    yield [*start, 'operand'], USAGE, ['operand']
    yield [*start, '--memory'], USAGE, ['--memory']


def case_bad_input():
    problems = []
    count = 0
    with tempfile.TemporaryDirectory(prefix='caisson-bad-') as folder:
        for arguments, code, words in bad_inputs(folder):
            count += 1
            if code is None: # which layer refuses is not promised
                codes = [refused(['vm', 'run', *arguments], one, *words) for one in (FAILED, USAGE)]
                problems += min(codes, key=len)
            else:
                problems += refused(['vm', 'run', *arguments], code, *words)
        for arguments, word in ((['vm', 'rum'], 'vm rum'), (['cpu', 'la'], 'cpu ls'), (['cpu', 'ls', '--engine', 'fast'], 'fast'), (['doctr'], 'doctor'), (['imgae'], 'caisson image'), (['sl'], 'caisson ls'), (['image', 'frobnicate'], 'caisson image --help'), (['--verison'], 'verison'),
                                (['completion', 'tcsh'], 'bash'), (['completion', 'bash', 'zsh'], 'zsh')):
            count += 1
            problems += refused(arguments, USAGE, word)
    noun = subprocess.run([vm.CAISSON, 'vm'], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    count += 1
    if noun.returncode != USAGE or noun.stdout or not noun.stderr.startswith('Usage: caisson vm COMMAND'):
        problems.append(f'vm without a verb: {noun}') # its verbs are the remedy, so more than one line
    for problem in problems:
        print(problem)
    check(not problems, f'{len(problems)} problems in {count} bad inputs')
    print(f'{count} bad inputs, each refused')


def case_without_rights():
    """A disk that may only be read, a kernel that may not, and /dev/kvm without rights; needs root to give up rights."""
    if os.geteuid() != 0:
        vm.skip('needs root, to run caisson as nobody')
    kernel, initrd = vm.guest_kernel(KERNEL)
    problems = []
    with tempfile.TemporaryDirectory(prefix='caisson-rights-') as folder:
        os.chmod(folder, 0o755)
        runtime = os.path.join(folder, 'runtime')
        os.mkdir(runtime)
        os.chmod(runtime, 0o777)
        # The guest folder may be below /root, which nobody cannot enter.
        for name, path in (('vmlinuz', kernel), ('initrd.img', initrd), ('caisson', vm.CAISSON),
                           ('caisson-vmm', os.path.join(vm.BUILD, 'caisson-vmm'))):
            subprocess.run(['cp', path, os.path.join(folder, name)], check=True)
            os.chmod(os.path.join(folder, name), 0o755)
        disk = os.path.join(folder, 'locked.img')
        with open(disk, 'wb') as f:
            f.truncate(1 << 20)
        os.chmod(disk, 0o644)
        secret = os.path.join(folder, 'secret-kernel')
        subprocess.run(['cp', kernel, secret], check=True)
        os.chmod(secret, 0o600)
        command = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
        saved, vm.CAISSON = vm.CAISSON, os.path.join(folder, 'caisson')
        start = ['vm', 'run', '--kernel', os.path.join(folder, 'vmlinuz'), '--engine', 'interp']
        env = {'XDG_RUNTIME_DIR': runtime}
        try:
            problems += refused([*start, '--disk', disk], PERMISSION, 'locked.img', ',ro', program=command, env=env)
            problems += refused(['vm', 'run', '--kernel', secret], PERMISSION, 'secret-kernel', program=command, env=env)
            tap = ['unshare', '--net', 'sh', '-c', 'ip tuntap add ctest1 mode tap user root && exec "$@"', 'sh']
            if subprocess.run([*tap, 'true'], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                problems += refused([*start, '--net', 'tap=ctest1'], PERMISSION, 'ctest1', 'user', program=[*tap, *command], env=env)
            if os.path.exists('/dev/kvm') and os.stat('/dev/kvm').st_mode & 0o006 == 0:
                problems += refused(['vm', 'run', '--kernel', os.path.join(folder, 'vmlinuz'), '--engine', 'kvm'],
                                    PERMISSION, '/dev/kvm', 'group', program=command, env=env)
        finally:
            vm.CAISSON = saved
    for problem in problems:
        print(problem)
    check(not problems, f'{len(problems)} problems')


def busy_guest(folder, terminal=False):
    disk = vm.make_disk(os.path.join(folder, 'busy.ext4'))
    return disk, vm.started(vm.boot(KERNEL, 'busy', options=['--disk', disk, '--net', 'user']), terminal=terminal)


def case_lock():
    """A disk in use is refused to a second VM and to QEMU's programs, one that they use to a VM; free again when the first is gone."""
    with tempfile.TemporaryDirectory(prefix='caisson-lock-') as folder:
        disk, first = busy_guest(folder)
        kernel, _ = vm.guest_kernel(KERNEL)
        start = ['vm', 'run', '--kernel', kernel, '--engine', 'interp']
        with first as guest:
            guest.wait_for('CAISSON-READY')
            problems = refused([*start, '--disk', disk], CONFLICT, 'busy.ext4', 'in use')
            problems += refused([*start, '--disk', disk + ',ro'], CONFLICT, 'busy.ext4', 'in use')
            for command in (['qemu-io', '-f', 'raw', '-c', 'write 0 512', disk], ['qemu-img', 'convert', '-f', 'raw', disk, disk + '.copy']):
                run = subprocess.run(command, capture_output=True, text=True, check=False)
                if run.returncode == 0 or 'lock' not in run.stderr + run.stdout:
                    problems.append(f'{" ".join(command)}: {run.returncode} {run.stderr} {run.stdout}')
            for problem in problems:
                print(problem)
            check(not problems, 'the lock does not hold')
        # Destroyed by kill -9 on leaving the block: the disk mounts again (journal) and verifies.
        with subprocess.Popen(['qemu-io', '-f', 'raw', disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            other.stdin.write('read 0 512\n')
            other.stdin.flush()
            while '512 bytes' not in other.stdout.readline(): # then it has the disk
                check(other.poll() is None, 'qemu-io ended')
            problems = refused([*start, '--disk', disk], CONFLICT, 'busy.ext4', 'in use')
            problems += refused([*start, '--disk', disk + ',ro'], CONFLICT, 'busy.ext4', 'in use')
            other.kill()
            check(not problems, f'beside qemu-io: {problems}')
        vm.run_test(KERNEL, 'disk', options=['--disk', disk, '--net', 'none'])


def case_kill():
    """kill -9 of the VMM: one line, exit code 1, terminal as before, disk free."""
    with tempfile.TemporaryDirectory(prefix='caisson-kill-') as folder:
        disk, first = busy_guest(folder, terminal=True)
        with first as guest:
            guest.wait_for('CAISSON-READY')
            check(not guest.terminal_restored(), 'the terminal is not in raw mode while the guest runs')
            os.kill(guest.vmm_pid(), signal.SIGKILL)
            code = guest.wait(30)
            check(code == FAILED, f'exit code {code}')
            check(guest.terminal_restored(), 'the terminal was not restored')
            check('signal 9' in guest.output, 'the CLI does not say what happened')
        vm.run_test(KERNEL, 'disk', options=['--disk', disk, '--net', 'none'])


def case_kill_early():
    """kill -9 of the VMM at moments from its start on."""
    kernel, initrd = vm.guest_kernel(KERNEL)
    with tempfile.TemporaryDirectory(prefix='caisson-kill-') as folder:
        disk = vm.make_disk(os.path.join(folder, 'disk.ext4'))
        for delay in (0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2):
            with vm.started(['--kernel', kernel, '--initrd', initrd, '--engine', 'interp', '--disk', disk], terminal=True) as guest:
                time.sleep(delay)
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline and guest.process.poll() is None:
                    try:
                        os.kill(guest.vmm_pid(), signal.SIGKILL)
                        break
                    except (vm.Failure, ProcessLookupError):
                        time.sleep(0.001)
                code = guest.wait(30)
                check(code == FAILED, f'exit code {code} after {delay} s')
                check(guest.terminal_restored(), f'the terminal was not restored after {delay} s')
        vm.run_test(KERNEL, 'disk', options=['--disk', disk, '--net', 'none'])


def case_kill_cli():
    """kill -9 of the CLI: the VMM ends too and frees the disk."""
    with tempfile.TemporaryDirectory(prefix='caisson-kill-') as folder:
        disk, first = busy_guest(folder)
        with first as guest:
            guest.wait_for('CAISSON-READY')
            pid = guest.vmm_pid()
            guest.process.kill()
            guest.wait(30)
            deadline = time.monotonic() + 60
            while os.path.exists(f'/proc/{pid}') and time.monotonic() < deadline:
                time.sleep(0.1)
            check(not os.path.exists(f'/proc/{pid}'), 'the VMM lives on without its CLI')
        vm.run_test(KERNEL, 'disk', options=['--disk', disk, '--net', 'none'])


def case_quit():
    """Ctrl-] x ends the VM and restores the terminal; Ctrl-] Ctrl-] types one."""
    with vm.started(vm.boot(KERNEL, 'button'), terminal=True) as guest:
        guest.wait_for('CAISSON-READY')
        guest.type('\x1dx')
        time.sleep(2)
        if guest.process.poll() is None:
            guest.type('\x1dx')
        code = guest.wait(60)
        check(code == 0, f'exit code {code}')
        check(guest.terminal_restored(), 'the terminal was not restored')


def case_signals():
    """Signals that end the CLI restore the terminal and end the VM."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with vm.started(vm.boot(KERNEL, 'serve', options=['--net', 'user']), terminal=True) as guest:
            guest.wait_for('CAISSON-READY')
            pid = guest.vmm_pid()
            for _ in range(2): # the first asks the guest, the second does not
                if guest.process.poll() is None:
                    guest.process.send_signal(number)
                    time.sleep(1)
            code = guest.wait(60)
            check(code == 128 + number, f'exit code {code} after signal {number}')
            check(guest.terminal_restored(), f'the terminal was not restored after signal {number}')
            check(not os.path.exists(f'/proc/{pid}'), 'the VMM lives on')


def case_console():
    """--console none and file= keep the terminal out of it."""
    with tempfile.TemporaryDirectory(prefix='caisson-console-') as folder:
        log = os.path.join(folder, 'console.log')
        with vm.started(vm.boot(KERNEL, 'boot', options=['--console', f'file={log}'])) as guest:
            check(guest.wait() == 0, 'exit code')
            check(guest.output == '', f'output {guest.output!r}')
        with open(log, encoding='utf-8', errors='replace') as f:
            check('CAISSON-TEST boot PASS' in f.read(), 'no console output in the file')
        with vm.started(vm.boot(KERNEL, 'boot', options=['--console', 'none'])) as guest:
            check(guest.wait() == 0, 'exit code')
            check(guest.output == '', f'output {guest.output!r}')


def case_doctor():
    """The doctor names every engine and gives a reason where one is not usable; auto follows it."""
    findings = vm.doctor()
    for name in ('engine kvm', 'engine bt', 'engine interp', 'engine auto', 'cgroups', 'overlayfs', 'user namespace', 'seccomp', 'caisson-oci'):
        check(name in findings, f'no finding about {name}')
        check(findings[name]['status'] in ('ok', 'no', 'warn'), f'{name}: {findings[name]}')
        check(findings[name]['detail'], f'{name}: no detail')
    run = subprocess.run([vm.CAISSON, 'doctor'], capture_output=True, text=True, check=True)
    check('kvm' in run.stdout, 'no table')
    print(run.stdout)


if __name__ == '__main__':
    vm.main({name[len('case_'):]: value for name, value in list(globals().items()) if name.startswith('case_')})
