//! Decisions of small language models on any device.
//!
//! Read in this order: `gguf` (the weight file), `model` (its shape and matrices), `forward` (the pass), `session`
//! (append, score, fork, rewind), `decide` (from readings or a text to an answer), `verify` (who may give this device a
//! bundle), `program` (all of it: JSON in, JSON out). `kernels` holds what is fast, one file a processor family, `scalar`
//! beside them as the slow twin that says what each computes. The core needs `alloc` alone; files, the C interface and
//! processor detection are behind the feature `std`.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[macro_use]
pub mod error;
pub mod app;
pub mod bytes;
pub mod cache;
mod crc32;
pub mod decide;
mod decimal;
pub mod forward;
pub mod gguf;
pub mod json;
pub mod kernels;
pub mod math;
pub mod memory;
pub mod model;
pub mod program;
pub mod sample;
pub mod session;
pub mod signal;
mod spare;
pub mod table;
pub mod tokenizer;
pub mod verify;

#[cfg(feature = "std")]
pub mod c_interface;
#[cfg(feature = "std")]
pub mod c_program;
#[cfg(feature = "std")]
pub mod files;
