"""Alerts, sent to a receiver on this machine."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from experiments.alerts.address import RefusedAddress, check_address
from experiments.alerts.alert import Alert
from experiments.alerts.config import AlertConfig, Channel
from experiments.alerts.delivery import deliver, unreachable
from experiments.alerts.payloads import slack_body, teams_body

ALERT = Alert(
    alert_id="0123456789abcdef",
    severity="critical",
    title="Drift critical",
    summary="stable: confidence drop <20 % & more>",
    facts=(("Variant stable", "critical"), ("Acknowledge by", "2026-01-31 09:00 UTC")),
    lines=("stable: confidence drop opened (critical), effect +33.4 %",),
    at=datetime(2026, 1, 31, 8, tzinfo=UTC),
    link="https://boards.example.com/drift",
)


class Receiver:
    """Answers with the statuses it is given, then with 200, and keeps what it got."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, dict[str, str]]] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = outer.replies.pop(0) if outer.replies else (200, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.host}/hook/secret"


@contextmanager
def listening() -> Iterator[Receiver]:
    """Give a receiver that answers until the end of the block."""
    found = Receiver()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as found:
        yield found


def config(host: str, **more: Any) -> AlertConfig:
    return AlertConfig(allowed_hosts=frozenset({host}), allow_private=True, **more)


SLACK = Channel(name="ops", kind="slack", url_env="HOOK")


def test_slack_gets_a_block_kit_message(receiver: Receiver) -> None:
    done = deliver(ALERT, SLACK, config(receiver.host), environ={"HOOK": receiver.url})
    assert (done.delivered, done.attempts) == (True, 1)
    ((headers, body),) = receiver.got
    message = json.loads(body)
    assert headers["content-type"].startswith("application/json")
    assert "x-carril-signature" not in headers
    assert message["text"].startswith("🔴 Drift critical")
    kinds = [block["type"] for block in message["blocks"]]
    assert kinds == ["header", "section", "section", "section", "section", "context"]
    assert message["blocks"][1]["text"]["text"] == "stable: confidence drop &lt;20 % &amp; more&gt;"


def test_teams_gets_an_adaptive_card(receiver: Receiver) -> None:
    channel = Channel(name="team", kind="teams", url_env="HOOK")
    receiver.replies = [(202, {})]  # what workflows answer
    assert deliver(ALERT, channel, config(receiver.host), environ={"HOOK": receiver.url}).delivered
    message = json.loads(receiver.got[0][1])
    (attachment,) = message["attachments"]
    assert message["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert card["body"][0]["color"] == "Attention"
    assert card["actions"] == [
        {"type": "Action.OpenUrl", "title": "Open", "url": "https://boards.example.com/drift"}
    ]


def test_a_webhook_is_signed_over_time_and_body(receiver: Receiver) -> None:
    channel = Channel(name="pager", kind="webhook", url_env="HOOK", secret_env="KEY")
    environ = {"HOOK": receiver.url, "KEY": "s3cret"}
    assert deliver(ALERT, channel, config(receiver.host), environ=environ).delivered
    headers, body = receiver.got[0]
    signed = headers["x-carril-timestamp"].encode() + b"." + body
    expected = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert headers["x-carril-signature"] == f"v1={expected}"
    assert headers["x-carril-delivery"] == json.loads(body)["alert_id"] == ALERT.alert_id


def test_a_busy_receiver_is_tried_again_with_growing_waits(receiver: Receiver) -> None:
    receiver.replies = [(503, {}), (429, {"retry-after": "7"}), (500, {})]
    waits: list[float] = []
    done = deliver(
        ALERT, SLACK, config(receiver.host), environ={"HOOK": receiver.url}, sleep=waits.append
    )
    assert (done.delivered, done.attempts) == (True, 4)
    assert 0.5 <= waits[0] <= 1.0
    assert waits[1] == 7.0
    assert 2.0 <= waits[2] <= 4.0
    assert len({body for _, body in receiver.got}) == 1


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_refusal_is_not_tried_again(receiver: Receiver, status: int) -> None:
    receiver.replies = [(status, {})]
    done = deliver(ALERT, SLACK, config(receiver.host), environ={"HOOK": receiver.url})
    assert (done.delivered, done.attempts, done.error) == (False, 1, f"HTTP {status}")


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.replies = [(302, {"location": "http://169.254.169.254/latest"})]
    done = deliver(ALERT, SLACK, config(receiver.host), environ={"HOOK": receiver.url})
    assert done.error == "HTTP 302"
    assert len(receiver.got) == 1


def test_nobody_listening_is_reported_and_tells_no_secret(receiver: Receiver) -> None:
    url = receiver.url
    receiver.server.server_close()
    done = deliver(
        ALERT,
        SLACK,
        config(receiver.host, attempts=2),
        environ={"HOOK": url},
        sleep=lambda _: None,
    )
    assert (done.delivered, done.attempts) == (False, 2)
    assert "secret" not in str(done.error)


def test_a_missing_variable_is_named() -> None:
    done = deliver(ALERT, SLACK, AlertConfig(), environ={})
    assert done.error == "environment variable HOOK is not set"


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.slack.com/x",
        "https://evil.com/x",
        "https://hooks.slack.com.evil.com/x",
        "https://hooks.slack.com:8443/x",
        "https://user@hooks.slack.com/x",
        "https://hooks.slack.com@evil.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://169.254.169.254/x",
        "https://0x7f000001/x",
        "https://2130706433/x",
        "file:///etc/passwd",
        "gopher://hooks.slack.com/x",
        "https://",
        "https://hooks.slack.com:port/x",
        "nonsense",
    ],
)
def test_only_https_to_allowed_hosts_may_be_called(url: str) -> None:
    with pytest.raises(RefusedAddress):
        check_address(url, AlertConfig())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_allowed_name_that_leads_home_is_refused(host: str) -> None:
    allowed = AlertConfig(allowed_hosts=frozenset({host}))
    with pytest.raises(RefusedAddress, match="not public"):
        check_address(f"https://{host}/x", allowed)


def test_messages_stay_within_the_limits_of_their_receivers() -> None:
    from dataclasses import replace

    long = replace(ALERT, title="t" * 500, summary="s" * 9000, lines=("l" * 900,) * 200)
    slack = json.loads(slack_body(long))
    assert len(slack["blocks"][0]["text"]["text"]) <= 150
    assert all(len(block["text"]["text"]) <= 3000 for block in slack["blocks"] if "text" in block)
    assert len(slack["blocks"]) <= 50
    assert len(teams_body(long)) <= 28 * 1024


def test_a_webhook_without_a_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="must have one"):
        Channel(name="pager", kind="webhook", url_env="HOOK")


def test_channels_that_nobody_would_hear_are_told_beforehand(receiver: Receiver) -> None:
    channels = (
        SLACK,
        Channel(name="nowhere", kind="teams", url_env="UNSET"),
        Channel(name="unsigned", kind="webhook", url_env="HOOK", secret_env="NO_KEY"),
        Channel(name="stranger", kind="slack", url_env="ELSEWHERE"),
    )
    environ = {"HOOK": receiver.url, "ELSEWHERE": "https://example.org/hook"}
    found = unreachable(config(receiver.host, channels=channels), environ=environ)
    assert {item.channel: item.error for item in found} == {
        "nowhere": "environment variable UNSET is not set",
        "unsigned": "environment variable NO_KEY is not set",
        "stranger": f"host 'example.org' is not in alerts.allowed_hosts: ['{receiver.host}']",
    }
    assert receiver.got == []
