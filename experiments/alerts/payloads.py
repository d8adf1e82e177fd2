"""The bodies that Slack, Teams and signed webhooks take."""

import hashlib
import hmac
import json

from experiments.alerts.alert import Alert

_SLACK_HEADER_CHARS = 150
_SLACK_TEXT_CHARS = 3000
_SLACK_FIELDS = 10
"""Most fields of one section block."""
_TEAMS_BYTES = 28 * 1024
_MARK = {"resolved": "✅", "warning": "⚠️", "critical": "🔴"}
_TEAMS_COLOUR = {"resolved": "Good", "warning": "Warning", "critical": "Attention"}


def slack_body(alert: Alert) -> bytes:
    """Return an incoming-webhook message in Block Kit, with the plain text that phones show.

    References:
        Slack: "Sending messages using incoming webhooks", "Reference: Layout blocks" (header text
        150 characters, section text 3000, 10 fields), "Formatting text" (escape & < >).
    """
    title = f"{_MARK[alert.severity]} {alert.title}"
    blocks: list[dict[str, object]] = [
        {
            "type": "header",
            "text": {"type": "plain_text", "text": _cut(title, _SLACK_HEADER_CHARS), "emoji": True},
        },
        _section(_escape(alert.summary)),
    ]
    facts = alert.facts[:_SLACK_FIELDS]
    if facts:
        fields = [
            {"type": "mrkdwn", "text": _cut(f"*{_escape(name)}*\n{_escape(value)}", 2000)}
            for name, value in facts
        ]
        blocks.append({"type": "section", "fields": fields})
    if alert.lines:
        blocks.append(_section("\n".join(f"• {_escape(line)}" for line in alert.lines)))
    if alert.link:
        blocks.append(_section(f"<{_escape(alert.link)}|Open>"))
    footer = {"type": "mrkdwn", "text": f"carril · {alert.at:%Y-%m-%d %H:%M} UTC"}
    blocks.append({"type": "context", "elements": [footer]})
    return _json({"text": _escape(f"{title}: {alert.summary}"), "blocks": blocks})


def teams_body(alert: Alert) -> bytes:
    """Return an Adaptive Card as Teams workflows ("when a webhook request is received") take it.

    References:
        Microsoft: "Create incoming webhooks with Workflows for Microsoft Teams"; Adaptive Cards
        1.4; messages of at most 28 KB.
    """
    n_lines = len(alert.lines)
    while True:
        body = _json(_teams(alert, alert.lines[:n_lines]))
        if len(body) <= _TEAMS_BYTES or n_lines == 0:
            return body
        n_lines -= 1


def webhook_body(alert: Alert) -> bytes:
    """Return the alert as JSON, for receivers of one's own."""
    return _json(alert.to_document())


def sign(body: bytes, *, secret: str, timestamp: int) -> str:
    """Return the value of `X-Carril-Signature`: `v1=` and hex HMAC-SHA256 of `timestamp.body`.

    The timestamp is under the signature, so that a receiver can refuse what is old.
    """
    signed = f"{timestamp}.".encode() + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _teams(alert: Alert, lines: tuple[str, ...]) -> dict[str, object]:
    body: list[dict[str, object]] = [
        {
            "type": "TextBlock",
            "size": "Large",
            "weight": "Bolder",
            "wrap": True,
            "color": _TEAMS_COLOUR[alert.severity],
            "text": f"{_MARK[alert.severity]} {_cut(alert.title, 200)}",
        },
        {"type": "TextBlock", "wrap": True, "text": _cut(alert.summary, 2000)},
        {
            "type": "FactSet",
            "facts": [
                {"title": name, "value": _cut(value, 500)} for name, value in alert.facts[:20]
            ],
        },
        *({"type": "TextBlock", "wrap": True, "text": _cut(f"- {line}", 1000)} for line in lines),
        {
            "type": "TextBlock",
            "isSubtle": True,
            "size": "Small",
            "text": f"carril · {alert.at:%Y-%m-%d %H:%M} UTC",
        },
    ]
    card: dict[str, object] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    if alert.link:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open", "url": alert.link}]
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


def _section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": _cut(text, _SLACK_TEXT_CHARS)}}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
