#!/usr/bin/env python3
"""What each field of config.json does, seen from inside, beside runc: fields.py [CASE...]

The same bundle is run by runc and by the runtime under test; /report prints what it finds around itself (report.c), and the
two must be the same after the names that differ by nature (namespace numbers, paths of the bundle) are taken out. Where we
differ on purpose, DIFFERENCES says why. What runc 1.1 of Debian does not know is compared with the wanted lines instead.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import harness
from harness import BASE_CAPS, Bundle, MARK, Runtime, Skip, WORK, expect, hierarchies, main, merged, nothing_left, report_of

RUNC = shutil.which('runc')
# (line of either side, why it may differ)
DIFFERENCES = (
    (r'^fd ', 'descriptors have a test of their own; runc opens the log pipe at another number'),
    (r'^boottime-days ', 'a day may end'),
    (r'^status (THP|x86_Thread|Speculation)', 'not set by a runtime: the seccomp flags of libseccomp versions differ'),
    (r'^keyring ', 'both have one of their own, with their own name'),
    (r'^pdeathsig ', 'not promised'),
    (r'^status (SigQ|SigPnd|ShdPnd)', 'of the moment'),
    (r'^look (/tmp|/sys/firmware) mode 04', 'the mode of a masked folder: 755 instead of 1777'),
    (r'^node /dev/mqueue ', 'its group in a user namespace without a mapping for it'),
    (r'^ppid ', 'without a PID namespace: the caller, which differs'),
)
HOST_NS = {name: os.readlink(f'/proc/self/ns/{name}') for name in ('cgroup', 'ipc', 'mnt', 'net', 'pid', 'time', 'user', 'uts')}


def accepted_mount(point, root, options, tags, rest):
    """One mount, without what we do otherwise than runc on purpose; None: not compared at all.
    Masked folders are a tmpfs of ours with more options against it (nosuid, nodev, noexec, no inodes), masked files are covered
    by the host's null device, read-only, instead of by the container's; the v2 hierarchy of a hybrid layout is shown, too;
    /sys/fs/cgroup itself is read-only if the mount is; the super block of a read-only mount stays as it is."""
    kind, source, more = rest
    more = ','.join(word for word in more.split(',') if word not in ('rw', 'ro'))
    if point == '/sys/fs/cgroup/unified' or point == '/sys/fs/cgroup' and kind == 'tmpfs':
        return None
    if kind == 'cgroup':
        source = 'cgroup'
    if kind in ('tmpfs', 'devtmpfs') and point != '/' and (root == '/null' or options.startswith('ro') and (not more or 'nr_inodes=1' in more or 'uid=' in more)):
        return f'mount {point} masked'
    return ' '.join(['mount', point, root, options, *tags, kind, source, more])


def normal(lines, bundle):
    """The lines without what differs by nature."""
    out = []
    for line in lines:
        line = line.replace(bundle.path, 'BUNDLE').replace(bundle.id, 'ID').replace(MARK, 'MARK')
        if line.startswith('ns '):
            _, name, link = line.split(' ', 2)
            line = f'ns {name} ' + ('host' if link == HOST_NS.get(name) else 'own')
        # What masks files is the host's null device, and crun gives it to the user of the container that it started last.
        line = re.sub(r'^(look .* dev 1:3) owner .*', r'\1', line)
        if line.startswith('status SigIgn:'):
            # Signals 32 and 33 are the C library's own; its posix_spawn (make's) leaves them ignored, and we do not pass that on.
            line = f'status SigIgn:\t{int(line.split()[-1], 16) & ~(3 << 31):016x}'
        if line.startswith('mount '):
            fields = line.split(' ')
            # "mount", then: id, parent, device, root, point, options, optional fields..., -, type, source, super options
            dash = fields.index('-')
            tags = sorted(re.sub(r'\d+', 'N', tag) for tag in fields[7:dash])
            line = accepted_mount(fields[5], fields[4], fields[6], tags, fields[dash + 1:])
        if not line or line.startswith('pid ') and line != 'pid 1':
            continue
        if any(re.match(pattern, line) for pattern, _ in DIFFERENCES):
            continue
        out.append(line)
    return out


def difference(a, b):
    only_a = [line for line in a if line not in b]
    only_b = [line for line in b if line not in a]
    return [f'runc only: {line}' for line in only_a] + [f'we only: {line}' for line in only_b]


def beside_runc(what, changes, words=(), prepare=None, base=None, status=0):
    """Run on both; the reports must agree. Returns our lines."""
    if not RUNC:
        raise Skip('no runc: apt-get install runc')
    lines = {}
    for path in (RUNC, harness.RUNTIME):
        bundle = Bundle(changes, ['/report', *words], base)
        if prepare:
            prepare(bundle)
        runtime = Runtime(path)
        done = runtime.run(bundle, check=False)
        expect(f'{what}: status of {os.path.basename(path)}: {done.stderr[-300:]}', done.returncode, status)
        lines[path] = normal(done.stdout.splitlines(), bundle)
    expect(f'{what}: more than nothing', len(lines[harness.RUNTIME]) > 30, True)
    expect(f'{what}: beside runc', difference(lines[RUNC], lines[harness.RUNTIME]), [])
    nothing_left(what)
    return lines[harness.RUNTIME]


def has(what, lines, *wanted):
    for line in wanted:
        if isinstance(line, re.Pattern):
            expect(f'{what}: {line.pattern}', any(line.search(found) for found in lines), True)
        else:
            expect(f'{what}: {line}', line in lines, True)


def caps(*names, **sets):
    return {'process': {'capabilities': sets or {kind: list(names) for kind in ('bounding', 'effective', 'permitted')}}}


ALL_CAPS = [f'CAP_{name}' for name in (
    'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST '
    'NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE '
    'SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND '
    'AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE').split()]


def base():
    has('base', beside_runc('base', {}, ['sysctl:kernel/hostname', 'look:/proc/timer_list', 'look:/proc/sys', 'look:/dev/null', 'look:/sys/firmware',
                                         'look:/proc/sysrq-trigger', 'call:mknod', 'call:mount', 'call:chown', 'tree:/tmp']),
        'hostname caisson-test', 'pid 1', 'status NoNewPrivs:\t1', 'ns cgroup own', 'ns user host', 'look /proc/timer_list read empty',
        re.compile('^look /proc/sys create (EROFS|EACCES|ENOENT)'))


def process_fields():
    has('user', beside_runc('user', {'process': {'user': {'uid': 1000, 'gid': 1001, 'additionalGids': [5, 6, 7], 'umask': 0o27}}}),
        'uid 1000 1000 1000', 'groups 5 6 7', 'umask 0027')
    has('cwd', beside_runc('cwd', {'process': {'cwd': '/made/by/runtime'}}), 'cwd /made/by/runtime')
    has('env', beside_runc('env', {'process': {'env': ['A=1', 'B=x y', 'C=', 'A=2', MARK]}}), 'env B=x y', 'env C=')
    beside_runc('no env', {'process': {'env': [MARK]}})
    limits = [('AS', 1 << 40, 1 << 41), ('CORE', 0, 100), ('CPU', 1000, 2000), ('DATA', 1 << 40, 1 << 40), ('FSIZE', 1 << 30, 1 << 31),
              ('LOCKS', 5, 6), ('MEMLOCK', 65536, 131072), ('MSGQUEUE', 1000, 2000), ('NICE', 0, 0), ('NOFILE', 100, 200),
              ('NPROC', 300, 400), ('RSS', 1 << 30, 1 << 30), ('RTPRIO', 0, 0), ('RTTIME', 500000, 600000), ('SIGPENDING', 60, 70),
              ('STACK', 1 << 20, 1 << 21)]
    has('rlimits', beside_runc('rlimits', {'process': {'rlimits': [{'type': f'RLIMIT_{n}', 'soft': s, 'hard': h} for n, s, h in limits]}}),
        'rlimit 7 100 200', 'rlimit 0 1000 2000', 'rlimit 15 500000 600000')
    has('oom', beside_runc('oom', {'process': {'oomScoreAdj': 777}}), 'oom 777')
    has('oom', beside_runc('oom 0', {'process': {'oomScoreAdj': 0}}), 'oom 0')
    has('new privileges', beside_runc('new privileges', {'process': {'noNewPrivileges': False}}), 'status NoNewPrivs:\t0')
    has('no capabilities', beside_runc('no capabilities', {'process': {'capabilities': {kind: [] for kind in ('bounding', 'effective', 'permitted')}}}), 'status CapEff:\t0000000000000000')
    beside_runc('capabilities not given', {'process': {'capabilities': None}})
    has('all capabilities', beside_runc('all capabilities', caps(*ALL_CAPS), ['call:mount', 'call:sethostname', 'call:mknod']), 'call mount ok')
    kinds = {'bounding': ['CAP_CHOWN', 'CAP_KILL', 'CAP_NET_RAW'], 'effective': ['CAP_CHOWN'], 'permitted': ['CAP_CHOWN', 'CAP_KILL'],
             'inheritable': ['CAP_CHOWN'], 'ambient': ['CAP_CHOWN']}
    beside_runc('different capability sets', caps(**kinds))
    has('ambient of a user', beside_runc('ambient of a user', merged({'process': {'user': {'uid': 7, 'gid': 7}}}, caps(**kinds)), ['call:chown']),
        re.compile('CapAmb:\t0+1$'), 'call chown ok')
    beside_runc('unknown capability', caps('CAP_CHOWN', 'CAP_NOT_THERE'))
    beside_runc('read-only root', {'root': {'readonly': True}}, ['look:/etc', 'look:/tmp', 'call:mkdir'])
    beside_runc('args with all sorts of signs', {'process': {'args': ['/report']}})


def beyond_runc():
    """What Debian's runc does not know: only our own lines can be checked, against the specification's words."""
    runtime = Runtime()
    for what, changes, wanted in (
            ('batch', {'process': {'scheduler': {'policy': 'SCHED_BATCH', 'nice': 5}}}, [re.compile('sched policy 3 flags 0 nice 5')]),
            ('reset on fork', {'process': {'scheduler': {'policy': 'SCHED_OTHER', 'nice': 3, 'flags': ['SCHED_FLAG_RESET_ON_FORK']}}},
             [re.compile('sched policy 0 flags 1 nice 3')]),
            ('ioprio', {'process': {'ioPriority': {'class': 'IOPRIO_CLASS_BE', 'priority': 6}}}, [f'ioprio {2 << 13 | 6}']),
            ('ioprio idle', {'process': {'ioPriority': {'class': 'IOPRIO_CLASS_IDLE', 'priority': 0}}}, [f'ioprio {3 << 13}']),
            ('domain name', {'domainname': 'example.org'}, ['domainname example.org']),
            ('time namespace', {'linux': {'namespaces': [{'type': t} for t in ('pid', 'mount', 'time')],
                                          'timeOffsets': {'boottime': {'secs': 86400 * 1000}, 'monotonic': {'secs': 55, 'nanosecs': 9}}}, 'hostname': None},
             [re.compile(r'^boottime-days 1\d\d\d'), re.compile(r'timens monotonic +55 +9'), re.compile(r'timens boottime +86400000 +0')]),
            ('seccomp flags', seccomp_profile(flags=['SECCOMP_FILTER_FLAG_LOG', 'SECCOMP_FILTER_FLAG_SPEC_ALLOW', 'SECCOMP_FILTER_FLAG_TSYNC'],
                                              syscalls=[{'names': ['mkdir'], 'action': 'SCMP_ACT_LOG'}]), ['status Seccomp:\t2']),
            ('shared root', {'linux': {'rootfsPropagation': 'shared'}}, [re.compile(r'^mount \d+ \d+ \S+ \S+ / \S+ shared:')]),
            ('personality', {'linux': {'personality': {'domain': 'LINUX32'}}}, ['personality 8', 'machine i686'])):
        bundle = Bundle(changes)
        has(what, report_of(runtime, bundle), *wanted)
    nothing_left('beyond runc', runtime)


def namespaces():
    for kinds in ([], ['pid'], ['mount'], ['mount', 'pid'], ['mount', 'uts'], ['mount', 'ipc'], ['mount', 'network'], ['mount', 'cgroup'],
                  ['pid', 'network', 'ipc', 'uts', 'mount', 'cgroup']):
        if 'mount' not in kinds:
            continue
        beside_runc(f'namespaces {" ".join(kinds)}', {'hostname': 'caisson-test' if 'uts' in kinds else None,
                                                      'mounts': [m for m in harness.BASE['mounts'] if m['type'] not in ('mqueue',)],
                                                      'linux': {'namespaces': [{'type': k} for k in kinds]}})
    holder = subprocess.Popen(['unshare', '--net', '--ipc', '--uts', '--cgroup', 'sh', '-c', 'hostname joined; echo; exec sleep 600'],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    holder.stdout.readline()
    try:
        joined = [{'type': 'pid'}, {'type': 'mount'}] + [
            {'type': kind, 'path': f'/proc/{holder.pid}/ns/{name}'} for kind, name in (('network', 'net'), ('ipc', 'ipc'), ('uts', 'uts'))]
        lines = beside_runc('joined', {'hostname': None, 'linux': {'namespaces': joined}})
        has('joined', lines, 'hostname joined')
        runtime, bundle = Runtime(), Bundle({'hostname': None, 'linux': {'namespaces': joined}})
        lines = report_of(runtime, bundle)
        for name in ('net', 'ipc', 'uts'):
            has('joined', lines, f'ns {name} ' + os.readlink(f'/proc/{holder.pid}/ns/{name}'))
    finally:
        holder.kill()
        holder.wait()


USER = {'linux': {'namespaces': [{'type': k} for k in ('pid', 'network', 'ipc', 'uts', 'mount', 'cgroup', 'user')],
                  'uidMappings': [{'containerID': 0, 'hostID': 100000, 'size': 5000}],
                  'gidMappings': [{'containerID': 0, 'hostID': 200000, 'size': 3000}, {'containerID': 5000, 'hostID': 300000, 'size': 10}]}}


def own_rootfs(bundle):
    for path, folders, files in os.walk(bundle.rootfs):
        os.chown(path, 100000, 200000)
    os.chmod(WORK, 0o755)
    os.chmod(bundle.path, 0o755)


def user_namespace():
    lines = beside_runc('user namespace', USER, ['call:mknod', 'call:mount', 'look:/tmp', 'look:/proc/sys', 'tree:/dev/shm'], prepare=own_rootfs)
    has('user namespace', lines, 'ns user own', re.compile(r'uid_map +0 +100000 +5000'), re.compile(r'gid_map +5000 +300000 +10'), 'uid 0 0 0')
    beside_runc('user in a user namespace', merged(USER, {'process': {'user': {'uid': 33, 'gid': 44, 'additionalGids': [5, 5001]}}}),
                prepare=own_rootfs)


def few_descriptors():
    """A container's limit of descriptors is not that of its making."""
    def binds(bundle):
        own_rootfs(bundle)
        os.makedirs(os.path.join(bundle.path, 'source'))
        bundle.config['mounts'] += [{'destination': f'/mnt/{i}', 'type': 'bind', 'source': os.path.join(bundle.path, 'source'), 'options': ['bind']}
                                    for i in range(80)]
        bundle.write()
    limit = {'process': {'rlimits': [{'type': 'RLIMIT_NOFILE', 'soft': 48, 'hard': 48}]}}
    beside_runc('binds', limit, prepare=binds)
    beside_runc('binds in a user namespace', merged(limit, USER), prepare=binds)


