//! Memory that may not be there: what grows with a file, a prompt or a request is asked for here, so that too much of it
//! ends in an error and not in the end of the process. Rust's own collections abort instead.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::error::{Error, Kind, Result};

/// Make room for as many more numbers.
///
/// # Errors
/// `Memory`: the system has not so much.
pub fn reserve<T>(into: &mut Vec<T>, more: usize) -> Result<()> {
    into.try_reserve(more).map_err(|_| full(more.saturating_mul(core::mem::size_of::<T>())))
}

/// Make room for as many numbers in all.
///
/// # Errors
/// See `reserve`.
pub fn fit<T>(into: &mut Vec<T>, count: usize) -> Result<()> {
    reserve(into, count.saturating_sub(into.len()))
}

/// Room for as many numbers.
///
/// # Errors
/// See `reserve`.
pub fn room<T>(count: usize) -> Result<Vec<T>> {
    let mut made = Vec::new();
    made.try_reserve_exact(count).map_err(|_| full(count.saturating_mul(core::mem::size_of::<T>())))?;
    Ok(made)
}

/// So many of the same.
///
/// # Errors
/// See `reserve`.
pub fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>> {
    let mut made = room(count)?;
    made.resize(count, value);
    Ok(made)
}

/// A copy.
///
/// # Errors
/// See `reserve`.
pub fn copied<T: Copy>(from: &[T]) -> Result<Vec<T>> {
    let mut made = room(from.len())?;
    made.extend_from_slice(from);
    Ok(made)
}

/// Put one behind the others.
///
/// # Errors
/// See `reserve`.
pub fn push<T>(into: &mut Vec<T>, item: T) -> Result<()> {
    reserve(into, 1)?;
    into.push(item);
    Ok(())
}

/// What an iterator that knows its length gives.
///
/// # Errors
/// See `reserve`.
pub fn collected<T>(items: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut made = room(items.len())?;
    made.extend(items);
    Ok(made)
}

/// Put a text behind another.
///
/// # Errors
/// See `reserve`.
pub fn push_str(into: &mut String, text: &str) -> Result<()> {
    into.try_reserve(text.len()).map_err(|_| full(text.len()))?;
    into.push_str(text);
    Ok(())
}

/// A copy of a text.
///
/// # Errors
/// See `reserve`.
pub fn text(from: &str) -> Result<String> {
    let mut made = String::new();
    push_str(&mut made, from)?;
    Ok(made)
}

/// A text that is written to as long as there is memory.
pub struct Growing<'a>(pub &'a mut String);

impl fmt::Write for Growing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        push_str(self.0, text).map_err(|_| fmt::Error)
    }
}

fn full(bytes: usize) -> Error {
    Error::new(Kind::Memory, alloc::format!("no memory left: {bytes} bytes more were needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_any_machine_has_is_an_error() {
        let errors = [
            reserve(&mut alloc::vec![0_u64], usize::MAX / 8).unwrap_err(),
            room::<u8>(usize::MAX).unwrap_err(),
            filled(0.0_f32, usize::MAX / 8).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, Kind::Memory);
            assert!(error.message.contains("bytes more were needed"), "{error}");
        }
        assert_eq!((filled(7, 2), copied(&[1, 2]), text("é")), (Ok([7, 7].into()), Ok([1, 2].into()), Ok("é".into())));
    }
}
