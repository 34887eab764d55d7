"""What the tests of disk images share: running our programs and QEMU's, and saying what went wrong. Python's standard
library only."""
import json
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('CAISSON_BUILD', os.path.join(ROOT, 'build'))
CAISSON = os.path.join(BUILD, 'caisson')
BLKIO = os.path.join(BUILD, 'tests/disk/blkio')
TIMEOUT = 120


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def fast_folder():
    """Memory, where there is enough of it: each of thousands of commands ends with a flush."""
    try:
        space = os.statvfs('/dev/shm')
        return '/dev/shm' if os.access('/dev/shm', os.W_OK) and space.f_bavail * space.f_frsize > 2 << 30 else None
    except OSError:
        return None


def run(*command, code=0, stdin='', env=None):
    """Run to the end; the exit code must be `code` (None: any). Returns the CompletedProcess, with text."""
    command = [str(word) for word in command]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT, check=False,
                          env={**os.environ, **(env or {})})
    if code is not None and done.returncode != code:
        raise Failure(f'{" ".join(command)}: exit code {done.returncode} instead of {code}: '
                      f'{done.stderr.strip()[-800:]} {done.stdout.strip()[-800:]}')
    return done


def caisson(*words, code=0, **more):
    return run(CAISSON, 'disk', *words, code=code, **more)


def caisson_json(*words, code=0):
    return json.loads(caisson(*words, '--json', code=code).stdout)


def qemu_img(*words, code=0):
    return run('qemu-img', *words, code=code)


def qemu_json(*words, code=0):
    return json.loads(qemu_img(*words, '--output=json', code=code).stdout)


def blkio(image, lines, *options, code=0):
    return run(BLKIO, *options, image, stdin=''.join(line + '\n' for line in lines), code=code)
