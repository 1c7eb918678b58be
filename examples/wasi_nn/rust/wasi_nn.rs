//! `wasi_ephemeral_nn` as plain functions; copy this file into a guest of your own.

/// Inputs of a session.
pub const APPEND: u32 = 0;
pub const ROWS: u32 = 3;

const U8: u8 = 3;
const I32: u8 = 4;

/// As the ABI lays it out.
#[repr(C)]
struct Tensor {
    dimensions: *const u32,
    rank: usize,
    kind: u8,
    data: *const u8,
    bytes: usize,
}

#[link(wasm_import_module = "wasi_ephemeral_nn")]
extern "C" {
    fn load_by_name(name: *const u8, bytes: usize, graph: *mut u32) -> u32;
    fn init_execution_context(graph: u32, context: *mut u32) -> u32;
    fn set_input(context: u32, index: u32, tensor: *const Tensor) -> u32;
    fn compute(context: u32) -> u32;
    fn get_output(context: u32, index: u32, buffer: *mut u8, most: usize, written: *mut usize) -> u32;
}

/// An execution context.
pub struct Context(u32);

impl Context {
    /// A context of a model that the host offers.
    pub fn open(name: &str) -> Result<Self, String> {
        let (mut graph, mut context) = (0, 0);
        // SAFETY: the host reads the name and writes one handle.
        check(name, unsafe { load_by_name(name.as_ptr(), name.len(), &mut graph) })?;
        // SAFETY: the host writes one handle.
        check(name, unsafe { init_execution_context(graph, &mut context) })?;
        Ok(Self(context))
    }

    /// Set an input to a row of numbers.
    pub fn set_numbers(&self, index: u32, numbers: &[i32]) -> Result<(), String> {
        self.set(index, I32, numbers.len(), numbers.as_ptr().cast(), size_of_val(numbers))
    }

    /// Set input 0 to a text.
    pub fn set_text(&self, text: &str) -> Result<(), String> {
        self.set(0, U8, text.len(), text.as_ptr(), text.len())
    }

    fn set(&self, index: u32, kind: u8, count: usize, data: *const u8, bytes: usize) -> Result<(), String> {
        let dimensions = [count as u32];
        let tensor = Tensor { dimensions: dimensions.as_ptr(), rank: 1, kind, data, bytes };
        // SAFETY: the host copies what the record points to before it returns.
        check("set_input", unsafe { set_input(self.0, index, &tensor) })
    }

    pub fn compute(&self) -> Result<(), String> {
        // SAFETY: the host touches no memory of ours.
        check("compute", unsafe { compute(self.0) })
    }

    /// Read an output of exactly this many numbers of four bytes.
    pub fn read<T: Number>(&self, index: u32, into: &mut [T]) -> Result<(), String> {
        let (room, mut written) = (size_of_val(into), 0);
        // SAFETY: the host writes at most `room` bytes, and any bits are a number.
        check("get_output", unsafe { get_output(self.0, index, into.as_mut_ptr().cast(), room, &mut written) })?;
        if written == room {
            Ok(())
        } else {
            Err(format!("output {index}: expected {room} bytes, got {written}"))
        }
    }
}

/// Numbers of four bytes.
pub trait Number {}
impl Number for f32 {}
impl Number for i32 {}

fn check(what: &str, code: u32) -> Result<(), String> {
    const NAMES: [&str; 9] = [
        "success",
        "invalid argument",
        "invalid encoding",
        "missing memory",
        "busy",
        "runtime error",
        "unsupported operation",
        "too large",
        "not found",
    ];
    match code {
        0 => Ok(()),
        _ => Err(format!("{what}: {}", NAMES.get(code as usize).unwrap_or(&"unknown error"))),
    }
}
