#!/usr/bin/env python3
"""A ClickHouse server for tests: HTTP in front of the embedded engine of PyPI's chdb-core.

    clickhouse_front.py FOLDER [--port N] [--user NAME] [--password-file FILE]
                        [--certificate FILE --key FILE] [--record]

Everything lives in FOLDER and is found again by the next front there, also after kill -9: data/ of
the engine, `port` (written when connections are taken), `requests` (one line of JSON for each query
that was answered: its text, settings, status, code), `fault` (below), and with --record whatever
brings rows, as it came: record/N.path and record/N.body, from 1 on. LEDGER_TEST_CHDB is the folder
that has chdb/. Listens on 127.0.0.1, ends by SIGTERM.

The engine is a current one, and parses, stores and fails as a server does; what a server does
around it (users, HTTP status of an error, chunks, compression) is played here, as servers do it.

FOLDER/fault, written by the test and moved there whole, says what is to go wrong: one JSON object
per line, each with "act", and
    "times": for so many requests (1)          "match": only where the query has this text
    "skip": not for so many requests before them (0)
    "when": "before" the query is run, or "after", which is the default
    "act": "cut"    the connection is reset after "bytes" of the answer's body; -1: without answer
           "stall"  for "seconds", then it goes on
           "hold"   makes FOLDER/held, and goes on when somebody has taken that away
           "error"  "code" and "text" come as an error
           "late"   status 200, after "bytes" of the result an error as old servers send it
           "tagged" the same as new servers send it: a tagged block, and the last chunk is missing
           "answer" with "status", "headers" and "text"."""
import argparse
import base64
import contextlib
import ctypes
import gzip
import http.server
import json
import os
import re
import secrets
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
import uuid
import zlib

BODY_MAX = 1 << 30
CHUNK = 64 << 10
# Parameters of a URL that are no settings.
NO_SETTING = {'query', 'database', 'default_format', 'user', 'password', 'query_id', 'quota_key',
              'wait_end_of_query', 'buffer_size', 'stacktrace', 'session_id', 'session_timeout',
              'session_check', 'compress', 'decompress', 'role'}
STATUS = {194: 401, 192: 403, 193: 403, 497: 403, 512: 403, 516: 403,
          46: 404, 47: 404, 50: 404, 56: 404, 60: 404, 73: 404, 81: 404, 115: 404, 336: 404,
          48: 501, 74: 503, 76: 503, 209: 503, 439: 503, 159: 408, 381: 411}
STATUS.update({code: 400 for code in (6, 15, 16, 25, 26, 27, 36, 38, 41, 44, 53, 62, 72, 117, 321)})
NAMES = {62: 'SYNTAX_ERROR', 164: 'READONLY', 192: 'UNKNOWN_USER', 241: 'MEMORY_LIMIT_EXCEEDED',
         516: 'AUTHENTICATION_FAILED', 243: 'NOT_ENOUGH_SPACE', 201: 'QUOTA_EXCEEDED',
         159: 'TIMEOUT_EXCEEDED', 252: 'TOO_MANY_PARTS', 497: 'ACCESS_DENIED'}
# What a statement is made of.
TOKEN = re.compile(rb"""
    (?P<space> \s+ | --[^\n]* | /\*.*?\*/ ) |
    (?P<text> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.)*" | `(?:[^`\\]|\\.)*` ) |
    (?P<word> \w+ ) |
    (?P<sign> . )""", re.DOTALL | re.VERBOSE)

LINE_END = re.compile(rb'[ \t\f]*\r?\n?')  # between a format and its data


