#!/usr/bin/env python3
"""Options of run, seen from inside, and beside Podman where it says something: options.py [CASE...]"""
import os
import pty
import re
import subprocess
import termios
import time

from common import CAISSON, WORK, Caisson, Podman, Skip, expect, health_life, main, nothing_left, until

c = Caisson()

# The same words to both; what the program says must be the same. Options that do not mind each other share a container.
SAME = ({
    'home of root': ([], 'echo $HOME'),
    'workdir': (['-w', '/home/user'], 'pwd'),
    'hostname': (['--hostname', 'h1'], 'hostname; head -c 2 /etc/hostname'),
    'capabilities': ([], 'grep Cap /proc/self/status'),
    'seccomp': ([], 'grep Seccomp: /proc/self/status'),
    'tmpfs': (['--tmpfs', '/t:size=1m'], 'df /t | tail -1'),
    'tmpfs has what the image has': (['--tmpfs', '/usr/share/seed'], 'cat /usr/share/seed/file'),
    'mount tmpfs': (['--mount', 'type=tmpfs,target=/t2,tmpfs-size=1m'], 'df /t2 | tail -1'),
    'volume': (['-v', f'{WORK}/bind:/b'], 'cat /b/f; touch /b/written && echo ok'),
    'volume, read only': (['-v', f'{WORK}/bind:/b2:ro'], 'touch /b2/x 2>&1'),
    'mount bind': (['--mount', f'type=bind,source={WORK}/bind,target=/b3,readonly'], 'cat /b3/f; touch /b3/x 2>&1'),
    'shm-size': (['--shm-size', '1m'], 'df /dev/shm | tail -1'),
    'ulimit': (['--ulimit', 'core=100:200'], 'ulimit -c; ulimit -Hc'),
    'sysctl': (['--sysctl', 'net.ipv4.ip_forward=1'], 'cat /proc/sys/net/ipv4/ip_forward'),
    'add-host': (['--add-host', 'a.example:1.2.3.4'], 'grep example /etc/hosts | tr "\\t" " "'),
    'masked': ([], 'cat /proc/kcore 2>&1 | head -c 1; ls /sys/firmware; echo 1 > /proc/sysrq-trigger'),
    'sys is read-only': ([], 'mkdir /sys/fs/cgroup/x 2>&1; touch /sys/x 2>&1'),
}, {
    'env': (['-e', 'A=1', '-e', 'HOME=/x'], 'echo $A $HOME $PATH'),
    'read-only': (['--read-only'], 'touch /x 2>&1; touch /dev/shm/x && echo shm'),
    'no-new-privileges': (['--security-opt', 'no-new-privileges'], 'grep NoNewPrivs /proc/self/status'),
    'seccomp=unconfined': (['--security-opt', 'seccomp=unconfined'], 'grep Seccomp: /proc/self/status'),
    'cap-add': (['--cap-add', 'net_admin'], 'grep Cap /proc/self/status'),
    'cap-drop': (['--cap-drop', 'chown', '--cap-drop', 'KILL'], 'grep Cap /proc/self/status'),
}, {
    'user by name': (['--user', 'user'], 'id; echo $HOME'),
    'capabilities of a user': ([], 'grep Cap /proc/self/status'),
}, {
    'user and group': (['--user', 'user:extra'], 'id'),
    'cap-add of a user': (['--cap-add', 'CAP_NET_RAW'], 'grep Cap /proc/self/status'),
}, {
    'user without a name': (['--user', '5:7'], 'id -u; id -g; grep Groups /proc/self/status'),
    'cap-drop all': (['--cap-drop', 'all'], 'grep Cap /proc/self/status'),
}, {
    'user by number': (['--user', '1000'], 'id'),
}, {
    'cap-drop all but one': (['--cap-drop', 'all', '--cap-add', 'kill'], 'grep Cap /proc/self/status'),
}, {
    'entrypoint': (['--entrypoint', '/bin/echo'], None),
})
LIMITS = {
    'memory': (['--memory', '64m'], 'memory/memory.limit_in_bytes'),
    'cpus': (['--cpus', '0.5'], 'cpu/cpu.cfs_quota_us'),
    'cpu-shares': (['--cpu-shares', '512'], 'cpu/cpu.shares'),
    'cpuset': (['--cpuset-cpus', '0'], 'cpuset/cpuset.cpus'),
    'pids': (['--pids-limit', '50'], 'pids/pids.max'),
    'pids, the default': ([], 'pids/pids.max'),
}


