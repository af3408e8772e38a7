// OpenAI's client for Node against a server: what it was answered, as JSON on stdout. The tests compare.

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE, apiKey: process.env.TOKEN, timeout: 300_000 });
const messages = [{ role: "user", content: "hello" }];
const model = "reply";

async function streamed() {
  let text = "";
  for await (const piece of await client.chat.completions.create({ model, messages, stream: true }))
    text += piece.choices[0]?.delta?.content ?? "";
  return text;
}

async function refused(ask) {
  try {
    await ask();
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status, message: error.message };
  }
}

const whole = await client.chat.completions.create({ model, messages, stop: null, max_tokens: 100_000 });
const text = await client.completions.create({ model, prompt: ["message: a", "message: b"], max_tokens: 8 });
const other = new OpenAI({ baseURL: process.env.BASE, apiKey: "own_wrong", maxRetries: 0 });
const told = {
  models: (await client.models.list()).data.map((one) => one.id),
  whole: whole.choices[0].message.content,
  streamed: await streamed(),
  helper: await client.chat.completions.stream({ model, messages }).finalContent(),
  many: await Promise.all(Array.from({ length: Number(process.env.MANY) }, streamed)),
  texts: text.choices.map((one) => one.text),
  token: await refused(() => other.models.list()),
  missing: await refused(() => client.models.retrieve("gpt-4o")),
  long: await refused(() => client.completions.create({ model, prompt: "word ".repeat(2000) })),
  format: await refused(() =>
    client.chat.completions.create({ model, messages, response_format: { type: "json_object" } }),
  ),
};
process.stdout.write(JSON.stringify(told));