def mounts():
    plain = harness.BASE['mounts']

    def bind(bundle):
        for name in ('source/inner', 'source/other'):
            os.makedirs(os.path.join(bundle.path, name))
        with open(os.path.join(bundle.path, 'file'), 'w', encoding='utf-8') as f:
            f.write('data\n')
        bundle.file('/etc/copied', 'copied\n')
        bundle.file('/etc/deep/er', 'deeper\n', 0o600)
        for mount in bundle.config['mounts']:
            if not mount['source'].startswith('/') and '/' in mount['source']:
                mount['source'] = os.path.join(bundle.path, mount['source'][2:])
        bundle.write()
    for what, extra in (
            ('bind', [{'destination': '/mnt/a', 'type': 'bind', 'source': './source', 'options': ['bind']}]),
            ('rbind ro', [{'destination': '/mnt/a', 'type': 'none', 'source': './source', 'options': ['rbind', 'ro', 'nosuid', 'nodev', 'noexec']}]),
            ('bind of a file', [{'destination': '/mnt/new/file', 'type': 'bind', 'source': './file', 'options': ['bind', 'ro']}]),
            ('bind of a device', [{'destination': '/dev/fuse2', 'type': 'bind', 'source': '/dev/null', 'options': ['bind']}]),
            ('tmpfs', [{'destination': '/mnt', 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['size=1m', 'mode=1700', 'noatime', 'nosuid']}]),
            ('tmpcopyup', [{'destination': '/etc', 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['tmpcopyup', 'mode=755']}]),
            ('propagation', [{'destination': '/mnt/a', 'type': 'bind', 'source': './source', 'options': ['rbind', flag]} for flag in ('rslave',)]),
            ('shared', [{'destination': '/mnt/a', 'type': 'bind', 'source': './source', 'options': ['bind', 'shared']}]),
            ('unbindable', [{'destination': '/mnt/a', 'type': 'bind', 'source': './source', 'options': ['bind', 'unbindable']}]),
            ('recursive attributes', [{'destination': '/mnt/a', 'type': 'bind', 'source': './source', 'options': ['rbind', 'rro', 'rnoexec', 'rnosuid']}]),
            ('path with dots', [{'destination': '/mnt/a/', 'type': 'bind', 'source': './source/../source', 'options': ['bind']}]),
            ('on top of one another', [{'destination': '/mnt', 'type': 'tmpfs', 'source': 'tmpfs'},
                                       {'destination': '/mnt/x/y', 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['ro']},
                                       {'destination': '/mnt/x/z', 'type': 'bind', 'source': './source', 'options': ['bind', 'relatime']}]),
            ('read-only with a mount in it', [{'destination': '/mnt', 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['ro', 'nosuid']},
                                              {'destination': '/mnt/x/z', 'type': 'bind', 'source': './source', 'options': ['bind']},
                                              {'destination': '/mnt/y', 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['ro', 'noexec']}]),
            ('ramfs', [{'destination': '/mnt', 'type': 'ramfs', 'source': 'x'}]),
            ('proc options', [{'destination': '/mnt', 'type': 'proc', 'source': 'proc', 'options': ['hidepid=2', 'ro']}])):
        paths = ['look:/mnt', 'tree:/mnt', 'tree:/etc', 'look:/mnt/a', 'look:/mnt/new/file']
        beside_runc(what, {'mounts': plain + extra}, [*paths], prepare=bind)
    for flag in ('private', 'rprivate', 'slave', 'rslave'):  # runc 1.1 does not make it shared
        beside_runc(f'root {flag}', {'linux': {'rootfsPropagation': flag}})
    beside_runc('read-only /dev', {'mounts': [merged(m, {'options': [*m['options'], 'ro']}) if m['destination'] == '/dev' else m for m in plain]})
    beside_runc('cgroup mount rw', {'mounts': [merged(m, {'options': ['nosuid', 'noexec', 'nodev', 'rw']}) if m['type'] == 'cgroup' else m for m in plain]})
    beside_runc('cgroup mount without a cgroup namespace',
                {'linux': {'namespaces': [{'type': k} for k in ('pid', 'network', 'ipc', 'uts', 'mount')]}})


