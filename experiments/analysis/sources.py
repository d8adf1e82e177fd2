"""Where events and declarations come from: CARRIL_HOME, or files that are named."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from experiments.analysis.declaration import ExperimentDeclaration
from experiments.analysis.errors import AnalysisError, UnknownExperiment
from experiments.home import carril_home, event_file

_MAX_FAULTS = 5
"""Faults of a declaration that are told at once."""


class Declared(NamedTuple):
    """A declaration, and whether somebody made it."""

    declaration: ExperimentDeclaration
    own: bool
    """False: defaults for an experiment that only the log knows."""


def event_source(given: str | None) -> Path | str:
    """Return the events to read: a file, or the address of the central database as a text."""
    if given is not None and "://" in given:
        return given
    return event_file(carril_home()) if given is None else Path(given)


def declarations(config: Path | None) -> dict[str, ExperimentDeclaration]:
    """Return the declared experiments.

    Args:
        config: A Serve config or a gateway's `user_config`, YAML or JSON; - is stdin. By default
            the configuration that a gateway of this CARRIL_HOME has put in force last, else
            `serve_config.yaml` here; nothing is declared if neither exists.

    Raises:
        AnalysisError: If a file cannot be read, or declares something impossible.
    """
    path = config_file(config)
    return declared_in(gateway_sections(path), path)


def declared_in(
    sections: Iterable[Mapping[str, Any]], path: Path | None
) -> dict[str, ExperimentDeclaration]:
    """Return the experiments that gateways' configurations declare.

    Args:
        sections: From `gateway_sections`.
        path: Where they are from, for messages.

    Raises:
        AnalysisError: If something impossible is declared.
    """
    found: dict[str, ExperimentDeclaration] = {}
    for section in sections:
        for name, raw in (section.get("experiments") or {}).items():
            try:
                found[name] = ExperimentDeclaration.model_validate(raw)
            except ValidationError as error:
                raise AnalysisError(f"{path}: experiments.{name}: {explain(error)}") from error
    return found


def config_file(config: Path | None) -> Path | None:
    """Return the configuration to read, as `declarations` says; None if there is none."""
    if config is not None:
        return config
    known = (carril_home() / "run" / "gateway-config.json", Path("serve_config.yaml"))
    return next((path for path in known if path.is_file()), None)


def gateway_sections(path: Path | None) -> list[Mapping[str, Any]]:
    """Return the gateways' configurations in a file, not validated; none without a file.

    Raises:
        AnalysisError: If the file cannot be read.
    """
    return [] if path is None else list(_sections(_read(path)))


def declaration_of(
    name: str, declared: Mapping[str, ExperimentDeclaration], *, control: str | None
) -> Declared:
    """Return the declaration of an experiment.

    Args:
        name: Its name.
        declared: What is declared.
        control: For an experiment that only the log knows: the variant to compare with. Metrics,
            guardrails and policy are then the defaults, and neither salt nor split is known.

    Raises:
        UnknownExperiment: If it is not declared and no control is given.
    """
    if name in declared:
        found = declared[name]
        if control is not None and control != found.control:
            raise UnknownExperiment(
                f"the declared control of {name!r} is {found.control!r}, not {control!r}"
            )
        return Declared(found, True)
    if control is None:
        shown = ", ".join(sorted(declared)) or "none"
        raise UnknownExperiment(
            f"experiment {name!r} is not declared (declared: {shown}); name its configuration with "
            "--config FILE, or its reference variant with --control NAME"
        )
    return Declared(
        ExperimentDeclaration.model_validate(
            {"salt": name, "control": control, "allocation": {control: 100}}
        ),
        False,
    )


def _sections(document: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a gateway's configuration, or those in a Serve config: what declares experiments."""
    if not isinstance(document, Mapping):
        return
    if isinstance(document.get("experiments"), Mapping):
        yield document
    for application in document.get("applications") or ():
        for deployment in application.get("deployments") or ():
            yield from _sections(deployment.get("user_config"))


def _read(path: Path) -> Any:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(f"cannot read the configuration {str(path)!r}: {error}") from error
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except ValueError as error:
        raise AnalysisError(f"{str(path)!r} is not valid JSON: {error}") from error
    except yaml.YAMLError as error:
        raise AnalysisError(f"{str(path)!r} is not valid YAML: {error}") from error


def explain(error: ValidationError) -> str:
    """Return the faults of a declaration, the first ones, each with its place."""
    faults = []
    for item in error.errors()[:_MAX_FAULTS]:
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        faults.append(f"{where}: {message}" if where else message)
    return "; ".join(faults)
