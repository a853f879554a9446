"""Connections and rooms: limits, what may be sent when, rates."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_members import LEAVE_REASONS, LEGAL, Bucket, Client, Limits, Stage
from chat_wire import ErrorCode, FrameType, LeaveReason


class Plug:
    """Something that has a descriptor's number, and nothing else of a socket."""

    def fileno(self) -> int:
        return 100_000

    def close(self) -> None:
        """Nothing to do."""


def client(now: float = 0.0) -> Client:
    sock: Any = Plug()
    return Client(sock, "192.168.1.5", "192.168.1.5:50123", Limits(), now)


# --------------------------------------------------------------------------- limits


def test_the_limits_are_those_of_the_design() -> None:
    limits = Limits()
    assert (limits.max_clients, limits.max_per_ip) == (1_024, 64)
    assert (limits.rate, limits.direct_rate) == (2_000, 2**20)
    assert (limits.max_lag_bytes, limits.drain_timeout_s) == (4 * 2**20, 10)
    assert (limits.handshake_timeout_s, limits.challenge_timeout_s) == (5, 5)
    assert limits.ping_interval_s == 15
    assert limits.is_loopback_exempt


@pytest.mark.parametrize("name", [f.name for f in fields(Limits) if f.name.endswith("_s")])
def test_deadlines_are_looked_at_four_times_in_the_shortest(name: str) -> None:
    shortened: Any = {name: 0.2}
    assert Limits(**shortened).tick_s == pytest.approx(0.05)
    assert Limits().tick_s == 0.25


# --------------------------------------------------------------------------- legal moves


def test_what_may_be_sent_at_each_stage_is_the_table_of_the_protocol() -> None:
    life = {FrameType.PING, FrameType.PONG}
    assert {
        Stage.GREETED: {FrameType.JOIN} | life,
        Stage.WAITING: life,
        Stage.MEMBER: {FrameType.BROADCAST, FrameType.DIRECT, FrameType.REBUNDLE} | life,
    } == LEGAL


def test_the_others_are_told_why_whatever_ended_a_member() -> None:
    # What cannot befall a member has no reason; SHUTDOWN and SESSION_IN_USE are told otherwise.
    before = {ErrorCode.PASSWORD, ErrorCode.ROOM_FULL, ErrorCode.IP_LIMIT}
    otherwise = {ErrorCode.SESSION_IN_USE, ErrorCode.SHUTDOWN}
    assert set(LEAVE_REASONS) == set(ErrorCode) - before - otherwise
    assert LEAVE_REASONS[ErrorCode.SLOW_CONSUMER] is LeaveReason.SLOW_CONSUMER
    assert LEAVE_REASONS[ErrorCode.TIMEOUT] is LeaveReason.TIMEOUT
    assert LEAVE_REASONS[ErrorCode.BAD_FRAME] is LeaveReason.BAD_FRAME


# --------------------------------------------------------------------------- rates

SPENDING = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50)), max_size=40)


@given(rate=st.integers(1, 100), steps=SPENDING)
def test_a_bucket_grants_its_rate_and_a_burst_of_one_second_and_says_how_long_to_wait(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    now = 5.0
    bucket, spent = Bucket(rate, now), 0
    for pause_s, amount in steps:
        now += pause_s
        assert bucket.level(now) <= rate
        wait_s = bucket.spend(amount, now)
        spent += amount
        assert (wait_s == 0) == (bucket.level(now) >= 0)
        now += wait_s
        assert bucket.level(now) >= -1e-6
        # Who waits as long as told never has more than the rate and one burst.
        assert spent <= rate * (1 + now - 5.0) + 1e-6


def test_a_bucket_does_not_pay_twice_for_a_time_nor_for_one_before() -> None:
    bucket = Bucket(10, 1.0)
    assert bucket.spend(10, 1.0) == 0
    assert bucket.spend(5, 1.0) == 0.5
    assert bucket.level(1.0) == -5
    assert bucket.level(1.5) == 0
    assert bucket.level(1.5) == 0
    assert bucket.level(1.2) == 0
    assert bucket.level(99.0) == 10


def test_a_rate_of_0_is_no_limit() -> None:
    bucket = Bucket(0, 0.0)
    assert bucket.spend(10**12, 0.0) == 0
    assert bucket.spend(10**12, 1.0) == 0


# --------------------------------------------------------------------------- connections


def test_a_handshake_has_a_nonce_of_its_own_and_a_limit_for_frames() -> None:
    nonces = {one.handshake.nonce for one in (client() for _ in range(9)) if one.handshake}
    assert len(nonces) == 9
    assert {len(nonce) for nonce in nonces} == {32}


def test_a_connection_has_its_time_for_a_join_from_its_beginning() -> None:
    one = client(now=100.0)
    assert one.stage is Stage.GREETED
    assert one.deadline == 105.0
