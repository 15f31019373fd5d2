//! RPC between callers and servers of both implementations, over brokers of both.

use busrt_ref::common::{BrokerInfo, BrokerStats, ClientList};
use interop::{Bed, Event, Maker, RpcKind, RpcPeer, Transport};

struct Mixture {
    bed: Bed,
    kinds: (RpcKind, RpcKind),
}

impl Mixture {
    fn new(maker: Maker, transport: Transport, a: RpcKind, b: RpcKind) -> Mixture {
        Mixture { bed: Bed::new(maker, transport), kinds: (a, b) }
    }

    fn pair(&self) -> (RpcPeer<'_>, RpcPeer<'_>) {
        (RpcPeer::serve(&self.bed, self.kinds.0, "test.a"), RpcPeer::serve(&self.bed, self.kinds.1, "test.b"))
    }
}

fn calls(mixture: &Mixture) {
    let (a, b) = mixture.pair();
    let long: Vec<u8> = (0..500_000u32).map(|i| (i * 7 % 251) as u8).collect();
    for qos in 0..4 {
        for params in [&b""[..], b"hello", b"\0", b"\0\xff\0", &long] {
            assert_eq!(a.call("test.b", "echo", params, qos).unwrap(), params);
            assert_eq!(b.call("test.a", "echo", params, qos).unwrap(), params);
        }
        assert_eq!(a.call("test.b", "nothing", b"x", qos).unwrap(), b"");
        assert_eq!(a.call("test.b", "who", b"", qos).unwrap(), b"test.a");
    }
}

fn errors(mixture: &Mixture) {
    let (a, b) = mixture.pair();
    for qos in 0..4 {
        for (caller, target) in [(&a, "test.b"), (&b, "test.a")] {
            assert_eq!(caller.call(target, "own.error", b"", qos), Err((-5, b"own \xff text".to_vec())));
            assert_eq!(caller.call(target, "bare.error", b"", qos), Err((i16::MIN, vec![])));
            assert_eq!(caller.call(target, "nonsense", b"", qos), Err((-32601, b"nonsense".to_vec())));
        }
    }
    // Their synchronous caller ignores acknowledgements.
    for (caller, kind) in [(&a, mixture.kinds.0), (&b, mixture.kinds.1)] {
        if kind != RpcKind::TheirsSync {
            assert_eq!(caller.call("nobody.there", "x", b"", 1).unwrap_err().0, -32113);
            assert_eq!(caller.call("nobody.there", "x", b"", 3).unwrap_err().0, -32113);
        }
    }
}

fn without_reply(mixture: &Mixture) {
    let (a, b) = mixture.pair();
    for qos in 0..4 {
        for (from, to) in [(&a, &b), (&b, &a)] {
            for payload in [&b""[..], b"hello", b"\0\xff\0"] {
                from.notify(&to.name, payload, qos).unwrap();
                assert_eq!(to.event(), Event::Notification(from.name.clone(), payload.to_vec()));
                from.call0(&to.name, "nonsense", payload, qos).unwrap();
                assert_eq!(to.event(), Event::Call0(from.name.clone(), payload.to_vec()));
            }
            let refused = if qos & 1 == 0 { Ok(()) } else { Err(0x71) };
            assert_eq!(from.notify("nobody", b"x", qos), refused);
            assert_eq!(from.call0("nobody", "x", b"x", qos), refused);
        }
    }
}

fn handlers_may_call_back(mixture: &Mixture) {
    let (a, b) = mixture.pair();
    let sync = |kind| kind == RpcKind::TheirsSync;
    for (caller, target, kinds) in [
        (&a, "test.b", mixture.kinds),
        (&b, "test.a", (mixture.kinds.1, mixture.kinds.0)),
        (&a, "test.a", (mixture.kinds.0, mixture.kinds.0)),
    ] {
        if !sync(kinds.0) && !sync(kinds.1) {
            assert_eq!(caller.call(target, "ask.back", b"around", 1).unwrap(), b"around");
            let params: Vec<_> = (0..50).map(|i| format!("{i}").into_bytes()).collect();
            let expected: Vec<_> = params.iter().cloned().map(Ok).collect();
            assert_eq!(caller.call_many(target, "ask.back", &params), expected);
        }
    }
}

fn many_at_once(mixture: &Mixture) {
    let (a, b) = mixture.pair();
    let params: Vec<_> = (0..500).map(|i| format!("{i}").into_bytes()).collect();
    let expected: Vec<_> = params.iter().cloned().map(Ok).collect();
    assert_eq!(a.call_many("test.b", "echo", &params), expected);
    assert_eq!(b.call_many("test.a", "echo", &params), expected);
}

fn publications_come_as_frames(mixture: &Mixture) {
    let (a, b) = mixture.pair();
    for peer in [&a, &b] {
        let topic = format!("frames/{}", peer.name);
        peer.subscribe_and_publish(&topic, b"hello");
        assert_eq!(peer.event(), Event::Frame(peer.name.clone(), Some(topic), b"hello".to_vec()));
    }
}

