//! The C interface; `include/smallhold_engine.h` says the same in C.
//!
//! # Safety
//! Callers keep three promises, which C cannot: pointers of models and sessions come from this library and were not
//! freed; arrays have the lengths that are given beside them; one session is used by one thread at a time. Everything
//! else is checked here. Functions return 0 or a kind of `error::Kind`, and write the sentence where they were told.

use std::ffi::{c_char, CStr};
use std::os::raw::c_int;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::kernels::{self, Kernels};
use crate::memory;
use crate::model::{Model, Source};
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
use crate::sample::Sampling;
use crate::session::{Inputs, Session};
use crate::signal::SignalEncoder;

/// Bytes of a message, its end included.
pub const MESSAGE_BYTES: usize = 512;

/// Shape of a model, for callers.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Info {
    /// Entries of the vocabulary.
    pub vocab_size: u64,
    /// Width of an embedding.
    pub width: u64,
    /// Positions that a session may hold.
    pub context_length: u64,
    /// Layers.
    pub layers: u64,
}

/// Where a failure's sentence goes: `MESSAGE_BYTES` bytes, or null.
pub(crate) type Message = *mut c_char;

pub(crate) fn told(message: Message, outcome: Result<()>) -> c_int {
    let Err(Error { kind, message: words }) = outcome else { return 0 };
    if !message.is_null() {
        let mut end = words.len().min(MESSAGE_BYTES - 1);
        while !words.is_char_boundary(end) {
            end -= 1;
        }
        // SAFETY: the caller gave `MESSAGE_BYTES` bytes, and `end` and the zero behind it fit.
        unsafe {
            std::ptr::copy_nonoverlapping(words.as_ptr(), message.cast(), end);
            *message.add(end) = 0;
        }
    }
    kind as c_int
}

pub(crate) fn shape(words: &str) -> Error {
    Error::new(Kind::Shape, words)
}

/// Numbers at a pointer, or none where the count is 0.
///
/// # Safety
/// `count` numbers lie there, or `count` is 0.
pub(crate) unsafe fn array<'a, T>(at: *const T, count: usize) -> Result<&'a [T]> {
    match (count, at.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err(shape("a null pointer in place of an array")),
        // SAFETY: the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(at, count) }),
    }
}

/// Names of the kernel families of this processor, the fastest first, separated by spaces; a text that stays.
#[no_mangle]
pub extern "C" fn smallhold_kernels() -> *const c_char {
    static NAMES: std::sync::OnceLock<std::ffi::CString> = std::sync::OnceLock::new();
    let names = || kernels::families().iter().map(|family| family.name).collect::<Vec<_>>().join(" ");
    NAMES.get_or_init(|| std::ffi::CString::new(names()).unwrap_or_default()).as_ptr()
}

/// Open a GGUF file; `kernels` names a family, or is null for the fastest.
///
/// # Safety
/// `path` and `kernels` end with a zero; `model` and `info` have room.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))] // no disk
#[no_mangle]
pub unsafe extern "C" fn smallhold_model_open(
    path: *const c_char,
    kernels: *const c_char,
    model: *mut *const Model,
    info: *mut Info,
    message: Message,
) -> c_int {
    let open = || {
        if path.is_null() {
            return Err(shape("a null pointer in place of a path"));
        }
        // SAFETY: the caller's promise.
        let path = unsafe { CStr::from_ptr(path) }.to_str().map_err(|_| shape("the path is not UTF-8"))?;
        // SAFETY: the caller's promise.
        unsafe { load(crate::files::open(path.as_ref())?, kernels, model, info) }
    };
    told(message, open())
}

/// Read a GGUF file from memory; its bytes are copied.
///
/// # Safety
/// `len` bytes lie at `data`; otherwise as `smallhold_model_open`.
#[no_mangle]
pub unsafe extern "C" fn smallhold_model_from_bytes(
    data: *const u8,
    len: usize,
    kernels: *const c_char,
    model: *mut *const Model,
    info: *mut Info,
    message: Message,
) -> c_int {
    // SAFETY: the caller's promise.
    let read = || unsafe { load(Arc::new(memory::copied(array(data, len)?)?), kernels, model, info) };
    told(message, read())
}

