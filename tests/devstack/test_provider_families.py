"""The provider's simulator driven by the official SDK, which validates every answer: each family of OpenAI's API."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from sentinel.devstack.provider.media import IMAGE_TOKENS, SPEECH_BYTES
from sentinel.devstack.provider.sending import generated
from sentinel.devstack.provider.shelves import VIDEO_BYTES
from sentinel.devstack.stack import Stack

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # Of assistants and videos, which callers still use.
    pytest.mark.filterwarnings("ignore:.*(deprecated|scheduled to permanently shut down).*:DeprecationWarning"),
]
TOOL: Any = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}
SOON = {"simulate": {"background_s": 0.02}}
SAID = "The river was"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The provider's simulator alone."""
    stack = Stack(tmp_path_factory.mktemp("stack"))
    try:
        await stack.start("provider")
        yield stack
    finally:
        await stack.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    """The official SDK, which refuses every answer that is not as its types say; the simulator is empty."""
    await stack.control("provider", "reset", {})
    url = f"{stack.provider_url}/v1"
    async with AsyncOpenAI(
        base_url=url, api_key=stack.provider_key, max_retries=0, timeout=20, _strict_response_validation=True
    ) as client:
        yield client


async def rows(stack: Stack) -> list[dict[str, Any]]:
    """The journal."""
    return list((await stack.control("provider", "served"))["rows"])


async def until(ask: Callable[[], Awaitable[Any]], status: str) -> Any:
    """Ask until the object has this status: five seconds at most."""
    async with asyncio.timeout(5):
        while (found := await ask()).status != status:
            await asyncio.sleep(0.01)
    return found


# Embeddings, models, moderations


@pytest.mark.parametrize(
    ("given", "tokens", "count"),
    [("The river was", 3, 1), (["The river", " was wide"], 4, 2), ([1, 2, 3], 3, 1), ([[1, 2, 3], [4]], 4, 2)],
)
async def test_embeddings_take_every_input(sdk: AsyncOpenAI, stack: Stack, given: Any, tokens: int, count: int) -> None:
    """T4: text, texts, tokens and lists of them; as floats and as base64 the same vectors, of the size that was asked for."""
    plain = await sdk.embeddings.create(model="text-embedding-3-small", input=given, encoding_format="float", dimensions=8)
    async with AsyncOpenAI(base_url=sdk.base_url, api_key=sdk.api_key) as lenient:  # its types know no base64
        packed = await lenient.embeddings.create(model="text-embedding-3-small", input=given, dimensions=8)
    assert [len(one.embedding) for one in plain.data] == [8] * count
    assert [list(one.embedding) for one in packed.data] == [one.embedding for one in plain.data]
    assert (plain.usage.prompt_tokens, plain.usage.total_tokens) == (tokens, tokens)
    row = (await rows(stack))[-1]
    assert (row["input_tokens"], row["output_tokens"], row["method"], row["path"]) == (tokens, 0, "POST", "/v1/embeddings")


async def test_small_families_answer(sdk: AsyncOpenAI) -> None:
    """Moderations, models and realtime secrets parse; a model of everyone's cannot be deleted."""
    moderated = await sdk.moderations.create(input=["a", "b"])
    assert [one.flagged for one in moderated.results] == [False, False]
    assert "gpt-4o" in {model.id async for model in sdk.models.list()}
    secret = await sdk.realtime.client_secrets.create(session={"type": "realtime", "model": "gpt-realtime"})
    assert secret.value.startswith("ek_")
    with pytest.raises(openai.PermissionDeniedError):
        await sdk.models.delete("gpt-4o")


