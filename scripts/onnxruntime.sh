#!/usr/bin/env bash
# Prints where ONNX Runtime's shared library lies, taking it out of the Python package first if it is not there yet.
#
#     export EXEUNT_ONNXRUNTIME=$(scripts/onnxruntime.sh [DIR])
#
# DIR keeps it between calls (default: the user's cache). Needs python3 with pip.
set -euo pipefail
version=1.32.0
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/exeunt/onnxruntime}/$version
library() { find "$dir" -name 'libonnxruntime.so.*' -o -name 'libonnxruntime.*.dylib' 2> /dev/null | head -n 1; }
if [ -z "$(library)" ]; then
    mkdir -p "$dir"
    wheel=$(mktemp -d)
    trap 'rm -rf "$wheel"' EXIT
    python3 -m pip download --quiet --no-deps --dest "$wheel" "onnxruntime==$version" >&2
    python3 -m zipfile -e "$wheel"/*.whl "$wheel/unpacked"
    mv "$wheel"/unpacked/onnxruntime/capi/libonnxruntime.* "$dir"
fi
found=$(library)
[ -n "$found" ] || { echo "onnxruntime $version holds no shared library" >&2; exit 1; }
echo "$found"
