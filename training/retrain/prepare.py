"""From approved feedback and the original data to the dataset of the next training."""

import hashlib
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experiments.evaluation.errors import BadInput
from experiments.evaluation.items import Item
from experiments.evaluation.jsonl import read_records
from experiments.evaluation.labelled_texts import read_training_texts
from experiments.registry.canonical import canonical_sha256
from experiments.retraining.errors import BadRecord, Blocked
from training.data.catalog import normalise
from training.retrain.examples import Example, read_examples
from training.retrain.guards import Finding, FindingCode, GuardPolicy, Trusted, scan
from training.retrain.minhash import near_pairs
from training.retrain.split import PARTS, Part, leaks, similar_to, split
from training.retrain.suggestions import ReviewItem

SCHEMA_VERSION = 1
_SHOWN = 3


class PreparePolicy(BaseModel):
    """How a dataset is put together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    original_ratio: Annotated[float, Field(ge=0.5, lt=1)] = 0.70
    """Share of original examples; 70/30, the mix of the OKLA assistant. Also the least share:
    feedback never makes up more than the rest."""
    all_original: bool = False
    """Use every original example, for a training from scratch; feedback is then less than 30 %."""
    salt: str = "carril-retrain-1"
    """Of the sample of the original data and of the split."""
    drop_flagged: bool = False
    """Go on without the examples of findings that would stop the batch."""
    guards: GuardPolicy = GuardPolicy()


class PartInfo(BaseModel):
    """One file of a dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    sha256: str
    n_examples: int
    n_new: int
    per_intent: dict[str, int]


