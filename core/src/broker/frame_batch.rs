//! Consecutive frames of one read that have the same receivers. They are appended to each queue in one piece, because
//! taking the lock of a queue is most of the cost of a single delivery.

use super::audience::Audience;
use super::encoded_frames::EncodedFrames;
use super::options::Options;
use super::session::Session;
use crate::proto::delivery::Delivery;
use crate::proto::op::FrameKind;
use crate::transport::LARGE_PAYLOAD;
use std::sync::Arc;

/// The bounds of a batch for several receivers: large enough to spread the cost of their locks, and small enough to
/// stay in a core's cache while it is copied to each queue.
const FOR_MANY: Bounds = Bounds { frames: 256, bytes: 64 * 1024 };
/// The bounds of a batch for one receiver, whose queue usually takes it without a copy.
const FOR_ONE: Bounds = Bounds { frames: 2048, bytes: 256 * 1024 };

#[derive(Debug, Clone, Copy)]
struct Bounds {
    frames: usize,
    bytes: usize,
}

impl Bounds {
    /// Reduces the bounds to at most a quarter of a queue's budget: more would rarely fit into a queue in one piece.
    fn within(self, options: &Options) -> Bounds {
        Bounds {
            frames: self.frames.min((options.queue_size / 4).max(1)),
            bytes: self.bytes.min((options.queue_bytes / 4).max(1)),
        }
    }
}

