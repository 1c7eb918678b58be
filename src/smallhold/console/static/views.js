// The record and its verification, the model and its drift, the federation.

import { get, post } from "./api.js";
import { ask, h, put } from "./dom.js";
import { clock, number, t, word } from "./i18n.js";

const facts = (rows) => h("dl", { class: "facts" }, rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
const short = (digest) => (digest ? `${digest.slice(0, 16)}…` : "–");

export function showAudit(main) {
  const outcome = h("div", { role: "status", id: "verification" });
  const rows = h("tbody", {});
  const error = h("p", { class: "error", role: "alert" });
  const kind = h("select", { "aria-label": t("audit.kind") }, [["", t("audit.all")], ...["ward-start", "step", "reading", "staff", "medication", "message", "consent", "intake", "review", "pairing", "feedback", "console", "gap", "erasure", "ward-end"].map((name) => [name, name])]
    .map(([value, label]) => h("option", { value }, label)));
  const more = h("button", { onclick: () => load(true) }, t("audit.more"));
  const verify = h("button", { class: "main", id: "verify", onclick: async () => {
    verify.disabled = true;
    put(outcome, h("p", {}, t("audit.verifying")));
    try {
      const report = await post("/api/audit/verify");
      put(outcome, report.is_intact
        ? h("p", { class: "mark good" }, t("audit.intact", { n: number(report.entries), erased: number(report.erased), checkpoints: number(report.checkpoints) }))
        : h("p", { class: "mark bad" }, t("audit.broken", { seq: report.problem.seq, message: report.problem.message })));
    } catch (failure) { put(outcome, h("p", { class: "error" }, failure.message)); }
    verify.disabled = false;
    load(false);
  } }, t("audit.verify"));
  kind.addEventListener("change", () => load(false));
  let before = null, asked = 0;
  async function load(isMore) {
    if (!isMore) before = null;
    const mine = ++asked; // the answer to an earlier question may come after the one to a later
    const query = new URLSearchParams({ limit: 30, ...(kind.value ? { kind: kind.value } : {}), ...(before !== null ? { before } : {}) });
    try {
      const page = await get(`/api/audit?${query}`);
      if (mine !== asked) return;
      before = page.before;
      const made = page.entries.map((entry) => h("tr", {}, h("td", {}, String(entry.seq)), h("td", {}, clock(entry.t_ms, true)), h("td", {}, entry.kind),
        h("td", {}, entry.payload === null ? h("em", {}, word("audit", entry.state)) : h("details", {}, h("summary", {}, summary(entry.payload)), h("pre", { tabindex: 0 }, entry.payload))),
        h("td", {}, entry.is_signed ? h("span", { class: "mark good" }, t("audit.signed")) : ""), h("td", {}, h("code", { title: entry.hash }, entry.hash.slice(0, 10)))));
      if (isMore) rows.append(...made); else put(rows, made);
      more.hidden = before === null;
      error.textContent = "";
    } catch (failure) { error.textContent = failure.message; }
  }
  put(main, h("h1", {}, t("nav.audit")), h("section", { class: "card" }, h("p", { class: "soft" }, t("audit.what")), h("div", { class: "row" }, verify, kind), outcome), error,
    h("div", { class: "card tablebox", tabindex: 0, role: "region", "aria-label": t("nav.audit") }, h("table", {}, h("thead", {}, h("tr", {}, ["audit.seq", "audit.time", "audit.kind", "audit.payload", "audit.signature", "audit.hash"].map((key) => h("th", { scope: "col" }, t(key))))), rows)), more);
  load(false);
  return () => {};
}

function summary(payload) {
  try {
    const value = JSON.parse(payload);
    return [value.action ?? value.event ?? value.response ?? value.code, value.actor, value.patient].filter((item) => typeof item === "string" && item).join(" · ").slice(0, 80) || t("audit.show");
  } catch { return payload.slice(0, 60) || t("audit.show"); }
}

export function showModel(main, session) {
  const body = h("div", {}, h("p", {}, "…"));
  put(main, h("h1", {}, t("nav.model")), body);
  let timer = null, isOver = false, drawn = "";
  async function refresh(isByHand) {
    clearTimeout(timer);
    try {
      const model = await get("/api/model", { automatic: !isByHand });
      const state = JSON.stringify(model);
      if (!isOver && state !== drawn) { drawn = state; put(body, draw(model)); }
    } catch (failure) { if (!isOver) put(body, h("p", { class: "error", role: "alert" }, failure.message)); }
    if (!isOver) timer = setTimeout(refresh, 5000);
  }
  const latency = (told) => (told.n ? `p50 ${number(told.p50, 1)} ms · p99 ${number(told.p99, 1)} ms · n ${number(told.n)}` : "–");
  function draw(model) {
    const drift = model.drift;
    return [
      h("section", { class: "card" }, h("h2", {}, t("model.what")), model.bundle_error ? h("p", { class: "error" }, model.bundle_error) : null,
        facts([[t("model.bundle"), model.name ? `${model.name} ${model.version}` : t("model.nobundle")], [t("model.digest"), h("code", {}, short(model.bundle))], [t("model.task"), model.task], [t("model.backend"), model.backend],
          [t("model.policy"), model.profile], [t("model.trial"), model.is_silent ? h("strong", {}, t("model.silent")) : t("model.speaks")]])),
      h("section", { class: "card" }, h("h2", {}, t("model.figures")),
        facts([[t("model.decisions"), `${number(model.figures.decisions)} · ${number(model.figures.abstained)} ${t("abstains")} · ${number(model.figures.model_failures)} ${t("model.failed")}`],
          [t("model.latency"), latency(model.figures.decision_ms)], [t("model.floor"), latency(model.figures.alarm_ms)], [t("model.step"), latency(model.figures.step_ms)]])),
      h("section", { class: "card" }, h("h2", {}, t("model.drift")), model.is_drifted ? h("p", { class: "error" }, t("model.drifted")) : null,
        drift === null ? h("p", { class: "soft" }, t("model.nodrift"))
          : h("ul", { class: "list" }, Object.entries(drift).map(([name, item]) => h("li", {}, h("div", { class: "row apart" }, h("span", {}, h("strong", {}, word("monitor", name)), ` ${word("drift", item.state)} · ${t("model.counted", { n: number(item.counted) })}`),
            h("meter", { min: 0, max: 1, value: item.evidence, "aria-label": t("model.evidence", { n: number(item.evidence * 100) }) })), item.reason ? h("p", { class: "soft" }, item.reason) : null))),
        drift !== null && session.rights.includes("override") && Object.values(drift).some((item) => item.state !== "ok")
          ? h("button", { class: "grave", onclick: () => ask({ title: t("model.acknowledge"), confirm: t("model.acknowledge"), cancel: t("cancel"), grave: true, fields: [{ name: "reason", label: t("reason"), required: true, most: 500 }],
              send: async (values) => { await post("/api/drift/acknowledge", values); await refresh(true); } }) }, t("model.acknowledge")) : null),
      model.card ? h("section", { class: "card" }, h("h2", {}, t("model.card")), h("pre", { tabindex: 0, "aria-label": t("model.card") }, model.card)) : null];
  }
  refresh(true);
  return () => { isOver = true; clearTimeout(timer); };
}

export function showFederation(main) {
  const body = h("div", {}, h("p", {}, "…"));
  put(main, h("h1", {}, t("nav.federation")), body);
  get("/api/federation").then((found) => put(body, draw(found)), (failure) => put(body, h("p", { class: "error", role: "alert" }, failure.message)));
  function draw(found) {
    if (!found.is_configured) return h("p", { class: "card" }, t("fed.none"));
    if (found.problem) return h("p", { class: "card error" }, found.problem);
    const privacy = found.privacy;
    const refused = Object.entries(found.refused).map(([reason, count]) => `${reason} ${count}`).join(", ");
    return [
      h("section", { class: "card" }, facts([[t("fed.job"), found.job], [t("fed.sites"), found.sites.join(", ")], [t("fed.state"), found.is_finished ? t("fed.finished") : t("fed.running")], [t("fed.refused"), refused || t("nothing")]])),
      h("section", { class: "card" }, h("h2", {}, t("fed.privacy")),
        privacy === null ? h("p", { class: "soft" }, t("fed.nopromise")) : privacy.problem ? h("p", { class: "error" }, privacy.problem)
          : Object.entries(privacy.units).map(([unit, item]) => h("p", {}, `${unit}: ε ${number(item.spent, 2)} / ${number(item.epsilon, 2)}, δ ${item.delta} `, h("meter", { min: 0, max: item.epsilon, value: item.spent, "aria-label": `ε ${number(item.spent, 2)} / ${number(item.epsilon, 2)}` })))),
      h("section", { class: "card tablebox", tabindex: 0, role: "region", "aria-label": t("fed.rounds") }, h("h2", {}, t("fed.rounds")), found.rounds.length
        ? h("table", {}, h("thead", {}, h("tr", {}, ["fed.round", "audit.time", "fed.sites", "fed.bytes", "fed.model"].map((key) => h("th", { scope: "col" }, t(key))))),
          h("tbody", {}, found.rounds.map((one) => h("tr", {}, h("td", {}, String(one.round + 1)), h("td", {}, clock(one.t_ms, true)), h("td", {}, one.sites.join(", ")), h("td", {}, number(one.bytes)), h("td", {}, h("code", {}, short(one.model)))))))
        : h("p", { class: "soft" }, t("nothing")))];
  }
  return () => {};
}
