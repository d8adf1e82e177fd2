"""Which variant answers a request, and why. Pure: the same request always gets the same answer."""

from dataclasses import dataclass
from typing import Literal

from experiments.assignment import Assignment
from experiments.assignment.rules import Reason, Rules, choose
from experiments.assignment.targeting import NOTHING_GIVEN, Given
from experiments.events.records import ExposureState
from serve_app.config import GatewayConfig
from serve_app.errors import ModelNotFound
from serve_app.gateway.unit import Unit

_EXPOSURES: dict[Reason, ExposureState] = {
    Reason.ASSIGNED: "enrolled",
    Reason.OVERRIDE: "override",
    Reason.HOLDOUT: "holdout",
}
"""Of the reasons that the log tells apart; the others are units like those of no experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The variant of a request, with everything that the event log needs to replay it."""

    served_model: str
    content: Literal["json", "text"]
    variant: str
    exposure: ExposureState
    experiment: str | None = None
    version: int | None = None
    unit: str | None = None
    assignment: Assignment | None = None
    reason: Reason | None = None
    """Why the unit got it, where an experiment had a say."""
    sticky: bool = False
    """Whether the split moves, so that a unit which was there before keeps what it got then."""
    exposed: bool = False
    """Whether the exposure is in the log already."""


class Policy:
    """The routing rules of one configuration."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._candidates: dict[str, list[Rules]] = {
            name: [config.rules[experiment] for experiment in model.candidates]
            for name, model in config.models.items()
        }
        self._adaptive = {
            name for name, one in config.experiments.items() if one.adaptive is not None
        }

    @property
    def served_models(self) -> list[str]:
        """Names that clients may ask for."""
        return list(self._config.models)

    def decide(self, model: str, unit: Unit | None, given: Given = NOTHING_GIVEN) -> Decision:
        """Choose the variant.

        Args:
            model: Served model, or `served-model@variant` to pin a variant.
            unit: Unit of the request; without one, control answers and nothing is enrolled.
            given: What the request says about itself, for experiments that choose their units.

        Raises:
            ModelNotFound: If the served model or the pinned variant is not configured.
        """
        name, _, pinned = model.partition("@")
        served = self._config.models.get(name)
        if served is None:
            raise ModelNotFound(
                f"The model {_show(model)} does not exist; known models: {self._known()}", "model"
            )
        if "@" in model:
            if pinned not in self._config.variants:
                raise ModelNotFound(
                    f"The model {_show(model)} pins an unknown variant; known variants: "
                    f"{', '.join(sorted(self._config.variants))}",
                    "model",
                )
            return Decision(
                served_model=name, content=served.content, variant=pinned, exposure="pinned"
            )
        candidates = self._candidates[name]
        if not candidates:
            assert served.variant is not None  # noqa: S101 (the configuration has one of the two)
            return Decision(
                served_model=name, content=served.content, variant=served.variant, exposure="none"
            )
        if unit is None:
            return Decision(
                served_model=name,
                content=served.content,
                variant=candidates[0].control,
                exposure="none",
                reason=Reason.NO_UNIT,
            )
        placement = choose(unit.id, candidates, given)
        exposure = _EXPOSURES.get(placement.reason, "none")
        experiment = None if exposure == "none" else placement.experiment
        return Decision(
            served_model=name,
            content=served.content,
            variant=placement.variant,
            exposure=exposure,
            experiment=experiment,
            version=None if experiment is None else self._config.experiments[experiment].version,
            unit=unit.id,
            assignment=placement.assignment,
            reason=placement.reason,
            sticky=exposure == "enrolled" and experiment in self._adaptive,
        )

    def _known(self) -> str:
        return ", ".join(self.served_models)


def _show(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:61] + "...")
