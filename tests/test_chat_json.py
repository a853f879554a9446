"""chat_json: what programs read and write, and docs/JSON.md, the contract of it."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_document import DOCUMENT, FIXED, TO_THE_PROGRAM, check, examples, named, table

from chat_commands import Command, Say
from chat_json import (
    MAX_ID_CHARACTERS,
    BadRequest,
    JsonTerminal,
    RequestedCommand,
    RequestedSay,
    answering,
    as_json,
    read_request,
    request_id,
)
from chat_terminal import MAX_LINE_BYTES, Field, Kind, Line, Streams

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 20.0  # for things that take milliseconds: reached only when they never happen

# --------------------------------------------------------------------------------------------------
# To the program


def test_an_object_has_its_version_type_kind_and_text_and_the_events_fields() -> None:
    fields: dict[str, Field] = {
        "name": "bob#7f3a",
        "names": ["a", "b"],
        "count": 2,
        "verified": False,
    }
    line = Line(Kind.ALERT, "KEY CHANGED", event="key_changed", fields=fields)
    told = {"v": 1, "type": "key_changed", "kind": "alert", "text": "KEY CHANGED", **fields}
    assert json.loads(as_json(line)) == told
    assert list(json.loads(as_json(line))) == list(told)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.MESSAGE])
def test_what_has_no_event_goes_by_its_kind(kind: Kind) -> None:
    told = {"v": 1, "type": kind.value, "kind": kind.value, "text": "hi"}
    assert json.loads(as_json(Line(kind, "hi"))) == told


def test_a_message_read_back_from_the_chain_cannot_be_taken_for_news() -> None:
    fields: dict[str, Field] = {"from": "bob#7f3a", "sent_ms": 5}
    said = json.loads(as_json(Line(Kind.MESSAGE, "hi", "bob#7f3a", 5, fields=fields)))
    read = json.loads(as_json(Line(Kind.MESSAGE, "hi", "bob#7f3a", 5)))
    answer = json.loads(as_json(answering(Line(Kind.MESSAGE, "hi", "bob#7f3a", 5), "7")))
    assert (said["type"], said["from"]) == ("message", "bob#7f3a")
    assert (read["type"], read["author"], read["sent_ms"]) == ("history", "bob#7f3a", 5)
    assert answer == read | {"id": "7"}


def test_no_field_takes_the_place_of_what_every_object_has() -> None:
    fields: dict[str, Field] = {
        "v": 2,
        "type": "ready",
        "kind": "notice",
        "text": "forged",
        "name": "bob",
    }
    told = {"v": 1, "type": "error", "kind": "error", "text": "hi", "name": "bob"}
    assert json.loads(as_json(Line(Kind.ERROR, "hi", fields=fields))) == told


@given(st.text(st.characters()) | st.text('\x00\x1b\x7f\x9b\u2028\u202e\ud800\udcff"\\\n🎈'))
def test_any_text_is_one_row_of_printable_ascii_and_comes_out_as_it_was(text: str) -> None:
    row = as_json(Line(Kind.NOTICE, text, fields={"name": text}))
    assert re.fullmatch("[ -~]+", row)
    told = json.loads(row)
    assert told["text"] == told["name"] == json.loads(json.dumps(text))


# --------------------------------------------------------------------------------------------------
# From the program


@pytest.mark.parametrize(
    ("request_line", "meant"),
    [
        ('{"type":"say","text":"hi"}', Say("hi")),
        ('{"type":"say","text":"exit"}', Say("exit")),
        ('{"type":"say","text":" /who\\n\\u0000\\ud83c\\udf88"}', Say(" /who\n\0🎈")),
        ('{"text":"hi","v":1,"id":"7","type":"say"}', RequestedSay("hi", "7")),
        ('{"type":"msg","to":"bob#7f3a","text":"a\\n b "}', Command("msg", "bob#7f3a a\n b ")),
        ('{"type":"command","line":"/WHO"}', Command("who", "")),
        ('{"type":"command","line":"/nick x","id":"\\u00fc"}', RequestedCommand("nick", "x", "ü")),
        ('{"type":"command","line":"exit"}', Command("quit", "")),
        (' {"type":"leave"}\t', Command("quit", "")),
    ],
)
def test_a_request_is_something_to_say_or_a_command(
    request_line: str, meant: Say | Command
) -> None:
    assert read_request(request_line) == meant


def test_an_id_is_kept_and_what_has_none_has_the_empty_one() -> None:
    assert request_id(read_request('{"type":"leave","id":"bye"}')) == "bye"
    assert request_id(read_request('{"type":"leave"}')) == ""
    assert request_id("a typed line") == ""


@pytest.mark.parametrize(
    ("request_line", "sentence"),
    [
        ("hello", "is not JSON: Expecting value (column 1)"),
        ('{"type":"say","text":"a\0"}', "is not JSON: Invalid control character (column 24)"),
        ('{"type":"say","text":"hi"} {}', "is not JSON: Extra data (column 28)"),
        ("\ufeff{}", "is not JSON: Unexpected UTF-8 BOM"),
        ("[" * 60_000, "is not JSON that can be read here"),
        ('{"v":' + "1" * 5_000 + "}", "is not JSON that can be read here"),
        ('["say","hi"]', "a request is a JSON object"),
        ("{}", "no type is named: a request is one of say, msg, command, leave"),
        ('{"type":["say"]}', "no type is named: a request is one of say, msg, command, leave"),
        ('{"type":"shout"}', 'there is no type "shout": a request is one of say, msg, command'),
        ('{"type":"say","txt":"hi"}', 'no key "txt" in say: it has type, text, v, id'),
        ('{"type":"leave","text":"bye"}', 'no key "text" in leave: it has type, v, id'),
        ('{"type":"say"}', "say needs text"),
        ('{"type":"msg","text":"hi"}', "msg needs to"),
        ('{"type":"say","text":null}', "text is a string, not null"),
        ('{"type":"say","text":true}', "text is a string, not true or false"),
        ('{"type":"say","text":4.5}', "text is a string, not a number"),
        ('{"type":"say","text":{}}', "text is a string, not an object"),
        ('{"type":"say","text":' + "[" * 900 + "]" * 900 + "}", "not an array"),
        ('{"type":"say","text":" \\n"}', "text is empty"),
        ('{"type":"say","text":"\\ud800"}', "text has half a surrogate pair"),
        ('{"type":"say","text":"a","text":"b"}', 'the key "text" comes twice'),
        ('{"type":"say","text":{"a":1,"a":2}}', 'the key "a" comes twice'),
        ('{"type":"msg","to":"bob jr","text":"hi"}', "to is one name"),
        ('{"type":"command","line":"who"}', "line is a command"),
        ('{"type":"command","line":"//who"}', "line is a command"),
        ('{"type":"leave","v":2}', "v is 1"),
        ('{"type":"leave","v":true}', "v is 1"),
        ('{"type":"leave","v":NaN}', "v is 1"),
        ('{"type":"leave","id":7}', "an id is a string of 1 to 64 characters"),
        ('{"type":"leave","id":""}', "an id is a string of 1 to 64 characters"),
        ('{"type":"leave","id":"' + "x" * 65 + '"}', "an id is a string of 1 to 64 characters"),
        ('{"type":"' + "x" * 9_999 + '"}', 'there is no type "' + "x" * 40 + '..."'),
    ],
)
def test_what_is_no_request_is_refused_with_one_sentence(request_line: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(sentence)) as caught:
        read_request(request_line)
    assert len(str(caught.value)) < 150
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("request_line", "answered"),
    [
        ('{"id":"7","type":"say","txt":"hi"}', {"id": "7"}),
        ('{"id":"7","type":"shout"}', {"id": "7"}),
        ('{"id":7,"type":"shout"}', {}),
        ('{"id":"' + "x" * (MAX_ID_CHARACTERS + 1) + '","type":"shout"}', {}),
        ('{"id":"7","id":"8","type":"leave"}', {}),
    ],
)
def test_a_refusal_has_the_id_as_far_as_there_is_one(
    request_line: str, answered: dict[str, str]
) -> None:
    with pytest.raises(BadRequest) as caught:
        read_request(request_line)
    line = caught.value.line
    assert (line.kind, line.text, dict(line.fields)) == (Kind.ERROR, str(caught.value), answered)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
requests = st.fixed_dictionaries(
    {"type": st.sampled_from(["say", "msg", "command", "leave"])},
    optional={key: st.text() | json_values for key in ("text", "to", "line", "v", "id", "x")},
)


@given(st.text() | json_values.map(json.dumps) | requests.map(json.dumps))
def test_any_line_is_a_request_or_refused(line: str) -> None:
    with suppress(BadRequest):
        assert isinstance(read_request(line), Say | Command)


# --------------------------------------------------------------------------------------------------
# The terminal, on real pipes


class Ends:
    """A terminal, and the program's ends of its pipes."""

    def __init__(self) -> None:
        read_fd, self.stdin = os.pipe()
        self.stdout, write_fd = os.pipe()
        streams = Streams(os.fdopen(read_fd, "rb", 0), os.fdopen(write_fd, "wb", 0), None)
        self.terminal = JsonTerminal(streams)
        self.streams = streams

    def write(self, data: bytes) -> None:
        os.write(self.stdin, data)

    def end_stdin(self) -> None:
        os.close(self.stdin)
        self.stdin = -1

    def told(self) -> list[dict[str, Any]]:
        self.terminal.flush()
        return [json.loads(row) for row in os.read(self.stdout, 65_536).splitlines()]

    def close(self) -> None:
        self.terminal.close()
        for stream in self.streams[:2]:
            assert stream is not None
            stream.close()
        for fd in (self.stdin, self.stdout):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def test_lines_are_shown_in_order_one_object_a_row(ends: Ends) -> None:
    for number in range(500):
        ends.terminal.show(Line(Kind.NOTICE, f"{number}\n"))
    assert [told["text"] for told in ends.told()] == [f"{number}\n" for number in range(500)]


