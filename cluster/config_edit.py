"""Edit single values of a Serve config as text, so that comments and layout stay.

A YAML library that parses and dumps would lose what people wrote beside the values. Here the parser
only says where a value stands; the characters in between are replaced.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import yaml

from cluster.plan_experiments import gateway_config, model_config
from experiments.registry.profile import ServedFiles
from serve_app.config import ExperimentConfig, GatewayConfig, load_yaml
from serve_app.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z0-9_./-]*[A-Za-z_./-][A-Za-z0-9_./-]*")
"""Text that YAML reads back as the same text without quotes."""

Scalar = str | int | Decimal
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The places of a config that a variant is served from."""

    variant: str
    app: str
    experiment: str | None
    """Experiment that the variant takes part in."""


def find_target(raw: object, *, control: bool, variant: str | None) -> Target:
    """Return which variant a champion (the control) or a challenger (the treatment) goes to.

    Args:
        raw: The parsed config.
        control: Whether the control variant is meant.
        variant: Name it, where the config leaves a choice.

    Raises:
        ConfigError: If there is no such variant, or more than one.
    """
    gateway = None
    for app in _applications(raw):
        gateway = gateway or gateway_config(app)
    if gateway is None:
        raise ConfigError("the config has no gateway, so nothing says which variant is served")
    if variant is not None:
        if variant not in gateway.variants:
            raise ConfigError(
                f"unknown variant {variant!r}; configured: {sorted(gateway.variants)}"
            )
        within = [n for n, e in gateway.experiments.items() if variant in e.allocation]
        if len(within) > 1:
            raise ConfigError(f"variant {variant!r} takes part in several experiments: {within}")
        experiment = within[0] if within else None
        return _target(gateway, variant, experiment)
    choices = [
        (name, candidate)
        for name, experiment in gateway.experiments.items()
        for candidate in experiment.allocation
        if (candidate == experiment.control) is control
    ]
    if len(choices) != 1:
        role = "control" if control else "treatment"
        raise ConfigError(
            f"the config has {len(choices)} {role} variants "
            f"{sorted(candidate for _, candidate in choices)}, so one must be named: --variant; "
            f"configured: {sorted(gateway.variants)}"
        )
    name, candidate = choices[0]
    return _target(gateway, candidate, name)


def _target(gateway: GatewayConfig, variant: str, experiment: str | None) -> Target:
    app = gateway.variants[variant].app
    sharers = {name: other for name, other in gateway.variants.items() if other.app == app}
    if any(other.adapter is not None for other in sharers.values()):
        raise ConfigError(
            f"variant {variant!r} is served from {app!r}, whose base is shared by the adapters of "
            f"{sorted(sharers)}: another model file would change them all; edit 'adapters' by hand"
        )
    return Target(variant=variant, app=app, experiment=experiment)


def serve_file(text: str, target: Target, *, files: ServedFiles, sha256: str) -> str:
    """Return the config with another model file for a variant.

    The variant's experiment starts a new version, as the units it had saw another model. All of its
    traffic goes to its control variant: the champion answers everybody, a challenger starts at 0 %.

    Args:
        text: The config.
        target: Where the variant is.
        files: Its new model file, and the profile that belongs to it.
        sha256: Hash of the model file.

    Raises:
        ConfigError: If the config has no such place, or cannot be read.
    """
    applications = _applications(load_yaml(text))
    at = _index(applications, target.app)
    config = model_config(applications[at])
    if config is None:
        raise ConfigError(f"application {target.app!r} serves no model")
    model = (*_user_config(applications, at), "model")
    text = replace_value(text, (*model, "path"), str(files.model))
    text = replace_value(text, (*model, "sha256"), sha256)
    if files.profile is not None:
        text = _set_profile(
            text, model[:-1], str(files.profile), has_one=config.profile is not None
        )
    if target.experiment is None:
        return text
    place, experiment = _experiment(applications, target.experiment)
    shares = {name: Decimal(100 * (name == experiment.control)) for name in experiment.allocation}
    return _raise_version(set_split(text, target.experiment, shares), place, experiment)