def same():
    podman = Podman()
    os.makedirs(f'{WORK}/bind', exist_ok=True)
    with open(f'{WORK}/bind/f', 'w', encoding='ascii') as f:
        f.write('bound\n')
    differ = []
    for group in SAME:
        options = [word for words, _ in group.values() for word in words]
        scripts = [script for _, script in group.values()]
        args = [*options, 'img', *(['word'] if scripts == [None] else ['sh', '-c', '; echo "---"; '.join(scripts)])]
        found, wanted = (one.run(*args, status=None).split('---\n') for one in (c, podman))
        expect(f'{", ".join(group)}: all ran', len(found), len(group))
        differ += [(what, f, w) for what, f, w in zip(group, found, wanted, strict=True) if f != w]
    expect(f'{sum(map(len, SAME))} options as with Podman', differ, [])
    nothing_left('options', c)


def ours():
    """What Podman does differently, or not at all."""
    expect('device', c.run('--device', '/dev/kmsg:/dev/mine:r', 'img', 'sh', '-c', 'ls -l /dev/mine | cut -c1; echo x > /dev/mine', status=1), 'c\n')
    expect('dns', c.run('--dns', '9.9.9.9', 'img', 'grep', 'nameserver', '/etc/resolv.conf'), 'nameserver 9.9.9.9\n')
    expect('hostname is the short id', re.match('^[0-9a-f]{12}$', c.run('img', 'hostname').strip()) is not None, True)
    expect('init', c.run('--init', 'img', 'sh', '-c', 'echo $$; sleep 0 & wait; cat /proc/1/comm'), '2\ncaisson-init\n')
    expect('privileged', 'tun' in c.run('--privileged', 'img', 'ls', '/dev/net') if os.path.exists('/dev/net/tun') else True, True)
    expect('namespaces are refused', c.run('img', 'sh', '-c', 'busybox unshare -U true', status=None, errors=True), re.compile('Operation not permitted'))
    nothing_left('ours', c)


def limits():
    podman = Podman() if os.path.exists('/sys/fs/cgroup/memory') else None
    if not podman:
        raise Skip('no cgroup v1')
    for what, (options, file) in LIMITS.items():
        args = [*options, 'img', 'cat', f'/sys/fs/cgroup/{file}']
        expect(what, c.run(*args), podman.run(*args))
    expect('no descriptors to spare', c.run('--ulimit', 'nofile=4:4', 'img', 'sh', '-c', 'ulimit -n'), '4\n')
    c.start('l', '--ulimit', 'nofile=5:5', 'img', 'sleep', '1000')
    expect('exec without descriptors to spare', (c('exec', 'l', 'sh', '-c', 'ulimit -n'), on_terminal('exec', '-it', 'l', 'sh', '-c', 'ulimit -n')),
           ('5\n', (0, '5\r\n')))
    expect('stats without a limit', c('stats', '--no-stream', '--format', '{{name}} {{memory_limit}}', 'l'), 'l \n')
    c('rm', '-f', 'l')


def codes():
    c.run('img', 'sh', '-c', 'exit 9', status=9)
    c.run('img', 'sh', '-c', 'sh -c "kill -9 \\$\\$"; exit $?', status=137)
    c.run('img', '/no/such', status=127)
    c.run('img', '/etc/passwd', status=126)
    c.run('--pull', 'never', 'no-such-image', status=125)
    c.run('--memory', 'much', 'img', status=125)
    expect('streams', (c.run('img', 'sh', '-c', 'echo out; echo err >&2'), c.run('img', 'sh', '-c', 'echo err >&2', errors=True)), ('out\n', 'err\n'))
    c.start('e', 'img', 'sleep', '1000')
    c('exec', 'e', 'sh', '-c', 'exit 5', status=5)
    c('exec', 'e', '/no/such', status=127)
    c('exec', 'e', '/etc/passwd', status=126)
    c('exec', 'none', 'true', status=125)
    expect('exec -u -w -e', c('exec', '-u', 'user', '-w', '/tmp', '-e', 'A=b', 'e', 'sh', '-c', 'id -u; pwd; echo $A $HOME'), '1000\n/tmp\nb /home/user\n')
    expect('exec --privileged', c('exec', '--privileged', 'e', 'grep', 'CapEff', '/proc/self/status') != c('exec', 'e', 'grep', 'CapEff', '/proc/self/status'), True)
    c('exec', '-d', 'e', 'touch', '/tmp/detached')
    c('exec', 'e', 'test', '-e', '/tmp/detached')
    c('pause', 'e')
    c('exec', 'e', 'true', status=125)
    c('resume', 'e')
    expect('top', c('top', 'e'), re.compile(r' 1 +0 +S.*sleep 1000'))
    expect('stats', c('stats', '--no-stream', '--format', 'name,pids', 'e'), re.compile(r'e +\d'))
    c('rm', '-f', 'e')
    nothing_left('exit codes', c)


