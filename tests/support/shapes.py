"""What providers say, shape by shape, with the tokens that each answer is worth: a table for whoever compares bills with them.

A row is a `Shape`: how a client asks, what the provider sends, and whether its answer tells the usage. Where it does, the
figures are random and none that an estimate could find; where it does not, they are what the texts count.
"""

import base64
import gzip
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

from sentinel.openai.tokens.tokenizer import Tokenizer
from sentinel.ops import vocab
from sentinel.ops.records import ChatPrompt, Prompt, ResponsesPrompt, TextPrompt
from tests.support.scripted import DONE

MODEL: Final = "gpt-4o"
# Whose account it is stands in every error of the provider.
PROVIDER_ACCOUNT: Final = b"org-AbC123dEf456GhI789jKl012"
# docs/tokens.md, "What is not text".
IMAGE_TOKENS: Final = 765
TOKENIZER: Final = Tokenizer.load(vocab.ranks)
SSE, JSON = "text/event-stream", "application/json"
CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS = "/chat/completions", "/responses", "/completions", "/embeddings"
_WORDS: Final = ("river", "boat", "evening", "bank", "sound", "bridge", "stone", "water", "light", "tower", "forest", "winter")


@dataclass
class Job:
    """One request and what the provider does for it. `said` are the texts of its choices, in pieces."""

    number: int
    shape: "Shape"
    prompt: str
    said: list[list[str]]
    input_tokens: int
    output_tokens: int

    @property
    def texts(self) -> list[str]:
        """The whole text of each choice."""
        return ["".join(pieces) for pieces in self.said]

    def body(self) -> bytes:
        """What the client asks, packed as its shape says."""
        prompts = {CHAT: {"messages": self.messages}, RESPONSES: {"input": self.prompt}, EMBEDDINGS: {"input": self.prompt}}
        asked = {"model": MODEL, "act": str(self.number)} | prompts.get(self.shape.path, {"prompt": self.prompt})
        asked |= {"stream": True} if self.shape.stream else {}
        asked |= {"n": len(self.said)} if len(self.said) > 1 else {}
        return self.shape.packs(json.dumps(asked | self.shape.asks).encode())

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The prompt as a chat."""
        return [{"role": "user", "content": self.prompt}]

    def usage(self, **changes: Any) -> dict[str, Any]:
        """The figures of the provider in the words of its route; a change to None leaves one out."""
        given, produced = self.input_tokens, self.output_tokens
        names = ("input_tokens", "output_tokens") if self.shape.path == RESPONSES else ("prompt_tokens", "completion_tokens")
        told = {names[0]: given, names[1]: produced, "total_tokens": given + produced} | changes
        return {name: figure for name, figure in told.items() if figure is not None}


def _same(body: bytes) -> bytes:
    return body


@dataclass(frozen=True)
class Shape:
    """One row. `answer` gives the segments of the answer's body, each of which goes out by itself.

    `label` is its content type (empty: none), `tells` which side of the usage it tells ("both", "input", "output",
    or "nothing"), `hides` whether the client must not see that,
    `media_tokens` what it holds besides texts. `ends`: "whole"; "cut", where the provider hangs up after it; "left", where the
    client does. `served` False: the provider refuses, or has no answer, and nothing is billed.
    """

    path: str
    answer: Callable[[Job], list[bytes]]
    stream: bool = True
    label: str = SSE
    asks: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    packs: Callable[[bytes], bytes] = _same
    choices: int = 1
    tells: str = "both"
    hides: bool = False
    media_tokens: int = 0
    ends: str = "whole"
    status: int = 200
    served: bool = True
    down: int = 200

    def job(self, number: int, chance: random.Random) -> Job:
        """A request of this shape."""
        prompt = " ".join(chance.choices(_WORDS, k=chance.randint(3, 60)))
        said = [[f" {word}" for word in chance.choices(_WORDS, k=chance.randint(4, 30))] for _ in range(self.choices)]
        job = Job(number, self, prompt, said if self.path != EMBEDDINGS else [], 0, 0)
        shapes: dict[str, Prompt] = {CHAT: ChatPrompt(job.messages), RESPONSES: ResponsesPrompt(prompt)}
        job.input_tokens = TOKENIZER.prompt(shapes.get(self.path, TextPrompt([prompt])), MODEL)
        job.output_tokens = sum(TOKENIZER.text(text, MODEL) for text in job.texts) + self.media_tokens
        if self.tells in {"both", "input"}:
            job.input_tokens += chance.randint(100, 900)
        if self.tells in {"both", "output"}:
            job.output_tokens += chance.randint(100, 900) if job.said else 0
        return job


def data(*events: Any) -> bytes:
    """Events of a chat."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def typed(kind: str, **fields: Any) -> bytes:
    """An event of a response."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


def choice(job: Job, index: int, text: str = "", finish: str | None = None) -> dict[str, Any]:
    """An event of one choice."""
    said = {"text": text} if job.shape.path == COMPLETIONS else {"delta": {"content": text} if text else {}}
    return {"id": f"chatcmpl-{job.number}", "choices": [{"index": index, **said, "finish_reason": finish}]}


def pieces(job: Job) -> list[bytes]:
    """All that is said, the choices in turn, without an end."""
    longest = max(map(len, job.said))
    return [
        data(choice(job, index, texts[at])) for at in range(longest) for index, texts in enumerate(job.said) if at < len(texts)
    ]


def told(job: Job, *last: Any, finish: bool = True) -> list[bytes]:
    """A chat's stream with these events before [DONE]."""
    finishes = data(*(choice(job, index, finish="stop") for index in range(len(job.said)))) if finish else b""
    return [b"".join(pieces(job)) + finishes, data(*last) + DONE]


