#!/usr/bin/env python3
"""`caisson image` beside skopeo, buildah and umoci: images.py CASE (see meson.build)."""
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import rig
from rig import (CAISSON, CONFLICT, FAILED, NOT_FOUND, PERMISSION, TOOL, USAGE, Entry, Layout, Skip, check, digest, images, main,
                 mounted_tree, need, need_root, output, refused, run, same_trees, sh, tar, tree)

KILLS = 16
USER = 65534


# ---- an image with all that a tar can hold, made by umoci ----

def write(path, text, mode=0o644):
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)
    os.chmod(path, mode)


def fill_first(root):
    for folder in ('bin', 'etc', 'usr/lib', 'var/empty', 'tmp', 'data/keep', 'data/gone', 'e\u0301'):
        os.makedirs(f'{root}/{folder}')
    write(f'{root}/bin/tool', '#!/bin/sh\n', 0o4755)
    write(f'{root}/etc/hosts', 'one\n')
    os.link(f'{root}/etc/hosts', f'{root}/etc/hosts2')
    os.symlink('usr/lib', f'{root}/lib')
    os.symlink('/etc/hosts', f'{root}/absolute')
    os.symlink('x' * 300, f'{root}/' + 'l' * 200)
    for name in ('data/keep/a', 'data/keep/b', 'data/gone/c', 'usr/lib/so', 'e\u0301/\u00e9'):
        write(f'{root}/{name}', name)
    os.mkfifo(f'{root}/var/fifo', 0o620)
    os.mknod(f'{root}/var/null', 0o600 | 0o020000, os.makedev(1, 3))
    os.mknod(f'{root}/var/disk', 0o640 | 0o060000, os.makedev(7, 250))
    os.chown(f'{root}/var', 33, 44)
    os.lchown(f'{root}/lib', 1000, 1001)
    os.chown(f'{root}/data/keep/a', 65533, 4000000)
    os.chmod(f'{root}/tmp', 0o1777)
    os.chmod(f'{root}/var/empty', 0)
    os.setxattr(f'{root}/etc/hosts', 'user.note', b'\0\xff bytes')
    os.setxattr(f'{root}/data', 'user.folder', b'1')
    # Version 2, cap_net_raw+ep
    os.setxattr(f'{root}/bin/tool', 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))
    # u::rw- u:5:rwx g::r-- m::rwx o::r--
    os.setxattr(f'{root}/data/keep/b', 'system.posix_acl_access', bytes.fromhex(
        '02000000' '01000600ffffffff' '0200070005000000' '04000400ffffffff' '10000700ffffffff' '20000400ffffffff'))
    with open(f'{root}/sparse', 'wb') as f:
        f.truncate(9 << 20)
        f.seek(5 << 20)
        f.write(b'middle')
    os.utime(f'{root}/etc', ns=(1, 981173106123456789))
    os.utime(f'{root}/etc/hosts', ns=(1, -86400 * 10**9))


def fill_second(root):
    os.unlink(f'{root}/etc/hosts2')
    shutil.rmtree(f'{root}/data/gone')
    shutil.rmtree(f'{root}/data/keep')
    os.mkdir(f'{root}/data/keep')
    write(f'{root}/data/keep/new', 'new')
    write(f'{root}/usr/lib/more', 'more')
    os.unlink(f'{root}/absolute')
    os.mkdir(f'{root}/absolute')
    shutil.rmtree(f'{root}/tmp')
    write(f'{root}/tmp', 'a file now')


def umoci_image():
    """Layout "lay" with the tags one and two, and the trees that umoci unpacks of them."""
    need('umoci', 'skopeo')
    need_root()
    sh('umoci', 'init', '--layout', 'lay')
    sh('umoci', 'new', '--image', 'lay:one')
    for tag, source, fill in (('one', 'one', fill_first), ('two', 'one', fill_second)):
        sh('umoci', 'unpack', '--image', f'lay:{source}', f'bundle-{tag}')
        fill(f'bundle-{tag}/rootfs')
        sh('umoci', 'repack', '--image', f'lay:{tag}', f'bundle-{tag}')
    sh('umoci', 'config', '--image', 'lay:two', '--config.cmd', '/bin/tool', '--config.env', 'A=b')
    return {tag: umoci_tree(f'lay:{tag}', f'umoci-{tag}') for tag in ('one', 'two')}


def umoci_tree(image, where):
    shutil.rmtree(where, ignore_errors=True)
    sh('umoci', 'unpack', '--image', image, where)
    return tree(f'{where}/rootfs')


def manifest_ids(layout):
    with open(f'{layout}/index.json', encoding='utf-8') as f:
        return {m['annotations']['org.opencontainers.image.ref.name']: m['digest'] for m in json.load(f)['manifests']}


