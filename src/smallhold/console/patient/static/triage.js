// Reads a text: red flags first, then the model on this device, else the one on the server, else nobody.

import { redFlags, urgencyOf } from "./symptoms.js";

const SLOWEST_MS = 30_000; // the first text waits for nine megabytes to be loaded and verified
const NOWHERE = { where: "nowhere", choice: null, confidence: 0, has_abstained: true, bundle: "" };

const within = (ms, promise) =>
  Promise.race([promise, new Promise((_, fail) => setTimeout(() => fail(new Error("it took too long")), ms))]);

export class Reader {
  /** `askServer(text, language)` resolves to what the server's model says, or rejects. */
  constructor(rules, { hasDeviceModel, hasServerModel, askServer }) {
    Object.assign(this, { rules, hasDeviceModel, hasServerModel, askServer });
    this.waiting = new Map();
    this.asked = 0;
    this.started = null;
  }

  /** Begin to load the model of this device, where there is one. */
  start() {
    if (!this.hasDeviceModel) return Promise.reject(new Error("there is no model for this device"));
    this.started ??= new Promise((resolve, reject) => {
      const worker = new Worker("worker.js", { type: "module" });
      worker.onerror = () => reject(new Error("the worker cannot start"));
      worker.onmessage = ({ data }) => {
        if (data.ready) return resolve(worker);
        if (data.number === undefined) return reject(new Error(data.error));
        const [done, failed] = this.waiting.get(data.number);
        this.waiting.delete(data.number);
        data.error === undefined ? done(data.answer) : failed(new Error(data.error));
      };
    }).catch((error) => {
      this.started = null; // tried again at the next text
      throw error;
    });
    return this.started;
  }

  async #onDevice(text) {
    const worker = await this.start();
    const answer = await new Promise((done, failed) => {
      this.waiting.set(++this.asked, [done, failed]);
      worker.postMessage({ number: this.asked, text });
    });
    const isSure = answer.choice !== null && answer.confidence >= this.rules.least_confidence;
    return { ...answer, where: "device", choice: isSure ? answer.choice : null, has_abstained: !isSure };
  }

  async #triage(text, language) {
    if (!this.rules.model_languages.includes(language)) return NOWHERE;
    try {
      return await within(SLOWEST_MS, this.#onDevice(text));
    } catch {
      if (!this.hasServerModel) return NOWHERE;
    }
    try {
      return await within(SLOWEST_MS, this.askServer(text, language));
    } catch {
      return NOWHERE;
    }
  }

  flags(text) {
    return redFlags(text, this.rules);
  }

  /** {flags, triage, urgency} of a text. */
  async read(text, language) {
    const flags = this.flags(text);
    const triage = await this.#triage(text, language);
    return { flags, triage, urgency: urgencyOf(flags, triage, this.rules) };
  }
}
