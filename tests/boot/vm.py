"""What the boot tests share: starting caisson and reading its console, guests from tools/guest-image, a web server on the
host's loopback, disks. Python's standard library only."""
import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('CAISSON_BUILD', os.path.join(ROOT, 'build'))
CAISSON = os.path.join(BUILD, 'caisson')
TIMEOUT = float(os.environ.get('CAISSON_BOOT_TIMEOUT', '300'))
SKIP = 77


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def skip(reason):
    print(reason)
    sys.exit(SKIP)


def guest_folder():
    folder = subprocess.run([os.path.join(ROOT, 'tools/guest-image'), '--path'], capture_output=True, text=True,
                            check=True).stdout.strip()
    return folder


def guest_kernel(package):
    """(kernel, initrd) of a Debian kernel package."""
    folder = os.path.join(guest_folder(), package)
    if not os.path.exists(os.path.join(folder, 'initrd.img')):
        subprocess.run([os.path.join(ROOT, 'tools/guest-image'), package], check=True)
    return os.path.join(folder, 'vmlinuz'), os.path.join(folder, 'initrd.img')


def guest_disk():
    path = os.path.join(guest_folder(), 'disk', 'root.ext4')
    if not os.path.exists(path):
        subprocess.run([os.path.join(ROOT, 'tools/guest-image'), 'disk'], check=True)
    return path


def doctor():
    run = subprocess.run([CAISSON, 'doctor', '--json'], capture_output=True, text=True, timeout=60, check=False)
    check(run.returncode == 0, f'caisson doctor ended with {run.returncode}: {run.stderr}')
    return {finding['name']: finding for finding in json.loads(run.stdout)}


def need_engine(engine):
    """End the test as skipped where this machine cannot run that engine."""
    if engine == 'kvm':
        finding = doctor().get('engine kvm', {'status': 'no', 'detail': 'caisson doctor does not mention it'})
        if finding['status'] != 'ok':
            skip(f'KVM cannot run guests here: {finding["detail"]}')


def make_disk(path, size='64M', label='test'):
    subprocess.run(['/sbin/mke2fs', '-q', '-t', 'ext4', '-L', label, path, size], check=True, stdout=subprocess.DEVNULL)
    return path


@contextlib.contextmanager
def workplace():
    """A temporary folder; also the runtime and state directory, which must be empty of ours at the end."""
    with tempfile.TemporaryDirectory(prefix='caisson-boot-') as folder:
        runtime = os.path.join(folder, 'runtime')
        os.mkdir(runtime, 0o700)
        os.environ['XDG_RUNTIME_DIR'] = runtime
        os.environ['XDG_STATE_HOME'] = os.path.join(folder, 'state')
        yield folder
        left = [os.path.join(base, name) for base, _, names in os.walk(runtime) for name in names]
        check(not left, f'left behind: {left}')