async def test_stored_chats_are_kept(sdk: AsyncOpenAI) -> None:
    """A chat completion with store, plain or streamed, can be shown, listed, changed and deleted; another cannot."""
    ask: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    chat = await sdk.chat.completions.create(**ask, store=True)
    stream = await sdk.chat.completions.create(**ask, store=True, stream=True, extra_body={"simulate": {"token_ms": 0}})
    streamed = [chunk.id async for chunk in stream].pop()
    passing = await sdk.chat.completions.create(**ask)
    assert (await sdk.chat.completions.retrieve(chat.id)).usage == chat.usage
    assert [one.id async for one in sdk.chat.completions.list()] == [chat.id, streamed]
    messages = await sdk.chat.completions.messages.with_raw_response.list(chat.id)  # whose type knows no user
    assert [one["content"] for one in json.loads(messages.content)["data"]] == ["Hi"]
    assert (await sdk.chat.completions.update(chat.id, metadata={"a": "b"})).id == chat.id
    assert (await sdk.chat.completions.delete(chat.id)).deleted
    for name in (chat.id, passing.id):
        with pytest.raises(openai.NotFoundError, match="No chat completion found with id"):
            await sdk.chat.completions.retrieve(name)


async def test_verdicts(sdk: AsyncOpenAI, stack: Stack) -> None:
    """Decisions are paid by the token; provenance checks and graders are free."""
    questions: Any = [
        {"type": "predicate", "name": "wet", "instructions": "Is it wet?"},
        {"type": "choice", "instructions": "Which?", "choices": [{"value": "a"}]},
        {"type": "score", "instructions": "How wet?", "levels": [{"label": "dry"}]},
    ]
    decision = await sdk.decisions.create(model="gpt-6-luna", input="A river", questions=questions)
    assert [answer.type for answer in decision.answers] == ["predicate", "choice", "score"]
    row = (await rows(stack))[-1]
    assert (row["input_tokens"], row["output_tokens"]) == (decision.usage.input_tokens, 3)
    check = await sdk.content_provenance_checks.create(file=("a.png", b"abc"))
    assert [result.outcome for result in check.results] == ["not_detected"]
    grader: Any = {"type": "string_check", "name": "same", "input": "a", "operation": "eq", "reference": "a"}
    assert (await sdk.fine_tuning.alpha.graders.run(grader=grader, model_sample="a")).reward == 1
    assert (await sdk.fine_tuning.alpha.graders.validate(grader=grader)).grader is not None


async def test_voices(sdk: AsyncOpenAI) -> None:
    """A recorded voice needs a consent that exists; a described one needs none."""
    consent = await sdk.audio.voice_consents.create(name="c", language="en", recording=("a.wav", b"abc"))
    voice = await sdk.audio.voices.create(name="v", audio_sample=("a.wav", b"abc"), consent=consent.id)
    described = await sdk.audio.voices.create(name="v", type="prompt", prompt="Low")
    assert (voice.type, described.type) == ("audio_sample", "prompt")
    with pytest.raises(openai.BadRequestError, match="No voice consent found"):
        await sdk.audio.voices.create(name="v", audio_sample=("a.wav", b"abc"), consent="cons_none")
    assert (await sdk.audio.voices.delete(voice.id)).deleted
    assert (await sdk.audio.voice_consents.update(consent.id, name="d")).name == "d"
    assert [one.id async for one in sdk.audio.voice_consents.list()] == [consent.id]
    assert (await sdk.audio.voice_consents.delete(consent.id)).deleted


# Responses


