#!/usr/bin/env bash
# Uploads over a bad link between two network namespaces: a coordinator in one, a node in the other, cables between them
# that are pulled and addresses that change. Loss, delay and reordering come from netem; where the kernel has none, from
# the driver's own wire (crates/coordinator/tests/common/wire.rs), through which everything then passes.
#
# usage: scripts/netem.sh [short | full | rates]     short: what every commit is tried with, under two minutes
#                                                    full:  20 uploads of 5 MB, each cut off three times
#                                                    rates: congestion controllers side by side
# EXEUNT_UPLOADS names the driver (cargo build --example uploads). Exit code 77: not possible here, and why.
set -euo pipefail
cd "$(dirname "$0")/.."
what="${1:-short}"

skip() { echo "netem: skipped: $1"; exit 77; }
export PATH="$PATH:/usr/sbin:/sbin"
[ "$(uname)" = Linux ] || skip "network namespaces are Linux's"
[ "$(id -u)" = 0 ] || skip "only root may make network namespaces"
if ! command -v ip > /dev/null || ! command -v tc > /dev/null; then
    apt-get install -y iproute2 > /dev/null 2>&1 || skip "iproute2 is not there and cannot be installed"
fi
driver="${EXEUNT_UPLOADS:-${CARGO_TARGET_DIR:-target}/debug/examples/uploads}"
[ -x "$driver" ] || { echo "netem: no $driver: cargo build --workspace --example uploads" >&2; exit 2; }

hub="exeunt-hub-$$" leaf="exeunt-leaf-$$" folder=$(mktemp -d) server=
ip netns add "$hub" 2> "$folder/why" || skip "this machine forbids network namespaces: $(cat "$folder/why")"
clean_up() {
    [ -z "$server" ] || kill "$server" 2> /dev/null || true
    ip netns delete "$hub" || true
    ip netns delete "$leaf" 2> /dev/null || true
    rm -rf "$folder"
}
trap clean_up EXIT
ip netns add "$leaf"
ip -n "$hub" link add up0 type veth peer name down0 netns "$leaf" || skip "no veth in this kernel"
for end in "$hub lo" "$leaf lo" "$hub up0" "$leaf down0"; do
    # shellcheck disable=SC2086  # a namespace and a device
    set -- $end
    ip -n "$1" link set "$2" up
done
ip -n "$hub" address add 10.77.0.1/24 dev up0
ip -n "$leaf" address add 10.77.0.2/24 dev down0
if ip netns exec "$leaf" tc qdisc add dev down0 root netem delay 1ms 2> /dev/null; then
    netem=yes
    ip netns exec "$leaf" tc qdisc del dev down0 root
else
    netem=
    echo "netem: this kernel has none; the driver's wire makes the weather"
fi

# A coordinator with this weather in both directions: share lost, milliseconds one way, share that overtakes, bytes a second.
begin() {
    local loss=$1 delay=$2 hasty=$3 rate=$4
    [ -z "$server" ] || { kill "$server"; wait "$server" 2> /dev/null || true; }
    rm -rf "$folder/run" && mkdir "$folder/run"
    if [ -n "$netem" ]; then
        local at weather
        weather="delay ${delay}ms loss $(awk "BEGIN { print 100 * $loss }")% rate $((rate * 8))bit limit 4000"
        [ "$hasty" = 0 ] || weather="$weather reorder $(awk "BEGIN { print 100 * $hasty }")%"
        for at in "$hub up0" "$leaf down0"; do
            # shellcheck disable=SC2086
            ip netns exec ${at% *} tc qdisc replace dev ${at#* } root netem $weather
        done
        ip netns exec "$hub" "$driver" serve "$folder/run" 2 10.77.0.1:4711 2> "$folder/server" &
    else
        ip netns exec "$hub" "$driver" serve "$folder/run" 2 10.77.0.1:4711 "$loss" "$delay" "$hasty" "$rate" \
            2> "$folder/server" &
    fi
    server=$!
    local i
    for i in $(seq 600); do
        [ ! -e "$folder/run/facts.json" ] || return 0
        kill -0 "$server" || { cat "$folder/server" >&2; exit 1; }
        sleep 0.1
    done
    echo "netem: the coordinator did not begin to listen within a minute" >&2
    exit 1
}
send() {
    printf -- '--- %s\n' "$*"
    ip netns exec "$leaf" "$driver" send "$folder/run" 0 10.77.0.1:4711 "$@"
}
pull=(cut="ip link set dev down0 down" mend="ip link set dev down0 up")
fast=12500000

case "$what" in
short)
    begin 0.05 100 0.25 $fast
    send uploads=2 bytes=2000000 cuts=3 "${pull[@]}"
    echo "--- the cable pulled for 6 s, less than the idle timeout: one connection"
    send bytes=1000000 cuts=1 pause=6 abandon=no connections=1 "${pull[@]}"
    echo "--- another address in the middle: one connection"
    send bytes=1000000 cuts=1 pause=0 abandon=no connections=1 \
        cut="ip address add 10.77.0.3/24 dev down0; ip address delete 10.77.0.2/24 dev down0; ip address add 10.77.0.3/24 dev down0 2>/dev/null || true"
    begin 0.3 200 0 $fast
    send bytes=100000
    ;;
full)
    begin 0.05 100 0.25 $fast
    send uploads=20 bytes=5000000 cuts=3 "${pull[@]}"
    echo "--- the cable pulled for 6 s, less than the idle timeout: one connection"
    send bytes=5000000 cuts=1 pause=6 abandon=no connections=1 "${pull[@]}"
    echo "--- the cable pulled for 20 s, more than the idle timeout: another connection, which goes on"
    send bytes=5000000 cuts=1 pause=20 abandon=no connections=2 "${pull[@]}"
    echo "--- another address in the middle: one connection"
    send bytes=5000000 cuts=1 pause=0 abandon=no connections=1 \
        cut="ip address add 10.77.0.3/24 dev down0; ip address delete 10.77.0.2/24 dev down0; ip address add 10.77.0.3/24 dev down0 2>/dev/null || true"
    begin 0.3 200 0 $fast
    send uploads=5 bytes=100000
    ;;
rates)
    for weather in "0 10 0 $fast 5000000" "0.05 100 0.25 $fast 1000000" "0.3 200 0 $fast 100000"; do
        read -r loss delay hasty rate bytes <<< "$weather"
        begin "$loss" "$delay" "$hasty" "$rate"
        for congestion in cubic new-reno bbr; do
            echo "--- loss $loss, $delay ms one way"
            send uploads=3 bytes="$bytes" congestion="$congestion"
        done
    done
    ;;
*)
    echo "netem: found '$what', expected short, full or rates" >&2
    exit 2
    ;;
esac
