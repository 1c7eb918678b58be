//! JSON objects of a task file, read member by member: what is absent or of another type is named with its place.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::Result;
use crate::json::Value;

/// An object whose members have to be there; the place is for messages.
pub(super) struct Members<'a> {
    pub(super) value: &'a Value,
    pub(super) place: &'static str,
}

impl<'a> Members<'a> {
    pub(super) fn get(&self, name: &str) -> Result<&'a Value> {
        match self.value.get(name) {
            Some(value) => Ok(value),
            None => fail!(Malformed, "{}: lacks the member {name:?}", self.place),
        }
    }

    fn typed<T>(&self, name: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        match read(self.get(name)?) {
            Some(found) => Ok(found),
            None => fail!(Malformed, "{}, member {name:?}: expected {kind}", self.place),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str> {
        self.typed(name, "text", Value::as_text)
    }

    pub(super) fn number(&self, name: &str) -> Result<f64> {
        self.typed(name, "a number", Value::as_number)
    }

    /// A whole number from 1.
    pub(super) fn size(&self, name: &str) -> Result<usize> {
        self.typed(name, "a positive whole number", |value| value.as_size().filter(|size| *size > 0))
    }

    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.typed(name, "a list of texts", |value| {
            value.as_list()?.iter().map(|item| item.as_text().map(str::to_owned)).collect()
        })
    }

    pub(super) fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        self.typed(name, "a list of numbers", |value| value.as_list()?.iter().map(Value::as_number).collect())
    }

    pub(super) fn sizes(&self, name: &str) -> Result<Vec<usize>> {
        self.typed(name, "a list of whole numbers", |value| value.as_list()?.iter().map(Value::as_size).collect())
    }

    /// Whether the member is there; older files lack what was added later.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some()
    }

    pub(super) fn number_or(&self, name: &str, absent: f64) -> Result<f64> {
        if self.has(name) {
            self.number(name)
        } else {
            Ok(absent)
        }
    }

    pub(super) fn list<T>(&self, name: &str, read: impl Fn(&Members<'a>) -> Result<T>) -> Result<Vec<T>> {
        let items = self.typed(name, "a list", Value::as_list)?;
        items.iter().map(|value| read(&Members { value, place: self.place })).collect()
    }
}
