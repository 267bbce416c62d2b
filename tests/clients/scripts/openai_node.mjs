// The scenarios of the `openai` package for Node; CLIENT_MODULE is the name under which one release of it is installed.

import { BYTES, CALL, HELLO, MARK, run, TOOLS } from "./lines.mjs";

const { default: OpenAI, toFile } = await import(process.env.CLIENT_MODULE);

// Base URL and key come from OPENAI_BASE_URL and OPENAI_API_KEY, as the package reads them by itself.
const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });
const slashed = new OpenAI({ baseURL: `${process.env.OPENAI_BASE_URL}/`, maxRetries: 0, timeout: 30_000 });

function ask(name, more = {}, { of = client } = {}) {
  return of.chat.completions.create({ model: "gpt-4o", messages: HELLO, user: `${MARK}/${name}`, ...more });
}

async function plain(call) {
  const answer = await call;
  const [choice] = answer.choices;
  return {
    text: choice.message ? choice.message.content : choice.text,
    finish: choice.finish_reason,
    usage: [answer.usage.prompt_tokens, answer.usage.completion_tokens],
    request_id: answer._request_id,
    whole: answer,
  };
}

// All events of a stream; after `most` of them the client leaves.
async function streamed(call, most) {
  const { data: stream, request_id } = await call.withResponse();
  const chunks = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    if (chunks.length === most) break;
  }
  const choices = chunks.filter((chunk) => chunk.choices.length).map((chunk) => chunk.choices[0]);
  const usages = chunks.filter((chunk) => chunk.usage).map((chunk) => chunk.usage);
  const usage = usages.at(-1);
  return {
    text: choices.map((choice) => (choice.delta ? choice.delta.content : choice.text) ?? "").join(""),
    finish: choices.at(-1).finish_reason,
    usage: usage ? [usage.prompt_tokens, usage.completion_tokens] : null,
    usage_events: usages.length,
    request_id,
    whole: chunks,
  };
}

async function limits(call) {
  const { data, response } = await call.withResponse();
  const names = [...response.headers.keys()].filter((name) => name.startsWith("x-ratelimit"));
  const headers = ["x-request-id", "content-type", ...names].map((name) => [name, response.headers.get(name)]);
  // A stream that is not read would keep its connection, and this program, from ending.
  const parsed = data.constructor.name;
  if (data.controller) data.controller.abort();
  return { headers: Object.fromEntries(headers), parsed };
}

// Two requests where one is allowed at a time: the second is told to wait, waits, and is served.
async function twice() {
  const tight = new OpenAI({ baseURL: process.env.TIGHT_BASE_URL, apiKey: process.env.TIGHT_KEY, timeout: 30_000 });
  const texts = [];
  for (let count = 0; count < 2; count += 1) {
    texts.push((await ask("rate", {}, { of: tight })).choices[0].message.content);
  }
  return { texts };
}

async function fileRound() {
  const made = await client.files.create({ file: await toFile(BYTES, "bytes.bin"), purpose: "user_data" });
  const content = new Uint8Array(await (await client.files.content(made.id)).arrayBuffer());
  const { deleted } = await client.files.delete(made.id);
  return { bytes: made.bytes, same: Buffer.compare(content, BYTES) === 0, deleted };
}

function respond(name, more = {}) {
  return client.responses.create({ model: "gpt-4o", input: "Say something about rivers.", user: `${MARK}/${name}`, ...more });
}

function responded(answer) {
  const usage = answer.usage ? [answer.usage.input_tokens, answer.usage.output_tokens] : null;
  const text = answer.output.flatMap((item) => item.content ?? []).map((part) => part.text ?? "").join("");
  return { text, status: answer.status, usage };
}

async function background() {
  let answer = await respond("responses_background", { background: true, simulate: { background_s: 0.05 } });
  for (let count = 0; count < 500 && ["queued", "in_progress"].includes(answer.status); count += 1) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    answer = await client.responses.retrieve(answer.id);
  }
  return responded(answer);
}

async function responseEvents() {
  const events = [];
  for await (const event of await respond("responses_stream", { stream: true })) events.push(event);
  return { events: events.map((event) => event.type), ...responded(events.at(-1).response) };
}

async function embedded(more = {}) {
  const answer = await client.embeddings.create({ model: "text-embedding-3-small", input: ["One river", "Two rivers"], ...more });
  return { lengths: answer.data.map((item) => item.embedding.length), input_tokens: answer.usage.prompt_tokens };
}

async function calls(call) {
  const answer = await call;
  return { calls: answer.choices[0].message.tool_calls.map((made) => made.function) };
}

async function responseCalls() {
  const tools = [{ type: "function", ...TOOLS[0].function, strict: false }];
  const answer = await respond("responses_call", { tools, simulate: CALL });
  return { calls: answer.output.filter((item) => item.type === "function_call").map((item) => [item.name, item.arguments]) };
}

