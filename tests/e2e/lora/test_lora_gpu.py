"""The same training on a GPU: bf16, and over a base in nf4."""

import json
from pathlib import Path

import pytest

from tests.e2e.lora.bases import write_base, write_dataset
from tests.e2e.lora.test_lora_training import a_config, metrics_of, write_config
from training.lora.config import load_config
from training.lora.pipeline import LoraRun

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_a_gpu_learns_exports_and_tells_its_used_share(quant: str, tmp_path: Path) -> None:
    if quant == "nf4":
        pytest.importorskip("bitsandbytes")
    write_base(tmp_path / "base")
    write_dataset(tmp_path / "data")
    content = a_config(Path("base"), Path("data"), device="cuda", quant=quant, peak_tflops=989)
    out = tmp_path / "out"
    LoraRun(
        load_config(write_config(tmp_path / "config.yaml", content)), out, report=lambda _: None
    ).run()
    steps = metrics_of(out)
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert all(0 < step["peak_share"] < 1 for step in steps)
    lock = json.loads((out / "run.lock.json").read_text())
    assert lock["placement"]["quant_backend"] == quant
    assert lock["placement"]["precision"] == "bf16"
