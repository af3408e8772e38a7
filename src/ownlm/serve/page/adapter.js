// My adapter: what it is made of, its versions, making a new one, taking it home.

import { api } from "./api.js";
import { byId, el, facts, many, number, say, short, size, timeOf } from "./dom.js";
import { failed, watch } from "./job.js";
import { drawPieces } from "./pieces.js";
import { attempt, attemptBy, showProblem } from "./problem.js";

const DOING = { train: "Training", assemble: "Assembling" };

const LOADING = "Loading…";

let followed = null; // id of the job that is looked after

export function setTask() {
  followed = null;
  for (const id of ["standing", "adapter-facts", "pieces", "versions", "job"]) byId(id).replaceChildren();
  byId("job").hidden = true;
  byId("standing").textContent = LOADING;
}

export async function show(context, signal) {
  byId("train").onclick = (event) => void make(context, "train", event.currentTarget);
  byId("assemble").onclick = (event) => void make(context, "assemble", event.currentTarget);
  await load(context, signal);
}

async function load(context, signal) {
  await attempt(
    context.place,
    async () => {
      byId("adapter-facts").setAttribute("aria-busy", "true");
      const [told] = await Promise.all([api.adapter(context.task.name, signal), context.refresh()]);
      byId("adapter-facts").removeAttribute("aria-busy");
      tell(context, told);
      if (["queued", "running"].includes(told.job?.state)) follow(context, told.job);
      if (told.job?.state === "failed" && followed !== told.job.id) {
        byId("job").hidden = false;
        showProblem(byId("job"), failed(told.job, DOING[told.job.kind]));
      }
      await loadPieces(context, told.adapter, signal);
    },
    () => void load(context, signal),
  );
  if (context.place.childElementCount && byId("standing").textContent === LOADING) byId("standing").textContent = "";
}

function tell(context, { adapter, standing, versions }) {
  const { records } = context.mine();
  byId("standing").textContent = adapter
    ? standing
    : records
      ? "You have no adapter in this task yet: the base model answers you as it answers everybody. Make one below."
      : "You have no adapter in this task yet, and no records that one could be made of.";
  byId("adapter-facts").replaceChildren(...(adapter ? [factsOf(context, adapter)] : []));
  byId("make").querySelector("h2").textContent = adapter ? "Make it anew" : "Make one";
  byId("train-help").replaceChildren(
    "Learns from your own ",
    many(records, "record"),
    ", and from nobody else's. Takes minutes on a server without a GPU.",
  );
  if (!records) {
    byId("train-help").replaceChildren(
      "Both need records of yours: ",
      el("a", { href: "#history" }, "add some first"),
      ".",
    );
  }
  for (const id of ["train", "assemble"]) byId(id).disabled = !records;
  byId("versions").replaceChildren(...(versions.length > 1 ? [versionsOf(newestFirst(versions, adapter))] : []));
}

const methodOf = (adapter) =>
  ({ lora: "Trained on your records (LoRA)", recipe: "Assembled from pieces that others share (recipe)" })[
    adapter.method
  ] ?? adapter.method;

function factsOf(context, adapter) {
  const loss = (value) => value.toFixed(3);
  const losses =
    adapter.loss_first === null || adapter.loss_last === null
      ? null
      : `${loss(adapter.loss_first)} → ${loss(adapter.loss_last)}`;
  const download = el(
    "button",
    { type: "button", onclick: (event) => void save(context, adapter, event.currentTarget) },
    "Download",
  );
  return el(
    "div.card",
    {},
    adapter.stale
      ? el("p.warning", {}, `It cannot be used any more: ${adapter.stale}. The base answers until a new one is made.`)
      : null,
    facts([
      ["Method", methodOf(adapter)],
      ["Records it has learnt from", number(adapter.records)],
      ["Newer records it does not know", adapter.behind ? number(adapter.behind) : "none"],
      ["Training steps", adapter.steps ? number(adapter.steps) : null],
      ["Loss, first to last step", losses],
      ["Size", size(adapter.bytes)],
      ["Made", timeOf(adapter.created)],
      ["Base model", adapter.base],
      ["Id", el("code.id", {}, adapter.id)],
    ]),
    el(
      "div.row",
      {},
      download,
      el("span.help", {}, "An ordinary PEFT folder as a zip file, for ", el("code", {}, "peft"), " or vLLM."),
    ),
    el("div", { id: "download-problem" }),
  );
}

const newestFirst = (versions, newest) => (versions[0].id === newest?.id ? versions : versions.toReversed());

function versionsOf(versions) {
  return el(
    "section.card",
    { "aria-labelledby": "h-versions" },
    el("h2", { id: "h-versions" }, "Versions"),
    el("p.help", {}, "Newest first. The newest answers; none is ever overwritten."),
    el(
      "ol.versions",
      {},
      versions.map((one, index) =>
        el(
          "li",
          {},
          el("span.strong", {}, one.method === "recipe" ? "Assembled" : one.method === "lora" ? "Trained" : one.method),
          el("span", {}, many(one.records, "record")),
          el("span", {}, size(one.bytes)),
          el("span", {}, timeOf(one.created)),
          el("code", { title: one.id }, short(one.id)),
          index === 0 && !one.stale ? el("span.badge", {}, "answers now") : null,
          one.stale ? el("span.badge.bad", {}, "stale") : null,
        ),
      ),
    ),
  );
}

async function loadPieces(context, adapter, signal) {
  const place = byId("pieces");
  place.replaceChildren();
  if (adapter?.method !== "recipe" || adapter.stale) return;
  const problems = el("div");
  place.append(problems);
  await attempt(
    problems,
    async () => {
      const pieces = await api.pieces(context.task.name, signal).catch((error) => {
        if (![404, 409].includes(error.status)) throw error;
        place.replaceChildren(el("p.help", {}, error.message)); // a recipe that uses no piece, or a pool that is gone
      });
      if (pieces) place.replaceChildren(drawPieces(pieces));
    },
    () => void loadPieces(context, adapter, signal),
  );
}

async function save(context, adapter, button) {
  await attemptBy(button, byId("download-problem"), async () => {
    button.textContent = "Downloading…";
    try {
      const response = await api.download(context.task.name);
      const address = URL.createObjectURL(await response.blob());
      const safe = (text) => text.replaceAll(/[^\w.@-]+/g, "_");
      const link = el("a", {
        href: address,
        download: `${safe(context.me.user)}-${safe(context.task.name)}-${short(adapter.id)}.zip`,
        hidden: true,
      });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(address), 60000);
      say("Downloaded.");
    } finally {
      button.textContent = "Download";
    }
  });
}

async function make(context, kind, button) {
  await attemptBy(button, byId("job"), async () => {
    byId("job").hidden = false;
    follow(context, await api.make(kind, context.task.name));
  });
}

/** Shows a job until it has ended; then what came of it. */
function follow(context, job) {
  if (followed === job.id) return;
  followed = job.id;
  for (const id of ["train", "assemble"]) byId(id).setAttribute("aria-disabled", "true");
  byId("job").hidden = false;
  watch(byId("job"), job, DOING[job.kind], context.mine().adapter?.id, context.signal, async (ended) => {
    for (const id of ["train", "assemble"]) byId(id).removeAttribute("aria-disabled");
    if (ended.state === "done") await load(context, context.signal);
  });
}
