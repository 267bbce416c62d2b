"""What the input file of a batch asks for, line by line: its models, the objects it names, and how much it may use.

Fails closed: a line that is no request, or is too long, and too many lines or ids raise BadRequestError with the number of the
line. A request whose parameters are odd is the provider's to refuse, alone; its size is then told by its bytes. Memory is a
line's, and that of the ids.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Raw, Struct
from msgspec.json import Decoder

from sentinel.openai import routes, wire
from sentinel.openai.request import formats, json_edit, object_ids, validation_errors
from sentinel.openai.request.id_paths import Places
from sentinel.openai.request.json_limits import check_structure
from sentinel.openai.tokens import tokenizer
from sentinel.ops.errors import BadRequestError, SentinelError
from sentinel.ops.records import NO_IDS, Call, Ids

# OpenAI takes 50 000.
LINES_MAX: Final = 100_000
TUNED_MAX: Final = 512
IDS_MAX: Final = 200_000
_BYTES_PER_TOKEN: Final = 4
_BOM: Final = b"\xef\xbb\xbf"
_NOTHING: Final = Raw(b"{}")


class _Line(Struct):
    body: Raw = _NOTHING
    url: Any = None


class _Batch(Struct):
    endpoint: Any = None


class Asked(Struct, frozen=True):
    """What a file asks for: fine-tuned models, input tokens, output its lines cap, how many answers have no cap, and ids."""

    models: frozenset[str] = frozenset()
    input_tokens: int = 0
    output_tokens: int = 0
    uncapped: int = 0
    named: Ids = NO_IDS


_lines: Final = Decoder(_Line)
_batch: Final = Decoder(_Batch)


def endpoint(batch: Call) -> str:
    """The path to which a batch sends all its lines; "" where it says none."""
    said = _batch.decode(batch.body).endpoint
    return said if isinstance(said, str) else ""


class Lines:
    """Cuts a file that arrives in pieces into its lines, each of `line_bytes_max` at most; looks at no byte twice."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._begun: list[bytes] = []
        self._begun_bytes = 0
        self._seen = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in `chunk`."""
        *whole, rest = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._begun, whole[0]])
            self._begun, self._begun_bytes = [], 0
        self._begun.append(rest)
        self._begun_bytes += len(rest)
        if max(map(len, whole), default=0) > self._line_bytes_max or self._begun_bytes > self._line_bytes_max:
            raise _refused(f"A line of the input file is longer than {self._line_bytes_max} bytes.")
        self._seen += len(whole)
        if self._seen > LINES_MAX:
            raise _refused(f"The input file has more than {LINES_MAX} lines.")
        return whole

    def finish(self) -> list[bytes]:
        """The last line, which need not end."""
        return [b"".join(self._begun)]


class Tally:
    """Adds up what lines ask for that all go to one `endpoint` (`/v1/…`)."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._places = _places(endpoint)
        self._seen = 0
        self._models: set[str] = set()
        self._objects: set[str] = set()
        self._alike: set[str] = set()
        self._input_tokens = self._output_tokens = self._uncapped = 0

    def add(self, lines: Sequence[bytes]) -> None:
        """Read these lines; those that are blank are none. Long ones are for a thread."""
        for line in lines:
            self._seen += 1
            text = (line.removeprefix(_BOM) if self._seen == 1 else line).strip()
            if text:
                self._add(text)

    def asked(self) -> Asked:
        """The sums."""
        output_tokens = min(self._output_tokens, formats.OUTPUT_TOKENS_DECLARED_MAX)
        found = Ids(frozenset(self._objects), frozenset(self._alike))
        return Asked(frozenset(self._models), self._input_tokens, output_tokens, self._uncapped, found)

    def _add(self, text: bytes) -> None:
        try:
            check_structure(text)
            line = _lines.decode(text)
            text.decode()
            members = json_edit.members(text)
            json_edit.check_once(text, members, json_edit.shortest(members), _Line.__struct_fields__)
            # Whatever else is odd in it.
            ids = object_ids.in_response(bytes(line.body), self._places)
        except (*validation_errors.UNREADABLE, BadRequestError) as error:
            raise _refused(f"Line {self._seen} of the input file is no request of a batch in JSON.") from error
        if line.url not in (None, self._endpoint):
            raise _refused(f"Line {self._seen} of the input file has another URL than the endpoint of the batch.")
        self._models |= object_ids.models({}, text, "")
        if len(self._models) > TUNED_MAX:
            raise _refused(f"The input file names more than {TUNED_MAX} fine-tuned models.")
        self._objects |= ids.objects
        self._alike |= ids.alike
        if len(self._objects) + len(self._alike) > IDS_MAX:
            raise _refused(f"The input file names more than {IDS_MAX} objects.")
        self._count(bytes(line.body))

    def _count(self, body: bytes) -> None:
        try:
            route = routes.match("POST", self._endpoint).route
            call = wire.read_call(route, "POST", self._endpoint.removeprefix("/v1"), b"", body, b"")
        except SentinelError:
            self._input_tokens += 1 + len(body) // _BYTES_PER_TOKEN
            self._uncapped += 1
            return
        self._input_tokens += max(1, tokenizer.approximate(call.prompt)) if call.prompt is not None else 0
        if call.output_tokens_declared is None or call.cap_unheeded:
            self._uncapped += call.choices
        else:
            self._output_tokens += call.output_tokens_declared


def _places(endpoint: str) -> Places:
    """Where a request of the batch may name objects; nowhere at an endpoint that is none: the provider refuses such a batch."""
    try:
        return routes.match("POST", endpoint).route.names
    except SentinelError:
        return ()


def _refused(message: str) -> BadRequestError:
    return BadRequestError(message, param="input_file_id", code="invalid_value")