/// A family by name, or the fastest where there is none.
///
/// # Safety
/// `name` is null or ends with a zero.
pub(crate) unsafe fn family(name: *const c_char) -> Result<&'static Kernels> {
    if name.is_null() {
        return Ok(kernels::detect());
    }
    // SAFETY: the caller's promise.
    let found = unsafe { CStr::from_ptr(name) }.to_str().ok().and_then(kernels::family);
    found.ok_or_else(|| shape("kernels: this processor has no family of that name"))
}

/// # Safety
/// As `smallhold_model_open`.
unsafe fn load(source: Source, kernels: *const c_char, model: *mut *const Model, info: *mut Info) -> Result<()> {
    if model.is_null() {
        return Err(shape("a null pointer in place of a result"));
    }
    // SAFETY: the caller's promise.
    let found = Model::load(source, unsafe { family(kernels)? })?;
    let config = &found.config;
    let sizes = Info {
        vocab_size: config.vocab as u64,
        width: config.width as u64,
        context_length: config.context as u64,
        layers: config.layers as u64,
    };
    // SAFETY: the caller's promise.
    unsafe {
        if !info.is_null() {
            *info = sizes;
        }
        *model = Arc::into_raw(Arc::new(found));
    }
    Ok(())
}

/// Compute with so many threads from now on, the caller among them; once a model.
///
/// # Safety
/// See the head of the file.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))] // no threads
#[no_mangle]
pub unsafe extern "C" fn smallhold_model_set_threads(model: *const Model, count: usize, message: Message) -> c_int {
    // SAFETY: the caller's promise.
    told(message, unsafe { &*model }.set_threads(count))
}

/// Keep keys and values of sessions that begin from now on in 8 bits, or in 32.
///
/// # Safety
/// See the head of the file.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))] // a page holds one patient
#[no_mangle]
pub unsafe extern "C" fn smallhold_model_set_cache_bits(model: *const Model, bits: usize, message: Message) -> c_int {
    let set = || match bits {
        8 | 32 => {
            // SAFETY: the caller's promise.
            unsafe { &*model }.set_cache_rounded(bits == 8);
            Ok(())
        }
        _ => Err(shape(&format!("cache bits: expected 8 or 32, got {bits}"))),
    };
    told(message, set())
}

/// Let go of a model; sessions that are open keep it alive.
///
/// # Safety
/// See the head of the file; null is allowed.
#[no_mangle]
pub unsafe extern "C" fn smallhold_model_free(model: *const Model) {
    if !model.is_null() {
        // SAFETY: made by `smallhold_model_open`, freed once.
        drop(unsafe { Arc::from_raw(model) });
    }
}

/// An empty session.
///
/// # Safety
/// See the head of the file.
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_new(model: *const Model) -> *mut Session {
    // SAFETY: the pointer is an `Arc`'s, whose count goes up for the session.
    let model = unsafe {
        Arc::increment_strong_count(model);
        Arc::from_raw(model)
    };
    Box::into_raw(Box::new(Session::new(model)))
}

/// An independent copy of a session.
///
/// # Safety
/// See the head of the file.
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_fork(session: *const Session) -> *mut Session {
    // SAFETY: the caller's promise.
    Box::into_raw(Box::new(unsafe { &*session }.fork()))
}

/// Let go of a session.
///
/// # Safety
/// See the head of the file; null is allowed.
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_free(session: *mut Session) {
    if !session.is_null() {
        // SAFETY: made by this library, freed once.
        drop(unsafe { Box::from_raw(session) });
    }
}

/// Positions appended so far.
///
/// # Safety
/// See the head of the file.
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_length(session: *const Session) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { &*session }.length() as u64
}

