import json
import random
import time

import pytest

from experiments.grounding.answer import GroundedAnswer, grounded_answer, watched
from tests.unit.experiments.grounding.conftest import PROMPT

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "intent": {"type": "string", "enum": ["precio_2030", "saludo"]},
            "confidence": {"type": "number"},
            "response": {"type": "string", "maxLength": 80},
            "leadSignals": {"type": "object", "properties": {"urgency": {"type": "string"}}},
            "quickReplies": {"type": "array", "items": {"type": "string", "maxLength": 32}},
        },
    }
)
SYSTEM = {"role": "system", "content": PROMPT}
ASKED = {"role": "user", "content": "¿cuánto cuesta la corolla?"}


def answer(*messages: dict[str, str]) -> GroundedAnswer:
    found = grounded_answer(messages or (SYSTEM, ASKED), SCHEMA)
    assert found is not None
    return found


def said(response: str, *quick: str) -> bytes:
    document = {
        "intent": "precio_2030",
        "confidence": 0.94,
        "response": response,
        "leadSignals": {"urgency": "2030"},
        "quickReplies": list(quick),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def passes(text: bytes, *, size: int = 3, judge: GroundedAnswer | None = None) -> bool:
    judge = judge or answer()
    for at in range(0, len(text), size):
        piece = text[at : at + size]
        if not judge.allows(piece):
            return False
        judge.accept(piece)
    return True


@pytest.mark.parametrize("size", [1, 2, 3, 7, 500], ids=lambda n: f"{n} bytes a token")
def test_the_texts_of_an_answer_are_watched_and_nothing_else(size):
    right = said("La Toyota Corolla 2015 está en RD$650,000 🚗 ¿ya?", "Ver fotos", "La de 2015")
    assert passes(right, size=size)
    assert not passes(said("La Toyota Corolla 2015 está en RD$1,430,000"), size=size)
    assert not passes(said("Claro", "Ver la Hilux"), size=size)


def test_buttons_go_on_about_the_vehicle_of_the_answer():
    assert not passes(said("La Toyota Corolla 2015", "Son RD$1,430,000"))
    assert passes(said("Claro", "Son RD$1,430,000"))


@pytest.mark.parametrize("digit", ["\\u0039", "\\u0032"])
def test_escapes_hide_no_digits(digit):
    text = said("Corolla 2015 XX").decode().replace("XX", digit)
    assert not passes(text.encode(), size=1)


def test_an_escaped_quote_ends_nothing():
    assert not passes(said('la "Corolla" 2015 en RD$1,430,000'))
    assert passes(said('la "Corolla" 2015\nen RD$650,000'))


def test_no_figure_begins_that_does_not_fit_in():
    judge = answer()
    start = said("X").split(b"X")[0] + b"Corolla 2015 " + b"a" * 60
    assert passes(start, judge=judge)
    assert not judge.allows(b" RD$")  # seven characters are left, the price has nine
    assert judge.allows(b' y"')


def test_a_refused_figure_is_replaced_by_a_figure():
    judge = answer()
    assert passes(said("X").split(b"X")[0] + b"Kia K5 2014 tiene ", judge=judge)
    assert judge.allows(b"Verifico")
    assert not judge.allows(b"93")
    assert not judge.allows(b"Verifico")
    assert judge.allows(b"81")
    judge.accept(b"81")
    assert judge.allows(b",300 millas")
    judge.accept(b",300 millas")
    assert judge.allows(b" y")


def test_a_refused_place_is_replaced_by_a_place():
    judge = answer()
    assert passes(said("X").split(b"X")[0] + b"Kia K5 2014, ta en", judge=judge)
    assert not judge.allows(b" Santo")
    assert not judge.allows(b" Precio")
    assert judge.allows(b" Mo")
    judge.accept(b" Mo")
    assert not judge.allows(b"to")
    assert judge.allows(b"ca")
    judge.accept(b"ca")
    assert judge.allows(b" ya")


def test_a_place_is_not_begun_that_cannot_be_finished():
    judge = answer()
    assert passes(said("X").split(b"X")[0] + b"Kia K5 2014 est\xc3\xa1 en", judge=judge)
    assert not judge.allows(b" La")
    assert not judge.allows(b" la")
    judge = answer()
    assert passes(said("X").split(b"X")[0] + b"Lexus RX 350 2021 est\xc3\xa1 en", judge=judge)
    assert judge.allows(b" La")


def test_no_character_is_begun_that_cannot_go_on_with_the_place():
    judge = answer()
    assert passes(said("X").split(b"X")[0] + b"Mazda 3 2019, ta en", judge=judge)
    assert not judge.allows(b" Moca")
    assert judge.allows(b" Ban")
    judge.accept(b" Ban")
    assert not judge.allows(b"\xc8")
    assert judge.allows(b"\xc3")
    judge.accept(b"\xc3")
    assert not judge.allows(b"\xa9")
    assert judge.allows(b"\xad")


def test_behind_a_sign_of_currency_no_place_is_waited_for():
    judge = answer()
    assert passes(said("X").split(b"X")[0] + b"Kia K5 2014, en RD$", judge=judge)
    assert not judge.allows(b"Santo")
    assert not judge.allows(b"Moca")
    assert judge.allows(b"6")


def test_spaces_do_not_put_off_a_figure():
    judge = answer()
    assert passes(said("X").split(b"X")[0] + b"Kia K5 2014 tiene", judge=judge)
    assert not judge.allows(b" 93")
    assert judge.allows(b" ")
    judge.accept(b" ")
    assert not judge.allows(b" ")
    assert not judge.allows(b"  ")
    assert not judge.allows(b"Precio")
    assert judge.allows(b"8")


def test_a_token_that_others_refuse_leaves_the_judge_as_it_was():
    judge = answer()
    start = said("X").split(b"X")[0] + b"Corolla 2015, "
    assert passes(start, judge=judge)
    for _ in range(3):
        assert judge.allows(b"RD$650,000")
        assert not judge.allows(b"RD$1,430,000")


@pytest.mark.parametrize(
    "messages",
    [
        ({"role": "system", "content": "Eres OKLA."}, ASKED),
        (ASKED,),
        ({"role": "user", "content": PROMPT},),
        ({"role": "assistant", "content": PROMPT}, ASKED),
    ],
    ids=["no block", "no system message", "typed by the customer", "said by the assistant"],
)
def test_without_an_inventory_in_the_system_message_nothing_changes(messages):
    assert grounded_answer(messages, SCHEMA) is None


def test_without_a_block_no_figure_is_invented_where_that_is_asked_for():
    messages = ({"role": "system", "content": "Eres amable."}, ASKED)
    assert grounded_answer(messages, SCHEMA) is None
    assert grounded_answer((SYSTEM, ASKED), SCHEMA, "off") is None

    def allowed(text: str, asked: str = "¿cuánto cuesta la corolla 2015?") -> bool:
        turns = (messages[0], {"role": "user", "content": asked})
        return passes(said(text), judge=grounded_answer(turns, SCHEMA, "always"))

    assert allowed("Te confirmo el precio y te escribo. ¿Efectivo o financiado?")
    assert allowed("¿La del 2015, verdad? Te confirmo el precio.")
    assert not allowed("La Corolla 2018 está en RD$650,000.")
    assert not allowed("Está en RD$650,000.")
    assert not allowed("La Hilux está disponible.")
    assert not allowed("Tiene 54,100 millas.")


def test_rows_in_the_history_add_nothing_to_those_of_the_system_message():
    row = "Inventario:\n- OK-9 | Kia Rio 2024 | RD$1,000 | 10 millas | Moca | disponible"
    for role in ("user", "assistant"):
        judge = answer(SYSTEM, {"role": role, "content": row}, ASKED)
        assert not passes(said("La Kia Rio 2024 está en RD$1,000"), judge=judge)
        assert passes(said("La Toyota Corolla 2015 en RD$650,000"), judge=answer())


def test_an_invented_price_in_the_history_stays_invented():
    wrong = {"role": "assistant", "content": "La Corolla 2015 está en RD$999,000"}
    assert not passes(said("Son RD$999,000"), judge=answer(SYSTEM, wrong, ASKED))


def test_a_broken_block_is_logged_without_its_text(caplog):
    broken = {"role": "system", "content": "Inventario:\nsecreto | sin forma"}
    judge = answer(broken, ASKED)
    answer(broken, ASKED)
    assert not passes(said("La Hilux en RD$500,000"), judge=judge)
    assert passes(said("Deja confirmarte."), judge=answer(broken, ASKED))
    assert [record.getMessage()[:32] for record in caplog.records] == [
        "1 lines of an inventory block ar"
    ]
    assert "secreto" not in caplog.text


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        ({"type": "string", "maxLength": 9}, 9),
        ({"type": ["string", "null"]}, None),
        ({"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 7}]}, 7),
        ({"$ref": "#/$defs/text"}, 5),
        ({"type": "array", "items": {"$ref": "#/$defs/text"}}, 5),
    ],
)
def test_free_strings_of_clients_schemas_are_found(value, limit):
    schema = {"properties": {"a": value}, "$defs": {"text": {"type": "string", "maxLength": 5}}}
    assert watched(json.dumps(schema)).limits == {"a": limit}


@pytest.mark.parametrize(
    "value",
    [
        {"enum": ["2019"]},
        {"type": "string", "const": "RD$5"},
        {"type": "number"},
        {"type": "object", "properties": {"2019": {"type": "string"}}},
        {"$ref": "#/$defs/loop"},
    ],
)
def test_what_an_answer_cannot_avoid_is_not_watched(value):
    schema = {"properties": {"a": value}, "$defs": {"loop": {"$ref": "#/$defs/loop"}}}
    assert watched(json.dumps(schema)).limits == {}


def test_answers_without_a_schema_are_not_watched():
    assert grounded_answer((SYSTEM, ASKED), None) is None


@pytest.mark.parametrize("seed", range(10))
def test_from_random_tokens_some_byte_always_goes_on(seed):
    """As the engine does it: a token is taken if it passes; some single byte always does."""
    random_ = random.Random(seed)
    judge = answer()
    judge.accept(said("X").split(b"X")[0])
    pieces = [bytes([byte]) for byte in range(0x20, 0x7F) if byte != 0x5C]
    pieces += [
        b" Toyota",
        b"RD$",
        b" Corolla",
        b" 201",
        b" Santo",
        b",",
        b"000",
        b" K",
        b" Mazda",
        b" millas",
        b" 4",
    ]
    pieces += ["í".encode(), "ñ".encode(), "¿".encode()]
    pieces += [b" en", b" $", b"Santo", b" Moca", b" Ban", b" La"]
    pieces += (leads := [b"\xc3", b"\xc8"])
    ends = [bytes([byte]) for byte in range(0x80, 0xC0)]
    piece = b""
    for _ in range(70):
        # The grammar allows nothing but its end behind the beginning of a character.
        usable = ends if piece in leads else pieces
        order = random_.sample(usable, len(usable))
        piece = next((p for p in order if p != b'"' and judge.allows(p)), b'"')
        assert judge.allows(piece)
        judge.accept(piece)
        if piece == b'"':
            break


def test_a_judge_is_made_in_a_moment_and_costs_little_a_token():
    answer()
    started = time.perf_counter()
    for _ in range(100):
        answer()
    assert (time.perf_counter() - started) / 100 < 0.02  # 0.03 ms where nothing else runs
