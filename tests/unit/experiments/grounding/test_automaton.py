import random

import pytest

from experiments.grounding.inventory import Inventory
from experiments.grounding.vehicles import known_vehicles, spellings
from tests.unit.experiments.grounding.conftest import Reader


@pytest.mark.parametrize(
    "text",
    [
        "¡Klk! ¿Qué tú busca, mi hermano? Dime y te ayudo 👍",
        "Toyota Corolla 2010 en RD$1,430,000. ¿Le interesa?",
        "Toyota Corolla 2010 en RD$1,430,000 y Toyota Corolla 2015 en RD$650,000.",
        "La corolla del 2015 sale en RD$ 650,000",
        "Kia K5 2014, ta en Moca, con 81,300 millas",
        "Toyota Corolla 2015, ta en Santo Domingo Este.",
        "Mira esa: Mazda Mazda 3 2019, RD$855,000",
        "Mazda 3 2019, reservado",
        "Montero Sport 2016 en US$15,500",
        "El RX 350 2021 tiene 33,800 millas; la RX350 sale en RD$2,730,000",
        "RD$655,000 cuesta la Kia K5",
        "RD$1.430.000 la Toyota Corolla 2010",
        "Abrimos a las 8:30",
        "Se paga en 48 meses",
        "una Toyota disponible",
        "Tenemos Kia y Mazda",
        "¿Es tu jeepeta? Mira, note el detalle",
    ],
)
def test_what_the_rows_say_may_be_said(reader, text):
    assert reader.accepts(text), reader.read(text)[1]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        pytest.param("Corolla 2010 en RD$650,000", "Corolla 2010 en RD$", id="another year's"),
        pytest.param("Corolla 2010 y la Corolla en RD$650,000", None, id="the same name again"),
        pytest.param("Corolla en RD$650,000, del 2010", None, id="the year comes last"),
        pytest.param("K5 2015", "K5 201", id="another row's year"),
        pytest.param("K5 2014 con 93,900 millas", "K5 2014 con ", id="another row's miles"),
        pytest.param("K5 2014, ta en Baní", None, id="another row's place"),
        pytest.param("Corolla 2015, ta en Santo Domingo.", None, id="a place inside the place"),
        pytest.param("Corolla 2015, disponible", None, id="another row's state"),
        pytest.param("RD$1,430,000 cuesta la Kia K5", None, id="the figure comes first"),
        pytest.param("Toyota K5 2014", "Toyota ", id="another make"),
        pytest.param("Toyota Highlander 2014", "Toyota ", id="no such model"),
        pytest.param("una Honda", "una Hond", id="no such make"),
        pytest.param("Grand Vitara", "Grand Vitar", id="a foreign name of two words"),
        pytest.param("Montero 2016", "Montero ", id="the front part of a name"),
        pytest.param("Montero Sport en RD$15,500", "Montero Sport en RD", id="another currency"),
        pytest.param("RD$655,000 millas", "RD$655,000 milla", id="a price driven"),
        pytest.param("93,900 pesos", "93,900 ", id="miles paid"),
        pytest.param("RD$1 RD$1,430,000", "RD$1", id="a price cut short"),
        pytest.param("la Kia K5 en RD$  655,000", "la Kia K5 en RD$ ", id="put off by spaces"),
        pytest.param("RD$2021", "RD$2", id="a year for a price"),
        pytest.param("650 mil", None, id="in thousands"),
        pytest.param("ochocientos mil pesos", "ochocientos mil", id="in words"),
        pytest.param("un millón", "un milló", id="a million"),
        pytest.param("un palo", None, id="in slang"),
        pytest.param("2014-2016", "2014-", id="glued"),
        pytest.param("20\u200b14", "20", id="an invisible character"),
        pytest.param("２０１４", "", id="other digits"),
        pytest.param("abc2014", "abc", id="inside a word"),
        pytest.param("el 10%", None, id="a rate"),
        pytest.param("Kia K5 2014 a 48 meses", "Kia K5 2014 a ", id="a term of a vehicle"),
    ],
)
def test_what_they_do_not_say_is_refused(reader, text, read):
    state, so_far = reader.read(text)
    assert state is None or not reader.automaton.may_end(state)
    assert read is None or so_far == read


