"""Writes tests/vectors/proof.json: proof files, good and bad, with what MUST come out, and why.

    PYTHONPATH=. python tests/make_vectors_proof.py

Made with Chainroom's own code and random keys, so that it is another file on each run; it is there
for other people's verifiers, written from docs/CHAIN_FORMAT.md 9.  A case is {"why": the rule,
"exit": 0, 4 or 6, "file": hex} and, of a good one, "owner" and "witnesses", "messages", the counts
of 9.4.  People are [nick, fingerprint], witnesses [nick, fingerprint, index, messages], messages
[index, nick, fingerprint, text or null, is private].
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proofs import NOW, PRIVATE, ZEROS, Owner, Parts, Speaker, rechained, resigned
from simulated_room import LOBBY

from blockchain import Block, BlockType
from chat_memory import kept_of
from chat_messages import Witness as WitnessPayload
from chat_proof import Report, check_proof, make_proof
from chat_wire import Label

PATH = Path(__file__).parent / "vectors" / "proof.json"


@dataclass(frozen=True)
class Case:
    why: str
    data: bytes
    exit_code: int = 4


def outcome(report: Report) -> dict[str, Any]:
    """What a good file says, as 9.4 names it."""

    def person(who: Any) -> list[Any]:
        return [who.nick if who.nick != "?" else "", who.fingerprint.hex()]

    return {
        "owner": person(report.owner),
        "chain_id": report.chain_id.hex(),
        "blocks": report.blocks,
        "head": report.head_hash.hex(),
        "messages": [[m.index, *person(m.author), m.text, m.is_private] for m in report.messages],
        "witnesses": sorted([*person(w.who), w.index, w.entries] for w in report.witnesses),
        "undisclosed": report.undisclosed,
        "erased": report.erased,
        "late": report.late,
        "unseen": report.unseen,
        "forks": sorted(person(who) for who in report.forks),
    }


def good(folder: Path) -> Iterator[Case]:
    """Files that prove something."""
    bob, carol = Speaker("bob"), Speaker("carol")
    with Owner("alice", folder / "nothing", finding="EDITED@7: block 7 was changed") as alice:
        data = make_proof(alice.chain, nick="")
        yield Case("nothing was said; a finding about the chain before", data, 0)
    with Owner("alice", folder / "all") as alice:
        alice.addresses(alice, bob)
        alice.says("hello")
        heard = alice.hears(bob, "hi, 你好")
        alice.hears(bob, "psst", tag=PRIVATE)
        alice.is_acked_by(carol, 3)
        alice.says("how are you?", seen=heard.entry_id)
        alice.is_acked_by(bob, 5)
        data = make_proof(alice.chain, nick="")
        yield Case("all is disclosed; two witnesses, of which neither has the last block", data, 0)
        data = make_proof(alice.chain, nick="", only=lambda block, _: block.index == heard.index)
        yield Case("one message is disclosed", data, 0)
        alice.chain.forget(heard.index, NOW, kept_of(alice.chain.record(heard)))
        alice.chain.forget(heard.index + 1, NOW)
        data = make_proof(alice.chain, nick="")
        yield Case("two texts are erased; of one it stays known whose it was", data, 0)
    bob = Speaker("bob")
    with Owner("alice", folder / "order") as alice:
        alice.meets(bob.bundle)
        early, question = bob.entry("early"), alice.entry("well?")
        late = bob.entry("late", seen=question.entry.entry_id)
        for signed in (late, early):
            alice.keeps(BlockType.RECEIVED, signed, bob)
        bob.entry("lost")
        alice.keeps(BlockType.RECEIVED, bob.entry("far"), bob)
        alice.keeps(BlockType.RECEIVED, bob.entry("fork", seq=1, previous=ZEROS), bob)
        alice.keeps(BlockType.SENT, question, alice)
        yield Case("late ones, a gap and a fork", make_proof(alice.chain, nick=""), 0)
    with Owner("alice", folder / "acks") as alice:
        blocks = [alice.says(text) for text in ("one", "two", "three", "four")]
        alice.is_acked_by(bob, -1, missing=(3,))
        hidden = blocks[0].index
        data = make_proof(alice.chain, nick="", only=lambda block, _: block.index != hidden)
        yield Case("an ack of messages alone, with one missing and one not disclosed", data, 0)
        head = alice.head_at(2)
        payload = WitnessPayload.create(
            carol.session_key, carol.session_id, LOBBY.tag, alice.session_id, head
        )
        handed = ((carol.bundle.raw, payload.serialize()),)
        yield Case("a head handed back", resigned(data, alice, statements=handed), 0)
        yield Case("a name of the owner's choice", resigned(data, alice, nick="é".encode()), 0)


def bad(folder: Path) -> Iterator[Case]:
    """Files that prove nothing."""
    bob, carol = Speaker("bob"), Speaker("carol")
    with Owner("alice", folder / "other") as other:
        other.says("from elsewhere")
        elsewhere = Parts.of(make_proof(other.chain, nick="")).rows
        foreign_ack = bob.ack(other.report())
    with Owner("alice", folder / "bad") as alice:
        said = alice.says("hello")
        heard = alice.hears(bob, "hi")
        alice.is_acked_by(bob)
        data = make_proof(alice.chain, nick="")
        parts = Parts.of(data)

        def changed(**fields: Any) -> bytes:
            return resigned(data, alice, **fields)

        def disclosing(index: int, record: bytes) -> bytes:
            return changed(records=tuple(sorted((dict(parts.records) | {index: record}).items())))

        def stating(witness: Speaker, payload: bytes) -> bytes:
            return changed(statements=((witness.bundle.raw, payload),))

        yield Case("cut off", data[:-1], 6)
        yield Case("a byte behind the end", data + b"\0", 6)
        yield Case("another version", replace(parts, version=2).signed_by(alice), 6)
        yield Case("no proof", b"hello\n", 6)
        at = len(replace(parts, rows=(), records=(), statements=()).unsigned()) - 12
        yield Case("a count of 4 billion rows", data[:at] + b"\xff" * 4 + data[at + 4 :], 6)
        yield Case("signed by somebody else", parts.signed_by(bob))
        yield Case("a text that somebody swapped", data.replace(b"hello", b"jello"))
        key = carol.keys.chain_signing_key.public
        stolen = replace(parts, genesis=parts.genesis[:424] + key + parts.genesis[456:])
        yield Case("a chain key without certificate", stolen.signed_by(carol))
        yield Case("no row", changed(rows=()))
        yield Case("a name outside the grammar", changed(nick=b"two words"))
        yield Case("a row of another chain", changed(rows=(*parts.rows, elsewhere[1])))
        yield Case("a row twice", changed(rows=(*parts.rows, parts.rows[-1])))
        yield Case("two rows swapped", changed(rows=(*parts.rows[:3], *parts.rows[:2:-1])))
        unsigned = (*parts.rows[:2], parts.rows[2][:150] + bytes(64), *parts.rows[3:])
        yield Case("an old row that is not signed", changed(rows=unsigned))

        def cheap(block: Block) -> Block:
            return replace(block, difficulty=0) if block.index == said.index else block

        def dated(block: Block) -> Block:
            return replace(block, timestamp_ms=NOW - 1)

        yield Case(
            "no proof of work", rechained(resigned(data, alice, statements=()), alice, cheap)
        )
        yield Case("written anew, and the witness is still there", rechained(data, alice, dated))
        shorter = changed(
            rows=parts.rows[:-1], records=tuple(r for r in parts.records if r[0] < heard.index)
        )
        yield Case("the last block is cut off, and the witness is still there", shorter)
        swapped = dict(parts.records)[said.index].replace(b"hello", b"jello")
        yield Case("another text of the owner's making", disclosing(said.index, swapped))
        swapped = bob.entry("ho").serialize()
        yield Case("another text of its author's", disclosing(heard.index, swapped))
        posing = Speaker("carol")
        posing.session_key, posing.session_id = bob.session_key, bob.session_id
        (met, event) = next((i, r) for i, r in parts.records if bob.bundle.raw in r)
        event = event[:17] + posing.called("carol").raw
        yield Case("another author's bundle", disclosing(met, event))
        left = tuple(r for r in parts.records if r[0] != met)
        yield Case("no bundle", changed(records=left))
        yield Case("a record twice", changed(records=(*parts.records, parts.records[-1])))
        yield Case("a record of no block", changed(records=(*parts.records, (99, b""))))
        yield Case("an ack of another chain", stating(bob, foreign_ack.serialize()))
        (_, payload) = parts.statements[0]
        yield Case("an ack that is not signed", stating(bob, payload[:-64] + bytes(64)))
        yield Case("an ack of another's session", stating(carol, payload))
        ack = bob.ack(replace(alice.report(), seq=9))
        yield Case("an ack that gives a message another seq", stating(bob, ack.serialize()))
        ack = bob.ack(replace(alice.report(-1), entry_id=heard.entry_id))
        yield Case("an ack of a message that is not the owner's", stating(bob, ack.serialize()))
        ack = alice.ack(alice.report())
        yield Case("the owner as a witness", stating(alice, ack.serialize()))
        yield Case("an ack twice", changed(statements=parts.statements * 2))
        head = replace(alice.head_at(2), index=3)
        handed = WitnessPayload.create(
            bob.session_key, bob.session_id, LOBBY.tag, alice.session_id, head
        )
        yield Case("a head that the owner never signed", stating(bob, handed.serialize()))
    yield from misattributed(folder)


def misattributed(folder: Path) -> Iterator[Case]:
    """Chains that were wrong from the start."""
    bob = Speaker("bob")
    with Owner("alice", folder / "forged") as alice:
        alice.meets(bob.bundle)
        signed = bob.entry("I owe alice 100 coins")
        signature = alice.session_key.sign(Label.ENTRY_SIG, signed.entry.head)
        alice.keeps(BlockType.RECEIVED, replace(signed, signature=signature), bob)
        yield Case("words that their author did not sign", make_proof(alice.chain, nick=""))
    with Owner("alice", folder / "twice") as alice:
        alice.meets(bob.bundle)
        yes = bob.entry("yes")
        for _ in range(2):
            alice.keeps(BlockType.RECEIVED, yes, bob)
        yield Case("a message in two blocks", make_proof(alice.chain, nick=""))
    with Owner("alice", folder / "own") as alice:
        alice.keeps(BlockType.SENT, bob.entry("I am alice"), bob)
        yield Case("an own message that another wrote", make_proof(alice.chain, nick=""))
    with Owner("alice", folder / "kept") as alice:
        heard = alice.hears(bob, "one")
        alice.chain.forget(heard.index, NOW, kept_of(bob.entry("two").serialize()))
        yield Case("another message than the erased one", make_proof(alice.chain, nick=""))


def load() -> list[dict[str, Any]]:
    """The cases that are written."""
    cases: list[dict[str, Any]] = json.loads(PATH.read_text("ascii"))["cases"]
    return cases


def main() -> None:
    """Writes the file; the program must agree already."""
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in (*good(Path(folder)), *bad(Path(folder))):
            report = check_proof(case.data)
            assert report.exit_code == case.exit_code, (case.why, report.problem)
            row = {"why": case.why, "exit": case.exit_code, "file": case.data.hex()}
            cases.append(row if case.exit_code else row | outcome(report))
    text = json.dumps({"cases": cases}, indent=0, ensure_ascii=True)
    PATH.write_text(text + "\n", "ascii")
    print(f"{PATH}: {len(cases)} cases, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
