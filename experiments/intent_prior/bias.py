"""The prior of a profile: what it adds to the logits of the openings of an answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.grounding.profile_options import ProfileOptions, prior_sha256
from experiments.intent_prior.errors import PriorError
from experiments.intent_prior.openings import answer_openings
from experiments.intent_prior.prior import IntentPrior
from experiments.intent_prior.table import read_bytes, unpack


class OpeningBias:
    """A product of experts: the network's probabilities of openings times those of a classifier.

    Args:
        prior: The classifier.
        weight: Exponent of its probabilities.
        openings: How an answer with each label begins.
        content: Bytes of the prior's file, for the hash.

    Raises:
        PriorError: If the classifier tells other labels apart than there are openings.
    """

    def __init__(
        self, prior: IntentPrior, weight: float, openings: Mapping[str, str], content: bytes
    ) -> None:
        missing = sorted(openings.keys() - set(prior.labels))
        strange = sorted(set(prior.labels) - openings.keys())
        if missing or strange:
            raise PriorError(
                "the intent prior is of other intents than the answer schema: it lacks "
                f"{missing or 'none'}, and has {strange or 'none'} besides",
                "fit it again with carril eval prior, on data of these intents",
            )
        self._prior = prior
        self._weight = weight
        self._openings = openings
        self.sha256 = prior_sha256(content, weight)
        """Of everything that it depends on beside the answer schema."""

    @property
    def openings(self) -> tuple[str, ...]:
        """The texts that it has an opinion on."""
        return tuple(self._openings.values())

    def of(self, message: str) -> dict[str, float]:
        """Return what is added to the logit of each opening; 0 for the likeliest, else less.

        Only differences between openings count, so this is the product of the two distributions.
        Tokens that open no answer keep their logits.
        """
        logs = self._prior.log_probabilities(message)
        best = max(logs.values())
        return {
            opening: self._weight * (logs[label] - best)
            for label, opening in self._openings.items()
        }


def read_bias(
    folder: Path, options: ProfileOptions, schema: Mapping[str, Any] | None
) -> OpeningBias | None:
    """Read the prior of a profile's folder; None if its options name none.

    Args:
        folder: Where the file lies.
        options: What `profile.yaml` says.
        schema: The profile's answer schema.

    Raises:
        PriorError: If the file cannot be used, or not with this schema.
    """
    if options.intent_prior is None:
        return None
    if schema is None:
        raise PriorError(f"{str(folder)!r} has an intent prior, but no answer.schema.json")
    path = folder / options.intent_prior
    content = read_bytes(path)
    prior = IntentPrior(unpack(content, where=str(path)))
    try:
        return OpeningBias(prior, options.intent_prior_weight, answer_openings(schema), content)
    except PriorError as err:
        raise PriorError(f"{path}: {err.message}", err.fix) from err
