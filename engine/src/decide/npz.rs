//! Arrays of an uncompressed `.npz`, where they lie: a ZIP of `.npy` members.
//!
//! Sources: PKWARE APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16; NumPy Enhancement Proposal 1 (the `.npy` format).

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use crate::error::Result;
use crate::memory;
use crate::table::Table;

const END_BYTES: usize = 22;

/// An array inside a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Array<'a> {
    /// Type in NumPy's spelling, for example `<f4`.
    pub(super) kind: &'a str,
    /// (rows, columns); 1 where a dimension is missing.
    pub(super) shape: (usize, usize),
    /// Content in rows.
    pub(super) bytes: &'a [u8],
}

/// Arrays by name, without `.npy`.
///
/// # Errors
/// `Malformed`: not such a file, compressed members, or an array that is none of numbers in rows.
pub(super) fn read(data: &[u8]) -> Result<Table<Array<'_>>> {
    match members(data) {
        Some(members) => {
            let mut arrays = memory::room(members.len())?;
            for (name, member) in members {
                arrays.push((name.to_owned(), array(name, member)?));
            }
            Table::of(arrays)
        }
        None => fail!(Malformed, "not an uncompressed .npz, or a truncated one"),
    }
}

/// Members by name; `None` where anything is not as it has to be.
fn members(data: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    let end = data.len().checked_sub(END_BYTES)?;
    if data.get(end..end + 4)? != b"PK\x05\x06" {
        return None;
    }
    let (count, mut at) = (number(data, end + 10, 2)?, number(data, end + 16, 4)?);
    let mut found = Vec::new();
    for _ in 0..count {
        if data.get(at..at.checked_add(4)?)? != b"PK\x01\x02" || number(data, at + 10, 2)? != 0 {
            return None;
        }
        let (len, is_stored) = (number(data, at + 20, 4)?, number(data, at + 20, 4)? == number(data, at + 24, 4)?);
        let (name_len, extra, comment) =
            (number(data, at + 28, 2)?, number(data, at + 30, 2)?, number(data, at + 32, 2)?);
        let name = core::str::from_utf8(data.get(at + 46..at + 46 + name_len)?).ok()?;
        let local = number(data, at + 42, 4)?;
        let start = local.checked_add(30 + number(data, local.checked_add(26)?, 2)? + number(data, local + 28, 2)?)?;
        if !is_stored {
            return None;
        }
        found.push((name.strip_suffix(".npy")?, data.get(start..start.checked_add(len)?)?));
        at += 46 + name_len + extra + comment;
    }
    Some(found)
}

/// A number of some bytes, the lowest first.
fn number(data: &[u8], at: usize, bytes: usize) -> Option<usize> {
    let bytes = data.get(at..at.checked_add(bytes)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn array<'a>(name: &str, member: &'a [u8]) -> Result<Array<'a>> {
    match parsed(member) {
        Some(array) => Ok(array),
        None => fail!(Malformed, "array {name}: expected NumPy's format 1.0, numbers in rows"),
    }
}

fn parsed(member: &[u8]) -> Option<Array<'_>> {
    if member.get(..8)? != b"\x93NUMPY\x01\x00" {
        return None;
    }
    let start = 10 + number(member, 8, 2)?;
    let head = core::str::from_utf8(member.get(10..start)?).ok()?;
    let kind = head.split_once("'descr': '")?.1.split_once('\'')?.0;
    let sizes = head.split_once("'shape': (")?.1.split_once(')')?.0;
    if !head.contains("'fortran_order': False") {
        return None;
    }
    let sizes: Option<Vec<usize>> =
        sizes.split(',').map(str::trim).filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect();
    let shape = match sizes?[..] {
        [] => (1, 1),
        [rows] => (rows, 1),
        [rows, columns] => (rows, columns),
        _ => return None,
    };
    let width: usize = kind.get(2..)?.parse().ok()?;
    let bytes = member.get(start..)?;
    let is_whole = shape.0.checked_mul(shape.1)?.checked_mul(width)? == bytes.len();
    is_whole.then_some(Array { kind, shape, bytes })
}

impl Array<'_> {
    /// Numbers of one kind, each of `N` bytes.
    ///
    /// # Errors
    /// `Malformed`: another kind.
    pub(super) fn of<const N: usize, T>(&self, kind: &str, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        if self.kind != kind {
            fail!(Malformed, "an array: expected the kind {kind}, got {:?}", self.kind);
        }
        memory::collected(self.bytes.chunks_exact(N).map(|chunk| {
            let mut bytes = [0; N];
            bytes.copy_from_slice(chunk);
            read(bytes)
        }))
    }
}
