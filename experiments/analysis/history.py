"""What happened to an experiment, read off its exposures: configurations, splits, models.

Every exposure names the configuration it was made under, the probability it had, and its bucket. So
the log itself tells when the split changed, and whether the salt did, without trusting a file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from experiments.analysis.errors import UnknownExperiment
from experiments.analysis.exposures import Group
from experiments.analysis.log import Log, Row
from experiments.analysis.pieces import Task
from experiments.analysis.survey import survey
from experiments.assignment import Hash, variant_bucket

_EQUAL_SHARES = 1e-9
"""Shares are multiples of 1/10,000; anything closer is the same share."""


class Sample(NamedTuple):
    """An exposure by which a salt is recognised."""

    unit: str
    bucket: int
    served_model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """All units that were exposed under one split; comparable, because the split is one."""

    shares: Mapping[str, float]
    """Probability per variant. A variant without exposures may be missing."""
    units: Mapping[str, int]
    config_hashes: tuple[str, ...]
    first_at: float
    last_at: float
    models: Mapping[str, Mapping[str, int]]
    """Units per variant and model hash."""

    @property
    def n_units(self) -> int:
        """Units of all variants."""
        return sum(self.units.values())

    def share_of(self, variant: str, declared: Iterable[str]) -> float | None:
        """Return the share of a variant; the remainder if it is the only declared one unseen."""
        if variant in self.shares:
            return self.shares[variant]
        unseen = set(declared) - self.shares.keys()
        return 1.0 - sum(self.shares.values()) if unseen == {variant} else None


_NEXT_VERSION = """
SELECT experiment, version FROM exposures WHERE experiment = :name AND version > :version
ORDER BY version LIMIT 1
"""
_NEXT_NAME = """
SELECT experiment, version FROM exposures WHERE experiment > :name
ORDER BY experiment, version LIMIT 1
"""


def experiments_in(log: Log) -> list[tuple[str, int]]:
    """Return experiments and versions that have exposures.

    Skips from key to key along the primary key instead of reading every row.
    """
    found: list[tuple[str, int]] = []
    last: Row | None = None
    while True:
        # One column at a time: a step over a pair of columns goes through all rows of the pair.
        following = (
            log.first(_NEXT_VERSION, {"name": last[0], "version": last[1]}) if last else None
        )
        last = following or log.first(_NEXT_NAME, {"name": last[0] if last else ""})
        if last is None:
            return found
        found.append((last[0], last[1]))


def groups(log: Log, experiment: str, version: int) -> list[Group]:
    """Return the exposures of a version in groups, in order of appearance."""
    return groups_of(survey(log, Task(experiment, version, until=None)).groups)


def groups_of(found: Iterable[Group]) -> list[Group]:
    """Return the groups of all pieces together, in order of appearance.

    Args:
        found: Of the pieces, in their order.
    """
    joined: dict[tuple[str, str, float, str], Group] = {}
    for part in found:
        key = (part.config_hash, part.variant, part.probability, part.model_sha256)
        known = joined.get(key)
        joined[key] = part if known is None else _together(known, part)
    return sorted(
        joined.values(),
        key=lambda g: (g.first_at, g.config_hash, g.variant, g.probability, g.model_sha256),
    )


def _together(known: Group, later: Group) -> Group:
    return later._replace(
        n_units=known.n_units + later.n_units,
        first_at=min(known.first_at, later.first_at),
        last_at=max(known.last_at, later.last_at),
        first_unit=known.first_unit,
    )


def phases(found: Sequence[Group]) -> list[Phase]:
    """Join configurations with the same split, in the order in which their last unit came.

    A configuration that changes something else, the cache for instance, starts no phase. Going
    back to an earlier split continues its phase.

    Raises:
        UnknownExperiment: If there are no exposures.
    """
    if not found:
        raise UnknownExperiment("the log has no exposures of this experiment and version")
    by_config: dict[str, list[Group]] = {}
    for group in found:
        by_config.setdefault(group.config_hash, []).append(group)
    joined: list[list[Group]] = []
    for members in by_config.values():
        home = next((known for known in joined if _same_split(known, members)), None)
        if home is None:
            joined.append(list(members))
        else:
            home.extend(members)
    return sorted((_phase(members) for members in joined), key=lambda phase: phase.last_at)


def _same_split(known: Sequence[Group], members: Sequence[Group]) -> bool:
    ours = {group.variant: group.probability for group in known}
    theirs = {group.variant: group.probability for group in members}
    if any(abs(ours[v] - theirs[v]) > _EQUAL_SHARES for v in ours.keys() & theirs.keys()):
        return False
    return sum((ours | theirs).values()) <= 1.0 + _EQUAL_SHARES


def _phase(members: Sequence[Group]) -> Phase:
    units: dict[str, int] = {}
    models: dict[str, dict[str, int]] = {}
    for group in members:
        units[group.variant] = units.get(group.variant, 0) + group.n_units
        if group.model_sha256:
            seen = models.setdefault(group.variant, {})
            seen[group.model_sha256] = seen.get(group.model_sha256, 0) + group.n_units
    return Phase(
        shares={group.variant: group.probability for group in members},
        units=dict(sorted(units.items())),
        config_hashes=tuple(sorted({group.config_hash for group in members})),
        first_at=min(group.first_at for group in members),
        last_at=max(group.last_at for group in members),
        models=models,
    )


def samples(log: Log, experiment: str, version: int, units: Iterable[str]) -> list[Sample]:
    """Return the exposures of some units."""
    sql = (
        "SELECT unit, bucket, served_model FROM exposures WHERE experiment = :experiment AND "
        "version = :version AND unit = :unit"
    )
    found = []
    for unit in units:
        row = log.row(sql, {"experiment": experiment, "version": version, "unit": unit})
        found.append(Sample(*row))
    return found


def made_with(salt: str, exposures: Iterable[Sample], how: Hash = Hash.SHA256) -> bool:
    """Return whether these exposures were assigned with a salt and hash.

    By chance one exposure agrees in 1 of 10,000 cases, two in 1 of 10^8.
    """
    return all(
        variant_bucket(sample.unit, salt=salt, hash=how) == sample.bucket for sample in exposures
    )
