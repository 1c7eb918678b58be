// The frame of the page: logging in, the head that always says how things stand, and which view is shown.

import { get, call, post, setToken } from "./api.js";
import { ask, h, put } from "./dom.js";
import { LANGUAGES, age, clock, language, remembered, setLanguage, t } from "./i18n.js";
import * as live from "./live.js";
import * as sound from "./sound.js";
import { showWard } from "./ward.js";
import { showBed } from "./bed.js";
import { showAudit, showFederation, showModel } from "./views.js";

const $ = (id) => document.getElementById(id);
const OLD_DATA_MS = 30000;
let session = null;
let status = null;
let leave = null;
const announced = new Map();

const VIEWS = [
  { name: "ward", right: "view", show: showWard },
  { name: "audit", right: "audit", show: showAudit },
  { name: "model", right: "status", show: showModel },
  { name: "federation", right: "federation", show: showFederation },
];

const may = (right) => session.rights.includes(right);

async function begin() {
  await setLanguage(remembered());
  words();
  try { enter(await get("/api/session", { automatic: true })); } catch { login(); }
}

function words() {
  $("skip").textContent = t("skip");
  $("disclaimer").textContent = t("disclaimer");
  $("nav").setAttribute("aria-label", t("pages"));
}

function login(message = "") {
  session = null;
  live.stop();
  if (leave) leave();
  leave = null;
  put($("nav"));
  put($("banner"));
  put($("marks"));
  tools();
  document.title = `${t("login.title")} – Smallhold`;
  const error = h("p", { class: "error", role: "alert" }, message);
  const name = h("input", { name: "name", autocomplete: "username", required: true, maxlength: 64 });
  const password = h("input", { name: "password", type: "password", autocomplete: "current-password", required: true, maxlength: 256 });
  const button = h("button", { class: "main", type: "submit" }, t("login.do"));
  const form = h("form", { class: "card login" }, h("h1", {}, t("login.title")),
    h("label", {}, h("span", {}, t("login.name")), name), h("label", {}, h("span", {}, t("login.password")), password), error, button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    error.textContent = "";
    sound.unlock().catch(() => {}); // pressing the button is the gesture that a browser wants before it sounds
    try { enter(await call("POST", "/api/session", { name: name.value, password: password.value })); } catch (failure) {
      error.textContent = failure.status === 401 ? t("login.wrong") : failure.message;
      password.value = "";
      button.disabled = false;
      password.focus();
    }
  });
  put($("main"), form);
  name.focus();
}

function enter(value) {
  session = value;
  setToken(session.csrf);
  tools();
  if (may("view")) live.start();
  refreshStatus();
  route();
}

function tools() {
  const select = h("select", { "aria-label": t("language"), "data-key": "language" },
    LANGUAGES.map(([code, label]) => h("option", { value: code, lang: code }, label)));
  select.value = language;
  select.addEventListener("change", async () => {
    await setLanguage(select.value);
    words();
    if (session) { tools(); route(); } else login();
  });
  const out = session && h("button", { "data-key": "out", onclick: async () => { try { await call("DELETE", "/api/session"); } catch { /* over anyway */ } login(); } },
    t("logout"));
  put($("tools"), session && h("span", { class: "soft" }, `${session.name}, ${t(`role.${session.role}`)}`), select, out);
}

