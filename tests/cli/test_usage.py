"""Words on the command line: help, unknown words, values that are refused, the environment."""
import os
import subprocess

from harness import ROOT, contains, ctl, equal, init, main

COMMANDS = ['store init', 'store check', 'stream append', 'stream read', 'stream tail',
            'stream search', 'stream count', 'stream stat', 'stream tag', 'stream annotate',
            'stream trim', 'stream list', 'bridge run', 'bridge poll', 'bridge status',
            'bridge verify', 'bridge parked list', 'bridge parked show', 'bridge parked retry',
            'bridge parked drop', 'bridge cursor show', 'bridge cursor set', 'bridge cursor reset',
            'bridge cursor acknowledge',
            'completion bash', 'version', 'help']


def test_every_command_has_help_with_an_example():
    for command in COMMANDS:
        by_option = ctl(*command.split(), '--help')
        contains(by_option.out, f'usage: ledgerctl {command}', 'examples:', 'ledgerctl ')
        equal(by_option.err, '')
        equal(ctl('help', *command.split()).out, by_option.out)


def test_help_fits_a_terminal():
    for words in [[], ['bridge'], ['bridge', 'cursor']] + [c.split() for c in COMMANDS]:
        text = ctl('help', *words).out
        for line in text.splitlines():
            # What is to be copied stays in one line.
            is_example = line.startswith('  ') and 'ledgerctl ' in line
            assert len(line) <= 80 or is_example, (words, line)
            equal(line, line.rstrip())
    run = ctl('help', 'bridge', 'run').out
    contains(run, 'without progress\n' + 29 * ' ' + '(default 30s')  # below the first line


def test_every_example_of_the_help_parses():
    for command in COMMANDS:
        text = ctl('help', *command.split()).out.split('examples:\n')[1]
        for line in text.splitlines():
            if not line.startswith('  '):
                break
            contains(line, 'ledgerctl')
            # Every option of the example is one of the command.
            for word in line.split():
                if word.startswith('--'):
                    contains(ctl('help', *command.split()).out, word + ' ', )


def test_the_program_lists_its_commands():
    text = ctl('--help').out
    for command in COMMANDS:
        contains(text, f'  {command} ')
    equal(ctl('help').out, text)
    assert 'config-doc' not in text


def test_a_noun_alone_lists_its_verbs():
    contains(ctl('stream', '--help').out, 'stream append', 'stream trim')
    contains(ctl('stream', code=2).err, 'one word more', 'stream append')
    contains(ctl(code=2).err, 'usage: ledgerctl COMMAND')


def test_unknown_words_get_a_suggestion():
    for words, near in [(['strem'], '`stream`'), (['bridge', 'rnu'], '`bridge run`'),
                        (['stream', 'apend', '1'], '`stream append`'),
                        (['bridge', 'parked', 'lst'], '`bridge parked list`'),
                        (['help', 'brigde'], '`bridge`')]:
        contains(ctl(*words, code=2).err, 'unknown command', 'did you mean ' + near)
    contains(ctl('zzz', code=2).err, 'unknown command `zzz`', 'ledgerctl help')
    contains(ctl('bridge', 'run', '--btach-size', '5', code=2).err, 'did you mean --batch-size?')
    contains(ctl('bridge', 'run', '--xyzzy', code=2).err, 'unknown option --xyzzy')
    contains(ctl('stream', 'read', '-x', code=2).err, 'unknown option -x')


def test_a_password_file_is_read_and_never_shown():
    init('a')
    with open('pw', 'w', encoding='utf-8') as file:
        file.write('s3cret-word\nsecond line\n')
    for args in (['--password-file', 'pw'], []):
        env = {} if args else {'LEDGER_PASSWORD_FILE': 'pw'}
        result = ctl('stream', 'count', '--store', 'sqlite:a.db', *args, '-vv', env=env)
        assert 's3cret' not in str(result), result
    contains(ctl('stream', 'count', '--store', 'sqlite:a.db', '--password-file', 'none',
                 code=2).err, 'password file none: No such file')
    for content, why in [('', 'is empty'), ('\nx\n', 'is empty'), ('x' * 2000, 'too long')]:
        with open('pw', 'w', encoding='utf-8') as file:
            file.write(content)
        contains(ctl('stream', 'count', '--store', 'sqlite:a.db', '--password-file', 'pw',
                     code=2).err, why)


