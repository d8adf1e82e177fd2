"""Check a Serve config before it reaches a cluster.

Serve accepts a file with misspelt options, with a variant that no application serves, or with a
model that is not on the disk, and says so only when replicas fail. Here all of that is an error
before anything changes, and all faults are reported at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.autoscaling import autoscaling_faults
from cluster.plan_experiments import (
    GATEWAY_IMPORT_PATH,
    MODEL_IMPORT_PATH,
    gateway_config,
    model_config,
)
from cluster.serve_rules import unknown_keys
from serve_app.config import GatewayConfig, ModelConfig, content_hash, load_yaml
from serve_app.errors import ConfigError
from serve_app.gateway.auth import check_exposure
from serve_app.model.files import verify_model_file
from serve_app.model.folders import verify_model_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """A config file that is safe to deploy."""

    path: Path
    raw: Mapping[str, Any]
    gateways: Mapping[str, GatewayConfig] = field(default_factory=dict)
    """By application name; one in a carril file, none in another's."""
    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    """By application name."""

    @property
    def app_names(self) -> list[str]:
        """Names of all applications, in the order of the file."""
        return [app["name"] for app in self.raw["applications"]]

    def expected_hashes(self) -> dict[str, str]:
        """Return by application the config hash that its replicas report once they run it."""
        hashes = {name: config.config_hash for name, config in self.gateways.items()}
        return hashes | {name: content_hash(config)[:12] for name, config in self.models.items()}

    def http_options(self) -> tuple[str, int]:
        """Return host and port that Serve is asked to answer on."""
        options = self.raw.get("http_options") or {}
        return str(options.get("host") or "127.0.0.1"), int(options.get("port") or 8000)


def load_serve_config(path: Path) -> ServeConfig:
    """Read and check a config file; files that it names are checked by `check_files`.

    Raises:
        ConfigError: With one line per fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    raw = load_yaml(text)
    shape_faults = _shape_faults(raw)
    if shape_faults:
        raise ConfigError(_listed(path, shape_faults))
    assert isinstance(raw, dict)  # noqa: S101 (checked by _shape_faults)

    faults = [f"{key}: unknown option, Serve would ignore it" for key in unknown_keys(raw)]
    gateways: dict[str, GatewayConfig] = {}
    models: dict[str, ModelConfig] = {}
    for app in raw["applications"]:
        try:
            gateway, model = gateway_config(app), model_config(app)
        except ConfigError as error:
            faults.append(f"application {app['name']!r}: {error}")
            continue
        if gateway is not None:
            gateways[app["name"]] = gateway
        elif model is not None:
            models[app["name"]] = model
            faults += autoscaling_faults(app)
        elif app.get("import_path") in (GATEWAY_IMPORT_PATH, MODEL_IMPORT_PATH):
            faults.append(f"application {app['name']!r} has no deployment with a user_config")
    if not faults:
        faults += _reference_faults(gateways, models)
        faults += _exposure_faults(raw, gateways)
    if faults:
        raise ConfigError(_listed(path, faults))
    return ServeConfig(path=path, raw=raw, gateways=gateways, models=models)


def check_files(
    config: ServeConfig, *, on_file: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Check every file that the models name: present, unaltered; about 1 s per GB.

    Args:
        config: A config from `load_serve_config`.
        on_file: Called with each path before it is hashed.

    Returns:
        Size in bytes of each application's model file.

    Raises:
        ConfigError: With one line per fault.
    """
    faults: list[str] = _interpreter_faults(config.raw)
    sizes: dict[str, int] = {}
    verified: dict[tuple[str, str], int] = {}
    for app, model in config.models.items():
        if model.profile is not None and not Path(model.profile).is_dir():
            faults.append(f"application {app!r}: profile {model.profile!r} is no directory")
        for name, adapter in model.adapters.items():
            try:
                verify_model_file(adapter)
            except ConfigError as error:
                faults.append(f"application {app!r}: adapter {name!r}: {error}")
        if model.model is None:
            continue
        key = (model.model.path, model.model.sha256)
        if key not in verified:
            if on_file is not None:
                on_file(model.model.path)
            verify = verify_model_folder if model.engine == "vllm" else verify_model_file
            try:
                verified[key] = verify(model.model).size_bytes
            except ConfigError as error:
                faults.append(f"application {app!r}: {error}")
                continue
        sizes[app] = verified.get(key, 0)
    if faults:
        raise ConfigError(_listed(config.path, faults))
    return sizes


def _interpreter_faults(raw: Mapping[str, Any]) -> list[str]:
    faults = []
    for app in raw["applications"]:
        words = str((app.get("runtime_env") or {}).get("py_executable") or "").split()
        if words and "/" in words[0] and "$" not in words[0] and not Path(words[0]).is_file():
            hint = "; make vllm creates it" if ".venv-vllm" in words[0] else ""
            faults.append(
                f"application {app['name']!r}: runtime_env.py_executable {words[0]!r} does not "
                f"exist (looked in {Path.cwd()}){hint}"
            )
    return faults


def _shape_faults(raw: object) -> list[str]:
    if not isinstance(raw, dict):
        return ["not a mapping"]
    apps = raw.get("applications")
    if not isinstance(apps, list) or not apps:
        return ["applications: name at least one application"]
    faults: list[str] = []
    for position, app in enumerate(apps):
        where = f"applications[{position}]"
        if not isinstance(app, dict):
            faults.append(f"{where}: not a mapping")
            continue
        faults += [
            f"{where}: {key} is missing" for key in ("name", "import_path") if not app.get(key)
        ]
        deployments = app.get("deployments") or []
        if not isinstance(deployments, list) or not all(
            isinstance(item, dict) and item.get("name") for item in deployments
        ):
            faults.append(f"{where}.deployments: a list of mappings with a name")
    if faults:
        return faults
    names = [app["name"] for app in apps]
    return [
        f"application {name!r} appears twice"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]


def _reference_faults(
    gateways: Mapping[str, GatewayConfig], models: Mapping[str, ModelConfig]
) -> list[str]:
    if len(gateways) > 1:
        return [f"more than one gateway: {sorted(gateways)}"]
    faults = []
    for name, gateway in gateways.items():
        for variant, target in gateway.variants.items():
            where = f"application {name!r}: variant {variant!r}"
            model = models.get(target.app)
            if model is None:
                faults.append(
                    f"{where} is served by {target.app!r}, which is no model application of this "
                    f"file; it has {sorted(models)}"
                )
            elif target.adapter is not None and target.adapter not in model.adapters:
                faults.append(
                    f"{where}: unknown adapter {target.adapter!r}; {target.app!r} has "
                    f"{sorted(model.adapters)}"
                )
            elif target.adapter is None and not model.serve_base:
                faults.append(
                    f"{where} names no adapter, and {target.app!r} says serve_base: false; name "
                    f"one of {sorted(model.adapters)}"
                )
    return faults


def _exposure_faults(raw: Mapping[str, Any], gateways: Mapping[str, GatewayConfig]) -> list[str]:
    host = str((raw.get("http_options") or {}).get("host", "127.0.0.1"))
    faults = []
    for name, gateway in gateways.items():
        try:
            check_exposure(gateway, host)
        except ConfigError as error:
            faults.append(f"application {name!r}: {error}")
    return faults


def _listed(path: Path, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{path}: {faults[0]}"
    return f"{path} has {len(faults)} faults:\n" + "\n".join(f"  - {fault}" for fault in faults)
