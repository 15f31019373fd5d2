//! The information in errors: the kind, the code of a refusal, the subject, the error of the system, and the origin
//! of a failed call.
#![cfg(all(unix, feature = "broker", feature = "rpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::broker::Options;
use busrt::client::{Client, Config};
use busrt::rpc::{Call, Caller, Handlers, Origin, Rpc, RpcError};
use busrt::{ErrorKind, QoS};
use bytes::Bytes;
use common::Bus;
use std::time::Duration;

#[tokio::test]
async fn a_refused_registration_has_the_code_and_the_address() {
    let bus = Bus::start(Options::default()).await;
    let _first = bus.client("a").await;
    let e = bus.try_client("a").await.unwrap_err();
    assert_eq!((e.kind(), e.code(), e.is_refusal()), (ErrorKind::Busy, Some(0x76), true));
    assert_eq!((e.subject(), e.os_error()), (Some(bus.path.as_str()), None));
}

#[tokio::test]
async fn an_error_of_the_system_has_its_number() {
    let path = "/nonexistent/bus.sock";
    let e = Client::connect(&Config::new(path, "a")).await.unwrap_err();
    assert_eq!((e.kind(), e.code(), e.is_refusal()), (ErrorKind::Io, None, false));
    assert_eq!((e.subject(), e.io_kind()), (Some(path), Some(std::io::ErrorKind::NotFound)));
    assert_eq!(e.os_error(), Some(rustix::io::Errno::NOENT.raw_os_error()));
}

#[tokio::test]
async fn a_refused_operation_has_the_code_and_the_receiver() {
    let bus = Bus::start(Options::default()).await;
    let client = bus.client("a").await;
    let e = client.send("nobody", "x", QoS::Processed).await.unwrap_err();
    assert_eq!((e.kind(), e.code(), e.subject()), (ErrorKind::NotRegistered, Some(0x71), Some("nobody")));
    // The client itself, not the broker, refuses a name that cannot be sent.
    let e = client.send("no\0body", "x", QoS::Processed).await.unwrap_err();
    assert_eq!((e.kind(), e.is_refusal()), (ErrorKind::Data, false));
    client.disconnect().await;
    let e = client.send("a", "x", QoS::Processed).await.unwrap_err();
    assert_eq!((e.kind(), e.is_refusal()), (ErrorKind::ConnectionLost, false));
}

/// Answers with a code of the bus, or never.
struct Plant;

impl Handlers for Plant {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if call.method() == "late" {
            return Err(RpcError::new(-32120, "the plant was late"));
        }
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_failed_call_names_its_origin() {
    let bus = Bus::start(Options::default()).await;
    let _plant = Rpc::new(bus.client("plant").await, Plant);
    let caller = Caller::new(bus.client("a").await);

    let e = caller.call("plant", "late", "", QoS::Processed).await.unwrap_err();
    assert_eq!((e.code(), e.origin()), (-32120, Origin::Method));
    assert!(e.bus_error().is_none());

    let deadline = Duration::from_millis(20);
    let e = caller.call_with_deadline("plant", "never", "", QoS::Processed, deadline).await.unwrap_err();
    assert_eq!((e.code(), e.origin()), (-32120, Origin::Client));
    assert_eq!(e.bus_error().unwrap().kind(), ErrorKind::Timeout);

    let e = caller.call("nobody", "m", "", QoS::Processed).await.unwrap_err();
    assert_eq!((e.code(), e.origin()), (-32113, Origin::Broker));
    assert_eq!(e.bus_error().unwrap().code(), Some(0x71));

    caller.client().disconnect().await;
    let e = caller.call("plant", "late", "", QoS::Processed).await.unwrap_err();
    assert_eq!((e.code(), e.origin()), (-32115, Origin::Client));
    assert_eq!(e.bus_error().unwrap().kind(), ErrorKind::ConnectionLost);
}