def case_import():
    """What umoci, skopeo and buildah write comes in, and is the same tree as umoci's."""
    want = umoci_image()
    ids = output('image', 'import', 'lay').split()
    check(len(ids) == 2 and set(images()) == {'localhost/lay:one', 'localhost/lay:two'}, f'{images()}')
    check({row['digest'] for row in images().values()} == set(manifest_ids('lay').values()), 'manifests differ')
    for tag in want:
        same_trees(mounted_tree(f'lay:{tag}'), want[tag], f'umoci {tag}')
    for name, source in (('archive.tar', 'oci-archive:archive.tar:team/app:1'), ('zstd', 'oci:zstd:2'),
                         ('docker.tar', 'docker-archive:docker.tar:app:1')):
        extra = ['--dest-compress-format', 'zstd'] if name == 'zstd' else []
        sh('skopeo', 'copy', *extra, 'oci:lay:two', source)
        output('image', 'rm', '-f', *ids)
        check(not os.listdir('state/images/layers') and not os.listdir('state/images/blobs/sha256'), f'{name}: rm leaves something')
        ids = output('image', 'import', name).split()
        row, = images().values()
        check(row['name'] == {'archive.tar': 'localhost/team/app:1', 'zstd': 'localhost/zstd:2',
                              'docker.tar': 'docker.io/library/app:1'}[name], f'{name}: {row}')
        same_trees(mounted_tree(ids[0]), want['two'], name)
    for program in ('gzip', 'zstd', 'xz'):
        packed = subprocess.run([program, '-1', '-c', 'archive.tar'], stdout=subprocess.PIPE, check=True).stdout
        with open('packed', 'wb') as f:
            f.write(packed)
        with open('packed', 'rb') as f:
            check(output('image', 'import', '-', stdin=f).split()[0] == images()['localhost/team/app:1']['id'], program)
    rows = json.loads(output('image', 'history', 'app:1', '--json'))
    check(len([row for row in rows if row['size']]) == 2 and rows[0]['created'], f'{rows}')
    shown, = json.loads(output('image', 'inspect', 'team/app:1', '--json'))
    check(shown['config']['config']['Cmd'] == ['/bin/tool'] and 'A=b' in shown['config']['config']['Env'], f'{shown}')
    print('figure: images of umoci and skopeo (gzip, zstd, uncompressed) unpack to the tree that umoci makes')


