//! A patient in observation words, one card a line on standard input: the risk after each, on standard output.
//!
//! `ward MODEL NO YES`, for example `ward hospital "<icu-risk:no>" "<icu-risk:yes>"`. The host keeps the patient's cache:
//! a line costs the words that are on it, however many came before.

use std::io::BufRead;
use std::process::ExitCode;

mod wasi_nn;
use wasi_nn::{Context, APPEND, ROWS};

fn main() -> ExitCode {
    match watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ward: {message}");
            ExitCode::FAILURE
        }
    }
}

fn watch() -> Result<(), String> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, no, yes] = &args[..] else { return Err("expected MODEL NO YES".into()) };
    let words = Context::open(&format!("{model}#words"))?;
    let patient = Context::open(&format!("{model}#session"))?;
    patient.set_numbers(ROWS, &tokens(&words, &[no, yes])?)?;
    patient.set_numbers(APPEND, &tokens(&words, &["<bos>"])?)?;
    patient.compute()?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let card: Vec<&str> = line.split_whitespace().collect();
        if card.is_empty() {
            continue;
        }
        patient.set_numbers(APPEND, &tokens(&words, &card)?)?;
        patient.compute()?;
        let mut logits = [0f32; 2];
        patient.read(0, &mut logits)?;
        // Uncalibrated: the temperature of the task is in the bundle.
        println!("{} {:.4}", card[card.len() - 1], 1.0 / (1.0 + (logits[0] - logits[1]).exp()));
    }
    Ok(())
}

/// Token ids of words.
fn tokens(words: &Context, names: &[impl AsRef<str>]) -> Result<Vec<i32>, String> {
    let lines: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    words.set_text(&lines.join("\n"))?;
    words.compute()?;
    let mut ids = vec![0; names.len()];
    words.read(0, &mut ids)?;
    Ok(ids)
}
