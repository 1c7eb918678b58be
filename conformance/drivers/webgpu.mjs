// Logits of prompts by ONNX Runtime Web on WebGPU, for the driver of targets/webgpu.py.
import * as ort from "/ort.mjs";
import { readPrompts } from "/logits.mjs";

ort.env.wasm.wasmPaths = { mjs: "/ort-wasm.mjs", wasm: "/ort-wasm.wasm" };
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());

/** Vendor and architecture of the adapter, or null. */
export async function adapter() {
  const found = await navigator.gpu?.requestAdapter();
  return found ? `${found.info.vendor} ${found.info.architecture}` : null;
}

/** Compute the logits of `/prompts` with `/graph`, and post them part by part; a part begins where the last one ended. */
export async function logits([layers, kvHeads, headDim, width]) {
  const session = await ort.InferenceSession.create(await bytes("/graph"), { executionProviders: ["webgpu"] });
  const numbers = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
  for (const parts of readPrompts(await bytes("/prompts"), width)) {
    let past = new Float32Array(0);
    for (const { positions, isEmbedded, inputs } of parts) {
      const size = 2 * layers * kvHeads * headDim;
      const found = await session.run({
        ids: numbers(isEmbedded ? new Array(positions).fill(-1) : inputs),
        embeddings: new ort.Tensor("float32", isEmbedded ? inputs : new Float32Array(positions * width), [positions, width]),
        past: new ort.Tensor("float32", past, [past.length / size, layers, 2, kvHeads, headDim]),
        at: numbers(Array.from({ length: positions }, (_, at) => at)),
      });
      const sent = await fetch("/logits", { method: "POST", body: found.logits.data });
      if (!sent.ok) throw new Error(`the logits were not taken: ${sent.status}`);
      const longer = new Float32Array(past.length + found.present.data.length);
      longer.set(past);
      longer.set(found.present.data, past.length);
      past = longer;
    }
  }
  await session.release();
}
