"""The part of a gateway's configuration that decides who gets what, read without the gateway."""

from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from experiments.analysis.declaration import ExperimentDeclaration
from experiments.analysis.errors import AnalysisError, UnknownExperiment
from experiments.analysis.sources import config_file, explain, gateway_sections
from experiments.assignment.compilation import check_candidates, rules_of
from experiments.assignment.declaration import (
    AttributeDeclaration,
    HoldoutDeclaration,
    LayerDeclaration,
)
from experiments.assignment.rules import Rules


class _Part(BaseModel):
    """The gateway has validated the rest, or will."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ServedModel(_Part):
    """What picks the variant of a served model."""

    experiment: str | None = None
    experiments: tuple[str, ...] | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """Experiments that may pick it."""
        return (self.experiment,) if self.experiment is not None else self.experiments or ()


class Section(_Part):
    """Experiments, what they share, and the served models they are for."""

    experiments: dict[str, ExperimentDeclaration]
    models: dict[str, ServedModel] = {}
    layers: dict[str, LayerDeclaration] = {}
    holdout: HoldoutDeclaration | None = None
    attributes: dict[str, AttributeDeclaration] = {}

    @cached_property
    def rules(self) -> dict[str, Rules]:
        """Rules by experiment."""
        return rules_of(
            self.experiments,
            layers=self.layers,
            attributes=self.attributes,
            holdout=self.holdout,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, model in self.models.items():
            unknown = sorted(set(model.candidates) - self.experiments.keys())
            if unknown:
                raise ValueError(
                    f"models.{name}: unknown experiments {unknown}; configured: "
                    f"{sorted(self.experiments)}"
                )
            check_candidates(f"models.{name}.experiments", model.candidates, self.rules)
        return self

    def groups(self) -> dict[tuple[str, ...], list[str]]:
        """Return the served models by the experiments that pick their variant."""
        found: dict[tuple[str, ...], list[str]] = {}
        for name, model in self.models.items():
            if model.candidates:
                found.setdefault(model.candidates, []).append(name)
        used = {name for candidates in found for name in candidates}
        return found | {(name,): [] for name in self.experiments if name not in used}


def read_section(config: Path | None) -> Section:
    """Return what decides who gets what.

    Args:
        config: A Serve config or a gateway's `user_config`; by default what the gateway of this
            CARRIL_HOME runs, else `serve_config.yaml` here.

    Raises:
        AnalysisError: If there is none, or not exactly one gateway in it, or it is invalid.
    """
    path = config_file(config)
    if path is None:
        raise UnknownExperiment(
            "no configuration: there is no serve_config.yaml here, and no gateway has run; name "
            "one with --config FILE"
        )
    found = gateway_sections(path)
    if len(found) != 1:
        raise AnalysisError(f"{path} has {len(found)} gateways with experiments; one is needed")
    try:
        return Section.model_validate(found[0])
    except ValidationError as error:
        raise AnalysisError(f"{path}: {explain(error)}") from error
