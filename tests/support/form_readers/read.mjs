// What Node's own reader gives of each form on standard input: [{"type", "body"}] as base64 in, [[name, filename, value]] out.
import { readFileSync } from "node:fs";

async function read({ type, body }) {
  const headers = { "content-type": Buffer.from(type, "base64").toString("latin1") };
  try {
    const form = await new Response(Buffer.from(body, "base64"), { headers }).formData();
    return await Promise.all(
      [...form].map(async ([name, value]) => (typeof value === "string" ? [name, "", value] : [name, value.name, await value.text()])),
    );
  } catch {
    return [];
  }
}

const forms = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(await Promise.all(forms.map(read))));
