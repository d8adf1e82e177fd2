import json

import pytest

from experiments.evaluation.errors import BadInput
from experiments.evaluation.items import InventoryRow, check_distinct, read_suite, suite_sha256
from tests.unit.experiments.evaluation.conftest import item_line, make_item

INTENTS = {"saludo", "despedida"}


def test_a_suite_has_the_hash_of_its_file(write_suite):
    import hashlib

    path = write_suite(item_line(intent="saludo"))
    suite = read_suite(path, intents=INTENTS)
    assert suite.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert suite.items[0].intent == "saludo"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"schema_version": 1, "id": ', r"suite\.jsonl:2: .*JSON"),
        (item_line(), r"suite\.jsonl:2: id 'a-1' is also in line 1"),
        (item_line(id="b", intent="salduo"), r"suite\.jsonl:2: unknown intent 'salduo'"),
        (
            json.dumps({**json.loads(item_line(id="b")), "schema_version": 2}),
            r"suite\.jsonl:2: schema_version: .*1 \(given: '2'\)",
        ),
        (json.dumps({**json.loads(item_line(id="b")), "intnet": "x"}), r":2: intnet: Extra"),
        (json.dumps({**json.loads(item_line(id="b")), "forbidden": ["("]}), r":2: forbidden: .*\("),
        (
            json.dumps(
                {
                    **json.loads(item_line(id="b")),
                    "messages": [{"role": "assistant", "content": "hola"}],
                }
            ),
            r":2: messages: .*allowed: 'user'",
        ),
    ],
    ids=["broken", "duplicate", "intent", "newer", "unknown-field", "regex", "last-role"],
)
def test_a_bad_line_is_named(write_suite, second, message):
    with pytest.raises(BadInput, match=message):
        read_suite(write_suite(item_line(), second), intents=INTENTS)


def test_an_empty_file_is_no_suite(write_suite):
    with pytest.raises(BadInput, match="no item"):
        read_suite(write_suite(""), intents=INTENTS)


def test_suites_that_share_an_id_are_refused(write_suite):
    one = read_suite(write_suite(item_line(), name="one"), intents=INTENTS)
    two = read_suite(write_suite(item_line(), name="two"), intents=INTENTS)
    with pytest.raises(BadInput, match="'a-1' is in the suites 'one' and 'two'"):
        check_distinct([one, two])


def test_the_hash_of_suites_does_not_depend_on_their_order():
    assert suite_sha256(["a", "b"]) == suite_sha256(["b", "a"]) != suite_sha256(["a", "c"])


def test_inventory_stands_in_the_one_system_message():
    row = InventoryRow(
        stock_id="OK-1042",
        make="Toyota",
        model="Hilux",
        year=2019,
        price_dop=1_450_000,
        mileage=85_000,
        city="Santiago",
    )
    messages = make_item(inventory=[row.model_dump()]).prompt("Eres OKLA.")
    assert [m["role"] for m in messages] == ["system", "user"]
    assert messages[0]["content"] == (
        "Eres OKLA.\n\nInventario:\n"
        "- OK-1042 | Toyota Hilux 2019 | RD$1,450,000 | 85,000 millas | Santiago | disponible"
    )


def test_an_own_system_message_stays_alone():
    messages = [{"role": "system", "content": "otro"}, {"role": "user", "content": "klk"}]
    assert make_item(messages=messages).prompt("Eres OKLA.") == messages
