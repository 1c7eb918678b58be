//! Ids of texts, for comparing the tokenizer with others.
//!
//! ```text
//! encode TOKENS MERGES PRE text|parse < texts > ids
//! ```
//!
//! TOKENS has one line "type name" for each token (type 3 is control), MERGES one line "a b" for each merge, PRE is a
//! name of `tokenizer.ggml.pre`. A text is its length in bytes (u32, little endian) and its UTF-8; the answer to each is
//! a line of ids.

use std::io::{self, BufWriter, Read, Write};
use std::process::ExitCode;

use smallhold_engine::tokenizer::{PreTokenizer, Special, Tokenizer};

fn main() -> ExitCode {
    match serve(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("encode: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(words: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [tokens, merges, pre, mode] = words else { return Err("expected TOKENS MERGES PRE text|parse".into()) };
    let special = match mode.as_str() {
        "text" => Special::Text,
        "parse" => Special::Parse,
        _ => return Err(format!("expected text or parse, got {mode:?}").into()),
    };
    let tokenizer = open(tokens, merges, PreTokenizer::of(pre)?)?;
    let (mut input, mut output) = (io::stdin().lock(), BufWriter::new(io::stdout().lock()));
    while let Some(text) = next_text(&mut input)? {
        let ids = tokenizer.encode(&text, special)?;
        if tokenizer.decode_with_control(&ids) != text.as_bytes() {
            return Err(format!("{} ids do not decode to their text", ids.len()).into());
        }
        let line: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(output, "{}", line.join(" "))?;
        output.flush()?;
    }
    Ok(())
}

fn open(tokens: &str, merges: &str, pre: PreTokenizer) -> Result<Tokenizer, Box<dyn std::error::Error>> {
    let (mut names, mut control) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(tokens)?.split_terminator('\n') {
        let (kind, name) = line.split_once(' ').ok_or("expected lines of a type and a name")?;
        control.push(kind == "3");
        names.push(name.to_owned());
    }
    let merges = std::fs::read_to_string(merges)?;
    let merges: Vec<String> = merges.split_terminator('\n').map(str::to_owned).collect();
    Ok(Tokenizer::new(names, &merges, &control, pre)?)
}

fn next_text(input: &mut impl Read) -> Result<Option<String>, Box<dyn std::error::Error>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    let mut text = Vec::new();
    input.take(u64::from(u32::from_le_bytes(length))).read_to_end(&mut text)?;
    Ok(Some(String::from_utf8(text)?))
}
