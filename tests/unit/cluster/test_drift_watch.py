"""The watch for drift is refused before it is submitted where it could not check anything."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.connection import Connection
from cluster.errors import CommandError, ExitCode
from cluster.jobs.submission import Submitted
from cluster.jobs.watch import watch_drift
from tests.unit.cluster.test_jobs import JobsInMemory

ELSEWHERE = Connection(
    dashboard_url="http://127.0.0.1:9", http_url="http://127.0.0.1:9", token=None, record=None
)
Watch = Callable[..., Submitted]


@pytest.fixture
def ray() -> JobsInMemory:
    return JobsInMemory()


@pytest.fixture
def watch(ray: JobsInMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.chdir(tmp_path)

    def watch(config: Path | None = None, every: str | None = None) -> Submitted:
        return watch_drift(ray, ELSEWHERE, tmp_path, config=config, every=every)

    return watch


def test_there_is_one_watch_and_a_stopped_one_is_followed_by_another(
    ray: JobsInMemory, watch: Watch, tmp_path: Path
) -> None:
    (tmp_path / "drift.yaml").write_text("check_every_h: 3", encoding="utf-8")
    first = watch()
    assert (first.submission_id, first.new) == ("drift", True)
    assert ray.submitted[0].entrypoint.endswith(
        f"experiments.jobs.drift --config {tmp_path / 'drift.yaml'}"
    )
    assert ray.submitted[0].resources == {}
    assert (watch().submission_id, watch().new) == ("drift", False)

    ray.end("drift", "STOPPED")
    assert (watch().submission_id, len(ray.submitted)) == ("drift-2", 2)


@pytest.mark.parametrize(
    ("text", "every", "said"),
    [
        ("check_every_h: -1", None, "check_every_h"),
        ("", "6 weeks", "'6 weeks' is no duration"),
    ],
)
def test_what_cannot_be_understood_is_not_submitted(
    ray: JobsInMemory, watch: Watch, tmp_path: Path, text: str, every: str | None, said: str
) -> None:
    config = tmp_path / "policy.yaml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(CommandError, match=said) as caught:
        watch(config, every)
    assert caught.value.code is ExitCode.USAGE
    assert ray.submitted == []
