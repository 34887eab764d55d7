#!/usr/bin/env python3
"""caisson-agent in a stock guest, through virtio-vsock: agent.py CASE ENGINE AGENT_TOOL AGENT (see meson.build). The tool is the
client's API (agent_tool.c); a few things are spoken by this script itself, as the protocol says them."""
import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import vm
from vm import check

KERNEL = 'linux-image-cloud-amd64'
NAME = 'agent-test'


class Guest:
    """A VM with the agent in its initrd."""

    def __init__(self, running, path, tool):
        self.vm, self.path, self.tool = running, path, tool

    def command(self, *words, wait=120000):
        return [self.tool, self.path, str(wait), *words]

    def run(self, *words, data=None, wait=120000):
        """(exit status, stdout, stderr) of agent_tool."""
        done = subprocess.run(self.command(*words, wait=wait), input=data, stdin=subprocess.DEVNULL if data is None else None,
                              capture_output=True, timeout=vm.TIMEOUT, check=False)
        return done.returncode, done.stdout, done.stderr.decode()

    def shell(self, script, *options):
        """Standard output of a script in the guest, which must succeed."""
        code, out, err = self.run('exec', *options, 'sh', '-c', script)
        check(code == 0, f'{script!r} ended with {code}: {err}')
        return out.decode().strip()


@contextlib.contextmanager
def guest(engine, tool, agent, cpus=1):
    """A guest whose agent answers."""
    vm.need_engine(engine)
    kernel, initrd = vm.guest_kernel(KERNEL)
    with tempfile.TemporaryDirectory(prefix='caisson-agent-') as folder:
        tree = os.path.join(folder, 'tree/bin')
        os.makedirs(tree)
        subprocess.run(['cp', agent, os.path.join(tree, 'caisson-agent')], check=True)
        archive = subprocess.run('find . | cpio --quiet -o -H newc -R 0:0', shell=True, cwd=os.path.dirname(tree),
                                 capture_output=True, check=True).stdout
        both = os.path.join(folder, 'initrd')
        with open(initrd, 'rb') as first, open(both, 'wb') as out:
            data = first.read()
            out.write(data + b'\0' * (-len(data) % 4) + archive)
        os.environ['CAISSON_RUNTIME_DIR'] = os.path.join(folder, 'run')
        arguments = ['--name', NAME, '--kernel', kernel, '--initrd', both, '--engine', engine, '--cpus', str(cpus), '--memory',
                     '256M', '--net', 'none', '--append', 'console=ttyS0 quiet panic=-1 caisson.test=agent']
        with vm.started(arguments) as running:
            running.wait_for('CAISSON-READY')
            g = Guest(running, os.path.join(folder, 'run/vm', NAME + '.vsock'), tool)
            code, out, err = g.run('ping')
            check(code == 0, f'no ping: {err}')
            check(json.loads(out)['ok'] is True, f'{out}')
            yield g


