//! Verdicts over signatures, manifests and bundles, for comparing them with others'.
//!
//! ```text
//! verify signatures < fields > verdicts        a key, a message and a signature for each
//! verify manifests < fields > verdicts         the manifest for each
//! verify bundles KEYS NOW < fields > verdicts  the path for each; KEYS is a folder, NOW seconds since 1970
//! verify believed NOW < fields > verdicts      the same where the host has verified; every file is read
//! ```
//!
//! A field is its length in bytes (u32, little endian) and its bytes. A verdict is a line: `ok`, with the digest of the
//! manifest where there is one, or the kind of the failure and its sentence.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use smallhold_engine::error::{self, Error, Kind};
use smallhold_engine::verify::bundle::{Bundle, Trust};
use smallhold_engine::verify::keys::{load_trusted_keys, PublicKey};
use smallhold_engine::verify::manifest::Manifest;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match serve(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("verify: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(words: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    match words {
        ["signatures"] => answer(|[key, message, signature]| signature_verdict(&key, &message, &signature)),
        ["manifests"] => answer(|[data]| Ok(Manifest::parse(&data)?.digest)),
        ["bundles", keys, now] => {
            let (keys, now) = (load_trusted_keys(Path::new(keys))?, now.parse()?);
            answer(|[path]| Ok(opened(path, Trust::Keys(&keys), now)?.manifest().digest.clone()))
        }
        ["believed", now] => {
            let now = now.parse()?;
            answer(|[path]| {
                let bundle = opened(path, Trust::HostHasVerified, now)?;
                bundle.manifest().files.names().try_for_each(|name| bundle.read(name).map(drop))?;
                Ok(bundle.manifest().digest.clone())
            })
        }
        _ => Err("expected signatures, manifests, bundles KEYS NOW, or believed NOW".into()),
    }
}

fn signature_verdict(key: &[u8], message: &[u8], signature: &[u8]) -> error::Result<String> {
    let raw = key.try_into().map_err(|_| Error::new(Kind::Shape, "key: expected 32 bytes"))?;
    if PublicKey::from_raw(raw).verify(message, signature) {
        Ok(String::new())
    } else {
        Err(Error::new(Kind::Untrusted, "the signature does not match"))
    }
}

fn opened(path: Vec<u8>, trust: Trust, now: u64) -> error::Result<Bundle> {
    let path = String::from_utf8(path).map_err(|error| Error::new(Kind::System, error.to_string()))?;
    Bundle::open_at(Path::new(&path), trust, now)
}

/// A verdict for every `N` fields of the input.
fn answer<const N: usize>(
    verdict: impl Fn([Vec<u8>; N]) -> error::Result<String>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut fields = Vec::new();
    while let Some(field) = next_field(&mut input)? {
        fields.push(field);
        fields = match <[Vec<u8>; N]>::try_from(fields) {
            Ok(whole) => {
                match verdict(whole) {
                    Ok(digest) => writeln!(output, "ok {digest}")?,
                    Err(error) => writeln!(output, "{:?} {error}", error.kind)?,
                }
                output.flush()?;
                Vec::new()
            }
            Err(fields) => fields,
        };
    }
    Ok(())
}

fn next_field(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    let mut field = Vec::new();
    input.take(u64::from(u32::from_le_bytes(length))).read_to_end(&mut field)?;
    Ok(Some(field))
}