class Failed(Exception):
    """An error as the server reports it."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text


class HungUp(Exception):
    """The connection is to be reset."""


def failure(code, text):
    return Failed(code, f'Code: {code}. DB::Exception: {text} ({NAMES.get(code, "UNKNOWN")})')


# ---- what a body is packed with ------------------------------------------------------------------

class ZstdBuffer(ctypes.Structure):
    _fields_ = [('at', ctypes.c_void_p), ('size', ctypes.c_size_t), ('pos', ctypes.c_size_t)]


def zstd():
    lib = ctypes.CDLL('libzstd.so.1')
    for name in ('ZSTD_createDStream', 'ZSTD_freeDStream', 'ZSTD_decompressStream',
                 'ZSTD_compress', 'ZSTD_compressBound'):
        getattr(lib, name).restype = ctypes.c_size_t
    lib.ZSTD_createDStream.restype = ctypes.c_void_p
    lib.ZSTD_decompressStream.argtypes = [ctypes.c_void_p] + [ctypes.POINTER(ZstdBuffer)] * 2
    lib.ZSTD_freeDStream.argtypes = [ctypes.c_void_p]
    return lib


def unzstd(data):
    lib, result = zstd(), []
    stream = lib.ZSTD_createDStream()
    out = ctypes.create_string_buffer(1 << 17)
    source = ctypes.create_string_buffer(data, len(data))
    read = ZstdBuffer(ctypes.addressof(source), len(data), 0)
    left = 1
    try:
        while read.pos < read.size or left:
            written = ZstdBuffer(ctypes.addressof(out), len(out), 0)
            left = lib.ZSTD_decompressStream(stream, written, read)
            if lib.ZSTD_isError(ctypes.c_size_t(left)):
                raise failure(561, 'ZSTD decoding failed')
            result.append(out.raw[:written.pos])
            if left and read.pos == read.size and written.pos < written.size:
                raise failure(561, 'ZSTD decoding failed: the data ends too early')
    finally:
        lib.ZSTD_freeDStream(stream)
    return b''.join(result)


def to_zstd(data):
    lib = zstd()
    out = ctypes.create_string_buffer(lib.ZSTD_compressBound(ctypes.c_size_t(len(data))))
    size = lib.ZSTD_compress(out, ctypes.c_size_t(len(out)), data, ctypes.c_size_t(len(data)), 1)
    return out.raw[:size]


def unpack(data, coding):
    try:
        if coding in ('', 'identity'):
            return data
        if coding == 'gzip':
            return gzip.decompress(data)
        if coding == 'deflate':
            return zlib.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise failure(354, f'inflate failed: {error}') from None
    if coding == 'zstd':
        return unzstd(data)
    raise failure(48, f'Unknown compression method: {coding}')


# ---- statements ----------------------------------------------------------------------------------

def tokens(text):
    """(kind, bytes, end, depth) of each, without spaces and comments."""
    depth = 0
    for match in TOKEN.finditer(text):
        kind, token = match.lastgroup, match.group()
        if kind == 'space':
            continue
        depth -= token == b')'
        yield kind, token, match.end(), depth
        depth += token == b'('


def split_insert(text):
    """Of an INSERT that brings data: (statement up to where FROM INFILE belongs, its settings,
    format, data); None: it is no such statement."""
    target_end = None  # where table and columns end
    words = tokens(text)
    if next(words, ('', b''))[1].upper() != b'INSERT':
        return None
    for kind, token, end, depth in words:
        word = token.upper() if kind == 'word' and depth == 0 else b''
        start = end - len(token)
        if word in (b'SELECT', b'WITH', b'INFILE', b'WATCH'):
            return None
        if word == b'SETTINGS' and target_end is None:
            target_end = start
        if word in (b'VALUES', b'FORMAT'):
            at, form = target_end or start, b'Values'
            if word == b'FORMAT':
                _, form, end, _ = next(words, ('', b'Values', end, 0))
                data = text[LINE_END.match(text, end).end():]
            else:
                data = text[end:]
            return text[:at], text[at:start], form, data
    return None


def check_single(text):
    """A server takes one statement per request; the engine would run several."""
    if b';' not in text:
        return
    ended = False
    for _, token, _, _ in tokens(text):
        if ended and token != b';':
            raise failure(62, 'Syntax error (Multi-statements are not allowed)')
        ended = ended or token == b';'


# ---- the engine ----------------------------------------------------------------------------------

class Engine:
    """One connection per query, so that each has its own settings, as over HTTP."""

    def __init__(self, folder):
        sys.path.insert(0, os.environ['LEDGER_TEST_CHDB'])
        from chdb import _chdb  # pylint: disable=import-error,import-outside-toplevel
        self.connect_engine = _chdb.connect
        self.path = os.path.join(folder, 'data')
        self.tmp = os.path.join(folder, 'tmp')
        os.makedirs(self.tmp, exist_ok=True)
        self.lock = threading.Lock()
        self.kept = self.connect()  # the engine lives as long as there is a connection
        self.version = self.ask(self.kept, 'SELECT version()').bytes().decode().strip()

    def connect(self):
        with self.lock:
            return self.connect_engine(self.path)

    @staticmethod
    def ask(connection, text, form='TabSeparated', params=None):
        try:
            return connection.query(text, form, params=params or {})
        except RuntimeError as error:
            found = re.match(r'Code: (\d+)', str(error))
            raise Failed(int(found.group(1)) if found else 1002, str(error).strip()) from None

    def prepare(self, connection, query):
        if query.database:
            name = query.database.replace('\\', '\\\\').replace('`', '\\`')
            self.ask(connection, f'USE `{name}`')
        settings = dict(query.settings)
        if query.readonly:
            settings['readonly'] = '2'
        for name, value in settings.items():
            if not re.fullmatch(r'\w+', name):
                raise failure(115, f'Unknown setting {name!r}')
            value = value.replace('\\', '\\\\').replace("'", "\\'")
            self.ask(connection, f"SET {name} = '{value}'")

    def run(self, query):
        """The result, and how many rows were read and written."""
        connection = self.connect()
        path = ''
        try:
            self.prepare(connection, query)
            text = query.text
            insert = split_insert(text)
            query.brings_rows = insert is not None
            if insert:
                # Inline the engine would take the first empty line for the end of the data.
                head, settings, form, data = insert
                path = os.path.join(self.tmp, uuid.uuid4().hex)
                with open(path, 'wb') as file:
                    file.write(data)
                text = b"%s FROM INFILE '%s' %s FORMAT %s" % (head, path.encode(), settings, form)
            else:
                check_single(text)
            result = self.ask(connection, text, query.format, query.params)
            return result.bytes(), result.rows_read(), result.rows_written()
        finally:
            if path:
                os.unlink(path)
            with self.lock:
                connection.close()


# ---- faults --------------------------------------------------------------------------------------

class Faults:
    def __init__(self, folder):
        self.path = os.path.join(folder, 'fault')
        self.lock = threading.Lock()
        self.pending = []

    def take(self, text):
        """The first that this query is to meet, or None."""
        with self.lock:
            if os.path.exists(self.path):
                with open(self.path, encoding='utf-8') as file:
                    self.pending = [json.loads(line) for line in file if line.strip()]
                os.unlink(self.path)
            for fault in self.pending:
                if fault.get('match', '').encode() in text:
                    if fault.get('skip', 0) > 0:
                        fault['skip'] -= 1
                        continue
                    fault['times'] = fault.get('times', 1) - 1
                    if fault['times'] <= 0:
                        self.pending.remove(fault)
                    return dict(fault)
        return None


# ---- HTTP ----------------------------------------------------------------------------------------

class Query:
    # pylint: disable=too-few-public-methods
    def __init__(self, url, headers, method, body):
        params = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        params = {name: values[-1] for name, values in params.items()}
        self.settings = {n: v for n, v in params.items()
                         if n not in NO_SETTING and not n.startswith('param_')}
        self.params = {n[6:]: v for n, v in params.items() if n.startswith('param_')}
        self.database = params.get('database') or headers.get('X-ClickHouse-Database', '')
        self.format = params.get('default_format') or headers.get('X-ClickHouse-Format',
                                                                  'TabSeparated')
        self.id = params.get('query_id') or str(uuid.uuid4())
        self.readonly = method in ('GET', 'HEAD')
        self.brings_rows = False  # known once it ran
        self.user, self.password = params.get('user'), params.get('password')
        text = params.get('query', '').encode('utf-8', 'surrogateescape')
        self.text = (text + b'\n' if text else b'') + body
        if 'session_id' in params:
            raise failure(48, 'this front has no sessions')


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server_version = 'ClickHouse front'
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        pass

    # -- the request

    raw_body = b''  # as it came

    def read_exactly(self, size):
        data = self.rfile.read(size)
        if len(data) != size:
            raise HungUp
        return data

    def read_body(self):
        if 'chunked' in self.headers.get('Transfer-Encoding', '').lower():
            parts = []
            while True:
                line = self.rfile.readline(100)
                if not line.endswith(b'\n'):
                    raise HungUp
                size = int(line.split(b';')[0], 16)
                if size == 0:
                    break
                parts.append(self.read_exactly(size))
                self.read_exactly(2)
            while self.rfile.readline(1000).strip():
                pass
            data = b''.join(parts)
        else:
            size = int(self.headers.get('Content-Length', 0))
            if size > BODY_MAX:
                raise HungUp
            data = self.read_exactly(size)
        self.raw_body = data
        return unpack(data, self.headers.get('Content-Encoding', ''))

    def check_user(self, query):
        front = self.server
        user = self.headers.get('X-ClickHouse-User')
        key = self.headers.get('X-ClickHouse-Key')
        basic = self.headers.get('Authorization', '')
        if basic.startswith('Basic '):
            if user is not None:
                raise failure(516, 'Invalid authentication: it is not allowed to use both'
                              ' X-ClickHouse-User and Authorization')
            user, _, key = base64.b64decode(basic[6:]).decode().partition(':')
        user = user or query.user or 'default'
        key = key if key is not None else query.password or ''
        if user != front.user or not secrets.compare_digest(key.encode(), front.password.encode()):
            raise failure(516, f'{user}: Authentication failed: password is incorrect, or there is'
                          ' no user with such name.')

    # -- the answer

    def head(self, status, headers):
        self.send_response(status)
        self.send_header('X-ClickHouse-Server-Display-Name', 'front')
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def chunk(self, data):
        if data:
            self.wfile.write(b'%x\r\n%s\r\n' % (len(data), data))

    def reset(self):
        """RST: what was written before has been handed over."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        raise HungUp

    def plain(self, status, text, headers=None):
        data = text.encode()
        self.head(status, {'Content-Type': 'text/plain; charset=UTF-8',
                           'Content-Length': str(len(data)), **(headers or {})})
        if self.command != 'HEAD':
            self.wfile.write(data)

    def answer_error(self, error, query_id):
        status = STATUS.get(error.code, 500)
        headers = {'X-ClickHouse-Exception-Code': str(error.code),
                   'X-ClickHouse-Query-Id': query_id}
        if status == 401 or (error.code == 516 and 'Authorization' in self.headers):
            status = 401
            headers['WWW-Authenticate'] = 'Basic realm="ClickHouse server HTTP API"'
        self.plain(status, self.server.with_version(error), headers)
        return status

    def packing(self, query):
        if query.settings.get('enable_http_compression') == '1':
            for coding in ('zstd', 'gzip'):
                if coding in self.headers.get('Accept-Encoding', ''):
                    return coding
        return None

    def answer_result(self, query, result, fault):
        data, read, written = result
        act = fault.get('act') if fault else None
        tag = ''.join(secrets.choice('abcdefghijklmnopqrstuvwxyz') for _ in range(16))
        summary = {'read_rows': str(read), 'written_rows': str(written)}
        headers = {'Content-Type': 'text/tab-separated-values; charset=UTF-8',
                   'X-ClickHouse-Query-Id': query.id, 'X-ClickHouse-Format': query.format,
                   'X-ClickHouse-Timezone': 'UTC', 'X-ClickHouse-Exception-Tag': tag,
                   'X-ClickHouse-Summary': json.dumps(summary)}
        coding = self.packing(query) if act not in ('late', 'tagged') else None
        if coding:
            data = to_zstd(data) if coding == 'zstd' else gzip.compress(data, 1)
            headers['Content-Encoding'] = coding
        if act == 'cut' and fault.get('bytes', 0) < 0:
            self.reset()
        self.head(200, {**headers, 'Transfer-Encoding': 'chunked'})
        if self.command == 'HEAD':
            return
        if act in ('cut', 'late', 'tagged'):
            data = data[:fault.get('bytes', 0)]
        for at in range(0, len(data), CHUNK):
            self.chunk(data[at:at + CHUNK])
        if act == 'cut':
            self.reset()
        if act in ('late', 'tagged'):
            self.answer_late(fault, tag if act == 'tagged' else None)
        self.wfile.write(b'0\r\n\r\n')

    def answer_late(self, fault, tag):
        """An error behind what was sent already."""
        error = failure(fault.get('code', 241), fault.get('text', 'it failed in the middle'))
        text = self.server.with_version(error).encode()
        if tag is None:
            self.chunk(text)
            return
        self.chunk(b'\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n'
                   % (tag.encode(), text, len(text), tag.encode()))
        self.wfile.flush()
        raise HungUp  # the last chunk is left out, so that nobody takes it for a whole answer

    # -- from one to the other

    def play(self, fault, when):
        """The part of a fault that is at this moment."""
        if not fault or fault.get('when', 'after') != when:
            return
        if fault['act'] == 'stall':
            time.sleep(fault.get('seconds', 3600))
        if fault['act'] == 'hold':
            self.server.hold()
        if fault['act'] == 'cut' and when == 'before':
            self.reset()
        if fault['act'] == 'error':
            raise failure(fault['code'], fault.get('text', 'it fails because a test wants it'))

    def serve_query(self, url, body):
        query, note, status, code = None, None, 200, 0
        fault, start = None, time.monotonic()
        try:
            query = Query(url, self.headers, self.command, body)
            self.check_user(query)
            if not query.text.strip():
                return self.plain(200, 'Ok.\n')
            fault = self.server.faults.take(query.text)
            self.play(fault, 'before')
            if fault and fault['act'] == 'answer' and fault.get('when') == 'before':
                status = fault.get('status', 200)
                return self.plain(status, fault.get('text', ''), fault.get('headers'))
            result = self.server.engine.run(query)
            if query.brings_rows:
                self.server.record(self.path, self.raw_body)
            self.play(fault, 'after')
            if fault and fault['act'] == 'answer':
                status = fault.get('status', 200)
                return self.plain(status, fault.get('text', ''), fault.get('headers'))
            return self.answer_result(query, result, fault)
        except Failed as error:
            code, note = error.code, error.text[:500]
            status = self.answer_error(error, query.id if query else str(uuid.uuid4()))
            return None
        except HungUp:
            status = 0
            raise
        finally:
            if query and query.text.strip():
                self.server.note({'query': query.text[:2000].decode('latin-1'), 'status': status,
                                  'code': code, 'error': note, 'database': query.database,
                                  'bytes': len(query.text),
                                  'ms': round(1000 * (time.monotonic() - start), 3),
                                  'settings': query.settings,
                                  'coding': self.headers.get('Content-Encoding', ''),
                                  'fault': fault and fault['act']})

    def serve(self):
        url = urllib.parse.urlsplit(self.path)
        try:
            try:
                body = self.read_body()
            except Failed as error:
                self.answer_error(error, str(uuid.uuid4()))
                return
            if url.path in ('/ping', '/replicas_status'):
                self.plain(200, 'Ok.\n')
            elif url.path != '/':
                self.plain(404, f'There is no handle {url.path}\n')
            else:
                self.serve_query(url, body)
        except (HungUp, ConnectionError, ssl.SSLError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = serve  # as http.server wants them named

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()


class Front(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, options):
        super().__init__(('127.0.0.1', options.port), Handler)
        self.user, self.password = options.user, ''
        if options.password_file:
            with open(options.password_file, encoding='utf-8') as file:
                self.password = file.read().rstrip('\n')
        self.tls = None
        if options.certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(options.certificate, options.key)
        self.held = os.path.join(options.folder, 'held')
        self.engine = Engine(options.folder)
        self.faults = Faults(options.folder)
        self.lock = threading.Lock()
        self.recorded, self.record_folder = 0, ''
        if options.record:
            self.record_folder = os.path.join(options.folder, 'record')
            os.makedirs(self.record_folder)
        # pylint: disable=consider-using-with
        self.requests = open(os.path.join(options.folder, 'requests'), 'a', encoding='utf-8')

    def hold(self):
        with open(self.held, 'w', encoding='ascii'):
            pass
        while os.path.exists(self.held):
            time.sleep(0.005)

    def record(self, path, body):
        if self.record_folder:
            with self.lock:
                self.recorded += 1
                at = os.path.join(self.record_folder, str(self.recorded))
                with open(at + '.path', 'w', encoding='ascii') as file:
                    file.write(path)
                with open(at + '.body', 'wb') as file:
                    file.write(body)

    def with_version(self, error):
        return f'{error.text} (version {self.engine.version} (official build))\n'

    def note(self, request):
        with self.lock:
            self.requests.write(json.dumps(request) + '\n')
            self.requests.flush()

    def finish_request(self, request, client_address):
        if self.tls:  # in the thread of the connection: a client may take its time
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def shutdown_request(self, request):
        if not self.tls:
            self.close_request(request)  # what was reset stays so

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, ssl.SSLError)):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('folder')
    parser.add_argument('--port', type=int, default=0)
    parser.add_argument('--user', default='default')
    parser.add_argument('--password-file')
    parser.add_argument('--certificate')
    parser.add_argument('--key')
    parser.add_argument('--record', action='store_true')
    options = parser.parse_args()
    options.folder = os.path.abspath(options.folder)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # what is done is on its way to the disk
    front = Front(options)
    ready = os.path.join(options.folder, 'port')
    with open(ready + '.new', 'w', encoding='ascii') as file:
        file.write(f'{front.server_address[1]}\n')
    os.rename(ready + '.new', ready)
    front.serve_forever()


if __name__ == '__main__':
    main()
