//! Values by name: a list in order of names, searched by halves.
//!
//! Files hold a few hundred names, most of them in order already. Against the standard library's B-tree this is a tenth of
//! the code in a WebAssembly module, where every type of value brings a copy of its own.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;

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
    /// `Memory`: the system has not so much.
    pub fn of(mut items: Vec<(String, V)>) -> Result<Self> {
        let (mut order, twice) = by_name(items.len(), &|at| &items[at].0)?;
        if let Some(name) = twice {
            fail!(Malformed, "{name:?} is there twice");
        }
        arrange(&mut order, &mut |to, from| items.swap(to, from));
        Ok(Self(items))
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

/// One of `len` names that is there twice, where there is one.
///
/// # Errors
/// `Memory`: the system has not so much.
pub fn twice<'a>(len: usize, name: &dyn Fn(usize) -> &'a str) -> Result<Option<&'a str>> {
    Ok(by_name(len, name)?.1)
}

/// Places in order of their names, and a name that is there twice.
fn by_name<'a>(len: usize, name: &dyn Fn(usize) -> &'a str) -> Result<(Vec<u32>, Option<&'a str>)> {
    let order = in_order(len, &|a, b| name(a).cmp(name(b)))?;
    let pairs = order.windows(2).map(|two| (name(two[0] as usize), name(two[1] as usize)));
    let twice = pairs.filter(|(one, other)| one == other).map(|(one, _)| one).next();
    Ok((order, twice))
}

/// The places 0 .. len in the order that `compare` puts them in.
///
/// Sorting is compiled once, here: for every type and every comparison the standard library's would be 8 kB more.
///
/// # Errors
/// `Memory`: the system has not so much; or there are more than places have room for.
pub fn in_order(len: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Result<Vec<u32>> {
    let Ok(places) = u32::try_from(len) else { fail!(Memory, "{len} things are more than can be put in order") };
    let mut order = memory::collected(0..places)?;
    order.sort_unstable_by(|a, b| compare(*a as usize, *b as usize));
    Ok(order)
}

/// Put things into an order by swapping them: each circle of places is gone round once.
fn arrange(order: &mut [u32], swap: &mut dyn FnMut(usize, usize)) {
    for start in 0..order.len() {
        let mut to = start;
        while order[to] as usize != to {
            let from = core::mem::replace(&mut order[to], to as u32) as usize;
            if from == start {
                break;
            }
            swap(to, from);
            to = from;
        }
    }
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
        assert_eq!(twice(many.len(), &|at| &many[at]), Ok(None));
        many.push("77".to_owned());
        assert_eq!(twice(many.len(), &|at| &many[at]), Ok(Some("77")));
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