def test_requests_are_read_in_order_blank_lines_passed_over_and_the_end_is_none(ends: Ends) -> None:
    ends.write(b'{"type":"say","text":"one"}\r\n\n \t\n{"type":"command","line":"/who"}\n')
    ends.write(b'{"type":"say","text":"\xf0\x9f\x8e\x88"}')
    ends.end_stdin()
    read = [ends.terminal.read_line("> ") for _ in range(4)]
    assert read == [Say("one"), Command("who", ""), Say("🎈"), None]


def test_after_a_bad_line_of_any_kind_the_next_is_read(ends: Ends) -> None:
    huge = b'{"type":"say","text":"' + b"x" * MAX_LINE_BYTES + b'"}\n'
    bad = [b'{"type":"say","text":"\xff"}\n', b"{\n", b'{"type":"sya"}\n', b"\0\n", huge]
    whys = ["is not UTF-8", "is not JSON", "no type", "is not JSON", "over 65536 bytes"]
    lines = b"".join(line + b'{"type":"say","text":"on"}\n' for line in bad)
    writer = threading.Thread(target=ends.write, args=(lines,))
    writer.start()
    for why in whys:
        with pytest.raises(BadRequest, match=why):
            ends.terminal.read_line("> ")
        assert ends.terminal.read_line("> ") == Say("on")
    writer.join()


