// A patient's medication: what is due, what was given, what is prescribed.

import { bedPath, get, post } from "./api.js";
import { ask, h, put } from "./dom.js";
import { clock, t, word } from "./i18n.js";

const OPEN = ["due", "overdue", "missed"];
const UNITS = ["mg", "g", "ug", "mL", "mmol", "U", "mU"];
const ROUTES = ["oral", "iv", "im", "sc", "inhaled", "rectal", "topical"];

export function showMedication(main, patient, session) {
  const may = (right) => session.rights.includes(right);
  const body = h("div", {});
  const error = h("p", { class: "error", role: "alert" });
  put(main, error, body);
  let timer = null, isOver = false, drawn = "";

  async function act(path, values) { const made = await post(bedPath(patient, path), values); await refresh(); return made; }

  async function refresh() {
    clearTimeout(timer);
    try {
      const shown = await get(bedPath(patient, "/medication"), { automatic: true });
      const state = JSON.stringify({ ...shown, now_ms: 0 });
      if (!isOver && state !== drawn) { drawn = state; put(body, draw(shown)); }
    } catch { /* the head says that the console cannot be reached */ }
    if (!isOver) timer = setTimeout(refresh, 5000);
  }

  function draw(shown) {
    const plan = shown.plan.filter((item) => OPEN.includes(item.state)).concat(shown.plan.filter((item) => item.state === "upcoming").slice(0, 3));
    const done = shown.plan.filter((item) => ["given", "held", "refused"].includes(item.state)).slice(-6).reverse();
    const asNeeded = shown.prescriptions.filter((item) => item.kind !== "scheduled");
    return [
      shown.drafts.length ? h("ul", { class: "list" }, shown.drafts.map((item) => h("li", { class: "row apart" }, h("span", {}, `${t("med.draft")}: ${item.text} · ${item.by}`),
        may("prescribe") && item.by !== session.name ? h("button", { class: "main", "data-key": `sign ${item.id}`, onclick: () => tryAct(`/drafts/${encodeURIComponent(item.id)}/sign`) }, t("med.sign")) : null))) : null,
      h("h3", {}, t("med.plan")),
      plan.length || asNeeded.length ? h("ul", { class: "list", id: "plan" }, plan.map(slot), asNeeded.map(needed)) : h("p", { class: "soft" }, t("med.none")),
      done.length ? h("details", { open: true }, h("summary", {}, t("med.done")), h("ul", { class: "list" }, done.map((item) => h("li", {}, `${item.drug} ${item.dose} · ${clock(item.due_ms, true)} · ${word("slot", item.state)} · ${item.actor} ${item.reason}`)))) : null,
      shown.prescriptions.length ? h("details", {}, h("summary", {}, t("med.standing", { n: shown.prescriptions.length })), h("ul", { class: "list" }, shown.prescriptions.map((item) => h("li", { class: "row apart" },
        h("span", {}, `${item.drug} ${item.dose} ${item.unit}, ${word("route", item.route)}, ${word("kind", item.kind)} · ${item.prescribers.join(", ")}`),
        may("prescribe") ? h("button", { class: "grave", "data-key": `stop ${item.id}`, onclick: () => stop(item) }, t("med.stop")) : null)))) : null,
      may("prescribe") ? h("button", { "data-key": "prescribe", id: "prescribe", onclick: prescribe }, t("med.prescribe")) : null];
  }

  const slot = (item) => h("li", {}, h("div", { class: "row apart" },
    h("span", {}, h("strong", {}, `${item.drug} ${item.dose}`), ` ${word("route", item.route)} · ${clock(item.due_ms, true)} · `, h("span", { class: item.state === "upcoming" ? "soft" : "chip medium" }, word("slot", item.state))),
    may("give") && item.state !== "upcoming" ? h("span", { class: "row" },
      item.state === "missed" ? null : h("button", { class: "main", "data-key": `give ${item.prescription} ${item.due_ms}`, onclick: () => give(item.prescription, `${item.drug} ${item.dose}`, item.due_ms) }, t("med.give")),
      h("button", { "data-key": `hold ${item.prescription} ${item.due_ms}`, onclick: () => settle(item, "held") }, t("med.hold")),
      h("button", { "data-key": `refuse ${item.prescription} ${item.due_ms}`, onclick: () => settle(item, "refused") }, t("med.refused"))) : null));

  const needed = (item) => h("li", { class: "row apart" }, h("span", {}, h("strong", {}, `${item.drug} ${item.dose} ${item.unit}`), ` ${word("route", item.route)} · ${word("kind", item.kind)}`),
    may("give") ? h("button", { class: "main", "data-key": `give ${item.id}`, onclick: () => give(item.id, `${item.drug} ${item.dose} ${item.unit}`, null) }, t("med.give")) : null);

  const give = (prescription, what, slotMs) => ask({ title: t("med.confirm"), text: what, confirm: t("med.given"), cancel: t("cancel"),
    fields: [
      { name: "reason", label: t("med.remark"), most: 500 },
      { name: "witness", label: t("med.witness"), hint: t("med.witnesshint"), most: 64 },
      { name: "password", label: t("med.witnesspassword"), type: "password", most: 256, autocomplete: "new-password" }],
    send: ({ reason, witness, password }) => act("/doses", { prescription, slot_ms: slotMs, reason, witness: witness ? { name: witness, password } : null }) });

  const settle = (item, state) => ask({ title: `${item.drug} ${item.dose}: ${word("slot", state)}`, confirm: t("save"), cancel: t("cancel"),
    fields: [{ name: "reason", label: t("reason"), required: true, most: 500 }],
    send: ({ reason }) => act("/doses/settle", { prescription: item.prescription, slot_ms: item.due_ms, state, reason }) });

  const stop = (item) => ask({ title: t("med.stop"), text: `${item.drug} ${item.dose} ${item.unit}`, confirm: t("med.stop"), cancel: t("cancel"), grave: true,
    fields: [{ name: "reason", label: t("reason"), required: true, most: 500 }],
    send: ({ reason }) => act(`/prescriptions/${encodeURIComponent(item.id)}/stop`, { reason }) });

  async function prescribe() {
    let cautions = [];
    await ask({ title: t("med.prescribe"), confirm: t("med.prescribe"), cancel: t("cancel"),
      fields: [
        { name: "drug", label: t("med.drug"), required: true, most: 64 },
        { name: "dose", label: t("med.dose"), type: "number", min: 1, required: true },
        { name: "unit", label: t("med.unit"), options: UNITS.map((unit) => [unit, unit]) },
        { name: "route", label: t("med.route"), options: ROUTES.map((route) => [route, word("route", route)]) },
        { name: "kind", label: t("med.kind"), options: ["scheduled", "as_needed", "emergency"].map((kind) => [kind, word("kind", kind)]) },
        { name: "every", label: t("med.every"), type: "number", min: 1, max: 168, hint: t("med.everyhint"), value: 6 },
        { name: "daily", label: t("med.daily"), type: "number", min: 1 }],
      send: async (values) => {
        const kind = values.kind, hoursBetween = values.every ? Math.round(Number(values.every) * 60) : null;
        const made = await act("/prescriptions", { drug: values.drug, dose: Number(values.dose), unit: values.unit, route: values.route, kind,
          every_minutes: kind === "scheduled" ? hoursBetween : null, min_interval_minutes: kind === "as_needed" ? hoursBetween ?? 0 : 0,
          max_daily_dose: values.daily ? Number(values.daily) : null });
        cautions = made.cautions;
      } });
    error.textContent = cautions.join("; ");
  }

  async function tryAct(path, values) { try { await act(path, values); error.textContent = ""; } catch (failure) { error.textContent = failure.message; } }

  refresh();
  return () => { isOver = true; clearTimeout(timer); };
}
