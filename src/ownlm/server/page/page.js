// The page: signing in, tasks and sections.

import * as model from "./adapter.js";
import { api, Problem, signOut, takeNote, token } from "./api.js";
import * as ask from "./ask.js";
import { byId, el, say } from "./dom.js";
import { lastTask, openDrafts, restoreDrafts, setDraftTask } from "./drafts.js";
import { focusHeading, keepFocus } from "./focus.js";
import { complete, refuse } from "./forms.js";
import * as history from "./history.js";
import { attempt, attemptBy } from "./problem.js";
import * as you from "./you.js";

const VIEWS = { ask, history, model, you };
const FORMER = { adapter: "model" }; // earlier names of sections, in bookmarks

/** State shared by the sections. `signal` ends with the task; `place` is where the section shows its problems. */
const context = {
  me: null,
  tasks: [],
  task: null,
  place: null,
  signal: null,
  fresh: false, // whether `me` has just come
  mine: () => context.me.tasks.find((one) => one.task === context.task.name) ?? { records: 0, adapter: null },
  refresh: async (signal) => {
    if (!context.fresh) context.me = await api.me({ signal });
    context.fresh = false;
  },
  keep: (asked) => {
    history.prefill(asked, context.task);
    keeping = true;
    location.hash = "#history";
  },
};
let keeping = false; // the next section focuses a form
let here = null; // abort controller of the section that is shown
let whole = null; // abort controller of the chosen task

// ---- signing in

function showSignIn() {
  const note = takeNote();
  byId("note").textContent = note ?? "";
  byId("note").hidden = !note;
  byId("sign-in").onsubmit = (event) => {
    event.preventDefault();
    void signIn(event.target);
  };
  byId("starting").hidden = true;
  byId("signed-out").hidden = false;
  byId("token").focus();
}

async function signIn(form) {
  const input = byId("token"),
    button = form.querySelector("button");
  if (button.getAttribute("aria-disabled") === "true" || !complete(form)) return;
  const text = input.value.trim();
  let answer = null;
  button.textContent = "Signing in…";
  const fine = await attemptBy(button, byId("sign-in-problem"), async (signal) => {
    if (/^[\x21-\x7e]+$/.test(text)) answer = await known(text, signal);
  });
  button.textContent = "Sign in";
  if (!fine) return;
  if (!answer?.[0].user) {
    const what = answer ? "This key is an operator's and has no page of its own." : "This access key is not known.";
    refuse(input, `${what} Check that it is complete and without spaces. It may have expired: ask for a new one.`);
    return;
  }
  input.value = "";
  token.set(text);
  await showApp(answer);
}

/** The user of a token, and the tasks; null where the token is unknown. */
async function known(text, signal) {
  try {
    return await api.meAndTasks({ asked: text, signal });
  } catch (error) {
    if (error.status === 401) return null;
    throw error;
  }
}

// ---- the app

/** Shows the app; `answer` is the user and the tasks, if they were requested already. */
async function showApp(answer = null) {
  const signedIn = answer !== null;
  byId("sign-out").onclick = () => signOut("You are signed out.");
  document.querySelector(".skip").onclick = (event) => {
    event.preventDefault();
    byId("main").focus();
  };
  byId("signed-in").hidden = false;
  byId("starting").hidden = byId("signed-out").hidden = true;
  byId("loading").hidden = false;
  byId("h-loading").textContent = "Loading…";
  if (signedIn) focusHeading();
  const place = byId("loading").querySelector(".problem-place");
  const fine = await attempt(
    place,
    async (signal) => {
      const [me, { tasks }] = answer ?? (await api.meAndTasks({ signal }));
      Object.assign(context, { me, tasks, fresh: true });
      byId("user").textContent = byId("user").title = me.user ?? me.scope;
      if (!tasks.length) throw new Problem("This server has no task yet.", "Whoever runs it has to add one.");
    },
    () => void showApp(),
  );
  if (!fine) {
    byId("h-loading").textContent = "Not loaded";
    return;
  }
  openDrafts(context.me.user);
  fillTasks();
  window.onhashchange = () => void openView(true);
  restoreDrafts(byId("view-you"));
  await chooseTask(byId("task").value, signedIn);
}

/** The tasks in which the user has something come first; the one chosen last, or else the fullest, is chosen. */
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
  const last = lastTask();
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
  const before = context.task;
  context.task = context.tasks.find((one) => one.name === name);
  setDraftTask(name);
  for (const view of Object.values(VIEWS)) view.setTask?.(context.task, before);
  await openView(moved);
}

async function openView(moved) {
  here?.abort();
  here = new AbortController();
  const fragment = location.hash.slice(1),
    asked = Object.hasOwn(FORMER, fragment) ? FORMER[fragment] : fragment,
    name = Object.hasOwn(VIEWS, asked) ? asked : "ask";
  for (const one of Object.keys(VIEWS)) byId(`view-${one}`).hidden = one !== name;
  byId("loading").hidden = true;
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
  const shown = VIEWS[name].show(context, AbortSignal.any([here.signal, whole.signal]));
  context.fresh = false;
  await shown;
}

keepFocus();
if (token.get()) void showApp();
else showSignIn();
