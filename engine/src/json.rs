//! JSON, read strictly (RFC 8259) and written in one form.
//!
//! A member that is there twice, half of a surrogate pair and anything behind the value are refused: two programs must
//! not read two things in one text. Numbers are doubles, so integers are exact up to 2^53.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::decimal;
use crate::error::Result;
use crate::memory;
use crate::table::twice;

/// Objects and lists within each other.
const DEEPEST: usize = 64;

/// A value; members of an object stand in the order of the text.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Read one value.
    ///
    /// # Errors
    /// `Malformed`: not JSON in UTF-8, with the byte where it ends to be; or nested too deeply.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut reader = Reader { data, at: 0 };
        let value = reader.value(0)?;
        reader.skip_space();
        if reader.at < data.len() {
            return reader.fail("nothing behind the value");
        }
        Ok(value)
    }

    /// The member of that name, where this is an object that has one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The member of that name by itself.
    pub fn take(self, name: &str) -> Option<Value> {
        match self {
            Self::Object(members) => members.into_iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, where this is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, where this is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The number, where this is a whole one from 0 to 2^53.
    pub fn as_size(&self) -> Option<usize> {
        let number = self.as_number()?;
        let is_whole = (0.0..=9_007_199_254_740_992.0).contains(&number) && number as u64 as f64 == number;
        if is_whole {
            usize::try_from(number as u64).ok()
        } else {
            None
        }
    }

    /// Yes or no, where this is that.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(is) => Some(*is),
            _ => None,
        }
    }

    /// The items, where this is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The members, where this is an object.
    pub fn as_object(&self) -> Option<&[(String, Value)]> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// Append the value as text without white space; a number that JSON cannot express becomes `null`.
    ///
    /// Texts are escaped as Python's `json` does it without `ensure_ascii`, whole numbers have no point.
    ///
    /// # Errors
    /// Those of what is written to.
    pub fn write(&self, out: &mut dyn Write) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Bool(true) => out.write_str("true"),
            Self::Bool(false) => out.write_str("false"),
            Self::Number(number) if number.is_finite() => {
                let mut digits = String::new(); // two dozen characters at most
                decimal::write(*number, &mut digits);
                out.write_str(&digits)
            }
            Self::Number(_) => out.write_str("null"),
            Self::Text(text) => write_text(text, out),
            Self::List(items) => {
                out.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.write_char(',')?;
                    }
                    item.write(out)?;
                }
                out.write_char(']')
            }
            Self::Object(members) => {
                out.write_char('{')?;
                for (i, (name, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.write_char(',')?;
                    }
                    write_text(name, out)?;
                    out.write_char(':')?;
                    value.write(out)?;
                }
                out.write_char('}')
            }
        }
    }

    /// The value as text; see `write`.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let _ = self.write(&mut out); // a String takes everything
        out
    }

    /// Whether the value is written as these very bytes; see `write`.
    pub fn is_written(&self, bytes: &[u8]) -> bool {
        let mut rest = Expected(bytes);
        self.write(&mut rest).is_ok() && rest.0.is_empty()
    }
}

/// Takes what it expects, and nothing else.
struct Expected<'a>(&'a [u8]);

impl Write for Expected<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(text.as_bytes()).ok_or(fmt::Error)?;
        Ok(())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self::Bool(is)
    }
}

