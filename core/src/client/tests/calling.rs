//! Calls that end while their request is on its way to the socket.

use super::*;
use crate::client::outcome::Failure;

/// Between the check for a connection and the sending over it, the connection may be lost and another one be
/// established: the caller has been told that the call failed.
#[tokio::test]
async fn a_call_that_has_ended_is_not_sent() {
    for config in [config(), config().reconnect(Reconnect::new())] {
        calls_that_have_ended(&config).await;
    }
}

async fn calls_that_have_ended(config: &Config) {
    let (client, mut broker) = connected(config).await;
    for qos in [QoS::No, QoS::Processed] {
        for bound in [Bound::Bounded, Bound::Unbounded] {
            let slot = Slot::new();
            let calls = &client.state().calls;
            let (id, _) = calls.register("srv", None, CallTarget::Slot(slot.clone())).unwrap();
            calls.lose();
            let request = Request::message("srv", b"request", qos);
            assert!(client.attempt(&request, AnswerTo::Call(id), bound).unwrap().is_sent());
            assert_eq!(slot.get().unwrap().unwrap_err(), Failure::Lost);
        }
    }
    client.publish("t", "x", QoS::Realtime).await.unwrap();
    broker.expect(b"\0\0\0\0\x81\x03\0\0\0t\0x").await;
    assert_eq!((client.stats().w_frames, client.stats().w_bytes), (1, 3));
    assert!(client.is_connected(), "the connection is not lost with the call");
}
