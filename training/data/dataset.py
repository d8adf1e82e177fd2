"""Writes a dataset with its manifest, and reads it back."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from experiments.whole_file import write_whole
from training.data.catalog import Split, catalog_sha256
from training.data.generator import SCHEMA_VERSION, Conversation, DataConfig, generate
from training.data.ratings import rated_answers
from training.data.suites import (
    JUDGED_SUITES,
    WrittenSuite,
    grounding_items,
    heldout_items,
    natural_conversations,
    to_line,
    written_items,
)
from training.sources import sources_sha256


class SplitInfo(BaseModel):
    """One file of a dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    sha256: str
    n_conversations: int
    n_families: int
    per_intent: dict[str, int]


class SuiteInfo(BaseModel):
    """One file of a dataset that is not generated conversations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    sha256: str
    n_items: int


class DatasetManifest(BaseModel):
    """What a dataset is, by hashes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    sha256: str
    """Over the hashes of the files, in the order of `splits`, then of `suites`."""
    catalog_sha256: str
    config: DataConfig
    splits: dict[str, SplitInfo]
    suites: dict[str, SuiteInfo]
    ratings: SuiteInfo
    """Rated answers to try the feedback loop with; nothing is trained on them, so no part of
    `sha256`."""
    natural: SuiteInfo | None = None
    """Natural messages to fit calibrations on, no part of `sha256` either; None in datasets from
    before there were any."""
    made_of: str | None = None
    """Hash of the code and the files that it was made from; None in datasets from before it was
    noted."""

    def files(self) -> Iterator[SplitInfo | SuiteInfo]:
        """Yield every file of the dataset."""
        yield from self.splits.values()
        yield from self.suites.values()
        yield self.ratings
        if self.natural is not None:
            yield self.natural


def dataset_sha256(hashes: Iterable[str]) -> str:
    """Return the hash of a dataset from the hashes of its files, in order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write_dataset(config: DataConfig, out_dir: Path) -> DatasetManifest:
    """Generate every split and evaluation suite below `out_dir`; write `manifest.json` last.

    Args:
        config: What the dataset is made of.
        out_dir: Folder for the splits and `manifest.json`; created when missing.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    heldout = list(generate(config, Split.HELDOUT))
    infos = {
        str(split): _write_split(
            heldout if split is Split.HELDOUT else list(generate(config, split)), split, out_dir
        )
        for split in Split
    }
    suites = {
        name: _write_lines(map(to_line, items), Path("suites") / f"{name}.jsonl", out_dir)
        for name, items in (
            ("heldout", heldout_items(heldout)),
            *((suite.value, written_items(suite)) for suite in JUDGED_SUITES),
            ("grounding", grounding_items(config)),
        )
    }
    files: list[SplitInfo | SuiteInfo] = [*infos.values(), *suites.values()]
    manifest = DatasetManifest(
        schema_version=SCHEMA_VERSION,
        sha256=dataset_sha256(info.sha256 for info in files),
        catalog_sha256=catalog_sha256(),
        config=config,
        splits=infos,
        suites=suites,
        ratings=_write_lines(map(to_line, rated_answers(config)), Path("ratings.jsonl"), out_dir),
        natural=_write_lines(
            map(to_line, natural_conversations()), Path(f"{WrittenSuite.NATURAL}.jsonl"), out_dir
        ),
        made_of=sources_sha256(),
    )
    write_text(out_dir / "manifest.json", manifest.model_dump_json(indent=2) + "\n")
    return manifest


def kept_dataset(config: DataConfig, out_dir: Path) -> DatasetManifest | None:
    """Return the manifest of the dataset in a folder, if making it again would change nothing.

    Args:
        config: What it would be made of.
        out_dir: The folder.
    """
    try:
        text = (out_dir / "manifest.json").read_text(encoding="utf-8")
        manifest = DatasetManifest.model_validate_json(text)
        same = manifest.config == config and manifest.made_of == sources_sha256()
        whole = same and all(
            hashlib.sha256((out_dir / info.file).read_bytes()).hexdigest() == info.sha256
            for info in manifest.files()
        )
    except (OSError, ValueError):
        return None
    return manifest if whole else None


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, with the same bytes on every system."""
    write_whole(path, text.encode())


def _write_split(conversations: list[Conversation], split: Split, out_dir: Path) -> SplitInfo:
    name = f"{split}.jsonl"
    text = "".join(f"{c.to_json()}\n" for c in conversations)
    write_text(out_dir / name, text)
    counts = Counter(c.intent for c in conversations)
    return SplitInfo(
        file=name,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        n_conversations=len(conversations),
        n_families=len({c.family for c in conversations}),
        per_intent=dict(sorted(counts.items())),
    )


def _write_lines(lines: Iterable[str], file: Path, out_dir: Path) -> SuiteInfo:
    written = list(lines)
    text = "".join(f"{line}\n" for line in written)
    (out_dir / file.parent).mkdir(exist_ok=True)
    write_text(out_dir / file, text)
    return SuiteInfo(
        file=file.as_posix(),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        n_items=len(written),
    )


def manifest_summary(manifest: DatasetManifest) -> str:
    """Return the manifest as one JSON document for a command's standard output."""
    return json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False)
