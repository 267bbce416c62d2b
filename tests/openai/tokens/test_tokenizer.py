"""Token counts: the published golden values, tiktoken's own counts, and no JSON that breaks them."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiktoken import model as tiktoken_model

from sentinel.openai.tokens.tokenizer import PATTERNS, Tokenizer, encoding_name, read_encodings
from sentinel.ops import vocab
from sentinel.ops.records import ChatPrompt, ResponsesPrompt, TextPrompt

ENCODINGS = read_encodings(vocab.ranks)
TOKENIZER = Tokenizer(ENCODINGS)

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


RESTS = ["response_format", "format", "tool_choice", "function_call", "prediction", "variables", "web_search_options"]


@pytest.mark.parametrize(
    ("model", "tokens"), [("gpt-4o", 124), ("gpt-4o-mini", 124), ("gpt-4", 129), ("gpt-4-0613", 129), ("gpt-3.5-turbo", 129)]
)
def test_messages_have_the_published_counts(model: str, tokens: int) -> None:
    """Rule T1: the cookbook's six messages."""
    assert TOKENIZER.prompt(ChatPrompt(COOKBOOK), model) == tokens


@pytest.mark.parametrize(("model", "tokens"), [("gpt-4o", 101), ("gpt-4o-mini", 101), ("gpt-4", 105), ("gpt-3.5-turbo", 105)])
def test_tools_have_the_published_counts(model: str, tokens: int) -> None:
    """Rule T2: the cookbook's weather tool."""
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
        ("openai/ft:gpt-4-0613:org/team::id", "cl100k_base"),
        ("text-embedding-4", "o200k_base"),
        ("gpt-40", "o200k_base"),
        ("", "o200k_base"),
        ("///", "o200k_base"),
        (":::", "o200k_base"),
    ],
)
def test_every_model_has_an_encoding(model: str, encoding: str) -> None:
    """Rules M1, M2, M3: prefixes and fine-tunings are stripped, the unknown is counted by the default."""
    assert encoding_name(model) == encoding


def test_models_are_mapped_as_tiktoken_maps_them() -> None:
    """Rule M1-M3: all of tiktoken's models but those of older encodings, and but its mistake about ft:gpt-4.1."""
    table = tiktoken_model.MODEL_TO_ENCODING | tiktoken_model.MODEL_PREFIX_TO_ENCODING
    expected = {model: name.replace("harmony", "base") for model, name in table.items() if "200k" in name or "100k" in name}
    assert expected == {model: encoding_name(model) for model in expected}
    assert tiktoken_model.encoding_name_for_model("ft:gpt-4.1") == "cl100k_base"
    assert encoding_name("ft:gpt-4.1") == "o200k_base"


@given(st.text())
def test_any_model_name_is_counted(model: str) -> None:
    """Rule M1: never a KeyError."""
    assert TOKENIZER.text("hello world", model) == 2


def test_special_tokens_are_text() -> None:
    """Rule K1: what a user writes is text, whatever it looks like."""
    assert TOKENIZER.text("<|endoftext|>", "gpt-4o") > 1
    assert TOKENIZER.text("<|endoftext|>", "gpt-4") > 1


@given(st.text(st.characters(exclude_categories=[]), max_size=200))
def test_any_text_is_counted(text: str) -> None:
    """Rule K4: lone surrogates and all other text."""
    count = TOKENIZER.text(text, "gpt-4o")
    assert 0 <= count <= 4 * len(text)
    assert (count == 0) == (text == "")


@given(
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", "x"]), json_values), max_size=4),
    json_values,
)
def test_odd_json_never_raises(messages: list[dict[str, Any]], tools: Any) -> None:
    """Rule T2: whatever a caller sends has some count."""
    prompt = ChatPrompt(messages, tools if isinstance(tools, list) else [tools])
    assert TOKENIZER.prompt(prompt, "gpt-4o") >= 3
    assert TOKENIZER.characters(prompt) >= 0


def test_deep_nesting_is_counted() -> None:
    """JSON as deep as the parser takes it does not break the count."""
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert TOKENIZER.prompt(ChatPrompt([{"role": "user", "content": [{"type": "x", "y": deep}]}], [deep]), "gpt-4o") > 3


