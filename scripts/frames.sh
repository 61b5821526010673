#!/usr/bin/env bash
# How long whole frames take in a real window with software GL, painting included. Needs Xvfb and Mesa (Debian: xvfb
# libgl1-mesa-dri).
#
#     scripts/frames.sh [WIDTHxHEIGHT]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/display.sh
export EXEUNT_SIZE=${1:-1280x820}
cargo bench --locked -p exeunt-dashboard --bench paint
