"""Makes and models that an answer may name, and the ways in which they are written."""

import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).with_name("vehicle_models.txt")
_SPOKEN = frozenset({"Mira", "Note", "Escape", "Defender"})
"""Models whose names are imperatives and infinitives too; only their make tells them apart."""
_MAX_PARTS = 4
_LONG = 6
"""Names of more letters than this are no other words, however they are capitalised."""


class Vehicle(NamedTuple):
    """A make and one of its models, as on the market."""

    make: str
    model: str

    @property
    def is_spoken(self) -> bool:
        """Whether the model's name alone may be an ordinary word: `Mira esa`."""
        return self.model in _SPOKEN


@cache
def known_vehicles() -> tuple[Vehicle, ...]:
    """Return the makes and models on the Dominican market."""
    found = []
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            make, _, models = line.partition(":")
            found += [Vehicle(make.strip(), model.strip()) for model in models.split(",")]
    return tuple(found)


@cache
def known_makes() -> tuple[str, ...]:
    """Return the makes, the longest first."""
    makes = {vehicle.make for vehicle in known_vehicles()}
    return tuple(sorted(makes, key=lambda make: (-len(make), make)))


def is_unmistakable(name: str) -> bool:
    """Whether a name is no other word in small letters either: `Corolla`, `CR-V`, not `Rio`."""
    return not name.isalpha() or len(name) > _LONG


def spellings(name: str) -> Iterator[str]:
    """Yield a name with and without its spaces and hyphens: `CR-V`, `CRV`, `CR V`."""
    parts = re.split(r"[\s-]+", name.strip())
    if len(parts) > _MAX_PARTS:
        yield name
        return
    for joints in itertools.product((" ", "-", ""), repeat=len(parts) - 1):
        yield "".join(itertools.chain(*zip(parts, (*joints, ""), strict=True)))


def split_name(name: str) -> Vehicle:
    """Return make and model of a full name; an unknown make is its first word.

    Args:
        name: Such as `Land Rover Defender`.
    """
    for make in known_makes():
        if name.lower().startswith(f"{make.lower()} "):
            return Vehicle(name[: len(make)], name[len(make) :].strip())
    make, _, model = name.partition(" ")
    return Vehicle(make, model.strip() or make)
