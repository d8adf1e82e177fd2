"""Cross-validation in which a group is never on both sides."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Fold(NamedTuple):
    """Positions of the items to learn from and to test on."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def group_folds(groups: Sequence[str], n_folds: int, *, seed: int) -> tuple[Fold, ...]:
    """Split items into folds by group, as evenly as the groups allow.

    The largest groups are placed first, each into the fold with the fewest items so far; ties go
    by a salted hash, so that the split does not depend on the order of the items.

    Args:
        groups: Group of every item, such as its conversation or phrase family.
        n_folds: At least 2.
        seed: Another one gives another split.

    Raises:
        ValueError: If there are fewer groups than folds, or fewer than two folds.
    """
    sizes = Counter(groups)
    if n_folds < 2 or len(sizes) < n_folds:
        raise ValueError(
            f"{n_folds} folds of {len(sizes)} groups; allowed: 2 to as many as there are groups"
        )
    order = sorted(sizes, key=lambda group: (-sizes[group], _salted(group, seed)))
    loads = [0] * n_folds
    fold_of: dict[str, int] = {}
    for group in order:
        fold = min(range(n_folds), key=lambda i: (loads[i], i))
        fold_of[group] = fold
        loads[fold] += sizes[group]
    placed = [fold_of[group] for group in groups]
    return tuple(
        Fold(
            train=tuple(i for i, fold in enumerate(placed) if fold != k),
            test=tuple(i for i, fold in enumerate(placed) if fold == k),
        )
        for k in range(n_folds)
    )


def _salted(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
