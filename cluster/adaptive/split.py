"""An adaptive experiment's split in a config text, with as many variants as it has."""

from collections.abc import Mapping
from decimal import Decimal

from cluster.config_edit import set_split
from cluster.steering.server import Declared, read_experiment, served_of
from serve_app.errors import ConfigError


def read_declared(text: bytes, name: str) -> Declared[Mapping[str, float]]:
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
    percent = {variant: float(share) for variant, share in sorted(experiment.allocation.items())}
    return Declared(experiment, served_of(percent, text, config_hash))


def with_percent(text: bytes, name: str, percent: Mapping[str, float]) -> bytes:
    """Return a config text with another split."""
    shares = {variant: Decimal(f"{share:.2f}") for variant, share in percent.items()}
    return set_split(text.decode(), name, shares).encode()
