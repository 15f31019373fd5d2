//! The output and exit status of the command-line client, with a broker in this process.
#![cfg(all(unix, feature = "cli", feature = "server"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod common;

use busrt::QoS;
use busrt::broker::Options;
use busrt::rpc::{Call, Handlers, Notification, Rpc, RpcError};
use bytes::Bytes;
use common::{Bus, PATIENCE, next};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// A running `busrt`, which is killed when the value is dropped.
struct Busrt(Child);

impl Drop for Busrt {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Done {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

fn start(args: &[&str], stdout: impl Into<Stdio>) -> Busrt {
    let child = Command::new(env!("CARGO_BIN_EXE_busrt"))
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Busrt(child)
}

/// Runs the program until it exits.
fn busrt(args: &[&str]) -> Done {
    busrt_with(args, b"")
}

fn busrt_with(args: &[&str], stdin: &[u8]) -> Done {
    let mut busrt = start(args, Stdio::piped());
    // The input is never longer than a pipe holds; a program that does not read it closes its end.
    let _ = busrt.0.stdin.take().unwrap().write_all(stdin);
    busrt.finish()
}

impl Busrt {
    fn finish(mut self) -> Done {
        fn all(from: Option<impl Read + Send + 'static>) -> impl FnOnce() -> Vec<u8> {
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![];
                from.map(|mut from| from.read_to_end(&mut bytes)).transpose().unwrap();
                bytes
            });
            move || reader.join().unwrap()
        }
        let (stdout, stderr) = (all(self.0.stdout.take()), all(self.0.stderr.take()));
        let code = self.wait();
        let (stdout, stderr) = (stdout(), String::from_utf8(stderr()).unwrap());
        assert!(!stdout.contains(&0x1b) && !stderr.contains('\u{1b}'), "colours without a terminal");
        assert!(!stderr.contains("panicked"), "{stderr}");
        Done { code, stdout, stderr }
    }

    fn wait(&mut self) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().expect("ended by itself");
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Returns the lines of its standard output and its standard error output, after it has begun to listen.
    fn listening(&mut self) -> (Receiver<String>, Receiver<String>) {
        let (out, err) = (lines(self.0.stdout.take()), lines(self.0.stderr.take()));
        while !line(&err).contains("listening as") {}
        (out, err)
    }
}

fn lines(from: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (to, lines) = channel();
    let from = BufReader::new(from.unwrap());
    std::thread::spawn(move || from.lines().map_while(Result::ok).all(|line| to.send(line).is_ok()));
    lines
}

fn line(lines: &Receiver<String>) -> String {
    lines.recv_timeout(PATIENCE).expect("a line")
}

impl Done {
    fn text(&self) -> &str {
        assert_eq!((self.code, &*self.stderr), (0, ""));
        std::str::from_utf8(&self.stdout).unwrap()
    }

    fn json(&self) -> Value {
        let text = self.text();
        assert_eq!(text.matches('\n').count(), 1, "one document on one line: {text}");
        serde_json::from_str(text).unwrap()
    }

    /// Returns the only line of the standard error output, and checks that there is no other output.
    fn error(&self) -> &str {
        assert_eq!((self.code, &*self.stdout), (1, &b""[..]), "{}", self.stderr);
        let text = self.stderr.strip_suffix('\n').unwrap().strip_prefix("busrt: ").unwrap();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    fn usage(&self) -> &str {
        assert_eq!((self.code, &*self.stdout), (2, &b""[..]));
        &self.stderr
    }
}

/// Answers by method, and reports its notifications.
struct Peer(tokio::sync::mpsc::UnboundedSender<Bytes>);

impl Handlers for Peer {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        if !call.wants_reply() {
            let _ = self.0.send(call.params_bytes());
        }
        match call.method() {
            "echo" => Ok(call.params_bytes()),
            "caller" => Ok(call.sender().to_owned().into()),
            "fail" => Err(RpcError::new(-7, "two\nlines")),
            "hang" => std::future::pending().await,
            _ => Err(RpcError::method_not_found()),
        }
    }

    async fn on_notification(&self, notification: Notification) {
        let _ = self.0.send(notification.payload_bytes());
    }
}

