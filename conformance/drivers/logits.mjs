// Logits of prompts, computed by the engine as WebAssembly; for Node and for a page.

/** Prompts as `encode` of conformance/prompts.py writes them (Uint8Array): lists of parts, tokens or embeddings. */
export function readPrompts(bytes, width) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const number = () => view.getUint32((at += 4) - 4, true);
  const part = () => {
    const isEmbedded = number() === 1;
    const positions = number();
    const Kind = isEmbedded ? Float32Array : Uint32Array;
    const numbers = new Kind(bytes.slice(at, (at += 4 * positions * (isEmbedded ? width : 1))).buffer);
    return { positions, isEmbedded, inputs: isEmbedded ? numbers : [...numbers] };
  };
  return Array.from({ length: number() }, () => Array.from({ length: number() }, part));
}

/** Give the logits (Float32Array) of each part in turn; a part is appended when another one follows. */
export function* logitsOf(engine, gguf, kernels, prompts) {
  const model = engine.model(gguf, kernels);
  for (const parts of readPrompts(prompts, model.width)) {
    const session = model.session();
    for (const [i, { positions, inputs }] of parts.entries()) {
      yield session.score(inputs, Array.from({ length: positions }, (_, at) => at));
      if (i + 1 < parts.length) session.append(inputs);
    }
    session.free();
  }
  model.free();
}
