"""ledgerctl bridge into a webhook: the way from a store to an endpoint, the exit codes of what goes
wrong, and that no secret is in an output. The receiver is a small server of this file."""
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import os
import threading

from harness import contains, ctl, equal, free_port, init, main

KEY = bytes(range(32))
SECRET = 'whsec_' + base64.b64encode(KEY).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.server.got.append((self.path, dict(self.headers), body))
        if self.server.silence is not None:  # perhaps `100 Continue`, then nothing
            self.wfile.write(self.server.silence)
            self.server.end.wait(30)
            self.close_connection = True
            return
        status = next((s for text, s in self.server.answers.items() if text in body), 204)
        self.send_response(status)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *args):  # pylint: disable=arguments-differ
        pass


@contextlib.contextmanager
def receiver():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    server.got, server.answers = [], {}
    server.silence, server.end = None, threading.Event()
    server.url = f'http://127.0.0.1:{server.server_port}/hook'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.end.set()
        server.shutdown()
        server.server_close()


def put(name, text):
    with open(name, 'w', encoding='utf-8') as file:
        file.write(text)
    os.chmod(name, 0o600)
    return name


def source(*payloads):
    url = init('source')
    for payload in payloads:
        ctl('stream', 'append', '--store', url, '--stream', 's', json.dumps(payload))
    return url


def test_from_a_store_to_an_endpoint():
    with receiver() as hook:
        ends = ['--source', source({'n': 1}, {'n': 2})]
        state = ['--cursor-file', 'cursor.db']
        ctl('stream', 'tag', '--store', ends[1], '--stream', 's', '--id', '1', '--tag', 'paid')
        run = ['bridge', 'run', *ends, '--sink', hook.url, *state, '--until-empty', '--json',
               '--secret-file', put('secrets', SECRET + '\n'), '--signature', 'ledger',
               '--header-file', put('headers', 'X-Tenant: acme\n')]
        equal(ctl(*run).objects()[0]['applied'], 3)
        equal(ctl(*run).objects()[0]['applied'], 0)
        equal(len(hook.got), 2)
        path, headers, body = hook.got[0]
        equal(path, '/hook')
        equal(headers['X-Tenant'], 'acme')
        equal([e['payload'] for e in json.loads(body)['entries']], [{'n': 1}, {'n': 2}])
        signed = f'{headers["webhook-id"]}.{headers["webhook-timestamp"]}.'.encode() + body
        equal(headers['webhook-signature'],
              'v1,' + base64.b64encode(hmac.digest(KEY, signed, 'sha256')).decode())
        equal(headers['X-Ledger-Signature'], hmac.new(KEY, body, hashlib.sha256).hexdigest())
        equal(json.loads(hook.got[1][2])['type'], 'set_tags')
        status = ctl('bridge', 'status', *ends, *state, '--json').objects()[0]
        equal((status['position'], status['backlog'], status['state']),
              ('3', 0, 'sqlite:cursor.db'))
        # Back to the beginning: all comes again, under the same ids.
        ctl('bridge', 'cursor', 'reset', *ends, '--sink', hook.url, *state)
        equal(ctl(*run).objects()[0]['applied'], 3)
        equal(hook.got[2][1]['webhook-id'], headers['webhook-id'])
        equal(hook.got[2][2], body)


def test_parked_and_tried_again():
    with receiver() as hook:
        ends = ['--source', source({'n': 'good'}, {'n': 'bad'}, {'n': 'fine'}), '--sink', hook.url]
        state = ['--state', 'sqlite:state.db', '--state-table', 'hooks']
        hook.answers[b'"bad"'] = 422
        stats = ctl('bridge', 'run', *ends, *state, '--until-empty', '--json').objects()[0]
        equal((stats['applied'], stats['parked']), (2, 1))
        ctl('bridge', 'status', *ends, *state, code=12)
        parked = ctl('bridge', 'parked', 'list', *ends[2:], *state, '--json').objects()
        equal([(p['entry_id'], p['type']) for p in parked], [('2', 'append')])
        contains(parked[0]['reason'], 'refuses it with 422')
        equal(ctl('bridge', 'parked', 'retry', '--all', *ends, *state, code=12).out,
              '0 applied, 1 still parked\n')
        hook.answers.clear()
        equal(ctl('bridge', 'parked', 'retry', '--all', *ends, *state).out,
              '1 applied, 0 still parked\n')
        ctl('bridge', 'status', *ends, *state)


