"""ledgerctl bridge between two SQLite files."""
import json
import os
import pty
import select
import signal
import sqlite3
import time

from harness import await_catching, contains, ctl, environment, equal, init, main, spawn, CTL

STATS = ['applied', 'backlog', 'deduplicated', 'durable_position', 'errors', 'lag_seconds',
         'last_progress', 'last_success', 'parked', 'polls', 'position', 'read', 'skipped',
         'skipped_by']


def pair():
    source, sink = init('source', 'sink')
    return ['--source', source, '--sink', sink]


def fill(url, count, stream='s'):
    ctl('stream', 'append', '--store', url, '--lines',
        stdin=''.join(json.dumps({'stream': f'{stream}{n % 3}', 'payload': {'n': n}, 'dedup_key':
                                  f'{stream}{n}', 'tags': ['t']}) + '\n' for n in range(count)))


def run_until_empty(ends, *args):
    return ctl('bridge', 'run', *ends, '--until-empty', '--json', *args).objects()[0]


def test_run_until_empty_and_verify():
    ends = pair()
    fill(ends[1], 1234)
    ctl('stream', 'tag', '--store', ends[1], '--stream', 's0', '--id', '1', '--tag', 'new')
    ctl('stream', 'annotate', '--store', ends[1], '--stream', 's0', '--id', '1', '--set', 'a=b')
    ctl('stream', 'trim', '--store', ends[1], '--stream', 's1', '--before', '10')
    stats = run_until_empty(ends)
    equal(sorted(stats), STATS)
    equal(sorted(stats['skipped_by']), ['missing', 'option', 'origin', 'replay'])
    equal((stats['backlog'], stats['errors'], stats['parked']), (0, 0, 0))
    equal(stats['read'], stats['applied'] + stats['skipped'] + stats['parked'] +
          stats['deduplicated'])
    assert isinstance(stats['position'], str) and int(stats['position']) > 0, stats
    count = int(ctl('stream', 'count', '--store', ends[1]).out)
    equal(ctl('stream', 'count', '--store', ends[3]).out, f'{count}\n')
    verdict = ctl('bridge', 'verify', *ends).out
    equal(verdict, f'equal: {count:,} entries in 3 streams, position {int(stats["position"])}\n')
    result = ctl('bridge', 'verify', *ends, '--json').objects()[0]
    equal((result['equal'], result['source_count'], result['first_differences']), (True, count, []))
    # A second run has nothing to do.
    equal(run_until_empty(ends)['applied'], 0)


def test_the_summary_is_words_on_stderr():
    ends = pair()
    fill(ends[1], 10)
    result = ctl('bridge', 'run', *ends, '--until-empty')
    equal(result.out, '')
    contains(result.err, 'moved', '0 parked', 'position')
    equal(ctl('bridge', 'run', *ends, '--until-empty', '--quiet').err, '')


def test_run_needs_both_tables():
    source = init('source')
    sqlite3.connect('sink.db').execute('CREATE TABLE x(y)').connection.close()
    result = ctl('bridge', 'run', '--source', source, '--sink', 'sqlite:sink.db', code=78)
    contains(result.err, 'sink', 'ledgerctl store init --store sqlite:', 'sink.db')
    result = ctl('bridge', 'run', '--source', 'sqlite:none.db', '--sink', source, code=None)
    assert result.code in (69, 78), str(result)
    assert not os.path.exists('none.db')


def test_source_and_sink_are_the_same():
    source = init('source')
    contains(ctl('bridge', 'run', '--source', source, '--sink', source, code=2).err, 'same')
    contains(ctl('bridge', 'run', '--source', source, '--sink', source, '--log-table', 'l',
                 '--sink-table', 'other', code=2).err, '--sink-log-table')


def test_two_tables_of_one_file():
    url = init('a')
    ctl('store', 'init', '--store', url, '--table', 'copy', '--no-log')
    fill(url, 20)
    ends = ['--source', url, '--sink', url, '--sink-table', 'copy']
    equal(run_until_empty(ends)['backlog'], 0)
    equal(ctl('stream', 'count', '--store', url, '--table', 'copy').out, '20\n')
    ctl('bridge', 'verify', *ends)


def wait_for(check, seconds=30):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, 'it did not happen'
        time.sleep(0.02)


