// The page: one patient's day, the same with a network and without.

import { Link, Offline, Unpaired } from "./link.js";
import { Store } from "./store.js";
import { Reader } from "./triage.js";
import * as views from "./views.js";
import { Words } from "./words.js";

const REFRESH_MS = 10_000;
const TELL_MS = 5_000;
const PATIENCE_MS = 8_000; // so long a report may be on its way before the page says that staff do not know
const NOTHING = { messages: [], doses: [], consent: {}, intakes: [], reviews: [] };

const $ = (selector) => document.querySelector(selector);
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

const [words, config, rules, store] = await Promise.all([
  Words.load(),
  fetch("config.json").then((response) => response.json()),
  fetch("symptoms.json").then((response) => response.json()),
  Store.open(),
]).catch((error) => {
  // A browser that keeps nothing, or a first visit that broke off.
  document.querySelector("#notice").textContent = `This page cannot start here: ${error.message}`;
  document.querySelector("#notice").hidden = false;
  throw error;
});
const link = new Link(store, { changed: () => tell(), refused: (_, message) => notice(words.t("refused", { message })) });
const reader = new Reader(rules, {
  hasDeviceModel: config.has_device_model,
  hasServerModel: config.has_server_model,
  askServer: (text, language) => link.triage(text, language),
});

let patient = null; // whom this device speaks for, as far as it knows
let got = null; // {at, clock, state}: the newest state and when it came
let decided = null;
let waiting = []; // actions that are not sent
let view = "today";
let open = null; // the advice on the screen: {id, at, status}
let shown = {}; // what each part shows, so that it is only drawn anew when that changed

// --- What the page says of itself -----------------------------------------------------------------------------------

function notice(text) {
  $("#notice").textContent = text;
  $("#notice").hidden = !text;
}

/** Network, age of what is shown, what waits. */
function tell() {
  const age = got ? words.t("state.age", { age: words.age(Date.now() - got.at) }) : "";
  const line = `${words.t(link.isOnline ? "state.online" : "state.offline")} ${age}`.trim();
  if ($("#network").textContent !== line) $("#network").textContent = line;
  $("#network").classList.toggle("offline", !link.isOnline);
  $("#waiting").hidden = !waiting.length;
  const left = words.t("state.waiting", { count: waiting.length });
  if ($("#waiting").textContent !== left) $("#waiting").textContent = left;
  $("#export").disabled = !link.isOnline;
}

/** Draw a part when what it shows has changed: the focus and open details stay where they are otherwise. */
function draw(selector, seen, nodes) {
  const now = JSON.stringify([words.language, seen]);
  if (shown[selector] === now) return;
  shown[selector] = now;
  $(selector).replaceChildren(...nodes());
}

function render() {
  const state = got?.state ?? NOTHING;
  tell();
  $("#simulated").hidden = !state.is_simulated;
  const isSent = (dose) => waiting.some((a) => a.kind === "taken" && a.prescription === dose.prescription && a.given_ms === dose.given_ms);
  const take = (dose) => act({ kind: "taken", prescription: dose.prescription, given_ms: dose.given_ms });
  draw("#messages", state.messages, () => views.messages(words, state));
  draw("#doses", [state.doses, state.doses.map(isSent)], () => views.doses(words, state, { take, isSent }));
  const unsent = waiting.filter(({ kind }) => kind === "intake");
  draw("#intakes", [state.intakes, unsent], () => views.intakes(words, state, unsent));
  const said = waiting.filter(({ kind }) => kind === "consent");
  draw("#consent", [state.consent, said], () => views.consents(words, state, said, (purpose, value) => act({ kind: "consent", purpose, state: value })));
  renderDecided(state);
  renderAdvice(state);
  watchMessages();
}

function renderDecided(state) {
  if (!decided) return;
  const asked = new Set([...state.reviews, ...waiting.filter(({ kind }) => kind === "review")].map(({ about }) => about));
  const review = (about) => act({ kind: "review", about, text: "" });
  draw("#limits ul", decided.limits, () => views.limits(words, decided));
  draw("#decisions", [decided.decisions, [...asked]], () => views.decisions(words, decided, { review, isAsked: (id) => asked.has(id) }));
  const newest = state.reviews.at(-1);
  const told = newest && (newest.taken_ms === null ? words.t("review.asked") : words.t("review.taken", { who: newest.taken_by }));
  $("#reviews").textContent = told ?? "";
}

