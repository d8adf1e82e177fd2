"""Turns the catalogue into conversations, each with the answer that belongs to it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from training.contract import URGENCIES, Answer, LeadSignals, system_prompt
from training.data.catalog import (
    Catalog,
    GroundedSpec,
    Pattern,
    Register,
    SignalSpec,
    Split,
    choose_alternatives,
    load_catalog,
    slots_of,
)
from training.data.inventory import Unit, Wish, draw_unit, inventory, prompt_rows
from training.data.noise import apply_noise, lose_words
from training.data.stream import Stream

SCHEMA_VERSION = 2
ReplyRegister = Literal["formal", "street", "mirror"]

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
    heldout_per_pattern: Annotated[int, Field(gt=0)] = 1
    """Conversations for each pattern of every register that is held out or for development."""
    registers: tuple[Register, ...] = tuple(Register)
    """Registers of the customers in the training part."""
    pattern_percent: Annotated[int, Field(gt=0, le=100)] = 100
    """Share of the training patterns in use."""
    reply_register: ReplyRegister = "mirror"
    """How the assistant writes; `mirror`: formal with formal customers, street with others."""
    echo_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Share of answers that repeat the vehicle or the day, where a template for it fits."""
    history_percent: Annotated[int, Field(ge=0, le=100)] = 25
    """Share of conversations with 3 to 10 turns; the others have one."""
    inventory_percent: Annotated[int, Field(ge=0, le=100)] = 20
    """Share of prompts with inventory rows, from which prices, years and models are answered."""
    tour_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Share of prompts with inventory in which the customer asks about one row after another: the
    answers differ in nothing but what is copied, so copying is what is learnt."""
    lost_words_percent: Annotated[int, Field(ge=0, lt=100)] = 8
    """Share of words left out of single messages (`phrases`), so that no one word decides."""
    decorate_percent: Annotated[int, Field(ge=0, le=100)] = 35
    """Share of messages with a greeting or a filler around the pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
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
    """A system message only where there is inventory; then turns of user and assistant."""
    inventory: tuple[Unit, ...] = ()
    """The rows of the system message."""

    def to_json(self) -> str:
        """Return one line of JSONL with a fixed key order."""
        record = {
            "schema_version": SCHEMA_VERSION,
            **asdict(self),
            "inventory": [unit._asdict() for unit in self.inventory],
        }
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))

    @property
    def answer_json(self) -> str:
        """The compact JSON that the assistant should write."""
        return self.messages[-1].content


def generate(
    config: DataConfig, split: Split, *, at_most: int | None = None
) -> Iterator[Conversation]:
    """Yield the conversations of one split, in a fixed order.

    Args:
        config: What the dataset is made of.
        split: `train`, or phrase families that training never sees, in every register: `heldout`
            to measure with, `dev` to choose thresholds with.
        at_most: So many at most, taken evenly from all of them (the others are not even made); None
            is all.
    """
    return _Generator(config, load_catalog()).conversations(split, at_most=at_most)


class Phrase(NamedTuple):
    """One message and its intent."""

    text: str
    intent: str


def phrases(config: DataConfig, n: int) -> Iterator[Phrase]:
    """Yield single messages of the training part, in which intents and phrases take turns.

    Args:
        config: What the dataset is made of.
        n: How many.
    """
    return _Generator(config, load_catalog()).phrases(n)


def replies_to_given_intents(config: DataConfig, n: int) -> Iterator[Conversation]:
    """Yield conversations whose answer is of another intent than the message.

    They show that the reply follows the intent that the answer begins with, whoever decided on it
    (a prior may overrule the network), and not what the network itself would have made of the
    message. Nothing can be learnt from them about intents.

    Args:
        config: What the dataset is made of.
        n: How many; the messages' intents take turns, those of the answers are drawn.
    """
    return _Generator(config, load_catalog()).replies_to_given_intents(n)


