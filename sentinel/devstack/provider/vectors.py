"""Vector stores, the files in them, batches of such files, and search. Raises `RefusedError`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from sentinel.devstack.provider import kinds
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import require
from sentinel.devstack.provider.objects import Collection, Routes, action, new
from sentinel.devstack.provider.sending import reply
from sentinel.devstack.provider.store import Thing, page

_CHUNKING: Final = {"type": "static", "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}}
_FOUND_CHARS: Final = 800
_PATH: Final = "/v1/vector_stores"


def _counts(completed: int) -> dict[str, int]:
    return {"in_progress": 0, "completed": completed, "failed": 0, "cancelled": 0, "total": completed}


def _fields(asked: Asked) -> Mapping[str, Any]:
    return {
        "name": asked.fields.get("name") or "",
        "status": "completed",
        "usage_bytes": 0,
        "file_counts": _counts(0),
        "metadata": asked.fields.get("metadata") or {},
        "expires_after": asked.fields.get("expires_after"),
        "expires_at": None,
        "last_active_at": None,
    }


def _filled(asked: Asked, store: Thing) -> None:
    _add(asked, store, asked.fields.get("file_ids") or ())


def _add(asked: Asked, store: Thing, file_ids: Sequence[str]) -> list[Thing]:
    """Put files into a vector store; they must exist."""
    added = []
    for name in file_ids:
        file = asked.desk.store.get(kinds.FILE, name, status=400, param="file_id")
        fields = {
            "usage_bytes": file.shown["bytes"],
            "vector_store_id": store.id,
            "status": "completed",
            "last_error": None,
            "chunking_strategy": _CHUNKING,
            "attributes": asked.fields.get("attributes") or {},
        }
        added.append(new(asked, kinds.VECTOR_FILE, fields, parent=store.id, name=name))
    _recount(asked, store)
    return added


def _recount(asked: Asked, store: Thing) -> None:
    files = asked.desk.store.all(kinds.VECTOR_FILE, store.id)
    store.shown |= {"file_counts": _counts(len(files)), "usage_bytes": sum(file.shown["usage_bytes"] for file in files)}


async def add_file(asked: Asked) -> web.StreamResponse:
    """POST /v1/vector_stores/{id}/files."""
    store = STORES.thing(asked)
    require(asked.fields, "file_id")
    return await reply(asked, _add(asked, store, [asked.fields["file_id"]])[0].shown)


async def delete_file(asked: Asked) -> web.StreamResponse:
    """DELETE /v1/vector_stores/{id}/files/{file_id}: the file itself stays."""
    thing = FILES.thing(asked)
    asked.desk.store.drop(thing)
    _recount(asked, STORES.thing(asked))
    return await reply(asked, {"id": thing.id, "object": "vector_store.file.deleted", "deleted": True})


async def file_content(asked: Asked) -> web.StreamResponse:
    """GET /v1/vector_stores/{id}/files/{file_id}/content: its text."""
    text = _text(asked, FILES.thing(asked))
    found = {"object": "vector_store.file_content.page", "data": [{"type": "text", "text": text}]}
    return await reply(asked, {**found, "has_more": False, "next_page": None})


def _text(asked: Asked, thing: Thing) -> str:
    file = asked.desk.store.find(kinds.FILE, thing.id)
    return (file.content or b"").decode("utf-8", "replace") if file else ""


async def search(asked: Asked) -> web.StreamResponse:
    """POST /v1/vector_stores/{id}/search: every file, the first one best."""
    store = STORES.thing(asked)
    require(asked.fields, "query")
    found: list[dict[str, Any]] = []
    for at, thing in enumerate(asked.desk.store.all(kinds.VECTOR_FILE, store.id)):
        file = asked.desk.store.find(kinds.FILE, thing.id)
        text = {"type": "text", "text": _text(asked, thing)[:_FOUND_CHARS]}
        filename = file.shown["filename"] if file else ""
        score = 1 / (1 + at)
        found.append({"file_id": thing.id, "filename": filename, "score": score, "attributes": {}, "content": [text]})
    query = asked.fields["query"]
    queries = query if isinstance(query, list) else [query]
    shown = {"object": "vector_store.search_results.page", "search_query": queries, "data": found}
    return await reply(asked, {**shown, "has_more": False, "next_page": None})


def _batch(asked: Asked) -> Mapping[str, Any]:
    store = STORES.thing(asked)
    named = asked.fields.get("file_ids") or [one["file_id"] for one in asked.fields.get("files") or ()]
    added = _add(asked, store, named)
    return {"vector_store_id": store.id, "status": "completed", "file_counts": _counts(len(added))}


def _batched(asked: Asked, batch: Thing) -> None:
    batch.hidden["files"] = asked.fields.get("file_ids") or [one["file_id"] for one in asked.fields.get("files") or ()]


async def batch_files(asked: Asked) -> web.StreamResponse:
    """GET /v1/vector_stores/{id}/file_batches/{id}/files."""
    batch = BATCHES.thing(asked)
    files = [
        thing.shown for thing in asked.desk.store.all(kinds.VECTOR_FILE, batch.parent) if thing.id in batch.hidden["files"]
    ]
    return await reply(asked, page(files, asked.request.query))


def _cancel(_asked: Asked, batch: Thing) -> None:
    batch.shown["status"] = "cancelled"


_CHANGES: Final = ("name", "metadata", "expires_after")
STORES: Final = Collection(
    _PATH, "vector_store_id", kinds.VECTOR_STORE, _fields, changes=_CHANGES, gone="vector_store.deleted", made=_filled
)
_ITEM: Final = f"{_PATH}/{{vector_store_id}}"
FILES: Final = Collection(f"{_ITEM}/files", "file_id", kinds.VECTOR_FILE, above=STORES, changes=("attributes",))
BATCHES: Final = Collection(f"{_ITEM}/file_batches", "batch_id", kinds.FILE_BATCH, _batch, above=STORES, made=_batched)


def routes() -> Routes:
    """The rows of the route table."""
    yield from STORES.routes()
    yield "POST", f"{_ITEM}/search", search
    yield "POST", f"{_ITEM}/files", add_file
    yield from FILES.routes()
    yield "DELETE", f"{_ITEM}/files/{{file_id}}", delete_file
    yield "GET", f"{_ITEM}/files/{{file_id}}/content", file_content
    yield from (row for row in BATCHES.routes() if row[1] != BATCHES.path or row[0] == "POST")
    yield "POST", f"{_ITEM}/file_batches/{{batch_id}}/cancel", action(BATCHES, _cancel)
    yield "GET", f"{_ITEM}/file_batches/{{batch_id}}/files", batch_files
