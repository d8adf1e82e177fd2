#!/bin/sh
# Starts HAProxy for Ray Serve with what Serve's configuration file has no setting for:
# - statistics and metrics on loopback, the admin socket for its owner only: as written, anyone on
#   the network reads the traffic table and any local user can redirect it; the API itself stays
#   where `http_options.host` puts it;
# - whole requests buffered before they go on, so that one whose gateway dies can be repeated on
#   another (see RAY_SERVE_HAPROXY_RETRY_ON), and a slow sender holds no gateway;
# - its own error page in the shape that OpenAI clients read.
set -e
error_page() {
    body='{"error":{"message":"no gateway can take the request now; try again","type":"overloaded_error","param":null,"code":"overloaded","request_id":null}}'
    printf 'HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n'
    printf 'x-should-retry: true\r\nContent-Length: %s\r\n\r\n%s' "${#body}" "$body"
}
previous=""
for argument in "$@"; do
    if [ "$previous" = "-f" ] && [ -f "$argument" ]; then
        sed -i \
            -e '/^frontend prometheus/,/bind/ s/bind \**:/bind 127.0.0.1:/' \
            -e '/^listen stats/,/bind/ s/bind \**:/bind 127.0.0.1:/' \
            -e 's/ mode 666 level admin / mode 600 level admin /' \
            -e 's/^\([[:space:]]*\)option redispatch 1$/&\n\1option http-buffer-request/' \
            "$argument"
        error_page > "$(dirname "$argument")/500.http"
    fi
    previous="$argument"
done
exec "$CARRIL_HAPROXY" "$@"
