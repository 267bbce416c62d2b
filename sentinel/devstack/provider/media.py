"""Images and audio: plain JSON, other text, bytes, and streams with usage (rule P5).

Raises `RefusedError`, and what aiohttp raises when the client is gone.
"""

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import require
from sentinel.devstack.provider.files import the_file
from sentinel.devstack.provider.objects import Routes
from sentinel.devstack.provider.sending import EventStream, event, generated, reply, send_content
from sentinel.devstack.provider_script import pieces
from sentinel.ops.records import TextPrompt

IMAGE_BYTES: Final = 4096
IMAGE_TOKENS: Final = 272
SPEECH_BYTES: Final = 65_536
_SPEECH_CHUNKS: Final = 8
_AUDIO_BYTES_PER_TOKEN: Final = 1600
_SPEECH_TYPES: Final = {"mp3": "audio/mpeg", "wav": "audio/wav", "opus": "audio/opus", "flac": "audio/flac", "aac": "audio/aac"}


async def _stream(
    asked: Asked, events: Iterable[Mapping[str, Any]], last: Callable[[], Mapping[str, Any]]
) -> web.StreamResponse:
    """Events without names, each at its pace; `last` makes the one with usage, which is charged then, and there is no [DONE].

    Of a stream that ends before, the texts that were sent stand in the row.
    """
    stream = EventStream(asked)
    await stream.open()
    said, whole = "", False
    try:
        for fields in events:
            await asked.pace()
            if not await stream.send(event(fields)):
                return stream.response
            said += fields.get("delta", "")
        whole = True
    finally:
        if not whole:
            asked.spent(asked.row.input_tokens, asked.desk.count_text(said, asked.row.model), reported=False)
    await stream.write(event({name: value for name, value in last().items() if value is not None}))
    await stream.close()
    return stream.response


def _encoded(size_bytes: int) -> str:
    return base64.b64encode(b"".join(generated(size_bytes))).decode()


# Images


def _image_usage(asked: Asked, count: int) -> dict[str, Any] | None:
    """What `count` pictures cost, written into the row."""
    pictures = IMAGE_TOKENS * len(asked.files)
    given, produced = asked.spent(asked.row.input_tokens, IMAGE_TOKENS * count)
    if asked.simulate.get("no_usage"):
        return None
    return {
        "input_tokens": given,
        "input_tokens_details": {"text_tokens": given - pictures, "image_tokens": pictures},
        "output_tokens": produced,
        "output_tokens_details": {"image_tokens": produced, "text_tokens": 0},
        "total_tokens": given + produced,
    }


async def generate_images(asked: Asked) -> web.StreamResponse:
    """POST /v1/images/generations."""
    asked.model("dall-e-2")
    require(asked.fields, "prompt")
    return await _images(asked, "image_generation")


async def edit_images(asked: Asked) -> web.StreamResponse:
    """POST /v1/images/edits: a form with images, or JSON that names them."""
    asked.model("gpt-image-1")
    require(asked.fields, "prompt")
    if asked.is_form:
        the_file(asked, "image")
    return await _images(asked, "image_edit")


async def vary_image(asked: Asked) -> web.StreamResponse:
    """POST /v1/images/variations."""
    asked.model("dall-e-2")
    the_file(asked, "image")
    return await _images(asked, "image_variation")


async def _images(asked: Asked, name: str) -> web.StreamResponse:
    body = asked.fields
    count = int(body.get("n") or 1)
    free = asked.row.model.startswith("dall-e")  # paid by the picture, and reports no tokens
    if not free:
        prompt = TextPrompt([str(body.get("prompt") or "")])
        asked.row.input_tokens = asked.desk.count(prompt, asked.row.model) + IMAGE_TOKENS * len(asked.files)
    look = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}
    now = int(time.time())
    if asked.row.stream:
        one = {"b64_json": _encoded(IMAGE_BYTES), "created_at": now, **look}
        partial = {"type": f"{name}.partial_image", **one}
        partials = [{**partial, "partial_image_index": at} for at in range(int(body.get("partial_images") or 0))]
        return await _stream(
            asked, partials, lambda: {"type": f"{name}.completed", **one, "usage": None if free else _image_usage(asked, count)}
        )
    await asked.delay()
    usage = None if free else _image_usage(asked, count)
    url = body.get("response_format") == "url"
    pictures = [
        {"url": f"https://images.example/{at}.png"} if url else {"b64_json": _encoded(IMAGE_BYTES)} for at in range(count)
    ]
    shown = {"created": now, "data": pictures, **({} if usage is None else {**look, "usage": usage})}
    return await reply(asked, shown)


