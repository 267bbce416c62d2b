"""Scripted conversations: the provider's simulator plays the model of an agent, in chats and in responses."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from sentinel.devstack.provider.plays import turns
from sentinel.devstack.stack import Stack

LOOK = {"name": "look", "arguments": {"at": "a file\nwith é", "lines": [1, 2]}}
COUNT = {"name": "count", "arguments": {}, "id": "count-7"}
PLAY = {
    "marker": "play-1",
    "user": "a@b.test",
    "answers": [{"text": "I look first.", "calls": [LOOK]}, {"calls": [LOOK, COUNT]}, {"text": "It is  done."}],
}
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("look", "count")]
TOOLS: Any = [{"type": "function", "name": name, "parameters": {}, "strict": False} for name in ("look", "count")]
Told = list[tuple[str | None, list[tuple[str, Any]]]]
EXPECTED: Told = [
    ("I look first.", [("look", LOOK["arguments"])]),
    (None, [("look", LOOK["arguments"]), ("count", {})]),
    ("It is  done.", []),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The provider's simulator alone, with PLAY."""
    stack = Stack(tmp_path_factory.mktemp("stack"))
    try:
        await stack.start("provider")
        await stack.control("provider", "plays", PLAY)
        yield stack
    finally:
        await stack.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(simulator: Stack) -> AsyncIterator[AsyncOpenAI]:
    """The official SDK."""
    async with AsyncOpenAI(base_url=f"{simulator.provider_url}/v1", api_key=simulator.provider_key, max_retries=0) as sdk:
        yield sdk


async def chat(client: AsyncOpenAI, *, stream: bool) -> Told:
    """PLAY as a chat, each answer and the result of each call given back."""
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "play-1: go"}]
    told: Told = []
    for _ in EXPECTED:
        if stream:
            async with client.chat.completions.stream(model="gpt-4o", messages=messages, tools=CHAT_TOOLS) as events:
                message: Any = (await events.get_final_completion()).choices[0].message
        else:
            answer = await client.chat.completions.create(model="gpt-4o", messages=messages, tools=CHAT_TOOLS)
            message = answer.choices[0].message
            assert answer.choices[0].finish_reason == ("tool_calls" if message.tool_calls else "stop")
        calls = message.tool_calls or []
        assert [call.id for call in calls[1:]] == ["count-7"] * (len(calls) - 1 if calls else 0)
        told.append((message.content or None, [(call.function.name, json.loads(call.function.arguments)) for call in calls]))
        messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "seen"} for call in calls]
    return told


async def response(client: AsyncOpenAI, *, stream: bool) -> Told:
    """PLAY as responses that are not stored."""
    items: list[Any] = [{"role": "user", "content": "play-1: go"}]
    told: Told = []
    for _ in EXPECTED:
        if stream:
            async with client.responses.stream(model="gpt-4o", input=items, tools=TOOLS, store=False) as events:
                answer: Any = await events.get_final_response()
        else:
            answer = await client.responses.create(model="gpt-4o", input=items, tools=TOOLS, store=False)
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [call.call_id for call in calls[1:]] == ["count-7"] * (len(calls) - 1 if calls else 0)
        told.append((answer.output_text or None, [(call.name, json.loads(call.arguments)) for call in calls]))
        items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in answer.output]
        items += [{"type": "function_call_output", "call_id": call.call_id, "output": "seen"} for call in calls]
    return told


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("conversation", [chat, response])
async def test_a_play_is_played(simulator: Stack, client: AsyncOpenAI, conversation: Any, stream: bool) -> None:
    """The SDK reads each answer in its turn, text and calls, plain and streamed, and the journal has the play's user."""
    await simulator.control("provider", "reset", {})
    await simulator.control("provider", "plays", PLAY)
    assert await conversation(client, stream=stream) == EXPECTED
    rows = (await simulator.control("provider", "served"))["rows"]
    assert [(row["user"], row["status"], row["complete"]) for row in rows] == [("a@b.test", 200, True)] * 3
    assert all(row["output_tokens"] < 48 for row in rows)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_custom_tool_is_called_with_text(simulator: Stack, client: AsyncOpenAI, stream: bool) -> None:
    """In a response; the tools may stand among the items of its input."""
    play = {"marker": "play-3", "answers": [{"calls": [{"name": "exec", "arguments": 'text("a\tb")\n'}]}]}
    await simulator.control("provider", "plays", play)
    items: Any = [
        {"type": "additional_tools", "tools": [{"type": "custom", "name": "exec"}]},
        {"role": "user", "content": "play-3"},
    ]
    item: Any
    if stream:
        async with client.responses.stream(model="gpt-4o", input=items, store=False) as events:
            seen = [event.delta async for event in events if event.type == "response.custom_tool_call_input.delta"]
            (item,) = (await events.get_final_response()).output
        assert "".join(seen) == 'text("a\tb")\n'
    else:
        (item,) = (await client.responses.create(model="gpt-4o", input=items, store=False)).output
    assert item.type == "custom_tool_call"
    assert (item.name, item.input) == ("exec", 'text("a\tb")\n')


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_no_turn_of_a_play_is_answered_as_ever(simulator: Stack, client: AsyncOpenAI) -> None:
    """A call that is due without tools, a play that is over, another marker: the usual text. What is no play is a 400."""
    await simulator.control("provider", "reset", {})
    await simulator.control("provider", "plays", PLAY)
    over = [{"role": role, "content": "x"} for role in ("assistant", "user") * 3]
    for content, before, tools in (("play-1", [], None), ("play-1", over, CHAT_TOOLS), ("play-2", [], CHAT_TOOLS)):
        asked: Any = {"messages": [*before, {"role": "user", "content": content}], **({"tools": tools} if tools else {})}
        answer = await client.chat.completions.create(model="gpt-4o", **asked)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 48
    for wrong in ({}, {"marker": "x", "answers": [{"say": "no"}]}, {"marker": "x", "answers": [{"calls": [{"name": "x"}]}]}):
        with pytest.raises(aiohttp.ClientResponseError) as refusal:
            await simulator.control("provider", "plays", wrong)
        assert refusal.value.status == 400


OWN = st.sampled_from(
    [{"role": "assistant", "content": "x"}, {"type": "function_call"}, {"type": "reasoning"}, {"type": "custom_tool_call"}]
)
OTHERS = st.sampled_from(
    [{"role": "user", "content": "x"}, {"role": "tool"}, {"type": "function_call_output"}, {"type": "custom_tool_call_output"}]
)


@given(st.lists(st.tuples(st.lists(OTHERS, min_size=1), st.lists(OWN, min_size=1))), st.lists(OTHERS))
def test_what_the_model_says_in_a_row_is_one_turn(spoken: list[tuple[list[Any], list[Any]]], last: list[Any]) -> None:
    """However many items a turn has, and whatever stands between two of them."""
    conversation = [item for others, own in spoken for item in (*others, *own)]
    assert turns([*conversation, *last]) == len(spoken)