async def test_a_response_is_openais(sdk: AsyncOpenAI, stack: Stack) -> None:
    """P1: text, usage, status; capped it is incomplete; the row has the same tokens once, and reading it again adds none."""
    response = await sdk.responses.create(
        model="gpt-4o", input="Hi", extra_body={"user": "a@b", "simulate": {"output_tokens": 3}}
    )
    assert (response.output_text, response.status) == (SAID, "completed")
    assert response.usage is not None
    assert response.usage.output_tokens == 3
    capped = await sdk.responses.create(model="gpt-4o", input="Hi", max_output_tokens=16)
    assert (capped.status, capped.incomplete_details and capped.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    shown = await sdk.responses.retrieve(response.id)
    assert shown.usage == response.usage
    served = await rows(stack)
    assert [row["output_tokens"] for row in served] == [3, 16, 0]
    assert (served[0]["user"], served[0]["input_tokens"]) == ("a@b", response.usage.input_tokens)


async def test_a_response_streams(sdk: AsyncOpenAI, stack: Stack) -> None:
    """P1: OpenAI's events in OpenAI's order, numbered, the last with the whole response; no [DONE]."""
    fast = {"simulate": {"output_tokens": 3, "token_ms": 0}}
    stream = await sdk.responses.create(model="gpt-4o", input="Hi", stream=True, extra_body=fast)
    events = [event async for event in stream]
    names = ["created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 3]
    names += ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert [event.type for event in events] == [f"response.{name}" for name in names]
    assert [event.sequence_number for event in events] == list(range(11))
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.output_text, last.response.usage and last.response.usage.output_tokens) == (SAID, 3)
    assert (await rows(stack))[-1]["complete"]
    stored = await sdk.responses.retrieve(last.response.id)
    assert stored.output_text == SAID


async def test_a_response_calls_a_tool(sdk: AsyncOpenAI) -> None:
    """Plain and streamed, with the same arguments, which are JSON."""
    ask: Any = {"model": "gpt-4o", "input": "Hi", "tools": [TOOL]}
    body = {"simulate": {"call": "look", "output_tokens": 3, "token_ms": 0}}
    item = (await sdk.responses.create(**ask, extra_body=body)).output[0]
    assert item.type == "function_call"
    assert (item.name, json.loads(item.arguments)) == ("look", {"text": SAID})
    events = [event async for event in await sdk.responses.create(**ask, stream=True, extra_body=body)]
    deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert deltas == item.arguments


async def test_responses_build_on_others(sdk: AsyncOpenAI) -> None:
    """An earlier response or a conversation adds its tokens to the input; those that are not there are refused."""
    ask: Any = {"model": "gpt-4o", "input": "Hi", "extra_body": {"simulate": {"output_tokens": 5}}}
    first = await sdk.responses.create(**ask)
    second = await sdk.responses.create(**ask, previous_response_id=first.id)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens == first.usage.input_tokens + first.usage.total_tokens
    conversation = await sdk.conversations.create(items=[{"role": "user", "content": "Before"}], metadata={"a": "b"})
    third = await sdk.responses.create(**ask, conversation=conversation.id)
    assert third.usage is not None
    assert third.usage.input_tokens > first.usage.input_tokens
    items = [item async for item in sdk.conversations.items.list(conversation.id, order="asc")]
    assert [getattr(item, "role", "") for item in items] == ["user", "user", "assistant"]
    assert [item.type async for item in sdk.responses.input_items.list(third.id)] == ["message"]
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.responses.create(**ask, previous_response_id="resp_none")
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
    with pytest.raises(openai.NotFoundError, match="Conversation with id 'conv_none' not found"):
        await sdk.responses.create(**ask, conversation="conv_none")
    again = await sdk.responses.create(**(ask | {"input": [{"type": "item_reference", "id": first.output[0].id}]}))
    assert [item.id async for item in sdk.responses.input_items.list(again.id)] == [first.output[0].id]
    with pytest.raises(openai.NotFoundError, match="Item with id 'msg_none' not found"):
        await sdk.responses.create(**(ask | {"input": [{"type": "item_reference", "id": "msg_none"}]}))
    await sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match=f"Response with id '{first.id}' not found"):
        await sdk.responses.retrieve(first.id)


async def test_a_background_response_ends_later(sdk: AsyncOpenAI, stack: Stack) -> None:
    """P3: queued without usage, then in progress, then complete; its tokens stand once, in the row of its create."""
    queued = await sdk.responses.create(model="gpt-4o", input="Hi", background=True, extra_body=SOON)
    assert (queued.status, queued.usage) == ("queued", None)
    done = await until(lambda: sdk.responses.retrieve(queued.id), "completed")
    assert done.usage is not None
    served = await rows(stack)
    assert (served[0]["input_tokens"], served[0]["output_tokens"]) == (done.usage.input_tokens, 48)
    assert sum(row["output_tokens"] for row in served) == 48
    slow = await sdk.responses.create(
        model="gpt-4o", input="Hi", background=True, extra_body={"simulate": {"background_s": 60}}
    )
    assert (await sdk.responses.retrieve(slow.id)).status == "in_progress"
    assert (await sdk.responses.cancel(slow.id)).status == "cancelled"


