"""openai.request.multipart and forms, beside other readers: what one of them gives of a form was searched, or the form is
refused.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.openai.request import form_ids, multipart
from sentinel.ops.errors import BadRequestError
from sentinel.ops.records import NO_IDS
from tests.support.form_readers import COMMANDS, RECORDED, Form, Reading, by_command, by_email
from tests.support.form_readers.spellings import HONEST, SPELLINGS, TYPE, VICTIM

NAMES: Final = ("file_id",)
EVERY: Final = SPELLINGS | HONEST
READ: Final[dict[str, dict[str, Reading]]] = json.loads(RECORDED.read_text())
# Spellings in which nothing is doubtful: they pass, and what they name is found.
PASSED: Final = {
    "LF alone",
    "a line before the first delimiter",
    "a mark before the first delimiter",
    "a mark and a line before it",
    "two names",
    "two names, the other first",
    "a name in another parameter",
    "an escape at the end of a parameter",
    "another blank before a name",
    "blanks around the sign",
    "single quotes",
    "no quotes",
    "a quote that does not end",
    "capitals",
    "a mark before the name",
    "a mark before the value",
    "a mark before a value that is no known field's",
    "a message in a part",
    "escapes in JSON",
    "escapes in large JSON",
    "escapes in a file of JSON",
    "a large blank before it",
    "a file called so",
    "a file called so, escaped",
    "a file called so, extended",
    "a field called so",
    "a boundary in capitals",
}


def found(form: Form) -> frozenset[str] | None:
    """What Sentinel finds in a form, None where it refuses it."""
    try:
        ids = form_ids.ids(form[1], form[0], NAMES)
    except BadRequestError as error:
        assert error.code in {"invalid_body", "invalid_value"}
        return None
    return ids.objects | ids.alike


def gives_victim(reading: Sequence[Sequence[str]]) -> bool:
    """Whether a part tells the victim's id: as its value, or as a text of JSON in it."""
    for _, _, value in reading:
        plain = re.sub(r"\\u00([0-9a-f]{2})", lambda escape: chr(int(escape[1], 16)), value)
        if value.strip("\ufeff \t\r\n") == VICTIM or f'"{VICTIM}"' in plain:
            return True
    return False


@pytest.mark.parametrize("name", SPELLINGS)
def test_what_any_reader_gives_was_searched(name: str) -> None:
    """Wherever email, Go or Node gives the victim's id, it is found, or the form is refused."""
    seen = found(SPELLINGS[name])
    assert (seen is not None) == (name in PASSED)
    readings = [by_email(SPELLINGS[name]), *(READ[reader][name] for reader in COMMANDS)]
    if any(map(gives_victim, readings)):
        assert seen is None or VICTIM in seen


def test_the_spellings_are_dangerous() -> None:
    """Each reader falls for spellings that another does not, so that the comparison says something."""
    fooled = {reader: {name for name in SPELLINGS if gives_victim(READ[reader][name])} for reader in COMMANDS}
    fooled["email"] = {name for name in SPELLINGS if gives_victim(by_email(SPELLINGS[name]))}
    assert len(fooled["email"] - fooled["go"]) > 5
    assert fooled["go"] - fooled["email"]
    assert fooled["node"] - fooled["go"]


@pytest.mark.parametrize("name", HONEST)
def test_forms_of_clients_pass(name: str) -> None:
    """H18: how clients write forms is taken, and every reader gives the same fields, which name nothing."""
    form = HONEST[name]
    assert form_ids.ids(form[1], form[0], NAMES) is NO_IDS
    parts = list(multipart.parts(form[1], form[0]))
    contents = [form[1][part.start : part.end].decode() for part in parts]
    names = [part.names[0] for part in parts]
    for reading in (by_email(form)[:2], *(READ[reader][name] for reader in COMMANDS)):
        if reading:  # Node has no field without quotes
            assert [part[0] for part in reading] == names == ["prompt", "image"]
            assert [part[2] for part in reading] == contents


@pytest.mark.parametrize("reader", COMMANDS)
def test_every_spelling_is_recorded(reader: str) -> None:
    """tests/support/form_readers/readings.json has them all (`python -m tests.support.form_readers` writes it)."""
    assert READ[reader].keys() == EVERY.keys()


