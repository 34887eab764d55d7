#!/usr/bin/env python3
"""`caisson image build`: a Containerfile beside buildah's build of it, the cache, refusals, a user without rights: build.py CASE
(see meson.build)."""
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'registry'))
import harness
from harness import CAISSON, FAILED, NOT_FOUND, USAGE, Skip, check, environment, images, need, output, refused, run, state, tool

FULL = r'''# syntax=docker/dockerfile:1
# escape=\
ARG BASE=base
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]

FROM --platform=$TARGETPLATFORM ${BASE} AS work
ENV A=1 B="two words" \
    X=$1x$12-$ C='$A' D=$A-${A}-${NONE:-none}-${A:+set} E=\$A
ENV OLD the rest of it
ARG WHO=world
WORKDIR /srv/app
WORKDIR sub/../deep
RUN echo "hello $WHO $B $HOME" > greet && \
    # a comment between

    echo 'one <<< two' $((1 <<2)) > shift && mkdir -p d/e && ln greet d/hard && ln -s ../greet d/e/soft && rm -f /bin/vi && chmod 4755 d/hard && mkfifo pipe
RUN test "$WHO" = you && test -n "$PATH" && echo $$ > /pid && rm -r d/e && mkdir d/e && touch d/e/new
COPY --chown=12:34 --chmod=640 tree /data/
COPY *.txt tree/one ./many/
COPY ["with blank", "/with blank too"]
COPY tree/sub /existing/
COPY tree/one /file
COPY --chown=me:us a.txt /owned/
ADD packed.tar.gz /unpacked
ADD --chown=7:8 a.txt /added/

FROM work AS unused
RUN false

FROM base
COPY --from=work /srv/app /out
COPY --from=0 /bin/busybox /bin/bb2
RUN echo me:x:77:88::/home/me:/bin/sh >> /etc/passwd && mkdir -p /home/me && chown 77:88 /home/me
USER me
RUN id -u > /home/me/uid && echo $HOME > /home/me/home
USER 5:6
EXPOSE 80 53/udp 7000-7002
VOLUME /vol ["/not json"
VOLUME ["/v 1", "/v2", "/v$A"]
LABEL x="y z" k=v multi=$NOTHING
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/busybox", "sh"]
CMD echo hi
STOPSIGNAL SIGINT
WORKDIR /srv
'''


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as f:
        f.write(text.encode() if isinstance(text, str) else text)
    os.chmod(path, mode)


def context(folder, containerfile=FULL):
    """A build context with all that FULL copies."""
    need('busybox')
    at = os.path.join(folder, 'context')
    write(os.path.join(at, 'Containerfile'), containerfile)
    shutil.copy(shutil.which('busybox'), os.path.join(at, 'busybox'))
    write(os.path.join(at, 'a.txt'), 'a')
    write(os.path.join(at, 'b.txt'), 'b')
    write(os.path.join(at, 'with blank'), 'blank')
    write(os.path.join(at, 'tree/one'), '1', 0o600)
    write(os.path.join(at, 'tree/sub/two'), '2', 0o755)
    write(os.path.join(at, 'tree/secret.key'), 'ignored')
    write(os.path.join(at, 'tree/kept.key'), 'kept')
    os.symlink('one', os.path.join(at, 'tree/link'))
    os.symlink('/etc/passwd', os.path.join(at, 'tree/absolute'))
    write(os.path.join(at, '.containerignore'), '# keys\n**/*.key\n!tree/kept.key\n')
    with tarfile.open(os.path.join(at, 'packed.tar.gz'), 'w:gz') as tar:
        for name, kind, data in (('p', tarfile.DIRTYPE, b''), ('p/file', tarfile.REGTYPE, b'packed'),
                                 ('p/link', tarfile.SYMTYPE, b'')):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode, info.uid, info.gid = kind, len(data), 0o755, 3, 4
            info.linkname = 'file' if kind == tarfile.SYMTYPE else ''
            tar.addfile(info, io.BytesIO(data))
    return at


def tree_of_tar(data):
    """{path: (kind, mode, uid, gid, content or link)} of a tar, hard links as what they are."""
    tree = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for m in tar:
            name = os.path.normpath('/' + m.name)
            content = ''
            if m.islnk():
                tree[name] = tree[os.path.normpath('/' + m.linkname)]
                continue
            if m.isreg():
                content = hashlib.sha256(tar.extractfile(m).read()).hexdigest()
            elif m.issym():
                content = m.linkname
            tree[name] = (m.type, m.mode & 0o7777, m.uid, m.gid, content)
    tree.pop('/', None)
    return tree