/** Whether staff know of the text that was just read. */
function renderAdvice(state) {
  if (!open?.id) return;
  const item = state.intakes.find(({ id }) => id === open.id);
  const isOnItsWay = link.isOnline && Date.now() - open.at < PATIENCE_MS;
  const told = state.calls_staff ? "status.told" : "status.recorded";
  const key = item ? (item.taken_ms === null ? told : "status.taken") : isOnItsWay ? "status.sending" : "status.unsent";
  const text = words.t(key, { who: item?.taken_by, number: config.emergency_number });
  if (open.status.textContent !== text) open.status.textContent = text;
  open.status.classList.toggle("unsent", key === "status.unsent" || key === "status.recorded");
}

/** A message that the patient has had before their eyes is confirmed as seen. */
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting || document.visibilityState !== "visible") continue;
    watcher.unobserve(target);
    if (!waiting.some((a) => a.message === target.dataset.message)) act({ kind: "seen", message: target.dataset.message });
  }
}, { threshold: 0.6 });

function watchMessages() {
  watcher.disconnect();
  for (const item of document.querySelectorAll("[data-message]:not([data-seen])")) watcher.observe(item);
}

function show(name, hasFocus = true) {
  view = name;
  $("#pair").hidden = name !== "pair";
  $("#nav").hidden = name === "pair";
  for (const part of document.querySelectorAll(".view")) part.hidden = part.id !== name;
  for (const button of document.querySelectorAll("#nav button")) {
    button.dataset.view === name ? button.setAttribute("aria-current", "page") : button.removeAttribute("aria-current");
  }
  if (hasFocus) {
    $(`#${name}-title`).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  if (name === "feel") reader.start().catch(() => {}); // loads while the patient writes; says so where it cannot
  if (name === "decided") refresh();
  render();
}

/** A question with two answers; resolves to whether it was the first. */
function ask(text, yes, no) {
  $("#ask-text").textContent = text;
  $("#ask-yes").textContent = yes;
  $("#ask-no").textContent = no;
  return new Promise((resolve) => {
    const end = (is) => () => ($("#ask").close(), resolve(is));
    $("#ask-yes").onclick = end(true);
    $("#ask-no").onclick = end(false);
    $("#ask").oncancel = () => resolve(false);
    $("#ask").showModal();
    $("#ask-no").focus();
  });
}

// --- State, here and there ------------------------------------------------------------------------------------------

async function recount() {
  waiting = patient === null ? [] : (await store.waiting(patient)).map(({ action }) => action);
}

/** Do something, with a network or without: first it is kept, then it is sent. */
async function act(action) {
  const id = newId();
  try {
    await store.queue(patient, { id, ...action });
  } catch (error) {
    notice(words.t("not-kept")); // the disk is full: nothing was done, and the page must not look as if
    throw error;
  }
  await recount();
  render();
  refresh();
  return id;
}

let running = null;
let again = false;

/** Send what waits and fetch what is new; one at a time, and once more if asked meanwhile. */
function refresh() {
  if (running) return void (again = true);
  running = refreshOnce().finally(() => {
    running = null;
    if (again) (again = false), refresh();
  });
}

async function refreshOnce() {
  if (patient === null) return;
  try {
    await link.send(patient);
    const state = await link.overview();
    if (state.patient !== patient) throw new Unpaired(); // paired anew in another window
    got = { at: Date.now(), state };
    await store.set("overview", got);
    if (view === "decided") {
      decided = await link.decisions();
      await store.set("decided", decided);
    }
  } catch (error) {
    if (error instanceof Unpaired) return unpaired();
    if (!(error instanceof Offline)) notice(words.t("trouble", { message: error.message }));
  }
  await recount();
  render();
}

async function paired(name) {
  if ((await store.get("patient")) !== name) await store.keepOnly(name);
  await store.set("patient", name);
  await store.set("language", words.language);
  patient = name;
  shown = {};
  notice("");
  await recount();
  show("today");
  await act({ kind: "language", language: words.language });
}

/** The device speaks for nobody any more: what it knew goes; what was not sent waits for the same patient. */
async function unpaired() {
  if (patient !== null) {
    await store.keepOnly(patient);
    notice(words.t("pair.ended"));
  }
  forgetState();
  $("#pair-kept").hidden = !(await store.countWaiting());
  show("pair");
}

function forgetState() {
  patient = got = decided = open = null;
  waiting = [];
  shown = {};
  for (const part of ["#messages", "#doses", "#intakes", "#consent", "#decisions", "#limits ul", "#advice"]) $(part).replaceChildren();
  $("#symptoms").value = "";
}

/** Remove the kept page too: the next visit fetches it anew. */
async function forgetFiles() {
  const worker = (await navigator.serviceWorker?.getRegistration())?.active;
  if (!worker) return;
  const channel = new MessageChannel();
  const done = new Promise((resolve) => (channel.port1.onmessage = resolve));
  worker.postMessage("forget", [channel.port2]);
  await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 3000))]);
}

