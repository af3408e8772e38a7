// My model: status, versions, training and assembly, download.

import { api } from "./api.js";
import { byId, el, facts, many, number, say, short, size, timeOf } from "./dom.js";
import { failed, watch } from "./job.js";
import { drawPieces } from "./pieces.js";
import { attempt, attemptBy, showProblem } from "./problem.js";

const DOING = { train: "Learning from your records", assemble: "Putting your model together" };
const WAYS = ["train", "assemble"];
const LOADING = "Loading…";

const followed = new Map(); // by kind: id of the job that is shown

export function setTask() {
  followed.clear();
  for (const id of ["standing", "adapter-facts", "pieces", "versions"]) byId(id).replaceChildren();
  for (const kind of WAYS) {
    jobPlace(kind).replaceChildren();
    jobPlace(kind).hidden = true;
  }
  byId("make").hidden = true;
  byId("standing").textContent = LOADING;
}

const jobPlace = (kind) => byId(`job-${kind}`);

export async function show(context, signal) {
  for (const kind of WAYS) byId(kind).onclick = (event) => void make(context, kind, event.currentTarget);
  await load(context, signal);
}

async function load(context, outer) {
  await attempt(
    context.place,
    async (newer) => {
      const signal = AbortSignal.any([outer, newer]),
        known = context.mine().adapter;
      const pieces = !followed.size && madeOfPieces(known) ? api.pieces(context.task.name, signal) : null;
      pieces?.catch(() => {}); // looked at below
      const [details] = await Promise.all([api.adapter(context.task.name, signal), context.refresh(signal)]);
      render(context, details);
      for (const job of details.open_jobs) follow(context, job);
      if (failedSince(details) && followed.get(details.job.kind) !== details.job.id) {
        jobPlace(details.job.kind).hidden = false;
        showProblem(jobPlace(details.job.kind), failed(details.job, DOING[details.job.kind]));
      }
      await showPieces(context, details.adapter, signal, known?.id === details.adapter?.id ? pieces : null);
    },
    () => void load(context, outer),
  );
  if (context.place.childElementCount && byId("standing").textContent === LOADING) byId("standing").textContent = "";
}

const madeOfPieces = (adapter) => adapter?.method === "recipe" && !adapter.stale;
const failedSince = ({ job, adapter }) => job?.state === "failed" && !(adapter && adapter.created > job.ended);

function render(context, { adapter, worth, versions, not_offered: reasons }) {
  byId("standing").textContent = (adapter ? [...lacks(adapter), worthOf(worth, adapter)] : [none(context)]).join(" ");
  byId("adapter-facts").replaceChildren(...(adapter ? [factsOf(context, adapter)] : []));
  byId("make").hidden = false;
  byId("make").querySelector("h2").textContent = adapter ? "Make a new one" : "Make one";
  for (const kind of WAYS) {
    byId(kind).disabled = Boolean(reasons[kind]);
    byId(`${kind}-help`).replaceChildren(...helpOf(kind, reasons[kind], context.mine().records));
  }
  byId("versions").replaceChildren(...(versions.length > 1 ? [versionsOf(newestFirst(versions, adapter))] : []));
}

const none = (context) =>
  context.mine().records
    ? "You have no model of your own in this task yet: the shared model answers you as it answers all users."
    : "You have no model of your own in this task yet, and no records that one could be made from.";

/** What a model does not know, in sentences; or that it is up to date. */
function lacks({ stale, waits, forgotten, behind }) {
  if (stale) return ["Shared pieces in it are no longer available: the shared model answers until you make a new one."];
  if (waits) return ["Shared pieces in it are being withdrawn: until that is done, the shared model answers."];
  const words = [];
  if (forgotten) words.push(`It still remembers ${many(forgotten, "record")} that you deleted; a new one will not.`);
  if (behind) words.push(`It does not know ${many(behind, "newer record")}.`);
  return words.length ? words : ["It is up to date with your records."];
}

/** How good a model is, as the server has measured it. */
function worthOf({ verdict, records }, adapter) {
  const tried = `Tried on ${records === 1 ? "a record" : `${number(records ?? 0)} records`} that it did not know yet, it did`;
  switch (verdict) {
    case "better":
      return `${tried} better than the shared model.`;
    case "worse":
      return `${tried} worse than the shared model: compare both under Ask.`;
    case "unclear":
      return `${tried} neither clearly better nor clearly worse than the shared model.`;
    case "little":
      return "It has changed very little in learning, and may answer much as the shared model does.";
    default:
      return adapter.stale ? "" : "How good it is has not been measured: compare both under Ask.";
  }
}