def test_questions_are_not_asked_and_eat_no_request(ends: Ends) -> None:
    ends.write(b'{"type":"say","text":"hi"}\n')
    assert ends.terminal.read_line("Enter server IP: ") is None
    assert ends.terminal.read_line("> ") == Say("hi")
    ends.terminal.show(Line(Kind.NOTICE, "the only line"))
    assert len(ends.told()) == 1


@pytest.mark.parametrize("ending", ["end_input", "close"])
def test_another_thread_ends_a_read_that_waits(ends: Ends, ending: str) -> None:
    timer = threading.Timer(0.05, getattr(ends.terminal, ending))
    timer.start()
    assert ends.terminal.read_line("> ") is None
    timer.join()


def test_what_is_for_people_does_nothing(ends: Ends) -> None:
    terminal = ends.terminal
    terminal.bell = "all"
    terminal.remember(["earlier"])
    terminal.complete = lambda before: [before]
    terminal.status("3 in the room")
    terminal.progress("50 %")
    terminal.progress("")
    terminal.show(Line(Kind.MESSAGE, "hi", "bob", mention=True))
    assert [told["text"] for told in ends.told()] == ["hi"]
    assert (terminal.interactive, terminal.columns) == (False, 0)


def test_when_nobody_reads_any_more_it_is_broken_and_reading_ends(ends: Ends) -> None:
    os.close(ends.stdout)
    ends.stdout = -1
    ends.terminal.show(Line(Kind.NOTICE, "in vain"))
    ends.terminal.flush()
    assert ends.terminal.broken
    assert ends.terminal.read_line("> ") is None


