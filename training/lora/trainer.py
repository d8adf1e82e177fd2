"""The training loop of an adapter: resumable to the same numbers, stoppable, on any device."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training.batches import Batch, BatchPlan
from training.chat import Encoded
from training.checkpoint import save_checkpoint
from training.chips import peak_share
from training.errors import TrainingError
from training.lora.config import LoraConfig, OptimConfig
from training.lora.dataset import Example
from training.lora.encoding import TemplateEncoder
from training.lora.metrics import (
    FILE,
    AnswerScores,
    MetricsFile,
    StepMetrics,
    perplexity,
    score_answers,
)
from training.lora.network import adapter_weights, greedy, loss_sum, set_adapter_weights
from training.lora.placement import Placement

if TYPE_CHECKING:
    from peft import PeftModel

CHECKPOINT = "checkpoint.pt"


class TrainingStopped(TrainingError):
    """Somebody asked the training to stop; its checkpoint is written."""

    def __init__(self, step: int, n_steps: int) -> None:
        super().__init__(step, n_steps)
        self.step, self.n_steps = step, n_steps

    def __str__(self) -> str:
        return f"stopped after step {self.step} of {self.n_steps}, with a checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraData:
    """What is learnt and looked at."""

    train: Sequence[Encoded]
    dev: Sequence[Encoded]
    sample: Sequence[Example]
    """Conversations of the dev split to answer now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraResult:
    """What a training took and reached."""

    final_loss: float
    """Nats per learnt token over the last 5 % of the steps."""
    dev_loss: float
    tokens_seen: int
    tokens_per_second: float
    """Mean over the steps of this process."""
    peak_share: float | None
    wall_s: float
    """Seconds of this process; a resumed training counts from the resumption."""


