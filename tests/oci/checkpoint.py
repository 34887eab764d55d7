#!/usr/bin/env python3
"""checkpoint and restore: checkpoint.py [CASE...]

The cases real_* need a CRIU that runs on this kernel (OCI_CRIU, or criu in the path): Debian 12's 3.17 does not on Linux 6.18. The
others have fakecriu.py in its place, which speaks its protocol and writes down what it was asked.
"""
import json
import os
import re
import select
import shutil
import socket
import subprocess

import harness
from harness import BASE, Bundle, Runtime, Skip, WORK, expect, main, merged, nothing_left, until

FAKE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'fakecriu.py')
LOG = os.path.join(WORK, 'fake-criu.log')
PAUSE = ['/payload', 'pause']
os.environ['FAKE_CRIU_LOG'] = LOG


class Output:
    """A file for the standard output and error of a container."""

    def __init__(self, name='out'):
        self.path = os.path.join(WORK, name)
        self.file = open(self.path, 'ab')  # pylint: disable=consider-using-with

    @property
    def streams(self):
        return {'stdout': self.file, 'stderr': self.file}

    def text(self):
        with open(self.path, encoding='utf-8') as f:
            return f.read()


def images(new=False):
    images.count += new
    return os.path.join(WORK, f'images-{images.count}')


images.count = 0


def asked():
    with open(LOG, encoding='utf-8') as f:
        return json.loads(f.read().splitlines()[-1])


def running(runtime, changes=None, args=None):
    bundle, out = Bundle(changes, args or PAUSE), Output(f'out-{Bundle.count}')
    images(new=True)
    runtime.create(bundle, **out.streams)
    runtime('start', bundle.id)
    return bundle, out


def dump_and_restore():
    """All of both requests, with a fake CRIU."""
    runtime, log = Runtime(None, '--criu', FAKE), os.path.join(WORK, 'hooks')
    hook = [{'path': '/bin/sh', 'args': ['sh', '-c', f'cat >>{log}; echo >>{log}']}]
    source = os.path.join(WORK, 'volume')
    os.makedirs(source, exist_ok=True)
    bundle, out = running(runtime, {'hooks': {'createRuntime': hook}, 'mounts': BASE['mounts'] + [
        {'destination': '/mnt/a b', 'type': 'bind', 'source': source, 'options': ['rbind', 'ro']}]})
    runtime('checkpoint', '--image-path', images(), '--leave-running', bundle.id)
    expect('goes on with --leave-running', runtime.status(bundle.id), 'running')
    runtime('checkpoint', '--image-path', images(), '--work-path', images() + '-work', '--tcp-established', '--ext-unix-sk', '--shell-job', '--file-locks',
            '--page-server', '127.0.0.1:99', '--empty-ns', 'network', '--auto-dedup', '--manage-cgroups-mode', 'full', bundle.id)
    expect('has gone', (runtime.status(bundle.id), os.listdir(runtime.root)), (None, []))
    nothing_left('checkpoint', runtime)
    seen = asked()
    opts = seen['opts']
    expect('folders', (seen['images'], seen['work']), (images(), images() + '-work'))
    expect('flags', [opts.get(n, 0) for n in ('tcp_established', 'ext_unix_sk', 'shell_job', 'file_locks', 'auto_dedup', 'leave_running', 'track_mem')],
           [1, 1, 1, 1, 1, 0, 0])
    expect('page server, empty namespace, mode', (opts['ps'], opts['empty_ns'], opts['cgroups_mode']), (['127.0.0.1', 99], 0x40000000, 4))
    expect('root and log', (opts['root'], opts['log_file']), (bundle.rootfs, 'dump.log'))
    external = dict(opts['ext_mnt'])
    expect('mounts of the host', (external.get('/mnt/a b'), '/proc/timer_list' in external, '/dev' in external), ('/mnt/a b', True, False))
    expect('descriptors of the host', len([e for e in opts['external'] if re.match(r'file\[[0-9a-f]+:[0-9a-f]+\]$', e)]) >= 1, True)
    other, pid_file = Bundle(bundle.config, base={}), os.path.join(WORK, 'pid')
    other.config['linux']['cgroupsPath'] += '-restored'
    other.write()
    runtime('restore', '--detach', '--image-path', images(), '--bundle', other.path, '--pid-file', pid_file, '--no-pivot', '--no-subreaper', other.id,
            **out.streams)
    seen = asked()
    opts = seen['opts']
    expect('restore', (seen['type'], opts['root'], opts['rst_sibling'], opts['cgroups_mode'], opts['log_file']), (2, other.rootfs, 1, 0, 'restore.log'))
    expect('in the container\'s groups', (f'{other.config["linux"]["cgroupsPath"]}' in seen['cgroups'], seen['root_is_mount']), (False, True))
    expect('namespaces of its own', (seen['mount_ns'] != os.readlink('/proc/self/ns/mnt'), seen['cgroup_ns'] != os.readlink('/proc/self/ns/cgroup')),
           (True, True))
    expect('sources of mounts', [dict(opts['ext_mnt']).get(p) for p in ('/mnt/a b', '/proc/timer_list')], [source, '/dev/null'])
    expect('descriptors are handed over', sorted(n for _, n in opts['inherit_fd'])[:2], [0, 1])
    expect('mount points', os.path.isdir(os.path.join(other.rootfs, 'mnt/a b')), True)
    state = runtime.state(other.id)
    with open(pid_file, encoding='ascii') as f:
        expect('state and pid file', (state['status'], int(f.read())), ('running', state['pid']))
    with open(f'/proc/{state["pid"]}/cgroup', encoding='ascii') as f:
        expect('its groups', other.config['linux']['cgroupsPath'] in f.read(), True)
    with open(log, encoding='utf-8') as f:
        expect('the hook ran again', [json.loads(line)['id'] for line in f], [bundle.id, other.id])
    runtime('kill', other.id, 'KILL')
    runtime.stopped(other.id)
    runtime('delete', other.id)
    nothing_left('restore', runtime)


