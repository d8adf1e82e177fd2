"""What an analysis finds, as plain data for reports, files and routes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from experiments.analysis.declaration import ExperimentDeclaration
from experiments.analysis.history import Phase
from experiments.analysis.sums import Counts
from experiments.decision.evidence import Evidence, MetricEvidence
from experiments.decision.record import Record
from experiments.decision.verdict import Decision


class Change(NamedTuple):
    """Something that changed while the experiment ran."""

    at: float
    text: str


class Day(NamedTuple):
    """New units of one UTC day."""

    day: int
    """Days since the epoch."""
    control: int
    treatment: int


class Point(NamedTuple):
    """The effect of a metric with all units up to the end of a day."""

    day: int
    units: int
    effect: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """How the effect of a metric has developed."""

    metric: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A metric on a part of the units. Exploratory: many slices, no correction."""

    dimension: str
    value: str
    units: Mapping[str, int]
    metric: MetricEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Everything that the log says about an experiment."""

    experiment: str
    version: int
    control: str
    treatment: str
    declaration: ExperimentDeclaration
    declared: bool
    """Whether somebody declared it; else these are the defaults."""
    phases: Sequence[Phase]
    phase: int
    """Index of the analysed phase; the latest one where all are periods of one analysis."""
    periods: Sequence[Phase] = ()
    """Phases that are compared within each and averaged, where the split moves by itself."""
    counts: Mapping[str, Counts]
    """Per arm, intention to treat."""
    multi_exposed: int
    notes: Sequence[str]
    evidence: Evidence
    decision: Decision
    days: Sequence[Day]
    series: Sequence[Series] = ()
    slices: Sequence[Slice] = ()
    changes: Sequence[Change] = ()

    @property
    def current(self) -> Phase:
        """The analysed phase."""
        return self.phases[self.phase]

    @property
    def shares(self) -> Mapping[str, float]:
        """Shares that the analysed units were to have; over periods by their sizes."""
        if not self.periods:
            return self.current.shares
        total = sum(phase.n_units for phase in self.periods)
        shares: dict[str, float] = {}
        for phase in self.periods:
            for variant, share in phase.shares.items():
                shares[variant] = shares.get(variant, 0.0) + share * phase.n_units / total
        return shares

    @property
    def record(self) -> Record:
        """The evidence file of this analysis."""
        return Record(evidence=self.evidence, decision=self.decision)

    def variant(self, arm: str) -> str:
        """Return the name of the variant behind `control` or `treatment`."""
        return self.control if arm == "control" else self.treatment
