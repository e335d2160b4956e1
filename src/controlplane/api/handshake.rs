//! From a connection to a TLS stream, in a limited time. Whoever speaks plain HTTP by mistake is told. Touches only
//! the connection it is given.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use futures_rustls::server::TlsStream;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Timer};

use crate::controlplane::http::Closing;
use crate::controlplane::telemetry::log;

pub(super) use futures_rustls::TlsAcceptor as Acceptor;

/// Two round trips and some arithmetic on a slow line.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What is read of a request that is not TLS, so that its sender reads the answer before it is told of the end.
const PLAIN_BYTES: usize = 64 << 10;
/// The first byte of a TLS record that begins a handshake. No HTTP request begins with it.
const HANDSHAKE_RECORD: u8 = 22;

const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\nContent-Length: 56\r\n\r\n\
    this port speaks TLS; use an address with https:// here\n";

/// The stream, once both sides agree; `None` when the peer did not manage in time or the server closes.
pub(super) async fn receive(
    acceptor: &Acceptor,
    stream: Async<TcpStream>,
    closing: &Closing,
) -> Option<TlsStream<Async<TcpStream>>> {
    let agreed = async {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1) if first == [HANDSHAKE_RECORD] => acceptor.accept(stream).await,
            Ok(1) => {
                tell(stream).await?;
                Err(std::io::Error::other("not TLS"))
            }
            other => Err(other.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into())),
        }
    };
    let late = async {
        Timer::after(HANDSHAKE).await;
        Err(std::io::ErrorKind::TimedOut.into())
    };
    let closed = async {
        let _ = closing.recv().await;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    };
    match agreed.or(late).or(closed).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            log::debug("api.no_handshake", &[("error", &error)]);
            None
        }
    }
}

/// Says so in the peer's language.
async fn tell(mut stream: Async<TcpStream>) -> std::io::Result<()> {
    stream.write_all(NOT_TLS).await?;
    stream.get_ref().shutdown(Shutdown::Write)?;
    // Closing over unread bytes would reset the connection, and with it what was just said.
    let mut rest = stream.take(PLAIN_BYTES as u64);
    let mut buffer = [0; 1024];
    while rest.read(&mut buffer).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_has_the_length_it_says() {
        let text = std::str::from_utf8(NOT_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
