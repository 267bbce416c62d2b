"""Files and uploads: bodies stream in and are hashed and measured; what is small is kept, the rest is only counted.

A file of the purpose `simulate-N` has N bytes of generated content (`sending.generated`), `simulate-N-chunked` the same without
a length. Raises `RefusedError`.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from sentinel.devstack.provider import kinds
from sentinel.devstack.provider.asked import Asked, FilePart
from sentinel.devstack.provider.checks import refused, require
from sentinel.devstack.provider.objects import Collection, Routes, action, new
from sentinel.devstack.provider.sending import reply, send_content
from sentinel.devstack.provider.store import Thing

_SIMULATED: Final = re.compile(r"simulate-(\d+)(-chunked)?")
_UPLOAD_S: Final = 3600


def the_file(asked: Asked, name: str = "file") -> FilePart:
    """The file of the form under this name, or 400."""
    file = next((file for file in asked.files if file.name == name), None)
    if file is None:
        raise refused(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    return file


async def create(asked: Asked) -> web.StreamResponse:
    """POST /v1/files."""
    file = the_file(asked)
    require(asked.fields, "purpose")
    return await reply(asked, put_file(asked, file.filename, file.size_bytes, bytes(file.content)).shown)


def put_file(asked: Asked, filename: str, size_bytes: int, content: bytes, purpose: str = "") -> Thing:
    """A new file; `content` are its first bytes."""
    purpose = purpose or asked.fields["purpose"]
    fields = {
        "bytes": size_bytes,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }
    thing = new(asked, kinds.FILE, fields)
    simulated = _SIMULATED.fullmatch(purpose)
    if simulated:
        thing.content_bytes = int(simulated[1])
        thing.hidden["chunked"] = bool(simulated[2])
    elif len(content) == size_bytes:
        thing.content = content
    return thing


async def content(asked: Asked) -> web.StreamResponse:
    """GET /v1/files/{id}/content."""
    return await send_file(asked, FILES.thing(asked))


async def send_file(asked: Asked, thing: Thing) -> web.StreamResponse:
    """The content of a file: as it came, or generated; 400 where it was too large to be kept."""
    filename = str(thing.shown.get("filename") or thing.id)
    if thing.content_bytes is not None:
        return await send_content(asked, thing.content_bytes, filename=filename, chunked=thing.hidden.get("chunked", False))
    if thing.content is None:
        raise refused(400, "The simulator keeps no file of this size: give it the purpose simulate-N.")
    headers = {"content-disposition": f'attachment; filename="{filename}"'}
    return await reply(asked, thing.content, content_type="application/octet-stream", headers=headers)


# Uploads


def _upload(asked: Asked) -> Mapping[str, Any]:
    require(asked.fields, "bytes", "filename", "mime_type", "purpose")
    expires_at = int(time.time()) + _UPLOAD_S
    kept = {name: asked.fields[name] for name in ("bytes", "filename", "purpose")}
    return {**kept, "status": "pending", "expires_at": expires_at, "file": None}


async def add_part(asked: Asked) -> web.StreamResponse:
    """POST /v1/uploads/{id}/parts."""
    upload = _pending(asked, UPLOADS.thing(asked))
    file = the_file(asked, "data")
    part = new(asked, kinds.UPLOAD_PART, {"upload_id": upload.id}, parent=upload.id)
    part.content, part.content_bytes = bytes(file.content), file.size_bytes
    return await reply(asked, part.shown)


async def complete(asked: Asked) -> web.StreamResponse:
    """POST /v1/uploads/{id}/complete: the parts in their order become a file of exactly the bytes that were announced."""
    upload = _pending(asked, UPLOADS.thing(asked))
    require(asked.fields, "part_ids")
    parts = [
        asked.desk.store.get(kinds.UPLOAD_PART, name, upload.id, status=400, param="part_ids")
        for name in asked.fields["part_ids"]
    ]
    size_bytes = sum(part.content_bytes or 0 for part in parts)
    if size_bytes != upload.shown["bytes"]:
        raise refused(400, f"Expected {upload.shown['bytes']} bytes, got {size_bytes}.")
    content = b"".join(part.content or b"" for part in parts)
    file = put_file(asked, upload.shown["filename"], size_bytes, content, upload.shown["purpose"])
    upload.shown |= {"status": "completed", "file": file.shown}
    return await reply(asked, upload.shown)


def _pending(asked: Asked, upload: Thing) -> Thing:
    if upload.shown["status"] != "pending":
        raise refused(400, f"Upload {upload.id} is {upload.shown['status']} (asked to {asked.request.path}).")
    return upload


def _cancel(asked: Asked, upload: Thing) -> None:
    _pending(asked, upload).shown["status"] = "cancelled"


FILES: Final = Collection("/v1/files", "file_id", kinds.FILE, gone="file")
UPLOADS: Final = Collection("/v1/uploads", "upload_id", kinds.UPLOAD, _upload)


def routes() -> Routes:
    """The rows of the route table."""
    yield "POST", "/v1/files", create
    yield from FILES.routes()
    yield "GET", "/v1/files/{file_id}/content", content
    yield from (row for row in UPLOADS.routes() if row[0] == "POST")
    yield "POST", "/v1/uploads/{upload_id}/parts", add_part
    yield "POST", "/v1/uploads/{upload_id}/complete", complete
    yield "POST", "/v1/uploads/{upload_id}/cancel", action(UPLOADS, _cancel)