CHILD = """
from chat_json import open_json_terminal
from chat_terminal import Kind, Line
terminal = open_json_terminal()
terminal.show(Line(Kind.NOTICE, "\\x9b caf\\xe9"))
print("read", terminal.read_line("> "), terminal.interactive, flush=True)
terminal.close()
"""


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_ctrl_c_leaves_and_standard_error_stays_empty_whatever_the_locale(locale: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LC_ALL": locale, "PYTHONUTF8": "0"},
    ) as child:
        assert child.stdout is not None
        row = child.stdout.readline()
        child.send_signal(signal.SIGINT)
        rest, err = child.communicate(timeout=DEADLINE_S)
    assert row == b'{"v": 1, "type": "notice", "kind": "notice", "text": "\\u009b caf\\u00e9"}\n'
    assert (rest, err, child.returncode) == (b"read None False\n", b"", 0)


# --------------------------------------------------------------------------------------------------
# docs/JSON.md


def events_in(module: Path) -> set[str]:
    """Every name that the code gives to an event."""
    values: list[ast.expr] = []
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            values += [keyword.value for keyword in node.keywords if keyword.arg == "event"]
            if re.search(r"\b(notice|alert)\b", ast.unparse(node.func)):
                values += node.args[1:2]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "event":
            values.append(node.value)
    constants = [node for value in values for node in ast.walk(value)]
    return {
        node.value
        for node in constants
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_the_document_names_every_event_of_the_code_and_no_other() -> None:
    events = {event for path in ROOT.glob("chat_*.py") for event in events_in(path) if event}
    kinds = {kind.value for kind in Kind}
    assert set(table(TO_THE_PROGRAM)) - {*FIXED, *kinds, "history"} == events


def test_the_document_has_an_example_of_every_type_with_the_keys_of_its_row() -> None:
    rows = {name: row for name, row in table(TO_THE_PROGRAM).items() if name not in FIXED}
    shown = [json.loads(row) for row in examples(TO_THE_PROGRAM).splitlines()]
    assert [told["type"] for told in shown] == list(rows)
    for told in shown:
        check(told)


@pytest.mark.parametrize("row", examples(TO_THE_PROGRAM).splitlines())
def test_every_example_is_what_the_code_makes_of_such_a_line(row: str) -> None:
    told = json.loads(row)
    fields = {key: told[key] for key in told if key not in FIXED[:4]}
    event = told["type"] if told["type"] not in ("history", told["kind"]) else ""
    line = Line(Kind(told["kind"]), told["text"], event=event, fields=fields)
    assert as_json(line) == row
    assert len(told.get("fingerprint", "x" * 64)) == 64


def test_every_example_of_a_request_is_one_and_all_types_are_there() -> None:
    rows = table("From the program")
    asked = [json.loads(row) for row in examples("From the program").splitlines()]
    assert [request["type"] for request in asked] == list(rows)
    for request in asked:
        read_request(json.dumps(request))
        assert [k for k in request if k not in ("type", "v", "id")] == named(*rows[request["type"]])


def test_the_document_has_the_limits_and_exit_codes_of_the_code() -> None:
    assert f"{MAX_LINE_BYTES:,} bytes" in DOCUMENT
    assert f"1 to {MAX_ID_CHARACTERS} characters" in DOCUMENT
    assert re.findall(r"^\| (\d) \|", DOCUMENT, re.MULTILINE) == list("0123456")


def test_the_bot_has_at_most_thirty_lines_and_needs_python_alone() -> None:
    source = (ROOT / "examples" / "echo_bot.py").read_text("utf-8")
    assert len(source.splitlines()) <= 30
    imported = re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)
    assert set(imported) <= sys.stdlib_module_names
