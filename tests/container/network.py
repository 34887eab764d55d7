#!/usr/bin/env python3
"""Containers on networks: addresses, names, published ports: network.py [CASE...]"""
import json
import os
import re
import signal
import socket

from common import Caisson, expect, main, nothing_left, until

c = Caisson()
SERVE = ['sh', '-c', 'echo served > /tmp/index.html; httpd -f -p 80 -h /tmp']


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def fetch(port):
    try:
        with socket.create_connection(('127.0.0.1', port), timeout=5) as s:
            s.sendall(b'GET / HTTP/1.0\r\n\r\n')
            data = b''
            while piece := s.recv(4096):
                data += piece
            return data.decode()
    except OSError as e:
        return type(e).__name__


def reach():
    port, other = free_port(), free_port()
    i = c.start('a', '-p', f'{port}:80', '-p', f'127.0.0.1:{other}:80/tcp', 'img', *SERVE, network='default')
    until('the published port', lambda: 'served' in fetch(port))
    until('the other one', lambda: 'served' in fetch(other))
    expect('port', sorted(c('port', 'a').splitlines()), sorted([f'80/tcp -> 0.0.0.0:{port}', f'80/tcp -> 127.0.0.1:{other}']))
    expect('names resolve', c('run', '--rm', 'img', 'wget', '-qO-', 'http://a/'), 'served\n')
    address = re.search(r'inet (10\.188\.0\.\d+)/24', c('exec', 'a', 'ip', '-4', 'addr', 'show', 'eth0'))[1]
    expect('addresses', c('run', '--rm', 'img', 'wget', '-qO-', f'http://{address}/'), 'served\n')
    expect('hosts', c('exec', 'a', 'cat', '/etc/hosts'), re.compile(f'{address}\t{i[:12]} a\n'))
    b = c('run', '-d', '--name', 'b', '-p', f'{port}:80', 'img', *SERVE, status=125, errors=True)
    expect('a port that is taken', (b.count('\n'), f'b: -p {port}:80' in b), (1, True))
    expect('the first one is not harmed', 'served' in fetch(port), True)
    c('restart', 'a')
    until('after a restart', lambda: 'served' in fetch(port))
    expect('the address stays', c('exec', 'a', 'ip', '-4', 'addr', 'show', 'eth0'), re.compile(address))
    c('rm', '-f', 'a', 'b')
    expect('the port is closed', fetch(port), 'ConnectionRefusedError')
    nothing_left('network', c, [i])


def modes():
    c('network', 'create', 'net1', '--mode', 'isolated')
    c.start('x', 'img', *SERVE, network='net1')
    expect('a network of its own', c('run', '--rm', '--network', 'net1', 'img', 'sh', '-c', 'until wget -qO- http://x/; do sleep 0.1; done'), 'served\n')
    ports = [p['name'] for p in json.loads(c('network', 'inspect', '--json', 'net1'))[0]['ports']]
    expect('its port on the switch', c.inspect('x')['id'][:12] + '.0' in ports, True)
    expect('who is on it', 'in use by x ' in c('network', 'rm', 'net1', status=4, errors=True), True)
    c('rm', '-f', 'x')
    c('network', 'rm', 'net1')
    expect('none', c.run('img', 'ip', '-o', 'addr').count('inet 127.0.0.1'), 1)
    expect('host', c('run', '--rm', '--network', 'host', 'img', 'ls', '/sys/class/net').split() != ['lo'], True)
    c('run', '--rm', '--network', 'host', '-p', '80:80', 'img', 'true', status=125)


def gone():
    """The port on the switch goes with a supervisor that is killed, and a new start takes its place."""
    port = free_port()
    i = c.start('k', '-p', f'{port}:80', 'img', *SERVE, network='default')
    until('up', lambda: 'served' in fetch(port))
    os.kill(c.inspect('k')['supervisor_pid'], signal.SIGKILL)
    until('repaired', lambda: c.inspect('k')['state'] == 'exited')
    c('start', 'k')
    until('up again', lambda: 'served' in fetch(port))
    c('rm', '-f', 'k')
    nothing_left('killed', c, [i])


main((reach, modes, gone))
