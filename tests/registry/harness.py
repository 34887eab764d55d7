"""What the tests of registries and builds have in common: Debian's docker-registry on a free loopback port, images made by hand,
a proxy that fails as it is told, and caisson with a state of its own."""
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rig'))
import program
from program import (CAISSON, CONFLICT, FAILED, NOT_FOUND, PERMISSION, ROOT, TIMEOUT, USAGE, Failure, Skip, check, environment, need,
                     refused, run) # which the tests import from here

OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json'
OCI_INDEX = 'application/vnd.oci.image.index.v1+json'
DOCKER_V1 = 'application/vnd.docker.distribution.manifest.v1+prettyjws'


def output(*arguments, **how):
    """Progress and warnings may go to standard error."""
    return program.output(*arguments, warnings=True, **how)


def state():
    return os.environ['CAISSON_STATE_DIR']


def images():
    return json.loads(output('image', 'ls', '--json'))


def names():
    return sorted(name for image in images() for name in image['names'])


def tool(*command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
                          env=environment(), **options)
    check(done.returncode == 0, f'{command}: {done.returncode} {done.stderr}')
    return done.stdout


# ---- images made by hand ----

def digest(data):
    return 'sha256:' + hashlib.sha256(data).hexdigest()


def layer(files):
    """A tar+gzip of {path: bytes}; its bytes and its diff id."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode='w') as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), 1, mtime=0), digest(raw.getvalue())


def noise(size, seed):
    return random.Random(seed).randbytes(size)


class Image:
    """An image as documents and blobs, before anybody has it."""

    def __init__(self, layers, arch='amd64', media='application/vnd.oci.image.layer.v1.tar+gzip', extra=None):
        self.blobs = {}
        made = [layer(files) for files in layers]
        config = json.dumps({'architecture': arch, 'os': 'linux', 'config': {'Cmd': ['/hello'], **(extra or {})},
                             'rootfs': {'type': 'layers', 'diff_ids': [diff for _, diff in made]}}).encode()
        self.id = self.add(config)
        self.manifest = json.dumps({
            'schemaVersion': 2, 'mediaType': OCI_MANIFEST,
            'config': {'mediaType': 'application/vnd.oci.image.config.v1+json', 'digest': self.id, 'size': len(config)},
            'layers': [{'mediaType': media, 'digest': self.add(data), 'size': len(data)} for data, _ in made]}).encode()
        self.layers = [digest(data) for data, _ in made]
        self.digest = digest(self.manifest)

    def add(self, data):
        self.blobs[digest(data)] = data
        return digest(data)

    def push(self, port, name, tag):
        """Into a registry, by its API."""
        for of, data in self.blobs.items():
            upload(port, name, of, data)
        put_manifest(port, name, tag, self.manifest, OCI_MANIFEST)
        return self


def request(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


def upload(port, name, of, data):
    answer, _ = request(port, 'POST', f'/v2/{name}/blobs/uploads/')
    check(answer.status == 202, f'registry: POST {answer.status}')
    place = urllib.parse.urlsplit(answer.getheader('Location'))
    path = f'{place.path}?{place.query}{"&" if place.query else ""}digest={urllib.parse.quote(of)}'
    answer, text = request(port, 'PUT', path, data, {'Content-Type': 'application/octet-stream'})
    check(answer.status == 201, f'registry: PUT {answer.status} {text}')


def put_manifest(port, name, tag, text, media):
    answer, said = request(port, 'PUT', f'/v2/{name}/manifests/{tag}', text, {'Content-Type': media})
    check(answer.status == 201, f'registry: manifest {answer.status} {said}')


# ---- servers ----

class Registry:
    """Debian's docker-registry."""

    def __init__(self, folder, more=''):
        for _ in range(20):
            with socket.socket() as s:
                s.bind(('127.0.0.1', 0))
                self.port = s.getsockname()[1]
            path = os.path.join(folder, f'registry-{self.port}')
            os.mkdir(path)
            with open(path + '.yml', 'w', encoding='ascii') as f:
                f.write(f'version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n'
                        f'storage: {{filesystem: {{rootdirectory: {path}}}, delete: {{enabled: true}}}}\n'
                        f'http: {{addr: "127.0.0.1:{self.port}"}}\n{more}')
            with open(path + '.log', 'wb') as log:
                self.process = subprocess.Popen(['docker-registry', 'serve', path + '.yml'], stdin=subprocess.DEVNULL,
                                                stdout=log, stderr=log, env=environment())
            if self.wait():
                return
            self.stop()
        raise Failure('docker-registry does not start')

    def wait(self):
        for _ in range(600):
            if self.process.poll() is not None:
                return False
            try:
                if request(self.port, 'GET', '/v2/')[0].status in (200, 401):
                    return True
            except OSError:
                time.sleep(0.05)
        return False

    def stop(self):
        self.process.kill()
        self.process.wait()


class Proxy:
    """A server before a registry. `rule(handler, path)` answers itself and returns True, or lets the request pass."""

    def __init__(self, port, rule=None, address='127.0.0.1'):
        self.rule = rule
        self.seen = []  # (method, path, headers) of each request
        self.lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *_):
                pass

            def answer(self, status, body=b'', headers=None):
                self.send_response(status)
                for key, value in (headers or {}).items():
                    self.send_header(key, value)
                if 'Content-Length' not in (headers or {}):
                    self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                if self.command != 'HEAD':
                    self.wfile.write(body)

            def drop(self):
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

            def upstream(self):
                body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ('authorization', 'connection')}
                return request(port, self.command, self.path, body or None, headers)

            def serve(self):
                with proxy.lock:
                    proxy.seen.append((self.command, self.path, dict(self.headers)))
                try:
                    if proxy.rule and proxy.rule(self, self.path):
                        return
                    got, data = self.upstream()
                    headers = {k: v for k, v in got.getheaders() if k.lower() not in ('connection', 'transfer-encoding')}
                    self.answer(got.status, data, headers)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = serve

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # clients that go away are what is tested
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def of(self, method, part):
        with self.lock:
            return [headers for m, path, headers in self.seen if m == method and part in path]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


# ---- cases ----

def main(cases):
    """Run the case that the command line names, with a state of its own."""
    name = sys.argv[1]

    def case(folder):
        os.environ['XDG_RUNTIME_DIR'] = os.path.join(folder, 'xdg')
        os.environ['HOME'] = os.path.join(folder, 'home')
        os.mkdir(os.environ['XDG_RUNTIME_DIR'], 0o700)
        os.mkdir(os.environ['HOME'])
        stops = []
        try:
            cases[name](folder, stops)
        finally:
            for stop in reversed(stops):
                stop()
    return program.run_case(name, case)
