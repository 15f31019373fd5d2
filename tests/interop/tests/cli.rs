//! The command-line clients and brokers of both implementations, as processes.

use interop::{Bed, Busrtd, Cli, Event, Kind, Maker, Op, Peer, RpcKind, RpcPeer, Seen, until};

/// A command-line client, and a broker without other clients.
struct Pair {
    cli: Cli,
    bed: Bed,
    _broker: Busrtd,
}

impl Pair {
    fn new(cli: Maker, broker: Maker) -> Pair {
        let broker = Busrtd::start(broker);
        let bed = Bed::without_broker(&broker.address);
        Pair { cli: Cli { maker: cli, address: broker.address.clone() }, bed, _broker: broker }
    }
}

fn the_broker_is_asked(pair: &Pair) {
    let _peer = Peer::connect(&pair.bed, Kind::Ours, "some.peer").unwrap();
    assert!(pair.cli.text(&["broker", "test"]).to_lowercase().contains("ok"));
    let info = pair.cli.text(&["broker", "info"]);
    assert!(info.contains("version") && info.contains("author"), "{info}");
    let stats = pair.cli.text(&["broker", "stats"]);
    for field in ["uptime", "r_frames", "r_bytes", "w_frames", "w_bytes"] {
        assert!(stats.contains(field), "{stats}");
    }
    let listed = pair.cli.text(&["-n", "the.asker", "broker", "client.list"]);
    for text in [".broker", "internal", "some.peer", "local_ipc", &pair.bed.address] {
        assert!(listed.contains(text), "{text} is not in {listed}");
    }
    // The client does not list itself; theirs prints its own name in its log.
    assert!(!listed.lines().any(|line| line.trim_start().starts_with("the.asker")), "{listed}");
}

fn messages_and_publications(pair: &Pair) {
    let mut peer = Peer::connect(&pair.bed, Kind::Ours, "some.peer").unwrap();
    peer.run(Op::Subscribe(&["some/#"]), 1).unwrap();
    let anything: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let from = ["-n", "the.sender"];
    let commands: [(&[&str], Op<'_>); 3] = [
        (&["send", "some.peer"], Op::Send("", b"hello there")),
        (&["send", "some.*"], Op::Broadcast("", b"hello there")),
        (&["publish", "some/topic"], Op::Publish("some/topic", b"hello there")),
    ];
    for (command, op) in commands {
        pair.cli.stdout(&[&from, command, &["hello there"][..]].concat(), b"");
        assert_eq!(peer.take(), Seen::new(op, "the.sender", 1));
        // A payload that is left out is read from the standard input, unchanged.
        pair.cli.stdout(&[&from, command].concat(), &anything);
        assert_eq!(peer.take(), Seen { payload: anything.clone(), ..Seen::new(op, "the.sender", 1) });
    }
    assert!(peer.is_quiet());
    assert!(!pair.cli.run(&["send", "nobody.there", "x"], b"").status.success());
    pair.cli.stdout(&["send", "nobody.*", "x"], b"");
    pair.cli.stdout(&["publish", "nothing", "x"], b"");
}

fn rpc(pair: &Pair) {
    let peer = RpcPeer::serve(&pair.bed, RpcKind::Theirs, "some.peer");
    let call =
        |more: &[&str], stdin: &[u8]| pair.cli.run(&[&["-n", "the.caller", "rpc"], more].concat(), stdin);

    assert!(call(&["notify", "some.peer", "hello"], b"").status.success());
    assert_eq!(peer.event(), Event::Notification("the.caller".into(), b"hello".to_vec()));
    assert!(call(&["notify", "some.peer"], b"\0raw\xff").status.success());
    assert_eq!(peer.event(), Event::Notification("the.caller".into(), b"\0raw\xff".to_vec()));

    assert!(call(&["call0", "some.peer", "x"], b"").status.success());
    assert_eq!(peer.event(), Event::Call0("the.caller".into(), vec![]));
    let words = ["call0", "some.peer", "x", "n=-5", "on=true", "off=false", "half=0.5", "text=some words"];
    assert!(call(&words, b"").status.success());
    let Event::Call0(_, params) = peer.event() else { panic!("a call without reply") };
    let params: rmpv::Value = rmp_serde::from_slice(&params).unwrap();
    let mut pairs: Vec<_> = params.as_map().unwrap().iter().map(|(k, v)| (k.as_str().unwrap(), v)).collect();
    pairs.sort_by_key(|(key, _)| *key);
    let (half, minus, off, on, text) =
        (0.5.into(), (-5).into(), false.into(), true.into(), "some words".into());
    assert_eq!(pairs, [("half", &half), ("n", &minus), ("off", &off), ("on", &on), ("text", &text)]);

    // MessagePack parameters are returned unchanged, and are shown as JSON.
    let output = call(&["call", "some.peer", "echo", "n=17", "text=abc"], b"");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && shown.contains("17") && shown.contains("\"abc\""), "{shown}");
    let output = call(&["call", "some.peer", "echo", "-"], b"just text");
    assert!(String::from_utf8(output.stdout).unwrap().contains("just text"));
    let raw = pair.cli.stdout(&["-s", "rpc", "call", "some.peer", "echo", "-"], b"\xc1\0\x01");
    assert_eq!(raw, b"\xc1\0\x01");
    assert!(call(&["call", "some.peer", "who"], b"").status.success());

    for (target, method, code) in
        [("some.peer", "own.error", "-5"), ("some.peer", "x", "-32601"), ("nobody", "x", "-32113")]
    {
        let output = call(&["call", target, method], b"");
        assert_eq!(output.status.code(), Some(1));
        let said = [output.stdout, output.stderr].concat();
        assert!(String::from_utf8_lossy(&said).contains(code), "{code} is not in {said:?}");
    }
}

