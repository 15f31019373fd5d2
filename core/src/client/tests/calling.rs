//! Calls that end while their request is on its way to the socket.

use super::*;
use crate::client::outcome::Failure;

/// Between the look for a connection and the sending over it, the connection may be lost and another one be there: the
/// caller has been told that the call failed.
#[tokio::test]
async fn a_call_that_has_ended_is_not_sent() {
    let (client, mut broker) = connected(&config()).await;
    for qos in [QoS::No, QoS::Processed] {
        for bound in [Bound::Bounded, Bound::Unbounded] {
            let slot = Slot::new();
            let calls = &client.state().calls;
            let (id, _) = calls.register("srv", None, CallTarget::Slot(slot.clone())).unwrap();
            calls.lose();
            let request = Request::message("srv", b"request", qos);
            let error = client.attempt(&request, AnswerTo::Call(id), bound).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionLost);
            assert_eq!(slot.get().unwrap().unwrap_err(), Failure::Lost);
        }
    }
    client.publish("t", "x", QoS::Realtime).await.unwrap();
    broker.expect(b"\0\0\0\0\x81\x03\0\0\0t\0x").await;
    assert_eq!((client.stats().w_frames, client.stats().w_bytes), (1, 3));
}
