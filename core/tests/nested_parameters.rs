//! Parameters of the broker's methods with the deepest nesting that a hostile client can send.
#![cfg(all(feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use busrt::QoS;
use busrt::broker::{Broker, Options};
use busrt::rpc::Rpc;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn deep_nesting_is_answered_with_an_error() {
    let broker = Broker::new(Options::default());
    let rpc = Rpc::new(broker.client("a").await.unwrap(), ());
    for depth in [1_020, 100, 3_000] {
        let params = [&b"\x81\xa1x"[..], &vec![0x91; depth], &[1]].concat();
        let error = rpc.call(".broker", "client.list", params, QoS::Processed).await.unwrap_err();
        assert_eq!(error.code(), -32700, "{error}");
    }
}
