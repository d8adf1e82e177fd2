#!/bin/sh
# Starts HAProxy for Ray Serve with its statistics and metrics on loopback, and its admin socket for
# the owner only. Serve writes those lines into the configuration file with no setting for them: as
# written, anyone on the network reads the traffic table and any local user can redirect it.
set -e
previous=""
for argument in "$@"; do
    if [ "$previous" = "-f" ] && [ -f "$argument" ]; then
        sed -i \
            -e 's/^\([[:space:]]*bind \)\*\{0,1\}:\([0-9]*\)[[:space:]]*$/\1127.0.0.1:\2/' \
            -e 's/ mode 666 level admin / mode 600 level admin /' \
            "$argument"
    fi
    previous="$argument"
done
exec "$CARRIL_HAPROXY" "$@"
