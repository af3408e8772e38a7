// Keyboard focus never falls to nothing: where the focused element goes, the heading of what is shown takes over.

const CAN_HAVE_IT = "a[href], button, input, select, textarea, summary, [tabindex]";

const usable = (element) => element.isConnected && element.checkVisibility() && !element.matches(":disabled");

/** What is read first of what is shown. */
export const heading = () =>
  [...document.querySelectorAll("#main > section > h1")].find((one) => one.checkVisibility()) ??
  document.querySelector("#door input");

/** Goes to the heading of what is shown. */
export const focusHeading = () => heading()?.focus({ preventScroll: true });

/** From now on, focus is looked after. Who clicks beside every control gives it up. */
export function keepFocus() {
  let last = null;
  document.addEventListener("focusin", (event) => {
    last = event.target;
  });
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(CAN_HAVE_IT)) last = null;
  });
  const watch = new MutationObserver(() => {
    const now = document.activeElement;
    if (last === null || usable(last) || (now !== document.body && now !== last)) return;
    last = null;
    focusHeading();
  });
  watch.observe(document.body, {
    subtree: true,
    childList: true,
    attributes: true,
    attributeFilter: ["hidden", "disabled", "open"],
  });
}
