//! Cursors of both implementations, each read by the other.

use async_trait::async_trait;
use busrt::cursor::{CursorMap, CursorStream, from_iter};
use busrt::rpc::{Call, Caller, Handlers, Rpc, RpcError};
use busrt_ref::cursors;
use busrt_ref::rpc as ref_rpc;
use busrt_ref::rpc::Rpc as _;
use bytes::Bytes;
use interop::{Bed, Maker, PATIENCE, Transport};
use serde::Serialize;

const ITEMS: u32 = 25;

#[derive(Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
struct Item {
    id: u32,
    name: String,
}

impl Item {
    fn new(id: u32) -> Item {
        Item { id, name: format!("item {id}") }
    }

    fn packed(id: u32) -> Vec<u8> {
        rmp_serde::to_vec_named(&Item::new(id)).unwrap()
    }
}

fn all() -> Vec<Item> {
    (0..ITEMS).map(Item::new).collect()
}

struct Ours(CursorMap);

impl Handlers for Ours {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if let Some(answer) = self.0.handle(call.method(), call.params()).await {
            return answer;
        }
        Ok(CursorMap::reply(self.0.add(from_iter((0..ITEMS).map(|id| Item::packed(id).into())))))
    }
}

struct TheirCursor(std::sync::Mutex<std::ops::Range<u32>>, cursors::Meta);

#[async_trait]
impl cursors::Cursor for TheirCursor {
    async fn next(&self) -> Result<Option<Vec<u8>>, ref_rpc::RpcError> {
        let next = self.0.lock().unwrap().next().map(Item::packed);
        if next.is_none() {
            self.1.mark_finished();
        }
        Ok(next)
    }

    async fn next_bulk(&self, count: usize) -> Result<Vec<u8>, ref_rpc::RpcError> {
        let items: Vec<_> = self.0.lock().unwrap().by_ref().take(count).map(Item::new).collect();
        if items.len() < count {
            self.1.mark_finished();
        }
        Ok(rmp_serde::to_vec_named(&items).unwrap())
    }

    fn meta(&self) -> &cursors::Meta {
        &self.1
    }
}

struct Theirs(cursors::Map);

#[async_trait]
impl ref_rpc::RpcHandlers for Theirs {
    async fn handle_call(&self, event: ref_rpc::RpcEvent) -> ref_rpc::RpcResult {
        let payload = || rmp_serde::from_slice::<cursors::Payload>(event.payload());
        match event.parse_method()? {
            "N" => self.0.next(payload()?.uuid()).await,
            "NB" => {
                let payload = payload()?;
                self.0.next_bulk(payload.uuid(), payload.bulk_number()).await
            }
            _ => {
                let id = self.0.add(TheirCursor((0..ITEMS).into(), cursors::Meta::new(PATIENCE))).await;
                Ok(Some(rmp_serde::to_vec_named(&cursors::Payload::from(id)).unwrap()))
            }
        }
    }
}

async fn our_server(bed: &Bed) -> Rpc {
    let config = busrt::client::Config::new(&bed.address, "server").timeout(PATIENCE);
    Rpc::new(busrt::Client::connect(&config).await.unwrap(), Ours(CursorMap::new(PATIENCE)))
}

async fn our_caller(bed: &Bed) -> Caller {
    let config = busrt::client::Config::new(&bed.address, "caller").timeout(PATIENCE);
    Caller::new(busrt::Client::connect(&config).await.unwrap())
}

async fn their_client(bed: &Bed, name: &str) -> busrt_ref::ipc::Client {
    let config = busrt_ref::ipc::Config::new(&bed.address, name).timeout(PATIENCE);
    busrt_ref::ipc::Client::connect(&config).await.unwrap()
}

async fn their_server(bed: &Bed) -> ref_rpc::RpcClient {
    ref_rpc::RpcClient::new(their_client(bed, "server").await, Theirs(cursors::Map::new(PATIENCE)))
}

/// Makes calls like a program that uses their crate.
struct TheirCaller(ref_rpc::RpcClient);

impl TheirCaller {
    async fn new(bed: &Bed) -> TheirCaller {
        TheirCaller(ref_rpc::RpcClient::new0(their_client(bed, "caller").await))
    }

