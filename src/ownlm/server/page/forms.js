// Form fields, and messages about empty or invalid ones.

import { el, say } from "./dom.js";

/** A field with its label: a text, or one of the labels. */
export function field(prefix, name, { required = true, labels = null, rows = 4 } = {}) {
  const id = `${prefix}-${name}`;
  const label = el(
    "label",
    { for: id },
    name.replaceAll("_", " "),
    required ? null : el("span.help", {}, " (optional)"),
  );
  const common = { id, name, "data-field": name, required };
  const input = labels
    ? el(
        "select",
        common,
        el("option", { value: "" }, "choose…"),
        labels.map((one) => el("option", { value: one, dir: "auto" }, one)),
      )
    : el("textarea", { ...common, rows });
  return el("div.field", {}, label, input);
}

/** Shows a message beside a field, which screen readers read with it; "" removes it. */
export function invalid(input, words) {
  const id = `${input.id}-wrong`;
  document.getElementById(id)?.remove();
  const described = (input.getAttribute("aria-describedby") ?? "").split(" ").filter((one) => one && one !== id);
  if (words) {
    input.setAttribute("aria-invalid", "true");
    input.after(el("span.wrong", { id }, words));
    described.unshift(id);
    input.addEventListener("input", () => invalid(input, ""), { once: true });
  } else {
    input.removeAttribute("aria-invalid");
  }
  if (described.length) input.setAttribute("aria-describedby", described.join(" "));
  else input.removeAttribute("aria-describedby");
}

/** Shows and announces a message about a field, and focuses it. */
export function refuse(input, words) {
  invalid(input, words);
  say(words);
  input.focus();
}

const nameOf = (input) => {
  const text = (input.labels?.[0]?.firstChild?.textContent ?? input.name).trim();
  return text.charAt(0).toUpperCase() + text.slice(1);
};

function wrongWith(input) {
  if (input.validity.badInput) return `${nameOf(input)} is not complete: finish it, or empty it.`;
  if (!input.required || input.value.trim() !== "") return "";
  if (input.dataset.missing) return input.dataset.missing;
  return `${nameOf(input)} is empty: ${input.tagName === "SELECT" ? "choose something" : "write something"} here.`;
}

/** Whether all required fields are filled; else shows what is missing, and focuses the first such field. */
export function complete(form) {
  const wrong = [...form.querySelectorAll("input, select, textarea")].filter((input) => {
    const words = wrongWith(input);
    invalid(input, words);
    return words !== "";
  });
  if (wrong.length) refuse(wrong[0], wrongWith(wrong[0]));
  return wrong.length === 0;
}