def usage_event(job: Job, usage: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The event that is the usage; `fields` are what a vendor makes of it."""
    return {"id": f"chatcmpl-{job.number}", "usage": job.usage() if usage is None else usage} | fields


def chat(job: Job, usage: Any = "told", **message: Any) -> bytes:
    """A plain chat or completion."""
    said = [
        {"index": at, **({"text": text} if job.shape.path == COMPLETIONS else {"message": {"content": text, **message}})}
        for at, text in enumerate(job.texts)
    ]
    body = {"id": f"chatcmpl-{job.number}", "choices": [{**one, "finish_reason": "stop"} for one in said]}
    return json.dumps(body | ({"usage": job.usage() if usage == "told" else usage} if usage else {})).encode()


def response(job: Job, *items: Any, status: str = "completed", **fields: Any) -> dict[str, Any]:
    """A response, its usage last, where `fields` say no other."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": text}]} for text in job.texts]
    return {"id": f"resp_{job.number:08d}", "status": status, "output": [*items, *output], "usage": job.usage()} | fields


def responding(job: Job, *last: bytes) -> list[bytes]:
    """A response's stream with these last events, each of which comes by itself."""
    created = typed("response.created", response={"id": f"resp_{job.number:08d}", "status": "in_progress", "usage": None})
    deltas = [
        typed("response.output_text.delta", output_index=0, content_index=0, delta=piece) for text in job.said for piece in text
    ]
    return [created + b"".join(deltas), *last]


def completed(job: Job, *items: Any, **fields: Any) -> bytes:
    """The last event of a response."""
    return typed("response.completed", response=response(job, *items, **fields))


def failed(job: Job) -> bytes:
    """The last event of one that failed."""
    return typed("response.failed", response=response(job, status="failed"))


def error(_job: Job) -> bytes:
    """An error in a response's stream."""
    return typed("error", code="server_error", message="no")


def _half(job: Job, **changes: Any) -> dict[str, Any]:
    return usage_event(job, job.usage(**changes), choices=[])


