//! Values by name: a list in order of names, searched by halves.
//!
//! Files hold a few hundred names, most of them in order already. Against the standard library's B-tree this is a tenth of
//! the code in a WebAssembly module, where every type of value brings a copy of its own.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::Result;
use crate::memory;

/// Values by name, in order of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<V>(Vec<(String, V)>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Table<V> {
    fn place(&self, name: &str) -> core::result::Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if last.as_str() < name => Err(self.0.len()), // names come in order most of the time
            _ => self.0.binary_search_by(|(other, _)| other.as_str().cmp(name)),
        }
    }

    /// Values by names in any order.
    ///
    /// # Errors
    /// `Malformed`: a name is there twice.
    pub fn of(mut items: Vec<(String, V)>) -> Result<Self> {
        items.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        match items.windows(2).find(|two| two[0].0 == two[1].0) {
            Some(twice) => fail!(Malformed, "{:?} is there twice", twice[0].0),
            None => Ok(Self(items)),
        }
    }

    /// Put a value; the one that was there goes.
    ///
    /// # Errors
    /// `Memory`: the system has not so much.
    pub fn insert(&mut self, name: String, value: V) -> Result<()> {
        match self.place(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => {
                memory::reserve(&mut self.0, 1)?;
                self.0.insert(at, (name, value));
            }
        }
        Ok(())
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.place(name).ok().map(|at| &self.0[at].1)
    }

    /// The value of a name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        self.place(name).ok().map(|at| &mut self.0[at].1)
    }

    /// Whether there is a value of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.place(name).is_ok()
    }

    /// Take a value out.
    pub fn remove(&mut self, name: &str) -> Option<V> {
        self.place(name).ok().map(|at| self.0.remove(at).1)
    }

    /// Names and values in order of names.
    pub fn iter(&self) -> core::slice::Iter<'_, (String, V)> {
        self.0.iter()
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A name that is there twice, where there is one.
///
/// # Errors
/// `Memory`: the system has not so much.
pub fn twice<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Result<Option<&'a str>> {
    let mut names = memory::collected(names)?;
    names.sort_unstable();
    Ok(names.windows(2).find(|two| two[0] == two[1]).map(|two| two[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;

    #[test]
    fn names_are_in_order_and_the_last_value_stays() {
        let items = [("b", 1), ("d", 2), ("a", 3), ("c", 4), ("b", 5), ("d", 6)];
        let mut table = Table::default();
        for (name, value) in items {
            table.insert(name.to_owned(), value).unwrap();
        }
        assert_eq!(table.names().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!([table.get("b"), table.get("d"), table.get("e"), table.get("")], [Some(&5), Some(&6), None, None]);
        assert_eq!((table.remove("b"), table.remove("b"), table.len()), (Some(5), None, 3));
        *table.get_mut("d").unwrap() = 7;
        assert!(table.contains("a") && !table.contains("b") && !table.is_empty());
        assert_eq!(table.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [3, 4, 7]);
    }

    #[test]
    fn a_name_that_is_there_twice_is_found_among_many() {
        let mut many: Vec<String> = (0..200_000).map(|i| alloc::format!("{i}")).collect();
        assert_eq!(twice(many.iter().map(String::as_str)), Ok(None));
        many.push("77".to_owned());
        assert_eq!(twice(many.iter().map(String::as_str)), Ok(Some("77")));
    }

    #[test]
    fn a_table_of_many_is_sorted_at_once_and_has_no_name_twice() {
        // By insertion these names, the last first, would move some 10^10 entries.
        let many = (0..200_000).rev().map(|i| (alloc::format!("{i:06}"), i)).collect();
        assert_eq!(Table::of(many).unwrap().get("000007"), Some(&7));
        let twice = ["b", "a", "b"].map(|name| (name.to_owned(), ()));
        assert!(Table::of(twice.into()).unwrap_err().message.contains("\"b\" is there twice"));
    }
}