    async fn call(&self, method: &str, params: &impl Serialize) -> Result<Vec<u8>, i16> {
        let params = rmp_serde::to_vec_named(params).unwrap().into();
        let reply = self.0.call("server", method, params, busrt_ref::QoS::Processed).await;
        reply.map(|event| event.payload().to_vec()).map_err(|e| e.code())
    }

    async fn cursor(&self) -> cursors::Payload {
        rmp_serde::from_slice(&self.call("items", &()).await.unwrap()).unwrap()
    }

    async fn one_by_one(&self) -> Vec<Item> {
        let cursor = self.cursor().await;
        let mut items = vec![];
        loop {
            let reply = self.call("N", &cursor).await.unwrap();
            if reply.is_empty() {
                return items;
            }
            items.push(rmp_serde::from_slice(&reply).unwrap());
        }
    }

    async fn in_bulk(&self, n: usize) -> Vec<Item> {
        let mut cursor = self.cursor().await;
        cursor.set_bulk_number(n);
        let mut items = vec![];
        loop {
            let more: Vec<Item> = rmp_serde::from_slice(&self.call("NB", &cursor).await.unwrap()).unwrap();
            let end = more.len() < n;
            items.extend(more);
            if end {
                return items;
            }
        }
    }
}

async fn collect(mut stream: CursorStream) -> Vec<Item> {
    let mut items = vec![];
    while let Some(item) = stream.next().await.unwrap() {
        items.push(rmp_serde::from_slice(&item).unwrap());
    }
    items
}

fn everywhere(test: impl AsyncFn(&Bed)) {
    for maker in [Maker::Ours, Maker::Theirs] {
        let bed = Bed::new(maker, Transport::Unix);
        bed.wait(test(&bed));
    }
}

#[test]
fn our_caller_reads_their_cursors() {
    everywhere(async |bed| {
        let (_server, caller) = (their_server(bed).await, our_caller(bed).await);
        let cursor = async || caller.cursor("server", "items", "").await.unwrap();
        assert_eq!(collect(cursor().await).await, all());
        for n in [1, 2, 5, 24, 25, 26, 1000] {
            assert_eq!(collect(cursor().await.bulk(n)).await, all(), "{n}");
        }
        let mut stream = cursor().await;
        assert_eq!(stream.next_bulk(10).await.unwrap().len(), 10);
        assert_eq!(collect(stream).await, (10..ITEMS).map(Item::new).collect::<Vec<_>>());
    });
}

#[test]
fn their_caller_reads_our_cursors() {
    everywhere(async |bed| {
        let (_server, caller) = (our_server(bed).await, TheirCaller::new(bed).await);
        assert_eq!(caller.one_by_one().await, all());
        for n in [1, 2, 5, 24, 25, 26, 1000] {
            assert_eq!(caller.in_bulk(n).await, all(), "{n}");
        }
        // Single items and lists may be mixed.
        let mut cursor = caller.cursor().await;
        let first: Item = rmp_serde::from_slice(&caller.call("N", &cursor).await.unwrap()).unwrap();
        cursor.set_bulk_number(3);
        let more: Vec<Item> = rmp_serde::from_slice(&caller.call("NB", &cursor).await.unwrap()).unwrap();
        assert_eq!((first, more), (Item::new(0), (1..4).map(Item::new).collect()));
    });
}

#[test]
fn an_unknown_cursor_is_not_found() {
    everywhere(async |bed| {
        let (_server, caller) = (our_server(bed).await, TheirCaller::new(bed).await);
        let unknown = busrt::cursor::Uuid::nil();
        #[derive(Serialize)]
        struct Reference {
            u: busrt::cursor::Uuid,
        }
        for method in ["N", "NB"] {
            assert_eq!(caller.call(method, &Reference { u: unknown }).await, Err(-32001));
        }
        // A cursor that has ended is unknown.
        let mut cursor = caller.cursor().await;
        cursor.set_bulk_number(100);
        caller.call("NB", &cursor).await.unwrap();
        assert_eq!(caller.call("N", &cursor).await, Err(-32001));
    });
}
