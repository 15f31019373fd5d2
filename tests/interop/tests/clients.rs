//! Every operation, with every QoS, between clients of both implementations on brokers of both.

use interop::{Bed, Kind, Maker, Op, Peer, Seen, Transport};

/// A broker, and the kinds of the two clients that communicate over it.
struct Mixture {
    bed: Bed,
    kinds: (Kind, Kind),
}

impl Mixture {
    fn new(maker: Maker, transport: Transport, a: Kind, b: Kind) -> Mixture {
        Mixture { bed: Bed::new(maker, transport), kinds: (a, b) }
    }

    fn pair(&self) -> (Peer<'_>, Peer<'_>) {
        (self.connect_a("test.a").unwrap(), self.connect_b("test.b").unwrap())
    }

    fn connect_a(&self, name: &str) -> Result<Peer<'_>, u8> {
        Peer::connect(&self.bed, self.kinds.0, name)
    }

    fn connect_b(&self, name: &str) -> Result<Peer<'_>, u8> {
        Peer::connect(&self.bed, self.kinds.1, name)
    }
}

const OK: Result<(), u8> = Ok(());

/// Returns the result of an operation with `qos` if the broker's answer is `code`.
fn if_asked(qos: u8, code: u8) -> Result<(), u8> {
    if qos & 1 == 0 { Ok(()) } else { Err(code) }
}

