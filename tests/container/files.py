#!/usr/bin/env python3
"""cp, diff and volumes; hostile names and links: files.py [CASE...]"""
import io
import json
import os
import re
import subprocess
import tarfile

from common import CAISSON, WORK, Caisson, expect, fuse_life, main, nested, nested_life, nothing_left, until

c = Caisson()


def tree(folder):
    """Names, kinds, modes and contents."""
    out = {}
    for top, dirs, files in os.walk(folder):
        for name in dirs + files:
            path = os.path.join(top, name)
            st = os.lstat(path)
            out[os.path.relpath(path, folder)] = (oct(st.st_mode), os.readlink(path) if os.path.islink(path) else open(path, 'rb').read() if os.path.isfile(path) else None)
    return out


def sample():
    folder = f'{WORK}/sample'
    if not os.path.isdir(folder):
        os.makedirs(f'{folder}/sub/deep')
        for name, text in (('a', 'A'), ('sub/b', 'B' * 100000), ('sub/deep/c', '')):
            with open(f'{folder}/{name}', 'w', encoding='ascii') as f:
                f.write(text)
        os.chmod(f'{folder}/a', 0o4755)
        os.chmod(f'{folder}/sub', 0o700)
        os.symlink('/etc/shadow', f'{folder}/link')
        os.symlink('../../../../../../etc', f'{folder}/sub/up')
        os.mkfifo(f'{folder}/fifo')
    return folder


def copy_of(state):
    folder = sample()
    out = f'{WORK}/out-{state}'
    os.makedirs(out)
    c('cp', folder, 'f:/new')
    c('cp', folder, 'f:/tmp')
    c('cp', f'{folder}/.', 'f:/contents')
    c('cp', f'{folder}/a', 'f:/tmp/')
    c('cp', f'{folder}/a', 'f:/tmp/named')
    for inside, name in (('/new', 'new'), ('/tmp/sample', 'sample'), ('/contents', 'contents')):
        c('cp', f'f:{inside}', f'{out}/{name}')
        expect(f'{state}: {inside} and back', {k: v for k, v in tree(f'{out}/{name}').items() if k != 'fifo'}, {k: v for k, v in tree(folder).items() if k != 'fifo'})
    c('cp', 'f:/tmp/named', f'{out}/n')
    expect(f'{state}: a file', (open(f'{out}/n', encoding='ascii').read(), oct(os.stat(f'{out}/n').st_mode)), ('A', '0o104755'))
    c('cp', f'{folder}/a', 'f:/no/such/', status=3)
    c('cp', f'{folder}/a', 'f:/nothere/', status=3)
    c('cp', 'f:/nothing', out, status=3)
    c('cp', folder, 'f:/etc/passwd', status=3)


def cp():
    i = c.start('f', 'img', 'sleep', '1000')
    copy_of('running')
    c('exec', 'f', 'rm', '-rf', '/new', '/contents', '/tmp/sample', '/tmp/a', '/tmp/named')
    c('stop', '--timeout', '0', 'f')
    copy_of('stopped')
    c('rm', 'f')
    i2 = c.start('g', '--user', 'user', 'img', 'sleep', '1000')
    c('cp', f'{sample()}/a', 'g:/tmp/mine')
    expect('who runs in there owns it', c('exec', 'g', 'stat', '-c', '%u:%g', '/tmp/mine'), '1000:1000\n')
    os.chown(f'{sample()}/a', 77, 78)
    c('cp', '-a', f'{sample()}/a', 'g:/tmp/theirs')
    os.chown(f'{sample()}/a', 0, 0)
    expect('--archive', c('exec', 'g', 'stat', '-c', '%u:%g', '/tmp/theirs'), '77:78\n')
    c('rm', '-f', 'g')
    nothing_left('cp', c, [i, i2])
    # What a container may do to the host by its files.
    c.start('d', '--cap-add', 'mknod', 'img', 'sleep', '1000')
    c('exec', 'd', 'sh', '-c', 'mkdir /t /t/sub && busybox mknod /t/sub/null c 1 3 && echo x >/t/theirs && chown 1000:1000 /t/theirs && chmod 6755 /t/theirs && echo y >/t/sub/z')
    told = c('cp', 'd:/t', f'{WORK}/devices', errors=True)
    expect('a device is told', told, 'caisson: d:/t/sub/null: a device node; not copied to this host\n')
    expect('and all else is there', sorted(os.listdir(f'{WORK}/devices/sub')), ['z'])
    st = os.stat(f'{WORK}/devices/theirs')
    expect('a setuid file changes hands', (st.st_uid, oct(st.st_mode)), (0, '0o100755'))
    os.unlink(f'{WORK}/devices/sub/z')
    os.mkdir(f'{WORK}/devices/sub/z')
    expect('the file that cannot be written is named', c('cp', 'd:/t/.', f'{WORK}/devices', status=None, errors=True).splitlines()[-1],
           f'caisson: {WORK}/devices/sub/z: Is a directory')
    c('rm', '-f', 'd')


