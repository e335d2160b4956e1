//! A small HTTP/1.1 client over one unix socket: one POST per connection, `connection: close`, a body by
//! length or in chunks. Both ends are ours, yet everything the other end says is bounded: header bytes and
//! count, line length, body length, silence, and the whole call's time. It touches that socket and nothing
//! else; there is no TLS and no name resolution in the sandbox.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Most bytes of status line, headers and trailers together: far more than any honest answer has.
const HEADER_BYTES: usize = 32 << 10;
/// Most header lines.
const HEADERS: usize = 100;
/// Most `1xx` answers before the real one.
const INTERIM: usize = 4;
/// Longest chunk-size line.
const CHUNK_LINE: usize = 256;
/// Read at once.
const BUFFER: usize = 8 << 10;

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Longest silence.
    pub idle: Duration,
    /// The whole call.
    pub whole: Duration,
}

/// Why a call failed before its answer was complete.
#[derive(Debug)]
pub enum HttpError {
    /// The socket did not connect.
    Connect(std::io::Error),
    /// Reading or writing failed.
    Io(std::io::Error),
    /// Nothing came for too long, or the whole call took too long.
    TimedOut,
    /// The stream ended in the middle.
    Truncated,
    /// The answer breaks the protocol.
    Malformed(&'static str),
    /// The caller does not want the answer any more.
    GivenUp,
    /// The answer is larger than its reader accepts.
    TooLarge(&'static str),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "the model socket does not connect: {error}"),
            Self::Io(error) => write!(f, "the model socket failed: {error}"),
            Self::TimedOut => f.write_str("the answer took too long"),
            Self::GivenUp => f.write_str("the answer is not wanted any more"),
            Self::Truncated => f.write_str("the answer ended in the middle"),
            Self::Malformed(what) => write!(f, "the answer is not HTTP: {what}"),
            Self::TooLarge(what) => write!(f, "the answer has too much of something: {what}"),
        }
    }
}

impl std::error::Error for HttpError {}

/// Where a call goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The unix socket.
    pub socket: &'a Path,
    /// The value of the `host` header.
    pub host: &'a str,
    /// The path.
    pub path: &'a str,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    headers: Vec<(String, String)>,
    connection: Connection,
    framing: Framing,
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// So many bytes of the current chunk are left.
    Chunked(u64),
    /// The body is complete.
    Over,
}

/// Sends `body`, calls `sent`, and reads the answer's head.
///
/// # Errors
/// [`HttpError`]; the request may or may not have been acted on.
pub fn post(
    target: Target<'_>,
    headers: &[(&str, &str)],
    body: &[u8],
    patience: Patience,
    sent: &mut dyn FnMut() -> bool,
) -> Result<Answer, HttpError> {
    let deadline = Instant::now() + patience.whole;
    let stream = UnixStream::connect(target.socket).map_err(HttpError::Connect)?;
    let mut connection =
        Connection { stream, buffer: Vec::new(), at: 0, idle: patience.idle, deadline, head_bytes: 0 };
    let mut head = format!("POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", target.path, target.host);
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    // An upstream may refuse a body before it has read all of it: its answer is worth more than our error.
    let whole = connection.send(head.as_bytes()).and_then(|()| connection.send(body));
    if whole.is_ok() && !sent() {
        return Err(HttpError::GivenUp);
    }
    match (whole, connection.head()) {
        (_, Ok((status, headers))) => {
            let framing = framing(status, &headers)?;
            Ok(Answer { status, headers, connection, framing })
        }
        (Err(error), Err(_)) | (Ok(()), Err(error)) => Err(error),
    }
}

impl Answer {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The next piece of the body; `None` when it is complete.
    ///
    /// # Errors
    /// [`HttpError`]; a body that ends before its framing says so is [`HttpError::Truncated`].
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, HttpError> {
        loop {
            let left = match self.framing {
                Framing::Over => return Ok(None),
                Framing::Length(0) => {
                    self.framing = Framing::Over;
                    return Ok(None);
                }
                Framing::Chunked(0) => {
                    self.next_chunk()?;
                    continue;
                }
                Framing::Length(left) | Framing::Chunked(left) => left,
            };
            let piece = self.connection.take(left)?;
            let taken = piece.len() as u64;
            match &mut self.framing {
                Framing::Length(left) => *left -= taken,
                Framing::Chunked(left) => {
                    *left -= taken;
                    if *left == 0 && !self.connection.line(CHUNK_LINE)?.is_empty() {
                        return Err(HttpError::Malformed("a chunk without its end"));
                    }
                }
                Framing::Over => {}
            }
            return Ok(Some(piece));
        }
    }