@cache
def _picture(megabytes: int) -> str:
    return base64.b64encode(random.Random(megabytes).randbytes(megabytes * 2**20 * 3 // 4)).decode()


def _painted(megabytes: int) -> dict[str, Any]:
    return {"type": "image_generation_call", "id": "ig_1", "result": _picture(megabytes)}


def _partial(megabytes: int) -> bytes:
    return typed("response.image_generation_call.partial_image", output_index=1, partial_image_b64=_picture(megabytes))


def _images(megabytes: int) -> list[Any]:
    return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_picture(megabytes)}"}, "index": 0}]


def _image(job: Job) -> dict[str, Any]:
    return choice(job, 0) | {"choices": [{"index": 0, "delta": {"images": _images(2)}}]}


def _embeddings(job: Job) -> list[bytes]:
    usage = {"prompt_tokens": job.input_tokens, "total_tokens": job.input_tokens}
    return [json.dumps({"object": "list", "data": [{"index": 0, "embedding": [0.5, 0.25]}], "usage": usage}).encode()]


def _refusal(code: str) -> Callable[[Job], list[bytes]]:
    message = f"No, organization {PROVIDER_ACCOUNT.decode()}."
    body = {"error": {"message": message, "type": "t", "param": None, "code": code}}
    return lambda _: [json.dumps(body).encode()]


OWN_WORDS: Final = {
    "client_metadata": {"session_id": "conv_1", "thread_id": "thread_1"},
    "thread_id": "lg-7",
    "user_id": "batch_7",
    "trace_id": "resp_9",
}
_STREAMED: Final = Shape(CHAT, lambda job: told(job, usage_event(job, choices=[])), hides=True)
_PLAIN: Final = Shape(CHAT, lambda job: [chat(job)], stream=False, label=JSON)
_RESPONSE: Final = Shape(RESPONSES, lambda job: responding(job, completed(job)))
_UNTOLD: Final = Shape(CHAT, told, tells="nothing")
_SENTENCE: Final = replace(_PLAIN, served=False, answer=_refusal("x"))

SHAPES: Final[dict[str, Shape]] = {
    # As they should be.
    "chat, plain": _PLAIN,
    "chat, streamed": _STREAMED,
    "chat, usage asked for": replace(_STREAMED, hides=False, asks={"stream_options": {"include_usage": True}}),
    "chat, usage with the end": Shape(CHAT, lambda job: told(job, choice(job, 0, finish="stop") | {"usage": job.usage()})),
    "completion, plain": replace(_PLAIN, path=COMPLETIONS),
    "completion, streamed": replace(_STREAMED, path=COMPLETIONS),
    "response, plain": Shape(RESPONSES, lambda job: [json.dumps(response(job)).encode()], stream=False, label=JSON),
    "response, streamed": _RESPONSE,
    "response, not stored": replace(_RESPONSE, asks={"store": False}),
    "embeddings": Shape(EMBEDDINGS, _embeddings, stream=False, label=JSON),
    # Several choices.
    "three choices, plain": replace(_PLAIN, choices=3),
    "three choices, streamed": replace(_STREAMED, choices=3),
    "three choices, no usage": replace(_UNTOLD, choices=3),
    "two choices, one cut": Shape(
        CHAT,
        lambda job: [b"".join(pieces(job)) + data(choice(job, 0, finish="stop"))],
        choices=2,
        tells="nothing",
        ends="cut",
    ),
    # Ends.
    "no usage": _UNTOLD,
    "no usage, plain": replace(_PLAIN, answer=lambda job: [chat(job, None)], tells="nothing"),
    "the provider breaks off": Shape(CHAT, lambda job: [b"".join(pieces(job))], tells="nothing", ends="cut"),
    "the client leaves": Shape(CHAT, lambda job: [b"".join(pieces(job))], tells="nothing", ends="left"),
    "a response the client leaves": Shape(RESPONSES, responding, tells="nothing", ends="left"),
    "error, then failed in another read": Shape(RESPONSES, lambda job: responding(job, error(job), failed(job))),
    "failed, then error in another read": Shape(RESPONSES, lambda job: responding(job, failed(job), error(job))),
    "completed, then [DONE] in another read": Shape(RESPONSES, lambda job: responding(job, completed(job), DONE)),
    "usage, then [DONE] in another read": replace(
        _STREAMED, answer=lambda job: [told(job)[0], data(usage_event(job, choices=[])), DONE]
    ),
    "usage, and no end": replace(
        _STREAMED, answer=lambda job: [b"".join(pieces(job)), data(usage_event(job, choices=[]))], hides=True
    ),
    # Usage in every shape.
    "usage without choices": replace(_STREAMED, answer=lambda job: told(job, usage_event(job))),
    "usage with null for choices": replace(_STREAMED, answer=lambda job: told(job, usage_event(job, choices=None))),
    "usage with fields of a vendor": replace(
        _STREAMED, answer=lambda job: told(job, usage_event(job, choices=[], provider="x", cost=0.1, x_groq={"id": "r"}))
    ),
    "usage with an empty delta": replace(
        _STREAMED, answer=lambda job: told(job, usage_event(job, choices=[{"index": 0, "delta": {"content": ""}}]))
    ),
    "usage with the last word": Shape(
        CHAT, lambda job: told(job, choice(job, 0, " end", "stop") | {"usage": job.usage()}, finish=False)
    ),
    # Half of it.
    "no input": Shape(CHAT, lambda job: told(job, _half(job, prompt_tokens=0, total_tokens=None)), tells="output", hides=True),
    "no input, but a total": Shape(CHAT, lambda job: told(job, _half(job, prompt_tokens=0)), hides=True),
    "no output": Shape(
        CHAT, lambda job: told(job, _half(job, completion_tokens=0, total_tokens=None)), tells="input", hides=True
    ),
    "no output, but a total": Shape(CHAT, lambda job: told(job, _half(job, completion_tokens=0)), hides=True),
    "no output at all, plain": replace(
        _PLAIN,
        answer=lambda job: [chat(job, job.usage(completion_tokens=None, total_tokens=None))],
        tells="input",
    ),
    "no input, plain": replace(
        _PLAIN, answer=lambda job: [chat(job, job.usage(prompt_tokens=None, total_tokens=None))], tells="output"
    ),
    "a response without output, but a total": replace(
        _RESPONSE, answer=lambda job: responding(job, completed(job, usage=job.usage(output_tokens=0)))
    ),
    "a response without input": replace(
        _RESPONSE,
        answer=lambda job: responding(job, completed(job, usage=job.usage(input_tokens=0, total_tokens=None))),
        tells="output",
    ),
    # What is no text.
    "a painting, then usage": replace(_RESPONSE, answer=lambda job: responding(job, completed(job, _painted(2)))),
    "a painting too long to keep, then usage": replace(
        _RESPONSE, answer=lambda job: responding(job, completed(job, _painted(17))), asks={"store": False}
    ),
    "usage, then a painting": replace(
        _RESPONSE, answer=lambda job: responding(job, completed(job, usage=job.usage(), more=[_painted(2)]))
    ),
    "a long partial image the client leaves": Shape(
        RESPONSES,
        lambda job: responding(job, _partial(18)[: 17 * 2**20]),
        tells="nothing",
        ends="left",
        media_tokens=IMAGE_TOKENS,
    ),
    "a long partial image the provider breaks off": Shape(
        RESPONSES, lambda job: responding(job, _partial(18)[:-100]), tells="nothing", ends="cut", media_tokens=IMAGE_TOKENS
    ),
    "an image, no usage": Shape(CHAT, lambda job: told(job, _image(job)), tells="nothing", media_tokens=IMAGE_TOKENS),
    "an image, no usage, plain": replace(
        _PLAIN,
        answer=lambda job: [chat(job, None, images=_images(2))],
        tells="nothing",
        media_tokens=IMAGE_TOKENS,
    ),
    "an image and usage": Shape(CHAT, lambda job: told(job, _image(job), usage_event(job, choices=[])), hides=True),
    # Under wrong labels.
    "events as JSON": replace(_STREAMED, label=JSON),
    "events as text": replace(_STREAMED, label="text/plain; charset=utf-8"),
    "events without a label": replace(_STREAMED, label=""),
    "events behind blank lines": replace(
        _STREAMED, label=JSON, answer=lambda job: [b"\r\n" + b"".join(told(job, usage_event(job, choices=[])))]
    ),
    "a response's events as JSON": replace(_RESPONSE, label=JSON),
    "JSON as text": replace(_PLAIN, label="text/plain"),
    "JSON as events": replace(_PLAIN, label=SSE),
    "JSON without a label": replace(_PLAIN, label=""),
    "embeddings as text": Shape(EMBEDDINGS, _embeddings, stream=False, label="text/plain"),
    # What clients send.
    "an application's own words": replace(_STREAMED, asks=OWN_WORDS),
    "a response with an application's own words": replace(_RESPONSE, asks=OWN_WORDS),
    "gzip": replace(_STREAMED, packs=gzip.compress, headers={"content-encoding": "gzip"}),
    "deflate, plain": replace(_PLAIN, packs=zlib.compress, headers={"content-encoding": "deflate"}),
    "a byte order mark": replace(_RESPONSE, packs=lambda body: b"\xef\xbb\xbf" + body),
    # What costs nobody anything.
    "a refusal": replace(_SENTENCE, status=400, down=400),
    "a limit of the provider's": replace(_SENTENCE, status=429, down=429),
    "an account that cannot pay": replace(_SENTENCE, status=402, down=502),
    "a quota of the account's": replace(_SENTENCE, answer=_refusal("insufficient_quota"), status=429, down=502),
    "a page": replace(_SENTENCE, answer=lambda _: [b"<!doctype html><p>" + b"busy " * 8_000], label="text/html", down=502),
    "an error before a word": Shape(
        CHAT, lambda _: [], stream=False, label=JSON, status=500, served=False, down=502, tells="nothing"
    ),
}
