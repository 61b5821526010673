#!/usr/bin/env bash
# Takes the pictures of docs/images anew, with the demo in the real window under Xvfb (see scripts/screenshots.sh). Look at
# them before they are committed.
#
#     scripts/pictures.sh [EXEUNT]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
EXEUNT_NO_DISPLAY=1 scripts/screenshots.sh "$folder" "$@"
for name in trade-off-dark trade-off-light thresholds-dark run-light node-light; do
    bytes=$(wc -c < "$folder/$name.png")
    if [ "$bytes" -gt 300000 ]; then
        echo "$name.png: found $bytes bytes, expected at most 300000" >&2
        exit 1
    fi
    cp "$folder/$name.png" docs/images/
done
