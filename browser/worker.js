// The engine beside the page, so that a decision never holds up a key or a frame.
//
// In: {number, request}. Out: {number, answer, ms, bytes, trunk} or {number, error}; first of all {ready} or {error}, and
// {trunk} once it is known which trunk reads texts. With `?trunk=processor` or `?trunk=webgpu` that is not measured.

import { Engine } from "./smallhold_engine.js";

const HAS_WEBGPU = false; // these two are written by `smallhold bundle page`
const HAS_RELAXED = false;
const PROCESSOR = "processor";
const WEBGPU = "WebGPU";
const SAMPLE = "A sample of sixty words to compare two readers by: ".repeat(6);
const SLOWEST_MS = 10_000; // a graphics processor that takes longer, its programs being compiled, is none

const fetched = async (name) => {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be loaded: ${response.status} ${response.statusText}`);
  return response;
};

let program = null;
let engine = null;
let webgpu = null;
let reader = PROCESSOR;

/** What a trunk elsewhere has to read; null for what the engine answers alone: readings, explanations, and choices that
 * take more than one pass. */
function readElsewhere(request) {
  if (request.text === undefined || request.explain) return null;
  try {
    return program.ask({ ...request, reads: true });
  } catch (error) {
    if (error.kind !== "unsupported") throw error;
    return null;
  }
}

async function reply({ number, request }) {
  const begun = performance.now();
  const done = (answer, trunk) =>
    postMessage({ number, answer, trunk, ms: performance.now() - begun, bytes: engine.exports.memory.buffer.byteLength });
  try {
    const reads = reader === PROCESSOR ? null : readElsewhere(request);
    if (reads === null) return done(program.ask(request), PROCESSOR);
    let logits;
    try {
      logits = await webgpu.logits(reads);
    } catch (error) {
      reader = PROCESSOR; // a graphics processor may go at any time; texts are read on without it
      postMessage({ trunk: `${PROCESSOR}, because WebGPU failed: ${error.message}` });
      return done(program.ask(request), PROCESSOR);
    }
    done(program.ask({ ...request, logits }), WEBGPU);
  } catch (error) {
    postMessage({ number, error: error.message });
  }
}

// One after the other, as they came.
let last = Promise.resolve();
onmessage = ({ data }) => {
  last = last.then(() => reply(data));
};

/** Milliseconds of the fastest of a few decisions about the sample. */
async function fastest(task, by) {
  const request = { task, text: SAMPLE };
  let least = Infinity;
  for (let i = 0; i < 4; i++) {
    const begun = performance.now();
    program.ask(by === PROCESSOR ? request : { ...request, logits: await webgpu.logits(readElsewhere(request)) });
    if (i > 0) least = Math.min(least, performance.now() - begun); // the first compiles
  }
  return least;
}

const within = (ms, promise) => {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`it took more than ${ms / 1000} s`)), ms));
  return Promise.race([promise, late]);
};

/** Which trunk reads texts, and why. */
async function choose(about, wanted) {
  if (!HAS_WEBGPU || !about.onnx || wanted === "processor") return null;
  try {
    const isRead = ({ name, parameters }) => !parameters && readElsewhere({ task: name, text: SAMPLE }) !== null;
    const task = about.tasks.find(isRead)?.name;
    if (!task) return null;
    const { WebGpuTrunk } = await import("./webgpu_trunk.js");
    webgpu = await WebGpuTrunk.load(about.onnx);
    if (wanted === "webgpu") {
      reader = WEBGPU;
      return `${WEBGPU} (${webgpu.adapter}), as asked`;
    }
    const here = await fastest(task, PROCESSOR);
    const there = await within(SLOWEST_MS, fastest(task, WEBGPU));
    if (there < here) reader = WEBGPU;
    const adapter = `${WEBGPU} (${webgpu.adapter})`;
    return `${reader}: a text took ${here.toFixed(1)} ms on the ${PROCESSOR}, ${there.toFixed(1)} ms on ${adapter}`;
  } catch (error) {
    return `${PROCESSOR}, WebGPU being of no use here: ${error.message}`;
  }
}

try {
  const module = HAS_RELAXED && Engine.hasRelaxedSimd() ? "smallhold_engine_relaxed.wasm" : "smallhold_engine.wasm";
  const [wasm, bundle, keys] = await Promise.all([
    fetched(module).then((response) => response.arrayBuffer()),
    fetched("bundle.zip").then((response) => response.arrayBuffer()),
    fetched("keys.pem").then((response) => response.text()),
  ]);
  engine = await Engine.load(wasm);
  const begun = performance.now();
  program = engine.program(new Uint8Array(bundle), { keys });
  const { about } = program.ask({ about: true });
  postMessage({ ready: { about, ms: performance.now() - begun, kernels: engine.kernels()[0], bytes: bundle.byteLength } });
  const wanted = new URL(location.href).searchParams.get("trunk");
  choose(about, wanted).then((trunk) => trunk && postMessage({ trunk })); // nobody waits for it
} catch (error) {
  postMessage({ error: error.message });
}
