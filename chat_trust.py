"""Whose key a name is: who is believed, who is doubted, and what the person is told of it.

What lives here: the pins as they are made, the members whose key is doubted and their frames that
wait unread, the words in which all that is said, `/verify`, `/accept` and `/key`.  What it does not
know: the rule that tells a changed key from a namesake (`chat_pins`), who may read what
(`chat_session`), clocks.  The session owns it.

    meeting = trust.meet(bundle, now_s)
    if trust.doubts(bundle.session_id): ...            # says nothing, reads nothing, gives no keys
    effects = trust.introduce(bundle, meeting)
    for verdict in trust.decide(now_s, ack_interval_s): ...            # at least each 100 ms

Specified in docs/PROTOCOL.md 4.11 and 6.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from chat_effects import Effects, alert, error, notice, record
from chat_invite import same_number
from chat_messages import Bundle, EventKind, full_name
from chat_pins import MAX_NICKS, Meeting, Pins
from chat_qr import qr_rows
from chat_roster import Roster
from chat_wire import Frame
from crypto_utils import safety_number

__all__ = ["MAX_UNREAD_FRAMES", "Trust", "Unread"]

# Frames of one doubted session that wait for /accept: as many as wait for a key, and together no
# more bytes.  The first are kept, so that what is read then has no hole but at its end.
MAX_UNREAD_FRAMES = 64
_MAX_UNREAD_BYTES = 4 * 1024 * 1024
# An ack interval and this: so long the one who is known by a name has to show that he is here.
_DECIDE_AFTER_S = 5.0
_LONGEST_ACK_INTERVAL = 1.25
_MOST_NAMED = 3  # people of one name in one sentence
_GROUPS_A_ROW = 4  # of a safety number
_KEY_DIGITS = 4  # of a fingerprint, between two spaces


class Unread(NamedTuple):
    """A frame of a doubted member."""

    payload: bytes
    frame: Frame
    direct: bool


@dataclass
class _Doubt:
    bundle: Bundle
    since_s: float
    since_roster: int  # the first that it stands in
    is_decided: bool = False  # the key is another one: the person has been told
    unread: list[Unread] = field(default_factory=list)


def _of(bundle: Bundle) -> str:
    return bundle.fingerprint.hex()


class Trust:
    """What one run of a client believes of names."""

    def __init__(self, pins: Pins, roster: Roster) -> None:
        self._pins = pins
        self._roster = roster
        self._doubts: dict[bytes, _Doubt] = {}  # by session_id of live members
        self._unread_bytes = 0
        # Who was said to have another key, here or gone: they are in no audience.  People met.
        self._changed: dict[bytes, set[str]] = {}  # and under which nicks that was said
        self._unjudged: set[bytes] = set()  # who left while it was looked at
        self._numbers_shown: set[bytes] = set()  # whose safety number the person has seen
        self.pin_us()

    def pin_us(self) -> None:
        """Our nick is ours: whoever has it too is another."""
        self._pins.pin(self._roster.our.nick, self._roster.our.fingerprint)

    # ----------------------------------------------------------------- who comes

    def meet(self, bundle: Bundle, now_s: float) -> Meeting:
        """Who came, or took another nick; from here on it may be doubted."""
        meeting = self._judge(bundle, set())
        doubt = self._doubts.get(bundle.session_id)
        if meeting is not Meeting.CHANGED:
            return meeting
        if doubt is None or doubt.bundle.nick != bundle.nick:
            unread = doubt.unread if doubt else []
            self._doubts[bundle.session_id] = _Doubt(
                bundle, now_s, self._roster.number, unread=unread
            )
        else:
            doubt.bundle = bundle
        return meeting

    def judge_absent(self, bundle: Bundle) -> Meeting:
        """Somebody whose words were handed on: nothing is waited for, since it is not here."""
        signed = self._signed()
        return self._judge(bundle, {f for f in self._pins.of(bundle.nick) if f in signed})

    def _signed(self) -> dict[bytes, int]:
        """By fingerprint, the newest roster of ours that it signed.  Who signed one that somebody
        stands in was here when that one came, whatever the relay withheld or sent once more."""
        signed: dict[bytes, int] = {}
        for session_id, number in self._roster.signed.items():
            person = self._roster.live[session_id].fingerprint
            signed[person] = max(number, signed.get(person, 0))
        return signed

    def _judge(self, bundle: Bundle, present: set[bytes]) -> Meeting:
        our = self._roster.our.fingerprint
        if self._pins.of(bundle.nick) == [our]:  # we guard no other person's name by being here
            present = {our}
        meeting = self._pins.judge(bundle.nick, bundle.fingerprint, present)
        # Whose key was said to be changed is doubted until the person accepts it.
        is_doubted = meeting is not Meeting.KNOWN and bundle.fingerprint in self._changed
        return Meeting.CHANGED if is_doubted else meeting

    def doubts(self, session_id: bytes) -> bool:
        """Whether that session gets no keys of ours and is not read."""
        return session_id in self._doubts

    def is_undecided(self, session_id: bytes) -> bool:
        """Whether that session is doubted, and nothing was said of it yet."""
        doubt = self._doubts.get(session_id)
        return doubt is not None and not doubt.is_decided

    def withheld(self) -> set[bytes]:
        """Fingerprints of those who may read nothing of ours."""
        doubted = {doubt.bundle.fingerprint for doubt in self._doubts.values()}
        return doubted | self._unjudged | self._changed.keys()

    def changed(self) -> int:
        """How many people's keys wait for the person to accept them."""
        return len(self._changed)

    def hold(self, session_id: bytes, unread: Unread) -> bool:
        """Keeps a frame of a doubted session; whether there was room."""
        doubt = self._doubts[session_id]
        size = self._unread_bytes + len(unread.payload)
        if len(doubt.unread) >= MAX_UNREAD_FRAMES or size > _MAX_UNREAD_BYTES:
            return False
        self._unread_bytes = size
        doubt.unread.append(unread)
        return True

    def left(self, session_id: bytes) -> int:
        """A session is gone; how many frames of it were never read."""
        if self.is_undecided(session_id):
            left = {self._doubts[session_id].bundle.fingerprint}
            self._unjudged = (self._unjudged | left) & self._roster.known.keys()
        return len(self._end_doubt(session_id))

    def cleared(self) -> int:
        """The connection is gone, and with it everybody; how many frames were never read."""
        return sum(self.left(session_id) for session_id in list(self._doubts))

    def decide(self, now_s: float, ack_interval_s: float) -> list[tuple[Bundle, Meeting]]:
        """Of whom it is known by now whether the key is another's: each once.

        Who is no longer doubted by that is to be introduced, and `take_unread` has its frames.
        """
        decided = []
        wait_s = _LONGEST_ACK_INTERVAL * ack_interval_s + _DECIDE_AFTER_S
        signed = self._signed()
        for doubt in [d for d in self._doubts.values() if not d.is_decided]:
            pinned = self._pins.of(doubt.bundle.nick)
            present = {f for f in pinned if signed.get(f, -1) >= doubt.since_roster}
            meeting = self._judge(doubt.bundle, present)
            if meeting is not Meeting.CHANGED or now_s >= doubt.since_s + wait_s:
                decided.append((doubt.bundle, meeting))
                doubt.is_decided = True
        return decided

    def take_unread(self, session_id: bytes) -> list[Unread]:
        """The frames of who is doubted no longer, in their order."""
        return self._end_doubt(session_id)

    def _end_doubt(self, session_id: bytes) -> list[Unread]:
        doubt = self._doubts.pop(session_id, None)
        if doubt is None:
            return []
        self._unread_bytes -= sum(len(unread.payload) for unread in doubt.unread)
        return doubt.unread

    # ----------------------------------------------------------------- what is said and recorded

    def introduce(self, bundle: Bundle, meeting: Meeting) -> Effects:
        """What follows from who came, but for saying that it did: a pin, and warnings."""
        nick, fingerprint = bundle.nick, bundle.fingerprint
        name = self._roster.name(fingerprint)
        fields = {"name": name, "fingerprint": _of(bundle)}
        self._unjudged.discard(fingerprint)
        if meeting is Meeting.KNOWN:
            self._changed.pop(fingerprint, None)
            return []
        if meeting is Meeting.CHANGED:
            said = self._changed.get(fingerprint, set())
            is_said = nick in said or not self._pins.of(nick) or len(said) >= MAX_NICKS
            if said and is_said:  # or who comes and goes would fill screen and chain
                return [notice(f"{name} is here again; its key is not accepted: /accept {name}")]
            known = self._roster.known
            self._changed = {f: nicks for f, nicks in self._changed.items() if f in known}
            self._changed[fingerprint] = {*said, nick}
            text = (
                f"KEY CHANGED: {name} has another key than {self._known_as(nick, fingerprint)}. "
                f"Nothing of {name} is shown and {name} reads nothing of yours. Ask in person: a "
                f"new computer? Then /accept {name}"
            )
            return [record(EventKind.ALERT, text.encode()), alert(text, "key_changed", **fields)]
        others = [other for other in self._pins.of(nick) if other != fingerprint]
        effects = self._pin(nick, fingerprint)
        name = fields["name"] = self._roster.name(fingerprint)
        if others:
            text = f"another {nick}: {name} is not {self._known_as(nick, fingerprint)}"
            is_bad = meeting is Meeting.RENAMED or any(map(self._pins.is_verified, others))
            effects.append((alert if is_bad else notice)(text, "another", **fields))
        found = (pair for pair in self._pins.look_alikes(nick) if pair[1] != fingerprint)
        like = [self._called(*pair) for pair in found]
        if like:
            text = f"{name} looks like {' and '.join(like[:_MOST_NAMED])}, and is somebody else"
            effects.append(alert(text, "look_alike", **fields))
        return effects

    def _pin(self, nick: str, fingerprint: bytes) -> Effects:
        self._pins.pin(nick, fingerprint)
        self._roster.forget_names()
        return [record(EventKind.PIN, fingerprint + nick.encode())]

    def _known_as(self, nick: str, but: bytes) -> str:
        """Whom we know by that nick: `bob#7f3a, whom you know and verified`."""
        others = [other for other in self._pins.of(nick) if other != but]
        verified = [other for other in others if self._pins.is_verified(other)]
        if self._roster.our.fingerprint in others:
            our = self._roster.name(self._roster.our.fingerprint)
            return f"you, who are {our}; /nick changes your name"
        shown = (verified or others)[:_MOST_NAMED]
        names = " and ".join(full_name(nick, other, [*others, but]) for other in shown)
        return f"{names}, whom you {'verified' if verified else 'know'}"

    def _called(self, nick: str, fingerprint: bytes) -> str:
        is_us = fingerprint == self._roster.our.fingerprint
        return "your own name" if is_us else full_name(nick, fingerprint)

    # ----------------------------------------------------------------- what the person says

    def remark(self, fingerprint: bytes) -> str:
        """What /who says of somebody's key; empty: nothing."""
        doubts = [d for d in self._doubts.values() if d.bundle.fingerprint == fingerprint]
        if any(doubt.is_decided for doubt in doubts):
            return "KEY CHANGED: not read, reads nothing of yours"
        if doubts:
            return "its key is being looked at"
        return "verified" if self._pins.is_verified(fingerprint) else ""

    def is_verified(self, fingerprint: bytes) -> bool:
        """Whether the person compared that key."""
        return self._pins.is_verified(fingerprint)

    def accept(self, fingerprint: bytes) -> tuple[Effects, list[Bundle]]:
        """The person says that the key is right: its sessions that are doubted no longer, whose
        frames `take_unread` has."""
        doubts = [d for d in self._doubts.values() if d.bundle.fingerprint == fingerprint]
        # Of a name that nothing was said of yet the person cannot know.
        doubts = [d for d in doubts if d.is_decided] or doubts
        bundles = [d.bundle for d in doubts]
        self._changed.pop(fingerprint, None)
        self._unjudged.discard(fingerprint)
        effects: Effects = []
        nicks = [bundle.nick for bundle in bundles] or [self._roster.nick(fingerprint)]
        for nick in dict.fromkeys(nicks):
            effects += self._pin(nick, fingerprint)
        name = self._roster.name(fingerprint)
        text = f"{name} is accepted: reads what you say from here on"
        effects.append(notice(text, "accepted", name=name, fingerprint=fingerprint.hex()))
        return effects, bundles

    def show_number(self, fingerprint: bytes) -> Effects:
        """The safety number of the two of us, for both screens."""
        our = self._roster.our.fingerprint
        self._numbers_shown.add(fingerprint)
        name, our_name = self._roster.name(fingerprint), self._roster.name(our)
        number = safety_number(our, fingerprint)
        groups = number.split()
        rows = [groups[i : i + _GROUPS_A_ROW] for i in range(0, len(groups), _GROUPS_A_ROW)]
        fields = {"name": name, "fingerprint": fingerprint.hex(), "number": number}
        return [
            notice(f"safety number of you and {name}; {name} sees the same by /verify {our_name}:",
                   "safety_number", **fields),
            *(notice("    " + " ".join(row)) for row in rows),
            notice(f"the same on both screens? /verify {name} yes; or paste it: "
                   f"/verify {name} NUMBER"),
        ]  # fmt: skip

    def show_number_as_qr(self, fingerprint: bytes) -> Effects:
        """The same for a camera: what it reads is what is pasted on the other side."""
        rows = qr_rows(safety_number(self._roster.our.fingerprint, fingerprint).replace(" ", ""))
        if not rows:
            return [error("a QR code needs the package segno: pip install 'chainroom[qr]'")]
        return [notice("\n".join([f"what {self._roster.name(fingerprint)} compares:", *rows]))]

    def verify(self, fingerprint: bytes, said: str) -> tuple[Effects, bool]:
        """What the person says of the number: `yes`, `no`, or what the other one sees.

        Returns:
            what follows, and whether the key is known to be right by it.
        """
        name = self._roster.name(fingerprint)
        fields = {"name": name, "fingerprint": fingerprint.hex()}
        if said.lower() in ("no", "off"):
            if not self._pins.is_verified(fingerprint):
                return [notice(f"{name} is not verified")], False
            self._pins.unverify(fingerprint)
            self._roster.forget_names()
            name = fields["name"] = self._roster.name(fingerprint)
            text = f"{name} is verified no longer"
            unverified = record(EventKind.UNVERIFIED, fingerprint)
            return [unverified, notice(text, "unverified", **fields)], False
        if said.lower() == "yes":
            if fingerprint not in self._numbers_shown:
                # A name may mean somebody else than it did a minute ago.
                return [*self.show_number(fingerprint)], False
        else:
            number = safety_number(self._roster.our.fingerprint, fingerprint)
            is_same = same_number(said, number)
            if is_same is None:
                text = "that is no safety number, which has 60 digits"
                return [error(f"{text}: /verify {name} NUMBER, or yes, or no")], False
            if not is_same:
                text = (
                    f"NO MATCH: that is not the number of you and {name}. Nothing was changed. "
                    "Compare it by voice: if it differs, somebody reads along"
                )
                return [alert(text, "no_match", **fields)], False
        if self._pins.is_verified(fingerprint):
            return [notice(f"{name} is verified already")], True
        self._pins.verify(fingerprint)
        self._roster.forget_names()
        name = fields["name"] = self._roster.name(fingerprint)
        verified = record(EventKind.VERIFIED, fingerprint)
        text = f"{name} is verified: this name stands without a tag for that key alone"
        return [verified, notice(text, "verified", **fields)], True

    def show_key(self, fingerprint: bytes, of: str) -> Effects:
        """A fingerprint in full."""
        digits = fingerprint.hex()
        groups = [digits[i : i + _KEY_DIGITS] for i in range(0, len(digits), _KEY_DIGITS)]
        return [notice(f"fingerprint of {of}: {' '.join(groups)}")]
