//! An RPC caller and server of any implementation, all with the same service.

use crate::{Bed, PATIENCE, ours, theirs, until};
use async_trait::async_trait;
use busrt::blocking;
use busrt::rpc::{Call, Caller, Notification, Rpc, RpcError};
use busrt_ref::rpc as ref_rpc;
use busrt_ref::rpc::Rpc as _;
use busrt_ref::sync::rpc::SyncRpc as _;
use bytes::Bytes;
use std::sync::{Arc, Mutex, OnceLock, mpsc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpcKind {
    Ours,
    OursBlocking,
    Theirs,
    TheirsSync,
}

/// A result, or an error's code and data.
pub type RpcResult = Result<Vec<u8>, (i16, Vec<u8>)>;

/// A received item that asks for no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Notification(String, Vec<u8>),
    /// A call without reply.
    Call0(String, Vec<u8>),
    /// The sender, topic (none for a broadcast) and payload of a frame.
    Frame(String, Option<String>, Vec<u8>),
}

/// The service. Its answers do not depend on the implementation of the client.
#[derive(Clone)]
struct Service(Arc<Mutex<mpsc::Sender<Event>>>);

impl Service {
    fn tell(&self, event: Event) {
        // After the end of a test, its listener may have been dropped.
        let _ = self.0.lock().unwrap().send(event);
    }

    fn answer(&self, sender: &str, method: &str, params: &[u8], wants_reply: bool) -> RpcResult {
        if !wants_reply {
            self.tell(Event::Call0(sender.to_owned(), params.to_vec()));
        }
        match method {
            "echo" => Ok(params.to_vec()),
            "nothing" => Ok(vec![]),
            "who" => Ok(sender.as_bytes().to_vec()),
            "own.error" => Err((-5, b"own \xff text".to_vec())),
            "bare.error" => Err((i16::MIN, vec![])),
            _ => Err((-32601, method.as_bytes().to_vec())),
        }
    }
}

struct Ours(Service, OnceLock<Caller>);

impl busrt::rpc::Handlers for Ours {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if call.method() == "ask.back" {
            let caller = self.1.get().expect("set before the first call");
            let reply =
                caller.call(call.sender(), "echo", call.params_bytes(), busrt::QoS::Processed).await?;
            return Ok(reply.payload_bytes());
        }
        let answer = self.0.answer(call.sender(), call.method(), call.params(), call.wants_reply());
        answer.map(Into::into).map_err(|(code, data)| RpcError::new(code, data))
    }

    async fn on_notification(&self, notification: Notification) {
        self.0.tell(Event::Notification(notification.sender().to_owned(), notification.payload().to_vec()));
    }

    async fn on_frame(&self, frame: busrt::Frame) {
        let topic = frame.topic().map(str::to_owned);
        self.0.tell(Event::Frame(frame.sender().to_owned(), topic, frame.payload().to_vec()));
    }
}

struct OursBlocking(Service, Arc<OnceLock<blocking::Rpc>>);

impl blocking::Handlers for OursBlocking {
    fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if call.method() == "ask.back" {
            let rpc = self.1.get().expect("set before the first call");
            let reply = rpc.call(call.sender(), "echo", call.params_bytes(), busrt::QoS::Processed)?;
            return Ok(reply.payload_bytes());
        }
        let answer = self.0.answer(call.sender(), call.method(), call.params(), call.wants_reply());
        answer.map(Into::into).map_err(|(code, data)| RpcError::new(code, data))
    }

    fn on_notification(&self, notification: Notification) {
        self.0.tell(Event::Notification(notification.sender().to_owned(), notification.payload().to_vec()));
    }

    fn on_frame(&self, frame: busrt::Frame) {
        let topic = frame.topic().map(str::to_owned);
        self.0.tell(Event::Frame(frame.sender().to_owned(), topic, frame.payload().to_vec()));
    }
}

struct Theirs(Service, Arc<OnceLock<Arc<ref_rpc::RpcClient>>>);

fn their_error((code, data): (i16, Vec<u8>)) -> ref_rpc::RpcError {
    ref_rpc::RpcError::new(code, Some(data))
}

#[async_trait]
impl ref_rpc::RpcHandlers for Theirs {
    async fn handle_call(&self, event: ref_rpc::RpcEvent) -> ref_rpc::RpcResult {
        if event.parse_method()? == "ask.back" {
            let rpc = self.1.get().expect("set before the first call").clone();
            let params = event.payload().to_vec().into();
            let reply = rpc.call(event.sender(), "echo", params, busrt_ref::QoS::Processed).await?;
            return Ok(Some(reply.payload().to_vec()));
        }
        let answer = self.0.answer(
            event.sender(),
            event.parse_method()?,
            event.payload(),
            event.is_response_required(),
        );
        answer.map(Some).map_err(their_error)
    }

    async fn handle_notification(&self, event: ref_rpc::RpcEvent) {
        self.0.tell(Event::Notification(event.sender().to_owned(), event.payload().to_vec()));
    }

