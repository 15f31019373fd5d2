//! A proxy between clients and a broker that injects network faults at random positions of the byte streams.

use super::Transport;
use super::random::Random;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends, probably in the middle of a frame.
    Cut,
    /// The connection ends with a reset, if the transport has resets.
    Reset,
    /// Nothing is forwarded for a short time.
    Delay,
    /// A few hundred bytes are forwarded one by one.
    Trickle,
    /// Nothing more is forwarded in one direction; the connection ends much later.
    Stall,
}

pub const FAULTS: [Fault; 5] = [Fault::Cut, Fault::Reset, Fault::Delay, Fault::Trickle, Fault::Stall];

/// Maximum distance between two faults, in bytes of one direction.
const FAR: u64 = 6000;
const STALL: Duration = Duration::from_millis(2500);

pub struct Proxy {
    pub address: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    broker: String,
    faults: Vec<Fault>,
    /// True while no faults are injected.
    calm: AtomicBool,
    injected: AtomicU64,
    random: Mutex<Random>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Proxy {
    /// Listens on a path next to the broker's or on a free port.
    pub async fn start(transport: Transport, broker: &str, faults: &[Fault], random: &mut Random) -> Proxy {
        let (listener, address) = match transport {
            Transport::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap().to_string();
                (Listener::Tcp(listener), address)
            }
            _ => {
                let address = format!("{broker}.{:x}.sock", random.next());
                (Listener::Unix(UnixListener::bind(&address).unwrap()), address)
            }
        };
        let shared = Arc::new(Shared {
            broker: broker.to_owned(),
            faults: faults.to_vec(),
            calm: AtomicBool::new(false),
            injected: AtomicU64::new(0),
            random: Mutex::new(random.fork()),
        });
        let task = tokio::spawn(accept_all(listener, shared.clone()));
        Proxy { address, shared, task }
    }

    pub fn set_calm(&self, calm: bool) {
        self.shared.calm.store(calm, Ordering::Relaxed);
    }

    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(listener: Listener, shared: Arc<Shared>) {
    loop {
        match &listener {
            Listener::Unix(listener) => {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(serve(stream.into_split(), shared.clone()));
            }
            Listener::Tcp(listener) => {
                let Ok((stream, _)) = listener.accept().await else { continue };
                stream.set_nodelay(true).unwrap();
                if shared.faults.contains(&Fault::Reset) {
                    stream.set_zero_linger().unwrap();
                }
                tokio::spawn(serve(stream.into_split(), shared.clone()));
            }
        }
    }
}

type Half<R, W> = (R, W);

async fn serve<R, W>(client: Half<R, W>, shared: Arc<Shared>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    // An error means that the broker is being restarted.
    let Ok(broker) = UnixStream::connect(&shared.broker).await else { return };
    let (from_broker, to_broker) = broker.into_split();
    // When one direction ends, both end.
    tokio::select! {
        () = pump(client.0, to_broker, &shared) => {}
        () = pump(from_broker, client.1, &shared) => {}
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, shared: &Shared) {
    let mut random = shared.random.lock().fork();
    let mut left = random.below(FAR);
    let mut buf = vec![0; 4096];
    loop {
        let Ok(n @ 1..) = from.read(&mut buf).await else { return };
        let mut bytes = &buf[..n];
        while bytes.len() as u64 > left {
            let (before, after) = bytes.split_at(left as usize);
            if to.write_all(before).await.is_err() {
                return;
            }
            bytes = after;
            left = random.below(FAR);
            if shared.calm.load(Ordering::Relaxed) {
                continue;
            }
            shared.injected.fetch_add(1, Ordering::Relaxed);
            match random.pick(&shared.faults) {
                Fault::Cut | Fault::Reset => return,
                Fault::Stall => return tokio::time::sleep(STALL).await,
                Fault::Delay => tokio::time::sleep(Duration::from_millis(random.below(30))).await,
                Fault::Trickle => {
                    let (slow, rest) = bytes.split_at(bytes.len().min(300));
                    for byte in slow {
                        if to.write_all(&[*byte]).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                    bytes = rest;
                }
            }
        }
        left -= bytes.len() as u64;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
