"""Small models with manifests, and gate reports about them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from experiments.registry import ModelVersion, Registry
from experiments.registry.canonical import canonical_sha256
from training.registry import Registration, register

SHIPPED = Path(__file__).parents[4] / "models" / "okla" / "okla-v1.manifest.json"
INTENT_ACCURACY: float = json.loads(SHIPPED.read_text(encoding="utf-8"))["metrics"][
    "intent_accuracy"
]
"""What the manifests of these models say."""


def write_model(
    folder: Path, version: str = "1.0.0", *, content: bytes | None = None, **changes: Any
) -> Path:
    """Write a file and its manifest, and return the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    name = changes.pop("name", f"okla-v{version.partition('.')[0]}")
    content = b"GGUF weights of " + version.encode() if content is None else content
    (folder / f"{name}.Q4_K_M.gguf").write_bytes(content)
    manifest = json.loads(SHIPPED.read_text(encoding="utf-8")) | {
        "name": name,
        "version": version,
        "file": f"{name}.Q4_K_M.gguf",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }
    path = folder / f"{name}.manifest.json"
    path.write_text(json.dumps(manifest | changes), encoding="utf-8")
    return path


def write_profile(folder: Path, prompt: str = "Eres OKLA.") -> dict[str, str]:
    """Write a profile and return its hashes, as a manifest has them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "system_prompt": ("system_prompt.txt", prompt),
        "answer_schema": ("answer.schema.json", '{"type": "object"}'),
        "chat_template": ("chat_template.jinja", "{{ messages }}"),
    }
    for name, text in files.values():
        (folder / name).write_text(text, encoding="utf-8")
    return {
        f"{key}_sha256": hashlib.sha256(text.encode()).hexdigest()
        for key, (_, text) in files.items()
    }


def registered(registry: Registry, folder: Path, version: str, **options: Any) -> ModelVersion:
    """Write and register a model."""
    done: Registration = register(
        write_model(folder / version, version), registry=registry, actor="ana", **options
    )
    return done.version


def gate_report(
    path: Path,
    candidate: ModelVersion,
    champion: ModelVersion | None = None,
    *,
    verdict: str = "PASS",
    **changes: Any,
) -> Path:
    """Write a gate report as the gate does."""

    def named(version: ModelVersion) -> dict[str, str]:
        return {"name": version.artefact, "version": version.version, "sha256": version.sha256}

    report: dict[str, Any] = {
        "schema_version": 1,
        "verdict": verdict,
        "candidate": named(candidate),
        "champion": None if champion is None else named(champion),
        "suite_sha256": "5a" * 32,
        "created_at": "2026-11-25T12:00:00Z",
        "slices": [{"name": "jerga dominicana «pela'o»", "lower_bound": 0.91}],
    } | changes
    report.setdefault("report_sha256", canonical_sha256(report))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2), encoding="utf-8")
    return path
