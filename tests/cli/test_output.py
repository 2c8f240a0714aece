"""An output that cannot be written never ends in exit code 0, and harms nothing else."""
import os
import resource
import signal
import sqlite3
import subprocess

from harness import CTL, Skip, contains, ctl, environment, equal, init, main


def run(*args, **streams):
    return subprocess.run([CTL] + list(args), env=environment(), stderr=subprocess.PIPE,
                          timeout=60, check=False, **streams)


def shell(line):
    return subprocess.run(['bash', '-c', line.replace('ledgerctl', CTL)], env=environment(),
                          capture_output=True, timeout=60, check=False)


def test_a_full_device():
    if not os.path.exists('/dev/full'):
        raise Skip('there is no /dev/full')
    url = init('a')
    ctl('stream', 'append', '--store', url, '1')
    for args in (['help'], ['version'], ['stream', 'read', '--store', url],
                 ['stream', 'count', '--store', url], ['stream', 'append', '--store', url, '2'],
                 ['store', 'check', '--store', url], ['completion', 'bash']):
        with open('/dev/full', 'wb') as full:
            done = run(*args, stdout=full)
        equal((args, done.returncode), (args, 1))
        contains(done.stderr.decode(), 'cannot write the output')


def test_a_closed_stdout_does_not_hit_the_database():
    url = init('a')
    for line in (f'ledgerctl stream append --store {url} 1 >&-',
                 f'ledgerctl stream read --store {url} >&-', 'ledgerctl help >&-'):
        done = shell(line)
        equal((line, done.returncode), (line, 1))
        contains(done.stderr.decode(), 'cannot write the output')
    # A command without output needs none.
    equal(shell(f'ledgerctl stream tag --store {url} --id 1 --tag x >&-').returncode, 0)
    # Nothing at all is open.
    equal(shell(f'ledgerctl stream append --store {url} 1 <&- >&- 2>&-').returncode, 1)
    equal(shell(f'ledgerctl stream tag --store {url} --id 1 --tag y 2>&-').returncode, 0)
    equal(shell(f'ledgerctl stream append --store {url} - <&-').returncode, 1)
    with sqlite3.connect('a.db') as db:
        equal(db.execute('PRAGMA integrity_check').fetchone()[0], 'ok')
    equal(ctl('stream', 'count', '--store', url).out, '2\n')


def test_a_pipe_whose_reader_has_gone():
    url = init('a')
    ctl('stream', 'append', '--store', url, '--lines',
        stdin=''.join('{"stream":"s%d","payload":"%s"}\n' % (i % 2000, 'x' * 200)
                      for i in range(4000)))
    # What is read in part on purpose ends without a word, and not with 0.
    for args in ('stream read --stream s0 --limit 0 --json', 'stream list --limit 0',
                 'stream search --limit 0 x', 'stream tail'):
        done = shell(f'ledgerctl {args} --store {url} | head -n 1; echo "${{PIPESTATUS[0]}}"')
        code = done.stdout.decode().splitlines()[-1]
        # What fits into the pipe may have been written before the reader went.
        assert code == '1' or code == '0' and ('s0' in args or 'list' in args), (args, done)
        equal((args, done.stderr.decode()), (args, ''))
    # A verdict that nobody has read is told.
    reader, writer = os.pipe()
    os.close(reader)
    done = run('stream', 'count', '--store', url, stdout=writer)
    os.close(writer)
    equal(done.returncode, 1)
    contains(done.stderr.decode(), 'cannot write the output')


def test_what_is_done_already_is_told():
    if not os.path.exists('/dev/full'):
        raise Skip('there is no /dev/full')
    url, sink = init('a', 'b')
    for extra in ([], ['--json']):
        with open('/dev/full', 'wb') as full:
            done = run('stream', 'append', '--store', url, *extra, '{"n":1}', stdout=full)
        equal(done.returncode, 1)
        contains(done.stderr.decode(), 'the entry is appended already, with id ')
    equal(ctl('stream', 'count', '--store', url).out, '2\n')
    with open('/dev/full', 'wb') as full:
        done = run('stream', 'append', '--store', url, '--lines', stdout=full,
                   input=b'{"payload":1}\n{"payload":2}\n')
    equal(done.returncode, 1)
    contains(done.stderr.decode(), '2 entries appended: the lines up to line 2 are in')
    with open('/dev/full', 'wb') as full:
        done = run('stream', 'trim', '--store', url, '--before', '2', stdout=full)
    equal(done.returncode, 1)
    contains(done.stderr.decode(), '2 entries are deleted already')
    for args in (['bridge', 'run', '--until-empty', '--json'], ['bridge', 'verify'],
                 ['bridge', 'verify', '--json'], ['bridge', 'status'],
                 ['bridge', 'status', '--json'], ['bridge', 'poll']):
        with open('/dev/full', 'wb') as full:
            done = run(*args, '--source', url, '--sink', sink, stdout=full)
        equal((args, done.returncode), (args, 1))
        contains(done.stderr.decode(), 'cannot write the output')


def test_no_descriptors_left():
    url, sink = init('a', 'b')
    for limit in range(6, 16):
        done = run('bridge', 'run', '--source', url, '--sink', sink, '--until-empty',
                   '--retry-for', '200ms', stdout=subprocess.PIPE,
                   preexec_fn=lambda n=limit: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)))
        if done.returncode != 0:
            text = done.stderr.decode()
            assert 'oo many open files' in text and 'ulimit -n' in text, (limit, text)


def test_a_file_over_its_limit():
    url = init('a')
    ctl('stream', 'append', '--store', url, '"%s"' % ('x' * 100000))
    ctl('stream', 'append', '--store', url, '"%s"' % ('x' * 100000))

    def limit():
        # SIGXFSZ would kill; Python ignores it, which a child would inherit.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))  # SQLite makes 32 KiB

    with open('out', 'wb') as out:
        done = run('stream', 'read', '--store', url, stdout=out, preexec_fn=limit)
    equal(done.returncode, 1)
    contains(done.stderr.decode(), 'cannot write the output')


main(globals())
