"""Turns the catalogue into conversations, each with the answer that belongs to it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.contract import URGENCIES, Answer, LeadSignals
from training.data.catalog import Catalog, Pattern, Register, SignalSpec, load_catalog, slots_of
from training.data.noise import apply_noise
from training.data.stream import Stream

SCHEMA_VERSION = 1
ReplyRegister = Literal["formal", "street", "mirror"]
Split = Literal["train", "heldout"]

_CONFIDENCE_PERCENT = {Register.FORMAL: 96, Register.CASUAL: 94, Register.STREET: 91}
_COSMETIC_NOISE = {
    "drop_opening_marks",
    "drop_accents",
    "lowercase",
    "drop_punctuation",
    "add_emoji",
}
"""Noise that costs a reader nothing, and the answer no confidence."""


class DataConfig(BaseModel):
    """What a dataset is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 42
    n_train: Annotated[int, Field(gt=0)] = 12_000
    """Training conversations; intents take turns, so that classes are even."""
    heldout_per_pattern: Annotated[int, Field(gt=0)] = 2
    """Evaluation conversations for each held-out pattern of every register."""
    registers: tuple[Register, ...] = tuple(Register)
    """Registers of the customers in the training part."""
    pattern_percent: Annotated[int, Field(gt=0, le=100)] = 100
    """Share of the training patterns in use."""
    reply_register: ReplyRegister = "mirror"
    """How the assistant writes; `mirror`: formal with formal customers, street with others."""
    echo_percent: Annotated[int, Field(ge=0, le=100)] = 50
    """Share of answers that repeat the vehicle or the day, where a template for it fits."""
    history_percent: Annotated[int, Field(ge=0, le=100)] = 25
    """Share of conversations with one to three earlier turns."""
    decorate_percent: Annotated[int, Field(ge=0, le=100)] = 35
    """Share of messages with a greeting or a filler around the pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation that ends with the answer to learn, and what it was made from."""

    id: str
    split: Split
    intent: str
    register: str
    family: str
    noise: tuple[str, ...]
    messages: tuple[Message, ...]

    def to_json(self) -> str:
        """Return one line of JSONL with a fixed key order."""
        record = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))

    @property
    def answer_json(self) -> str:
        """The compact JSON that the assistant should write."""
        return self.messages[-1].content


def generate(config: DataConfig, split: Split) -> Iterator[Conversation]:
    """Yield the conversations of one split, in a fixed order.

    Args:
        config: What the dataset is made of.
        split: `train`, or `heldout`: phrase families that training never sees, in every register.
    """
    return _Generator(config, load_catalog()).conversations(split)


