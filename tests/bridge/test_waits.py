"""A bridge that waits: for the lock of a file, a standby, a lock, a server that is stopped, a port
that never answers. It sees the stop, says what it waits for, and a wait counts for --retry-for."""
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'cli'))
# pylint: disable=wrong-import-position
from harness import (await_catching, contains, ctl, equal, init, main, PgServer,  # noqa: E402
                     shared_pg, Skip, spawn)

# Who does not hear of the stop waits for ten minutes, or for ever.
GONE_S = 60


class Running:
    """ledgerctl in the background, its words in a file."""

    def __init__(self, *args, **more):
        self.err_path = f'err-{time.monotonic_ns()}'
        with open(self.err_path, 'wb') as err:
            self.process = spawn(*args, stdout=subprocess.DEVNULL, stderr=err, **more)

    def words(self):
        with open(self.err_path, encoding='utf-8') as file:
            return file.read()

    def await_words(self, part, seconds=GONE_S):
        end = time.monotonic() + seconds
        while part not in self.words():
            assert self.process.poll() is None, self.words()
            assert time.monotonic() < end, f'{part!r} is not in:\n{self.words()}'
            time.sleep(0.05)

    def ends(self, code, seconds=GONE_S):
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f'still there after {seconds} s:\n{self.words()}') from None
        assert self.process.returncode == code, f'exit {self.process.returncode}\n{self.words()}'
        return self.words()

    def stop(self, number=signal.SIGTERM, code=0):
        if code >= 0:
            await_catching(self.process, number)
        self.process.send_signal(number)
        return self.ends(code)


def run(source, sink, *args, **more):
    return Running('bridge', 'run', '--source', source, '--sink', sink, *args, **more)


@contextlib.contextmanager
def locked(url, begin='BEGIN IMMEDIATE'):
    """Another process has the lock; gives its number."""
    program = ('import sqlite3, sys, time\n'
               'db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)\n'
               'db.execute(sys.argv[2]); print("locked", flush=True); time.sleep(600)')
    with subprocess.Popen([sys.executable, '-c', program, url.split(':', 1)[1], begin],
                          stdout=subprocess.PIPE) as holder:
        try:
            equal(holder.stdout.readline(), b'locked\n')
            yield holder.pid
        finally:
            holder.kill()


@contextlib.contextmanager
def silent_port(greeting=b''):
    """A port that accepts, perhaps answers once, and never again."""
    with socket.create_server(('127.0.0.1', 0)) as server, contextlib.ExitStack() as stack:
        pid = os.fork()
        if pid == 0:
            kept = []
            while True:
                kept.append(server.accept()[0])
                if greeting:
                    kept[-1].recv(8)
                    kept[-1].sendall(greeting)
        stack.callback(lambda: (os.kill(pid, signal.SIGKILL), os.waitpid(pid, 0)))
        yield server.getsockname()[1]


def append(url, count=1):
    ctl('stream', 'append', '--store', url, '--lines',
        stdin='{"stream": "s", "payload": {}}\n' * count)


def await_count(url, count, seconds=GONE_S):
    end = time.monotonic() + seconds
    while ctl('stream', 'count', '--store', url).out.strip() != str(count):
        assert time.monotonic() < end
        time.sleep(0.05)


def carried_once(source, sink):
    ctl('bridge', 'run', '--source', source, '--sink', sink, '--until-empty')
    contains(ctl('bridge', 'verify', '--source', source, '--sink', sink).out, 'equal: ')


def following(source, sink, *args, **more):
    """A bridge that has carried an entry and follows."""
    append(source)
    bridge = run(source, sink, *args, **more)
    await_count(sink, 1)
    return bridge


# --- SQLite -------------------------------------------------------------------------------------

def test_a_locked_sink():
    source, sink = init('source', 'sink')
    bridge = following(source, sink, '--busy-timeout', '10m')
    with locked(sink) as pid:
        append(source)
        bridge.await_words(f'process {pid} (')
        words = bridge.stop()
        contains(words, 'waits for the lock of the file', 'moved 1 mutation')
        equal(words.count('warn '), 1)
    carried_once(source, sink)


def test_a_locked_sink_counts_for_retry():
    source, sink = init('source', 'sink')
    append(source)
    with locked(sink) as pid:
        for timeout in ('10m', '200ms'):
            bridge = run(source, sink, '--until-empty', '--retry-for', '2s', '--busy-timeout',
                         timeout)
            contains(bridge.ends(75), f'process {pid} (')


def test_a_locked_source_at_the_start():
    source, sink = init('source', 'sink')
    with contextlib.closing(sqlite3.connect('source.db')) as db:
        db.execute('PRAGMA journal_mode=DELETE')
    with locked(source, 'BEGIN EXCLUSIVE'):
        bridge = run(source, sink, '--busy-timeout', '10m')
        time.sleep(1)
        bridge.stop()
        run(source, sink, '--busy-timeout', '10m', '--retry-for', '2s').ends(75)
        for args in (['store', 'init', '--store', source], ['bridge', 'status', '--source', source,
                                                            '--sink', sink],
                     ['stream', 'append', '--store', source, '{}'],
                     ['stream', 'tail', '--store', source]):
            command = Running(*args, '--busy-timeout', '10m')
            time.sleep(0.5)
            command.stop(code=-signal.SIGTERM)


