// Progress and result of a job on the server.

import { api, forPrograms, Problem } from "./api.js";
import { el, number, say } from "./dom.js";
import { attemptBy, showProblem } from "./problem.js";

const SOON_MS = 700; // time between two requests, at first
const LATE_MS = 3000; // and at most
const STAGES = [
  [/^trial/, "a copy is tested on records that it has not seen"],
  [/^assembling/, "choosing pieces"],
  [/^adapting/, "fitting them to your records"],
];
const PATIENCE = 20; // requests that may fail in a row before an error is shown

const sleep = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });

/**
 * Shows a job at a place until it has ended; then calls `ended` with it.
 *
 * `before` is the id of the current version of the model.
 */
export async function watch(place, job, doing, before, signal, ended) {
  const { element, tell } = bar(job, doing);
  place.replaceChildren(element);
  say(`${doing} has begun.`);
  let failures = 0;
  let wait = SOON_MS;
  while (!signal.aborted) {
    if (failures === 0) tell(job);
    if (!["queued", "running"].includes(job.state)) break;
    await sleep(wait, signal);
    wait = Math.min(1.05 * wait, LATE_MS);
    try {
      job = await api.job(job.id, signal);
      failures = 0;
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      failures += 1;
      if (error.status === 404 || failures > PATIENCE) {
        showProblem(place, error, () => void watch(place, job, doing, before, signal, ended));
        return;
      }
      await sleep(1000 * (error.wait || Math.min(failures, 5)), signal);
    }
  }
  if (signal.aborted) return;
  if (job.state === "failed") {
    showProblem(place, failed(job, doing));
  } else if (job.state === "cancelled") {
    place.replaceChildren(el("p", {}, `${doing} was cancelled.`));
    say(`${doing} was cancelled.`);
  } else {
    const same = before !== undefined && job.adapter === before;
    const come = same ? "there was nothing new, and your model stays as it was" : "your new model answers from now on";
    const text = `${doing} is done: ${come}.`;
    place.replaceChildren(el("p.done", {}, text));
    say(text);
  }
  await ended(job);
}

/** A progress bar. Screen readers hear the stages, not the steps. */
function bar(job, doing) {
  const problems = el("div");
  const cancel = el(
    "button",
    {
      type: "button",
      onclick: async () => {
        if (await attemptBy(cancel, problems, () => api.cancel(job.id))) cancel.textContent = "Cancelling…";
      },
    },
    "Cancel",
  );
  const stage = el("span", {}),
    much = el("span.help", {}),
    progress = el("progress", { max: 1, "aria-label": doing });
  const element = el(
    "div.progress",
    {},
    el("p.stage", {}, stage, " ", much),
    progress,
    el("div.row", {}, cancel, el("span.help", {}, "You may leave this page; the server goes on.")),
    problems,
  );
  let before = "";
  const tell = (job) => {
    const { stage: known = "", done = 0, total = 0 } = job.progress ?? {};
    const name = STAGES.find(([begin]) => begin.test(known))?.[1];
    const text = job.state === "queued" ? "Waiting for its turn" : `${doing}${name ? `: ${name}` : ""}`;
    stage.textContent = text;
    if (job.state === "running" && total > 0) {
      progress.value = Math.min(done / total, 1);
      much.textContent = `${number(Math.round(done))} of ${number(Math.round(total))}`;
    } else {
      progress.removeAttribute("value");
      much.textContent = "";
    }
    if (text !== before) say(text);
    before = text;
  };
  return { element, tell };
}

/** The problem of a job that failed. */
export function failed(job, doing) {
  const { what = "", hint = "" } = job.error ?? {};
  return new Problem(`${doing} failed. ${what}`.trim(), hint && !forPrograms(hint) ? hint : "Try again.");
}