def test_what_this_node_gives_was_searched() -> None:
    """The same as recorded holds for the Node of this machine; skips where there is none."""
    if shutil.which("node") is None:
        (pytest.fail if os.environ.get("SENTINEL_REQUIRE_NODE") == "1" else pytest.skip)("Node is not installed")
    for name, reading in zip(SPELLINGS, by_command("node", list(SPELLINGS.values())), strict=True):
        seen = found(SPELLINGS[name])
        assert seen is None or VICTIM in seen or not gives_victim(reading), name


# What forms are made of, to be put together at random.
PIECES: Final = st.sampled_from(
    [
        *("--B123", "--B12", "B123", "--", "-", "\r\n", "\r", "\n", " ", "\t", ";", ":", '"', "\\", "=", "x", "\0"),
        *("Content-Disposition: form-data; ", "Content-Disposition", 'name="a"', 'name="file_id"', "name*=''file%5Fid"),
        *('filename="a"', "name", "file_id", "Content-Type: text/plain", "multipart/mixed; boundary=B123", "\r\n\r\n"),
        *("Content-Transfer-Encoding: base64", "ZmlsZS1WSUNUSU0wMDAx", VICTIM, f'"{VICTIM}"', "file-\\u0056ICTIM0001"),
        *('\r\n--B123\r\nContent-Disposition: form-data; name="a"\r\n\r\n', "\r\n--B123--\r\n", "\r\n--B123\r\n"),
    ]
)


@given(st.lists(PIECES, max_size=24), st.booleans(), st.booleans())
def test_of_any_bytes_email_sees_no_more(pieces: list[str], begun: bool, ended: bool) -> None:
    """However a form is put together, what Python's parser gives of it is found, or the form is refused."""
    start = '--B123\r\nContent-Disposition: form-data; name="a"\r\n\r\n' if begun else ""
    form = TYPE, (start + "".join(pieces) + ("\r\n--B123--\r\n" if ended else "")).encode()
    if gives_victim(by_email(form)):
        seen = found(form)
        assert seen is None or VICTIM in seen


@given(st.lists(st.tuples(st.sampled_from(["a", "prompt", "b[0][c]"]), st.binary(max_size=40)), min_size=1, max_size=6))
def test_contents_are_taken_apart_as_they_are(fields: list[tuple[str, bytes]]) -> None:
    """H18: whatever bytes are in its parts, a well-formed form is read as it was written."""
    fields = [(name, content.replace(b"--B123", b"")) for name, content in fields]
    head = b'--B123\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    body = b"".join(head % (name.encode(), content) for name, content in fields) + b"--B123--"
    read = [(part.names[0], body[part.start : part.end]) for part in multipart.parts(body, TYPE)]
    assert read == fields


@pytest.mark.parametrize("text", ["\\u0066ile-VICTIM0001", "f\\u0069le-\\u0056ICTIM0001", VICTIM])
@pytest.mark.parametrize("quote", ['"', '\\"'])
@pytest.mark.parametrize("filler", [" ", "-", '"', "\\", "a", "\\u0061"])
def test_an_id_at_a_seam(text: str, quote: str, filler: str) -> None:
    """A long content is looked through in slices, whose seams hide nothing, whatever lies around them."""
    if quote == '\\"' and "\\u" in text:
        quote = '"'
    word = f'{":" if filler.endswith(("a", "1")) else ""} "{text}{quote}'.replace(' "', quote)
    for shift in range(-2, 2 * len(word), 3):
        before = (filler * (form_ids.SLICE_BYTES // len(filler) + 1))[: form_ids.SLICE_BYTES - shift]
        body = f'--B123\r\nContent-Disposition: form-data; name="a"\r\n\r\n{before}.{word}.{filler * 3000}\r\n--B123--'
        assert VICTIM in form_ids.ids(body.encode(), TYPE, NAMES).alike


def test_ids_are_bounded() -> None:
    """H13: no form has so many texts that look like ids."""
    many = b"".join(b'"vs_%d",' % number for number in range(form_ids.ALIKE_MAX + 1))
    body = b'--B123\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + many + b"\r\n--B123--"
    with pytest.raises(BadRequestError):
        form_ids.ids(body, TYPE, NAMES)
