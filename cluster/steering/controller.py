"""The controller: looks, decides, deploys, writes down; one at a time, resumable at any point.

Evidence is written before a split is deployed, and what is being deployed is part of the state. So
a controller that is killed anywhere leaves either the old split, or one that the next controller
recognises as its own and finishes.
"""

import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, Generic

from cluster.errors import CommandError
from cluster.steering.server import Declared, Server, declares_same
from experiments.analysis.errors import AnalysisError
from experiments.steering.journal import DecisionJournal, Kept
from experiments.steering.records import D, DecisionRecord, O, S, Served
from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)

_RETRY_S = 5.0
"""Pause after a deployment that failed."""

HOLD, ADOPT = "hold", "adopt"
"""Actions that every controller has."""


class SplitController(ABC, Generic[S, O, D]):
    """Moves the split of one experiment. Hold the journal's lock around it.

    Args:
        journal: Where it is kept.
        server: What it changes.
        events: The event file, or the address of the central database.
        tell: Told every decision that is not to hold, and every new reason to hold.
        clock: Seconds since the epoch.
    """

    _finishes_unseen: ClassVar[bool] = False
    """Whether a deployment is finished though nobody knows what the gateways run."""

    def __init__(
        self,
        journal: DecisionJournal[S, O, D],
        server: Server,
        events: Path | str,
        *,
        tell: Callable[[D, S], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._server = server
        self._events = events
        self._tell = tell
        self._clock = clock
        self._held: tuple[StrEnum, ...] = ()

    @property
    def state(self) -> S:
        """Where it stands."""
        return self._journal.require()

    def run(self, stop: Event, *, interval_s: float) -> S:
        """Move the split until there is no more to do or somebody stops it."""
        while not stop.is_set():
            started_s = time.monotonic()
            pause_s = interval_s
            try:
                self.tick()
            except (CommandError, ConfigError, AnalysisError) as error:
                logger.warning("the split of %s stays: %s", self._journal.experiment, error)
                pause_s = max(interval_s, _RETRY_S)
            if self.state.status.over:
                break
            stop.wait(max(pause_s, self._rest_s(time.monotonic() - started_s)))
        return self.state

    def tick(self) -> D:
        """Look once, decide, and carry the decision out.

        Raises:
            CommandError: If a deployment failed; the next tick goes on with it.
        """
        self._finish_pending()
        state = self._journal.require()
        seen = self._observe(state)
        decision = self._decide(state, seen)
        self._carry_out(state, seen, decision)
        return decision

    @abstractmethod
    def _observe(self, state: S) -> O:
        """Return everything that the decision may rest on."""

    @abstractmethod
    def _decide(self, state: S, seen: O) -> D:
        """Return what to do: a pure function."""

    @abstractmethod
    def _after(self, state: S, record: DecisionRecord[S, O, D]) -> S:
        """Return the state after a decision was carried out, without what was deployed."""

    @abstractmethod
    def _read(self, text: bytes) -> Declared[Any]:
        """Return the experiment of a config text."""

    @abstractmethod
    def _with_split(self, text: bytes, state: S, percent: Any) -> bytes:
        """Return a config text with another split."""

    def _gives_up(self, state: S, pending: Served[Any], active: str) -> bool:  # noqa: ARG002
        """Return whether an interrupted deployment is decided again instead of finished."""
        return False

    def _rest_s(self, took_s: float) -> float:  # noqa: ARG002 (for controllers whose looks are long)
        """Return the least pause after a tick."""
        return 0.0

    def _settled(self, kept: Kept[DecisionRecord[S, O, D]], state: S) -> None:
        """Do what is left once a decision is in force."""

    def _ours(self) -> Declared[Any]:
        return self._read(self._journal.snapshot())

    def _file(self) -> tuple[Served[Any] | None, bool]:
        try:
            theirs = self._read(self._server.text())
        except ConfigError:
            return None, False
        return theirs.served, declares_same(self._ours().experiment, theirs.experiment)

    def _ownership(self, state: S, *, asks_all: bool = False) -> dict[str, Any]:
        """Return what an observation says about whose split is served.

        Args:
            state: Where it stands.
            asks_all: Whether to ask every replica also where the file is not relied on.
        """
        file, same = self._file()
        # What is on its way may be in force at any moment; until that is settled nobody knows.
        active = "" if state.pending is not None else self._server.active_config()
        relied_on = asks_all or (
            bool(active) and (active != state.served.config_hash or file != state.served)
        )
        return {
            "active_config": active,
            "file": file,
            "file_declares": same,
            "file_runs": self._server.runs_file() if relied_on else True,
        }

    def _carry_out(self, state: S, seen: O, decision: D) -> None:
        if decision.action == HOLD:
            codes = tuple(reason.code for reason in decision.reasons)
            if codes != self._held:
                self._held = codes
                self._tell(decision, state)
            return
        self._held = ()
        number = state.n_decisions + 1
        record = self._journal.record_type(
            number=number,
            state=state,
            observation=seen,
            decision=decision,
            previous_sha256=state.previous_sha256,
        )
        kept = self._journal.append(record)
        state = dataclasses.replace(state, n_decisions=number, previous_sha256=kept.sha256)
        self._journal.save(state)
        if decision.percent is not None:
            state = self._deploy(state, decision.percent)
        elif decision.action == ADOPT and seen.file is not None:
            self._journal.keep_snapshot(self._server.text())
            state = dataclasses.replace(state, served=seen.file)
        self._close(kept, state)

    def _close(self, kept: Kept[DecisionRecord[S, O, D]], state: S) -> None:
        state = self._after(state, kept.record)
        self._journal.save(state)
        self._settled(kept, state)
        self._tell(kept.record.decision, state)

    def _deploy(self, state: S, percent: Any) -> S:
        text = self._with_split(self._journal.snapshot(), state, percent)
        wanted = self._read(text).served
        if wanted == state.served:
            return state
        pending = dataclasses.replace(state, pending=wanted)
        self._journal.save(pending)
        self._server.deploy(text, wanted.config_hash)
        return self._deployed(pending, text)

    def _deployed(self, state: S, text: bytes) -> S:
        """Return the state once the pending split is in force everywhere."""
        assert state.pending is not None  # noqa: S101 (only called while something is pending)
        written = self._server.replace_file(state.served.file_sha256, text)
        if not written and self._server.text() != text:
            logger.warning(
                "%s was edited and is left alone; the gateways have another split than it says",
                self._server.config,
            )
        self._journal.keep_snapshot(text)
        return dataclasses.replace(state, served=state.pending, pending=None)

    def _finish_pending(self) -> None:
        """Finish the deployment in which a controller was interrupted: its evidence is written."""
        state = self._journal.require()
        if state.pending is None:
            return
        wanted, active = state.pending, self._server.active_config()
        if not active and not self._finishes_unseen:
            return  # the decision holds
        foreign = active not in ("", wanted.config_hash, state.served.config_hash)
        if foreign or self._gives_up(state, wanted, active):
            self._journal.save(dataclasses.replace(state, pending=None))
            return  # of somebody else's split the next decision refuses
        text = self._with_split(self._journal.snapshot(), state, wanted.percent)
        if self._read(text).served != wanted:
            # The snapshot is the new text already: killed between writing it and the state.
            text = self._journal.snapshot()
        if active != wanted.config_hash:
            self._server.deploy(text, wanted.config_hash)
        self._close(self._journal.records()[-1], self._deployed(state, text))