async def test_a_background_stream_outlives_its_client(sdk: AsyncOpenAI, stack: Stack) -> None:
    """P3: whoever leaves can come back for the events after the last one seen; the row has the tokens of all of it."""
    body = {"simulate": {"output_tokens": 20, "token_ms": 5}}
    stream = await sdk.responses.create(model="gpt-4o", input="Hi", background=True, stream=True, extra_body=body)
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if event.sequence_number == 6:
            break
    await stream.close()
    rest = [event async for event in await sdk.responses.retrieve(seen[0].response.id, stream=True, starting_after=6)]
    assert [event.sequence_number for event in [*seen, *rest]] == list(range(len(seen) + len(rest)))
    assert rest[-1].type == "response.completed"
    assert (await rows(stack))[0]["output_tokens"] == 20


async def test_responses_go_wrong_as_asked(sdk: AsyncOpenAI, stack: Stack) -> None:
    """F4, F5: cut, failed, an error first, without usage; a row has what was produced."""
    ask: Any = {"model": "gpt-4o", "input": "Hi"}

    async def stream(**simulate: Any) -> list[Any]:
        body = {"simulate": {"token_ms": 0, **simulate}}
        return [event async for event in await sdk.responses.create(**ask, stream=True, extra_body=body)]

    with pytest.raises(openai.APIConnectionError):
        await stream(cut_after_events=6)
    row = (await rows(stack))[-1]
    assert (row["output_tokens"], row["complete"]) == (2, False)
    failed = (await stream(fail=True))[-1]
    assert (failed.type, failed.response.usage.output_tokens) == ("response.failed", 48)
    assert [event.type for event in await stream(error_first_event=True)] == ["error"]
    assert (await stream(no_usage=True))[-1].response.usage is None
    assert (await stream(no_terminal=True))[-1].type == "response.output_item.done"
    assert [event.type for event in await stream(gzip=True, output_tokens=1)][-1] == "response.completed"
    with pytest.raises(openai.InternalServerError):
        await sdk.responses.create(**ask, extra_body={"simulate": {"status": 503}})
    counted = await sdk.responses.input_tokens.count(model="gpt-4o", input="Hi")
    compacted = await sdk.responses.compact(model="gpt-4o", input="Hi")
    assert compacted.usage.input_tokens == counted.input_tokens
    assert compacted.output[0].type == "compaction"


# Files and what is built on them


async def test_files_and_uploads(sdk: AsyncOpenAI) -> None:
    """A file keeps its name, size and content; an upload's parts become one file; what is gone is a 404."""
    file = await sdk.files.create(file=("a.txt", b"one\r\n--two"), purpose="user_data")
    assert (file.bytes, file.filename, file.id[:5]) == (10, "a.txt", "file-")
    assert (await sdk.files.content(file.id)).read() == b"one\r\n--two"
    upload = await sdk.uploads.create(bytes=6, filename="b.bin", mime_type="text/plain", purpose="batch")
    parts = [await sdk.uploads.parts.create(upload.id, data=piece) for piece in (b"abc", b"def")]
    done = await sdk.uploads.complete(upload.id, part_ids=[part.id for part in parts])
    assert done.file is not None
    assert (await sdk.files.content(done.file.id)).read() == b"abcdef"
    other = await sdk.uploads.create(bytes=6, filename="b.bin", mime_type="text/plain", purpose="batch")
    assert (await sdk.uploads.cancel(other.id)).status == "cancelled"
    assert [one.id async for one in sdk.files.list()] == [done.file.id, file.id]
    assert [one.id for one in (await sdk.files.list(limit=1, order="asc")).data] == [file.id]
    assert (await sdk.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}") as gone:
        await sdk.files.retrieve(file.id)
    assert (gone.value.param, gone.value.code) == ("id", None)
    with pytest.raises(openai.BadRequestError, match="No such File object: file-none"):
        await sdk.vector_stores.create(file_ids=["file-none"])


