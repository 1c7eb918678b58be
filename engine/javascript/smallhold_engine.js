// The engine for browsers and Node: one WebAssembly module, sessions as in `include/smallhold_engine.h`.
//
//   const engine = await Engine.load(wasmBytes);
//   const program = engine.program(bundleBytes, { keys: pemText });   // a bundle in one file, verified
//   program.ask({ task: "triage", text: "Red, itchy patches on both elbows.", explain: true });
//   program.ask({ task: "icu-risk", patient: "7", static: [...] });
//   program.ask({ task: "icu-risk", patient: "7", observe: [["HR", 118]], close: true, decide: true });
//
// And below it the trunk alone:
//
//   const model = engine.model(ggufBytes);
//   const session = model.session();
//   session.append([1, 2, 3]);                       // token ids, or a Float32Array of embeddings (T x width)
//   const logits = session.score([], [-1], [7, 9]);  // Float32Array, positions x rows

const MESSAGE_BYTES = 512;

// A module of one function, which multiplies and adds as relaxed SIMD does.
const RELAXED = Uint8Array.from([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 20, 1, 18, 0,
  65, 0, 253, 17, 65, 0, 253, 17, 65, 0, 253, 17, 253, 133, 2, 26, 11,
]);

/** A failure of the engine; `kind` is one of the header's numbers, or its name where a program says it. */
export class EngineError extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** The module, loaded. */
export class Engine {
  static async load(wasm) {
    const source = wasm instanceof WebAssembly.Module ? wasm : await WebAssembly.compile(wasm);
    const instance = await WebAssembly.instantiate(source, {});
    return new Engine(instance.exports);
  }

  /** Whether this host takes the module that `build.sh wasm32-unknown-unknown relaxed` makes. */
  static hasRelaxedSimd() {
    return WebAssembly.validate(RELAXED);
  }

  constructor(exports) {
    this.exports = exports;
  }

  /** Kernel families of this module, the fastest first. */
  kernels() {
    return this.#text(this.exports.smallhold_kernels()).split(" ");
  }

  /** Read a GGUF file (Uint8Array); its bytes are copied into the module. */
  model(gguf, kernels = null) {
    const family = kernels === null ? null : new TextEncoder().encode(`${kernels}\0`);
    return this.#with([gguf, family, new Uint8Array(4), new Uint8Array(32)], (data, name, handle, info) => {
      this.#check((message) =>
        this.exports.smallhold_model_from_bytes(data, gguf.length, name, handle, info, message),
      );
      const view = new DataView(this.exports.memory.buffer);
      const sizes = [0, 8, 16].map((at) => Number(view.getBigUint64(info + at, true)));
      return new Model(this, view.getUint32(handle, true), ...sizes);
    });
  }

  /**
   * Open a bundle in one file (Uint8Array) with all of its tasks.
   *
   * @param {{keys: string|null, now?: number, kernels?: string}} options `keys`: PEM texts one behind the other, one of
   *   which has to have signed the bundle, or null where the caller has verified it; `now`: seconds since 1970.
   */
  program(bundle, { keys, now = Date.now() / 1000, kernels = null }) {
    if (keys === undefined) throw new TypeError("keys: expected PEM texts, or null where the bundle was verified before");
    const text = (value) => (value === null ? null : new TextEncoder().encode(`${value}\0`));
    return this.#with([bundle, text(keys), text(kernels), new Uint8Array(4)], (data, trusted, family, handle) => {
      this.#check((message) =>
        this.exports.smallhold_program_from_bytes(
          data, bundle.length, trusted, BigInt(Math.floor(now)), family, handle, message,
        ),
      );
      return new Program(this, new DataView(this.exports.memory.buffer).getUint32(handle, true));
    });
  }

  /** Call with copies of arrays inside the module's memory (0 for null), and let go of them afterwards. */
  call(arrays, use) {
    return this.#with(arrays, use);
  }

  /** Run what returns a code and writes a sentence; throw when it is not 0. */
  check(run) {
    this.#check(run);
  }

  #with(arrays, use) {
    const rooms = [];
    try {
      for (const array of arrays) {
        if (array === null) {
          rooms.push([0, 0]);
          continue;
        }
        const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
        const at = this.exports.smallhold_room(bytes.length);
        if (at === 0) throw new EngineError(5, `no room for ${bytes.length} bytes`);
        rooms.push([at, bytes.length]);
        new Uint8Array(this.exports.memory.buffer, at, bytes.length).set(bytes);
      }
      return use(...rooms.map(([at]) => at));
    } finally {
      for (const [at, length] of rooms) this.exports.smallhold_room_free(at, length);
    }
  }

  #check(run) {
    this.#with([new Uint8Array(MESSAGE_BYTES)], (message) => {
      const kind = run(message);
      if (kind !== 0) throw new EngineError(kind, this.#text(message));
    });
  }

  /** The text that ends with a zero at a place in the module's memory. */
  text(at) {
    return this.#text(at);
  }

  #text(at) {
    const bytes = new Uint8Array(this.exports.memory.buffer, at);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }
}

