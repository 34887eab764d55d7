#!/usr/bin/env python3
"""An image of a VM as an OCI layout, from a kernel, an initrd and a disk: vmimage.py FOLDER [--disk FILE] [--append TEXT]

The kernel and initrd are those that tools/guest-image made; without --disk the disk is a small empty one, whose guest
runs a test of the initrd. `caisson image import FOLDER NAME` takes it."""
import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('CAISSON_BUILD', os.path.join(ROOT, 'build'))
TYPE = 'application/vnd.caisson.vm'


def guest_cache():
    return subprocess.run([os.path.join(ROOT, 'tools/guest-image'), '--path'], capture_output=True, text=True,
                          check=True).stdout.strip()


class Layout:
    """Blobs of an image, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(os.path.join(folder, 'blobs/sha256'), exist_ok=True)

    def put_file(self, path, media):
        digest = hashlib.sha256()
        with open(path, 'rb') as f:
            while block := f.read(1 << 20):
                digest.update(block)
        name = os.path.join(self.folder, 'blobs/sha256', digest.hexdigest())
        if not os.path.exists(name):
            shutil.copyfile(path, name)
        return {'mediaType': media, 'digest': f'sha256:{digest.hexdigest()}', 'size': os.path.getsize(path)}

    def put(self, value, media):
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.folder, 'blobs/sha256', digest), 'wb') as f:
            f.write(data)
        return {'mediaType': media, 'digest': f'sha256:{digest}', 'size': len(data)}

    def finish(self, manifest):
        descriptor = self.put(manifest, 'application/vnd.oci.image.manifest.v1+json')
        index = {'schemaVersion': 2, 'mediaType': 'application/vnd.oci.image.index.v1+json', 'manifests': [descriptor]}
        for name, value in (('index.json', index), ('oci-layout', {'imageLayoutVersion': '1.0.0'})):
            with open(os.path.join(self.folder, name), 'w', encoding='utf-8') as f:
                json.dump(value, f)


def make(folder, kernel, initrd, disk, config):
    """disk: qcow2. config: kernel command line (append), memory in bytes, cpus."""
    layout = Layout(folder)
    layers = [layout.put_file(disk, f'{TYPE}.disk.v1+qcow2'), layout.put_file(kernel, f'{TYPE}.kernel.v1')]
    if initrd:
        layers.append(layout.put_file(initrd, f'{TYPE}.initrd.v1'))
    layout.finish({'schemaVersion': 2, 'mediaType': 'application/vnd.oci.image.manifest.v1+json',
                   'config': layout.put({'architecture': 'amd64', 'os': 'linux', **config}, f'{TYPE}.v1+json'),
                   'layers': layers})


def make_guest(folder, disk=None, append='', size='64M'):
    guest = os.path.join(guest_cache(), 'linux-image-cloud-amd64')
    qcow2 = folder + '.qcow2'
    caisson = os.path.join(BUILD, 'caisson')
    command = [caisson, 'disk', 'convert', '--compress', disk, qcow2] if disk else [caisson, 'disk', 'create', qcow2, size]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    make(folder, os.path.join(guest, 'vmlinuz'), os.path.join(guest, 'initrd.img'), qcow2,
         {'append': append or 'console=ttyS0 quiet root=/dev/vda', 'memory': 256 << 20, 'cpus': 1})
    os.unlink(qcow2)


def agent_initrd(folder):
    """The initrd of tools/guest-image with the agent in it."""
    tree = os.path.join(folder, 'tree')
    os.makedirs(os.path.join(tree, 'bin'))
    shutil.copy(os.path.join(BUILD, 'caisson-agent'), os.path.join(tree, 'bin'))
    more = subprocess.run('find . | cpio --quiet -o -H newc -R 0:0', shell=True, cwd=tree, capture_output=True, check=True).stdout
    path = os.path.join(folder, 'initrd')
    with open(os.path.join(guest_cache(), 'linux-image-cloud-amd64/initrd.img'), 'rb') as first, open(path, 'wb') as out:
        data = first.read()
        out.write(data + b'\0' * (-len(data) % 4) + more)
    return path


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('--disk')
    parser.add_argument('--append', default='')
    options = parser.parse_args()
    make_guest(options.folder, options.disk, options.append)
    sys.exit(0)
