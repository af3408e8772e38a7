// The server's API with the token of this tab. Addresses are relative, so that the server may stand behind a prefix.

import { clearButDrafts } from "./drafts.js";

const TOKEN = "ownlm.token",
  NOTE = "ownlm.note";

/** An error for the user: what went wrong, and what to do next. */
export class Problem extends Error {
  constructor(message, hint, status = 0, wait = 0) {
    super(message);
    this.hint = hint;
    this.status = status;
    this.wait = wait; // seconds after which to try again
  }
}

const NEXT = {
  400: "Change what is named above, then try again.",
  403: "Ask whoever runs this server.",
  404: "It may have been deleted. Load the page again.",
  409: "Wait until the running job has ended, then try again.",
  413: "Send a shorter text, or fewer records at a time.",
  429: "Wait a moment, then try again.",
  503: "The server is busy or stopping. Wait a moment, then try again.",
};

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (text) => sessionStorage.setItem(TOKEN, text),
};

/** Returns the note for the sign-in page, and removes it. */
export function takeNote() {
  const note = sessionStorage.getItem(NOTE);
  sessionStorage.removeItem(NOTE);
  return note;
}

/**
 * Ends the session: removes the token and reloads the page, so that nothing stays in memory.
 *
 * `stay` keeps drafts for the next sign-in, where the user did not ask to sign out.
 */
export function signOut(note, stay = false) {
  if (stay) clearButDrafts();
  else sessionStorage.clear();
  sessionStorage.setItem(NOTE, note);
  if (!stay) window.history.replaceState(null, "", location.pathname);
  location.reload();
}

async function send(method, path, { body, signal, asked = token.get() } = {}) {
  const headers = { Authorization: `Bearer ${asked}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached.", "Check that it runs and that you are online, then try again.");
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (response.status === 401 && token.get() === asked) {
    signOut(
      "Your access key is no longer valid, so you were signed out. It may have expired. " +
        "Sign in again, with a new key if necessary.",
      true,
    );
  }
  throw problem;
}

async function problemOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    /* no JSON: the answer of a proxy */
  }
  const wait = Number(response.headers.get("Retry-After")) || 0;
  const next = wait ? `Wait ${wait} s, then try again.` : NEXT[response.status];
  return problemFrom(error.message ?? `The server answered with ${response.status}.`, next, response.status, wait);
}

/** Whether a hint is for programs or operators, and no use on this page. */
export const forPrograms = (hint) => /`|\/v1\/|\b(GET|POST|PUT|DELETE)\b/.test(hint);

/** Makes a problem from a message of the server, which may end with what to do next. */
function problemFrom(
  message,
  next = "Try again. If it fails again, tell whoever runs this server.",
  status = 0,
  wait = 0,
) {
  const at = message.lastIndexOf(" Next: ");
  if (at < 0) return new Problem(message, next, status, wait);
  const hint = message.slice(at + " Next: ".length);
  return new Problem(message.slice(0, at), forPrograms(hint) ? next : hint, status, wait);
}

/** Adds a query to a path, without empty values. */
function at(path, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return pairs.length ? `${path}?${new URLSearchParams(pairs)}` : path;
}

/** Encodes one part of a path. Browsers resolve `.` and `..`, even encoded: they would name another resource. */
function step(id) {
  if (/^\.{0,2}$/.test(id))
    throw new Problem(`A record called "${id}" cannot be reached from here.`, "Delete it elsewhere.");
  return encodeURIComponent(id);
}

const json = async (...sent) => (await send(...sent)).json();
const ME = "v1/users/me";

export const api = {
  me: (options) => json("GET", ME, options),
  /** The user and the tasks, requested together. */
  meAndTasks: (options) => Promise.all([api.me(options), json("GET", "v1/tasks", options)]),
  history: (query, signal) => json("GET", at(`${ME}/history`, query), { signal }),
  /** One record; null where it is not found. */
  record: async (task, id, signal) => {
    const { records } = await json("GET", at(`${ME}/history`, { task, id }), { signal });
    return records.find((record) => record.id === id) ?? null;
  },
  add: (task, records) => json("POST", `${ME}/history`, { body: { task, records } }),
  remove: (task, id) => json("DELETE", at(`${ME}/history/${step(id)}`, { task })),
  adapter: (task, signal) => json("GET", at(`${ME}/adapter`, { task }), { signal }),
  pieces: (task, signal) => json("GET", at(`${ME}/adapter/pieces`, { task }), { signal }),
  download: (task) => send("GET", at(`${ME}/adapter/download`, { task })),
  make: (kind, task) => json("POST", `${ME}/${kind}`, { body: { task } }),
  job: (id, signal) => json("GET", `${ME}/jobs/${encodeURIComponent(id)}`, { signal }),
  cancel: (id) => json("DELETE", `${ME}/jobs/${encodeURIComponent(id)}`),
  consent: (body) => json("PUT", `${ME}/consent`, { body }),
  forget: (confirm) => json("DELETE", at(ME, { confirm })),

  /** Streams an answer: `onText` gets each piece; resolves to the "ownlm" part of the last chunk, and the finish. */
  async chat(body, onText, signal) {
    const response = await send("POST", "v1/chat/completions", { body: { ...body, stream: true }, signal });
    const end = { ownlm: null, finish: null };
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return end;
      const chunk = JSON.parse(data);
      if (chunk.error) throw problemFrom(chunk.error.message);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) onText(choice.delta.content);
      end.finish = choice?.finish_reason ?? end.finish;
      end.ownlm = chunk.ownlm ?? end.ownlm;
    }
    throw new Problem("The answer broke off.", "The server may have stopped. Ask again.");
  },
};

/** The data of server-sent events, one after another. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "",
    data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      for (let end; (end = held.search(/\r\n|\n|\r(?!$)/)) >= 0;) {
        // a final \r may be half of a line break
        const line = held.slice(0, end);
        held = held.slice(end + (held.startsWith("\r\n", end) ? 2 : 1));
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The answer broke off: the connection was lost.", "Ask again.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