def case_export():
    """What we write is read by skopeo, umoci, buildah and tar, and is the same tree again."""
    want = umoci_image()
    output('image', 'import', 'lay')
    output('image', 'export', '-o', 'all.tar', 'lay:one', 'lay:two')
    output('image', 'export', '--format', 'oci-dir', '-o', 'dir', 'lay:two')
    output('image', 'export', '--format', 'docker', '-o', 'docker.tar', 'lay:two')
    check(manifest_ids('dir')['two'] == manifest_ids('lay')['two'], 'the manifest is another one')
    same_trees(umoci_tree('dir:two', 'u'), want['two'], 'umoci from oci-dir')
    for source, tag in (('oci-archive:all.tar:one', 'one'), ('oci-archive:all.tar:two', 'two'), ('docker-archive:docker.tar', 'two')):
        shutil.rmtree('back', ignore_errors=True)
        sh('skopeo', 'copy', source, 'oci:back:x')
        same_trees(umoci_tree('back:x', 'u'), want[tag], source)
    need('buildah')
    store = ['buildah', '--storage-driver', 'vfs', '--root', os.path.abspath('b'), '--runroot', os.path.abspath('r')]
    try:
        for source in ('docker-archive:docker.tar', 'oci-archive:all.tar:two'):
            image = sh(*store, 'pull', '-q', source).split()[-1]
            check('sha256:' + image == images()['localhost/lay:two']['id'], f'buildah: {image}')
    finally:
        subprocess.run([*store, 'rmi', '-a', '-f'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    output('image', 'export', '--format', 'rootfs', '-o', 'root.tar', 'lay:two')
    os.mkdir('root')
    sh('tar', '--xattrs', '--xattrs-include=*', '--numeric-owner', '-xpf', 'root.tar', '-C', 'root')
    same_trees(tree('root'), want['two'], 'tar from rootfs')
    output('image', 'import', '--rootfs', '--name', 'flat', 'root.tar')
    same_trees(mounted_tree('flat'), want['two'], 'a root file system again')
    # The same image gives the same bytes, and a pipe gets what a file gets.
    with open('again.tar', 'wb') as f:
        subprocess.run([CAISSON, 'image', 'export', 'lay:one', 'lay:two'], stdout=f, check=True)
    check(sh('cmp', 'again.tar', 'all.tar') == '', 'another tar')
    refused(['image', 'export', '--format', 'oci-dir', '-o', 'dir', 'lay:one'], CONFLICT, 'dir', 'not there yet')
    refused(['image', 'export', '-o', 'no/such/x', 'lay:one'], NOT_FOUND, 'no/such/x')
    refused(['image', 'export', '--format', 'zip', '-o', 'x', 'lay:one'], USAGE, 'zip', 'oci-dir')
    refused(['image', 'export', '-o', '/dev/full', 'lay:one'], FAILED, 'no space left')
    check(not [name for name in os.listdir() if '.tar.' in name or name.startswith('dir.')], f'left: {os.listdir()}')


# ---- names ----

def small(path='small', tag='x', text=b'text', **more):
    return Layout(path).add([tar([Entry('etc', tarfile.DIRTYPE), Entry('etc/file', content=text)])], tag=tag, **more)


def case_names():
    """Names in full and short, ids and their prefixes, several names, removal."""
    check(output('image', 'ls').splitlines() == ['NAME  ID  KIND  CREATED  SIZE'] and not os.path.exists('state'), 'ls makes something')
    one = small('one')
    two = small('two', text=b'other')
    output('image', 'import', '--name', 'app:1', 'one')
    output('image', 'import', '--name', 'reg.example:5000/team/app:1', 'two')
    row = images()['localhost/app:1']
    check((row['id'], row['kind'], row['created'], row['layers']) == (one, 'container', '2020-01-02T03:04:05Z', 1), f'{row}')
    for name in ('app:1', 'localhost/app:1', one, one[7:19], one[7:]):
        check(json.loads(output('image', 'inspect', '--json', name))[0]['id'] == one, name)
    check(output('image', 'tag', 'app:1', 'app', 'docker.io/alpine', 'a/b/c:T-1').split() ==
          ['localhost/app:latest', 'docker.io/library/alpine:latest', 'localhost/a/b/c:T-1'], 'tag')
    check(json.loads(output('image', 'inspect', '--json', 'alpine'))[0]['id'] == one, 'short name of docker.io')
    output('image', 'tag', two, 'alpine')
    check(json.loads(output('image', 'inspect', '--json', 'alpine'))[0]['id'] == two, 'localhost wins')
    refused(['image', 'inspect', 'ap'], NOT_FOUND, "'ap'")
    refused(['image', 'inspect', 'alpin'], NOT_FOUND, "did you mean 'alpine'")
    refused(['image', 'inspect', 'alpin:3.99'], NOT_FOUND, 'alpine')
    refused(['image', 'inspect', 'zzzzzz'], NOT_FOUND, 'image pull')
    for name in ('UP', 'a//b', 'a-', 'a:', 'a:b:c', 'a@sha256:1', 'x' * 300, 'a b', 'a:' + 't' * 200, ''):
        refused(['image', 'tag', one, name], USAGE, 'no name of an image')
    refused(['image', 'tag', one, 'a@' + one], USAGE, 'digest')
    refused(['image', 'rm'], USAGE, 'no image named')
    refused(['image', 'rm', one], CONFLICT, '4 names', '--force')
    check(output('image', 'rm', 'app') == 'untagged localhost/app:latest\n', 'rm of a name')
    check(output('image', 'rm', '-f', one) == f'deleted {one}\n', 'rm of an id')
    check(set(images()) == {'localhost/alpine:latest', 'reg.example:5000/team/app:1'}, f'{images()}')
    done = run('image', 'rm', 'nothing', 'alpine', 'reg.example:5000/team/app:1')
    check(done.returncode == NOT_FOUND and done.stdout.splitlines()[-1] == f'deleted {two}', f'{done}')
    check(os.listdir('state/images/blobs/sha256') == [] and os.listdir('state/images/layers') == [], 'files are left')
    # Without a name: the next of that name takes it, and prune takes what has none.
    output('image', 'import', '--name', 'x', 'one')
    output('image', 'import', '--name', 'x', 'two')
    check(set(images()) == {'localhost/x:latest', one}, f'{images()}')
    pruned = json.loads(output('image', 'prune', '--json'))
    check(pruned['deleted'] == [one] and pruned['bytes'] > 0, f'{pruned}')
    check(json.loads(output('image', 'prune', '-a', '--json'))['deleted'] == [two], 'prune -a')
    # What a pull left unfinished may be gone on from for a day; all goes with -a.
    os.makedirs('state/images/partial', exist_ok=True)
    for name, age in (('young', 3600), ('old', 2 * 86400)):
        with open(f'state/images/partial/{name}', 'w', encoding='ascii') as f:
            f.write('x')
        os.utime(f.name, (time.time() - age,) * 2)
    output('image', 'prune')
    check(os.listdir('state/images/partial') == ['young'], 'unfinished pulls')
    output('image', 'prune', '-a')
    check(os.listdir('state/images/partial') == [], 'unfinished pulls with -a')
    # Everything that two images share stays while one needs it.
    shared = tar([Entry('base', content=b'b' * 9999)])
    Layout('p').add([shared, tar([Entry('p')])])
    Layout('q').add([shared, tar([Entry('q')])])
    output('image', 'import', 'p')
    output('image', 'import', 'q')
    check(len(os.listdir('state/images/layers')) == 3, 'layers are not shared')
    output('image', 'rm', 'p:x')
    check(len(os.listdir('state/images/layers')) == 2 and 'base' in mounted_tree_or_layers('q:x'), 'the shared layer is gone')


def mounted_tree_or_layers(image):
    return {name for folder in rig.layers(image)[1] for name in os.listdir(folder)}


def case_platforms():
    """This machine's image among several; another one only if asked for."""
    other = {'os': 'linux', 'architecture': 's390x'}
    Layout('foreign').add([tar([Entry('f')])], platform=other)
    refused(['image', 'import', 'foreign'], NOT_FOUND, 'linux/s390x', '--platform')
    output('image', 'import', '--platform', 'linux/s390x', 'foreign')
    both = Layout('both')
    theirs = both.add([tar([Entry('theirs')])], tag='t', platform=other, index_platform=other)
    ours = both.add([tar([Entry('ours')])], tag='t', index_platform=rig.PLATFORM)
    check(output('image', 'import', 'both').split() == [ours], 'not this machine\'s')
    check(output('image', 'import', '--platform', 'linux/s390x', 'both').split() == [theirs], 'not the one asked for')
    nested = Layout('nested')
    nested.add([tar([Entry('theirs')])], tag=None, platform=other, index_platform=other)
    nested.add([tar([Entry('ours')])], tag=None, index_platform=rig.PLATFORM)
    index = nested.blob(json.dumps({'schemaVersion': 2, 'mediaType': Layout.INDEX, 'manifests': nested.entries}).encode())
    nested.entries = [rig.descriptor(Layout.INDEX, index, annotations={'io.containerd.image.name': 'reg.example/n:1'})]
    nested.index()
    check(output('image', 'import', 'nested').split() == [ours] and 'reg.example/n:1' in images(), 'an index in an index')
    for _ in range(6):
        index = nested.blob(json.dumps({'schemaVersion': 2, 'manifests': nested.entries}).encode())
        nested.entries = [rig.descriptor(Layout.INDEX, index)]
    nested.index()
    refused(['image', 'import', 'nested'], FAILED, 'nested too deep')
    refused(['image', 'import', '--name', 'n', 'two-in-one'], NOT_FOUND, 'two-in-one')
    many = Layout('many')
    many.add([tar([Entry('1')])], tag='1')
    many.add([tar([Entry('2')])], tag='2')
    refused_any(['image', 'import', '--name', 'n', 'many'], '--name is for one')


def refused_any(arguments, word):
    done = run(*arguments)
    check(done.returncode != 0 and word in done.stderr and done.stderr.count('\n') == 1, f'{arguments}: {done}')


# ---- what is not as it should be ----

def spoil(what, change):
    shutil.rmtree('bad', ignore_errors=True)
    layout = Layout('bad', change if callable(change) and what != 'files' else None)
    layout.add([tar([Entry('a', content=b'a' * 5000)]), tar([Entry('b', content=b'b')])])
    return layout


def document(kind, **fields):
    """A document of that kind gets other fields; None takes one away."""
    def change(which, value):
        if which == kind:
            value = {**value, **fields}
            value = {key: v for key, v in value.items() if v is not None}
        return value
    return change


def cut(path, length):
    with open(path, 'r+b') as f:
        f.truncate(length if length >= 0 else os.path.getsize(path) + length)


def flip(path, at):
    with open(path, 'r+b') as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 0x40]))


