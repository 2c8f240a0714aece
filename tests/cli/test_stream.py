"""ledgerctl store and stream on a SQLite file."""
import json
import os
import re
import signal
import sqlite3
import subprocess
import time

from harness import contains, ctl, equal, init, main, spawn


def test_init_can_be_repeated():
    text = ctl('store', 'init', '--store', 'sqlite:a.db').out
    contains(text, 'ledger_entries', 'ledger_entries_mutations')
    ctl('stream', 'append', '--store', 'sqlite:a.db', '1')
    equal(ctl('store', 'init', '--store', 'sqlite:a.db').out, text)
    equal(ctl('stream', 'count', '--store', 'sqlite:a.db').out, '1\n')


def test_init_without_log_and_with_other_tables():
    made = ctl('store', 'init', '--store', 'sqlite:a.db', '--table', 'orders', '--no-log',
               '--json').objects()[0]
    equal((made['table'], made['log_table']), ('orders', None))
    made = ctl('store', 'init', '--store', 'sqlite:a.db', '--table', 'items', '--log-table', 'ilog',
               '--json').objects()[0]
    equal((made['table'], made['log_table']), ('items', 'ilog'))
    with sqlite3.connect('a.db') as db:
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    assert {'orders', 'items', 'ilog'} <= tables, tables
    assert 'orders_mutations' not in tables, tables


def test_check_says_ok():
    url = init('a')
    result = ctl('store', 'check', '--store', url)
    contains(result.out, 'ok')
    for finding in ctl('store', 'check', '--store', url, '--json').objects():
        equal(sorted(finding), ['severity', 'subject', 'text'])


def test_missing_tables_are_an_error_with_the_command_that_makes_them():
    sqlite3.connect('a.db').execute('CREATE TABLE other(x)').connection.close()
    result = ctl('stream', 'append', '--store', 'sqlite:a.db', '--table', 'orders', '1',
                 code=78)
    contains(result.err, 'ledgerctl store init --store sqlite:', 'a.db --table orders')


def test_a_log_that_is_named_must_be_there():
    url = init('a')
    result = ctl('stream', 'append', '--store', url, '--log-table', 'misspelt', '1', code=78)
    contains(result.err, 'misspelt')
    equal(ctl('stream', 'count', '--store', url).out, '0\n')


def test_a_missing_file_is_not_made():
    for verb in (['append', '1'], ['read'], ['count']):
        result = ctl('stream', *verb, '--store', 'sqlite:none.db', code=None)
        assert result.code in (1, 69, 78), str(result)
        contains(result.err, 'none.db')
    assert not os.path.exists('none.db')


def test_not_a_database():
    with open('a.db', 'w', encoding='utf-8') as file:
        file.write('this is some text and no database at all, long enough for a header\n' * 20)
    ctl('store', 'init', '--store', 'sqlite:a.db', code=65)
    ctl('stream', 'read', '--store', 'sqlite:a.db', code=65)


def test_invalid_table_name_and_unknown_scheme():
    ctl('store', 'init', '--store', 'sqlite:a.db', '--table', 'a b', code=2)
    contains(ctl('store', 'init', '--store', 'nosuch:x', code=78).err, 'nosuch')


def test_append_and_read_every_field():
    url = init('a')
    payload = '{ "b":1.50,  "a":"\\u00e9\\/x" }'
    out = ctl('stream', 'append', '--store', url, '--stream', 's', '--order-key', 'o',
              '--dedup-key', 'd', '--meta', 'k=v=w', '--meta', 'a=', '--tag', 'x', '--tag', 'y',
              '--schema-version', '3', payload).out
    equal(out, '1\n')
    ctl('stream', 'annotate', '--store', url, '--stream', 's', '--id', '1', '--set', 'n=1')
    result = ctl('stream', 'read', '--store', url, '--stream', 's', '--json')
    contains(result.out, f'"payload":{payload},')
    entry = result.objects()[0]
    for name in ('created_at', 'updated_at'):
        assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', entry.pop(name)), str(result)
    equal(entry, {'id': '1', 'stream': 's', 'payload': json.loads(payload), 'order_key': 'o',
                  'dedup_key': 'd', 'schema_version': 3, 'metadata': {'a': '', 'k': 'v=w'},
                  'tags': ['x', 'y'], 'annotations': {'n': '1'}, 'source_id': ''})


