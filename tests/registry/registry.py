#!/usr/bin/env python3
"""`caisson image pull|push|login` against Debian's docker-registry and a proxy that fails: registry.py CASE (see meson.build)."""
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import harness
from harness import (CAISSON, CONFLICT, DOCKER_V1, FAILED, NOT_FOUND, OCI_INDEX, OCI_MANIFEST, PERMISSION, TIMEOUT, USAGE, Image,
                     Proxy, Registry, Skip, check, digest, environment, images, names, need, noise, output, put_manifest, refused,
                     request, run, state, tool)


def start(folder, stops, rule=None):
    need('docker-registry')
    registry = Registry(folder)
    stops.append(registry.stop)
    proxy = Proxy(registry.port, rule)
    stops.append(proxy.stop)
    return registry, proxy


def nothing_half(keep_partial=True):
    """No image, no blob outside the folder of partial ones."""
    check(not images(), f'images: {names()}')
    blobs = os.path.join(state(), 'images', 'blobs', 'sha256')
    check(not os.path.exists(blobs) or not os.listdir(blobs), 'blobs of an image that did not come whole')
    if not keep_partial:
        check(not partial(), f'partial blobs: {partial()}')


def partial():
    path = os.path.join(state(), 'images', 'partial')
    return {name: os.path.getsize(os.path.join(path, name)) for name in os.listdir(path)} if os.path.exists(path) else {}


def case_pull(folder, stops):
    """Images by tag, digest and platform; policies; what other tools pushed; names."""
    need('skopeo')
    registry, proxy = start(folder, stops)
    at = f'127.0.0.1:{proxy.port}'
    one = Image([{'a': b'1'}, {'b': noise(300000, 1)}]).push(registry.port, 'x/one', '1')
    got = output('image', 'pull', f'{at}/x/one:1')
    check(got.strip() == one.id, f'pull printed {got!r} instead of {one.id}')
    check(names() == [f'{at}/x/one:1'], f'{names()}')
    proxy.seen.clear()
    done = run('image', 'pull', f'{at}/x/one:1')
    check('up to date' in done.stderr and not proxy.of('GET', '/blobs/'), f'pulled twice: {done.stderr}')
    blob = os.path.join(state(), 'images', 'blobs', 'sha256', one.layers[1].split(':')[1])
    with open(blob, 'r+b') as f:
        f.seek(1000)
        f.write(b'damage')
    output('image', 'pull', f'{at}/x/one:1')
    with open(blob, 'rb') as f:
        check(digest(f.read()) == one.layers[1], 'pulled again, and still damaged')
    proxy.seen.clear()
    output('image', 'pull', '--policy', 'missing', f'{at}/x/one:1')
    check(not proxy.seen, 'policy missing asked the registry')
    refused(['image', 'pull', '--policy', 'never', f'{at}/x/other'], NOT_FOUND, 'never')
    refused(['image', 'pull', '--policy', 'x', f'{at}/x/one'], USAGE, 'missing')
    two = Image([{'a': b'2'}]).push(registry.port, 'x/one', '1')
    output('image', 'pull', '--policy', 'missing', f'{at}/x/one:1')
    check(images()[0]['id'] == one.id, 'policy missing pulled')
    proxy.rule = blob_rule('', lambda handler: handler.answer(404, b'', {}) or True)
    kept = json.loads(output('image', 'pull', '--json', '--policy', 'newer', f'{at}/x/one:1'))[0]
    check((kept['id'], kept['digest'], kept['pulled']) == (one.id, one.digest, False), f'newer, which did not come: {kept}')
    proxy.rule = None
    check(json.loads(output('image', 'pull', '--json', '--policy', 'newer', f'{at}/x/one:1'))[0]['id'] == two.id, 'newer')
    by_digest = output('image', 'pull', f'{at}/x/one@{one.digest}').strip()
    check(by_digest == one.id, 'by digest')
    refused(['image', 'pull', f'{at}/x/one:none'], NOT_FOUND, 'manifest unknown')
    refused(['image', 'pull', f'{at}/x/One'], USAGE, 'small letters')
    refused(['image', 'pull', f'{at}/x/one@sha256:12'], USAGE, 'digest')
    # an index, of which this machine's image is taken
    arm = Image([{'a': b'arm'}], 'arm64').push(registry.port, 'x/many', 'arm')
    here = Image([{'a': b'here'}]).push(registry.port, 'x/many', 'here')
    index = json.dumps({'schemaVersion': 2, 'mediaType': OCI_INDEX, 'manifests': [
        {'mediaType': OCI_MANIFEST, 'digest': i.digest, 'size': len(i.manifest),
         'platform': {'os': 'linux', 'architecture': arch}} for i, arch in ((arm, 'arm64'), (here, 'amd64'))]}).encode()
    put_manifest(registry.port, 'x/many', '1', index, OCI_INDEX)
    check(output('image', 'pull', f'{at}/x/many:1').strip() == here.id, 'index')
    check(output('image', 'pull', '--platform', 'linux/arm64', f'{at}/x/many:1').strip() == arm.id, '--platform')
    refused(['image', 'pull', '--platform', 'linux/s390x', f'{at}/x/many:1'], NOT_FOUND, 's390x')
    # Docker's manifests, and a name that another tool wrote
    tool('skopeo', 'copy', '--src-tls-verify=false', '--dest-tls-verify=false', '--format', 'v2s2',
         f'docker://127.0.0.1:{registry.port}/x/one:1', f'docker://127.0.0.1:{registry.port}/x/docker:1')
    docker = json.loads(output('image', 'pull', '--json', f'{at}/x/docker:1'))[0]
    answer, _ = request(registry.port, 'GET', '/v2/x/docker/manifests/1',
                        headers={'Accept': 'application/vnd.docker.distribution.manifest.v2+json'})
    check(docker['digest'] == answer.getheader('Docker-Content-Digest'), "Docker's manifest changed on its way")


