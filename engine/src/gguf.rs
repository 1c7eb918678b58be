//! The weight file: GGUF version 3, little endian, read in place.
//!
//! Source: github.com/ggml-org/ggml, docs/gguf.md. Nothing is copied but names and metadata. Every length is checked
//! against the file before it is believed, so a damaged file ends in an error and asks for no more memory than it has
//! bytes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::decimal;
use crate::error::Result;
use crate::memory;
use crate::table::Table;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Arrays of arrays do not occur; a file that nests them without end must not exhaust the stack.
const MAX_DEPTH: usize = 2;

/// How numbers of a tensor lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// float32.
    F32,
    /// float16.
    F16,
    /// Groups of 32: a float16 step and 16 bytes of two integers around 8, low halves first.
    Q4_0,
    /// Groups of 32: a float16 step and 32 signed bytes.
    Q8_0,
}

impl Encoding {
    /// Numbers and bytes of one block.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q8_0 => (32, 34),
        }
    }

    fn of(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            8 => Self::Q8_0,
            _ => return None,
        })
    }
}

/// A value of the metadata; what is never asked for is kept as `Other`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any integer or truth value.
    Integer(i64),
    /// Any floating-point number.
    Float(f64),
    /// Text.
    Text(String),
    /// Array of texts.
    Texts(Vec<String>),
    /// Array of integers.
    Integers(Vec<i64>),
    /// Anything else.
    Other,
}

impl Value {
    /// For a message, which has no room for lists.
    fn shown(&self) -> String {
        match self {
            Self::Integer(n) => format!("{n}"),
            Self::Float(x) => decimal::shown(*x),
            Self::Text(text) => format!("{text:?}"),
            Self::Texts(_) | Self::Integers(_) => "a list".into(),
            Self::Other => "a value of another type".into(),
        }
    }
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Rows (O); 1 for a vector.
    pub rows: usize,
    /// Columns (I).
    pub columns: usize,
    /// How its numbers are written.
    pub encoding: Encoding,
    /// First byte in the file.
    pub start: usize,
    /// Bytes.
    pub len: usize,
}

/// Contents of a file, without the weights themselves.
#[derive(Debug, Clone, Default)]
pub struct Gguf {
    /// Keys and values.
    pub metadata: Table<Value>,
    /// Tensors by name.
    pub tensors: Table<TensorInfo>,
}