def pre_dump():
    runtime = Runtime(None, '--criu', FAKE)
    bundle, _ = running(runtime)
    runtime('checkpoint', '--pre-dump', '--image-path', images() + '/1', bundle.id)
    seen = asked()
    expect('pre-dump', (seen['type'], seen['opts']['track_mem'], seen['opts']['leave_running'], runtime.status(bundle.id)), (13, 1, 1, 'running'))
    runtime('pause', bundle.id)
    runtime('checkpoint', '--parent-path', '../1', '--image-path', images() + '/2', bundle.id)
    seen = asked()
    expect('parent', (seen['type'], seen['opts']['parent_img'], seen['opts']['track_mem']), (1, '../1', 1))
    nothing_left('pre-dump', runtime)


def refusals():
    """One clear error, the container as it was."""
    runtime = Runtime(None, '--criu', FAKE)
    bundle, _ = running(runtime)
    for what, args, words in (
            ('lazy pages', ('--lazy-pages',), 'lazy-pages'), ('status', ('--status-fd', '1'), 'status-fd'),
            ('absolute parent', ('--parent-path', '/x'), 'must be relative'), ('mode', ('--manage-cgroups-mode', 'hard'), 'must be soft'),
            ('namespace', ('--empty-ns', 'pid'), 'must be network'), ('page server', ('--page-server', 'x'), 'ADDRESS:PORT'),
            ('page server', ('--page-server', ':1'), 'ADDRESS:PORT'), ('file as a folder', ('--image-path', __file__), 'image-path')):
        done = runtime('checkpoint', '--image-path', images(), *args, bundle.id, check=False)
        expect(f'{what}: {done.stderr}', (done.returncode, words in done.stderr, done.stderr.count('\n')), (1, True, 1))
    for how, words in (('fail', 'no such luck'), ('die', 'signal 9'), ('garbage', 'message')):
        done = runtime('checkpoint', '--image-path', images(), bundle.id, check=False, env={'FAKE_CRIU': how})
        expect(f'{how}: {done.stderr}', (done.returncode, words in done.stderr, runtime.status(bundle.id)), (1, True, 'running'))
    done = Runtime.__call__(runtime, 'checkpoint', '--image-path', images(), 'nobody', check=False)
    expect('no container', (done.returncode, 'does not exist' in done.stderr), (1, True))
    runtime.options = (*runtime.options[:2], '--criu', '/no/such/criu')
    done = runtime('checkpoint', '--image-path', images(), bundle.id, check=False)
    expect(f'no CRIU: {done.stderr}', (done.returncode, 'install CRIU' in done.stderr), (1, True))
    runtime('kill', bundle.id, 'KILL')
    runtime.stopped(bundle.id)
    done = runtime('checkpoint', '--image-path', images(), bundle.id, check=False)
    expect('stopped', (done.returncode, 'only a running or paused' in done.stderr), (1, True))
    runtime('delete', bundle.id)
    nothing_left('refusals', runtime)