async def test_vector_stores(sdk: AsyncOpenAI) -> None:
    """Files go in alone or in a batch, are found, and leave; the file itself stays."""
    file = await sdk.files.create(file=("a.txt", b"A text"), purpose="user_data")
    store = await sdk.vector_stores.create(name="s", file_ids=[file.id])
    assert (await sdk.vector_stores.retrieve(store.id)).file_counts.completed == 1
    assert (await sdk.vector_stores.update(store.id, name="t")).name == "t"
    found = [one async for one in sdk.vector_stores.search(store.id, query="text")]
    assert (found[0].file_id, found[0].content[0].text) == (file.id, "A text")
    inside = await sdk.vector_stores.files.retrieve(file.id, vector_store_id=store.id)
    assert inside.vector_store_id == store.id
    assert [one.text async for one in sdk.vector_stores.files.content(file.id, vector_store_id=store.id)] == ["A text"]
    assert (await sdk.vector_stores.files.delete(file.id, vector_store_id=store.id)).deleted
    batch = await sdk.vector_stores.file_batches.create(store.id, file_ids=[file.id])
    listed = sdk.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    assert [one.id async for one in listed] == [file.id]
    assert (await sdk.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id)).status == "completed"
    assert (await sdk.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)).status == "cancelled"
    await sdk.vector_stores.files.create(store.id, file_id=file.id)
    assert [one.id async for one in sdk.vector_stores.files.list(store.id)] == [file.id]
    assert (await sdk.vector_stores.delete(store.id)).deleted
    assert [one.id async for one in sdk.vector_stores.list()] == []
    with pytest.raises(openai.NotFoundError, match=f"No vector store found with id '{store.id}'"):
        await sdk.vector_stores.files.list(store.id)


async def test_batches(sdk: AsyncOpenAI, stack: Stack) -> None:
    """A batch completes with usage, an output file, and its tokens in the row of its create; another is cancelled."""
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    content = (json.dumps({**line, "body": body}) + "\n").encode() * 2
    file = await sdk.files.create(file=("in.jsonl", content), purpose="batch")
    ask: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = await sdk.batches.create(**ask, extra_body=SOON)
    done = await until(lambda: sdk.batches.retrieve(batch.id), "completed")
    assert done.usage is not None
    assert done.output_file_id is not None
    assert (done.usage.output_tokens, done.request_counts and done.request_counts.completed) == (96, 2)
    answers = (await sdk.files.content(done.output_file_id)).text.splitlines()
    assert [json.loads(answer)["custom_id"] for answer in answers] == ["1", "1"]
    row = next(row for row in await rows(stack) if row["path"] == "/v1/batches" and row["method"] == "POST")
    assert (row["input_tokens"], row["output_tokens"]) == (done.usage.input_tokens, 96)
    slow = await sdk.batches.create(**ask, extra_body={"simulate": {"background_s": 60}})
    assert (await sdk.batches.cancel(slow.id)).status == "cancelled"
    assert [one.id async for one in sdk.batches.list()] == [slow.id, batch.id]
    with pytest.raises(openai.BadRequestError):
        await sdk.batches.create(**(ask | {"input_file_id": "file-none"}))


async def test_fine_tuning(sdk: AsyncOpenAI) -> None:
    """A job ends with a model that answers and can be deleted; another is cancelled."""
    file = await sdk.files.create(file=("in.jsonl", b"{}"), purpose="fine-tune")
    job = await sdk.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id, extra_body=SOON)
    done = await until(lambda: sdk.fine_tuning.jobs.retrieve(job.id), "succeeded")
    assert done.fine_tuned_model is not None
    assert [one.message async for one in sdk.fine_tuning.jobs.list_events(job.id)][-1] == "Created fine-tuning job"
    assert [one.step_number async for one in sdk.fine_tuning.jobs.checkpoints.list(job.id)] == [1]
    chat = await sdk.chat.completions.create(model=done.fine_tuned_model, messages=[{"role": "user", "content": "Hi"}])
    assert chat.model == done.fine_tuned_model
    assert (await sdk.models.delete(done.fine_tuned_model)).deleted
    slow = await sdk.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=file.id, extra_body={"simulate": {"background_s": 60}}
    )
    assert (await sdk.fine_tuning.jobs.cancel(slow.id)).status == "cancelled"
    assert [one.id async for one in sdk.fine_tuning.jobs.list()] == [slow.id, job.id]


