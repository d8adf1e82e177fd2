"""An experiment's split in a config text, with as many variants as it has."""

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from cluster.canary.split import read_experiment
from cluster.config_edit import set_split
from experiments.adaptive.declaration import AdaptiveDeclaration
from experiments.adaptive.records import Served
from serve_app.config import ExperimentConfig
from serve_app.errors import ConfigError


class Declared(NamedTuple):
    """An adaptive experiment in a config text."""

    experiment: ExperimentConfig
    adaptive: AdaptiveDeclaration
    served: Served


def read_declared(text: bytes, name: str) -> Declared:
    """Return what a config text says about an adaptive experiment.

    Raises:
        ConfigError: If it is no config, has no such experiment, or its split is not to move.
    """
    experiment, config_hash = read_experiment(text, name)
    if experiment.adaptive is None:
        raise ConfigError(
            f"experiments.{name} has a split that stays; to let it follow the results declare "
            "adaptive, such as adaptive: {method: thompson}"
        )
    served = Served(
        percent={variant: float(share) for variant, share in sorted(experiment.allocation.items())},
        config_hash=config_hash,
        file_sha256=hashlib.sha256(text).hexdigest(),
    )
    return Declared(experiment, experiment.adaptive, served)


def declares_same(ours: Declared, theirs: Declared) -> bool:
    """Return whether two declarations are of the same experiment: units keep their variants."""
    return ours.served.percent.keys() == theirs.served.percent.keys() and all(
        getattr(ours.experiment, field) == getattr(theirs.experiment, field)
        for field in ("version", "salt", "hash", "control", "unit")
    )


def with_percent(text: bytes, name: str, percent: Mapping[str, float]) -> bytes:
    """Return a config text with another split."""
    shares = {variant: Decimal(f"{share:.2f}") for variant, share in percent.items()}
    return set_split(text.decode(), name, shares).encode()
