"""What the generator knows, read from data files: intents, phrases, vocabularies, replies."""

import hashlib
import re
import unicodedata
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field

from training.data.family_cache import remembered_families
from training.data.second_reading import READINGS_FILE, ReadingsError, agree
from training.data.stream import Stream

_DIR = Path(__file__).resolve().parent
_SLOT = re.compile(r"\{(\w+)\}")
_NO_WORD = re.compile(r"[^A-Za-z0-9{}_]+")
_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SPLIT_SALT = "okla-heldout-v1"
_HELDOUT_PERCENT = 10
_DEV_PERCENT = 2

VEHICLE_SLOTS = ("make", "model", "make2", "model2")
BODY_SLOTS = ("body", "un_body", "bodies")
COMPUTED_SLOTS = ("phone", "gibberish")


class CatalogError(ValueError):
    """A data file of the generator contradicts itself; the message names the file's entry."""


class Split(StrEnum):
    """What a phrase is used for."""

    TRAIN = "train"
    DEV = "dev"
    """To choose thresholds and temperatures."""
    HELDOUT = "heldout"
    """To measure; never looked at by a training."""


class Register(StrEnum):
    """How a customer writes, from a letter to the street."""

    FORMAL = "formal"
    CASUAL = "casual"
    STREET = "street"


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SignalSpec(_Data):
    """Lead signals that an intent or a slot brings along; absent ones say nothing."""

    urgency: Annotated[str, Field(pattern="^(none|low|medium|high)$")] = "none"
    financing: bool = False
    tradeIn: bool = False  # noqa: N815 - the names of the wire format, as in the data file
    testDrive: bool = False  # noqa: N815
    contactProvided: bool = False  # noqa: N815


class IntentSpec(_Data):
    """What a message with this intent means for the answer and the rest of the conversation."""

    decorate: bool = True
    """Whether a greeting may be put before it without changing what it means."""
    handoff: bool = False
    signals: SignalSpec = SignalSpec()
    next: tuple[str, ...]
    """Intents that usually follow."""


class ReplySpec(_Data):
    """Reply templates of one intent."""

    quick: tuple[tuple[str, ...], ...]
    formal: Annotated[tuple[str, ...], Field(min_length=2)]
    street: Annotated[tuple[str, ...], Field(min_length=2)]
    grounded: "GroundedSpec | None" = None


class GroundedSpec(_Data):
    """Replies where the prompt carries inventory: `{unit}`, `{unit_price}` ... are copied rows."""

    formal: Annotated[tuple[str, ...], Field(min_length=1)]
    street: Annotated[tuple[str, ...], Field(min_length=1)]
    missing_formal: tuple[str, ...] = ()
    """When the vehicle that was asked for is in no row."""
    missing_street: tuple[str, ...] = ()


class SlotSpec(_Data):
    """Slot vocabularies."""

    vehicles: tuple[tuple[str, str], ...]
    """Make and model, bound together."""
    bodies: tuple[tuple[str, str, str], ...]
    """Body type bare, with its article, in the plural."""
    values: dict[str, tuple[str, ...]]
    decorations: dict[Register, tuple[str, ...]]


class Pattern(NamedTuple):
    """One hand-written way to say something; `[a|b]` in it is one of the two."""

    intent: str
    register: Register
    text: str
    family: str
    """Shared by near-duplicates of each other; families are split, not phrases."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order of appearance."""
        return slots_of(self.text)

    @property
    def split(self) -> Split:
        """What the family is for, by salted hash: 10 % held out, 2 % for development."""
        place = int(_sha256(f"{_SPLIT_SALT}:{self.family}")[:8], 16) % 100
        if place < _HELDOUT_PERCENT:
            return Split.HELDOUT
        return Split.DEV if place < _HELDOUT_PERCENT + _DEV_PERCENT else Split.TRAIN


class Catalog(NamedTuple):
    """Everything read from the data files."""

    intents: dict[str, IntentSpec]
    slot_signals: dict[str, SignalSpec]
    patterns: tuple[Pattern, ...]
    replies: dict[str, ReplySpec]
    slots: SlotSpec


class _IntentFile(_Data):
    intents: dict[str, IntentSpec]
    slot_signals: dict[str, SignalSpec]


def slots_of(template: str) -> tuple[str, ...]:
    """Return the names of the slots of a template, in order of appearance."""
    return tuple(_SLOT.findall(template))


@cache
def intent_names() -> tuple[str, ...]:
    """Return the intents in the order of the answer schema, the one list of them."""
    return tuple(_intent_file().intents)


