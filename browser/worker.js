// The engine beside the page, so that a decision never holds up a key or a frame.
//
// In: {number, request}. Out: {number, answer, ms, bytes} or {number, error}; first of all {ready} or {error}.

import { Engine } from "./smallhold_engine.js";

const fetched = async (name) => {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be loaded: ${response.status} ${response.statusText}`);
  return response;
};

let program = null;
let engine = null;

onmessage = ({ data: { number, request } }) => {
  try {
    const begun = performance.now();
    const answer = program.ask(request);
    postMessage({ number, answer, ms: performance.now() - begun, bytes: engine.exports.memory.buffer.byteLength });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
};

try {
  const [wasm, bundle, keys] = await Promise.all([
    fetched("smallhold_engine.wasm").then((response) => response.arrayBuffer()),
    fetched("bundle.zip").then((response) => response.arrayBuffer()),
    fetched("keys.pem").then((response) => response.text()),
  ]);
  engine = await Engine.load(wasm);
  const begun = performance.now();
  program = engine.program(new Uint8Array(bundle), { keys });
  const { about } = program.ask({ about: true });
  postMessage({ ready: { about, ms: performance.now() - begun, kernels: engine.kernels()[0], bytes: bundle.byteLength } });
} catch (error) {
  postMessage({ error: error.message });
}
