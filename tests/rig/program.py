"""What tests that start our programs share: where they are, a state of their own, what must hold, and waiting for it.

    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rig'))
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('CAISSON_BUILD', os.path.join(ROOT, 'build'))
CAISSON = os.path.join(BUILD, 'caisson')
FAILED, USAGE, NOT_FOUND, CONFLICT, TIMEOUT, PERMISSION = 1, 2, 3, 4, 6, 7 # proto/exit_code.h
SKIP = 77


class Failure(AssertionError):
    """What does not hold."""


class Skip(Exception):
    """What is missing here for a test."""


# ---- what must hold ----

def check(condition, text):
    if not condition:
        raise Failure(text)


def expect(what, found, wanted):
    """wanted: a regular expression for a text, else the value itself."""
    ok = bool(re.search(wanted, found)) if isinstance(wanted, str) else found == wanted
    check(ok, f'{what}: {str(found)[:1000]!r} instead of {wanted!r}')
    print(f'ok: {what}', flush=True)


def until(what, probe, seconds=60):
    """Wait for something that has no event to wait for; what it was."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = probe()
        if found:
            return found
        time.sleep(0.02)
    raise Failure(f'{what}: not within {seconds} s')


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip(f'{program} is not installed: tools/deps check')


# ---- caisson ----

def environment(**more):
    """Ours, without proxies and credentials of whoever runs the tests."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith('_proxy') and k != 'REGISTRY_AUTH_FILE'}
    return {**env, **more}


def run(*arguments, program=(), env=None, stdin='', timeout=120):
    """stdin: a text, or a file. program: what starts it as somebody else, or somewhere else."""
    how = {'input': stdin} if isinstance(stdin, str) else {'stdin': stdin}
    return subprocess.run([*program, CAISSON, *arguments], capture_output=True, text=True, timeout=timeout, check=False,
                          env=environment(**(env or {})), **how)


def output(*arguments, warnings=False, **how):
    """Standard output of a command that must succeed and, without warnings, say nothing on standard error."""
    done = run(*arguments, **how)
    check(done.returncode == 0 and (warnings or not done.stderr), f'{arguments}: {done.returncode} {done.stderr!r}')
    return done.stdout


def refused(arguments, code, *words, **how):
    """Fails with that code, one line on standard error that has all the words (or matches them), and no output."""
    done = run(*arguments, **how)
    check(done.returncode == code, f'{arguments}: {done.returncode} instead of {code}: {done.stderr!r}')
    check(done.stderr.startswith('caisson: ') and done.stderr.count('\n') == 1, f'{arguments}: {done.stderr!r}')
    check(not done.stdout, f'{arguments}: output {done.stdout!r}')
    for word in words:
        check(word in done.stderr or re.search(word, done.stderr), f'{arguments}: no {word!r} in {done.stderr!r}')


# ---- cases ----

def own_state(folder):
    """Programs keep their state below folder from here on."""
    os.environ['CAISSON_STATE_DIR'] = os.path.join(folder, 'state')
    os.environ['CAISSON_RUNTIME_DIR'] = os.path.join(folder, 'run')


def run_case(name, case, place=None):
    """case(folder) with a temporary folder (in place) for all that it makes, and a state there. Returns the exit status."""
    with tempfile.TemporaryDirectory(prefix='caisson-test-', dir=place) as folder:
        own_state(folder)
        try:
            case(folder)
        except Skip as skip:
            print(f'skipped {name}: {skip}')
            return SKIP
        except AssertionError as failure:
            sys.stdout.flush()
            print(f'FAILED {name}: {failure}', file=sys.stderr)
            return 1
    print(f'ok {name}')
    return 0
