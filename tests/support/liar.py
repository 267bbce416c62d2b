"""A provider on a raw socket that does what no HTTP library would: what the body's `act` says, to the byte."""

import asyncio
import gzip
import itertools
import json
import zlib
from collections.abc import Callable
from typing import Any

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in. \xff" + b"<p>" * 300 + b"</body></html>"
HELLO = (
    b'{"id":"x","object":"chat.completion","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
)
EVENT = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
STREAM = (
    EVENT
    + b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    + b'data: {"id":"x","object":"chat.completion.chunk","choices":[],"usage":'
    b'{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\ndata: [DONE]\n\n'
)
UNKNOWN_MODEL = (
    b'{"error":{"message":"The model `gone` does not exist or you do not have access to it.",'
    b'"type":"invalid_request_error","param":null,"code":"model_not_found"}}'
)
OUT_OF_QUOTA = b'{"error":{"message":"You exceeded your current quota.","type":"insufficient_quota","param":null,"code":"%b"}}'
# What describes or leaks the account that all callers share, or the edge it stands behind (rules H3, I6).
ACCOUNT_HEADERS = {
    "openai-organization": "org-leak",
    "openai-project": "proj_leak",
    "x-ratelimit-limit-requests": "leak-1",
    "x-ratelimit-remaining-tokens": "leak-2",
    "x-ratelimit-reset-input-images": "leak-3",
    "set-cookie": "__cf_bm=leak",
    "www-authenticate": "Bearer leak",
    "authorization": "Bearer leak",
    "location": "http://leak.test/",
    "alt-svc": 'h3=":443"; leak',
    "strict-transport-security": "max-age=1; leak",
    "server": "leak",
    "via": "1.1 leak",
    "cf-ray": "leak",
    "x-envoy-upstream-service-time": "leak",
    "access-control-allow-origin": "leak",
    "x-sentinel-model": "leak",
    "x-sentinel-cache": "leak",
    "x-sentinel-degraded": "leak",
    "x-powered-by": "leak",
    "trailer": "leak",
    "keep-alive": "leak",
    "proxy-authenticate": "leak",
    "x-named-by-connection": "leak",
    "connection": "x-named-by-connection",
}


def answer(body: bytes, *, status: int = 200, media: str = "application/json", **headers: str) -> bytes:
    """A whole answer; `_` in the name of a header is a `-`."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}", f"content-type: {media}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def bare_deflate(body: bytes) -> bytes:
    """Deflate without the head of RFC 1950, as some servers send it."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


_SSE = "text/event-stream; charset=utf-8"
_PLAIN = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
# Answers that are the same each time; those of LAST_WORDS end the connection.
ANSWERS = {
    "well": answer(HELLO),
    "stream": answer(STREAM, media=_SSE),
    "huge header": b"HTTP/1.1 200 OK\r\nx-big: " + b"x" * 70_000 + b"\r\n" + _PLAIN % (len(HELLO), HELLO),
    "status 99": b"HTTP/1.1 099 Odd\r\n" + _PLAIN % (len(HELLO), HELLO),
    "status 700": b"HTTP/1.1 700 Odd\r\n" + _PLAIN % (len(HELLO), HELLO),
    "redirect": b"HTTP/1.1 307 Away\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    "garbage": b"\x00\x01 this is not HTTP\r\n\r\n",
    "key quoted": b"HTTP/1.1 401 No\r\n" + _PLAIN % (len(HELLO), HELLO),
    "forbidden": answer(HELLO, status=403),
    "500 without a body": b"HTTP/1.1 500 Oh\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
    "short": b"HTTP/1.1 200 OK\r\n" + _PLAIN % (len(HELLO) + 50, HELLO),
    "reset": b"",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
    "length and chunked": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "gzip": answer(gzip.compress(HELLO), content_encoding="gzip"),
    "gzip twice": answer(gzip.compress(HELLO[:50]) + gzip.compress(HELLO[50:]), content_encoding="X-GZip"),
    "deflate": answer(zlib.compress(HELLO), content_encoding="deflate"),
    "bare deflate": answer(bare_deflate(HELLO), content_encoding="deflate"),
    "identity": answer(HELLO, content_encoding="identity"),
    "gzip stream": answer(gzip.compress(STREAM), media=_SSE, content_encoding="gzip"),
    "gzip download": answer(gzip.compress(HELLO), media="audio/mpeg", content_encoding="gzip"),
    "br": answer(b"\x0b\x02\x80hello\x03", content_encoding="br"),
    "br 429": answer(b"\x0b\x02\x80hello\x03", status=429, content_encoding="br"),
    "br 400 of no label": answer(b"\x0b\x02\x80hello\x03", status=400, media="text/plain", content_encoding="gzip, br"),
    "zstd stream": answer(b"(\xb5/\xfd", media=_SSE, content_encoding="zstd"),
    "gzip of gzip": answer(gzip.compress(gzip.compress(HELLO)), content_encoding="gzip, gzip"),
    "head alone": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
    "unreadable 529": b"HTTP/1.1 529 No\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
    "bad 400": b"HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
    "bad gzip": answer(gzip.compress(HELLO)[:20] + b"\x00" * 40, content_encoding="gzip"),
    "no gzip": answer(HELLO, content_encoding="gzip"),
    "short gzip": answer(gzip.compress(HELLO)[:-12], content_encoding="gzip"),
    "account": answer(HELLO, **ACCOUNT_HEADERS),
    "refused account": answer(HELLO, status=400, **ACCOUNT_HEADERS),
    "html": answer(b"<html>Bad \xff Gateway</html>", status=502, media="text/html"),
    "page": answer(PAGE, media="text/html"),
    "page in chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE),
    "gzip page": answer(gzip.compress(PAGE), media="text/html", content_encoding="gzip"),
    "empty": answer(b""),
    "text": answer(b"upstream is fine", media="text/plain"),
    "missing": answer(b'{"error":{"message":"No such thing","type":"t","param":null,"code":null}}', status=404),
    "model_not_found": answer(UNKNOWN_MODEL, status=404),
    "bad request": answer(b'{"error":{"message":"no","type":"invalid_request_error","param":"n","code":"c"}}', status=400),
    "conflict": answer(HELLO, status=409),
    "unprocessable": answer(HELLO, status=422),
    "quota": answer(HELLO, status=429, retry_after="120", retry_after_ms="120000", x_should_retry="false"),
    "payment required": answer(b'{"error":{"message":"Insufficient funds.","type":"insufficient_funds"}}', status=402),
    "out of quota": answer(OUT_OF_QUOTA % b"credit_balance_exhausted", status=429, retry_after="120"),
    "hard limit": answer(OUT_OF_QUOTA % b"billing_hard_limit_reached", status=400),
    "not active": answer(OUT_OF_QUOTA % b"billing_not_active", status=403),
    "overloaded": answer(HELLO, status=503, retry_after="7", x_should_retry="true"),
    "broken": answer(HELLO, status=500, retry_after_ms="1500"),
    "busy": answer(HELLO, status=529, retry_after="3"),
    "overloaded, no advice": answer(HELLO, status=503),
    "large 404": answer(b"<html>" + b"x" * 300_000, status=404, media="text/html"),
    "short 404": answer(UNKNOWN_MODEL, status=404)[:-10],
    "broken stream": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n" + EVENT,
    "stream of comments": answer(b": still working\n\n" * 3, media=_SSE),
    "empty stream": answer(b"", media=_SSE),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "half stream": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + EVENT,
}
_LAST_WORDS = {
    *("huge header", "status 99", "status 700", "garbage", "500 without a body", "short", "reset", "bad chunk"),
    *(
        "two lengths",
        "negative length",
        "length and chunked",
        "half stream",
        "head alone",
        "bad 400",
        "unreadable 529",
        "broken stream",
        "short 404",
    ),
}