/// Returns the form in which the bytes C1 00 01 are shown.
fn hex(pair: &Pair) -> &'static str {
    match pair.cli.maker {
        Maker::Ours => "c1 00 01",
        Maker::Theirs => "c10001",
    }
}

fn listening(pair: &Pair) {
    let mut peer = Peer::connect(&pair.bed, Kind::Ours, "some.peer").unwrap();
    let listener = pair.cli.start(&[
        "-n",
        "the.listener",
        "listen",
        "-t",
        "a/#",
        "-t",
        "b/+",
        "--exclude",
        "a/secret/#",
    ]);
    // It is subscribed when it prints its subscriptions.
    until("it listens", || {
        peer.run(Op::Publish("b/probe", b"anybody?"), 1).unwrap();
        listener.printed().contains("b/probe").then_some(())
    });
    peer.run(Op::Publish("a/secret/x", b"the secret"), 1).unwrap();
    peer.run(Op::Publish("a/b/c", b"some text"), 1).unwrap();
    peer.run(Op::Publish("b/json", br#"{"some": ["json", 5]}"#), 1).unwrap();
    peer.run(Op::Publish("b/pack", b"\x81\xa5thing\x2a"), 1).unwrap();
    peer.run(Op::Publish("b/bytes", b"\xc1\0\x01"), 1).unwrap();
    peer.run(Op::Broadcast("the.*", b"to many"), 1).unwrap();
    peer.run(Op::Send("the.listener", b"to one"), 1).unwrap();
    listener.wait_for(&[
        "some.peer",
        "a/b/c",
        "some text",
        "json",
        "thing",
        "42",
        hex(pair),
        "to many",
        "to one",
    ]);
    assert!(!listener.printed().contains("the secret"));
}

fn listening_to_rpc(pair: &Pair) {
    let mut peer = Peer::connect(&pair.bed, Kind::Ours, "some.peer").unwrap();
    let caller = RpcPeer::serve(&pair.bed, RpcKind::Theirs, "some.caller");
    let listener = pair.cli.start(&["-n", "the.listener", "rpc", "listen", "-t", "a/#"]);
    until("it listens", || {
        peer.run(Op::Publish("a/probe", b"anybody?"), 1).unwrap();
        listener.printed().contains("a/probe").then_some(())
    });
    assert_eq!(caller.call("the.listener", "some.method", b"\x81\xa5thing\x2a", 1).unwrap(), b"");
    caller.notify("the.listener", b"a note", 1).unwrap();
    caller.call0("the.listener", "other.method", b"", 1).unwrap();
    listener.wait_for(&["some.method", "thing", "42", "a note", "other.method", "some.caller"]);
}

fn benchmarks(pair: &Pair) {
    pair.cli.stdout(&["benchmark", "-i", "200", "-w", "2", "--payload-size", "50"], b"");
}

macro_rules! suite {
    ($($name:ident: $cli:ident, $broker:ident;)*) => { $(
        mod $name {
            suite!(@each $cli, $broker: the_broker_is_asked messages_and_publications rpc listening listening_to_rpc benchmarks);
        }
    )* };
    (@each $cli:ident, $broker:ident: $($scenario:ident)*) => { $(
        #[test]
        fn $scenario() {
            crate::$scenario(&crate::Pair::new(interop::Maker::$cli, interop::Maker::$broker));
        }
    )* };
}

suite! {
    our_command_line_on_their_broker: Ours, Theirs;
    their_command_line_on_our_broker: Theirs, Ours;
    our_command_line_on_our_broker: Ours, Ours;
}
