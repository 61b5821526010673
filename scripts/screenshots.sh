#!/usr/bin/env bash
# Walks through the real window under Xvfb with software GL: starts the demo, takes a point of the curve and applies it by
# the keyboard, waits until every node says that it infers with that policy, and takes pictures of every page in both
# themes. Fails if the policy did not arrive. Needs Xvfb and Mesa (Debian: xvfb libgl1-mesa-dri).
#
#     scripts/screenshots.sh DIR [EXEUNT]
#
# EXEUNT is the binary; without it, it is built. With EXEUNT_IDLE=SECONDS the window is then left alone with the demo's
# fleet for so long, and its share of one core is printed. EXEUNT_SIZE=WIDTHxHEIGHT opens a window of that size.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?"usage: scripts/screenshots.sh DIR [EXEUNT]"}
binary=${2:-}
if [ -z "$binary" ]; then
    cargo build --locked -p exeunt
    binary="${CARGO_TARGET_DIR:-target}/debug/exeunt"
fi
. scripts/display.sh

if [ -n "${EXEUNT_SIZE:-}" ]; then
    mkdir -p "$XDG_CONFIG_HOME/exeunt"
    printf '{"size": [%s, %s]}' "${EXEUNT_SIZE%x*}" "${EXEUNT_SIZE#*x}" > "$XDG_CONFIG_HOME/exeunt/window.json"
fi
timeout 300 "$binary" --home "$scratch/home" --screenshot "$out"
ls -l "$out"

if [ -n "${EXEUNT_IDLE:-}" ]; then
    "$binary" --home "$scratch/home" demo &
    window=$!
    # The demo takes some seconds; then everything is quiet.
    sleep "${EXEUNT_SETTLE:-40}"
    ticks() { awk '{print $14 + $15}' "/proc/$window/stat"; }
    before=$(ticks)
    sleep "$EXEUNT_IDLE"
    after=$(ticks)
    kill "$window"
    awk -v t=$((after - before)) -v hz="$(getconf CLK_TCK)" -v s="$EXEUNT_IDLE" \
        'BEGIN { printf "idle: %.2f %% of one core over %d s\n", 100 * t / hz / s, s }'
fi