def test_a_second_signal_does_not_wait():
    source, sink = init('source', 'sink')
    bridge = following(source, sink, '--busy-timeout', '10m')
    with locked(sink):
        append(source)
        time.sleep(0.5)
        bridge.process.terminate()
        time.sleep(0.5)
        bridge.process.terminate()
        bridge.ends(128 + signal.SIGTERM)
    carried_once(source, sink)


def test_a_terminal_that_is_closed():
    source, sink = init('source', 'sink')
    # The tests themselves may run under nohup.
    bridge = following(source, sink,
                       preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    contains(bridge.stop(signal.SIGHUP), 'moved 1 mutation')
    # Under nohup it stays.
    bridge = run(source, sink, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    append(source)
    await_count(sink, 2)
    bridge.process.send_signal(signal.SIGHUP)
    append(source)
    await_count(sink, 3)
    bridge.stop()


# --- PostgreSQL -----------------------------------------------------------------------------------

def test_a_port_that_never_answers():
    source = init('source')
    for greeting in (b'', b'S'):
        with silent_port(greeting) as port:
            url = f'postgresql://u@127.0.0.1:{port}/d?connect_timeout=0'
            bridge = run(source, url)
            time.sleep(1)
            bridge.stop()
            run(source, url, '--retry-for', '2s').ends(69)
            several = f'postgresql://u@127.0.0.1:{port},127.0.0.1:{port}/d?connect_timeout=0'
            bridge = run(source, several)
            time.sleep(1)
            bridge.stop()


def test_the_sinks_standby_is_away():
    server = PgServer()
    source, sink = init('source'), server.url()
    ctl('store', 'init', '--store', sink)
    bridge = following(source, sink)
    server.hold_commits()
    append(source, 3)
    bridge.await_words('SyncRep')
    words = bridge.stop()
    contains(words, 'committing a batch: waits for a synchronous standby', 'moved 1 mutation')
    equal(words.count('warn '), 1)
    server.configure("synchronous_standby_names = ''")
    server.reload()
    carried_once(source, sink)
    server.destroy()


def test_a_server_that_is_stopped():
    server = PgServer()
    source, sink = init('source'), server.url()
    ctl('store', 'init', '--store', sink, '--no-log')
    bridge = following(source, sink)
    frozen = server.freeze()
    try:
        append(source)
        time.sleep(1)
        bridge.stop()
        run(source, sink, '--retry-for', '2s').ends(69)
    finally:
        server.thaw(frozen)
    carried_once(source, sink)
    server.destroy()


def test_a_lock_in_the_sink():
    server = shared_pg()
    server.create_database('waits')
    source, sink = init('source'), server.url('waits')
    ctl('store', 'init', '--store', sink, '--no-log')
    append(source)
    with subprocess.Popen([os.path.join(server.bin, 'psql'), '-XAtq', sink],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdin.write(b'BEGIN; LOCK ledger_entries; SELECT pg_backend_pid();\n')
        other.stdin.flush()
        pid = int(other.stdout.readline())
        for timeout in ('10m', '500ms'):
            words = run(source, sink, '--until-empty', '--retry-for', '4s', '--busy-timeout',
                        timeout).ends(75)
            contains(words, f'process {pid} (', f'pg_terminate_backend({pid})')
        bridge = run(source, sink, '--busy-timeout', '10m')
        time.sleep(2)
        bridge.stop()
        other.stdin.close()
    carried_once(source, sink)


# --- room ---------------------------------------------------------------------------------------

def test_a_full_disk_of_the_server_is_waited_for():
    server = shared_pg()
    place = os.path.join(server.dir, 'small')
    if os.getuid() != 0:
        raise Skip('only root can mount a small disk')
    os.mkdir(place)
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', place],
                          capture_output=True, check=False)
    if done.returncode != 0:
        raise Skip('a small disk cannot be mounted here: ' + done.stderr.decode().strip())
    try:
        os.chown(place, *server.user)
        server.create_database('cramped')
        source, sink = init('source'), server.url('cramped')
        ends = ('--source', source, '--sink', sink)
        ctl('store', 'init', '--store', sink)
        server.sql(f"CREATE TABLESPACE small LOCATION '{place}'")
        server.sql('ALTER TABLE ledger_entries SET TABLESPACE small', 'cramped')
        lines = '{"stream":"s","payload":"' + 'x' * 900 + '"}\n'
        ctl('stream', 'append', '--store', source, '--lines', stdin=lines * 3000)
        for bad in (False, True):  # in bulk, and one after the other beside an event that is bad
            if bad:
                with sqlite3.connect('source.db') as db:
                    db.execute("INSERT INTO ledger_entries_mutations (stream, payload, created_at) "
                               "VALUES ('_', '{\"type\":\"later\",\"stream\":\"t\"}', "
                               "datetime('now'))")
                db.close()
            result = ctl('bridge', 'run', *ends, '--until-empty', '--retry-for', '1s', code=75)
            contains(result.err, '53100', "server's disk")
            equal(ctl('bridge', 'parked', 'list', '--sink', sink).out, '')
        subprocess.run(['mount', '-o', 'remount,size=64m', place], check=True)
        result = ctl('bridge', 'run', *ends, '--until-empty', '--json', code=None)
        assert result.code in (0, 12), str(result)
        equal(server.sql('SELECT count(*) FROM ledger_entries', 'cramped'), '3000')
        equal(server.sql('SELECT count(*) FROM ledger_entries_parked', 'cramped'), '1')
        server.sql('DROP DATABASE cramped')
        server.sql('DROP TABLESPACE small')
    finally:
        subprocess.run(['umount', '-l', place], check=False)


main(globals())
