"""What of a window is new, and where it leaves the history."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstack.conversations.windows import common, edited_at, overlap

# Few different messages, so that "thanks" comes again and again.
MESSAGES = st.lists(st.sampled_from([b"a", b"b", b"c", b"thanks"]), max_size=12)
# Every message is another one.
DISTINCT = st.integers(0, 12).map(lambda size: [b"said %d" % number for number in range(size)])

RULES = settings(deadline=None, derandomize=True, database=None, max_examples=300)


def all_overlaps(history: Sequence[bytes], window: Sequence[bytes]) -> set[int]:
    """The lengths at which the history ends as the window begins."""
    lengths = range(1, min(len(history), len(window)) + 1)
    return {length for length in lengths if list(history[-length:]) == list(window[:length])}


@RULES
@given(MESSAGES, MESSAGES)
def test_an_overlap_is_the_longest_end_that_the_window_begins_with(history: list[bytes], window: list[bytes]) -> None:
    assert overlap(history, window) == max(all_overlaps(history, window), default=0)


@RULES
@given(DISTINCT, st.integers(1, 12), st.lists(st.sampled_from([b"new", b"thanks"]), max_size=4))
def test_of_a_window_of_the_last_messages_what_is_new_alone_remains(
    history: list[bytes], last: int, new: list[bytes]
) -> None:
    window = [*history[-last:], *new]
    assert window[overlap(history, window) :] == new


@RULES
@given(MESSAGES, st.integers(1, 12), MESSAGES)
def test_a_window_of_the_last_messages_is_never_stored_twice(history: list[bytes], last: int, new: list[bytes]) -> None:
    window = [*history[-last:], *new]
    known = overlap(history, window)
    assert known >= min(last, len(history))
    # The history ends with the whole window, and so a repeat adds nothing.
    after = [*history, *window[known:]]
    assert after[len(after) - len(window) :] == window
    assert overlap(after, window) == len(window)


@RULES
@given(MESSAGES, MESSAGES)
def test_the_whole_history_with_new_messages_is_the_history_with_new_messages(
    history: list[bytes], new: list[bytes]
) -> None:
    window = [*history, *new]
    assert [*history, *window[overlap(history, window) :]] == window


@RULES
@given(st.lists(st.sampled_from([b"a", b"thanks"]), max_size=6), st.lists(MESSAGES, max_size=5), st.integers(1, 6))
def test_turn_after_turn_a_client_of_windows_stores_each_message_once(
    history: list[bytes], turns: list[list[bytes]], size: int
) -> None:
    # A client that sends at least what it sent last time: there the end is recognised, whatever is repeated.
    stored, said, known = list(history), list(history), min(size, len(history))
    for turn in turns:
        window = [*said[len(said) - known :], *turn]
        said += turn
        stored += window[overlap(stored, window) :]
        known = len(window)
        if known == len(said):
            assert stored == said
        assert stored[len(stored) - known :] == said[len(said) - known :]


def test_a_repeated_word_of_thanks_is_recognised_within_its_window() -> None:
    history = [b"q", b"a", b"thanks"]
    assert overlap(history, [b"a", b"thanks", b"thanks"]) == 2
    assert overlap([b"thanks", b"thanks"], [b"thanks", b"thanks", b"thanks"]) == 2


@pytest.mark.parametrize(("history", "window"), [([], [b"a"]), ([b"a"], []), ([], [])])
def test_nothing_overlaps_with_nothing(history: list[bytes], window: list[bytes]) -> None:
    assert overlap(history, window) == 0
    assert edited_at(history, window) is None


@RULES
@given(MESSAGES, MESSAGES)
def test_the_common_prefix_is_common_and_no_longer_one_is(one: list[bytes], other: list[bytes]) -> None:
    shared = common(one, other)
    assert one[:shared] == other[:shared]
    assert one[: shared + 1] != other[: shared + 1] or shared == min(len(one), len(other))


@RULES
@given(MESSAGES, MESSAGES)
def test_an_edit_lies_behind_messages_that_are_alike(history: list[bytes], window: list[bytes]) -> None:
    if overlap(history, window) or (left := edited_at(history, window)) is None:
        return
    place, shared = left
    assert 0 <= shared <= place <= len(history)
    assert shared <= len(window)
    assert history[place - shared : place] == window[:shared]
    # It is the first difference: else a branch there would say a message twice.
    assert history[place : place + 1] != window[shared : shared + 1] or place == len(history) or shared == len(window)


@RULES
@given(DISTINCT.filter(lambda history: len(history) >= 3), st.data())
def test_one_edited_message_is_found_where_it_is(history: list[bytes], data: st.DataObject) -> None:
    last = data.draw(st.integers(3, len(history)))
    place = data.draw(st.integers(0, last - 1))
    window = [*history[-last:], b"new"]
    window[place] = b"edited"
    assert overlap(history, window) == 0
    assert edited_at(history, window) == (len(history) - last + place, place)


@RULES
@given(DISTINCT, st.lists(st.integers(0, 99).map(lambda number: b"new %d" % number), min_size=1))
def test_what_has_nothing_of_the_history_is_new(history: list[bytes], window: list[bytes]) -> None:
    assert overlap(history, window) == 0
    assert edited_at(history, window) is None


@RULES
@given(DISTINCT.filter(lambda history: len(history) >= 1), st.lists(st.just(b"other"), min_size=1))
def test_a_window_that_begins_as_the_history_does_leaves_it_there(history: list[bytes], rest: list[bytes]) -> None:
    if len(history) > 1:
        assert edited_at(history, [history[0], *rest]) == (1, 1)


@RULES
@given(DISTINCT.filter(lambda history: len(history) >= 4), st.data())
def test_a_window_of_an_earlier_time_ends_where_it_ended_then(history: list[bytes], data: st.DataObject) -> None:
    end = data.draw(st.integers(2, len(history) - 1))
    size = data.draw(st.integers(2, end))
    assert edited_at(history, history[end - size : end]) == (end, size)


@RULES
@given(DISTINCT.filter(lambda history: len(history) >= 4), st.data())
def test_a_retried_turn_goes_on_where_the_message_was_edited(history: list[bytes], data: st.DataObject) -> None:
    """Whoever edits a message sends no more of what came after it."""
    place = data.draw(st.integers(2, len(history) - 1))
    assert edited_at(history, [*history[:place], b"edited"]) == (place, place)
