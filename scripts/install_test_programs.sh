#!/bin/sh
# Installs the programs that some tests drive, where that is allowed: on Debian, as root. Elsewhere it
# names what is missing; the tests that need it skip and say so. Called by `make test`.
set -eu

# command:package
PROGRAMS="redis-server:redis-server pg_ctlcluster:postgresql chromium:chromium"

missing=""
for entry in $PROGRAMS; do
    command -v "${entry%%:*}" >/dev/null || missing="$missing ${entry##*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "note: missing:$missing; tests that need them will be skipped" >&2
    exit 0
fi

# The programs are wanted, not their services, which would take ports (Redis and Ray both want 6379):
# this file is how Debian is told not to start any.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
echo "installing for tests:$missing" >&2
log=$(mktemp)
# shellcheck disable=SC2086  (a list of words)
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 3 "$log" >&2
    echo "note:$missing could not be installed; tests that need them will be skipped" >&2
fi
rm -f "$log"
if command -v systemctl >/dev/null; then
    for package in $missing; do systemctl disable "$package" >/dev/null 2>&1 || true; done
fi