def test_exit_codes_of_answers():
    with receiver() as hook:
        ends = ['--source', source({'n': 1}), '--sink', hook.url, '--cursor-file', 'c.db']
        for status, code, words in [(301, 78, 'redirects are not followed'),
                                    (401, 77, '--secret-file'), (407, 77, '407'),
                                    (410, 78, 'gone'), (503, 75, '503 for now'),
                                    (429, 75, '429 for now')]:
            hook.answers[b''] = status
            result = ctl('bridge', 'run', *ends, '--until-empty', '--retry-for', '50ms', code=code)
            contains(result.err, words)
        hook.answers[b''] = 400
        contains(ctl('bridge', 'run', *ends, '--until-empty', '--on-bad-event', 'stop',
                     code=65).err,
                 'the sink refuses event 1 (append of stream "s"): ', 'refuses it with 400')
        hook.answers[b''] = 404
        contains(ctl('bridge', 'run', *ends, '--until-empty', '--refusal-limit', '1', code=78).err,
                 '404')
        hook.answers.clear()
        equal(ctl('bridge', 'run', *ends, '--until-empty', '--json').objects()[0]['applied'], 1)


def test_no_answer():
    with receiver() as hook:
        ends = ['--source', source({'n': 1}), '--sink', hook.url, '--cursor-file', 'c.db']
        for silence in (b'', b'HTTP/1.1 100 Continue\r\n\r\n'):
            hook.silence = silence
            result = ctl('bridge', 'run', *ends, '--until-empty', '--retry-for', '1ms',
                         '--timeout', '200ms', code=75)
            contains(result.err, 'did not answer within 200 ms (--timeout)')
            equal(result.err.count('moved'), 0)
        hook.silence = None
        equal(ctl('bridge', 'run', *ends, '--until-empty', '--json').objects()[0]['applied'], 1)


def test_what_a_webhook_is_not():
    with receiver() as hook:
        ends = ['--source', source({'n': 1}), '--sink', hook.url]
        ctl('bridge', 'run', *ends, '--cursor-file', 'c.db', '--until-empty')
        for words in (['run'], ['poll'], ['status'], ['parked', 'list'], ['parked', 'retry',
                      '--all'], ['parked', 'drop', '3'], ['cursor', 'show'], ['cursor', 'reset']):
            ends_of = ends[2:] if words in (['parked', 'list'], ['parked', 'drop', '3']) else ends
            contains(ctl('bridge', *words, *ends_of, code=78).err, '--cursor-file')
        for more in ([], ['--cursor-file', 'c.db']):
            contains(ctl('bridge', 'verify', *ends, *more, code=78).err, 'cannot be compared')
        contains(ctl('store', 'init', '--store', hook.url, code=78).err, 'no tables')
        contains(ctl('stream', 'read', '--store', hook.url, code=78).err, 'no store')
        contains(ctl('stream', 'append', '--store', hook.url, '{}', code=78).err, 'no store')
        contains(ctl('store', 'check', '--store', hook.url).out, 'ok', 'warning', 'not signed')
        equal(len(hook.got), 1)


def test_where_the_state_is():
    with receiver() as hook:
        ends = ['--source', source({'n': 1}), '--sink', hook.url]
        run = ['bridge', 'run', *ends, '--until-empty']
        for args, code, words in [
                # A file of that name would be new, and everything would be posted again.
                (['--cursor-file', 'sqlite:c.db'], 2, 'give a URL to --state'),
                (['--cursor-file', 'postgresql:///x'], 2, 'give a URL to --state'),
                (['--cursor-file', 'c.db', '--state', 'sqlite:c.db'], 2, 'one of the two'),
                (['--cursor-file', 'no/c.db'], 78, 'state store: no such folder'),
                (['--state', 'c.db'], 2, "state store: the store's URL has no scheme")]:
            contains(ctl(*run, *args, code=code).err, words)
        equal((hook.got, os.path.exists('sqlite:c.db')), ([], False))
        for words in (['status'], ['cursor', 'show']):
            contains(ctl('bridge', *words, *ends, '--cursor-file', 'c.db', code=78).err,
                     'state store: no such file', 'by the first `ledgerctl bridge run`')
        ctl(*run, '--cursor-file', 'c.db')
        contains(ctl('bridge', 'cursor', 'set', '7', *ends, '--cursor-file', 'c.db', code=2).err,
                 'position 7 is past the end of the log, which is 1')


