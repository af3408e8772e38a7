// Shows problems and slow requests, with a button to try again.

import { Problem } from "./api.js";
import { el } from "./dom.js";

const OURS = { message: "Something went wrong on this page.", hint: "Load it again." };
const SLOW_MS = 5000; // time until a request is shown as slow

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
const newest = new WeakMap(); // by place: abort controller of the last attempt

function retry(again) {
  return again ? el("button", { type: "button", onclick: () => again() }, "Try again") : null;
}

/** Shows a problem at a place, with a button to try again where that is possible. */
export function showProblem(place, problem, again = null) {
  const shown = problem instanceof Problem ? problem : OURS;
  place.replaceChildren(
    el(
      "div.problem",
      { role: "alert" },
      el("p.what", {}, sentence(shown.message)),
      shown.hint ? el("p", {}, sentence(shown.hint)) : null,
      retry(again),
    ),
  );
}

/**
 * Runs `work`; shows errors and slowness at `place`. Returns whether it succeeded.
 *
 * `work` gets a signal that aborts when something newer is attempted at the same place. An abort is no problem.
 * `again` repeats it; `null` where there is nothing to repeat.
 */
export async function attempt(place, work, again = null, patient = false) {
  newest.get(place)?.abort();
  const control = new AbortController();
  newest.set(place, control);
  place.replaceChildren();
  const slow = setTimeout(() => {
    if (!patient && newest.get(place) === control)
      place.replaceChildren(
        el("div.note.slow", { role: "status" }, el("p", {}, "The server is slow to answer. Still waiting…"), retry(again)),
      );
  }, SLOW_MS);
  try {
    await work(control.signal);
    if (newest.get(place) === control) place.querySelector(".slow")?.remove();
    return newest.get(place) === control;
  } catch (error) {
    if (newest.get(place) !== control || error.status === 401) return false; // a 401 signs out
    if (error.name === "AbortError") {
      place.replaceChildren();
      return false;
    }
    if (!(error instanceof Problem)) console.error(error);
    showProblem(place, error, again);
    return false;
  } finally {
    clearTimeout(slow);
  }
}

/** Runs `work` for a button, which cannot be pressed again until it has ended. */
export async function attemptBy(button, place, work) {
  if (button.getAttribute("aria-disabled") === "true") return false;
  button.setAttribute("aria-disabled", "true"); // not `disabled`: focus stays
  try {
    return await attempt(place, work);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}
