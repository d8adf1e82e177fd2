"""The model card: Markdown with Hugging Face's metadata, from the record and its reports."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from experiments.registry.errors import RegistryError
from experiments.registry.records import Kind, LedgerEntry, ModelVersion, utc_text
from experiments.registry.standing import Standing
from experiments.registry.store import Registry
from training.registry.registration import flat

_LANGUAGE = "es"
_MAX_RESULTS = 40
"""Figures of an evaluation report that the card lists; the report itself has all."""


def model_card(registry: Registry, version: ModelVersion) -> str:
    """Return the card of a version as it stands now.

    The front matter follows the model card metadata of the Hugging Face Hub (`model-index` with
    task, dataset and metrics), so that the card can be uploaded as the README of a repository.

    Raises:
        RegistryError: If a report that belongs to it cannot be read.
    """
    entries = registry.entries()
    standing = registry.standings()[version.name]
    evaluation = _evaluation(registry, version)
    front = yaml.safe_dump(
        _metadata(version, evaluation), allow_unicode=True, sort_keys=False, width=10_000
    ).strip()
    sections = [
        f"---\n{front}\n---",
        f"# {version.name} {version.version}",
        version.description,
        _identity(version, standing),
        _results("Held-out results of the training", dict(version.metrics)),
        *_evaluation_section(evaluation),
        _gate_section(standing, version),
        _origin(version),
        _parameters(version),
        _history(version, entries),
        _use(version),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(version: ModelVersion, evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    heldout = {
        name: value
        for name, value in version.metrics.items()
        if value is not None and "." not in name and not name.startswith("n_")
    }
    results = [_result("held-out phrase families", version.dataset_sha256, heldout)]
    if evaluation is not None:
        suite = str(evaluation.get("suite_sha256") or "unknown")
        results.append(_result("evaluation suites", suite, _figures(evaluation)))
    return {
        "language": [_LANGUAGE],
        "license": version.license.lower(),
        "library_name": "llama.cpp",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", version.quantisation.lower(), "carril", "conversational"],
        "model_name": version.artefact,
        "model-index": [{"name": version.artefact, "results": results}],
    }


def _result(dataset: str, revision: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation", "name": "Dialogue with JSON answers"},
        "dataset": {"type": "carril", "name": dataset, "revision": revision},
        "metrics": [
            {"type": name, "value": value, "name": name.replace("_", " ")}
            for name, value in metrics.items()
        ],
    }


def _identity(version: ModelVersion, standing: Standing) -> str:
    state = standing.state(version.version)
    aliases = ", ".join(standing.aliases_of(version.version)) or "none"
    rows = {
        "file": f"`{version.sha256}` (SHA-256), {version.size_bytes:,} bytes",
        "format": f"GGUF, {version.quantisation}",
        "state": f"{state.value} ({state.lifecycle})",
        "aliases": aliases,
        "trained": utc_text(version.created_at),
        "registered": f"{utc_text(version.registered_at)} by {version.registered_by}",
    }
    return _table(("", ""), rows)


def _results(title: str, metrics: Mapping[str, float | None]) -> str:
    rows = {
        name: "not counted" if value is None else f"{value:g}" for name, value in metrics.items()
    }
    return f"## {title}\n\n{_table(('metric', 'value'), rows)}" if rows else ""


def _evaluation_section(evaluation: Mapping[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["## Evaluation\n\nNo evaluation report was registered with this version."]
    figures = _figures(evaluation)
    shown = dict(list(figures.items())[:_MAX_RESULTS])
    left = len(figures) - len(shown)
    more = f"\n\nand {left} more in evaluation.json" if left else ""
    return [_dimensions(evaluation), _results("Evaluation: all figures", shown) + more]


def _dimensions(evaluation: Mapping[str, Any]) -> str:
    """Return the table of what the evaluation demands, with intervals, where it has one."""
    lines = []
    for item in _mappings(evaluation.get("dimensions")):
        bound = "at least" if item.get("direction") == "at_least" else "at most"
        lower, upper = item.get("ci_lower"), item.get("ci_upper")
        interval = "" if lower is None or upper is None else f" [{lower:.4g}, {upper:.4g}]"
        value = item.get("value")
        measured = "not measured" if value is None else f"{value:.4g}{interval}"
        passed = {"True": "yes", "False": "no"}.get(str(item.get("passed")), "unknown")
        lines.append(
            f"| {item.get('name')} | {measured} | {item.get('n')} | {bound} "
            f"{item.get('threshold')} | {passed} |"
        )
    if not lines:
        return ""
    head = [
        "| dimension | value (95 % interval) | n | threshold | kept |",
        "| --- |" + " --- |" * 4,
    ]
    return "## Evaluation\n\n" + "\n".join([*head, *lines])


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    metrics = evaluation.get("metrics")
    return {
        key: float(value)
        for key, value in flat(metrics if isinstance(metrics, dict) else evaluation)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _gate_section(standing: Standing, version: ModelVersion) -> str:
    rows = {
        f"`{gate.report_sha256[:12]}`": f"{gate.verdict.value} on suite `{gate.suite_sha256[:12]}`"
        for gate in standing.gates.get(version.sha256, [])
    }
    if not rows:
        return "## Gate\n\nNo gate has judged this file."
    return f"## Gate\n\n{_table(('report', 'verdict'), rows)}"


def _origin(version: ModelVersion) -> str:
    rows = {
        "code commit": f"`{version.code_commit}`" if version.code_commit else "unknown",
        "dataset": f"`{version.dataset_sha256}`",
        "configuration": f"`{version.config_sha256}`",
        "manifest": f"`{version.manifest_sha256}`",
    }
    rows |= {key: f"`{value}`" for key, value in sorted(version.lineage.items())}
    return f"## Where it comes from\n\n{_table(('what', 'identity'), rows)}"


def _parameters(version: ModelVersion) -> str:
    rows = {key: str(value) for key, value in version.parameters.items()}
    return f"## Parameters\n\n{_table(('parameter', 'value'), rows)}"


def _history(version: ModelVersion, entries: tuple[LedgerEntry, ...]) -> str:
    lines = []
    for entry in entries:
        if entry.model != version.name or entry.target.version != version.version:
            continue
        what = entry.kind.value
        if entry.alias is not None and entry.kind in (Kind.PROMOTE, Kind.ROLLBACK):
            before = f" (before: {entry.source.version})" if entry.source else ""
            what += f" to {entry.alias.value}{before}"
        if entry.gate is not None and entry.kind is Kind.GATE:
            what += f": {entry.gate.verdict.value}"
        reason = f": {entry.reason}" if entry.reason else ""
        lines.append(f"- {utc_text(entry.at)} {entry.actor}: {what}{reason}")
    return "## History\n\n" + "\n".join(lines)


def _use(version: ModelVersion) -> str:
    return (
        "## Use and limits\n\n"
        "Serve it with the system prompt, answer schema and chat template of its profile; their "
        "hashes are above. Figures hold for conversations like those of its data set, and for the "
        "quantised file of the hash above; nothing is claimed beyond them.\n\n"
        f"`carril models promote {version.label} --gate REPORT --deploy serve_config.yaml`"
    )


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _evaluation(registry: Registry, version: ModelVersion) -> dict[str, Any] | None:
    path = registry.directory(version.name, version.version) / "evaluation.json"
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RegistryError(f"cannot read {str(path)!r}: {error}") from error
    return document if isinstance(document, dict) else None