def test_read_shows_empty_fields():
    url = init('a')
    ctl('stream', 'append', '--store', url, 'null')
    entry = ctl('stream', 'read', '--store', url, '--json').objects()[0]
    equal({k: v for k, v in entry.items() if k != 'created_at'},
          {'id': '1', 'stream': 'default', 'payload': None, 'order_key': '', 'dedup_key': '',
           'schema_version': 1, 'metadata': {}, 'tags': [], 'annotations': {}, 'source_id': '',
           'updated_at': None})


def test_a_payload_with_line_ends_is_printed_on_one_line():
    url = init('a')
    payload = b'{\n  "a": "x\\ny",\r\n\t"b": [1,\n2]\n}\n'
    equal(ctl('stream', 'append', '--store', url, '-', stdin=payload).out, '1\n')
    with sqlite3.connect('a.db') as db:
        stored = db.execute('SELECT payload FROM ledger_entries').fetchone()[0]
    equal(bytes(stored, 'utf-8') if isinstance(stored, str) else bytes(stored), payload[:-1])
    for options in (['--json'], []):
        equal(len(ctl('stream', 'read', '--store', url, *options).lines()), 1)
    equal(ctl('stream', 'read', '--store', url, '--json').objects()[0]['payload'],
          {'a': 'x\ny', 'b': [1, 2]})


def test_a_payload_that_is_not_json_is_refused_with_a_hint():
    url = init('a')
    for payload in ('hello', '{"a":1', "{'a':1}", '{"a":1} {"b":2}', '[1,]', '01'):
        result = ctl('stream', 'append', '--store', url, payload, code=65)
        contains(result.err, 'double quotes')
        equal(result.out, '')
    ctl('stream', 'append', '--store', url, '', code=65)
    ctl('stream', 'append', '--store', url, '-', stdin=b'"\xff"', code=65)
    ctl('stream', 'append', '--store', url, '[' * 10000 + ']' * 10000, code=65)
    equal(ctl('stream', 'count', '--store', url).out, '0\n')


def test_a_repeated_dedup_key_prints_nothing():
    url = init('a')
    equal(ctl('stream', 'append', '--store', url, '--dedup-key', 'k', '1').out, '1\n')
    result = ctl('stream', 'append', '--store', url, '--dedup-key', 'k', '2')
    equal(result.out, '')
    contains(result.err, 'left out')
    equal(ctl('stream', 'append', '--store', url, '--dedup-key', 'k', '2', '-q').err, '')


def lines(*objects):
    return ''.join((o if isinstance(o, str) else json.dumps(o)) + '\n' for o in objects)


def test_lines_take_every_field():
    url = init('a')
    text = lines({'payload': 1}, '', '   ',
                 '{"stream":"s", "payload": {"n":1.0e+2, "m" : "}\\"{"} ,"order_key":"o",'
                 '"dedup_key":"d","schema_version":2,"metadata":{"k":"v"},"tags":["x"]}',
                 {'payload': 'x', 'stream': 's\u00e9"', 'tags': None},
                 {'payload': None, 'stream': None})
    result = ctl('stream', 'append', '--store', url, '--stream', 'mine', '--lines', stdin=text)
    equal(result.lines(), ['1', '2', '3', '4'])
    equal(ctl('stream', 'count', '--store', url, '--stream', 'mine').out, '2\n')
    read = ctl('stream', 'read', '--store', url, '--stream', 's', '--json')
    contains(read.out, '"payload":{"n":1.0e+2, "m" : "}\\"{"},')
    entry = read.objects()[0]
    equal((entry['order_key'], entry['dedup_key'], entry['schema_version'], entry['metadata'],
           entry['tags']), ('o', 'd', 2, {'k': 'v'}, ['x']))
    equal(ctl('stream', 'count', '--store', url, '--stream', 's\u00e9"').out, '1\n')


