//! Frames in a row, read together, that go to the same receivers: they are appended to each queue in one piece.
//! Taking a queue's lock is most of what a delivery costs otherwise.

use super::options::Options;
use super::registry::{Audience, Registry};
use super::session::Session;
use crate::proto::delivery::{Delivery, HEADER_LEN};
use crate::proto::op::FrameKind;
use crate::transport::queue::LARGE_PAYLOAD;
use std::cell::Cell;
use std::sync::Arc;

/// What a run may have for several receivers: enough to spread the cost of their locks, little enough to stay in a
/// core's cache while it is copied to each.
const FOR_MANY: Bounds = Bounds { frames: 256, bytes: 64 * 1024 };
/// And for one, whose queue mostly takes it without a copy.
const FOR_ONE: Bounds = Bounds { frames: 2048, bytes: 256 * 1024 };

#[derive(Debug, Clone, Copy)]
struct Bounds {
    frames: usize,
    bytes: usize,
}

impl Bounds {
    /// No more than a part of what a queue may hold: else they would rarely fit there together.
    fn within(self, options: &Options) -> Bounds {
        Bounds {
            frames: self.frames.min((options.queue_size / 4).max(1)),
            bytes: self.bytes.min((options.queue_bytes / 4).max(1)),
        }
    }
}

/// Whom a run goes to.
#[derive(Clone, Copy)]
pub(super) enum Receivers<'r> {
    One(&'r Arc<Session>),
    Many(&'r Audience),
}

/// The same, kept.
enum Kept {
    One(Arc<Session>),
    Many(Audience),
}

impl Kept {
    fn are(&self, receivers: Receivers<'_>) -> bool {
        match (self, receivers) {
            (Kept::One(kept), Receivers::One(other)) => Arc::ptr_eq(kept, other),
            (Kept::Many(kept), Receivers::Many(other)) => Arc::ptr_eq(kept, other),
            _ => false,
        }
    }

    fn as_slice(&self) -> &[Arc<Session>] {
        match self {
            Kept::One(one) => std::slice::from_ref(one),
            Kept::Many(many) => many,
        }
    }
}

/// Frames of one client that are not delivered yet, and that nobody waits for: encoded, as they go over the wire.
pub(super) struct Run<'a> {
    sender: &'a str,
    /// What the frames are addressed to: a name, a mask or a topic.
    key: &'a str,
    /// Of when it was looked up.
    generation: u64,
    receivers: Option<Kept>,
    /// The flags of the requests; `None` if those with the same flags and key may be for others.
    flags: Option<u8>,
    kind: FrameKind,
    most: Bounds,
    options: &'a Options,
    bundle: Bundle,
}

thread_local! {
    /// One bundle for each thread: sessions that wait for something to read hold none.
    static SPARE: Cell<Bundle> = const { Cell::new(Bundle::new()) };
}

