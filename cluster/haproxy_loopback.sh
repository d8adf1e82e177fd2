#!/bin/sh
# Starts HAProxy for Ray Serve with what Serve's configuration file has no setting for:
# - statistics and metrics on loopback, the admin socket for its owner only: as written, anyone on
#   the network reads the traffic table and any local user can redirect it; the API itself stays
#   where `http_options.host` puts it;
# - whole requests buffered before they go on, so that one whose gateway dies can be repeated on
#   another (see RAY_SERVE_HAPROXY_RETRY_ON), and a slow sender holds no gateway;
# - its own error pages in the shape that OpenAI clients read. What it cannot parse, and headers
#   beyond its buffer of 16 kB, it refuses with a page that no setting changes (400, HTML).
set -e
error_page() { # status, type, code, message, further headers
    body="{\"error\":{\"message\":\"$4\",\"type\":\"$2\",\"param\":null,\"code\":\"$3\",\"request_id\":null}}"
    printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\n' "$1"
    printf "${5}Content-Length: %s\r\n\r\n%s" "${#body}" "$body"
}
error_pages() { # directory; Serve's configuration shows 500.http for 502, 503 and 504
    error_page "503 Service Unavailable" overloaded_error overloaded \
        "no gateway can take the request now; try again" \
        'Retry-After: 1\r\nx-should-retry: true\r\n' > "$1/500.http"
    error_page "408 Request Timeout" invalid_request_error request_timeout \
        "the request did not arrive in time; send it again" 'Connection: close\r\n' > "$1/408.http"
}
previous=""
for argument in "$@"; do
    if [ "$previous" = "-f" ] && [ -f "$argument" ]; then
        pages="$(dirname "$argument")"
        sed -i \
            -e '/^frontend prometheus/,/bind/ s/bind \**:/bind 127.0.0.1:/' \
            -e '/^listen stats/,/bind/ s/bind \**:/bind 127.0.0.1:/' \
            -e 's/ mode 666 level admin / mode 600 level admin /' \
            -e 's/^\([[:space:]]*\)option redispatch 1$/&\n\1option http-buffer-request/' \
            -e "s|^\([[:space:]]*\)errorfile 504 .*|&\n\1errorfile 408 $pages/408.http|" \
            "$argument"
        error_pages "$pages"
    fi
    previous="$argument"
done
exec "$CARRIL_HAPROXY" "$@"
