//! `POST /decide` over HTTP/1.1 on a loopback address (RFC 9112): as much of the protocol as that needs.
//!
//! One thread a connection, so that a slow client holds up nobody; requests are answered one after the other. A page in
//! a browser on the same machine is no friend: it must not reach the engine under another name (DNS rebinding) or by a
//! form, so the Host header has to name this machine, and the body has to be declared as JSON, which makes the browser
//! ask first and be refused.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use smallhold_engine::error::Result;
use smallhold_engine::fail;
use smallhold_engine::json::{object, Value};
use smallhold_engine::program::Program;

use crate::{ask, system, MOST_BYTES};

const MOST_HEAD_BYTES: usize = 1 << 14;
const MOST_CONNECTIONS: usize = 64;
/// For a request to arrive or an answer to be taken.
const DEADLINE: Duration = Duration::from_secs(10);
/// For a client that was refused to stop talking.
const LINGER: Duration = Duration::from_secs(2);
/// For the next request on a connection that is kept open.
const IDLE: Duration = Duration::from_secs(60);

/// Answer until the process is ended.
///
/// # Errors
/// `Shape`: not a loopback address. `System`: it is taken.
pub fn serve(program: Program, address: &str) -> Result<()> {
    let parsed = address.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>();
    let Some(bound) = parsed.ok().filter(|address| address.ip().is_loopback()) else {
        fail!(Shape, "--listen {address}: expected a loopback address and a port, for example 127.0.0.1:8765")
    };
    let listener = TcpListener::bind(bound).map_err(|error| system(address, &error))?;
    let bound = listener.local_addr().map_err(|error| system(address, &error))?;
    eprintln!("listening on http://{bound}/decide");
    let program = Arc::new(Mutex::new(program));
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // The client has gone again, or the system has no room for one more: then turning at once would only heat it.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            drop(stream);
            continue;
        }
        let (program, closed) = (program.clone(), open.clone());
        let answer = move || {
            let _ = Connection::new(stream).and_then(|mut connection| connection.answer_all(&program));
            closed.fetch_sub(1, Ordering::Relaxed);
        };
        // Where the system gives no thread, this client is turned away and the patients stay.
        if std::thread::Builder::new().spawn(answer).is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    /// Read and not used yet.
    pending: Vec<u8>,
}

/// What is needed of a request's head.
struct Head {
    method: String,
    path: String,
    length: usize,
    is_json: bool,
    keeps_open: bool,
}

/// A request that is refused: status, and what to say.
struct Refusal(&'static str, &'static str);

type IoResult<T> = std::io::Result<T>;

