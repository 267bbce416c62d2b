"""What other readers of forms give of the same bytes: Python's email, and, where they are installed, Go's and Node's.

`python -m tests.support.form_readers` writes what these two say of every spelling (`spellings`) to
tests/support/form_readers/readings.json, so that tests need neither.
"""

import base64
import email
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from email import policy
from email.errors import MessageError
from email.message import Message
from email.utils import collapse_rfc2231_value
from pathlib import Path
from typing import Any, Final

Form = tuple[bytes, bytes]  # content type and body
Reading = list[tuple[str, str, str]]  # (name, file name, value) of each part that a reader found

RECORDED: Final = Path(__file__).with_name("readings.json")
_HERE: Final = Path(__file__).parent
COMMANDS: Final = {"go": ("go", "run", str(_HERE / "read.go")), "node": ("node", str(_HERE / "read.mjs"))}
# How its newer rules break on some heads, of which they then say nothing.
_BROKEN: Final = (IndexError, AttributeError, ValueError, MessageError)
_POLICIES: Final[Sequence[Any]] = (policy.compat32, policy.HTTP)


def by_email(form: Form) -> Reading:
    """What Python's parser finds by its older rules and by its newer ones, also where forms are nested."""
    found: Reading = []
    for rules in _POLICIES:
        message: Message = email.message_from_bytes(b"Content-Type: " + form[0] + b"\r\n\r\n" + form[1], policy=rules)
        with suppress(*_BROKEN):
            found += map(_read, _leaves(message))
    return found


def _read(part: Message) -> tuple[str, str, str]:
    name = part.get_param("name", "", header="content-disposition")
    value = part.get_payload(decode=True)
    assert isinstance(value, bytes)
    return collapse_rfc2231_value(name), part.get_filename() or "", value.decode("utf-8", "replace")


def _leaves(message: Message) -> Iterator[Message]:
    """The parts that hold something; a message in a part is a file to readers of forms, who do not open it."""
    for part in message.get_payload() if message.is_multipart() else ():
        if isinstance(part, Message) and part.get_content_maintype() == "multipart":
            yield from _leaves(part)
        elif isinstance(part, Message) and not part.is_multipart():
            yield part


def by_command(reader: str, forms: Sequence[Form]) -> list[Reading]:
    """What the reader of this name finds in each form."""
    given = [{"type": base64.b64encode(kind).decode(), "body": base64.b64encode(body).decode()} for kind, body in forms]
    ran = subprocess.run(COMMANDS[reader], input=json.dumps(given).encode(), stdout=subprocess.PIPE, check=True, timeout=120)
    return [[(name, file, value) for name, file, value in reading] for reading in json.loads(ran.stdout)]
