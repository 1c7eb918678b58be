//! Values by name: a list in order of names, searched by halves.
//!
//! Files hold a few hundred names, most of them in order already. Against the standard library's B-tree this is a tenth of
//! the code in a WebAssembly module, where every type of value brings a copy of its own.

use alloc::string::String;
use alloc::vec::Vec;

/// Values by name, in order of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<V>(Vec<(String, V)>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Table<V> {
    fn place(&self, name: &str) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if last.as_str() < name => Err(self.0.len()), // names come in order most of the time
            _ => self.0.binary_search_by(|(other, _)| other.as_str().cmp(name)),
        }
    }

    /// Put a value; the one that was there goes.
    pub fn insert(&mut self, name: String, value: V) {
        match self.place(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
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

impl<V> FromIterator<(String, V)> for Table<V> {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(items: I) -> Self {
        let mut table = Self::default();
        for (name, value) in items {
            table.insert(name, value);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;

    #[test]
    fn names_are_in_order_and_the_last_value_stays() {
        let items = [("b", 1), ("d", 2), ("a", 3), ("c", 4), ("b", 5), ("d", 6)];
        let mut table: Table<i32> = items.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(table.names().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!([table.get("b"), table.get("d"), table.get("e"), table.get("")], [Some(&5), Some(&6), None, None]);
        assert_eq!((table.remove("b"), table.remove("b"), table.len()), (Some(5), None, 3));
        *table.get_mut("d").unwrap() = 7;
        assert!(table.contains("a") && !table.contains("b") && !table.is_empty());
        assert_eq!(table.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [3, 4, 7]);
    }
}