async def test_evals(sdk: AsyncOpenAI) -> None:
    """An eval, its run with a result, and their end."""
    made = await sdk.evals.create(
        name="e",
        data_source_config={"type": "custom", "item_schema": {"type": "object"}},
        testing_criteria=[{"type": "string_check", "name": "same", "input": "a", "operation": "eq", "reference": "a"}],
    )
    source: Any = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {}}]}}
    run = await sdk.evals.runs.create(made.id, data_source=source, extra_body=SOON)
    done = await until(lambda: sdk.evals.runs.retrieve(run.id, eval_id=made.id), "completed")
    assert done.result_counts.passed == 1
    items = [one async for one in sdk.evals.runs.output_items.list(run.id, eval_id=made.id)]
    shown = await sdk.evals.runs.output_items.retrieve(items[0].id, eval_id=made.id, run_id=run.id)
    assert shown.results[0].passed
    assert (await sdk.evals.runs.cancel(run.id, eval_id=made.id)).id == run.id
    assert (await sdk.evals.runs.delete(run.id, eval_id=made.id)).run_id == run.id
    assert (await sdk.evals.update(made.id, name="f")).name == "f"
    assert [one.id async for one in sdk.evals.list()] == [made.id]
    assert (await sdk.evals.delete(made.id)).deleted


# Assistants


async def test_assistants_run(sdk: AsyncOpenAI, stack: Stack) -> None:
    """A thread's run ends with a message, a step and usage, which stands in the row of the create; then all is deleted."""
    assistant = await sdk.beta.assistants.create(model="gpt-4o", name="a", instructions="Be brief.")
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
    await sdk.beta.threads.messages.create(thread.id, role="user", content="More")
    run = await sdk.beta.threads.runs.create(thread.id, assistant_id=assistant.id, extra_body=SOON)
    assert (run.status, run.usage) == ("queued", None)
    done = await until(lambda: sdk.beta.threads.runs.retrieve(run.id, thread_id=thread.id), "completed")
    assert done.usage is not None
    row = next(row for row in await rows(stack) if row["path"].endswith("/runs"))
    assert (row["input_tokens"], row["output_tokens"]) == (done.usage.prompt_tokens, 48)
    roles = [message.role async for message in sdk.beta.threads.messages.list(thread.id)]
    assert roles == ["assistant", "user", "user"]
    steps = [step async for step in sdk.beta.threads.runs.steps.list(run.id, thread_id=thread.id)]
    assert [step.status for step in steps] == ["completed"]
    assert [one.id async for one in sdk.beta.threads.runs.list(thread.id)] == [run.id]
    slow = await sdk.beta.threads.create_and_run(assistant_id=assistant.id, extra_body={"simulate": {"background_s": 60}})
    assert (await sdk.beta.threads.runs.cancel(slow.id, thread_id=slow.thread_id)).status == "cancelled"
    assert (await sdk.beta.assistants.update(assistant.id, name="b")).name == "b"
    assert (await sdk.beta.threads.delete(thread.id)).deleted
    assert (await sdk.beta.assistants.delete(assistant.id)).deleted
    with pytest.raises(openai.NotFoundError, match=f"No thread found with id '{thread.id}'"):
        await sdk.beta.threads.messages.list(thread.id)
    with pytest.raises(openai.NotFoundError, match="No assistant found"):
        await sdk.beta.threads.create_and_run(assistant_id=assistant.id)


