//! Cursors over each transport.
#![cfg(all(unix, feature = "broker", feature = "cursors"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::cursor::{self, Cursor, CursorMap, Uuid};
use busrt::rpc::{Call, Caller, Handlers, Rpc, RpcError};
use bytes::Bytes;
use common::on_every_transport;
use std::time::Duration;

struct Table(CursorMap);

/// Returns an error for its third item, once.
struct Unsteady(u8);

impl Cursor for Unsteady {
    async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        self.0 += 1;
        match self.0 {
            3 => Err(RpcError::internal("for once")),
            6.. => Ok(None),
            n => Ok(Some(vec![n].into())),
        }
    }
}

impl Handlers for Table {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if let Some(answer) = self.0.handle(call.method(), call.params()).await {
            return answer;
        }
        match call.method() {
            "rows" => {
                let rows =
                    rmp_serde::from_slice(call.params()).map_err(|e| RpcError::parse(e.to_string()))?;
                let rows = (0..rows).map(|i: u32| Bytes::from(rmp_serde::to_vec(&(i, "row")).unwrap()));
                Ok(CursorMap::reply(self.0.add(cursor::from_iter(rows))))
            }
            "unsteady" => Ok(CursorMap::reply(self.0.add(Unsteady(0)))),
            "none" => Ok(Bytes::from_static(b"\x01")),
            _ => Err(RpcError::method_not_found()),
        }
    }
}

fn row(bytes: &[u8]) -> u32 {
    let (i, text): (u32, String) = rmp_serde::from_slice(bytes).unwrap();
    assert_eq!(text, "row");
    i
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_lists() {
    on_every_transport(async |bus| {
        let map = CursorMap::new(Duration::from_secs(60));
        let server = Rpc::new(bus.client("table").await, Table(map.clone()));
        let caller = Caller::new(bus.client("caller").await);
        for bulk in [0, 1, 7, 100, 1000] {
            for rows in [0u32, 1, 100] {
                let params = rmp_serde::to_vec(&rows).unwrap();
                let mut stream = caller.cursor("table", "rows", params.clone()).await.unwrap();
                if bulk > 0 {
                    stream = stream.bulk(bulk);
                }
                for i in 0..rows {
                    assert_eq!(row(&stream.next().await.unwrap().unwrap()), i);
                }
                for _ in 0..2 {
                    assert!(stream.next().await.unwrap().is_none());
                }
                assert!(map.is_empty());
                let mut stream = caller.cursor("table", "rows", params).await.unwrap();
                let some = stream.next_bulk(30).await.unwrap();
                assert_eq!(some.len(), 30.min(rows as usize));
                let rest = stream.next_bulk(1000).await.unwrap();
                assert_eq!(
                    some.iter().chain(&rest).map(|r| row(r)).collect::<Vec<_>>(),
                    (0..rows).collect::<Vec<_>>()
                );
                assert!(map.is_empty());
            }
        }
        drop(server);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_cursors() {
    on_every_transport(async |bus| {
        let map = CursorMap::new(Duration::from_secs(60));
        let _server = Rpc::new(bus.client("table").await, Table(map.clone()));
        let caller = Caller::new(bus.client("caller").await);
        assert_eq!(caller.cursor("table", "none", "").await.unwrap_err().code(), -32700);
        assert_eq!(caller.cursor("table", "other", "").await.unwrap_err().code(), -32601);
        let mut stream = caller.cursor("table", "unsteady", "").await.unwrap();
        let mut got = vec![];
        loop {
            match stream.next().await {
                Ok(Some(item)) => got.push(item[0]),
                Ok(None) => break,
                Err(e) => got.push(e.code() as u8),
            }
        }
        assert_eq!(got, [1, 2, -32603i16 as u8, 4, 5]);
        let mut stream = caller.cursor("table", "unsteady", "").await.unwrap();
        assert!(map.remove(&stream.id()));
        assert_eq!(stream.next().await.unwrap_err().code(), -32001);
        let reference = CursorMap::reply(Uuid::nil());
        assert_eq!(caller.call("table", "N", reference, QoS::Processed).await.unwrap_err().code(), -32001);
    })
    .await;
}
