"""After the last scenario: all ratios against their targets, in one table."""

import time

import pytest

from tests.benchmarks import page, report

_LOADED_AT = time.time()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    latest = report.bench_path() / "latest.json"
    if not latest.exists() or latest.stat().st_mtime < _LOADED_AT:
        return  # nothing was published in this run
    terminalreporter.section("benchmark results")
    terminalreporter.write_line(page.render_results(report.read(latest.parent)))
    terminalreporter.write_line(f"all figures: {latest.with_suffix('.md')}")
