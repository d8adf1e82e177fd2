"""The report pages as people see them: opened in Chromium, light and dark, wide and narrow."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import run
from experiments.events.records import Event
from tests.unit.experiments.analysis.sessions import START, traffic, write
from tests.unit.experiments.analysis.test_log_cli import CONFIG
from tests.unit.experiments.events.builders import feedback, outcome, transcript

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

MEASURE = """
<script>
function channels(text) { return text.match(/[\\d.]+/g).map(Number); }
function luminance(c) {
  const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92
    : Math.pow((v + 0.055) / 1.055, 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function background(e) {
  for (; e; e = e.parentElement) {
    const c = channels(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
}
// WCAG 2.2, 1.4.3 (level AA): 4.5 to 1 for text of normal size.
const faint = [], broken = [], body = document.body;
for (const e of body.querySelectorAll('*')) {
  if (e.tagName === 'SCRIPT' || e.tagName === 'title') continue;
  const own = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
  const box = e.getBoundingClientRect();
  if (!own || !box.width) continue;
  const style = getComputedStyle(e);
  const ink = channels(e.tagName === 'text' ? style.fill : style.color);
  const [a, b] = [luminance(ink), luminance(background(e))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) faint.push([own.slice(0, 40), (a + 0.05) / (b + 0.05)]);
  if (e.tagName === 'TH' && box.height > 2.2 * parseFloat(style.lineHeight)) broken.push(own);
}
const inside = [...body.querySelectorAll('svg')].map(e => e.getBoundingClientRect());
document.documentElement.dataset.seen = JSON.stringify({
  background: channels(getComputedStyle(body).backgroundColor),
  overflow: document.documentElement.scrollWidth - innerWidth,
  width: innerWidth, height: document.documentElement.scrollHeight,
  faint: faint, broken: broken,
  drawings: inside.length, empty: inside.filter(b => b.width < 20 || b.height < 10).length,
});
</script>
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The reports of an experiment, of one that is invalid, and of its feedback."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CARRIL_TRACKING", "off")
        (folder / "serve_config.yaml").write_text(CONFIG, encoding="utf-8")
        good = traffic(1200, thumbs=(0.55, 0.8))
        bad = [*traffic(200), *traffic(200, seed=2, salt="other", config_hash="b" * 12)]
        for name, events in (("good", [*good, *complaints()]), ("bad", bad)):
            (folder / name / "events").mkdir(parents=True)
            write(folder / name / "events" / "events.db", events)
            patch.setenv("CARRIL_HOME", str(folder / name))
            assert run(["exp", "report", "exp", "--out", f"{name}.html"]) == 0
        patch.setenv("CARRIL_HOME", str(folder / "good"))
        assert run(["feedback", "report", "--out", "."]) == 0
        (folder / "report.html").rename(folder / "feedback.html")
        yield folder


def complaints() -> list[Event]:
    """Return answers that were called untrue, with their texts, and a long word."""
    events: list[Event] = []
    for n in range(30):
        target = f"said-{n}"
        text = "La CR-V cuesta RD$1,450,000. " + ("palabra" * 30 if n == 0 else "Klk.")
        votes: dict[str, Any] = {"target": target, "received_at": START + 60.0 + n}
        events += [
            outcome(target, unit=f"said-{n}", intent="consultar_precio", finished_at=START + n),
            transcript(target, answer=json.dumps({"response": text}), captured_at=START + n),
            feedback(f"t-{n}", value=0.0, **votes),
            feedback(
                f"c-{n}",
                metric="category",
                metric_type="category",
                value=None,
                text="wrong_vehicle_info",
                **votes,
            ),
        ]
    return events


def seen(page: Path, *, dark: bool, width: int, tmp_path: Path) -> dict[str, Any]:
    """Open a page and return what a script measured in it."""
    measured = tmp_path / "page.html"
    text = page.read_text(encoding="utf-8")
    measured.write_text(text.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    result = subprocess.run(
        [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--dump-dom",
            measured.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'data-seen="([^"]*)"', result.stdout)
    assert found, result.stderr
    document: dict[str, Any] = json.loads(unescape(found[1]))
    return document


@pytest.mark.parametrize(
    ("name", "dark", "width"),
    [
        pytest.param(name, dark, width, id=f"{name}-{'dark' if dark else 'light'}-{width}")
        for name, dark, width in (
            ("feedback", False, 1200),
            ("feedback", True, 1200),
            ("feedback", False, 500),
            ("good", False, 1200),
            ("good", True, 500),
            ("bad", True, 1200),
        )
    ],
)
def test_a_report_can_be_read(
    pages: Path, tmp_path: Path, name: str, dark: bool, width: int
) -> None:
    page = seen(pages / f"{name}.html", dark=dark, width=width, tmp_path=tmp_path)
    assert (max(page["background"][:3]) < 60) == dark
    assert page["faint"] == []
    assert page["broken"] == []
    assert page["overflow"] <= 0  # wide tables scroll in themselves
    assert page["drawings"] >= 3
    assert page["empty"] == 0
    assert page["height"] > 900
