"""The controller: looks, decides, deploys, writes down; one at a time, resumable at any point.

Evidence is written before a split is deployed, and what is being deployed is part of the state. So
a controller that is killed anywhere leaves either the old split, or one that the next controller
recognises as its own and finishes.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from cluster.canary.split import Declared, Server, declares_same, read_declared, with_percent
from cluster.errors import CommandError
from experiments.analysis.declaration import CanaryDeclaration
from experiments.analysis.errors import AnalysisError
from experiments.analysis.fingerprint import events_sha256
from experiments.analysis.log import Log, open_log
from experiments.canary.journal import Journal, Kept
from experiments.canary.machine import after, decide
from experiments.canary.observe import look_at, recent_of
from experiments.canary.records import (
    Action,
    Applied,
    Code,
    Decision,
    Look,
    Observation,
    Plan,
    Reason,
    Recent,
    Record,
    Served,
    State,
    Status,
)
from serve_app.errors import ConfigError

logger = logging.getLogger(__name__)

_LOOK_SHARE = 0.2
"""Looks at the guardrails take at most this share of the time: in a log of millions of sessions one
takes seconds, and the detector of error bursts must not wait for it."""
_LONGEST_PAUSE_S = 3.0
"""... but a breach waits no longer than this for a look: the first one of a process loads the
statistics, which on a busy machine takes seconds and says nothing about the next."""
_RETRY_S = 5.0
"""Pause after a deployment that failed."""

Tell = Callable[[Decision, State], None]


class Controller:
    """Drives one canary. Hold the journal's lock around it.

    Args:
        journal: Where the canary is kept.
        server: What it changes.
        events: The event file.
        tell: Told every decision that is not to hold, and every new reason to hold.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        journal: Journal,
        server: Server,
        events: Path,
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
        self._look: Look | None = None
        self._look_due_s = 0.0
        self._looked_at: float | None = None
        self._clean_at: float | None = None

    def begin(self, steps: tuple[float, ...] | None = None) -> State:
        """Return the state to go on from, or that of a new canary.

        Raises:
            CommandError: If this canary is over, or the split fits no step.
            ConfigError: If the file does not say what is needed.
        """
        name = self._journal.experiment
        text = self._server.text()
        found = read_declared(text, name)
        old = self._journal.load()
        if old is not None and old.version == found.experiment.version:
            if old.status in (Status.COMPLETED, Status.ROLLED_BACK):
                raise CommandError(
                    f"the canary of {name!r}, version {old.version}, is {old.status.value}",
                    f"for another one raise experiments.{name}.version: new units",
                )
            if not old.status.over:
                return old
        plan = _plan_of(found, steps)
        percent = found.served.percent
        if percent and percent not in plan.steps:
            shown = ", ".join(f"{step:g}" for step in plan.steps)
            raise CommandError(
                f"{found.treatment!r} has {percent:g} %, which is no step of the ramp ({shown})",
                f"add it with --steps, or set its share to 0: carril deploy {self._server.config}",
            )
        state = State(
            experiment=name,
            version=found.experiment.version,
            control=found.experiment.control,
            treatment=found.treatment,
            plan=plan,
            served=found.served,
            n_decisions=0 if old is None else old.n_decisions,
            previous_sha256="" if old is None else old.previous_sha256,
        )
        # A config that no step can be deployed with, as by a shadow of the treatment, is told now.
        read_declared(with_percent(text, state, plan.steps[0]), name)
        self._journal.keep_snapshot(text)
        self._journal.save(state)
        return state

    @property
    def state(self) -> State:
        """Where the canary stands."""
        return self._journal.require()

    def run(self, stop: Event, *, interval_s: float) -> State:
        """Drive the canary until it is over or somebody stops it; return where it stands."""
        while not stop.is_set():
            pause_s = interval_s
            try:
                self.tick()
            except (CommandError, ConfigError, AnalysisError) as error:
                logger.warning("the canary of %s goes on: %s", self._journal.experiment, error)
                pause_s = max(interval_s, _RETRY_S)
            if self.state.status.over:
                break
            stop.wait(pause_s)
        return self.state

    def tick(self) -> Decision:
        """Look once, decide, and carry the decision out.

        Raises:
            CommandError: If a deployment failed; the next tick goes on with it.
        """
        self._finish_pending()
        if self._journal.take_request():
            return self.roll_back_by_hand()
        state = self._journal.require()
        with ExitStack() as stack:
            log = stack.enter_context(open_log(self._events)) if self._events.is_file() else None
            seen = self._observe(log, state)
            decision = decide(state, seen)
            self._carry_out(state, seen, decision, log)
        return decision

    def roll_back_by_hand(self) -> Decision:
        """Take the treatment's traffic back because somebody says so.

        Raises:
            CommandError: If the gateways do not run what this canary deployed, or it failed.
        """
        self._finish_pending()
        state = self._journal.require()
        active = self._server.active_config()
        if active != state.served.config_hash:
            raise CommandError(
                f"the gateways run {active or 'different configurations'}, not the "
                f"{state.served.config_hash} that this canary deployed; nothing was changed",
                "set the split in the config, then: carril deploy",
            )
        return self._by_hand(state, Action.ROLL_BACK, 0.0)

    def resume(self) -> Decision | None:
        """Go on with a paused canary; None if it is not paused."""
        state = self._journal.require()
        if state.status is not Status.PAUSED:
            return None
        return self._by_hand(state, Action.RESUME, None)

    def _by_hand(self, state: State, action: Action, percent: float | None) -> Decision:
        seen = Observation(
            at=self._clock(), active_config=state.served.config_hash, file=self._file(state)[0]
        )
        reason = Reason(code=Code.BY_HAND, detail="asked for by an operator")
        decision = Decision(action=action, reasons=(reason,), percent=percent)
        self._carry_out(state, seen, decision, None)
        return decision

    def _observe(self, log: Log | None, state: State) -> Observation:
        now = self._clock()
        file, same = self._file(state)
        active = self._server.active_config()
        relied_on = state.status is Status.READY or (
            bool(active) and (active != state.served.config_hash or file != state.served)
        )
        control = treatment = Recent()
        if log is not None and state.step >= 0:
            burst = state.plan.burst
            control = recent_of(log, state, state.control, burst, now=now)
            treatment = recent_of(log, state, state.treatment, burst, now=now)
        return Observation(
            at=now,
            active_config=active,
            file=file,
            file_declares=same,
            file_runs=self._server.runs_file() if relied_on else True,
            look=self._guardrails(log, state, now),
            clean_at=self._clean_at,
            control=control,
            treatment=treatment,
        )

    def _file(self, state: State) -> tuple[Served | None, bool]:
        try:
            theirs = read_declared(self._server.text(), state.experiment)
        except ConfigError:
            return None, False
        return theirs.served, declares_same(self._ours(), theirs)

    def _ours(self) -> Declared:
        return read_declared(self._journal.snapshot(), self._journal.experiment)

    def _guardrails(self, log: Log | None, state: State, now: float) -> Look | None:
        if log is None or state.step < 0:
            return None
        started_s = time.monotonic()
        if started_s >= self._look_due_s:
            # Whatever the last look showed, it was no harm: that would have ended the step.
            self._clean_at, self._looked_at = self._looked_at, now
            self._look = look_at(
                log,
                state,
                self._ours().experiment,
                alpha=state.plan.look_alpha,
                min_units=state.plan.min_units,
                now=now,
            )
            ended_s = time.monotonic()
            pause_s = (ended_s - started_s) * (1 / _LOOK_SHARE - 1)
            self._look_due_s = ended_s + min(pause_s, _LONGEST_PAUSE_S)
        return self._look

    def _carry_out(
        self, state: State, seen: Observation, decision: Decision, log: Log | None
    ) -> None:
        codes = tuple(reason.code for reason in decision.reasons)
        if decision.action is Action.HOLD:
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
        if decision.percent is not None:
            state = self._deploy(state, decision.percent)
        elif decision.action is Action.ADOPT and seen.file is not None:
            self._journal.keep_snapshot(self._server.text())
            state = dataclasses.replace(state, served=seen.file)
        state = after(state, decision, at=self._clock())
        self._journal.save(state)
        self._look, self._look_due_s = None, 0.0
        if decision.percent is not None:
            self._looked_at = self._clean_at = None
        self._seal(kept, state, log)
        self._tell(decision, state)

    def _deploy(self, state: State, percent: float) -> State:
        before = self._journal.snapshot()
        text = with_percent(before, state, percent)
        wanted = read_declared(text, state.experiment).served
        if wanted == state.served:
            return state
        pending = dataclasses.replace(state, pending=wanted)
        self._journal.save(pending)
        self._server.deploy(text, wanted.config_hash)
        return self._deployed(pending, text)

    def _deployed(self, state: State, text: bytes) -> State:
        """Return the state once the pending split is in force everywhere."""
        assert state.pending is not None  # noqa: S101 (only called while something is pending)
        written = self._server.replace_file(state.served.file_sha256, text)
        if not written and self._server.text() != text:
            logger.warning(
                "%s was edited and is left alone; the gateways have %g %% for %s",
                self._server.config,
                state.pending.percent,
                state.treatment,
            )
        self._journal.keep_snapshot(text)
        return dataclasses.replace(state, served=state.pending, pending=None)

    def _finish_pending(self) -> None:
        """Finish the deployment in which a controller was interrupted."""
        state = self._journal.require()
        if state.pending is None:
            return
        wanted, active = state.pending, self._server.active_config()
        kept = self._journal.records()[-1]
        text = with_percent(self._journal.snapshot(), state, wanted.percent)
        if read_declared(text, state.experiment).served != wanted:
            # The snapshot is the new text already: killed between writing it and the state.
            text = self._journal.snapshot()
        if active not in ("", wanted.config_hash, state.served.config_hash):
            self._journal.save(dataclasses.replace(state, pending=None))
            return  # somebody else's: the next decision refuses
        if active == state.served.config_hash and wanted.percent > state.served.percent:
            self._journal.save(dataclasses.replace(state, pending=None))
            return  # a step up that nobody has seen yet is decided again, on what is known now
        if active != wanted.config_hash:
            self._server.deploy(text, wanted.config_hash)
        state = after(self._deployed(state, text), kept.record.decision, at=self._clock())
        self._journal.save(state)
        self._seal(kept, state, None)
        self._tell(kept.record.decision, state)

    def _seal(self, kept: Kept, state: State, log: Log | None) -> None:
        digest = None if log is None else events_sha256(log, state.experiment, state.version)
        self._journal.seal(
            Applied(
                number=kept.record.number,
                record_sha256=kept.sha256,
                applied_at=state.step_at
                if kept.record.decision.percent is not None
                else self._clock(),
                events_sha256=digest,
            )
        )


def _plan_of(found: Declared, steps: tuple[float, ...] | None) -> Plan:
    declared = found.experiment.canary or CanaryDeclaration()
    policy = found.experiment.decision.policy
    plan = Plan.of(
        declared,
        srm_alpha=policy.srm_sequential_alpha,
        max_multi=policy.max_multi_exposed_share,
    )
    return plan if steps is None else dataclasses.replace(plan, steps=steps)
