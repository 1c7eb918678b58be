// What a page does for its driver (targets/chromium.py): logits of prompts, and decisions, by the engine as WebAssembly.
import { Engine } from "/smallhold_engine.js";
import { logitsOf } from "/logits.mjs";

const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
const engine = await Engine.load(await bytes("/engine.wasm"));

/** Kernel families, the fastest first. */
export const kernels = () => engine.kernels();

/** Compute the logits of `/prompts` with `/weights`, and post them part by part. */
export async function logits(family) {
  for (const logits of logitsOf(engine, await bytes("/weights"), family, await bytes("/prompts"))) {
    const sent = await fetch("/logits", { method: "POST", body: logits });
    if (!sent.ok) throw new Error(`the logits were not taken: ${sent.status}`);
  }
}

/** Answers to requests, asked of `/bundle` with `/keys`. */
export async function decide(family, requests) {
  const keys = await (await fetch("/keys")).text();
  const program = engine.program(await bytes("/bundle"), { keys, kernels: family });
  const answers = requests.map((request) => {
    try {
      return program.ask(request);
    } catch (error) {
      return { error: { kind: error.kind, message: error.message } };
    }
  });
  program.free();
  return answers;
}