def part_tokens(part: Any, model: str = "gpt-4o") -> int:
    """What a content part adds to a message."""
    empty = TOKENIZER.prompt(ChatPrompt([{"role": "user", "content": []}]), model)
    return TOKENIZER.prompt(ChatPrompt([{"role": "user", "content": [part]}]), model) - empty


BASE64 = "iVBORw0KGgo" * 100_000
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + BASE64}}


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "text", "text": "hello world"}, 2),
        ("hello world", 2),
        ({"type": "refusal", "refusal": "hello world"}, 2),
        (IMAGE, 765),
        ({"type": "image_url", "image_url": {"url": "https://example.test/a.png", "detail": "low"}}, 85),
        ({"type": "input_image", "image_url": "https://example.test/a.png", "detail": "low"}, 85),
        ({"type": "image_url", "image_url": {"url": "https://example.test/a.png", "detail": "high"}}, 765),
        ({"type": "image_url", "image_url": {"url": "https://example.test/a.png", "detail": ["odd"]}}, 765),
        ({"type": "input_audio", "input_audio": {"data": "A" * 640_000, "format": "wav"}}, 100),  # 480 000 bytes: 10 s
        ({"type": "input_audio", "input_audio": {"data": "A" * 640_000, "format": "mp3"}}, 300),
        ({"type": "input_audio"}, 1),
        ({"type": "file", "file": {"file_id": "file-abc"}}, 1000),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 399_972}}, 3000),
        ({"type": "file", "file": {"file_data": "A" * 100_000_000}}, 128_000),
    ],
    ids=lambda value: str(value)[:48],
)
def test_media_are_counted_by_constants(part: Any, tokens: int) -> None:
    """Rule T3: base64 is never counted as text; audio and files count by their size."""
    assert part_tokens(part) == tokens


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + BASE64}},
        {"type": "new", "nested": [{"bytes": BASE64}]},
        {"image_url": {"url": "data:image/png;base64," + BASE64}},
        [BASE64],
        {"type": ["image_url"], "text": None, "image": BASE64},
    ],
    ids=["video", "nested", "untyped", "list", "odd type"],
)
def test_base64_is_not_text_in_parts_nobody_knows_either(part: Any) -> None:
    """Rule T3: a megabyte in a part of a kind that is not known counts as a file."""
    assert 1000 <= part_tokens(part) < 10_000
    assert TOKENIZER.prompt(ChatPrompt([{"role": "assistant", "audio": part}]), "gpt-4o") < 10_000


def test_images_cost_what_the_model_asks() -> None:
    """Rule T3: small models count an image at many more tokens than its share of the price."""
    assert [
        part_tokens(IMAGE, model) for model in ("gpt-4o-mini", "openai/gpt-4o-mini-2024-07-18", "gpt-4.1-mini", "gpt-4.1")
    ] == [25501, 25501, 1659, 765]


def test_calls_in_the_history_are_counted() -> None:
    """Arguments of earlier tool calls are text the model reads; a call's id is not."""
    call = {"id": "call_" + "x" * 400, "type": "function", "function": {"name": "hello", "arguments": "hello world"}}
    bare = TOKENIZER.prompt(ChatPrompt([{"role": "assistant", "content": None}]), "gpt-4o")
    with_call = ChatPrompt([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert TOKENIZER.prompt(with_call, "gpt-4o") == bare + 3 + 1 + 2
    assert TOKENIZER.prompt(ChatPrompt([{"role": "assistant", "function_call": call["function"]}]), "gpt-4o") == bare + 6


def test_schemas_beyond_the_formula_count_in_full() -> None:
    """Rule T2: nested schemas, alternatives and definitions are not free."""
    text = "a few words of description " * 40
    for parameters in (
        {"properties": {"a": {"type": "object", "properties": {"b": {"type": "string", "description": text}}}}},
        {"properties": {"a": {"anyOf": [{"type": "string", "description": text}, {"type": "null"}]}}},
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"description": text}}},
        {"properties": {"a": {"type": ["string", "null"], "description": text}}},
        {"properties": {"a": {"enum": [{"odd": text}, 1, None]}}},
        {"properties": {"a": {"enum": {"odd": text}}}},
        {"properties": [text]},
        {"anyOf": [{"description": text}]},
        text,
    ):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        assert TOKENIZER.prompt(ChatPrompt([], [tool]), "gpt-4o") > 200
    assert TOKENIZER.prompt(ChatPrompt([], [{"type": "custom", "custom": {"description": text}}]), "gpt-4o") > 200


