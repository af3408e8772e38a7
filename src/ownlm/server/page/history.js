// My history: search, page through, add, delete.

import { api } from "./api.js";
import { byId, el, many, number, say, sure, timeOf } from "./dom.js";
import { dropDrafts, keepDraft, restoreDrafts } from "./drafts.js";
import { complete, field, invalid } from "./forms.js";
import { parts, recordsOf } from "./lines.js";
import { attempt, attemptBy } from "./problem.js";

const A_PAGE = 20;
const LOADING = "Loading…";
const LONG = 600; // letters; of a longer text the beginning is shown first

let next = null; // where the next page begins

/** Sets the forms for a task. */
export function setTask(task) {
  const answer = task.answer_field,
    needed = requiredOf(task),
    names = fieldsOf(task);
  byId("one-fields").replaceChildren(
    ...names.map((name) =>
      field("one", name, {
        required: needed.includes(name),
        labels: name === answer ? task.labels : null,
        rows: name === answer ? 2 : 3,
      }),
    ),
  );
  byId("many-shape").textContent = names.map((name) => (needed.includes(name) ? name : `${name}?`)).join(", ");
  byId("many-text").placeholder = JSON.stringify(Object.fromEntries(names.map((name) => [name, "…"])));
  byId("many-text").value = byId("q").value = byId("one-time").value = byId("many-file").value = "";
  restoreDrafts(byId("view-history"));
  byId("add").open = [...byId("add").querySelectorAll("textarea, select")].some((input) => input.value !== "");
  if (byId("many-text").value) pick("many");
  byId("add-result").replaceChildren();
  byId("add-problem").replaceChildren();
  byId("records").replaceChildren();
  byId("history-count").textContent = LOADING;
}

/** The fields of a record: those that the server names, else those of the input and the answer. */
const fieldsOf = (task) => task.record_fields ?? [...task.input_fields, task.answer_field];
const requiredOf = (task) => fieldsOf(task).filter((name) => [...task.required, task.answer_field].includes(name));

export async function show(context, signal) {
  byId("add-one").onclick = () => pick("one");
  byId("add-many").onclick = () => pick("many");
  byId("one-form").onsubmit = (event) => {
    event.preventDefault();
    void addOne(context, event.target);
  };
  byId("many-form").onsubmit = (event) => {
    event.preventDefault();
    void addMany(context, event.target);
  };
  byId("many-file").onchange = (event) => void takeFile(event.target);
  byId("older").onclick = () => void load(context, signal, true);
  byId("search").onsubmit = (event) => {
    event.preventDefault();
    void load(context, signal);
  };
  let soon;
  byId("q").oninput = () => {
    clearTimeout(soon);
    soon = setTimeout(() => void load(context, signal), 250);
  };
  await load(context, signal);
}

function pick(kind) {
  for (const one of ["one", "many"]) {
    byId(`add-${one}`).setAttribute("aria-pressed", String(one === kind));
    byId(`${one}-form`).hidden = one !== kind;
  }
}

/** Fills the form with a question and its answer, for the user to check. */
export function prefill({ fields, answer }, task) {
  byId("add").open = true;
  pick("one");
  for (const input of byId("one-fields").querySelectorAll("[data-field]")) {
    input.value = input.dataset.field === task.answer_field ? answer : (fields[input.dataset.field] ?? "");
    keepDraft(input);
  }
}

/** Goes to the answer in the form of one record. */
export const focusAnswer = (task) => byId(`one-${task.answer_field}`)?.focus();

async function load(context, outer, older = false) {
  const q = byId("q").value.trim(),
    list = byId("records"),
    place = context.place;
  const button = byId("older");
  if (older && button.getAttribute("aria-disabled") === "true") return;
  if (older) button.setAttribute("aria-disabled", "true");
  else list.setAttribute("aria-busy", "true");
  await attempt(
    place,
    async (newer) => {
      const page = await api.history(
        { task: context.task.name, q, limit: A_PAGE, before: older ? next : null },
        AbortSignal.any([outer, newer]),
      );
      const items = page.records.map((record) => item(context, record));
      if (older) list.append(...items);
      else list.replaceChildren(...items);
      next = page.next;
      count(context, page.total, list.childElementCount, q);
      if (older) items[0]?.focus();
      button.hidden = next === null;
    },
    () => void load(context, outer, older),
  );
  button.removeAttribute("aria-disabled");
  list.removeAttribute("aria-busy");
  if (place.childElementCount && byId("history-count").textContent === LOADING) byId("history-count").textContent = "";
}

function count(context, total, shown, q) {
  const place = byId("history-count");
  if (total > 0) {
    const found = q ? `${many(total, "record")} found` : many(total, "record");
    place.textContent = shown < total ? `${found}, the newest ${number(shown)} below` : found;
  } else if (q) {
    place.textContent = "No record contains this text.";
  } else {
    place.replaceChildren(
      "No records yet: ",
      el(
        "button.link",
        {
          type: "button",
          onclick: () => {
            byId("add").open = true;
            byId("add").querySelector("[data-field]").focus();
          },
        },
        "add one",
      ),
      ". Start with a dozen; more are better.",
    );
  }
}

