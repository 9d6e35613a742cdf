//! Heads of HTTP/1 requests, for servers that pass requests on without understanding more of them.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The request line and headers, up to the empty line; a client without a body waits for the
/// answer before it sends more.
pub(crate) async fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 64 * 1024 || client.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// The same request, with the wish that the connection ends after it.
pub(crate) fn last_request(head: &str) -> String {
    let mut lines: Vec<&str> =
        head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    lines.extend(["Connection: close", "", ""]);
    lines.join("\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_request_differs_in_its_connection_alone() {
        let head = |connection: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n{connection}\r\n");
        let last = head("Connection: close\r\n");
        assert_eq!(last_request(&head("")), last);
        assert_eq!(last_request("GET / HTTP/1.1\r\nHost: a\r\nconnection: keep-alive\r\nAccept: */*\r\n\r\n"), last);
    }
}