function route() {
  if (!session) return;
  const allowed = VIEWS.filter((view) => may(view.right));
  const [asked, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const name = (asked === "bed" && may("view")) || allowed.some((view) => view.name === asked) ? asked : allowed[0].name;
  put($("nav"), allowed.map((view) => h("a", { href: `#/${view.name}`, "data-key": view.name,
    "aria-current": view.name === name || (name === "bed" && view.name === "ward") ? "page" : null }, t(`nav.${view.name}`))));
  if (leave) leave();
  leave = null;
  const main = h("div", {});
  put($("main"), main);
  if (name === "bed" && rest.length) {
    let patient = "";
    try { patient = decodeURIComponent(rest.join("/")); } catch { /* not an address of ours */ }
    leave = showBed(main, patient, session);
    document.title = `${patient} – Smallhold`;
  } else {
    const view = allowed.find((item) => item.name === name) || allowed[0];
    leave = view.show(main, session);
    document.title = `${t(`nav.${view.name}`)} – Smallhold`;
  }
  head();
}

async function refreshStatus() {
  if (!session) return;
  try { status = await get("/api/status", { automatic: true }); } catch { /* the banner says so, or the next one will */ }
  head();
}

// What is always said: connection, age of the data, what is simulated, what is degraded, whether the page can sound.
function head() {
  if (!session) return;
  const beds = [...live.ward.beds.values()];
  const marks = [], warnings = [];
  const isSimulated = status?.is_simulated || beds.some((bed) => bed.is_simulated);
  if (isSimulated) marks.push(h("span", { class: "mark strong" }, t("mark.simulated")));
  else if (status?.is_rehearsal) marks.push(h("span", { class: "mark strong" }, t("mark.recorded")));
  if (status?.speed > 1) marks.push(h("span", { class: "mark" }, t("mark.speed", { n: status.speed })));
  if (may("view")) {
    const link = live.ward.link;
    marks.push(h("span", { class: `mark ${link === "connected" ? "good" : "bad"}`, id: "link" }, t(`link.${link}`)));
    const newest = Math.max(0, ...beds.map((bed) => bed.last_reading_ms || 0));
    if (newest) {
      const real = (live.now() - newest) / live.ward.speed;
      const isOld = real > OLD_DATA_MS;
      marks.push(h("span", { class: `mark ${isOld ? "bad" : ""}`, id: "data-age" }, t("mark.age", { age: age(real) })));
      if (isOld && link === "connected") warnings.push(h("p", { class: "warn" }, t("banner.old", { age: age(Math.floor(real / 30000) * 30000) })));
    }
    const degraded = beds.filter((bed) => bed.is_degraded).length;
    if (degraded) marks.push(h("span", { class: "mark bad" }, t("mark.degraded", { n: degraded })));
    if (link === "lost") warnings.unshift(h("p", {}, t("banner.lost", { time: live.ward.at ? clock(live.ward.at) : "–" })));
    if (link === "stuck") warnings.unshift(h("p", {}, t("banner.stuck")));
    marks.push(soundButton());
    if (status?.is_stopped === false && may("give")) marks.push(stopButton());
    if (sound.state() === "locked") warnings.push(h("p", { class: "warn" }, t("banner.silent")));
    if (sound.state() === "paused") warnings.push(h("p", { class: "warn" }, t("banner.paused", { n: Math.ceil(sound.pausedSeconds() / 10) * 10 })));
  }
  if (status?.is_stopped) warnings.unshift(h("p", {}, t("banner.stopped"), " ", may("override") ? h("button", { "data-key": "resume", onclick: () => resumeAll() }, t("stop.resume")) : null));
  if (status?.bundle_error) warnings.push(h("p", { class: "warn" }, t("banner.bundle", { error: status.bundle_error })));
  for (const fault of live.ward.faults) warnings.push(h("p", {}, fault));
  update($("marks"), marks);
  update($("banner"), warnings);
}

// Rebuilt only when it says something else: a live region that is rewritten every second would be read every second.
function update(element, nodes) {
  const text = nodes.map((node) => node.className + node.textContent).join("|");
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  put(element, nodes);
}

function stopButton() {
  return h("button", { id: "stop", class: "grave", "data-key": "stop", onclick: () => ask({ title: t("stop"), text: t("stop.text"), confirm: t("stop"), cancel: t("cancel"), grave: true,
    send: async () => { await post("/api/stop", undefined); await refreshStatus(); } }) }, t("stop"));
}

function resumeAll() {
  ask({ title: t("stop.resume"), text: t("stop.resume.text"), confirm: t("stop.resume"), cancel: t("cancel"),
    send: async () => { await post("/api/resume", undefined); await refreshStatus(); } });
}

function soundButton() {
  const state = sound.state();
  return h("button", { id: "sound", "data-key": "sound", "aria-pressed": state === "on" ? "true" : "false",
    onclick: async () => {
      if (sound.state() === "locked") await sound.unlock();
      else if (sound.state() === "on") sound.pause();
      else sound.resume();
      head();
    } }, t(`sound.${state}`));
}

// New calls are read out; a HIGH at once.
function announce() {
  for (const [patient, bed] of live.ward.beds) {
    for (const alert of bed.alerts) {
      const key = `${alert.id} ${alert.priority}`;
      if (alert.state !== "active" || announced.has(key)) continue;
      if (announced.size > 2000) announced.clear();
      announced.set(key, true);
      $(alert.priority === "high" ? "urgent" : "polite").textContent = `${t(`priority.${alert.priority}`)}, ${patient}: ${alert.message}`;
    }
  }
}

function sing() {
  let loudest = null;
  if (session && may("view")) {
    for (const bed of live.ward.beds.values()) {
      for (const alert of bed.alerts) {
        if (alert.is_audible && alert.priority in sound.BURSTS && (loudest === null || alert.urgency > loudest.urgency)) loudest = alert;
      }
    }
  }
  // A page that has lost the ward sounds as a technical LOW does: whoever relies on it must hear that it is blind.
  const isBlind = session && may("view") && live.ward.link === "lost";
  sound.sound(loudest ? loudest.priority : isBlind ? "low" : null);
}

window.addEventListener("hashchange", () => { route(); $("main").focus(); });
window.addEventListener("logged-out", () => { if (session) login(t("login.ended")); });
live.listen(() => { announce(); head(); });
setInterval(() => { sing(); head(); }, 500);
setInterval(refreshStatus, 15000);
begin();
