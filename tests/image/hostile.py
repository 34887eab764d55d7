#!/usr/bin/env python3
"""Layers that mean harm: each is refused with one line, or stays inside; either way nothing outside is touched and
nothing is left behind."""
import os
import shutil
import sys
import tarfile

from rig import FAILED, TOOL, Entry, Layout, check, main, need_root, output, run, sh, tar

DIR, SYM, LNK, CHR, BLK, FIFO, FILE = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                                       tarfile.FIFOTYPE, tarfile.REGTYPE)
BAD = b'harm'
KEPT_TIME = 1000000000


def sentinel():
    return os.path.abspath('outside')


def refused_layers():
    """name: (layers, word of the error)."""
    out = sentinel()
    up = '../' * 20
    return {
        'dotdot': ([[Entry('../outside/x', content=BAD)]], "'..'"),
        'dotdot inside': ([[Entry('a', DIR), Entry('a/../../x', content=BAD)]], "'..'"),
        'name of lines and colours': ([[Entry('a\x1b[31m\nb', LNK, linkname='nothing')]], 'hard link to nothing'),
        'dotdot only': ([[Entry('..', DIR)]], "'..'"),
        'hard link up': ([[Entry('x', LNK, linkname=up + out)]], "'..'"),
        'hard link to nothing': ([[Entry('x', LNK, linkname='nothing')]], 'hard link to nothing'),
        'hard link to absolute': ([[Entry('x', LNK, linkname=out + '/keep')]], 'hard link to nothing'),
        'hard link to folder': ([[Entry('d', DIR), Entry('x', LNK, linkname='d')]], 'no file'),
        'hard link to root': ([[Entry('x', LNK, linkname='.')]], 'root'),
        'whiteout device': ([[Entry('x', CHR, devmajor=0, devminor=0)]], 'device 0:0'),
        'whiteout of dotdot': ([[Entry('a', DIR)], [Entry('.wh...', FILE)]], 'whiteout of nothing'),
        'whiteout of dot': ([[Entry('a', DIR)], [Entry('a/.wh..', FILE)]], 'whiteout of nothing'),
        'whiteout of nothing': ([[Entry('a', DIR)], [Entry('.wh.', FILE)]], 'whiteout of nothing'),
        'in a file': ([[Entry('f', content=b'x'), Entry('f/g', content=BAD)]], 'no folder'),
        'in a file below': ([[Entry('f', content=b'x')], [Entry('f/g', content=BAD)]], 'no folder'),
        'links in a circle': ([[Entry('a', SYM, linkname='b'), Entry('b', SYM, linkname='a'), Entry('a/x', content=BAD)]],
                              'symbolic links'),
        'root is a file': ([[Entry('.', FILE, content=BAD)]], 'root'),
        'long name': ([[Entry('n' * 300, content=BAD)]], 'too long'),
        'deep': ([[Entry('d/' * 400 + 'x', content=BAD)]], 'too deep'),
        'deep through links': ([[Entry('d/' * 200, DIR), Entry('l', SYM, linkname='d/' * 200), Entry('l/' + 'd/' * 100 + 'x', content=BAD)]],
                               'too deep'),
        'deep through two links': ([[Entry('d/' * 200, DIR), Entry('l', SYM, linkname='d/' * 200)],
                                    [Entry('l/' + 'd/' * 56 + 'x', content=BAD)]], 'too deep'),
        'empty link': ([[Entry('x', SYM, linkname='')]], 'without a target'),
        'owner': ([[Entry('x', pax={'uid': '4294967295'})]], 'owner'),
        'huge size': ([[Entry('x', pax={'size': '9223372036854775807'})]], ''),
        'attribute too long': ([[Entry('x', pax={'SCHILY.xattr.user.x': 'v' * 70000})]], 'extended attribute'),
    }


