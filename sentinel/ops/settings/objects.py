"""What passes through: which routes, whose objects, how large. Values only, which `sentinel.settings` checks."""

from typing import Annotated

from sentinel.ops.settings import lists
from sentinel.ops.settings.provider import ProviderSettings
from sentinel.ops.settings.variable import Variable


class ObjectSettings(ProviderSettings, frozen=True, kw_only=True):
    """What passes through beyond chat, completions, embeddings, responses and models."""

    passthrough: Annotated[
        str,
        Variable(
            "SENTINEL_PASSTHROUGH",
            "Which other routes are forwarded: none, those that leave nothing behind, also objects by their owner, or all.",
            choices=("off", "stateless", "owned", "all"),
        ),
    ] = "owned"
    object_life_s: Annotated[
        int,
        Variable(
            "SENTINEL_OBJECT_LIFE_SECONDS",
            "How long the owner of an object is known after its last use at most; less where the provider keeps it for less.",
            "s",
            low=3600,
            high=2**31,
        ),
    ] = 34_560_000
    upload_bytes_max: Annotated[
        int,
        Variable(
            "SENTINEL_UPLOAD_BYTES_MAX", "The largest body that streams through, such as a file.", "bytes", low=1024, high=2**40
        ),
    ] = 2**30
    batch_input: Annotated[
        str,
        Variable(
            "SENTINEL_BATCH_INPUT",
            "Input files of batches: read for their models and sizes before they are sent, sent unread, or no batches at all.",
            choices=("read", "unread", "off"),
        ),
    ] = "read"
    batch_bytes_max: Annotated[
        int,
        Variable("SENTINEL_BATCH_BYTES_MAX", "The largest input file of a batch that is read.", "bytes", low=1024, high=2**40),
    ] = 200 * 2**20
    background_poll_s: Annotated[
        float,
        Variable(
            "SENTINEL_BACKGROUND_POLL_SECONDS",
            "How often work that goes on after its answer is looked at.",
            "s",
            low=0.05,
            high=3600,
        ),
    ] = 10.0
    on_disconnect: Annotated[
        str,
        Variable(
            "SENTINEL_ON_DISCONNECT",
            "When a client leaves its answer: close the provider's, read it on for its usage, or that where some is hidden.",
            choices=("auto", "cancel", "drain"),
        ),
    ] = "auto"
    reasoning_models: Annotated[
        str,
        Variable(
            "SENTINEL_REASONING_MODELS",
            "Models that think unseen, as patterns without their vendor; others are known by their usage.",
            reads=lists.patterns,
        ),
    ] = (
        "o[0-9]*,gpt-[5-9]*,gpt-oss*,codex*,computer-use*,*deep-research*,*think*,*reason*,r1*,*-r1*,qwq*,qwen3*,magistral*,"
        "grok-[3-9]*,gemini-2.5*,gemini-[3-9]*,kimi-k*,glm-*,minimax-m*"
    )
    read_on_s: Annotated[
        float,
        Variable("SENTINEL_READ_ON_SECONDS", "How long such an answer is read on.", "s", low=0.1, high=3600),
    ] = 600.0
    read_on_bytes_max: Annotated[
        int, Variable("SENTINEL_READ_ON_BYTES_MAX", "How much of it is read on.", "bytes", low=1024, high=2**40)
    ] = 128 * 2**20  # ten images of the largest size, in base64
    read_on_answers_max: Annotated[
        int,
        Variable("SENTINEL_READ_ON_ANSWERS_MAX", "How many a worker reads on at a time.", "answers", low=1, high=100000),
    ] = 100
