// The page's words, by key, in three languages; what the ward itself says (messages of alerts, clauses) is shown as it is.

export const LANGUAGES = [["en", "English"], ["fr", "Français"], ["ru", "Русский"]];
let words = {};
let fallback = {};
export let language = "en";

async function load(name) {
  const answer = await fetch(`/static/words.${name}.json`);
  if (!answer.ok) throw new Error(`words.${name}.json: HTTP ${answer.status}`);
  return answer.json();
}

export async function setLanguage(name) {
  if (!LANGUAGES.some(([known]) => known === name)) name = "en";
  if (!Object.keys(fallback).length) fallback = await load("en");
  words = name === "en" ? fallback : await load(name);
  language = name;
  document.documentElement.lang = name;
  try { localStorage.setItem("language", name); } catch { /* private mode: not remembered */ }
}

export function remembered() {
  try { const held = localStorage.getItem("language"); if (held) return held; } catch { /* private mode */ }
  return (navigator.language || "en").slice(0, 2);
}

export function t(key, values = {}) {
  const text = words[key] ?? fallback[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

// A word of the ward's own, such as a state, where there is one for it.
export function word(group, name) {
  const key = `${group}.${name}`;
  return words[key] ?? fallback[key] ?? name;
}

export function clock(ms, withDay = false) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(withDay ? { day: "2-digit", month: "2-digit" } : {}) };
  return new Intl.DateTimeFormat(language, options).format(new Date(ms));
}

export function age(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 100) return t("age.seconds", { n: seconds });
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? t("age.minutes", { n: minutes }) : t("age.hours", { n: Math.round(minutes / 60) });
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
}
