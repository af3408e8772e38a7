// Ask: the shared model and the user's own, side by side, both streamed.

import { api } from "./api.js";
import { byId, decimals, el, many, say, short, timeOf } from "./dom.js";
import { keepDraft, restoreDrafts } from "./drafts.js";
import { complete, field } from "./forms.js";
import { attempt } from "./problem.js";

const FEW = 240; // longest list of labels within the instruction

let now = null; // abort controller of the current question
let under = ""; // the current request, so that a double click asks once
let asked = null; // the last question and the answer of the user's own model

/** Sets the form for a task. What is typed stays with its task, and comes along where the fields are the same. */
export function setTask(task, before) {
  now?.abort();
  const typed = new Map([...byId("ask-fields").querySelectorAll("[data-field]")].map((one) => [one.name, one.value]));
  const alone = before?.input_fields.length === 1 && task.input_fields.length === 1;
  const { instruction, input_fields: inputs, required, labels } = task;
  const listed = (labels ?? []).join(", "),
    long = listed.length > FEW;
  byId("ask-intro").textContent = instruction.replaceAll(
    "{labels}",
    long ? `${many(labels.length, "set answer")}, listed below` : listed,
  );
  byId("ask-fields").replaceChildren(
    ...inputs.map((name) => field("ask", name, { required: required.includes(name), rows: inputs.length > 1 ? 3 : 4 })),
  );
  byId("ask-choose").checked = true;
  byId("ask-rag").value = "";
  restoreDrafts(byId("ask-form"));
  for (const input of byId("ask-fields").querySelectorAll("[data-field]")) {
    const brought = typed.get(alone ? before.input_fields[0] : input.name);
    if (input.value || !brought) continue;
    input.value = brought;
    keepDraft(input);
  }
  byId("ask-choose-row").hidden = !labels?.length;
  byId("ask-labels-all").hidden = !long;
  byId("ask-labels-count").textContent = many(labels?.length ?? 0, "set answer");
  byId("ask-labels").replaceChildren(...(labels ?? []).map((label) => el("li", {}, label)));
  byId("answers").hidden = byId("ask-same").hidden = byId("ask-keep-row").hidden = true;
  byId("answers").replaceChildren();
}

export async function show(context, signal) {
  const form = byId("ask-form");
  form.onsubmit = (event) => {
    event.preventDefault();
    void ask(context);
  };
  form.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  };
  byId("ask-stop").onclick = () => now?.abort();
  byId("ask-keep").onclick = () => context.keep(asked);
  await attempt(
    context.place,
    async (newer) => {
      await context.refresh(AbortSignal.any([signal, newer]));
      form.querySelector("[type=submit]").textContent = context.mine().adapter ? "Ask both" : "Ask";
    },
    () => void show(context, signal),
  );
}

/** What is sent: the text alone where one field is all there is, else a JSON object with the fields. */
function contentOf(task, fields) {
  const names = Object.keys(fields);
  return names.length === 1 && (task.required.length === 1 || task.input_fields.length === 1)
    ? fields[names[0]]
    : JSON.stringify(fields);
}

async function ask(context) {
  const form = byId("ask-form"),
    { task } = context;
  if (!complete(form)) return;
  const fields = {};
  for (const input of form.querySelectorAll("[data-field]")) {
    if (input.value.trim() !== "") fields[input.dataset.field] = input.value;
  }
  const rag = byId("ask-rag").value;
  const request = {
    model: task.name,
    messages: [{ role: "user", content: contentOf(task, fields) }],
    ...(task.labels?.length && byId("ask-choose").checked ? { choose: true } : {}),
    ...(rag === "" ? {} : { rag: Number(rag) }),
  };
  if (now && under === JSON.stringify(request)) return; // a double click
  now?.abort();
  const control = new AbortController();
  now = control;
  under = JSON.stringify(request);
  const base = panel("Shared model", "base", "the same for all users");
  const own = panel("Your own model", "own", "made for you");
  byId("answers").replaceChildren(own.element, base.element);
  byId("answers").hidden = false;
  byId("ask-same").hidden = byId("ask-keep-row").hidden = true;
  byId("ask-stop").hidden = false;
  say("Answering.");
  const [ownAnswer, baseAnswer] = await Promise.all([
    context.mine().adapter ? answer(context, own, request, control.signal) : none(context, own),
    answer(context, base, { ...request, base_only: true }, control.signal),
  ]);
  if (now !== control) return; // a newer question
  now = null;
  if (document.activeElement === byId("ask-stop")) form.querySelector("[type=submit]").focus();
  byId("ask-stop").hidden = true;
  const answers = [
    ["Your own model", ownAnswer],
    ["Shared model", baseAnswer],
  ].filter(([, text]) => text !== null);
  say(answers.map(([who, text]) => `${who}: ${text || "empty answer"}`).join(". "));
  const same = ownAnswer !== null && ownAnswer === baseAnswer;
  byId("ask-same").textContent = same ? "Both answers are the same." : "";
  byId("ask-same").hidden = !same;
  if (ownAnswer !== null || baseAnswer !== null) {
    asked = { fields, answer: ownAnswer ?? baseAnswer };
    byId("ask-keep-row").hidden = Boolean(task.record_fields && !task.record_fields.includes(task.answer_field));
  }
}

