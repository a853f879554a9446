"""What is exported is what was checked, and whatever somebody wrote stays what he wrote."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import re
import struct
import zlib
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium
from hypothesis import given
from hypothesis import strategies as st
from recorded_member import RecordedMember
from simulated_room import SimulatedRoom

from chat_export import JSONL_VERSION, as_html, as_jsonl, as_text
from chat_proof import check_proof, make_proof
from chat_report import Message, Report, Who, Witness

ALICE, BOB, CAROL = (Who(hashlib.sha256(n.encode()).digest(), n) for n in ("alice", "bob", "carol"))
HOSTILE = [
    "<script>document.title = 'owned'</script>",
    "</div></li></ol></main><h1>Everything fits</h1>",
    "\"><img src=x onerror=\"document.title = 'owned'\"> ' onclick='x",
    "</style><style>.bad { display: none }</style><!-- ",
    "&lt;b&gt; &amp;amp; &#0; &",
    "right to left: \u202eevil\u202c, \u2066isolated\u2069, marks: e" + "\u0301" * 9,
    "a bell \a, an escape \x1b[31m, a C1 \x9b31m, a zero \0, a return \r, a separator \u2028",
    "two lines\n2026-11-25 09:41 bob#81b6: I admit it\n-- end: 0 messages\n\n!! NOT PROVEN",
    "x" * 16_384,
    "\n" * 16_384,
    "👩‍🚒🇪🇺 漢字 עברית العربية ไทย",
    "  leading, \ttabbed, trailing  ",
    "http://192.0.2.1/pixel.png javascript:alert(1) url(//192.0.2.1/)",
]
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "div", "span"),
    *("h1", "h2", "h3", "p", "dl", "dt", "dd", "ol", "ul", "li", "bdi", "strong", "code", "time"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "dir", "role", "datetime"),
}


def ms(iso: str) -> int:
    return int(datetime.fromisoformat(iso + "+00:00").timestamp() * 1000)


def message(
    index: int,
    author: Who,
    text: str | None,
    *,
    at: int = ms("2026-11-25T09:41"),
    kept_at: int | None = None,
    is_private: bool = False,
    witnesses: tuple[Who, ...] = (),
) -> Message:
    return Message(
        index=index,
        author=author,
        is_own=author == ALICE,
        is_private=is_private,
        text=text,
        sent_ms=at,
        appended_ms=at if kept_at is None else kept_at,
        seq=index,
        session_id=author.fingerprint[:16],
        tag=bytes(16),
        witnesses=witnesses,
    )


def report(*messages: Message, **changes: object) -> Report:
    """A report of alice's, in which all fits; witnesses are those of its messages."""
    witnesses = (who for message in messages for who in message.witnesses)
    made = Report(
        owner=ALICE,
        chain_id=bytes(range(16)),
        blocks=40,
        head_hash=bytes(range(32)),
        head_signed=True,
        started_ms=ms("2026-11-24T08:00"),
        ended_ms=ms("2026-11-25T18:00"),
        finding="",
        predecessor=None,
        messages=messages,
        undisclosed=0,
        erased=0,
        witnesses=tuple(Witness(who, 31, 1) for who in dict.fromkeys(witnesses)),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


HOSTILE_REPORT = report(
    *(message(i, (ALICE, BOB)[i % 2], text) for i, text in enumerate(HOSTILE, 1)),
    message(90, Who(b"\1" * 32, "<b>\u202e\"'&"), "hello", witnesses=(BOB, CAROL)),
)


class Outline(HTMLParser):
    """Reads a page as strictly as the page is written: each element is closed, in order."""

    VOID = ("meta",)

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []  # of what the members said
        self.ids: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        self.tags.append((tag, attributes))
        self.ids += filter(None, [attributes.get("id")])
        if tag not in self.VOID:
            self.open.append(tag)
        if attributes.get("class") == "text":
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["div"]:
            self.texts[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


def words(page: str) -> str:
    """What a person reads, without the style sheet."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", re.sub(r"(?s)<style>.*</style>", "", page)))


# --------------------------------------------------------------------------- text


def test_a_message_is_one_line_with_its_time_and_author() -> None:
    assert "\n2026-11-25 09:41 alice#2bd8: hello\n" in as_text(report(message(5, ALICE, "hello")))


def test_a_private_message_says_that_it_is() -> None:
    text = as_text(report(message(5, BOB, "psst", is_private=True)))
    assert "\n2026-11-25 09:41 bob#81b6 (private): psst\n" in text


def test_text_says_whose_it_is_what_is_proven_and_that_it_is_no_proof_itself() -> None:
    made = report(message(5, ALICE, "hello"), undisclosed=2, erased=1)
    text = as_text(made)
    for line in made.lines():
        assert f"-- {line}\n" in text
    assert "anybody can edit it" in text
    assert "00010203 04050607" in text, "the head, to compare with the proof's"


def test_text_ends_with_what_it_holds_so_that_a_cut_shows() -> None:
    text = as_text(report(message(5, ALICE, "hello"), undisclosed=2, erased=1))
    assert text.endswith("\n-- end: 1 message, 2 not disclosed, 1 text erased\n")


def test_nobody_can_fake_a_line_of_the_text() -> None:
    lines = as_text(HOSTILE_REPORT).splitlines()
    dated = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d ", line)]
    assert len(dated) == len(HOSTILE_REPORT.messages)
    assert [line for line in lines if line.startswith("-- end")] == [lines[-1]]
    assert not [line for line in lines if line.startswith("!! ")]


def test_nothing_in_the_text_moves_a_cursor_or_turns_a_line() -> None:
    unsafe = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
    assert not re.search(unsafe, as_text(HOSTILE_REPORT))


def test_an_erased_message_is_said_by_the_program() -> None:
    assert "\n-- 2026-11-25 09:41 bob#81b6: text erased by the owner, " in as_text(
        report(message(7, BOB, None))
    )


def test_a_problem_is_the_first_line_of_the_text() -> None:
    text = as_text(report(problem="block 9 was\n-- changed", exit_code=4))
    assert text.startswith("!! NOT PROVEN: block 9 was\\x0a-- changed\n")


# --------------------------------------------------------------------------- JSON Lines


def test_json_lines_are_a_history_its_messages_and_a_summary() -> None:
    made = report(
        message(5, ALICE, "hello", witnesses=(BOB,)),
        message(6, BOB, None, is_private=True),
        undisclosed=2,
        erased=1,
        witnesses=(Witness(BOB, 31, 4),),
    )
    first, own, theirs, last = map(json.loads, as_jsonl(made).splitlines())
    assert first["type"] == "history"
    assert first["version"] == JSONL_VERSION
    assert first["owner"] == {
        "name": "alice#2bd8",
        "nick": "alice",
        "fingerprint": ALICE.fingerprint.hex(),
    }
    assert (first["blocks"], first["exit_code"], first["problem"]) == (40, 0, "")
    assert own["type"] == "message"
    assert (own["index"], own["text"], own["own"], own["private"]) == (5, "hello", True, False)
    assert own["witnesses"] == ["bob#81b6"]
    assert (theirs["text"], theirs["own"], theirs["private"]) == (None, False, True)
    assert last["type"] == "summary"
    assert (last["messages"], last["undisclosed"], last["erased"]) == (2, 2, 1)
    assert last["witnesses"][0]["who"]["name"] == "bob#81b6"
    assert last["witnesses"][0]["index"] == 31
    assert last["lines"] == made.lines()


def test_json_lines_have_the_exact_text_of_everything() -> None:
    lines = as_jsonl(HOSTILE_REPORT).split("\n")
    read = [json.loads(line) for line in lines if line]
    assert [line["text"] for line in read[1:-1]] == [m.text for m in HOSTILE_REPORT.messages]
    assert read[-2]["author"]["nick"] == HOSTILE_REPORT.messages[-1].author.nick


def test_no_text_breaks_a_line_of_json_or_rings_a_bell() -> None:
    data = as_jsonl(HOSTILE_REPORT)
    assert len(data.splitlines()) == len(HOSTILE_REPORT.messages) + 2
    assert re.fullmatch(r"[ -~\n]*", data)


def test_all_keys_are_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "EXPORT.md").read_text("utf-8")
    made = report(message(5, ALICE, "hello", witnesses=(BOB,)), witnesses=(Witness(BOB, 31, 4),))

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | set().union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    for key in keys([json.loads(line) for line in as_jsonl(made).splitlines()]):
        assert f"`{key}`" in page, key


# --------------------------------------------------------------------------- who is who


def test_two_people_are_never_called_the_same() -> None:
    twin = Who(ALICE.fingerprint[:3] + bytes(29), "alice")
    made = report(message(5, ALICE, "one"), message(6, twin, "two"))
    for shown in (as_text(made), words(as_html(made))):
        assert "alice#2bd806c" in shown
        assert "alice#2bd8060" in shown


def test_who_changed_his_name_is_one_person_with_two_names() -> None:
    renamed = Who(ALICE.fingerprint, "al")
    page = as_html(report(message(5, renamed, "one"), message(6, ALICE, "two")))
    digits = ALICE.fingerprint.hex()
    people = words(page[page.index("<h2>People") :])
    assert f"alice#{digits[:4]}, also al#{digits[:4]}" in people
    assert "owner of this history · 2 messages shown" in people


def test_every_whole_fingerprint_is_on_the_page() -> None:
    made = report(message(5, BOB, "hello"), witnesses=(Witness(CAROL, 31, 4),))
    for who in (ALICE, BOB, CAROL):
        digits = who.fingerprint.hex()
        assert " ".join(digits[i : i + 4] for i in range(0, 64, 4)) in as_html(made)


# --------------------------------------------------------------------------- HTML


@pytest.mark.parametrize("made", [HOSTILE_REPORT, report(), report(problem="<b>", exit_code=6)])
def test_the_page_is_well_formed_and_has_no_script_and_no_address(made: Report) -> None:
    page = as_html(made)
    outline = Outline(page)
    assert {tag for tag, _ in outline.tags} <= ELEMENTS
    assert {name for _, found in outline.tags for name in found} <= ATTRIBUTES
    assert len(outline.ids) == len(set(outline.ids))
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in re.sub('<div class="text".*?</div>', "", page, flags=re.DOTALL)


def test_the_policy_comes_first_and_allows_the_one_style_sheet_alone() -> None:
    tags = Outline(as_html(report())).tags
    charset, policy = [found for tag, found in tags if tag == "meta"][:2]
    assert charset == {"charset": "utf-8"}
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/]{43}='; base-uri 'none'; form-action 'none'",
        policy["content"] or "",
    )


def test_texts_stand_on_the_page_as_they_were_written_or_spelled_out() -> None:
    shown = Outline(as_html(HOSTILE_REPORT)).texts
    for text, said in zip(shown, HOSTILE_REPORT.messages, strict=True):
        assert said.text is not None
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
        if said.text.isascii() and "\a" not in said.text:
            assert text == said.text


@given(st.text(), st.text(min_size=1))
def test_whatever_is_said_by_whomever_stays_a_text(text: str, nick: str) -> None:
    made = report(message(5, Who(b"\1" * 32, nick), text), finding=text)
    assert len(Outline(as_html(made)).texts) == 1
    assert len(as_jsonl(made).splitlines()) == 3
    as_text(made).encode()


def test_a_message_says_its_block_its_signature_and_its_witnesses() -> None:
    made = report(message(17, BOB, "hi", witnesses=(ALICE, CAROL)), message(18, BOB, "ho"))
    page = words(as_html(made))
    assert "block 17 · signed by bob#81b6 · witnessed by alice#2bd8 and carol#4c26" in page
    assert "block 18 · signed by bob#81b6 · no witness" in page


def test_many_witnesses_are_counted_beside_a_message_and_named_below() -> None:
    crowd = tuple(Who(bytes([i]) * 32, f"p{i}") for i in range(30))
    made = report(message(5, BOB, "hi", witnesses=crowd))
    page = words(as_html(made))
    assert "witnessed by p0#0000, p1#0101, p2#0202 and 27 others" in page
    assert "p29#1d1d" in page


def test_of_an_erased_text_the_hash_is_called_signed() -> None:
    page = words(as_html(report(message(17, BOB, None), erased=1)))
    assert "The owner erased this text. block 17 · its hash signed by bob#81b6" in page


def test_days_are_the_owners_and_a_message_of_another_day_has_its_date() -> None:
    late = message(9, BOB, "x", at=ms("2026-11-23T23:58"), kept_at=ms("2026-11-25T08:00"))
    made = report(message(5, ALICE, "a", at=ms("2026-11-24T09:00")), late)
    page = as_html(made)
    assert re.findall("<h3>(.*)</h3>", page) == [
        "Tuesday, 24 November 2026",
        "Wednesday, 25 November 2026",
    ]
    assert ">23 Nov 2026 23:58</time>" in page


def test_impossible_times_are_said_to_be() -> None:
    made = report(message(5, BOB, "x", at=2**64 - 1), ended_ms=2**63)
    assert "\n(impossible time) bob#81b6: x\n" in as_text(made)
    assert "An impossible time" in as_html(made)


@pytest.mark.parametrize(("code", "meaning"), [(4, "Do not rely"), (6, "could not be checked")])
def test_a_problem_is_a_banner_in_words_and_nothing_else_says_proven(
    code: int, meaning: str
) -> None:
    said = message(17, BOB, "hi", witnesses=(CAROL,))
    page = words(as_html(report(said, problem="block 9 does not fit", exit_code=code)))
    assert page.index("Not proven block 9 does not fit") < page.index("Conversation")
    assert meaning in page
    assert "block 17 · not proven" in page
    assert "NOT PROVEN: history of alice" in page
    assert "signed by" not in page
    assert "witnessed" not in page
    assert "signed here fits" not in page


def test_a_file_that_could_not_be_read_shows_no_owner_no_chain_and_no_people() -> None:
    made = check_proof(b"no proof")
    page = words(as_html(made))
    assert "NOT PROVEN: history of nobody known" in page
    assert "Not proven " + html.escape(made.problem) in page
    for word in ("Fingerprint", "1970", "0000", "blocks", "People"):
        assert word not in page
    assert as_text(made).startswith(f"!! NOT PROVEN: {made.problem}\n")
    assert json.loads(as_jsonl(made).splitlines()[0])["exit_code"] == 6


def test_the_page_says_up_to_where_the_order_is_witnessed_and_by_whom() -> None:
    def said(*witnesses: Witness) -> str:
        return words(as_html(report(message(5, BOB, "hi"), blocks=40, witnesses=witnesses)))

    assert "No witness: alice#2bd8 alone vouches for the order." in said()
    assert "No witness: alice#2bd8 alone" in said(Witness(BOB, -1, 3))
    part = "The order up to block 31 of 39 is witnessed by bob#81b6"
    assert f"{part}; for what follows, alice#2bd8 alone vouches." in said(Witness(BOB, 31, 0))
    assert "up to block 39 of 39 is witnessed by bob#81b6." in said(Witness(BOB, 39, 0))


def test_who_told_two_stories_is_named_above_the_conversation() -> None:
    page = words(as_html(report(message(5, BOB, "hi"), forks=(CAROL,))))
    assert page.index("two different messages under one number: carol#4c26") < page.index(
        "Conversation"
    )


def test_a_predecessors_finding_is_said_above_the_conversation() -> None:
    page = words(as_html(report(finding="EDITED@17: somebody edited block 17")))
    assert page.index("EDITED@17: somebody") < page.index("Conversation")


# --------------------------------------------------------------------------- of a real chain


def test_what_a_real_chain_proves_is_what_all_three_say(tmp_path: Path) -> None:
    room = SimulatedRoom()
    with RecordedMember(room, "alice", tmp_path / "chain.db") as alice:
        room.connect(alice)
        bob = room.join("bob")
        room.passes(5)
        for member, line in ((alice, "hello"), (bob, "/msg alice psst"), (alice, "<ok> & out")):
            member.types(line)
            room.passes(5)
        made = check_proof(make_proof(alice.file, nick="alice"))
    assert (made.exit_code, made.problem) == (0, "")
    page, text = as_html(made), as_text(made)
    assert Outline(page).texts == ["hello", "psst", "<ok> & out"]
    assert "witnessed by bob#" in words(page)
    for said in ("alice#{}: hello", "bob#{} (private): psst", "alice#{}: <ok> & out"):
        assert re.search(said.format("[0-9a-f]{4}").replace("(", r"\(").replace(")", r"\)"), text)
    assert [json.loads(line).get("text") for line in as_jsonl(made).splitlines()[1:-1]] == [
        "hello",
        "psst",
        "<ok> & out",
    ]


# --------------------------------------------------------------------------- in a browser


def rows(png: bytes) -> list[bytes]:
    """The decompressed rows of an 8-bit PNG, filters and all: enough to see if they differ."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data, at, size = b"", 8, (0, 0, 0, 0)
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        body = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">IIBB", body[:10])
        if kind == b"IDAT":
            data += body
        at += 12 + length
    raw = zlib.decompress(data)
    stride = 1 + size[0] * {2: 3, 6: 4}[size[3]]
    return [raw[i : i + stride] for i in range(0, len(raw), stride)]


def test_a_browser_shows_and_prints_the_page_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    if find_chromium() is None:
        pytest.skip("no Chromium here, and none was installed: apt install chromium")
    path = tmp_path / "history.html"
    path.write_bytes(as_html(HOSTILE_REPORT).encode())
    with Chromium() as browser:
        page = browser.open(path)
        pictures = []
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            page.resize(900, 700)
            pictures.append(page.screenshot())
            assert len(set(rows(pictures[-1]))) > 100, "not blank"
        assert pictures[0] != pictures[1]
        page.resize(360, 700)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, "nothing sticks out"
        pdf = page.pdf()
        assert pdf.startswith(b"%PDF-")
        assert len(pdf) > 20_000
        assert page.evaluate("document.title") == "history of alice#2bd8"
        assert page.evaluate("document.scripts.length + document.images.length") == 0
        assert page.evaluate("document.styleSheets[0].cssRules.length") > 20, "its policy lets it"
        assert page.evaluate("document.compatMode") == "CSS1Compat"
        assert page.requests == [path.as_uri()]
        assert page.complaints == []