def case_damaged():
    """Damaged and lying documents and blobs: one line, no image, nothing left."""
    sha = 'sha256:' + '0' * 64
    tries = [
        ('files', lambda bad: cut(bad.blob_path(bad.blobs[0]), -10), 'instead of'),
        ('files', lambda bad: flip(bad.blob_path(bad.blobs[0]), 20), 'damaged'),
        ('files', lambda bad: flip(bad.blob_path(bad.config), 20), 'damaged'),
        ('files', lambda bad: flip(bad.blob_path(bad.manifest), 20), 'damaged'),
        ('files', lambda bad: os.unlink(bad.blob_path(bad.blobs[1])), 'no file'),
        ('files', lambda bad: os.unlink(bad.blob_path(bad.config)), 'no file'),
        ('files', lambda bad: (os.unlink(bad.blob_path(bad.config)), os.symlink('/etc/passwd', bad.blob_path(bad.config))), 'no file'),
        ('files', lambda bad: (os.unlink(bad.blob_path(bad.config)), os.mkfifo(bad.blob_path(bad.config))), 'no file'),
        ('files', lambda bad: open('bad/index.json', 'w', encoding='utf-8').write('{'), 'not valid JSON'),
        ('files', lambda bad: open('bad/index.json', 'w', encoding='utf-8').write('[]'), 'JSON object'),
        ('files', lambda bad: open('bad/index.json', 'w', encoding='utf-8').write('{"manifests": "x"}'), 'manifests'),
        ('files', lambda bad: open('bad/index.json', 'w', encoding='utf-8').write(' ' * (5 << 20)), '4 MiB'),
        ('files', lambda bad: open('bad/index.json', 'w', encoding='utf-8').write('[' * 100000), 'not valid JSON'),
        ('config', document('config', rootfs={'type': 'layers', 'diff_ids': [sha, sha]}), 'configuration says'),
        ('config', document('config', rootfs={'type': 'layers', 'diff_ids': [sha]}), 'its configuration 1'),
        ('config', document('config', rootfs={'diff_ids': ['sha512:1', 'x']}), '64 digits'),
        ('config', document('config', rootfs=[]), 'rootfs'),
        ('manifest', document('manifest', schemaVersion=1), 'schemaVersion'),
        ('manifest', document('manifest', config=None), 'config is missing'),
        ('manifest', document('manifest', layers=None), 'layers is missing'),
        ('manifest', document('manifest', layers=[{'mediaType': Layout.LAYER, 'digest': '../../etc', 'size': 1}] * 2), '64 digits'),
        ('manifest', document('manifest', layers=[{'mediaType': Layout.LAYER, 'digest': sha, 'size': -1}] * 2), 'out of range'),
        ('manifest', document('manifest', layers=[{'mediaType': Layout.LAYER, 'digest': sha, 'size': 1 << 62}] * 2), 'out of range'),
        ('manifest', document('manifest', layers=[{'mediaType': Layout.LAYER, 'digest': sha, 'size': 1}] * 129), 'too many'),
        ('manifest', document('manifest', layers=[{'mediaType': 'text/html', 'digest': sha, 'size': 1}] * 2), 'no tar of files'),
        ('index', document('index', manifests=[{'mediaType': Layout.MANIFEST, 'digest': sha, 'size': 1}]), 'no file'),
        ('index', document('index', manifests=[]), 'has no images'),
    ]
    for number, (what, change, word) in enumerate(tries):
        bad = spoil(what, change)
        if what == 'files':
            change(bad)
        done = run('image', 'import', 'bad')
        check(done.returncode != 0 and done.stderr.count('\n') == 1 and word in done.stderr and not done.stdout,
              f'{number} {what}: {done.returncode} {done.stderr!r}, wanted {word!r}')
        check(output('image', 'ls', '-q') == '', f'{number}: an image is there')
    # A layer that is no tar, or no end of its compression; its digests are right.
    for name, blob, word in (('no tar', b'x' * 3000, 'damaged'), ('cut tar', tar([Entry('a', content=b'a' * 5000)])[:2000], 'damaged'),
                             ('cut gzip', gzip.compress(tar([Entry('a', content=os.urandom(5000))]))[:3000], 'layer')):
        shutil.rmtree('bad', ignore_errors=True)
        Layout('bad').add([blob], compress=False)
        refused_any(['image', 'import', 'bad'], word)
    for name in ('bad/index.json', '/dev/null', '/etc/passwd', 'bad/blobs'):
        refused_any(['image', 'import', name], name)
    refused(['image', 'import'], USAGE, 'nothing to import')
    refused(['image', 'import', 'nowhere'], NOT_FOUND, 'nowhere')
    refused(['image', 'import', '--name', 'Bad', 'bad'], USAGE, 'no name of an image')
    output('image', 'prune')
    check(os.listdir('state/images/blobs/sha256') == [] and os.listdir('state/images/layers') == [] and
          os.listdir('state/images/tmp') == [], 'something is left')
    # Archives that are cut anywhere.
    small('good')
    sh('tar', '-cf', 'good.tar', '-C', 'good', '.')
    with tarfile.open('good.tar') as t:
        size = max(member.offset_data + member.size for member in t.getmembers())
    for length in sorted(random.Random(5).sample(range(size), 25)):
        shutil.copy('good.tar', 'cut.tar')
        cut('cut.tar', length)
        done = run('image', 'import', 'cut.tar')
        check(done.returncode != 0 and done.stderr.count('\n') == 1 and output('image', 'ls', '-q') == '', f'cut at {length}: {done}')
    # A blob that the disk damaged after it came in is noticed when its layer is unpacked again, and healed by an import.
    image, = output('image', 'import', 'good').split()
    shown, = json.loads(output('image', 'inspect', '--json', image))
    blob = 'state/images/blobs/sha256/' + shown['manifest']['layers'][0]['digest'][7:]
    flip(blob, 30)
    shutil.rmtree('state/images/layers')
    done = subprocess.run([TOOL, 'layers', image], capture_output=True, text=True, check=False)
    check(done.returncode == 1 and 'layer' in done.stderr and done.stderr.count('\n') == 1, f'damaged blob: {done}')
    output('image', 'import', 'good')
    check(sh(TOOL, 'layers', image).count('diff') == 1, 'not healed')


