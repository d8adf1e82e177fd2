"""The controller: looks, decides, deploys, writes down; one at a time, resumable at any point.

As with a canary, evidence is written before a split is deployed and what is being deployed is part
of the state, so one that is killed anywhere leaves a split that the next one recognises.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from cluster.adaptive.split import Declared, declares_same, read_declared, with_percent
from cluster.canary.split import Server
from cluster.errors import CommandError
from experiments.adaptive.journal import Journal
from experiments.adaptive.observe import look_at
from experiments.adaptive.policy import decide
from experiments.adaptive.records import (
    Action,
    Code,
    Decision,
    Observation,
    Plan,
    Record,
    Served,
    State,
    Status,
)
from experiments.analysis.errors import AnalysisError
from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)

_LOOK_SHARE = 0.2
"""Looks take at most this share of the time; in a large log one takes seconds."""
_RETRY_S = 5.0
"""Pause after a deployment that failed."""

Tell = Callable[[Decision, State], None]


class Controller:
    """Moves the split of one experiment. Hold the journal's lock around it.

    Args:
        journal: Where it is kept.
        server: What it changes.
        events: The event file, or the address of the central database.
        tell: Told every decision that is not to hold, and every new reason to hold.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        journal: Journal,
        server: Server,
        events: Path | str,
        *,
        tell: Tell,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._server = server
        self._events = events
        self._tell = tell
        self._clock = clock
        self._held: tuple[Code, ...] = ()

    def begin(self) -> State:
        """Return the state to go on from, or a new one.

        Raises:
            CommandError: If a variant of this version is recommended already.
            ConfigError: If the file does not say what is needed.
        """
        name = self._journal.experiment
        text = self._server.text()
        found = read_declared(text, name)
        plan = Plan.of(found.adaptive, found.experiment.adaptive_metric())
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

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._journal.require()

    def run(self, stop: Event, *, interval_s: float) -> State:
        """Move the split until a variant is recommended or somebody stops it."""
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
            took_s = time.monotonic() - started_s
            stop.wait(max(pause_s, took_s * (1 / _LOOK_SHARE - 1)))
        return self.state

    def tick(self) -> Decision:
        """Look once, decide, and carry the decision out.

        Raises:
            CommandError: If a deployment failed; the next tick goes on with it.
        """
        self._finish_pending()
        state = self._journal.require()
        seen = self._observe(state)
        decision = decide(state, seen)
        self._carry_out(state, seen, decision)
        return decision

    def _observe(self, state: State) -> Observation:
        now = self._clock()
        file, same = self._file(state)
        active = self._server.active_config()
        relied_on = bool(active) and (active != state.served.config_hash or file != state.served)
        found = look_at(self._events, state.experiment, self._ours().experiment, now=now)
        return Observation(
            at=now,
            active_config=active,
            file=file,
            file_declares=same,
            file_runs=self._server.runs_file() if relied_on else True,
            units=found.units,
            arms=found.arms,
            problem=found.problem,
            doubts=found.doubts,
            breached=found.breached,
        )

    def _file(self, state: State) -> tuple[Served | None, bool]:
        try:
            theirs = read_declared(self._server.text(), state.experiment)
        except ConfigError:
            return None, False
        return theirs.served, declares_same(self._ours(), theirs)

    def _ours(self) -> Declared:
        return read_declared(self._journal.snapshot(), self._journal.experiment)

    def _carry_out(self, state: State, seen: Observation, decision: Decision) -> None:
        if decision.action is Action.HOLD:
            codes = tuple(reason.code for reason in decision.reasons)
            if codes != self._held:
                self._held = codes
                self._tell(decision, state)
            return
        self._held = ()
        number = state.n_decisions + 1
        record = Record(
            number=number,
            state=state,
            observation=seen,
            decision=decision,
            previous_sha256=state.previous_sha256,
        )
        kept = self._journal.append(record)
        state = dataclasses.replace(state, n_decisions=number, previous_sha256=kept.sha256)
        self._journal.save(state)
        match decision.action:
            case Action.MOVE if decision.percent is not None:
                text = with_percent(self._journal.snapshot(), state.experiment, decision.percent)
                wanted = read_declared(text, state.experiment).served
                state = dataclasses.replace(state, pending=wanted)
                self._journal.save(state)
                self._server.deploy(text, wanted.config_hash)
                state = self._deployed(state, text, units=seen.units)
            case Action.ADOPT if seen.file is not None:
                self._journal.keep_snapshot(self._server.text())
                state = dataclasses.replace(state, served=seen.file)
            case Action.RECOMMEND:
                state = dataclasses.replace(state, status=Status.RECOMMENDED)
            case _:
                state = dataclasses.replace(state, status=Status.CONFLICT)
        self._journal.save(state)
        self._tell(decision, state)

    def _deployed(self, state: State, text: bytes, *, units: int) -> State:
        """Return the state once the pending split is in force everywhere."""
        assert state.pending is not None  # noqa: S101 (only called while something is pending)
        written = self._server.replace_file(state.served.file_sha256, text)
        if not written and self._server.text() != text:
            logger.warning(
                "%s was edited and is left alone; the gateways have another split than it says",
                self._server.config,
            )
        self._journal.keep_snapshot(text)
        return dataclasses.replace(
            state, served=state.pending, served_at=self._clock(), units_then=units, pending=None
        )

    def _finish_pending(self) -> None:
        """Finish the deployment in which a controller was interrupted: its evidence is written."""
        state = self._journal.require()
        if state.pending is None:
            return
        wanted, active = state.pending, self._server.active_config()
        if not active:
            return  # nobody knows yet; the decision holds
        if active not in (wanted.config_hash, state.served.config_hash):
            self._journal.save(dataclasses.replace(state, pending=None))
            return  # somebody else's: the next decision refuses
        text = with_percent(self._journal.snapshot(), state.experiment, wanted.percent)
        if active != wanted.config_hash:
            self._server.deploy(text, wanted.config_hash)
        kept = self._journal.records()[-1]
        state = self._deployed(state, text, units=kept.record.observation.units)
        self._journal.save(state)
        self._tell(kept.record.decision, state)
