"""The controller of a canary: what it looks at, where it begins, and what people ask of it."""

import dataclasses
import time
from pathlib import Path

from cluster.canary.split import read_declared, treatment_of, with_percent
from cluster.errors import CommandError
from cluster.steering.controller import SplitController
from cluster.steering.server import Declared
from experiments.analysis.declaration import CanaryDeclaration
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

_LOOK_SHARE = 0.2
"""Looks at the guardrails take at most this share of the time: in a log of millions of sessions one
takes seconds, and the detector of error bursts must not wait for it."""
_LONGEST_PAUSE_S = 3.0
"""... but a breach waits no longer than this for a look: the first one of a process loads the
statistics, which on a busy machine takes seconds and says nothing about the next."""


class Controller(SplitController[State, Observation, Decision]):
    """Drives one canary."""

    _journal: Journal
    _events: Path

    _finishes_unseen = True
    """Harm does not wait for gateways that answer."""

    _log: Log | None = None
    _look: Look | None = None
    _look_due_s = 0.0
    _looked_at: float | None = None
    _clean_at: float | None = None

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
        treatment = treatment_of(found.experiment)
        if percent and percent not in plan.steps:
            shown = ", ".join(f"{step:g}" for step in plan.steps)
            raise CommandError(
                f"{treatment!r} has {percent:g} %, which is no step of the ramp ({shown})",
                f"add it with --steps, or set its share to 0: carril deploy {self._server.config}",
            )
        state = State(
            experiment=name,
            version=found.experiment.version,
            control=found.experiment.control,
            treatment=treatment,
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

    def tick(self) -> Decision:
        """Look once, decide, and carry the decision out.

        Raises:
            CommandError: If a deployment failed; the next tick goes on with it.
        """
        self._finish_pending()
        if self._journal.take_request():
            return self.roll_back_by_hand()
        if not self._events.is_file():
            return super().tick()
        with open_log(self._events) as self._log:
            try:
                return super().tick()
            finally:
                self._log = None

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
            at=self._clock(),
            active_config=state.served.config_hash,
            file=self._file()[0],
        )
        reason = Reason(code=Code.BY_HAND, detail="asked for by an operator")
        decision = Decision(action=action, reasons=(reason,), percent=percent)
        self._carry_out(state, seen, decision)
        return decision

    def _observe(self, state: State) -> Observation:
        now = self._clock()
        log, control, treatment = self._log, Recent(), Recent()
        if log is not None and state.step >= 0:
            burst = state.plan.burst
            control = recent_of(log, state, state.control, burst, now=now)
            treatment = recent_of(log, state, state.treatment, burst, now=now)
        return Observation(
            at=now,
            look=self._guardrails(log, state, now),
            clean_at=self._clean_at,
            control=control,
            treatment=treatment,
            **self._ownership(state, asks_all=state.status is Status.READY),
        )

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

    def _decide(self, state: State, seen: Observation) -> Decision:
        return decide(state, seen)

    def _after(self, state: State, record: Record) -> State:
        return after(state, record.decision, at=self._clock())

    def _read(self, text: bytes) -> Declared[float]:
        return read_declared(text, self._journal.experiment)

    def _with_split(self, text: bytes, state: State, percent: float) -> bytes:
        return with_percent(text, state, percent)

    def _gives_up(self, state: State, pending: Served, active: str) -> bool:
        # A step up that nobody has seen yet is decided again, on what is known now.
        return active == state.served.config_hash and pending.percent > state.served.percent

    def _settled(self, kept: Kept, state: State) -> None:
        record, log = kept.record, self._log
        self._look, self._look_due_s = None, 0.0
        deployed = record.decision.percent is not None
        if deployed:
            self._looked_at = self._clean_at = None
        digest = None if log is None else events_sha256(log, state.experiment, state.version)
        self._journal.seal(
            Applied(
                number=record.number,
                record_sha256=kept.sha256,
                applied_at=state.step_at if deployed else self._clock(),
                events_sha256=digest,
            )
        )


def _plan_of(found: Declared[float], steps: tuple[float, ...] | None) -> Plan:
    declared = found.experiment.canary or CanaryDeclaration()
    policy = found.experiment.decision.policy
    plan = Plan.of(
        declared,
        srm_alpha=policy.srm_sequential_alpha,
        max_multi=policy.max_multi_exposed_share,
    )
    return plan if steps is None else dataclasses.replace(plan, steps=steps)
