//! A broker of either implementation in this process, on its own socket.

use crate::wait;
use std::net::TcpListener;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    Ours,
    Theirs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Unix,
    Tcp,
}

enum Broker {
    Ours(busrt::broker::Broker),
    Theirs(#[expect(dead_code, reason = "held")] busrt_ref::broker::Broker),
}

/// A broker, and the runtime on which it and the asynchronous clients of a test run.
pub struct Bed {
    pub address: String,
    pub maker: Maker,
    pub runtime: Runtime,
    broker: Option<Broker>,
    _folder: TempDir,
}

impl Bed {
    pub fn new(maker: Maker, transport: Transport) -> Bed {
        // The timeout is so long that no client is disconnected on a busy machine.
        Bed::with_timeout(maker, transport, Duration::from_secs(30))
    }

    pub fn with_timeout(maker: Maker, transport: Transport, timeout: Duration) -> Bed {
        Bed::make(maker, transport, timeout, None)
    }

    /// Starts their broker with access rules, over TCP.
    pub fn guarded_by_theirs(rules: busrt_ref::broker::AaaMap) -> Bed {
        Bed::make(Maker::Theirs, Transport::Tcp, Duration::from_secs(30), Some(rules))
    }

    fn make(
        maker: Maker,
        transport: Transport,
        timeout: Duration,
        rules: Option<busrt_ref::broker::AaaMap>,
    ) -> Bed {
        let runtime = new_runtime();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("bus.sock").display().to_string();
        let (broker, address) = wait(&runtime, async {
            match maker {
                Maker::Ours => {
                    let broker = busrt::broker::Broker::new(busrt::broker::Options::new().timeout(timeout));
                    let address = match transport {
                        Transport::Unix => &socket,
                        Transport::Tcp => "127.0.0.1:0",
                    };
                    let address = broker.listen(address).await.unwrap();
                    (Broker::Ours(broker), address)
                }
                Maker::Theirs => {
                    let mut broker = busrt_ref::broker::Broker::new();
                    broker.init_default_core_rpc().await.unwrap();
                    let mut config = busrt_ref::broker::ServerConfig::new().timeout(timeout);
                    if let Some(rules) = rules {
                        config = config.aaa_map(rules);
                    }
                    let address = match transport {
                        Transport::Unix => {
                            broker.spawn_unix_server(&socket, config).await.unwrap();
                            socket
                        }
                        Transport::Tcp => spawn_tcp(&mut broker, config).await,
                    };
                    (Broker::Theirs(broker), address)
                }
            }
        });
        Bed { address, maker, runtime, broker: Some(broker), _folder: folder }
    }

    /// Creates a runtime for clients of a broker that runs elsewhere.
    pub fn without_broker(address: &str) -> Bed {
        let (runtime, folder) = (new_runtime(), tempfile::tempdir().unwrap());
        Bed { address: address.to_owned(), maker: Maker::Ours, runtime, broker: None, _folder: folder }
    }

    /// Returns our broker; panics if the broker is not ours.
    pub fn ours(&self) -> busrt::broker::Broker {
        match &self.broker {
            Some(Broker::Ours(broker)) => broker.clone(),
            _ => panic!("that broker is not ours"),
        }
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        wait(&self.runtime, future)
    }
}

fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// That broker does not report its port, so that a free one is chosen first.
async fn spawn_tcp(
    broker: &mut busrt_ref::broker::Broker,
    config: busrt_ref::broker::ServerConfig,
) -> String {
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        // Another program may have taken the port since.
        if broker.spawn_tcp_server(&address, config.clone()).await.is_ok() {
            return address;
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Within the runtime, because dropped values may spawn tasks.
        let _entered = self.runtime.enter();
        self.broker = None;
    }
}