impl Gguf {
    /// Read a file's head.
    ///
    /// # Errors
    /// `Malformed`: not GGUF, truncated, a name that is there twice, or a tensor outside the file. `Unsupported`: another
    /// version, or a tensor that is not F32, F16, Q8_0 or Q4_0.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut reader = Reader { data, at: 0 };
        if reader.take(4)? != MAGIC {
            fail!(Malformed, "not a GGUF file: expected it to begin with GGUF");
        }
        let version = reader.u32()?;
        if version != VERSION {
            fail!(Unsupported, "GGUF version: expected {VERSION}, got {version}");
        }
        let (num_tensors, num_keys) = (reader.u64()?, reader.u64()?);
        let mut keys = Vec::new();
        for _ in 0..num_keys {
            let key = reader.text()?;
            let kind = reader.u32()?;
            memory::push(&mut keys, (key, reader.value(kind, 0)?))?;
        }
        let metadata = Table::of(keys)?;
        let mut infos = Vec::new();
        for _ in 0..num_tensors {
            memory::push(&mut infos, reader.tensor()?)?;
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Integer(n)) if *n > 0 && *n <= 1 << 20 => *n as usize,
            Some(other) => {
                fail!(Malformed, "general.alignment: expected a small positive number, got {}", other.shown())
            }
        };
        let base = reader.at.div_ceil(alignment) * alignment;
        let mut tensors = memory::room(infos.len())?;
        for (name, mut info, offset) in infos {
            let start = usize::try_from(offset).ok().and_then(|offset| base.checked_add(offset));
            match start.and_then(|start| Some((start, start.checked_add(info.len)?))) {
                Some((start, end)) if end <= data.len() => info.start = start,
                _ => fail!(Malformed, "tensor {name}: {} bytes at {offset} lie outside the file", info.len),
            }
            tensors.push((name, info));
        }
        Ok(Self { metadata, tensors: Table::of(tensors)? })
    }

    /// A whole number that has to be there and to lie in `1..=most`.
    ///
    /// # Errors
    /// `Malformed`: absent, of another type, or outside.
    pub fn size(&self, key: &str, most: usize) -> Result<usize> {
        match self.metadata.get(key) {
            Some(Value::Integer(n)) if *n >= 1 && *n <= most as i64 => Ok(*n as usize),
            other => fail!(
                Malformed,
                "{key}: expected a whole number from 1 to {most}, got {}",
                other.map_or_else(|| "nothing".into(), Value::shown)
            ),
        }
    }

    /// A positive number, or what holds where it is absent.
    ///
    /// # Errors
    /// `Malformed`: of another type, not finite or not positive.
    pub fn positive(&self, key: &str, absent: f64) -> Result<f64> {
        match self.metadata.get(key) {
            None => Ok(absent),
            Some(Value::Float(x)) if x.is_finite() && *x > 0.0 => Ok(*x),
            Some(other) => fail!(Malformed, "{key}: expected a positive number, got {}", other.shown()),
        }
    }

    /// A text, where it is there.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// An array of texts, where it is there.
    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.metadata.get(key) {
            Some(Value::Texts(texts)) => Some(texts),
            _ => None,
        }
    }

    /// An array of integers, where it is there.
    pub fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.metadata.get(key) {
            Some(Value::Integers(numbers)) => Some(numbers),
            _ => None,
        }
    }
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let found = self.at.checked_add(count).and_then(|end| self.data.get(self.at..end));
        let Some(found) = found else {
            fail!(
                Malformed,
                "GGUF file is truncated: {count} bytes expected at {}, it has {}",
                self.at,
                self.data.len()
            )
        };
        self.at += count;
        Ok(found)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        match core::str::from_utf8(bytes) {
            Ok(text) => memory::text(text),
            Err(_) => fail!(Malformed, "GGUF file: a text before byte {} is not UTF-8", self.at),
        }
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 | 7 => Value::Integer(i64::from(self.array::<1>()?[0])),
            1 => Value::Integer(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Integer(i64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Integer(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Integer(i64::from(self.u32()?)),
            5 => Value::Integer(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            8 => Value::Text(self.text()?),
            9 => self.values(depth)?,
            10 => Value::Integer(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Integer(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => fail!(Malformed, "GGUF metadata: unknown type {kind} before byte {}", self.at),
        })
    }

    fn values(&mut self, depth: usize) -> Result<Value> {
        if depth >= MAX_DEPTH {
            fail!(Malformed, "GGUF metadata: arrays within arrays before byte {}", self.at);
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        let (mut texts, mut integers, mut others) = (Vec::new(), Vec::new(), 0_u64);
        for _ in 0..count {
            // Each turn takes at least one byte of the file or fails, so a count beyond the file's end ends here.
            match self.value(kind, depth + 1)? {
                Value::Text(text) => memory::push(&mut texts, text)?,
                Value::Integer(number) => memory::push(&mut integers, number)?,
                _ => others += 1,
            }
        }
        Ok(match (texts.is_empty(), integers.is_empty(), others) {
            (false, true, 0) => Value::Texts(texts),
            (true, false, 0) => Value::Integers(integers),
            (true, true, 0) if kind == 8 => Value::Texts(texts),
            _ => Value::Other,
        })
    }

    /// Name, place (its start still open) and offset behind the head.
    fn tensor(&mut self) -> Result<(String, TensorInfo, u64)> {
        let name = self.text()?;
        let rank = self.u32()?;
        if !(1..=2).contains(&rank) {
            fail!(Unsupported, "tensor {name}: expected a vector or a matrix, got {rank} dimensions");
        }
        let mut extent = [0_usize, 1];
        for slot in extent.iter_mut().take(rank as usize) {
            *slot = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        }
        let (kind, offset) = (self.u32()?, self.u64()?);
        let Some(encoding) = Encoding::of(kind) else {
            fail!(Unsupported, "tensor {name}: type {kind} is not one of F32 (0), F16 (1), Q4_0 (2), Q8_0 (8)")
        };
        let (numbers, bytes) = encoding.block();
        let [columns, rows] = extent;
        if columns == 0 || rows == 0 || columns % numbers != 0 {
            fail!(Malformed, "tensor {name}: {rows} x {columns} numbers do not fill blocks of {numbers}");
        }
        match (columns / numbers).checked_mul(bytes).and_then(|row| row.checked_mul(rows)) {
            Some(len) => Ok((name, TensorInfo { rows, columns, encoding, start: 0, len }, offset)),
            None => fail!(Malformed, "tensor {name}: {rows} x {columns} numbers are more than any memory holds"),
        }
    }
}
