"""What the tests of instances share: running caisson in a place of its own, instances made from documents (make.c), a
machine that is up at once as payload (machine.c), and a look at what is left in the end."""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('CAISSON_BUILD', os.path.join(ROOT, 'build'))
CAISSON = os.path.join(BUILD, 'caisson')
MAKE = os.path.join(BUILD, 'tests/instance/inst-make')
MACHINE = os.path.join(BUILD, 'tests/instance/machine.elf')
TIMEOUT = 300
FAILED, USAGE, NOT_FOUND, CONFLICT, TIMED_OUT = 1, 2, 3, 4, 6
ENGINE = 'interp'  # the same machine on each; this one needs no warming up


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def run(*arguments, program=(), **options):
    return subprocess.run([*program, CAISSON, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False,
                          **{'stdin': subprocess.DEVNULL, **options})


def output(*arguments, **options):
    """Standard output of a command that must succeed, and say nothing on standard error."""
    done = run(*arguments, **options)
    check(done.returncode == 0 and not done.stderr, f'{arguments}: {done.returncode} {done.stderr!r}')
    return done.stdout


def refused(arguments, code, *words):
    """The command fails with that code and one line on standard error that has all the words."""
    done = run(*arguments)
    check(done.returncode == code, f'{arguments}: {done.returncode} instead of {code}: {done.stderr!r}')
    check(done.stderr.startswith('caisson: ') and done.stderr.count('\n') == 1, f'{arguments}: {done.stderr!r}')
    for word in words:
        check(re.search(word, done.stderr), f'{arguments}: no {word!r} in {done.stderr!r}')


def document(append='', **parts):
    return {'kind': 'vm', 'vm': {'kernel': MACHINE, 'append': append, 'memory': 16 << 20, 'nets': [], 'engine': ENGINE,
                                 'debug_exit': True}, **parts}


def make(name, append='', **parts):
    """An instance of the small machine. Its id."""
    done = subprocess.run([MAKE, name], input=json.dumps(document(append, **parts)), capture_output=True, text=True,
                          timeout=TIMEOUT, check=False)
    check(done.returncode == 0, f'make {name}: {done.stderr!r}')
    return done.stdout.strip()


def listed():
    return {row['name']: row for row in json.loads(output('ls', '--json'))}


def inspect(name):
    return json.loads(output('inspect', '--json', name))[0]


def events(name=None):
    """[(action, attributes)] of one, or [(name, action)] of all."""
    rows = [json.loads(line) for line in output('events', '--json').splitlines()]
    if name:
        return [(row['action'], row['attributes']) for row in rows if row['name'] == name]
    return [(row['name'], row['action']) for row in rows]


def until(condition, text):
    end = time.monotonic() + TIMEOUT
    while not (value := condition()):
        check(time.monotonic() < end, f'never: {text}')
        time.sleep(0.05)
    return value


def until_log(name, word):
    return until(lambda: (text := output('logs', name)) and word in text and text, f'{word!r} in the log of {name}')


def processes():
    """{pid: command line} of all processes that belong to instances of this test."""
    found = {}
    mark = f'CAISSON_STATE_DIR={os.environ["CAISSON_STATE_DIR"]}'.encode()
    for entry in os.listdir('/proc'):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f'/proc/{entry}/environ', 'rb') as f:
                if mark not in f.read().split(b'\0'):
                    continue
            with open(f'/proc/{entry}/cmdline', 'rb') as f:
                words = f.read().split(b'\0')
            if os.path.basename(words[0].decode()) in ('caisson-shim', 'caisson-vmm'):
                found[int(entry)] = b' '.join(words).decode()
    return found


def files(folder):
    return sorted(os.path.relpath(os.path.join(path, name), folder) for path, _, names in os.walk(folder) for name in names)


def check_clean():
    """Nothing runs, and nothing is in the runtime directory."""
    until(lambda: not processes(), f'the end of {processes()}')
    left = [name for name in files(os.environ['CAISSON_RUNTIME_DIR']) if not name.startswith(('net/', 'job/'))]
    check(not left, f'left in the runtime directory: {left}')


def cleanup():
    for pid in processes():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def main(cases):
    """One case by its name; see meson.build."""
    with tempfile.TemporaryDirectory(prefix='ci-') as folder:
        os.environ['CAISSON_STATE_DIR'] = os.path.join(folder, 's')
        os.environ['CAISSON_RUNTIME_DIR'] = os.path.join(folder, 'r')
        try:
            cases['case_' + sys.argv[1]]()
        except Failure as failure:
            print(f'FAILED: {failure}')
            sys.exit(1)
        finally:
            cleanup()
