"""The controller of an adaptive experiment: what it looks at, and where it begins."""

import dataclasses
from collections.abc import Mapping

from cluster.adaptive.split import read_declared, with_percent
from cluster.errors import CommandError
from cluster.steering.controller import SplitController
from cluster.steering.server import Declared
from experiments.adaptive.observe import look_at
from experiments.adaptive.policy import after, decide
from experiments.adaptive.records import (
    Decision,
    Observation,
    Plan,
    Record,
    State,
    Status,
)
from serve_app.config import ExperimentConfig

_LOOK_SHARE = 0.2
"""Looks take at most this share of the time; in a large log one takes seconds."""


class Controller(SplitController[State, Observation, Decision]):
    """Moves the split of one adaptive experiment."""

    def begin(self) -> State:
        """Return the state to go on from, or a new one.

        Raises:
            CommandError: If a variant of this version is recommended already.
            ConfigError: If the file does not say what is needed.
        """
        name = self._journal.experiment
        text = self._server.text()
        found = read_declared(text, name)
        plan = _plan_of(found.experiment)
        old = self._journal.load()
        if old is not None and old.version == found.experiment.version:
            if old.status is Status.RECOMMENDED:
                raise CommandError(
                    f"experiment {name!r}, version {old.version}, has its recommendation",
                    f"see it with: carril exp adapt status {name}; for another run raise "
                    f"experiments.{name}.version: new units",
                )
            if not old.status.over:
                state = dataclasses.replace(old, plan=plan)
                self._journal.save(state)
                return state
        state = State(
            experiment=name,
            version=found.experiment.version,
            control=found.experiment.control,
            plan=plan,
            served=found.served,
            n_decisions=0 if old is None else old.n_decisions,
            previous_sha256="" if old is None else old.previous_sha256,
        )
        self._journal.keep_snapshot(text)
        self._journal.save(state)
        return state

    def _observe(self, state: State) -> Observation:
        now = self._clock()
        found = look_at(self._events, state.experiment, self._ours().experiment, now=now)
        return Observation(
            at=now,
            units=found.units,
            arms=found.arms,
            problem=found.problem,
            doubts=found.doubts,
            breached=found.breached,
            **self._ownership(state),
        )

    def _decide(self, state: State, seen: Observation) -> Decision:
        return decide(state, seen)

    def _after(self, state: State, record: Record) -> State:
        return after(state, record, at=self._clock())

    def _read(self, text: bytes) -> Declared[Mapping[str, float]]:
        return read_declared(text, self._journal.experiment)

    def _with_split(self, text: bytes, state: State, percent: Mapping[str, float]) -> bytes:
        return with_percent(text, state.experiment, percent)

    def _rest_s(self, took_s: float) -> float:
        return took_s * (1 / _LOOK_SHARE - 1)


def _plan_of(experiment: ExperimentConfig) -> Plan:
    assert experiment.adaptive is not None  # noqa: S101 (what `read_declared` has checked)
    return Plan.of(experiment.adaptive, experiment.adaptive_metric())