    async fn handle_frame(&self, frame: busrt_ref::Frame) {
        let topic = frame.topic().map(str::to_owned);
        self.0.tell(Event::Frame(frame.sender().to_owned(), topic, frame.payload().to_vec()));
    }
}

struct TheirsSync(Service);

impl busrt_ref::sync::rpc::SyncRpcHandlers for TheirsSync {
    fn handle_call(&self, event: ref_rpc::RpcEvent) -> ref_rpc::RpcResult {
        // That client is locked while it waits for a reply, so that it cannot be called.
        let answer = self.0.answer(
            event.sender(),
            event.parse_method()?,
            event.payload(),
            event.is_response_required(),
        );
        answer.map(Some).map_err(their_error)
    }

    fn handle_notification(&self, event: ref_rpc::RpcEvent) {
        self.0.tell(Event::Notification(event.sender().to_owned(), event.payload().to_vec()));
    }

    fn handle_frame(&self, frame: busrt_ref::Frame) {
        let topic = frame.topic().map(str::to_owned);
        self.0.tell(Event::Frame(frame.sender().to_owned(), topic, frame.payload().to_vec()));
    }
}

enum Client {
    Ours(Rpc),
    OursBlocking(blocking::Rpc),
    Theirs(Arc<ref_rpc::RpcClient>),
    TheirsSync(busrt_ref::sync::rpc::RpcClient),
}

/// A client that serves and calls.
pub struct RpcPeer<'a> {
    pub name: String,
    bed: &'a Bed,
    client: Client,
    events: mpsc::Receiver<Event>,
}

fn ref_error(e: ref_rpc::RpcError) -> (i16, Vec<u8>) {
    (e.code(), e.data().unwrap_or_default().to_vec())
}

