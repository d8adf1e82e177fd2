"""The part of a training that wants a GPU: `python -m training.fit --config FILE --out DIR`.

What it reads, `training_set.npz`, is made by `carril train --until prepared`; the network that it
writes, `carril train` turns into a model file. In between, the folder can be taken to another
machine, which needs the code, torch, transformers, pydantic, typer and PyYAML, and no cluster.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from pydantic import BaseModel, ConfigDict, ValidationError
from transformers import LlamaForCausalLM
from transformers.utils import logging

from experiments.whole_file import write_whole
from training.chips import peak_bf16_tflops, peak_share
from training.config import TrainConfig, load_config
from training.errors import ArtefactError, TrainingError
from training.manifest import file_sha256
from training.network import count_parameters, save_network
from training.trainer import Progress, TrainResult, train
from training.training_set import TRAINING_SET, data_sha256, read_training_set, with_bags

NETWORK = "hf"
"""Folder of the network, in Hugging Face's form."""
_WEIGHTS = "model.safetensors"
_RECORD = "trained.json"


class TrainingRecord(BaseModel):
    """How a network was trained; written last, when all of it is there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config_sha256: str
    data_sha256: str
    """Of what was learnt, token by token (`training_set.data_sha256`)."""
    network_sha256: str
    final_loss: float
    """Nats per learnt token over the last 5 % of the steps."""
    tokens_seen: int
    wall_s: float
    tokens_per_second: float
    """Tokens that were computed, what opens a batch counted once."""
    chip: str
    n_params: int
    peak_share: float | None
    """Of the chip's dense bf16 peak, see `chips.peak_share`; None where that is not known."""


def fit(config: TrainConfig, out_dir: Path, *, report: Callable[[str], None]) -> TrainingRecord:
    """Train the network of a prepared folder, or find that it is trained.

    Args:
        config: The configuration.
        out_dir: Folder with `training_set.npz`; a checkpoint of the same configuration is resumed.
        report: Receives one line of progress at a time.

    Raises:
        ArtefactError: If the training set is missing, damaged, or another configuration's.
        TrainingError: With the reason, when training fails.
    """
    data = read_training_set(out_dir / TRAINING_SET, config)
    learnt = data_sha256(data)
    found = read_record(out_dir)
    if found is not None and (found.config_sha256, found.data_sha256) == (config.sha256(), learnt):
        report(f"trained before: network {found.network_sha256[:12]}")
        return found
    if config.device == "cuda" and not torch.cuda.is_available():
        other = f"; {_RECORD} there is of another configuration or training set" if found else ""
        raise TrainingError(
            "device: cuda was asked for, but torch sees no GPU here; run "
            f"`python -m training.fit` on a machine with one, in a copy of this folder{other}"
        )
    if config.base is None and config.optim.warm_start_epochs:
        data = with_bags(data)

    def on_progress(progress: Progress) -> None:
        report(
            f"step {progress.step}/{progress.n_steps}  loss {progress.loss:.3f}  "
            f"{progress.tokens_per_second:,.0f} tokens/s  {progress.eta_s:,.0f} s left"
        )

    result = train(config, data, out_dir=out_dir, on_progress=on_progress)
    # Products were of bfloat16, and the model file will have four bits: float32 says no more.
    logging.disable_progress_bar()
    halved = config.device == "cuda" and config.precision == "bfloat16"
    dtype = torch.bfloat16 if halved else torch.float32
    save_network(result.network.cpu(), out_dir / NETWORK, dtype=dtype)
    record = _record(config, result, learnt, out_dir)
    write_whole(out_dir / _RECORD, (record.model_dump_json(indent=2) + "\n").encode())
    return record


def read_record(out_dir: Path) -> TrainingRecord | None:
    """Return the record of the network of a folder, None if it holds none.

    Raises:
        ArtefactError: If it is damaged, or of other weights than those beside it.
    """
    path, weights = out_dir / _RECORD, out_dir / NETWORK / _WEIGHTS
    if not path.exists():
        return None
    try:
        record = TrainingRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as err:
        raise ArtefactError(
            f"{str(path)!r} is damaged: {err}; bring it again, or remove it to train again"
        ) from err
    actual = file_sha256(weights) if weights.exists() else "missing"
    if actual != record.network_sha256:
        raise ArtefactError(
            f"{str(weights)!r} is {actual}, {_RECORD} names {record.network_sha256}; bring the "
            f"right file, or remove {_RECORD} to train again"
        )
    return record


def load_network(out_dir: Path) -> LlamaForCausalLM:
    """Return the trained network of a folder, in float32 on the CPU."""
    logging.disable_progress_bar()
    network: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        out_dir / NETWORK, dtype=torch.float32
    )
    return network.eval()


def _record(config: TrainConfig, result: TrainResult, learnt: str, out_dir: Path) -> TrainingRecord:
    n_params = count_parameters(result.network)
    peak = peak_bf16_tflops(result.chip) if config.precision == "bfloat16" else None
    share = None if peak is None else peak_share(n_params, result.tokens_per_second, peak)
    return TrainingRecord(
        config_sha256=config.sha256(),
        data_sha256=learnt,
        network_sha256=file_sha256(out_dir / NETWORK / _WEIGHTS),
        final_loss=result.final_loss,
        tokens_seen=result.tokens_seen,
        wall_s=round(result.wall_s, 1),
        tokens_per_second=round(result.tokens_per_second, 1),
        chip=result.chip,
        n_params=n_params,
        peak_share=share,
    )


def command(
    config: Annotated[Path, typer.Option("--config", help="Training configuration (YAML).")],
    out: Annotated[Path, typer.Option("--out", help="Folder that `--until prepared` has filled.")],
) -> None:
    """Train the network of a prepared folder."""
    try:
        record = fit(load_config(config), out, report=lambda line: typer.echo(line, err=True))
    except (TrainingError, ValueError, OSError, torch.OutOfMemoryError) as err:
        typer.echo(f"error: {err}", err=True)
        raise typer.Exit(1) from err
    typer.echo(json.dumps(record.model_dump(mode="json")))


def main() -> None:
    """Train from the command line."""
    typer.run(command)


if __name__ == "__main__":
    main()