def case_push(folder, stops):
    """What we push, skopeo reads; blobs that are there are not sent again."""
    need('skopeo')
    registry, proxy = start(folder, stops)
    at = f'127.0.0.1:{proxy.port}'
    image = Image([{'a': b'1'}, {'b': noise(700000, 2)}]).push(registry.port, 'x/one', '1')
    output('image', 'pull', f'{at}/x/one:1')
    check(output('image', 'push', f'{at}/x/one:1', f'{at}/y/two:3').strip() == image.digest, 'digest')
    layout = os.path.join(folder, 'layout')
    tool('skopeo', 'copy', '--src-tls-verify=false', f'docker://127.0.0.1:{registry.port}/y/two:3', f'oci:{layout}:t')
    with open(os.path.join(layout, 'index.json'), encoding='utf-8') as f:
        check(json.load(f)['manifests'][0]['digest'] == image.digest, 'skopeo got something else')
    proxy.seen.clear()
    output('image', 'push', f'{at}/x/one:1', f'{at}/y/two:4')
    check(not proxy.of('POST', '/uploads/'), 'blobs were sent again')
    refused(['image', 'push', 'nothing'], NOT_FOUND, 'nothing')
    drops = []

    def drop_first(handler, path):
        if handler.command == 'PUT' and '/blobs/uploads/' in path and len(drops) < 2:
            drops.append(path)
            handler.rfile.read(min(1000, int(handler.headers['Content-Length'])))
            handler.drop()
            return True
        return False

    proxy.rule = drop_first
    output('image', 'push', f'{at}/x/one:1', f'{at}/z/three:1')
    check(len(drops) == 2, f'{len(drops)} connections were dropped')
    check(request(registry.port, 'GET', '/v2/z/three/manifests/1', headers={'Accept': OCI_MANIFEST})[0].status == 200,
          'nothing arrived')


def blob_rule(part, act):
    """A rule for GETs of one blob."""
    def rule(handler, path):
        return act(handler) if handler.command == 'GET' and f'/blobs/{part}' in path else False
    return rule