impl<'a> Run<'a> {
    /// An empty one.
    pub(super) fn new(sender: &'a str, options: &'a Options) -> Run<'a> {
        Run {
            sender,
            key: "",
            generation: 0,
            receivers: None,
            flags: None,
            kind: FrameKind::Message,
            most: FOR_MANY,
            options,
            bundle: Bundle::new(),
        }
    }

    pub(super) fn sender(&self) -> &'a str {
        self.sender
    }

    /// Whether a frame with that payload is one for runs at all.
    pub(super) fn suits(payload: &[u8]) -> bool {
        payload.len() < LARGE_PAYLOAD
    }

    /// Whether another frame for `receivers` may be added.
    pub(super) fn has_room_for(&self, receivers: Receivers<'_>) -> bool {
        self.receivers.as_ref().is_none_or(|kept| kept.are(receivers)) && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.bundle.lens.len() < self.most.frames && self.bundle.bytes.len() < self.most.bytes
    }

    /// Adds a frame that is addressed to `key`, which at `generation` stood for `receivers`. `flags` are those of
    /// the request, if all with the same flags and key are for the same receivers.
    pub(super) fn add(
        &mut self,
        frame: &Delivery<'a>,
        key: &'a str,
        generation: u64,
        receivers: Receivers<'_>,
        flags: Option<u8>,
    ) {
        // If it was looked up anew since, the receivers are still the same.
        self.generation = generation;
        if self.receivers.is_none() {
            let kept = match receivers {
                Receivers::One(one) => Kept::One(one.clone()),
                Receivers::Many(many) => Kept::Many(many.clone()),
            };
            let most = if kept.as_slice().len() == 1 { FOR_ONE } else { FOR_MANY };
            (self.receivers, self.most) = (Some(kept), most.within(self.options));
            (self.key, self.flags, self.kind) = (key, flags, frame.kind);
            self.bundle = Bundle::take();
            self.bundle.head.clear();
            Delivery { topic: None, payload: &[], ..*frame }.encode(&mut self.bundle.head);
        }
        if self.is_for_somebody() {
            self.bundle.add(frame);
        }
    }

    /// Adds the frame of a request with these flags and this body, if it is like those that are here: addressed
    /// to the same, with nothing changed since. Nothing needs to be looked up, or even understood, then.
    #[inline]
    pub(super) fn add_alike(&mut self, flags: u8, body: &[u8], generation: u64) -> bool {
        if self.flags != Some(flags) || self.generation != generation {
            return false;
        }
        let Some((key, rest)) = body.split_at_checked(self.key.len()) else { return false };
        let [0, payload @ ..] = rest else { return false };
        if key != self.key.as_bytes() || !Run::suits(payload) || !self.has_room() {
            return false;
        }
        // A topic is part of the frame, the name or mask of a receiver is not.
        if self.is_for_somebody() {
            self.bundle.add_alike(if self.kind == FrameKind::Publication { body } else { payload });
        }
        true
    }

    fn is_for_somebody(&self) -> bool {
        self.receivers.as_ref().is_some_and(|kept| !kept.as_slice().is_empty())
    }

    /// Whom the frames go to, and the frames; `None` if there are none.
    pub(super) fn content(&mut self) -> Option<(&[Arc<Session>], &mut Bundle)> {
        Some((self.receivers.as_ref()?.as_slice(), &mut self.bundle))
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.receivers = None;
        self.flags = None;
        std::mem::take(&mut self.bundle).give();
    }

    /// Of when the receivers were looked up.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Empties it: what is left for those who did not get it.
    pub(super) fn leave(&mut self, receivers: Vec<Arc<Session>>) -> Box<Rest<'a>> {
        let mut bundle = std::mem::take(&mut self.bundle);
        // It may wait for long.
        bundle.bytes.shrink_to_fit();
        let rest = Rest { key: self.key, kind: self.kind, generation: self.generation, receivers, bundle };
        self.clear();
        Box::new(rest)
    }
}

/// Frames of a run that go one by one.
pub(super) struct Rest<'a> {
    key: &'a str,
    kind: FrameKind,
    generation: u64,
    pub(super) receivers: Vec<Arc<Session>>,
    pub(super) bundle: Bundle,
}

impl Rest<'_> {
    /// Looks up the receivers anew if anything has changed: nobody gets what it has ended meanwhile. False when
    /// there is nobody left, or the sender may not send this any more.
    pub(super) fn refresh(&mut self, registry: &Registry, session: &Session) -> bool {
        let generation = registry.generation();
        if generation != self.generation {
            self.generation = generation;
            if self.kind == FrameKind::Message {
                self.receivers = registry.target(session, self.key).into_iter().collect();
            } else {
                let now = match self.kind {
                    FrameKind::Broadcast => registry.matching_names(session, self.key),
                    _ => registry.subscribers(Some(session), self.key),
                };
                let now = now.unwrap_or_else(|_| [].into());
                self.receivers.retain(|one| now.iter().any(|other| Arc::ptr_eq(one, other)));
            }
        }
        !self.receivers.is_empty()
    }
}

/// A run as it goes over the wire.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    pub(super) bytes: Vec<u8>,
    /// The length of each frame.
    pub(super) lens: Vec<u64>,
    /// What each frame begins with, but for its length: the header and the sender.
    head: Vec<u8>,
}

impl Bundle {
    const fn new() -> Bundle {
        Bundle { bytes: Vec::new(), lens: Vec::new(), head: Vec::new() }
    }

    /// An empty one, with buffers if this thread has some left over.
    fn take() -> Bundle {
        SPARE.try_with(Cell::take).unwrap_or_default()
    }

