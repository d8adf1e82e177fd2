"""Show the registry in MLflow, if that is installed and wanted. Never in the way of a promotion."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from experiments.registry.standing import Standing
from experiments.registry.store import Registry
from training.errors import MissingExtraError, TrackingError
from training.registry.card import model_card

if TYPE_CHECKING:
    from training.registry.mlflow_adapter import MlflowStore

SWITCH = "CARRIL_TRACKING"
"""Environment variable; `off` leaves MLflow alone."""


def why_not(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why MLflow is not used, None if it is."""
    if environ.get(SWITCH, "").lower() in ("off", "0", "false", "no"):
        return f"{SWITCH}={environ[SWITCH]}"
    if importlib.util.find_spec("mlflow") is None:
        return str(MissingExtraError("Tracking in MLflow", "mlflow", "tracking"))
    return None


def mirror(
    registry: Registry, name: str | None = None, *, say: Callable[[str], None] = lambda _: None
) -> bool:
    """Bring MLflow up to what the registry says; return whether it is.

    Idempotent, and repairs what an earlier failure left behind: missing versions are added, aliases
    and state tags are set to what the ledger says.

    Args:
        registry: The registry, in `registry` under `CARRIL_HOME`.
        name: One model; None is all.
        say: Told in one line why MLflow was left alone, or failed.
    """
    reason = why_not()
    if reason is not None:
        say(f"not shown in MLflow: {reason}")
        return False
    from training.registry.mlflow_adapter import MlflowStore

    try:
        store = MlflowStore(registry.root.parent)
        with store.alone():  # or two commands at once would both add a version
            for model, standing in registry.standings().items():
                if name in (None, model):
                    _show(store, registry, standing)
    except TrackingError as error:
        say(f"not shown in MLflow: {error}; the next command, or carril models ui, tries again")
        return False
    return True


def _show(store: "MlflowStore", registry: Registry, standing: Standing) -> None:
    shown = store.shown(standing.name)
    for version in [version for version in standing.versions if version not in shown]:
        record = registry.version(standing.name, version)
        shown[version] = store.show_version(
            record, model_file=registry.blob(record.sha256), card=model_card(registry, record)
        )
    store.sync(standing, shown)
