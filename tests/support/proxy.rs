//! A proxy that spoils connections: between the program and PostgreSQL, or Tempo.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where connections lead.
#[derive(Debug, Clone)]
pub enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// Nowhere: they are closed.
    Nowhere,
}

/// What happens to what goes through, either way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Line {
    /// Nothing.
    Open,
    /// New connections are closed as soon as they are made.
    Refused,
    /// Nothing moves, and nothing is closed.
    Stalled,
    /// So many bytes at a time, with a pause after each.
    Slow { bytes: usize, pause: Duration },
    /// A connection breaks once this many bytes have come back on it since it was made.
    BreaksAfter { bytes: usize },
}

#[derive(Debug, Clone, Copy)]
struct State {
    line: Line,
    /// Grows when all connections are cut.
    cuts: u64,
}

/// Listens on a free port of the loopback interface until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    upstream: Arc<Mutex<Upstream>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn new(upstream: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, _) = watch::channel(State {
            line: Line::Open,
            cuts: 0,
        });
        let upstream = Arc::new(Mutex::new(upstream));
        let accepting = tokio::spawn(accept(listener, state.clone(), Arc::clone(&upstream)));
        Self {
            address,
            state,
            upstream,
            accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections elsewhere.
    pub fn lead_to(&self, upstream: Upstream) {
        *self.upstream.lock().unwrap() = upstream;
    }

    pub fn set(&self, line: Line) {
        self.state.send_modify(|state| state.line = line);
    }

    /// Breaks every connection there is.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    state: watch::Sender<State>,
    upstream: Arc<Mutex<Upstream>>,
) {
    loop {
        // Fails only when there are too many connections; the next may be had.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if state.borrow().line == Line::Refused {
            continue;
        }
        let upstream = upstream.lock().unwrap().clone();
        let state = state.subscribe();
        tokio::spawn(async move {
            let _nagle_may_stay = client.set_nodelay(true);
            let (client_reads, client_writes) = client.into_split();
            match upstream {
                Upstream::Tcp(address) => {
                    if let Ok(server) = TcpStream::connect(address).await {
                        let _nagle_may_stay = server.set_nodelay(true);
                        let (reads, writes) = server.into_split();
                        both(state, (client_reads, client_writes), (reads, writes)).await;
                    }
                }
                Upstream::Unix(path) => {
                    if let Ok(server) = UnixStream::connect(path).await {
                        let (reads, writes) = server.into_split();
                        both(state, (client_reads, client_writes), (reads, writes)).await;
                    }
                }
                Upstream::Nowhere => {}
            }
        });
    }
}

/// Carries both ways until one end closes its side and the other has answered to that, or the line breaks.
async fn both(
    mut state: watch::Receiver<State>,
    (client_reads, client_writes): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    (server_reads, server_writes): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
) {
    let cuts = state.borrow().cuts;
    let there = carry(state.clone(), client_reads, server_writes, false);
    let back = carry(state.clone(), server_reads, client_writes, true);
    tokio::select! {
        _ = async { tokio::try_join!(there, back) } => {}
        // An error: the proxy is gone.
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

/// Carries one way. Ends with an error when the line breaks, which ends the other way, too.
async fn carry(
    mut state: watch::Receiver<State>,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    back: bool,
) -> Result<(), ()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut carried = 0;
    loop {
        let line = state.borrow().line;
        let most = match line {
            Line::Slow { bytes, .. } => bytes.clamp(1, buffer.len()),
            _ => buffer.len(),
        };
        let count = match from.read(&mut buffer[..most]).await {
            Ok(0) => {
                // The other end may have closed already.
                let _closed = to.shutdown().await;
                return Ok(());
            }
            Ok(count) => count,
            Err(_) => return Err(()),
        };
        let passes = state.wait_for(|state| state.line != Line::Stalled).await;
        let line = passes.map_err(|_| ())?.line;
        if let Line::Slow { pause, .. } = line {
            tokio::time::sleep(pause).await;
        }
        carried += count;
        match line {
            Line::BreaksAfter { bytes } if back && carried > bytes => {
                let rest = count.saturating_sub(carried - bytes);
                let _half_of_it = to.write_all(&buffer[..rest]).await;
                return Err(());
            }
            _ => to.write_all(&buffer[..count]).await.map_err(|_| ())?,
        }
    }
}