def read_only_device():
    """A file system on a device that cannot be written to."""
    image = os.path.join(WORK, 'image')
    if not shutil.which('mkfs.ext4') or not shutil.which('losetup'):
        raise Skip('no mkfs.ext4, or no losetup')
    with open(image, 'wb') as f:
        f.truncate(8 << 20)
    subprocess.run(['mkfs.ext4', '-q', image], check=True)
    done = subprocess.run(['losetup', '-r', '-f', '--show', image], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise Skip(f'no loop device: {done.stderr.strip()}')
    try:
        mount = {'destination': '/mnt', 'type': 'ext4', 'source': done.stdout.strip(), 'options': ['ro', 'sync']}
        allowed = {'allow': True, 'type': 'b', 'access': 'rwm'}  # as for all that happens in the container's cgroup
        beside_runc('ext4', {'mounts': harness.BASE['mounts'] + [mount],
                             'linux': {'resources': {'devices': [*harness.BASE['linux']['resources']['devices'], allowed]}}}, ['look:/mnt'])
    finally:
        subprocess.run(['losetup', '-d', done.stdout.strip()], check=True)


def idmapped_mount():
    runtime, bundle = Runtime(), None
    source = os.path.join(WORK, 'mapped')
    os.makedirs(source, exist_ok=True)
    path = os.path.join(source, 'file')
    with open(path, 'w', encoding='utf-8') as f:
        f.write('x')
    os.chown(path, 10, 20)
    for option in ('idmap', 'ridmap'):
        bundle = Bundle({'mounts': harness.BASE['mounts'] + [
            {'destination': '/mnt', 'type': 'bind', 'source': source, 'options': ['rbind', option],
             'uidMappings': [{'containerID': 10, 'hostID': 1234, 'size': 1}], 'gidMappings': [{'containerID': 20, 'hostID': 4321, 'size': 1}]}]})
        lines = report_of(runtime, bundle, ['tree:/mnt'])
        has(option, lines, re.compile(r'^node /mnt/file 100644 0:0 1234:4321'))
    nothing_left('idmapped', runtime)


def masks_and_sysctl():
    beside_runc('masked', {'linux': {'maskedPaths': ['/tmp', '/etc/secret', '/proc/version', '/not/there']}},
                ['look:/tmp', 'look:/etc/secret', 'look:/proc/version'], prepare=lambda b: b.file('/etc/secret', 'secret'))
    beside_runc('read-only paths', {'linux': {'readonlyPaths': ['/tmp', '/etc/secret', '/proc/sys/kernel', '/not/there']}},
                ['look:/tmp', 'look:/etc/secret', 'look:/proc/sys/kernel'], prepare=lambda b: b.file('/etc/secret', 'secret'))
    beside_runc('nothing masked', {'linux': {'maskedPaths': [], 'readonlyPaths': []}}, ['look:/proc/kcore', 'look:/proc/sysrq-trigger'])
    lines = beside_runc('sysctl', {'linux': {'sysctl': {'net.ipv4.ip_forward': '1', 'kernel.shmmax': '123456', 'fs.mqueue.msg_max': '7',
                                                        'net/ipv4/ip_default_ttl': '33'}}},
                        ['sysctl:net/ipv4/ip_forward', 'sysctl:kernel/shmmax', 'sysctl:fs/mqueue/msg_max', 'sysctl:net/ipv4/ip_default_ttl'])
    has('sysctl', lines, 'sysctl net/ipv4/ip_forward 1', 'sysctl kernel/shmmax 123456')


def devices():
    made = [{'path': '/dev/mine', 'type': 'c', 'major': 10, 'minor': 237, 'fileMode': 0o640, 'uid': 3, 'gid': 4},
            {'path': '/dev/deep/block', 'type': 'b', 'major': 7, 'minor': 99, 'fileMode': 0o600},
            {'path': '/dev/pipe', 'type': 'p', 'fileMode': 0o622},
            {'path': '/dev/plain', 'type': 'u', 'major': 1, 'minor': 7}]
    rules = [{'allow': False, 'access': 'rwm'}, {'allow': True, 'type': 'c', 'major': 10, 'minor': 237, 'access': 'r'},
             {'allow': True, 'type': 'c', 'major': 1, 'minor': 7, 'access': 'rwm'}]
    words = ['look:/dev/mine', 'look:/dev/plain', 'look:/dev/deep/block', 'tree:/dev/deep', 'look:/dev/null', 'look:/dev/full', 'look:/dev/zero',
             'call:mknod', 'call:mknod-loop']
    changes = merged({'linux': {'devices': made, 'resources': {'devices': rules}}}, caps(*ALL_CAPS))
    has('devices', beside_runc('devices', changes, words), 'look /dev/mine write-open EPERM', 'look /dev/mine read EINVAL')
    beside_runc('no device rules', merged({'linux': {'resources': {'devices': None}}}, caps(*ALL_CAPS)), ['call:mknod', 'call:mknod-loop'])
    beside_runc('all devices allowed', merged({'linux': {'resources': {'devices': [{'allow': True, 'access': 'rwm'}]}}}, caps(*ALL_CAPS)),
                ['call:mknod', 'call:mknod-loop'])


def seccomp_profile(default='SCMP_ACT_ALLOW', **more):
    return {'linux': {'seccomp': {'defaultAction': default, 'architectures': ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'], **more}}}


def seccomp():
    def rule(action, *names, **more):
        return {'names': list(names), 'action': action, **more}
    words = ['call:mkdir', 'call:unshare', 'call:personality', 'call:personality-query', 'call:getcwd', 'call:int80']
    wide = merged(caps(*ALL_CAPS), {})
    lines = beside_runc('errno', merged(wide, seccomp_profile(syscalls=[rule('SCMP_ACT_ERRNO', 'mkdir', 'mkdirat'),
                                                                         rule('SCMP_ACT_ERRNO', 'unshare', errnoRet=38)])), words)
    has('errno', lines, 'call mkdir EPERM', 'call unshare ENOSYS', 'status Seccomp:\t2')
    beside_runc('arguments', merged(wide, seccomp_profile(syscalls=[
        rule('SCMP_ACT_ERRNO', 'personality', args=[{'index': 0, 'value': 8, 'op': 'SCMP_CMP_EQ'}], errnoRet=5)])), words)
    beside_runc('masked argument', merged(wide, seccomp_profile(syscalls=[
        rule('SCMP_ACT_ERRNO', 'unshare', args=[{'index': 0, 'value': 0x04000000, 'valueTwo': 0x04000000, 'op': 'SCMP_CMP_MASKED_EQ'}])])), words)
    beside_runc('log and trace', merged(wide, seccomp_profile(syscalls=[
        rule('SCMP_ACT_LOG', 'getcwd'), rule('SCMP_ACT_TRACE', 'mkdir')])), words)
    beside_runc('unknown call', merged(wide, seccomp_profile(syscalls=[rule('SCMP_ACT_ERRNO', 'no_such_call', 'mkdir')])), words)
    runtime = Runtime()
    for action, status in (('SCMP_ACT_KILL', 128 + 31), ('SCMP_ACT_KILL_PROCESS', 128 + 31), ('SCMP_ACT_TRAP', 128 + 31)):
        bundle = Bundle(merged(wide, seccomp_profile(syscalls=[rule(action, 'mkdir')])), ['/report', 'call:mkdir'])
        expect(f'{action}', runtime.run(bundle, check=False).returncode, status)
    nothing_left('seccomp', runtime)


def seccomp_default():
    """Docker's way: everything forbidden but a list. The runtime's own calls after loading the filter must not need more."""
    allowed = ('read write open openat close fstat newfstatat lstat stat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask ioctl '
               'access execve exit exit_group getdents64 getcwd readlink uname fcntl arch_prctl set_tid_address set_robust_list rseq '
               'prlimit64 getrandom getpid getppid getuid geteuid getgid getegid getresuid getresgid getgroups umask getpgrp getsid prctl '
               'sched_getattr ioprio_get personality keyctl clock_gettime socket fsync pread64 futex writev fstatfs chdir').split()
    bundle = Bundle(merged(seccomp_profile('SCMP_ACT_ERRNO', defaultErrnoRet=95, syscalls=[
        {'names': allowed, 'action': 'SCMP_ACT_ALLOW'}]), {'process': {'noNewPrivileges': False}}))
    runtime = Runtime()
    has('default', report_of(runtime, bundle, ['call:unshare']), 'call unshare EOPNOTSUPP')
    bundle.config['process']['noNewPrivileges'] = True
    bundle.write()
    has('default', report_of(runtime, bundle, ['call:unshare']), 'call unshare EOPNOTSUPP', 'status NoNewPrivs:\t1')


CONTROLS = ('memory.limit_in_bytes memory.soft_limit_in_bytes memory.swappiness memory.oom_control memory.memsw.limit_in_bytes '
            'cpu.shares cpu.cfs_quota_us cpu.cfs_period_us cpu.idle cpu.cfs_burst_us cpuset.cpus cpuset.mems pids.max devices.list '
            'blkio.weight blkio.bfq.weight blkio.throttle.read_bps_device blkio.throttle.write_bps_device blkio.throttle.read_iops_device '
            'blkio.throttle.write_iops_device freezer.state hugetlb.2MB.max hugetlb.1GB.max cgroup.type').split()


def controls(bundle):
    out = []
    for kind, top in hierarchies():
        folder = top + bundle.config['linux']['cgroupsPath']
        out.append(f'{kind} {os.path.isdir(folder)}')
        for name in CONTROLS:
            try:
                with open(os.path.join(folder, name), encoding='ascii') as f:
                    text = [line for line in f.read().splitlines() if 'oom_kill ' not in line]
            except OSError:
                continue
            out.append(f'{kind} {name} {sorted(text)}')
    return out


def resources():
    """The control files of a created container beside those that runc sets."""
    if not RUNC:
        raise Skip('no runc: apt-get install runc')
    numbers = {'memory': {'limit': 100 << 20, 'reservation': 50 << 20, 'swappiness': 40}, 'cpu': {'shares': 300, 'quota': 40000, 'period': 80000},
               'pids': {'limit': 77}}
    disk = os.stat('/').st_dev
    major, minor = os.major(disk), os.minor(disk)
    throttle = [{'major': major, 'minor': minor, 'rate': 1 << 20}]
    for what, wanted in (
            ('nothing', {}), ('numbers', numbers), ('unlimited', {'memory': {'limit': -1}, 'pids': {'limit': -1}, 'cpu': {'quota': -1}}),
            ('pids 0', {'pids': {'limit': 0}}), ('cpuset', {'cpu': {'cpus': '0', 'mems': '0'}}), ('shares', {'cpu': {'shares': 2}}),
            ('quota', {'cpu': {'quota': 20000}}), ('period', {'cpu': {'period': 50000}}),
            ('no oom killer', {'memory': {'limit': 64 << 20, 'disableOOMKiller': True}}),
            ('throttle', {'blockIO': {'throttleReadBpsDevice': throttle, 'throttleWriteBpsDevice': throttle, 'throttleReadIOPSDevice': throttle,
                                      'throttleWriteIOPSDevice': throttle}}),
            ('devices', {'devices': [{'allow': False, 'access': 'rwm'}, {'allow': True, 'type': 'c', 'major': 10, 'access': 'rw'},
                                     {'allow': True, 'type': 'b', 'major': 8, 'minor': 3, 'access': 'm'}]})):
        found = {}
        for path in (RUNC, harness.RUNTIME):
            bundle, runtime = Bundle({'linux': {'resources': wanted}}), Runtime(path)
            done = runtime.create(bundle, check=False)
            expect(f'{what}: create by {os.path.basename(path)} {done.stderr[-300:]}', done.returncode, 0)
            found[path] = controls(bundle)
            runtime.delete(bundle.id)
            nothing_left(f'resources {what}')
        expect(f'{what}: controls beside runc', difference(found[RUNC], found[harness.RUNTIME]), [])
        expect(f'{what}: there are some', len(found[RUNC]) > 10, True)


def unified_keys():
    """On this layout v2 has no controller but hugetlb: its keys, and what is refused."""
    runtime = Runtime()
    if any('memory' in kind for kind, _ in hierarchies()):
        bundle = Bundle({'linux': {'resources': {'unified': {'memory.no_such_key': '1'}}}})
        done = runtime.create(bundle, check=False)
        expect('a key that is not there', (done.returncode, bool(done.stderr)), (1, True))
        runtime.delete(bundle.id)
    bundle = Bundle({'linux': {'resources': {'unified': {'../x': '1'}}}})
    expect('a key with a slash', runtime.create(bundle, check=False).returncode, 1)
    nothing_left('unified', runtime)


def ignored_signals():
    """What the caller ignores, as under nohup, the container does not."""
    runtime = Runtime()
    done = runtime.run(Bundle({}, ['/report']), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    expect(f'ignored signals: {done.stderr}', [line for line in done.stdout.splitlines() if 'SigIgn' in line],
           ['status SigIgn:\t0000000000000000'])
    nothing_left('ignored signals')


def exec_is_like_run():
    """A second process gets what the first has: everything but its PID and parents."""
    runtime = Runtime()
    bundle = Bundle({'process': {'user': {'uid': 3, 'gid': 4, 'additionalGids': [9]}}}, ['/payload', 'pause'])
    runtime.started(bundle)
    process = {**bundle.config['process'], 'args': ['/report']}
    path = os.path.join(WORK, 'exec.json')
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(process, f)
    second = normal(runtime('exec', '--process', path, bundle.id).stdout.splitlines(), bundle)
    runtime('delete', '--force', bundle.id)
    first = normal(report_of(runtime, bundle), bundle)
    skip = re.compile(r'^(pid|ppid|pgid|sid) ')
    expect('exec beside run', [line for line in difference(first, second) if not skip.match(line.split(': ', 1)[1])], [])
    nothing_left('exec', runtime)


def exec_attributes():
    """All of a process document, for exec: the same as if it had been the container's own."""
    process = {'user': {'uid': 0, 'gid': 4, 'additionalGids': [9], 'umask': 0o31}, 'oomScoreAdj': 321, 'noNewPrivileges': True,
               'rlimits': [{'type': 'RLIMIT_NOFILE', 'soft': 55, 'hard': 66}, {'type': 'RLIMIT_CORE', 'soft': 1, 'hard': 2}],
               'scheduler': {'policy': 'SCHED_BATCH', 'nice': 4}, 'ioPriority': {'class': 'IOPRIO_CLASS_BE', 'priority': 6},
               'capabilities': {kind: ['CAP_KILL', 'CAP_CHOWN'] for kind in ('bounding', 'effective', 'permitted')}, 'cwd': '/tmp', 'env': ['X=y', MARK]}
    runtime, holder, path = Runtime(), Bundle(args=['/payload', 'pause']), os.path.join(WORK, 'attributes.json')
    alike = Bundle({'process': process})
    first = normal(report_of(runtime, alike), alike)
    runtime.started(holder)
    with open(path, 'w', encoding='utf-8') as f:
        json.dump({**process, 'args': ['/report']}, f)
    second = normal(runtime('exec', '--process', path, holder.id).stdout.splitlines(), holder)
    with open(path, 'w', encoding='utf-8') as f:
        json.dump({**process, 'args': ['/report'], 'execCPUAffinity': {'initial': '0', 'final': '0'}}, f)
    has('affinity of exec', runtime('exec', '--process', path, holder.id).stdout.splitlines(), 'status Cpus_allowed_list:\t0')
    alike.config['process']['execCPUAffinity'] = {'initial': '0', 'final': '0'}
    all_cpus = [line for line in first if line.startswith('status Cpus_allowed_list')]
    has('affinity is for exec only', report_of(runtime, alike), *all_cpus)
    has('exec', second, 'umask 0031', 'oom 321', 'rlimit 7 55 66', 'rlimit 4 1 2', re.compile('sched policy 3 flags 0 nice 4'), f'ioprio {2 << 13 | 6}',
        'cwd /tmp', 'env X=y', re.compile('CapEff:\t0+21$'), 'groups 9')
    skip = re.compile(r'^(pid|ppid|pgid|sid) ')
    expect('beside run', [line for line in difference(first, second) if not skip.match(line.split(': ', 1)[1])], [])
    with open(path, 'w', encoding='utf-8') as f:
        json.dump({**process, 'args': ['/report'], 'apparmorProfile': 'no-such-profile'}, f)
    done = runtime('exec', '--process', path, holder.id, check=False)
    expect(f'a profile is not left away: {done.stderr}', (done.returncode, 'apparmorProfile' in done.stderr), (255, True))
    runtime('delete', '--force', holder.id)
    nothing_left('exec attributes', runtime)


def covered_hierarchy():
    """A hierarchy that another file system is mounted over is none."""
    if os.environ.get('OCI_COVERED') == 'yes':
        runtime, bundle = Runtime(), Bundle(args=['/payload', 'pause'])
        runtime.started(bundle)
        expect('exec', runtime('exec', bundle.id, '/payload', 'echo', 'inside').stdout, 'inside\n')
        runtime('delete', '--force', bundle.id)
        nothing_left('covered', runtime)
        return
    tops = [top for kind, top in hierarchies() if kind == 'v2'] or [hierarchies()[-1][1]]
    if len(hierarchies()) == 1:
        raise Skip('there is one hierarchy only')
    script = f'mount -t tmpfs cover {tops[0]} && "$@" && [ -z "$(ls -A {tops[0]})" ]'
    done = subprocess.run(['unshare', '-m', 'sh', '-c', script, 'sh', sys.executable, os.path.abspath(__file__), 'covered_hierarchy'], check=False,
                          env={**os.environ, 'OCI_COVERED': 'yes'}, stdin=subprocess.DEVNULL)
    expect(f'with {tops[0]} covered, and nothing made there', done.returncode, 0)


CASES = (base, process_fields, beyond_runc, namespaces, user_namespace, few_descriptors, mounts, read_only_device, idmapped_mount, masks_and_sysctl, devices, seccomp, seccomp_default,
         resources, unified_keys, ignored_signals, exec_is_like_run, exec_attributes, covered_hierarchy)

if __name__ == '__main__':
    main(CASES)
