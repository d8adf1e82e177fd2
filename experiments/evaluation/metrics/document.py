"""Metrics of a JSON document: what `carril eval metrics FILE` computes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from experiments.evaluation.errors import BadInput
from experiments.evaluation.metrics import ranking, retrieval
from experiments.evaluation.metrics.classification import classification_report
from experiments.evaluation.metrics.cross_validation import group_folds
from experiments.evaluation.metrics.regression import regression_errors
from experiments.evaluation.metrics.text import answer_lengths, mean_cosine

Figures = dict[str, object]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassificationDocument(_Document):
    """Labels that are right and labels that were given."""

    kind: Literal["classification"]
    truth: list[str]
    predicted: list[str]

    def figures(self) -> Figures:
        """Compute accuracy, averages and the cells of every class."""
        found = classification_report(self.truth, self.predicted)
        return {
            "n": len(self.truth),
            "accuracy": found.accuracy,
            "macro": found.macro._asdict(),
            "weighted": found.weighted._asdict(),
            "classes": {
                str(name): {
                    **cells._asdict(),
                    "precision": cells.precision,
                    "recall": cells.recall,
                    "specificity": cells.specificity,
                    "f1": cells.f1,
                }
                for name, cells in found.by_class.items()
            },
        }


class RegressionDocument(_Document):
    """Measured and predicted numbers."""

    kind: Literal["regression"]
    truth: list[float]
    predicted: list[float]

    def figures(self) -> Figures:
        """Compute MSE, RMSE, MAE and R2."""
        return regression_errors(self.truth, self.predicted)._asdict()


class Query(_Document):
    """One query of a search."""

    found: list[str]
    """Results in their order."""
    wanted: dict[str, float]
    """Relevant documents with their gains."""


class RetrievalDocument(_Document):
    """Queries with what came and what was wanted."""

    kind: Literal["retrieval"]
    queries: Annotated[list[Query], Field(min_length=1)]
    k: Annotated[int, Field(ge=1)] = 10

    def figures(self) -> Figures:
        """Compute NDCG, MRR, MAP, precision and recall."""
        hits = [retrieval.first_hit(q.found, q.wanted) for q in self.queries]
        judged = [q for q in self.queries if q.wanted]
        return {
            "n": len(self.queries),
            "n_without_wanted": len(self.queries) - len(judged),
            "mrr": ranking.mean_reciprocal_rank(hits),
            "map": _mean(judged, lambda q: retrieval.average_precision(q.found, q.wanted)),
            f"ndcg_at_{self.k}": _mean(judged, self._ndcg),
            f"precision_at_{self.k}": _mean(
                judged, lambda q: retrieval.precision_at(q.found, q.wanted, self.k)
            ),
            f"recall_at_{self.k}": _mean(
                judged, lambda q: retrieval.recall_at(q.found, q.wanted, self.k)
            ),
        }

    def _ndcg(self, query: Query) -> float | None:
        gains = [query.wanted.get(name, 0.0) for name in query.found]
        return ranking.ndcg(gains, relevant=list(query.wanted.values()), k=self.k)


class EmbeddingDocument(_Document):
    """Embeddings of two texts each, such as an answer and its reference."""

    kind: Literal["embeddings"]
    first: list[list[float]]
    second: list[list[float]]

    def figures(self) -> Figures:
        """Compute the mean cosine similarity."""
        return {"n": len(self.first), "mean_cosine": mean_cosine(self.first, self.second)}


class AnswersDocument(_Document):
    """Answers of a model."""

    kind: Literal["answers"]
    answers: Annotated[list[str], Field(min_length=1)]

    def figures(self) -> Figures:
        """Compute the lengths in words."""
        lengths = answer_lengths(self.answers)
        return {} if lengths is None else lengths._asdict()


class FoldsDocument(_Document):
    """Groups of items to split for cross-validation."""

    kind: Literal["folds"]
    groups: list[str]
    folds: int = 5
    seed: int = 42

    def figures(self) -> Figures:
        """Split; no group is on both sides of a fold."""
        folds = group_folds(self.groups, self.folds, seed=self.seed)
        return {"folds": [fold._asdict() for fold in folds]}


_ANY: TypeAdapter[
    ClassificationDocument
    | RegressionDocument
    | RetrievalDocument
    | EmbeddingDocument
    | AnswersDocument
    | FoldsDocument
] = TypeAdapter(
    Annotated[
        ClassificationDocument
        | RegressionDocument
        | RetrievalDocument
        | EmbeddingDocument
        | AnswersDocument
        | FoldsDocument,
        Field(discriminator="kind"),
    ]
)


def figures_of(path: Path) -> Figures:
    """Return the metrics of a document; its `kind` says which.

    Raises:
        BadInput: If it cannot be read, breaks a rule, or has no such metrics.
    """
    try:
        document = _ANY.validate_python(json.loads(path.read_text(encoding="utf-8")))
        return document.figures()
    except OSError as err:
        raise BadInput(f"Cannot read {str(path)!r}: {err.strerror}") from err
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {where + ': ' if where else ''}{first['msg']}") from err
    except ValueError as err:
        raise BadInput(f"{path}: {err}") from err


def _mean(queries: list[Query], figure: Callable[[Query], float | None]) -> float | None:
    values = [value for value in map(figure, queries) if value is not None]
    return float(np.mean(values)) if values else None