def case_faults(folder, stops):
    """Truncated, wrong, refused and slow answers: one clear error or a pull that goes on where it was, and never half an image."""
    registry, proxy = start(folder, stops)
    at = f'127.0.0.1:{proxy.port}/x/one:1'
    image = Image([{'a': b'1'}, {'b': noise(900000, 3)}]).push(registry.port, 'x/one', '1')
    big = image.blobs[image.layers[1]]
    tries = []

    def cut(handler):  # the connection breaks off after a third, twice
        data = big[int((handler.headers.get('Range') or 'bytes=0-')[6:-1]):]
        tries.append(handler.headers.get('Range'))
        if len(tries) > 2:
            return False
        handler.answer(206 if handler.headers.get('Range') else 200, data[:len(big) // 3],
                       {'Content-Length': str(len(data)), 'Content-Range': f'bytes {len(big) - len(data)}-{len(big) - 1}/{len(big)}'})
        handler.drop()
        return True

    proxy.rule = blob_rule(image.layers[1], cut)
    output('image', 'pull', at)
    check(tries == [None, f'bytes={len(big) // 3}-', f'bytes={2 * (len(big) // 3)}-'], f'not resumed: {tries}')
    output('image', 'rm', at)

    def short(handler):  # a whole answer, but of less than the manifest says
        start_at = int((handler.headers.get('Range') or 'bytes=0-')[6:-1])
        if start_at >= len(big) // 2:
            handler.answer(416)
        else:
            handler.answer(200, big[:len(big) // 2])
        return True

    proxy.rule = blob_rule(image.layers[1], short)
    refused(['image', 'pull', at], FAILED, 'layer sha256:', 'ends after|refuses the rest')
    nothing_half()

    def wrong(handler):
        handler.answer(200, bytes(len(big)))
        return True

    proxy.rule = blob_rule(image.layers[1], wrong)
    refused(['image', 'pull', at], FAILED, 'layer sha256:', 'has the digest', 'damaged')
    nothing_half()

    def longer(handler):
        handler.answer(200, big + b'x')
        return True

    proxy.rule = blob_rule(image.layers[1], longer)
    refused(['image', 'pull', at], FAILED, 'larger than the')
    nothing_half()
    busy = []

    def too_many(handler):
        busy.append(1)
        if len(busy) > 2:
            return False
        handler.answer(429 if len(busy) == 1 else 503, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"later"}]}',
                       {'Retry-After': '1'})
        return True

    proxy.rule = blob_rule(image.layers[1], too_many)
    output('image', 'pull', at)
    check(len(busy) == 3, f'{len(busy)} requests')
    output('image', 'rm', at)

    def silent(handler):
        handler.answer(200, big[:1000], {'Content-Length': str(len(big))})
        handler.wfile.flush()
        time.sleep(8)
        return True

    proxy.rule = blob_rule(image.layers[1], silent)
    refused(['image', 'pull', '--timeout', '1', at], TIMEOUT, 'layer sha256:', 'too slow|timed out|try again')
    nothing_half()
    proxy.rule = blob_rule(image.layers[1], lambda handler: (handler.answer(404), True)[1])
    refused(['image', 'pull', at], NOT_FOUND, 'layer sha256:')
    proxy.rule = None
    output('image', 'pull', at)  # after all of this


