// Elements, and the format of numbers, sizes and times. Texts of users and of the server become text nodes only.

export const byId = (id) => document.getElementById(id);

/** Makes an element: "tag.class.class", attributes, listeners ("onclick"), children. Strings become text nodes. */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  return dressed(document.createElement(tag), classes, attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  return dressed(document.createElementNS("http://www.w3.org/2000/svg", tag), classes, attributes, children);
}

function dressed(element, classes, attributes, children) {
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A list of terms and values; pairs without a value are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el(
    "dl.facts",
    {},
    shown.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))),
  );
}

let clearing;

/** Announces a text to screen readers. */
export function say(text) {
  const said = byId("said");
  clearTimeout(clearing);
  said.textContent = "";
  setTimeout(() => {
    said.textContent = text;
  }, 30); // a change that a screen reader notices, even of equal texts
  clearing = setTimeout(() => {
    said.textContent = "";
  }, 20000);
}

const NUMBER = new Intl.NumberFormat();
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });

export const number = (value) => NUMBER.format(value);

/** A number with so many decimals. */
export const decimals = (value, digits) =>
  value.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** "1 record", "2,000 records". */
export const many = (count, what, several = `${what}s`) => `${number(count)} ${count === 1 ? what : several}`;

/** 1455 -> "1.5 kB". */
export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let step = 0,
    value = bytes;
  while (value >= 999.5 && step < units.length - 1) {
    value /= 1000;
    step += 1;
  }
  return step === 0
    ? many(bytes, "byte")
    : `${value < 99.95 ? decimals(value, 1) : number(Math.round(value))} ${units[step]}`;
}

/** A date or a moment as people here write it; what is neither stays as it is. */
export function when(time) {
  if (/^\d{4}-\d\d-\d\d$/.test(time)) return DAY.format(new Date(`${time}T00:00Z`));
  if (!/^\d{4}-\d\d-\d\dT/.test(time)) return time;
  const moment = new Date(/(Z|[+-]\d\d:?\d\d)$/.test(time) ? time : `${time}Z`);
  return Number.isNaN(moment.getTime()) ? time : MOMENT.format(moment);
}

/** A moment as a <time> element. */
export const timeOf = (time) => (time ? el("time", { datetime: time }, when(time)) : null);

/** The beginning of an id, in full on demand. */
export const short = (id) => id.slice(0, 8);

/** Asks for confirmation. Resolves to whether it was given; focus returns to where it was. */
export function sure(title, text, yes) {
  const dialog = byId("sure");
  dialog.onclose?.(); // the close event of the previous question may still come
  const before = document.activeElement;
  byId("sure-title").textContent = title;
  byId("sure-text").textContent = text;
  byId("sure-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  byId("sure-no").focus();
  return new Promise((resolve) => {
    byId("sure-no").onclick = () => dialog.close("");
    byId("sure-yes").onclick = () => dialog.close("yes");
    dialog.onclose = () => {
      if (dialog.open) return;
      dialog.onclose = null;
      if (before && before.isConnected) before.focus();
      resolve(dialog.returnValue === "yes");
    };
  });
}
