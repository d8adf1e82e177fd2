"""An answer of the OpenAI chat API, as tokens with their probabilities."""

from collections.abc import Mapping
from typing import Any

from experiments.evaluation.intents import Candidate, ScoredToken


def scored_tokens(choice: Mapping[str, Any]) -> list[ScoredToken]:
    """Return the tokens of a choice in order; none where it came without `logprobs`.

    Args:
        choice: One of `choices`, parsed from JSON.

    Raises:
        ValueError: If it is not of that shape.
    """
    entries = (choice.get("logprobs") or {}).get("content") or []
    try:
        return [
            ScoredToken(
                _piece(entry),
                float(entry["logprob"]),
                tuple(
                    Candidate(_piece(other), float(other["logprob"]))
                    for other in entry.get("top_logprobs") or ()
                ),
            )
            for entry in entries
        ]
    except (AttributeError, KeyError, TypeError) as err:
        raise ValueError(f"logprobs are not of the OpenAI form: {err!r}") from err


def _piece(entry: Mapping[str, Any]) -> bytes:
    given = entry.get("bytes")
    return bytes(given) if given is not None else str(entry["token"]).encode()
