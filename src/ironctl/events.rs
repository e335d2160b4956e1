//! Reading server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), with a limit
//! on what a line may take. Bytes in, events out; touches nothing else.

use std::io::{self, BufRead, BufReader, Read};

/// A line holds one entry: an answer of at most 1 MiB, of which each byte may be escaped by six, and its names.
const LINE_BYTES: u64 = (6 << 20) + (64 << 10);

/// Ids are short.
const ID_BYTES: usize = 128;

/// One event with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Its id, when it had a number for one.
    pub(super) id: Option<u64>,
    /// What it is called.
    pub(super) name: String,
    /// Its data.
    pub(super) data: String,
}

/// Reads events from a stream.
pub(super) struct Events<R> {
    lines: BufReader<R>,
    last: Option<String>,
}

impl<R: Read> Events<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { lines: BufReader::new(stream), last: None }
    }

    /// The last id, which may have come without an event: what a stream is resumed with.
    pub(super) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The next event; `None` at the end of the stream, where an unfinished one is dropped.
    pub(super) fn next(&mut self) -> io::Result<Option<Event>> {
        let mut id: Option<String> = None;
        let mut name = String::new();
        let mut data: Option<String> = None;
        loop {
            let mut line = Vec::new();
            (&mut self.lines).take(LINE_BYTES).read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                return if line.len() as u64 + 1 >= LINE_BYTES {
                    Err(io::Error::new(io::ErrorKind::InvalidData, "an event is too long"))
                } else {
                    Ok(None)
                };
            }
            let line = String::from_utf8(line)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "an event is not UTF-8"))?;
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                let number = id.as_ref().and_then(|id| id.parse().ok());
                self.last = id.take().or(self.last.take());
                if let Some(data) = data.take() {
                    return Ok(Some(Event { id: number, name, data }));
                }
                name.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                // It travels in a header when it is sent back.
                "id" if value.len() <= ID_BYTES && value.bytes().all(|b| b.is_ascii_graphic()) => {
                    id = Some(value.to_owned());
                }
                "event" => name = value.to_owned(),
                "data" => match &mut data {
                    Some(data) if (data.len() + value.len()) as u64 > LINE_BYTES => {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "an event is too long"));
                    }
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json::Value;

    #[test]
    fn events_are_read_and_comments_and_torn_ones_are_not() {
        let text = "retry: 1000\n\n: hello\n\nid: 7\nevent: out\ndata: {\"a\":1}\n\ndata:x\r\ndata: y\r\n\r\nid: 9\ndata: torn\n";
        let mut events = Events::new(text.as_bytes());
        assert_eq!(
            events.next().unwrap(),
            Some(Event { id: Some(7), name: "out".into(), data: "{\"a\":1}".into() })
        );
        assert_eq!(
            events.next().unwrap(),
            Some(Event { id: None, name: String::new(), data: "x\ny".into() })
        );
        assert_eq!(events.last(), Some("7"));
        assert_eq!(events.next().unwrap(), None);
        assert_eq!(events.last(), Some("7"), "a torn event did not come");
        let mut events = Events::new("id: a1.c2\n\nid: a b\ndata: x\n\n".as_bytes());
        assert_eq!(events.next().unwrap().map(|event| event.id), Some(None));
        assert_eq!(events.last(), Some("a1.c2"));
    }

    #[test]
    fn the_longest_answer_fits_into_a_line() {
        let answer = Value::object([("text", Value::from("\u{1}".repeat(1 << 20)))]).to_string();
        assert!(answer.len() > 6 << 20);
        let mut text = format!("id: 1\ndata: {answer}\n\n").into_bytes();
        let mut events = Events::new(text.as_slice());
        assert_eq!(events.next().unwrap(), Some(Event { id: Some(1), name: String::new(), data: answer }));
        text.splice(0..0, vec![b'x'; LINE_BYTES as usize]);
        assert!(Events::new(text.as_slice()).next().is_err());
    }

    #[test]
    fn an_endless_line_ends_the_reading() {
        let mut events = Events::new(io::repeat(b'x'));
        assert!(events.next().is_err());
    }
}
