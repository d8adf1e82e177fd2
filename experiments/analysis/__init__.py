"""From the event log to a verdict and a report that others can read.

`declaration` says what was promised before the start, `history` what happened to the split, `sums`,
`votes` and `quantiles` reduce the log to sufficient statistics in SQL, `assemble` turns them into
the input of `experiments.decision`, and `run` puts it together. `report` shows the result.
"""