def test_tools_of_a_response_count_as_those_of_a_chat() -> None:
    """Rule T2: the flat shape of a function is the same function."""
    flat = {"type": "function", **WEATHER["function"]}
    messages = [{"role": message["role"], "content": message["content"]} for message in WEATHER_MESSAGES]
    assert TOKENIZER.prompt(ResponsesPrompt(messages, tools=[flat]), "gpt-4o") == 101
    assert TOKENIZER.prompt(ResponsesPrompt(messages, tools=[flat]), "gpt-4") == 105


def test_hosted_tools_are_counted_without_their_media() -> None:
    """Rules T2, T3: what a hosted tool is told counts, a picture in it does not count as text."""
    told = {"type": "mcp", "server_label": "hello", "server_description": "world " * 100}
    assert TOKENIZER.prompt(ResponsesPrompt("", tools=[told]), "gpt-4o") > 100
    masked = {"type": "image_generation", "input_image_mask": {"image_url": "data:image/png;base64," + BASE64}}
    assert TOKENIZER.prompt(ResponsesPrompt("", tools=[masked]), "gpt-4o") < 10_000


def test_a_response_counts_as_the_same_chat() -> None:
    """Rule T1: messages as items, a text as a message of the user, instructions as one of the developer."""
    developer, user = {"role": "developer", "content": "be brief"}, {"role": "user", "content": "hello world"}
    chat = TOKENIZER.prompt(ChatPrompt([developer, user]), "gpt-4o")
    parts = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "hello world"}],
        "status": "completed",
    }
    for prompt in (
        ResponsesPrompt("hello world", "be brief"),
        ResponsesPrompt([user], "be brief"),
        ResponsesPrompt([developer, parts]),
        ResponsesPrompt([user], [{"type": "input_text", "text": "be brief"}]),
    ):
        assert TOKENIZER.prompt(prompt, "gpt-4o") == chat


@pytest.mark.parametrize(
    ("item", "tokens"),
    [
        ({"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "hello", "arguments": "hello world"}, 6),
        ({"type": "function_call_output", "call_id": "call_1", "output": "hello world"}, 5),
        ({"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "hello world"}]}, 5),
        ({"type": "custom_tool_call", "call_id": "call_1", "name": "hello", "input": "hello world"}, 6),
        ({"type": "custom_tool_call_output", "call_id": "call_1", "output": "hello world"}, 5),
        ({"type": "item_reference", "id": "msg_1"}, 3),
        ({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hello world"}]}, 5),
        ({"type": "reasoning", "summary": [], "encrypted_content": "A" * 6000}, 1003),
        ({"type": "compaction", "encrypted_content": "A" * 600}, 103),
        ({"type": "image_generation_call", "id": "ig_1", "result": "A" * 10_000_000}, 768),
        (
            {
                "type": "computer_call_output",
                "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,AA"},
            },
            768,
        ),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "file-1", "detail": "low"}]}, 89),
        ({"role": "user", "content": [{"type": "input_file", "file_data": "A" * 400_000}]}, 3004),
        ({"type": "mcp_call", "name": "hello", "arguments": "hello world", "output": "hello world", "error": None}, 8),
        ("hello world", 5),
        (5, 4),
        (None, 3),
    ],
    ids=lambda value: str(value)[:60],
)
def test_items_of_a_response(item: Any, tokens: int) -> None:
    """Rules T1, T3: each kind of item costs its texts, and media their constants, whatever its ids and their base64."""
    assert TOKENIZER.prompt(ResponsesPrompt([item]), "gpt-4o") - TOKENIZER.prompt(ResponsesPrompt(), "gpt-4o") == tokens


@given(json_values, json_values, st.lists(json_values, max_size=3), st.dictionaries(st.sampled_from(RESTS), json_values))
def test_odd_responses_never_raise(items: Any, instructions: Any, tools: list[Any], rest: dict[str, Any]) -> None:
    """Rule T1-T3: any JSON has a count, wherever it stands."""
    prompt = ResponsesPrompt(items if isinstance(items, str | list) else [items], instructions, tools, rest)
    assert TOKENIZER.prompt(prompt, "gpt-4o") >= 3
    assert TOKENIZER.prompt(ChatPrompt([], tools, rest), "gpt-4o") >= 3
    assert TOKENIZER.characters(prompt) >= 0


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("rest", "tokens"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "hello", "schema": SCHEMA}}}, 3 + 1 + 14),
        ({"format": {"type": "json_schema", "name": "hello", "description": "hello", "schema": SCHEMA}}, 3 + 2 + 14),
        ({"response_format": {"type": "json_object"}}, 0),
        ({"tool_choice": "required"}, 0),
        ({"tool_choice": {"type": "function", "function": {"name": "hello"}}}, 5),
        ({"tool_choice": {"type": "function", "name": "hello"}}, 5),
        ({"tool_choice": {"type": "allowed_tools", "tools": [{"name": "hello"}]}}, 6),
        ({"function_call": {"name": "hello"}}, 5),
        ({"function_call": "auto"}, 0),
        ({"prediction": {"type": "content", "content": "hello world"}}, 2),
        ({"prediction": {"type": "content", "content": [{"type": "text", "text": "hello world"}]}}, 2),
        ({"web_search_options": {"user_location": {"city": "hello"}}}, 4),
        ({"variables": {"a": "hello", "b": {"type": "input_text", "text": "hello world"}}}, 3),
    ],
    ids=str,
)
def test_what_else_a_prompt_holds(rest: dict[str, Any], tokens: int) -> None:
    """Rule T2: schemas of answers, demanded tools, predictions and locations count; switches do not."""
    bare = TOKENIZER.prompt(ChatPrompt([]), "gpt-4o")
    assert TOKENIZER.prompt(ChatPrompt([], rest=rest), "gpt-4o") - bare == tokens


