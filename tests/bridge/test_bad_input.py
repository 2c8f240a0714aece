#!/usr/bin/env python3
"""test_bad_input.py LEDGERCTL ROOT WRITER: bad files, disks, locks and permissions around a bridge.

A clear error that says what to change, an exit code of the list, and nothing lost or half written:
when the cause is gone, the sink ends up equal to the source."""
import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'cli'))
import harness  # noqa: E402
from harness import CTL, Skip, contains, ctl, environment, equal, init  # noqa: E402

WRITER = os.path.abspath(sys.argv[3])
SLOW = 6 if os.environ.get('LEDGER_TEST_SANITIZED') else 1
SOURCE, SINK = 'sqlite:source.db', 'sqlite:sink.db'
PAIR = ('--source', SOURCE, '--sink', SINK)


def fill(count, url=SOURCE, size=10, first=0):
    lines = ''.join(json.dumps({'stream': f's{i % 3}', 'payload': {'n': i, 'x': 'x' * size},
                                'tags': ['a', 'b'][:i % 3]}) + '\n'
                    for i in range(first, first + count))
    ctl('stream', 'append', '--store', url, '--lines', stdin=lines)


def pair(count=20):
    init('source', 'sink')
    fill(count)


def run(*args, **named):
    named.setdefault('timeout', 120 * SLOW)
    return ctl('bridge', 'run', *PAIR, '--until-empty', '--retry-for', '2s', *args, **named)


def nothing_parked(sink=SINK):
    equal(ctl('bridge', 'parked', 'list', '--sink', sink).out, '')


def counted(url):
    return int(ctl('stream', 'count', '--store', url).out)


def verify():
    contains((lambda r: r.out + r.err)(ctl('bridge', 'verify', *PAIR)), 'equal')
    query = ('SELECT stream, CAST(payload AS TEXT), order_key, dedup_key, schema_version,'
             ' metadata, tags, annotations, created_at, updated_at FROM ledger_entries'
             ' ORDER BY stream, ')
    rows = []
    for name, key in (('source.db', 'id'), ('sink.db', 'source_pos')):
        with sqlite3.connect(name) as db:
            rows.append(db.execute(query + key).fetchall())
    equal(rows[0], rows[1])


def content(path):
    with open(path, 'rb') as file:
        return file.read()


def one_line(result):
    """An error is words on stderr that name the file or table, and nothing on stdout."""
    assert result.err.strip(), str(result)
    equal(result.out, '')
    assert 'Traceback' not in result.err and 'Assert' not in result.err, str(result)


# ---- what is no ledger ---------------------------------------------------------------------------

def test_source_or_sink_is_no_database():
    for bad in ('source.db', 'sink.db'):
        for text in (b'this is a letter, not a database\n' * 200,
                     b'SQLite format 3\0' + b'\xff' * 5000):
            for name in ('source.db', 'sink.db'):
                for path in (name, name + '-wal', name + '-shm'):
                    if os.path.exists(path):
                        os.unlink(path)
            pair()
            for path in (bad, bad + '-wal', bad + '-shm'):
                if os.path.exists(path):
                    os.unlink(path)
            with open(bad, 'wb') as file:
                file.write(text)
            result = run(code=65)
            one_line(result)
            contains(result.err, bad)
            equal(content(bad), text)


def test_a_damaged_sink_is_not_made_worse():
    pair(300)
    run()
    with sqlite3.connect('sink.db') as db:
        db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    size = os.path.getsize('sink.db')
    with open('sink.db', 'r+b') as file:
        file.seek(4096)
        file.write(b'\xaa' * (size - 4096))
    fill(50, first=300)
    result = run(code=None)
    assert result.code in (65, 78), str(result)
    one_line(result)


def test_tables_are_missing():
    init('source')
    fill(3)
    with sqlite3.connect('sink.db') as db:
        db.execute('CREATE TABLE t (x)')
    result = run(code=78)
    one_line(result)
    contains(result.err, 'store init')
    with sqlite3.connect('sink.db') as db:
        equal(db.execute('SELECT name FROM sqlite_master').fetchall(), [('t',)])
    ctl('store', 'init', '--store', SINK)
    run()
    verify()


def test_the_source_has_no_log():
    init('sink')
    ctl('store', 'init', '--store', SOURCE, '--no-log', code=None)
    if not os.path.exists('source.db'):
        ctl('store', 'init', '--store', SOURCE, '--log', 'off')
    result = run(code=78)
    one_line(result)
    contains(result.err, 'mutation log')


