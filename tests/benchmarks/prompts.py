"""What the synthetic customers say. Every round has a system prompt of its own, of equal length."""

import functools
import random

from training.data.suites import WrittenSuite, written_messages

_TEXT = """
el la un una de que con para por sin carro yipeta precio banco cuota año nuevo usado color garantía
seguro motor puertas familia ciudad visita prueba cliente vendedor respuesta pregunta siempre nunca
hoy mañana tarde claro breve amable dato hora calle oferta pago inicial
"""
_WORDS = _TEXT.split()
_TOKENS_PER_WORD = 1.18
"""Measured with the Llama 3 tokenizer on these words; the exact number is in the results."""

QUESTIONS = (
    "Klk, ¿tienen yipetas de menos de un millón?",
    "Buenas, ¿a qué hora cierran hoy?",
    "¿Cuánto sería la cuota de un Corolla 2019 a cinco años?",
    "Quiero probar el CR-V rojo el sábado.",
    "¿Me toman mi carro como parte del pago?",
    "¿Qué documentos piden para el financiamiento?",
    "Busco algo económico para la universidad.",
    "¿El Sportage tiene garantía todavía?",
    "Mándame fotos por dentro, por favor.",
    "¿Cuál gasta menos, el Civic o el Sentra?",
    "Necesito hablar con un vendedor.",
    "¿Está disponible la Hilux blanca?",
    "¿En cuánto me lo dejan al contado?",
    "¿Dónde están ubicados en Santiago?",
    "Mi número es 809-555-0123, llámenme mañana.",
    "¿Ese carro ha tenido choques?",
)


def system_prompt(number: int, *, tokens: int) -> str:
    """Return a system prompt of about so many tokens that shares no start with another number."""
    rng = random.Random(number)
    words = [rng.choice(_WORDS) for _ in range(round(tokens / _TOKENS_PER_WORD))]
    return f"{_name(rng)} {' '.join(words)}."


def questions(n: int, *, first: int = 0) -> list[str]:
    """Return `n` different questions."""
    return [f"{QUESTIONS[i % len(QUESTIONS)]} (pregunta {i + 1})" for i in range(first, first + n)]


def written(n: int, *, first: int = 0) -> list[str]:
    """Return `n` different messages that people wrote for OKLA's golden suite, mixed.

    No two of them are the same text with another number, so that no answer is asked for twice.
    Beyond the size of the suite they come again with a number.
    """
    messages = _golden()
    return [
        messages[i % len(messages)] + (f" ({i})" if i >= len(messages) else "")
        for i in range(first, first + n)
    ]


@functools.cache
def _golden() -> tuple[str, ...]:
    messages = [message.text for message in written_messages(WrittenSuite.GOLDEN)]
    random.Random(len(messages)).shuffle(messages)
    return tuple(messages)


def _name(rng: random.Random) -> str:
    return "".join(rng.choice("bcdfglmnprst") + rng.choice("aeiou") for _ in range(3)).title()