/// The receivers of a frame.
#[derive(Clone, Copy)]
pub(super) enum Receivers<'r> {
    One(&'r Arc<Session>),
    Many(&'r Audience),
}

/// [`Receivers`] that own their references.
enum OwnedReceivers {
    One(Arc<Session>),
    Many(Audience),
}

impl OwnedReceivers {
    fn are(&self, receivers: Receivers<'_>) -> bool {
        match (self, receivers) {
            (OwnedReceivers::One(own), Receivers::One(other)) => Arc::ptr_eq(own, other),
            (OwnedReceivers::Many(own), Receivers::Many(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    fn as_slice(&self) -> &[Arc<Session>] {
        match self {
            OwnedReceivers::One(one) => std::slice::from_ref(one),
            OwnedReceivers::Many(many) => many,
        }
    }
}

/// Number of receivers whose queues are prefetched into the processor's cache.
const PREFETCHED: usize = 8;

/// The destination of a frame.
#[derive(Clone, Copy)]
pub(super) struct Route<'r, 'a> {
    /// The address of the frame: a name, a mask or a topic.
    pub(super) key: &'a str,
    /// The registry's generation, read before the key was looked up.
    pub(super) generation: u64,
    pub(super) receivers: Receivers<'r>,
    /// The flags of the request, if all requests with these flags and this key have the same receivers; else `None`.
    pub(super) flags: Option<u8>,
}

/// Encoded frames of one client that are not yet delivered and need no acknowledgement.
pub(super) struct FrameBatch<'a> {
    sender: &'a str,
    key: &'a str,
    generation: u64,
    receivers: Option<OwnedReceivers>,
    flags: Option<u8>,
    kind: FrameKind,
    most: Bounds,
    options: &'a Options,
    frames: EncodedFrames,
}

impl<'a> FrameBatch<'a> {
    /// An empty batch.
    pub(super) fn new(sender: &'a str, options: &'a Options) -> FrameBatch<'a> {
        FrameBatch {
            sender,
            key: "",
            generation: 0,
            receivers: None,
            flags: None,
            kind: FrameKind::Message,
            most: FOR_MANY,
            options,
            frames: EncodedFrames::new(),
        }
    }

    pub(super) fn sender(&self) -> &'a str {
        self.sender
    }

    /// Returns whether a frame with that payload may be in any batch.
    pub(super) fn suits(payload: &[u8]) -> bool {
        payload.len() < LARGE_PAYLOAD
    }

    /// Returns whether another frame for `receivers` may be added.
    pub(super) fn has_room_for(&self, receivers: Receivers<'_>) -> bool {
        self.receivers.as_ref().is_none_or(|own| own.are(receivers)) && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.frames.lens.len() < self.most.frames && self.frames.bytes.len() < self.most.bytes
    }

    /// Adds a frame with this route.
    pub(super) fn add(&mut self, frame: &Delivery<'a>, route: Route<'_, 'a>) {
        // The route may have been looked up again, but the receivers are the same: `has_room_for` has compared them.
        self.generation = route.generation;
        if self.receivers.is_none() {
            let own = match route.receivers {
                Receivers::One(one) => OwnedReceivers::One(one.clone()),
                Receivers::Many(many) => OwnedReceivers::Many(many.clone()),
            };
            // The frames are delivered only after the next frame has been looked up, so that the queues can be loaded
            // during that time.
            own.as_slice().iter().take(PREFETCHED).for_each(|receiver| receiver.outbox.prefetch());
            let most = if own.as_slice().len() == 1 { FOR_ONE } else { FOR_MANY };
            (self.receivers, self.most) = (Some(own), most.within(self.options));
            (self.key, self.flags, self.kind) = (route.key, route.flags, frame.kind);
            self.frames = EncodedFrames::take(frame);
        }
        if self.has_receivers() {
            self.frames.add(frame, self.kind == FrameKind::Message);
        }
    }

    /// Adds the frame of a request with these flags and this body if it has the same address as the frames in the
    /// batch and the generation is the same. In that case, nothing needs to be looked up or parsed. Returns whether
    /// it was added.
    #[inline]
    pub(super) fn add_alike(&mut self, flags: u8, body: &[u8], generation: u64) -> bool {
        if self.flags != Some(flags) || self.generation != generation {
            return false;
        }
        let Some((key, rest)) = body.split_at_checked(self.key.len()) else { return false };
        let [0, payload @ ..] = rest else { return false };
        if key != self.key.as_bytes() || !FrameBatch::suits(payload) || !self.has_room() {
            return false;
        }
        // The topic is part of the delivery; the name or mask of the receivers is not.
        if self.has_receivers() {
            match self.kind {
                FrameKind::Publication => self.frames.add_alike(body, false),
                kind => self.frames.add_alike(payload, kind == FrameKind::Message),
            }
        }
        true
    }

    fn has_receivers(&self) -> bool {
        self.receivers.as_ref().is_some_and(|own| !own.as_slice().is_empty())
    }

    /// Returns the receivers and the frames; `None` if the batch is empty.
    pub(super) fn content(&mut self) -> Option<(&[Arc<Session>], &mut EncodedFrames)> {
        Some((self.receivers.as_ref()?.as_slice(), &mut self.frames))
    }

    pub(super) fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The registry's generation, read before the receivers were looked up.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Empties the batch.
    pub(super) fn clear(&mut self) {
        self.receivers = None;
        self.flags = None;
        std::mem::take(&mut self.frames).give();
    }

    /// Empties the batch, and returns its frames with the receivers that did not get them: those in `untried` may
    /// have room for all frames in one piece, those in `full` must get them frame by frame.
    pub(super) fn leave(
        &mut self,
        untried: Vec<Arc<Session>>,
        full: Vec<Arc<Session>>,
    ) -> Box<Undelivered<'a>> {
        let mut frames = std::mem::take(&mut self.frames);
        frames.shrink();
        let (key, kind, generation) = (self.key, self.kind, self.generation);
        self.clear();
        Box::new(Undelivered { key, kind, generation, untried, full, frames })
    }
}

/// Frames of a batch for the receivers that have not got them yet.
pub(super) struct Undelivered<'a> {
    pub(super) key: &'a str,
    pub(super) kind: FrameKind,
    pub(super) generation: u64,
    /// Receivers that may have room for all frames together.
    pub(super) untried: Vec<Arc<Session>>,
    /// Receivers that have no room for all of them.
    pub(super) full: Vec<Arc<Session>>,
    pub(super) frames: EncodedFrames,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::outbox::Outbox;
    use crate::broker::session::{ClientKind, Identity};
    use crate::proto::op::{OP_BROADCAST, OP_MESSAGE, OP_PUBLISH, QoS};

    fn audience(count: u32) -> Audience {
        let session = |id| {
            let identity =
                Identity { name: "you".into(), kind: ClientKind::Internal, peer: None, port: None };
            Arc::new(Session::new(id, 0, identity, Outbox::of_broker(), 0, 0))
        };
        (0..count).map(session).collect()
    }

    /// Builds a batch from a complete first frame and from requests like it.
    fn batch_of<'a>(
        flags: u8,
        key: &'a str,
        topic: Option<&'a str>,
        audience: &Audience,
        options: &'a Options,
    ) -> FrameBatch<'a> {
        let kind = if topic.is_some() { FrameKind::Publication } else { FrameKind::Message };
        let realtime = QoS::from_flags(flags).is_realtime();
        let mut batch = FrameBatch::new("me", options);
        let frame = Delivery { kind, realtime, sender: "me", topic, payload: b"first" };
        batch.add(&frame, route(key, 7, audience, Some(flags)));
        batch
    }

    fn route<'r, 'a>(key: &'a str, generation: u64, to: &'r Audience, flags: Option<u8>) -> Route<'r, 'a> {
        Route { key, generation, receivers: Receivers::Many(to), flags }
    }

    fn payloads(batch: &mut FrameBatch<'_>) -> Vec<Vec<u8>> {
        batch.content().unwrap().1.frames().map(|(frame, _)| frame.payload.to_vec()).collect()
    }

    #[test]
    fn a_frame_like_the_one_before_needs_no_look_up() {
        let (audience, options) = (audience(2), Options::default());
        let mut batch = batch_of(OP_MESSAGE, "you", None, &audience, &options);
        assert!(batch.add_alike(OP_MESSAGE, b"you\0second", 7));
        assert!(batch.add_alike(OP_MESSAGE, b"you\0", 7));
        // Requests that differ: other flags, another name, a longer or shorter name, no name, another generation.
        assert!(!batch.add_alike(OP_PUBLISH, b"you\0x", 7));
        assert!(!batch.add_alike(QoS::Realtime.flags(OP_MESSAGE), b"you\0x", 7));
        for body in [&b"yoo\0x"[..], b"your\0x", b"yo\0x", b"you", b""] {
            assert!(!batch.add_alike(OP_MESSAGE, body, 7), "{body:?}");
        }
        assert!(!batch.add_alike(OP_MESSAGE, b"you\0x", 8));
        let large = [&b"you\0"[..], &[0; LARGE_PAYLOAD]].concat();
        assert!(!batch.add_alike(OP_MESSAGE, &large, 7));
        assert!(batch.add_alike(OP_MESSAGE, &large[..large.len() - 1], 7));
        let wanted = [&b"first"[..], b"second", b"", &[0; LARGE_PAYLOAD - 1]];
        assert_eq!(payloads(&mut batch), wanted);
        let (_, frames) = batch.content().unwrap();
        for (frame, encoded) in frames.frames() {
            let whole =
                Delivery { kind: FrameKind::Message, realtime: false, sender: "me", topic: None, ..frame };
            assert_eq!(frame, whole);
            let mut anew = vec![];
            whole.encode(&mut anew);
            assert_eq!(encoded, anew);
        }
        batch.clear();
        assert!(!batch.add_alike(OP_MESSAGE, b"you\0x", 7));
    }

    #[test]
    fn a_topic_stays_in_the_frame() {
        let (audience, options) = (audience(2), Options::default());
        let mut batch = batch_of(OP_PUBLISH, "a/b", Some("a/b"), &audience, &options);
        assert!(batch.add_alike(OP_PUBLISH, b"a/b\0\0second", 7));
        let (_, frames) = batch.content().unwrap();
        let topics: Vec<_> = frames.frames().map(|(f, _)| (f.sender, f.topic, f.payload)).collect();
        assert_eq!(topics, [("me", Some("a/b"), &b"first"[..]), ("me", Some("a/b"), b"\0second")]);
    }

    #[test]
    fn the_first_frame_tells_kind_and_realtime() {
        let (audience, options) = (audience(1), Options::default());
        for qos in [QoS::No, QoS::Realtime] {
            let flags = qos.flags(OP_MESSAGE);
            let mut batch = batch_of(flags, "you", None, &audience, &options);
            let other = Delivery {
                kind: FrameKind::Message,
                realtime: !qos.is_realtime(),
                sender: "me",
                topic: None,
                payload: b"2",
            };
            batch.add(&other, route("you", 8, &audience, Some(OP_BROADCAST)));
            assert!(!batch.add_alike(flags, b"you\x003", 7));
            assert!(batch.add_alike(flags, b"you\x003", 8));
            let (_, frames) = batch.content().unwrap();
            let realtime: Vec<bool> = frames.frames().map(|(frame, _)| frame.realtime).collect();
            assert_eq!(realtime, [qos.is_realtime(), !qos.is_realtime(), qos.is_realtime()]);
        }
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut options = Options::default();
        let large = [&b"you\0"[..], &[0; 4000]].concat();
        let more = |count, options: &Options, body: &[u8]| {
            let audience = audience(count);
            let mut batch = batch_of(OP_MESSAGE, "you", None, &audience, options);
            (0..9999).take_while(|_| batch.add_alike(OP_MESSAGE, body, 7)).count()
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
    fn frames_without_receivers_take_no_room() {
        let (audience, options) = (audience(0), Options::default());
        let mut batch = batch_of(OP_PUBLISH, "t", Some("t"), &audience, &options);
        for _ in 0..10_000 {
            assert!(batch.add_alike(OP_PUBLISH, b"t\0payload", 7));
        }
        assert!(batch.frames.bytes.is_empty() && batch.frames.lens.is_empty());
    }

    #[test]
    fn undelivered_frames_are_those_that_were_added() {
        let (audience, options) = (audience(1), Options::default());
        let mut batch = batch_of(OP_MESSAGE, "you", None, &audience, &options);
        assert!(batch.add_alike(OP_MESSAGE, b"you\0second", 7));
        let rest = batch.leave(vec![], audience.to_vec());
        assert!(batch.content().is_none());
        let left: Vec<&[u8]> = rest.frames.frames().map(|(frame, _)| frame.payload).collect();
        assert_eq!(left, [&b"first"[..], b"second"]);
    }

    #[test]
    fn frames_whose_receivers_may_differ_are_never_alike() {
        let (audience, options) = (audience(2), Options::default());
        let mut batch = FrameBatch::new("me", &options);
        let frame = Delivery {
            kind: FrameKind::Publication,
            realtime: false,
            sender: "me",
            topic: Some("t"),
            payload: b"",
        };
        batch.add(&frame, route("t", 7, &audience, None));
        assert!(!batch.add_alike(OP_PUBLISH, b"t\0", 7));
    }
}
