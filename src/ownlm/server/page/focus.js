// Keeps keyboard focus: when the focused element disappears, the heading of the section gets the focus.

const CAN_HAVE_IT = "a[href], button, input, select, textarea, summary, [tabindex]";

const usable = (element) => element.isConnected && element.checkVisibility() && !element.matches(":disabled");

/** The heading of the section that is shown. */
export const heading = () =>
  [...document.querySelectorAll("#main > section > h1")].find((one) => one.checkVisibility()) ??
  document.querySelector("#signed-out input");

/** Focuses the heading of the section that is shown. */
export const focusHeading = () => heading()?.focus({ preventScroll: true });

/** Starts to keep the focus. A click outside all controls gives it up. */
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