def test_nobody_there():
    ends = ['--source', source({'n': 1}), '--cursor-file', 'c.db', '--retry-for', '200ms']
    port = free_port()
    for url, words in [(f'http://127.0.0.1:{port}/', 'Connection refused'),
                       (f'https://127.0.0.1:{port}/', 'Connection refused'),
                       ('https://no-such-host.invalid/', 'no-such-host.invalid:443')]:
        result = ctl('bridge', 'run', *ends, '--sink', url, code=69)
        contains(result.err, words, 'trying again')


def test_bad_options():
    hook = f'http://127.0.0.1:{free_port()}/'
    ends = ['--source', source({'n': 1}), '--cursor-file', 'c.db']
    for args, words in [
            (['--sink', 'http://h.example/'], '--insecure'),
            (['--sink', 'https://'], 'host'),
            (['--sink', 'https:h.example'], '://'),
            (['--sink', 'https://h.example/#x'], '%23'),
            (['--sink', hook, '--body', 'xml'], 'reference,event,cloudevents'),
            (['--sink', hook, '--signature', 'md5'], 'standard,ledger'),
            (['--sink', hook, '--signature', 'ledger'], '--secret-file'),
            (['--sink', hook, '--max-request-entries', '0'], 'from 1 to 10000'),
            (['--sink', hook, '--max-request-bytes', '1G'], '256 MiB'),
            (['--sink', hook, '--timeout', '0'], 'above 0'),
            (['--sink', hook, '--connect-timeout', 'soon'], '250ms'),
            (['--sink', hook, '--secret-file', put('s1', 'hunter2\n')], 'whsec_'),
            (['--sink', hook, '--secret-file', put('s2', '\n')], 'no secret'),
            (['--sink', 'clickhouse://localhost/d', '--secret-file', 's2'], 'no password'),
            (['--sink', hook, '--secret-file', 'nowhere'], 'No such file'),
            (['--sink', hook, '--header-file', put('h1', 'hunter2\n')], 'line 1'),
            (['--sink', hook, '--ca-file', 'nowhere'], '--ca-file'),
            (['--sink', hook, '--client-key', put('k', 'x')], '--client-cert')]:
        result = ctl('bridge', 'run', *ends, *args, code=2)
        contains(result.err, words)
        assert 'hunter2' not in result.err, result


def test_no_secret_is_shown():
    with receiver() as hook:
        url = hook.url.replace('//', '//ann:hunter2@') + '?token=hunter2'
        ends = ['--source', source({'n': 1}, {'n': 2})]
        more = ['--cursor-file', 'c.db', '--secret-file', put('secrets', SECRET), '--header-file',
                put('headers', 'Authorization: Bearer hunter2\n')]
        hook.answers[b'"n": 2'] = 422
        shown = []
        for args in (['bridge', 'run', *ends, '--sink', url, *more, '--until-empty', '-vv'],
                     ['bridge', 'status', *ends, '--sink', url, *more[:2]],
                     ['bridge', 'parked', 'list', '--sink', url, *more[:2]],
                     ['bridge', 'parked', 'retry', '--all', *ends, '--sink', url, *more, '-vv'],
                     ['bridge', 'verify', *ends, '--sink', url, *more[:2]],
                     ['store', 'check', '--store', url, *more[2:]],
                     ['store', 'init', '--store', url]):
            shown.append(ctl(*args, code=None))
        equal(hook.got[0][0], '/hook?token=hunter2')
        equal(hook.got[0][1]['Authorization'], 'Bearer hunter2')
        hook.answers[b''] = 500
        ctl('bridge', 'cursor', 'reset', *ends, *more[:2])
        shown.append(ctl('bridge', 'run', *ends, '--sink', url, *more, '--until-empty',
                         '--retry-for', '50ms', '-vv', code=75))
        for result in shown:
            for text in (result.out, result.err):
                assert 'hunter2' not in text and SECRET[6:] not in text, result


main(globals())