    /// The whole body, at most `most` bytes of it; what is longer is cut.
    ///
    /// # Errors
    /// As [`Self::piece`].
    pub fn body(&mut self, most: usize) -> Result<Vec<u8>, HttpError> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece()? {
            whole.extend_from_slice(&piece);
            if whole.len() >= most {
                whole.truncate(most);
                break;
            }
        }
        Ok(whole)
    }

    fn next_chunk(&mut self) -> Result<(), HttpError> {
        let line = self.connection.line(CHUNK_LINE)?;
        let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let all_hex = !digits.is_empty() && digits.len() <= 8 && digits.iter().all(u8::is_ascii_hexdigit);
        let size = std::str::from_utf8(digits).ok().filter(|_| all_hex);
        let size = size.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        match size.ok_or(HttpError::Malformed("a chunk without its size"))? {
            0 => {
                // Trailers count as headers and are not used.
                while !self.connection.head_line()?.is_empty() {}
                self.framing = Framing::Over;
            }
            size => self.framing = Framing::Chunked(size),
        }
        Ok(())
    }
}

/// How the body ends. An answer that would end with the connection is refused: a cut one looks the same.
fn framing(status: u16, headers: &[(String, String)]) -> Result<Framing, HttpError> {
    let mut values = headers.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| value);
    let length = values.next();
    if values.next().is_some() {
        return Err(HttpError::Malformed("two lengths"));
    }
    let coded = headers.iter().find(|(name, _)| name == "transfer-encoding").map(|(_, value)| value.as_str());
    match (length, coded) {
        (Some(_), Some(_)) => Err(HttpError::Malformed("a length and an encoding")),
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked(0)),
        (None, Some(_)) => Err(HttpError::Malformed("an unknown transfer encoding")),
        (Some(digits), None) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map(Framing::Length).map_err(|_| HttpError::Malformed("a length without end"))
        }
        (Some(_), None) => Err(HttpError::Malformed("a length that is no number")),
        (None, None) if matches!(status, 204 | 304) => Ok(Framing::Over),
        (None, None) => Err(HttpError::Malformed("a body without a length")),
    }
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Bytes of `buffer` already given out.
    at: usize,
    idle: Duration,
    deadline: Instant,
    head_bytes: usize,
}

impl Connection {
    /// The longest that the next read or write may wait.
    fn wait(&self) -> Result<Duration, HttpError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(HttpError::TimedOut) } else { Ok(left.min(self.idle)) }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), HttpError> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(self.wait()?)).map_err(HttpError::Io)?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(HttpError::Truncated),
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Unread bytes, at least one.
    fn fill(&mut self) -> Result<&[u8], HttpError> {
        while self.at >= self.buffer.len() {
            self.stream.set_read_timeout(Some(self.wait()?)).map_err(HttpError::Io)?;
            self.buffer.resize(BUFFER, 0);
            self.at = BUFFER;
            let read = self.stream.read(&mut self.buffer);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            self.at = 0;
            match read {
                Ok(0) => return Err(HttpError::Truncated),
                Ok(_) => {}
                Err(error) => retry(error)?,
            }
        }
        Ok(self.buffer.get(self.at..).unwrap_or_default())
    }

    fn take(&mut self, most: u64) -> Result<Vec<u8>, HttpError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let unread = self.fill()?;
        let piece = unread.get(..most).unwrap_or(unread).to_vec();
        self.at += piece.len();
        Ok(piece)
    }

    /// One line without its `\r\n` (a bare `\n` also ends it).
    fn line(&mut self, most: usize) -> Result<Vec<u8>, HttpError> {
        let mut line = Vec::new();
        loop {
            let unread = self.fill()?;
            let (piece, ended) = match unread.iter().position(|&byte| byte == b'\n') {
                Some(end) => (unread.get(..end).unwrap_or_default(), 1),
                None => (unread, 0),
            };
            if line.len() + piece.len() > most {
                return Err(HttpError::TooLarge("bytes in a line"));
            }
            line.extend_from_slice(piece);
            self.at += piece.len() + ended;
            if ended == 1 {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
        }
    }

    fn head_line(&mut self) -> Result<Vec<u8>, HttpError> {
        let left = HEADER_BYTES.saturating_sub(self.head_bytes);
        let line = self.line(left)?;
        self.head_bytes += line.len() + 2;
        Ok(line)
    }

    fn head(&mut self) -> Result<(u16, Vec<(String, String)>), HttpError> {
        for _ in 0..=INTERIM {
            let status = status(&self.head_line()?)?;
            let mut headers = Vec::new();
            loop {
                let line = self.head_line()?;
                if line.is_empty() {
                    break;
                }
                if headers.len() >= HEADERS {
                    return Err(HttpError::TooLarge("headers"));
                }
                headers.push(header(&line)?);
            }
            if !(100..200).contains(&status) {
                return Ok((status, headers));
            }
        }
        Err(HttpError::TooLarge("interim answers"))
    }
}

