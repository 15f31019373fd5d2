//! Access rules of both brokers, with clients of both implementations.

use busrt::broker::{AccessList, ClientAccess};
use busrt_ref::broker::{AaaMap, ClientAaa};
use interop::{Bed, Kind, Maker, Op, Peer, Seen, Transport, until};

const KINDS: [Kind; 4] = [Kind::Ours, Kind::OursBlocking, Kind::Theirs, Kind::TheirsSync];
const DENIED: Result<(), u8> = Err(0x79);

/// The same rules on both brokers: `limited` may send only to `free.*` and only on topics in `open/#`.
fn the_rules_hold(bed: &Bed, kind: Kind) {
    let mut free = Peer::connect(bed, Kind::Theirs, "free").unwrap();
    let mut limited = Peer::connect(bed, kind, "limited").unwrap();
    assert_eq!(Peer::connect(bed, kind, "unknown").err(), Some(0x79));
    free.run(Op::Subscribe(&["#"]), 1).unwrap();

    for qos in [1, 3] {
        assert_eq!(limited.run(Op::Send("free", b"x"), qos), Ok(()));
        assert_eq!(limited.run(Op::Send("other", b"x"), qos), DENIED);
        assert_eq!(limited.run(Op::Publish("open/a", b"x"), qos), Ok(()));
        assert_eq!(limited.run(Op::Publish("closed", b"x"), qos), DENIED);
        assert_eq!(limited.run(Op::Broadcast("*", b"x"), qos), DENIED);
        assert_eq!(limited.run(Op::Subscribe(&["open/b"]), qos), Ok(()));
        assert_eq!(limited.run(Op::Subscribe(&["closed"]), qos), DENIED);
        assert_eq!(limited.run(Op::Unsubscribe(&["closed"]), qos), Ok(()));
        assert_eq!(limited.run(Op::Exclude(&["closed"]), qos), Ok(()));
        assert_eq!(free.take(), Seen::new(Op::Send("", b"x"), "limited", qos));
        assert_eq!(free.take(), Seen::new(Op::Publish("open/a", b"x"), "limited", qos));
    }
    free.run(Op::Publish("open/b", b"y"), 1).unwrap();
    free.run(Op::Publish("closed", b"y"), 1).unwrap();
    free.run(Op::Send("limited", b"end"), 1).unwrap();
    assert_eq!(limited.take(), Seen::new(Op::Publish("open/b", b"y"), "free", 1));
    assert_eq!(limited.take(), Seen::new(Op::Send("", b"end"), "free", 1));
}

#[test]
fn on_our_broker() {
    for kind in KINDS {
        let bed = Bed::new(Maker::Ours, Transport::Tcp);
        let limited =
            ClientAccess::none().messages(["free"]).publications(["open/#"]).subscriptions(["open/#"]);
        let rules = AccessList::new().client("free", ClientAccess::all()).client("limited", limited);
        bed.wait(bed.ours().set_access(Some(rules)));
        the_rules_hold(&bed, kind);
    }
}

#[test]
fn on_their_broker() {
    for kind in [Kind::Ours, Kind::OursBlocking] {
        the_rules_hold(&Bed::guarded_by_theirs(their_rules()), kind);
    }
}

fn their_rules() -> AaaMap {
    let rules = AaaMap::default();
    let limited = ClientAaa::new()
        .allow_p2p_to(&["free"])
        .allow_publish_to(&["open/#"])
        .allow_subscribe_to(&["open/#"])
        .deny_broadcast();
    rules.lock().insert("free".to_owned(), ClientAaa::new());
    rules.lock().insert("limited".to_owned(), limited);
    rules
}

#[test]
fn rules_that_change_take_effect_on_their_clients() {
    let bed = Bed::new(Maker::Ours, Transport::Unix);
    for kind in KINDS {
        bed.wait(bed.ours().set_access(None));
        let mut peer = Peer::connect(&bed, kind, "peer").unwrap();
        peer.run(Op::Subscribe(&["a", "b"]), 1).unwrap();
        let rules = ClientAccess::all().subscriptions(["a"]);
        bed.wait(bed.ours().set_access(Some(AccessList::new().client("peer", rules))));
        // The subscription that is no longer allowed has ended.
        peer.run(Op::Publish("b", b"x"), 1).unwrap();
        peer.run(Op::Publish("a", b"x"), 1).unwrap();
        assert_eq!(peer.take(), Seen::new(Op::Publish("a", b"x"), "peer", 1));
        bed.wait(bed.ours().set_access(Some(AccessList::new())));
        until("a client that is no longer admitted is disconnected", || (!peer.is_connected()).then_some(()));
    }
}

#[test]
fn clients_of_both_makes_can_be_disconnected() {
    let bed = Bed::new(Maker::Ours, Transport::Unix);
    for kind in KINDS {
        let peer = Peer::connect(&bed, kind, "peer").unwrap();
        let secondary = peer.secondary().unwrap();
        assert!(bed.ours().disconnect("peer"));
        until("both are disconnected", || (!peer.is_connected() && !secondary.is_connected()).then_some(()));
        assert!(!bed.ours().disconnect("peer"));
    }
}
