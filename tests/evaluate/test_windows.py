"""Every token is scored exactly once, whatever the length, context and stride."""

from __future__ import annotations

import itertools

import pytest

from gptcli.errors import UsageError
from gptcli.evaluate.windows import Window, resolve_windows, score_windows

SHAPES = [
    (length, context, stride)
    for length, context in itertools.product([0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 64, 101], [1, 2, 3, 8, 16, 200])
    for stride in sorted({1, 2, max(1, context // 2), max(1, context - 1), context})
    if stride <= context
]


@pytest.mark.parametrize(("length", "context", "stride"), SHAPES)
def test_every_position_but_the_first_is_scored_exactly_once_in_order(length: int, context: int, stride: int) -> None:
    scored = [position for w in score_windows(length, context, stride) for position in range(w.scored, w.stop)]
    assert scored == list(range(1, length))


@pytest.mark.parametrize(("length", "context", "stride"), SHAPES)
def test_no_window_feeds_more_than_the_context_or_scores_without_context(
    length: int, context: int, stride: int
) -> None:
    for window in score_windows(length, context, stride):
        assert 0 <= window.start < window.scored < window.stop <= length
        assert window.stop - 1 - window.start <= context


@pytest.mark.parametrize(("length", "context", "stride"), SHAPES)
def test_each_token_keeps_at_least_context_minus_stride_tokens_before_it(
    length: int, context: int, stride: int
) -> None:
    for window in list(score_windows(length, context, stride))[1:]:
        assert window.scored - window.start >= max(1, context - stride)


@pytest.mark.parametrize(("length", "context", "stride"), [(101, 16, 8), (64, 16, 5), (17, 16, 1), (16, 16, 15)])
def test_windows_are_those_of_the_hugging_face_loop(length: int, context: int, stride: int) -> None:
    expected, previous_end = [], 0
    for begin in range(0, length, stride):
        end = min(begin + context, length)
        # The guide's labels keep the last end - previous_end tokens; the shift drops position 0 of the first window.
        expected.append(Window(begin, end, max(1, previous_end)))
        previous_end = end
        if end == length:
            break
    assert list(score_windows(length, context, stride)) == expected


def test_windows_with_stride_equal_to_context_do_not_overlap_in_what_is_fed() -> None:
    fed = [range(w.start, w.stop - 1) for w in score_windows(49, 16, 16)]
    assert [position for window in fed for position in window] == list(range(48))


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_to_score_gives_no_window(length: int) -> None:
    assert list(score_windows(length, 8, 4)) == []


def test_context_and_stride_have_the_documented_defaults() -> None:
    assert resolve_windows(None, None, 256) == (256, 128)
    assert resolve_windows(64, None, 256) == (64, 32)
    assert resolve_windows(1, None, 256) == (1, 1)
    assert resolve_windows(None, None, 8192) == (8192, 4096)


def test_a_window_is_longer_than_8192_tokens_only_where_that_is_asked_for() -> None:
    assert resolve_windows(None, None, 2**27) == (8192, 4096)
    assert resolve_windows(None, 8192, 2**27) == (8192, 8192)
    assert resolve_windows(20_000, None, 2**27) == (20_000, 10_000)


@pytest.mark.parametrize(
    ("context", "stride", "named"), [(257, None, "257"), (0, None, "0"), (64, 65, "65"), (64, 0, "stride")]
)
def test_impossible_windows_are_refused_in_one_line(context: int, stride: int | None, named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        resolve_windows(context, stride, 256)
    assert "choose --" in str(caught.value)
