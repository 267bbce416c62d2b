"""The route table: every path of OpenAI's public API, how it is read, metered and guarded. docs/compatibility.md shows it.

Fails closed: a path that is not here is UnknownPathError (404), or ForbiddenError (403) where openai/refused_routes.py says
why; a known path with another method WrongMethodError (405); what could be read as another path by whoever is asked next is
unknown (rules E4, H8, H17). No route is unmetered: each is authenticated, limited and billed as a request, and tokens are
counted where the request is the one that produces them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from sentinel.openai import refused_routes, wire
from sentinel.openai.request import id_paths
from sentinel.ops.records import Dialect, Reads, Route, Scope

# What could be read as another path by whoever is asked next: empty, dotted and unfinished segments, other slashes, escapes of
# what has a meaning (control characters, # % . ? \) or of nothing, and bytes that no path has (rules H8, H17).
_DOUBTFUL: Final = re.compile(
    r"(?:/|%2f)(?:/|%2f|\.|\Z)|\\|%[01]|%2[35e]|%3f|%5c|%7f|%(?![0-9a-f]{2})|[^!-~]|[\"<>^`{|}]", re.IGNORECASE
)
# Unreserved characters only: an escaped one could spell another object's id.
_SEGMENT: Final = r"[A-Za-z0-9_:~-][A-Za-z0-9_.:~-]{0,255}"
_ID: Final = re.compile(_SEGMENT)
_PLACEHOLDER: Final = re.compile(r"\{(_?)([a-z_]+)\}")


class Match(Struct, frozen=True):
    """A route, and as (kind, id) the objects its path names, and what it names that lies within them."""

    route: Route
    referenced_ids: tuple[tuple[str, str], ...] = ()
    parts: tuple[tuple[str, str], ...] = ()


def match(method: str, path: str) -> Match:
    """The row for `path` (raw, with `/v1`), also where it is none of DIRECT. HEAD is answered where GET is (RFC 9110 §9.3.2,
    rule H16).

    Raises UnknownPathError, ForbiddenError or WrongMethodError.
    """
    rows = _EXACT.get(path)
    found: re.Match[str] | None = None
    if rows is None:
        if not _DOUBTFUL.search(path):
            for pattern, candidates in _PATTERNS.get(path[4:].partition("/")[0], ()):
                if found := pattern.fullmatch(path):
                    rows = candidates
                    break
        if rows is None:
            raise wire.unknown_path(method, path, refused_routes.reason(path))
    row = rows.get("GET" if method == "HEAD" else method)
    if row is None:
        allowed = sorted({*rows, "HEAD"} if "GET" in rows else rows)
        raise wire.wrong_method(method, path, ", ".join(allowed))
    if not found:
        return row
    ids = found.groupdict().items()
    return Match(
        row.route,
        tuple((kind, name) for kind, name in ids if kind[0] != "_"),
        tuple((kind, name) for kind, name in ids if kind[0] == "_"),
    )


def state_path(match: Match, left: Mapping[str, Sequence[str]]) -> str:
    """Where the work of an answer that names `left` can be looked at, "" where that cannot be told."""
    polls = match.route.polls
    known = {path: ids[0] for path, ids in left.items() if ids and _ID.fullmatch(ids[0])}
    # The thread of a run stands in the path, or in the answer where the run has made it.
    known |= {f"{kind}_id": name for kind, name in match.referenced_ids}
    names = [name for _, name in _PLACEHOLDER.findall(polls)]
    return polls.format_map(known) if names and all(name in known for name in names) else ""


# ---- the table ---------------------------------------------------------------------------------------------------------


def _row(verbs: str, template: str, **rest: object) -> list[Route]:
    """The rows of one path; by default a pass-through about owned objects whose answers produce no tokens."""
    first = template.removeprefix("/").partition("/")[0].partition("?")[0]
    given = {"label": first, "dialect": Dialect.NONE, "scope": Scope.OWNED, "reads": Reads.OBJECT} | rest
    rows = []
    for verb in verbs.split():
        has_body = verb == "POST"
        body = {"reads": given["reads"], "names": id_paths.BY_ROUTE.get(template, ())} if has_body else {"reads": Reads.NOTHING}
        rows.append(Route(verb, template, **(given | body)))  # type: ignore[arg-type]
    return rows


def _core(verb: str, template: str, reads: Reads, dialect: Dialect, **rest: object) -> list[Route]:
    return _row(verb, template, reads=reads, dialect=dialect, scope=Scope.CORE, **rest)


def _stateless(template: str, dialect: Dialect = Dialect.EVENTS, **rest: object) -> list[Route]:
    return _row("POST", template, dialect=dialect, scope=Scope.STATELESS, **rest)


def _objects(template: str, kind: str, verbs: str = "GET POST DELETE", **rest: object) -> list[Route]:
    """A kind of object: made by POST on its collection, listed for the whole account by GET, then reached by id."""
    made = _row("POST", template, creates=("id",), **rest)
    listed = _row("GET", template, scope=Scope.ACCOUNT, label=rest.get("label", template[1:].partition("/")[0]))
    return [*made, *listed, *_row(verbs, f"{template}/{{{kind}}}", label=made[0].label)]


_BATCH_FILES: Final = ("id", "output_file_id", "error_file_id")
_CONTAINERS: Final = ("id", "output.*.container_id")

ROUTES: Final[tuple[Route, ...]] = (
    *_core("POST", "/chat/completions", Reads.CHAT, Dialect.CHAT, label="chat_completions", creates=("id",)),
    *_core("POST", "/completions", Reads.COMPLETIONS, Dialect.CHAT),
    *_core("POST", "/embeddings", Reads.EMBEDDINGS, Dialect.EVENTS),
    *_core("POST", "/responses", Reads.RESPONSES, Dialect.RESPONSES, creates=_CONTAINERS, polls="/responses/{id}"),
    *_core("GET", "/models", Reads.NOTHING, Dialect.NONE),
    *_core("GET", "/models/{_model}", Reads.NOTHING, Dialect.NONE, label="model"),
    *_row("DELETE", "/models/{_model}", label="model", scope=Scope.ACCOUNT),
    # Nothing is left behind.
    *_stateless("/responses/input_tokens", Dialect.NONE),
    *_stateless("/responses/compact"),
    *_stateless("/moderations"),
    *_stateless("/decisions"),
    *_stateless("/content_provenance_checks", Dialect.MEDIA, reads=Reads.ANY),
    *_stateless("/images/generations", Dialect.MEDIA),
    *_stateless("/images/edits", Dialect.MEDIA, reads=Reads.FORM),
    *_stateless("/images/variations", Dialect.MEDIA, reads=Reads.ANY),
    *_stateless("/audio/speech", Dialect.MEDIA),
    *_stateless("/audio/transcriptions", Dialect.MEDIA, reads=Reads.ANY),
    *_stateless("/audio/translations", Dialect.MEDIA, reads=Reads.ANY),
    *_stateless("/fine_tuning/alpha/graders/run", reads=Reads.WORK),
    *_stateless("/fine_tuning/alpha/graders/validate", Dialect.NONE),
    # What a chat completion or a response leaves.
    *_row("GET", "/chat/completions", label="chat_completions", scope=Scope.ACCOUNT),
    *_row("GET POST DELETE", "/chat/completions/{completion}", label="chat_completions"),
    *_row("GET", "/chat/completions/{completion}/messages", label="chat_completions"),
    *_row("GET DELETE", "/responses/{response}", creates=("output.*.container_id",)),
    *_row("POST", "/responses/{response}/cancel"),
    *_row("GET", "/responses/{response}/input_items"),
    *_row("POST", "/conversations", creates=("id",)),
    *_row("GET POST DELETE", "/conversations/{conversation}"),
    *_row("GET", "/conversations/{conversation}/items"),
    *_row("POST", "/conversations/{conversation}/items", creates=("data.*.id",)),
    *_row("GET DELETE", "/conversations/{conversation}/items/{_item}"),
    # Files.
    *_objects("/files", "file", "GET DELETE", reads=Reads.ANY),
    *_row("GET", "/files/{file}/content"),
    *_row("POST", "/uploads", creates=("id",)),
    *_row("POST", "/uploads/{upload}/parts", reads=Reads.ANY),
    *_row("POST", "/uploads/{upload}/complete", creates=("file.id",)),
    *_row("POST", "/uploads/{upload}/cancel"),
    *_objects("/vector_stores", "vector_store"),
    *_row("GET POST", "/vector_stores/{vector_store}/files"),
    *_row("GET POST DELETE", "/vector_stores/{vector_store}/files/{file}"),
    *_row("GET", "/vector_stores/{vector_store}/files/{file}/content"),
    *_row("POST", "/vector_stores/{vector_store}/file_batches", creates=("id",)),
    *_row("GET", "/vector_stores/{vector_store}/file_batches/{_batch}"),
    *_row("POST", "/vector_stores/{vector_store}/file_batches/{_batch}/cancel"),
    *_row("GET", "/vector_stores/{vector_store}/file_batches/{_batch}/files"),
    *_row("POST", "/vector_stores/{vector_store}/search"),
    *_objects("/containers", "container", "GET DELETE"),
    *_row("GET", "/containers/{container}/files"),
    *_row("POST", "/containers/{container}/files", reads=Reads.FORM, creates=("id",)),
    *_row("GET DELETE", "/containers/{container}/files/{_file}"),
    *_row("GET", "/containers/{container}/files/{_file}/content"),
    # Work that goes on by itself.
    *_row("POST", "/batches", reads=Reads.WORK, dialect=Dialect.EVENTS, creates=_BATCH_FILES, polls="/batches/{id}"),
    *_row("GET", "/batches", scope=Scope.ACCOUNT),
    *_row("GET", "/batches/{batch}", creates=_BATCH_FILES[1:]),
    *_row("POST", "/batches/{batch}/cancel", creates=_BATCH_FILES[1:]),
    *_row("POST", "/fine_tuning/jobs", creates=("id",), by_model=True),
    *_row("GET", "/fine_tuning/jobs", scope=Scope.ACCOUNT),
    *_row("GET", "/fine_tuning/jobs/{job}", creates=("result_files.*", "fine_tuned_model")),
    *_row("POST", "/fine_tuning/jobs/{job}/cancel"),
    *_row("POST", "/fine_tuning/jobs/{job}/pause"),
    *_row("POST", "/fine_tuning/jobs/{job}/resume"),
    *_row("GET", "/fine_tuning/jobs/{job}/checkpoints"),
    *_row("GET", "/fine_tuning/jobs/{job}/events"),
    *_objects("/videos", "video", "GET DELETE", reads=Reads.FORM, by_model=True),
    *_row("GET", "/videos/{video}/content"),
    *_row("POST", "/videos/{video}/remix", creates=("id",), reads=Reads.FORM),
    *_row("POST", "/videos/edits", creates=("id",), reads=Reads.FORM),
    *_row("POST", "/videos/extensions", creates=("id",), reads=Reads.FORM),
    *_row("POST", "/videos/characters", creates=("id",), reads=Reads.FORM),
    *_row("GET", "/videos/characters/{character}"),
    *_objects("/evals", "eval"),
    *_row("GET", "/evals/{eval}/runs"),
    *_row(
        "POST",
        "/evals/{eval}/runs",
        reads=Reads.WORK,
        dialect=Dialect.EVENTS,
        creates=("id",),
        polls="/evals/{eval_id}/runs/{id}",
    ),
    *_row("GET POST DELETE", "/evals/{eval}/runs/{_eval_run}"),
    *_row("POST", "/evals/{eval}/runs/{_eval_run}/cancel"),
    *_row("GET", "/evals/{eval}/runs/{_eval_run}/output_items"),
    *_row("GET", "/evals/{eval}/runs/{_eval_run}/output_items/{_item}"),
    *_objects("/skills", "skill", reads=Reads.ANY),
    *_row("GET", "/skills/{skill}/content"),
    *_row("GET POST", "/skills/{skill}/versions", reads=Reads.ANY),
    *_row("GET DELETE", "/skills/{skill}/versions/{_version}"),
    *_row("GET", "/skills/{skill}/versions/{_version}/content"),
    *_row("POST", "/audio/voices", creates=("id",), reads=Reads.FORM),
    *_row("DELETE", "/audio/voices/{voice}"),
    *_objects("/audio/voice_consents", "consent", reads=Reads.ANY),
    # Assistants.
    *_objects("/assistants", "assistant"),
    *_row("POST", "/threads", creates=("id",)),
    *_row("GET POST DELETE", "/threads/{thread}"),
    *_row("GET", "/threads/{thread}/messages"),
    *_row("POST", "/threads/{thread}/messages", creates=("id",)),
    *_row("GET POST DELETE", "/threads/{thread}/messages/{_message}"),
    *_row("POST", "/threads/runs", dialect=Dialect.EVENTS, creates=("thread_id", "id"), polls="/threads/{thread_id}/runs/{id}"),
    *_row("GET", "/threads/{thread}/runs"),
    *_row(
        "POST",
        "/threads/{thread}/runs",
        dialect=Dialect.EVENTS,
        creates=("thread_id", "id"),
        polls="/threads/{thread_id}/runs/{id}",
    ),
    *_row("GET POST", "/threads/{thread}/runs/{_run}"),
    *_row("POST", "/threads/{thread}/runs/{_run}/cancel"),
    *_row("POST", "/threads/{thread}/runs/{_run}/submit_tool_outputs"),
    *_row("GET", "/threads/{thread}/runs/{_run}/steps"),
    *_row("GET", "/threads/{thread}/runs/{_run}/steps/{_step}"),
)

# The rows of one path, by method.
_Rows = dict[str, Match]


def _pattern(template: str) -> re.Pattern[str]:
    def group(found: re.Match[str]) -> str:
        # Models of other vendors have a slash in their names (rule H8).
        return "[^?#]+" if found[0] == "{_model}" else f"(?P<{found[1]}{found[2]}>{_SEGMENT})"

    return re.compile("/v1" + _PLACEHOLDER.sub(group, template))


def _read_table() -> tuple[dict[str, _Rows], dict[str, list[tuple[re.Pattern[str], _Rows]]]]:
    by_template: dict[str, _Rows] = {}
    for route in ROUTES:
        by_template.setdefault(route.template, {})[route.method] = Match(route)
    exact = {f"/v1{template}": rows for template, rows in by_template.items() if "{" not in template}
    patterns: dict[str, list[tuple[re.Pattern[str], _Rows]]] = {}
    for template, rows in by_template.items():
        if "{" in template:
            patterns.setdefault(template[1:].partition("/")[0], []).append((_pattern(template), rows))
    return exact, patterns


_EXACT, _PATTERNS = _read_table()
# The rows whose path names nothing, by method and path.
DIRECT: Final = {(method, path): row for path, rows in _EXACT.items() for method, row in rows.items()}