def case_manifests(folder, stops):
    """Manifests that are too large, of unknown types, damaged or no manifests."""
    registry, proxy = start(folder, stops)
    at = f'127.0.0.1:{proxy.port}/x/one:1'
    Image([{'a': b'1'}]).push(registry.port, 'x/one', '1')

    def serve(body, media, **headers):
        def rule(handler, path):
            if '/manifests/' not in path:
                return False
            handler.answer(200, body, {'Content-Type': media, **headers})
            return True
        proxy.rule = rule

    for body, media, words in (
            (b'{"x":"' + b'a' * (5 << 20) + b'"}', OCI_MANIFEST, ['larger than 4096 KiB']),
            (b'not json', OCI_MANIFEST, ['no JSON']),
            (b'[]', OCI_MANIFEST, ['no JSON object']),
            (b'{}', 'application/vnd.example.thing+json', ['not an image', 'example.thing']),
            (b'{"schemaVersion":1,"fsLayers":[]}', DOCKER_V1, ['schema 1']),
            (b'{"schemaVersion":2,"layers":[]}', OCI_MANIFEST, ['manifest']),
            (json.dumps({'schemaVersion': 2, 'config': {'mediaType': 'application/vnd.cncf.helm.config.v1+json',
                                                        'digest': digest(b'{}'), 'size': 2}, 'layers': []}).encode(),
             OCI_MANIFEST, ['no image', 'helm']),
            (json.loads(Image([{'a': b'1'}], media='application/x-zip').manifest), OCI_MANIFEST, ['unknown type', 'x-zip'])):
        serve(body if isinstance(body, bytes) else json.dumps(body).encode(), media)
        refused(['image', 'pull', at], FAILED, *words)
    good = Image([{'a': b'1'}])
    serve(good.manifest, OCI_MANIFEST, **{'Docker-Content-Digest': digest(b'other')})
    refused(['image', 'pull', at], FAILED, 'announced')
    serve(good.manifest, OCI_MANIFEST)
    refused(['image', 'pull', f'127.0.0.1:{proxy.port}/x/one@{digest(b"other")}'], FAILED, 'has the digest')
    proxy.rule = lambda handler, path: (handler.answer(200, b'<html>', {'Content-Type': 'text/html'}), True)[1] \
        if path != '/v2/' else (handler.answer(404), True)[1]
    refused(['image', 'pull', at], FAILED, 'no registry')
    nothing_half(keep_partial=False)


def late(at, image, folder):
    """One has opened a partial file, and locks it when another has moved it into the store."""
    if not shutil.which('strace'):
        return
    output('image', 'rm', at)
    first = min([image.id, *image.layers])[7:]  # else the other would wait for those before
    at_work = os.path.join(state(), 'images', 'partial', first)
    trace = ['strace', '-f', '-o', os.path.join(folder, 'late'), '-P', at_work, '-e', 'trace=flock', '-e', 'inject=flock:delay_enter=3000000']
    with subprocess.Popen([*trace, CAISSON, 'image', 'pull', at], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env=environment()) as slow:
        until = time.monotonic() + 60
        while not os.path.exists(at_work) and slow.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        output('image', 'pull', at)
        out, err = slow.communicate(timeout=120)
        check(slow.returncode == 0 and out.strip() == image.id, f'late: {slow.returncode} {err}')


def case_resume(folder, stops):
    """kill -9 and Ctrl-C in the middle: the next pull fetches the rest alone. A damaged rest is fetched anew."""
    registry, proxy = start(folder, stops)
    at = f'127.0.0.1:{proxy.port}/x/one:1'
    image = Image([{'a': b'1'}, {'b': noise(2000000, 4)}]).push(registry.port, 'x/one', '1')
    big, hexes = image.blobs[image.layers[1]], image.layers[1][7:]

    def stall(handler):
        if handler.headers.get('Range'):
            return False
        handler.answer(200, big[:1000000], {'Content-Length': str(len(big))})
        handler.wfile.flush()
        time.sleep(30)
        return True

    def interrupted(number):
        proxy.rule = blob_rule(image.layers[1], stall)
        with subprocess.Popen([CAISSON, 'image', 'pull', at], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, env=environment()) as pull:
            until = time.monotonic() + 60
            while partial().get(hexes, 0) < 1000000 and time.monotonic() < until:
                time.sleep(0.02)
            pull.send_signal(number)
            pull.communicate(timeout=60)
        nothing_half()
        check(partial().get(hexes) == 1000000, f'what had arrived is not kept: {partial()}')
        return pull.returncode

    interrupted(signal.SIGKILL)
    proxy.seen.clear()
    output('image', 'pull', at)
    check([h.get('Range') for h in proxy.of('GET', image.layers[1])] == ['bytes=1000000-'], 'not resumed after a kill')
    check(not partial(), f'left: {partial()}')
    output('image', 'rm', at)
    check(interrupted(signal.SIGINT) == 130, 'exit code of Ctrl-C')
    proxy.rule = None
    with open(os.path.join(state(), 'images', 'partial', hexes), 'r+b') as f:
        f.write(b'damaged')
    proxy.seen.clear()
    output('image', 'pull', at)
    check([h.get('Range') for h in proxy.of('GET', image.layers[1])] == ['bytes=1000000-', None], 'damaged rest')
    output('image', 'rm', at)
    # two pulls of one image at the same time
    proxy.rule = None
    both = [subprocess.Popen([CAISSON, 'image', 'pull', at], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env=environment()) for _ in range(2)]
    for pull in both:
        out, err = pull.communicate(timeout=120)
        check(pull.returncode == 0 and out.strip() == image.id, f'at the same time: {pull.returncode} {err}')
    late(at, image, folder)
    # a server without ranges
    output('image', 'rm', at)
    interrupted(signal.SIGKILL)
    proxy.rule = blob_rule(image.layers[1], lambda handler: (handler.answer(200, big), True)[1])
    output('image', 'pull', at)