class RetrainManifest(BaseModel):
    """What a prepared dataset is, by hashes; the same inputs give the same manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    kind: Literal["retraining"] = "retraining"
    sha256: str
    """Of the canonical JSON of everything else here."""
    base_sha256: str
    """Of the original training file."""
    n_original: int
    n_new: int
    policy: PreparePolicy
    parts: dict[str, PartInfo]
    item_ids: tuple[str, ...]
    """Review items that are in it."""
    left_out: dict[str, int]
    """Approved items that are not, by finding."""
    protected: dict[str, int]
    """Evaluation files that no new example is close to, with their number of phrases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A dataset on the disk."""

    folder: Path
    manifest: RetrainManifest
    findings: tuple[Finding, ...]


def prepare(
    approved: Sequence[ReviewItem],
    base: Path,
    out: Path,
    policy: PreparePolicy,
    *,
    suites: Sequence[Path] = (),
    seconded: Collection[str] = (),
) -> Prepared:
    """Write a dataset of approved feedback and original data.

    Args:
        approved: Items that somebody approved.
        base: Dataset folder of the original data: `train.jsonl`, with its evaluation files.
        out: Folder to write; must not exist. It appears whole or not at all.
        policy: Mix, split, limits.
        suites: Evaluation suites to keep clear of, beside those of the base.
        seconded: Ids of the items that two people approved.

    Raises:
        Blocked: If nothing is approved, the batch looks contaminated, or a class is empty.
        BadRecord: If a file cannot be used, or `out` exists.
    """
    if out.exists():
        raise BadRecord(f"{str(out)!r} exists", "choose another --out; datasets never change")
    if not approved:
        raise Blocked("no approved feedback", "carril retrain review ls shows what waits")
    known = read_examples(base / "train.jsonl")
    if not known:
        raise BadRecord(f"{str(base / 'train.jsonl')!r} has no examples")
    protected = _protected(base, suites)
    findings = [
        *scan(approved, Trusted(known), policy.guards, seconded=seconded),
        *_overlaps(approved, known, protected),
    ]
    blocking = [finding for finding in findings if finding.blocks]
    if blocking and not policy.drop_flagged:
        lines = "\n".join(
            f"  {f.code.value}: {f.detail} (items {_some(f.item_ids)})" for f in blocking
        )
        raise Blocked(
            f"the batch may be contaminated, nothing was written:\n{lines}",
            "reject these items in the review, or go on without them: --drop-flagged",
        )
    out_ids = {item_id for finding in findings for item_id in finding.item_ids}
    new = [item for item in approved if item.item_id not in out_ids]
    if not new:
        raise Blocked(f"of {len(approved)} approved examples none is left after the checks")
    new, original = _mix(new, known, policy)
    parts = split([*original, *(item.example() for item in new)], salt=policy.salt)
    _require_sound(parts, known)
    manifest, texts = _manifest(parts, new, findings, base, policy, protected)
    _write(out, manifest, texts, findings, approved)
    return Prepared(folder=out, manifest=manifest, findings=tuple(findings))


def read_manifest(folder: Path) -> RetrainManifest:
    """Read a prepared dataset and check that its files are those that were written.

    Raises:
        BadRecord: Naming the file that is not.
    """
    path = folder / "manifest.json"
    try:
        manifest = RetrainManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadRecord(
            f"cannot read {str(path)!r}: {error.strerror}", "carril retrain prepare writes one"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadRecord(f"{str(path)!r}: {first['loc']}: {first['msg']}") from error
    if manifest.sha256 != _own_sha256(manifest):
        raise BadRecord(f"{str(path)!r} was edited after it was written")
    for part in manifest.parts.values():
        file = folder / part.file
        try:
            actual = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise BadRecord(f"cannot read {str(file)!r}: {error.strerror}") from error
        if actual != part.sha256:
            raise BadRecord(
                f"{str(file)!r} has SHA-256 {actual}, its manifest says {part.sha256}",
                "prepare the dataset again",
            )
    return manifest


def _protected(base: Path, suites: Sequence[Path]) -> dict[str, list[str]]:
    """Return the normalised phrases of what is fitted to after training or judged on, by file."""
    found: dict[str, list[str]] = {}
    for name in ("dev.jsonl", "heldout.jsonl"):
        if (base / name).exists():
            found[name] = [example.text for example in read_examples(base / name)]
    try:
        natural = base / "natural.jsonl"
        if natural.exists():
            found[natural.name] = [normalise(text) for text in read_training_texts(natural).texts]
        for path in (*sorted((base / "suites").glob("*.jsonl")), *suites):
            items = [item for _, item in read_records(path, Item)]
            found[f"suites/{path.name}"] = [normalise(item.last_user_text) for item in items]
    except BadInput as error:
        raise BadRecord(error.message, error.fix) from error
    return found


def _overlaps(
    approved: Sequence[ReviewItem], known: Sequence[Example], protected: dict[str, list[str]]
) -> list[Finding]:
    """Find what is asked in an evaluation, and what is there already."""
    texts = [item.text for item in approved]
    found: list[Finding] = []
    for name, phrases in protected.items():
        leaking = similar_to(texts, phrases)
        if leaking:
            ids = tuple(approved[index].item_id for index in leaking)
            detail = f"{len(ids)} examples are asked in {name}; training on them voids it"
            found.append(Finding(FindingCode.LEAK, False, detail, ids))
    repeats = set(similar_to(texts, [example.text for example in known]))
    repeats |= {other for _, other in near_pairs(texts)}
    if repeats:
        ids = tuple(approved[index].item_id for index in sorted(repeats))
        detail = f"{len(ids)} examples say nearly what another one says"
        found.append(Finding(FindingCode.DUPLICATE, False, detail, ids))
    return found


def _mix(
    new: Sequence[ReviewItem], known: Sequence[Example], policy: PreparePolicy
) -> tuple[list[ReviewItem], list[Example]]:
    """Return the new and the original examples in the wanted proportion.

    Where the original data is too small, the newest feedback beyond the proportion waits.
    """
    odds = policy.original_ratio / (1.0 - policy.original_ratio)
    most_new = max(1, math.floor(len(known) / odds + 1e-9))
    kept = sorted(new, key=lambda item: (item.received_at, item.item_id))[:most_new]
    if policy.all_original:
        return kept, list(known)
    wanted = min(len(known), round(len(kept) * odds))
    return kept, _sample(known, wanted, policy.salt)


def _sample(known: Sequence[Example], n: int, salt: str) -> list[Example]:
    """Choose examples by salted hash, intents taking turns, so that no class runs dry."""
    by_intent: dict[str, list[Example]] = {}
    for example in sorted(known, key=lambda e: _digest(salt, e.id)):
        by_intent.setdefault(example.intent, []).append(example)
    queues = [by_intent[intent] for intent in sorted(by_intent)]
    chosen: list[Example] = []
    turn = 0
    while len(chosen) < n:
        for queue in queues:
            if turn < len(queue) and len(chosen) < n:
                chosen.append(queue[turn])
        turn += 1
    return chosen


def _require_sound(parts: dict[Part, list[Example]], known: Sequence[Example]) -> None:
    leaking = leaks(parts)
    if leaking:
        first = leaking[0]
        raise Blocked(f"the split leaks: {first.one} and {first.other}: {first.why}")
    trained = {example.intent for example in parts["train"]}
    empty = sorted({example.intent for example in known} - trained)
    if empty:
        raise Blocked(
            f"no training example of {', '.join(empty[:_SHOWN])}"
            f"{f' and {len(empty) - _SHOWN} more' if len(empty) > _SHOWN else ''}",
            "collect more feedback, or use every original example: --all-original",
        )
    if not parts["dev"] or not parts["heldout"]:
        sizes = {part: len(members) for part, members in parts.items()}
        raise Blocked(
            f"too few examples to split 85/10/5: {sizes}",
            "collect more feedback, or use every original example: --all-original",
        )


def _manifest(
    parts: dict[Part, list[Example]],
    new: Sequence[ReviewItem],
    findings: Sequence[Finding],
    base: Path,
    policy: PreparePolicy,
    protected: dict[str, list[str]],
) -> tuple[RetrainManifest, dict[str, str]]:
    new_ids = {item.example().id for item in new}
    texts: dict[str, str] = {}
    infos: dict[str, PartInfo] = {}
    for part in PARTS:
        members = sorted(parts[part], key=lambda example: _digest(policy.salt, example.id))
        name = f"{part}.jsonl"
        texts[name] = "".join(example.to_line() + "\n" for example in members)
        infos[part] = PartInfo(
            file=name,
            sha256=hashlib.sha256(texts[name].encode()).hexdigest(),
            n_examples=len(members),
            n_new=sum(example.id in new_ids for example in members),
            per_intent=dict(sorted(Counter(example.intent for example in members).items())),
        )
    n_all = sum(info.n_examples for info in infos.values())
    left_out: Counter[str] = Counter()
    for finding in findings:
        left_out[finding.code.value] += len(finding.item_ids)
    draft = RetrainManifest(
        sha256="",
        base_sha256=hashlib.sha256((base / "train.jsonl").read_bytes()).hexdigest(),
        n_original=n_all - len(new),
        n_new=len(new),
        policy=policy,
        parts=infos,
        item_ids=tuple(sorted(item.item_id for item in new)),
        left_out=dict(sorted(left_out.items())),
        protected={name: len(phrases) for name, phrases in protected.items()},
    )
    return draft.model_copy(update={"sha256": _own_sha256(draft)}), texts


def _write(
    out: Path,
    manifest: RetrainManifest,
    texts: dict[str, str],
    findings: Sequence[Finding],
    approved: Sequence[ReviewItem],
) -> None:
    by_id = {item.item_id: item for item in approved}
    left_out = [
        {"finding": f.code.value, "detail": f.detail, "item": by_id[i].model_dump(mode="json")}
        for f in findings
        for i in f.item_ids
    ]
    texts["left_out.jsonl"] = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in left_out)
    texts["manifest.json"] = manifest.model_dump_json(indent=2) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, text in texts.items():
            (scratch / name).write_bytes(text.encode())
        scratch.chmod(0o755)
        scratch.rename(out)
    except OSError as error:
        raise BadRecord(f"cannot write {str(out)!r}: {error}", "nothing was left behind") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _own_sha256(manifest: RetrainManifest) -> str:
    return canonical_sha256(manifest.model_dump(mode="json", exclude={"sha256"}))


def _digest(salt: str, name: str) -> bytes:
    return hashlib.sha256(f"{len(salt)}:{salt}:{name}".encode()).digest()


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more