def case_exec(engine, tool, agent):
    """Output, exit status, environment, directory, user, errors, signals, a terminal, the clock."""
    with guest(engine, tool, agent) as g:
        check(g.run('exec', 'sh', '-c', 'echo out; echo err >&2; exit 7') == (7, b'out\n', 'err\n'), 'output and status')
        code, _, err = g.run('exec', 'nothing-like-it')
        check(code == 125 and 'no such program' in err and 'ENOENT' in err, f'{code}: {err}')
        check('EACCES' in g.run('exec', '/etc/passwd')[2], 'no EACCES')
        check(g.shell('pwd; echo "$A$HOME"; id -u; id -G', '-w', '/proc', '-e', 'A=b c=', '-u', 'guest').split('\n') ==
              ['/proc', 'b c=/tmp', '1000', '1000 2000'], 'directory, environment, user, groups')
        check(g.shell('id -u; id -g', '-u', '12:root') == '12\n0', 'numeric user and named group')
        check('no such user' in g.run('exec', '-u', 'nobody-here', 'true')[2], 'an unknown user')
        check('ENOENT' in g.run('exec', '-w', '/not/there', 'true')[2], 'an unknown directory')
        check(g.run('exec', 'sh', '-c', 'kill -9 $$')[0] == 137, 'killed by a signal')
        tty = g.shell('tty; stty size; echo hello', '-t').replace('\r', '').split('\n')
        check(tty[0].startswith('/dev/pts/') and tty[1:] == ['40 132', 'hello'], f'terminal: {tty}')
        code, out, _ = g.run('exec', '-t', '-i', 'sh', '-c', 'read x; echo "<$x>"', data=b'typed\n')
        check(code == 0 and b'<typed>' in out, f'typed into a terminal: {out}')
        # A signal of ours becomes one there.
        run = subprocess.Popen(g.command('exec', 'sh', '-c', 'trap "echo got; exit 3" USR1; echo up; while :; do sleep 0.1; done'),
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        check(run.stdout.readline() == b'up\n', 'no start')
        run.send_signal(signal.SIGUSR1)
        check(run.wait(vm.TIMEOUT) == 3 and run.stdout.read() == b'got\n', 'the signal')
        check(g.run('exec', '-T', '500', 'sleep', '1000')[2].count('ETIMEDOUT') == 1, 'no time-out')
        check(g.run('exec', '-d', '-t', 'sh', '-c', 'echo here >/tmp/detached')[0] == 0, 'detached, whatever it asks for')
        check(g.run('time', str(1234567890 * 10**9))[0] == 0 and 1234567890 <= int(g.shell('date +%s')) < 1234567890 + 300, 'clock')
        check(g.shell('cat /tmp/detached') == 'here', 'what was detached')
        check(g.run('shutdown')[0] == 0, 'shutdown')
        g.run('exec', 'poweroff', '-f')
        check(g.vm.wait() == 0, 'exit code')


def case_streams(engine, tool, agent):
    """10 MiB in and out, a reader that does not read, a pause in the middle of it."""
    data = os.urandom(10 << 20)
    digest = hashlib.sha256(data).hexdigest()
    with guest(engine, tool, agent) as g:
        began = time.monotonic()
        code, out, err = g.run('exec', '-i', 'sha256sum', data=data)
        check(code == 0 and out.decode().split()[0] == digest, f'10 MiB to the guest: {code} {err}')
        print(f'figure: vsock to a guest under {engine}: {10 / (time.monotonic() - began):.1f} MiB/s with sha256sum')
        began = time.monotonic()
        check(g.run('exec', '-i', 'cat', data=data) == (0, data, ''), '10 MiB there and back')
        print(f'figure: vsock to a guest under {engine} and back: {10 / (time.monotonic() - began):.1f} MiB/s each way')
        check(g.run('exec', '-i', 'true', data=data)[0] == 0, 'a program that does not read')
        # Nobody reads the output; another client is served all the same.
        lazy = subprocess.Popen(g.command('exec', 'sh', '-c', 'cat /dev/zero'), stdout=subprocess.PIPE)
        check(lazy.stdout.read(1) == b'\0', 'no output')
        check(g.shell('echo other') == 'other', 'the other one')
        # Paused, the guest answers nobody; after that all goes on.
        echo = subprocess.Popen(g.command('exec', '-i', 'cat'), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        echo.stdin.write(b'one\n')
        echo.stdin.flush()
        check(echo.stdout.readline() == b'one\n', 'an echo')
        control(g, 'pause')
        echo.stdin.write(b'two\n')
        echo.stdin.flush()
        code, _, err = g.run('ping', wait=1000)
        check(code == 125 and 'ETIMEDOUT' in err, f'a paused guest: {code} {err}')
        control(g, 'resume')
        check(echo.stdout.readline() == b'two\n', 'an echo after the pause')
        echo.stdin.close()
        check(echo.wait(vm.TIMEOUT) == 0, 'the end of the echo')
        lazy.kill()
        lazy.wait()
        # Its program notices: nothing of it is left in the guest.
        for _ in range(100):
            if g.shell('ps | grep -c "[c]at /dev/zero" || true') == '0':
                break
            time.sleep(0.2)
        else:
            check(False, 'the program outlived its client')


def control(g, op):
    """An operation on the VM's control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(g.path.replace('.vsock', '.sock'))
        s.send(json.dumps({'op': op}).encode())
        reply = json.loads(s.recv(65536).rstrip(b'\0'))
        check(reply['ok'], f'{op}: {reply}')


def descriptors(g):
    return len(os.listdir(f'/proc/{g.vm.vmm_pid()}/fd'))


def case_many(engine, tool, agent):
    """20 programs at the same time, and 300 one after the other by few clients: no connection is mixed up or left over."""
    with guest(engine, tool, agent, 2) as g:
        time.sleep(1) # the VMM closes the first client's connection
        fds = descriptors(g)
        runs = []
        for i in range(20):
            data = os.urandom(100000 + i * 1000)
            run = subprocess.Popen(g.command('exec', '-i', 'sh', '-c', f'cat; echo {i}; exit {i}'), stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
            runs.append((i, data, run))
        results = {}
        threads = [threading.Thread(target=lambda i=i, d=d, r=r: results.__setitem__(i, r.communicate(d)[0])) for i, d, r in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(vm.TIMEOUT)
        for i, data, run in runs:
            check(run.wait(10) == i and results.get(i) == data + f'{i}\n'.encode(), f'program {i}')
        for _ in range(15):
            batch = [subprocess.Popen(g.command('ping'), stdout=subprocess.DEVNULL) for _ in range(4)]
            check(all(b.wait(vm.TIMEOUT) == 0 for b in batch), 'a ping')
        check(g.shell('true') == '', 'a last one')
        for _ in range(100): # a client ends before the VMM has closed its side
            if descriptors(g) <= fds:
                break
            time.sleep(0.1)
        else:
            check(False, f'{descriptors(g)} descriptors, {fds} before')


def case_copy(engine, tool, agent):
    """Archives to and from the guest."""
    with guest(engine, tool, agent) as g, tempfile.TemporaryDirectory() as folder:
        data = os.urandom(3 << 20)
        os.mkdir(os.path.join(folder, 'dir'))
        with open(os.path.join(folder, 'dir/file'), 'wb') as f:
            f.write(data)
        os.chmod(os.path.join(folder, 'dir/file'), 0o640)
        os.symlink('file', os.path.join(folder, 'dir/link'))
        pack = io.BytesIO()
        with tarfile.open(fileobj=pack, mode='w') as tar:
            tar.add(os.path.join(folder, 'dir'), 'dir')
        check(g.run('put', '/tmp', data=pack.getvalue())[0] == 0, 'put')
        check(g.shell('sha256sum </tmp/dir/link; stat -c %a /tmp/dir/file').split() ==
              [hashlib.sha256(data).hexdigest(), '-', '640'], 'what was put')
        code, out, err = g.run('get', '/tmp/dir')
        check(code == 0, f'get: {err}')
        with tarfile.open(fileobj=io.BytesIO(out)) as tar:
            check(sorted(tar.getnames()) == ['dir', 'dir/file', 'dir/link'] and tar.extractfile('dir/file').read() == data, 'what was got')
        check('ENOENT' in g.run('get', '/tmp/nothing')[2] and g.run('put', '/tmp/nothing', data=pack.getvalue())[0] == 125, 'errors')
        check(g.run('put', '/tmp', data=pack.getvalue()[:5000])[0] == 125, 'a truncated archive')


def case_lost(engine, tool, agent):
    """The agent is killed, and the VMM is: clients say so and end; a new agent serves on. Nonsense does it no harm."""
    with guest(engine, tool, agent) as g:
        run = subprocess.Popen(g.command('exec', 'sh', '-c', 'echo up; sleep 1000'), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        check(run.stdout.readline() == b'up\n', 'no start')
        g.run('exec', 'sh', '-c', 'kill -9 $(pidof caisson-agent)') # all of them: also the one that runs this
        check(run.wait(vm.TIMEOUT) == 125 and b'ECONNRESET' in run.stderr.read(), 'the client of a killed agent')
        check(g.shell('echo again') == 'again', 'the next agent')
        for nonsense in (b'\xff' * 100, struct.pack('<IB3x', 0xffffffff, 0), struct.pack('<IB3x', 5, 0) + b'hello', b'',
                         struct.pack('<IB3x', 2, 0) + b'{}'):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(g.path)
                s.send(b'CONNECT 1024\n')
                check(s.makefile('rb', 0).readline().startswith(b'OK '), 'handshake')
                with contextlib.suppress(OSError):
                    s.send(nonsense)
                    s.shutdown(socket.SHUT_WR)
                    s.settimeout(60)
                    while s.recv(65536):
                        pass
        for line in (b'CONNECT 1025\n', b'CONNECT x\n', b'HELLO\n', b'CONNECT 1024' * 10, b'CONNECT 4294967296\n'):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(g.path)
                s.settimeout(60)
                s.send(line)
                with contextlib.suppress(ConnectionResetError):
                    check(s.recv(100) == b'', f'{line} was answered')
        check(g.shell('echo still') == 'still', 'after the nonsense')
        run = subprocess.Popen(g.command('exec', 'sh', '-c', 'echo up; sleep 1000'), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        check(run.stdout.readline() == b'up\n', 'no start')
        os.kill(g.vm.vmm_pid(), signal.SIGKILL)
        check(run.wait(vm.TIMEOUT) == 125 and b'ECONNRESET' in run.stderr.read(), 'the client of a killed VM')
        check('ENOENT' in g.run('ping')[2], 'a VM that does not run')


def case_saved(engine, tool, agent):
    """Saved and left running, connections go on. Restored under the other engine, the guest is told that they are gone, and the
    agent serves new ones."""
    with guest(engine, tool, agent) as g, tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'saved')
        run = subprocess.Popen(g.command('exec', '-i', 'sh', '-c', 'echo $$; exec cat'), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        pid = int(run.stdout.readline())
        subprocess.run([vm.CAISSON, 'vm', 'save', '--keep-running', NAME, file], check=True)
        run.stdin.write(b'goes on\n')
        run.stdin.flush()
        check(run.stdout.readline() == b'goes on\n', 'a connection over a save')
        subprocess.run([vm.CAISSON, 'vm', 'save', '--replace', NAME, file], check=True)
        check(run.wait(vm.TIMEOUT) == 125 and b'ECONNRESET' in run.stderr.read(), 'the client of a VM that was saved')
        check(g.vm.wait() == 0, 'exit code')
        other = 'interp' if engine == 'bt' else 'bt'
        with vm.started(['--engine', other, file], program=[vm.CAISSON, 'vm', 'restore']) as restored:
            while not os.path.exists(g.path) and restored.process.poll() is None:
                time.sleep(0.05)
            code, _, err = g.run('ping')
            check(code == 0, f'no ping after the restore: {err}')
            for _ in range(100):
                if g.shell(f'test -d /proc/{pid} && echo there || true') == '':
                    break
                time.sleep(0.2)
            else:
                check(False, 'the program of the lost connection goes on')
            data = os.urandom(1 << 20)
            check(g.run('exec', '-i', 'cat', data=data) == (0, data, ''), '1 MiB there and back')
            g.run('exec', 'poweroff', '-f')


if __name__ == '__main__':
    vm.main({name[5:]: case for name, case in list(globals().items()) if name.startswith('case_')})
