"""What the stages hand to one another: frozen values, no behaviour beyond reading themselves. Cannot fail."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct


class _Named(Enum):
    """Members are looked up in tables on every request, and Enum's own hash is a call to Python; equal are only the same."""

    __hash__ = object.__hash__


class Metric(_Named):
    """What Zion limits; the value is Zion's own name (zion.md)."""

    INPUT = "ai_input_tokens"
    OUTPUT = "ai_output_tokens"
    REQUESTS = "ai_requests"


class Caller(Struct, frozen=True):
    """Who asks: the profile Zion gave for the token. Tokens themselves are never kept."""

    external_id: str
    email: str


class ChatPrompt(Struct, frozen=True):
    """The parts of a chat request that become input tokens, as decoded JSON; `rest` holds its other such members by name."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] = ()
    rest: Mapping[str, Any] = {}


class ResponsesPrompt(Struct, frozen=True):
    """The parts of a request for a response that become input tokens, as decoded JSON; `items` is a text or a list of items."""

    items: str | Sequence[Any] = ()
    instructions: Any = None
    tools: Sequence[Any] = ()
    rest: Mapping[str, Any] = {}


class TextPrompt(Struct, frozen=True):
    """The inputs of a completions or embeddings request: texts, or token lists given by their length in tokens."""

    texts: Sequence[str] = ()
    tokens_given: int = 0


Prompt = ChatPrompt | ResponsesPrompt | TextPrompt


class Reads(_Named):
    """How the body of a request is read."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    OBJECT = "object"  # JSON alone, read for its model and the ids it names
    WORK = "work"  # JSON alone, for work whose models stand where they cannot all be seen: in a file, in graders
    ANY = "any"  # the same of JSON; anything else, as a file in a form, streams through unread
    FORM = "form"  # as ANY, but a form may name objects, so that it is looked through before it goes on
    NOTHING = "nothing"  # no body belongs here


class Dialect(_Named):
    """What of an answer is read: which of its fields are usage, text, and the end of a stream."""

    CHAT = "chat"  # /chat/completions and /completions
    RESPONSES = "responses"
    EVENTS = "events"  # usage at the top level, streams that end when they end
    MEDIA = "media"  # the same where the answer is JSON or events; it may as well be audio, a picture or plain text
    NONE = "none"  # tokens that stand in such an answer were paid by the request that produced them


class Scope(_Named):
    """In which modes of SENTINEL_PASSTHROUGH a route is forwarded: `off` has CORE, `stateless` also the next, and so on."""

    CORE = "off"
    STATELESS = "stateless"  # leaves nothing behind that could be asked for again
    OWNED = "owned"  # about objects that have an owner
    ACCOUNT = "all"  # shows or changes what belongs to the provider's account as a whole


class Route(Struct, frozen=True):
    """One row of the route table (openai/routes.py).

    `by_model` says that its work is a model's, whose name must be seen where not all are allowed, though no tokens are counted.
    `template` is the path below `/v1`; `{kind}` in it stands for the id of an object that has an owner, `{_name}` for what lies
    within such an object. `label` is the route's name in metrics, logs and settings. `creates` says where the answer names
    objects that now belong to the caller, as dotted paths (`*` is every element); `names` where its body names some
    (openai/request/id_paths.py); `polls` where work that is not done when the answer is, can be looked at.
    """

    method: str
    template: str
    label: str
    reads: Reads
    dialect: Dialect
    scope: Scope = Scope.CORE
    creates: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    polls: str = ""
    by_model: bool = False


class Ids(Struct, frozen=True):
    """The ids in a body: `objects` where the API takes the id of an object, `alike` what only looks like one elsewhere."""

    objects: frozenset[str] = frozenset()
    alike: frozenset[str] = frozenset()


NO_IDS = Ids()


class Call(Struct, frozen=True):
    """One request as it will go upstream.

    `path` and `query` are raw, `path` without the `/v1` prefix. `body` is the client's own bytes, with
    `stream_options.include_usage` spliced in where `usage_hidden` says so. `output_tokens_declared` is the largest cap the
    client declared times `n`, or None where it declared none; `output_tokens_least` what must be held of it where not all was
    declared. `route` is a label of the path table. `stored` says that the answer stays with the provider, `background` that
    the work may go on after the answer, `models` are those the body names beside its own, `named` the ids in it, `creates` is
    the route's where it names new ones. `detached` says that the work goes on at the provider whoever waits for it,
    `of_account` that it is done over what all callers have stored. `trace` are the headers of its trace, `coding` the content
    codings of a body that streams by. `unseen_input` says that the model reads what the request does not show (history,
    templates, finds of tools), `unseen_output` that some output is hidden, `cap_unheeded` that no cap is heeded. `echoed`
    hashes what it repeats.
    """

    route: str
    method: str
    path: str
    query: bytes = b""
    model: str = ""
    body: bytes = b""
    stream: bool = False
    usage_hidden: bool = False
    prompt: Prompt | None = None
    output_tokens_declared: int | None = None
    choices: int = 1
    dialect: Dialect = Dialect.CHAT
    stored: bool = False
    background: bool = False
    referenced_ids: Ids = NO_IDS
    trace: tuple[tuple[str, str], ...] = ()
    creates: tuple[str, ...] = ()
    detached: bool = False
    models: frozenset[str] = frozenset()
    of_account: bool = False
    coding: str = ""
    unseen_input: bool = False
    unseen_output: bool = False
    cap_unheeded: bool = False
    output_tokens_least: int | None = None
    echoed: frozenset[int] = frozenset()