def test_lines_without_a_last_line_end_and_with_nothing():
    url = init('a')
    equal(ctl('stream', 'append', '--store', url, '--lines', stdin='{"payload":1}').out, '1\n')
    equal(ctl('stream', 'append', '--store', url, '--lines', stdin='').out, '')
    equal(ctl('stream', 'append', '--store', url, '--lines', stdin='\r\n\n').out, '')


def test_a_bad_line_is_named_and_what_is_before_it_stays():
    bad = ['{"payload":1', 'x', '[1]', '"s"', '{}', '{"payload":1,"extra":2}', '{"payload":1}}',
           '{"payload":1,"tags":"x"}', '{"payload":1,"schema_version":"2"}',
           '{"payload":1,"metadata":{"a":1}}', '{"payload":1,"stream":5}',
           '{"payload":1}]},"entries":[{"id":"2","payload":2}',
           '{"payload":1,"stream":"%s"}' % ('x' * 5000)]
    for number, line in enumerate(bad):
        url = init(f'a{number}')
        text = lines({'payload': 1}, {'payload': 2, 'stream': 't'}, line, {'payload': 3})
        result = ctl('stream', 'append', '--store', url, '--lines', stdin=text, code=65)
        contains(result.err, 'line 3', '2 entries appended', 'up to line 2')
        equal(result.lines(), ['1', '2'])
        equal(ctl('stream', 'count', '--store', url).out, '2\n')


def test_a_bad_line_says_what_is_wrong_where():
    url = init('a')
    for line, words in [('{"payload":1,}', 'line 1: not a JSON object'), ('x', 'at byte 0'),
                        ('{"payload":1,"tags":"x"}', 'line 1: tags: '),
                        ('{"payload":1,"stream":5}', 'line 1: stream: '),
                        ('{"payload":1,"a":5}', 'unknown field "a"'),
                        ('{"stream":"s"}', 'no field payload'), ('[]', 'not a JSON object')]:
        result = ctl('stream', 'append', '--store', url, '--lines', stdin=line, code=65)
        contains(result.err, words, 'nothing was appended')
        assert 'entries[0]' not in result.err, str(result)


def test_many_lines_in_many_transactions():
    url = init('a')
    text = ''.join(f'{{"stream":"s{i % 7}","payload":{i},"dedup_key":"k{i}"}}\n'
                   for i in range(2345))
    equal(len(ctl('stream', 'append', '--store', url, '--lines', stdin=text).lines()), 2345)
    equal(ctl('stream', 'count', '--store', url).out, '2345\n')
    result = ctl('stream', 'append', '--store', url, '--lines', '-v', stdin=text)
    equal(result.out, '')
    equal(ctl('stream', 'count', '--store', url).out, '2345\n')


def test_lines_are_appended_when_stdin_pauses():
    url = init('a')
    process = spawn('stream', 'append', '--store', url, '--lines', stdin=subprocess.PIPE)
    process.stdin.write(b'{"payload":1}\n{"payl')
    process.stdin.flush()
    equal(process.stdout.readline(), b'1\n')
    process.stdin.write(b'oad":2}\n')
    process.stdin.close()
    equal(process.stdout.readline(), b'2\n')
    equal(process.wait(30), 0)


def test_lines_take_no_options_of_one_entry():
    url = init('a')
    contains(ctl('stream', 'append', '--store', url, '--lines', '--tag', 'x', code=2).err, '--tag')
    ctl('stream', 'append', '--store', url, '--lines', '1', code=2)


def fill(url, count, **fields):
    ctl('stream', 'append', '--store', url, '--lines',
        stdin=lines(*[dict(fields, payload={'n': n}) for n in range(1, count + 1)]))


