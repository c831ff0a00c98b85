#!/bin/sh
# Programs the tests need beside Python: Debian's chromium and strace. Tests that miss one say so and are skipped.
set -eu
missing=
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v strace >/dev/null 2>&1 || missing="$missing strace"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "No apt-get here: tests that need$missing are skipped."
elif [ "$(id -u)" -ne 0 ]; then
    echo "Not root: tests that need$missing are skipped (apt-get install$missing)."
elif ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >/dev/null; then
    echo "apt-get could not install$missing: tests that need them are skipped."
fi