def case_full(folder, stops):
    """A full disk: said before anything is fetched where that can be known, else when it happens; the store stays whole."""
    registry, proxy = start(folder, stops)
    at = f'127.0.0.1:{proxy.port}/x/one:1'
    Image([{'b': noise(6000000, 5)}]).push(registry.port, 'x/one', '1')
    Image([{'b': noise(6000, 6)}]).push(registry.port, 'x/small', '1')
    if os.geteuid() != 0:
        raise Skip('a tmpfs needs root')
    place = os.path.join(folder, 'small')
    os.mkdir(place)
    tool('mount', '-t', 'tmpfs', '-o', 'size=4m', 'caisson-test', place)
    stops.append(lambda: tool('umount', '-l', os.path.join(folder, 'small')))
    place = os.path.join(place, 'state')
    where = {'env': {'CAISSON_STATE_DIR': place}}
    refused(['image', 'pull', at], FAILED, 'room', 'prune', **where)
    left = [name for name in os.listdir(os.path.join(place, 'images', 'partial'))]
    check(not left, f'left on the full disk: {left}')
    output('image', 'pull', f'127.0.0.1:{proxy.port}/x/small:1', **where)
    # room for the blob, not for what is in it
    Image([{'zero': bytes(9000000)}]).push(registry.port, 'x/zero', '1')
    refused(['image', 'pull', f'127.0.0.1:{proxy.port}/x/zero:1'], FAILED, '[Nn]o (space|room)', **where)
    check([i['names'] for i in json.loads(output('image', 'ls', '--json', **where))] ==
          [[f'127.0.0.1:{proxy.port}/x/small:1']], 'half an image')


def token_rule(proxy, user=None, grant='secret-token', also=None, scheme='http'):
    """The registry wants tokens; they come from /token, for a user and password where one is given."""
    want = 'Basic ' + base64.b64encode(user.encode()).decode() if user else None

    def rule(handler, path):
        given = handler.headers.get('Authorization')
        if path.startswith('/token'):
            if given != want:
                handler.answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"bad password"}]}')
            else:
                handler.answer(200, json.dumps({'token': grant}).encode())
            return True
        if given != f'Bearer {grant}':
            scope = ',scope="repository:x/one:pull"' if path != '/v2/' else ''
            handler.answer(401, b'', {'WWW-Authenticate':
                                      f'Bearer realm="{scheme}://127.0.0.1:{proxy.port}/token",service="test"{scope}'})
            return True
        return also(handler, path) if also else False
    return rule