function item(context, record) {
  const names = [...new Set([...fieldsOf(context.task), ...Object.keys(record.fields)])];
  const rows = names
    .filter((name) => record.fields[name] !== undefined)
    .map((name) =>
      el(
        name === context.task.answer_field ? "div.said" : "div",
        {},
        el("dt", {}, name.replaceAll("_", " ")),
        el("dd.text", {}, ...clipped(record.fields[name])),
      ),
    );
  const row = el(
    "li.record",
    { tabindex: "-1", "data-id": record.id },
    el("dl", {}, rows),
    el(
      "p.foot",
      {},
      timeOf(record.time) ?? el("span", {}, "no date"),
      el("code", { title: record.id }, record.id),
      el(
        "button.quiet",
        {
          type: "button",
          "aria-label": `Delete record ${record.id}`,
          onclick: () => void remove(context, record, row),
        },
        "Delete",
      ),
    ),
  );
  return row;
}

/** A text; of a long one the beginning, with a button for the rest. */
function clipped(text) {
  if (text.length <= LONG * 1.2) return [text];
  const cut = text.slice(0, LONG).replace(/[\ud800-\udbff]$/, "");
  const rest = el("span", { hidden: true }, text.slice(cut.length)),
    dots = el("span", {}, "… ");
  const more = el(
    "button.link",
    {
      type: "button",
      "aria-expanded": "false",
      onclick: () => {
        rest.hidden = !rest.hidden;
        dots.hidden = !rest.hidden;
        more.setAttribute("aria-expanded", String(!rest.hidden));
        more.textContent = rest.hidden ? "show all" : " show less";
      },
    },
    "show all",
  );
  return [cut, rest, dots, more];
}

async function remove(context, record, row) {
  const yes = await sure(
    "Delete this record?",
    "It is removed from the server for good. A model that has learnt from it answers until a new one is made.",
    "Delete",
  );
  if (!yes) return;
  await attempt(byId("record-problem"), async () => {
    const marked = await removed(context, record);
    const after = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (after ?? byId("q")).focus();
    say("Record deleted.");
    showMarked(marked);
    await recount(context);
  });
}

/** Deletes a record, if it still exists; returns how many models had learnt from it. */
async function removed(context, record) {
  try {
    const { marked } = await api.remove(context.task.name, record.id);
    return Array.isArray(marked) ? marked.length : marked;
  } catch (error) {
    if (error.status === 404) return 0;
    throw error;
  }
}

function showMarked(marked) {
  byId("add-result").replaceChildren(
    ...(marked
      ? [
          el(
            "p.warning",
            {},
            "Your model had learnt from it. ",
            el("a", { href: "#model" }, "See what can be done"),
          ),
        ]
      : []),
  );
}

async function recount(context) {
  const q = byId("q").value.trim();
  const { total } = await api.history({ task: context.task.name, q, limit: 1 });
  count(context, total, byId("records").childElementCount, q);
  await context.refresh();
}

async function addOne(context, form) {
  if (!complete(form)) return;
  const record = {};
  for (const input of form.querySelectorAll("[data-field]")) {
    if (input.value.trim() !== "") record[input.dataset.field] = input.value;
  }
  if (byId("one-time").value) record.time = byId("one-time").value;
  await attemptBy(form.querySelector("[type=submit]"), byId("add-problem"), async () => {
    byId("add-result").replaceChildren();
    const added = await api.add(context.task.name, [record]);
    dropDrafts(form);
    form.reset();
    form.querySelector("[data-field]").focus();
    await showAdded(context, added);
  });
}

async function addMany(context, form) {
  if (!complete(form)) return;
  const text = byId("many-text");
  await attemptBy(form.querySelector("[type=submit]"), byId("add-problem"), async () => {
    const records = recordsOf(text.value, requiredOf(context.task), context.me.user),
      result = byId("add-result");
    const added = { new: 0, known: 0, forgotten: 0 };
    let sent = 0;
    for (const part of parts(records)) {
      result.textContent = `Adding: ${number(sent)} of ${many(records.length, "record")}…`;
      try {
        const answer = await api.add(context.task.name, part);
        for (const key of Object.keys(added)) added[key] += answer[key] ?? 0;
      } catch (error) {
        result.textContent = sent ? `The first ${many(sent, "record")} were added, the others were not.` : "";
        throw error;
      }
      sent += part.length;
    }
    text.value = "";
    dropDrafts(form);
    byId("many-file").value = "";
    await showAdded(context, added);
  });
}

async function showAdded(context, added) {
  const counts = [`${many(added.new, "record")} added`];
  if (added.known) counts.push(`${number(added.known)} known already`);
  if (added.forgotten) counts.push(`${number(added.forgotten)} left out, since they were deleted before`);
  byId("add-result").replaceChildren(
    el(
      "p.done",
      {},
      `${counts.join("; ")}. `,
      added.new ? el("a", { href: "#model" }, "See what can be made of them") : null,
    ),
  );
  await Promise.all([context.refresh(), load(context, context.signal)]);
}

async function takeFile(input) {
  const [file] = input.files;
  if (!file) return;
  await attempt(byId("add-problem"), async () => {
    byId("many-text").value = await file.text();
    keepDraft(byId("many-text"));
    invalid(byId("many-text"), "");
    byId("many-text").focus();
  });
}
