"""A batch is shared among its writers by chunks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmstack.documents.items import Prepared


def shares(*chunks: int, most: int = 2, at_least: int = 10) -> list[list[int]]:
    changed: Any = [SimpleNamespace(prepared=SimpleNamespace(chunks=range(number))) for number in chunks]
    found: list[list[Any]] = [[*share] for share in Prepared(changed, {}, None).shares(most, at_least=at_least)]
    assert [item for share in found for item in share] == changed
    return [[len(item.prepared.chunks) for item in share] for share in found]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], []),
        ([5], [[5]]),
        ([100], [[100]]),
        ([5, 5], [[5, 5]]),
        ([9, 10], [[9, 10]]),
        ([10, 10], [[10], [10]]),
        ([1] * 30, [[1] * 15, [1] * 15]),
        ([100, 1, 1], [[100], [1, 1]]),
        ([1, 1, 100], [[1, 1, 100]]),
        ([0, 0], [[0, 0]]),
        ([20, 0, 20], [[20], [0, 20]]),
    ],
)
def test_shares_hold_about_as_many_chunks_in_their_order(chunks: list[int], expected: list[list[int]]) -> None:
    assert shares(*chunks) == expected


def test_there_are_as_many_as_are_worth_it() -> None:
    assert [len(share) for share in shares(*[1] * 100, most=4, at_least=25)] == [25, 25, 25, 25]
    assert [len(share) for share in shares(*[1] * 100, most=4, at_least=40)] == [50, 50]
