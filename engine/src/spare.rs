//! What one session has done with and the next one needs: memory that the system has given once is not asked for again.

#[cfg(feature = "std")]
use std::{
    sync::{Mutex, PoisonError},
    vec::Vec,
};

/// Things of one kind, a bounded number of them.
pub struct Spare<T> {
    #[cfg(feature = "std")]
    kept: Mutex<Vec<T>>,
    #[cfg(feature = "std")]
    most: usize,
    #[cfg(not(feature = "std"))]
    kind: core::marker::PhantomData<T>,
}

impl<T> Spare<T> {
    /// None, and never more than `most`. Without the standard library nothing is kept.
    pub fn new(most: usize) -> Self {
        #[cfg(not(feature = "std"))]
        let _ = most;
        Self {
            #[cfg(feature = "std")]
            kept: Mutex::new(Vec::new()),
            #[cfg(feature = "std")]
            most,
            #[cfg(not(feature = "std"))]
            kind: core::marker::PhantomData,
        }
    }

    /// One that was put here, with what it then held.
    pub fn take(&self) -> Option<T> {
        #[cfg(feature = "std")]
        return self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        #[cfg(not(feature = "std"))]
        None
    }

    /// Keep one for later, or let it go where enough are kept.
    pub fn put(&self, thing: T) {
        #[cfg(feature = "std")]
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < self.most {
                kept.push(thing);
            }
        }
        #[cfg(not(feature = "std"))]
        drop(thing);
    }
}