# ---- layers over layers ----

def umoci_of(layers, name):
    layout = Layout(name)
    layout.add([tar(entries) for entries in layers])
    output('image', 'import', '--name', name, name)
    sh('umoci', 'unpack', '--image', f'{name}:x', f'umoci-{name}')
    return tree(f'umoci-{name}/rootfs', times=False), mounted_tree(name, times=False)


def case_stacked():
    """Layers that say less than all, or say it in another order, as one tree: what umoci makes of them."""
    need('umoci')
    need_root()
    D, S, L = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    base = [Entry('d', D, mode=0o2751, uid=5, gid=6, pax={'SCHILY.xattr.user.k': 'v'}), Entry('d/old', content=b'old'),
            Entry('d/e', D, mode=0o700), Entry('d/e/f', content=b'f'), Entry('usr', D), Entry('usr/lib', D, mode=0o711),
            Entry('lib', S, linkname='usr/lib'), Entry('abs', S, linkname='/usr/lib'), Entry('file', content=b'file', uid=7)]
    for name, layers in {
            'implied': [base, [Entry('d/e/new', content=b'1'), Entry('n/o/folders', content=b'2')]],
            'throughlink': [base, [Entry('lib/so', content=b'1'), Entry('abs/deep/x', content=b'2')]],
            'twolinks': [base, [Entry('more', S, linkname='lib')], [Entry('more/x', content=b'1')]],
            'whiteouts': [base, [Entry('.wh.file'), Entry('d/.wh.old'), Entry('d/e/.wh.nothing'), Entry('no/.wh.such')]],
            'opaque': [base, [Entry('d', D, mode=0o755), Entry('d/.wh..wh..opq'), Entry('d/x', content=b'x')]],
            'opaquelate': [base, [Entry('d', D, mode=0o755), Entry('d/x', content=b'x'), Entry('d/.wh..wh..opq')]],
            'replaced': [base, [Entry('.wh.d'), Entry('d', D, mode=0o700), Entry('d/x', content=b'x')]],
            'fileoverfolder': [base, [Entry('d', content=b'now a file')], [Entry('d', D), Entry('d/x')]],
            'folderoverfile': [base, [Entry('file', D), Entry('file/x')]],
            'linkoverfolder': [base, [Entry('.wh.d'), Entry('d', S, linkname='usr')], [Entry('d/x', content=b'x')]],
            'back': [base, [Entry('.wh.d')], [Entry('d', D), Entry('d/x')]],
            'gonethenin': [base, [Entry('.wh.d')], [Entry('d/e/x', content=b'x')]],
            'root': [[Entry('.', D, mode=0o750, uid=3), *base], [Entry('x')]],
            'rootlate': [base, [Entry('x')], [Entry('./', D, mode=0o711)]],
            'rootopaque': [base, [Entry('.wh..wh..opq'), Entry('x', content=b'x')]],
            'same': [base, [], [Entry('x')], [], [Entry('.wh.x')], [Entry('x', content=b'2')]],
            'twice': [[Entry('x', content=b'1'), Entry('x', content=b'22', mode=0o600)], [Entry('y', L, linkname='y2'), ][:0]],
    }.items():
        umoci, ours = umoci_of(layers, name)
        same_trees(ours, umoci, name)
    # A hard link to a file of a layer below: both are one file then.
    Layout('hard').add([tar(base), tar([Entry('other', L, linkname='file')])])
    output('image', 'import', '--name', 'hard', 'hard')
    ours = mounted_tree('hard')
    check(ours['other']['content'] == ours['file']['content'] and ours['(links)'] == [['file', 'other']], f'hard link below: {ours}')
    # 128 layers are possible.
    Layout('high').add([tar([Entry(f'f{n}', content=b'%d' % n)]) for n in range(128)])
    output('image', 'import', '--name', 'high', 'high')
    check(len(rig.layers('high')[1]) == 128, 'not 128 layers')


