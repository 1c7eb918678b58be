// The connection: asks the server, says whether it answers, and sends what waits, each thing once.

const DEADLINE_MS = 15_000;
const MOST_AT_ONCE = 20;

export class Offline extends Error {}
export class Unpaired extends Error {}

export class Link {
  /** `changed()` is called when the line comes or goes; `refused(action, message)` for what the server will never take. */
  constructor(store, { changed, refused }) {
    Object.assign(this, { store, changed, refused });
    this.isOnline = navigator.onLine;
    this.csrf = null;
    this.patient = null;
  }

  #say(isOnline) {
    if (this.isOnline !== isOnline) {
      this.isOnline = isOnline;
      this.changed();
    }
  }

  lost() {
    this.#say(false);
  }

  async #ask(path, body) {
    let response;
    try {
      const headers = body === undefined ? {} : { "content-type": "application/json", "x-smallhold-csrf": this.csrf ?? "" };
      response = await fetch(`api/${path}`, {
        method: body === undefined ? "GET" : "POST",
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        credentials: "same-origin",
        signal: AbortSignal.timeout(DEADLINE_MS),
      });
    } catch {
      this.#say(false);
      throw new Offline();
    }
    this.#say(true);
    if (response.status === 401) throw new Unpaired();
    const told = await response.json().catch(() => ({}));
    if (!response.ok) throw Object.assign(new Error(told.error ?? `${response.status}`), { status: response.status });
    return told;
  }

  async #session() {
    const { patient, csrf } = await this.#ask("session");
    Object.assign(this, { patient, csrf });
    return patient;
  }

  /** Whom this device speaks for; Unpaired where for nobody. */
  session() {
    return this.#session();
  }

  async pair(code) {
    const { patient, csrf } = await this.#ask("pair", { code });
    Object.assign(this, { patient, csrf });
    return patient;
  }

  overview() {
    return this.#ask("overview");
  }

  decisions() {
    return this.#ask("decisions");
  }

  triage(text, language) {
    return this.#ask("triage", { text, language });
  }

  async logOut() {
    await this.#session();
    await this.#ask("log-out", {});
    this.csrf = this.patient = null;
  }

  /** Send what waits, oldest first; ends when nothing is left or the line goes. Other windows of this page stand by. */
  async send(patient) {
    return navigator.locks.request("smallhold-send", async () => {
      for (;;) {
        const items = (await this.store.waiting(patient)).slice(0, MOST_AT_ONCE);
        if (!items.length) return;
        if (this.csrf === null) await this.#session();
        if (this.patient !== patient) throw new Unpaired();
        const left = await this.#sendSome(items);
        if (left) return;
      }
    });
  }

  /** Whether something has to be sent later. */
  async #sendSome(items) {
    let results;
    try {
      ({ results } = await this.#ask("actions", { actions: items.map(({ action }) => action) }));
    } catch (error) {
      if (error.status === 403 && this.csrf !== null) {
        this.csrf = null; // the device was paired anew in another window
        return true;
      }
      if (![413, 422].includes(error.status)) throw error;
      // Too much at once, or one of them is malformed: alone, it is found.
      if (items.length === 1) {
        await this.store.remove([items[0].seq]);
        this.refused(items[0].action, error.message);
        return false;
      }
      for (const item of items) if (await this.#sendSome([item])) return true;
      return false;
    }
    const settled = results.flatMap(({ status }, i) => (status === "later" ? [] : [items[i].seq]));
    await this.store.remove(settled);
    results.forEach(({ status, message }, i) => status === "refused" && this.refused(items[i].action, message));
    return settled.length < items.length;
  }
}
