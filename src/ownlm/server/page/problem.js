// Where something went wrong, or takes long: what, and what to do next.

import { Problem } from "./api.js";
import { el } from "./dom.js";

const OURS = { message: "Something went wrong on this page.", hint: "Load it again." };
const SLOW_MS = 5000; // until it is said that an answer takes long

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
const newest = new WeakMap(); // by place: what was attempted last

function retry(again) {
  return again ? el("button", { type: "button", onclick: () => again() }, "Try again") : null;
}

/** Shows a problem at a place, with a button to try again if there is something to try. */
export function showProblem(place, problem, again = null) {
  const told = problem instanceof Problem ? problem : OURS;
  place.replaceChildren(
    el(
      "div.problem",
      { role: "alert" },
      el("p.what", {}, sentence(told.message)),
      told.hint ? el("p", {}, sentence(told.hint)) : null,
      retry(again),
    ),
  );
}

/**
 * Does something; shows at `place` what goes wrong, and that it takes long. Returns whether all went well.
 *
 * `work` gets a signal that ends as soon as something newer is attempted at the same place. What was stopped is no
 * problem. `again` does it once more; `null` where there is nothing to repeat.
 */
export async function attempt(place, work, again = null, patient = false) {
  newest.get(place)?.abort();
  const control = new AbortController();
  newest.set(place, control);
  place.replaceChildren();
  const slow = setTimeout(() => {
    if (!patient && newest.get(place) === control)
      place.replaceChildren(
        el("div.note.slow", { role: "status" }, el("p", {}, "The server takes long to answer. Still waiting…"), retry(again)),
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

/** The same while a button waits: it cannot be pressed twice, and says that it works. */
export async function attemptBy(button, place, work) {
  if (button.getAttribute("aria-disabled") === "true") return false;
  button.setAttribute("aria-disabled", "true"); // not `disabled`: focus stays
  try {
    return await attempt(place, work);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}