def ids(*args):
    return [entry['id'] for entry in ctl('stream', *args, '--json').objects()]


def test_read_filters_and_pages():
    url = init('a')
    fill(url, 5)
    fill(url, 3, tags=['x', 'y'], metadata={'k': 'v'}, order_key='o')
    equal(ids('read', '--store', url), [str(n) for n in range(1, 9)])
    equal(ids('read', '--store', url, '--after', '2', '--limit', '3'), ['3', '4', '5'])
    equal(ids('read', '--store', url, '--desc', '--limit', '2'), ['8', '7'])
    equal(ids('read', '--store', url, '--desc', '--after', '3'), ['2', '1'])
    equal(ids('read', '--store', url, '--tag', 'x', '--tag', 'y', '--after', '6'), ['7', '8'])
    equal(ids('read', '--store', url, '--tag', 'x', '--tag', 'z'), [])
    equal(ids('read', '--store', url, '--meta', 'k=v', '--order-key', 'o', '--limit', '1'), ['6'])
    ctl('stream', 'annotate', '--store', url, '--id', '7', '--set', 'a=b')
    equal(ids('read', '--store', url, '--annotation', 'a=b'), ['7'])
    contains(ctl('stream', 'read', '--store', url, '--after', 'x', code=2).err,
             'after: ids of a sqlite store are numbers')


def test_read_says_when_more_follow():
    url = init('a')
    fill(url, 101)
    result = ctl('stream', 'read', '--store', url)
    equal(len(result.lines()), 100)
    contains(result.err, '--after 100')
    equal(len(ids('read', '--store', url, '--limit', '0')), 101)
    equal(ctl('stream', 'read', '--store', url, '--limit', '100').err, '')


def test_more_entries_than_a_page():
    url = init('a')
    fill(url, 2500)
    equal(len(ids('read', '--store', url, '--limit', '0')), 2500)
    equal(ids('read', '--store', url, '--limit', '0', '--desc')[-1], '1')
    equal(len(ids('read', '--store', url, '--limit', '2001')), 2001)


def test_search():
    url = init('a')
    ctl('stream', 'append', '--store', url, '--stream', 's', '{"t":"Blue shoes"}')
    ctl('stream', 'append', '--store', url, '--stream', 't', '{"t":"blue hat 100%"}')
    equal(ids('search', '--store', url, 'blue'), ['1', '2'])
    equal(ids('search', '--store', url, 'blue', '--stream', 't'), ['2'])
    equal(ids('search', '--store', url, '100%'), ['2'])
    equal(ids('search', '--store', url, '%'), ['2'])
    equal(ids('search', '--store', url, 'green'), [])


def test_count_stat_list():
    url = init('a')
    equal(ctl('stream', 'stat', '--store', url, '--json').objects()[0],
          {'stream': None, 'count': 0, 'first_id': None, 'first_at': None, 'last_id': None,
           'last_at': None})
    fill(url, 3, stream='b')
    fill(url, 2, stream='a\nc')
    equal(ctl('stream', 'count', '--store', url).out, '5\n')
    equal(ctl('stream', 'count', '--store', url, '--stream', 'b').out, '3\n')
    equal(ctl('stream', 'count', '--store', url, '--stream', 'b', '--json').objects(),
          [{'stream': 'b', 'count': 3}])
    stat = ctl('stream', 'stat', '--store', url, '--stream', 'b', '--json').objects()[0]
    equal((stat['count'], stat['first_id'], stat['last_id']), (3, '1', '3'))
    equal(len(ctl('stream', 'stat', '--store', url).lines()), 4)
    # One name is one line, whatever it holds.
    equal(ctl('stream', 'list', '--store', url).lines(), ['a\\u000ac', 'b'])
    equal([o['stream'] for o in ctl('stream', 'list', '--store', url, '--json').objects()],
          ['a\nc', 'b'])
    equal(ctl('stream', 'list', '--store', url, '--after', 'a\nc').lines(), ['b'])