def kept_layers():
    """name: layers whose files stay inside, though they look as if they went out; and what must be there."""
    out = sentinel()
    return {
        'absolute name': ([[Entry(out + '/keep', content=BAD)]], out[1:] + '/keep'),
        'symlink to absolute': ([[Entry('l', SYM, linkname=out), Entry('l/keep', content=BAD)]], out[1:] + '/keep'),
        'symlink up': ([[Entry('l', SYM, linkname='../../../../../../..' + out), Entry('l/keep', content=BAD)]], out[1:] + '/keep'),
        'symlink below': ([[Entry('l', SYM, linkname=out)], [Entry('l/keep', content=BAD)]], out[1:] + '/keep'),
        'symlink twice': ([[Entry('a', SYM, linkname='/'), Entry('b', SYM, linkname='a' + out), Entry('b/keep', content=BAD)]],
                          out[1:] + '/keep'),
        'folder becomes link': ([[Entry('d', DIR), Entry('d/x', content=b'1'), Entry('d', SYM, linkname=out),
                                  Entry('d/keep', content=BAD)]], out[1:] + '/keep'),
        'folder with folders becomes link': ([[Entry('d', DIR), Entry('d/keep', DIR, mtime=1), Entry('d', SYM, linkname=out)]], 'd'),
        'folder in folders becomes link': ([[Entry('a/b', DIR), Entry('a/b/keep', DIR, mtime=1), Entry('a/b', SYM, linkname=out)]], 'a/b'),
        'file through link': ([[Entry('l', SYM, linkname=out + '/keep'), Entry('l', content=BAD)]], 'l'),
        'link to a link': ([[Entry('s', SYM, linkname=out + '/keep'), Entry('h', LNK, linkname='s'), Entry('h', content=BAD)]], 'h'),
        'hard link to itself': ([[Entry('x', content=b'1'), Entry('x', LNK, linkname='x')]], 'x'),
        'hard link below': ([[Entry('x', content=b'1')], [Entry('y', LNK, linkname='x')]], 'y'),
        'overlay marks': ([[Entry('d', DIR, pax={'SCHILY.xattr.trusted.overlay.redirect': out,
                                                 'SCHILY.xattr.trusted.overlay.opaque': 'y',
                                                 'SCHILY.xattr.user.overlay.redirect': out,
                                                 'SCHILY.xattr.security.selinux': 'x'})]], 'd'),
        'meta of aufs': ([[Entry('d', DIR)], [Entry('.wh..wh.plnk', DIR), Entry('.wh..wh.aufs', FILE), Entry('e', DIR)]], 'e'),
        'kinds over kinds': ([[Entry('x', DIR), Entry('x/y', DIR), Entry('x/y/z', content=b'1'), Entry('x', content=b'2'),
                               Entry('x', SYM, linkname='y'), Entry('x', DIR), Entry('x/z', FIFO), Entry('x/z', DIR)]], 'x/z'),
        'many dots': ([[Entry('./././a//b/./', DIR), Entry('/./a/b/c', content=b'1')]], 'a/b/c'),
        'hole': ([[Entry('x', pax={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'hole',
                                   'GNU.sparse.realsize': str(1 << 40)}, content=b'0\n' + bytes(510))]], 'hole'),
    }


def state_files():
    return sum(len(files) for _, _, files in os.walk(os.environ['CAISSON_STATE_DIR'] + '/images'))


def outside_is_untouched(name):
    with open('outside/keep', 'rb') as f:
        check(f.read() == b'kept' and os.listdir('outside') == ['keep'] and os.stat('outside/keep').st_nlink == 1 and
              os.listxattr('outside') == [] and os.stat('outside/keep').st_mtime == KEPT_TIME, f'{name}: it reached what is outside')


def case_all():
    need_root()
    os.mkdir('outside')
    with open('outside/keep', 'wb') as f:
        f.write(b'kept')
    os.utime('outside/keep', (KEPT_TIME, KEPT_TIME))
    count = 0
    for name, (layers, word) in refused_layers().items():
        shutil.rmtree('image', ignore_errors=True)
        Layout('image').add([tar(entries) for entries in layers])
        done = run('image', 'import', 'image')
        check(done.returncode == FAILED and done.stderr.count('\n') == 1 and word in done.stderr and '\x1b' not in done.stderr and not done.stdout,
              f'{name}: {done.returncode} {done.stdout!r} {done.stderr!r}')
        outside_is_untouched(name)
        check(output('image', 'ls', '-q') == '', f'{name}: an image is there')
        check(not os.listdir(os.environ['CAISSON_STATE_DIR'] + '/images/tmp'), f'{name}: something is left in tmp')
        count += 1
    for name, (layers, path) in kept_layers().items():
        shutil.rmtree('image', ignore_errors=True)
        Layout('image').add([tar(entries) for entries in layers])
        output('image', 'import', '--name', 'kept', 'image')
        outside_is_untouched(name)
        folders = sh(TOOL, 'layers', 'kept').splitlines()[1:]
        check(any(os.path.lexists(os.path.join(folder, path)) for folder in folders), f'{name}: {path} is not inside')
        for folder in folders:
            for inner, names, _ in os.walk(folder):
                for attribute in [a for n in names for a in os.listxattr(os.path.join(inner, n))]:
                    check('redirect' not in attribute and 'opaque' not in attribute, f'{name}: {attribute}')
        output('image', 'rm', 'kept')
        count += 1
    output('image', 'prune', '-a')
    check(state_files() == 1, 'prune leaves more than the lock')
    print(f'figure: {count} hostile layers refused or kept inside')


if __name__ == '__main__':
    sys.exit(main({'all': case_all}, 'all'))
