"""Token counts: the published golden values, tiktoken's own counts, and no JSON that breaks them (wire.md §3)."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel import vocab
from sentinel.protocol.tokens import AUDIO, FILE, IMAGE, IMAGE_LOW, Tokenizer, encoding_name
from sentinel.records import ChatPrompt, TextPrompt

TOKENIZER = Tokenizer.load(vocab.ranks)

# The six messages and the weather tool of OpenAI's cookbook page on counting tokens.
COOKBOOK = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    },
    {"role": "system", "name": "example_assistant", "content": "Let's talk later when we're less busy about how to do better."},
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]
WEATHER_MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {
                    "type": "string",
                    "description": "The unit of temperature to return",
                    "enum": ["celsius", "fahrenheit"],
                },
            },
            "required": ["location"],
        },
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("model", "tokens"), [("gpt-4o", 124), ("gpt-4o-mini", 124), ("gpt-4", 129), ("gpt-4-0613", 129), ("gpt-3.5-turbo", 129)]
)
def test_messages_have_the_published_counts(model: str, tokens: int) -> None:
    """wire.md T1: the cookbook's six messages."""
    assert TOKENIZER.prompt(ChatPrompt(COOKBOOK), model) == tokens


@pytest.mark.parametrize(("model", "tokens"), [("gpt-4o", 101), ("gpt-4o-mini", 101), ("gpt-4", 105), ("gpt-3.5-turbo", 105)])
def test_tools_have_the_published_counts(model: str, tokens: int) -> None:
    """wire.md T2: the cookbook's weather tool."""
    assert TOKENIZER.prompt(ChatPrompt(WEATHER_MESSAGES, [WEATHER]), model) == tokens


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-2024-05-13", "o200k_base"),
        ("gpt-4.1-mini", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-6-astra", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("o5-mini", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("codex-mini-latest", "o200k_base"),
        ("gpt-oss-120b", "o200k_base"),
        ("gpt-image-1", "o200k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("openai/gpt-4", "cl100k_base"),
        ("anthropic/claude-sonnet-4", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-instruct", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("ft:gpt-4.1-2025-04-14:org::id", "o200k_base"),
        ("ft:gpt-4o-mini:org:name:id", "o200k_base"),
        ("ft:gpt-4-0613:org::id", "cl100k_base"),
        ("ft:gpt-3.5-turbo:org::id", "cl100k_base"),
        ("", "o200k_base"),
        ("///", "o200k_base"),
    ],
)
def test_every_model_has_an_encoding(model: str, encoding: str) -> None:
    """wire.md M1, M2, M3: prefixes and fine-tunings are stripped, the unknown is counted by the default."""
    assert encoding_name(model) == encoding


@given(st.text())
def test_any_model_name_is_counted(model: str) -> None:
    """wire.md M1: never a KeyError."""
    assert TOKENIZER.text("hello world", model) == 2


def test_special_tokens_are_text() -> None:
    """wire.md K1: what a user writes is text, whatever it looks like."""
    assert TOKENIZER.text("<|endoftext|>", "gpt-4o") > 1
    assert TOKENIZER.text("<|endoftext|>", "gpt-4") > 1


@given(st.text(st.characters(exclude_categories=[]), max_size=200))
def test_any_text_is_counted(text: str) -> None:
    """wire.md K4: lone surrogates and all other text."""
    count = TOKENIZER.text(text, "gpt-4o")
    assert 0 <= count <= 4 * len(text)
    assert (count == 0) == (text == "")


@given(
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", "x"]), json_values), max_size=4),
    json_values,
)
def test_odd_json_never_raises(messages: list[dict[str, Any]], tools: Any) -> None:
    """wire.md T2: whatever a caller sends has some count."""
    prompt = ChatPrompt(messages, tools if isinstance(tools, list) else [tools])
    assert TOKENIZER.prompt(prompt, "gpt-4o") >= 3
    assert TOKENIZER.characters(prompt) >= 0


def test_deep_nesting_is_counted() -> None:
    """JSON as deep as the parser takes it does not break the count."""
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert TOKENIZER.prompt(ChatPrompt([{"role": "user", "content": [{"type": "x", "y": deep}]}], [deep]), "gpt-4o") > 3


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "text", "text": "hello world"}, 2),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}, IMAGE),
        ({"type": "image_url", "image_url": {"url": "https://example.test/a.png", "detail": "low"}}, IMAGE_LOW),
        ({"type": "image_url", "image_url": {"url": "https://example.test/a.png", "detail": "high"}}, IMAGE),
        ({"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}}, AUDIO),
        ({"type": "file", "file": {"file_data": "A" * 100_000}}, FILE),
    ],
    ids=["text", "image", "low", "high", "audio", "file"],
)
def test_media_are_counted_by_constants(part: dict[str, Any], tokens: int) -> None:
    """wire.md T3: base64 is never counted as text."""
    empty = TOKENIZER.prompt(ChatPrompt([{"role": "user", "content": []}]), "gpt-4o")
    assert TOKENIZER.prompt(ChatPrompt([{"role": "user", "content": [part]}]), "gpt-4o") - empty == tokens


def test_inputs_may_be_texts_or_token_lists() -> None:
    """wire.md T4: texts are counted, given tokens count as their number."""
    assert TOKENIZER.prompt(TextPrompt(["hello world", "hello"], 5), "gpt-3.5-turbo-instruct") == 8


def test_longer_texts_cost_more_and_huge_ones_are_estimated() -> None:
    """wire.md K3: above the bound, a quarter of the bytes."""
    small = Tokenizer.load(vocab.ranks)
    assert small.text("a" * 40_000, "gpt-4o") > small.text("a" * 4_000, "gpt-4o")
    assert small.text("é" * 1_000_001, "gpt-4o") == 2_000_002 // 4
    assert small.characters(ChatPrompt([{"content": "x" * 10}, {"content": [{"type": "text", "text": "y" * 5}]}])) == 15


def test_counts_are_the_same_from_many_threads() -> None:
    """The memo is shared by the loop and the threads that count long prompts."""
    texts = [f"text number {number % 50} " * 20 for number in range(2000)]
    with ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(lambda text: TOKENIZER.text(text, "gpt-4o"), texts))
    assert counts == [TOKENIZER.text(text, "gpt-4o") for text in texts]


def test_the_counts_are_tiktokens_own(tmp_path: Path) -> None:
    """wire.md K6, K7: built by hand from the shipped ranks, the encodings are those of tiktoken's registry; no network."""
    cached = {
        "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
        "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    }
    for name, file in cached.items():
        (tmp_path / file).write_bytes(vocab.ranks(name))
    texts = [Path(__file__).read_text(), "Füße 東京 🙂‍↔️  \r\n\t x'S I'LL 12345 \u200b", " " * 100 + "\n\n"]
    script = (
        "import json,sys,tiktoken\n"
        "texts=json.load(sys.stdin)\n"
        "print(json.dumps({n:[len(tiktoken.get_encoding(n).encode_ordinary(t)) for t in texts] for n in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *cached],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        env={"TIKTOKEN_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin"},
    )
    models = {"o200k_base": "gpt-4o", "cl100k_base": "gpt-4"}
    own = {name: [TOKENIZER.text(text, model) for text in texts] for name, model in models.items()}
    assert json.loads(done.stdout) == own