def restore_failures():
    """Images that are none, and a CRIU that fails: nothing is left."""
    runtime = Runtime(None, '--criu', FAKE)
    bundle, out = running(runtime)
    runtime('checkpoint', '--image-path', images(), bundle.id)
    good = os.path.join(images(), 'caisson.json')
    with open(good, encoding='utf-8') as f:
        text = f.read()
    for how in ('fail', 'die', 'garbage', 'late'):
        done = runtime('restore', '--detach', '--image-path', images(), '--bundle', bundle.path, bundle.id, check=False, env={'FAKE_CRIU': how})
        expect(f'restore, {how}: {done.stderr}', (done.returncode, runtime.status(bundle.id)), (1, None))
        nothing_left(f'restore, {how}', runtime)
    failing = merged(bundle.config, {'hooks': {'createRuntime': [{'path': '/bin/false'}]}})
    other = Bundle(failing, base={})
    done = runtime('restore', '--detach', '--image-path', images(), '--bundle', other.path, other.id, check=False)
    expect(f'a hook that fails: {done.stderr}', (done.returncode, 'createRuntime' in done.stderr), (1, True))
    nothing_left('hook', runtime)
    for bad in (None, '', '[]', '{}', '{"mounts":{},"stdio":[]}', '{"mounts":[{"at":"x","attr":0,"external":true}],"stdio":[]}',
                '{"mounts":[{"at":"/sys/fs/cgroup/nothing","attr":0,"external":true}],"stdio":[]}', text[:len(text) // 2]):
        if bad is None:
            os.unlink(good)
        else:
            with open(good, 'w', encoding='utf-8') as f:
                f.write(bad)
        done = runtime('restore', '--detach', '--image-path', images(), '--bundle', bundle.path, bundle.id, check=False)
        expect(f'notes {str(bad)[:40]}: {done.stderr}', (done.returncode, done.stderr.count('\n')), (1, 1))
        nothing_left('notes', runtime)
    done = runtime('restore', '--image-path', WORK + '/nothing', '--bundle', bundle.path, bundle.id, check=False)
    expect('no images', (done.returncode, '--image-path' in done.stderr), (1, True))
    del out
    nothing_left('failures', runtime)


def foreground():
    """restore without --detach waits, passes the status on and removes the container."""
    runtime = Runtime(None, '--criu', FAKE)
    bundle, out = running(runtime)
    runtime('checkpoint', '--image-path', images(), bundle.id)
    name, value = harness.MARK.split('=')
    child = subprocess.Popen(runtime.command('restore', '--image-path', images(), '--bundle', bundle.path, bundle.id), stdin=subprocess.DEVNULL,
                             env={**os.environ, name: value}, **out.streams)
    until('running', lambda: runtime.status(bundle.id) == 'running')
    runtime('kill', bundle.id, 'KILL')
    expect('status', child.wait(60), 137)
    nothing_left('foreground', runtime)


# ---- a real CRIU ----

def criu():
    program = os.environ.get('OCI_CRIU') or shutil.which('criu')
    if not program:
        raise Skip('no criu: apt-get install criu')
    done = subprocess.run([program, 'check'], check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    if done.returncode != 0:
        raise Skip(f'{program} does not run on this kernel: {done.stderr.decode(errors="replace").strip().splitlines()[-1]}')
    return program


def save_and_restore(what, runtime, bundle, out, *options, **more):
    done = runtime('checkpoint', '--image-path', images(), *options, bundle.id, check=False)
    if done.returncode:
        subprocess.run(['grep', 'Error', os.path.join(images(), 'dump.log')], check=False)
    expect(f'{what}: checkpoint {done.stderr}', done.returncode, 0)
    nothing_left(f'{what}: saved', runtime)
    done = runtime('restore', '--detach', '--image-path', images(), '--bundle', bundle.path, *more.pop('restore', ()), *options, bundle.id, check=False,
                   **(more or out.streams))
    if done.returncode:
        subprocess.run(['grep', 'Error', os.path.join(images(), 'restore.log')], check=False)
        print(out.text())
    expect(f'{what}: restore {done.stderr}', done.returncode, 0)


def state_file(runtime, bundle, name):
    with open(f'/proc/{runtime.state(bundle.id)["pid"]}/{name}', encoding='utf-8') as f:
        return f.read()


def inside(runtime, bundle):
    """What must be the same before and after, as /proc tells it."""
    status = [line for line in state_file(runtime, bundle, 'status').splitlines() if re.match('(Cap|Uid|Gid|Groups|NoNewPrivs|Seccomp:|Umask|Sig(Ign|Cgt))', line)]
    points = sorted((f[4], ','.join(o for o in f[5].split(',') if o in ('ro', 'nosuid', 'nodev', 'noexec')), f[f.index('-') + 1])
                    for f in (line.split() for line in state_file(runtime, bundle, 'mountinfo').splitlines()))
    # (CRIU gives a time namespace to all that it restores, so that their clocks go on.)
    own = [name for name in os.listdir('/proc/self/ns') if 'time' not in name and os.readlink(f'/proc/{runtime.state(bundle.id)["pid"]}/ns/{name}') == os.readlink(f'/proc/self/ns/{name}')]
    return {'status': status, 'mounts': points, 'of the host': sorted(own), 'limits': state_file(runtime, bundle, 'limits'),
            'groups': state_file(runtime, bundle, 'cgroup'), 'oom': state_file(runtime, bundle, 'oom_score_adj')}


def real_life():
    """A process with a handler, users, capabilities, limits, volumes: the same before and after, and still at work."""
    runtime = Runtime(None, '--criu', criu())
    # CRIU reads the limits of other users' processes, for which it wants CAP_SYS_RESOURCE.
    with open('/proc/self/status', encoding='ascii') as f:
        resource = int(re.search('CapEff:\t(.*)', f.read()).group(1), 16) >> 24 & 1
    user = {'uid': 7 * resource, 'gid': 8 * resource, 'additionalGids': [9], 'umask': 0o27}
    source = os.path.join(WORK, 'volumes')
    os.makedirs(os.path.join(source, 'two'), exist_ok=True)
    bundle, out = running(runtime, {
        'process': {'user': user, 'oomScoreAdj': 100},
        'linux': {'resources': {'memory': {'limit': 256 << 20}, 'pids': {'limit': 50}}, 'seccomp': {
            'defaultAction': 'SCMP_ACT_ALLOW', 'syscalls': [{'names': ['swapon'], 'action': 'SCMP_ACT_ERRNO'}]}},
        'mounts': BASE['mounts'] + [{'destination': f'/mnt/{name}', 'type': 'bind', 'source': source, 'options': ['rbind', *flags]}
                                    for name, flags in (('rw', []), ('ro', ['ro']), ('ro2', ['ro', 'nosuid', 'nodev']))]}, ['/payload', 'trap', '10'])
    until('ready', lambda: 'ready' in out.text())
    before = inside(runtime, bundle)
    save_and_restore('life', runtime, bundle, out)
    after = inside(runtime, bundle)
    for key, value in before.items():
        expect(f'the same {key}', after[key], value)
    runtime('kill', bundle.id, 'USR1')
    until('its handler', lambda: 'got 10' in out.text())
    expect('exec', runtime('exec', bundle.id, '/payload', 'echo', 'inside').stdout, 'inside\n')
    runtime('pause', bundle.id)
    runtime('resume', bundle.id)
    runtime('delete', '--force', bundle.id)
    nothing_left('real life', runtime)


def real_pipes():
    """Pipes of the old caller give way to those of the new one; the container goes on with --leave-running."""
    runtime = Runtime(None, '--criu', criu())
    images(new=True)
    bundle = Bundle(args=['/payload', 'trap', '10'])
    read, write = os.pipe()
    runtime.create(bundle, stdout=write, stderr=write)
    os.close(write)
    runtime('start', bundle.id)
    expect('before', os.read(read, 100), b'ready\n')
    runtime('checkpoint', '--image-path', images() + '-1', '--leave-running', bundle.id)
    runtime('kill', bundle.id, 'USR1')
    expect('goes on', os.read(read, 100), b'got 10\n')
    read2, write2 = os.pipe()
    save_and_restore('pipes', runtime, bundle, None, stdout=write2, stderr=write2)
    os.close(write2)
    runtime('kill', bundle.id, 'USR1')
    expect('after', os.read(read2, 100), b'got 10\n')
    runtime('delete', '--force', bundle.id)
    expect('ends', os.read(read2, 100), b'')
    os.close(read)
    os.close(read2)
    nothing_left('pipes', runtime)


def real_terminal():
    runtime, fds = Runtime(None, '--criu', criu()), []
    bundle = Bundle({'process': {'terminal': True}}, ['/payload', 'trap', '10'])
    images(new=True)
    path = os.path.join(WORK, 'console')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(2)

        def accept():
            peer, _ = listener.accept()
            with peer:
                fds.append(socket.recv_fds(peer, 4096, 1)[1][0])
        runtime.create(bundle, '--console-socket', path)
        accept()
        runtime('start', bundle.id)
        expect('before', os.read(fds[0], 100), b'ready\r\n')
        save_and_restore('terminal', runtime, bundle, Output('terminal'), restore=('--console-socket', path))
        accept()
    runtime('kill', bundle.id, 'USR1')
    expect('after', bool(select.select([fds[1]], [], [], 30)[0]) and os.read(fds[1], 100), b'got 10\r\n')
    expect('it is a terminal', os.isatty(fds[1]), True)
    runtime('delete', '--force', bundle.id)
    for fd in fds:
        os.close(fd)
    nothing_left('terminal', runtime)


def real_joined_network():
    """A network namespace of somebody else is joined again, not made."""
    program = criu()
    holder = subprocess.Popen(['unshare', '--net', 'sh', '-c', 'echo; exec sleep 600'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    holder.stdout.readline()
    try:
        link = f'/proc/{holder.pid}/ns/net'
        runtime = Runtime(None, '--criu', program)
        bundle, out = running(runtime, {'linux': {'namespaces': [{'type': k} for k in ('pid', 'ipc', 'uts', 'mount', 'cgroup')] + [{'type': 'network', 'path': link}]}})
        save_and_restore('network', runtime, bundle, out)
        expect('joined', os.readlink(f'/proc/{runtime.state(bundle.id)["pid"]}/ns/net'), os.readlink(link))
        runtime('delete', '--force', bundle.id)
        nothing_left('joined', runtime)
    finally:
        holder.kill()
        holder.wait()


CASES = (dump_and_restore, pre_dump, refusals, restore_failures, foreground, real_life, real_pipes, real_terminal, real_joined_network)

if __name__ == '__main__':
    main(CASES)
