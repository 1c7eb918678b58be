// One patient: what stands, what the model saw and proposed, what people do about it.

import { bedPath, get, post } from "./api.js";
import { chart } from "./chart.js";
import { ask, h, put } from "./dom.js";
import { age, clock, number, t, word } from "./i18n.js";
import * as live from "./live.js";
import { showMedication } from "./medication.js";
import { showReports } from "./reports.js";
import { chip, lamp, riskText, vitals } from "./ward.js";

const REFRESH_MS = 3000;
const FIRST = ["HR", "SysABP", "NISysABP", "RespRate", "SaO2", "Temp", "GCS", "MAP", "Urine"];
const DIGITS = { Temp: 1, pH: 2, K: 1, Lactate: 1, Creatinine: 1 };
let hours = 12;

export function showBed(main, patient, session) {
  const may = (right) => session.rights.includes(right);
  const title = h("h1", {}, patient);
  const parts = Object.fromEntries(["error", "now", "alerts", "asks", "proposals", "charts", "history", "clauses"].map((name) => [name, h("div", { id: `bed-${name}` })]));
  parts.error.setAttribute("role", "alert");
  parts.error.className = "error";
  const medicationPart = h("div", {});
  const messagePart = h("div", {});
  const reportPart = h("div", {});
  const range = h("select", { "aria-label": t("bed.range"), "data-key": "range" }, [1, 4, 12, 24, 48].map((n) => h("option", { value: n }, t("bed.hours", { n }))));
  range.value = String(hours);
  range.addEventListener("change", () => { hours = Number(range.value); refresh(true); });
  const section = (name, heading, ...content) => h("section", { class: "card", "aria-labelledby": `h-${name}` }, h("h2", { id: `h-${name}` }, heading), content);
  put(main, h("p", {}, h("a", { href: "#/ward" }, `← ${t("nav.ward")}`)), h("div", { class: "row" }, title), parts.error,
    h("div", { class: "split" },
      h("div", {},
        section("now", t("bed.now"), parts.now, parts.alerts),
        section("proposals", t("bed.proposals"), parts.asks, parts.proposals),
        h("section", { class: "card", "aria-labelledby": "h-charts" }, h("div", { class: "row apart" }, h("h2", { id: "h-charts" }, t("bed.charts")), range), parts.charts)),
      h("div", {},
        section("reports", t("bed.reports"), reportPart),
        section("medication", t("bed.medication"), medicationPart),
        section("messages", t("bed.messages"), messagePart),
        section("history", t("bed.history"), parts.history),
        section("clauses", t("bed.clauses"), parts.clauses))));
  let page = null, timer = null, isOver = false, chosen = null, drawn = {};

  async function act(path, body) { await post(bedPath(patient, path), body); await refresh(true); }
  async function tryAct(path, body) { try { await act(path, body); parts.error.textContent = ""; } catch (error) { parts.error.textContent = error.message; } }

  async function refresh(isByHand = false) {
    clearTimeout(timer);
    try {
      page = await get(bedPath(patient, `?hours=${hours}`), { automatic: !isByHand });
      if (isOver) return;
      parts.error.textContent = "";
      draw();
    } catch (error) {
      if (isOver) return;
      if (error.status !== 401) parts.error.textContent = error.message;
    }
    clearTimeout(timer);
    timer = setTimeout(refresh, REFRESH_MS);
  }

  // A part is drawn again only when it says something else, so that nothing moves under a reader or a pointer.
  function part(name, value, make) {
    const text = JSON.stringify(value);
    if (drawn[name] === text) return;
    drawn[name] = text;
    put(parts[name], make());
  }

  function draw() {
    const bed = page.bed;
    part("now", [bed.vitals, bed.score, bed.risk, bed.model, bed.is_degraded, page.model_error], () => now(bed));
    part("alerts", [bed.alerts, bed.off], () => alerts(bed));
    part("asks", page.asks, asks);
    part("proposals", [page.proposals, chosen], proposals);
    part("charts", [page.series, page.scores, page.risks, chosen, hours, Math.floor(page.now_ms / 60000)], charts);
    part("history", page.happenings, history);
    part("clauses", page.clauses, clauses);
  }

  function now(bed) {
    const parts = bed.score ? Object.entries(bed.score.parts).filter(([, points]) => points > 0).map(([name, points]) => `${word("part", name)} +${points}`) : [];
    return [vitals(bed), h("dl", { class: "facts" },
      h("dt", {}, "NEWS2"), h("dd", {}, bed.score ? `${bed.score.total} (${word("band", bed.score.band)})${parts.length ? `: ${parts.join(", ")}` : ""}` : "–",
        bed.score?.missing.length ? h("span", { class: "soft" }, ` ${t("bed.missing")}: ${bed.score.missing.map((name) => word("part", name)).join(", ")}`) : null),
      h("dt", {}, t("risk")), h("dd", {}, riskText(bed), bed.risk ? ` · ${t("threshold")} ${number(bed.risk.threshold * 100)} %` : "",
        bed.is_degraded ? h("strong", {}, ` ${t("degraded")}`) : null, page.model_error ? h("span", { class: "soft" }, ` ${page.model_error}`) : null))];
  }

  function alerts(bed) {
    const off = bed.off.map((item) => h("li", { class: "row apart" },
      h("span", {}, `${word("off", item.state)}${item.condition ? `: ${item.condition}` : ""} · ${item.actor}${item.until_ms ? ` · ${t("until")} ${clock(item.until_ms)}` : ""}`),
      may("acknowledge") ? h("button", { "data-key": `on ${item.state} ${item.condition}`, onclick: () => tryAct("/inactivations/end", { state: item.state, condition: item.condition }) }, t("sound.again")) : null));
    const items = bed.alerts.map((alert) => h("li", {},
      h("div", { class: "row" }, chip(alert), h("span", { class: "soft" }, `${word("source", alert.source)} · ${clock(alert.t_ms)}${alert.is_degraded ? ` · ${t("degraded")}` : ""}`)),
      h("p", {}, alert.message),
      may("acknowledge") ? h("div", { class: "row" },
        alert.state === "acknowledged" ? null : h("button", { class: "main", "data-key": `ack ${alert.id}`, onclick: () => tryAct("/acknowledge", { condition: alert.condition }) }, t("acknowledge")),
        alert.is_audible ? h("button", { "data-key": `pause ${alert.id}`, onclick: () => tryAct("/inactivations", { state: "audio paused", condition: alert.condition, seconds: 120 }) }, t("pause")) : null) : null));
    return [h("ul", { class: "list", id: "alerts" }, items, off), items.length ? null : h("p", { class: "soft" }, t("bed.noalerts"))];
  }

  function asks() {
    const open = page.asks.filter((item) => item.answer === null);
    return h("ul", { class: "list" }, open.map((item) => h("li", {}, h("strong", {}, `${t("ask.waits", { n: item.confirmations })} `), item.question,
      item.agreed.length ? h("p", { class: "soft" }, `${t("ask.agreed")}: ${item.agreed.join(", ")}`) : null,
      may("override") ? h("div", { class: "row" },
        h("button", { class: "main", "data-key": `yes ${item.id}`, onclick: () => tryAct(`/asks/${encodeURIComponent(item.id)}`, { answer: "agree" }) }, t("ask.agree")),
        h("button", { "data-key": `no ${item.id}`, onclick: () => tryAct(`/asks/${encodeURIComponent(item.id)}`, { answer: "refuse" }) }, t("ask.refuse"))) : null)));
  }

  function proposals() {
    if (!page.proposals.length) return h("p", { class: "soft" }, t("bed.noproposals"));
    const [first, rest] = [page.proposals.slice(0, 4), page.proposals.slice(4)];
    return [h("ul", { class: "list", id: "proposals" }, first.map(proposal)),
      rest.length ? h("details", {}, h("summary", {}, t("bed.earlier", { n: rest.length })), h("ul", { class: "list" }, rest.map(proposal))) : null];
  }

  function proposal(item) {
    const largest = Math.max(...item.evidence.map((one) => Math.abs(one.effect)), 1e-9);
    const path = `/proposals/${encodeURIComponent(item.id)}`;
    const open = item.answer === null && may("acknowledge");
    return h("li", {},
      h("div", { class: "row" }, h("span", { class: `chip ${item.priority}` }, t(`priority.${item.priority}`)),
        h("span", { class: "soft" }, `${word("source", item.source)} · ${item.action} · ${word("effect", item.effect)} · ${clock(item.t_ms)}`),
        item.has_abstained ? h("span", { class: "mark" }, t("abstains")) : null, item.is_degraded ? h("span", { class: "mark bad" }, t("degraded")) : null),
      h("p", {}, item.rationale),
      item.evidence.length ? h("div", {}, h("h3", {}, t("evidence")), h("ul", { class: "effects" }, item.evidence.map((one) => h("li", {}, h("span", {}, one.text),
        h("meter", { min: 0, max: largest, value: Math.abs(one.effect), "aria-label": `${one.text}: ${number(one.effect, 2)}` }), h("span", {}, `${one.effect >= 0 ? "+" : ""}${number(one.effect, 2)}`)))),
        h("p", { class: "soft" }, t("evidence.unit")),
        h("button", { "data-key": `show ${item.id}`, "aria-pressed": chosen === item.id ? "true" : "false",
          onclick: () => { chosen = chosen === item.id ? null : item.id; draw(); } }, t("evidence.show"))) : null,
      item.card ? h("details", {}, h("summary", {}, t("bed.saw")), h("pre", {}, item.card)) : null,
      item.clauses.length ? h("details", {}, h("summary", {}, t("bed.because", { n: item.clauses.length })), h("p", { class: "soft" }, item.clauses.join(", ")),
        item.obligations.length ? h("p", { class: "soft" }, `${t("obligations")}: ${item.obligations.join(", ")}`) : null) : null,
      item.answer ? h("p", { class: "soft" }, `${word("answer", item.answer)}: ${item.actor}`) : null,
      open ? h("div", { class: "row" },
        h("button", { class: "main", "data-key": `accept ${item.id}`, onclick: () => tryAct(path, { response: "accept" }) }, t("accept")),
        may("override") ? h("button", { class: "grave", "data-key": `override ${item.id}`, onclick: () => ask({ title: t("override"), text: item.rationale, confirm: t("override"), cancel: t("cancel"), grave: true,
          fields: [{ name: "reason", label: t("reason"), required: true, most: 500 }], send: ({ reason }) => act(path, { response: "override", reason }) }) }, t("override")) : null,
        h("button", { "data-key": `snooze ${item.id}`, onclick: () => tryAct(path, { response: "snooze" }) }, t("snooze"))) : null);
  }

  function charts() {
    const to = page.now_ms;
    const times = page.series.flatMap((series) => series.points.slice(0, 1).map((point) => point[0]));
    const from = Math.max(to - hours * 3600000, Math.min(to - 60000, page.bed.admitted_ms, ...times));
    const item = page.proposals.find((one) => one.id === chosen) ?? page.proposals.find((one) => one.evidence.length);
    const cited = new Map((item?.evidence ?? []).map((one) => [one.code, { t: item.t_ms, label: `${one.text} (${number(one.effect, 2)})` }]));
    // In units of which 16 are a rem, so that what is written in a chart grows with the page.
    const room = (parts.charts.clientWidth || 480) / (parseFloat(getComputedStyle(document.documentElement).fontSize) / 16);
    const width = room / Math.max(1, Math.floor((room + 8) / (22 * 16 + 8))) - 8;
    const rank = (series) => (cited.has(series.code) ? -100 : 0) + (FIRST.includes(series.code) ? FIRST.indexOf(series.code) : 50);
    const sorted = [...page.series].sort((a, b) => rank(a) - rank(b) || a.code.localeCompare(b.code));
    const draw = (series) => chart({ title: word("signal", series.code) === series.code ? series.title : word("signal", series.code), unit: series.unit, points: series.points,
      from, to, width, digits: DIGITS[series.code] ?? 0, marks: cited.has(series.code) ? [cited.get(series.code)] : [] });
    const level = (values) => values.map(([time, value]) => [time, value, value, value]);
    const scores = level(page.scores), risks = level(page.risks);
    const drawnFirst = [
      chart({ title: "NEWS2", points: scores, from, to, width, floor: 0, ceiling: 8, threshold: 7, steps: true }),
      risks.length ? chart({ title: t("risk"), points: risks, from, to, width, floor: 0, ceiling: 1, threshold: page.threshold, percent: true }) : null,
      ...sorted.slice(0, 8).map(draw)];
    const more = sorted.slice(8);
    return [item ? h("p", { class: "soft" }, t("evidence.marked", { time: clock(item.t_ms) })) : null, h("div", { class: "charts" }, drawnFirst),
      more.length ? h("details", {}, h("summary", {}, t("bed.more", { n: more.length })), h("div", { class: "charts" }, more.map(draw))) : null,
      h("details", {}, h("summary", {}, t("bed.newest")), h("ul", { class: "list" }, page.newest.map((one) => h("li", {}, `${one.text} · ${age(to - one.t_ms)}`))))];
  }

  function history() {
    if (!page.happenings.length) return h("p", { class: "soft" }, t("nothing"));
    return h("ul", { class: "list" }, page.happenings.slice(0, 40).map((one) => h("li", {}, h("span", { class: "soft" }, `${clock(one.t_ms, true)} · ${word("what", one.what)}${one.actor ? ` · ${one.actor}` : ""}`), h("p", {}, one.text))));
  }

  function clauses() {
    return [h("p", { class: "soft" }, `${t("profile")}: ${page.profile} · ${t("consent")}: ${word("consent", page.consent)}`),
      h("dl", {}, page.clauses.map((one) => [h("dt", {}, h("strong", {}, one.id), one.is_draft ? h("span", { class: "mark" }, t("draft")) : null),
        h("dd", { class: "soft" }, `${one.summary} (${one.source})`)]))];
  }

  refresh(true);
  const stopMedication = showMedication(medicationPart, patient, session);
  const stopMessages = showMessages(messagePart, patient, session);
  const stopReports = showReports(reportPart, patient, session);
  const stopLamp = live.listen(() => {
    const bed = live.ward.beds.get(patient);
    if (bed && !title.dataset.alert !== !bed.alerts.length) { title.dataset.alert = bed.alerts.length ? "1" : ""; }
  });
  return () => { isOver = true; clearTimeout(timer); stopMedication(); stopMessages(); stopReports(); stopLamp(); };
}

