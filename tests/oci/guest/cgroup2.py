#!/usr/bin/env python3
"""caisson-oci on cgroup v2, which test machines mount seldom: inside a Caisson VM with a stock Debian kernel. An initrd with the
runtime, a static program and bundles goes behind the one of tools/guest-image; its first program is ./init.

cgroup2.py CASE ENGINE"""
import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', '..', 'boot'))
import vm  # noqa: E402
from vm import check  # noqa: E402

STEPS = ['limits', 'devices', 'update', 'pause', 'statistics', 'removal', 'oom']


def config(args, group, resources):
    capabilities = ['CAP_MKNOD']
    return {
        'ociVersion': '1.0.2',
        'process': {'user': {'uid': 0, 'gid': 0}, 'args': ['/payload', *args], 'env': ['PATH=/'], 'cwd': '/',
                    'capabilities': {kind: capabilities for kind in ('bounding', 'effective', 'permitted')}},
        'root': {'path': 'rootfs'},
        'mounts': [{'destination': '/proc', 'type': 'proc', 'source': 'proc'},
                   {'destination': '/dev', 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['nosuid', 'mode=755']}],
        'linux': {'namespaces': [{'type': kind} for kind in ('pid', 'mount', 'ipc', 'uts', 'cgroup')],
                  'cgroupsPath': '/test/' + group, 'resources': resources},
    }


BUNDLES = {
    'limits': config(['devices'], 'c1', {
        'memory': {'limit': 64 << 20, 'swap': 96 << 20, 'reservation': 16 << 20},
        'cpu': {'shares': 512, 'quota': 50000, 'period': 200000, 'cpus': '0'},
        'pids': {'limit': 17}, 'unified': {'memory.high': str(48 << 20)}}),
    'eat': config(['eat'], 'c2', {'memory': {'limit': 24 << 20, 'swap': 24 << 20}}),
    'bad': config(['devices'], 'c3', {'unified': {'nope.max': '1'}}),
}


class Archive:
    """A cpio archive of the kind that the kernel unpacks ("newc")."""

    def __init__(self):
        self.data = b''
        self.inode = 0
        self.folders = set()

    def add(self, path, mode, content=b''):
        parent = os.path.dirname(path)
        if parent and parent not in self.folders:
            self.folders.add(parent)
            self.add(parent, 0o40755)
        self.inode += 1
        name = path.encode() + b'\0'
        numbers = [self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
        header = b'070701' + b''.join(b'%08x' % number for number in numbers) + name
        for part in (header, content):
            self.data += part + bytes(-len(part) % 4)

    def close(self):
        self.add('TRAILER!!!', 0)
        return self.data


def make_initrd(base, path):
    with open(base, 'rb') as f:
        data = f.read()
    archive = Archive()
    for name, source in (('caisson-oci', os.path.join(vm.BUILD, 'caisson-oci')), ('oci-init', os.path.join(HERE, 'init'))):
        with open(source, 'rb') as f:
            archive.add(name, 0o100755, f.read())
    with open(os.path.join(vm.BUILD, 'tests/oci/guest/oci-guest-payload'), 'rb') as f:
        payload = f.read()
    for name, document in BUNDLES.items():
        archive.add(f'bundles/{name}/config.json', 0o100644, json.dumps(document).encode())
        archive.add(f'bundles/{name}/rootfs/payload', 0o100755, payload)
    with open(path, 'wb') as f:
        f.write(data + bytes(-len(data) % 4) + archive.close())


def case_cgroup2(engine):
    """Limits, devices by eBPF, update, freezer, statistics, OOM events and removal on the kernel's own cgroup2."""
    vm.need_engine(engine)
    kernel, base = vm.guest_kernel('linux-image-cloud-amd64')
    with tempfile.TemporaryDirectory(prefix='caisson-oci-guest-') as folder:
        initrd = os.path.join(folder, 'initrd')
        make_initrd(base, initrd)
        arguments = ['--kernel', kernel, '--initrd', initrd, '--engine', engine, '--cpus', '1', '--net', 'none', '--append',
                     'console=ttyS0 quiet panic=-1 rdinit=/oci-init']
        with vm.started(arguments) as guest:
            code = guest.wait()
            check('CAISSON-TEST cgroup2 PASS' in guest.output, 'the guest did not pass')
            for step in STEPS:
                check(f'CAISSON-STEP {step}' in guest.output, f'step {step} is missing')
            check(code == 0, f'exit code {code}')


if __name__ == '__main__':
    vm.main({'cgroup2': case_cgroup2})