def tar():
    c.start('t', 'img', 'sleep', '1000')
    data = c('cp', 't:/usr/share/seed', '-', text=False)
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        expect('tar out', (t.getnames(), t.extractfile('seed/file').read()), (['seed', 'seed/file'], b'seeded\n'))
    packed = subprocess.run(['tar', '-C', os.path.dirname(sample()), '-czf', '-', 'sample'], check=True, stdout=subprocess.PIPE).stdout
    with open(f'{WORK}/sparse', 'wb') as f:
        f.write(b'x')
        f.truncate(5 << 20)
    with subprocess.Popen(['tar', '-C', WORK, '--sparse', '-cf', '-', 'sparse'], stdout=subprocess.PIPE) as pipe:
        c('cp', '-', 't:/tmp', stdin=pipe.stdout)
    expect('a hole at the end', c('exec', 't', 'stat', '-c', '%s', '/tmp/sparse'), f'{5 << 20}\n')
    path = f'{WORK}/in.tgz'
    with open(path, 'wb') as f:
        f.write(packed)
    with open(path, 'rb') as f:
        c('cp', '-', 't:/tmp', stdin=f)
    expect('tar in', c('exec', 't', 'sh', '-c', 'cd /tmp/sample && cat a && test -p fifo && test -L sub/up && readlink link'), 'A/etc/shadow\n')
    with open(path, 'wb') as f:
        f.write(packed[:len(packed) // 2])
    with open(path, 'rb') as f:
        c('cp', '-', 't:/tmp', stdin=f, status=1)
    c('rm', '-f', 't')


def hostile():
    """Links and names of the container's that point out of it."""
    secret = f'{WORK}/secret'
    os.makedirs(secret)
    with open(f'{secret}/s', 'w', encoding='ascii') as f:
        f.write('the host\'s')
    up = '../' * 40
    script = f'ln -s {up}{secret[1:]} /rel; ln -s {secret} /abs; ln -s {secret}/s /file; mkdir /d; ln -s {secret}/new /d/new; ln -s / /d/root'
    for state in ('running', 'stopped'):
        c.start('h', 'img', 'sh', '-c', f'{script}; sleep 1000')
        until('links', lambda: 'root' in c('exec', 'h', 'ls', '/d', status=None))
        if state == 'stopped':
            c('stop', '--timeout', '0', 'h')
        for path in ('/rel/s', '/abs/s', f'/{up}{secret}/s', '/d/root/../../..' + secret + '/s'):
            c('cp', f'h:{path}', f'{WORK}/stolen', status=3)
        c('cp', '-L', 'h:/file', f'{WORK}/stolen', status=3)
        c('cp', f'{sample()}/a', 'h:/rel/x', status=3)
        c('cp', f'{sample()}/a', 'h:/d/new')
        c('cp', f'{sample()}/sub', 'h:/abs', status=None)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode='w') as t:
            for name, kind, link in ((f'{up}{secret}/evil1', tarfile.REGTYPE, ''), ('l', tarfile.SYMTYPE, secret), ('l/evil2', tarfile.REGTYPE, ''),
                                     ('hard', tarfile.LNKTYPE, f'{up}{secret}/s'), (f'{secret}/evil3', tarfile.REGTYPE, '')):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, link
                t.addfile(entry)
        with open(f'{WORK}/evil.tar', 'wb') as f:
            f.write(archive.getvalue())
        with open(f'{WORK}/evil.tar', 'rb') as f:
            c('cp', '-', 'h:/tmp', stdin=f, status=None)
        expect(f'{state}: the host has what it had', (os.listdir(secret), open(f'{secret}/s', encoding='ascii').read(), os.path.exists(f'{WORK}/stolen')), (['s'], 'the host\'s', False))
        c('rm', '-f', 'h')
    nothing_left('hostile', c)


def diff():
    c.start('d', '-v', 'v1:/data', 'img', 'sh', '-c', 'echo x > /home/user/new; rm /usr/share/seed/file; rm -r /root; mkdir /root; chmod 600 /etc/group; sleep 1000')
    wanted = {'C /etc', 'C /etc/group', 'C /home', 'C /home/user', 'A /home/user/new', 'C /usr', 'C /usr/share', 'C /usr/share/seed', 'D /usr/share/seed/file', 'C /root'}
    until('changes', lambda: set(c('diff', 'd').splitlines()) == wanted)
    c('stop', '--timeout', '0', 'd')
    expect('diff', set(c('diff', 'd').splitlines()), wanted)
    c('rm', 'd')
    c('volume', 'rm', 'v1')


def unrepaired():
    """What is left of one and cannot be removed is told, and keeps nobody from work on another."""
    c.start('u', 'img', 'sleep', '1000')
    c.start('keep', 'img', 'sleep', '1000')
    c('stop', '-t', '0', 'keep')
    left = c.inspect('u')
    os.makedirs(f'{left["directory"]}/mount')
    subprocess.run(['mount', '-t', 'tmpfs', 't', f'{left["directory"]}/mount'], check=True)
    done = c('rm', '-f', 'u', status=None, errors=True)
    expect('it cannot be removed', done, re.compile('mounted there'))
    said = c('commit', 'keep', 'kept', errors=True)
    subprocess.run(['umount', f'{left["directory"]}/mount'], check=True)
    expect('a warning', said, re.compile('^caisson: warning: .*mounted there'))
    c('rm', 'keep')
    c('image', 'rm', 'kept')
    nothing_left('unrepaired', c, [left['id']])


def volumes():
    c('volume', 'create', '--label', 'x=y', 'v')
    c('volume', 'create', 'v', status=4)
    c('volume', 'create', '../x', status=2)
    expect('what the image has is in it', c.run('-v', 'v:/usr/share/seed', 'img', 'cat', '/usr/share/seed/file'), 'seeded\n')
    c.run('-v', 'v:/x', 'img', 'sh', '-c', 'echo kept > /x/file')
    expect('it outlives containers', c.run('-v', 'v:/usr/share/seed', 'img', 'cat', '/usr/share/seed/file'), 'kept\n')
    expect('nocopy', c.run('-v', 'w:/usr/share/seed:nocopy', 'img', 'ls', '/usr/share/seed'), '')
    c.start('u', '-v', 'v:/x', '-v', '/anon', 'img', 'sleep', '1000')
    c('volume', 'rm', 'v', status=4)
    expect('ls', c('volume', 'ls', '-q').split(), sorted([c.inspect('u')['spec']['container']['mounts'][1]['source'], 'v', 'w']))
    c('rm', '-f', 'u')
    expect('the one without a name goes with its container', c('volume', 'ls', '-q').split(), ['v', 'w'])
    expect('prune', c('volume', 'prune', '-f').split(), ['v', 'w'])
    expect('folders', os.listdir(f'{c.folder}/s/volumes'), [])
    # What a killed create or rm leaves goes with the next command, and is never in a new volume of that name; a volume's own
    # folder stays whoever is killed.
    for name in ('ghost/_data', '.gone.1/_data'):
        os.makedirs(f'{c.folder}/s/volumes/{name}')
    c('volume', 'create', 'ghost')
    expect('a new volume is empty', (os.listdir(f'{c.folder}/s/volumes'), os.listdir(f'{c.folder}/s/volumes/ghost/_data')), (['ghost'], []))
    os.makedirs(f'{c.folder}/s/volumes/stray/_data/x')
    c('ls')
    expect('strays', os.listdir(f'{c.folder}/s/volumes'), ['ghost'])
    c('volume', 'rm', 'ghost')
    expect('errors name the nearest', c('volume', 'inspect', 'vv', status=3, errors=True), re.compile('no volume'))


def snapshots():
    """What a container changed in its image, with folders that hide those of the image, comes back."""
    look = ('sh', '-c', 'cat /f; stat -c "%a %u" /f; ls -A /root /usr/share/seed; ls -d /d || true')
    c.start('s', 'img', 'sleep', '1000')
    c('exec', 's', 'sh', '-c', 'echo one >/f; chown 1000 /f; chmod 4711 /f; rm /usr/share/seed/file; rm -r /root; mkdir /root')
    before, changes = c('exec', 's', *look), set(c('diff', 's').splitlines())
    expect('a name', c('snapshot', 'create', 's', 'first'), 'first\n')
    c('snapshot', 'create', 's', 'first', status=4)
    c('exec', 's', 'sh', '-c', 'echo two >/f; mkdir /d; echo x >/usr/share/seed/file; touch /root/x; rm /bin/true')
    c('snapshot', 'create', 's', 'second')
    c('stop', '--timeout', '0', 's')
    c('snapshot', 'restore', 's', 'first')
    expect('changes of one that stands still', set(c('diff', 's').splitlines()), changes)
    c('start', 's')
    c('snapshot', 'restore', 's', 'second')
    expect('one that ran runs again', c.inspect('s')['status'], 'running')
    expect('the later one', c('exec', 's', 'cat', '/usr/share/seed/file'), 'x\n')
    c('snapshot', 'restore', 's', 'first')
    expect('the earlier one', c('exec', 's', *look), before)
    c('snapshot', 'restore', 's', 'third', status=3)
    tags = {row['name']: row['tag'] for row in json.loads(c('snapshot', 'ls', '--json'))}
    parts = f'{c.inspect("s")["directory"]}/snapshots'
    os.unlink(f'{parts}/{tags["second"]}.tar')
    pid = c.inspect('s')['pid']
    expect('one that is not whole', c('snapshot', 'restore', 's', 'second', status=3, errors=True), re.compile('missing; nothing was changed'))
    expect('is refused before its container is ended', c.inspect('s')['pid'], pid)
    c('exec', 's', 'sh', '-c', 'head -c 100m /dev/urandom >/big')
    with subprocess.Popen([CAISSON, 'snapshot', 'create', 's', 'killed'], env=c.env, stderr=subprocess.DEVNULL) as p:
        until('it stands still', lambda: c.inspect('s')['status'] == 'paused')
        p.kill()
    expect('it goes on when whoever paused it was killed', c.inspect('s')['status'], 'running')
    expect('and of it is nothing left', os.listdir(parts), [f'{tags["first"]}.tar'])
    c('pause', 's')
    expect('one that its user paused stays so', c.inspect('s')['status'], 'paused')
    c('resume', 's')
    c('snapshot', 'rm', 's', 'first')
    c('rm', '-f', 's')
    expect('they go with it', c('snapshot', 'ls', '-q'), '')


def fuse():
    fuse_life(c)


def nested_store():
    nested_life(*nested('nested'))


main((cp, tar, hostile, diff, unrepaired, snapshots, volumes, fuse, nested_store))