def test_list_pages():
    url = init('a')
    ctl('stream', 'append', '--store', url, '--lines',
        stdin=lines(*[{'stream': f's{n:05}', 'payload': n} for n in range(2100)]))
    result = ctl('stream', 'list', '--store', url)
    equal(len(result.lines()), 100)
    contains(result.err, 'more follow')
    names = ctl('stream', 'list', '--store', url, '--limit', '0').lines()
    equal(names, [f's{n:05}' for n in range(2100)])
    result = ctl('stream', 'list', '--store', url, '--limit', '1000')
    equal((len(result.lines()), result.err), (1000, ''))


def test_tag_annotate_trim():
    url = init('a')
    fill(url, 4)
    ctl('stream', 'tag', '--store', url, '--id', '2', '--tag', 'x', '--tag', 'y')
    ctl('stream', 'annotate', '--store', url, '--id', '2', '--set', 'a=1', '--set', 'b=2')
    ctl('stream', 'annotate', '--store', url, '--id', '2', '--set', 'a=')
    entry = ctl('stream', 'read', '--store', url, '--after', '1', '--limit', '1',
                '--json').objects()[0]
    equal((entry['tags'], entry['annotations']), (['x', 'y'], {'b': '2'}))
    ctl('stream', 'tag', '--store', url, '--id', '2')
    equal(ids('read', '--store', url, '--tag', 'x'), [])
    contains(ctl('stream', 'tag', '--store', url, code=2).err, '--id')
    contains(ctl('stream', 'annotate', '--store', url, '--id', '2', code=2).err, '--set')
    ctl('stream', 'tag', '--store', url, '--id', '99', '--tag', 'x', code=1)
    ctl('stream', 'tag', '--store', url, '--stream', 'other', '--id', '2', '--tag', 'x', code=1)
    contains(ctl('stream', 'trim', '--store', url, code=2).err, '--before')
    for before in ('0', '-1', '-9223372036854775808'):
        equal(ctl('stream', 'trim', '--store', url, '--before', before).out, '0\n')
    ctl('stream', 'trim', '--store', url, '--before', '-', code=2)
    for after in ('0', '-1'):
        equal(ids('read', '--store', url, '--after', after), ['1', '2', '3', '4'])
    equal(ctl('stream', 'trim', '--store', url, '--before', '3').out, '3\n')
    equal(ids('read', '--store', url), ['4'])
    equal(ctl('stream', 'trim', '--store', url, '--before', '3', '--json').objects(),
          [{'deleted': 0}])


def test_tail_follows_and_ends_with_zero():
    url = init('a')
    fill(url, 2, stream='s')
    for number, there in ((signal.SIGINT, 2), (signal.SIGTERM, 3)):
        process = spawn('stream', 'tail', '--store', url, '--stream', 's', '--json')
        for expected in range(1, there + 1):
            equal(json.loads(process.stdout.readline())['id'], str(expected))
        new = ctl('stream', 'append', '--store', url, '--stream', 's', '3').out.strip()
        equal(json.loads(process.stdout.readline())['id'], new)
        process.send_signal(number)
        equal(process.wait(30), 0)


def test_tail_from_the_end():
    url = init('a')
    fill(url, 2)
    process = spawn('stream', 'tail', '--store', url, '--stream', 'default', '--after', 'end',
                    '--json')
    # It has started when it sees one of these; the old ones it must not show.
    deadline = time.monotonic() + 60
    os.set_blocking(process.stdout.fileno(), False)
    line = b''
    while not line and time.monotonic() < deadline:
        ctl('stream', 'append', '--store', url, '{"new":1}')
        time.sleep(0.1)
        line = process.stdout.readline()
    equal(json.loads(line)['payload'], {'new': 1})
    process.send_signal(signal.SIGINT)
    equal(process.wait(30), 0)


