//! The bundle inside a WebAssembly app. A module cannot read its own file as a program can, so `smallhold bundle app
//! --wasm` puts the bytes into a passive data segment, and puts instructions that copy it into the place of `bytes`.

use std::hint::black_box;

/// What marks the function: `smallhold.bundle.wasm_app` looks for this constant in the code.
const MARK: u64 = 0x7368_2d61_7070_2f31; // "sh-app/1"

/// How many bytes there are; with a `count`, the first of them are written to `to`. None in a program that is no app.
#[inline(never)]
extern "C" fn bytes(to: *mut u8, count: usize) -> usize {
    black_box((MARK, to, count));
    0
}

/// All of the bytes; `None` where this is no app.
pub fn read() -> Option<Vec<u8>> {
    // By a pointer that the compiler knows nothing of, so that it believes nothing of what stands there now.
    let bytes: extern "C" fn(*mut u8, usize) -> usize = black_box(bytes);
    let len = bytes(core::ptr::null_mut(), 0);
    if len == 0 {
        return None;
    }
    let mut data = vec![0; len];
    bytes(data.as_mut_ptr(), len);
    Some(data)
}
