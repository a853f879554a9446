"""Attacks on catching up: what a member can do with questions, answers and acks of its own.

Each began as an attack, or an honest case, that lost something.  Whatever one member says, what an
honest one has still comes.
"""

from __future__ import annotations

from collections.abc import Callable

from simulated_room import LOBBY, SimulatedMember, SimulatedRoom

from chat_messages import Bundle, Sync, parse_payload
from chat_sync_bodies import Ask, Body, Fetch, parse_body, serialize_body
from chat_wire import Direct, Frame, FrameType

U64 = 2**64 - 1

Answer = Callable[[Ask | Fetch], "Body | bytes | None"]  # bytes: sealed as they are


class Liar:
    """A member whose client answers questions as it pleases, and asks what it likes."""

    def __init__(self, room: SimulatedRoom, member: SimulatedMember, answer: Answer) -> None:
        self.room, self.member, self.answer = room, member, answer
        self.asked: list[Ask | Fetch] = []
        honest = room.tamper

        def tamper(
            sender: SimulatedMember | None, receiver: SimulatedMember, data: bytes
        ) -> list[bytes]:
            if receiver is member and sender is not None and (sync := sync_of(data)):
                return self._hear(sender, sync)
            return honest(sender, receiver, data) if honest else [data]

        room.tamper = tamper

    def _hear(self, asker: SimulatedMember, sync: Sync) -> list[bytes]:
        keys = dict(self.member.session._seks)
        question = parse_body(sync.open(keys[sync.sek_number]))
        assert isinstance(question, Ask | Fetch)
        self.asked.append(question)
        if (body := self.answer(question)) is not None:
            self.says(asker, sync.request_id, body)
        return []

    def says(self, to: SimulatedMember, request_id: bytes, body: Body | bytes) -> None:
        """A question or an answer."""
        session, bundle = self.member.session, Bundle.parse(to.bundle, LOBBY)
        data = body if isinstance(body, bytes) else serialize_body(body)
        place = (session._key, self.member.session_id, LOBBY.tag, bundle, request_id)
        sync = Sync.create(*place, data)
        self.room.deliver(self.member, to, Direct(to.session_id, sync.serialize()).serialize())


def sync_of(frame: bytes) -> Sync | None:
    """The question or answer that a frame carries."""
    whole = Frame(frame)
    if whole.type != FrameType.DIRECT:
        return None
    data = Direct.parse(whole.body).payload
    payload = parse_payload(data)
    return payload if isinstance(payload, Sync) else None


# ------------------------------------------------------------------------------------------------
# What a member answers


def test_answer_with_the_longest_texts_fits_a_frame(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    room.disconnect(bob)
    texts = ["x" * size for size in (16_384, 16_384, 14_300, 16_384)]
    for text in texts:
        alice.types(text)
    room.connect(bob)
    room.passes(20)
    assert bob.texts == ["one", *texts]
