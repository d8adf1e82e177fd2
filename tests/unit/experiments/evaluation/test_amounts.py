import pytest

from experiments.evaluation.amounts import amounts_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RD$1,450,000", [(1_450_000, "DOP")]),
        ("RD$ 1.450.000, con 85,000 millas", [(1_450_000, "DOP")]),
        ("RD$875,000.00", [(875_000, "DOP")]),
        ("US$23,500", [(23_500, "USD")]),
        ("15k dólares", [(15_000, "USD")]),
        ("1.2 millones", [(1_200_000, "DOP")]),
        ("1,95 millones", [(1_950_000, "DOP")]),
        ("1.2M", [(1_200_000, "DOP")]),
        ("millón y medio", [(1_500_000, "DOP")]),
        ("un millón y medio", [(1_500_000, "DOP")]),
        ("medio millón", [(500_000, "DOP")]),
        ("dos millones 300 mil", [(2_300_000, "DOP")]),
        ("1 millón 450 mil", [(1_450_000, "DOP")]),
        ("dos palos", [(2_000_000, "DOP")]),
        ("800 mil", [(800_000, "DOP")]),
        ("850k", [(850_000, "DOP")]),
        ("ochocientos cincuenta mil pesos", [(850_000, "DOP")]),
        ("850,000 o 850000", [(850_000, "DOP"), (850_000, "DOP")]),
        ("500 pesos", [(500, "DOP")]),
    ],
)
def test_amounts_are_read_as_people_write_them(text, expected):
    assert [(a.value, a.currency) for a in amounts_in(text)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "809-555-0123",
        "la Hilux 2019",
        "60 meses con 10 %",
        "120 mil km",
        "85,000 millas",
        "motor 2.4 litros",
        "el 15 de mayo a las 10 am",
        "quedan dos",
        "un carro",
        "001-1234567-8",
        "cuatro por cuatro",
        "OK-1042",
    ],
)
def test_other_numbers_are_no_money(text):
    assert amounts_in(text) == []


def test_an_amount_knows_where_it_stands():
    text = "vale RD$1,450,000 hoy"
    (amount,) = amounts_in(text)
    assert text[amount.start : amount.end].strip() == "RD$1,450,000"
