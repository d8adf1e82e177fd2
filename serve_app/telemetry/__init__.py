"""Metrics and logs: every series is declared in `metrics`, every log record formatted in `logs`."""
