#!/usr/bin/env bash
# Takes pictures of the real window: starts the demo under Xvfb with software GL, sets a policy, visits every page in
# both themes. Needs Xvfb and Mesa (Debian: xvfb libgl1-mesa-dri).
#
#     scripts/screenshots.sh DIR [EXEUNT]
#
# EXEUNT is the binary; without it, it is built. With EXEUNT_IDLE=SECONDS the window is then left alone with the demo's
# fleet for so long, and its share of one core is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?"usage: scripts/screenshots.sh DIR [EXEUNT]"}
binary=${2:-}
if [ -z "$binary" ]; then
    cargo build --locked -p exeunt
    binary="${CARGO_TARGET_DIR:-target}/debug/exeunt"
fi
command -v Xvfb > /dev/null || { echo "skipped: Xvfb is not here" >&2; exit 0; }

scratch=$(mktemp -d)
display=":$((RANDOM % 500 + 100))"
Xvfb "$display" -screen 0 1600x1000x24 -nolisten tcp > "$scratch/xvfb.log" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null || true; rm -rf "$scratch"' EXIT
for _ in $(seq 100); do
    [ -e "/tmp/.X11-unix/X${display#:}" ] && break
    sleep 0.1
done

export DISPLAY=$display LIBGL_ALWAYS_SOFTWARE=1 XDG_CONFIG_HOME="$scratch/config" XDG_RUNTIME_DIR="$scratch"
unset WAYLAND_DISPLAY
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