/** A bundle that is asked by objects; the engine's `src/program.rs` says which. */
export class Program {
  constructor(engine, handle) {
    Object.assign(this, { engine, handle });
  }

  /** Answer a request; throws what the engine refuses, and then nothing has changed. */
  ask(request) {
    if (this.handle === 0) throw new EngineError(3, "this program was let go of");
    const bytes = new TextEncoder().encode(JSON.stringify(request));
    const answer = this.engine.call([bytes, new Uint8Array(4)], (data, place) => {
      this.engine.exports.smallhold_program_ask(this.handle, data, bytes.length, place);
      const at = new DataView(this.engine.exports.memory.buffer).getUint32(place, true);
      return JSON.parse(this.engine.text(at));
    });
    if (answer.error) throw new EngineError(answer.error.kind, answer.error.message);
    return answer;
  }

  free() {
    this.engine.exports.smallhold_program_free(this.handle);
    this.handle = 0;
  }
}

/** A model; `free` it when no session needs it any more. */
export class Model {
  constructor(engine, handle, vocabSize, width, contextLength) {
    Object.assign(this, { engine, handle, vocabSize, width, contextLength });
  }

  session() {
    return new Session(this, this.engine.exports.smallhold_session_new(this.handle));
  }

  free() {
    this.engine.exports.smallhold_model_free(this.handle);
    this.handle = 0;
  }
}

/** One sequence and its cache. */
export class Session {
  constructor(model, handle) {
    Object.assign(this, { model, engine: model.engine, handle });
  }

  get length() {
    return Number(this.engine.exports.smallhold_session_length(this.handle));
  }

  append(inputs) {
    const [tokens, embeddings, count] = this.#doors(inputs);
    this.engine.call([tokens, embeddings], (ids, rows) =>
      this.engine.check((message) =>
        this.engine.exports.smallhold_session_append(this.handle, ids, rows, count, message),
      ),
    );
  }

  score(inputs, at, rows = null) {
    const [tokens, embeddings, count] = this.#doors(inputs);
    const where = BigInt64Array.from(at, BigInt);
    const asked = rows === null ? null : Uint32Array.from(rows);
    const width = rows === null ? this.model.vocabSize : rows.length;
    const out = new Float32Array(at.length * width);
    return this.engine.call([tokens, embeddings, where, asked, out], (ids, states, places, picked, room) => {
      this.engine.check((message) =>
        this.engine.exports.smallhold_session_score(
          this.handle, ids, states, count, places, at.length, picked, width, room, message,
        ),
      );
      return new Float32Array(this.engine.exports.memory.buffer, room, out.length).slice();
    });
  }

  fork() {
    return new Session(this.model, this.engine.exports.smallhold_session_fork(this.handle));
  }

  rewind(length) {
    this.engine.check((message) =>
      this.engine.exports.smallhold_session_rewind(this.handle, BigInt(length), message),
    );
  }

  free() {
    this.engine.exports.smallhold_session_free(this.handle);
    this.handle = 0;
  }

  #doors(inputs) {
    if (inputs instanceof Float32Array) {
      if (inputs.length % this.model.width !== 0) {
        throw new EngineError(3, `embeddings: ${inputs.length} numbers are not whole rows of ${this.model.width}`);
      }
      return [null, inputs, inputs.length / this.model.width];
    }
    return [Uint32Array.from(inputs), null, inputs.length];
  }
}
