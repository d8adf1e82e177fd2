"""Personal data is found by shape, and text without any stays as it is."""

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.pii import Kind, Redactor, find, redact
from experiments.pii.check_digits import cedula, iban, luhn, rnc


def kinds(text: str) -> list[tuple[Kind, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find(text)]


FOUND = [
    ("001-1234567-8", Kind.CEDULA),
    ("224-0002211-1", Kind.CEDULA),
    ("001 1234567 8", Kind.CEDULA),
    ("00113918205", Kind.CEDULA),
    ("99900000011", Kind.CEDULA),
    ("001‑1234567–8", Kind.CEDULA),
    ("００１-1234567-8", Kind.CEDULA),
    ("001\u200b-12345\u200b67-8", Kind.CEDULA),
    ("+1 (849) 220-1122", Kind.PHONE),
    ("809-567-1234", Kind.PHONE),
    ("8295671234", Kind.PHONE),
    ("809.567.1234", Kind.PHONE),
    ("1-809-200-1234", Kind.PHONE),
    ("18092001234", Kind.PHONE),
    ("(809) 555-0142", Kind.PHONE),
    ("786-555-0142", Kind.PHONE),
    ("+34 612 345 678", Kind.PHONE),
    ("4111 1111 1111 1111", Kind.CARD),
    ("4111-1111-1111-1112", Kind.CARD),
    ("5555555555554444", Kind.CARD),
    ("378282246310005", Kind.CARD),
    ("3782 822463 10005", Kind.CARD),
    ("ana.perez+carros@example.com.do", Kind.EMAIL),
    ("josé@ejemplo.do", Kind.EMAIL),
    ("ana arroba example punto com", Kind.EMAIL),
    ("8095550142@example.com", Kind.EMAIL),
    ("1-01-85004-3", Kind.RNC),
    ("DO28BAGR00000001212453611324", Kind.IBAN),
    ("do28 bagr 0000 0001 2124 5361 1324", Kind.IBAN),
    ("DO99BAGR00000001212453611324", Kind.IBAN),
    ("GB82 WEST 1234 5698 7654 32", Kind.IBAN),
]


@pytest.mark.parametrize(("text", "kind"), FOUND)
@pytest.mark.parametrize("around", ["{}", "mi dato es {}, ok?", "({})", "dato:{}.", "¿{}?\n"])
def test_personal_data_is_found_whole(text: str, kind: Kind, around: str) -> None:
    assert kinds(around.format(text)) == [(kind, text)]
    assert redact(around.format(text)) == around.format(f"<{kind.value}_1>")


NEEDS_A_WORD = [
    ("mi cédula es 00112345678", "00112345678", Kind.CEDULA),
    ("Ced. 00113918204", "00113918204", Kind.CEDULA),
    ("RNC 101850043", "101850043", Kind.RNC),
    ("llámame al 567-1234", "567-1234", Kind.PHONE),
    ("mi whatsapp: 7865550142", "7865550142", Kind.PHONE),
]


@pytest.mark.parametrize(("text", "number", "kind"), NEEDS_A_WORD)
def test_bare_numbers_need_a_word_that_says_what_they_are(
    text: str, number: str, kind: Kind
) -> None:
    assert kinds(text) == [(kind, number)]
    assert kinds(f"ficha {number}") == []


INNOCENT = [
    "RD$1,250,000",
    "85,000 millas",
    "RD$8095671234",
    "JTDBR32E330012345",
    "OK-000123 y OK-1042",
    "Y20, CX-5, 3008, 320i",
    "15/11/2026 a las 10:30, 2026-11-25",
    "829 mil pesos",
    "1250000",
    "1.250.000 de inicial y 36 cuotas de 28,500",
    "E310000000001 B0100000001",
    "versión 3.14.15926, IP 10.0.0.1",
    "@toyota_rd y #yipeta",
    "klk mi pana, to' bien? 👍",
    "101850043",
    "12345678901",
    "4111111111111112",
    "<TEL_1> y <CEDULA_2>",
    "",
]


@pytest.mark.parametrize("text", INNOCENT)
def test_prices_dates_and_codes_are_left_alone(text: str) -> None:
    assert find(text) == []
    assert redact(text) == text


def test_same_value_has_the_same_placeholder_in_the_whole_conversation() -> None:
    redactor = Redactor()
    assert redactor.redact("809-555-0142 o 829 555 0143") == "<TEL_1> o <TEL_2>"
    assert redactor.redact("repito: +1 (809) 555-0142") == "repito: <TEL_1>"
    assert redactor.redact("Ana@example.com, ana@EXAMPLE.com") == "<EMAIL_1>, <EMAIL_1>"
    assert redactor.counts == {Kind.PHONE: 2, Kind.EMAIL: 1}


def digits(n: int) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=n, max_size=n)


def shaped(pattern: Callable[[str], str], n: int) -> st.SearchStrategy[str]:
    return digits(n).map(pattern)


PERSONAL = st.one_of(
    shaped(lambda d: f"{d[:3]}-{d[3:10]}-{d[10]}", 11),
    shaped(lambda d: f"809-{d[:3]}-{d[3:]}", 7),
    shaped(lambda d: f"+1829{d}", 7),
    shaped(lambda d: f"4{d[:3]} {d[3:7]} {d[7:11]} {d[11:]}", 15),
    shaped(lambda d: f"{d[0]}-{d[1:3]}-{d[3:8]}-{d[8]}", 9),
    shaped(lambda d: f"u{d}@example.com", 5),
    shaped(lambda d: f"DO{d[:2]}BAGR{d[2:]}", 22),
)
PROSE = st.text("abcñé ,.!?¿\n👍", max_size=30)


@given(PROSE, PERSONAL, PROSE, PERSONAL, PROSE)
def test_no_personal_data_survives_redaction(a: str, one: str, b: str, two: str, c: str) -> None:
    told = redact(f"{a} {one} {b}; {two} {c}")
    for value in (one, two):
        assert value not in told
        assert max(re.findall(r"\d+", value), key=len) not in re.sub(r"<[A-Z]+_\d+>", "", told)
    assert redact(told) == told


@given(st.text(max_size=200))
def test_any_text_keeps_everything_outside_its_spans(text: str) -> None:
    spans = find(text)
    told = redact(text)
    position = 0
    for span in spans:
        assert position <= span.start < span.end <= len(text)
        assert text[position : span.start] in told
        position = span.end
    assert bool(spans) == (told != text)


@pytest.mark.parametrize(
    "piece", ["a", "1", "1 ", "a@", "a-", "a.", "+1", "DO12 1", "a arroba ", "x@y.", "(809"]
)
def test_time_grows_with_length_only(piece: str) -> None:
    started = time.process_time()
    find(piece * (200_000 // len(piece)))
    assert time.process_time() - started < 5, "quadratic would take minutes"


def test_check_digits_agree_with_published_numbers() -> None:
    # python-stdnum's documentation and tests (do.cedula, do.rnc, iban), and card networks' test
    # numbers.
    assert cedula("00113918205")
    assert cedula("22400022111")
    assert not cedula("00113918204")
    assert not cedula("00112345678")
    assert rnc("101850043")
    assert rnc("131246796")
    assert not rnc("101850042")
    assert luhn("4111111111111111")
    assert iban("GB82WEST12345698765432")
    assert not iban("GB82WEST12345698765431")


@given(digits(10))
def test_each_number_has_exactly_one_check_digit(head: str) -> None:
    assert sum(cedula(head + str(last)) for last in range(10)) == 1
    assert sum(rnc(head[:8] + str(last)) for last in range(10)) == 1
