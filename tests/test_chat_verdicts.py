"""chat_verdicts: every change of a chain is named, where it is, by two verifiers alike.

`make_vectors_chain` is a second writer and a second verifier, made from docs/CHAIN_FORMAT.md alone;
what the two must agree on is in vectors/chain.json.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

import make_vectors_chain as reference
import make_vectors_crypto
import pytest
from chains import (
    BASE,
    NOW,
    PARTS,
    RECEIVED,
    ROOT,
    VECTORS,
    Row,
    database,
    draft,
    flipped,
    keystore,
    named,
    rows_of,
    stored,
    value,
    verdicts,
)
from hypothesis import given
from hypothesis import strategies as st

from blockchain import Blockchain, Finding, Head, Verdict
from chat_audit import audit
from chat_blocks import HEADER_BYTES
from chat_wire import H, Label, u64

pytestmark = pytest.mark.timeout(60)

# --------------------------------------------------------------------------------------------------
# vectors


@pytest.mark.parametrize("case", VECTORS["cases"], ids=named)
def test_two_verifiers_say_of_a_vector_what_it_says(case: dict[str, Any]) -> None:
    with database(rows_of(case)) as connection:
        ours, quick, theirs = verdicts(connection, bytes.fromhex(case["chain_id"]))
        verdict = Blockchain(connection, keystore().with_chain(value(case["chain_id"]))).verify()
    assert ours == theirs == case["expect"]
    assert quick == case.get("quick", ours)
    assert verdict.exit_code == case["exit"]
    assert verdict.sentence


@pytest.mark.parametrize("case", [c for c in VECTORS["cases"] if "head" in c], ids=named)
def test_two_verifiers_say_of_a_witnessed_head_what_its_vector_says(
    path: Path, case: dict[str, Any]
) -> None:
    index, parts = case["head"]["index"], [value(case["head"][n]) for n in ("hash", "signature")]
    with stored(path, case) as (chain, connection):
        ours = chain.compare(Head(value(case["chain_id"]), index, *parts), "bob")
        head = reference.Head(value(case["chain_id"]), index, *parts)
        theirs = reference.compare(connection, value(VECTORS["csk"]), head)
    assert str(ours) == theirs == case["witnessed"]
    assert (ours.finding is Finding.OK) or "bob" in ours.sentence


@pytest.mark.parametrize("case", [c for c in VECTORS["cases"] if "deep" in c], ids=named)
def test_two_verifiers_say_of_the_authors_what_a_vector_says(
    path: Path, case: dict[str, Any]
) -> None:
    keys = (value(VECTORS[name]) for name in ("cdk", "identity_spki", "csk"))
    with stored(path, case) as (chain, connection):
        assert str(audit(chain)) == reference.deep(connection, *keys) == case["deep"]


def test_the_vectors_are_what_their_script_makes() -> None:
    assert reference.PATH.read_text("ascii") == reference.text()


def test_every_finding_has_a_vector() -> None:
    verdicts = {c.get(by) for c in VECTORS["cases"] for by in ("expect", "witnessed", "deep")}
    assert {v.split("@")[0] for v in verdicts if v} == {f.name for f in Finding}


def test_the_second_verifier_imports_nothing_of_chainroom() -> None:
    ours = {file.stem for file in ROOT.glob("*.py")}
    for script in (reference, make_vectors_crypto):
        tree = ast.parse(Path(script.__file__ or "").read_text("utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not names & ours


# --------------------------------------------------------------------------------------------------
# verdicts


@pytest.mark.parametrize("i", range(5))
def test_a_flip_of_any_byte_of_a_block_names_that_block(i: int) -> None:
    """In header, signature and body; each bit of a byte has its turn.  The quick check finds the
    same, but for an old signature."""
    rows = rows_of(BASE)
    with database(rows) as connection:
        chain = Blockchain(connection, keystore().with_chain(value(BASE["chain_id"])))
        assert chain.is_chain_valid()
        for name, part in PARTS.items():
            whole: bytes = rows[i][part]
            for at in range(len(whole)):
                changed = (flipped(whole, at, at % 8), i)
                connection.execute(f"UPDATE blocks SET {name} = ? WHERE idx = ?", changed)
                verdict, quick = chain.verify(), chain.verify(signatures=False)
                assert not verdict.ok, (name, at)
                assert verdict.index == i, (name, at, verdict)
                if name == "signature" and i < 4:
                    assert (str(verdict), str(quick)) == (f"FORGED@{i}", "OK")
                else:
                    assert quick == verdict
                if name == "body":
                    assert verdict.finding is Finding.EDITED
            connection.execute(f"UPDATE blocks SET {name} = ? WHERE idx = ?", (whole, i))
        assert chain.is_chain_valid()


anything = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=4),
)

places = st.integers(0, 6)

parts = st.sampled_from(["header", "signature", "body"])

changes = st.one_of(
    st.tuples(st.just("value"), places, parts, anything),
    st.tuples(st.just("idx"), places, anything),
    st.tuples(st.just("flip"), places, parts, st.integers(0, 2000), st.integers(0, 7)),
    st.tuples(st.just("swap"), places, places),
    st.tuples(st.just("delete"), places),
    st.tuples(st.just("zero"), places, st.integers(0, 400)),
    st.tuples(st.just("refer"), places, st.integers(0, 8)),
    st.tuples(st.just("repeat"), places, st.integers(-2, 7)),
    st.tuples(st.just("sign"), places, st.booleans()),
    st.tuples(st.just("rehash"), places),
    st.tuples(st.just("relink"), places),
    st.tuples(st.just("other"), places, st.sampled_from([1, 2, 3])),
)


def apply(rows: list[Row], change: tuple[Any, ...]) -> None:
    """What somebody with the file, and maybe the keys, does to it."""
    what, i, *more = change
    if i >= len(rows):
        return
    row = rows[i]
    match what, *more:
        case "value", name, new:
            row[PARTS[name]] = new
        case "idx", new:
            row[0] = new
        case "flip", name, at, bit:
            old = row[PARTS[name]]
            if isinstance(old, bytes) and old:
                row[PARTS[name]] = flipped(old, at % len(old), bit)
        case "swap", other if other < len(rows):
            row[1:], rows[other][1:] = rows[other][1:], row[1:]
        case ("delete",):
            del rows[i]
        case "repeat", idx:
            rows.append([idx, *row[1:]])
        case "zero", size:
            row[3] = bytes(size)
        case "other", part:
            row[part] = reference.CHAINS.other.rows[i % 5][part]
    header, body = row[1], row[3]
    if not (isinstance(header, bytes) and isinstance(body, bytes) and len(header) == HEADER_BYTES):
        return
    before = rows[i - 1][1] if i and isinstance(rows[i - 1][1], bytes) else b""
    match what, *more:
        case "sign", is_ours:
            person = reference.ALICE if is_ours else reference.BOB
            row[2] = reference.sign(person.csk_seed, header)
        case "refer", index:
            row[1] = header[:142] + u64(index)
        case ("rehash",):
            row[1] = header[:70] + hashlib.sha256(body).digest() + header[102:]
        case ("relink",):
            row[1] = header[:30] + H(Label.BLOCK, before) + header[62:]


(FORGOTTEN,) = (c for c in VECTORS["cases"] if c["why"].startswith("two texts erased"))


@given(st.lists(changes, max_size=6), st.sampled_from([BASE, FORGOTTEN]), st.booleans())
def test_two_verifiers_agree_on_whatever_was_done_to_a_chain(
    done: list[tuple[Any, ...]], case: dict[str, Any], is_any_chain: bool
) -> None:
    rows = rows_of(case)
    chain_id = bytes(16) if is_any_chain else value(case["chain_id"])
    for change in done:
        apply(rows, change)
    with database(rows) as connection:
        ours, quick, theirs = verdicts(connection, chain_id)
        left = [list(row) for row in connection.execute("SELECT * FROM blocks ORDER BY idx")]
    assert ours == theirs
    if ours == "OK" and ("sign", True) not in [(what, more[-1]) for what, *more in done]:
        # Without the key all is as it was, or the last blocks are gone; zeros are as good as none.
        for row, before in zip(left, rows_of(case), strict=False):
            assert row[:3] == before[:3]
            assert row[3] == before[3] or not (any(row[3]) or any(before[3]))
    if quick != ours:  # an old signature was altered, and maybe something behind it
        assert ours.startswith("FORGED@")
        assert quick == "OK" or int(quick.split("@")[1]) > int(ours.split("@")[1])


# --------------------------------------------------------------------------------------------------
# in slices


def test_a_verification_in_slices_says_the_same_while_the_chain_grows(chain: Blockchain) -> None:
    chain.append([draft(number, RECEIVED) for number in range(20)], NOW)
    seen: list[Verdict | None] = []
    for verdict in chain.verification(slice_blocks=5):
        seen.append(verdict)
        if len(seen) in (1, 3):
            chain.add_block(draft(30 + len(seen)), NOW)
            chain.forget(len(seen) + 3, NOW)
    assert seen[:-1] == [None] * (len(seen) - 1)
    assert seen[-1] == Verdict(Finding.OK, 28)
    assert len(seen) > 4


@pytest.mark.parametrize("size", range(1, 8))
def test_slices_of_any_size_find_the_same(chain: Blockchain, size: int) -> None:
    def last(**how: Any) -> Verdict | None:
        return list(chain.verification(slice_blocks=size, **how))[-1]

    assert last() == last(signatures=True) == Verdict(Finding.OK, 4)
    chain._db.execute("UPDATE blocks SET body = x'00' WHERE idx = 2")
    assert last() == last(signatures=True) == Verdict(Finding.EDITED, 2)


def test_a_verification_can_begin_behind_what_is_known_to_be_whole(chain: Blockchain) -> None:
    for start in (*range(6), 2**64):
        assert chain.verify(start=start) == Verdict(Finding.OK, 4)
    chain._db.execute("UPDATE blocks SET body = x'00' WHERE idx = 1")
    for start, expected in enumerate(["EDITED@1", "EDITED@1", "OK", "OK", "OK", "EDITED@1"]):
        assert str(chain.verify(start=start)) == expected
        assert str(chain.verify(start=start, signatures=False)) == expected
    chain._db.execute("UPDATE blocks SET header = x'00' WHERE idx = 1")
    assert str(chain.verify(start=2)) == "UNREADABLE@1", "what cannot be read is not trusted"


def test_progress_is_told_now_and_then(chain: Blockchain) -> None:
    chain.append([draft(number, RECEIVED) for number in range(1100)], NOW)
    told: list[int] = []
    chain.verify(signatures=False, progress=told.append)
    assert told == [1000]


def test_a_verdict_says_what_where_and_what_is_left_since_when(chain: Blockchain) -> None:
    chain.append([draft(4, RECEIVED)], NOW + 3_600_000)
    for i in range(5):
        chain._db.execute("SAVEPOINT before")
        chain._db.execute("UPDATE blocks SET body = x'00' WHERE idx = ?", (i,))
        verdict = chain.verify()
        assert verdict.sentence.startswith(f"block {i} was changed after it was written; ")
        assert verdict.sentence.endswith(
            {
                0: "no block can be relied on",
                1: "block 0 is whole, of 2023-11-14 22:13 UTC",
            }.get(i, f"blocks 0 to {i - 1} are whole, the last of them of 2023-11-14 22:13 UTC")
        )
        chain._db.execute("ROLLBACK TO before")
    assert Verdict(Finding.EDITED, 3, good_ms=2**64 - 1).sentence


def test_no_two_findings_are_told_alike() -> None:
    for index in (0, 1, 17):
        told = {Verdict(finding, index, "bob", 20).sentence for finding in Finding}
        assert len(told) == len(Finding)
        assert not any("{" in sentence or "\n" in sentence for sentence in told)
    tampering = [v for f in Finding if (v := Verdict(f)).exit_code == 4]
    assert not any("read" in verdict.sentence for verdict in tampering)


def test_a_verdict_reads_like_this() -> None:
    assert str(Verdict(Finding.EDITED, 17)) == "EDITED@17"
    assert (str(Verdict(Finding.OK, 3)), Verdict(Finding.OK, 3).exit_code) == ("OK", 0)
    assert Verdict(Finding.OK, 3).sentence == "3 blocks, each as it was written"
    assert Verdict(Finding.OK, 1).sentence == "1 block, each as it was written"
    codes = {finding: Verdict(finding).exit_code for finding in Finding}
    assert [f for f, code in codes.items() if code == 6] == [Finding.UNREADABLE]
    assert [f for f, code in codes.items() if code == 0] == [Finding.OK]
    assert set(codes.values()) == {0, 4, 6}
