"""What the benchmarks say about a run beside its figures, and where they keep them (docs/bench.md)."""
import json
import os
import platform
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def tool_version(program):
    try:
        return subprocess.run([program, '--version'], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        return None


def host():
    with open('/proc/cpuinfo', encoding='utf-8') as f:
        model = re.search(r'model name\s*: (.*)', f.read())
    return {'cpu': model.group(1) if model else platform.machine(), 'cpus': os.cpu_count(), 'kernel': platform.release(),
            'load': os.getloadavg()[0]}


def commit():
    run = subprocess.run(['git', '-C', ROOT, 'describe', '--always', '--dirty'], capture_output=True, text=True, check=False)
    return run.stdout.strip() or None


def keep(result, suffix=''):
    """Write the figures to bench/results/<time><suffix>.json."""
    folder = os.path.join(ROOT, 'bench', 'results')
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, result['time'].replace(':', '').replace('+0000', 'Z') + suffix + '.json')
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(result, f, indent=1)
        f.write('\n')
    print(f'figures: {os.path.relpath(path, ROOT)}')