async function logOut() {
  const text = words.t(waiting.length ? "logout.unsent" : "logout.sure", { count: waiting.length });
  if (!(await ask(text, words.t("logout.go"), words.t("cancel")))) return;
  await store.clear();
  await store.set("must-log-out", true); // without a network the server hears of it at the next visit
  forgetState();
  try {
    await finishLogOut();
    await forgetFiles();
  } catch {
    notice(words.t("logout.later"));
  }
  show("pair");
}

async function finishLogOut() {
  try {
    await link.logOut();
  } catch (error) {
    if (!(error instanceof Unpaired)) throw error;
  }
  await store.clear();
}

async function check(event) {
  event.preventDefault();
  const text = $("#symptoms").value.toWellFormed().trim();
  if (!text) return;
  const language = words.language;
  const button = $("#feel-form button");
  button.disabled = true;
  // A red flag does not wait for a model: staff are called first, and only then it is asked.
  const flags = reader.flags(text);
  const report = (found) => act({ kind: "intake", t_ms: Date.now(), language, text, triage: found.triage, urgency: found.urgency });
  const NONE = { where: "nowhere", choice: null, confidence: 0, has_abstained: true, bundle: "" };
  const present = (found, handOver) => {
    const made = views.advice(words, found, config.emergency_number, handOver);
    $("#advice").replaceChildren(made.card);
    made.card.querySelector("h3").focus({ preventScroll: true });
    $("#advice").scrollIntoView();
    open = { id: null, at: Date.now(), status: made.status };
  };
  try {
    if (flags.length) {
      const found = { flags, triage: NONE, urgency: "emergency" };
      present(found, null);
      open.id = await report(found);
    } else {
      $("#advice").replaceChildren(views.made("p", { textContent: words.t("feel.reading") }));
      const found = await reader.read(text, language);
      const handOver = found.urgency === "staff" ? null : async () => {
        open.at = Date.now();
        open.id = await report(found);
        render();
      };
      present(found, handOver);
      if (!handOver) open.id = await report(found);
    }
    render();
    $("#symptoms").value = "";
  } catch (error) {
    notice(words.t("trouble", { message: error.message })); // the text stays where it was typed
  } finally {
    button.disabled = false;
  }
}

// --- Begin ----------------------------------------------------------------------------------------------------------

function speak(language) {
  words.language = language;
  words.apply();
  $("#language").value = language;
  $("#urgent-help").textContent = words.t("feel.urgent", { number: config.emergency_number });
  $("#nav").setAttribute("aria-label", words.t("nav"));
  $("#advice").replaceChildren();
  open = null;
  render();
}

$("#language").addEventListener("change", async ({ target }) => {
  speak(target.value);
  await store.set("language", target.value);
  if (patient !== null) await act({ kind: "language", language: target.value });
});
$("#nav").addEventListener("click", ({ target }) => target.dataset.view && show(target.dataset.view));
$("#feel-form").addEventListener("submit", check);
$("#review-all").addEventListener("click", () => act({ kind: "review", about: "", text: "" }));
$("#logout").addEventListener("click", logOut);
$("#export").addEventListener("click", () => {
  const file = views.made("a", { href: "api/export", download: "my-data.json" });
  document.body.append(file);
  file.click();
  file.remove();
});
$("#pair-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  notice("");
  try {
    if (await store.get("must-log-out")) await finishLogOut();
    const name = await link.pair($("#code").value);
    $("#code").value = "";
    await paired(name);
  } catch (error) {
    const key = error instanceof Offline ? "pair.offline" : error.status === 429 ? "pair.wait" : "pair.wrong";
    notice(words.t(key));
  }
});
addEventListener("offline", () => link.lost());
addEventListener("online", refresh);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && (refresh(), watchMessages()));
setInterval(() => document.visibilityState === "visible" && refresh(), REFRESH_MS);
setInterval(() => (tell(), renderAdvice(got?.state ?? NOTHING)), TELL_MS);
(async () => navigator.serviceWorker?.register("sw.js"))().catch(() => {}); // a browser that was told to keep nothing
navigator.storage?.persist?.().catch(() => {});

speak((await store.get("language")) ?? words.language);
patient = (await store.get("patient")) ?? null;
if (await store.get("must-log-out")) {
  show("pair", false);
  finishLogOut().catch(() => {});
} else if (patient !== null) {
  [got, decided] = [(await store.get("overview")) ?? null, (await store.get("decided")) ?? null];
  await recount();
  show("today", false);
  refresh();
} else {
  try {
    await paired(await link.session());
  } catch {
    await unpaired();
  }
}
document.documentElement.dataset.ready = "";
