#!/usr/bin/env bash
# The way of a file of orders: appended, durable, sealed and encrypted in the object store, pushed
# into the table of an application exactly once, and again from the chunks when the table is lost.
# `make demo` builds the two programs first. Exit code 0 only if the table equals the file.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
programs="${PROGRAMS:-${CARGO_TARGET_DIR:-$here/../../../target}/release}"
for program in pyramid orders; do
    [[ -x "$programs/$program" ]] || { echo "build $program first: make demo" >&2; exit 1; }
done
pyramid="$(cd "$programs" && pwd)/pyramid" orders="$(cd "$programs" && pwd)/orders"
file="$here/orders.jsonl" marker="jasmine tea" repeat=10 wait_seconds=60

work="$(mktemp -d)"
application='' dev=''
stop() {
    trap - EXIT INT TERM
    [[ -z "$application" ]] || kill -9 "$application" 2>/dev/null || true
    [[ -z "$dev" ]] || { kill "$dev" && wait "$dev"; } 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM
cd "$work"
# Only what this script starts is asked; nothing of the caller's surroundings.
unset "${!PYRAMID_@}"
export PYRAMID_DATA_DIR="$work/data"

bold='' plain_text=''
[[ ! -t 1 ]] || bold=$'\033[1m' plain_text=$'\033[0m'
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain_text"; }
fail() { printf '\nthe demo failed: %s\n' "$*" >&2; cat "$work"/*.log >&2; exit 1; }
milliseconds() { local now=${EPOCHREALTIME/[.,]/}; echo $((now / 1000)); }
# The first number of this name in a line of JSON.
number() { grep -o "\"$1\":[0-9]*" | head -n 1 | cut -d : -f 2; }
rows() { "$orders" --database orders.db --print | wc -l; }
# until_true WHAT COMMAND...: waits for the command to succeed.
until_true() {
    local what="$1" end=$((SECONDS + wait_seconds))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "$what took more than $wait_seconds s"
        sleep 0.05
    done
}
has_all() { [[ "$(rows)" -eq "$total" ]]; }
next_offset() { "$pyramid" stream info orders --output json | number next_offset; }
start_application() { # LISTEN
    "$orders" --listen "$1" --database orders.db >application.out 2>>application.log &
    application=$!
    until_true "the start of the application" grep -qs listening application.out
}
kill_application() {
    kill -9 "$application"
    wait "$application" 2>/dev/null || true
    application=''
}

for ((n = 0; n < repeat; n++)); do cat "$file"; done >expected
total=$(wc -l <expected)

say "1. An application with an empty SQLite table, a Writer and a pusher"
start_application 127.0.0.1:0
address="$(sed -n 's/listening on //p' application.out)"
"$pyramid" dev --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --local-listen 127.0.0.1:0 \
    --subscribe "orders=${address##*:}" --chunk-bytes 1048576 >dev.out 2>dev.log &
dev=$!
until_true "the start of pyramid dev" grep -qs ready dev.out
sed -n '3,8p' dev.out

say "2. Append $total orders; the application is killed with kill -9 while orders are on their way to it"
for ((n = 0; n < repeat; n++)); do
    # Held still, so that what is appended now is certainly on its way to it when it is killed.
    ((n != repeat / 2)) || kill -STOP "$application"
    "$pyramid" stream append orders --file "$file" --jsonl
    if ((n == repeat / 2)); then
        appended=$(next_offset)
        kill_application
        (($(rows) < appended)) || fail "nothing was on its way at the kill"
        echo "killed the application: $appended orders appended, $(rows) in its table; it starts again"
        start_application "$address"
    fi
done
start=$(milliseconds)
until_true "the delivery of all orders" has_all
echo "the table has all $(rows) orders, $(($(milliseconds) - start)) ms after the last append"
cmp expected <("$orders" --database orders.db --print) || fail "the table differs from the file"

say "3. Seal what is left; the object store has encrypted chunks only"
"$pyramid" stream seal orders --wait
mapfile -t chunks < <(find data/objects -name '*.pyc')
info="$("$pyramid" stream info orders --output json)"
[[ "$(number live_bytes <<<"$info")" -eq 0 && "$(number chunk_count <<<"$info")" -eq ${#chunks[@]} ]] ||
    fail "not all is in chunks: $info"
plain=$(wc -c <expected) stored=$(number chunk_bytes <<<"$info")
echo "${#chunks[@]} chunks, $stored bytes for $plain bytes of orders"
echo "\"$marker\": $(grep -c "$marker" expected) lines of the file," \
    "$(grep -rla "$marker" data/objects | wc -l) objects of the store"
! grep -rqa "$marker" data/objects || fail "the object store has a record in clear text"
"$pyramid" chunk inspect "${chunks[0]}" --kek-file data/kek | tail -n 1

say "4. The application is killed with kill -9 and loses its database; it starts again with nothing"
kill_application
rm -f orders.db*
start=$(milliseconds)
start_application "$address"
until_true "the delivery from the chunks" has_all
took=$(($(milliseconds) - start))
echo "caught up from the chunks: $total orders in $took ms, $((total * 1000 / took)) orders/s"

say "5. Compare the table with the file"
cmp expected <("$orders" --database orders.db --print) || fail "the table differs from the file"
echo "equal: $(rows) orders, $plain bytes, each exactly once and in order"