class Usage(Struct, frozen=True):
    """Tokens of one answer; 0 where the provider named none for that side.

    `derived`: one is the total less the other. `reasoning_tokens` are those of the output that were thought, not said.
    `total_tokens` is told only where neither side is.
    """

    input_tokens: int
    output_tokens: int
    derived: bool = False
    reasoning_tokens: int = 0
    total_tokens: int = 0


NO_TOKENS = Usage(0, 0)  # of an answer that is given again


class Produced(Struct, frozen=True):
    """What was produced that no usage covers: `texts` are one per choice and field (rule L1).

    `bytes_uncounted` is what was read of them past the cap (counted as bytes / 4, rule L4), `media_tokens` what was shown.
    `unread_bytes` may have been text, but nobody read them. `usage` is what a plain body that broke off had told before.
    """

    texts: Sequence[str] = ()
    bytes_uncounted: int = 0
    media_tokens: int = 0
    unread_bytes: int = 0
    usage: Usage | None = None


NOTHING_PRODUCED = Produced()


class Remaining(Struct, frozen=True):
    """One limit as the caller sees it; `limit` and `remaining` are None when unlimited, `reset_ms` when it never resets."""

    limit: int | None
    remaining: int | None
    reset_ms: int | None


UNLIMITED = Remaining(None, None, None)


class Hold(Struct, frozen=True):
    """What was held in the ledger for one request, and what the caller has left beside it (for the headers).

    `output_capped` says that less output was held than was asked for, because no more remained: the provider must be told.
    `degraded` says how it was admitted while Redis was away ("sliced" or "open"), so that Redis may know nothing of it and its
    settlement has to charge blindly; empty where Redis holds it.
    """

    request_id: str
    caller: Caller
    model: str
    input_tokens: int
    output_tokens: int
    requests: Remaining = UNLIMITED
    tokens_input: Remaining = UNLIMITED
    tokens_output: Remaining = UNLIMITED
    rate: Remaining = UNLIMITED
    output_capped: bool = False
    rate_tokens: Remaining = UNLIMITED
    degraded: str = ""


class Origin(Struct, frozen=True):
    """Where an answer comes from, where that is not plainly the provider's to what was asked.

    `model` is the fallback that answered instead of the one asked. `cache` is "hit" for an answer that was kept, "miss" for one
    that may be kept from now on.
    """

    model: str = ""
    cache: str = ""


class Ending(_Named):
    """How a request ended; the label of the metrics and of the log line."""

    SUCCESS = "success"
    REFUSED = "refused"  # by the provider, with a status of its own
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    TRUNCATED = "truncated"  # the provider broke off in the middle
    CLIENT_CLOSED = "client_closed"
    INTERNAL = "internal_error"


class Outcome(Struct, frozen=True):
    """What happened upstream, and what is known of its cost.

    `started` says that the provider may have begun to work (the request was sent). `usage` is the provider's own figure;
    `produced` is what came after it, everything where it is None or has no output. `left` holds the ids the answer names, by
    the paths of `Call.creates`; `unfinished` says that the work goes on after it (rule P3). `unseen` is the reason why its
    cost will never be known, so that what was held is charged; "" where all is known that there is to know.
    """

    ending: Ending
    status: int
    started: bool
    usage: Usage | None = None
    produced: Produced = NOTHING_PRODUCED
    bytes_down: int = 0
    upstream_request_id: str = ""
    created_ids: Mapping[str, Sequence[str]] = {}
    unfinished: bool = False
    unseen: str = ""


class Bill(Struct, frozen=True):
    """What a request costs its caller. `reason` says why a figure is an estimate, and is empty where it is the provider's."""

    requests: int
    input_tokens: int
    output_tokens: int
    reason: str = ""


class Entry(Struct, frozen=True, array_like=True):
    """One line of the journal: what a request has cost (`settled`), or may cost at least (`started`: its prompt's estimate).

    `at_ms` (Unix) is when it was written.
    """

    kind: str
    at_ms: int
    request_id: str
    external_id: str
    email: str
    model: str
    input_tokens: int
    output_tokens: int
    requests: int