def test_tail_ends_when_its_reader_goes():
    url = init('a')
    fill(url, 1)
    process = spawn('stream', 'tail', '--store', url, '--stream', 'default', '--json')
    process.stdout.readline()
    process.stdout.close()
    equal(process.wait(30), 1)
    equal(process.stderr.read(), b'')


def test_names_are_shown_without_control_characters():
    url = init('a')
    ctl('stream', 'append', '--store', url, '--stream', 'x\x1b[31m', '1')
    result = ctl('stream', 'list', '--store', url)
    assert '\x1b' not in result.out, repr(result.out)
    equal(ctl('stream', 'list', '--store', url, '--json').objects(), [{'stream': 'x\x1b[31m'}])


def test_a_read_only_file_can_be_read_and_is_refused_for_writing():
    url = init('a')
    fill(url, 1)
    with sqlite3.connect('a.db') as db:
        db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    os.chmod('a.db', 0o444)
    if os.access('a.db', os.W_OK):
        return  # root writes everywhere
    result = ctl('stream', 'append', '--store', url, '1', code=None)
    assert result.code == 77, str(result)
    equal(ids('read', '--store', url), ['1'])


def test_a_locked_database_is_waited_for_and_then_refused():
    url = init('a')
    db = sqlite3.connect('a.db', isolation_level=None)
    db.execute('BEGIN IMMEDIATE')
    began = time.monotonic()
    ctl('stream', 'append', '--store', url, '1', '--busy-timeout', '300ms', code=75)
    assert time.monotonic() - began >= 0.25
    process = spawn('stream', 'append', '--store', url, '2', '--busy-timeout', '60s')
    time.sleep(0.3)
    db.execute('COMMIT')
    equal((process.wait(30), process.stdout.read()), (0, b'1\n'))


MARK = b'\xef\xbb\xbf'


def test_lines_and_payloads_from_windows():
    url = init('a')
    lines = MARK + b'{"stream":"w","payload":{"a":1},"tags":["t\\r"]}\r\n\r\n'
    lines += MARK + b'{"stream":"w","payload":2}\r\n' + MARK
    lines += b'\r\n   \r\n{"stream":"w","payload":3}'
    ctl('stream', 'append', '--store', url, '--lines', stdin=lines)
    ctl('stream', 'append', '--store', url, '--stream', 'w', '-', stdin=MARK + b'{"d":4}\r\n')
    # Control characters in what is data stay.
    ctl('stream', 'append', '--store', url, '--stream', 'w', '--tag', 'x\r', '--meta', 'k\r=v\r',
        '--dedup-key', 'd\r', '5')
    got = ctl('stream', 'read', '--store', url, '--stream', 'w', '--json').objects()
    equal([e['payload'] for e in got], [{'a': 1}, 2, 3, {'d': 4}, 5])
    equal((got[0]['tags'], got[4]['tags'], got[4]['metadata'], got[4]['dedup_key']),
          (['t\r'], ['x\r'], {'k\r': 'v\r'}, 'd\r'))
    # Nothing is left of a mark alone.
    contains(ctl('stream', 'append', '--store', url, '-', stdin=MARK, code=65).err, 'empty')
    # An argument is kept byte for byte, so the mark is named.
    contains(ctl('stream', 'append', '--store', url, '\ufeff{}', code=65).err, 'byte order mark')