fn payloads() -> [Vec<u8>; 4] {
    [vec![], b"hello".to_vec(), b"\0\xff\0".to_vec(), (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect()]
}

fn messages(mixture: &Mixture) {
    let (mut a, mut b) = mixture.pair();
    for qos in 0..4 {
        for payload in payloads() {
            for (from, to) in [(&mut a, "test.b"), (&mut b, "test.a")] {
                assert_eq!(from.run(Op::Send(to, &payload), qos), OK);
            }
            let op = Op::Send("", &payload);
            assert_eq!(b.take(), Seen::new(op, "test.a", qos));
            assert_eq!(a.take(), Seen::new(op, "test.b", qos));
        }
        assert_eq!(a.run(Op::Send("test.a", b"me"), qos), OK);
        assert_eq!(a.take(), Seen::new(Op::Send("", b"me"), "test.a", qos));
        assert_eq!(a.run(Op::Send("nobody.there", b"x"), qos), if_asked(qos, 0x71));
    }
    assert!(a.is_quiet() && b.is_quiet());
}

fn broadcasts(mixture: &Mixture) {
    let (mut a, mut b) = mixture.pair();
    for qos in 0..4 {
        for payload in payloads() {
            let op = Op::Broadcast("test.?", &payload);
            assert_eq!(a.run(op, qos), OK);
            for peer in [&mut a, &mut b] {
                assert_eq!(peer.take(), Seen::new(op, "test.a", qos));
            }
        }
        for mask in ["?.b", "test.b", "*.b"] {
            let op = Op::Broadcast(mask, b"x");
            assert_eq!(a.run(op, qos), OK);
            assert_eq!(b.take(), Seen::new(op, "test.a", qos));
            if mask == "*.b" {
                assert_eq!(a.take(), Seen::new(op, "test.a", qos));
            }
        }
        assert_eq!(a.run(Op::Broadcast("nobody.*", b"x"), qos), OK);
    }
    assert!(a.is_quiet() && b.is_quiet());
}

fn publications(mixture: &Mixture) {
    let (mut a, mut b) = mixture.pair();
    for qos in 0..4 {
        assert_eq!(b.run(Op::Subscribe(&["some/topic"]), qos), OK);
        assert_eq!(b.run(Op::Subscribe(&["a/#", "+/b", "a/b"]), qos), OK);
        assert!(b.is_quiet());
        for topic in ["some/topic", "a/b", "a/x/y", "x/b", "a/+"] {
            for payload in payloads() {
                let op = Op::Publish(topic, &payload);
                assert_eq!(a.run(op, qos), OK);
                assert_eq!(b.take(), Seen::new(op, "test.a", qos));
            }
        }
        for topic in ["some/topic/", "a", "b", "x/y/b", "/some/topic"] {
            assert_eq!(a.run(Op::Publish(topic, b"x"), qos), OK);
        }
        assert!(b.is_quiet());
        assert_eq!(b.run(Op::Unsubscribe(&["a/#", "+/b"]), qos), OK);
        assert_eq!(b.run(Op::Unsubscribe(&["some/topic"]), qos), OK);
        assert!(b.is_quiet());
        for topic in ["some/topic", "x/b", "a/c", "a/b"] {
            assert_eq!(a.run(Op::Publish(topic, b"x"), qos), OK);
        }
        assert_eq!(b.take(), Seen::new(Op::Publish("a/b", b"x"), "test.a", qos));
        assert_eq!(b.run(Op::Unsubscribe(&["a/b", "never/there"]), qos), OK);
        assert!(b.is_quiet());
    }
    // The publisher also receives the topics to which it is subscribed.
    assert_eq!(a.run(Op::Subscribe(&["own"]), 1), OK);
    assert_eq!(a.run(Op::Publish("own", b"x"), 1), OK);
    assert_eq!(a.take(), Seen::new(Op::Publish("own", b"x"), "test.a", 1));
    assert!(a.is_quiet() && b.is_quiet());
}

fn exclusions(mixture: &Mixture) {
    let (mut a, mut b) = mixture.pair();
    for qos in 0..4 {
        assert_eq!(b.run(Op::Subscribe(&["x/#"]), qos), OK);
        assert_eq!(b.run(Op::Exclude(&["x/loud"]), qos), OK);
        assert_eq!(b.run(Op::Exclude(&["x/a/#", "x/+/b"]), qos), OK);
        assert!(b.is_quiet());
        for topic in ["x/loud", "x/a/c", "x/d/b", "x/quiet"] {
            assert_eq!(a.run(Op::Publish(topic, b"x"), qos), OK);
        }
        assert_eq!(b.take(), Seen::new(Op::Publish("x/quiet", b"x"), "test.a", qos));
        assert_eq!(b.run(Op::Unexclude(&["x/a/#", "x/+/b"]), qos), OK);
        assert_eq!(b.run(Op::Unexclude(&["x/loud"]), qos), OK);
        assert!(b.is_quiet());
        for topic in ["x/loud", "x/a/c", "x/d/b"] {
            let op = Op::Publish(topic, b"x");
            assert_eq!(a.run(op, qos), OK);
            assert_eq!(b.take(), Seen::new(op, "test.a", qos));
        }
    }
    assert!(b.is_quiet());
}

fn publications_for_one(mixture: &Mixture) {
    let (mut a, mut b) = mixture.pair();
    let mut secondary = b.secondary().unwrap();
    for peer in [&mut a, &mut b, &mut secondary] {
        assert_eq!(peer.run(Op::Subscribe(&["for/#"]), 1), OK);
    }
    for qos in 0..4 {
        for payload in payloads() {
            let op = Op::PublishFor("for/you", "test.b", &payload);
            assert_eq!(a.run(op, qos), OK);
            for peer in [&mut b, &mut secondary] {
                assert_eq!(peer.take(), Seen::new(op, "test.a", qos));
            }
        }
        assert_eq!(a.run(Op::PublishFor("other", "test.b", b"x"), qos), OK);
        assert_eq!(a.run(Op::PublishFor("for/you", "nobody", b"x"), qos), OK);
    }
    assert!(a.is_quiet() && b.is_quiet() && secondary.is_quiet());
}

fn secondaries(mixture: &Mixture) {
    let (a, mut b) = mixture.pair();
    let (mut one, mut two) = (a.secondary().unwrap(), a.secondary().unwrap());
    assert!(one.name.starts_with("test.a%%") && two.name.starts_with("test.a%%") && one.name != two.name);
    for secondary in [&mut one, &mut two] {
        assert_eq!(secondary.run(Op::Send("test.b", b"x"), 1), OK);
        let seen = b.take();
        assert_eq!(seen, Seen::new(Op::Send("", b"x"), &secondary.name, 1));
        assert_eq!(seen.primary_sender, "test.a");
        assert_eq!(b.run(Op::Send(&seen.sender, b"y"), 1), OK);
        assert_eq!(secondary.take(), Seen::new(Op::Send("", b"y"), "test.b", 1));
    }
    // They end with their primary.
    drop(a);
    for secondary in [&one, &two] {
        interop::until("the secondary is gone", || {
            (b.run(Op::Send(&secondary.name, b"x"), 1) == Err(0x71)).then_some(())
        });
        interop::until("the secondary has noticed", || (!secondary.is_connected()).then_some(()));
    }
}

fn names_are_refused(mixture: &Mixture) {
    let (a, _b) = mixture.pair();
    for connect in [Mixture::connect_a, Mixture::connect_b] {
        for (name, code) in [("test.a", 0x76), ("nobody%%1", 0x71)] {
            assert_eq!(connect(mixture, name).err(), Some(code), "{name:?}");
        }
        // Their broker accepts these names, unless they are already registered.
        if mixture.bed.maker == Maker::Ours {
            for name in ["", ".hidden", ".broker", "with\0nul"] {
                assert_eq!(connect(mixture, name).err(), Some(0x72), "{name:?}");
            }
        }
    }
    assert!(a.is_connected());
}

fn a_name_is_free_again_after_its_owner(mixture: &Mixture) {
    let (_, mut b) = mixture.pair();
    for _ in 0..5 {
        let mut a = interop::until("the name is free", || match mixture.connect_a("test.a") {
            Ok(a) => Some(a),
            Err(code) => {
                assert_eq!(code, 0x76);
                None
            }
        });
        assert_eq!(a.run(Op::Send("test.b", b"again"), 1), OK);
        assert_eq!(b.take(), Seen::new(Op::Send("", b"again"), "test.a", 1));
    }
}

fn order(mixture: &Mixture) {
    let (mut a, mut b) = mixture.pair();
    assert_eq!(b.run(Op::Subscribe(&["order"]), 1), OK);
    let mut answers = vec![];
    let payload =
        |i: u32| [&i.to_le_bytes()[..], &vec![1; if i.is_multiple_of(50) { 20_000 } else { 3 }]].concat();
    fn op(i: u32, payload: &[u8]) -> Op<'_> {
        match i % 4 {
            0 => Op::Send("test.b", payload),
            1 => Op::Publish("order", payload),
            2 => Op::Broadcast("test.b", payload),
            _ => Op::PublishFor("order", "test.b", payload),
        }
    }
    let qos = |i: u32| (i / 5 % 4) as u8;
    for i in 0..1000 {
        answers.push(a.start(op(i, &payload(i)), qos(i)).unwrap());
    }
    for i in 0..1000 {
        assert_eq!(b.take(), Seen::new(op(i, &payload(i)), "test.a", qos(i)), "{i}");
    }
    for answer in answers {
        assert_eq!(a.finish(answer), OK);
    }
}

