// What every Node script here does: run the scenarios on the command line, write a JSON line of each to the file `told`.

import { appendFileSync } from "node:fs";

export const HELLO = [{ role: "user", content: "Say something about rivers." }];
export const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string", description: "Its name." } },
  required: ["city"],
};
export const TOOLS = [
  { type: "function", function: { name: "get_weather", description: "Get the weather of a city.", parameters: PARAMETERS } },
];
export const BYTES = Uint8Array.from({ length: 264_000 }, (_, at) => at % 256);
export const MARK = process.env.CLIENT_MARK;
// What makes the provider's simulator call the tool of this name.
export const CALL = { call: "get_weather" };

// {"scenario", "told"} for what a scenario returns, {"scenario", "error"} for what it raises.
export async function run(scenarios, failure) {
  for (const scenario of process.argv.slice(2)) {
    let line;
    try {
      line = { told: await scenarios[scenario]() };
    } catch (error) {
      line = { error: failure(error) };
    }
    appendFileSync("told", `${JSON.stringify({ scenario, ...line })}\n`);
  }
}
