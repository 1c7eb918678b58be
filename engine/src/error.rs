//! What can go wrong, as a kind that a program tells apart and a sentence that a person reads.

#[doc(hidden)]
pub use alloc::format;
use alloc::string::String;
use core::fmt;

/// Kinds of failure; the numbers are those of the C interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// A file or text is truncated, damaged, or says impossible things.
    Malformed = 1,
    /// A file is well formed, and this engine does not compute what it describes.
    Unsupported = 2,
    /// An argument has another shape than the model needs, or an index lies outside.
    Shape = 3,
    /// The context is full.
    Capacity = 4,
    /// The system has no memory left for this.
    Memory = 5,
    /// The system could not read a file.
    System = 6,
    /// A bundle is unsigned, signed by nobody this device trusts, altered, or expired.
    Untrusted = 7,
}

/// A failure; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What kind.
    pub kind: Kind,
    /// What, where, expected, got.
    pub message: String,
}

/// Outcome of everything that can fail.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// A failure with its sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(feature = "std")]
impl std::error::Error for Error {}

/// `return Err(...)` with a formatted sentence.
#[macro_export]
macro_rules! fail {
    ($kind:ident, $($words:tt)+) => {
        return Err($crate::error::Error::new($crate::error::Kind::$kind, $crate::error::format!($($words)+)))
    };
}
