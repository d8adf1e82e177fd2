"""Write the figures of the last run into this folder's README.

    python -m tests.benchmarks.readme [BENCH_FOLDER]

Only what stands between its two marks changes, so no figure there was typed by hand.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import page, report

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- results: written by `make bench-readme` -->", "<!-- end of results -->"


def with_results(text: str, known: Mapping[str, Any]) -> str:
    """Return the README with the figures of a report.

    Raises:
        ValueError: If a mark is missing, or nothing has been measured.
    """
    if not known.get("ratios"):
        raise ValueError("nothing has been measured yet; run `make bench` first")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{README.name} lacks {BEGIN!r} or {END!r}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{page.render_results(known)}\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Rewrite the README."""
    folder = Path(arguments[0]) if arguments else report.bench_dir()
    try:
        text = with_results(README.read_text(encoding="utf-8"), report.read(folder))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    report.write(README, text)
    sys.stdout.write(f"{README}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
