"""Errors cross processes and lose nothing on the way."""

import importlib
import inspect
import pickle
from collections.abc import Iterator

import pytest

from experiments.errors import GuidedError

MODULES = ("drift", "evaluation", "gate", "registry", "retraining", "steering")


def classes() -> Iterator[type[GuidedError]]:
    for package in MODULES:
        module = importlib.import_module(f"experiments.{package}.errors")
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, GuidedError) and found.__module__ == module.__name__:
                yield found


@pytest.mark.parametrize(
    "kind", list(classes()), ids=lambda kind: f"{kind.__module__}.{kind.__name__}"
)
def test_an_error_is_the_same_after_a_pickle(kind: type[GuidedError]) -> None:
    error = kind("what happened", "what to do")

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)

    assert type(again) is kind
    assert (again.message, again.fix, str(again)) == (error.message, error.fix, str(error))
    assert error.message in str(again)
    assert vars(again) == vars(error)