async def test_runs_stream_and_call(sdk: AsyncOpenAI, stack: Stack) -> None:
    """A streamed run stops for its tool's output, goes on, and ends with usage; its tokens are counted once."""
    function: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    assistant = await sdk.beta.assistants.create(model="gpt-4o", tools=[function])
    thread = await sdk.beta.threads.create()
    body = {"simulate": {"call": "look", "output_tokens": 3, "token_ms": 0}}
    stream = await sdk.beta.threads.runs.create(thread.id, assistant_id=assistant.id, stream=True, extra_body=body)
    last: Any = [event async for event in stream][-1]
    assert last.event == "thread.run.requires_action"
    call = last.data.required_action.submit_tool_outputs.tool_calls[0]
    stream = await sdk.beta.threads.runs.submit_tool_outputs(
        last.data.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": call.id, "output": "yes"}], stream=True
    )
    events: list[Any] = [event async for event in stream]
    said = "".join(event.data.delta.content[0].text.value for event in events if event.event == "thread.message.delta")
    assert said == SAID
    assert (events[-1].event, events[-1].data.usage.completion_tokens) == ("thread.run.completed", 3)
    assert sum(row["output_tokens"] for row in await rows(stack)) == 3


# Conversations, containers, skills, videos


async def test_conversations(sdk: AsyncOpenAI) -> None:
    """Items come, are shown and go; a deleted conversation is a 404."""
    conversation = await sdk.conversations.create()
    added = await sdk.conversations.items.create(conversation.id, items=[{"role": "user", "content": "Hi"}])
    name = added.data[0].id
    assert name is not None
    assert (await sdk.conversations.items.retrieve(name, conversation_id=conversation.id)).type == "message"
    assert (await sdk.conversations.items.delete(name, conversation_id=conversation.id)).id == conversation.id
    assert (await sdk.conversations.update(conversation.id, metadata={"a": "b"})).metadata == {"a": "b"}
    assert (await sdk.conversations.delete(conversation.id)).deleted
    with pytest.raises(openai.NotFoundError, match="Conversation with id"):
        await sdk.conversations.retrieve(conversation.id)


