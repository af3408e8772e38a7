// You: what the server holds of a person, consent to share, forgetting.

import { api, Problem, signOut } from "./api.js";
import { byId, complete, el, facts, many, number, say, sure, timeOf } from "./dom.js";
import { attempt, attemptBy, showProblem } from "./problem.js";

export async function show(context) {
  byId("consent-form").onsubmit = (event) => { event.preventDefault(); void agree(context, event.target); };
  byId("consent-back").onclick = () => void takeBack(context);
  byId("forget-form").onsubmit = (event) => { event.preventDefault(); void forget(context, event.target); };
  byId("forget-name").value = "";
  byId("forget-problem").replaceChildren();
  await attempt(context.place, async () => { await context.refresh(); tell(context); }, () => void show(context));
}

function tell({ me }) {
  byId("forget-who").textContent = me.user;
  const held = me.tasks.filter((task) => task.records || task.adapter);
  byId("you-facts").replaceChildren(el("div.card", {}, el("h2", {}, "What the server holds of you"), facts([
    ["Name", me.user],
    ["Token opens", me.scope === "operator" ? "what operators may" : "your data only"],
    ...held.map((task) => [task.task, `${many(task.records, "record")}, ${task.adapter ? "an adapter" : "no adapter"}`]),
    ...(held.length ? [] : [["Records", "none yet"]]),
  ])));
  tellConsent(me.consent);
}

function tellConsent(consent) {
  byId("consent-state").replaceChildren(...(consent.shares
    ? ["You agree to share", consent.since ? [" since ", timeOf(consent.since)] : [], `. Licence: ${consent.licence}.`].flat()
    : ["You do not share."]));
  byId("consent-form").hidden = consent.shares;
  byId("consent-back").hidden = !consent.shares;
  byId("consent-about").replaceChildren(...(consent.shares ? [
    el("p", {}, "Whoever runs the server may train an adapter of your records to be shared, and put pieces of it into a pool that other people's ",
      "adapters are assembled from. The pool knows you by a random id."),
    el("p", {}, "If you take it back, what was trained of you to be shared is removed, and nothing more is assembled with pieces of yours. ",
      "Pieces that already lie in a pool are out of use until the operator withdraws them; copies published elsewhere are out of reach."),
  ] : [
    el("p", {}, "If you agree, whoever runs the server may train an adapter of your records to be shared, and put pieces of it into a pool. ",
      "Other people's adapters are assembled from such pieces, and the pool may be published under the licence below."),
    el("p", {}, "A piece holds weights, not your texts, and the pool names nobody: a random id stands for you. Still, weights can give away something of ",
      "what they have learnt from. You can take your consent back; copies published before are out of reach then."),
  ]));
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
  const yes = await sure("Take your consent back?",
    "What was trained of your records to be shared is removed. Your own adapter stays as it is. You can agree again at any time.", "Take it back");
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
  const name = byId("forget-name"), place = byId("forget-problem");
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
  const left = Array.isArray(bases) ? bases : [];
  return `You are forgotten: ${told.join(", ")} removed, and your token is dead.`
    + (left.length ? ` Not reached: the weights of ${number(left.length)} adapted base${left.length === 1 ? "" : "s"} (${left.join(", ")}) that learnt from you.` : "")
    + " Copies outside the server are yours to delete.";
}
