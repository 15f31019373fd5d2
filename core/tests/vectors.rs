//! The codec reads and writes the wire vectors in `tests/vectors`, whose README describes the format.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use busrt::ErrorKind;
use busrt::proto::decoder::{Decoder, Header};
use busrt::proto::handshake::{Client, ClientStep, Server, ServerStep};
use busrt::proto::op::{BROKER_NAME, FrameKind, GREETING, QoS};
use busrt::proto::request::{Operation, Topics};
use busrt::proto::rpc::Envelope;
use busrt::proto::{DecodeError, delivery, request, rpc};
use serde_json::{Value, json};

/// The limit of a broker with its default options.
const DEFAULT_LIMIT: u32 = 256 * 1024 * 1024;

fn vectors(file: &str, list: &str) -> Vec<Value> {
    let path = format!("{}/../tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let mut all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let list = all[list].take().as_array().unwrap().clone();
    assert!(!list.is_empty());
    list
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Returns the only frame in `bytes`, or the error.
fn decode<H: Header>(bytes: &[u8], limit: u32) -> Result<(H, Vec<u8>), DecodeError> {
    let mut input = bytes;
    let (header, body) = Decoder::<H>::new(limit).next(&mut input)?.unwrap();
    assert!(input.is_empty(), "bytes after the frame");
    Ok((header, body.to_vec()))
}

fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotRegistered => "not_registered",
        ErrorKind::Data => "data",
        ErrorKind::Io => "io",
        ErrorKind::Other => "other",
        ErrorKind::NotSupported => "not_supported",
        ErrorKind::Busy => "busy",
        ErrorKind::NotDelivered => "not_delivered",
        ErrorKind::Timeout => "timeout",
        ErrorKind::AccessDenied => "access_denied",
        ErrorKind::ConnectionLost => "connection_lost",
        _ => "a kind without a vector",
    }
}

fn operation_meaning(header: request::Header, operation: &Operation<'_, &[u8]>) -> Value {
    let mut meaning = json!({ "op_id": header.op_id, "qos": header.qos() as u8 });
    let list = |topics: &Topics<'_>| json!(topics.iter().collect::<Vec<_>>());
    let (name, fields) = match operation {
        Operation::Nop => ("nop", json!({})),
        Operation::Publish { topic, .. } => ("publish", json!({ "topic": topic })),
        Operation::PublishFor { topic, receiver, .. } => {
            ("publish_for", json!({ "topic": topic, "receiver": receiver }))
        }
        Operation::Subscribe(topics) => ("subscribe", json!({ "topics": list(topics) })),
        Operation::Unsubscribe(topics) => ("unsubscribe", json!({ "topics": list(topics) })),
        Operation::Exclude(topics) => ("exclude", json!({ "topics": list(topics) })),
        Operation::Unexclude(topics) => ("unexclude", json!({ "topics": list(topics) })),
        Operation::Message { target, .. } => ("message", json!({ "target": target })),
        Operation::Broadcast { mask, .. } => ("broadcast", json!({ "mask": mask })),
        _ => panic!("an operation without a vector"),
    };
    meaning["operation"] = json!(name);
    meaning.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    if let Some(payload) = operation.payload() {
        meaning["payload"] = json!(hex(payload));
    }
    meaning
}

fn encode_operation(meaning: &Value) -> Vec<u8> {
    let none = vec![];
    let topics: Vec<&str> = meaning["topics"].as_array().unwrap_or(&none).iter().map(text).collect();
    let topics = Topics::List(&topics);
    let payload = meaning.get("payload").map(unhex).unwrap_or_default();
    let payload = &payload[..];
    let field = |name| text(&meaning[name]);
    let operation = match field("operation") {
        "nop" => Operation::Nop,
        "publish" => Operation::Publish { topic: field("topic"), payload },
        "publish_for" => {
            Operation::PublishFor { topic: field("topic"), receiver: field("receiver"), payload }
        }
        "subscribe" => Operation::Subscribe(topics),
        "unsubscribe" => Operation::Unsubscribe(topics),
        "exclude" => Operation::Exclude(topics),
        "unexclude" => Operation::Unexclude(topics),
        "message" => Operation::Message { target: field("target"), payload },
        "broadcast" => Operation::Broadcast { mask: field("mask"), payload },
        other => panic!("unknown operation {other}"),
    };
    let qos = QoS::from_flags((meaning["qos"].as_u64().unwrap() as u8) << 6);
    let mut out = vec![];
    operation.encode_head(meaning["op_id"].as_u64().unwrap() as u32, qos, &mut out).unwrap();
    out.extend_from_slice(payload);
    out
}

