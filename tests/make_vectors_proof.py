"""Writes tests/vectors/proof.json: proof files, good and bad, with what MUST come out, and why.

    PYTHONPATH=. python tests/make_vectors_proof.py

Made with Chainroom's own code and random keys, so that it is another file on each run; it is there
for other people's verifiers, written from docs/CHAIN_FORMAT.md 9.  A case is {"why": the rule,
"exit": 0, 4 or 6, "file": base64} and, of a good one, "owner" and "witnesses", "messages", the
counts of 9.4.  People are [nick, fingerprint], witnesses [nick, fingerprint, index, messages],
messages [index, nick, fingerprint, text or null, is private].  Of the bad ones nearly each breaks
one rule alone, so that a verifier without that rule is found out; the limits of 2,048 witnesses and
of a bundle's length are not among them (a file of 5 MB; no bundle reaches it).
"""

from __future__ import annotations

import json
import os
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import rsa_pool
from forged_proofs import Case, forged_cases
from proofs import NOW, PRIVATE, ZEROS, Owner, Parts, Speaker, rechained, resigned
from simulated_room import LOBBY

from blockchain import Block, BlockType
from chat_memory import kept_of
from chat_messages import Witness as WitnessPayload
from chat_proof import Report, check_proof, make_proof
from chat_wire import Label

PATH = Path(__file__).parent / "vectors" / "proof.json"


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


def attacks(folder: Path) -> Iterator[Case]:
    """What a dishonest owner, or who has his file, may try; all else is in `forged_proofs`."""
    bob = Speaker("bob")
    with Owner("alice", folder / "bad") as alice:
        said = alice.says("hello")
        heard = alice.hears(bob, "hi")
        alice.is_acked_by(bob)
        data = make_proof(alice.chain, nick="")
        parts = Parts.of(data)
        swapped = tuple((i, r.replace(b"hello", b"jello")) for i, r in parts.records)
        yield Case("a text that the owner swapped", resigned(data, alice, records=swapped))

        def dated(block: Block) -> Block:
            later = block.index >= said.index
            return replace(block, timestamp_ms=NOW - 1) if later else block

        yield Case("written anew, and the witness is still there", rechained(data, alice, dated))
        left = tuple(r for r in parts.records if r[0] < heard.index)
        cut = resigned(data, alice, rows=parts.rows[:-1], records=left)
        yield Case("the last block is cut off, and the witness is still there", cut)
    with Owner("alice", folder / "forged") as alice:
        alice.meets(bob.bundle)
        signed = bob.entry("I owe alice 100 coins")
        signature = alice.session_key.sign(Label.ENTRY_SIG, signed.entry.head)
        alice.keeps(BlockType.RECEIVED, replace(signed, signature=signature), bob)
        yield Case("words that their author did not sign", make_proof(alice.chain, nick=""))
    with Owner("alice", folder / "kept") as alice:
        heard = alice.hears(bob, "one")
        alice.chain.forget(heard.index, NOW, kept_of(bob.entry("two").serialize()))
        yield Case("another message than the erased one", make_proof(alice.chain, nick=""))


def load() -> list[dict[str, Any]]:
    """The cases that are written; "file" is bytes."""
    cases: list[dict[str, Any]] = json.loads(PATH.read_text("ascii"))["cases"]
    return [case | {"file": b64decode(case["file"])} for case in cases]


def main() -> None:
    """Writes the file; the program must agree already."""
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault(rsa_pool.FOLDER, folder)
        for case in (*good(Path(folder)), *attacks(Path(folder)), *forged_cases()):
            report = check_proof(case.data)
            assert report.exit_code == case.exit_code, (case.why, report.problem)
            row = {"why": case.why, "exit": case.exit_code, "file": b64encode(case.data).decode()}
            cases.append(row if case.exit_code else row | outcome(report))
    text = json.dumps({"cases": cases}, indent=0, ensure_ascii=True)
    PATH.write_text(text + "\n", "ascii")
    print(f"{PATH}: {len(cases)} cases, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
