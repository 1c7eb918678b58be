// The trunk on WebGPU, for texts: ONNX Runtime Web reads the tokens that the engine names, and gives back its logits.
//
// Readings stay with the engine: they append one position at a time, less work than it takes to ask a graphics processor.

import * as ort from "./ort.webgpu.js";

const RUNTIME = "ort-wasm-simd-threaded.asyncify.wasm";

const fetched = async (name) => {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be loaded: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
};

const hex = (bytes) => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");

export class WebGpuTrunk {
  /**
   * Load the trunk, or throw what is in the way.
   *
   * @param {string} digest SHA-256 of the graph as the signed manifest says it.
   */
  static async load(digest) {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) throw new Error("no graphics processor");
    const [runtime, graph] = await Promise.all([fetched(RUNTIME), fetched("trunk.onnx")]);
    if (hex(await crypto.subtle.digest("SHA-256", graph)) !== digest) throw new Error("trunk.onnx is not the signed one");
    // Given as bytes, on one thread: the runtime then fetches nothing and starts no worker.
    Object.assign(ort.env.wasm, { wasmBinary: runtime, numThreads: 1 });
    const session = await ort.InferenceSession.create(new Uint8Array(graph), {
      executionProviders: ["webgpu"],
      logSeverityLevel: 3, // errors; it would warn of shapes, which it leaves to the processor
      preferredOutputLocation: { logits: "cpu", present: "gpu-buffer" },
    });
    const { vendor, architecture } = adapter.info;
    return new WebGpuTrunk(session, [vendor, architecture].filter(Boolean).join(" ") || "of unknown make");
  }

  constructor(session, adapter) {
    Object.assign(this, { session, adapter });
    this.shapes = Object.fromEntries(session.inputMetadata.map(({ name, shape }) => [name, shape]));
  }

  /** Logits (K) of the deciding tokens behind the last of the tokens. */
  async logits({ reads, deciding }) {
    const whole = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
    const [, width] = this.shapes.embeddings;
    const [, ...page] = this.shapes.past;
    const feeds = {
      ids: whole(reads),
      embeddings: new ort.Tensor("float32", new Float32Array(reads.length * width), [reads.length, width]),
      past: new ort.Tensor("float32", new Float32Array(0), [0, ...page]),
      at: whole([reads.length - 1]),
    };
    const { logits, present } = await this.session.run(feeds);
    present.dispose();
    return deciding.map((id) => logits.data[id]);
  }
}