def test_other_encodings_are_named():
    url = init('a')
    for encoding in ('utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'utf-32-le', 'utf-32-be'):
        for text in ('{"payload":1}', '[1]', '"a"', '5', '\u00e4'):
            data = text.encode(encoding)
            result = ctl('stream', 'append', '--store', url, '-', stdin=data, code=65)
            if text != '\u00e4' or encoding in ('utf-16', 'utf-32'):
                contains(result.err, 'UTF-16', 'iconv')
            assert 'double quotes' not in result.err, result
        result = ctl('stream', 'append', '--store', url, '--lines',
                     stdin='{"payload":1}\r\n{"payload":2}\r\n'.encode(encoding), code=65)
        contains(result.err, 'UTF-16', 'iconv')
    equal(ctl('stream', 'count', '--store', url).out, '0\n')


def test_names_from_windows():
    url = init('a')
    for variable in ('LEDGER_STORE', 'LEDGER_TABLE', 'LEDGER_LOG_TABLE', 'LEDGER_PASSWORD_FILE',
                     'LEDGER_STREAM'):
        command = ['stream', 'append', '--store', url, '1']
        if variable == 'LEDGER_STORE':
            command = ['store', 'init']
        result = ctl(*command, env={variable: 'sqlite:new.db\r'}, code=2)
        contains(result.err, variable, '\\r', 'carriage return')
    for value, word in (('sqlite:new.db\r', '\\r'), ('sqlite:ne\nw.db', '\\n'),
                        ('sqlite:\x1b[1mnew.db', '\\x1b'), ('\ufeffsqlite:new.db', 'U+FEFF')):
        result = ctl('store', 'init', '--store', value, code=2)
        contains(result.err, '--store', word)
        assert '\r' not in result.err and '\x1b' not in result.err, repr(result.err)
    for name, value in (('LEDGER_LIMIT', '5\r'), ('LEDGER_JSON', '1\r'),
                        ('LEDGER_BUSY_TIMEOUT', '5s\r')):
        result = ctl('stream', 'read', '--store', url, env={name: value}, code=2)
        contains(result.err, name, '\\r')
    for name, value in (('LEDGER_NAME', 'orders\r'), ('LEDGER_SINK', 'sqlite:b.db\r'),
                        ('LEDGER_SKIP', 'trim\r'), ('LEDGER_ON_BAD_EVENT', 'stop\r'),
                        ('LEDGER_CURSOR_FILE', 'c.db\r'), ('LEDGER_MAX_BATCH_BYTES', '4M\r')):
        result = ctl('bridge', 'poll', '--source', url, env={'LEDGER_SINK': url, name: value},
                     code=2)
        contains(result.err, name, '\\r')
    equal(sorted(name for name in os.listdir('.') if not name.startswith('a.db')), [])


def test_a_password_file_from_windows():
    url = init('a')
    for data, wrong in ((MARK + b'secret\r\n', ''), (MARK + b'\r\n', 'empty'),
                        ('secret\r\n'.encode('utf-16'), 'UTF-16'),
                        (b'\xfe\xff\0s\0e', 'UTF-16')):
        with open('password', 'wb') as file:
            file.write(data)
        result = ctl('stream', 'count', '--store', url, '--password-file', 'password',
                     code=2 if wrong else 0)
        contains(result.err, wrong)
        assert 'secret' not in result.err


def test_a_file_with_a_second_name():
    url = init('a')
    os.link('a.db', 'b.db')
    for args in (['stream', 'append', '1'], ['stream', 'read'], ['store', 'init'],
                 ['stream', 'count']):
        result = ctl(*args, '--store', url, code=78)
        contains(result.err, 'a.db has a second name (a hard link)', '-samefile')
    result = ctl('store', 'check', '--store', 'sqlite:b.db', code=78)
    contains(result.out, 'error', 'second name')
    finding = ctl('store', 'check', '--store', 'sqlite:b.db', '--json', code=78).objects()[0]
    equal((finding['severity'], finding['subject']), ('error', 'store'))
    os.remove('b.db')
    ctl('store', 'check', '--store', url)
    os.symlink('a.db', 'b.db')
    ctl('stream', 'append', '--store', 'sqlite:b.db', '1')


def test_tail_ends_when_its_file_is_replaced():
    url = init('a')
    ctl('stream', 'append', '--store', url, '1')
    with spawn('stream', 'tail', '--store', url) as process:
        process.stdout.readline()
        os.rename('a.db', 'aside.db')
        equal(process.wait(30), 69)
        contains(process.stderr.read().decode(), 'a.db was deleted or renamed while it was open')


main(globals())