def test_a_table_of_another_shape():
    init('source', 'sink')
    fill(3)
    for name in ('source', 'sink'):
        with sqlite3.connect(f'{name}.db') as db:
            db.execute('CREATE TABLE other (id INTEGER PRIMARY KEY, foo TEXT)')
            db.execute("INSERT INTO other VALUES (1, 'kept')")
        result = ctl('bridge', 'run', *PAIR, f'--{name}-table', 'other', '--until-empty', code=78)
        one_line(result)
        contains(result.err, 'other')
        with sqlite3.connect(f'{name}.db') as db:
            equal(db.execute('SELECT * FROM other').fetchall(), [(1, 'kept')])


def test_a_folder_in_place_of_a_file():
    init('source')
    os.mkdir('sink.db')
    result = run(code=None)
    assert result.code in (65, 69, 77, 78), str(result)
    one_line(result)


def test_invalid_table_names():
    init('source', 'sink')
    for name in ('x; DROP TABLE ledger_entries', 'a-b', '1a', 'a.b', ''):
        result = ctl('bridge', 'run', *PAIR, '--sink-table', name, '--until-empty', code=2)
        one_line(result)
    with sqlite3.connect('sink.db') as db:
        equal(db.execute('SELECT count(*) FROM ledger_entries').fetchone(), (0,))


# ---- whose cursor --------------------------------------------------------------------------------

def test_a_cursor_of_another_source():
    pair(5)
    run()
    init('other')
    fill(5, 'sqlite:other.db')
    before = ctl('stream', 'count', '--store', SINK).out
    other = ('--source', 'sqlite:other.db', '--sink', SINK)
    result = ctl('bridge', 'run', *other, '--until-empty', code=78)
    one_line(result)
    contains(result.err, 'cursor')
    equal(ctl('stream', 'count', '--store', SINK).out, before)
    ctl('bridge', 'status', *other, code=78)
    ctl('bridge', 'run', *other, '--until-empty', '--name', 'other')
    run()
    ctl('bridge', 'verify', *other, '--name', 'other')
    ctl('bridge', 'verify', *PAIR)


def test_a_source_restored_from_a_backup():
    pair(10)
    with sqlite3.connect('source.db') as db, sqlite3.connect('backup.db') as copy:
        db.backup(copy)
    fill(10, first=10)
    run()
    for path in ('source.db', 'source.db-wal', 'source.db-shm'):
        if os.path.exists(path):
            os.unlink(path)
    shutil.copy('backup.db', 'source.db')
    fill(15, first=500)
    before = ctl('stream', 'count', '--store', SINK).out
    for verb in (('run', '--until-empty'), ('poll',), ('status',)):
        result = ctl('bridge', verb[0], *PAIR, *verb[1:], code=78)
        contains(result.err, 'source')
    equal(ctl('stream', 'count', '--store', SINK).out, before)
    # Told to read all of it again, it finds the ids that were used twice.
    ctl('bridge', 'cursor', 'reset', *PAIR, code=None)
    result = run(code=65)
    one_line(result)
    equal(ctl('stream', 'count', '--store', SINK).out, before)


# ---- locks ---------------------------------------------------------------------------------------

def hold(path, milliseconds):
    child = subprocess.Popen([WRITER, 'hold', path, str(milliseconds)], stdout=subprocess.PIPE)
    equal(child.stdout.readline(), b'held\n')
    return child


def test_a_locked_sink_is_waited_for():
    pair(50)
    child = hold('sink.db', 1500)
    run('--retry-for', '60s')
    equal(child.wait(), 0)
    verify()


def test_a_sink_locked_for_longer_is_tried_again():
    pair(50)
    child = hold('sink.db', 3000)
    run('--busy-timeout', '100ms', '--retry-for', '60s')
    equal(child.wait(), 0)
    verify()


def test_a_sink_locked_for_too_long_is_an_error_and_no_loss():
    pair(50)
    with contextlib.closing(sqlite3.connect('sink.db', isolation_level=None)) as db:
        db.execute('BEGIN IMMEDIATE')
        result = run('--busy-timeout', '100ms', '--retry-for', '500ms', code=75)
    one_line(result)
    contains(result.err, 'locked')
    run()
    verify()


def test_a_locked_source_is_waited_for():
    for journal in ('wal', 'delete'):
        for name in os.listdir():
            os.unlink(name)
        pair(50)
        with sqlite3.connect('source.db') as db:
            db.execute(f'PRAGMA journal_mode={journal}')
        db.close()
        child = hold('source.db', 1500)
        run('--busy-timeout', '100ms', '--retry-for', '60s')
        equal(child.wait(), 0)
        verify()


# ---- permissions ---------------------------------------------------------------------------------

def as_nobody(*args):
    """Root may do anything, so somebody else has to try."""
    if os.getuid() != 0:
        return subprocess.run([CTL, *args], capture_output=True, env=environment(), check=False)
    try:
        done = subprocess.run([CTL, 'version'], capture_output=True, env=environment(), user=65534,
                              group=65534, extra_groups=[], check=False)
    except OSError as error:
        raise Skip(f'nobody cannot run the program here: {error}') from None
    if done.returncode != 0:
        raise Skip('nobody cannot run the program here')
    return subprocess.run([CTL, *args], capture_output=True, env=environment(), user=65534,
                          group=65534, extra_groups=[], check=False, timeout=120)


