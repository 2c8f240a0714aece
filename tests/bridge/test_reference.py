#!/usr/bin/env python3
"""test_reference.py ROOT: docs/REFERENCE.md against the list of the reference's items, the public
headers and the tests. Prints TAP."""
import glob
import os
import re
import sys

ROOT = os.path.abspath(sys.argv[1])


def read(*path):
    with open(os.path.join(ROOT, *path), encoding='utf-8') as file:
        return file.read()


HEADERS = {os.path.basename(p): open(p, encoding='utf-8').read()
           for p in glob.glob(os.path.join(ROOT, 'include', 'ledger', '*.h'))}
PUBLIC = '\n'.join(HEADERS.values())
TESTS = '\n'.join(open(p, encoding='utf-8').read()
                  for p in glob.glob(os.path.join(ROOT, 'tests', '**', '*.c'), recursive=True))


def rows():
    """(columns, has an item column) of each row; a table is known by its head."""
    head = None
    for line in read('docs', 'REFERENCE.md').splitlines():
        if not line.startswith('|'):
            head = None
            continue
        columns = [c.strip() for c in line.strip().strip('|').split('|')]
        if head is None:
            head = columns
        elif not set(line) <= set('|-'):
            yield dict(zip(head, columns))


def names(text):
    return re.findall(r'`([^`]+)`', text)


def struct_body(name):
    match = re.search(r'struct ' + name + r' \{(.*?)^\} ' + name + ';', PUBLIC, re.S | re.M)
    return match.group(1) if match else None


def items_stand_in_the_table():
    wanted = [i for i in read('tests', 'bridge', 'reference_items.txt').splitlines() if i]
    found = [row['Item'] for row in rows() if 'Item' in row]
    problems = [f'no row: {i}' for i in wanted if i not in found]
    problems += [f'not an item of the reference: {i}' for i in found if i not in wanted]
    problems += [f'twice: {i}' for i in set(found) if found.count(i) > 1]
    return problems, len(wanted)


def c_names_are_public():
    problems, count = [], 0
    for row in rows():
        found = names(row['In C'])
        if not found:
            problems.append(f'no C name: {row}')
        # Other columns may name more; what looks like ours has to be ours there too.
        everywhere = found + [n for c in row.values() for n in names(c)
                              if re.fullmatch(r'(ledger|LEDGER)_\w+(\.\w+)?', n)]
        for name in everywhere:
            count += 1
            whole, _, field = name.partition('.')
            if not re.search(r'\b' + re.escape(whole) + r'\b', strip_comments(PUBLIC)):
                problems.append(f'{whole} is not in include/ledger')
            elif field:
                body = struct_body(whole)
                if body is None or not re.search(r'\b' + field + r'\b', strip_comments(body)):
                    problems.append(f'{whole} has no {field}')
    return problems, count


def strip_comments(text):
    # The error list makes names from its entries.
    text = re.sub(r'^\s*X\((\w+),', r'LEDGER_ERR_\1,', text, flags=re.M)
    return re.sub(r'/\*.*?\*/', ' ', text, flags=re.S)


def tests_exist():
    problems, count = [], 0
    for row in rows():
        found = names(row['Test'])
        if not found:
            problems.append(f'no test: {list(row.values())[0]}')
        for name in found:
            count += 1
            if not re.search(r'^(static )?void ' + name + r'\(void \*\*', TESTS, re.M):
                problems.append(f'there is no test {name}')
    return problems, count


def defaults_are_true():
    """Values that the table names stand in the headers too."""
    bridge = HEADERS['bridge.h']
    problems = [f'bridge.h does not say: {text}' for text in
                ('default 5000', 'default 500', '"github.com/rbaliyan/ledger/bridge"', '"default"')
                if text not in bridge]
    return problems, 4


def main():
    checks = [items_stand_in_the_table, c_names_are_public, tests_exist, defaults_are_true]
    failed = 0
    print(f'1..{len(checks)}')
    for number, check in enumerate(checks, 1):
        problems, count = check()
        if count == 0:
            problems.append('nothing to check')
        for problem in sorted(set(problems)):
            print('# ' + problem)
        title = check.__name__.replace('_', ' ')
        print(f'{"not " if problems else ""}ok {number} - {title} ({count})')
        failed += bool(problems)
    return 1 if failed else 0


sys.exit(main())
