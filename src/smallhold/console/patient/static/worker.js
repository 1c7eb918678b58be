// The engine beside the page: verifies the bundle and reads texts, so that a text need not leave the device.
//
// In: {number, text}. Out: {number, answer} or {number, error}; first of all {ready} or {error}.

const fetched = async (name) => {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return response;
};

let program = null;
let digest = "";

onmessage = ({ data: { number, text } }) => {
  try {
    const { answers } = program.ask({ task: "triage", text });
    const [{ choice, probabilities }] = Object.values(answers);
    postMessage({ number, answer: { choice, confidence: Math.max(...Object.values(probabilities)), bundle: digest } });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
};

try {
  const { Engine } = await import("./smallhold_engine.js");
  const [wasm, bundle, keys] = await Promise.all([
    fetched("smallhold_engine.wasm").then((response) => response.arrayBuffer()),
    fetched("bundle.zip").then((response) => response.arrayBuffer()),
    fetched("keys.pem").then((response) => response.text()),
  ]);
  program = (await Engine.load(wasm)).program(new Uint8Array(bundle), { keys }); // signature and digests are checked here
  const { about } = program.ask({ about: true });
  if (!about.tasks.some(({ name }) => name === "triage")) throw new Error("the bundle has no task triage");
  digest = about.digest;
  postMessage({ ready: true });
} catch (error) {
  postMessage({ error: error.message });
}