# ---- commit ----

def mounted(image, script, upper):
    """Run a shell script in the mounted image; what it changes is in the folder upper."""
    option, paths = rig.layers(image)
    for name in (upper, upper + '-work', 'm'):
        os.makedirs(name, exist_ok=True)
    st = os.stat(paths[0])
    os.chown(upper, st.st_uid, st.st_gid)
    os.chmod(upper, st.st_mode & 0o7777)
    sh('unshare', '-m', 'sh', '-ec', f'mount -t overlay -o lowerdir={":".join(paths)},upperdir={upper},workdir={upper}-work'
       f'{"," if option else ""}{option} o m; cd m; {script}\ncd ..; "$@" m',
       'sh', sys.executable, '-c', 'import sys, json; sys.path.insert(0, sys.argv[1]); import rig; json.dump(rig.tree(sys.argv[2]), open("seen", "w"))',
       os.path.dirname(os.path.abspath(__file__)))
    with open('seen', encoding='utf-8') as f:
        seen = json.load(f)
    for entry in seen.values():
        if isinstance(entry, dict):
            entry['owner'] = tuple(entry['owner'])
            if 'content' in entry:
                entry['content'] = tuple(entry['content'])
    return seen


CHANGES = '''rm etc/hosts; rm -r data/keep; mkdir -m 710 data/keep; echo n >data/keep/n; echo more >>usr/lib/so; mv data/gone data/moved
chmod 600 bin/tool; mkdir -p new/deep/er; ln usr/lib/so new/hard; ln -s /x new/link; mkfifo new/fifo; mknod new/zero c 1 5
chown 12:13 new/fifo; touch -d '2003-04-05 06:07:08.9' new/deep; rm absolute; mkdir absolute; setfattr -n user.x -v y new'''


def case_commit():
    """What overlayfs notes of changes, as a layer: the new image is the tree that was seen, also for umoci."""
    umoci_image()
    need('setfattr')
    output('image', 'import', 'lay')
    seen = mounted('lay:one', CHANGES, 'upper')
    base = images()['localhost/lay:one']['id']
    for compress in ('gzip', 'zstd', 'none'):
        made = sh(TOOL, 'commit', base, os.path.abspath('upper'), f'made:{compress}', compress, 'CMD ["/bin/tool", "-x"]',
                  'ENV A=1 B="two words"', f'LABEL k={compress}', # images of one configuration would be one image
                   'EXPOSE 80 53/udp', 'WORKDIR /data', 'USER 5:6', 'VOLUME /v',
                  'ENTRYPOINT run it', 'STOPSIGNAL SIGINT').strip()
        same_trees(mounted_tree(made), seen, f'commit {compress}')
        shown, = json.loads(output('image', 'inspect', '--json', f'made:{compress}'))
        check(shown['config']['config'] == {
            'Cmd': ['/bin/tool', '-x'], 'Env': ['A=1', 'B=two words'], 'Labels': {'k': compress}, 'WorkingDir': '/data', 'User': '5:6',
            'ExposedPorts': {'80/tcp': {}, '53/udp': {}}, 'Volumes': {'/v': {}}, 'Entrypoint': ['/bin/sh', '-c', 'run it'],
            'StopSignal': 'SIGINT'}, f'{shown["config"]["config"]}')
        rows = json.loads(output('image', 'history', '--json', made))
        check(rows[0]['comment'] == 'made by a test' and rows[0]['size'] > 0, f'{rows}')
    output('image', 'export', '--format', 'oci-dir', '-o', 'dir', 'made:gzip')
    same_trees(umoci_tree('dir:gzip', 'u'), seen, 'umoci of a commit')
    # The same upper folder gives the same blob; an empty one gives no layer.
    first, = [row for row in images().values() if row['name'] == 'localhost/made:gzip']
    os.makedirs('nothing')
    same = sh(TOOL, 'commit', base, os.path.abspath('nothing'), 'made:same', 'gzip').strip()
    check(images()['localhost/made:same']['layers'] == first['layers'] - 1 == 1 and same != base, 'an empty layer')
    # A snapshot of the upper folder, and the way back.
    sh(TOOL, 'pack', os.path.abspath('upper'), os.path.abspath('snapshot.tar'))
    os.makedirs('restored')
    sh(TOOL, 'unpack', os.path.abspath('snapshot.tar'), os.path.abspath('restored'), base)
    same_trees(mounted('lay:one', 'true', 'restored'), seen, 'restored upper folder')
    done = subprocess.run([TOOL, 'commit', base, os.path.abspath('upper'), 'bad', 'gzip', 'FROM x'], capture_output=True, text=True,
                          check=False)
    check(done.returncode == 1 and 'the first word must be' in done.stderr, f'{done}')