class LoraTrainer:
    """Trains one adapter.

    Args:
        config: The configuration.
        network: The base with its adapter, in its place.
        data: What to learn from.
        encoder: Makes prompts for the sample.
        where: Device and numbers.
        out_dir: Folder of checkpoint and metrics.
        identity: Hash over everything that decides the weights; a checkpoint of another is refused.
        n_parameters: Weights of the base, for the share of the peak.
    """

    def __init__(
        self,
        config: LoraConfig,
        network: "PeftModel",
        data: LoraData,
        encoder: TemplateEncoder,
        where: Placement,
        *,
        out_dir: Path,
        identity: str,
        n_parameters: int,
    ) -> None:
        self._config, self._network, self._data = config, network, data
        self._encoder, self._where = encoder, where
        self._path = out_dir / CHECKPOINT
        self._identity = identity
        self._n_parameters = n_parameters
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        optim = config.optim
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=optim.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=optim.weight_decay,
        )
        self._batches = BatchPlan(
            data.train, batch_size=optim.batch_size, seed=config.seed, pad_id=encoder.eos_id
        )
        self._last_dev_loss: float | None = None
        self._state = _LoopState()
        if self._path.exists():
            self._state = self._restore()
        self._metrics = MetricsFile(out_dir / FILE, first_step=self._state.step)

    def run(
        self,
        *,
        report: Callable[[str], None],
        on_step: Callable[[StepMetrics], None],
        stop_asked: Callable[[], bool],
    ) -> LoraResult:
        """Train to the end.

        Args:
            report: Receives a line of progress now and then.
            on_step: Receives the figures of every step.
            stop_asked: Asked after every step.

        Raises:
            TrainingStopped: If that said yes; the checkpoint is written.
            TrainingError: If the loss is not finite.
        """
        optim, state = self._config.optim, self._state
        if state.step:
            report(f"resuming at step {state.step}")
        started, first_tokens, stepping_s = time.monotonic(), state.tokens_seen, 0.0
        while state.step < optim.n_steps:
            metrics = self._step()
            stepping_s += metrics.n_tokens / metrics.tokens_per_second
            if state.step % self._config.sample.every_steps == 0 or state.step == optim.n_steps:
                metrics = self._with_dev(metrics)
            self._metrics.append(metrics)
            on_step(metrics)
            if state.step % 10 == 0 or metrics.dev_loss is not None:
                report(self._line(metrics, (state.tokens_seen - first_tokens) / stepping_s))
            stopping = stop_asked() and state.step < optim.n_steps
            if stopping or state.step % optim.checkpoint_every_steps == 0:
                self._save()
            if stopping:
                raise TrainingStopped(state.step, optim.n_steps)
        self._save()
        tail = max(1, optim.n_steps // 20)
        rate = (state.tokens_seen - first_tokens) / stepping_s if stepping_s else 0.0
        self._network.eval()
        if self._last_dev_loss is None:  # resumed behind the last step
            self._last_dev_loss = self._dev_loss()
        return LoraResult(
            final_loss=_mean(state.losses[-tail:]),
            dev_loss=self._last_dev_loss,
            tokens_seen=state.tokens_seen,
            tokens_per_second=rate,
            peak_share=self._peak_share(rate) if stepping_s else None,
            wall_s=time.monotonic() - started,
        )

    def _step(self) -> StepMetrics:
        optim, state = self._config.optim, self._state
        started = time.monotonic()
        rate = learning_rate_at(state.step, optim)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batch = self._batches.batch(state.step)
        n_learnt = int(batch.learn.sum())
        self._network.train()
        loss = 0.0
        for part in _parts(batch, optim.micro_batch_size or optim.batch_size):
            part_loss = loss_sum(self._network, part, self._where) / n_learnt
            part_loss.backward()
            loss += float(part_loss.detach())
        if not math.isfinite(loss):
            raise TrainingError(f"The loss is {loss} at step {state.step}; lower the learning rate")
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, optim.grad_clip))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._where.device == "cuda":
            torch.cuda.synchronize()
        state.step += 1
        state.tokens_seen += batch.n_tokens
        state.losses.append(loss)
        speed = batch.n_tokens / max(1e-9, time.monotonic() - started)
        return StepMetrics(
            step=state.step,
            loss=loss,
            perplexity=perplexity(loss),
            learning_rate=rate,
            grad_norm=norm,
            n_tokens=batch.n_tokens,
            tokens_per_second=speed,
            peak_share=self._peak_share(speed),
        )

    def _with_dev(self, metrics: StepMetrics) -> StepMetrics:
        self._network.eval()
        scores = self._sample()
        self._last_dev_loss = self._dev_loss()
        return replace(
            metrics,
            dev_loss=self._last_dev_loss,
            dev_json_validity=scores.json_validity,
            dev_intent_accuracy=scores.intent_accuracy,
        )

    def _dev_loss(self) -> float:
        size = min(
            self._config.optim.micro_batch_size or self._config.optim.batch_size,
            len(self._data.dev),
        )
        total, n_learnt = 0.0, 0
        for start in range(0, len(self._data.dev), size):
            batch = _collate(self._data.dev[start : start + size], self._encoder.eos_id)
            with torch.inference_mode():
                total += float(loss_sum(self._network, batch, self._where))
            n_learnt += int(batch.learn.sum())
        return total / n_learnt

    def _sample(self) -> AnswerScores:
        answers = [
            greedy(
                self._network,
                self._encoder.prompt_ids(example.messages[:-1]),
                eos_id=self._encoder.eos_id,
                max_new_tokens=self._config.sample.max_new_tokens,
                where=self._where,
            )
            for example in self._data.sample
        ]
        texts = [self._encoder.decode(ids) for ids in answers]
        return score_answers(self._data.sample, texts, [len(ids) for ids in answers])

    def _peak_share(self, tokens_per_second: float) -> float | None:
        peak = self._where.peak_tflops
        return None if peak is None else peak_share(self._n_parameters, tokens_per_second, peak)

    def _line(self, metrics: StepMetrics, mean_rate: float) -> str:
        state, n_steps = self._state, self._config.optim.n_steps
        left_s = (n_steps - state.step) * state.tokens_seen / state.step / max(1e-9, mean_rate)
        line = (
            f"step {state.step}/{n_steps}  loss {_mean(state.losses[-10:]):.3f}  "
            f"{mean_rate:,.0f} tokens/s  {left_s:,.0f} s left"
        )
        if metrics.dev_loss is None:
            return line
        return (
            f"{line}  dev loss {metrics.dev_loss:.3f}, valid JSON {metrics.dev_json_validity}, "
            f"intent accuracy {metrics.dev_intent_accuracy}"
        )

    def _save(self) -> None:
        content = {
            "identity": self._identity,
            "adapter": adapter_weights(self._network),
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self._where.device == "cuda" else None,
            "step": self._state.step,
            "tokens_seen": self._state.tokens_seen,
            "losses": self._state.losses,
        }
        save_checkpoint(self._path, content)

    def _restore(self) -> "_LoopState":
        content: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        if content["identity"] != self._identity:
            raise TrainingError(
                f"{str(self._path)!r} is a checkpoint of another configuration, base, dataset or "
                "device: remove it or change --out"
            )
        set_adapter_weights(self._network, content["adapter"])
        self._optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["rng"])
        if content["cuda_rng"] is not None:
            torch.cuda.set_rng_state(content["cuda_rng"])
        return _LoopState(content["step"], content["tokens_seen"], content["losses"])


@dataclass(slots=True)
class _LoopState:
    step: int = 0
    tokens_seen: int = 0
    losses: list[float] = field(default_factory=list)


def learning_rate_at(step: int, config: OptimConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to `final_rate_ratio`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, config.n_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - config.warmup_steps) / span)))
    floor = config.final_rate_ratio
    return config.learning_rate * (floor + (1 - floor) * cosine)


def _parts(batch: Batch, size: int) -> list[Batch]:
    starts = range(0, len(batch.ids), size)
    pieces = [slice(start, start + size) for start in starts]
    return [Batch(batch.ids[p], batch.learn[p], batch.lengths[p]) for p in pieces]


def _collate(examples: Sequence[Encoded], pad_id: int) -> Batch:
    plan = BatchPlan(examples, batch_size=len(examples), seed=0, pad_id=pad_id)
    return plan.batch(0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