# Audio


async def speak(asked: Asked) -> web.StreamResponse:
    """POST /v1/audio/speech: SPEECH_BYTES of sound, or events with usage at the end (`stream_format: sse`)."""
    model = asked.model()
    require(asked.fields, "input", "voice")
    if asked.fields.get("stream_format") != "sse":
        kind = _SPEECH_TYPES.get(asked.fields.get("response_format") or "mp3", "audio/pcm")
        return await send_content(asked, SPEECH_BYTES, filename="speech", content_type=kind, chunked=True)
    asked.row.stream = True
    asked.row.input_tokens = asked.desk.count(TextPrompt([str(asked.fields["input"])]), model)

    def last() -> Mapping[str, Any]:
        given, produced = asked.spent(asked.row.input_tokens, asked.output_tokens)
        usage = {"input_tokens": given, "output_tokens": produced, "total_tokens": given + produced}
        return {"type": "speech.audio.done", "usage": None if asked.simulate.get("no_usage") else usage}

    sound = {"type": "speech.audio.delta", "audio": _encoded(SPEECH_BYTES // _SPEECH_CHUNKS)}
    return await _stream(asked, [sound] * _SPEECH_CHUNKS, last)


async def transcribe(asked: Asked) -> web.StreamResponse:
    """POST /v1/audio/transcriptions: the simulator hears the same in every sound."""
    model = asked.model()
    size_bytes = the_file(asked).size_bytes
    said = pieces(asked.output_tokens)
    text = "".join(said)
    kind = asked.fields.get("response_format") or "json"
    by_second = model == "whisper-1"
    if not by_second:
        asked.row.input_tokens = max(1, size_bytes // _AUDIO_BYTES_PER_TOKEN)
    if asked.row.stream and not by_second:
        deltas = [{"type": "transcript.text.delta", "delta": piece} for piece in said]
        return await _stream(asked, deltas, lambda: {"type": "transcript.text.done", "text": text, **_heard(asked, text)})
    await asked.delay()
    seconds = {"usage": {"type": "duration", "seconds": 1 + size_bytes // 16_000}}
    return await _spoken(asked, text, kind, seconds if by_second else _heard(asked, text))


def _heard(asked: Asked, text: str) -> dict[str, Any]:
    """What a transcription costs in tokens, written into the row."""
    given, produced = asked.spent(asked.row.input_tokens, asked.desk.count_text(text, asked.row.model))
    usage = {
        "type": "tokens",
        "input_tokens": given,
        "input_token_details": {"audio_tokens": given, "text_tokens": 0},
        "output_tokens": produced,
        "total_tokens": given + produced,
    }
    return {} if asked.simulate.get("no_usage") else {"usage": usage}


async def translate(asked: Asked) -> web.StreamResponse:
    """POST /v1/audio/translations."""
    asked.model()
    the_file(asked)
    return await _spoken(asked, "".join(pieces(asked.output_tokens)), asked.fields.get("response_format") or "json", {})


async def _spoken(asked: Asked, text: str, kind: str, counted: Mapping[str, Any]) -> web.StreamResponse:
    """A text in the format that was asked for; only JSON has room for usage."""
    if kind == "verbose_json":
        verbose = {"task": "transcribe", "language": "english", "duration": 1.0, "text": text, "segments": []}
        return await reply(asked, {**verbose, **counted})
    if kind == "json":
        return await reply(asked, {"text": text, **counted})
    times = "00:00:00.000 --> 00:00:01.000"
    shown = {
        "vtt": ("text/vtt; charset=utf-8", f"WEBVTT\n\n{times}\n{text}\n"),
        "srt": ("text/plain; charset=utf-8", f"1\n{times.replace('.', ',')}\n{text}\n"),
    }.get(kind, ("text/plain; charset=utf-8", f"{text}\n"))
    return await reply(asked, shown[1], content_type=shown[0])


def routes() -> Routes:
    """The rows of the route table."""
    yield "POST", "/v1/images/generations", generate_images
    yield "POST", "/v1/images/edits", edit_images
    yield "POST", "/v1/images/variations", vary_image
    yield "POST", "/v1/audio/speech", speak
    yield "POST", "/v1/audio/transcriptions", transcribe
    yield "POST", "/v1/audio/translations", translate
