//! Decisions of small language models on any device.
//!
//! Read in this order: `gguf` (the weight file), `model` (its shape and matrices), `forward` (the pass), `session`
//! (append, score, fork, rewind). `kernels` holds what is fast, one file a processor family, `scalar` beside them as
//! the slow twin that says what each computes. The core needs `alloc` alone; files and processor detection are behind
//! the feature `std`.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[macro_use]
pub mod error;
pub mod cache;
pub mod forward;
pub mod gguf;
pub mod json;
pub mod kernels;
pub mod math;
pub mod model;
pub mod session;
pub mod signal;
pub mod tokenizer;

#[cfg(feature = "std")]
pub mod c_interface;
#[cfg(feature = "std")]
pub mod files;
