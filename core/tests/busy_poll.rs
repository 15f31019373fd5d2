//! A client that polls its socket for answers gets each of them, and only while it awaits some.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::broker::Options;
use busrt::client::Client;
use busrt::rpc::{Call, Handlers, Rpc, RpcError};
use bytes::Bytes;
use common::{Bus, next};
use std::time::Duration;

struct Echo;

impl Handlers for Echo {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if call.method() == "slow" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(call.params_bytes())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_comes() {
    let bus = Bus::start(Options::default()).await;
    let _server = Rpc::new(bus.client("server").await, Echo);
    let config = bus.config("poller").busy_poll_async(Duration::from_micros(500));
    let client = Client::connect(&config).await.unwrap();
    let rpc = busrt::rpc::Caller::new(client.clone());
    let mut frames = client.frames().unwrap();
    for number in 0..500_u32 {
        let params = number.to_le_bytes().to_vec();
        let method = if number % 100 == 7 { "slow" } else { "fast" };
        let reply = rpc.call("server", method, params.clone(), QoS::Processed).await.unwrap();
        assert_eq!(reply.payload(), params);
        client.send("poller", params.clone(), QoS::Processed).await.unwrap();
        assert_eq!(next(&mut frames).await.payload(), params);
    }
    // Many at a time.
    let pending: Vec<_> = {
        let mut pending = vec![];
        for number in 0..300_u32 {
            let call = rpc.submit("server", "fast", number.to_le_bytes().to_vec(), QoS::No).await.unwrap();
            pending.push((number, call));
        }
        pending
    };
    for (number, call) in pending {
        assert_eq!(call.await.unwrap().payload(), number.to_le_bytes());
    }
}
