//! Files, mapped into memory where the system can: weights are read from the disk's cache and take no memory twice.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

#[cfg(unix)]
use crate::bytes::Bytes;
use crate::error::{Error, Kind, Result};
use crate::model::Source;

/// A file's bytes for as long as somebody holds them.
///
/// The file must not be written to or cut meanwhile: bundles are replaced by renaming, which leaves the old file whole.
///
/// # Errors
/// `System`: it cannot be opened or read.
pub fn open(path: &Path) -> Result<Source> {
    let failed = |error: std::io::Error| Error::new(Kind::System, format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    map(&file).map_err(failed)
}

#[cfg(unix)]
fn map(file: &File) -> std::io::Result<Source> {
    use std::os::fd::AsRawFd;

    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if len == 0 {
        return Ok(Arc::new(Vec::new()));
    }
    // SAFETY: a fresh private mapping, read alone, of a file that is open; failure is told apart below.
    let start = unsafe { mmap(std::ptr::null_mut(), len, PROT_READ, MAP_PRIVATE, file.as_raw_fd(), 0) };
    if start as isize == -1 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(Arc::new(Map { start: start as usize, len }))
}

#[cfg(not(unix))]
fn map(mut file: &File) -> std::io::Result<Source> {
    let mut data = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut data)?;
    Ok(Arc::new(data))
}

#[cfg(unix)]
struct Map {
    start: usize,
    len: usize,
}

#[cfg(unix)]
impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the mapping lives until `drop`, and nothing writes to it.
        unsafe { std::slice::from_raw_parts(self.start as *const u8, self.len) }
    }
}

#[cfg(unix)]
impl Bytes for Map {
    fn let_go(&self, place: std::ops::Range<usize>) {
        // Whole pages alone: what else lies in the outer ones may be needed.
        let start = (self.start + place.start).next_multiple_of(SMALL_PAGE);
        let end = (self.start + place.end.min(self.len)) / SMALL_PAGE * SMALL_PAGE;
        if start < end {
            // SAFETY: pages of this mapping, which nobody has written to: they are read from the file again when needed.
            unsafe { madvise(start as *mut core::ffi::c_void, end - start, MADV_DONTNEED) };
        }
    }
}

/// Zeros, to be written over, in large pages where the system has them: with small ones a processor that reads many
/// million bytes over and over waits for their addresses.
#[cfg(unix)]
pub struct Pages {
    start: usize,
    len: usize,
    mapped: (usize, usize),
}

#[cfg(unix)]
impl Pages {
    /// `len` of them; `None` where there is no room.
    pub fn of(len: usize) -> Option<Self> {
        let whole = len.checked_add(LARGE_PAGE)?;
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        // SAFETY: a fresh mapping; failure is told apart below.
        let mapped = unsafe { mmap(std::ptr::null_mut(), whole, PROT_READ | PROT_WRITE, flags, -1, 0) } as usize;
        if mapped as isize == -1 {
            return None;
        }
        let start = mapped.next_multiple_of(LARGE_PAGE);
        #[cfg(target_os = "linux")]
        if len >= LARGE_PAGE {
            // SAFETY: pages of the mapping above. A system without large pages refuses, and nothing else changes.
            unsafe { madvise(start as *mut core::ffi::c_void, len, MADV_HUGEPAGE) };
        }
        Some(Self { start, len, mapped: (mapped, whole) })
    }
}

#[cfg(unix)]
impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: less than a large page into the mapping, which is a large page longer and lives until `drop`.
        unsafe { std::slice::from_raw_parts(self.start as *const u8, self.len) }
    }
}

#[cfg(unix)]
impl AsMut<[u8]> for Pages {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start as *mut u8, self.len) }
    }
}

#[cfg(unix)]
impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the very mapping that `of` made, let go of once.
        unsafe { munmap(self.mapped.0 as *mut core::ffi::c_void, self.mapped.1) };
    }
}

#[cfg(unix)]
impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the very mapping that `map` made, let go of once.
        unsafe { munmap(self.start as *mut core::ffi::c_void, self.len) };
    }
}

#[cfg(unix)]
const PROT_READ: i32 = 1;
#[cfg(unix)]
const PROT_WRITE: i32 = 2;
#[cfg(unix)]
const MAP_PRIVATE: i32 = 2;
#[cfg(any(target_os = "linux", target_os = "android"))]
const MAP_ANONYMOUS: i32 = 0x20;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const MAP_ANONYMOUS: i32 = 0x1000;
#[cfg(unix)]
const MADV_DONTNEED: i32 = 4;
#[cfg(target_os = "linux")]
const MADV_HUGEPAGE: i32 = 14;
/// The largest that processors of today have by default (64-bit ARM of some makers).
#[cfg(unix)]
const SMALL_PAGE: usize = 1 << 16;
#[cfg(unix)]
const LARGE_PAGE: usize = 1 << 21;

#[cfg(unix)]
extern "C" {
    fn mmap(
        at: *mut core::ffi::c_void,
        len: usize,
        rights: i32,
        flags: i32,
        file: i32,
        offset: i64,
    ) -> *mut core::ffi::c_void;
    fn munmap(at: *mut core::ffi::c_void, len: usize) -> i32;
    fn madvise(at: *mut core::ffi::c_void, len: usize, advice: i32) -> i32;
}
