"""Which predicted object stands for which true one."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

Pair = tuple[int, int]  # (index of the true object, index of the predicted one)


def assign(true: np.ndarray, predicted: np.ndarray, *, as_reference: bool = False) -> tuple[Pair, ...]:
    """Pairs that make the sum of distances smallest, as many as the smaller count, in the order of the predicted.

    true: locations, float64 [N, D]. predicted: float64 [M, D]. Objects at one location (such as those without any,
    which count as at the origin) cost the same either way; they are paired by order of appearance, the first first.

    as_reference: leave such ties as SciPy's solver has them with true objects as rows.

    Example: true objects at 1 and 2, predicted ones at 0 and 0: ((0, 0), (1, 1)).

    Source: H. W. Kuhn, "The Hungarian method for the assignment problem", 1955.
    """
    if not len(true) or not len(predicted):
        return ()
    rows, columns = linear_sum_assignment(np.linalg.norm(true[:, None] - predicted[None], axis=-1))
    pairs = [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
    if not as_reference:
        pairs = _in_order_of_appearance(pairs, _alike(true), _alike(predicted))
    return tuple(sorted(pairs, key=lambda pair: pair[1]))


def _alike(locations: np.ndarray) -> list[list[int]]:
    """Groups of several objects at exactly one location, each in order."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for index, location in enumerate(locations + 0.0):  # -0.0 is 0.0
        groups.setdefault(tuple(location.tolist()), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _in_order_of_appearance(
    pairs: Sequence[Pair], true_groups: list[list[int]], predicted_groups: list[list[int]]
) -> list[Pair]:
    """The same pairs, where members of a group are exchanged until the first of a group goes with the first partner.

    Settling one side can unsettle the other, so both are done until nothing changes: every exchange takes an earlier
    member, or makes two crossing pairs parallel, so this ends.
    """
    found = sorted(pairs)
    while True:
        before = found
        for group in true_groups:
            found = _settled(found, group)
        found = [(true, predicted) for predicted, true in found]
        for group in predicted_groups:
            found = _settled(found, group)
        found = sorted((true, predicted) for predicted, true in found)
        if found == before:
            return found


def _settled(pairs: list[Pair], group: list[int]) -> list[Pair]:
    """`pairs` with the partners of the group's members, in order, given to the group's first members."""
    members = set(group)
    partners = sorted(partner for own, partner in pairs if own in members)
    return [pair for pair in pairs if pair[0] not in members] + list(zip(group, partners, strict=False))
