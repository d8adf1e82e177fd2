"""What a new config means for users and models: moved units, reloaded weights.

Serve sees `user_config` as an opaque value; this module reads it as carril's own configuration.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cluster.serve_rules import Config
from experiments.assignment.changes import moves as moved_by
from experiments.assignment.rules import Rules
from serve_app.config import (
    GatewayConfig,
    ModelConfig,
    parse_gateway_config,
    parse_model_config,
)
from serve_app.errors import ConfigError

GATEWAY_IMPORT_PATH = "serve_app.app:build_gateway"
MODEL_IMPORT_PATH = "serve_app.app:build_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Units that change variant."""

    experiment: str
    source: str
    target: str
    share: float
    """Share of all units, 0..1."""
    back: bool
    """Whether they leave a treatment, so that a user sees an earlier answer's style vanish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """A model application whose engine is built anew, beside the running one."""

    app: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequences:
    """What a new config does beyond replicas."""

    moves: tuple[Move, ...] = ()
    reloads: tuple[Reload, ...] = ()
    warnings: tuple[str, ...] = ()


def user_configs(app: Config) -> Iterator[tuple[str, Any]]:
    """Yield (deployment name, user_config) of an application that sets one."""
    for deployment in app.get("deployments") or []:
        if deployment.get("user_config") is not None:
            yield deployment["name"], deployment["user_config"]


def gateway_config(app: Config) -> GatewayConfig | None:
    """Return the gateway configuration of an application, None if it is no gateway.

    Raises:
        ConfigError: If it is a gateway and its configuration is invalid.
    """
    if app.get("import_path") != GATEWAY_IMPORT_PATH:
        return None
    configs = [config for _, config in user_configs(app)]
    return parse_gateway_config(configs[0]) if configs else None


def model_config(app: Config) -> ModelConfig | None:
    """Return the model configuration of an application, None if it serves no model.

    Raises:
        ConfigError: If it serves a model and its configuration is invalid.
    """
    if app.get("import_path") != MODEL_IMPORT_PATH:
        return None
    configs = [config for _, config in user_configs(app)]
    return parse_model_config(configs[0], app=str(app.get("name"))) if configs else None


def consequences(old: Config, new: Config) -> Consequences:
    """Compare two Serve configs application by application.

    Args:
        old: The running config; parts that carril cannot read are skipped.
        new: The new config, valid.
    """
    before = {app["name"]: app for app in old.get("applications") or []}
    moves: list[Move] = []
    reloads: list[Reload] = []
    warnings: list[str] = []
    for app in new.get("applications") or []:
        previous = before.get(app["name"])
        if previous is None:
            continue
        try:
            old_gateway, old_model = gateway_config(previous), model_config(previous)
        except ConfigError:
            continue
        new_gateway, new_model = gateway_config(app), model_config(app)
        if old_gateway is not None and new_gateway is not None:
            found, notes = _split_changes(old_gateway, new_gateway)
            moves += found
            warnings += notes
        if old_model is None or new_model is None:
            continue
        if old_model.load_hash != new_model.load_hash:
            reloads.append(Reload(app=app["name"], reason=_reload_reason(old_model, new_model)))
    return Consequences(moves=tuple(moves), reloads=tuple(reloads), warnings=tuple(warnings))


def _split_changes(old: GatewayConfig, new: GatewayConfig) -> tuple[list[Move], list[str]]:
    moves: list[Move] = []
    warnings: list[str] = []
    for name, after in new.experiments.items():
        before = old.experiments.get(name)
        if before is None:
            continue
        changed = [key for key in ("salt", "hash") if getattr(before, key) != getattr(after, key)]
        if changed:
            key = changed[0]
            warnings.append(
                f"experiment {name!r}: another {key} ({str(getattr(before, key))!r} -> "
                f"{str(getattr(after, key))!r}) assigns every unit anew; earlier data cannot be "
                "continued"
            )
            continue
        earlier = old.rules[name]
        same = (
            before.version == after.version and before.allocation.keys() == after.allocation.keys()
        )
        if after.adaptive is not None and same:
            # Only who takes part may change: units keep the variant they were given first.
            earlier = replace(earlier, allocation=new.rules[name].allocation)
        moves += _moves(earlier, new.rules[name])
        if before.targeting != after.targeting:
            warnings.append(
                f"experiment {name!r}: another targeting; sessions that it leaves out get "
                f"{after.control!r} from now on, those it takes in may be treated in mid-session"
            )
    warnings += [
        f"experiment {move.experiment!r}: {move.share:.2%} of units move from treatment "
        f"{move.source!r} to {move.target!r}"
        for move in moves
        if move.back
    ]
    warnings += [
        f"experiment {name!r} ends: its units are no longer split"
        for name in old.experiments
        if name not in new.experiments
    ]
    return moves, warnings


def _moves(before: Rules, after: Rules) -> list[Move]:
    moved = moved_by(before, after)
    return [
        Move(
            experiment=after.experiment,
            source=source,
            target=target,
            share=share,
            back=source != before.control,
        )
        for (source, target), share in moved.items()
    ]


def _reload_reason(old: ModelConfig, new: ModelConfig) -> str:
    if old.model != new.model and new.model is not None:
        return f"model file: {new.model.path} (sha256 {new.model.sha256[:12]})"
    changed = [
        field for field in type(new).model_fields if getattr(old, field) != getattr(new, field)
    ]
    return "options: " + ", ".join(changed)
