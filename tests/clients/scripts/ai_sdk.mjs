// The scenarios of the AI SDK (`ai`) with one of its providers: CLIENT_MODULE is @ai-sdk/openai-compatible or @ai-sdk/openai.

import { APICallError, embedMany, generateText, jsonSchema, RetryError, streamText, tool } from "ai";

import { CALL, HELLO, MARK, PARAMETERS, run } from "./lines.mjs";

const compatible = process.env.CLIENT_MODULE === "@ai-sdk/openai-compatible";
const { createOpenAI, createOpenAICompatible } = await import(process.env.CLIENT_MODULE);

// The name under which options go through to the body.
const NAME = compatible ? "sentinel" : "openai";

function provider(more = {}) {
  const given = { baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY, ...more };
  return compatible ? createOpenAICompatible({ name: NAME, ...given }) : createOpenAI(given);
}

const tools = { get_weather: tool({ description: "Get the weather of a city.", inputSchema: jsonSchema(PARAMETERS) }) };

function asked(name, { of = provider(), model = "gpt-4o", options = {}, ...more } = {}) {
  const providerOptions = { [NAME]: { user: `${MARK}/${name}`, ...options } };
  const chosen = compatible ? of(model) : of.chat(model);
  return { model: chosen, messages: HELLO, maxRetries: 0, providerOptions, ...more };
}

function counted(usage) {
  return usage.inputTokens === undefined ? null : [usage.inputTokens, usage.outputTokens];
}

async function plain(name, more) {
  const answer = await generateText(asked(name, more));
  const { id, modelId, body, headers } = answer.response;
  return {
    text: answer.text,
    finish: answer.finishReason,
    usage: counted(answer.usage),
    request_id: headers["x-request-id"],
    whole: { id, modelId, body, warnings: answer.warnings, content: answer.content },
  };
}

// All parts of a stream; after `most` pieces of text the client leaves.
async function streamed(name, { most, ...more } = {}) {
  const leave = new AbortController();
  // Failures come as parts of the stream; unasked, the package writes them to the terminal as well.
  const stream = streamText({ ...asked(name, more), abortSignal: leave.signal, onError: () => {} });
  const parts = [];
  let text = "";
  for await (const part of stream.fullStream) {
    if (part.type === "error") throw part.error;
    parts.push(part.type);
    if (part.type === "text-delta") text += part.text;
    if (most && parts.filter((type) => type === "text-delta").length === most) leave.abort();
  }
  if (most) return { text, parts };
  const { headers } = await stream.response;
  return {
    text,
    finish: await stream.finishReason,
    usage: counted(await stream.usage),
    request_id: headers["x-request-id"],
    whole: parts,
  };
}

// Two requests where one is allowed at a time: the second is told to wait, waits, and is served.
async function twice() {
  const of = provider({ baseURL: process.env.TIGHT_BASE_URL, apiKey: process.env.TIGHT_KEY });
  const texts = [];
  for (let count = 0; count < 2; count += 1) texts.push((await plain("rate", { of, maxRetries: 2 })).text);
  return { texts };
}

async function called(name, { stream }) {
  const call = asked(name, { tools, options: { simulate: CALL } });
  const made = stream ? await streamText(call).toolCalls : (await generateText(call)).toolCalls;
  return { calls: made.map(({ toolName, input }) => [toolName, input]) };
}

async function embedded() {
  const of = provider();
  const model = compatible ? of.embeddingModel("text-embedding-3-small") : of.embedding("text-embedding-3-small");
  const { embeddings } = await embedMany({ model, values: ["One river", "Two rivers"] });
  return { lengths: embeddings.map((vector) => vector.length) };
}

async function responded({ stream }) {
  const call = { model: provider().responses("gpt-4o"), messages: HELLO, maxRetries: 0 };
  const answer = stream ? streamText(call) : await generateText(call);
  return { text: await answer.text, finish: await answer.finishReason, usage: counted(await answer.usage) };
}

const late = { status: 429, times: 1, headers: { "retry-after-ms": "20" }, key: `${MARK}/retried` };
const broken = (status) => () => plain(`provider_${status}`, { options: { simulate: { status } } });

const scenarios = {
  chat: () => plain("chat"),
  chat_stream: () => streamed("chat_stream"),
  chat_stream_usage: () => streamed("chat_stream_usage", { of: provider({ includeUsage: true }) }),
  tools: () => plain("tools", { tools }),
  tools_stream: () => streamed("tools_stream", { tools }),
  slashed: () => plain("slashed", { of: provider({ baseURL: `${process.env.OPENAI_BASE_URL}/` }) }),
  bad_key: () => plain("bad_key", { of: provider({ apiKey: "sk-wrong" }) }),
  unknown_model: () => plain("unknown_model", { model: "gpt-none" }),
  unknown_model_stream: () => streamed("unknown_model_stream", { model: "gpt-none" }),
  too_large: () => plain("too_large", { messages: [{ role: "user", content: "x".repeat(2 ** 22) }] }),
  quota: () => plain("quota", { of: provider({ apiKey: process.env.SPENT_KEY }), maxRetries: 1 }),
  rate: twice,
  retried: () => plain("retried", { options: { simulate: late }, maxRetries: 2 }),
  provider_400: broken(400),
  provider_429: broken(429),
  provider_500: broken(500),
  provider_503: broken(503),
  cut: () => streamed("cut", { options: { simulate: { cut_after_events: 5 } } }),
  error_event: () => streamed("error_event", { options: { simulate: { error_first_event: true } } }),
  aborted: () => streamed("aborted", { options: { simulate: { stall_after_events: 5 } }, most: 3 }),
  tool_calls: () => called("tool_calls", { stream: false }),
  tool_calls_stream: () => called("tool_calls_stream", { stream: true }),
  embeddings: embedded,
  responses: () => responded({ stream: false }),
  responses_stream: () => responded({ stream: true }),
};

await run(scenarios, (raised) => {
  const error = RetryError.isInstance(raised) ? raised.lastError : raised;
  const told = APICallError.isInstance(error) ? (error.data?.error ?? {}) : {};
  return {
    class: error?.name ?? typeof error,
    message: error?.message ?? JSON.stringify(error),
    status: error?.statusCode ?? null,
    code: told.code ?? null,
    type: told.type ?? null,
    param: told.param ?? null,
    request_id: error?.responseHeaders?.["x-request-id"] ?? null,
  };
});