def case_tokens(folder, stops):
    """Token servers, Basic, auth files of other tools, login and logout."""
    registry, proxy = start(folder, stops)
    host = f'127.0.0.1:{proxy.port}'
    image = Image([{'a': b'1'}]).push(registry.port, 'x/one', '1')
    proxy.rule = token_rule(proxy)
    check(output('image', 'pull', f'{host}/x/one:1').strip() == image.id, 'anonymous token')
    check('scope=repository%3Ax%2Fone%3Apull' in proxy.seen[1][1] and 'service=test' in proxy.seen[1][1], f'{proxy.seen[1]}')
    output('image', 'rm', f'{host}/x/one:1')
    proxy.rule = token_rule(proxy, 'me:se:cret')
    refused(['image', 'pull', f'{host}/x/one:1'], PERMISSION, 'login', 'bad password')
    refused(['image', 'login', host, '-u', 'me', '--password-stdin'], PERMISSION, 'password', stdin='wrong\n')
    check(not os.path.exists(os.path.join(os.environ['XDG_RUNTIME_DIR'], 'containers')), 'a wrong password was kept')
    output('image', 'login', host, '-u', 'me', '--password-stdin', stdin='se:cret\n')
    auth = os.path.join(os.environ['XDG_RUNTIME_DIR'], 'containers', 'auth.json')
    check(os.stat(auth).st_mode & 0o777 == 0o600, 'mode of auth.json')
    output('image', 'pull', f'{host}/x/one:1')
    output('image', 'push', f'{host}/x/one:1', f'{host}/x/two:1')
    check(any('scope=repository%3Ax%2Ftwo%3Apull%2Cpush' in path for _, path, _ in proxy.seen), 'scope of push')
    output('image', 'rm', f'{host}/x/one:1')
    output('image', 'logout', host)
    refused(['image', 'logout', host], NOT_FOUND, 'not logged in')
    with open(auth, 'w', encoding='ascii') as f: # as old Docker writes it
        json.dump({'auths': {f'https://{host}/': {'auth': base64.b64encode(b'me:se:cret').decode()}}}, f)
    output('image', 'logout', host)
    with open(auth, encoding='ascii') as f:
        check(not json.load(f)['auths'], 'logged out, and still in the file')
    refused(['image', 'pull', f'{host}/x/one:1'], PERMISSION, 'login')
    with open(auth, 'w', encoding='ascii') as f:
        f.write('{damaged')
    refused(['image', 'pull', f'{host}/x/one:1'], USAGE, 'auth.json is damaged')
    other = os.path.join(folder, 'other.json')
    with open(other, 'w', encoding='ascii') as f:
        json.dump({'auths': {f'{host}/x': {'auth': base64.b64encode(b'me:se:cret').decode()}, host: {'auth': 'bm9uZTpub25l'}}}, f)
    output('image', 'pull', f'{host}/x/one:1', env={'REGISTRY_AUTH_FILE': other})

    def basic(handler, path):
        if handler.headers.get('Authorization') == 'Basic ' + base64.b64encode(b'me:se:cret').decode():
            return False
        handler.answer(401, b'', {'WWW-Authenticate': 'Basic realm="x"'})
        return True

    proxy.rule = basic
    os.unlink(auth)
    refused(['image', 'pull', f'{host}/x/one:1'], PERMISSION, 'wants a user')
    output('image', 'pull', f'{host}/x/one:1', env={'REGISTRY_AUTH_FILE': other})
    with open(auth, 'w', encoding='ascii') as f:
        json.dump({'auths': {host: {'auth': base64.b64encode(b'me:wrong').decode()}}}, f)
    refused(['image', 'pull', f'{host}/x/one:1'], PERMISSION, 'wrong|401')
    # a token that expires in the midst of it
    os.unlink(auth)
    expired = []

    def expire(handler, path):
        if '/blobs/' in path and not expired:
            expired.append(path)
            handler.answer(401, b'', {'WWW-Authenticate': f'Bearer realm="http://127.0.0.1:{proxy.port}/token",service="test"'})
            return True
        return False

    output('image', 'rm', f'{host}/x/one:1')
    proxy.rule = token_rule(proxy, also=expire)
    output('image', 'pull', f'{host}/x/one:1')
    check(len(expired) == 1 and len(proxy.of('GET', '/token')) >= 2, 'no new token')