/// Bytes of the cache.
///
/// # Safety
/// See the head of the file.
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_kv_bytes(session: *const Session) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { &*session }.kv_bytes() as u64
}

/// Forget all positions from `length` on.
///
/// # Safety
/// See the head of the file.
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_rewind(session: *mut Session, length: u64, message: Message) -> c_int {
    // SAFETY: the caller's promise.
    told(message, unsafe { &mut *session }.rewind(usize::try_from(length).unwrap_or(usize::MAX)))
}

/// Tokens (T,) or embeddings (T, D), whichever is not null; T may be 0.
///
/// # Safety
/// As many numbers lie there as are said.
unsafe fn inputs<'a>(tokens: *const u32, embeddings: *const f32, count: usize, width: usize) -> Result<Inputs<'a>> {
    // SAFETY: the caller's promise.
    unsafe {
        match embeddings.is_null() {
            true => Ok(Inputs::Tokens(array(tokens, count)?)),
            false => {
                let numbers = count.checked_mul(width).ok_or_else(|| shape("more embeddings than memory"))?;
                Ok(Inputs::Embeddings(array(embeddings, numbers)?))
            }
        }
    }
}

/// Add positions for good.
///
/// # Safety
/// See the head of the file; `tokens` or `embeddings` holds `count` ids or rows, the other is null.
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_append(
    session: *mut Session,
    tokens: *const u32,
    embeddings: *const f32,
    count: usize,
    message: Message,
) -> c_int {
    // SAFETY: the caller's promise.
    let session = unsafe { &mut *session };
    let width = session.model().config.width;
    // SAFETY: the caller's promise.
    told(message, unsafe { inputs(tokens, embeddings, count, width) }.and_then(|inputs| session.append(inputs)))
}

/// Logits (K, R) at chosen positions of inputs that are tried and forgotten; `out` has room for K times R numbers.
///
/// `rows` are the R token ids asked for; null asks for all.
///
/// # Safety
/// As `smallhold_session_append`; `at` holds `num_at` indices and `rows`, unless null, `num_rows` ids.
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_score(
    session: *mut Session,
    tokens: *const u32,
    embeddings: *const f32,
    count: usize,
    at: *const i64,
    num_at: usize,
    rows: *const u32,
    num_rows: usize,
    out: *mut f32,
    message: Message,
) -> c_int {
    // SAFETY: the caller's promise.
    let session = unsafe { &mut *session };
    let width = session.model().config.width;
    let mut score = || -> Result<()> {
        // SAFETY: the caller's promise.
        let (inputs, at) = unsafe { (inputs(tokens, embeddings, count, width)?, array(at, num_at)?) };
        // SAFETY: the caller's promise.
        let rows = if rows.is_null() { None } else { Some(unsafe { array(rows, num_rows)? }) };
        let found = session.score(inputs, at, rows)?;
        if out.is_null() && !found.is_empty() {
            return Err(shape("a null pointer in place of room for logits"));
        }
        // SAFETY: the caller gave room for num_at rows of logits.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), out, found.len()) };
        Ok(())
    };
    told(message, score())
}

/// How tokens are chosen; see `Sampling`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SamplingInC {
    temperature: f32,
    top_p: f32,
    seed: u64,
    top_k: u32,
}

/// Go on with at most `most` tokens, which are appended and written to `out`, their number to `count`.
///
/// # Safety
/// See the head of the file; `how` is null (greedy) or valid, `stop` holds `num_stop` ids, `out` has room for `most`.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))] // small above all: pages ask for decisions
#[no_mangle]
pub unsafe extern "C" fn smallhold_session_generate(
    session: *mut Session,
    how: *const SamplingInC,
    stop: *const u32,
    num_stop: usize,
    most: usize,
    out: *mut u32,
    count: *mut usize,
    message: Message,
) -> c_int {
    let generate = || -> Result<()> {
        if out.is_null() || count.is_null() {
            return Err(shape("a null pointer in place of room for tokens"));
        }
        // SAFETY: the caller's promise.
        let (session, how, stop) = unsafe { (&mut *session, how.as_ref(), array(stop, num_stop)?) };
        let how = how.map_or(Sampling::default(), |how| Sampling {
            temperature: how.temperature,
            top_k: how.top_k,
            top_p: how.top_p,
            seed: how.seed,
        });
        let found = session.generate(most, how, stop)?;
        // SAFETY: the caller gave room for `most` tokens, and there are no more.
        unsafe {
            std::ptr::copy_nonoverlapping(found.as_ptr(), out, found.len());
            *count = found.len();
        }
        Ok(())
    };
    told(message, generate())
}

