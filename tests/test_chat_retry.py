"""A lost connection is tried again soon, and then less and less often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chat_retry import MAX_WAIT_S, Retry

SHARE = st.floats(0.0, 1.0)


def test_nothing_is_due_before_a_connection_was_lost_nor_when_there_is_one() -> None:
    retry = Retry(lambda: 0.0)
    assert not retry.is_due(1e9)
    retry.lost(0.0, 1)
    retry.reset()
    assert not retry.is_due(1e9)


@given(SHARE, st.integers(0, 2000))
def test_first_try_comes_within_a_second_or_20_ms_for_each_member(
    share: float, members: int
) -> None:
    retry = Retry(lambda: share)
    retry.lost(100.0, members)
    longest_s = max(1.0, 0.02 * members)
    assert not retry.is_due(99.9)
    assert not retry.is_due(100.0 + share * longest_s * 0.99 - 0.01)
    assert retry.is_due(100.0 + longest_s)


@given(SHARE)
def test_waits_double_up_to_15_s_and_half_of_each_is_random(share: float) -> None:
    retry = Retry(lambda: share)
    for failures in range(1, 20):
        longest_s = min(MAX_WAIT_S, 2.0**failures)
        retry.failed(0.0)
        assert not retry.is_due(longest_s * 0.499)
        assert retry.is_due(longest_s)


def test_one_try_at_a_time() -> None:
    retry = Retry(lambda: 0.0)
    retry.lost(0.0, 1)
    assert retry.is_due(0.0)
    assert not retry.is_due(1e9)


def test_what_changed_makes_a_waiting_try_due_at_once_and_starts_none() -> None:
    retry = Retry(lambda: 1.0)
    retry.at_once(0.0)
    assert not retry.is_due(1e9)
    for _ in range(9):
        retry.failed(0.0)
    retry.at_once(1.0)
    assert retry.is_due(1.0)
    retry.failed(1.0)
    assert retry.is_due(3.0)