/** The panel of the user's own model while there is none. */
async function none(context, { text, notes }) {
  text.remove();
  const { records } = context.mine();
  const next = records ? el("a", { href: "#model" }, "See what can be done") : el("a", { href: "#history" }, "Add records first");
  notes.append(el("p", {}, "You have no model of your own in this task yet. ", next));
  return null;
}

/** A place for one model's answer. */
function panel(title, kind, help) {
  const text = el("p.text", { "aria-busy": "true" });
  const notes = el("div.notes"),
    id = `answer-${kind}`;
  const element = el(
    `article.answer.${kind}`,
    { "aria-labelledby": id },
    el("h2", { id }, title, " ", el("span.help", {}, help)),
    text,
    notes,
  );
  return { element, text, notes };
}

/** Streams one answer into its panel. Resolves to its text, or null where there is none. */
async function answer(context, { element, text, notes }, request, signal) {
  const since = performance.now();
  let whole = "",
    stopped = false;
  element.classList.add("waiting");
  const fine = await attempt(notes, async () => {
    try {
      const end = await api.chat(
        request,
        (piece) => {
          element.classList.remove("waiting");
          whole += piece;
          text.append(piece);
        },
        signal,
      );
      if (!whole) text.replaceChildren(el("span.help", {}, "(an empty answer)"));
      renderNotes(context, notes, request, end, (performance.now() - since) / 1000);
    } catch (error) {
      stopped = error.name === "AbortError";
      throw error;
    }
  }, null, true);
  element.classList.remove("waiting");
  text.removeAttribute("aria-busy");
  if (stopped) notes.replaceChildren(el("p.help", {}, "Stopped."));
  return fine ? whole : null;
}

/** Shows below an answer: version, time, warnings, and the records in the prompt. */
function renderNotes(context, notes, request, { ownlm, finish }, seconds) {
  const extras = ownlm ?? {};
  const facts = [
    extras.adapter ? el("span", {}, "version ", el("code", { title: extras.adapter }, short(extras.adapter))) : null,
    el("span", {}, `${decimals(seconds, 1)} s`),
  ];
  notes.replaceChildren(el("p.help.meta", {}, facts));
  const words = warningOf(extras, request);
  if (words) notes.append(el("p.warning", {}, words, " ", el("a", { href: "#model" }, "See what can be done")));
  if (finish === "length")
    notes.append(el("p.warning", {}, "Cut off: it reached the longest answer that this task allows."));
  if (extras.retrieved?.length) notes.append(shown(context, extras.retrieved));
}

function warningOf(extras, request) {
  if (request.base_only) return "";
  if (!extras.adapter) return "Your own model cannot be used now: this is the shared model's answer.";
  return extras.warning ? "Your own model still remembers records that you have deleted." : "";
}

/** The records that the model was shown; fetched when the list is opened. */
function shown({ task }, ids) {
  const list = el("ol.shown"),
    place = el("div");
  const details = el(
    "details.more",
    {
      ontoggle: () => {
        if (!details.open || list.childElementCount) return;
        void attempt(place, async (signal) => {
          const found = await Promise.all(
            ids.map(async (id) => (await api.record(task.name, id, signal)) ?? { id, fields: {} }),
          );
          list.replaceChildren(
            ...found.map((record) =>
              el(
                "li",
                {},
                timeOf(record.time),
                " ",
                el("span.text", {}, Object.values(record.fields).join(" → ") || "(this record cannot be shown)"),
              ),
            ),
          );
        });
      },
    },
    el("summary", {}, `${many(ids.length, "record")} of yours shown to the model`),
    place,
    list,
  );
  return details;
}
