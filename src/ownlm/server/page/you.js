// You: stored data, consent to share, deletion.

import { api, signOut } from "./api.js";
import { byId, el, facts, many, say, sure, timeOf } from "./dom.js";
import { dropDrafts } from "./drafts.js";
import { complete, invalid, refuse } from "./forms.js";
import { attempt, attemptBy } from "./problem.js";

const STILL = "Pieces of yours still lie in collections, out of use, until whoever runs the server removes them";

export async function show(context, signal) {
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
  invalid(byId("forget-name"), "");
  byId("forget-problem").replaceChildren();
  await attempt(
    context.place,
    async (newer) => {
      await context.refresh(AbortSignal.any([signal, newer]));
      render(context);
    },
    () => void show(context, signal),
  );
}

function render({ me }) {
  byId("forget-who").textContent = me.user;
  const held = me.tasks.filter((task) => task.records || task.adapter);
  byId("you-facts").replaceChildren(
    el(
      "div.card",
      {},
      el("h2", {}, "What the server stores about you"),
      facts([
        ["Name", el("bdi", {}, me.user)],
        ...held.map((task) => [
          task.task,
          `${many(task.records, "record")}, ${task.adapter ? "a model of your own" : "no model of your own"}`,
        ]),
        ...(held.length ? [] : [["Records", "none yet"]]),
      ]),
    ),
  );
  renderConsent(me.consent, held.length > 0);
}

function renderConsent(consent, something) {
  byId("consent-state").replaceChildren(
    ...(consent.shares
      ? [
          "You agree to share",
          consent.since ? [" since ", timeOf(consent.since)] : [],
          `. Licence: ${consent.licence}.`,
        ].flat()
      : ["You do not share.", something ? null : " You can agree to when you have records.", consent.pools ? ` ${STILL} (${many(consent.pools, "collection")}).` : null].filter(Boolean)),
  );
  byId("consent-asked").hidden = consent.shares;
  byId("consent-form").hidden = consent.shares || !something;
  byId("consent-given").hidden = byId("consent-back").hidden = !consent.shares;
}

async function agree(context, form) {
  if (!complete(form)) return;
  await attemptBy(form.querySelector("[type=submit]"), byId("consent-problem"), async () => {
    await put(context, { shares: true, licence: byId("licence").value.trim() });
    dropDrafts(form);
    byId("consent-back").focus();
    say("You agree to share now.");
  });
}

async function takeBack(context) {
  const yes = await sure(
    "Take your consent back?",
    "What was made from your records to be shared is removed. Your own model stays as it is. You can agree again.",
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
  renderConsent(await api.consent(body), true);
  await context.refresh();
}

async function forget(context, form) {
  const name = byId("forget-name"),
    place = byId("forget-problem");
  if (!complete(form)) return;
  if (name.value.trim() !== context.me.user) {
    refuse(name, "That is not your name. Type it just as it stands above; nothing was removed.");
    return;
  }
  const button = form.querySelector("[type=submit]");
  await attemptBy(button, place, async () => {
    button.textContent = "Forgetting…";
    try {
      signOut(forgotten(await api.forget(context.me.user)));
    } finally {
      button.textContent = "Forget me";
    }
  });
}

/** What was deleted, as a note for the sign-in page. */
function forgotten({ records = 0, profiles = 0, adapters = 0, bases = [] }) {
  const removed = [many(records, "record"), many(adapters, "model"), ...(profiles ? [many(profiles, "description")] : [])];
  return [
    `You are forgotten: ${removed.join(", ")} removed, and your access key no longer works.`,
    ...(bases.length ? [`Not deleted: the shared model ${bases.join(", ")}, which learnt from you.`] : []),
    "Copies outside the server are yours to delete.",
  ].join(" ");
}
