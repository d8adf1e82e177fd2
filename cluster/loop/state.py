"""How far a turn of the loop is, on disk, so that the next command goes on there."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import CommandError
from experiments.registry.errors import brief
from experiments.whole_file import write_whole

SCHEMA_VERSION = 1


class StepResult(BaseModel):
    """One step that is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    artefact: str
    """What it made: a path, a hash, a version."""
    took_s: float


class LoopState(BaseModel):
    """The steps that are done, in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    config_sha256: str
    code_identity: str
    finished: bool = False
    steps: tuple[StepResult, ...] = ()

    def result(self, name: str) -> StepResult | None:
        """Return a step's result, None if it is not done."""
        return next((step for step in self.steps if step.name == name), None)


def load_state(folder: Path, fresh: LoopState) -> LoopState:
    """Return where to go on: a turn that was interrupted, else `fresh`.

    A turn of another configuration or of other code does not count.

    Raises:
        CommandError: If the file cannot be read.
    """
    path = _path(folder)
    try:
        state = LoopState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return fresh
    except (OSError, ValidationError) as error:
        raise CommandError(
            f"{path} cannot be read: {brief(error)}", "remove it to begin anew"
        ) from error
    same = (state.config_sha256, state.code_identity) == (fresh.config_sha256, fresh.code_identity)
    return state if same and not state.finished else fresh


def save_state(folder: Path, state: LoopState) -> None:
    """Write the state; readers see the old or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(_path(folder), state.model_dump_json(indent=1).encode() + b"\n")


def _path(folder: Path) -> Path:
    return folder / "state.json"