const large = [{ role: "user", content: "x".repeat(2 ** 22) }];
const legacy = { model: "gpt-3.5-turbo-instruct", prompt: "One river" };
const usage = { stream: true, stream_options: { include_usage: true } };
const late = { status: 429, times: 1, headers: { "retry-after-ms": "20" }, key: `${MARK}/retried` };
const html = { status: 502, body: "<html><body>Bad gateway</body></html>" };
const statuses = [400, 401, 409, 422, 429, 500, 503];
const patient = (name, more) => ask(name, more, { of: client.withOptions({ maxRetries: 2 }) });

const scenarios = {
  chat: () => plain(ask("chat")),
  chat_stream: () => streamed(ask("chat_stream", { stream: true })),
  chat_stream_usage: () => streamed(ask("chat_stream_usage", usage)),
  tools: () => plain(ask("tools", { tools: TOOLS })),
  tools_stream: () => streamed(ask("tools_stream", { tools: TOOLS, stream: true })),
  completions: () => plain(client.completions.create(legacy)),
  completions_stream: () => streamed(client.completions.create({ ...legacy, stream: true })),
  models: async () => ({ models: (await client.models.list()).data.map((model) => model.id) }),
  model: () => client.models.retrieve("openai/gpt-4o"),
  headers: () => limits(client.chat.completions.create({ model: "gpt-4o", messages: HELLO })),
  headers_stream: () => limits(client.chat.completions.create({ model: "gpt-4o", messages: HELLO, stream: true })),
  slashed: () => plain(ask("slashed", {}, { of: slashed })),
  bad_parameter: () => ask("bad_parameter", { stream_options: { include_usage: true } }),
  empty_messages: () => ask("empty_messages", { messages: [] }),
  bad_key: () => ask("bad_key", {}, { of: client.withOptions({ apiKey: "sk-wrong" }) }),
  bad_key_large: () => ask("bad_key_large", { messages: large }, { of: client.withOptions({ apiKey: "sk-wrong" }) }),
  unknown_model: () => ask("unknown_model", { model: "gpt-none" }),
  unknown_model_stream: () => ask("unknown_model_stream", { model: "gpt-none", stream: true }),
  unknown_path: () => client.get("/nothing"),
  wrong_method: () => client.get("/embeddings"),
  too_large: () => ask("too_large", { messages: large }),
  quota: () => ask("quota", {}, { of: client.withOptions({ apiKey: process.env.SPENT_KEY, maxRetries: 2 }) }),
  rate: twice,
  retried: () => plain(patient("retried", { simulate: late })),
  ...Object.fromEntries(
    statuses.map((status) => [`provider_${status}`, () => ask(`provider_${status}`, { simulate: { status } })]),
  ),
  provider_429_stream: () => ask("provider_429_stream", { simulate: { status: 429 }, stream: true }),
  provider_html: () => ask("provider_html", { simulate: html }),
  cut: () => streamed(ask("cut", { simulate: { cut_after_events: 5 }, stream: true })),
  cut_plain: () => plain(ask("cut_plain", { simulate: { cut_after_events: 5 } })),
  error_event: () => streamed(ask("error_event", { simulate: { error_first_event: true }, stream: true })),
  no_done: () => streamed(ask("no_done", { simulate: { no_done: true }, stream: true })),
  aborted: () => streamed(ask("aborted", { simulate: { stall_after_events: 5 }, stream: true }), 3),
  tool_calls: () => calls(ask("tool_calls", { tools: TOOLS, simulate: CALL })),
  tool_calls_stream: () => streamed(ask("tool_calls_stream", { tools: TOOLS, simulate: CALL, stream: true })),
  embeddings: () => embedded(),
  embeddings_floats: () => embedded({ encoding_format: "float" }),
  responses: async () => responded(await respond("responses")),
  responses_stream: responseEvents,
  responses_background: background,
  responses_call: responseCalls,
  files: fileRound,
  images: async () => ({ images: (await client.images.generate({ model: "gpt-image-1", prompt: "A river" })).data.length }),
  speech: async () => {
    const answer = await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: "A river" });
    return { bytes: (await answer.arrayBuffer()).byteLength };
  },
  transcription: async () => {
    const file = await toFile(BYTES, "speech.wav");
    return { text: (await client.audio.transcriptions.create({ model: "whisper-1", file })).text };
  },
};

await run(scenarios, (error) => ({
  class: error.constructor.name,
  message: error.message,
  status: error.status ?? null,
  code: error.code ?? null,
  type: error.type ?? null,
  param: error.param ?? null,
  request_id: error.requestID ?? null,
}));
