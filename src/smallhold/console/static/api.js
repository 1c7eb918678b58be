// Requests to the console. `automatic` ones are the page's own doing and do not keep a session alive.

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

let token = "";
export function setToken(value) { token = value; }

export async function call(method, path, body, { automatic = false } = {}) {
  const headers = {};
  if (method !== "GET") headers["X-CSRF-Token"] = token;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (automatic) headers["X-Automatic"] = "1";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin",
      cache: "no-store", signal: AbortSignal.timeout(15000) });
  } catch {
    throw new Refused(0, "the console cannot be reached");
  }
  let value = null;
  try { value = await answer.json(); } catch { /* an empty or broken answer: the status says enough */ }
  if (!answer.ok) {
    if (answer.status === 401 && path !== "/api/session") window.dispatchEvent(new Event("logged-out"));
    throw new Refused(answer.status, value?.error ? value.error + (value.hint ? ` (${value.hint})` : "") : `HTTP ${answer.status}`);
  }
  return value;
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body = {}) => call("POST", path, body);
export const bedPath = (patient, rest = "") => `/api/beds/${encodeURIComponent(patient)}${rest}`;
