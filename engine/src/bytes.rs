//! Bytes that a model reads over and over, and memory for many of them.

use alloc::vec::Vec;
use core::ops::Range;

#[cfg(all(unix, feature = "std"))]
pub use crate::files::Pages as Memory;

/// Bytes that somebody keeps alive: a memory map, a part of one, or a vector.
pub trait Bytes: AsRef<[u8]> + Send + Sync {
    /// Say that a part is not needed for now: memory that mirrors a file is given back until it is read again.
    fn let_go(&self, place: Range<usize>) {
        let _ = place;
    }
}

impl Bytes for Vec<u8> {}

/// Zeros, to be written over.
#[cfg(not(all(unix, feature = "std")))]
pub struct Memory(Vec<u8>);

#[cfg(not(all(unix, feature = "std")))]
impl Memory {
    /// `len` of them; `None` where there is no room.
    pub fn of(len: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        Some(Self(bytes))
    }
}

#[cfg(not(all(unix, feature = "std")))]
impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(not(all(unix, feature = "std")))]
impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
