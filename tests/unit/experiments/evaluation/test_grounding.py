import pytest

from experiments.evaluation.grounding import claims_in, grounding_problems, is_judged
from tests.unit.experiments.evaluation.conftest import make_item

ROWS = [
    {"stock_id": "OK-1", "make": "Toyota", "model": "Hilux", "year": 2019, "price_dop": 1_450_000},
    {"stock_id": "OK-2", "make": "Honda", "model": "CR-V", "year": 2017, "price_dop": 1_100_000},
]
ITEM = make_item("¿cuánto cuesta la hilux?", inventory=ROWS)


@pytest.mark.parametrize(
    "response",
    [
        "La Toyota Hilux 2019 está en RD$1,450,000.",
        "La Hilux sale en 1.45 millones y la CRV en RD$1,100,000",
        "La honda cr-v 2017 está disponible",
        "¿Qué año tú busca?",
        "Te la separo con el inicial, a 60 meses",
    ],
)
def test_what_the_prompt_offers_may_be_said(response):
    problems = grounding_problems(ITEM, response)
    # Two vehicles in one answer: each price belongs to one of those that are named.
    assert problems == []


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        ("La Hilux 2019 está en RD$1,100,000", "price 1100000 DOP"),
        ("La tenemos en 900 mil", "price 900000 DOP"),
        ("Son US$24,000", "price 24000 USD"),
        ("Es una Hilux 2021", "year 2021"),
        ("La Hilux es 2017", "year 2017 for that model"),
        ("Tenemos también una Grand Cherokee", "model grandcherokee"),
    ],
)
def test_what_it_does_not_offer_is_an_error(response, problem):
    assert problem in grounding_problems(ITEM, response)


def test_what_the_customer_said_may_be_repeated():
    item = make_item("busco una Prado 2015 de 2 millones", inventory=ROWS)
    assert grounding_problems(item, "No tengo Prado 2015 en RD$2,000,000 ahora") == []


def test_a_word_is_no_model():
    assert not claims_in("me fui a pata, dime un note del rio").models
    assert claims_in("un Kia Rio y un Nissan Note").models == {"rio", "note"}


def test_an_imperative_that_a_model_is_called_like_is_one_after_its_make_only():
    assert not claims_in("Mira esa: te la dejo. Note que está nueva").models
    assert claims_in("Mira esa Daihatsu Mira").models == {"mira"}


def test_a_longer_name_hides_the_shorter_inside_it():
    assert claims_in("una Grand Cherokee").models == {"grandcherokee"}


def test_without_inventory_only_claims_are_judged():
    assert not is_judged(make_item(), "Dime qué tú busca")
    assert is_judged(make_item(), "Sale en RD$500,000")
    assert grounding_problems(make_item(), "Sale en RD$500,000") == ["price 500000 DOP"]


def test_rows_in_the_system_message_do_not_lend_each_other_their_prices():
    rows = "\n".join(["Inventario:", "Toyota Hilux 2019 | RD$1,450,000", "CR-V | RD$1,100,000"])
    messages = [{"role": "system", "content": rows}, {"role": "user", "content": "¿la hilux?"}]
    item = make_item(messages=messages, inventory=ROWS)
    assert grounding_problems(item, "Sale en RD$1,450,000, la Hilux") == []
    assert grounding_problems(item, "La Hilux sale en RD$1,100,000") == ["price 1100000 DOP"]
    unknown = make_item(messages=messages)
    assert grounding_problems(unknown, "La Hilux sale en RD$1,450,000") == []
