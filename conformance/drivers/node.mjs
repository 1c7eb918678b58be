// node.mjs WRAPPER WASM                               kernel families, the fastest first
// node.mjs WRAPPER WASM logits KERNELS WEIGHTS PROMPTS    float32 logits of every position on standard output
// node.mjs WRAPPER WASM decide KERNELS BUNDLE KEYS        answers to JSON lines on standard input, one a line
import { openSync, readFileSync, writeSync } from "node:fs";
import { logitsOf } from "./logits.mjs";

const [wrapper, wasm, what, kernels, ...files] = process.argv.slice(2);
const { Engine } = await import(wrapper);
const engine = await Engine.load(readFileSync(wasm));
// Opened anew, because Node makes the pipe that it is given one that does not wait.
const output = openSync("/dev/stdout", "w");

function write(bytes) {
  for (let at = 0; at < bytes.length; ) at += writeSync(output, bytes, at);
}

process.on("uncaughtException", (error) => {
  console.error(error.message);
  process.exit(1);
});

if (what === undefined) {
  write(new TextEncoder().encode(`${engine.kernels().join(" ")}\n`));
} else if (what === "logits") {
  const [weights, prompts] = files.map((file) => new Uint8Array(readFileSync(file)));
  for (const logits of logitsOf(engine, weights, kernels, prompts)) {
    write(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
  }
} else {
  const [bundle, keys] = files;
  const program = engine.program(new Uint8Array(readFileSync(bundle)), { keys: readFileSync(keys, "utf8"), kernels });
  for (const line of readFileSync("/dev/stdin", "utf8").split("\n").filter(Boolean)) {
    let answer;
    try {
      answer = program.ask(JSON.parse(line));
    } catch (error) {
      answer = { error: { kind: error.kind, message: error.message } };
    }
    write(new TextEncoder().encode(`${JSON.stringify(answer)}\n`));
  }
}
