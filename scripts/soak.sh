#!/usr/bin/env bash
# A federation in a loop of runs: what its processes hold, minute by minute.
#
#     scripts/soak.sh EXEUNT [MINUTES] [NODES]
#
# Starts a coordinator and NODES nodes (50) of the binary EXEUNT on this machine, each node with its share of the digits
# that ship, and lets one run follow the other for MINUTES (60). Each run is waited for, gets a policy, and is stopped
# when the next one is ready. Once a minute it prints resident memory (MB) and open files of the coordinator and of all
# nodes together. At the end, the last fifth of the minutes is held against the fifth after the first one, in which
# caches fill: more than 5 % more memory, or more open files, is a failure. Linux only: it reads /proc.
set -euo pipefail
exeunt=$(realpath "${1:?usage: scripts/soak.sh EXEUNT [MINUTES] [NODES]}")
minutes=${2:-60} nodes=${3:-50}
(( minutes >= 10 )) || { echo "soak: fewer than 10 minutes say nothing" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2> /dev/null || true; wait; rm -rf "$folder"' EXIT

# Condition, and seconds to wait for it.
wait_for() {
    local end=$((SECONDS + $2))
    until eval "$1"; do
        (( SECONDS < end )) || { echo "soak: waited $2 s for: $1" >&2; exit 1; }
        sleep 0.2
    done
}
# What a command says beside its result is of no use here.
operator() { "$exeunt" --home "$folder/coordinator" "$@" 2>> "$folder/operator.log"; }

"$exeunt" serve --listen 127.0.0.1:0 --home "$folder/coordinator" 2> "$folder/coordinator.log" &
pids+=($!)
wait_for "grep -qs 'coordinator listens on' '$folder/coordinator.log'" 30
for ((n = 0; n < nodes; n++)); do
    "$exeunt" node-process -- --home "$folder/node-$n" join "$(operator token)" --data "$root/assets/digits" --name "node-$n" \
        --share "$n/$nodes:uniform:1" --threads 1 > "$folder/node-$n.log" 2>&1
    "$exeunt" node-process -- --home "$folder/node-$n" start 2>> "$folder/node-$n.log" &
    pids+=($!)
done
# So few images each that no class would pass the floors; and an answer of everybody.
sed -e "s|\.\./assets|$root/assets|" -e 's/^min_count = .*/min_count = 1/' -e "s/^quorum = .*/quorum = $nodes/" \
    "$root/configs/digits.toml" > "$folder/run.toml"

resident() { awk '/^VmRSS/ { kb += $2 } END { printf "%.1f", kb / 1024 }' "${@/%//status}"; }
files() { local pid count=0; for pid; do count=$((count + $(ls "$pid/fd" | wc -l))); done; echo "$count"; }
measure() {
    local places=("${pids[@]/#//proc/}")
    echo "$1 $runs $(resident "${places[0]}") $(files "${places[0]}")" \
        "$(resident "${places[@]:1}") $(files "${places[@]:1}")" | tee -a "$folder/minutes"
}

echo "minute runs coordinator_mb coordinator_files nodes_mb nodes_files"
start=$SECONDS minute=0 runs=0 before=
while (( minute < minutes )); do
    run=$(operator run start "$folder/run.toml")
    operator run show "$run" --wait --json > "$folder/report.json"
    grep -q '"standing": "ready"' "$folder/report.json" || { echo "soak: $run is not ready" >&2; exit 1; }
    operator policy set --max-drop 1 > /dev/null
    [ -z "$before" ] || operator run stop "$before" > /dev/null
    before=$run runs=$((runs + 1))
    while (( SECONDS - start >= 60 * (minute + 1) && minute < minutes )); do
        minute=$((minute + 1))
        measure "$minute"
    done
done

awk -v minutes="$minutes" '
    NR > minutes / 5 && NR <= 2 * minutes / 5 { early++; for (i = 3; i <= 6; i++) first[i] += $i }
    NR > 4 * minutes / 5 { late++; for (i = 3; i <= 6; i++) last[i] += $i }
    { runs = $2 }
    END {
        split("- - coordinator_mb coordinator_files nodes_mb nodes_files", name, " ")
        for (i = 3; i <= 6; i++) {
            from = first[i] / early; to = last[i] / late
            grown = i % 2 ? to > 1.05 * from : to > from + 1
            printf "%s: %.1f, later %.1f (%+.1f %%)%s\n", name[i], from, to, 100 * (to / from - 1), grown ? " GROWN" : ""
            bad += grown
        }
        printf "%d runs over %d minutes\n", runs, minutes
        exit bad > 0
    }' "$folder/minutes"