@contextlib.contextmanager
def web_server(content, address='127.0.0.1'):
    """Serve content on an address of the host's, the loopback at first; yields (port, sha256, list of requested paths)."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], hashlib.sha256(content).hexdigest(), requests
    finally:
        server.shutdown()


@contextlib.contextmanager
def sink():
    """Accept connections on all addresses of the host and take what comes; yields (port, list of the sums)."""
    sums = []
    listener = socket.create_server(('', 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            digest = hashlib.sha256()
            with connection:
                while data := connection.recv(1 << 20):
                    digest.update(data)
                sums.append(digest.hexdigest())

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], sums
    finally:
        listener.close()


class Vm:
    """A running `caisson vm run`. Its output is collected; wait_for looks for a pattern in it."""

    def __init__(self, arguments, terminal=False, program=None):
        self.arguments = arguments
        self.output = ''
        self.lock = threading.Condition()
        self.master = None
        command = [*(program or [CAISSON, 'vm', 'run']), *arguments]
        self.began = time.monotonic()
        self.times = []
        if terminal:
            self.master, slave = pty.openpty()
            self.slave = slave
            self.attributes = termios.tcgetattr(slave)
            self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
            reader = self.master
        else:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT)
            reader = self.process.stdout.fileno()
        self.thread = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self.thread.start()

    def _read(self, fd):
        while True:
            if self.master is not None and not select.select([fd], [], [], 0.2)[0]:
                if self.process.poll() is not None:
                    return
                continue
            try:
                data = os.read(fd, 65536)
            except OSError:
                data = b''
            if not data:
                return
            with self.lock:
                self.times.append((len(self.output), time.monotonic() - self.began))
                self.output += data.decode('utf-8', 'replace')
                self.lock.notify_all()

    def time_of(self, pattern):
        """Seconds from the start until the text was printed (by chunks as they arrived), None if it was not."""
        match = re.search(pattern, self.output)
        if not match:
            return None
        return [when for at, when in self.times if at <= match.start()][-1]

    def wait_for(self, pattern, timeout=None, start=0):
        """Wait until the output has the pattern behind offset start; returns the match."""
        deadline = time.monotonic() + (timeout or TIMEOUT)
        with self.lock:
            while True:
                match = re.compile(pattern).search(self.output, start)
                if match:
                    return match
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self.thread.is_alive()):
                    raise Failure(f'no {pattern!r} in the output')
                self.lock.wait(min(left, 0.5))

    def type(self, text):
        data = text.encode()
        if self.master is not None:
            os.write(self.master, data)
        else:
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def wait(self, timeout=None):
        """The exit code."""
        try:
            code = self.process.wait(timeout or TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Failure('it did not end in time') from None
        self.thread.join(5)
        return code

    def vmm_pid(self):
        """The process that runs the guest: the CLI's only child."""
        with open(f'/proc/{self.process.pid}/task/{self.process.pid}/children', encoding='ascii') as f:
            children = [int(word) for word in f.read().split()]
        check(len(children) == 1, f'children of the CLI: {children}')
        return children[0]

    def terminal_restored(self):
        return termios.tcgetattr(self.slave) == self.attributes

    def close(self):
        if self.process.poll() is None:
            with contextlib.suppress(Exception):
                os.kill(self.vmm_pid(), signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self.thread.join(5)
        if self.master is not None:
            os.close(self.master)
            os.close(self.slave)
        elif self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


@contextlib.contextmanager
def started(arguments, **kinds):
    """A Vm that is gone at the end; on failure its output is printed."""
    vm = Vm(arguments, **kinds)
    try:
        yield vm
    except BaseException:
        print('---- ' + ' '.join([CAISSON, 'vm', 'run', *arguments]))
        print(vm.output)
        print('----')
        raise
    finally:
        vm.close()


def boot(package, test, words='', options=(), engine='interp', cpus=1):
    """Arguments of `vm run` for a guest test of tools/guest/init."""
    kernel, initrd = guest_kernel(package)
    return ['--kernel', kernel, '--initrd', initrd, '--engine', engine, '--cpus', str(cpus), '--append',
            f'console=ttyS0 quiet panic=-1 caisson.test={test} {words}'.strip(), *options]


def run_test(package, test, words='', options=(), engine='interp', cpus=1):
    """Boot, wait for the end, demand PASS and exit code 0; returns the output."""
    with started(boot(package, test, words, options, engine, cpus)) as vm:
        code = vm.wait()
        result = re.search(rf'CAISSON-TEST {test} (PASS|FAIL.*)', vm.output)
        check(result, 'the guest said nothing of its test')
        check(result.group(1) == 'PASS', result.group(0))
        check(code == 0, f'exit code {code}')
        return vm.output


def main(cases):
    """Run one case by name: CASE [ARGUMENT...]."""
    name, *arguments = sys.argv[1:]
    if not os.access(CAISSON, os.X_OK):
        skip(f'{CAISSON} is not built')
    try:
        with workplace():
            cases[name](*arguments)
    except Failure as failure:
        print(f'FAILED: {failure}')
        sys.exit(1)
