// A patient in observation words, one card a line on standard input: the risk after each, on standard output.
// The model is called "hospital" and asked for death; see ../rust for the same with arguments.

// @ts-ignore: decorators of AssemblyScript
@external("wasi_ephemeral_nn", "load_by_name")
declare function load_by_name(name: usize, bytes: u32, graph: usize): u32;
// @ts-ignore
@external("wasi_ephemeral_nn", "init_execution_context")
declare function init_execution_context(graph: u32, context: usize): u32;
// @ts-ignore
@external("wasi_ephemeral_nn", "set_input")
declare function set_input(context: u32, index: u32, tensor: usize): u32;
// @ts-ignore
@external("wasi_ephemeral_nn", "compute")
declare function compute(context: u32): u32;
// @ts-ignore
@external("wasi_ephemeral_nn", "get_output")
declare function get_output(context: u32, index: u32, buffer: usize, most: u32, written: usize): u32;
// @ts-ignore
@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(file: u32, buffers: usize, count: u32, read: usize): u32;
// @ts-ignore
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(file: u32, buffers: usize, count: u32, written: usize): u32;
// @ts-ignore
@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(code: u32): void;

const U8: u8 = 3, I32: u8 = 4; // types of tensors
const APPEND = 0, ROWS = 3; // inputs of a session
const STDIN = 0, STDOUT = 1, STDERR = 2;
const record = memory.data(20), shape = memory.data(4), result = memory.data(4), pair = memory.data(8);
const ROOM: u32 = 1 << 16;

function print(file: u32, text: string): void {
  const bytes = String.UTF8.encode(text + "\n");
  store<u32>(pair, changetype<usize>(bytes) as u32);
  store<u32>(pair, bytes.byteLength, 4);
  fd_write(file, pair, 1, result);
}

function check(what: string, code: u32): void {
  if (code == 0) return;
  print(STDERR, "ward: " + what + ": error " + code.toString());
  proc_exit(1);
}

function open(name: string): u32 {
  const bytes = String.UTF8.encode(name);
  check(name, load_by_name(changetype<usize>(bytes), bytes.byteLength, result));
  check(name, init_execution_context(load<u32>(result), result));
  return load<u32>(result);
}

// Set an input of one dimension, of elements of so many bytes.
function set(context: u32, index: u32, type: u8, data: ArrayBuffer, size: u32): void {
  store<u32>(shape, data.byteLength / size);
  store<u32>(record, shape as u32);
  store<u32>(record, 1, 4);
  store<u8>(record, type, 8);
  store<u32>(record, changetype<usize>(data) as u32, 12);
  store<u32>(record, data.byteLength, 16);
  check("set_input", set_input(context, index, record));
}

function get(context: u32, room: u32): ArrayBuffer {
  const buffer = new ArrayBuffer(room);
  check("get_output", get_output(context, 0, changetype<usize>(buffer), room, result));
  return buffer.slice(0, load<u32>(result));
}

// Token ids of words, one a line.
function tokens(words: u32, lines: string): ArrayBuffer {
  set(words, 0, U8, String.UTF8.encode(lines), 1);
  check(lines, compute(words));
  return get(words, ROOM);
}

function readAll(): string {
  const piece = new ArrayBuffer(ROOM);
  let whole = "";
  while (true) {
    store<u32>(pair, changetype<usize>(piece) as u32);
    store<u32>(pair, ROOM, 4);
    check("standard input", fd_read(STDIN, pair, 1, result));
    const count = load<u32>(result);
    if (count == 0) return whole;
    whole += String.UTF8.decode(piece.slice(0, count));
  }
}

export function _start(): void {
  const words = open("hospital#words"), patient = open("hospital#session");
  set(patient, ROWS, I32, tokens(words, "<icu-risk:no>\n<icu-risk:yes>"), 4);
  set(patient, APPEND, I32, tokens(words, "<bos>"), 4);
  check("compute", compute(patient));
  const lines = readAll().split("\n");
  for (let i = 0; i < lines.length; i++) {
    const card = lines[i].trim().split(" ");
    if (card[0] == "") continue;
    set(patient, APPEND, I32, tokens(words, card.join("\n")), 4);
    check("compute", compute(patient));
    const logits = get(patient, 8), at = changetype<usize>(logits);
    const risk = 1.0 / (1.0 + Math.exp(load<f32>(at) - load<f32>(at, 4)));
    print(STDOUT, card[card.length - 1] + " " + (Math.round(risk * 10000) / 10000).toString());
  }
}
