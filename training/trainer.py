"""The training loop: resumable, deterministic, and it says when it will be done."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from training.batches import BatchPlan
from training.chat import Encoded
from training.checkpoint import save_checkpoint
from training.config import OptimConfig, TrainConfig
from training.data.stream import Stream
from training.errors import TrainingError
from training.exercises import Exercise, StepBatches, TrainingSet, n_computed
from training.network import (
    batch_loss,
    batch_losses,
    build_network,
    count_learnt,
    drop_out,
    load_weights,
    make_deterministic,
)
from training.skills import Part, begin_with_skills, reader_parts
from training.training_set import data_sha256
from training.wiring import can_be_wired

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a training stands."""

    step: int
    n_steps: int
    loss: float
    """Nats per learnt token, averaged over the steps since the last report."""
    tokens_per_second: float
    eta_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A trained network and what it took."""

    network: LlamaForCausalLM
    final_loss: float
    """Nats per learnt token over the last 5 % of the steps."""
    tokens_seen: int
    wall_s: float
    """Seconds of this process; a resumed training counts from the resumption."""
    tokens_per_second: float
    """Tokens that were computed in this process, over `wall_s`."""
    chip: str
    """Name of the GPU, or `cpu`."""


def learning_rate_at(step: int, config: OptimConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to `final_rate_ratio`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, config.n_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - config.warmup_steps) / span)))
    floor = config.final_rate_ratio
    return config.learning_rate * (floor + (1 - floor) * cosine)


def train(
    config: TrainConfig,
    data: TrainingSet,
    *,
    out_dir: Path,
    on_progress: Callable[[Progress], None],
) -> TrainResult:
    """Train from scratch, or go on from the checkpoint in `out_dir`.

    Args:
        config: The configuration; a checkpoint of another one is refused.
        data: The encoded training split.
        out_dir: Folder of the checkpoint.
        on_progress: Called after every tenth step and at the end.

    Raises:
        TrainingError: If the checkpoint is of another configuration, or the loss is not finite.
    """
    make_deterministic(config.seed, config.threads, device=config.device)
    network = build_network(config).to(config.device)
    if config.optim.dropout:
        drop_out(network, config.optim.dropout)
    optimizer = _optimizer(network, config.optim)
    checkpoint = out_dir / CHECKPOINT
    identity = {"config_sha256": config.sha256(), "data_sha256": data_sha256(data)}
    state = _LoopState()
    if checkpoint.exists():
        state = _restore(checkpoint, identity, network, optimizer)
        logger.info("Resuming at step %d", state.step)
    elif config.base is not None:
        load_weights(network, config.base)
    elif data.bags and config.optim.warm_start_epochs:
        begin_with_skills(network, data, config)
    slowed = _slowed(network, data, config)
    batches = StepBatches(data, config.optim, seed=config.seed)
    started = time.monotonic()
    reported_at = started
    reported_tokens = tokens_before = state.tokens_seen
    network.train()
    while state.step < config.optim.n_steps:
        _train_step(network, optimizer, batches, config, state, slowed)
        if state.step % config.optim.checkpoint_every_steps == 0:
            _save(checkpoint, identity, network, optimizer, state)
        if state.step % 10 == 0 or state.step == config.optim.n_steps:
            recent = state.settled_losses()[-10:]  # waits for a GPU, so the clock is read after it
            now = time.monotonic()
            rate = (state.tokens_seen - reported_tokens) / max(1e-9, now - reported_at)
            left = config.optim.n_steps - state.step
            tokens_per_step = state.tokens_seen / state.step
            eta_s = left * tokens_per_step / max(rate, 1e-9)
            on_progress(
                Progress(
                    step=state.step,
                    n_steps=config.optim.n_steps,
                    loss=_mean(recent),
                    tokens_per_second=rate,
                    eta_s=eta_s,
                )
            )
            reported_at, reported_tokens = now, state.tokens_seen
    network.eval()
    tail = max(1, config.optim.n_steps // 20)
    return TrainResult(
        network=network,
        final_loss=_mean(state.settled_losses()[-tail:]),
        tokens_seen=state.tokens_seen,
        wall_s=time.monotonic() - started,
        tokens_per_second=(state.tokens_seen - tokens_before) / (time.monotonic() - started),
        chip=_chip(network.device),
    )


def mean_loss(
    network: LlamaForCausalLM,
    examples: Sequence[Encoded],
    *,
    prefix: tuple[int, ...],
    batch_size: int = 16,
) -> float:
    """Return the cross-entropy in nats per learnt token over a dataset."""
    plan = BatchPlan(examples, batch_size=min(batch_size, len(examples)), seed=0, pad_id=0)
    total, n_learnt = 0.0, 0
    for index in range(len(examples) // min(batch_size, len(examples))):
        batch = plan.batch(index)
        with torch.inference_mode():
            total += float(batch_loss(network, batch, prefix=prefix))
        n_learnt += count_learnt(batch)
    return total / n_learnt


@dataclass(slots=True)
class _LoopState:
    step: int = 0
    tokens_seen: int = 0
    losses: list[float] = field(default_factory=list)
    unsettled: list[Tensor] = field(default_factory=list)
    """Of the last steps, on the device: reading one would wait for it."""

    def settled_losses(self) -> list[float]:
        """Return the loss of every step so far.

        Raises:
            TrainingError: If one of them is not finite.
        """
        if self.unsettled:
            for number, value in enumerate(torch.stack(self.unsettled).tolist(), len(self.losses)):
                if not math.isfinite(value):
                    raise TrainingError(
                        f"The loss is {value} at step {number}; lower the learning rate"
                    )
                self.losses.append(value)
            self.unsettled.clear()
        return self.losses


def _train_step(
    network: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    batches: StepBatches,
    config: TrainConfig,
    state: _LoopState,
    slowed: Sequence[Part] = (),
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(state.step, config.optim)
    chosen = batches.at(state.step)
    optim = config.optim
    if optim.dropout:
        torch.manual_seed(Stream("dropout", config.seed, state.step).below(1 << 63))
    reduced = config.precision == "bfloat16"
    with torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=reduced):
        losses = [
            _loss(network, exercise, optim.message_loss if number == 0 else 0.0, batches.lost_id)
            for number, exercise in enumerate(chosen)
        ]
    torch.stack(losses).sum().backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.grad_clip)
    before = [weight.detach()[where].clone() for weight, where in slowed]
    optimizer.step()
    with torch.no_grad():
        for (weight, where), old in zip(slowed, before, strict=True):
            weight[where] = torch.lerp(old, weight[where], config.optim.reader_rate)
    optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.tokens_seen += sum(map(n_computed, chosen))
    state.unsettled.append(losses[-1].detach())
    if network.device.type == "cpu":
        state.settled_losses()


def _loss(
    network: LlamaForCausalLM, exercise: Exercise, message_loss: float, lost_id: int
) -> Tensor:
    """Return nats per learnt token and, weighed, per other token."""
    batch, prefix = exercise
    others = message_loss > 0
    found = batch_losses(network, batch, prefix=prefix, others=others, unwritten=[lost_id])
    loss = found.learnt / count_learnt(batch)
    return loss if found.others is None else loss + message_loss * found.others


def _chip(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _optimizer(network: LlamaForCausalLM, config: OptimConfig) -> torch.optim.AdamW:
    parameters = list(network.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )


def _slowed(network: LlamaForCausalLM, data: TrainingSet, config: TrainConfig) -> list[Part]:
    """Return what moves at `reader_rate` only.

    Raises:
        TrainingError: If the network has no such part.
    """
    if config.optim.reader_rate == 1:
        return []
    if not can_be_wired(network):
        raise TrainingError(
            f"optim.reader_rate is {config.optim.reader_rate}, but a network of this shape cannot "
            "start as a reader: leave it at 1, or choose 4 heads and untied embeddings"
        )
    return reader_parts(network, data.label_ids)


def _save(
    path: Path,
    identity: dict[str, str],
    network: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    state: _LoopState,
) -> None:
    content = {
        **identity,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": state.step,
        "tokens_seen": state.tokens_seen,
        "losses": state.settled_losses(),
    }
    save_checkpoint(path, content)


def _restore(
    path: Path,
    identity: dict[str, str],
    network: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
) -> _LoopState:
    content = torch.load(path, weights_only=True, map_location=network.device)
    for name, what in (("config_sha256", "configuration"), ("data_sha256", "dataset")):
        if content.get(name) != identity[name]:
            raise TrainingError(
                f"{str(path)!r} is a checkpoint of another {what}: remove it or change --out"
            )
    network.load_state_dict(content["network"])
    optimizer.load_state_dict(content["optimizer"])
    return _LoopState(content["step"], content["tokens_seen"], content["losses"])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