def test_inputs_may_be_texts_or_token_lists() -> None:
    """Rule T4: texts are counted, given tokens count as their number."""
    assert TOKENIZER.prompt(TextPrompt(["hello world", "hello"], 5), "gpt-3.5-turbo-instruct") == 8


def test_huge_texts_are_estimated() -> None:
    """Rule K3: above the bound, a quarter of the bytes; a prompt is exact up to its bound as a whole."""
    bounded = Tokenizer(ENCODINGS, exact_chars_max=100)
    assert bounded.text("é" * 100, "gpt-4o") == TOKENIZER.text("é" * 100, "gpt-4o") != 50
    assert bounded.text("é" * 101, "gpt-4o") == 51
    assert bounded.text("\ud83d" * 101, "gpt-4o") == 76
    assert bounded.prompt(TextPrompt(["a" * 60, "z" * 60, "a" * 40]), "gpt-4o") == 8 + 15 + 5
    assert TOKENIZER.text("é" * 1_000_001, "gpt-4o") == 500_001


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@pytest.mark.parametrize("text", [" ", "\u2028", "\n", " \n", "a", "\u0301", "漢", "\ud83d"], ids=ascii)
def test_long_runs_are_counted(text: str, model: str) -> None:
    """Rule K2: a million of the same sign neither stalls nor breaks; tiktoken itself panics on a million blanks."""
    assert TOKENIZER.text(text * (1_000_000 // len(text) - 1) + "x", model) > 1000


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
def test_slices_of_a_long_text_have_as_many_tokens(model: str) -> None:
    """A text is counted in slices, cut where the encodings cut too."""
    prose = Path(vocab.__file__).read_text() + " \n\n \t  it's 東京 — 12345  !!  \r\n"
    for text in (prose * 200, "word " * 60_000, "x" + " word" * 60_000, "line\n\n    of code();\n" * 9_000):
        assert len(text) > 131_072
        assert TOKENIZER.text(text, model) == len(ENCODINGS[encoding_name(model)].encode_ordinary(text))


def test_size_is_judged_without_looking_at_everything() -> None:
    """What is tokenised is measured, media are not, and a flood of small messages soon counts as large."""
    assert TOKENIZER.characters(ChatPrompt([{"role": "user", "content": [IMAGE]}])) < 200
    assert TOKENIZER.characters(TextPrompt(["x" * 20_000])) > 20_000
    for message in (
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x" * 20_000}}]},
        {"role": "user", "name": "x" * 20_000},
        {"role": "assistant", "reasoning_content": "x" * 20_000},
        {"role": "user", "content": [{"type": "new", "words": "x y " * 5000}]},
    ):
        assert TOKENIZER.characters(ChatPrompt([message])) > 20_000
    assert TOKENIZER.characters(ChatPrompt([{"role": "user", "content": "x"}] * 1000)) > 16_384
    assert TOKENIZER.characters(ChatPrompt([{}] * 100_000)) < 200_000
    assert TOKENIZER.characters(ResponsesPrompt("x" * 20_000)) > 20_000
    assert 16_384 < TOKENIZER.characters(ResponsesPrompt([{"type": "new", "y": [1] * 500_000}])) < 200_000


@given(st.dictionaries(st.sampled_from(["role", "content", "name", "refusal", "x"]), st.text(max_size=40)))
def test_messages_of_texts_alone_count_as_others(message: dict[str, str]) -> None:
    """Such a message takes a shorter way; beside a member that costs nothing it takes the one of all others."""
    assert TOKENIZER.prompt(ChatPrompt([message]), "gpt-4o") == TOKENIZER.prompt(ChatPrompt([message | {"y": None}]), "gpt-4o")


def test_the_memo_is_bounded() -> None:
    """However many texts come, at most two generations of counts are kept, and counts stay right."""
    tokenizer = Tokenizer(ENCODINGS, memo_entries_max=10)
    prompts = [TextPrompt([f"text number {number % 37} " * (number % 5)]) for number in range(1000)]
    assert [TOKENIZER.prompt(one, "gpt-4o") for one in prompts] == [tokenizer.prompt(one, "gpt-4o") for one in prompts]
    assert len(tokenizer._counters["o200k_base"]) <= 20


def test_counts_are_the_same_from_many_threads() -> None:
    """The memo is shared by the loop and the threads that count long prompts."""
    tokenizer = Tokenizer(ENCODINGS, memo_entries_max=10)
    prompts = [TextPrompt([f"text number {number % 50} " * 20]) for number in range(4000)]
    with ThreadPoolExecutor(8) as threads:
        counts = list(threads.map(lambda prompt: tokenizer.prompt(prompt, "gpt-4o"), prompts))
    assert counts == [TOKENIZER.prompt(prompt, "gpt-4o") for prompt in prompts]
    assert len(tokenizer._counters["o200k_base"]) <= 20


@pytest.mark.parametrize("name", PATTERNS)
def test_the_ranks_are_kept_once(name: str) -> None:
    """The encoder has its own, and 20 MiB of Python's objects beside them would be kept for nothing."""
    assert not ENCODINGS[name]._mergeable_ranks
    assert ENCODINGS[name].encode_ordinary("a river")


def test_the_counts_are_tiktokens_own(tmp_path: Path) -> None:
    """Rules K6, K7: built by hand from the shipped ranks, the encodings are those of tiktoken's registry; no network."""
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
        "registry={n:tiktoken.get_encoding(n) for n in sys.argv[1:]}\n"
        "print(json.dumps({n:[e._pat_str,*(len(e.encode_ordinary(t)) for t in texts)] for n,e in registry.items()}))"
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
    own = {name: [PATTERNS[name], *(TOKENIZER.text(text, model) for text in texts)] for name, model in models.items()}
    assert json.loads(done.stdout) == own


def test_everything_is_loaded_at_the_start() -> None:
    """Rules K5, K7: each encoding is read once, before the first request, and nothing is read while counting."""
    asked: list[str] = []

    def ranks(name: str) -> bytes:
        asked.append(name)
        return vocab.ranks(name)

    tokenizer = Tokenizer.load(ranks)
    assert sorted(asked) == sorted(PATTERNS)
    for model in ("gpt-4o", "gpt-4", "text-embedding-3-small", "anthropic/claude-sonnet-4", "gpt-6"):
        assert tokenizer.text("The river", model) == 2
    assert len(asked) == len(PATTERNS)