def case_container():
    """`caisson commit` of a container that runs and of one that has ended; an image in use stays."""
    need_root()
    need('busybox')
    with open(shutil.which('busybox'), 'rb') as f:
        busybox = f.read()
    D = tarfile.DIRTYPE
    Layout('box').add([tar([Entry('bin', D), Entry('bin/busybox', content=busybox, mode=0o755),
                            Entry('bin/sh', tarfile.SYMTYPE, linkname='busybox'), Entry('etc', D), Entry('old', content=b'old')])],
                      config={'Cmd': ['/bin/sh'], 'Env': ['PATH=/bin']})
    box, = output('image', 'import', 'box').split()
    made = run('run', '-d', '--name', 'c', '--network', 'none', box, '/bin/busybox', 'sleep', '600')
    check(made.returncode == 0, f'run: {made}')
    try:
        refused(['image', 'rm', '-f', box], CONFLICT, 'used by container c')
        check(run('exec', 'c', 'sh', '-c', 'busybox rm /old; echo new >/etc/new').returncode == 0, 'exec')
        output('commit', '-c', 'CMD ["/bin/busybox", "cat", "/etc/new"]', '-m', 'why', 'c', 'kept:1')
        row, = json.loads(output('ls', '--json'))
        check(row['status'] == 'running', f'after the commit it is {row["status"]}')
        refused(['commit', 'nobody', 'x'], NOT_FOUND, 'nobody')
        refused(['commit', 'c', 'Bad'], USAGE, 'no name of an image')
        refused(['commit', '-c', 'FROM x', 'c'], USAGE, 'FROM x')
        check(json.loads(output('ls', '--json'))[0]['status'] == 'running', 'a commit that failed left it paused')
        done = run('run', '--rm', '--network', 'none', 'kept:1')
        check(done.returncode == 0 and done.stdout == 'new\n', f'{done}')
        done = run('run', '--rm', '--network', 'none', 'kept:1', '/bin/sh', '-c', 'busybox test -e /old')
        check(done.returncode == 1, f'a deleted file is there: {done}')
        check(run('kill', 'c').returncode == 0 and run('wait', 'c').stdout.strip() == '137', 'kill')
        output('commit', '--no-pause', '--compression', 'zstd', 'c', 'kept:2')
        ours = [row for row in json.loads(output('image', 'history', '--json', 'kept:2')) if row['size']]
        check(len(ours) == 2, f'{ours}')
    finally:
        run('rm', '-f', 'c')
    output('image', 'rm', 'box:x', 'kept:1', 'kept:2')
    check(os.listdir('state/images/blobs/sha256') == [] and images() == {}, 'something is left')


# ---- accidents ----

def big_layout(path='big', files=300):
    rng = random.Random(7)
    return Layout(path).add([tar([Entry(f'l{n}', tarfile.DIRTYPE), *[Entry(f'l{n}/f{k}', content=rng.randbytes(4000)) for k in range(files)]])
                             for n in range(4)])


