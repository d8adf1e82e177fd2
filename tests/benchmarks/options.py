"""The engine's own switches, read from its configuration so that a new one is measured too."""

from typing import Any

from serve_app.config import LlamaCppOptions

_GUESSES = ("prompt_lookup", "answer_memory")


def switches() -> list[str]:
    """Return the options that can be switched off."""
    return [
        name
        for name, field in LlamaCppOptions.model_fields.items()
        if field.annotation is bool and field.default is True
    ]


def comparable() -> dict[str, Any]:
    """Return the options for random weights.

    Guessing from earlier text is off: random weights fall into loops, which are guessed too well.
    """
    return {name: False for name in _GUESSES if name in switches()}


def rows() -> dict[str, dict[str, Any]]:
    """Return the options of every row of an ablation: all on, then each one off."""
    return {"all_on": {}, **{f"no_{name}": {name: False} for name in switches()}}
