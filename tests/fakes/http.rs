//! HTTP/1.1 for the fakes, over plain sockets: a request with its body, an answer, and one request outwards. What a
//! real server would do about slow or wicked clients is left out: only tests of this house connect.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The longest body: what a file may have, and room for the form around it.
const MOST_BODY: usize = 64 << 20;

pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    /// By names in small letters.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }
}

/// Reads the next request of a connection. `None` when there is none, or it is not HTTP.
pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let first = line(stream)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = headers(stream)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut request =
        Request { method, path: path.to_owned(), query: query.to_owned(), headers, body: Vec::new() };
    if request.header("expect") == "100-continue" {
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    request.body = body(stream, &request.headers)?;
    Some(request)
}

/// Writes an answer; the connection stays open.
pub(crate) fn answer(stream: &mut TcpStream, status: u16, kind: &str, body: &[u8]) -> std::io::Result<()> {
    answer_with(stream, status, kind, &[], body)
}

/// The same with further headers.
pub(crate) fn answer_with(
    stream: &mut TcpStream,
    status: u16,
    kind: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Type: {kind}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(&[head.as_bytes(), body].concat())
}

/// Posts JSON and gives the status. `None` when there was no answer.
pub(crate) fn post(address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(head.as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader)?.split(' ').nth(1)?.parse().ok()?;
    Some(status)
}

/// Percent-decoding, with `+` as a space.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match (first, pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The fields of a query or a form.
pub(crate) fn fields(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(a, b)| (decoded(a), decoded(b)))
        .collect()
}

/// One part of a `multipart/form-data` body.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) file: Option<String>,
    pub(crate) content: Vec<u8>,
}

/// The parts of such a body. `None` if it is malformed.
pub(crate) fn parts(kind: &str, body: &[u8]) -> Option<Vec<Part>> {
    let boundary = kind.split_once("boundary=")?.1.split(';').next()?.trim_matches('"');
    let mark = format!("--{boundary}").into_bytes();
    let mut found = Vec::new();
    let mut rest = body.get(find(body, &mark)? + mark.len()..)?;
    while !rest.starts_with(b"--") {
        let head_end = find(rest, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(rest.get(..head_end)?).into_owned();
        let content = rest.get(head_end + 4..)?;
        let end = find(content, &[b"\r\n", mark.as_slice()].concat())?;
        let value = |name: &str| {
            let after = head.split_once(&format!("{name}=\""))?.1;
            after.split('"').next().map(str::to_owned)
        };
        // `name` also ends `filename`, which comes after it.
        let part =
            Part { name: value("; name")?, file: value("filename"), content: content.get(..end)?.to_vec() };
        found.push(part);
        rest = content.get(end + 2 + mark.len()..)?;
    }
    Some(found)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn headers(stream: &mut BufReader<TcpStream>) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            return Some(found);
        }
        let (name, value) = line.split_once(':')?;
        found.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn body(stream: &mut BufReader<TcpStream>, headers: &[(String, String)]) -> Option<Vec<u8>> {
    let header =
        |name: &str| headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let length = usize::from_str_radix(line(stream)?.split(';').next()?.trim(), 16).ok()?;
            if body.len() + length > MOST_BODY {
                return None;
            }
            stream.by_ref().take(u64::try_from(length).ok()?).read_to_end(&mut body).ok()?;
            line(stream)?;
            if length == 0 {
                return Some(body);
            }
        }
    }
    let length: usize = header("content-length").unwrap_or("0").parse().ok()?;
    if length > MOST_BODY {
        return None;
    }
    stream.by_ref().take(u64::try_from(length).ok()?).read_to_end(&mut body).ok()?;
    (body.len() == length).then_some(body)
}

fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut bytes = Vec::new();
    stream.by_ref().take(16 << 10).read_until(b'\n', &mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.strip_suffix('\n').map(|line| line.trim_end_matches('\r').to_owned())
}