def set_split(text: str, experiment: str, shares: Mapping[str, Decimal]) -> str:
    """Return the config with another split of an experiment.

    Args:
        text: The config.
        experiment: Which one.
        shares: Percent of units by variant; those not named keep theirs.

    Raises:
        ConfigError: If the config has no such experiment or variant, or cannot be read.
    """
    place, _ = _experiment(_applications(load_yaml(text)), experiment)
    for name, share in shares.items():
        text = replace_value(text, (*place, "allocation", name), _shortest(share))
    return text


def _experiment(
    applications: Sequence[dict[str, object]], name: str
) -> tuple[Path, ExperimentConfig]:
    """Return where an experiment is declared, and its declaration."""
    for at, app in enumerate(applications):
        gateway = gateway_config(app)
        if gateway is None:
            continue
        if name not in gateway.experiments:
            raise ConfigError(
                f"unknown experiment {name!r}; configured: {sorted(gateway.experiments)}"
            )
        return (*_user_config(applications, at), "experiments", name), gateway.experiments[name]
    raise ConfigError("the config has no gateway, so it has no experiments")


def _shortest(share: Decimal) -> Scalar:
    whole = share.to_integral_value()
    return int(whole) if share == whole else share.normalize()


def _set_profile(text: str, user_config: Path, folder: str, *, has_one: bool) -> str:
    if has_one:
        return replace_value(text, (*user_config, "profile"), folder)
    return insert_before(text, (*user_config, "model"), "profile", folder)


def _raise_version(text: str, place: Path, experiment: ExperimentConfig) -> str:
    following = experiment.version + 1
    if "version" in experiment.model_fields_set:
        return replace_value(text, (*place, "version"), following)
    return insert_before(text, (*place, "salt"), "version", following)


def replace_value(text: str, path: Path, value: Scalar) -> str:
    """Return the text with one scalar replaced.

    Raises:
        ConfigError: If there is no scalar at that place.
    """
    node = _find(text, path).node
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{_dotted(path)} is no single value")
    return (
        text[: node.start_mark.index]
        + _written(value, quoted=node.style in ("'", '"'))
        + text[node.end_mark.index :]
    )


def insert_before(text: str, path: Path, key: str, value: Scalar) -> str:
    """Return the text with a new key before an existing one of the same mapping.

    Raises:
        ConfigError: If the existing key is not there.
    """
    place = _find(text, path)
    if place.key is None or place.mapping is None:
        raise ConfigError(f"{_dotted(path)} is no key of a mapping")
    start = place.key.start_mark
    # On a line of its own in a block mapping, in the same line in a flow mapping.
    separator = ", " if place.mapping.flow_style else "\n" + " " * start.column
    return text[: start.index] + f"{key}: {_written(value)}{separator}" + text[start.index :]


class _Place(NamedTuple):
    mapping: yaml.MappingNode | None
    key: yaml.Node | None
    node: yaml.Node


def _find(text: str, path: Path) -> _Place:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from error
    mapping: yaml.MappingNode | None = None
    key: yaml.Node | None = None
    for depth, step in enumerate(path):
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for candidate, child in node.value:
                if candidate.value == str(step):
                    mapping, key, found = node, candidate, child
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = node.value[step] if step < len(node.value) else None
        if found is None:
            raise ConfigError(f"{_dotted(path[: depth + 1])} is not in the config")
        node = found
    if node is None:
        raise ConfigError("the config is empty")
    return _Place(mapping, key, node)


def _applications(raw: object) -> Sequence[dict[str, object]]:
    applications = raw.get("applications") if isinstance(raw, dict) else None
    if not isinstance(applications, list) or not all(isinstance(a, dict) for a in applications):
        raise ConfigError("applications: name at least one application")
    return applications


def _index(applications: Sequence[dict[str, object]], app: str) -> int:
    for index, candidate in enumerate(applications):
        if candidate.get("name") == app:
            return index
    names = [candidate.get("name") for candidate in applications]
    raise ConfigError(f"no application {app!r} in the config; it has {names}")


def _user_config(applications: Sequence[dict[str, object]], at: int) -> Path:
    deployments = applications[at].get("deployments")
    for index, deployment in enumerate(deployments if isinstance(deployments, list) else []):
        if isinstance(deployment, dict) and deployment.get("user_config") is not None:
            return ("applications", at, "deployments", index, "user_config")
    raise ConfigError(f"application {applications[at].get('name')!r} has no user_config")


def _written(value: Scalar, *, quoted: bool = False) -> str:
    if not isinstance(value, str):
        return str(value)
    if not quoted and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path)
