// You: what the server holds of a person, consent to share, forgetting.

import { api, Problem, signOut } from "./api.js";
import { byId, complete, el, facts, many, say, sure, timeOf } from "./dom.js";
import { attempt, attemptBy, showProblem } from "./problem.js";

const STILL = "Pieces of yours still lie in pools, out of use, until the operator withdraws them";

export async function show(context) {
  byId("consent-form").onsubmit = (event) => {
    event.preventDefault();
    void agree(context, event.target);
  };
  byId("consent-back").onclick = () => void takeBack(context);
  byId("forget-form").onsubmit = (event) => {
    event.preventDefault();
    void forget(context, event.target);
  };
  byId("forget-name").value = "";
  byId("forget-problem").replaceChildren();
  await attempt(
    context.place,
    async () => {
      await context.refresh();
      tell(context);
    },
    () => void show(context),
  );
}

function tell({ me }) {
  byId("forget-who").textContent = me.user;
  const held = me.tasks.filter((task) => task.records || task.adapter);
  byId("you-facts").replaceChildren(
    el(
      "div.card",
      {},
      el("h2", {}, "What the server holds of you"),
      facts([
        ["Name", me.user],
        ["Token opens", me.scope === "operator" ? "what operators may" : "your data only"],
        ...held.map((task) => [
          task.task,
          `${many(task.records, "record")}, ${task.adapter ? "an adapter" : "no adapter"}`,
        ]),
        ...(held.length ? [] : [["Records", "none yet"]]),
      ]),
    ),
  );
  tellConsent(me.consent);
}

function tellConsent(consent) {
  byId("consent-state").replaceChildren(
    ...(consent.shares
      ? [
          "You agree to share",
          consent.since ? [" since ", timeOf(consent.since)] : [],
          `. Licence: ${consent.licence}.`,
        ].flat()
      : ["You do not share.", consent.pools ? ` ${STILL} (${many(consent.pools, "pool")}).` : null].filter(Boolean)),
  );
  byId("consent-asked").hidden = byId("consent-form").hidden = consent.shares;
  byId("consent-given").hidden = byId("consent-back").hidden = !consent.shares;
}

async function agree(context, form) {
  if (!complete(form)) return;
  await attemptBy(form.querySelector("[type=submit]"), byId("consent-problem"), async () => {
    await put(context, { shares: true, licence: byId("licence").value.trim() });
    byId("consent-back").focus();
    say("You agree to share now.");
  });
}

async function takeBack(context) {
  const yes = await sure(
    "Take your consent back?",
    "What was trained of your records to be shared is removed. Your own adapter stays as it is. You can agree again.",
    "Take it back",
  );
  if (!yes) return;
  await attemptBy(byId("consent-back"), byId("consent-problem"), async () => {
    await put(context, { shares: false });
    byId("licence").focus();
    say("You do not share any more.");
  });
}

async function put(context, body) {
  tellConsent(await api.consent(body));
  await context.refresh();
}

async function forget(context, form) {
  const name = byId("forget-name"),
    place = byId("forget-problem");
  if (name.value.trim() !== context.me.user) {
    name.setAttribute("aria-invalid", "true");
    name.setAttribute("aria-describedby", "forget-problem");
    showProblem(place, new Problem("That is not your name.", "Type it just as it stands above; nothing was removed."));
    name.focus();
    return;
  }
  name.removeAttribute("aria-invalid");
  const button = form.querySelector("[type=submit]");
  await attemptBy(button, place, async () => {
    button.textContent = "Forgetting…";
    try {
      signOut(forgotten(await api.forget()));
    } finally {
      button.textContent = "Forget me";
    }
  });
}

/** What was removed, in a sentence for the door. */
function forgotten({ records = 0, profiles = 0, adapters = 0, bases = [] }) {
  const told = [many(records, "record"), many(adapters, "adapter"), ...(profiles ? [many(profiles, "profile")] : [])];
  return [
    `You are forgotten: ${told.join(", ")} removed, and your token is dead.`,
    ...(bases.length ? [`Not reached: the weights of ${bases.join(", ")}, which learnt from you.`] : []),
    "Copies outside the server are yours to delete.",
  ].join(" ");
}