def test_the_customers_figures_are_repeated_only_before_a_vehicle_is_named(inventory):
    reader = Reader(inventory, ("tengo RD$800,000, busco una Prado 2015",))
    assert reader.accepts("Con RD$800,000 hay Kia K5 2014 en RD$655,000")
    assert reader.accepts("No hay Prado ahora")
    assert not reader.accepts("Kia K5 2014 en RD$800,000")
    assert not reader.accepts("Prado 2015")
    assert not Reader(inventory).accepts("Con RD$800,000")


def test_a_telephone_is_not_repeated(inventory):
    assert not Reader(inventory, ("llámame al 8095550123",)).accepts("Te llamo al 8095550123")


def test_an_inventory_without_rows_leaves_words_only():
    reader = Reader(Inventory((), 3, ""))
    assert reader.accepts("Deja confirmarte eso con el dealer.")
    for text in ("RD$500,000", "2019", "Toyota Hilux"):
        assert not reader.accepts(text)


@pytest.mark.parametrize("vehicle", known_vehicles(), ids=lambda v: f"{v.make} {v.model}")
def test_no_vehicle_of_the_market_slips_in(reader, vehicle):
    if (vehicle.make, vehicle.model) in {
        ("Toyota", "Corolla"), ("Kia", "K5"), ("Mazda", "Mazda 3"), ("Lexus", "RX 350"),
        ("Mitsubishi", "Montero Sport"),
    }:  # fmt: skip
        return
    for model in spellings(vehicle.model):
        assert not reader.accepts(f"Tenemos {vehicle.make} {model}, nueva")
        if not vehicle.is_spoken and not vehicle.model.isdigit():
            assert not reader.accepts(f"Tenemos una {model}, nueva")


def _words(inventory: Inventory, random_: random.Random) -> list[str]:
    rows = inventory.rows
    row = random_.choice(rows)
    return [
        row.vehicle.make, row.vehicle.model, f"{row.vehicle.make} {row.vehicle.model}",
        str(row.year), f"RD${row.price:,}", f"{row.price:,}", row.distance, *row.details,
        random_.choice(["y", "en", "ta", "tiene", "la", "¿Te cuadra?", "Mira", "mil", "pesos",
                        "RD$", "$", "US$", "Santo", "Grand", "dos", "Este", "2", "19", ",", "."]),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_accepted_is_grounded_and_something_can_always_follow(reader, inventory, seed):
    """Random texts of names and figures, cut wherever the automaton refuses a character.

    At every step some continuation within reach ends the text, so that no answer is impossible; and
    a name, a year and a price that stand together belong to one row.
    """
    random_ = random.Random(seed)
    automaton = reader.automaton
    facts = [(r.vehicle.model.lower(), str(r.year), f"{r.price:,}") for r in inventory.rows]
    for _ in range(30):
        state, text = automaton.start(), ""
        for _ in range(8):
            if text and not text.endswith(" "):
                break  # cut inside a figure
            word = random_.choice(_words(inventory, random_))
            for character in word:
                following = automaton.step(state, character)
                if following is None:
                    break
                state, text = following, text + character
                assert automaton.to_end(state) < 64, text
            apart = automaton.step(state, " ")
            if apart is not None:
                state, text = apart, text + " "
        ended = automaton.step(state, "\n")
        if ended is None:
            assert automaton.to_end(state) > 0
            continue
        prices = {price for _, _, price in facts if f"${price}" in text}
        makes = [r for r in inventory.rows if r.vehicle.make.lower() in text.lower()]
        named = {f for f in facts if f[0] in text.lower()}
        named |= {(r.vehicle.model.lower(), str(r.year), f"{r.price:,}") for r in makes}
        if named:
            assert prices <= {price for _, _, price in named}, text
        if len({name for name, _, _ in named}) == 1 and sum(f[1] in text for f in named) == 1:
            assert prices <= {price for _, year, price in named if year in text}, text


@pytest.mark.parametrize("seed", range(20))
def test_the_way_to_the_end_is_as_long_as_it_is_told(reader, seed):
    random_ = random.Random(seed)
    automaton = reader.automaton
    state, text = automaton.start(), ""
    alphabet = "0123456789,. $RDUSKk5azMontero-Saí¿ "
    for _ in range(300):
        character = random_.choice(alphabet)
        following = automaton.step(state, character)
        if following is not None:
            state, text = following, text + character
    left = automaton.to_end(state)
    for _ in range(left):
        steps = [
            s for c in {*alphabet, *"millas apontenyjdscuñí"} if (s := automaton.step(state, c))
        ]
        state = min(steps, key=automaton.to_end)
    assert automaton.may_end(state), text
