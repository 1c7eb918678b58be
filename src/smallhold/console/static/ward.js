// The ward at a glance: a card a bed, the most urgent first.

import { h, put } from "./dom.js";
import { age, number, t, word } from "./i18n.js";
import * as live from "./live.js";

const STALE_MS = 5 * 60000; // of the ward's time
const VITALS = ["HR", "BP", "RR", "SpO2", "Temp", "GCS"];
let order = "urgency";

export function loudest(bed) {
  const rank = (alert) => alert.urgency * 10 + (alert.state === "active" || alert.state === "latched" ? 5 : 0);
  return bed.alerts.reduce((best, alert) => (best === null || rank(alert) > rank(best) ? alert : best), null);
}

export function chip(alert) {
  const isSeen = alert.state === "acknowledged";
  return h("span", { class: `chip ${alert.priority} ${isSeen ? "seen" : ""}` },
    `${t(`priority.${alert.priority}`)}${alert.state === "active" ? "" : ` · ${word("state", alert.state)}`}`);
}

export function lamp(bed) {
  const alert = loudest(bed);
  const isFlashing = alert && alert.is_visible && (alert.state === "active" || alert.state === "latched");
  return h("span", { class: `lamp ${alert && alert.is_visible ? alert.priority : ""} ${isFlashing ? "flash" : ""}`, "aria-hidden": "true" });
}

export function vitals(bed) {
  const now = live.ward.now;
  return h("dl", { class: "vitals" }, VITALS.map((name) => {
    const vital = bed.vitals[name];
    const isStale = vital && now - vital.t_ms > STALE_MS;
    const title = vital ? `${vital.value} ${vital.unit}` : "";
    return h("div", { class: isStale ? "stale" : null, title }, h("dt", {}, t(`vital.${name}`)),
      h("dd", {}, vital ? number(vital.value, name === "Temp" ? 1 : 0) : "–", isStale ? h("span", { class: "soft" }, "?", h("span", { class: "unseen" }, ` ${t("stale")}`)) : null));
  }));
}

export function riskText(bed) {
  if (!bed.risk) return t(`model.${bed.model}`);
  return `${number(bed.risk.p * 100)} %${bed.risk.has_abstained ? ` (${t("abstains")})` : ""}`;
}

function card(bed) {
  const alert = loudest(bed);
  const tasks = [
    bed.doses ? t("bed.doses", { n: bed.doses }) : null,
    bed.asks ? t("bed.asks", { n: bed.asks }) : null,
    bed.unseen ? t("bed.unseen", { n: bed.unseen }) : null,
    ...bed.off.map((item) => word("off", item.state)),
    bed.is_degraded ? t("degraded.short") : null,
  ].filter(Boolean);
  const readingAge = bed.last_reading_ms ? t("bed.reading", { age: age(live.ward.now - bed.last_reading_ms) }) : t("bed.noreading");
  return [lamp(bed),
    h("div", { class: "row apart" }, h("h2", {}, h("a", { href: `#/bed/${encodeURIComponent(bed.patient)}`, "data-key": bed.patient }, bed.patient)),
      alert ? chip(alert) : h("span", { class: "chip info" }, t("calm"))),
    vitals(bed),
    h("p", { class: "soft" }, `NEWS2 ${bed.score ? bed.score.total : "–"} · ${t("risk")} ${riskText(bed)} · ${readingAge}`),
    alert ? h("p", { class: "says" }, alert.message) : null,
    tasks.length ? h("p", { class: "soft" }, tasks.join(" · ")) : null];
}

export function showWard(main) {
  const list = h("ul", { class: "beds", id: "beds" });
  const empty = h("p", { class: "card", hidden: true }, t("ward.empty"));
  const count = h("span", { class: "soft" });
  const select = h("select", { "aria-label": t("ward.order") }, h("option", { value: "urgency" }, t("ward.byurgency")), h("option", { value: "name" }, t("ward.byname")));
  select.value = order;
  select.addEventListener("change", () => { order = select.value; arrange(); });
  put(main, h("div", { class: "row apart" }, h("h1", {}, t("nav.ward")), h("div", { class: "row" }, count, select)), list, empty);
  const cards = new Map();

  function draw(name) {
    const bed = live.ward.beds.get(name);
    const text = JSON.stringify(bed) + Math.floor(live.ward.now / 60000);
    let item = cards.get(name);
    if (!item) { item = { element: h("li", { class: "bed" }), text: "" }; cards.set(name, item); }
    if (item.text !== text) { item.text = text; put(item.element, card(bed)); }
    item.element.classList.toggle("old", live.ward.link !== "connected");
  }

  function arrange() {
    const names = order === "urgency" ? live.ward.order : [...live.ward.order].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    const active = document.activeElement;
    names.forEach((name, at) => {
      const element = cards.get(name)?.element;
      if (element && list.children[at] !== element) list.insertBefore(element, list.children[at] || null);
    });
    if (list.contains(active)) active.focus({ preventScroll: true }); // moving an element takes the focus from it
  }

  function update() {
    for (const [name, item] of cards) if (!live.ward.beds.has(name)) { item.element.remove(); cards.delete(name); }
    for (const name of live.ward.beds.keys()) draw(name);
    arrange();
    const calling = [...live.ward.beds.values()].filter((bed) => bed.alerts.some((alert) => alert.state === "active" && alert.urgency >= 2)).length;
    count.textContent = t("ward.count", { n: live.ward.beds.size, calling });
    empty.hidden = live.ward.beds.size > 0;
  }

  update();
  return live.listen(update);
}
