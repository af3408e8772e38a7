// Drafts: text in forms that was not sent yet. This tab keeps them for their user through changes of task, failures,
// reloads and new keys. Other users never see them; signing out removes them.

const DRAFT = "ownlm.draft:",
  OWNER = "ownlm.drafts-of",
  TASK = "ownlm.task"; // the task chosen last

let task = "";

const stored = () => Object.keys(sessionStorage).filter((key) => key.startsWith(DRAFT));
const keyOf = (input) => DRAFT + (input.closest("#view-you") ? "" : task) + "\n" + input.id;
const kept = (input) => input.id && !["file", "password"].includes(input.type) && input.id !== "forget-name";
const inputs = (place) => [...place.querySelectorAll("input, select, textarea")].filter(kept);

function put(key, value) {
  try {
    sessionStorage.setItem(key, value);
  } catch {
    sessionStorage.removeItem(key); // too long to be stored: it lasts as long as the page
  }
}

/** Opens the drafts of a user, and removes those of other users. */
export function openDrafts(user) {
  if (sessionStorage.getItem(OWNER) !== user) {
    for (const key of [...stored(), TASK]) sessionStorage.removeItem(key);
    sessionStorage.setItem(OWNER, user);
  }
  document.getElementById("main").addEventListener("input", ({ target }) => kept(target) && keepDraft(target));
}

/** The task that drafts belong to from now on. */
export function setDraftTask(name) {
  task = name;
  put(TASK, name);
}

export const lastTask = () => sessionStorage.getItem(TASK);

/** Keeps what is in a field now. */
export function keepDraft(input) {
  const value = input.type === "checkbox" ? String(input.checked) : input.value;
  if (value === "") sessionStorage.removeItem(keyOf(input));
  else put(keyOf(input), value);
}

/** Fills the fields at a place with what was typed into them. */
export function restoreDrafts(place) {
  for (const input of inputs(place)) {
    const value = sessionStorage.getItem(keyOf(input));
    if (value === null) continue;
    if (input.type === "checkbox") input.checked = value === "true";
    else input.value = value;
  }
}

/** Removes the drafts of the fields at a place. */
export function dropDrafts(place) {
  for (const input of inputs(place)) sessionStorage.removeItem(keyOf(input));
}

/** Removes everything of this tab but drafts and their owner; without drafts, everything. */
export function clearButDrafts() {
  const keys = stored();
  const left = keys.length ? [...keys, OWNER, TASK] : [];
  for (const key of Object.keys(sessionStorage)) if (!left.includes(key)) sessionStorage.removeItem(key);
}