function showMessages(main, patient, session) {
  const list = h("div", { class: "list", "aria-live": "polite" });
  const error = h("p", { class: "error", role: "alert" });
  const text = h("textarea", { maxlength: 2000, required: true });
  const form = h("form", {}, h("label", {}, h("span", {}, t("message.to")), text), error, h("button", { class: "main", type: "submit" }, t("message.send")));
  let timer = null, isOver = false, drawn = "";
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try { await post(bedPath(patient, "/messages"), { text: text.value }); text.value = ""; error.textContent = ""; await refresh(); } catch (failure) { error.textContent = failure.message; }
  });
  async function refresh() {
    clearTimeout(timer);
    try {
      const { messages } = await get(bedPath(patient, "/messages"), { automatic: true });
      const state = JSON.stringify(messages);
      if (!isOver && state !== drawn) {
        drawn = state;
        put(list, messages.length ? messages.slice(-20).map((one) => h("div", {}, h("p", { class: "soft" }, `${clock(one.t_ms, true)} · ${one.sender} · ${one.seen_ms ? t("message.seen") : t("message.unseen")}`), h("p", { class: "bubble" }, one.text))) : h("p", { class: "soft" }, t("nothing")));
      }
    } catch { /* the head says that the console cannot be reached */ }
    if (!isOver) timer = setTimeout(refresh, 5000);
  }
  put(main, list, session.rights.includes("message") ? form : null);
  refresh();
  return () => { isOver = true; clearTimeout(timer); };
}