def case_redirect(folder, stops):
    """Blobs at another host: it does not get the token, and must not lead from https to http."""
    registry, proxy = start(folder, stops)
    host = f'127.0.0.1:{proxy.port}'
    image = Image([{'a': b'1'}, {'b': noise(500000, 7)}]).push(registry.port, 'x/one', '1')
    other = Proxy(registry.port, address='127.0.0.2')
    stops.append(other.stop)

    def away(handler, path):
        if '/blobs/' not in path:
            return False
        handler.answer(307, b'elsewhere', {'Location': f'http://127.0.0.2:{other.port}{path}'})
        return True

    proxy.rule = token_rule(proxy, also=away)
    check(output('image', 'pull', f'{host}/x/one:1').strip() == image.id, 'redirected')
    check(other.seen and all('Authorization' not in headers for _, _, headers in other.seen), 'the token went elsewhere')
    check(all(h.get('Authorization') for h in proxy.of('GET', '/blobs/')), 'no token for the registry itself')
    output('image', 'rm', f'{host}/x/one:1')
    proxy.rule = lambda handler, path: '/blobs/' in path and (
        handler.answer(307, b'', {'Location': path}) or True)
    refused(['image', 'pull', f'{host}/x/one:1'], FAILED, 'redirect')
    proxy.rule = lambda handler, path: '/blobs/' in path and (
        handler.answer(307, b'', {'Location': 'file:///etc/passwd'}) or True)
    refused(['image', 'pull', f'{host}/x/one:1'], FAILED, 'file|[Pp]rotocol')
    proxy.rule = lambda handler, path: (handler.answer(401, b'', {
        'WWW-Authenticate': 'Bearer realm="ftp://127.0.0.1/token"'}), True)[1]
    refused(['image', 'pull', f'{host}/x/one:1'], FAILED, 'not https')


def case_tls(folder, stops):
    """Certificates: of an authority that is told, of none, and http where https should be."""
    need('docker-registry', 'openssl')
    files = {name: os.path.join(folder, name) for name in ('ca.crt', 'ca.key', 'server.crt', 'server.key', 'server.csr', 'ext')}
    tool('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=test',
         '-keyout', files['ca.key'], '-out', files['ca.crt'], '-days', '2')
    tool('openssl', 'req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=x', '-keyout',
         files['server.key'], '-out', files['server.csr'])
    with open(files['ext'], 'w', encoding='ascii') as f:
        f.write('subjectAltName=IP:127.0.0.1\n')
    tool('openssl', 'x509', '-req', '-in', files['server.csr'], '-CA', files['ca.crt'], '-CAkey', files['ca.key'],
         '-CAcreateserial', '-days', '2', '-extfile', files['ext'], '-out', files['server.crt'])
    plain = Registry(folder)
    stops.append(plain.stop)
    import ssl
    proxy = Proxy(plain.port)
    stops.append(proxy.stop)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files['server.crt'], files['server.key'])
    proxy.server.socket = context.wrap_socket(proxy.server.socket, server_side=True)
    image = Image([{'a': b'1'}]).push(plain.port, 'x/one', '1')
    at = f'127.0.0.1:{proxy.port}/x/one:1'
    refused(['image', 'pull', at], FAILED, 'certificate', 'certs.d')
    certs = os.path.join(folder, 'certs')
    os.mkdir(certs)
    os.link(files['ca.crt'], os.path.join(certs, 'test.crt'))
    check(output('image', 'pull', '--cert-dir', certs, at).strip() == image.id, '--cert-dir')
    output('image', 'rm', at)
    # as Podman has them: for the registry, and for the token server that it names
    mine = os.path.join(os.environ['HOME'], '.config/containers/certs.d', f'127.0.0.1:{proxy.port}')
    os.makedirs(mine)
    os.link(files['ca.crt'], os.path.join(mine, 'test.crt'))
    proxy.rule = token_rule(proxy, scheme='https')
    check(output('image', 'pull', at).strip() == image.id and proxy.of('GET', '/token'), 'certs.d and a token server')
    output('image', 'rm', at)
    os.unlink(os.path.join(mine, 'test.crt'))
    check(output('image', 'pull', '--tls-verify', 'false', at).strip() == image.id, '--tls-verify false')
    refused(['image', 'pull', '--tls-verify', 'maybe', at], USAGE, 'true or false')
    # http of a host that is not this one's name
    with open('/proc/sys/kernel/hostname', encoding='ascii') as f:
        name = f.read().strip()
    done = run('image', 'pull', f'{name}.invalid:{plain.port}/x/one:1')
    check(done.returncode == FAILED and 'resolve' in done.stderr, done.stderr)


CASES = {name[5:]: case for name, case in globals().items() if name.startswith('case_')}

if __name__ == '__main__':
    sys.exit(harness.main(CASES))