def test_what_only_postgresql_can_do():
    contains(ctl('store', 'init', '--store', 'sqlite:b.db', '--notify', code=78).err,
             'sqlite store cannot notify')
    contains(ctl('store', 'init', '--store', 'sqlite:b.db', '--full-text', code=78).err,
             'index of full text')
    assert not os.path.exists('b.db')
    init('a')
    contains(ctl('stream', 'search', '--store', 'sqlite:a.db', '--full-text', 'x', code=78).err,
             'full text')


def test_an_option_of_another_command_is_refused():
    contains(ctl('stream', 'read', '--interval', '5s', code=2).err, 'takes no --interval')


def test_wrong_values_name_option_and_what_is_accepted():
    for option, value, accepted in [
            ('--batch-size', 'many', 'a whole number from 1 to 1000000'),
            ('--batch-size', '0', 'a whole number from 1'),
            ('--batch-size', '-1', 'a whole number from 1'),
            ('--batch-size', '5x', 'a whole number from 1'),
            ('--interval', '5', '250ms, 5s or 1m30s'),
            ('--interval', 's', '250ms, 5s or 1m30s'),
            ('--interval', '5 s', '250ms, 5s or 1m30s'),
            ('--interval', '-5s', '250ms, 5s or 1m30s'),
            ('--interval', '0', 'a time above 0'),
            ('--interval', '', 'a time above 0'),
            ('--max-batch-bytes', '4X', 'such as 512K or 4M'),
            ('--max-batch-bytes', '99999999999G', 'such as 512K or 4M'),
            ('--on-bad-event', 'ignore', 'park,stop'),
            ('--skip', 'append,tags', 'append,set_tags,set_annotations,trim'),
            ('--retry-for', 'never', '250ms, 5s or 1m30s')]:
        text = ctl('bridge', 'run', option, value, code=2).err
        contains(text, option, f'"{value}"', accepted)
    contains(ctl('stream', 'append', '--meta', 'novalue', '1', code=2).err, '--meta', 'KEY=VALUE')
    contains(ctl('stream', 'append', '--meta', '=v', '1', code=2).err, '--meta', 'KEY=VALUE')
    contains(ctl('bridge', 'run', '--interval', code=2).err, '--interval needs a value')


def test_missing_and_extra_arguments():
    contains(ctl('stream', 'search', code=2).err, 'needs TEXT')
    contains(ctl('stream', 'count', 'orders', code=2).err, 'unexpected argument "orders"')
    contains(ctl('stream', 'count', code=2).err, '--store URL', 'LEDGER_STORE')
    contains(ctl('bridge', 'run', '--source', 'sqlite:a.db', code=None).err, 'source')
    contains(ctl('stream', 'append', '--store', 'sqlite:a.db', code=2).err, 'payload')
    contains(ctl('bridge', 'parked', 'drop', '--sink', 'sqlite:a.db', code=2).err, '--all')
    contains(ctl('bridge', 'parked', 'drop', '1', '--all', '--sink', 'sqlite:a.db', code=2).err,
             '--all')


def test_options_stand_anywhere_and_take_an_equals_sign():
    url = init('a')
    ctl('--store', url, 'stream', 'append', '--stream=s', '1')
    equal(ctl('stream', f'--store={url}', 'count', '-q').out, '1\n')
    ctl('stream', 'append', '--store', url, '--stream', 's', '--', '-5')
    equal(ctl('stream', 'count', '--store', url, '-qv').out, '2\n')


def test_the_environment_gives_options_and_an_argument_wins():
    url = init('a')
    env = {'LEDGER_STORE': url, 'LEDGER_STREAM': 'env', 'LEDGER_TAG': 'one\ntwo',
           'LEDGER_JSON': '1'}
    equal(ctl('stream', 'append', '1', env=env).objects(), [{'id': '1'}])
    entry = ctl('stream', 'read', env=env).objects()[0]
    equal((entry['stream'], entry['tags']), ('env', ['one', 'two']))
    ctl('stream', 'append', '2', '--stream', 'arg', '--tag', 'three', env=env)
    entry = ctl('stream', 'read', '--stream', 'arg', '--tag', 'three', env=env).objects()[0]
    equal((entry['stream'], entry['tags']), ('arg', ['three']))
    off = dict(env, LEDGER_JSON='off', LEDGER_TAG='')
    equal(ctl('stream', 'count', env=off).out, '1\n')