class _Generator:
    """Holds the catalogue and what is derived from it while conversations are made."""

    def __init__(self, config: DataConfig, catalog: Catalog) -> None:
        self._config = config
        self._catalog = catalog
        self._root = Stream("okla", config.seed)
        self._cities = catalog.slots.values["place"]
        self._inventory = inventory(catalog.slots.vehicles, self._cities, seed=config.seed)
        self._previous: dict[str, list[str]] = {name: [] for name in catalog.intents}
        for name, spec in catalog.intents.items():
            for follower in spec.next:
                self._previous[follower].append(name)
        self._train_patterns = {name: self._patterns_for_training(name) for name in catalog.intents}
        self._about_a_row = [
            pattern
            for name, patterns in self._train_patterns.items()
            if catalog.replies[name].grounded
            for pattern in patterns
            if {"veh", "model"} & set(slots_of(pattern.text))
        ]

    def conversations(self, split: Split, *, at_most: int | None) -> Iterator[Conversation]:
        if split is Split.TRAIN:
            intents = list(self._catalog.intents)
            for index in _evenly(self._config.n_train, at_most):
                turn, intent_index = divmod(index, len(intents))
                patterns = self._train_patterns[intents[intent_index]]
                yield self._conversation(split, index, patterns[turn % len(patterns)])
        else:
            unseen = [p for p in self._catalog.patterns if p.split is split]
            for index in _evenly(len(unseen) * self._config.heldout_per_pattern, at_most):
                yield self._conversation(split, index, unseen[index % len(unseen)])

    def phrases(self, n: int) -> Iterator[Phrase]:
        intents = list(self._catalog.intents)
        for index in range(n):
            turn, intent_index = divmod(index, len(intents))
            patterns = self._train_patterns[intents[intent_index]]
            stream = self._root.child("phrase", index)
            vehicles = self._bind_vehicles(stream.child("vehicles"))
            said = self._say(patterns[turn % len(patterns)], vehicles, stream.child("turn"))
            percent = self._config.lost_words_percent
            text = lose_words(said.text, stream.child("lost"), percent=percent)
            yield Phrase(text, said.pattern.intent)

    def replies_to_given_intents(self, n: int) -> Iterator[Conversation]:
        intents = list(self._catalog.intents)
        for index in range(n):
            turn, intent_index = divmod(index, len(intents))
            intent = intents[intent_index]
            stream = self._root.child("given", index)
            patterns = self._train_patterns[intent]
            given = stream.child("intent").choice([i for i in intents if i != intent])
            made = self._conversation_of(patterns[turn % len(patterns)], stream, answered_as=given)
            yield replace(made, id=f"given-{index:06d}")

    def _patterns_for_training(self, intent: str) -> list[Pattern]:
        usable = [
            p
            for p in self._catalog.patterns
            if p.intent == intent
            and p.split is Split.TRAIN
            and p.register in self._config.registers
        ]
        order = self._root.child("patterns", intent).shuffled(usable)
        return order[: max(1, len(order) * self._config.pattern_percent // 100)]

    def _conversation(self, split: Split, index: int, pattern: Pattern) -> Conversation:
        made = self._conversation_of(pattern, self._root.child(split, index))
        return replace(made, id=f"{split}-{index:06d}")

    def _conversation_of(
        self, pattern: Pattern, stream: Stream, *, answered_as: str | None = None
    ) -> Conversation:
        vehicles = self._bind_vehicles(stream.child("vehicles"))
        said = self._say(pattern, vehicles, stream.child("turn"))
        rows = self._rows(said, stream.child("rows"))
        turns: list[Message] = []
        if rows and stream.percent(self._config.tour_percent):
            turns = self._tour(rows, stream.child("tour"))
        elif stream.percent(self._config.history_percent):
            # Applications send their history as JSON or, with the text model, as plain text.
            as_json = stream.percent(50)
            for turn, earlier in enumerate(self._history(pattern, stream.child("history"))):
                before = self._say(earlier, vehicles, stream.child("earlier", turn))
                reply = self._answer(before, (), stream.child("earlier answer", turn))
                content = reply.to_compact_json() if as_json else reply.response
                turns += [Message(role="user", content=before.text)]
                turns += [Message(role="assistant", content=content)]
        heard = said if answered_as is None else said.taken_for(answered_as)
        answer = self._answer(heard, rows, stream.child("answer"))
        opening = []
        if rows:
            text = f"{system_prompt()}\n\n{prompt_rows(rows, stream.child('layout'))}"
            opening = [Message(role="system", content=text)]
        turns += [Message(role="user", content=said.text)]
        turns += [Message(role="assistant", content=answer.to_compact_json())]
        return Conversation(
            id="",
            split=pattern.split,
            intent=pattern.intent,
            register=pattern.register,
            family=pattern.family,
            noise=said.noise,
            messages=(*opening, *turns),
            inventory=rows,
        )

    def _tour(self, rows: tuple[Unit, ...], stream: Stream) -> list[Message]:
        """Return questions about single rows, with the answers that the rows give."""
        turns: list[Message] = []
        for turn in range(1 + stream.below(4)):
            unit, part = stream.choice(rows), stream.child(turn)
            vehicles = self._bind_vehicles(part.child("vehicles"))
            vehicles |= {"make": unit.make, "model": unit.model, "year": str(unit.year)}
            said = self._say(stream.choice(self._about_a_row), vehicles, part.child("said"))
            answer = self._answer(said, rows, part.child("answer"))
            turns += [
                Message(role="user", content=said.text),
                Message(role="assistant", content=answer.to_compact_json()),
            ]
        return turns

    def _history(self, last: Pattern, stream: Stream) -> list[Pattern]:
        """Walk backwards over intents that lead to one another, with training patterns only."""
        chain: list[Pattern] = []
        intent = last.intent
        for _ in range(_earlier_turns(stream)):
            before = self._previous[intent]
            intent = stream.choice(before) if before else "saludo"
            chain.append(stream.choice(self._train_patterns[intent]))
        return chain[::-1]

    def _say(self, pattern: Pattern, vehicles: dict[str, str], stream: Stream) -> "_Said":
        template = choose_alternatives(pattern.text, stream.child("alternatives"))
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
        return _Said(pattern, text, noise, bound, used)

    def _rows(self, said: "_Said", stream: Stream) -> tuple[Unit, ...]:
        """Return the rows that an application would put into the prompt, mostly with a match."""
        if not stream.percent(self._config.inventory_percent):
            return ()
        wish = said.wish
        others = [u for u in self._inventory if not wish.model or u.model != wish.model]
        rows = [
            draw_unit(stream.child("row", i), (unit.make, unit.model), self._cities, number=number)
            for i, (unit, number) in enumerate(
                (stream.choice(others), 1000 + stream.below(9000))
                for _ in range(1 + stream.below(4))
            )
        ]
        if wish.model and stream.percent(80):
            vehicle = (said.bound["make"], wish.model)
            number = 1000 + stream.below(9000)
            match = draw_unit(
                stream.child("match"), vehicle, self._cities, number=number, year=wish.year
            )
            rows[stream.below(len(rows))] = match
        return tuple(rows)

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

    def _answer(self, said: "_Said", rows: tuple[Unit, ...], stream: Stream) -> Answer:
        intent = said.pattern.intent
        replies = self._catalog.replies[intent]
        mirror = "formal" if said.pattern.register is Register.FORMAL else "street"
        wanted = self._config.reply_register
        is_formal = (mirror if wanted == "mirror" else wanted) == "formal"
        if rows and replies.grounded:
            response = _grounded_response(replies.grounded, said.wish, rows, is_formal, stream)
        else:
            templates = replies.formal if is_formal else replies.street
            echoing = [t for t in templates if slots_of(t) and set(slots_of(t)) <= said.used]
            plain = [t for t in templates if not slots_of(t)]
            echoes = echoing and stream.percent(self._config.echo_percent)
            response = stream.choice(echoing if echoes else plain).format_map(said.bound)
        return Answer(
            intent=intent,
            confidence=self._confidence_percent(said.pattern, said.noise) / 100,
            response=response,
            lead_signals=self._signals(said.pattern, said.used),
            handoff=self._catalog.intents[intent].handoff,
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


@dataclass(frozen=True, slots=True)
class _Said:
    """A customer's message and what it was made from."""

    pattern: Pattern
    text: str
    noise: tuple[str, ...]
    bound: dict[str, str]
    used: set[str]

    def taken_for(self, intent: str) -> "_Said":
        """Return the same words as a message of another intent."""
        return replace(self, pattern=self.pattern._replace(intent=intent))

    @property
    def wish(self) -> Wish:
        """The vehicle that the message names."""
        if "model" not in self.used:
            return Wish()
        year = int(self.bound["year"]) if "year" in self.used else None
        return Wish(model=self.bound["model"], year=year)


def _earlier_turns(stream: Stream) -> int:
    """Return 2 to 9, short conversations more often."""
    n_turns = 2
    while n_turns < 9 and stream.percent(45):
        n_turns += 1
    return n_turns


def _grounded_response(
    spec: GroundedSpec, wish: Wish, rows: tuple[Unit, ...], is_formal: bool, stream: Stream
) -> str:
    """Return a reply that says nothing about vehicles but what stands in the rows."""
    missing = spec.missing_formal if is_formal else spec.missing_street
    found = [unit for unit in rows if wish.matches(unit)]
    if not found and missing:
        return stream.choice(missing)
    unit = found[0] if found else rows[0]
    template = stream.choice(spec.formal if is_formal else spec.street)
    return template.format(
        unit=unit.name,
        unit_price=unit.price,
        unit_mileage=unit.millage,
        unit_city=unit.city,
        unit_status=unit.status,
    )


def _merge_signals(specs: list[SignalSpec]) -> LeadSignals:
    return LeadSignals(
        urgency=URGENCIES[max(URGENCIES.index(s.urgency) for s in specs)],
        financing=any(s.financing for s in specs),
        trade_in=any(s.tradeIn for s in specs),
        test_drive=any(s.testDrive for s in specs),
        contact_provided=any(s.contactProvided for s in specs),
    )


def _evenly(n: int, at_most: int | None) -> range:
    """Return at most so many of the numbers below `n`, evenly from all of them."""
    return range(0, n, 1 if at_most is None else max(1, -(-n // at_most)))