async def test_containers(sdk: AsyncOpenAI) -> None:
    """Files come by form or by id; deletions answer 204 without a body."""
    container = await sdk.containers.create(name="c")
    file = await sdk.files.create(file=("a.txt", b"abc"), purpose="user_data")
    sent = await sdk.containers.files.create(container.id, file=("b.txt", b"def"))
    named = await sdk.containers.files.create(container.id, file_id=file.id)
    for one, content in ((sent, b"def"), (named, b"abc")):
        assert (await sdk.containers.files.content.retrieve(one.id, container_id=container.id)).read() == content
    assert [one.path async for one in sdk.containers.files.list(container.id)] == ["/mnt/data/a.txt", "/mnt/data/b.txt"]
    deleted = await sdk.containers.files.with_raw_response.delete(sent.id, container_id=container.id)
    assert (deleted.status_code, deleted.content) == (204, b"")
    await sdk.containers.delete(container.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.containers.retrieve(container.id)


async def test_skills(sdk: AsyncOpenAI) -> None:
    """Versions go by their numbers, and each has its content."""
    skill = await sdk.skills.create(files=[("look/SKILL.md", b"one")])
    version = await sdk.skills.versions.create(skill.id, files=[("look/SKILL.md", b"two")])
    assert (version.version, skill.name) == ("2", "look")
    assert (await sdk.skills.content.retrieve(skill.id)).read() == b"one"
    assert (await sdk.skills.update(skill.id, default_version="2")).default_version == "2"
    assert (await sdk.skills.content.retrieve(skill.id)).read() == b"two"
    assert (await sdk.skills.versions.content.retrieve("1", skill_id=skill.id)).read() == b"one"
    assert [one.version async for one in sdk.skills.versions.list(skill.id)] == ["2", "1"]
    assert (await sdk.skills.versions.delete("1", skill_id=skill.id)).version == "1"
    assert [one.id async for one in sdk.skills.list()] == [skill.id]
    assert (await sdk.skills.delete(skill.id)).deleted


async def test_videos(sdk: AsyncOpenAI) -> None:
    """A video is ready later, has binary content, and can be the source of another; JSON and forms are taken."""
    video = await sdk.videos.create(prompt="A river", extra_body={"simulate": json.dumps(SOON["simulate"])})
    assert (video.status, video.progress) == ("queued", 0)
    await until(lambda: sdk.videos.retrieve(video.id), "completed")
    content = await sdk.videos.download_content(video.id)
    assert content.read() == b"".join(generated(VIDEO_BYTES))
    again = await sdk.videos.remix(video.id, prompt="Wider")
    assert again.remixed_from_video_id == video.id
    pictured = await sdk.videos.create(prompt="A river", input_reference=("a.png", b"abc"))
    assert [one.id async for one in sdk.videos.list()] == [pictured.id, again.id, video.id]
    assert (await sdk.videos.delete(video.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.videos.remix(video.id, prompt="Wider")


# Images and audio


async def test_images(sdk: AsyncOpenAI, stack: Stack) -> None:
    """P5: plain and streamed, made and edited, with usage; a form's picture counts as input."""
    plain = await sdk.images.generate(model="gpt-image-1", prompt="A river", n=2)
    assert plain.data is not None
    assert plain.usage is not None
    assert (len(plain.data), plain.usage.output_tokens) == (2, 2 * IMAGE_TOKENS)
    fast = {"simulate": {"token_ms": 0}}
    stream = await sdk.images.generate(model="gpt-image-1", prompt="A river", stream=True, partial_images=2, extra_body=fast)
    events = [event async for event in stream]
    assert [event.type.split(".")[1] for event in events] == ["partial_image", "partial_image", "completed"]
    edited = await sdk.images.edit(model="gpt-image-1", image=("a.png", b"abc"), prompt="Wider", stream=True)
    last = [event async for event in edited][-1]
    assert last.type == "image_edit.completed"
    row = (await rows(stack))[-1]
    assert (row["input_tokens"], row["output_tokens"]) == (last.usage.input_tokens, last.usage.output_tokens)
    assert last.usage.input_tokens_details.image_tokens == IMAGE_TOKENS
    varied = await sdk.images.create_variation(image=("a.png", b"abc"), response_format="url")
    assert varied.data is not None
    assert varied.data[0].url is not None


async def cut(sdk: AsyncOpenAI, sound: Any) -> None:
    """A transcription that breaks off after three events."""
    faults = json.dumps({"token_ms": 0, "cut_after_events": 3})
    stream = await sdk.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=sound, stream=True, extra_body={"simulate": faults}
    )
    async for _ in stream:
        continue


async def test_audio(sdk: AsyncOpenAI, stack: Stack) -> None:
    """P5: sound as bytes and as events; texts as JSON, plain text, subtitles and events; usage where OpenAI has it."""
    speech = await sdk.audio.speech.create(model="tts-1", voice="alloy", input="Hi")
    assert speech.read() == b"".join(generated(SPEECH_BYTES))
    sse = await sdk.audio.speech.create(
        model="gpt-4o-mini-tts", voice="alloy", input="Hi", stream_format="sse", extra_body={"simulate": {"token_ms": 0}}
    )
    assert '"speech.audio.done"' in sse.text.splitlines()[-2]
    sound: Any = ("a.wav", b"\0" * 16_000)
    heard = await sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound)
    assert heard.usage is not None
    assert heard.usage.type == "tokens"
    assert (heard.usage.input_tokens, heard.usage.output_tokens) == (10, 48)
    events = [
        event async for event in await sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, stream=True)
    ]
    last = events[-1]
    assert last.type == "transcript.text.done"
    assert (last.text, (await rows(stack))[-1]["output_tokens"]) == (heard.text, 48)
    with pytest.raises(openai.APIConnectionError):
        await cut(sdk, sound)
    row = (await rows(stack))[-1]
    assert (row["input_tokens"], row["output_tokens"], row["complete"]) == (10, 3, False)
    verbose = await sdk.audio.transcriptions.create(model="whisper-1", file=sound, response_format="verbose_json")
    assert verbose.text == heard.text
    subtitles = await sdk.audio.transcriptions.create(model="whisper-1", file=sound, response_format="vtt")
    assert subtitles.startswith("WEBVTT")
    assert (await sdk.audio.translations.create(model="whisper-1", file=sound)).text == heard.text