#[test]
fn requests() {
    for vector in vectors("requests", "vectors") {
        let (name, bytes, meaning) = (&vector["name"], unhex(&vector["bytes"]), &vector["meaning"]);
        let (header, body) = decode::<request::Header>(&bytes, DEFAULT_LIMIT).unwrap();
        let operation = Operation::parse(header.flags, &body).unwrap();
        assert_eq!(&operation_meaning(header, &operation), meaning, "{name}");
        if vector.get("decode_only").is_none() {
            assert_eq!(hex(&encode_operation(meaning)), hex(&bytes), "{name}");
        }
    }
}

#[test]
fn deliveries() {
    for vector in vectors("deliveries", "vectors") {
        let (name, bytes, meaning) = (&vector["name"], unhex(&vector["bytes"]), &vector["meaning"]);
        let (header, body) = decode::<delivery::Header>(&bytes, u32::MAX).unwrap();
        let (read, written) = match header {
            delivery::Header::Nop => (json!({ "kind": "nop" }), delivery::PING.to_vec()),
            delivery::Header::Ack { op_id, code } => {
                let result = ErrorKind::from_ack(code).map_or("ok", kind_name);
                let code_digits = format!("{code:02x}");
                let read = json!({
                    "kind": "acknowledgement", "op_id": op_id, "code": code_digits, "result": result
                });
                (read, delivery::ack(op_id, code).to_vec())
            }
            delivery::Header::Frame { kind, realtime, .. } => {
                let frame = delivery::parse_body(kind, realtime, &body).unwrap();
                let kind_text = match kind {
                    FrameKind::Publication => "publication",
                    FrameKind::Message => "message",
                    FrameKind::Broadcast => "broadcast",
                };
                let mut read = json!({ "kind": kind_text, "realtime": realtime, "sender": frame.sender,
                                       "payload": hex(frame.payload) });
                if let Some(topic) = frame.topic {
                    read["topic"] = json!(topic);
                }
                let mut written = vec![];
                frame.encode(&mut written);
                (read, written)
            }
        };
        assert_eq!(&read, meaning, "{name}");
        assert_eq!(hex(&written), hex(&bytes), "{name}");
    }
}

#[test]
fn result_codes() {
    let mut seen = vec![];
    for vector in vectors("result_codes", "codes") {
        let code = unhex(&vector["code"])[0];
        if vector["name"] == "ok" {
            assert_eq!(ErrorKind::from_ack(code), None);
            continue;
        }
        let kind = ErrorKind::from_code(code);
        assert_eq!(kind_name(kind), text(&vector["name"]));
        assert_eq!(kind.code(), code);
        assert_eq!(i64::from(kind.rpc_code()), vector["rpc_code"].as_i64().unwrap());
        if vector.get("never_sent").is_none() {
            assert_eq!(ErrorKind::from_ack(code), Some(kind));
            assert_eq!(ErrorKind::from_rpc_code(kind.rpc_code()), Some(kind));
        }
        seen.push(kind);
    }
    assert_eq!(seen, ErrorKind::ALL);
}

#[test]
fn rpc_frames() {
    for vector in vectors("rpc", "vectors") {
        let (name, bytes) = (&vector["name"], unhex(&vector["bytes"]));
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        let (read, written) = match Envelope::parse(&bytes).unwrap() {
            Envelope::Notification { payload } => (
                json!({ "kind": "notification", "payload": hex(payload) }),
                [&[rpc::NOTIFICATION][..], payload].concat(),
            ),
            Envelope::Request { id, method, params } => (
                json!({ "kind": "request", "id": id, "method": text(method), "params": hex(params) }),
                [&rpc::request_header(id, text(method))[..], params].concat(),
            ),
            Envelope::Reply { id, result } => (
                json!({ "kind": "reply", "id": id, "result": hex(result) }),
                [&rpc::reply_header(id)[..], result].concat(),
            ),
            Envelope::ErrorReply { id, code, data } => (
                json!({ "kind": "error_reply", "id": id, "code": code, "data": hex(data) }),
                [&rpc::error_header(id, code)[..], data].concat(),
            ),
        };
        assert_eq!(read, vector["meaning"], "{name}");
        assert_eq!(hex(&written), hex(&bytes), "{name}");
    }
}

