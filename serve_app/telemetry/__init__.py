"""Metrics, logs and traces.

Every series is declared in `metrics`, every log record formatted in `logs`. Traces begin and end in
`tracing` and leave the process in `trace_export`.
"""
