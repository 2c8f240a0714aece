#!/usr/bin/env python3
"""Runs the example that receives webhooks, sends it good and bad ones, lets a bridge send there:
test_webhook_receiver.py RECEIVER LEDGERCTL. Prints TAP."""
import base64
import hashlib
import hmac
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                'support'))
# pylint: disable=wrong-import-position
from partners import free_port, wait_for_port  # noqa: E402
from tap import show_checks  # noqa: E402

KEYS = [b'0123456789abcdef01234567', b'another key of 32 bytes length..']
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Example:
    def __init__(self, folder):
        self.port = free_port()
        self.secrets = os.path.join(folder, 'secrets')
        self.printed = os.path.join(folder, 'printed')
        with open(self.secrets, 'w', encoding='ascii') as file:
            file.write('# the old one, then the new one\n\n')
            for key in KEYS:
                file.write(f'whsec_{base64.b64encode(key).decode()}\n')
        with open(self.printed, 'wb') as out:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(
                [sys.executable, sys.argv[1], str(self.port), self.secrets], stdout=out,
                stderr=subprocess.DEVNULL)
        wait_for_port(self.port, self.process)

    def lines(self):
        with open(self.printed, encoding='utf-8') as file:
            return file.read().splitlines()

    def post(self, ident, body, key=KEYS[0], age=0, signature=None):
        """The status of the answer."""
        moment = str(int(time.time()) - age)
        text = f'{ident}.{moment}.{body}'.encode()
        right = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
        request = urllib.request.Request(f'http://127.0.0.1:{self.port}/', body.encode(), {
            'webhook-id': ident, 'webhook-timestamp': moment,
            'webhook-signature': f'v1,{right}' if signature is None else signature})
        try:
            with DIRECT.open(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


    def refused_twice(self):
        """Statuses on one connection that is kept: an answer without an end would be waited for."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
        statuses = []
        for _ in range(2):
            connection.request('POST', '/', b'{}')
            answer = connection.getresponse()
            assert answer.read().startswith(b'not signed')
            statuses.append(answer.status)
        connection.close()
        return statuses


def bridge(folder, example):
    """Exit status, and the payloads that were printed because of it."""
    def ctl(*args):
        return subprocess.run([sys.argv[2], *args], capture_output=True, text=True, check=False,
                              timeout=120, input='')

    source, state = (f'sqlite:{folder}/{name}.db' for name in ('source', 'state'))
    ctl('store', 'init', '--store', source)
    for number in range(3):
        ctl('stream', 'append', f'{{"n": {number}}}', '--store', source, '--stream', 's')
    before = len(example.lines())
    results = [ctl('bridge', 'run', '--until-empty', '--source', source, '--state', state,
                   '--sink', f'http://127.0.0.1:{example.port}/', '--secret-file', example.secrets)
               for _ in range(2)]
    payloads = [entry['payload']['n'] for line in example.lines()[before:]
                for entry in json.loads(line)['entries']]
    return [r.returncode for r in results], payloads, results[0].stderr


def main():
    checks = []

    def check(name, is_, wanted):
        checks.append((name, is_, wanted))

    with tempfile.TemporaryDirectory() as folder:
        example = Example(folder)
        try:
            check('signed', example.post('u:1:1', '{"a": 1}'), 200)
            check('signed with the other secret', example.post('u:1:2', '"b"', KEYS[1]), 200)
            check('came before', example.post('u:1:1', '{"a": 1}'), 200)
            check('one of several signatures', example.post(
                'u:1:1', '{"a": 1}', signature='v1a,x v1,AAAA'), 401)
            check('by somebody else', example.post('u:1:3', '"c"', b'x'), 401)
            check('recorded and sent again', example.post('u:1:4', '"d"', age=301), 401)
            check('not signed', example.post('u:1:5', '"e"', signature=''), 401)
            check('no letters', example.post('u:1:5', '"e"', signature='v1,\xe9'), 401)
            check('the connection is kept', example.refused_twice(), [401, 401])
            check('each is printed once', example.lines(), ['{"a": 1}', '"b"'])
            codes, payloads, error = bridge(folder, example)
            check('a bridge sends to it: ' + error, (codes, payloads), ([0, 0], [0, 1, 2]))
        finally:
            example.process.kill()
            example.process.wait()

    return show_checks(checks)


if __name__ == '__main__':
    sys.exit(main())
