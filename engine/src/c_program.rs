//! The C interface to a bundle that is asked by JSON; `include/smallhold_engine.h` says the same in C.
//!
//! # Safety
//! See `c_interface`. One program is used by one thread at a time.

use std::ffi::{c_char, CStr};
use std::os::raw::c_int;
use std::sync::Arc;

use crate::c_interface::{array, family, shape, told, Message};
use crate::error::{Kind, Result};
use crate::memory;
use crate::model::Source;
use crate::program::Program;
use crate::verify::bundle::{Bundle, Trust};
use crate::verify::keys::PublicKey;

/// A program and its newest answer.
pub struct Asked {
    program: Program,
    answer: String,
}

/// Open a bundle on the disk, a folder or one file, by the system's clock, with all of its tasks.
///
/// `keys` are PEM texts one behind the other, one of which has to have signed the bundle; null says that the host has
/// verified it. `kernels` names a family, or is null for the fastest.
///
/// # Safety
/// `path`, `keys` and `kernels` end with a zero, the latter two may be null; `program` has room.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))] // neither disk nor clock
#[no_mangle]
pub unsafe extern "C" fn smallhold_program_open(
    path: *const c_char,
    keys: *const c_char,
    kernels: *const c_char,
    program: *mut *mut Asked,
    message: Message,
) -> c_int {
    // SAFETY: the caller's promise.
    let open = || unsafe {
        if path.is_null() {
            return Err(shape("a null pointer in place of a path"));
        }
        let path = CStr::from_ptr(path).to_str().map_err(|_| shape("the path is not UTF-8"))?;
        load(|trust| Bundle::open(path.as_ref(), trust), keys, kernels, program)
    };
    told(message, open())
}

/// Read a bundle in one file from memory; its bytes are copied, and files for other runtimes may be missing. `now` is in seconds since 1970; 0 where there is no clock,
/// and then expiry is not checked.
///
/// # Safety
/// `len` bytes lie at `data`; otherwise as `smallhold_program_open`.
#[no_mangle]
pub unsafe extern "C" fn smallhold_program_from_bytes(
    data: *const u8,
    len: usize,
    keys: *const c_char,
    now: u64,
    kernels: *const c_char,
    program: *mut *mut Asked,
    message: Message,
) -> c_int {
    // SAFETY: the caller's promise.
    let read = || unsafe {
        let file: Source = Arc::new(memory::copied(array(data, len)?)?);
        load(|trust| Bundle::from_part(&file, 0..len, trust, (now > 0).then_some(now)), keys, kernels, program)
    };
    told(message, read())
}

/// # Safety
/// As `smallhold_program_open`.
unsafe fn load(
    open: impl FnOnce(Trust<'_>) -> Result<Bundle>,
    keys: *const c_char,
    kernels: *const c_char,
    program: *mut *mut Asked,
) -> Result<()> {
    if program.is_null() {
        return Err(shape("a null pointer in place of a result"));
    }
    // SAFETY: the caller's promise.
    let keys = unsafe { trusted(keys)? };
    let bundle = open(keys.as_deref().map_or(Trust::HostHasVerified, Trust::Keys))?;
    // SAFETY: the caller's promise.
    let made = Program::load(&bundle, &bundle.manifest().tasks, unsafe { family(kernels)? })?;
    // SAFETY: the caller gave room.
    unsafe { *program = Box::into_raw(Box::new(Asked { program: made, answer: String::new() })) };
    Ok(())
}

/// Keys of PEM texts one behind the other; `None` for a null pointer.
///
/// # Safety
/// `keys` is null or ends with a zero.
unsafe fn trusted(keys: *const c_char) -> Result<Option<Vec<PublicKey>>> {
    if keys.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(keys) }.to_str().map_err(|_| shape("the keys are not text"))?;
    PublicKey::all_from_pem(text).map(Some)
}

/// Compute with so many threads from now on, the caller among them; once a program.
///
/// # Safety
/// `program` was opened here and not freed.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))] // no threads
#[no_mangle]
pub unsafe extern "C" fn smallhold_program_set_threads(program: *const Asked, count: usize, message: Message) -> c_int {
    // SAFETY: the caller's promise.
    told(message, unsafe { &*program }.program.set_threads(count))
}

/// Ask by a JSON object of `len` bytes: 0, or a kind of failure. The answer, JSON in UTF-8 that ends with a zero, tells of
/// failures too; it stays until the next call.
///
/// # Safety
/// `program` was opened here and not freed, or is null; `len` bytes lie at `request`, and `answer` has room.
#[no_mangle]
pub unsafe extern "C" fn smallhold_program_ask(
    program: *mut Asked,
    request: *const u8,
    len: usize,
    answer: *mut *const c_char,
) -> c_int {
    if program.is_null() || answer.is_null() {
        return Kind::Shape as c_int;
    }
    // SAFETY: the caller's promise.
    let (asked, request) = unsafe { (&mut *program, array(request, len).unwrap_or(&[])) };
    let (value, failure) = asked.program.ask(request);
    asked.answer.clear();
    // JSON holds no other zero: one in a text is written as \u0000.
    let is_written = value.write(&mut memory::Growing(&mut asked.answer)).is_ok()
        && memory::push_str(&mut asked.answer, "\0").is_ok();
    let words = if is_written { asked.answer.as_str() } else { NO_MEMORY };
    // SAFETY: the caller gave room.
    unsafe { *answer = words.as_ptr().cast() };
    if is_written {
        failure.map_or(0, |kind| kind as c_int)
    } else {
        Kind::Memory as c_int
    }
}

/// The answer where there is no room for the answer.
const NO_MEMORY: &str = "{\"error\":{\"kind\":\"memory\",\"message\":\"no memory left for the answer\"}}\0";

/// Let go of a program, its patients and its newest answer.
///
/// # Safety
/// `program` was opened here and is freed once; null is allowed.
#[no_mangle]
pub unsafe extern "C" fn smallhold_program_free(program: *mut Asked) {
    if !program.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(program) });
    }
}
