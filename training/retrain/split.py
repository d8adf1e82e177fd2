"""Parts of a dataset that share nothing: no person, no phrase family, no near-duplicate."""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from training.retrain.examples import Example
from training.retrain.minhash import Groups, jaccard, near_pairs, shingles

Part = Literal["train", "dev", "heldout"]
PARTS: tuple[Part, ...] = ("train", "dev", "heldout")
SHARES = {"train": 0.85, "dev": 0.10, "heldout": 0.05}
"""85/10/5, the split of the OKLA assistant."""


class Leak(NamedTuple):
    """Two examples of different parts that are too alike."""

    one: str
    other: str
    why: str


def split(examples: Sequence[Example], *, salt: str) -> dict[Part, list[Example]]:
    """Split examples by connected components of family and near-duplicates.

    A component goes where the salted hash of its smallest example id falls, so that adding data
    never moves an example from the test to the training part as long as its component keeps its
    first member. Shares are met on average over components.

    Args:
        examples: Examples; those of one person have one family.
        salt: Of the hash.
    """
    groups = components(examples)
    names: dict[int, str] = {}
    for group, example in zip(groups, examples, strict=True):
        names[group] = min(names.get(group, example.id), example.id)
    parts: dict[Part, list[Example]] = {part: [] for part in PARTS}
    for group, example in zip(groups, examples, strict=True):
        part = part_of(names[group], salt=salt)
        parts[part].append(example.model_copy(update={"split": part}))
    return parts


def part_of(name: str, *, salt: str) -> Part:
    """Return the part of a component by the salted hash of its name."""
    digest = hashlib.sha256(f"{len(salt)}:{salt}:{name}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < SHARES["train"]:
        return "train"
    return "dev" if position < SHARES["train"] + SHARES["dev"] else "heldout"


def components(examples: Sequence[Example]) -> list[int]:
    """Return the component of each example, by the index of its first member."""
    groups = Groups(len(examples))
    groups.join_equal([example.family for example in examples])
    for one, other in near_pairs([example.text for example in examples]):
        groups.join(one, other)
    return [groups.root(index) for index in range(len(examples))]


def leaks(parts: dict[Part, list[Example]]) -> list[Leak]:
    """Check a finished split independently of how it was made."""
    placed = [(part, example) for part, members in parts.items() for example in members]
    found: list[Leak] = []
    homes: dict[str, tuple[Part, str]] = {}
    for part, example in placed:
        home, first = homes.setdefault(example.family, (part, example.id))
        if home != part:
            found.append(Leak(first, example.id, f"family {example.family} in {home} and {part}"))
    for one, other in near_pairs([example.text for _, example in placed]):
        if placed[one][0] != placed[other][0]:
            found.append(Leak(placed[one][1].id, placed[other][1].id, "near-duplicates"))
    return found


def similar_to(texts: Sequence[str], protected: Sequence[str]) -> list[int]:
    """Return the indices of texts that are a near-duplicate of a protected one."""
    n = len(texts)
    both = [*texts, *protected]
    found = {one for one, other in near_pairs(both) if one < n <= other}
    if found:
        # Copies are paired with their first only: what equals a found text is found, too.
        sets = [shingles(text) for text in texts]
        chosen = [sets[index] for index in found]
        found |= {i for i, mine in enumerate(sets) if any(jaccard(mine, c) == 1.0 for c in chosen)}
    return sorted(found)
