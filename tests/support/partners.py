"""Partners of the HTTP sinks for tests written in Python: what clickhouse.c and receiver.c are for
those in C.

    with Engine() as ch:              # ClickHouse's current engine behind its front
        ch.sql('CREATE DATABASE d')
        ctl('store', 'init', '--store', ch.url('d'))
    with Receiver(PROGRAM) as hook:   # the tests' receiver of webhooks
        ctl('bridge', 'run', '--sink', hook.url, ...)

A partner is stopped when this process ends, however it ends. Where none can be had, Engine() raises
PartnerMissing: the case is to be skipped, in CI, too."""
import atexit
import base64
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from ports import free_port

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
START_S = 120
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PartnerMissing(Exception):
    """The machine lacks what a partner needs."""


def wait_for_port(port, process):
    """Until the process takes connections."""
    end = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(('127.0.0.1', port), 1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Partner:
    """A program in a folder of its own, which writes its port there."""
    all = []

    def __init__(self, name):
        self.dir = tempfile.mkdtemp(prefix=f'ledger-{name}-')
        self.process = None
        self.port = 0
        Partner.all.append(self)

    def arguments(self):
        raise NotImplementedError

    def run(self):
        """Starts it, the second time with the same port, and waits until it answers."""
        with open(os.path.join(self.dir, 'log'), 'ab') as log:
            # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
            self.process = subprocess.Popen(
                [*self.arguments(), '--port', str(self.port)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, preexec_fn=_die_with_parent)
        end = time.monotonic() + START_S
        while not self.is_ready():
            assert self.process.poll() is None, 'it has ended:\n' + self.log_tail()
            assert time.monotonic() < end, 'it does not start:\n' + self.log_tail()
            time.sleep(0.005)

    def is_ready(self):
        if not self.port:
            try:
                with open(os.path.join(self.dir, 'port'), encoding='ascii') as file:
                    self.port = int(file.read())
            except FileNotFoundError:
                return False
        try:
            with DIRECT.open(f'http://127.0.0.1:{self.port}/ping', timeout=START_S):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def put(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path + '.new', 'w', encoding='utf-8') as file:
            file.write(text)
        os.rename(path + '.new', path)

    def get(self, name):
        try:
            with open(os.path.join(self.dir, name), encoding='utf-8', errors='replace') as file:
                return file.read()
        except FileNotFoundError:
            return ''

    def lines(self, name):
        """The objects of a file with one on each line."""
        return [json.loads(line) for line in self.get(name).split('\n') if line]

    def log_tail(self):
        return self.get('log')[-3000:]

    def stop(self):
        self.process.terminate()
        self.process.wait(START_S)
        self.process = None
        free_port(self.port)  # it comes back to it

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None
        free_port(self.port)

    def destroy(self):
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in Partner.all:
            Partner.all.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind is not None:
            print('\n'.join('# ' + line for line in self.log_tail().splitlines()))
        self.destroy()


class Engine(Partner):
    def __init__(self, user='default', password=''):
        place = os.environ.get('LEDGER_TEST_CHDB') or os.path.join(ROOT, 'build-partners',
                                                                   'chdb-core')
        if not os.path.exists(os.path.join(place, 'chdb', '_chdb.abi3.so')):
            raise PartnerMissing("ClickHouse's engine (PyPI's chdb-core) is not here;"
                          ' ./dev deps test fetches it')
        os.environ['LEDGER_TEST_CHDB'] = place
        super().__init__('clickhouse')
        self.user, self.password = user, password
        self.put('password', password)
        self.run()

    def arguments(self):
        return [sys.executable, os.path.join(HERE, 'clickhouse_front.py'), self.dir,
                '--user', self.user, '--password-file', os.path.join(self.dir, 'password')]

    def url(self, database='default'):
        secret = ':' + self.password if self.password else ''
        return f'clickhouse://{self.user}{secret}@127.0.0.1:{self.port}/{database}'

    def sql(self, text, database='default'):
        """Runs a statement, which must work; gives the answer, columns separated by tabs."""
        basic = base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()
        request = urllib.request.Request(
            f'http://127.0.0.1:{self.port}/?database={database}', text.encode(),
            {'Authorization': 'Basic ' + basic})
        try:
            with DIRECT.open(request, timeout=600) as answer:
                return answer.read().decode().rstrip('\n')
        except urllib.error.HTTPError as error:
            raise AssertionError(f'{text}\n{error.read().decode()}') from None

    def fault(self, *faults):
        """What goes wrong next, in the place of what was to: see clickhouse_front.py."""
        self.put('fault', '\n'.join(map(json.dumps, faults)))

    def requests(self):
        return self.lines('requests')


class Receiver(Partner):
    def __init__(self, program, *options, secrets=''):
        super().__init__('receiver')
        self.options = [program, self.dir, *options]
        if secrets:
            self.put('secrets', secrets)
        self.run()
        self.url = f'http://127.0.0.1:{self.port}/hook'

    def arguments(self):
        return self.options

    def run(self):
        port = os.path.join(self.dir, 'port')
        if os.path.exists(port):
            os.unlink(port)
        super().run()

    def is_ready(self):
        # Asked for nothing: a request would be one of those that it writes down.
        text = self.get('port')
        if text:
            self.port = int(text)
        return bool(text)

    def script(self, *acts):
        """How the next requests are answered, in the place of what was to be: see receiver.h."""
        self.put('script', '\n'.join(map(json.dumps, acts)))

    def requests(self):
        return self.lines('requests')

    def complaints(self):
        return self.get('complaints')


def _clean_up():
    for partner in list(Partner.all):
        partner.destroy()


atexit.register(_clean_up)
