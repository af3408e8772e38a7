// Where something went wrong: what, and what to do next.

import { Problem } from "./api.js";
import { el } from "./dom.js";

const OURS = { message: "Something went wrong on this page.", hint: "Load it again." };

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

/** Shows a problem at a place, with a button to try again if there is something to try. */
export function showProblem(place, problem, again = null) {
  const told = problem instanceof Problem ? problem : OURS;
  place.replaceChildren(
    el(
      "div.problem",
      { role: "alert" },
      el("p.what", {}, told.message),
      told.hint ? el("p", {}, sentence(told.hint)) : null,
      again
        ? el(
            "button",
            {
              type: "button",
              onclick: () => {
                place.replaceChildren();
                again();
              },
            },
            "Try again",
          )
        : null,
    ),
  );
}

/** Does something; shows at `place` what goes wrong. Returns whether all went well. What was stopped is no problem. */
export async function attempt(place, work, again = null) {
  place.replaceChildren();
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name === "AbortError" || error.status === 401) return false; // a 401 signs out
    if (!(error instanceof Problem)) console.error(error);
    showProblem(place, error, again);
    return false;
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
