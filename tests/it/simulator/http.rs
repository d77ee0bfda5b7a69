//! The least HTTP client that shows every byte of an answer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn content_type(&self) -> &str {
        self.header("content-type").unwrap_or("")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether the body is as long as was announced.
    pub fn is_whole(&self) -> bool {
        self.header("content-length") == Some(self.body.len().to_string().as_str())
    }
}

pub fn get(base: &str, path: &str) -> Reply {
    get_with(base, path, &[])
}

pub fn get_with(base: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    try_get(base, path, headers).unwrap()
}

/// Opens a connection and asks, without waiting for the answer.
pub fn ask(base: &str, path: &str, headers: &[(&str, &str)]) -> Option<TcpStream> {
    let (host, base_path) = match base.strip_prefix("http://").unwrap().split_once('/') {
        Some((host, base_path)) => (host, format!("/{base_path}")),
        None => (base.strip_prefix("http://").unwrap(), String::new()),
    };
    let mut stream = TcpStream::connect(host).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut request =
        format!("GET {base_path}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).ok()?;
    Some(stream)
}

/// `None` when the connection fails before the headers have come.
pub fn try_get(base: &str, path: &str, headers: &[(&str, &str)]) -> Option<Reply> {
    read(ask(base, path, headers)?)
}

pub fn read(mut stream: TcpStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    // A connection that is cut has given what it gave.
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some(Reply {
        status,
        headers,
        body: bytes[end + 4..].to_vec(),
    })
}

/// Percent-encodes a parameter.
pub fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
