#!/usr/bin/env python3
"""Ceph images: a cluster of one monitor and one OSD that keeps its objects in memory, on loopback, in a folder of its own.

tests/ceph/ceph.py RBD_IO    RBD_IO: the program of rbd_io.c. Skipped (77) where Debian's ceph-mon, ceph-osd and ceph-common are not
installed; they are big, so `make check` does not install them.
"""
import filecmp
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid

CONF = '''[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{port}/0]
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
mon_data = {folder}/mon
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 1G
ms_bind_msgr1 = false
'''


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.conf = os.path.join(folder, 'ceph.conf')
        self.fsid = str(uuid.uuid4())
        self.daemons = []
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.port = s.getsockname()[1]

    def run(self, *command):
        return subprocess.run([command[0], '-c', self.conf, *command[1:]], check=True, timeout=90, cwd=self.folder,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout

    def daemon(self, *command):
        with open(os.path.join(self.folder, command[0] + '.out'), 'wb') as out:
            self.daemons.append(subprocess.Popen([command[0], '-c', self.conf, *command[1:], '-f'], stdout=out,
                                                 stderr=subprocess.STDOUT, cwd=self.folder))

    def start(self):
        for name in ('mon', 'osd'):
            os.mkdir(os.path.join(self.folder, name))
        with open(self.conf, 'w', encoding='utf-8') as f:
            f.write(CONF.format(fsid=self.fsid, port=self.port, folder=self.folder))
        quiet = {'check': True, 'cwd': self.folder, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
        subprocess.run(['ceph-authtool', '--create-keyring', 'key', '--gen-key', '-n', 'mon.', '--cap', 'mon', 'allow *'], **quiet)
        subprocess.run(['monmaptool', '--create', '--addv', 'a', f'[v2:127.0.0.1:{self.port}/0]', '--fsid', self.fsid, 'map'],
                       **quiet)
        self.run('ceph-mon', '--mkfs', '-i', 'a', '--monmap', 'map', '--keyring', 'key')
        self.daemon('ceph-mon', '-i', 'a')
        self.run('ceph', 'osd', 'new', str(uuid.uuid4()))
        osd = json.loads(self.run('ceph', 'osd', 'dump', '-f', 'json'))['osds'][0]['uuid']
        self.run('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', osd)
        self.daemon('ceph-osd', '-i', '0')
        self.run('ceph', 'osd', 'pool', 'create', 'rbd', '8')

    def stop(self):
        for daemon in self.daemons:
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()


def test(cluster, program):
    name = f'rbd:rbd/disk:conf={cluster.conf}'
    copy, export = (os.path.join(cluster.folder, n) for n in ('copy', 'export'))
    cluster.run('rbd', 'create', '--size', '64M', 'disk')
    subprocess.run([program, name, copy], check=True, timeout=300)
    cluster.run('rbd', 'resize', '--allow-shrink', '--size', '64M', 'disk')
    cluster.run('rbd', 'export', 'disk', export)
    if not filecmp.cmp(copy, export, shallow=False):
        sys.exit('the image differs from what was written')
    missing = subprocess.run([program, name.replace('/disk', '/none'), copy], check=False, timeout=60, stderr=subprocess.PIPE)
    if missing.returncode != 1 or b'cannot be opened in its Ceph pool' not in missing.stderr:
        sys.exit(f'an image that is not there: {missing}')


def main():
    for needed in ('ceph-mon', 'ceph-osd', 'ceph', 'rbd'):
        if not shutil.which(needed):
            print('Ceph is not installed (ceph-mon, ceph-osd, ceph-common)')
            sys.exit(77)
    with tempfile.TemporaryDirectory(prefix='caisson-ceph-') as folder:
        cluster = Cluster(folder)
        try:
            cluster.start()
            test(cluster, sys.argv[1])
        finally:
            cluster.stop()


if __name__ == '__main__':
    main()
