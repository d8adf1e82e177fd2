"""Changes and faults that void an experiment: no statistic repairs data of two experiments."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.analysis.exposures import Group
from experiments.analysis.history import Phase, experiments_in, made_with, samples
from experiments.analysis.log import Log, Scope
from experiments.assignment import Hash

TOLERATED_SHARE = 0.01
"""Share of units at which a fault stops being a blemish: that of multiple exposure, 1 %."""


class Findings(NamedTuple):
    """What was found."""

    conflicts: tuple[str, ...]
    """Void the experiment."""
    notes: tuple[str, ...]
    """Worth knowing, below the tolerated share."""


def find_conflicts(
    log: Log,
    scope: Scope,
    phase: Phase,
    found: Sequence[Group],
    salt: str | None,
    how: Hash = Hash.SHA256,
) -> Findings:
    """Look for another salt, another name, another model in an arm.

    Args:
        log: The event file.
        scope: What is analysed.
        phase: The analysed phase.
        found: All groups of the version.
        salt: The declared salt; None if nothing is declared.
        how: The declared hash.
    """
    conflicts = _resalted(log, scope, found, salt, how)
    if salt is not None and not conflicts:
        conflicts += _renamed(log, scope, found, salt, how)
    notes: list[str] = []
    for variant in (scope.control, scope.treatment):
        text, voids = _redefined(variant, phase)
        if text:
            (conflicts if voids else notes).append(text)
    return Findings(tuple(conflicts), tuple(notes))


def _resalted(
    log: Log, scope: Scope, found: Sequence[Group], salt: str | None, how: Hash
) -> list[str]:
    buckets = log.row(
        "SELECT COUNT(*) FROM exposure_conflicts AS c CROSS JOIN exposures AS e "
        "WHERE c.experiment = :experiment AND c.version = :version AND c.bucket <> e.bucket "
        "AND e.experiment = c.experiment AND e.version = c.version AND e.unit = c.unit",
        {"experiment": scope.experiment, "version": scope.version},
    )[0]
    if buckets:
        return [
            f"re-salted mid-run: {buckets} units have two buckets; raise `version` with a new salt"
        ]
    if salt is None:
        return []
    wrong = {}
    for config_hash in {group.config_hash for group in found}:
        units = {
            unit
            for group in found
            if group.config_hash == config_hash
            for unit in (group.first_unit, group.last_unit)
        }
        seen = samples(log, scope.experiment, scope.version, sorted(units))
        if not made_with(salt, seen, how):
            wrong[config_hash] = sum(g.n_units for g in found if g.config_hash == config_hash)
    if not wrong:
        return []
    return [
        f"re-salted: {sum(wrong.values())} units under {', '.join(sorted(wrong))} were not "
        f"assigned with the declared salt {salt!r} and hash {how.value!r}; raise `version` when "
        "they change"
    ]


def _renamed(log: Log, scope: Scope, found: Sequence[Group], salt: str, how: Hash) -> list[str]:
    units = (found[0].first_unit, found[0].last_unit)
    ours = {s.served_model for s in samples(log, scope.experiment, scope.version, units)}
    other = sorted({name for name, _ in experiments_in(log)} - {scope.experiment})
    conflicts = []
    for name, version in experiments_in(log):
        if name not in other:
            continue
        low, high = log.row(
            # Apart, because then each is one step along the key.
            "SELECT (SELECT MIN(unit) FROM exposures WHERE experiment = :name AND version = "
            ":version), (SELECT MAX(unit) FROM exposures WHERE experiment = :name AND version = "
            ":version)",
            {"name": name, "version": version},
        )
        theirs = samples(log, name, version, (low, high))
        if made_with(salt, theirs, how) and ours & {sample.served_model for sample in theirs}:
            conflicts.append(
                f"renamed mid-run: experiment {name!r} (version {version}) split the traffic of "
                f"the same served model with the same salt {salt!r}; a new experiment needs a new "
                "salt"
            )
    return conflicts


def _redefined(variant: str, phase: Phase) -> tuple[str, bool]:
    """Return what is to be said about several models in one arm, and whether it voids."""
    seen = phase.models.get(variant, {})
    if len(seen) < 2:
        return "", False
    total = sum(seen.values())
    rest = total - max(seen.values())
    shown = ", ".join(f"{sha[:12]} ({n} units)" for sha, n in sorted(seen.items()))
    if rest / total <= TOLERATED_SHARE:
        return f"{variant} was seen with another model by {rest} of {total} units: {shown}", False
    return (
        f"arm redefined mid-run: {variant} was served by {shown}; raise `version` with each model",
        True,
    )


def timing_faults(
    *, n_units: int, future: int, early: int, impossible: int, n_outcomes: int
) -> Findings:
    """Judge clocks and durations.

    Args:
        n_units: Exposed units.
        future: Units exposed later than now.
        early: Outcomes that ended clearly before their unit was exposed.
        impossible: Outcomes with a negative or absurd duration.
        n_outcomes: All outcomes.
    """
    conflicts: list[str] = []
    notes: list[str] = []
    for count, total, text in (
        (future, n_units, "exposures lie in the future: a clock is wrong"),
        (early, n_outcomes, "outcomes end before their exposure: clocks disagree"),
        (impossible, n_outcomes, "outcomes have an impossible duration"),
    ):
        if count:
            place = conflicts if count / max(1, total) > TOLERATED_SHARE else notes
            place.append(f"{count} of {total} {text}")
    return Findings(tuple(conflicts), tuple(notes))
