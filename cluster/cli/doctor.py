"""`carril doctor`: would it work on this machine?"""

import sys
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from cluster.cli.console import out, print_json, step
from cluster.doctor import Level, examine
from cluster.errors import ExitCode

_MARKS = {
    Level.OK: "[green]ok  [/]",
    Level.WARN: "[yellow]warn[/]",
    Level.FAIL: "[bold red]fail[/]",
}


def run(config_path: Path, *, as_json: bool) -> None:
    """Print every finding; exit 1 if one of them is a failure."""
    with step("Looking at this machine"):
        findings = examine(config_path)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for item in findings:
            line = f"{_MARKS[item.level]} {item.name.ljust(width)}  {escape(item.detail)}"
            out.print(line, highlight=False, soft_wrap=True)
            if item.fix and item.level is not Level.OK:
                out.print(f"     {' ' * width}  [dim]->[/] {escape(item.fix)}", soft_wrap=True)
    if any(finding.level is Level.FAIL for finding in findings):
        sys.exit(ExitCode.FAILED)
