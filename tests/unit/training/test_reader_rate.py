"""What a reader of pairs knew is moved less by the training that follows, or not at all."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.training.test_wiring import config
from training.chat import Encoded
from training.config import OptimConfig, TrainConfig
from training.errors import TrainingError
from training.exercises import TrainingSet
from training.network import build_network, make_deterministic
from training.skills import reader_parts
from training.trainer import train

LABEL_IDS = [10, 11, 12, 13]
PROMPT = (1, 2, 3)
SAID = [
    Encoded(ids=(*PROMPT, 100 + i, 200 + i, 10 + i % 4), learn=(*[False] * 5, True))
    for i in range(40)
]
DATA = TrainingSet(
    answers=SAID, intents=SAID, prefix=PROMPT, system_ids=PROMPT, label_ids=LABEL_IDS
)


def after_three_steps(rate: float, folder: Path) -> LlamaForCausalLM:
    wanted = config_of(rate)
    return train(wanted, DATA, out_dir=folder, on_progress=lambda _: None).network


def config_of(rate: float, **model: object) -> TrainConfig:
    optim = OptimConfig(n_steps=3, reader_rate=rate, batch_size=4, intent_batch_size=4)
    return config(**model).model_copy(update={"optim": optim, "threads": 1})


def moved(network: LlamaForCausalLM) -> tuple[float, float]:
    """Return how far the reader's parts and all other weights are from their initial values."""
    make_deterministic(42, 1)
    start = build_network(config_of(1.0))
    parts = 0.0
    for (now, where), (old, _) in zip(
        reader_parts(network, LABEL_IDS), reader_parts(start, LABEL_IDS), strict=True
    ):
        parts += float((now[where] - old[where]).abs().sum().detach())
        with torch.no_grad():
            now[where] = old[where]
    others = sum(
        float((a - b).abs().sum().detach())
        for a, b in zip(network.parameters(), start.parameters(), strict=True)
    )
    return parts, others


def test_the_reader_stays_while_everything_else_learns(tmp_path: Path) -> None:
    parts, others = moved(after_three_steps(0.0, tmp_path))
    assert parts == 0
    assert others > 0


def test_a_tenth_of_the_rate_moves_it_about_a_tenth(tmp_path: Path) -> None:
    slowly, _ = moved(after_three_steps(0.1, tmp_path / "slowly"))
    freely, _ = moved(after_three_steps(1.0, tmp_path / "freely"))
    assert slowly == pytest.approx(0.1 * freely, rel=0.3)


def test_a_resumed_training_ends_with_the_same_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    wanted = config_of(0.1)
    optim = wanted.optim.model_copy(update={"checkpoint_every_steps": 2})
    wanted = wanted.model_copy(update={"optim": optim})
    whole = train(wanted, DATA, out_dir=tmp_path, on_progress=lambda _: None).network.state_dict()
    assert "Resuming" not in caplog.text
    again = train(wanted, DATA, out_dir=tmp_path, on_progress=lambda _: None).network.state_dict()
    assert "Resuming at step 2" in caplog.text
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_parts_do_not_overlap() -> None:
    network = build_network(config())
    counts = {id(p): torch.zeros_like(p) for p in network.parameters()}
    for weight, where in reader_parts(network, LABEL_IDS):
        counts[id(weight)][where] += 1
    assert max(float(c.max()) for c in counts.values()) == 1


def test_a_network_that_cannot_be_a_reader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"reader_rate is 0\.5.*leave it at 1"):
        train(config_of(0.5, n_kv_heads=2), DATA, out_dir=tmp_path, on_progress=lambda _: None)