/// Read a signal encoder from memory; its weights are copied.
///
/// # Safety
/// `len` bytes lie at `data`; `kernels` is null or ends with a zero; `encoder` has room.
#[no_mangle]
pub unsafe extern "C" fn smallhold_signal_from_bytes(
    data: *const u8,
    len: usize,
    kernels: *const c_char,
    encoder: *mut *mut SignalEncoder,
    message: Message,
) -> c_int {
    let read = || -> Result<()> {
        if encoder.is_null() {
            return Err(shape("a null pointer in place of a result"));
        }
        // SAFETY: the caller's promise.
        unsafe {
            let found = SignalEncoder::load(array(data, len)?, family(kernels)?)?;
            *encoder = Box::into_raw(Box::new(found));
        }
        Ok(())
    };
    told(message, read())
}

/// Let go of an encoder.
///
/// # Safety
/// See the head of the file; null is allowed.
#[no_mangle]
pub unsafe extern "C" fn smallhold_signal_free(encoder: *mut SignalEncoder) {
    if !encoder.is_null() {
        // SAFETY: made by this library, freed once.
        drop(unsafe { Box::from_raw(encoder) });
    }
}

/// Embeddings (T, D) of channels (T, C), T being `count`; or, where `count` is 0, the prefix (D,) of static features (S,).
///
/// # Safety
/// As many numbers lie at `from` as are said, and `out` has room for the embeddings.
#[no_mangle]
pub unsafe extern "C" fn smallhold_signal_encode(
    encoder: *const SignalEncoder,
    from: *const f32,
    count: usize,
    out: *mut f32,
    message: Message,
) -> c_int {
    // SAFETY: the caller's promise.
    let encoder = unsafe { &*encoder };
    let encode = || -> Result<()> {
        let numbers = match count {
            0 => Some(encoder.statics),
            _ => count.checked_mul(encoder.channels),
        };
        let numbers = numbers.ok_or_else(|| shape("more channels than memory"))?;
        // SAFETY: the caller's promise.
        let from = unsafe { array(from, numbers)? };
        let found = if count == 0 { encoder.prefix(from)? } else { encoder.bins(from)? };
        if out.is_null() {
            return Err(shape("a null pointer in place of room for embeddings"));
        }
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), out, found.len()) };
        Ok(())
    };
    told(message, encode())
}

/// Room for `len` bytes inside the module's memory, where a host puts files and numbers; null when there is none.
#[cfg(target_arch = "wasm32")]
#[no_mangle]
pub extern "C" fn smallhold_room(len: usize) -> *mut u8 {
    match std::alloc::Layout::from_size_align(len.max(1), 16) {
        // SAFETY: the size is not zero.
        Ok(layout) => unsafe { std::alloc::alloc(layout) },
        Err(_) => std::ptr::null_mut(),
    }
}

/// Give room back.
///
/// # Safety
/// `at` and `len` are those of one call of `smallhold_room`; null is allowed.
#[cfg(target_arch = "wasm32")]
#[no_mangle]
pub unsafe extern "C" fn smallhold_room_free(at: *mut u8, len: usize) {
    if let (false, Ok(layout)) = (at.is_null(), std::alloc::Layout::from_size_align(len.max(1), 16)) {
        // SAFETY: the caller's promise.
        unsafe { std::alloc::dealloc(at, layout) };
    }
}
