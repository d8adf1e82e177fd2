"""An alert before it has the form of any channel."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Severity = Literal["resolved", "warning", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something people should know. Short texts without user data."""

    alert_id: str
    """The same for every delivery of the same news, so that receivers can drop repeats."""
    severity: Severity
    title: str
    summary: str
    facts: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    at: datetime
    link: str | None = None

    def to_document(self) -> dict[str, object]:
        """Return the alert for JSON."""
        return {
            "schema_version": 1,
            "alert_id": self.alert_id,
            "severity": self.severity,
            "title": self.title,
            "summary": self.summary,
            "facts": dict(self.facts),
            "lines": list(self.lines),
            "at": self.at.isoformat(),
            "link": self.link,
        }
