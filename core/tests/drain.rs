//! The orderly end of a client.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::client::Overflow;
use busrt::rpc::{Call, Handlers, Notification, Rpc, RpcError};
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use common::{PATIENCE, eventually, next, on_every_transport};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

struct Gated {
    gate: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
    notified: Arc<AtomicUsize>,
}

impl Handlers for Gated {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        Ok(call.params_bytes())
    }

    async fn on_notification(&self, _: Notification) {
        self.gate.acquire().await.unwrap().forget();
        self.notified.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_finish_and_newcomers_are_refused() {
    on_every_transport(async |bus| {
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let notified = Arc::new(AtomicUsize::new(0));
        let handlers = Gated { gate: gate.clone(), begun: begun.clone(), notified: notified.clone() };
        let server = Rpc::new(bus.client("server").await, handlers);
        let caller = Rpc::new(bus.client("caller").await, ());
        let call = |params: &'static str| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.call("server", "m", params, QoS::Processed).await })
        };
        for _ in 0..3 {
            caller.notify("server", "n", QoS::Processed).await.unwrap();
        }
        let early = call("early");
        eventually("the call has begun", || begun.load(Ordering::SeqCst) == 1).await;
        let client = server.client().clone();
        let draining = tokio::spawn(async move { client.drain(PATIENCE).await });
        // Until then, these are ordinary calls.
        let mut received = 3 + 1;
        while server.client().stats().dropped == 0 {
            caller.call0("server", "m", "", QoS::Processed).await.unwrap();
            received += 1;
            eventually("the frame has arrived", || server.client().stats().r_frames == received).await;
        }
        let late = call("late");
        eventually("the last call was received", || server.client().stats().r_frames == received + 1).await;
        assert!(!draining.is_finished());
        gate.add_permits(10_000);
        assert_eq!(early.await.unwrap().unwrap().payload(), b"early");
        let e = late.await.unwrap().unwrap_err();
        assert_eq!(e.kind(), Some(ErrorKind::NotRegistered), "{e}");
        assert!(draining.await.unwrap(), "not in time");
        assert_eq!(notified.load(Ordering::SeqCst), 3);
        assert!(!server.client().is_connected());
        eventually("the name is free", || bus.broker.clients().clients.iter().all(|c| c.name != "server"))
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_bounded() {
    on_every_transport(async |bus| {
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let handlers = Gated { gate, begun: begun.clone(), notified: Arc::default() };
        let server = Rpc::new(bus.client("server").await, handlers);
        bus.client("caller")
            .await
            .send("server", [1, 0, 0, 0, 0, b'm', 0].to_vec(), QoS::Processed)
            .await
            .unwrap();
        eventually("the call has begun", || begun.load(Ordering::SeqCst) == 1).await;
        assert!(!server.client().drain(Duration::from_millis(20)).await);
        assert!(!server.client().is_connected());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_frames_can_be_taken_and_sent_frames_arrive() {
    on_every_transport(async |bus| {
        let (a, mut frames) = bus.listener("a").await;
        let (b, mut others) = bus.listener("b").await;
        b.send("a", "waits", QoS::Processed).await.unwrap();
        eventually("the frame was received", || a.stats().r_frames == 1).await;
        for _ in 0..1000 {
            a.send("b", "x", QoS::No).await.unwrap();
        }
        assert!(a.drain(PATIENCE).await);
        assert_eq!(frames.recv().await.unwrap().payload(), b"waits");
        assert!(frames.recv().await.is_none());
        for _ in 0..1000 {
            next(&mut others).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_drops_frames_by_its_policy() {
    on_every_transport(async |bus| {
        for (overflow, first) in [(Overflow::DropOld, 90), (Overflow::DropNew, 0)] {
            let config = bus.config("b").inbox_bytes(10 * common::held_by(3)).overflow(overflow);
            let b = match bus.transport {
                common::Transport::Local => bus.broker.client_with(&config).await.unwrap(),
                _ => busrt::Client::connect(&config).await.unwrap(),
            };
            let mut frames = b.frames().unwrap();
            let a = bus.client("a").await;
            for i in 0..100u8 {
                a.send("b", vec![i], QoS::Processed).await.unwrap();
            }
            eventually("all came", || b.stats().r_frames == 100).await;
            assert_eq!((b.stats().dropped, b.stats().queue), (90, 10));
            for i in first..first + 10 {
                assert_eq!(next(&mut frames).await.payload(), [i]);
            }
            b.disconnect().await;
            a.disconnect().await;
        }
    })
    .await;
}