def slow():
    """Who begins to read late gets all, also of what had ended by then with its last output in pipes."""
    for size in (150 << 10, 220 << 10, 260 << 10, 300 << 10, 40 << 20):
        command = ['run', '--rm', '--network', 'none', 'img', 'sh', '-c', f'head -c {size} /dev/zero | busybox tr "\\0" a']
        with subprocess.Popen([CAISSON, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=c.env) as p:
            time.sleep(1)
            data = p.stdout.read()
        expect(f'{size} bytes', (p.returncode, len(data), set(data)), (0, size, {ord('a')}))
    nothing_left('slow readers', c)


def bad():
    """One line, exit code 125, nothing left."""
    cases = {('--network', 'nowhere'): 'nowhere', ('-v', '/no/such:/x'): '/no/such', ('-v', 'Bad_Name:/x'): 'Bad_Name', ('-v', '/:x'): 'x',
             ('-p', '0:80'): '0:80', ('-p', '80:1-2'): '80:1-2', ('--cap-add', 'fly'): 'fly', ('--device', '/etc/passwd'): '/etc/passwd', ('--user', 'nobody1'): 'nobody1',
             ('--ulimit', 'x'): 'x', ('--sysctl', 'kernel'): 'kernel', ('--restart', 'maybe'): 'maybe', ('--cpus', '-1'): '-1', ('--security-opt', 'seccomp=/no/such'): '/no/such',
             ('--env-file', '/no/such'): '/no/such', ('--mount', 'type=nfs,target=/x'): 'nfs', ('--stop-signal', 'SOON'): 'SOON', ('-w', 'relative'): 'relative',
             ('--platform', 'linux/s390x'): 's390x', ('--memory', '4m', '--memory-swap', '1m'): 'swap', ('--memory', '1'): '6M',
             ('-v', f'{WORK}:/x:r0'): "'ro'", ('-v', f'{WORK}:/x:rw,nosuit'): "'nosuid'", ('--mount', f'type=bind,source={WORK},target=/x,readnly'): 'readnly',
             ('--mount', f'type=bind,source={WORK},target=/x,bind-propagation=rslav'): "'rslave'", ('--tmpfs', '/x:sise=1m'): 'sise', ('--tmpfs', '/x:size='): 'size=',
             ('--security-opt', 'no-new-privilege'): 'no-new-privilege', ('--security-opt', 'no-new-privileges=maybe'): 'maybe', ('--security-opt', 'unmask=/proc'): '/proc',
             ('--add-host', 'a'): "'a'", ('--add-host', 'a:1.2.3'): '1.2.3', ('--add-host', 'a b:1.2.3.4'): 'a b', ('--dns', 'resolver'): 'resolver',
             ('--hostname', 'a b'): 'a b', ('--hostname', 'x' * 65): '64', ('--hostnam', 'x'): '--hostname', ('--memory',): '--memory'}
    expect('options come before the image', 'r0' in c('run', '-v', f'{WORK}:/x:r0', 'localhost:1/none', 'true', status=125, errors=True), True)
    c('exec', '--usr', 'x', 'e', 'true', status=125)
    for options, word in cases.items():
        network = [] if options[0] in ('--network', '-p') else ['--network', 'none']
        errors = c('run', '--rm', *network, *options, 'img', 'true', status=125, errors=True)
        expect(f'{" ".join(options)}: one line that names it', (errors.count('\n'), word in errors), (1, True))
    nothing_left('bad options', c)
    expect('no row is left', c.names(), [])


def update():
    """Limits of one that runs, in its cgroup; of one that does not, at its next start."""
    def limit(file_v1, file_v2):
        return c('exec', 'u', 'sh', '-c', f'cat /sys/fs/cgroup/{file_v1} 2>/dev/null || cat /sys/fs/cgroup/{file_v2}').strip()

    def memory():
        return limit('memory/memory.limit_in_bytes', 'memory.max')

    i = c.start('u', '--memory', '64m', '--pids-limit', '50', 'img', 'sleep', '1000')
    expect('before', (memory(), limit('pids/pids.max', 'pids.max')), (str(64 << 20), '50'))
    c('update', '--memory', '96m', '--cpus', '0.5', '--pids-limit', '60', 'u')
    expect('after', (memory(), limit('pids/pids.max', 'pids.max')), (str(96 << 20), '60'))
    expect('CPU time', limit('cpu/cpu.cfs_quota_us', 'cpu.max').split()[0], '50000')
    c('update', '--memory', '0', '--cpus', '0.25', '--pids-limit', '-1', 'u')
    expect('none any more', (memory() not in (str(96 << 20), str(64 << 20)), limit('pids/pids.max', 'pids.max')), (True, 'max'))
    expect('the rest stays', limit('cpu/cpu.cfs_quota_us', 'cpu.max').split()[0], '25000')
    c('update', '--memory', '1k', 'u', status=2)
    c('restart', '-t', '0', 'u')
    expect('kept', limit('cpu/cpu.cfs_quota_us', 'cpu.max').split()[0], '25000')
    c('stop', '-t', '0', 'u')
    c('update', '--memory', '32m', 'u')
    c('start', 'u')
    expect('at the next start', memory(), str(32 << 20))
    c('pause', 'u')
    expect('start does not resume, and says so', 'caisson resume u' in c('start', 'u', status=4, errors=True), True)
    expect('what it does is said', 'u is paused' in c('rm', 'u', status=4, errors=True), True)
    expect('inspect --format', c('inspect', '--format', '{{name}} {{state}} {{oom_killed}}', 'u'), 'u paused false\n')
    c('inspect', '--format', '{{name', 'u', status=2)
    c('resume', 'u')
    c('rm', '-f', 'u')
    nothing_left('update', c, [i])


def life():
    i = c.start('l', '--init', '--label', 'a=b', '--cidfile', f'{WORK}/cid', 'img', 'sh', '-c', 'trap "exit 3" TERM; echo up; while :; do sleep 0.1; done')
    expect('cidfile', open(f'{WORK}/cid', encoding='ascii').read(), i)
    c('create', '--cidfile', f'{WORK}/cid', 'img', status=4)
    c('create', '--cidfile', f'{WORK}/none/cid', 'img', status=3)
    c('create', '--cidfile', f'{WORK}/cid2', '--name', 'l', 'img', status=4)
    expect('what fails leaves neither', (c.names(), os.path.exists(f'{WORK}/cid2')), (['l'], False))
    c('wait', '-t', '100ms', c('create', '--network', 'none', '--name', 'later', 'img', 'sh', '-c', 'exit 4').strip(), status=6)
    c('start', 'later')
    expect('wait', c('wait', 'later'), '4\n')
    c('rm', 'later')
    expect('labels', c.inspect('l')['spec']['labels'], {'a': 'b'})
    c('run', '--name', 'l', 'img', status=125)
    until('output', lambda: 'up' in c('logs', 'l'))
    c('stop', 'l')
    expect('its own exit code after the stop signal', c.inspect('l')['exit_code'], 3)
    c('start', 'l')
    expect('files stay', c('exec', 'l', 'sh', '-c', 'echo x > /kept') or c('restart', 'l') and c('exec', 'l', 'cat', '/kept'), 'x\n')
    c('run', '-d', '--replace', '--name', 'l', '--network', 'none', 'img', 'sleep', '1000')
    c('exec', 'l', 'cat', '/kept', status=1)
    c('kill', 'l')
    expect('killed', c('wait', 'l').split()[-1], '137')
    c('rm', 'l')
    c.start('oom', '--memory', '16m', '--memory-swap', '16m', 'img', 'sh', '-c', 'head -c 64m /dev/zero | tail; sleep 1')
    c('wait', 'oom')
    expect('out of memory', c.inspect('oom')['oom_killed'], True)
    c('rm', 'oom')
    k = c.start('cold', 'img', 'sleep', '1000')
    frozen = f'/sys/fs/cgroup/freezer/caisson-{k[:12]}/freezer.state'
    if os.path.exists(frozen):
        with open(frozen, 'w', encoding='ascii') as f:
            f.write('FROZEN') # by somebody else
    c('rm', '-f', 'cold')
    nothing_left('life', c, [i, k])


def on_terminal(*args):
    """What the program writes to a terminal of 33 lines and 99 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 99))
    done = subprocess.run([CAISSON, *args], env=c.env, stdin=theirs, stdout=theirs, stderr=theirs, check=False, timeout=300)
    os.close(theirs)
    text = os.read(ours, 4096).decode()
    os.close(ours)
    return done.returncode, text


def size():
    """A program finds the size of the terminal from its first moment on, and its lines come through as they are."""
    expect('run -it', on_terminal('run', '--rm', '-it', '--network', 'none', 'img', 'stty', 'size'), (0, '33 99\r\n'))
    c('create', '--name', 'z', '-it', '--network', 'none', 'img', 'stty', 'size')
    expect('start -ai', on_terminal('start', '-ai', 'z'), (0, '33 99\r\n'))
    c('rm', 'z')
    c.start('z', 'img', 'sleep', '1000')
    expect('exec -it', on_terminal('exec', '-it', 'z', 'stty', 'size'), (0, '33 99\r\n'))
    c('rm', '-f', 'z')


def health():
    health_life(c)


main((same, ours, limits, codes, slow, bad, update, size, health, life))