def test_run_carries_while_it_runs_and_stops_on_signals():
    ends = pair()
    for number, name in ((signal.SIGTERM, 'term'), (signal.SIGINT, 'int')):
        process = spawn('bridge', 'run', *ends, '--json', '--interval', '10s')
        fill(ends[1], 50, name)
        want = ctl('stream', 'count', '--store', ends[1]).out
        wait_for(lambda: ctl('stream', 'count', '--store', ends[3]).out == want)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        equal((process.returncode, sorted(json.loads(out))), (0, STATS))
        contains(err.decode(), 'moved')
    ctl('bridge', 'verify', *ends)


def test_a_signal_at_any_moment_of_the_start():
    ends = pair()
    fill(ends[1], 20)
    for delay in (0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
        process = spawn('bridge', 'run', *ends)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        # Before main() has come to it, a signal kills as it does any program.
        assert process.returncode in (0, -signal.SIGTERM), process.returncode
    equal(run_until_empty(ends)['backlog'], 0)
    ctl('bridge', 'verify', *ends)


def test_poll_is_one_cycle():
    ends = pair()
    for n in range(3):
        ctl('stream', 'append', '--store', ends[1], str(n))
    equal(ctl('bridge', 'poll', *ends, '--batch-size', '2').out, '2\n')
    equal(ctl('bridge', 'poll', *ends, '--batch-size', '2').out, '1\n')
    equal(ctl('bridge', 'poll', *ends).out, '0\n')
    equal(sorted(ctl('bridge', 'poll', *ends, '--json').objects()[0]), STATS)


def test_skip():
    ends = pair()
    ctl('stream', 'append', '--store', ends[1], '1')
    ctl('stream', 'tag', '--store', ends[1], '--id', '1', '--tag', 'x')
    stats = run_until_empty(ends, '--skip', 'set_tags,set_annotations')
    equal((stats['applied'], stats['skipped'], stats['skipped_by']['option']), (1, 1, 1))
    ctl('bridge', 'verify', *ends, code=10)


def test_status():
    ends = pair()
    for n in range(4):
        ctl('stream', 'append', '--store', ends[1], str(n))
    before = ctl('bridge', 'status', *ends, '--json').objects()[0]
    equal((before['name'], before['position'], before['head'], before['backlog'], before['parked']),
          ('default', None, '4', 4, 0))
    ctl('bridge', 'status', *ends, '--max-lag', '1h')
    time.sleep(0.01)
    ctl('bridge', 'status', *ends, '--max-lag', '0', code=11)
    run_until_empty(ends)
    after = ctl('bridge', 'status', *ends, '--json', '--max-lag', '0').objects()[0]
    equal((int(after['position']), after['backlog'], after['lag_seconds']), (4, 0, 0))
    assert after['moved_at'], after
    contains(ctl('bridge', 'status', *ends).out, 'position', 'backlog   0', 'parked    0')


def test_status_where_clocks_are_wrong():
    source, sink = init('a', 'b')
    ctl('stream', 'append', '--store', source, '1')
    pair = ['--source', source, '--sink', sink]
    ctl('bridge', 'run', *pair, '--until-empty')
    ctl('stream', 'append', '--store', source, '2')
    for when in ("strftime('%Y-%m-%dT%H:%M:%f','now','+2 hours')", "'2106-02-07T06:28:16.000'",
                 "'1970-01-01T00:00:10.000'", "'no time'"):
        with sqlite3.connect('a.db') as db:
            db.execute(f'UPDATE ledger_entries_mutations SET created_at={when} WHERE id=2')
        db.close()
        result = ctl('bridge', 'status', *pair, '--max-lag', '1ms', code=11)
        contains(result.err, 'the clock of its writer is wrong')
        ctl('bridge', 'status', *pair, '--max-lag', '1h')
        status = ctl('bridge', 'status', *pair, '--json').objects()[0]
        assert 0 < status['lag_seconds'] < 60, status
        # Nor does a cursor tell that has never moved, or was moved by a clock that was ahead.
        status = ctl('bridge', 'status', *pair, '--name', 'other', '--json').objects()[0]
        assert status['lag_seconds'] >= 0, status
    with sqlite3.connect('b.db') as db:
        db.execute("UPDATE ledger_entries_cursors SET moved_at='2106-02-07T06:28:16.000'")
    db.close()
    contains(ctl('bridge', 'status', *pair, '--max-lag', '1h', code=11).out, 'lag       unknown')
    equal(ctl('bridge', 'status', *pair, '--json').objects()[0]['lag_seconds'], None)


def test_verify_shows_differences():
    ends = pair()
    fill(ends[1], 30)
    run_until_empty(ends)
    with sqlite3.connect('sink.db') as db:
        db.execute('DELETE FROM ledger_entries WHERE id = 7')
        db.execute('UPDATE ledger_entries SET payload = ? WHERE id = 9', (b'{"n":"x"}',))
    result = ctl('bridge', 'verify', *ends, code=10)
    contains(result.lines()[0], 'different: 2 differences')
    equal(len(result.lines()), 3)
    contains(result.out, 'payload')
    result = ctl('bridge', 'verify', *ends, '--json', '--max-reported', '1', code=10).objects()[0]
    equal((result['equal'], result['differences'], len(result['first_differences'])), (False, 2, 1))


def test_verify_without_a_cursor_is_an_error():
    ends = pair()
    assert ctl('bridge', 'verify', *ends, code=None).code not in (0, 10)


def bad_event(text=b'{"type":"rename","stream":"s0"}'):
    with sqlite3.connect('source.db') as db:
        db.execute('INSERT INTO ledger_entries_mutations(stream, payload) VALUES(?, ?)',
                   ('_', text))


def test_parked_events():
    ends = pair()
    sink = ends[2:]
    contains(ctl('bridge', 'parked', 'list', *sink).err, 'nothing is parked')
    fill(ends[1], 3)
    bad_event()
    bad_event(b'{"type":"rename","stream":"s1"}')
    fill(ends[1], 3, 'u')
    result = ctl('bridge', 'run', *ends, '--until-empty', '--json')
    equal(result.objects()[0]['parked'], 2)
    contains(result.err, 'parked')
    equal(ctl('stream', 'count', '--store', ends[3]).out, '6\n')
    ctl('bridge', 'status', *ends, code=12)
    parked = ctl('bridge', 'parked', 'list', *sink, '--json').objects()
    equal([p['type'] for p in parked], ['rename', 'rename'])
    equal(len(ctl('bridge', 'parked', *sink).lines()), 2)
    first = parked[0]['id']
    equal(ctl('bridge', 'parked', 'show', first, *sink).out, '{"type":"rename","stream":"s0"}\n')
    ctl('bridge', 'parked', 'show', '999', *sink, code=1)
    ctl('bridge', 'parked', 'show', 'x', *sink, code=2)
    contains(ctl('bridge', 'parked', 'retry', '--all', *ends, code=12).out, '2 still parked')
    ctl('bridge', 'parked', 'retry', first, *ends, code=12)
    again = ctl('bridge', 'parked', 'list', *sink, '--json').objects()[0]
    assert again['attempts'] > parked[0]['attempts'], again
    equal(ctl('bridge', 'parked', 'drop', first, *sink).out, '1 dropped\n')
    ctl('bridge', 'parked', 'drop', first, *sink, code=1)
    equal(ctl('bridge', 'parked', 'drop', '--all', *sink, '--json').objects(), [{'dropped': 1}])
    ctl('bridge', 'status', *ends)
    ctl('bridge', 'verify', *ends)


TEXT_STORE = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa:1'


def relayed(kind, position, **fields):
    """An event of a store whose ids are texts, in the log of one that has it from there."""
    event = {'type': kind, 'stream': 's', 'origin': TEXT_STORE, 'origin_pos': position, **fields}
    bad_event(json.dumps(event).encode())


def test_ids_that_are_texts():
    source, sink, end = init('source', 'sink', 'end')
    first, second = ['--source', source, '--sink', sink], ['--source', sink, '--sink', end]
    odd = 'a\x1b[31m'
    for position, key in enumerate(['65f0a1', '012', odd, 'A'], 1):
        relayed('append', position, entries=[{'id': str(position), 'source_id': key,
                                              'payload': position}])
    relayed('set_tags', 5, entry_id='2', source_id='012', tags=['x'])
    with sqlite3.connect('sink.db') as db:
        db.execute("CREATE TRIGGER no BEFORE INSERT ON ledger_entries WHEN new.source_id IN "
                   "('012', ?) BEGIN SELECT RAISE(ABORT, 'not here'); END".replace('?', f"'{odd}'"))
    equal(run_until_empty(first)['parked'], 3)
    parked = ctl('bridge', 'parked', 'list', *first[2:], '--json').objects()
    equal([p['entry_id'] for p in parked], ['012', odd, '012'])
    contains(ctl('bridge', 'parked', *first[2:]).out, 'entry a\\u001b[31m  attempts 1')
    equal(ctl('bridge', 'status', *first, '--json', code=12).objects()[0]['parked'], 3)
    with sqlite3.connect('sink.db') as db:
        db.execute('DROP TRIGGER no')
    contains(ctl('bridge', 'parked', 'retry', '--all', *first).out, '3 applied')
    read = ctl('stream', 'read', '--store', sink, '--stream', 's', '--json').objects()
    equal({e['source_id']: e['tags'] for e in read},
          {'65f0a1': [], '012': ['x'], odd: [], 'A': []})

    run_until_empty(second)
    contains(ctl('bridge', 'verify', *second).out, 'equal: 4 entries')
    equal(int(ctl('bridge', 'cursor', 'show', *second, '--json').objects()[0]['position']), 5)
    with sqlite3.connect('end.db') as db:
        db.execute('DELETE FROM ledger_entries WHERE source_id = ?', (odd,))
    contains(ctl('bridge', 'verify', *second, code=10).out, 'entry a\\u001b[31m: not in the sink')
    found = ctl('bridge', 'verify', *second, '--json', code=10).objects()[0]['first_differences']
    equal([(d['kind'], d['source_id']) for d in found], [('missing', odd)])
    ctl('bridge', 'cursor', 'reset', *second)
    equal(run_until_empty(second)['applied'], 1)
    contains(ctl('bridge', 'verify', *second).out, 'equal: 4 entries')

    relayed('trim', 6, before_id='4', source_id='A')  # '012' and '65f0a1' lie before it
    run_until_empty(first)
    run_until_empty(second)
    contains(ctl('bridge', 'verify', *second).out, 'equal: 1 entry')
    equal([e['source_id'] for e in
           ctl('stream', 'read', '--store', end, '--stream', 's', '--json').objects()], [odd])


def test_a_bad_event_stops_when_asked():
    ends = pair()
    fill(ends[1], 3)
    bad_event(b'not json')
    result = ctl('bridge', 'run', *ends, '--until-empty', '--on-bad-event', 'stop', code=65)
    contains(result.err, 'ledgerctl: ')


def test_cursor():
    ends = pair()
    for n in range(4):
        ctl('stream', 'append', '--store', ends[1], str(n))
    run_until_empty(ends)
    shown = ctl('bridge', 'cursor', 'show', *ends, '--json').objects()[0]
    equal((int(shown['position']), shown['head']), (4, '4'))
    contains(ctl('bridge', 'cursor', *ends).out, 'position')
    ctl('bridge', 'cursor', 'set', '2', *ends)
    equal(ctl('bridge', 'status', *ends, '--json').objects()[0]['backlog'], 2)
    ctl('bridge', 'cursor', 'set', '4', *ends, code=2)
    ctl('bridge', 'cursor', 'set', '4', *ends, '--allow-skip')
    ctl('bridge', 'cursor', 'reset', *ends)
    stats = run_until_empty(ends)
    equal((stats['read'], stats['applied'], stats['skipped_by']['replay']), (4, 0, 4))
    ctl('bridge', 'cursor', 'set', 'x', *ends, code=2)
    ctl('bridge', 'verify', *ends)


def test_two_bridges_by_name():
    ends = pair()
    fill(ends[1], 5)
    run_until_empty(ends, '--name', 'one')
    stats = run_until_empty(ends, '--name', 'two')
    equal(stats['applied'], 0)
    ctl('bridge', 'verify', *ends, '--name', 'one')
    ctl('bridge', 'verify', *ends, '--name', 'two')


def test_give_up_after_retry_for():
    ends = pair()
    fill(ends[1], 5)
    db = sqlite3.connect('sink.db', isolation_level=None)
    db.execute('BEGIN IMMEDIATE')
    ctl('bridge', 'run', *ends, '--until-empty', '--retry-for', '1s', '--busy-timeout', '100ms',
        code=75)
    db.execute('ROLLBACK')
    run_until_empty(ends)
    ctl('bridge', 'verify', *ends)


def on_terminal(*args, seconds=3.0, signal_number=signal.SIGINT, columns=None):
    """Runs with a terminal as stderr; gives the exit code, what the terminal got and the seconds
    that it took."""
    leader, follower = pty.openpty()
    if columns:
        import fcntl
        import struct
        import termios
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    process = spawn(*args, stderr=follower)
    os.close(follower)
    got = b''
    await_catching(process, signal_number)
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        if select.select([leader], [], [], 0.1)[0]:
            try:
                got += os.read(leader, 65536)
            except OSError:
                break
    process.send_signal(signal_number)
    process.communicate(timeout=60)
    took = time.monotonic() - began
    try:
        while True:
            more = os.read(leader, 65536)
            if not more:
                break
            got += more
    except OSError:
        pass
    os.close(leader)
    return process.returncode, got.decode(), took


def test_acknowledge_where_nothing_has_moved():
    ends = pair()
    fill(ends[1], 3)
    contains(ctl('bridge', 'cursor', 'acknowledge', *ends, code=1).err, 'cursor')
    ctl('bridge', 'run', *ends, '--until-empty', '--quiet')
    contains(ctl('bridge', 'cursor', 'acknowledge', *ends).err, 'nothing to acknowledge')
    equal(ctl('bridge', 'cursor', 'acknowledge', *ends, '--json').objects(),
          [{'name': 'default', 'changed': False}])
    # Another store is not one that has moved.
    init('other')
    contains(ctl('bridge', 'cursor', 'acknowledge', '--source', 'sqlite:other.db', *ends[2:],
                 code=78).err, 'cursor')


def test_the_go_bridge_has_another_cursor():
    ends = pair()
    rows = [('s%d' % (n % 3), '{"n":%d}' % n, str(n + 1)) for n in range(6)]
    for stream, payload, _ in rows:
        ctl('stream', 'append', '--store', ends[1], '--stream', stream, payload)
    rows = rows[:4]
    with sqlite3.connect('sink.db') as db:
        db.execute("CREATE UNIQUE INDEX idx_ledger_entries_source ON ledger_entries(source_id) "
                   "WHERE source_id != ''")
        db.executemany('INSERT INTO ledger_entries(stream, payload, source_id) VALUES (?, ?, ?)',
                       rows)
        db.execute("INSERT INTO ledger_entries_cursors(name, cursor) VALUES ('orders', ?)",
                   ('%019d' % 4,))
    db.close()
    result = ctl('bridge', 'run', *ends, '--until-empty', code=78)
    contains(result.err, '"orders"', '--name orders')
    equal(ctl('stream', 'count', '--store', ends[3]).out, '4\n')
    ctl('bridge', 'run', *ends, '--until-empty', '--quiet', '--name', 'orders')
    equal(ctl('stream', 'count', '--store', ends[3]).out, '6\n')
    with sqlite3.connect('sink.db') as db: # as it was where ours ran under its own name
        db.execute('DROP INDEX idx_ledger_entries_source')
        db.executemany('INSERT INTO ledger_entries(stream, payload, source_id) VALUES (?, ?, ?)',
                       rows)
    db.close()
    contains(ctl('bridge', 'verify', *ends, '--name', 'orders', code=10).out,
             'different: 4 differences', 'in the sink twice')
    found = ctl('bridge', 'verify', *ends, '--name', 'orders', '--json', code=10).objects()[0]
    equal([d['kind'] for d in found['first_differences']], ['double'] * 4)
    # The way out that docs/GO.md has.
    with sqlite3.connect('sink.db') as db:
        db.execute("DELETE FROM ledger_entries WHERE origin = 0 AND source_pos IS NULL "
                   "AND source_id <> '' AND EXISTS (SELECT 1 FROM ledger_entries AS o "
                   "WHERE o.origin > 0 AND o.stream = ledger_entries.stream "
                   "AND CAST(o.source_pos AS TEXT) = ledger_entries.source_id)")
    db.close()
    ctl('bridge', 'verify', *ends, '--name', 'orders')


def test_the_progress_line():
    ends = pair()
    fill(ends[1], 2000)
    code, text, took = on_terminal('bridge', 'run', *ends)
    equal(code, 0)
    contains(text, 'moved ', '/s  backlog ', 'lag ', 'ETA ')
    # Redrawn in place at most five times a second, and rubbed out before the summary.
    assert text.count('ETA') <= 5 * took + 2, text
    assert text.rstrip().splitlines()[-1].split('\r')[-1].startswith('moved 2,000') or \
        'mutations in' in text, text
    last = text.replace('\r\n', '\n').split('\n')[-2]
    contains(last.split('\r')[-1], 'mutations in')
    code, text, _ = on_terminal('bridge', 'run', *ends, '--quiet', seconds=1)
    equal((code, text), (0, ''))
    code, text, _ = on_terminal('bridge', 'run', *ends, '--json', seconds=1)
    assert 'ETA' not in text, text
    # Never wider than the window.
    code, text, _ = on_terminal('bridge', 'run', *ends, seconds=1, columns=20)
    for piece in text.split('\r'):
        if 'mutations in' not in piece:
            assert len(piece.rstrip('\n')) <= 19, repr(piece)


def test_words_and_data_are_apart():
    ends = pair()
    fill(ends[1], 5)
    result = ctl('bridge', 'run', *ends, '--until-empty', '--json', '-vv')
    equal(len(result.objects()), 1)
    for line in result.err.splitlines():
        assert line.split()[0] in ('debug', 'info', 'warn', 'error', 'moved'), line


main(globals())