class Liar:
    """`url` is what OPENAI_API_URL is to be; `asked` lists the acts in the order of their requests, `heads` and `bodies` what
    they came with. `closed` counts connections that the other side has closed."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()
        self._acts: dict[str, Callable[[asyncio.StreamWriter], Any]] = {
            "silent": lambda _writer: asyncio.sleep(60),
            "endless headers": _endless_headers,
            "trickling headers": lambda writer: _trickle(writer, b"HTTP/1.1 200 OK\r\nx-long: ", b"x"),
            "silent after its head": lambda writer: _trickle(writer, _head_of(b"application/json", 100), b"", 1, b"", 60),
            "late stream": lambda writer: _trickle(writer, b"", b"", 5, _head_of(b"text/event-stream") + STREAM),
            "late json": lambda writer: _trickle(writer, b"", b"", 5, _head_of(b"application/json"), 0),
            "trickle": lambda writer: _trickle(writer, _head_of(b"application/json", 10_000), b" "),
            "trickling stream": lambda writer: _trickle(writer, _head_of(b"text/event-stream"), EVENT, 40, STREAM),
            "trickling stream as json": lambda writer: _trickle(writer, _head_of(b"application/json"), EVENT, 40, STREAM),
            "trickling json as text": lambda writer: _trickle(writer, _head_of(b"text/plain"), b'{"a":1}'),
            "trickling blanks as text": lambda writer: _trickle(writer, _head_of(b"text/plain"), b" "),
            "trickling download": lambda writer: _trickle(writer, _head_of(b"audio/mpeg"), b"\x00\xff", 40),
            "silent in the middle": lambda writer: _trickle(writer, _head_of(b"text/event-stream"), EVENT, 1, b"", 60),
        }

    async def __aenter__(self) -> "Liar":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while head := await _head(reader):
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                body = await reader.readexactly(length)
                self.heads.append(head)
                self.bodies.append(body)
                asked = json.loads(body or b"{}")
                act = asked.get("act", "well")
                self.asked.append(act)
                if isinstance(act, dict):
                    # What it does follows from the model.
                    act = act.get(asked["model"], "well")
                if not await self._act(act, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._open.discard(task)
            writer.close()

    async def _act(self, act: str, writer: asyncio.StreamWriter) -> bool:
        """Answer; whether the connection stays open."""
        if act in self._acts:
            await self._acts[act](writer)
            return False
        writer.write(ANSWERS[act])
        await writer.drain()
        if act == "500 without a body":
            await asyncio.sleep(60)
        return act not in _LAST_WORDS


def _head_of(media: bytes, length: int | None = None) -> bytes:
    framing = b"connection: close" if length is None else b"content-length: %d" % length
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n%s\r\n\r\n" % (media, framing)


async def _trickle(
    writer: asyncio.StreamWriter, head: bytes, piece: bytes, times: int = 10_000, last: bytes = b"", wait_s: float = 0
) -> None:
    """A piece each 10 ms, so that the connection is never silent for long."""
    writer.write(head)
    for _ in range(times):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    await asyncio.sleep(wait_s)
    writer.write(last)
    await writer.drain()


async def _endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        writer.write(b"x-%d: y\r\n" % number)
        await writer.drain()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