    /// Leaves its buffers to the next run on this thread.
    pub(super) fn give(mut self) {
        self.bytes.clear();
        self.lens.clear();
        if (1..=2 * FOR_ONE.bytes).contains(&self.bytes.capacity()) {
            // Fails only while the thread ends.
            let _ = SPARE.try_with(|spare| spare.set(self));
        }
    }

    fn add(&mut self, frame: &Delivery<'_>) {
        frame.encode(&mut self.bytes);
        self.lens.push(frame.wire_len() as u64);
    }

    /// Adds a frame with everything after its sender as it is.
    #[inline]
    fn add_alike(&mut self, rest: &[u8]) {
        let len = self.head.len() + rest.len();
        self.bytes.reserve(len);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&self.head);
        self.bytes.extend_from_slice(rest);
        self.bytes[start + 1..start + 5].copy_from_slice(&((len - HEADER_LEN) as u32).to_le_bytes());
        self.lens.push(len as u64);
    }

    /// The frames, one by one, and as they are encoded.
    pub(super) fn frames(&self) -> impl Iterator<Item = (Delivery<'_>, &[u8])> {
        let mut bytes = &self.bytes[..];
        self.lens.iter().filter_map(move |len| {
            let (frame, rest) = bytes.split_at_checked(*len as usize)?;
            bytes = rest;
            // What was encoded here can be read.
            Some((Delivery::parse(frame).ok()?, frame))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::outbox::Outlet;
    use crate::broker::session::{ClientKind, Identity};
    use crate::proto::op::{OP_BROADCAST, OP_MESSAGE, OP_PUBLISH, QoS};

    fn audience(count: u32) -> Audience {
        let session = |id| {
            let identity =
                Identity { name: "you".into(), kind: ClientKind::Internal, peer: None, port: None };
            Arc::new(Session::new(id, identity, Outlet::Broker, 0, 0))
        };
        (0..count).map(session).collect()
    }

    /// The first frame in full, then those that are alike.
    fn run_of<'a>(
        flags: u8,
        key: &'a str,
        topic: Option<&'a str>,
        audience: &Audience,
        options: &'a Options,
    ) -> Run<'a> {
        let kind = if topic.is_some() { FrameKind::Publication } else { FrameKind::Message };
        let realtime = QoS::from_flags(flags).is_realtime();
        let mut run = Run::new("me", options);
        let frame = Delivery { kind, realtime, sender: "me", topic, payload: b"first" };
        run.add(&frame, key, 7, Receivers::Many(audience), Some(flags));
        run
    }

    fn payloads(run: &mut Run<'_>) -> Vec<Vec<u8>> {
        run.content().unwrap().1.frames().map(|(frame, _)| frame.payload.to_vec()).collect()
    }

    #[test]
    fn what_is_alike_needs_no_look_up() {
        let (audience, options) = (audience(2), Options::default());
        let mut run = run_of(OP_MESSAGE, "you", None, &audience, &options);
        assert!(run.add_alike(OP_MESSAGE, b"you\0second", 7));
        assert!(run.add_alike(OP_MESSAGE, b"you\0", 7));
        // Other flags, another or a longer or a shorter name, no name at all, another time.
        assert!(!run.add_alike(OP_PUBLISH, b"you\0x", 7));
        assert!(!run.add_alike(QoS::Realtime.flags(OP_MESSAGE), b"you\0x", 7));
        for body in [&b"yoo\0x"[..], b"your\0x", b"yo\0x", b"you", b""] {
            assert!(!run.add_alike(OP_MESSAGE, body, 7), "{body:?}");
        }
        assert!(!run.add_alike(OP_MESSAGE, b"you\0x", 8));
        let large = [&b"you\0"[..], &[0; LARGE_PAYLOAD]].concat();
        assert!(!run.add_alike(OP_MESSAGE, &large, 7));
        assert!(run.add_alike(OP_MESSAGE, &large[..large.len() - 1], 7));
        let wanted = [&b"first"[..], b"second", b"", &[0; LARGE_PAYLOAD - 1]];
        assert_eq!(payloads(&mut run), wanted);
        let (_, bundle) = run.content().unwrap();
        for (frame, encoded) in bundle.frames() {
            let whole =
                Delivery { kind: FrameKind::Message, realtime: false, sender: "me", topic: None, ..frame };
            assert_eq!(frame, whole);
            let mut anew = vec![];
            whole.encode(&mut anew);
            assert_eq!(encoded, anew);
        }
        run.clear();
        assert!(!run.add_alike(OP_MESSAGE, b"you\0x", 7));
    }

    #[test]
    fn a_topic_stays_in_the_frame() {
        let (audience, options) = (audience(2), Options::default());
        let mut run = run_of(OP_PUBLISH, "a/b", Some("a/b"), &audience, &options);
        assert!(run.add_alike(OP_PUBLISH, b"a/b\0\0second", 7));
        let (_, bundle) = run.content().unwrap();
        let topics: Vec<_> = bundle.frames().map(|(f, _)| (f.sender, f.topic, f.payload)).collect();
        assert_eq!(topics, [("me", Some("a/b"), &b"first"[..]), ("me", Some("a/b"), b"\0second")]);
    }

    #[test]
    fn the_first_frame_tells_kind_and_realtime() {
        let (audience, options) = (audience(1), Options::default());
        for qos in [QoS::No, QoS::Realtime] {
            let flags = qos.flags(OP_MESSAGE);
            let mut run = run_of(flags, "you", None, &audience, &options);
            // Other flags join by way of being looked up; those after them are alike all the same.
            let other = Delivery {
                kind: FrameKind::Message,
                realtime: !qos.is_realtime(),
                sender: "me",
                topic: None,
                payload: b"2",
            };
            run.add(&other, "you", 8, Receivers::Many(&audience), Some(OP_BROADCAST));
            assert!(!run.add_alike(flags, b"you\x003", 7));
            assert!(run.add_alike(flags, b"you\x003", 8));
            let (_, bundle) = run.content().unwrap();
            let realtime: Vec<bool> = bundle.frames().map(|(frame, _)| frame.realtime).collect();
            assert_eq!(realtime, [qos.is_realtime(), !qos.is_realtime(), qos.is_realtime()]);
        }
    }

    #[test]
    fn a_run_is_bounded() {
        let mut options = Options::default();
        let large = [&b"you\0"[..], &[0; 4000]].concat();
        let more = |count, options: &Options, body: &[u8]| {
            let audience = audience(count);
            let mut run = run_of(OP_MESSAGE, "you", None, &audience, options);
            (0..9999).take_while(|_| run.add_alike(OP_MESSAGE, body, 7)).count()
        };
        for (count, most) in [(1, FOR_ONE), (2, FOR_MANY)] {
            assert_eq!(more(count, &options, b"you\0"), most.frames - 1);
            assert_eq!(more(count, &options, &large), most.bytes.div_ceil(4009));
        }
        options.queue_size = 40;
        assert_eq!(more(1, &options, b"you\0"), 9);
        options.queue_size = 1;
        assert_eq!(more(1, &options, b"you\0"), 0);
        options = Options::default().queue_bytes(10);
        assert_eq!(more(1, &options, b"you\0"), 0);
    }

    #[test]
    fn what_is_for_nobody_takes_no_room() {
        let (audience, options) = (audience(0), Options::default());
        let mut run = run_of(OP_PUBLISH, "t", Some("t"), &audience, &options);
        for _ in 0..10_000 {
            assert!(run.add_alike(OP_PUBLISH, b"t\0payload", 7));
        }
        assert!(run.bundle.bytes.is_empty() && run.bundle.lens.is_empty());
    }

    #[test]
    fn what_is_left_is_what_was_there() {
        let (audience, options) = (audience(1), Options::default());
        let mut run = run_of(OP_MESSAGE, "you", None, &audience, &options);
        assert!(run.add_alike(OP_MESSAGE, b"you\0second", 7));
        let rest = run.leave(audience.to_vec());
        assert!(run.content().is_none());
        let left: Vec<&[u8]> = rest.bundle.frames().map(|(frame, _)| frame.payload).collect();
        assert_eq!(left, [&b"first"[..], b"second"]);
    }

    #[test]
    fn those_whose_receivers_may_differ_are_never_alike() {
        let (audience, options) = (audience(2), Options::default());
        let mut run = Run::new("me", &options);
        let frame = Delivery {
            kind: FrameKind::Publication,
            realtime: false,
            sender: "me",
            topic: Some("t"),
            payload: b"",
        };
        run.add(&frame, "t", 7, Receivers::Many(&audience), None);
        assert!(!run.add_alike(OP_PUBLISH, b"t\0", 7));
    }
}
