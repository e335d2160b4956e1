//! A small blocking HTTP/1.1 client: one request a connection, answers with a length or in chunks, and a
//! reader of event streams. It is the tests' own, so that the server is not judged by its own library.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("status {}: {error}: {}", self.status, self.text()))
    }

    /// The body of a success; anything else fails the test.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "status {}: {}", self.status, self.text());
        self.json()
    }
}

/// A request that has not been sent.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: Vec<(&'a str, String)>,
    pub body: Vec<u8>,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a str) -> Request<'a> {
        Request { method: "GET", path, headers: Vec::new(), body: Vec::new() }
    }

    pub fn post(path: &'a str, body: &Value) -> Request<'a> {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Request { method: "POST", path, headers, body: body.to_string().into_bytes() }
    }

    pub fn header(mut self, name: &'a str, value: impl Into<String>) -> Request<'a> {
        self.headers.push((name, value.into()));
        self
    }

    pub fn token(self, token: &str) -> Request<'a> {
        self.header("Authorization", format!("Bearer {token}"))
    }

    /// Sends it and reads the answer; an error is one of the connection.
    pub fn send(self, to: SocketAddr) -> std::io::Result<Answer> {
        answer(self.open(to)?)
    }

    /// Sends the head alone, and returns when the server has judged it and wants the body.
    #[track_caller]
    pub fn hold(mut self, to: SocketAddr) -> Held {
        let body = std::mem::take(&mut self.body);
        self.headers.push(("Content-Length", body.len().to_string()));
        self.headers.push(("Expect", "100-continue".to_owned()));
        let mut reader = self.open(to).unwrap();
        assert_eq!(head(&mut reader).unwrap().0, 100);
        Held { reader, body }
    }

    /// Sends it and gives the status of the answer, and the connection, which stays.
    #[track_caller]
    pub fn keep(self, to: SocketAddr) -> (u16, TcpStream) {
        let mut reader = self.header("Connection", "keep-alive").open(to).unwrap();
        let status = head(&mut reader).unwrap().0;
        (status, reader.into_inner())
    }

    pub fn open(self, to: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let has = |wanted: &str| self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let (has_host, has_length, stays) = (has("host"), has("content-length"), has("connection"));
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !stays {
            text.push_str("Connection: close\r\n");
        }
        if !has_host {
            text.push_str(&format!("Host: {to}\r\n"));
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !has_length && (!self.body.is_empty() || self.method == "POST") {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        let mut all = text.into_bytes();
        all.extend(self.body);
        stream.write_all(&all)?;
        Ok(BufReader::new(stream))
    }
}

/// A request of which the server has the head.
pub struct Held {
    reader: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Held {
    /// Sends the body, and leaves the answer to whoever waits for it.
    #[track_caller]
    pub fn send(&mut self) {
        self.reader.get_mut().write_all(&self.body).unwrap();
    }

    /// Sends the body and reads the answer.
    #[track_caller]
    pub fn finish(mut self) -> Answer {
        self.send();
        answer(self.reader).unwrap()
    }
}

fn answer(mut reader: BufReader<TcpStream>) -> std::io::Result<Answer> {
    let (status, headers) = head(&mut reader)?;
    let mut body = Vec::new();
    if chunked(&headers) {
        Chunks { reader, left: 0, done: false }.read_to_end(&mut body)?;
    } else if let Some((_, length)) = headers.iter().find(|(key, _)| key == "content-length") {
        body.resize(length.parse().map_err(std::io::Error::other)?, 0);
        reader.read_exact(&mut body)?;
    } else {
        reader.read_to_end(&mut body)?;
    }
    Ok(Answer { status, headers, body })
}

fn head(reader: &mut BufReader<TcpStream>) -> std::io::Result<(u16, Vec<(String, String)>)> {
    let bad = |what: &str| std::io::Error::other(format!("not an HTTP answer: {what}"));
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| bad(&line))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end();
        if text.is_empty() {
            return Ok((status, headers));
        }
        let (key, value) = text.split_once(':').ok_or_else(|| bad(text))?;
        headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn chunked(headers: &[(String, String)]) -> bool {
    headers.iter().any(|(key, value)| key == "transfer-encoding" && value.contains("chunked"))
}

/// The bytes of a body in chunks.
struct Chunks {
    reader: BufReader<TcpStream>,
    left: usize,
    done: bool,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.done {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            // The empty line after the previous chunk comes first.
            while line.trim().is_empty() {
                line.clear();
                if self.reader.read_line(&mut line)? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            if self.left == 0 {
                self.done = true;
                return Ok(0);
            }
        }
        let most = out.len().min(self.left);
        let read = self.reader.read(&mut out[..most])?;
        self.left -= read;
        if read == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: String,
}

/// An open event stream.
pub struct Events {
    lines: Box<dyn BufRead + Send>,
    stream: TcpStream,
}

impl Events {
    /// Opens it; anything but 200 fails the test.
    #[track_caller]
    pub fn open(request: Request<'_>, to: SocketAddr) -> Events {
        let mut reader = request.header("Accept", "text/event-stream").open(to).unwrap();
        let stream = reader.get_ref().try_clone().unwrap();
        let (status, headers) = head(&mut reader).unwrap();
        assert_eq!(status, 200, "the event stream was refused");
        let kind = headers.iter().find(|(key, _)| key == "content-type").map(|(_, value)| value.as_str());
        assert!(kind.is_some_and(|kind| kind.starts_with("text/event-stream")), "{kind:?}");
        let lines: Box<dyn BufRead + Send> = if chunked(&headers) {
            Box::new(BufReader::new(Chunks { reader, left: 0, done: false }))
        } else {
            Box::new(reader)
        };
        Events { lines, stream }
    }

    /// The next event within the world's patience; comments are passed over. `None` at the stream's end.
    #[track_caller]
    pub fn next(&mut self) -> Option<Event> {
        self.next_within(PATIENCE)
    }

    /// The same; `None` also where the connection breaks.
    pub fn try_next(&mut self) -> Option<Event> {
        match self.read(PATIENCE) {
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => panic!("no event came in time"),
            read => read.ok().flatten(),
        }
    }

    /// The same within a time of the caller's.
    #[track_caller]
    pub fn next_within(&mut self, time: Duration) -> Option<Event> {
        self.read(time).expect("no event came in time")
    }

    /// The next id, of an event or of a sign of life.
    #[track_caller]
    pub fn next_id(&mut self) -> String {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(id) = line.strip_prefix("id: ") {
                return id.trim_end().to_owned();
            }
        }
    }

    /// Whether nothing comes for so long. (For what must not happen there is no event to wait for.)
    pub fn quiet_for(&mut self, time: Duration) -> bool {
        !matches!(self.read(time), Ok(Some(_)))
    }

    fn read(&mut self, time: Duration) -> std::io::Result<Option<Event>> {
        let begun = Instant::now();
        let mut event = Event::default();
        let mut seen = false;
        loop {
            let mut line = String::new();
            // A stream sends signs of life, so the time of one read says nothing.
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            if self.lines.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if seen {
                    return Ok(Some(event));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => event.id = value.to_owned(),
                "event" => event.name = value.to_owned(),
                "data" => {
                    if !event.data.is_empty() {
                        event.data.push('\n');
                    }
                    event.data.push_str(value);
                    seen = true;
                }
                _ => {}
            }
        }
    }
}