impl<'a> RpcPeer<'a> {
    pub fn serve(bed: &'a Bed, kind: RpcKind, name: &str) -> RpcPeer<'a> {
        let (sender, events) = mpsc::channel();
        let service = Service(Arc::new(Mutex::new(sender)));
        let client = match kind {
            RpcKind::Ours => Client::Ours(bed.wait(async {
                let client = busrt::Client::connect(&ours::config(&bed.address, name)).await.unwrap();
                let own = OnceLock::from(Caller::new(client.clone()));
                Rpc::new(client, Ours(service, own))
            })),
            RpcKind::OursBlocking => {
                let client = blocking::Client::connect(&ours::config(&bed.address, name)).unwrap();
                let own = Arc::new(OnceLock::new());
                let rpc = blocking::Rpc::new(client, OursBlocking(service, own.clone())).unwrap();
                assert!(own.set(rpc.clone()).is_ok());
                Client::OursBlocking(rpc)
            }
            RpcKind::Theirs => Client::Theirs(bed.wait(async {
                let client =
                    busrt_ref::ipc::Client::connect(&theirs::config(&bed.address, name)).await.unwrap();
                let own = Arc::new(OnceLock::new());
                let rpc = Arc::new(ref_rpc::RpcClient::new(client, Theirs(service, own.clone())));
                assert!(own.set(rpc.clone()).is_ok());
                rpc
            })),
            RpcKind::TheirsSync => {
                let config = busrt_ref::sync::ipc::Config::new(&bed.address, name).timeout(PATIENCE);
                let (client, reader) = busrt_ref::sync::ipc::Client::connect(&config).unwrap();
                let (rpc, processor) = busrt_ref::sync::rpc::RpcClient::new(client, TheirsSync(service));
                std::thread::spawn(move || reader.run());
                std::thread::spawn(move || processor.run());
                Client::TheirsSync(rpc)
            }
        };
        RpcPeer { name: name.to_owned(), bed, client, events }
    }

    pub fn call(&self, target: &str, method: &str, params: &[u8], qos: u8) -> RpcResult {
        match &self.client {
            Client::Ours(rpc) => {
                let reply = self.bed.wait(rpc.call(target, method, params.to_vec(), ours::qos(qos)));
                reply.map(|r| r.payload().to_vec()).map_err(|e| (e.code(), e.data().to_vec()))
            }
            Client::OursBlocking(rpc) => {
                let reply = rpc.call(target, method, params.to_vec(), ours::qos(qos));
                reply.map(|r| r.payload().to_vec()).map_err(|e| (e.code(), e.data().to_vec()))
            }
            Client::Theirs(rpc) => {
                let reply = self.bed.wait(rpc.call(target, method, params.into(), theirs::qos(qos)));
                reply.map(|r| r.payload().to_vec()).map_err(ref_error)
            }
            Client::TheirsSync(rpc) => {
                let reply = rpc.call(target, method, params.into(), theirs::qos(qos));
                reply.map(|r| r.payload().to_vec()).map_err(ref_error)
            }
        }
    }

    /// Makes many simultaneous calls, if this implementation supports it.
    pub fn call_many(&self, target: &str, method: &str, params: &[Vec<u8>]) -> Vec<RpcResult> {
        let one_by_one = || params.iter().map(|params| self.call(target, method, params, 1)).collect();
        match &self.client {
            Client::Ours(rpc) => self.bed.wait(async {
                let mut pending = vec![];
                for params in params {
                    pending.push(
                        rpc.submit(target, method, params.clone(), busrt::QoS::Processed).await.unwrap(),
                    );
                }
                let mut results = vec![];
                for call in pending {
                    results.push(
                        call.await.map(|r| r.payload().to_vec()).map_err(|e| (e.code(), e.data().to_vec())),
                    );
                }
                results
            }),
            Client::Theirs(rpc) => self.bed.wait(async {
                let calls = params.iter().map(|params| {
                    let (rpc, params) = (rpc.clone(), params.clone());
                    let (target, method) = (target.to_owned(), method.to_owned());
                    tokio::spawn(async move {
                        rpc.call(&target, &method, params.into(), busrt_ref::QoS::Processed).await
                    })
                });
                let mut results = vec![];
                for call in calls.collect::<Vec<_>>() {
                    results.push(call.await.unwrap().map(|r| r.payload().to_vec()).map_err(ref_error));
                }
                results
            }),
            Client::OursBlocking(_) | Client::TheirsSync(_) => one_by_one(),
        }
    }

    /// Does the same as [`call`](Self::call) without a reply. Errors are result codes of the protocol.
    pub fn call0(&self, target: &str, method: &str, params: &[u8], qos: u8) -> Result<(), u8> {
        match &self.client {
            Client::Ours(rpc) => {
                self.bed.wait(rpc.call0(target, method, params.to_vec(), ours::qos(qos))).map_err(ours::code)
            }
            Client::OursBlocking(rpc) => {
                rpc.call0(target, method, params.to_vec(), ours::qos(qos)).map_err(ours::code)
            }
            Client::Theirs(rpc) => {
                let sent = self.bed.wait(rpc.call0(target, method, params.into(), theirs::qos(qos)));
                self.confirmed(sent.map_err(theirs::code)?)
            }
            Client::TheirsSync(rpc) => {
                confirmed(rpc.call0(target, method, params.into(), theirs::qos(qos)).map_err(theirs::code)?)
            }
        }
    }

    pub fn notify(&self, target: &str, payload: &[u8], qos: u8) -> Result<(), u8> {
        match &self.client {
            Client::Ours(rpc) => {
                self.bed.wait(rpc.notify(target, payload.to_vec(), ours::qos(qos))).map_err(ours::code)
            }
            Client::OursBlocking(rpc) => {
                rpc.notify(target, payload.to_vec(), ours::qos(qos)).map_err(ours::code)
            }
            Client::Theirs(rpc) => {
                let sent = self.bed.wait(rpc.notify(target, payload.into(), theirs::qos(qos)));
                self.confirmed(sent.map_err(theirs::code)?)
            }
            Client::TheirsSync(rpc) => {
                confirmed(rpc.notify(target, payload.into(), theirs::qos(qos)).map_err(theirs::code)?)
            }
        }
    }

    /// Subscribes and publishes over the same client.
    pub fn subscribe_and_publish(&self, topic: &str, payload: &[u8]) {
        match &self.client {
            Client::Ours(rpc) => self.bed.wait(async {
                rpc.client().subscribe(topic, busrt::QoS::Processed).await.unwrap();
                rpc.client().publish(topic, payload.to_vec(), busrt::QoS::Processed).await.unwrap();
            }),
            Client::OursBlocking(rpc) => {
                rpc.client().subscribe(topic, busrt::QoS::Processed).unwrap();
                rpc.client().publish(topic, payload.to_vec(), busrt::QoS::Processed).unwrap();
            }
            Client::Theirs(rpc) => self.bed.wait(async {
                let client = rpc.client();
                let mut client = client.lock().await;
                client.subscribe(topic, busrt_ref::QoS::No).await.unwrap();
                client.publish(topic, payload.into(), busrt_ref::QoS::No).await.unwrap();
            }),
            Client::TheirsSync(rpc) => {
                let client = rpc.client();
                let mut client = client.lock();
                client.subscribe(topic, busrt_ref::QoS::No).unwrap();
                client.publish(topic, payload.into(), busrt_ref::QoS::No).unwrap();
            }
        }
    }

    /// Returns the next event.
    pub fn event(&self) -> Event {
        until("an event", || self.events.try_recv().ok())
    }

    pub fn is_connected(&self) -> bool {
        match &self.client {
            Client::Ours(rpc) => rpc.client().is_connected(),
            Client::OursBlocking(rpc) => rpc.client().is_connected(),
            Client::Theirs(rpc) => rpc.is_connected(),
            Client::TheirsSync(rpc) => rpc.is_connected(),
        }
    }

    fn confirmed(&self, confirm: busrt_ref::OpConfirm) -> Result<(), u8> {
        confirm.map_or(Ok(()), |receiver| self.bed.wait(receiver).expect("an answer").map_err(theirs::code))
    }
}

fn confirmed(confirm: busrt_ref::SyncOpConfirm) -> Result<(), u8> {
    confirm
        .map_or(Ok(()), |receiver| receiver.recv_timeout(PATIENCE).expect("an answer").map_err(theirs::code))
}
