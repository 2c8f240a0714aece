"""What tests written in Python print: the Test Anything Protocol, which meson counts."""


class Failure(Exception):
    """Something is not as it should be."""


def run_cases(cases, skips=(), failures=Failure):
    """Runs each (name, function). skips, failures: exceptions, a class or several. Returns how many
    failed, and the sum of what the functions gave."""
    failed = total = 0
    for number, (name, run) in enumerate(cases, 1):
        try:
            total += run() or 0
            print(f'ok {number} - {name}', flush=True)
        except skips as why:
            print(f'ok {number} - {name} # SKIP {why}', flush=True)
        except failures as failure:
            failed += 1
            for line in str(failure).splitlines():
                print('# ' + line)
            print(f'not ok {number} - {name}', flush=True)
    print(f'1..{len(cases)}')
    return failed, total


def show_checks(checks):
    """Prints each (name, what it is, what it should be). Returns the exit code."""
    print(f'1..{len(checks)}')
    for number, (name, is_, wanted) in enumerate(checks, 1):
        print(f'{"ok" if is_ == wanted else "not ok"} {number} - {name}')
        if is_ != wanted:
            print(f'# got {is_!r}\n# expected {wanted!r}')
    return 0 if all(is_ == wanted for _, is_, wanted in checks) else 1
