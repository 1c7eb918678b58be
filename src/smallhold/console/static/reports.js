// What the patient sent from their own page, and the devices that may speak for them.

import { get, post } from "./api.js";
import { h, put } from "./dom.js";
import { clock, t } from "./i18n.js";

const REFRESH_MS = 5000;

const model = ({ triage }) => (triage.where === "nowhere" ? t("report.unread")
  : triage.choice === null ? t("report.unsure") : t("report.model", { choice: triage.choice, percent: Math.round(100 * triage.confidence) }));

export function showReports(main, patient, session) {
  const path = (rest) => `/api/beds/${encodeURIComponent(patient)}${rest}`;
  const may = (right) => session.rights.includes(right);
  const list = h("div", { class: "list", "aria-live": "polite" });
  const error = h("p", { class: "error", role: "alert" });
  const code = h("p", { role: "status" });
  const devices = h("div", { class: "row" });
  let timer = null, isOver = false, drawn = "";

  async function act(run) {
    try { await run(); error.textContent = ""; await refresh(); } catch (failure) { error.textContent = failure.message; }
  }
  const button = (word, run) => h("button", { type: "button", onclick: () => act(run) }, word);

  const report = (one, words) => h("div", {},
    h("p", { class: "soft" }, `${clock(one.received_ms ?? one.t_ms, true)} · ${words}`),
    one.text ? h("p", { class: "bubble" }, one.text) : null,
    one.taken_ms !== null ? h("p", { class: "soft" }, t("report.taken", { who: one.taken_by }))
      : may("acknowledge") ? button(t("report.take"), () => post(path(`/reports/${one.id}/take`), undefined)) : h("p", {}, t("report.open")));

  function draw({ intakes, reviews, has_page: hasPage, devices: count }) {
    put(list, intakes.length + reviews.length ? [
      ...intakes.map((one) => report(one, [t(`urgency.${one.urgency}`), ...one.red_flags, model(one)].join(" · "))),
      ...reviews.map((one) => report(one, t("report.review")))] : h("p", { class: "soft" }, t("nothing")));
    put(devices, hasPage && may("message") ? [h("span", { class: "soft" }, t("report.devices", { n: count })),
      button(t("report.pair"), async () => { code.textContent = t("report.code", await post(path("/pairing"), undefined)); }),
      count ? button(t("report.unpair"), async () => { await post(path("/pairing/end"), undefined); code.textContent = ""; }) : null] : null);
  }

  async function refresh() {
    clearTimeout(timer);
    try {
      const { now_ms: _, ...found } = await get(path("/reports"), { automatic: true });
      const state = JSON.stringify(found);
      if (!isOver && state !== drawn) { drawn = state; draw(found); }
    } catch { /* the head says that the console cannot be reached */ }
    if (!isOver) timer = setTimeout(refresh, REFRESH_MS);
  }
  put(main, list, error, devices, code);
  refresh();
  return () => { isOver = true; clearTimeout(timer); };
}