def test_a_bad_variable_is_named_where_it_matters():
    url = init('a')
    env = {'LEDGER_BATCH_SIZE': 'x', 'LEDGER_STORE': url}
    contains(ctl('bridge', 'run', env=env, code=2).err, 'LEDGER_BATCH_SIZE: "x"')
    ctl('stream', 'count', env=env)


def test_no_password_is_ever_echoed():
    secret = 'hunter2'
    for args in (['stream', 'count', f'postgresql://u:{secret}@h/db'],
                 ['stream', 'count', '--store', f'postgresql://u:{secret}@h/db'],
                 ['stream', 'count', '--store', f'nosuch://u:{secret}@h/db?password={secret}'],
                 ['bridge', 'run', f'--pasword={secret}'],
                 ['bridge', 'run', '--interval', f'postgresql://u:{secret}@h'],
                 ['bridge', 'run', '--source', f'postgresql://u:{secret}@h/d', '--sink',
                  'sqlite:x'],
                 [f'postgresql://u:{secret}@h/db']):
        result = ctl(*args, code=None)
        assert result.code != 0, str(result)
        assert secret not in result.err + result.out, str(result)


def test_version():
    text = ctl('version').out
    contains(text, 'ledgerctl ', 'library ', 'sqlite')
    equal(ctl('--version').out, text)
    version = ctl('version', '--json').objects()[0]
    equal(sorted(version), ['backends', 'library', 'program'])
    contains(text, version['program'])


def test_docs_CONFIG_is_what_the_program_prints():
    with open(os.path.join(ROOT, 'docs', 'CONFIG.md'), encoding='utf-8') as file:
        equal(file.read(), ctl('config-doc').out)


COMPLETIONS = [
    ([''], 'bridge completion help store stream version'),
    (['str'], 'stream'),
    (['bridge', ''], 'cursor parked poll run status verify'),
    (['bridge', 'parked', ''], 'drop list retry show'),
    (['bridge', 'run', '--on-bad-event', ''], 'park stop'),
    (['bridge', 'run', '--on-bad-event', '=', 'p'], 'park'),
    (['bridge', 'run', '--source', 'sq'], 'sqlite:'),
    (['bridge', 'run', '--source', 'sqlite', ':', 'fil'], 'file.db'),
    (['bridge', 'run', '--sink', 'sqlite', ':', 'fil'], 'file.db'),
    (['bridge', 'run', '--sink', 'cl'], 'clickhouse:// clickhouses://'),
    (['bridge', 'run', '--sink', 'h'], 'https://'),
    (['store', 'init', '--store', 'c'], 'clickhouse:// clickhouses://'),
    (['bridge', 'run', '--secret-file', 'fil'], 'file.db'),
    (['bridge', 'run', '--client-key', 'fil'], 'file.db'),
    (['bridge', 'run', '--source', 'sqlite', ':', 'file.db', '--bat'], '--batch-size'),
    (['stream', 'read', '--de'], '--desc'),
    (['--store', 'sqlite', ':', 'x', 'stream', 'ta'], 'tag tail'),
    (['help', 'bridge', 'r'], 'run'),
]


def test_bash_completion():
    script = ctl('completion', 'bash').out
    with open('completion', 'w', encoding='utf-8') as file:
        file.write(script)
    with open('file.db', 'w', encoding='utf-8'):
        pass
    for words, expected in COMPLETIONS:
        quoted = ' '.join(f"'{w}'" for w in ['ledgerctl'] + words)
        code = (f'source ./completion; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; '
                '_ledgerctl; printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(['bash', '-c', code], capture_output=True, text=True, check=True)
        equal((words, ' '.join(sorted(done.stdout.split()))), (words, expected))


main(globals())
