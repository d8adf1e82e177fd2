"""Alerts: telling people, by Slack, Teams or a signed webhook."""