impl Connection {
    fn new(stream: TcpStream) -> IoResult<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, pending: Vec::new() })
    }

    fn answer_all(&mut self, program: &Mutex<Program>) -> IoResult<()> {
        loop {
            let first = self.fill(Instant::now() + IDLE, 1)?;
            if !first {
                return Ok(());
            }
            let deadline = Instant::now() + DEADLINE;
            let head = match self.head(deadline)? {
                Ok(head) => head,
                Err(refusal) => return self.refuse(&refusal),
            };
            if !self.fill(deadline, head.length)? {
                return Ok(());
            }
            let rest = self.pending.split_off(head.length);
            let body = std::mem::replace(&mut self.pending, rest);
            match (head.method.as_str(), head.path.as_str()) {
                ("POST", "/decide") if !head.is_json => {
                    return self
                        .refuse(&Refusal("415 Unsupported Media Type", "expected Content-Type: application/json"));
                }
                ("POST", "/decide") => {
                    // A thread that panicked would have ended the process, so that nothing is half done.
                    let mut program = program.lock().unwrap_or_else(PoisonError::into_inner);
                    let (answer, is_answered) = ask(&mut program, &body);
                    drop(program);
                    self.send(if is_answered { "200 OK" } else { "400 Bad Request" }, &answer, head.keeps_open)?;
                }
                ("GET", "/health") => self.send("200 OK", &object([("status", "ok".into())]), head.keeps_open)?,
                (_, "/decide" | "/health") => {
                    return self.refuse(&Refusal("405 Method Not Allowed", "expected POST /decide or GET /health"));
                }
                _ => return self.refuse(&Refusal("404 Not Found", "expected POST /decide or GET /health")),
            }
            if !head.keeps_open {
                return Ok(());
            }
        }
    }

    /// Read until so many bytes are pending; `false` where the client ended before.
    fn fill(&mut self, deadline: Instant, count: usize) -> IoResult<bool> {
        let mut chunk = [0; 1 << 14];
        while self.pending.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk)? {
                0 => return Ok(false),
                read => self.pending.extend_from_slice(&chunk[..read]),
            }
        }
        Ok(true)
    }

    fn head(&mut self, deadline: Instant) -> IoResult<std::result::Result<Head, Refusal>> {
        let end = loop {
            if let Some(end) = self.pending.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if self.pending.len() > MOST_HEAD_BYTES {
                return Ok(Err(Refusal("431 Request Header Fields Too Large", "the head is too long")));
            }
            let count = self.pending.len() + 1;
            if !self.fill(deadline, count)? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        let rest = self.pending.split_off(end + 4);
        let text = std::mem::replace(&mut self.pending, rest);
        let parsed = std::str::from_utf8(&text[..end]).ok().map_or(Err(MALFORMED), parse_head);
        let Ok((head, expects_continue)) = parsed else { return Ok(parsed.map(|(head, _)| head)) };
        if expects_continue {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n", deadline)?;
        }
        Ok(Ok(head))
    }

    fn refuse(&mut self, refusal: &Refusal) -> IoResult<()> {
        let about = object([("kind", "malformed".into()), ("message", refusal.1.into())]);
        self.send(refusal.0, &object([("error", about)]), false)?;
        // Closing with unread bytes resets the connection, and the client might never see the answer.
        self.stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + LINGER;
        let mut left = 4 * MOST_BYTES;
        while left > 0 {
            self.pending.clear();
            if !self.fill(deadline, 1)? {
                break;
            }
            left = left.saturating_sub(self.pending.len());
        }
        Ok(())
    }

    fn send(&mut self, status: &str, body: &Value, keeps_open: bool) -> IoResult<()> {
        let (body, connection) = (body.to_text(), if keeps_open { "keep-alive" } else { "close" });
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {connection}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n",
            body.len()
        );
        let deadline = Instant::now() + DEADLINE;
        self.write(head.as_bytes(), deadline)?;
        self.write(body.as_bytes(), deadline)
    }

    /// Write all, by one deadline however slowly the client takes it.
    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> IoResult<()> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.write(bytes)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }
}

const MALFORMED: Refusal = Refusal("400 Bad Request", "not an HTTP/1.1 request");

/// The head, and whether the client waits to be told to go on.
fn parse_head(text: &str) -> std::result::Result<(Head, bool), Refusal> {
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
    let [method, path, version @ ("HTTP/1.1" | "HTTP/1.0")] = words[..] else { return Err(MALFORMED) };
    let mut found = Head {
        method: method.to_owned(),
        path: path.to_owned(),
        length: 0,
        is_json: false,
        keeps_open: version == "HTTP/1.1",
    };
    let (mut lengths, mut hosts, mut is_host_local, mut expects_continue) = (0, 0, false, false);
    for line in lines {
        // A name with a space before the colon is read in more than one way (section 5.1).
        let is_token = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte > b' ' && byte < 0x7f);
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_token(name)) else {
            return Err(MALFORMED);
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                lengths += 1;
                match value.parse() {
                    Ok(length) if value.bytes().all(|byte| byte.is_ascii_digit()) => found.length = length,
                    _ => return Err(MALFORMED),
                }
            }
            "transfer-encoding" => return Err(Refusal("411 Length Required", "expected a Content-Length")),
            "content-type" => {
                let kind = value.split(';').next().unwrap_or("").trim();
                found.is_json = kind.eq_ignore_ascii_case("application/json");
            }
            "connection" if value.eq_ignore_ascii_case("close") => found.keeps_open = false,
            "expect" => expects_continue = value.eq_ignore_ascii_case("100-continue"),
            "host" => {
                hosts += 1;
                is_host_local = is_local(value);
            }
            _ => {}
        }
    }
    if lengths > 1 || hosts > 1 {
        return Err(MALFORMED);
    }
    if !is_host_local {
        return Err(Refusal("421 Misdirected Request", "expected the Host header to name this machine"));
    }
    if found.length > MOST_BYTES {
        return Err(Refusal("413 Content Too Large", "the body is too long"));
    }
    Ok((found, expects_continue))
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
