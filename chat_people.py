"""What the person asks and decides about others: who is here, whose key is right, who is ignored.

What lives here: the commands that name people, and who is ignored.  What it does not know: what
follows for keys, feeds and frames (`chat_session`, which owns it), what is believed of a key
(`chat_trust`).

    people = People(roster, trust, ignored)
    effects, accepted = people.command("accept", "bob")
    person = people.one("bob#7f3a")             # a fingerprint, or the line that says why not

Specified in docs/PROTOCOL.md 4.11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chat_effects import Effects, Show, error, notice, record
from chat_feeds import TheirFeed
from chat_messages import AUDIENCE_ITEM_BYTES, Bundle, EventKind, audience_items
from chat_roster import Roster
from chat_trust import Trust

__all__ = ["COMMANDS", "People"]

COMMANDS = ("ignore", "verify", "accept", "key")


class People:
    """One run's members, as the person speaks of them."""

    def __init__(self, roster: Roster, trust: Trust, ignored: Iterable[bytes]) -> None:
        self.ignored = set(ignored)  # fingerprints
        self._roster = roster
        self._trust = trust

    def without(self) -> set[bytes]:
        """Fingerprints of those who may read nothing of ours: ignored, or of a doubted key."""
        return self.ignored | self._trust.withheld()

    def one(self, name: str, strangers: Iterable[bytes] = ()) -> bytes | Show:
        """The one person that a typed name means, or the line that says why there is none.

        Args:
            strangers: fingerprints that may be meant too, whether we met them here or not.
        """
        found = self._roster.find(name, strangers)
        # A verified person's name may stand without a tag; typed so, it means nobody else.
        return self._only(name, [f for f in found if self._roster.name(f) == name] or found)

    def _only(self, name: str, found: list[bytes]) -> bytes | Show:
        if len(found) == 1:
            return found[0]
        if not found:
            return error(f"there is nobody called {name} here: /who lists everybody")
        return error(f"which {name}? {', '.join(self._names(found))}")

    def _names(self, people: Iterable[bytes]) -> list[str]:
        return sorted(map(self._roster.name, people))

    def command(self, name: str, argument: str) -> tuple[Effects, list[Bundle]]:
        """One of COMMANDS.

        Returns:
            what follows, and the live sessions whose key is doubted no longer.
        """
        match name:
            case "ignore":
                return self._ignore(argument), []
            case "verify":
                return self._verify(argument)
            case "accept":
                return self._accept(argument)
            case _:
                return self._show_key(argument), []

    def _ignore(self, argument: str) -> Effects:
        if not argument:
            names = ", ".join(self._names(self.ignored))
            return [notice(f"you ignore {names}" if names else "you ignore nobody")]
        name, *rest = argument.split()
        off = bool(rest)
        if off and [word.lower() for word in rest] != ["off"]:
            return [error("say it like this: /ignore NAME, or /ignore NAME off")]
        # Whoever is ignored can be taken back wherever we met him.
        person = self.one(name, self.ignored if off else ())
        if isinstance(person, Show):
            return [person]
        name = self._roster.name(person)
        if off == (person not in self.ignored):
            return [notice(f"you do not ignore {name}" if off else f"you ignore {name} already")]
        effects: Effects = [record(EventKind.UNIGNORE if off else EventKind.IGNORE, person)]
        if off:
            self.ignored.discard(person)
            text = f"you no longer ignore {name}: what {name} says from here on is shown"
        else:
            self.ignored.add(person)
            text = (
                f"you ignore {name}: nothing of {name} is shown, and {name} can read nothing "
                "that you say from here on"
            )
        event = "ignored_no_longer" if off else "ignored"
        return [*effects, notice(text, event, name=name, fingerprint=person.hex())]

    def _verify(self, argument: str) -> tuple[Effects, list[Bundle]]:
        name, *rest = argument.split(maxsplit=1) or [""]
        if not name:
            return [error("say it like this: /verify NAME")], []
        person = self.one(name)
        if isinstance(person, Show):
            return [person], []
        if not rest:
            return self._trust.show_number(person), []
        if rest[0].lower() == "qr":
            return self._trust.show_number_as_qr(person), []
        effects, is_right = self._trust.verify(person, rest[0])
        if not is_right or person not in self._trust.withheld():
            return effects, []
        accepted, bundles = self._trust.accept(person)
        return effects + accepted, bundles

    def _accept(self, argument: str) -> tuple[Effects, list[Bundle]]:
        withheld = self._trust.withheld()
        found = [f for f in self._roster.find(argument) if f in withheld]
        if not found:
            names = ", ".join(self._names(withheld))
            whose = f"whose key is: {names}" if names else "nobody's key is waiting for that"
            return [error(f"say it like this: /accept NAME; {whose}")], []
        person = self._only(argument, found)
        if isinstance(person, Show):
            return [person], []
        if person in self.ignored:
            name = self._roster.name(person)
            return [error(f"you ignore {name}: /ignore {name} off comes first")], []
        return self._trust.accept(person)

    def _show_key(self, argument: str) -> Effects:
        if not argument:
            us = self._roster.our.fingerprint
            return self._trust.show_key(us, f"{self._roster.name(us)} (you)")
        person = self.one(argument)
        if isinstance(person, Show):
            return [person]
        return self._trust.show_key(person, self._roster.name(person))

    def who(self, feeds: Mapping[bytes, TheirFeed], *, joined: bool) -> Effects:
        """Everybody who is here, with what there is to say of each.

        Args:
            feeds: in the room, by session_id.
            joined: whether we are in the room.
        """
        us = self._roster.our.fingerprint
        our_name = self._roster.name(us)
        effects: Effects = [notice(f"{our_name} (you)")]
        for person in self._roster.people():
            sessions = self._roster.sessions_of(person)
            remarks = []
            if not any(b.session_id in self._roster.present for b in sessions):
                remarks.append("not confirmed to be here yet")
            if person in self.ignored:
                remarks.append("ignored")
            if remark := self._trust.remark(person):
                remarks.append(remark)
            remarks += self._audience_remarks(sessions[-1], feeds)
            remark = f" ({'; '.join(remarks)})" if remarks else ""
            effects.append(notice(self._roster.name(person) + remark))
        if self._roster.sessions_of(us):
            effects.append(notice(f"{our_name} (another session under your own identity)"))
        if not joined:
            effects.append(notice("not connected: who is in the room is not known"))
        return effects

    def _audience_remarks(self, bundle: Bundle, feeds: Mapping[bytes, TheirFeed]) -> list[str]:
        """How the list of who may read that member's messages differs from ours."""
        feed = feeds.get(bundle.session_id)
        if feed is None or not feed.audience:
            return []
        size, theirs = AUDIENCE_ITEM_BYTES, set(audience_items(feed.audience))
        others = [f for f in self._roster.people() if f != bundle.fingerprint]
        known = {f[:size] for f in self._roster.known}
        without = [self._roster.name(f) for f in others if f[:size] not in theirs]
        remarks = [f"does not write to {', '.join(without)}"] if without else []
        if strangers := len(theirs - known):
            remarks.append(f"also writes to {strangers} you have not met")
        return remarks
