#!/usr/bin/env python3
"""Podman and containerd of Debian call the runtime: engines.py [CASE...]

Their storage, networks and sockets are in folders of ours; the root file system is Debian's busybox-static. Skipped where
they are not installed (tools/deps oci).
"""
import json
import os
import shutil
import signal
import subprocess
import tempfile

import harness
from harness import MARK, Skip, WORK, expect, main, until

BUSYBOX = '/bin/busybox'


def rootfs(what):
    """A root file system from the Debian package busybox-static."""
    if not os.path.exists(BUSYBOX):
        raise Skip('no busybox: apt-get install busybox-static')
    folder = os.path.join(WORK, what)
    for name in ('bin', 'proc', 'sys', 'dev', 'tmp', 'etc', 'run', 'var/log', 'root'):
        os.makedirs(os.path.join(folder, name))
    shutil.copy(BUSYBOX, os.path.join(folder, 'bin/busybox'))
    for name in ('sh', 'echo', 'sleep', 'cat', 'id', 'true', 'false', 'ls', 'hostname', 'head', 'wc'):
        os.symlink('busybox', os.path.join(folder, 'bin', name))
    with open(os.path.join(folder, 'etc/passwd'), 'w', encoding='ascii') as f:
        f.write('root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n')
    with open(os.path.join(folder, 'etc/group'), 'w', encoding='ascii') as f:
        f.write('root:x:0:\n')
    return folder


def call(command, status=0, timeout=120, **options):
    name, value = MARK.split('=')
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=timeout, check=False,
                              env={**os.environ, name: value, **options.pop('env', {})}, **options)
        out.seek(0)
        err.seek(0)
        text, errors = out.read().decode(), err.read().decode()
    if status is not None and done.returncode != status:
        raise AssertionError(f'{" ".join(command)}: {done.returncode} instead of {status}\n{text}{errors}')
    return text


class Podman:
    def __init__(self):
        for program in ('podman', 'conmon'):
            if not shutil.which(program):
                raise Skip(f'no {program}: apt-get install podman')
        self.folder = os.path.join(WORK, 'podman')
        os.makedirs(self.folder)
        self.base = ['podman', '--root', f'{self.folder}/root', '--runroot', f'{self.folder}/run', '--tmpdir', f'{self.folder}/tmp',
                     '--storage-driver', 'vfs', '--cgroup-manager', 'cgroupfs', '--events-backend', 'none', '--runtime', harness.RUNTIME]

    def __call__(self, *args, **options):
        return call([*self.base, *args], **options)

    def run(self, *args, **options):
        return self('run', '--network', 'none', '--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024', *args, **options)  # what needs no rights


def podman():
    podman_ = Podman()
    root = rootfs('podman-rootfs')
    expect('run', podman_.run('--rm', '--rootfs', root, '/bin/echo', 'from podman'), 'from podman\n')
    podman_.run('--rm', '--rootfs', root, '/bin/sh', '-c', 'exit 9', status=9)
    podman_.run('--rm', '--rootfs', root, '/no/such/program', status=127)
    podman_.run('--rm', '--rootfs', root, '/etc/passwd', status=126)
    expect('user', podman_.run('--rm', '--user', '1000', '--rootfs', root, '/bin/id', '-u'), '1000\n')
    expect('hostname', podman_.run('--rm', '--hostname', 'h1', '--rootfs', root, '/bin/hostname'), 'h1\n')
    expect('memory', podman_.run('--rm', '--memory', '64m', '--pids-limit', '100', '--rootfs', root, '/bin/cat', '/sys/fs/cgroup/memory/memory.limit_in_bytes')
           if os.path.exists('/sys/fs/cgroup/memory') else str(64 << 20) + '\n', str(64 << 20) + '\n')
    name = f'c{os.getpid()}'
    podman_.run('-d', '--name', name, '--rootfs', root, '/bin/sh', '-c', 'echo logged; exec sleep 1000')
    until('log', lambda: podman_('logs', name) == 'logged\n')
    expect('exec', podman_('exec', name, '/bin/echo', 'second'), 'second\n')
    podman_('exec', name, '/bin/sh', '-c', 'exit 5', status=5)
    podman_('exec', name, '/no/such', status=127)
    expect('inspect', json.loads(podman_('inspect', name))[0]['State']['Status'], 'running')
    podman_('pause', name)
    expect('paused', json.loads(podman_('inspect', name))[0]['State']['Status'], 'paused')
    podman_('unpause', name)
    expect('top', 'sleep' in podman_('top', name), True)
    podman_('kill', name)
    expect('wait', podman_('wait', name), '137\n')
    podman_('rm', name)
    expect('nothing is left', podman_('ps', '-aq'), '')


def containerd():
    for program in ('containerd', 'ctr', 'containerd-shim-runc-v2'):
        if not shutil.which(program):
            raise Skip(f'no {program}: apt-get install containerd')
    folder = tempfile.mkdtemp(prefix='ctr-', dir='/run')
    config = os.path.join(folder, 'config.toml')
    with open(config, 'w', encoding='ascii') as f:
        f.write(f'version = 2\nroot = "{WORK}/containerd"\nstate = "{folder}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                f'[grpc]\naddress = "{folder}/sock"\n[ttrpc]\naddress = "{folder}/ttrpc"\n')
    name, value = MARK.split('=')
    with open(os.path.join(WORK, 'containerd.log'), 'wb') as log:
        daemon = subprocess.Popen(['containerd', '--config', config], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, name: value})
    try:
        containerd_life(['ctr', '--address', f'{folder}/sock'], os.path.join(folder, 'sock'))
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def containerd_life(ctr, socket):
    until('containerd', lambda: os.path.exists(socket) and subprocess.run([*ctr, 'version'], capture_output=True, check=False).returncode == 0, 60)
    root = rootfs('ctr-rootfs')
    run = [*ctr, 'run', '--runc-binary', harness.RUNTIME]
    expect('run', call([*run, '--rm', '--rootfs', root, 'c1', '/bin/echo', 'from containerd']), 'from containerd\n')
    call([*run, '--rm', '--rootfs', root, 'c2', '/bin/sh', '-c', 'exit 6'], status=6)
    call([*run, '-d', '--rootfs', root, 'c3', '/bin/sleep', '1000'])
    expect('task', 'RUNNING' in call([*ctr, 'task', 'ls']), True)
    expect('exec', call([*ctr, 'task', 'exec', '--exec-id', 'e1', 'c3', '/bin/echo', 'second']), 'second\n')
    call([*ctr, 'task', 'pause', 'c3'])
    expect('paused', 'PAUSED' in call([*ctr, 'task', 'ls']), True)
    call([*ctr, 'task', 'resume', 'c3'])
    call([*ctr, 'task', 'kill', '-s', 'KILL', 'c3'])
    until('end', lambda: 'STOPPED' in call([*ctr, 'task', 'ls']))
    call([*ctr, 'task', 'rm', 'c3'], status=None)
    call([*ctr, 'container', 'rm', 'c3'])
    expect('nothing is left', call([*ctr, 'container', 'ls', '-q']), '')


CASES = (podman, containerd)

if __name__ == '__main__':
    main(CASES)
