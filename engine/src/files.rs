//! Files, mapped into memory where the system can: weights are read from the disk's cache and take no memory twice.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

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
impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the very mapping that `map` made, let go of once.
        unsafe { munmap(self.start as *mut core::ffi::c_void, self.len) };
    }
}

#[cfg(unix)]
const PROT_READ: i32 = 1;
#[cfg(unix)]
const MAP_PRIVATE: i32 = 2;

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
}
