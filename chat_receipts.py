"""Who has what of ours, in words: what is not delivered, not confirmed, and since when.

What lives here: the receipts of all conversations together, for `/status`, for leaving, and for the
warning of somebody who is here and confirms nothing.  What it does not know: how acks come and go
(`chat_acks`), clocks.  The session owns it.

    receipts.unsent()                   # messages that never left
    effects = receipts.due(now)         # at least each second
"""

from __future__ import annotations

from chat_acks import Acks, Conversation
from chat_effects import Effects, Moment, Show, notice
from chat_roster import Roster
from chat_terminal import Field
from chat_text import local_time

__all__ = ["Receipts"]

# Who is here confirms within an ack's interval and its spread, or something is wrong.
_UNCONFIRMED_S, _UNCONFIRMED_INTERVALS = 60.0, 4.0
_TELL_AGAIN_S = 20.0  # who may never have heard of what we said
_LOOK_EVERY_S = 1.0


class Receipts:
    """Of everything that we said in this run."""

    def __init__(
        self, conversations: dict[bytes, Conversation], roster: Roster, acks: Acks
    ) -> None:
        """All three are the session's."""
        self._conversations = conversations  # by tag
        self._roster = roster
        self._acks = acks
        self._said: set[bytes] = set()  # fingerprints of those who confirm nothing
        self._next_s = 0.0

    def unsent(self) -> int:
        """Our messages that never left: not echoed by the relay, or in a pair not confirmed."""
        return sum(conversation.unsent() for conversation in self._conversations.values())

    def _unconfirmed(self) -> dict[bytes, int]:
        """Who of those that are here did not confirm all that was sent to them: fingerprints, and
        when the first of it was written."""
        live, since = self._roster.live, dict[bytes, int]()
        for conversation in self._conversations.values():
            for session_id in conversation.ours.unconfirmed(live):
                person = live[session_id].fingerprint
                sent_ms = conversation.ours.unconfirmed_since(session_id)
                since[person] = min(sent_ms, since.get(person, sent_ms))
        return since

    def names(self) -> list[str]:
        """Whose confirmation is waited for."""
        return sorted(map(self._roster.name, self._unconfirmed()))

    def lines(self, room: Conversation) -> list[Show]:
        """For `/status`."""
        lines = []
        if room.ours.seq:
            last = room.ours.recipients(self._roster.present)
            done = [s for s in last if room.ours.confirmed(s, room.ours.seq)]
            delivered = f"delivered to {len(done)} of {len(last)}"
            to = delivered if last else "nobody is known to have been there"
            lines.append(notice(f"your last message to the room: {to}"))
        unconfirmed = sorted(self._unconfirmed().items(), key=lambda item: item[1])
        lines += (self._not_confirmed(person, since_ms) for person, since_ms in unconfirmed)
        if unsent := self.unsent():
            lines.append(notice(f"{unsent} of your messages not delivered"))
        return lines

    def _not_confirmed(self, person: bytes, since_ms: int) -> Show:
        name, at = self._roster.name(person), local_time(since_ms, "hm")
        fields: dict[str, Field] = {"name": name, "since_ms": since_ms}
        return notice(f"not confirmed by {name} since {at}", "not_confirmed", **fields)

    def due(self, now: Moment) -> Effects:
        """Who is said to be here and confirms nothing is told again of what we wrote, and so are
        we of that, once until it does."""
        if now.s < self._next_s:
            return []
        self._next_s = now.s + _LOOK_EVERY_S
        for conversation in self._conversations.values():
            ours = conversation.ours
            since = map(ours.unconfirmed_since, ours.unconfirmed(self._roster.live))
            if any(now.ms - since_ms >= 1000 * _TELL_AGAIN_S for since_ms in since):
                conversation.tell_again(now.s, _TELL_AGAIN_S)
        unconfirmed = self._unconfirmed()
        self._said &= unconfirmed.keys()
        wait_ms = 1000 * max(_UNCONFIRMED_S, _UNCONFIRMED_INTERVALS * self._acks.interval_s)
        late = {
            person: since_ms
            for person, since_ms in unconfirmed.items()
            if now.ms - since_ms >= wait_ms and person not in self._said
        }
        self._said |= late.keys()
        return [self._not_confirmed(*item) for item in late.items()]
