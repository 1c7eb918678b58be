// What `wasm_speed.py` measures, in Node and in a browser: one model in one module, asked again and again.

import { Engine } from "../engine/javascript/smallhold_engine.js";

export const PROMPT = 240;
export const HOURS = 48;
const DECIDING = [7, 9];

/** Resolves to {kernels, prompt, hours}: each call is one sample. */
export async function contestant(wasm, gguf) {
  const engine = await Engine.load(wasm);
  const model = engine.model(gguf);
  const ids = Array.from({ length: PROMPT }, (_, i) => (37 * i) % 8000);
  const hour = new Float32Array(model.width).fill(0.1);
  const within = (use) => {
    const session = model.session();
    use(session);
    session.free();
  };
  const ask = (session) => session.score([], [-1], DECIDING);
  return {
    kernels: engine.kernels()[0],
    prompt: () => within((session) => (session.append(ids), ask(session))),
    hours: () =>
      within((session) => {
        for (let i = 0; i < HOURS; i++) session.append(hour), ask(session);
      }),
  };
}

if (globalThis.process?.argv) {
  // In Node: a line asks for a sample, `prompt` or `hours`; a line answers with milliseconds of processor time.
  const { readFileSync } = await import("node:fs");
  const { createInterface } = await import("node:readline");
  const [wasm, gguf] = process.argv.slice(2);
  const asked = await contestant(readFileSync(wasm), readFileSync(gguf));
  console.log(asked.kernels);
  for await (const line of createInterface({ input: process.stdin })) {
    const begun = process.cpuUsage();
    asked[line]();
    const { user, system } = process.cpuUsage(begun);
    console.log((user + system) / 1000);
  }
}