def open_up(mode):
    here = os.getcwd()
    os.chmod(here, mode)
    return here


def give_to_nobody(*names):
    """Reading a source in WAL mode needs its shared memory file too."""
    for name in names:
        for path in (name, name + '-wal', name + '-shm'):
            if os.path.exists(path):
                os.chmod(path, 0o666)


def test_a_read_only_sink():
    pair()
    open_up(0o777)
    give_to_nobody('source.db')
    for name in ('sink.db', 'sink.db-wal', 'sink.db-shm'):
        if os.path.exists(name):
            os.chmod(name, 0o444)
    done = as_nobody('bridge', 'run', *PAIR, '--until-empty', '--retry-for', '1s')
    text = done.stderr.decode()
    equal(done.returncode, 77)
    contains(text, 'sink.db')
    open_up(0o755)
    give_to_nobody('sink.db')
    nothing_parked()
    run()
    verify()


def test_a_read_only_folder():
    pair()
    give_to_nobody('source.db', 'sink.db')
    open_up(0o555)
    done = as_nobody('bridge', 'run', *PAIR, '--until-empty', '--retry-for', '1s')
    open_up(0o755)
    text = done.stderr.decode()
    equal(done.returncode, 77)
    contains(text, 'folder')
    nothing_parked()
    run()
    verify()


def test_an_unreadable_source():
    pair()
    open_up(0o755)
    os.chmod('source.db', 0o000)
    done = as_nobody('bridge', 'run', *PAIR, '--until-empty', '--retry-for', '1s')
    assert done.returncode in (69, 77), f'{done.returncode} {done.stderr}'
    contains(done.stderr.decode(), 'source.db')
    os.chmod('source.db', 0o644)
    run()
    verify()


# ---- full disks ----------------------------------------------------------------------------------

def small_disk(size):
    os.mkdir('small')
    if os.getuid() != 0 or shutil.which('mount') is None:
        raise Skip('only root can mount a small disk')
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', 'small'],
                          capture_output=True, check=False)
    if done.returncode != 0:
        raise Skip('a small disk cannot be mounted here: ' + done.stderr.decode().strip())


def test_a_sink_on_a_full_disk():
    small_disk('1m')
    try:
        init('source')
        fill(3000, size=500)
        sink = 'sqlite:small/sink.db'
        ctl('store', 'init', '--store', sink)
        ends = ('--source', SOURCE, '--sink', sink)
        for _ in range(2):
            result = ctl('bridge', 'run', *ends, '--until-empty', '--retry-for', '1s', code=75)
            one_line(result)
            contains(result.err, 'full')
        ctl('bridge', 'verify', *ends)  # equal up to the cursor: nothing half written
        nothing_parked(sink)
        subprocess.run(['mount', '-o', 'remount,size=64m', 'small'], check=True)
        ctl('bridge', 'run', *ends, '--until-empty')
        ctl('bridge', 'verify', *ends)
        equal(counted(sink), counted(SOURCE))
    finally:
        subprocess.run(['umount', 'small'], check=False)


def test_a_sink_on_a_disk_that_becomes_read_only():
    small_disk('64m')
    child = None
    try:
        init('source')
        sink = 'sqlite:small/sink.db'
        ctl('store', 'init', '--store', sink)
        ends = ('--source', SOURCE, '--sink', sink)
        subprocess.run(['chmod', 'a+w', 'small'], check=True)
        fill(5)
        child = subprocess.Popen([CTL, 'bridge', 'run', *ends, '--quiet', '--interval', '100ms'],
                                 env=environment(), stderr=subprocess.PIPE)
        for _ in range(300 * SLOW):
            if counted(sink) == 5:
                break
            time.sleep(0.1)
        # What somebody has open for writing is not taken away without force.
        if subprocess.run(['mount', '-o', 'remount,ro', 'small'], capture_output=True,
                          check=False).returncode != 0:
            child.terminate()
            equal(child.wait(timeout=60), 0)
            subprocess.run(['mount', '-o', 'remount,ro', 'small'], check=True)
            fill(20, first=5)
            result = ctl('bridge', 'run', *ends, '--until-empty', '--retry-for', '1s', code=77)
            contains(result.err, 'sink.db')
        result = ctl('store', 'check', '--store', sink, code=None)
        contains(result.out + result.err, 'mounted read-only')
        subprocess.run(['mount', '-o', 'remount,rw', 'small'], check=True)
        nothing_parked(sink)
        ctl('bridge', 'run', *ends, '--until-empty')
        equal(counted(sink), counted(SOURCE))
    finally:
        if child is not None and child.poll() is None:
            child.kill()
            child.wait()
        subprocess.run(['umount', 'small'], check=False)


