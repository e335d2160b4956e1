//! A client that costs as little as it can: one kept connection, requests written as they stand, answers read by their
//! length and not looked into. Otherwise the client would be measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::world::PATIENCE;

pub struct Client {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(to: SocketAddr, token: &str) -> Client {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("Host: {to}\r\nAuthorization: Bearer {token}\r\n");
        Client { stream, head, buffer: Vec::new() }
    }

    pub fn get(&mut self, path: &str) -> (u16, &[u8]) {
        let request = format!("GET {path} HTTP/1.1\r\n{}\r\n", self.head);
        self.exchange(&request)
    }

    pub fn post(&mut self, path: &str, body: &str) -> (u16, &[u8]) {
        let request = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.head,
            body.len()
        );
        self.exchange(&request)
    }

    pub fn post_with(&mut self, path: &str, headers: &[(&str, String)], body: &str) -> (u16, &[u8]) {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "POST {path} HTTP/1.1\r\n{}{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.head,
            body.len()
        );
        self.exchange(&request)
    }

    fn exchange(&mut self, request: &str) -> (u16, &[u8]) {
        self.stream.write_all(request.as_bytes()).unwrap();
        self.buffer.clear();
        let mut piece = [0; 16 << 10];
        loop {
            let read = self.stream.read(&mut piece).unwrap();
            assert!(read > 0, "the connection was closed: {}", String::from_utf8_lossy(&self.buffer));
            self.buffer.extend_from_slice(&piece[..read]);
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end]).unwrap();
            let status = head[9..12].parse().unwrap();
            let length: usize = head
                .split("\r\n")
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap_or_else(|| panic!("an answer without a length: {head}"))
                .parse()
                .unwrap();
            let whole = end + 4 + length;
            if self.buffer.len() >= whole {
                return (status, &self.buffer[end + 4..whole]);
            }
        }
    }
}