/** What a button does, or why it does nothing now. */
function helpOf(kind, reason, records) {
  switch (reason) {
    case "no_records":
      return kind === "train"
        ? ["It needs records of yours: ", el("a", { href: "#history" }, "add some first"), "."]
        : ["It needs records of yours, too."];
    case "at_work":
      return [kind === "train" ? "The server is learning from your records." : "The server is putting your model together."];
    case "no_base":
      return ["This server has no base model yet. Whoever runs it has to add one."];
    case "no_pieces":
      return ["There are no shared pieces in this task yet."];
    case "waits":
      return ["Some shared pieces are being withdrawn. You can assemble again when that is done."];
    case "up_to_date":
      return [
        kind === "train"
          ? "Your model has learnt from all your records: there is nothing new."
          : "Your model is put together from the newest pieces to fit all your records: there is nothing new.",
      ];
    default:
      return [
        kind === "train"
          ? `Learns from your own ${many(records, "record")}. It takes minutes, with many records or a slow server longer.`
          : "Chooses, to fit your records, among pieces that other people agreed to share. It takes less time than learning.",
      ];
  }
}

const HOW = { lora: "Learnt from your records", recipe: "Put together from shared pieces" };
const howMade = (adapter) => HOW[adapter.method] ?? "Learnt from your records in another way";

function factsOf(context, adapter) {
  const download = el(
    "button",
    { type: "button", onclick: (event) => void save(context, adapter, event.currentTarget) },
    "Download",
  );
  return el(
    "div.card",
    {},
    facts([
      ["How it was made", howMade(adapter)],
      ["Made from", many(adapter.records, "record")],
      ["Newer records it does not know", adapter.behind ? number(adapter.behind) : "none"],
      ["Made", timeOf(adapter.created)],
      ["Size", size(adapter.bytes)],
      ["Version", el("code.id", { title: adapter.id }, short(adapter.id))],
    ]),
    adapter.stale
      ? null
      : el(
          "div.row",
          {},
          download,
          el("span.help", {}, "A zip file. It works in other programs together with the server's shared model."),
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
    el("p.help", {}, "Newest first. The newest is the one in use; none is ever overwritten."),
    el(
      "ol.versions",
      {},
      versions.map((one, index) =>
        el(
          "li",
          {},
          el("span.strong", {}, howMade(one)),
          el("span", {}, many(one.records, "record")),
          el("span", {}, size(one.bytes)),
          el("span", {}, timeOf(one.created)),
          el("code", { title: one.id }, short(one.id)),
          index === 0 && !one.stale && !one.waits ? el("span.badge", {}, "answers now") : null,
          one.stale ? el("span.badge.bad", {}, "cannot be used") : null,
        ),
      ),
    ),
  );
}

async function showPieces(context, adapter, signal, asked) {
  const place = byId("pieces");
  place.replaceChildren();
  if (!madeOfPieces(adapter)) return;
  const problems = el("div");
  place.append(problems);
  await attempt(
    problems,
    async (newer) => {
      const ending = AbortSignal.any([signal, newer]);
      const pieces = await (asked ?? api.pieces(context.task.name, ending)).catch((error) => {
        if (![404, 409].includes(error.status)) throw error;
        place.replaceChildren(el("p.help", {}, "Its pieces cannot be shown now."));
      });
      if (pieces) place.replaceChildren(drawPieces(pieces));
    },
    () => void showPieces(context, adapter, signal, null),
  );
}

async function save(context, adapter, button) {
  await attemptBy(button, byId("download-problem"), async () => {
    button.textContent = "Downloading…";
    try {
      const response = await api.download(context.task.name);
      const address = URL.createObjectURL(await response.blob());
      const safe = (text) => text.replaceAll(/[^\p{L}\p{M}\p{N}.@-]+/gu, "_");
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
  jobPlace(kind).hidden = false;
  await attemptBy(button, jobPlace(kind), async () => {
    const job = await api.make(kind, context.task.name);
    byId(kind).disabled = true;
    byId(`${kind}-help`).replaceChildren(...helpOf(kind, "at_work", context.mine().records));
    follow(context, job);
  });
}

/** Shows a job until it has ended, then its result. */
function follow(context, job) {
  if (followed.get(job.kind) === job.id) return;
  followed.set(job.kind, job.id);
  const place = jobPlace(job.kind);
  place.hidden = false;
  watch(place, job, DOING[job.kind], context.mine().adapter?.id, context.signal, () =>
    load(context, context.signal),
  );
}