def case_killed():
    """kill -9 at any instant of import and rm: the old or the new state, and the next command cleans up."""
    want = big_layout()
    started = time.monotonic()
    output('image', 'import', '--name', 'big', 'big')
    took = time.monotonic() - started
    whole = sorted(os.listdir('state/images/layers')), sorted(os.listdir('state/images/blobs/sha256'))
    output('image', 'rm', 'big')
    rng, seen = random.Random(3), {'image': 0, 'nothing': 0}
    for number in range(KILLS):
        remove = number % 3 == 2
        if remove:
            output('image', 'import', '--name', 'big', 'big')
        command = ['rm', 'big'] if remove else ['import', '--name', 'big', 'big']
        with subprocess.Popen([CAISSON, 'image', *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as child:
            time.sleep(rng.random() * (took / 4 if remove else took))
            child.send_signal(signal.SIGKILL)
        ids = output('image', 'ls', '-q').split()
        check(ids in ([], [want]), f'{ids}')
        if ids:
            seen['image'] += 1
            check(len(sh(TOOL, 'layers', 'big').splitlines()) == 5, 'layers are missing')
            check((sorted(os.listdir('state/images/layers')), sorted(os.listdir('state/images/blobs/sha256'))) == whole, 'files are missing')
            output('image', 'rm', 'big')
        else:
            seen['nothing'] += 1
        output('image', 'prune')
        left = [os.path.join(folder, name) for folder, _, names in os.walk('state/images') for name in names]
        check(left == ['state/images/lock'] and os.listdir('state/images/tmp') == [] and os.listdir('state/images/layers') == [],
              f'left: {left[:5]}')
    print(f'figure: {KILLS} times kill -9 of image import and rm: {seen["image"]} times there, {seen["nothing"]} times not')


def case_together():
    """Several commands at once on one store."""
    names = [f'l{n}' for n in range(4)]
    for n, name in enumerate(names):
        rng = random.Random(n % 2) # two of each content
        Layout(name).add([tar([Entry('shared', content=b's' * 300000)]), tar([Entry(f'f{k}', content=rng.randbytes(3000)) for k in range(100)])])
    for _ in range(3):
        running = [subprocess.Popen([CAISSON, 'image', 'import', '--name', name, name], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for name in names]
        running += [subprocess.Popen([CAISSON, 'image', 'prune'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for number, process in enumerate(running):
            _, error = process.communicate(timeout=200)
            check(process.returncode == 0 or (number >= len(names) and process.returncode == CONFLICT and 'another command' in error),
                  f'{number}: {process.returncode} {error}')
        for name in names:
            check('shared' in mounted_tree_or_layers(name), f'{name} is not whole')
        done = [subprocess.Popen([CAISSON, 'image', 'rm', name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for name in names]
        check([process.wait(200) for process in done] == [0] * 4, 'rm')
        output('image', 'prune')
        check(os.listdir('state/images/blobs/sha256') == [], 'something is left')


def case_full():
    """A full disk: an error that says so, nothing half-made; with space it works."""
    need_root()
    big_layout(files=600) # some 10 MB
    script = f'''mkdir -p small; mount -t tmpfs -o size=14m,mode=700 t small; export CAISSON_STATE_DIR=$PWD/small/state
{CAISSON} image import --name big big; echo $?; {CAISSON} image ls -q | wc -l; {CAISSON} image prune >/dev/null; find small/state/images -type f | wc -l
mount -o remount,size=64m small; {CAISSON} image import --name big big; {CAISSON} image export -o small/x.tar big; echo $?
mount -o remount,size=30m small; {CAISSON} image export --format docker -o small/y.tar big; echo $?; ls small'''
    done = subprocess.run(['unshare', '-m', 'sh', '-c', script], capture_output=True, text=True, timeout=200, check=False)
    lines = done.stdout.split()
    check(lines[:3] == ['1', '0', '1'] and lines[3].startswith('sha256:') and lines[4:] == ['0', '1', 'state', 'x.tar'], f'{done}')
    check(done.stderr.count('no space left') == 2 and done.stderr.count('\n') == 2, f'{done.stderr!r}')


def case_rootless():
    """A user without rights: with subordinate ids owners are kept, without all files are his, with a warning."""
    umoci_image()
    output('image', 'import', 'lay')
    output('image', 'export', '-o', 'all.tar', 'lay:one', 'lay:two')
    os.mkdir('home')
    os.chown('home', USER, USER)
    for file in ('subuid', 'subgid'):
        write(file, 'nobody:300000:65536\n')
    write('empty', '')
    script = f'''cd home; export CAISSON_STATE_DIR=$PWD/state CAISSON_RUNTIME_DIR=$PWD/run HOME=$PWD
{CAISSON} image import ../all.tar >&2 && {CAISSON} image export --format rootfs -o root.tar lay:two && stat -c %u:%g state/images/layers/*/diff/var >&2
{CAISSON} image rm lay:one lay:two >&2 && find state/images -type f | wc -l'''
    for ids in ('subuid', 'empty'):
        bind = f'mount --bind {ids} /etc/subuid && mount --bind {"subgid" if ids == "subuid" else ids} /etc/subgid && exec "$@"'
        done = subprocess.run(['unshare', '-m', 'sh', '-c', bind, 'sh', 'setpriv', f'--reuid={USER}', f'--regid={USER}', '--clear-groups',
                               'sh', '-c', script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)
        if 'user namespace' in done.stderr:
            raise Skip('no user namespaces for users here')
        # The owner of a file that has no subordinate id is an error; fill_first has one.
        if ids == 'subuid':
            check('4000000, for which there is no subordinate id' in done.stderr, f'{done.stderr}')
            continue
        check(done.returncode == 0 and done.stdout.split() == ['1'] and 'usermod --add-subuids' in done.stderr and
              f'{USER}:{USER}' in done.stderr, f'{done}')
        with tarfile.open('home/root.tar') as t:
            check({(m.uid, m.gid) for m in t.getmembers()} == {(0, 0)} and 'data/keep/new' in t.getnames(), 'flattened')
    small_owner = [Entry('var', tarfile.DIRTYPE, uid=33, gid=44), Entry('var/x', uid=1000, gid=1000, mode=0o4755)]
    Layout('home/owners').add([tar(small_owner), tar([Entry('.wh.none'), Entry('y', uid=65536)])])
    script = f'''cd home; export CAISSON_STATE_DIR=$PWD/state CAISSON_RUNTIME_DIR=$PWD/run HOME=$PWD
{CAISSON} image import owners && {CAISSON} image export --format rootfs -o mapped.tar owners:x && stat -c %u:%g state/images/layers/*/diff/var
{CAISSON} image rm owners:x && find state/images -type f | wc -l'''
    bind = 'mount --bind subuid /etc/subuid && mount --bind subgid /etc/subgid && exec "$@"'
    done = subprocess.run(['unshare', '-m', 'sh', '-c', bind, 'sh', 'setpriv', f'--reuid={USER}', f'--regid={USER}', '--clear-groups',
                           'sh', '-c', script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)
    check(done.returncode == 0 and not done.stderr and '300032:300043' in done.stdout and done.stdout.split()[-1] == '1', f'{done}')
    with tarfile.open('home/mapped.tar') as t:
        check((t.getmember('var').uid, t.getmember('var').gid, t.getmember('var/x').uid, t.getmember('y').uid, oct(t.getmember('var/x').mode))
              == (33, 44, 1000, 65536, '0o4755'), 'owners are not kept')


CASES = {name[5:]: function for name, function in globals().items() if name.startswith('case_')}

if __name__ == '__main__':
    sys.exit(main(CASES))
