"""One request to the provider's simulator, as its route sees it: fields, files, what it asks to go wrong.

`read` raises `RefusedError` for a body OpenAI would not take. A form's files are hashed and measured while they come
in, and only their first CONTENT_BYTES_MAX are kept.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from sentinel.devstack import provider_script
from sentinel.devstack.provider import kinds
from sentinel.devstack.provider.checks import named, parsed, refused
from sentinel.devstack.provider.desk import Desk
from sentinel.devstack.provider.journal import Row
from sentinel.devstack.provider.multipart import FormReader, Part
from sentinel.devstack.provider.plays import Said
from sentinel.openai import routes
from sentinel.openai.request.id_paths import tree

CONTENT_BYTES_MAX: Final = 1_048_576
FIELD_BYTES_MAX: Final = 1_048_576
BACKGROUND_S: Final = 0.3
_MAYBE_NAMED: Final = tuple(f'"{name}"'.encode() for name in kinds.NAMING)
_REFUSED_EARLY: Final = re.compile(r"refuse-early(?:-(4\d\d))?")


class FilePart:
    """A file of a form; `content` are its first bytes, all of them where `whole`."""

    def __init__(self, part: Part) -> None:
        self.name = part.name.removesuffix("[]")
        self.filename = part.filename or ""
        self.size_bytes = 0
        self.content = bytearray()

    def add(self, piece: bytes) -> None:
        """More of it."""
        self.size_bytes += len(piece)
        self.content += piece[: CONTENT_BYTES_MAX - len(self.content)]

    @property
    def whole(self) -> bool:
        """Whether nothing of it was dropped."""
        return len(self.content) == self.size_bytes


class Asked:
    """One request with its row of the journal. `fields` are those of the JSON body or of the form."""

    def __init__(self, desk: Desk, request: web.Request, row: Row) -> None:
        self.desk = desk
        self.request = request
        self.row = row
        self.fields: dict[str, Any] = {}
        self.files: list[FilePart] = []
        self.simulate: dict[str, Any] = {}
        self.scripted: Said | None = None
        self._delayed = False

    @property
    def ids(self) -> Mapping[str, str]:
        """The ids in the path, by their names in the route."""
        return self.request.match_info

    @property
    def is_form(self) -> bool:
        """Whether the body is a form, which streams in."""
        return self.request.content_type == "multipart/form-data"

    async def read(self, raw: bytes) -> None:
        """Take the body: `raw`, or the form that is still to come."""
        if self.is_form:
            await self._read_form()
        elif raw:
            body = parsed(raw)
            self.fields = body if isinstance(body, dict) else {}
            if any(marker in raw for marker in _MAYBE_NAMED):
                self._check_names(body)
        asked = self.request.query.get("simulate") or self.fields.get("simulate") or {}
        self.simulate = parsed(asked.encode()) if isinstance(asked, str) else asked
        row = self.row
        row.user = self.fields.get("user") or self.request.query.get("user")
        row.model = self.fields["model"] if isinstance(self.fields.get("model"), str) else ""
        row.stream = self.fields.get("stream") in (True, "true")
        if play := self.desk.plays.of(raw):
            row.user = row.user or play.user
            self.scripted = play.said(self.fields)

    def model(self, default: str = "") -> str:
        """The model asked for, or OpenAI's 404; 400 where there is none and no default."""
        model = self.fields.get("model") or default
        if not isinstance(model, str) or not model:
            raise refused(400, "you must provide a model parameter")
        self.row.model = model
        if model not in provider_script.MODELS and self.desk.store.find(kinds.MODEL, model) is None:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise refused(404, message, code="model_not_found")
        return model

    def spent(self, input_tokens: int, output_tokens: int, *, reported: bool = True) -> tuple[int, int]:
        """Write the tokens into the row, and give them as they are reported; the offset counts only in what is reported."""
        offset = self.simulate.get("usage_offset", 0) if reported and not self.simulate.get("no_usage") else 0
        more = offset if isinstance(offset, dict) else {"input": offset, "output": offset}
        row = self.row
        row.input_tokens = input_tokens + more.get("input", 0)
        row.output_tokens = output_tokens + more.get("output", 0)
        return row.input_tokens, row.output_tokens

    @property
    def output_tokens(self) -> int:
        """How long an answer would become if nothing capped it."""
        return int(self.simulate.get("output_tokens", self.desk.output_tokens))

    def said(self, output_tokens: int, *, calling: bool = True) -> Said:
        """The answer that is scripted, or one of so many tokens; a call where one is asked for and `calling` is possible."""
        call = str(self.simulate.get("call") or "") if calling else ""
        return self.scripted or provider_script.usual(output_tokens, self.fields.get("tools"), call)

    @property
    def background_s(self) -> float:
        """How long work goes on after its answer."""
        return float(self.simulate.get("background_s", BACKGROUND_S))

    async def delay(self) -> None:
        """Wait as long as was asked for before the answer's headers; once."""
        plain = 0 if self.row.stream else self.simulate.get("delay_plain_ms", 0)
        delay_ms, self._delayed = 0 if self._delayed else self.simulate.get("delay_ms", 0) + plain, True
        await asyncio.sleep(delay_ms / 1000)

    async def pace(self) -> None:
        """Wait as long as a piece of a stream takes."""
        pace_ms = float(self.simulate.get("token_ms", self.desk.token_ms))
        if pace_ms:
            await asyncio.sleep(pace_ms / 1000)

    # The body

    def _check_names(self, body: Any) -> None:
        """Refuse a body that names an object the account does not have."""
        places = routes.match(self.request.method, self.request.path).route.names
        for field, name in named(body, tree(places)):
            if field in kinds.NAMING:
                wanted, status = kinds.NAMING[field]
                self.desk.store.get(wanted, name, status=status, param=field)

    async def _read_form(self) -> None:
        """Take the form's fields and files as they come, and the hash of all of it."""
        try:
            reader = FormReader(self.request.headers["content-type"])
            digest = hashlib.sha256()
            part: Part | None = None
            file: FilePart | None = None
            text = bytearray()
            async for chunk in self.request.content.iter_any():
                digest.update(chunk)
                for piece in reader.feed(chunk):
                    if isinstance(piece, Part):
                        part, file, text = piece, self._file(piece), bytearray()
                    elif piece is None:
                        self._take(part, file, text)
                    elif file is not None:
                        file.add(piece)
                    elif len(text) + len(piece) > FIELD_BYTES_MAX:
                        raise ValueError("a field is too long")
                    else:
                        text += piece
            if not reader.finished:
                raise ValueError("the form does not end")
        except ValueError as error:
            raise refused(400, f"We could not parse the form of your request: {error}.") from error
        self.row.body_sha256 = digest.hexdigest()
        self._check_names(self.fields)

    def _file(self, part: Part) -> FilePart | None:
        """The file that begins here, if it is one; `refuse-early` is refused on sight, as its name says."""
        if part.filename is None:
            return None
        early = _REFUSED_EARLY.match(part.filename)
        if early:
            raise refused(int(early[1] or 400), f"The file '{part.filename}' is refused before it was read.", param=part.name)
        return FilePart(part)

    def _take(self, part: Part | None, file: FilePart | None, text: bytearray) -> None:
        """Note a field or a file that has ended."""
        if file is not None:
            self.files.append(file)
        elif part is not None:
            decoded = text.decode("utf-8", "replace")
            if part.name.endswith("[]"):
                self.fields.setdefault(part.name.removesuffix("[]"), []).append(decoded)
            else:
                self.fields[part.name] = decoded