def exported(name, env=None):
    done = subprocess.run([CAISSON, 'image', 'export', '--format', 'rootfs', name], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=120, check=False, env=environment(**(env or {})))
    check(done.returncode == 0, f'export: {done.stderr}')
    return tree_of_tar(done.stdout)


def configuration(name):
    return json.loads(output('image', 'inspect', '--json', name))[0]['config']


def buildah(folder, *arguments):
    where = ['--root', os.path.join(folder, 'bu'), '--runroot', os.path.join(folder, 'bur'), '--storage-driver', 'overlay']
    for _ in range(5):
        done = subprocess.run(['buildah', *where, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
                              check=False, env=environment(BUILDAH_ISOLATION='chroot'))
        if b'sealing memfd copy' not in done.stderr:  # of itself, which its own threads get in the way of now and then
            break
    check(done.returncode == 0, f'buildah {arguments}: {done.stderr.decode()}')
    return done.stdout


def case_buildah(folder, stops):
    """The same Containerfile by buildah: the same configuration, the same files."""
    need('buildah')
    text = FULL.replace('COPY --chown=me:us a.txt /owned/\n', '')  # buildah looks the names up, ours is tested below
    text = text.replace('VOLUME /vol ["/not json"\n', 'VOLUME /vol\n')
    text = text.replace('WORKDIR /srv\n', 'WORKDIR /out\n')  # it gives new folders to USER
    text = text.replace(' 7000-7002', '')  # which it keeps as one
    text = text.replace('CMD echo hi', 'CMD ["echo", "hi"]')  # buildah takes /bin/sh for it, whatever SHELL says
    at = context(folder, text)
    output('image', 'build', '-q', '-t', 'ours', '--build-arg', 'WHO=you', at)
    buildah(folder, 'bud', '-q', '-t', 'theirs', '--build-arg', 'WHO=you', at)
    theirs = json.loads(buildah(folder, 'inspect', '--type', 'image', 'theirs'))['OCIv1']['config']
    ours = configuration('ours')['config']
    for key in ('Env', 'Cmd', 'Entrypoint', 'User', 'WorkingDir', 'ExposedPorts', 'Volumes', 'StopSignal'):
        mine, other = ours.get(key), theirs.get(key)
        if key == 'Env':
            other = [e for e in other or [] if not e.startswith('PATH=')]
            mine = [e for e in mine or [] if not e.startswith('PATH=')]
        check((mine or None) == (other or None), f'{key}: {mine} and {other} of buildah')
    labels = {k: v for k, v in theirs['Labels'].items() if not k.startswith('io.buildah')}
    check(ours['Labels'] == labels, f'labels: {ours["Labels"]} and {labels}')
    container = buildah(folder, 'from', 'theirs').decode().strip()
    mount = buildah(folder, 'mount', container).decode().strip()
    other = tree_of_tar(subprocess.run(['tar', '-C', mount, '--numeric-owner', '-cf', '-', '.'], capture_output=True,
                                       check=True).stdout)
    buildah(folder, 'rm', container)
    mine = exported('ours')
    different = [f'{path}: {mine.get(path)} and {other.get(path)} of buildah' for path in sorted(set(mine) | set(other))
                 if mine.get(path) != other.get(path) and
                 # numbers of processes; points of mounts
                 path not in ('/pid', '/proc', '/sys', '/dev', '/run', '/etc/hosts', '/etc/hostname', '/etc/resolv.conf',
                              '/run/.containerenv')]
    check(not different, '\n'.join(different))
    check('/etc/hosts' not in mine and '/proc' not in mine, 'points of mounts are in the image')
    print(f'figure: a build of 41 steps equals buildah\'s in {len(mine)} files')


def case_cache(folder, stops):
    """What was built is not built again, and what changed is; a build that fails keeps what it had."""
    at = context(folder, 'FROM scratch\nCOPY busybox /bin/sh\nARG X=1\nRUN echo $X > /x\nCOPY tree /t\nRUN echo done > /y\n')

    def steps(*arguments):
        done = run('image', 'build', '-t', 'c', *arguments, at)
        check(done.returncode == 0, done.stderr)
        return [line for line in re.findall(r'step \d of \d: (\w+).*(?:\n  (from the cache))?', done.stderr)], done.stdout

    first, one = steps()
    check(not any(cached for _, cached in first), f'cached at first: {first}')
    second, two = steps()
    check([c for o, c in second if o in ('RUN', 'COPY')] == ['from the cache'] * 4 and one == two, f'not cached: {second}')
    os.utime(os.path.join(at, 'tree/one'), (1, 1))
    check(steps()[1] == one, 'times of files count')
    write(os.path.join(at, 'tree/one'), 'changed')
    check([c for o, c in steps()[0] if o in ('RUN', 'COPY')] == ['from the cache', 'from the cache', '', ''], 'after a change')
    check([c for o, c in steps('--build-arg', 'X=2')[0] if o in ('RUN', 'COPY')] == ['from the cache', '', '', ''], 'ARG')
    check(not any(cached for _, cached in steps('--no-cache')[0]), '--no-cache')
    write(os.path.join(at, 'Containerfile'),
          'FROM scratch\nCOPY busybox /bin/sh\nRUN echo slow > /slow\nRUN exit 3\n')
    done = run('image', 'build', '-t', 'failed', at)
    check(done.returncode == FAILED and 'line 4: RUN: the command ended with exit code 3' in done.stderr, done.stderr)
    check(not any('failed' in name for image in images() for name in image['names']), 'half an image has the name')
    done = run('image', 'build', '-t', 'failed', at)
    check(done.stderr.count('from the cache') == 2, f'the steps before the failure were not kept: {done.stderr}')
    write(os.path.join(at, 'Containerfile'), 'FROM scratch\nHEALTHCHECK --start-period=1m1.25s --timeout=.5s CMD x\n')
    refused(['image', 'build', '-q', '-t', 'health', at], USAGE, 'not a time')
    write(os.path.join(at, 'Containerfile'), 'FROM scratch\nHEALTHCHECK --start-period=1m1.25s --start-interval=250ms CMD x\nEXPOSE 90/TCP\n')
    output('image', 'build', '-q', '-t', 'health', at)
    check(configuration('health')['config']['Healthcheck'] == {'Test': ['CMD-SHELL', 'x'], 'StartPeriod': 61250000000,
                                                              'StartInterval': 250000000}, 'times of HEALTHCHECK')
    check(configuration('health')['config']['ExposedPorts'] == {'90/tcp': {}}, 'EXPOSE in capitals')  # as Docker; buildah keeps them
    write(os.path.join(at, 'Containerfile'), 'FROM scratch AS one\nCOPY busybox /bin/sh\nRUN ["/bin/sh", "-c", "grep Seccomp: /proc/self/status > /filter"]\n'
          'FROM scratch\nARG STAGE=one\nCOPY --from=${STAGE} /filter /\n')
    output('image', 'build', '-q', '-t', 'filter', at)
    check(exported('filter')['/filter'][4] == hashlib.sha256(b'Seccomp:\t2\n').hexdigest(), 'RUN without a filter, or no variable in --from')


def case_refused(folder, stops):
    """Mistakes are told with their line; nothing outside the context is read, nothing outside the root is written."""
    at = context(folder)
    for text, words in (
            ('', ['no instruction']), ('RUN x\n', ['line 1', 'before the first FROM']), ('ARG A\n', ['no FROM']),
            ('FROM scratch\nRUNN x\n', ['line 2', 'did you mean RUN']), ('FROM scratch\nCOPY\n', ['line 2', 'COPY']),
            ('FROM scratch\n\nENV A="b\n', ['line 3', 'quote']), ('FROM scratch\nENV A=${B\n', ["only ':-'"]),
            ('FROM scratch\nENV A=${B:?missing}\n', ['missing']), ('FROM scratch\nENV A\n', ['NAME=VALUE']),
            ('FROM scratch\nONBUILD RUN x\n', ['ONBUILD is refused']), ('FROM scratch\nEXPOSE 99999\n', ['EXPOSE']),
            ('FROM scratch\nRUN --mount=type=bind,target=/x y\n', ['--mount', 'not know']),
            ('FROM scratch\nRUN <<EOF\nx\nEOF\n', ['here-documents']),
            ('FROM scratch\nRUN cat <<-"EOF" > /x\nRUN y\nEOF\n', ['line 2', 'here-documents']),
            ('FROM scratch\nCOPY a.txt <<EOF /x\nRUN y\nEOF\n', ['line 2', 'here-documents']),
            ('FROM --plattform=x scratch\nRUN x\n', ['line 1', '--plattform', 'not know']),
            ('FROM scratch\nHEALTHCHECK --intervall=5s CMD x\n', ['line 2', '--intervall', 'not know']),
            ('FROM $X\nRUN x\n', ['nothing is left']),
            ('FROM scratch AS\nRUN x\n', ['FROM wants']), ('FROM scratch\nCOPY --chmod=rwx a.txt /\n', ['octal']),
            ('FROM scratch\nHEALTHCHECK x\n', ['HEALTHCHECK wants']),
            ('FROM scratch\nHEALTHCHECK --interval=999999999h CMD x\n', ['not a time']),
            ('FROM scratch\nCOPY --from=$X a /x\n', ['nothing is left']), ('FROM scratch\nSHELL sh\n', ['JSON array']),
            ('FROM scratch\nCOPY a.txt b.txt /x\n', ["does not end with '/'"]),
            ('FROM scratch\nADD http://127.0.0.1/x /\n', ['address'])):
        write(os.path.join(at, 'Containerfile'), text)
        done = run('image', 'build', '-q', at)
        check(done.returncode == USAGE and done.stderr.count('\n') == 1, f'{text!r}: {done.returncode} {done.stderr!r}')
        for word in words:
            check(word in done.stderr, f'{text!r}: no {word!r} in {done.stderr!r}')
    for text, words in (('FROM scratch\nCOPY nothing /x\n', ['nothing']), ('FROM scratch\nCOPY ../../../etc/passwd /x\n', ['not there']),
                        ('FROM scratch\nCOPY tree/secret.key /x\n', ['ignored']), ('FROM scratch\nCOPY *.none /x\n', ['nothing']),
                        ('FROM scratch\nCOPY --chown=who a.txt /x\n', ['who'])):
        write(os.path.join(at, 'Containerfile'), text)
        refused(['image', 'build', '-q', at], NOT_FOUND, *words)
    write(os.path.join(at, '.containerignore'), 'tree/secret.key\n')
    for source in ('tree/secret.key', 'tree//secret.key', './tree/sub/.././secret.key'):
        write(os.path.join(at, 'Containerfile'), f'FROM scratch\nCOPY {source} /x\n')
        refused(['image', 'build', '-q', at], NOT_FOUND, 'ignored')
    write(os.path.join(at, 'Containerfile'), 'FROM --platform=$BUILDPLATFORM 127.0.0.1:1/x\n')
    refused(['image', 'build', '-q', at], FAILED, 'cannot reach')
    refused(['image', 'build', os.path.join(folder, 'none')], NOT_FOUND, 'context')
    refused(['image', 'build', '-f', 'none', at], NOT_FOUND, 'none')
    refused(['image', 'build', '--target', 'none', at], NOT_FOUND, 'none')
    refused(['image', 'build', '--disk', '2G', at], USAGE, '--debian')
    check(not images(), 'an image came out of it')
    # a link in the place of a folder, put there by a command, leads nowhere outside when mount points are removed
    for name in ('hosts', 'resolv.conf'):
        write(os.path.join(folder, 'outside', name), '')
    write(os.path.join(at, 'Containerfile'), 'FROM scratch\nCOPY busybox /bin/busybox\n'
          f'RUN --network=none ["/bin/busybox", "ln", "-s", "{folder}/outside", "/etc"]\n')
    output('image', 'build', '-q', '-t', 'points', at)
    check(sorted(os.listdir(os.path.join(folder, 'outside'))) == ['hosts', 'resolv.conf'], 'deleted outside the root')
    # links in the root lead nowhere outside
    write(os.path.join(at, 'Containerfile'), 'FROM scratch\nCOPY busybox /bin/sh\n'
          f'RUN ["/bin/sh", "sh", "-c", "mkdir -p {folder} && ln -s {folder} /away"]\nCOPY a.txt /away/escaped\nCOPY tree /away/\n')
    os.rename(os.path.join(at, 'busybox'), os.path.join(at, 'bb'))
    shutil.copy(os.path.join(at, 'bb'), os.path.join(at, 'busybox'))
    text = open(os.path.join(at, 'Containerfile'), encoding='ascii').read().replace('/bin/sh', '/bin/busybox')
    write(os.path.join(at, 'Containerfile'), text)
    output('image', 'build', '-q', '-t', 'links', at)
    check(not os.path.exists(os.path.join(folder, 'escaped')), 'written outside the root')
    check(f'{folder}/escaped' in exported('links'), 'not where the link leads inside')


def case_stop(folder, stops):
    """Ctrl-C and kill -9 in a RUN: nothing runs, is mounted or in a cgroup afterwards."""
    at = context(folder, 'FROM scratch\nCOPY busybox /bin/sh\nRUN ["/bin/sh", "-c", "echo started; sleep 4711"]\n')

    def left():
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open(f'/proc/{pid}/cmdline', 'rb') as f:
                    words = f.read().split(b'\0')
            except OSError:
                continue
            if words[-2:-1] == [b'4711'] or b'sleep 4711' in words:
                found.append(pid)
        with open('/proc/self/mounts', encoding='utf-8') as f:
            return found, [line for line in f if folder in line]

    for number in (signal.SIGINT, signal.SIGKILL):
        with subprocess.Popen([CAISSON, 'image', 'build', at], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, env=environment(), text=True) as build:
            for line in build.stderr:
                if 'started' in line:
                    break
            build.send_signal(number)
            build.stderr.read()
        check(build.returncode == (130 if number == signal.SIGINT else -9), f'{number}: {build.returncode}')
        until = time.monotonic() + 30
        while left() != ([], []) and time.monotonic() < until:
            time.sleep(0.1)
        check(left() == ([], []), f'{number}: left {left()}')
        check(not [i for i in images() if i['names']], 'an image')
    write(os.path.join(at, 'Containerfile'), 'FROM scratch\nCOPY busybox /bin/sh\nRUN ["/bin/sh", "-c", "for i in $(/bin/sh -c \\"seq 1200\\"); do mkdir d && cd d || exit 1; done"]\n')
    done = run('image', 'build', '-q', at)
    check(done.returncode == FAILED and 'more than 256 folders' in done.stderr, f'a tree that is too deep: {done.stderr}')
    write(os.path.join(at, 'Containerfile'), 'FROM scratch\nCOPY busybox /bin/sh\n')
    output('image', 'build', '-q', at)
    tmp = os.path.join(state(), 'images', 'tmp')
    check(not os.listdir(tmp), f'left in tmp: {os.listdir(tmp)}')


def case_rootless(folder, stops):
    """A user without rights, with subordinate ids where the machine gives them."""
    if os.geteuid() != 0:
        raise Skip('it changes to a user by root')
    need('setpriv', 'newuidmap')
    at = context(folder, 'FROM scratch\nCOPY busybox /bin/sh\nRUN echo x > /x && id -u > /id && cat /proc/self/uid_map > /map && grep Seccomp: /proc/self/status > /filter\n'
                 'RUN ["/bin/sh", "-c", "rm /x"]\nCOPY --chown=5:6 a.txt /o\n')
    os.chmod(folder, 0o711)
    home = os.path.join(folder, 'user')
    os.mkdir(home)
    user = 'nobody'
    ids = os.path.join(folder, 'ids')
    write(ids, 'nobody:200000:65536\n')
    shutil.chown(home, user)
    for path, folders, files in os.walk(at):
        for name in [*folders, *files, '.']:
            os.chown(os.path.join(path, name), *[int(tool('id', f, user)) for f in ('-u', '-g')], follow_symlinks=False)
    env = {'HOME': home, 'CAISSON_STATE_DIR': home + '/state', 'CAISSON_RUNTIME_DIR': home + '/run', 'XDG_RUNTIME_DIR': home}
    copy = os.path.join(folder, 'bin')  # the build tree may lie where others may not look
    os.mkdir(copy)
    for name in ('caisson', 'caisson-oci'):
        shutil.copy(os.path.join(os.path.dirname(CAISSON), name), copy)
    script = ('mount --make-rprivate / && mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid && shift && '
              'exec setpriv --reuid nobody --regid nogroup --clear-groups "$@"')

    def as_user(*arguments):
        done = subprocess.run(['unshare', '-m', 'sh', '-c', script, 'sh', ids, copy + '/caisson', *arguments],
                              capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL, cwd='/',
                              env=environment(**env))
        check(done.returncode == 0, f'{arguments}: {done.stderr.decode()}')
        return done.stdout

    as_user('image', 'build', '-t', 'r', at)
    tree = tree_of_tar(as_user('image', 'export', '--format', 'rootfs', 'r'))
    check(tree['/o'][2:4] == (5, 6) and '/x' not in tree, f'owners or deletions: {tree}')
    mapped = f'{0:10} {int(tool("id", "-u", user)):10} {1:10}\n{1:10} {200000:10} {65536:10}\n'
    for name, text in (('id', '0\n'), ('map', mapped), ('filter', 'Seccomp:\t2\n')):
        check(tree[f'/{name}'][4] == hashlib.sha256(text.encode()).hexdigest(), f'{name} of RUN is not {text!r}')


CASES = {name[5:]: case for name, case in globals().items() if name.startswith('case_')}

if __name__ == '__main__':
    sys.exit(harness.main(CASES))