class _Generator:
    """Holds the catalogue and what is derived from it while conversations are made."""

    def __init__(self, config: DataConfig, catalog: Catalog) -> None:
        self._config = config
        self._catalog = catalog
        self._root = Stream("okla", config.seed)
        self._previous: dict[str, list[str]] = {name: [] for name in catalog.intents}
        for name, spec in catalog.intents.items():
            for follower in spec.next:
                self._previous[follower].append(name)
        self._train_patterns = {name: self._patterns_for_training(name) for name in catalog.intents}

    def conversations(self, split: Split) -> Iterator[Conversation]:
        if split == "train":
            intents = list(self._catalog.intents)
            for index in range(self._config.n_train):
                turn, intent_index = divmod(index, len(intents))
                patterns = self._train_patterns[intents[intent_index]]
                yield self._conversation("train", index, patterns[turn % len(patterns)])
        else:
            heldout = [p for p in self._catalog.patterns if p.is_heldout]
            for index in range(len(heldout) * self._config.heldout_per_pattern):
                yield self._conversation("heldout", index, heldout[index % len(heldout)])

    def _patterns_for_training(self, intent: str) -> list[Pattern]:
        usable = [
            p
            for p in self._catalog.patterns
            if p.intent == intent and not p.is_heldout and p.register in self._config.registers
        ]
        order = self._root.child("patterns", intent).shuffled(usable)
        return order[: max(1, len(order) * self._config.pattern_percent // 100)]

    def _conversation(self, split: Split, index: int, pattern: Pattern) -> Conversation:
        stream = self._root.child(split, index)
        vehicles = self._bind_vehicles(stream.child("vehicles"))
        messages: list[Message] = []
        if stream.percent(self._config.history_percent):
            # Applications send their history as JSON or, with the text model, as plain text.
            as_json = stream.percent(50)
            for turn, earlier in enumerate(self._history(pattern, stream.child("history"))):
                turn_stream = stream.child("earlier", turn)
                text, _, answer = self._turn(earlier, vehicles, turn_stream)
                content = answer.to_compact_json() if as_json else answer.response
                messages += [Message(role="user", content=text)]
                messages += [Message(role="assistant", content=content)]
        text, noise, answer = self._turn(pattern, vehicles, stream.child("turn"))
        messages += [Message(role="user", content=text)]
        messages += [Message(role="assistant", content=answer.to_compact_json())]
        return Conversation(
            id=f"{split}-{index:06d}",
            split=split,
            intent=pattern.intent,
            register=pattern.register,
            family=pattern.family,
            noise=noise,
            messages=tuple(messages),
        )

    def _history(self, last: Pattern, stream: Stream) -> list[Pattern]:
        """Walk backwards over intents that lead to one another, with training patterns only."""
        chain: list[Pattern] = []
        intent = last.intent
        for _ in range(1 + (stream.percent(30) + stream.percent(15))):
            before = self._previous[intent]
            intent = stream.choice(before) if before else "saludo"
            chain.append(stream.choice(self._train_patterns[intent]))
        return chain[::-1]

    def _turn(
        self, pattern: Pattern, vehicles: dict[str, str], stream: Stream
    ) -> tuple[str, tuple[str, ...], Answer]:
        template = pattern.text
        spec = self._catalog.intents[pattern.intent]
        if spec.decorate and stream.percent(self._config.decorate_percent):
            decoration = stream.choice(self._catalog.slots.decorations[pattern.register])
            template = decoration.replace("{p}", template)
        bound = dict(vehicles)
        used: set[str] = set()
        text = self._fill(template, bound, used, stream.child("slots"))
        noise: tuple[str, ...] = ()
        if pattern.intent != "dejar_datos":
            # Names and numbers stay as typed: people check those.
            text, noise = apply_noise(text, stream.child("noise"))
        return text, noise, self._answer(pattern, noise, bound, used, stream.child("answer"))

    def _fill(self, template: str, bound: dict[str, str], used: set[str], stream: Stream) -> str:
        for slot in slots_of(template):
            if slot not in bound:
                value = self._draw(slot, stream)
                bound[slot] = self._fill(value, bound, used, stream)
            used.add(slot)
        return template.format_map(bound)

    def _draw(self, slot: str, stream: Stream) -> str:
        if slot == "phone":
            number = f"555-01{stream.below(100):02d}"
            digits = number.replace("-", "")
            return stream.choice([f"809-{number}", f"809 {number}", f"809{digits}"])
        if slot == "gibberish":
            letters = "asdfghjklñqwertyuiopzxcvbnm"
            return "".join(stream.choice(letters) for _ in range(4 + stream.below(7)))
        return stream.choice(self._catalog.slots.values[slot])

    def _bind_vehicles(self, stream: Stream) -> dict[str, str]:
        rows = self._catalog.slots.vehicles
        first = stream.choice(rows)
        second = stream.choice([r for r in rows if r[0] != first[0]])
        body, un_body, bodies = stream.choice(self._catalog.slots.bodies)
        return {
            "make": first[0], "model": first[1], "make2": second[0], "model2": second[1],
            "body": body, "un_body": un_body, "bodies": bodies,
        }  # fmt: skip

    def _answer(
        self,
        pattern: Pattern,
        noise: tuple[str, ...],
        bound: dict[str, str],
        used: set[str],
        stream: Stream,
    ) -> Answer:
        replies = self._catalog.replies[pattern.intent]
        mirror = "formal" if pattern.register is Register.FORMAL else "street"
        wanted = self._config.reply_register
        register = mirror if wanted == "mirror" else wanted
        templates = replies.formal if register == "formal" else replies.street
        echoing = [t for t in templates if slots_of(t) and set(slots_of(t)) <= used]
        plain = [t for t in templates if not slots_of(t)]
        template = stream.choice(
            echoing if echoing and stream.percent(self._config.echo_percent) else plain
        )
        return Answer(
            response=template.format_map(bound),
            intent=pattern.intent,
            confidence=self._confidence_percent(pattern, noise) / 100,
            lead_signals=self._signals(pattern, used),
            handoff=self._catalog.intents[pattern.intent].handoff,
            quick_replies=list(stream.choice(replies.quick)),
        )

    @staticmethod
    def _confidence_percent(pattern: Pattern, noise: tuple[str, ...]) -> int:
        if pattern.intent == "no_entendido":
            return 35
        misspelt = len(set(noise) - _COSMETIC_NOISE)
        return _CONFIDENCE_PERCENT[pattern.register] - 3 * min(misspelt, 3)

    def _signals(self, pattern: Pattern, used: set[str]) -> LeadSignals:
        specs = [self._catalog.intents[pattern.intent].signals]
        specs += [spec for slot, spec in self._catalog.slot_signals.items() if slot in used]
        return _merge_signals(specs)


def _merge_signals(specs: list[SignalSpec]) -> LeadSignals:
    return LeadSignals(
        urgency=URGENCIES[max(URGENCIES.index(s.urgency) for s in specs)],
        financing=any(s.financing for s in specs),
        trade_in=any(s.tradeIn for s in specs),
        test_drive=any(s.testDrive for s in specs),
        contact_provided=any(s.contactProvided for s in specs),
    )
