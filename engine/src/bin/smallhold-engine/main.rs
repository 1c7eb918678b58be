//! Decisions of a bundle without Python: JSON lines on standard input, or `POST /decide` on loopback.

#[cfg(target_family = "wasm")]
mod inside;
mod serve;

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use smallhold_engine::app::App;
use smallhold_engine::error::{Error, Kind, Result};
use smallhold_engine::json::Value;
use smallhold_engine::program::Program;
use smallhold_engine::verify::bundle::{clock, Bundle, Trust};
use smallhold_engine::verify::keys::load_trusted_keys;
use smallhold_engine::{fail, kernels};

const HELP: &str =
    "usage: smallhold-engine BUNDLE [--task NAME]... [--kernels NAME] [--threads N] [--listen ADDRESS:PORT]
       (--trusted-keys DIRECTORY | --host-has-verified)

Decide with a bundle. Requests are JSON objects, one a line on standard input, answers one a line on standard output;
with --listen they are bodies of POST /decide on a loopback address.

  {\"task\": \"triage\", \"text\": \"Red, itchy patches on both elbows.\", \"explain\": true}
  {\"task\": \"icu-risk\", \"patient\": \"7\", \"static\": {\"age\": 0.35, ...}}
  {\"task\": \"icu-risk\", \"patient\": \"7\", \"observe\": [[\"HR\", 118]], \"close\": true, \"decide\": true}
  {\"task\": \"icu-risk\", \"patient\": \"7\", \"static\": null}

  --task NAME            load this task alone; may be repeated; default: all of the bundle
  --trusted-keys DIR     folder of public keys (*.pem); the bundle must be signed by one of them
  --host-has-verified    the caller has verified the bundle: only digests are checked
  --kernels NAME         avx512vnni, avx2, dotprod, neon, scalar; default: the fastest of this processor
  --threads N            compute with N threads, which wait without spinning; default: 1; the answers are the same
  --listen ADDR:PORT     serve HTTP on a loopback address; port 0 takes a free one

An app made by `smallhold bundle app` holds its bundle and its keys, and takes neither.

Exit codes: 0 all requests answered, 1 one or more refused, 2 the program could not start or not go on.
Not a medical device.";

/// Bytes of a request.
pub const MOST_BYTES: usize = 1 << 20;

struct Options {
    /// `None`: the one inside this app.
    bundle: Option<PathBuf>,
    tasks: Vec<String>,
    kernels: Option<String>,
    threads: Option<usize>,
    listen: Option<String>,
    /// `None`: the host has verified the bundle.
    trusted_keys: Option<PathBuf>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if words.iter().any(|word| word == "--version") {
        println!("smallhold-engine {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let outcome = own_app().and_then(|app| {
        let options = options(words, app.is_some())?;
        let program = load(&options, app)?;
        match &options.listen {
            Some(address) => serve::serve(program, address).map(|()| true),
            None => answer_lines(program),
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn options(words: Vec<String>, is_app: bool) -> Result<Options> {
    let mut words = words.into_iter();
    let (mut bundle, mut tasks, mut kernels, mut listen, mut threads) = (None, Vec::new(), None, None, None);
    let (mut trusted_keys, mut host_has_verified) = (None, false);
    while let Some(word) = words.next() {
        let mut value = || match words.next() {
            Some(value) => Ok(value),
            None => fail!(Shape, "{word}: expected a value behind it; see --help"),
        };
        match word.as_str() {
            "--task" => tasks.push(value()?),
            "--kernels" => kernels = Some(value()?),
            "--threads" => threads = Some(count(&value()?)?),
            "--listen" => listen = Some(value()?),
            "--trusted-keys" => trusted_keys = Some(PathBuf::from(value()?)),
            "--host-has-verified" => host_has_verified = true,
            _ if word.starts_with('-') || bundle.is_some() => fail!(Shape, "unexpected argument {word:?}; see --help"),
            _ => bundle = Some(PathBuf::from(word)),
        }
    }
    if is_app && (bundle.is_some() || trusted_keys.is_some() || host_has_verified) {
        fail!(Shape, "this app has a bundle and keys of its own, and takes no others; see --help");
    }
    if !is_app && bundle.is_some() && trusted_keys.is_some() == host_has_verified {
        fail!(Shape, "expected --trusted-keys DIRECTORY, or --host-has-verified; see --help");
    }
    Ok(Options { bundle, tasks, kernels, threads, listen, trusted_keys })
}

fn count(word: &str) -> Result<usize> {
    match word.parse() {
        Ok(count) => Ok(count),
        Err(_) => fail!(Shape, "--threads {word}: expected a number"),
    }
}

/// This very module, where it is an app.
#[cfg(target_family = "wasm")]
fn own_app() -> Result<Option<App>> {
    inside::read().map_or(Ok(None), |data| App::of(std::sync::Arc::new(data)))
}

/// This very file, where it is an app.
#[cfg(not(target_family = "wasm"))]
fn own_app() -> Result<Option<App>> {
    // Without the name of its own file a program cannot be an app, and does what it can.
    std::env::current_exe().map_or(Ok(None), |path| App::of(smallhold_engine::files::open(&path)?))
}

fn load(options: &Options, app: Option<App>) -> Result<Program> {
    let kernels = match &options.kernels {
        None => kernels::detect(),
        Some(name) => match kernels::family(name) {
            Some(family) => family,
            None => fail!(Shape, "--kernels {name}: this processor has no family of that name"),
        },
    };
    let bundle = match (app, &options.bundle) {
        (Some(app), _) => app.open(Some(clock()))?,
        (None, Some(path)) => {
            let keys = options.trusted_keys.as_deref().map(load_trusted_keys).transpose()?;
            Bundle::open(path, keys.as_deref().map_or(Trust::HostHasVerified, Trust::Keys))?
        }
        (None, None) => fail!(Shape, "expected a bundle; see --help"),
    };
    let tasks = if options.tasks.is_empty() { &bundle.manifest().tasks } else { &options.tasks };
    let program = Program::load(&bundle, tasks, kernels)?;
    if let Some(count) = options.threads {
        program.set_threads(count)?;
    }
    Ok(program)
}

/// Answer until the input ends; whether every request was answered.
fn answer_lines(mut program: Program) -> Result<bool> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut all_answered = true;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.by_ref().take(MOST_BYTES as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| system("standard input", &error))? == 0 {
            return Ok(all_answered);
        }
        if line.len() > MOST_BYTES && !line.ends_with(b"\n") {
            // Too long to be read as a whole: the rest of it is passed over, and what is left, nothing, is refused.
            input.skip_until(b'\n').map_err(|error| system("standard input", &error))?;
            line.clear();
        } else if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let (answer, is_answered) = ask(&mut program, &line);
        all_answered &= is_answered;
        let written = writeln!(output, "{}", answer.to_text()).and_then(|()| output.flush());
        written.map_err(|error| system("standard output", &error))?;
    }
}

/// Answer one request and say how long it took; whether it was answered, beside it.
pub fn ask(program: &mut Program, request: &[u8]) -> (Value, bool) {
    let begun = Instant::now();
    let (mut answer, failure) = program.ask(request);
    if let Value::Object(members) = &mut answer {
        members.push(("latency_ms".to_owned(), (begun.elapsed().as_secs_f64() * 1e3).into()));
    }
    (answer, failure.is_none())
}

/// A failure of the system, with where it happened.
pub fn system(place: &str, error: &io::Error) -> Error {
    Error::new(Kind::System, format!("{place}: {error}"))
}