#[test]
fn invalid_frames() {
    for vector in vectors("invalid", "vectors") {
        let bytes = unhex(&vector["bytes"]);
        let limit = vector["limit"].as_u64().map_or(DEFAULT_LIMIT, |limit| limit as u32);
        let result = match text(&vector["frame"]) {
            "request" => decode::<request::Header>(&bytes, limit)
                .and_then(|(header, body)| Operation::parse(header.flags, &body).map(|_| ())),
            "delivery" => decode::<delivery::Header>(&bytes, limit).and_then(|(header, body)| match header {
                delivery::Header::Frame { kind, realtime, .. } => {
                    delivery::parse_body(kind, realtime, &body).map(|_| ())
                }
                _ => Ok(()),
            }),
            "rpc" => Envelope::parse(&bytes).map(|_| ()),
            other => panic!("unknown kind of frame {other}"),
        };
        let (error, field) = match result.expect_err(text(&vector["name"])) {
            DecodeError::UnknownOperation(_) => ("unknown_operation", None),
            DecodeError::MissingNul(field) => ("missing_nul", Some(field)),
            DecodeError::NotUtf8(field) => ("not_utf8", Some(field)),
            DecodeError::TooLarge { .. } => ("too_large", None),
            DecodeError::Short(field) => ("short", Some(field)),
            other => panic!("{other}"),
        };
        assert_eq!(error, text(&vector["error"]), "{}", vector["name"]);
        assert_eq!(field, vector.get("field").map(text), "{}", vector["name"]);
    }
}

/// Returns the name that the client of a handshake sends.
fn name_in(steps: &[Value]) -> Option<Vec<u8>> {
    steps.iter().find(|step| step["meaning"] == "name").map(|step| unhex(&step["bytes"])[2..].to_vec())
}

#[test]
fn handshakes_of_a_client() {
    for vector in vectors("handshakes", "vectors") {
        let steps = vector["steps"].as_array().unwrap();
        // A client of this crate always sends a valid greeting, and its names are text.
        let name = name_in(steps).unwrap_or(b"any".to_vec());
        let (Ok(name), true) = (String::from_utf8(name), steps[1]["bytes"] == hex(&GREETING)) else {
            continue;
        };
        let mut client = Client::new(&name);
        let mut sent = steps.iter().filter(|step| step["from"] == "client");
        let mut outcome = None;
        for step in steps.iter().filter(|step| step["from"] == "broker") {
            let bytes = unhex(&step["bytes"]);
            let mut input = &bytes[..];
            match client.next(&mut input).unwrap() {
                ClientStep::Send(bytes) => {
                    // A refused client does not send its name after the last greeting.
                    assert_eq!(hex(&bytes), text(&sent.next().unwrap()["bytes"]), "{}", vector["name"]);
                }
                ClientStep::Registered => outcome = Some("registered".to_owned()),
                ClientStep::Refused(code) => outcome = Some(format!("{code:02x}")),
                ClientStep::Read => panic!("{}: the step is not complete", vector["name"]),
            }
            assert!(input.is_empty());
        }
        assert_eq!(outcome.as_deref(), vector["outcome"].as_str(), "{}", vector["name"]);
    }
}

#[test]
fn handshakes_of_a_broker() {
    for vector in vectors("handshakes", "vectors") {
        let steps = vector["steps"].as_array().unwrap();
        let stream: Vec<u8> = steps
            .iter()
            .filter(|step| step["from"] == "client")
            .flat_map(|step| unhex(&step["bytes"]))
            .collect();
        let (mut server, mut input) = (Server::new(), &stream[..]);
        let mut last = server.next(&mut input);
        if last == ServerStep::Greeted && name_in(steps).is_some() {
            last = server.next(&mut input);
        }
        match (last, text(&vector["outcome"])) {
            (ServerStep::Reject(kind), outcome) => assert_eq!(format!("{:02x}", kind.code()), outcome),
            // The codec does not decide whether a name is free, allowed and of a permitted length.
            (ServerStep::Register(name), "registered" | "71" | "72" | "76" | "79") => {
                assert_eq!(Some(name.clone().into_bytes()), name_in(steps));
                assert_ne!(name, BROKER_NAME);
            }
            (ServerStep::Greeted, "74") => {}
            (step, outcome) => panic!("{}: {step:?} instead of {outcome}", vector["name"]),
        }
    }
}