/// An object of names and values, in this order.
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn write_text(text: &str, out: &mut dyn Write) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            '\0'..='\u{1f}' => write!(out, "\\u{:04x}", u32::from(character))?,
            _ => out.write_char(character)?,
        }
    }
    out.write_char('"')
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, expected: &str) -> Result<T> {
        fail!(Malformed, "JSON: byte {}: expected {expected}", self.at)
    }

    fn peek(&self) -> u8 {
        self.data.get(self.at).copied().unwrap_or(0)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// Go past a byte that may be there.
    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.data.get(self.at) == Some(&byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        self.skip_space();
        match self.peek() {
            b'{' | b'[' if depth == DEEPEST => self.fail("no more than 64 objects and lists within each other"),
            b'{' => self.members(depth),
            b'[' => self.items(depth),
            b'"' => Ok(Value::Text(self.text()?)),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'n' => self.word("null", Value::Null),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.fail("a value"),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value> {
        if !self.data[self.at..].starts_with(word.as_bytes()) {
            return self.fail("a value");
        }
        self.at += word.len();
        Ok(value)
    }

    fn items(&mut self, depth: usize) -> Result<Value> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Ok(Value::List(items));
        }
        loop {
            memory::push(&mut items, self.value(depth + 1)?)?;
            self.skip_space();
            if self.take(b']') {
                return Ok(Value::List(items));
            }
            if !self.take(b',') {
                return self.fail("',' or ']'");
            }
        }
    }

    fn members(&mut self, depth: usize) -> Result<Value> {
        self.at += 1;
        let mut members: Vec<(String, Value)> = Vec::new();
        self.skip_space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != b'"' {
                return self.fail("a name in quotes");
            }
            let name = self.text()?;
            self.skip_space();
            if !self.take(b':') {
                return self.fail("':'");
            }
            let value = self.value(depth + 1)?;
            memory::push(&mut members, (name, value))?;
            self.skip_space();
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return self.fail("',' or '}'");
            }
        }
        match twice(members.len(), &|at| &members[at].0)? {
            Some(name) => fail!(Malformed, "JSON: the member {name:?} is there twice"),
            None => Ok(Value::Object(members)),
        }
    }

    fn number(&mut self) -> Result<Value> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return self.fail("a digit");
        }
        if self.take(b'.') && self.digits() == 0 {
            return self.fail("a digit");
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'-') {
                self.take(b'+');
            }
            if self.digits() == 0 {
                return self.fail("a digit");
            }
        }
        let number = decimal::parse(&self.data[start..self.at]);
        if !number.is_finite() {
            return self.fail("a number within the range of doubles");
        }
        Ok(Value::Number(number))
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        self.at - start
    }

    fn text(&mut self) -> Result<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), b'"' | b'\\' | 0..=0x1f) {
                self.at += 1;
            }
            match core::str::from_utf8(&self.data[start..self.at]) {
                Ok(plain) => memory::push_str(&mut out, plain)?,
                Err(_) => return self.fail("UTF-8"),
            }
            if self.take(b'"') {
                return Ok(out);
            }
            if !self.take(b'\\') {
                return self.fail("the end of a text, which holds no control characters");
            }
            let character = self.escaped()?;
            memory::push_str(&mut out, character.encode_utf8(&mut [0; 4]))?;
        }
    }

    fn escaped(&mut self) -> Result<char> {
        let letter = self.peek();
        self.at += 1;
        Ok(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let mut code = self.four_digits()?;
                if (0xd800..0xdc00).contains(&code) && self.take(b'\\') && self.take(b'u') {
                    let low = self.four_digits()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return self.fail("the second half of a surrogate pair");
                    }
                    code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                match char::from_u32(code) {
                    Some(character) => character,
                    None => return self.fail("a character, not half of a surrogate pair"),
                }
            }
            _ => {
                self.at -= 1;
                return self.fail("one of \" \\ / b f n r t u");
            }
        })
    }

    fn four_digits(&mut self) -> Result<u32> {
        let digits = self.data.get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|four| u32::from_str_radix(core::str::from_utf8(four).ok()?, 16).ok());
        match code {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => self.fail("four hexadecimal digits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    fn round(text: &str) -> String {
        Value::parse(text.as_bytes()).map_or_else(|error| format!("error: {error}"), |value| value.to_text())
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        for text in [
            "null",
            "true",
            "[]",
            "{}",
            "-0.5",
            "12",
            "0.1",
            r#"{"b":1,"a":[null,false,{"c":""}]}"#,
            "\"\u{e9}\u{1f600} \\\" \\\\ / \\b\\f\\n\\r\\t\\u0001\"",
        ] {
            assert_eq!(round(text), text);
        }
        assert_eq!(round(" [ 1.50 , 2e3,-1E-2 ]\n"), "[1.5,2000,-0.01]");
        assert_eq!(round("\"\\u00e9\\ud83d\\ude00\\/\""), "\"\u{e9}\u{1f600}/\"");
        assert_eq!(round("9007199254740993"), "9007199254740992");
        assert_eq!(
            round("[1e308,-1e-300,1e21,-1e20,0.0000001]"),
            "[1e308,-1e-300,1e21,-100000000000000000000,0.0000001]"
        );
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (text, place) in [
            ("", 0),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("{\"a\":1,}", 7),
            ("{a:1}", 1),
            ("01", 1),
            ("1.", 2),
            ("+1", 0),
            ("-", 1),
            (".5", 0),
            ("1e", 2),
            ("nul", 0),
            ("NaN", 0),
            ("\"a", 2),
            ("\"\\x\"", 2),
            ("\"\\u12g4\"", 3),
            ("\"\\ud800\"", 7),
            ("\"\\ud800\\u0041\"", 13),
            ("\"\n\"", 1),
            ("1 1", 2),
            ("[", 1),
            ("{\"a\"", 4),
            ("1e999", 5),
        ] {
            let said = round(text);
            assert!(said.contains(&format!("byte {place}: ")), "{text}: {said}");
        }
        assert!(Value::parse(b"\"\xff\"").is_err());
        assert!(round(r#"{"a":1,"b":2,"a":3}"#).contains("twice"));
        assert!(round(&("[".repeat(64) + &"]".repeat(64))).starts_with('['));
        assert!(round(&"[".repeat(100_000)).contains("64"));
    }

    #[test]
    fn every_cut_is_refused_and_no_byte_makes_it_panic() {
        let text = "{\"a\":[1.5,\"\\u00e9\u{20ac}\",true,null],\"b\":{\"c\":-2e-3}}".to_string();
        for end in 0..text.len() {
            assert!(Value::parse(&text.as_bytes()[..end]).is_err());
            for byte in [0, b'"', b'\\', b'{', b'9', 0xff] {
                let mut changed = text.clone().into_bytes();
                changed[end] = byte;
                let _ = Value::parse(&changed);
            }
        }
    }

    #[test]
    fn sizes_are_whole_and_not_negative() {
        let size = |text: &str| Value::parse(text.as_bytes()).unwrap().as_size();
        assert_eq!(
            [size("0"), size("48"), size("-1"), size("1.5"), size("1e300")],
            [Some(0), Some(48), None, None, None]
        );
    }
}
