//! Server-sent events out of a byte stream that comes in any pieces: the `data` of each event, lines joined,
//! comments and other fields left out (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//! Pure: it touches nothing, and holds no more than one event.

/// Longest event. A whole tool input may come in one; the host's own cap on a file is 1 MiB of text.
pub const LONGEST_EVENT: usize = 4 << 20;

/// An event is longer than [`LONGEST_EVENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLong;

/// The parser's state between pieces.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_return: bool,
}

impl Events {
    /// Takes a piece and gives the data of every event that it completes. An event that the stream leaves
    /// without its blank line is never given.
    ///
    /// # Errors
    /// [`EventTooLong`]; the stream cannot be read on.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Vec<Vec<u8>>, EventTooLong> {
        let mut complete = Vec::new();
        for &byte in piece {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => complete.extend(self.end_of_line()),
                _ => {
                    if self.line.len() + self.data.len() >= LONGEST_EVENT {
                        return Err(EventTooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(complete)
    }

    fn end_of_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[][..],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => return None,
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stream: &str) -> Vec<String> {
        let whole = Events::default().feed(stream.as_bytes()).unwrap();
        let mut bytewise = Events::default();
        let mut pieces = Vec::new();
        for byte in stream.bytes() {
            pieces.extend(bytewise.feed(&[byte]).unwrap());
        }
        assert_eq!(whole, pieces, "the same in any pieces");
        whole.into_iter().map(|data| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn events_end_at_a_blank_line_of_any_kind() {
        assert_eq!(all("event: a\ndata: 1\n\ndata:2\r\n\r\ndata: 3\r\r"), ["1", "2", "3"]);
        assert_eq!(all("data: a\ndata:  b\ndata\n\n"), ["a\n b\n"]);
        assert_eq!(all(": comment\n\nid: 7\nretry: 1\n\ndatax: no\n\n"), Vec::<String>::new());
        assert_eq!(all("data: unfinished\n"), Vec::<String>::new());
        assert_eq!(all("\n\n\n"), Vec::<String>::new());
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..8).map(|_| events.feed(&piece)).find(Result::is_err);
        assert_eq!(refused, Some(Err(EventTooLong)));
    }
}