@cache
def load_catalog() -> Catalog:
    """Read and cross-check all data files.

    Raises:
        CatalogError: If files disagree about intents, slots or the meaning of a phrase.
    """
    intent_file = _intent_file()
    replies = {k: ReplySpec.model_validate(v) for k, v in _read_mapping("replies.yaml").items()}
    slots = SlotSpec.model_validate(_read_mapping("slots.yaml"))
    names = set(intent_file.intents)
    if set(replies) != names:
        raise CatalogError(f"replies.yaml and intents.yaml differ: {set(replies) ^ names}")
    for name, spec in intent_file.intents.items():
        if unknown := set(spec.next) - names:
            raise CatalogError(f"intents.yaml: {name!r} is followed by unknown intents {unknown}")
    known_slots = {*slots.values, *VEHICLE_SLOTS, *BODY_SLOTS, *COMPUTED_SLOTS}
    _check_patterns(written_patterns(), known_slots=known_slots)
    patterns = _without_contested(written_patterns())
    return Catalog(intent_file.intents, intent_file.slot_signals, patterns, replies, slots)


@cache
def written_patterns() -> tuple[Pattern, ...]:
    """Return every phrase as it was written, whatever a second reader made of it."""
    return _with_families([p for i in _intent_file().intents for p in _read_patterns(i)])


def catalog_sha256() -> str:
    """Return one hash over all data files of the generator."""
    files = sorted([*_DIR.glob("*.yaml"), *(_DIR / "patterns").glob("*.yaml"), READINGS_FILE])
    lines = [f"{_sha256(f.read_text(encoding='utf-8'))}  {f.name}" for f in files]
    return _sha256("\n".join(lines))


def normalise(text: str) -> str:
    """Return `text` without accents, case, punctuation and runs of spaces."""
    ascii_only = text.lower()
    if not ascii_only.isascii():
        decomposed = unicodedata.normalize("NFD", ascii_only)
        ascii_only = decomposed.encode("ascii", "ignore").decode()
    return _NO_WORD.sub(" ", ascii_only).strip() or text


def choose_alternatives(text: str, stream: Stream) -> str:
    """Return the phrase with one choice taken in every `[a|b]`."""
    chosen = _ALTERNATIVES.sub(lambda m: stream.choice(m[1].split("|")), text)
    return " ".join(chosen.split()) if chosen != text else text


@cache
def readings(text: str) -> tuple[str, ...]:
    """Return the normalised phrase with its first and with its last alternatives."""
    if "[" not in text:
        return (normalise(text),)
    ends = (
        _ALTERNATIVES.sub(lambda m, at=at: m[1].split("|")[at], text)  # type: ignore[misc]
        for at in (0, -1)
    )
    return tuple(dict.fromkeys(normalise(end) for end in ends))


def _with_families(patterns: list[Pattern]) -> tuple[Pattern, ...]:
    groups = remembered_families([readings(p.text) for p in patterns])
    return tuple(
        p._replace(family=patterns[group].family) for p, group in zip(patterns, groups, strict=True)
    )


def _without_contested(patterns: tuple[Pattern, ...]) -> tuple[Pattern, ...]:
    # Families, and so splits, are those of all that is written: no reading moves a phrase.
    try:
        return tuple(p for p in patterns if p.split is Split.TRAIN or agree((p.intent, p.text)))
    except ReadingsError as err:
        raise CatalogError(str(err)) from err


def _check_patterns(patterns: tuple[Pattern, ...], *, known_slots: set[str]) -> None:
    owner: dict[str, str] = {}
    for pattern in patterns:
        if set("[]|") & set(_ALTERNATIVES.sub("", pattern.text)):
            raise CatalogError(f"{pattern.intent}: unbalanced alternatives in {pattern.text!r}")
        if unknown := set(pattern.slots) - known_slots:
            raise CatalogError(f"{pattern.intent}: unknown slots {unknown} in {pattern.text!r}")
        for reading in readings(pattern.text):
            if owner.setdefault(reading, pattern.intent) != pattern.intent:
                raise CatalogError(
                    f"{pattern.text!r} is in both {owner[reading]} and {pattern.intent}"
                )


def _read_patterns(intent: str) -> list[Pattern]:
    raw = _read_mapping(f"patterns/{intent}.yaml")
    if unknown := set(raw) - set(Register):
        raise CatalogError(f"patterns/{intent}.yaml: unknown registers {unknown}")
    seen: dict[str, Pattern] = {}
    for register in Register:
        for line in str(raw[register]).splitlines():
            text = line.strip()
            family = _sha256(normalise(text))[:12]
            if text:
                seen.setdefault(f"{family}{text}", Pattern(intent, register, text, family))
    return list(seen.values())


def _intent_file() -> _IntentFile:
    return _IntentFile.model_validate(_read_mapping("intents.yaml"))


def _read_mapping(name: str) -> dict[str, object]:
    # libyaml, where PyYAML has it, reads the 282,000 lines ten times faster.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    raw = yaml.load((_DIR / name).read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - both safe
    if not isinstance(raw, dict):
        raise CatalogError(f"{name} must hold a mapping, not {type(raw).__name__}")
    return raw


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
