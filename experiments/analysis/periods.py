"""Periods of an experiment whose split moved: each is a clean random sample, all of them are not.

Within a period the split is one number per arm, so its arms are comparable. Pooled, sessions of
late periods would be mostly in the arm that led, and whatever changed with time would look like an
effect of the variant.
"""

from collections.abc import Sequence
from dataclasses import replace

from experiments.analysis.declaration import ExperimentDeclaration
from experiments.analysis.errors import NothingToCompare
from experiments.analysis.history import Phase
from experiments.analysis.log import Scope
from experiments.analysis.sums import Cell
from experiments.decision.summary import Arms, PeriodSpec, Shares


def comparable(
    phases: Sequence[Phase], declaration: ExperimentDeclaration, treatment: str
) -> list[Phase]:
    """Return the phases in which both arms had a share.

    Raises:
        NothingToCompare: If there is none.
    """
    control = declaration.control
    found = [phase for phase in phases if min(_shares(phase, declaration, treatment)) > 0]
    if not found:
        raise NothingToCompare(
            f"{control!r} and {treatment!r} never had sessions in one period, so there is nothing "
            "to compare"
        )
    return found


def joined(phases: Sequence[Phase]) -> Phase:
    """Return all phases as one, with the split of the last; its units are not one random sample."""
    units: dict[str, int] = {}
    models: dict[str, dict[str, int]] = {}
    for phase in phases:
        for variant, n in phase.units.items():
            units[variant] = units.get(variant, 0) + n
        for variant, seen in phase.models.items():
            for sha, n in seen.items():
                known = models.setdefault(variant, {})
                known[sha] = known.get(sha, 0) + n
    return Phase(
        shares=phases[-1].shares,
        units=dict(sorted(units.items())),
        config_hashes=tuple(sorted({name for phase in phases for name in phase.config_hashes})),
        first_at=min(phase.first_at for phase in phases),
        last_at=max(phase.last_at for phase in phases),
        models=models,
    )


def scopes(scope: Scope, phases: Sequence[Phase]) -> list[Scope]:
    """Return the part of the log that belongs to each phase."""
    return [replace(scope, config_hashes=phase.config_hashes) for phase in phases]


def apart(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells of each period."""
    found: dict[int, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.period, []).append(cell)
    return [found[period] for period in sorted(found)]


def specs(
    phases: Sequence[Phase], declaration: ExperimentDeclaration, treatment: str
) -> tuple[PeriodSpec, ...]:
    """Return units and shares of every period, in the order in which the periods began."""
    found = []
    for phase in sorted(phases, key=lambda phase: phase.first_at):
        control_share, treatment_share = _shares(phase, declaration, treatment)
        units = [phase.units.get(arm, 0) for arm in (declaration.control, treatment)]
        found.append(
            PeriodSpec(
                exposures=Arms(control=units[0], treatment=units[1]),
                allocation=Shares(control=control_share, treatment=treatment_share),
            )
        )
    return tuple(found)


def _shares(
    phase: Phase, declaration: ExperimentDeclaration, treatment: str
) -> tuple[float, float]:
    """Return the shares of both arms; 0 where the log does not tell."""
    variants = declaration.allocation.keys() | phase.units.keys()
    control_share = phase.share_of(declaration.control, variants) or 0.0
    return control_share, phase.share_of(treatment, variants) or 0.0
