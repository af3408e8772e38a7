// The page: signing in, which task, which section.

import * as adapter from "./adapter.js";
import { api, Problem, signOut, takeNote, token } from "./api.js";
import * as ask from "./ask.js";
import { byId, el, say } from "./dom.js";
import * as history from "./history.js";
import { attempt, showProblem } from "./problem.js";
import * as you from "./you.js";

const VIEWS = { ask, history, adapter, you };
const TASK = "ownlm.task"; // the task chosen last, in this tab

/** What the sections know. `signal` ends with the task; `place` is where the section shows its problems. */
const context = {
  me: null,
  tasks: [],
  task: null,
  place: null,
  signal: null,
  mine: () => context.me.tasks.find((one) => one.task === context.task.name) ?? { records: 0, adapter: null },
  refresh: async (signal) => {
    context.me = await api.me({ signal });
  },
  keep: (asked) => {
    history.prefill(asked, context.task);
    keeping = true;
    location.hash = "#history";
  },
};
let keeping = false; // the next section has a form with the focus
let here = null; // of the section that is shown; ends as it is left
let whole = null; // of the task that is chosen

// ---- the door

function openDoor() {
  const note = takeNote();
  byId("note").textContent = note ?? "";
  byId("note").hidden = !note;
  byId("house").hidden = true;
  byId("door").hidden = false;
  byId("sign-in").onsubmit = (event) => {
    event.preventDefault();
    void signIn();
  };
  byId("token").focus();
}

async function signIn() {
  const input = byId("token"),
    place = byId("sign-in-problem"),
    text = input.value.trim();
  const button = byId("sign-in").querySelector("button");
  place.replaceChildren();
  try {
    if (!/^[\x21-\x7e]+$/.test(text))
      throw new Problem("That is no token.", "Paste the whole of it, without spaces inside.");
    button.setAttribute("aria-disabled", "true");
    const { user } = await api.me({ asked: text });
    if (!user) throw new Problem("This token is an operator's, and nobody's own.", "Sign in with a token of your own.");
  } catch (error) {
    const wrong = new Problem(
      "This token is not known.",
      "See whether you have pasted all of it. It may also have been revoked: ask for a new one.",
    );
    showProblem(place, error.status === 401 ? wrong : error);
    input.setAttribute("aria-invalid", "true");
    input.focus();
    return;
  } finally {
    button.removeAttribute("aria-disabled");
  }
  input.value = "";
  input.removeAttribute("aria-invalid");
  token.set(text);
  await openHouse();
}

// ---- the house

async function openHouse() {
  byId("door").hidden = true;
  byId("house").hidden = false;
  byId("sign-out").onclick = () => signOut("You are signed out.");
  document.querySelector(".skip").onclick = (event) => {
    event.preventDefault();
    byId("main").focus();
  };
  const place = byId("view-ask").querySelector(".problem-place");
  const fine = await attempt(
    place,
    async () => {
      const [me, { tasks }] = await Promise.all([api.me(), api.tasks()]);
      Object.assign(context, { me, tasks });
      byId("user").textContent = byId("user").title = me.user ?? me.scope;
      if (!tasks.length) throw new Problem("This server has no task yet.", "Whoever runs it has to add one.");
    },
    () => void openHouse(),
  );
  if (!fine) {
    byId("loading").hidden = true;
    byId("view-ask").hidden = false;
    byId("ask-form").hidden = true;
    return;
  }
  byId("ask-form").hidden = false;
  fillTasks();
  window.onhashchange = () => void openView(true);
  await chooseTask(byId("task").value, false);
}

/** The tasks in which the person has something come first; the one chosen last, or else the fullest, is chosen. */
function fillTasks() {
  const held = new Map(context.me.tasks.map((one) => [one.task, one.records]));
  const names = context.tasks.map((one) => one.name);
  const group = (label, some) =>
    some.length
      ? [
          el(
            "optgroup",
            { label },
            some.map((name) => el("option", { value: name }, name)),
          ),
        ]
      : [];
  const mine = names.filter((name) => held.get(name)),
    others = names.filter((name) => !held.get(name));
  byId("task").replaceChildren(
    ...group("with records of mine", mine),
    ...group(mine.length ? "others" : "tasks", others),
  );
  const last = sessionStorage.getItem(TASK);
  byId("task").value = names.includes(last)
    ? last
    : (mine.toSorted((a, b) => held.get(b) - held.get(a))[0] ?? names[0]);
  byId("task").onchange = () => {
    say(`Task ${byId("task").value}.`);
    void chooseTask(byId("task").value, false);
  };
}

async function chooseTask(name, moved) {
  whole?.abort();
  whole = new AbortController();
  context.signal = whole.signal;
  context.task = context.tasks.find((one) => one.name === name);
  sessionStorage.setItem(TASK, name);
  for (const view of Object.values(VIEWS)) view.setTask?.(context.task);
  await openView(moved);
}

async function openView(moved) {
  here?.abort();
  here = new AbortController();
  const asked = location.hash.slice(1),
    name = Object.hasOwn(VIEWS, asked) ? asked : "ask";
  byId("loading").hidden = true;
  for (const one of Object.keys(VIEWS)) byId(`view-${one}`).hidden = one !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = byId(`h-${name}`);
  document.title = `${heading.textContent} · ownlm`;
  context.place = byId(`view-${name}`).querySelector(".problem-place");
  if (keeping) history.focusAnswer(context.task);
  else if (moved) {
    window.scrollTo(0, 0);
    heading.focus({ preventScroll: true });
  }
  keeping = false;
  await VIEWS[name].show(context, AbortSignal.any([here.signal, whole.signal]));
}

if (token.get()) void openHouse();
else openDoor();
