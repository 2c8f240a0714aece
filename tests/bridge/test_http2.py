#!/usr/bin/env python3
"""test_http2.py WRITER LEDGERCTL RECEIVER: webhooks over TLS and HTTP/2, which nghttpx speaks for
the tests' receiver behind it.

Requests of several streams go side by side over one connection; it is closed by the server in
between, and nothing is lost or doubled but by the same id. Prints TAP."""
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                'support'))
# pylint: disable=wrong-import-position
import test_http_kill as kills  # noqa: E402
from partners import PartnerMissing, Receiver, free_port, wait_for_port  # noqa: E402
from tap import Failure, run_cases  # noqa: E402
from test_kill import WRITER, ledgerctl  # noqa: E402


class Nghttpx:
    """Takes HTTP/2 over TLS and passes it on."""

    def __init__(self, folder, receiver_port, *options):
        program = shutil.which('nghttpx', path='/usr/sbin:/usr/bin')
        if not program:
            raise PartnerMissing(
                'nghttpx (nghttp2-proxy) is not installed; ./dev deps test installs it')
        self.port = free_port()
        self.log = os.path.join(folder, f'access{self.port}')
        self.certificate, key = (os.path.join(folder, name) for name in ('cert.pem', 'key.pem'))
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
                        'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=localhost',
                        '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out',
                        self.certificate], check=True, capture_output=True)
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            [program, '--conf=/dev/null', f'--frontend=127.0.0.1,{self.port}',
             f'--backend=127.0.0.1,{receiver_port}', '--workers=1', f'--accesslog-file={self.log}',
             '--accesslog-format=$alpn $remote_port $status', '--errorlog-file=/dev/null',
             *options, key, self.certificate],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(self.port, self.process)

    def accesses(self):
        """(protocol, port of the client, status) of each request."""
        with open(self.log, encoding='ascii') as file:
            return [tuple(line.split()) for line in file]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def carry(*options):
    """Carries random writes through nghttpx; its accesses, and how many requests came again."""
    folder = tempfile.mkdtemp(prefix='ledger-http2-')
    source = kills.stores.SqliteStore(folder, 'source')
    try:
        subprocess.run([WRITER, 'random', source.path, str(random.getrandbits(60)), '1500'],
                       check=True, stdout=subprocess.DEVNULL, timeout=120)
        with Receiver(kills.RECEIVER, '--bodies') as hook, \
                Nghttpx(folder, hook.port, *options) as proxy:
            ledgerctl('bridge', 'run', '--source', source.url, '--sink',
                      f'https://127.0.0.1:{proxy.port}/hook', '--ca-file', proxy.certificate,
                      '--state', f'sqlite:{folder}/state.db', '--until-empty', '--quiet',
                      '--max-request-entries', '3')
            _, again = kills.compare_webhooks(source, hook, True)
            return proxy.accesses(), again
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def one_connection():
    accesses, again = carry()
    if {a[0] for a in accesses} != {'h2'}:
        raise Failure(f'spoken was {set(a[0] for a in accesses)}')
    # One of the bridge; one more was tried when the store was opened, without a request.
    if len({a[1] for a in accesses}) != 1 or len(accesses) < 100 or again:
        raise Failure(f'{len(accesses)} requests over {len({a[1] for a in accesses})} connections,'
                      f' {again} came again')


def connection_ends():
    """The server ends each connection after so many requests, with GOAWAY."""
    accesses, _ = carry('--frontend-max-requests=50')
    if {a[0] for a in accesses} != {'h2'} or len({a[1] for a in accesses}) < 2:
        raise Failure(f'{set(accesses)}')


def http1_where_it_is_all():
    accesses, again = carry('--npn-list=http/1.1')
    if {a[0] for a in accesses} != {'http/1.1'} or again:
        raise Failure(f'spoken was {set(a[0] for a in accesses)}, {again} came again')


def main():
    cases = [('streams side by side over one connection', one_connection),
             ('connections that end in between', connection_ends),
             ('a server without HTTP/2', http1_where_it_is_all)]
    failed, _ = run_cases(cases, PartnerMissing)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