fn answers_belong_to_their_operations(mixture: &Mixture) {
    let (mut a, mut b) = mixture.pair();
    let mut answers = vec![];
    for i in 0..240 {
        let target = if i % 3 == 0 { "test.b" } else { "nobody.there" };
        answers.push((i, a.start(Op::Send(target, b"x"), 1 + i % 2 * 2).unwrap()));
        answers.push((0, a.start(Op::Subscribe(&["t"]), 1).unwrap()));
    }
    for (i, answer) in answers {
        assert_eq!(a.finish(answer), if i % 3 == 0 { OK } else { Err(0x71) });
    }
    for _ in 0..80 {
        b.take();
    }
    assert!(b.is_quiet());
}

fn a_large_payload(mixture: &Mixture) {
    let (mut a, mut b) = mixture.pair();
    let payload: Vec<u8> = (0..16 * 1024 * 1024u32).map(|i| (i * 31 % 253) as u8).collect();
    let answer = a.start(Op::Send("test.b", &payload), 1).unwrap();
    assert!(b.take() == Seen::new(Op::Send("", &payload), "test.a", 1));
    assert_eq!(a.finish(answer), OK);
}

fn announcements(mixture: &Mixture) {
    #[derive(serde::Deserialize)]
    struct Announcement {
        s: String,
        d: Option<String>,
        t: u64,
    }
    let mut a = mixture.connect_a("test.a").unwrap();
    assert_eq!(a.run(Op::Subscribe(&[".broker/info"]), 1), OK);
    let mut b = mixture.connect_b("test.b").unwrap();
    assert_eq!(b.ping(), OK);
    drop(b);
    for subject in ["reg", "unreg"] {
        let seen = a.take();
        assert_eq!(
            (seen.kind, seen.sender.as_str(), seen.topic.as_deref()),
            (1, ".broker", Some(".broker/info"))
        );
        // Their own type can be decoded too, but has no time.
        let theirs: busrt_ref::broker::BrokerEvent = rmp_serde::from_slice(&seen.payload).unwrap();
        assert_eq!((theirs.subject(), theirs.data()), (subject, Some("test.b")));
        let plain: Announcement = rmp_serde::from_slice(&seen.payload).unwrap();
        assert_eq!((plain.s.as_str(), plain.d.as_deref()), (subject, Some("test.b")));
        assert!(plain.t > 1_000_000_000_000_000_000);
    }
    assert!(a.is_quiet());
}

macro_rules! suite {
    ($($name:ident: $maker:ident, $a:ident, $b:ident;)*) => { $(
        mod $name {
            mod unix { suite!(@tests Unix, $maker, $a, $b); }
            mod tcp { suite!(@tests Tcp, $maker, $a, $b); }
        }
    )* };
    (@tests $transport:ident, $maker:ident, $a:ident, $b:ident) => {
        suite!(@each $transport, $maker, $a, $b: messages broadcasts publications exclusions publications_for_one secondaries
            names_are_refused a_name_is_free_again_after_its_owner order answers_belong_to_their_operations
            a_large_payload announcements);
    };
    (@each $transport:ident, $maker:ident, $a:ident, $b:ident: $($scenario:ident)*) => { $(
        #[test]
        fn $scenario() {
            use interop::{Kind, Maker, Transport};
            crate::$scenario(&crate::Mixture::new(Maker::$maker, Transport::$transport, Kind::$a, Kind::$b));
        }
    )* };
}

suite! {
    their_clients_on_our_broker: Ours, Theirs, Theirs;
    their_sync_clients_on_our_broker: Ours, TheirsSync, TheirsSync;
    their_client_to_ours_on_our_broker: Ours, Theirs, Ours;
    our_client_to_theirs_on_our_broker: Ours, Ours, Theirs;
    our_blocking_client_to_theirs_on_our_broker: Ours, OursBlocking, TheirsSync;
    our_clients_on_their_broker: Theirs, Ours, Ours;
    our_blocking_clients_on_their_broker: Theirs, OursBlocking, OursBlocking;
    our_client_to_theirs_on_their_broker: Theirs, Ours, Theirs;
    their_client_to_ours_on_their_broker: Theirs, Theirs, Ours;
}
