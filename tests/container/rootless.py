#!/usr/bin/env python3
"""Containers of a user without rights: rootless.py [CASE...]

Started by root; the program runs as a user of its own, whose line in /etc/passwd, subordinate ids and /dev/net/tun are there in a
mount namespace of ours only.
"""
import os
import re
import shutil
import signal
import socket
import stat
import subprocess

from common import WORK, Caisson, Skip, expect, fuse_life, health_life, main, nested, nested_life, nothing_left, until

UID = 54242
SUB = 1000000


def bind_files():
    files = {'/etc/passwd': f'ctruser:x:{UID}:{UID}::{WORK}:/bin/sh\n', '/etc/group': f'ctruser:x:{UID}:\n'}
    script = ['mount --make-rprivate /']
    for path, line in files.items():
        own = f'{WORK}/{os.path.basename(path)}'
        with open(path, encoding='utf-8') as f:
            text = f.read()
        with open(own, 'w', encoding='utf-8') as f:
            f.write(text + line)
        script.append(f'mount --bind {own} {path}')
    for name in ('subuid', 'subgid'):
        with open(f'{WORK}/{name}', 'w', encoding='ascii') as f:
            f.write(f'ctruser:{SUB}:65536\n')
        if not os.path.exists(f'/etc/{name}'):
            raise Skip(f'no /etc/{name}')
        script.append(f'mount --bind {WORK}/{name} /etc/{name}')
    if os.path.exists('/dev/net/tun'):
        script += [f'mount -t tmpfs t {WORK}/dev', f'mknod {WORK}/dev/tun c 10 200', f'chmod 666 {WORK}/dev/tun', f'mount --bind {WORK}/dev/tun /dev/net/tun']
        os.makedirs(f'{WORK}/dev', exist_ok=True)
    if os.path.exists('/dev/fuse'):
        script += [f'mount -t tmpfs t {WORK}/fuse', f'mknod {WORK}/fuse/fuse c 10 229', f'chmod 666 {WORK}/fuse/fuse', f'mount --bind {WORK}/fuse/fuse /dev/fuse']
        os.makedirs(f'{WORK}/fuse', exist_ok=True)
    script.append(f'exec setpriv --reuid={UID} --regid={UID} --clear-groups "$@"')
    with open(f'{WORK}/as-user', 'w', encoding='utf-8') as f:
        f.write('set -e\n' + '\n'.join(script) + '\n')
    return ['unshare', '--mount', 'sh', f'{WORK}/as-user']


def user(case=[]):  # pylint: disable=dangerous-default-value
    """One for all cases."""
    if case:
        return case[0]
    if not shutil.which('newuidmap'):
        raise Skip('no newuidmap: apt-get install uidmap')
    prefix = bind_files()
    done = subprocess.run([*prefix, 'unshare', '--user', '--map-root-user', 'true'], check=False, capture_output=True)
    if done.returncode != 0:
        raise Skip(f'a user may not make namespaces here: {done.stderr.decode().strip()}')
    folder = f'{WORK}/user'
    os.makedirs(folder)
    os.chown(folder, UID, UID)
    os.chdir('/')
    case.append(Caisson(prefix, folder))
    return case[0]


def life():
    c = user()
    expect('ids', c.run('img', 'sh', '-c', 'id -u; cat /proc/self/uid_map').split(), ['0', '0', str(UID), '1', '1', str(SUB), '65536'])
    expect('another user inside', c.run('--user', 'user', 'img', 'sh', '-c', 'id -u; touch /tmp/x; stat -c %u /tmp/x /bin/busybox'), '1000\n1000\n0\n')
    c.run('img', 'sh', '-c', 'exit 7', status=7)
    i = c.start('a', '-v', 'v:/data', 'img', 'sh', '-c', 'touch /data/r; chown 1000 /data/r; chmod 700 /data; sleep 1000')
    until('its file', lambda: c('exec', 'a', 'ls', '/data') == 'r\n')
    path = f'{c.folder}/s/volumes/v/_data'
    expect('owners on the host', (os.stat(path).st_uid, os.stat(f'{path}/r').st_uid), (UID, SUB + 999))
    expect('exec', c('exec', '-u', 'user', 'a', 'id', '-u'), '1000\n')
    c('exec', 'a', 'sh', '-c', 'exit 4', status=4)
    expect('top', c('top', 'a'), re.compile(r' 1 +0 +S.*sleep 1000'))
    expect('stats', c('stats', '--no-stream', '--format', 'name,pids', 'a'), re.compile(r'a +1'))
    c('cp', '/etc/hostname', 'a:/tmp/h')
    expect('cp', c('exec', 'a', 'cat', '/tmp/h'), open('/etc/hostname', encoding='utf-8').read())
    c('pause', 'a', status=None)
    c('resume', 'a', status=None)
    c('stop', '--timeout', '0', 'a')
    c('cp', 'a:/tmp/h', f'{c.folder}/h')
    expect('diff', 'A /tmp/h' in c('diff', 'a').splitlines(), True)
    c('rm', 'a')
    c('volume', 'rm', 'v')
    expect('a warning for limits', c.run('--memory', '64m', 'img', 'true', errors=True), re.compile('warning.*need root'))
    nothing_left('life', c, [i])


def network():
    c = user()
    if not (os.path.exists('/dev/net/tun') and stat.S_ISCHR(os.stat('/dev/net/tun').st_mode)):
        raise Skip('no /dev/net/tun')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    c.start('w', '-p', f'{port}:80', 'img', 'sh', '-c', 'echo served > /tmp/index.html; httpd -f -p 80 -h /tmp', network='default')

    def fetch():
        try:
            with socket.create_connection(('127.0.0.1', port), timeout=5) as s:
                s.sendall(b'GET / HTTP/1.0\r\n\r\n')
                return b'served' in s.recv(65536)
        except OSError:
            return False
    until('the published port', fetch)
    expect('names', c('run', '--rm', 'img', 'wget', '-qO-', 'http://w/'), 'served\n')
    c('rm', '-f', 'w')
    nothing_left('network', c)


def killed():
    """A supervisor that is killed leaves a process of a subordinate id."""
    c = user()
    i = c.start('k', '--user', 'user', 'img', 'sleep', '1000')
    os.kill(c.inspect('k')['supervisor_pid'], signal.SIGKILL)
    until('repaired', lambda: c.inspect('k')['state'] == 'exited')
    c('start', 'k')
    c('rm', '-f', 'k')
    nothing_left('killed', c, [i])


def health():
    health_life(user())


def fuse():
    fuse_life(user())


def nested_store():
    nested_life(*nested('nested', user().prefix, UID))


main((life, network, killed, health, fuse, nested_store))
