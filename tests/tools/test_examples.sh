#!/bin/sh
# Runs the examples: test_examples.sh QUICKSTART IMPORT_PACKAGES. Prints TAP.
set -u
quickstart=$1
import=$2
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
number=0
failed=0

# result NAME STATUS [EXPLANATION]
result() {
    number=$((number + 1))
    if [ "$2" -eq 0 ]; then
        echo "ok $number - $1"
    else
        failed=1
        echo "not ok $number - $1"
        echo "# ${3:-}"
    fi
}

# same WANT GOT
same() {
    [ "$1" = "$2" ]
}

out=$("$quickstart" "$dir/a.db" "$dir/b.db" 2>&1)
same "source 1, sink 1, differences 0" "$out"
result "quickstart carries one entry" $? "got: $out"

out=$("$quickstart" "$dir/a.db" "$dir/b.db" 2>&1)
same "source 1, sink 1, differences 0" "$out"
result "quickstart again adds nothing" $? "got: $out"

# Two packages, one of them twice, one with a line that is not UTF-8, one large, one essential.
{
    printf 'Package: alpha\nVersion: 1\nArchitecture: all\nSection: net\nPriority: optional\n'
    printf 'Installed-Size: 5000\nHomepage: https://example.org/\n'
    printf 'Description: "a" \\ b\n more\n .\n\n'
    printf 'Package: beta\nVersion: 2\nArchitecture: amd64\nEssential: yes\n'
    printf 'Maintainer: J\351r\n\n\n'
    printf 'Package: alpha\nVersion: 1\nArchitecture: all\nSection: net\n'
} >"$dir/Packages"
out=$("$import" "sqlite:$dir/a.db" <"$dir/Packages" 2>&1)
same "2 packages, 1 known before, 1 annotated, 1 tagged again, 0 trimmed" "$out"
result "import_packages reads a list" $? "got: $out"

out=$("$import" "sqlite:$dir/a.db" <"$dir/Packages" 2>&1)
same "0 packages, 3 known before, 0 annotated, 0 tagged again, 0 trimmed" "$out"
result "import_packages twice adds nothing" $? "got: $out"

out=$(sqlite3 "$dir/a.db" "SELECT stream, CAST(payload AS TEXT), tags FROM ledger_entries
    WHERE dedup_key LIKE 'beta%'" 2>&1)
want=$(printf '%s%b%s' 'unknown|{"Package":"beta","Version":"2","Architecture":"amd64",' \
    '"Essential":"yes","Maintainer":"J\0357\0277\0275r"}' '|["Essential:yes","keep"]')
same "$want" "$out"
result "bytes that are not UTF-8 are replaced" $? "got: $out"

out=$(sqlite3 "$dir/a.db" "SELECT json_extract(payload, '\$.Description'), annotations
    FROM ledger_entries WHERE dedup_key LIKE 'alpha%'" 2>&1)
want=$(printf '"a" \\ b\nmore\n.|{"homepage":"https://example.org/","installed_size_kb":"5000"}')
same "$want" "$out"
result "continued lines and quotes survive" $? "got: $out"

"$import" >/dev/null 2>&1
test $? -eq 2
result "import_packages without a store is a usage error" $?

echo "1..$number"
exit "$failed"