def test_a_disk_that_fills_up_while_the_bridge_runs():
    small_disk('1m')
    try:
        init('source')
        sink = 'sqlite:small/sink.db'
        ctl('store', 'init', '--store', sink)
        ends = ('--source', SOURCE, '--sink', sink)
        child = subprocess.Popen([CTL, 'bridge', 'run', *ends, '--quiet', '--interval', '100ms'],
                                 env=environment(), stderr=subprocess.PIPE)
        fill(3000, size=500)
        time.sleep(1)
        assert child.poll() is None, child.stderr.read()
        subprocess.run(['mount', '-o', 'remount,size=64m', 'small'], check=True)
        fill(10, first=3000)
        for _ in range(300 * SLOW):
            if counted(sink) == counted(SOURCE):
                break
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        equal(child.wait(timeout=60), 0)
        ctl('bridge', 'verify', *ends)
        equal(counted(sink), counted(SOURCE))
    finally:
        subprocess.run(['umount', 'small'], check=False)


def limit_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400 * 1024, 400 * 1024))


def test_a_file_that_may_not_grow():
    pair(3000)
    done = subprocess.run([CTL, 'bridge', 'run', *PAIR, '--until-empty', '--retry-for', '1s',
                           '--backlog-batch-size', '500'], capture_output=True, env=environment(),
                          preexec_fn=limit_files, check=False, timeout=120)
    assert done.returncode in (69, 75), f'{done.returncode} {done.stderr}'
    assert done.stderr.strip()
    run()
    verify()


def test_a_source_on_a_full_disk_keeps_entries_and_log_together():
    small_disk('1m')
    try:
        url = 'sqlite:small/source.db'
        ctl('store', 'init', '--store', url)
        lines = ''.join(json.dumps({'stream': 's', 'payload': {'n': i, 'x': 'x' * 500}}) + '\n'
                        for i in range(3000))
        result = ctl('stream', 'append', '--store', url, '--lines', stdin=lines, code=75)
        contains(result.err, 'full')
        ctl('store', 'init', '--store', SINK)
        ctl('bridge', 'run', '--source', url, '--sink', SINK, '--until-empty')
        ctl('bridge', 'verify', '--source', url, '--sink', SINK)
        there = int(ctl('stream', 'count', '--store', url).out)
        equal(int(ctl('stream', 'count', '--store', SINK).out), there)
        assert there > 0
        equal(len(result.out.split()), there)  # the ids that were printed are those that are there
    finally:
        subprocess.run(['umount', 'small'], check=False)


# ---- sizes ---------------------------------------------------------------------------------------

def test_a_line_of_a_gibibyte():
    if os.environ.get('LEDGER_TEST_SANITIZED'):
        raise Skip('too slow under a sanitizer')
    init('source')
    child = subprocess.Popen([CTL, 'stream', 'append', '--store', SOURCE, '--lines'],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=environment())
    chunk = b'x' * (1 << 20)
    try:
        child.stdin.write(b'{"stream":"s","payload":"')
        for _ in range(1024):
            child.stdin.write(chunk)
        child.stdin.write(b'"}\n')
        child.stdin.close()
    except BrokenPipeError:
        pass  # it has seen enough
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    equal(child.returncode, 65)
    assert child.stderr.read().strip()
    assert usage.ru_maxrss < 1536 * 1024, f'{usage.ru_maxrss} KiB'
    equal(ctl('stream', 'count', '--store', SOURCE).out.strip(), '0')


def test_an_event_over_every_limit_is_parked():
    if os.environ.get('LEDGER_TEST_SANITIZED'):
        raise Skip('too slow under a sanitizer')
    pair(3)
    # By another process: what it takes would be counted as the bridge's, which is forked from here.
    subprocess.run([sys.executable, '-c', """if True:
        import sqlite3
        db = sqlite3.connect('source.db')
        event = b'{"type":"append","stream":"s0","entries":[{"id":"900000","payload":"' \\
            + b'x' * 280000000 + b'"}]}'
        db.execute("INSERT INTO ledger_entries_mutations (stream, payload) VALUES ('_', ?)",
                   (event,))
        db.commit()"""], check=True)
    fill(3, first=3)
    child = subprocess.Popen([CTL, 'bridge', 'run', *PAIR, '--until-empty', '--quiet'],
                             stderr=subprocess.PIPE, env=environment())
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode in (0, 12), child.stderr.read()
    assert usage.ru_maxrss < 1024 * 1024, f'{usage.ru_maxrss} KiB'
    equal(counted(SINK), counted(SOURCE))
    ctl('bridge', 'status', *PAIR, code=12)


harness.main(globals())
