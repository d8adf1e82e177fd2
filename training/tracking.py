"""Track a training or an evaluation: a run in MLflow, or none, with the same calls.

A job must not fail because a notebook server is down: where MLflow is not installed, switched off
(`CARRIL_TRACKING=off`) or out of order, the job goes on and one line says so.

    with start_run("finetune", "okla-v3", tags={...}, params={...}) as run:
        run.log_metrics({"loss": 0.7}, step=100)
        run.log_artifact(out / "run.lock.json")
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from training.errors import TrackingError
from training.registry.mirror import why_not

if TYPE_CHECKING:
    from training.registry.mlflow_adapter import MlflowStore

logger = logging.getLogger(__name__)

_MAX_FAILURES = 3
"""Failures in a row after which the store is left alone."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


class TrackedRun:
    """A run, or its absence.

    Args:
        store: Where it is recorded; None for nowhere.
        run_id: Its id there; None for nowhere.
    """

    def __init__(self, store: "MlflowStore | None", run_id: str | None) -> None:
        self._store = store
        self.run_id = run_id
        self.n_failures = 0
        """Calls that the store did not take."""
        self._ended = False
        self._in_a_row = 0

    @property
    def uri(self) -> str | None:
        """Address of the store, None without one."""
        return None if self._store is None else self._store.uri

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record parameters; each can be set once."""
        self._try(lambda store, run_id: store.log_params(run_id, params))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record metrics of one step."""
        self._try(lambda store, run_id: store.log_metrics(run_id, metrics, step=step))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a small file or folder with the run; model files belong into the registry."""
        self._try(lambda store, run_id: store.log_artifact(run_id, path, folder))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        self._try(lambda store, run_id: store.set_tags(run_id, tags))

    def end(self, status: Status = "FINISHED") -> None:
        """End the run; a second call does nothing."""
        if not self._ended:
            self._ended = True
            self._try(lambda store, run_id: store.end(run_id, status))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.end("FINISHED")
        else:
            self.end("FAILED" if issubclass(kind, Exception) else "KILLED")

    def _try(self, call: "Callable[[MlflowStore, str], None]") -> None:
        if self._store is None or self.run_id is None:
            return
        if self._in_a_row >= _MAX_FAILURES:  # each try may take a minute of the training
            self.n_failures += 1
            return
        try:
            call(self._store, self.run_id)
        except TrackingError as error:
            self.n_failures += 1
            self._in_a_row += 1
            if self.n_failures == 1:
                logger.warning("run %s is not tracked completely: %s", self.run_id, error)
            if self._in_a_row == _MAX_FAILURES:
                logger.warning("run %s is not tracked any further", self.run_id)
        else:
            self._in_a_row = 0


def start_run(
    experiment: str,
    name: str,
    *,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, object] | None = None,
    home: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], None] | None = None,
) -> TrackedRun:
    """Start a run, or go on with the one that the submitter of this job made.

    Args:
        experiment: Experiment in MLflow, for example `finetune`.
        name: Name of the run.
        tags: Tags; the id of the Ray job is added by itself.
        params: Parameters.
        home: `CARRIL_HOME`; None takes it from the environment.
        environ: `MLFLOW_TRACKING_URI` names the store, `MLFLOW_RUN_ID` a run to go on with.
        say: Told in one line why nothing is tracked; None logs it.
    """
    say = say or logger.warning
    reason = why_not(environ)
    if reason is not None:
        say(f"this run is not tracked: {reason}")
        return TrackedRun(None, None)
    from training.registry.mlflow_adapter import MlflowStore

    all_tags = {**(tags or {}), **job_tags(environ)}
    home = home or Path(environ.get("CARRIL_HOME") or "var")
    try:
        store = MlflowStore(home, environ.get("MLFLOW_TRACKING_URI"))
        run_id = environ.get("MLFLOW_RUN_ID")
        if run_id:
            store.reopen(run_id)
        else:
            run_id = store.create_run(experiment, name, tags=all_tags, params=params or {})
            return TrackedRun(store, run_id)
    except TrackingError as error:
        say(f"this run is not tracked: {error}")
        return TrackedRun(None, None)
    run = TrackedRun(store, run_id)
    run.set_tags(all_tags)
    run.log_params(params or {})  # refused where a resumed job has others now; the first ones stay
    return run


def job_tags(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the tag that links a run to the Ray job it runs in; empty outside one."""
    try:
        config = json.loads(environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
        job_id = config["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {"ray.job_id": str(job_id)}
