#!/bin/sh
# Installs the build into a folder and uses what is there: test_install.sh SOURCE-DIR BUILD-DIR.
# Prints TAP.
set -u
source=$1
build=$2
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
        printf '%s\n' "${3:-}" | sed 's/^/# /'
    fi
}

out=$(DESTDIR="$dir" meson install -C "$build" --no-rebuild 2>&1)
result "meson install" $? "$out"

pc=$(find "$dir" -name ledger.pc)
test -n "$pc"
result "ledger.pc is installed" $? "$out"
[ -n "$pc" ] || {
    echo "1..$number"
    exit 1
}
prefix=$dir$(sed -n 's/^prefix=//p' "$pc")
library=$(dirname "$(find "$prefix" -name libledger.so)")
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH

want=$(cd "$source/include/ledger" && echo *)
got=$(cd "$prefix/include/ledger" && echo *)
test "$want" = "$got"
result "the public headers are installed, and nothing else" $? "want $want, got $got"

flags=$(pkg-config --define-variable=prefix="$prefix" --cflags --libs ledger)
# shellcheck disable=SC2086
out=$(cc -Wall -Wextra -Werror -o "$dir/quickstart" "$source/examples/quickstart.c" $flags 2>&1)
result "an example compiles with what pkg-config says" $? "$out"

out=$(LD_LIBRARY_PATH=$library "$dir/quickstart" "$dir/a.db" "$dir/b.db" 2>&1)
test "$out" = "source 1, sink 1, differences 0"
result "and runs" $? "$out"

# With PostgreSQL libpq as well, with what speaks HTTP libcurl, and what each of those two needs.
has() { grep -q -r --include=ldg_config.h "LDG_WITH_$1 1" "$build" && echo yes; }
postgres=$(has POSTGRES) webhook=$(has WEBHOOK) clickhouse=$(has CLICKHOUSE)
http=$webhook$clickhouse

out=$(cc -o "$dir/quickstart-static" -I "$prefix/include" "$source/examples/quickstart.c" \
    "$library/libledger.a" -lsqlite3 ${postgres:+-lpq} ${http:+-lcurl} ${webhook:+-lcrypto} \
    ${clickhouse:+-lzstd} -pthread 2>&1)
result "an example links with the static library" $? "$out"

"$dir/quickstart-static" "$dir/c.db" "$dir/d.db" >/dev/null 2>&1
result "and runs without the shared one" $?

# The loader is named when there are thread-local variables; it is a part of libc.
got=$(readelf -d "$library/libledger.so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -v '^ld-linux' | sort | tr '\n' ' ')
want="libc.so.6 ${webhook:+libcrypto.so.3 }${http:+libcurl.so.4 }${postgres:+libpq.so.5 }"
want="${want}libsqlite3.so.0 ${clickhouse:+libzstd.so.1 }"
test "$got" = "$want"
result "the shared library needs its backends' libraries and libc alone" $? "want $want, got $got"

out=$(LD_LIBRARY_PATH=$library "$prefix/bin/ledgerctl" version 2>&1)
result "the installed ledgerctl runs" $? "$out"

echo "1..$number"
exit "$failed"
