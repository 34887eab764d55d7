"""What the tests of images share: a state directory of their own, trees as data, images made by hand and by umoci."""
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rig'))
from program import (BUILD, CAISSON, CONFLICT, FAILED, NOT_FOUND, PERMISSION, USAGE, Failure, Skip, check, need, output, refused, run,
                     run_case) # which the tests import from here

TOOL = os.environ.get('IMAGE_TOOL', os.path.join(BUILD, 'tests/image/image_tool'))
PLATFORM = {'os': 'linux', 'architecture': {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(os.uname().machine, 'unknown')}


def need_root():
    if os.geteuid() != 0:
        raise Skip('mounts and owners need root')
    if subprocess.run(['unshare', '-m', 'true'], stderr=subprocess.DEVNULL, check=False).returncode:
        raise Skip('no mount namespaces here')


def sh(*command, **options):
    """A program that must succeed; its output."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False, **options)
    check(done.returncode == 0, f'{command}: {done.returncode}: {done.stderr or done.stdout}')
    return done.stdout


def images():
    return {row['name'] or row['id']: row for row in json.loads(output('image', 'ls', '--json'))}


# ---- trees ----

def tree(root, times=True):
    """All that matters of each file below root."""
    found, links = {}, {}
    for folder, folders, files in os.walk(root):
        for name in folders + files + ([''] if folder == root else []):
            path = os.path.join(folder, name)
            rel = os.path.relpath(path, root)
            st = os.lstat(path)
            entry = {'mode': oct(st.st_mode), 'owner': (st.st_uid, st.st_gid)}
            if times:
                entry['mtime'] = st.st_mtime_ns
            if stat.S_ISREG(st.st_mode):
                with open(path, 'rb') as f:
                    entry['content'] = (st.st_size, hashlib.sha256(f.read()).hexdigest()[:16])
                if st.st_nlink > 1:
                    links.setdefault(st.st_ino, []).append(rel)
            elif stat.S_ISLNK(st.st_mode):
                entry['target'] = os.readlink(path)
            elif not stat.S_ISDIR(st.st_mode):
                entry['device'] = st.st_rdev
            entry['xattrs'] = {key: os.getxattr(path, key, follow_symlinks=False).hex()
                               for key in os.listxattr(path, follow_symlinks=False) if '.overlay.' not in key}
            found[rel] = entry
    found['(links)'] = sorted(sorted(group) for group in links.values() if len(group) > 1)
    return found


def same_trees(left, right, what):
    for path in sorted(set(left) | set(right)):
        check(left.get(path) == right.get(path), f'{what}: {path}:\n  {left.get(path)}\n  {right.get(path)}')


def layers(image):
    lines = sh(TOOL, 'layers', image).splitlines()
    return lines[0], lines[1:]


def mounted_tree(image, **options):
    """The image as a container would see it: overlayfs over its layers, in a mount namespace of its own."""
    option, paths = layers(image)
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as place:
        script = f'mount -t overlay -o lowerdir={":".join([*paths, empty])}{"," if option else ""}{option} o {place} && exec "$@"'
        code = 'import json, sys; sys.path.insert(0, sys.argv[1]); import rig; print(json.dumps(rig.tree(sys.argv[2], **json.loads(sys.argv[3]))))'
        text = sh('unshare', '-m', 'sh', '-c', script, 'sh', sys.executable, '-c', code, os.path.dirname(os.path.abspath(__file__)),
                  place, json.dumps(options))
    found = json.loads(text)
    for entry in found.values():
        if isinstance(entry, dict):
            for key in ('owner', 'content'):
                if key in entry:
                    entry[key] = tuple(entry[key])
    return found


# ---- images made by hand ----

def digest(data):
    return 'sha256:' + hashlib.sha256(data).hexdigest()


class Entry:
    """A member of a tar: Entry('a/b', tarfile.DIRTYPE, mode=0o700, ...); content as bytes."""

    def __init__(self, name, kind=tarfile.REGTYPE, content=b'', pax=None, **fields):
        self.info = tarfile.TarInfo(name)
        self.info.type, self.info.size, self.content = kind, len(content), content
        self.info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        self.info.pax_headers = pax or {}
        for key, value in fields.items():
            setattr(self.info, key, value)


def tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT) as t:
        for entry in entries:
            t.addfile(entry.info, io.BytesIO(entry.content))
    return out.getvalue()


def descriptor(media, data, **more):
    return {'mediaType': media, 'digest': digest(data), 'size': len(data), **more}


class Layout:
    """An OCI layout in a folder, from tars of layers. change(kind, document) may spoil the documents."""
    INDEX = 'application/vnd.oci.image.index.v1+json'
    MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
    CONFIG = 'application/vnd.oci.image.config.v1+json'
    LAYER = 'application/vnd.oci.image.layer.v1.tar'

    def __init__(self, path, change=None):
        self.path, self.change, self.entries = path, change or (lambda kind, document: document), []
        os.makedirs(os.path.join(path, 'blobs/sha256'))
        with open(os.path.join(path, 'oci-layout'), 'w', encoding='utf-8') as f:
            f.write('{"imageLayoutVersion": "1.0.0"}')
        self.index()

    def blob(self, data):
        with open(os.path.join(self.path, 'blobs/sha256', digest(data)[7:]), 'wb') as f:
            f.write(data)
        return data

    def blob_path(self, data):
        return os.path.join(self.path, 'blobs/sha256', digest(data)[7:])

    def document(self, kind, document):
        return self.blob(json.dumps(self.change(kind, document)).encode())

    def add(self, tars, tag='x', compress=True, platform=None, index_platform=None, config=None):
        platform = platform or PLATFORM
        self.tars, self.blobs = tars, [self.blob(gzip.compress(t, 1, mtime=0) if compress else t) for t in tars]
        self.config = self.document('config', {**platform, 'config': config or {}, 'created': '2020-01-02T03:04:05.5Z',
                                               'rootfs': {'type': 'layers', 'diff_ids': [digest(t) for t in tars]}})
        media = self.LAYER + ('+gzip' if compress else '')
        self.manifest = self.document('manifest', {
            'schemaVersion': 2, 'mediaType': self.MANIFEST, 'config': descriptor(self.CONFIG, self.config),
            'layers': [descriptor(media, b) for b in self.blobs]})
        more = {'annotations': {'org.opencontainers.image.ref.name': tag}} if tag else {}
        if index_platform:
            more['platform'] = index_platform
        self.entries.append(descriptor(self.MANIFEST, self.manifest, **more))
        self.index()
        return digest(self.config)

    def index(self):
        with open(os.path.join(self.path, 'index.json'), 'w', encoding='utf-8') as f:
            json.dump(self.change('index', {'schemaVersion': 2, 'manifests': self.entries}), f)


def fast_folder():
    """Where syncing costs nothing, if files there can have attributes of users; else None."""
    try:
        with tempfile.NamedTemporaryFile(dir='/dev/shm') as f:
            os.setxattr(f.name, 'user.test', b'1')
        return '/dev/shm'
    except OSError:
        return None


def main(cases, default=None):
    """Run the case named on the command line, with a state directory of its own, in a temporary folder."""
    name = sys.argv[1] if len(sys.argv) > 1 else default

    def case(folder):
        os.chmod(folder, 0o755)
        os.chdir(folder)
        cases[name]()
    return run_case(name, case, fast_folder())
