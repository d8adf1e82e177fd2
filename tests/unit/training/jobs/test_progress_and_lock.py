"""Lines of progress, the run's lock, and how much a training needs."""

import io
import json
from pathlib import Path

import pytest

from experiments.jobs.code_state import code_state
from training.config import load_config
from training.data.dataset import write_dataset
from training.jobs import needs
from training.jobs.progress import ProgressView, parse
from training.jobs.run_lock import differences, run_lock, to_text

ROOT = Path(__file__).resolve().parents[4]
TINY = ROOT / "training" / "configs" / "tiny.yaml"


def test_a_step_is_read_with_its_figures() -> None:
    part = parse("step 1,240/3,000  loss 0.713  2,101 tokens/s  1,845 s left")

    assert part is not None
    assert (part.what, part.done, part.total) == ("step", 1240, 3000)
    assert part.metrics == {"loss": 0.713, "tokens_per_second": 2101.0, "eta_s": 1845.0}


@pytest.mark.parametrize("line", ["writing the dataset", "held-out loss 0.7 nats per token", ""])
def test_other_lines_are_not_parts(line: str) -> None:
    assert parse(line) is None


def test_a_log_gets_plain_lines() -> None:
    stream = io.StringIO()
    view = ProgressView(stream)

    view.show("step 10/60  loss 1.0")
    view.show("done")

    assert stream.getvalue() == "step 10/60  loss 1.0\ndone\n"


def test_a_lock_has_everything_a_run_stands_on(tmp_path: Path) -> None:
    config = load_config(TINY)
    dataset = write_dataset(config.data, tmp_path)

    lock = json.loads(to_text(run_lock(config, TINY, dataset, code_state())))

    assert lock["config"]["sha256"] == config.sha256()
    assert lock["dataset"]["sha256"] == dataset.sha256
    assert lock["seeds"]["train"] == 42
    assert set(lock["locks"]) >= {"base.lock", "training.lock"}
    assert set(lock["versions"]) >= {"python", "torch", "numpy"}
    assert lock["hardware"]["logical_cpus"] > 0
    assert differences(lock, lock) == []
    other = {**lock, "versions": {**lock["versions"], "torch": "0.0"}}
    assert differences(other, lock) == [f"versions.torch: '0.0' -> {lock['versions']['torch']!r}"]


def test_needs_grow_with_what_is_asked_for() -> None:
    config = load_config(TINY)
    large = config.model_copy(
        update={"data": config.data.model_copy(update={"n_train": 1_000_000_000})}
    )

    assert 900_000 > needs.n_parameters(config) > 400_000
    assert needs.disk_bytes(config) < 1 << 30
    assert needs.disk_bytes(large) > 1 << 40
    assert needs.memory_bytes(large) > needs.memory_bytes(config) > 900 << 20


def test_what_trains_on_a_gpu_needs_no_memory_for_it_here() -> None:
    config = load_config(TINY)
    optim = config.optim.model_copy(update={"batch_size": 10_000, "n_phrases": 1_000_000})
    heavy = config.model_copy(update={"optim": optim})
    elsewhere = heavy.model_copy(update={"device": "cuda"})
    assert needs.memory_bytes(heavy) > 10 << 30
    assert 1 << 30 < needs.memory_bytes(elsewhere) < 3 << 30
