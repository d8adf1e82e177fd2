"""A synthetic inventory, and the rows of it that an application puts into the prompt."""

from collections.abc import Sequence
from typing import NamedTuple

from training.data.stream import Stream

N_UNITS = 400

_PRICE_STEP = 5_000
_YEARS = (2006, 2024)
_COLOURS = ("blanco", "negro", "gris", "rojo", "azul", "plateado", "vino")
_STATUSES = ("disponible", "disponible", "disponible", "reservado", "vendido")
_HEADINGS = ("Inventario:", "Inventario:", "Vehículos disponibles:", "Inventario de hoy:")


class Unit(NamedTuple):
    """One vehicle for sale; every one is made up."""

    stock_id: str
    make: str
    model: str
    year: int
    price_dop: int
    mileage: int
    """Miles."""
    city: str
    colour: str
    status: str

    @property
    def name(self) -> str:
        """Make, model and year as they stand in a row."""
        return f"{self.make} {self.model} {self.year}"

    @property
    def price(self) -> str:
        """Price in Dominican pesos as it stands in a row."""
        return f"RD${self.price_dop:,}"

    @property
    def millage(self) -> str:
        """Mileage as it stands in a row."""
        return f"{self.mileage:,} millas"


class Wish(NamedTuple):
    """What a message says about the vehicle it is about; empty where it says nothing."""

    make: str | None = None
    model: str | None = None
    year: int | None = None

    def matches(self, unit: Unit) -> bool:
        """Whether a unit is what was asked for."""
        return (
            (self.model is None or self.model == unit.model)
            and (self.make is None or self.make == unit.make)
            and (self.year is None or self.year == unit.year)
        )


def inventory(
    vehicles: Sequence[tuple[str, str]], cities: Sequence[str], *, seed: int
) -> tuple[Unit, ...]:
    """Return the synthetic inventory of 400 units, the same for the same seed.

    Args:
        vehicles: Make and model.
        cities: Where units stand.
        seed: Seed of the dataset.
    """
    root = Stream("inventory", seed)
    return tuple(
        draw_unit(root.child(i), vehicles[i % len(vehicles)], cities, number=1000 + i)
        for i in range(N_UNITS)
    )


def draw_unit(
    stream: Stream,
    vehicle: tuple[str, str],
    cities: Sequence[str],
    *,
    number: int,
    year: int | None = None,
) -> Unit:
    """Return a unit of a make and model with a plausible price for its age.

    Args:
        stream: Its choices.
        vehicle: Make and model.
        cities: Where it may stand.
        number: Its place in the stock list.
        year: Model year; drawn when None.
    """
    first, last = _YEARS
    year = year if year is not None else first + stream.below(last - first + 1)
    age = last - min(year, last)
    base = 450_000 + stream.below(3_000_000)
    price = max(120_000, int(base * 0.93**age)) // _PRICE_STEP * _PRICE_STEP
    return Unit(
        stock_id=f"OK-{number:04d}",
        make=vehicle[0],
        model=vehicle[1],
        year=year,
        price_dop=price,
        mileage=(3 + stream.below(10) + age * (5 + stream.below(6))) * 1_000
        + stream.below(10) * 100,
        city=stream.choice(cities),
        colour=stream.choice(_COLOURS),
        status=stream.choice(_STATUSES),
    )


def prompt_rows(units: Sequence[Unit], stream: Stream) -> str:
    """Return the paragraph that an application appends to the system prompt.

    Args:
        units: The rows, in the application's own order of relevance.
        stream: Chooses the heading and, rarely, another layout than the documented one.
    """
    heading = stream.choice(_HEADINGS)
    separator = " | " if stream.percent(85) else ", "
    mark = "- " if stream.percent(85) else ""
    rows = [
        mark + separator.join([u.stock_id, u.name, u.price, u.millage, u.city, u.status])
        for u in units
    ]
    return "\n".join([heading, *rows])
