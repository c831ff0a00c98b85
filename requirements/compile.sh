#!/bin/sh
# Compile base.in and test.in to pinned files with hashes, for Python 3.11 and without any index address.
set -eu
cd "$(dirname "$0")"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3.11 -m venv "$tools"
"$tools/bin/pip" install --quiet uv
for name in base test; do
    "$tools/bin/uv" pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
        --annotation-style line --python-version 3.11 "$@" "$name.in" -o "$name.txt"
done
if grep -nE '://|^(-|--)(i|f|index|find|extra)|file:' base.txt test.txt; then
    echo "A pinned file names a place." >&2
    exit 1
fi