/// This runs only with a broker of one implementation and callers of the other; other combinations test nothing new.
fn the_brokers_own_methods(mixture: &Mixture) {
    let (a, _b) = mixture.pair();
    let call = |method: &str, params: &[u8]| a.call(".broker", method, params, 1);
    let filter = |regex: &str| {
        rmp_serde::to_vec_named(&std::collections::BTreeMap::from([("filter", regex)])).unwrap()
    };

    assert_eq!(call("test", b"").unwrap(), b"\x81\xa2ok\xc3");
    assert_eq!(call("benchmark.test", b"\0any\xff").unwrap(), b"\0any\xff");

    let reply = call("info", b"").unwrap();
    let theirs: BrokerInfo = rmp_serde::from_slice(&reply).unwrap();
    let ours: busrt::broker::BrokerInfo = rmp_serde::from_slice(&reply).unwrap();
    assert!(!theirs.author.is_empty() && theirs.version.split('.').count() == 3);
    assert_eq!((theirs.author, theirs.version), (&*ours.author, &*ours.version));

    let reply = call("stats", b"").unwrap();
    let theirs: BrokerStats = rmp_serde::from_slice(&reply).unwrap();
    let ours: busrt::broker::BrokerStats = rmp_serde::from_slice(&reply).unwrap();
    assert!(theirs.r_frames > 0 && theirs.r_bytes > theirs.r_frames && theirs.w_frames > 0);
    assert_eq!((theirs.uptime, theirs.r_frames), (ours.uptime, ours.r_frames));

    let reply = call("client.list", b"").unwrap();
    let theirs: ClientList = rmp_serde::from_slice(&reply).unwrap();
    let ours: busrt::broker::ClientList = rmp_serde::from_slice(&reply).unwrap();
    let names: Vec<_> = theirs.clients.iter().map(|client| client.name).collect();
    assert_eq!(names, [".broker", "test.a", "test.b"]);
    let kinds: Vec<_> = theirs.clients.iter().map(|client| client.kind).collect();
    let kind = if mixture.bed.address.starts_with('/') { "local_ipc" } else { "tcp" };
    assert_eq!(kinds, ["internal", kind, kind]);
    for (theirs, ours) in theirs.clients.iter().zip(&ours.clients) {
        assert_eq!((theirs.name, theirs.instances), (&*ours.name, ours.instances));
        assert_eq!((theirs.source, theirs.port), (ours.source.as_deref(), ours.port.as_deref()));
        assert_eq!(theirs.source.is_some(), theirs.kind == "tcp");
        assert_eq!(theirs.port.is_some(), theirs.kind != "internal");
    }

    let reply = call("client.list", &filter("a$")).unwrap();
    let listed: ClientList = rmp_serde::from_slice(&reply).unwrap();
    assert_eq!(listed.clients.iter().map(|client| client.name).collect::<Vec<_>>(), ["test.a"]);

    for (method, params, code) in [
        ("test", &b"x"[..], -32602),
        ("info", b"\x80", -32602),
        ("stats", b"\xc0", -32602),
        ("client.list", b"\xc1", -32700),
        ("client.list", &filter("("), -32700),
        ("nonsense", b"", -32601),
        ("", b"", -32601),
    ] {
        assert_eq!(call(method, params).unwrap_err().0, code, "{method:?} {params:?}");
    }
}

macro_rules! suite {
    ($($name:ident: $maker:ident, $a:ident, $b:ident;)*) => { $(
        mod $name {
            mod unix { suite!(@tests Unix, $maker, $a, $b); }
            mod tcp { suite!(@tests Tcp, $maker, $a, $b); }
        }
    )* };
    (@tests $transport:ident, $maker:ident, $a:ident, $b:ident) => {
        suite!(@each $transport, $maker, $a, $b: calls errors without_reply handlers_may_call_back many_at_once
            publications_come_as_frames the_brokers_own_methods);
    };
    (@each $transport:ident, $maker:ident, $a:ident, $b:ident: $($scenario:ident)*) => { $(
        #[test]
        fn $scenario() {
            use interop::{Maker, RpcKind, Transport};
            crate::$scenario(&crate::Mixture::new(Maker::$maker, Transport::$transport, RpcKind::$a, RpcKind::$b));
        }
    )* };
}

suite! {
    theirs_on_our_broker: Ours, Theirs, Theirs;
    their_sync_ones_on_our_broker: Ours, TheirsSync, TheirsSync;
    ours_and_theirs_on_our_broker: Ours, Ours, Theirs;
    theirs_and_our_blocking_on_our_broker: Ours, Theirs, OursBlocking;
    ours_on_their_broker: Theirs, Ours, Ours;
    our_blocking_ones_on_their_broker: Theirs, OursBlocking, OursBlocking;
    ours_and_theirs_on_their_broker: Theirs, Ours, Theirs;
    our_blocking_and_their_sync_on_their_broker: Theirs, OursBlocking, TheirsSync;
}