async fn peer(bus: &Bus) -> (Rpc, tokio::sync::mpsc::UnboundedReceiver<Bytes>) {
    let (told, tell) = tokio::sync::mpsc::unbounded_channel();
    (Rpc::new(bus.client("peer").await, Peer(told)), tell)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_information() {
    let bus = Bus::start(Options::default()).await;
    let (_z, _a) = (bus.client("z").await, bus.client("a").await);
    let path = &*bus.path;

    assert_eq!(busrt(&[path, "broker", "test"]).text(), "OK\n");
    assert_eq!(busrt(&[path, "--json", "broker", "test"]).json(), json!({"ok": true}));
    assert_eq!(busrt(&[&bus.port, "-s", "broker", "test"]).json(), json!({"ok": true}));

    let info = busrt(&[path, "broker", "info", "--json"]).json();
    assert!(busrt(&[path, "broker", "info"]).text().contains(info["version"].as_str().unwrap()));

    let stats = busrt(&[path, "--json", "broker", "stats"]).json();
    assert!(stats["uptime"].is_u64() && stats["w_bytes"].as_u64() > Some(0), "{stats}");
    assert!(busrt(&[path, "broker", "stats"]).text().starts_with("uptime "));

    let names = |list: &Value| -> Vec<String> {
        list["clients"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    // Neither client shows itself.
    for flag in ["--json", "-s"] {
        let list = busrt(&[path, "-n", "m", flag, "broker", "client.list"]).json();
        assert_eq!(names(&list), [".broker", "a", "z"]);
    }
    let table = busrt(&[path, "-n", "m", "broker", "client.list"]);
    let rows: Vec<&str> = table.text().lines().collect();
    assert!(rows[0].starts_with("NAME ") && rows[0].contains("QUEUE"), "{rows:?}");
    let first: Vec<_> = rows[1..].iter().map(|row| row.split_whitespace().next().unwrap()).collect();
    assert_eq!(first, [".broker", "a", "z"]);
    let sorted = busrt(&[path, "--json", "broker", "client.list", "--sort", "received"]).json();
    assert_eq!(names(&sorted).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_and_publishes() {
    let bus = Bus::start(Options::default()).await;
    let (client, mut frames) = bus.listener("x.y").await;
    client.subscribe("t/#", QoS::Processed).await.unwrap();
    let path = &*bus.path;

    assert_eq!(busrt(&[path, "-n", "me", "send", "x.y", "hello"]).text(), "OK\n");
    let frame = next(&mut frames).await;
    assert_eq!((frame.sender(), frame.payload()), ("me", &b"hello"[..]));

    assert_eq!(busrt_with(&[path, "-s", "send", "x.?"], b"\x00raw\n").text(), "");
    let frame = next(&mut frames).await;
    assert_eq!((frame.kind(), frame.payload()), (busrt::FrameKind::Broadcast, &b"\x00raw\n"[..]));
    assert!(frame.sender().starts_with("cli."), "{frame:?}");

    assert_eq!(busrt(&[path, "--json", "publish", "t/a", "-5"]).json(), json!({"ok": true}));
    let frame = next(&mut frames).await;
    assert_eq!((frame.topic(), frame.payload()), (Some("t/a"), &b"-5"[..]));
    let large = vec![b'x'; 1 << 20];
    assert_eq!(busrt_with(&[path, "publish", "t/b"], &large).text(), "OK\n");
    assert_eq!(next(&mut frames).await.payload(), large);
    assert_eq!(busrt(&[path, "publish", "t/c", ""]).text(), "OK\n");
    assert_eq!(next(&mut frames).await.payload(), b"");

    assert_eq!(busrt(&[path, "send", "nobody", "x"]).error(), "client not registered: nobody");
    assert_eq!(busrt(&[path, "send", "nobody.*", "x"]).text(), "OK\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls() {
    let bus = Bus::start(Options::default()).await;
    let (_rpc, mut told) = peer(&bus).await;
    let call = |args: &[&str], stdin: &[u8]| busrt_with(&[&[&*bus.path][..], args].concat(), stdin);

    // Results in MessagePack, text, JSON and bytes, and an empty one; for people, for programs, and as payloads only.
    let map = call(&["rpc", "call", "peer", "echo", "n=5", "on=true", "text=a=b"], b"");
    assert_eq!(map.text(), "{\n  \"n\": 5,\n  \"on\": true,\n  \"text\": \"a=b\"\n}\n");
    let shown: [(&[u8], &str, Value, &[u8]); 5] = [
        (b"text\n", "text\n", json!("text\n"), b"text\n"),
        (
            b"{ \"b\": [1], \"a\": 2 }",
            "{\n  \"b\": [\n    1\n  ],\n  \"a\": 2\n}\n",
            json!({"a": 2, "b": [1]}),
            b"{\"b\":[1],\"a\":2}\n",
        ),
        (
            b"\x81\xa1k\xc4\x01\xff",
            "{\n  \"k\": {\n    \"hex\": \"ff\"\n  }\n}\n",
            json!({"k": {"hex": "ff"}}),
            b"{\"k\":{\"hex\":\"ff\"}}\n",
        ),
        (
            b"\xff\xfe\n",
            "00000000  ff fe 0a                                         ...\n",
            json!({"hex": "fffe0a"}),
            b"\xff\xfe\n",
        ),
        (b"", "OK\n", Value::Null, b""),
    ];
    for (payload, people, programs, alone) in shown {
        let args = ["rpc", "call", "peer", "echo", "-"];
        assert_eq!(call(&args, payload).text(), people);
        assert_eq!(call(&[&["--json"][..], &args].concat(), payload).json(), programs);
        let done = call(&[&["-s"][..], &args].concat(), payload);
        assert_eq!((done.code, &*done.stdout, &*done.stderr), (0, alone, ""));
    }
    assert_eq!(call(&["-s", "-n", "me", "rpc", "call", "peer", "caller"], b"").text(), "me\n");

    assert_eq!(call(&["rpc", "call", "peer", "fail"], b"").error(), "RPC error -7: two lines");
    assert!(call(&["--json", "rpc", "call", "peer", "none"], b"").error().starts_with("RPC error -32601: "));
    assert!(call(&["-s", "rpc", "call", "nobody", "x"], b"").error().starts_with("RPC error -32113: "));
    assert!(
        call(&["--timeout", "0.2", "rpc", "call", "peer", "hang"], b"")
            .error()
            .starts_with("RPC error -32120: ")
    );
    assert!(
        call(&["rpc", "call", "peer", "echo", "novalue"], b"")
            .usage()
            .contains("invalid parameter \"novalue\"")
    );
    assert_eq!(call(&["rpc", "call0", "nobody", "x"], b"").error(), "client not registered: nobody");

    assert_eq!(call(&["rpc", "call0", "peer", "echo", "a=1"], b"").text(), "OK\n");
    assert_eq!(told.recv().await.unwrap(), &b"\x81\xa1a\x01"[..]);
    assert_eq!(call(&["rpc", "call0", "peer", "echo"], b"").text(), "OK\n");
    assert_eq!(told.recv().await.unwrap(), "");
    assert_eq!(call(&["rpc", "notify", "peer", "note"], b"").text(), "OK\n");
    assert_eq!(told.recv().await.unwrap(), "note");
    assert_eq!(call(&["-s", "rpc", "notify", "peer"], b"from stdin").text(), "");
    assert_eq!(told.recv().await.unwrap(), "from stdin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listens() {
    let bus = Bus::start(Options::default()).await;
    let sender = bus.client("a").await;
    let run = |flags: &[&str], what: &[&str]| {
        start(&[&[&*bus.path, "-v", "-n", "me"][..], flags, what].concat(), Stdio::piped())
    };
    let send_all = async || {
        sender.publish("t/no", "excluded", QoS::Processed).await.unwrap();
        sender.publish("t/a", "21.5", QoS::Processed).await.unwrap();
        sender.publish("u", "{\"k\": null}", QoS::Processed).await.unwrap();
        sender.secondary().await.unwrap().send("me", &b"\xff\xfe"[..], QoS::Processed).await.unwrap();
        sender.broadcast("m*", "", QoS::No).await.unwrap();
        sender.broadcast("*", "last", QoS::Processed).await.unwrap();
    };
    let what = ["listen", "-t", "t/#", "u", "--exclude", "t/no"];

    let mut people = run(&[], &what);
    let (out, _err) = people.listening();
    send_all().await;
    let expected = [
        "publication t/a from a (4 bytes)",
        "21.5",
        "publication u from a (11 bytes)",
        "{",
        "  \"k\": null",
        "}",
        "message from a%%1 (2 bytes)",
        "00000000  ff fe                                            ..",
        "broadcast from a (4 bytes)",
        "last",
    ];
    for expected in expected {
        assert_eq!(line(&out), expected);
    }
    people.signal("-INT");
    assert_eq!(people.wait(), 0);
    assert!(out.recv().is_err(), "nothing more");

    let mut programs = run(&["--json"], &what);
    let (out, _err) = programs.listening();
    send_all().await;
    let event = |kind: &str, sender: &str, topic: Option<&str>, format: &str, payload: Value| json!({"kind": kind, "sender": sender, "primary_sender": "a", "topic": topic, "format": format, "payload": payload});
    for expected in [
        event("publication", "a", Some("t/a"), "text", json!("21.5")),
        event("publication", "a", Some("u"), "json", json!({"k": null})),
        event("message", "a%%2", None, "hex", json!({"hex": "fffe"})),
        event("broadcast", "a", None, "text", json!("last")),
    ] {
        assert_eq!(serde_json::from_str::<Value>(&line(&out)).unwrap(), expected);
    }
    programs.signal("-TERM");
    assert_eq!(programs.wait(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listens_silently_until_the_broker_exits() {
    let bus = Bus::start(Options::default()).await;
    let mut busrt = start(&[&bus.path, "-s", "-n", "me", "listen"], Stdio::piped());
    let mut stdout = busrt.0.stdout.take().unwrap();
    let sender = bus.client("a").await;
    // A silent client does not report when it listens, but receives everything from its registration on.
    common::eventually("the client `me` is registered", || {
        bus.broker.clients().clients.iter().any(|c| c.name == "me")
    })
    .await;
    sender.send("me", &b"\x00\xff\x00"[..], QoS::Processed).await.unwrap();
    sender.send("me", "[1, 2]", QoS::Processed).await.unwrap();
    let mut got = [0; 9];
    stdout.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"\x00\xff\x00[1,2]\n");
    bus.broker.shutdown().await;
    let mut rest = vec![];
    stdout.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("shutdown"), "{rest:?}");
    let done = busrt.finish();
    assert!(done.error().starts_with("connection lost"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listens_to_rpc() {
    let bus = Bus::start(Options::default()).await;
    let rpc = Rpc::new(bus.client("a").await, ());
    let mut busrt =
        start(&[&bus.path, "-v", "--json", "-n", "me", "rpc", "listen", "-t", "t"], Stdio::piped());
    let (out, _err) = busrt.listening();
    assert!(rpc.call("me", "do", "params", QoS::Processed).await.unwrap().payload().is_empty());
    rpc.call0("me", "do", "", QoS::Processed).await.unwrap();
    rpc.notify("me", &b"\x93\x01\x02\x03"[..], QoS::Processed).await.unwrap();
    rpc.client().publish("t", "x", QoS::Processed).await.unwrap();
    let events: Vec<Value> = (0..4).map(|_| serde_json::from_str(&line(&out)).unwrap()).collect();
    let of = |key: &str| events.iter().map(|event| event[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("kind"), ["call", "call", "notification", "publication"]);
    assert_eq!(of("method"), [json!("do"), json!("do"), Value::Null, Value::Null]);
    assert_eq!((&events[0]["id"], &events[1]["id"]), (&json!(1), &json!(0)));
    assert_eq!(of("payload"), [json!("params"), Value::Null, json!([1, 2, 3]), json!("x")]);
    bus.broker.shutdown().await;
    assert_eq!(busrt.wait(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measures() {
    let bus = Bus::start(Options::default()).await;
    let run = |args: &[&str]| busrt(&[&[&*bus.path][..], args].concat());
    let names = [
        "send.qos.no",
        "send.qos.processed",
        "send+recv.qos.no",
        "send+recv.qos.processed",
        "rpc.call",
        "rpc.call+handle",
        "rpc.call0",
    ];

    let report = run(&["--json", "benchmark", "-w", "3", "-i", "1000", "--payload-size", "20"]).json();
    assert_eq!(
        (&report["workers"], &report["payload_size"], &report["iters"]),
        (&json!(3), &json!(20), &json!(1000))
    );
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.iter().map(|stage| &stage["name"]).collect::<Vec<_>>(), names);
    for stage in stages {
        assert_eq!(stage["ops"], 1000);
        let times =
            ["p50", "p90", "p99", "p99.9", "max"].map(|key| stage["latency_ns"][key].as_u64().unwrap());
        assert!(times.is_sorted() && times[0] > 0, "{stage}");
    }
    // The run is too short to measure a time.
    let report = run(&["-s", "benchmark", "-i", "10", "--payload-size", "7"]).json();
    assert_eq!(report["stages"][2]["latency_ns"], Value::Null);

    // Some of the stages, in the order of all of them.
    let report = run(&[
        "--json",
        "benchmark",
        "-i",
        "10",
        "--stages",
        "rpc.call,send.qos.no",
        "--stages",
        "rpc.call0",
    ]);
    let some: Vec<Value> =
        report.json()["stages"].as_array().unwrap().iter().map(|stage| stage["name"].clone()).collect();
    assert_eq!(some, ["send.qos.no", "rpc.call", "rpc.call0"]);
    assert!(run(&["benchmark", "--stages", "rpc"]).usage().contains("rpc.call+handle"));

    let table = run(&["benchmark", "-i", "1200"]);
    let rows: Vec<&str> = table.text().lines().collect();
    assert!(rows[0].starts_with("STAGE ") && rows[0].contains("p99.9"), "{rows:?}");
    assert_eq!(rows[1..].iter().map(|row| row.split_whitespace().next().unwrap()).collect::<Vec<_>>(), names);
    assert!(rows[1].contains(" 1,200 "), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measures_at_a_rate() {
    let bus = Bus::start(Options::default()).await;
    let run = |args: &[&str]| busrt(&[&[&*bus.path, "--timeout", "60"][..], args].concat());
    for qos in ["realtime", "processed"] {
        let load = ["--rate", "3000", "--seconds", "0.5", "-w", "3", "--payload-size", "8", "--qos", qos];
        let report = run(&[&["--json", "benchmark"][..], &load].concat()).json();
        assert_eq!(
            (&report["workers"], &report["payload_size"], &report["qos"]),
            (&json!(3), &json!(8), &json!(qos))
        );
        let stages = report["stages"].as_array().unwrap();
        let [stage] = &stages[..] else { panic!("one stage: {stages:?}") };
        assert_eq!(stage["name"], format!("open.qos.{qos}"));
        let counts = ["rate_asked", "sent", "received", "lost"].map(|key| stage[key].as_u64().unwrap());
        assert_eq!(counts, [3000, 1500, 1500, 0]);
        // The rate is never higher than requested, and lower only if the machine is too slow.
        let (rate, seconds) = (stage["rate"].as_f64().unwrap(), stage["seconds"].as_f64().unwrap());
        assert!(rate > 0.0 && rate < 3001.0 && seconds > 0.4999, "{stage}");
        let times = |of: &str| {
            let times = ["p50", "p90", "p99", "p99.9", "max"].map(|key| stage[of][key].as_u64().unwrap());
            assert!(times.is_sorted() && times[0] > 0, "{stage}");
            times
        };
        // Latency is counted from the time when a message was due, so that it includes the lateness.
        assert!(times("latency_ns")[4] >= times("lateness_ns")[0], "{stage}");
    }
    let table = run(&["benchmark", "--rate", "1000", "-i", "20"]);
    let rows: Vec<&str> = table.text().lines().collect();
    assert!(rows[0].starts_with("STAGE ") && rows[0].contains("LOST"), "{rows:?}");
    assert!(rows[1].starts_with("open.qos.realtime ") && rows[2].contains("sent late by "), "{rows:?}");
    assert_eq!(rows.len(), 3);
    let no_room = run(&["benchmark", "--rate", "1000", "-i", "20", "--payload-size", "7"]);
    assert!(no_room.usage().contains("--payload-size"));
}

/// A stall is charged to every message that was due during it, not only to one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_counts_for_all_that_was_due() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").display().to_string();
    let mut broker = Busrt(Command::new(env!("CARGO_BIN_EXE_busrtd")).args(["-B", &path]).spawn().unwrap());
    common::eventually("the broker listens", || std::path::Path::new(&path).exists()).await;
    let benchmark = start(
        &[&path, "--timeout", "60", "--json", "-n", "b", "benchmark", "--rate", "2000", "--seconds", "2"],
        Stdio::piped(),
    );
    let watcher = busrt::Client::connect(&busrt::client::Config::new(&*path, "w")).await.unwrap();
    let began = async || watcher.send("b-1-r", "", QoS::Processed).await.is_ok();
    let started = Instant::now();
    while !began().await {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    broker.signal("-STOP");
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    broker.signal("-CONT");
    let report = benchmark.finish().json();
    let stage = &report["stages"][0];
    // Nothing passed for a quarter of the time: a closed loop would show one long time, and a p90 of microseconds.
    assert_eq!((&stage["sent"], &stage["lost"]), (&json!(4000), &json!(0)), "{stage}");
    assert!(stage["latency_ns"]["p90"].as_u64().unwrap() > 200_000_000, "{stage}");
    broker.0.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_reported() {
    let bus = Bus::start(Options::default()).await;
    let _taken = bus.client("taken").await;
    let path = &*bus.path;
    assert!(busrt(&[path, "-n", "taken", "listen"]).error().contains("0x76"));
    assert!(busrt(&[path, "-n", ".x", "broker", "test"]).error().contains("0x72"));
    let nowhere = format!("{path}.sock");
    assert!(busrt(&[&nowhere, "broker", "test"]).error().contains(&*nowhere));
    for args in [
        &[][..],
        &[path],
        &[path, "frob"],
        &["nowhere", "listen"],
        &[path, "send"],
        &[path, "benchmark", "-w", "0"],
    ] {
        assert!(busrt(args).usage().contains("--help") || args.is_empty(), "{args:?}");
    }
    let verbose = busrt(&[path, "-v", "broker", "test"]);
    assert!(verbose.code == 0 && verbose.stderr.contains("connected to"), "{}", verbose.stderr);
    assert_eq!(busrt(&[path, "-v", "-s", "broker", "test"]).stderr, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_output_ends_it_quietly() {
    let bus = Bus::start(Options::default()).await;
    let path = &*bus.path;
    for args in [
        &[path, "broker", "client.list"][..],
        &["--completions", "bash"],
        &["--help"],
        &[path, "--json", "broker", "info"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = start(args, writer).finish();
        assert_eq!((done.code, &*done.stderr), (0, ""), "{args:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let mut listener = start(&[path, "-v", "-n", "me", "listen"], writer);
    let err = lines(listener.0.stderr.take());
    while !line(&err).contains("listening as") {}
    drop(reader);
    bus.client("a").await.send("me", "x", QoS::Processed).await.unwrap();
    assert_eq!(listener.wait(), 0);
    assert!(err.iter().all(|line| !line.contains("panicked")));
}

#[test]
fn help_texts() {
    let help = busrt(&["--help"]);
    for part in ["Usage: busrt ADDRESS", "Connection:", "Output:", "Examples:", "benchmark", "--json"] {
        assert!(help.text().contains(part), "{part}");
    }
    assert!(busrt(&["/b.sock", "rpc", "call", "--help"]).text().contains("Usage: busrt ADDRESS rpc call"));
    assert!(busrt(&["--version"]).text().starts_with("busrt "));
    for shell in ["bash", "zsh", "fish"] {
        let script = busrt(&["--completions", shell]);
        assert!(script.text().contains("busrt") && script.text().contains("benchmark"), "{shell}");
    }
    assert!(busrt(&["--completions", "sh"]).usage().contains("bash"));
}
