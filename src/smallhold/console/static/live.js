// The ward as the console sends it: one stream of events, kept as a picture; who listens is told when it changed.
// State is always known: `connected`, `stuck` (the console answers, the ward does not) or `lost`.

import { get } from "./api.js";

const SILENCE_MS = 6000; // three heartbeats
export const ward = { link: "connecting", now: 0, at: 0, speed: 1, faults: [], order: [], beds: new Map() };
const listeners = new Set();
let source = null;
let lastHeard = 0;
let watchdog = null;
let retry = null;

export function listen(listener) { listeners.add(listener); return () => listeners.delete(listener); }
function tell(changed) { for (const listener of listeners) listener(changed); }

// The ward's time now, on from what it last said.
export function now() { return ward.now + (Date.now() - ward.at) * ward.speed; }

export function start() {
  stop();
  ward.link = "connecting";
  lastHeard = Date.now();
  source = new EventSource("/api/events");
  source.addEventListener("whole", (event) => take(JSON.parse(event.data), true));
  source.addEventListener("ward", (event) => take(JSON.parse(event.data), false));
  source.addEventListener("end", () => { stop(); window.dispatchEvent(new Event("logged-out")); });
  source.onerror = () => {
    lose();
    // After an answer that is an error the browser does not try again by itself.
    if (source && source.readyState === EventSource.CLOSED && retry === null) retry = setTimeout(again, 2000);
  };
  watchdog = setInterval(() => { if (Date.now() - lastHeard > SILENCE_MS) lose(); }, 500);
}

export function stop() {
  if (source) source.close();
  source = null;
  clearInterval(watchdog);
  clearTimeout(retry);
  retry = null;
}

async function again() {
  retry = null;
  try { await get("/api/session", { automatic: true }); } catch (error) {
    if (error.status === 401) { window.dispatchEvent(new Event("logged-out")); return; }
  }
  start();
  lose();
}

function lose() { if (ward.link !== "lost") { ward.link = "lost"; tell([]); } }
window.addEventListener("offline", () => { if (source) lose(); });

function take(data, isWhole) {
  lastHeard = Date.now();
  if (isWhole) ward.beds.clear();
  ward.link = data.is_stuck ? "stuck" : "connected";
  if (!data.is_stuck) { ward.now = data.now_ms; ward.at = Date.now(); ward.speed = data.speed; }
  ward.faults = data.faults || [];
  ward.order = data.order;
  const changed = Object.keys(data.beds);
  for (const name of changed) {
    if (data.beds[name] === null) ward.beds.delete(name);
    else ward.beds.set(name, data.beds[name]);
  }
  tell(changed);
}
