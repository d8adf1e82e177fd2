"""What one turn of the loop is made of."""

import hashlib
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import CommandError, ExitCode
from experiments.evaluation.dimensions import Skippable
from experiments.gate.policy import GatePolicy


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluationPart(_Strict):
    """How candidate and champion are measured; both on the same items."""

    limit: Annotated[int, Field(ge=1)] = 100
    """Most items of each suite."""
    skip: tuple[Skippable, ...] = ()
    """Parts to leave out."""
    threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads; the others are left to those who are served."""


class TrafficPart(_Strict):
    """The requests that must not notice anything."""

    requests_per_s: Annotated[float, Field(gt=0, le=50)] = 2.0
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 16
    """Of each answer; short ones, as it is the number of requests that finds a gap."""


class LoopConfig(_Strict):
    """One turn of the loop."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Line in the registry. One of its own, so that a rehearsal never meets the real champion."""
    training: Path
    """Training configuration. Relative to this file."""
    evaluation: EvaluationPart = EvaluationPart()
    gate: GatePolicy
    """Rules of the gate. They are always applied; a small model needs floors of its own here."""
    traffic: TrafficPart = TrafficPart()

    def sha256(self) -> str:
        """Return a hash of all of it, the training configuration's content included."""
        digest = hashlib.sha256(self.model_dump_json(exclude={"training"}).encode())
        digest.update(self.training.read_bytes())
        return digest.hexdigest()


def load_loop_config(path: Path) -> LoopConfig:
    """Read the configuration of a loop.

    Raises:
        CommandError: If it cannot be used; the message names the field.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = LoopConfig.model_validate(raw)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"{path} cannot be read: {error}", code=ExitCode.USAGE) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CommandError(f"{path}: {problems}", code=ExitCode.USAGE) from error
    training = path.absolute().parent / config.training
    if not training.is_file():
        raise CommandError(f"{path}: training: {training} is no file", code=ExitCode.USAGE)
    return config.model_copy(update={"training": training})
