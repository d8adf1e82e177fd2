"""Which variant answers a request, and why. Pure: the same request always gets the same answer."""

from dataclasses import dataclass
from typing import Literal

from experiments.assignment import Allocation, Assignment, assign
from experiments.events.records import ExposureState
from serve_app.config import GatewayConfig
from serve_app.errors import ModelNotFound
from serve_app.gateway.unit import Unit


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


class Policy:
    """The routing rules of one configuration."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._allocations: dict[str, Allocation] = {
            name: experiment.to_allocation() for name, experiment in config.experiments.items()
        }

    @property
    def served_models(self) -> list[str]:
        """Names that clients may ask for."""
        return list(self._config.models)

    def decide(self, model: str, unit: Unit | None) -> Decision:
        """Choose the variant.

        Args:
            model: Served model, or `served-model@variant` to pin a variant.
            unit: Unit of the request; without one, control answers and nothing is enrolled.

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
        if served.experiment is None:
            assert served.variant is not None  # noqa: S101 (the configuration has one of the two)
            return Decision(
                served_model=name, content=served.content, variant=served.variant, exposure="none"
            )
        experiment = self._config.experiments[served.experiment]
        if unit is None:
            return Decision(
                served_model=name,
                content=served.content,
                variant=experiment.control,
                exposure="none",
            )
        assignment = assign(unit.id, self._allocations[served.experiment], salt=experiment.salt)
        return Decision(
            served_model=name,
            content=served.content,
            variant=assignment.variant,
            exposure="enrolled",
            experiment=served.experiment,
            version=experiment.version,
            unit=unit.id,
            assignment=assignment,
        )

    def _known(self) -> str:
        return ", ".join(self.served_models)


def _show(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:61] + "...")
