"""A canary's split in a config text: the share of the one treatment."""

from decimal import Decimal

from cluster.config_edit import set_split
from cluster.steering.server import Declared, read_experiment, served_of
from experiments.canary.records import State
from serve_app.config import ExperimentConfig
from serve_app.errors import ConfigError


def read_declared(text: bytes, name: str) -> Declared[float]:
    """Return what a config text says about an experiment.

    Raises:
        ConfigError: If it is no config, has no such experiment, or not exactly one treatment.
    """
    experiment, config_hash = read_experiment(text, name)
    if experiment.adaptive is not None:
        raise ConfigError(
            f"experiments.{name} is adaptive, and a canary would move its split, too; use carril "
            "exp adapt, or remove adaptive"
        )
    treatments = _treatments(experiment)
    if len(treatments) != 1:
        raise ConfigError(
            f"experiments.{name} has {len(treatments)} treatments {treatments}; a canary raises "
            "the share of exactly one"
        )
    percent = float(experiment.allocation[treatments[0]])
    return Declared(experiment, served_of(percent, text, config_hash))


def treatment_of(experiment: ExperimentConfig) -> str:
    """Return the one treatment of an experiment that `read_declared` has read."""
    return _treatments(experiment)[0]


def with_percent(text: bytes, state: State, percent: float) -> bytes:
    """Return a config text with another share of the treatment; the control has the rest."""
    share = Decimal(str(percent))
    shares = {state.treatment: share, state.control: 100 - share}
    return set_split(text.decode(), state.experiment, shares).encode()


def _treatments(experiment: ExperimentConfig) -> list[str]:
    return sorted(set(experiment.allocation) - {experiment.control})