fn retry(error: std::io::Error) -> Result<(), HttpError> {
    match error.kind() {
        std::io::ErrorKind::Interrupted => Ok(()),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Err(HttpError::TimedOut),
        std::io::ErrorKind::ConnectionReset => Err(HttpError::Truncated),
        _ => Err(HttpError::Io(error)),
    }
}

fn status(line: &[u8]) -> Result<u16, HttpError> {
    let bad = HttpError::Malformed("the status line");
    let text = std::str::from_utf8(line).ok();
    let rest = text.and_then(|text| text.strip_prefix("HTTP/1.1 ").or(text.strip_prefix("HTTP/1.0 ")));
    let (digits, _) = match rest {
        Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
        None => return Err(bad),
    };
    let plain = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|status| plain && *status >= 100).ok_or(bad)
}

fn header(line: &[u8]) -> Result<(String, String), HttpError> {
    let bad = HttpError::Malformed("a header");
    let Ok(text) = std::str::from_utf8(line) else { return Err(bad) };
    let Some((name, value)) = text.split_once(':') else { return Err(bad) };
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) || value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(bad);
    }
    Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::scratch::Scratch;
    use std::os::unix::net::UnixListener;

    const QUICK: Patience = Patience { idle: Duration::from_millis(300), whole: Duration::from_secs(5) };

    /// Answers one connection with these bytes and closes it, or leaves it open.
    fn exchange(answer: &[u8], patience: Patience, leave_open: bool) -> Result<(u16, Vec<u8>), HttpError> {
        let dir = Scratch::new();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = answer.to_vec();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            let mut buffer = [0; 1024];
            while !seen.ends_with(b"BODY") {
                let read = stream.read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..read]);
            }
            let _ = stream.write_all(&answer);
            leave_open.then_some(stream)
        });
        let target = Target { socket: &path, host: "model", path: "/v1/messages" };
        let result = post(target, &[("content-type", "application/json")], b"BODY", patience, &mut || true)
            .and_then(|mut answer| {
                let mut whole = Vec::new();
                while let Some(piece) = answer.piece()? {
                    whole.extend_from_slice(&piece);
                }
                Ok((answer.status, whole))
            });
        drop(server.join());
        result
    }

    #[test]
    fn bodies_by_length_and_in_chunks() {
        let by_length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellothis is not read";
        assert_eq!(exchange(by_length, QUICK, true).unwrap(), (200, b"hello".to_vec()));
        let chunked = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\nTransfer-Encoding: chunked\r\n\r\n\
            3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n";
        assert_eq!(exchange(chunked, QUICK, true).unwrap(), (429, b"hello".to_vec()));
        let none = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(exchange(none, QUICK, true).unwrap(), (204, Vec::new()));
    }

    #[test]
    fn a_cut_answer_is_never_a_whole_one() {
        for cut in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ] {
            let error = exchange(cut, QUICK, false).unwrap_err();
            assert!(matches!(error, HttpError::Truncated), "{error} for {:?}", String::from_utf8_lossy(cut));
        }
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for bad in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nbody",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffff\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        ] {
            let error = exchange(bad.as_bytes(), QUICK, true).unwrap_err();
            assert!(matches!(error, HttpError::Malformed(_)), "{error} for {bad:?}");
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(HEADERS + 1));
        let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(HEADER_BYTES));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(INTERIM + 1);
        let trailers =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{}", "a: b\r\n".repeat(9000));
        for answer in [many, long, interim, trailers] {
            assert!(matches!(exchange(answer.as_bytes(), QUICK, true), Err(HttpError::TooLarge(_))));
        }
    }

    #[test]
    fn silence_ends_the_call() {
        let stalled = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel";
        assert!(matches!(exchange(stalled, QUICK, true), Err(HttpError::TimedOut)));
        let hurried = Patience { idle: Duration::from_secs(60), whole: Duration::from_millis(200) };
        assert!(matches!(exchange(stalled, hurried, true), Err(HttpError::TimedOut)));
        let target = Target { socket: Path::new("/nonexistent/socket"), host: "m", path: "/" };
        assert!(matches!(post(target, &[], b"", QUICK, &mut || true), Err(HttpError::Connect(_))));
    }
}
