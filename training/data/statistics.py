"""What is in a split, counted."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class SplitStatistics(NamedTuple):
    """Counts over one file of conversations, each in descending order."""

    n_conversations: int
    n_families: int
    n_messages: int
    """Messages of customers."""
    n_distinct: int
    """Different ones among them."""
    n_with_inventory: int
    intents: dict[str, int]
    registers: dict[str, int]
    noise: dict[str, int]
    turns: dict[str, int]
    """Conversations by number of the customer's messages."""


def split_statistics(path: Path) -> SplitStatistics:
    """Count the conversations of a JSONL file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a line is no conversation; the message has its number.
    """
    intents, registers, noise, turns = (
        Counter[str](),
        Counter[str](),
        Counter[str](),
        Counter[str](),
    )
    families: set[str] = set()
    said: Counter[str] = Counter()
    n_with_inventory = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            messages = [m["content"] for m in record["messages"] if m["role"] == "user"]
            intents[record["intent"]] += 1
            registers[record["register"]] += 1
            noise.update(record["noise"])
            families.add(record["family"])
            n_with_inventory += bool(record.get("inventory"))
        except (json.JSONDecodeError, KeyError, TypeError) as err:
            raise ValueError(f"{path.name}:{number}: not a conversation ({err!r})") from err
        said.update(messages)
        turns[str(len(messages))] += 1
    return SplitStatistics(
        n_conversations=intents.total(),
        n_families=len(families),
        n_messages=said.total(),
        n_distinct=len(said),
        n_with_inventory=n_with_inventory,
        intents=dict(intents.most_common()),
        registers=dict(registers.most_common()),
        noise=dict(noise.most_common()),
        turns=dict(turns.most_common()),
    )
