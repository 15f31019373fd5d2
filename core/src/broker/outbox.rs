//! The way to one receiver: its queue, the budget of that queue, and what happens to a receiver that
//! does not keep up.
//!
//! Over the budget the *sender* is held back until there is room again. Only a receiver that takes
//! nothing at all for the stall time counts as stuck: from then on, until it takes something, its
//! policy applies to every frame at once, so that it holds nobody back a second time.

use super::options::{Options, SlowPolicy};
use super::run::Bundle;
use super::session::Session;
use crate::client::inbox::Inbox;
use crate::frame::Frame;
use crate::proto::delivery::{Delivery, HEADER_LEN};
use crate::transport::queue::LARGE_PAYLOAD;
use crate::transport::{Backlog, WriteQueue, Writer};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Where frames for a client go.
#[derive(Debug)]
pub(super) enum Outlet {
    /// Encoded, to a socket.
    Socket(Arc<Writer>),
    /// As they are, to a client in this process.
    Local(LocalOutlet),
    /// To the broker's own client: `admin.rs` answers messages, nothing is queued.
    Broker,
}

#[derive(Debug)]
pub(super) struct LocalOutlet {
    pub(super) inbox: Arc<Inbox>,
    /// How much the program had taken when it was found stuck.
    stuck_at: AtomicU64,
}

impl Outlet {
    pub(super) fn local(inbox: Arc<Inbox>) -> Outlet {
        Outlet::Local(LocalOutlet { inbox, stuck_at: AtomicU64::new(u64::MAX) })
    }
}

impl Scratch {
    /// Lets go of what an idle client should not hold.
    pub(super) fn release(&mut self) {
        self.frame.take();
        if self.encoded.capacity() > 1024 {
            self.encoded = Vec::new();
        }
    }
}

/// A frame on its way to any number of receivers, encoded once for all of them.
pub(super) struct Parcel<'a> {
    delivery: Delivery<'a>,
    /// The payload as shared bytes, if it is large enough to be worth it.
    shared: Option<Bytes>,
    /// The whole frame encoded, or its head if the payload is shared.
    encoded: Option<&'a [u8]>,
    /// The frame as clients in this process get it, made when the first of several needs it.
    frame: Option<&'a OnceLock<Frame>>,
}

/// What the parcel of several receivers is made of, reused from frame to frame.
#[derive(Default)]
pub(super) struct Scratch {
    encoded: Vec<u8>,
    frame: OnceLock<Frame>,
}

impl<'a> Parcel<'a> {
    /// A frame for one receiver: encoded right into its queue. `owner` is what the payload is part
    /// of, if that is shared memory.
    pub(super) fn new(delivery: Delivery<'a>, owner: Option<&Bytes>) -> Parcel<'a> {
        let shared =
            owner.filter(|_| delivery.payload.len() >= LARGE_PAYLOAD).map(|o| o.slice_ref(delivery.payload));
        Parcel { delivery, shared, encoded: None, frame: None }
    }

    /// A frame for several receivers: encoded into `scratch` first.
    pub(super) fn for_many(
        delivery: Delivery<'a>,
        owner: Option<&Bytes>,
        scratch: &'a mut Scratch,
    ) -> Parcel<'a> {
        let mut parcel = Parcel::new(delivery, owner);
        if parcel.shared.is_none() && delivery.payload.len() >= LARGE_PAYLOAD {
            parcel.shared = Some(Bytes::copy_from_slice(delivery.payload));
        }
        scratch.encoded.clear();
        scratch.frame.take();
        delivery.encode_head(&mut scratch.encoded);
        if parcel.shared.is_none() {
            scratch.encoded.extend_from_slice(delivery.payload);
        }
        parcel.encoded = Some(&scratch.encoded);
        parcel.frame = Some(&scratch.frame);
        parcel
    }

    /// A small frame for several receivers that is encoded already.
    pub(super) fn encoded(delivery: Delivery<'a>, encoded: &'a [u8], scratch: &'a mut Scratch) -> Parcel<'a> {
        scratch.frame.take();
        Parcel { delivery, shared: None, encoded: Some(encoded), frame: Some(&scratch.frame) }
    }

    fn append_to(&self, queue: &mut WriteQueue) {
        match (self.encoded, &self.shared) {
            (Some(whole), None) => queue.push(|out| out.extend_from_slice(whole)),
            (Some(head), Some(payload)) => {
                queue.push_with(|out| out.extend_from_slice(head), payload.clone())
            }
            (None, Some(payload)) => queue.push_with(|out| self.delivery.encode_head(out), payload.clone()),
            (None, None) => queue.push(|out| self.delivery.encode(out)),
        }
    }

    fn frame(&self) -> Frame {
        let make = || match &self.shared {
            Some(payload) => Frame::detached(&self.delivery, payload.clone()),
            None => Frame::copied(&self.delivery),
        };
        self.frame.map_or_else(make, |frame| frame.get_or_init(make).clone())
    }

    pub(super) fn wire_len(&self) -> usize {
        self.delivery.wire_len()
    }

    fn body_len(&self) -> u64 {
        self.delivery.body_len() as u64
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    /// It is in the queue, and somebody else will flush.
    Queued,
    /// It is in the queue, and the caller must flush.
    QueuedFirst,
    /// The queue is over its budget.
    Full,
    /// The client is gone.
    Gone,
}

/// What is to be done about a receiver that is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It made it, or the client is gone.
    Pushed(Push),
    /// The frame is refused and counted.
    Refused,
    /// The receiver must be disconnected.
    Disconnect,
    /// Wait on.
    Wait,
}

impl Session {
    /// Queues a frame for this client, budget permitting.
    pub(super) fn push(&self, parcel: &Parcel<'_>, options: &Options) -> Push {
        match &self.outlet {
            Outlet::Socket(writer) => writer
                .with(|backlog| {
                    let load = backlog.load();
                    let over = load.frames >= options.queue_size
                        || load.bytes.saturating_add(parcel.wire_len()) > options.queue_bytes;
                    if over && load.frames > 0 {
                        return Push::Full;
                    }
                    self.append(backlog, parcel)
                })
                .unwrap_or(Push::Gone),
            Outlet::Local(local) => match local.inbox.push(parcel.frame()) {
                Ok(()) => Push::Queued,
                Err(_) if self.has_ended() => Push::Gone,
                Err(_) => Push::Full,
            },
            Outlet::Broker => Push::Queued,
        }
    }

    /// Queues several frames, if this client is on a socket and has room for all of them; else [`Push::Full`], and
    /// they must come one by one. `only` says that nobody else gets them: their memory may be taken.
    pub(super) fn push_together(&self, frames: &mut Bundle, options: &Options, only: bool) -> Push {
        let Outlet::Socket(writer) = &self.outlet else { return Push::Full };
        let (count, bytes) = (frames.lens.len(), frames.bytes.len());
        writer
            .with(|backlog| {
                let load = backlog.load();
                if load.frames.saturating_add(count) > options.queue_size
                    || load.bytes.saturating_add(bytes) > options.queue_bytes
                {
                    return Push::Full;
                }
                match only {
                    true => backlog.queue().push_all_taking(&mut frames.bytes, &frames.lens),
                    false => backlog.queue().push_all(&frames.bytes, &frames.lens),
                }
                self.count_written(count as u64, (bytes - count * HEADER_LEN) as u64);
                if backlog.promise_flush() { Push::QueuedFirst } else { Push::Queued }
            })
            .unwrap_or(Push::Gone)
    }

    /// Queues bytes that are no delivery and never dropped: acknowledgements and pings. They have no
    /// budget of their own: whoever sends operations is held back by `wait_for_room` first. Returns
    /// whether the caller must flush.
    pub(super) fn push_raw(&self, bytes: &[u8], frames: u64) -> bool {
        let Outlet::Socket(writer) = &self.outlet else { return false };
        writer
            .with(|backlog| {
                backlog.queue().push_kept(|out| out.extend_from_slice(bytes));
                if frames > 0 {
                    self.count_written(frames, bytes.len() as u64);
                }
                backlog.promise_flush()
            })
            .unwrap_or(false)
    }

    /// Under the lock of a socket's queue; for an in-process client, two senders at once may lose a
    /// count, which is all that can happen.
    /// Frames queued for this client so far, and the bytes of their bodies.
    pub(super) fn written(&self) -> (u64, u64) {
        match &self.outlet {
            Outlet::Local(local) => local.inbox.received(),
            _ => (self.traffic.w_frames.get(), self.traffic.w_bytes.get()),
        }
    }

    fn count_written(&self, frames: u64, bytes: u64) {
        self.traffic.w_frames.add(frames);
        self.traffic.w_bytes.add(bytes);
    }

    pub(super) fn flush(&self) {
        if let Outlet::Socket(writer) = &self.outlet {
            writer.flush();
        }
    }

    /// As [`flush`](Session::flush), by a task: many small frames become one write.
    pub(super) fn flush_soon(&self) {
        if let Outlet::Socket(writer) = &self.outlet {
            writer.flush_by_task();
        }
    }

    /// Whether more waits for it than its budget allows.
    pub(super) fn is_over_budget(&self, options: &Options) -> bool {
        match &self.outlet {
            Outlet::Socket(writer) => {
                let load = writer.load();
                load.frames > options.queue_size || load.bytes > options.queue_bytes
            }
            _ => false,
        }
    }

    /// Waits until the queue has room for a frame of `len` bytes, for as long as the receiver takes
    /// something at least once in a stall time counted from `since` on. `false`: it does not.
    /// `taken` is what [`taken`](Session::taken) said then.
    pub(super) async fn wait_for_room(
        &self,
        len: usize,
        options: &Options,
        since: Instant,
        taken: u64,
    ) -> bool {
        // Senders go on when a quarter of the budget is free, not at every frame.
        let frames = (options.queue_size / 4 * 3).max(1);
        let bytes = (options.queue_bytes / 4 * 3)
            .min(options.queue_bytes.saturating_add(1).saturating_sub(len))
            .max(1);
        match &self.outlet {
            Outlet::Socket(writer) => loop {
                let last = writer.last_progress().map_or(since, |progress| progress.max(since));
                let left = (last + options.stall).saturating_duration_since(Instant::now());
                let room = writer.wait_below(frames, bytes);
                if left == Duration::ZERO {
                    return false;
                }
                if tokio::time::timeout(left, room).await.is_ok() {
                    return true;
                }
            },
            Outlet::Local(local) => {
                let (mut taken, mut last) = (taken, since);
                loop {
                    let left = (last + options.stall).saturating_duration_since(Instant::now());
                    if tokio::time::timeout(left, local.inbox.wait_room()).await.is_ok() {
                        return true;
                    }
                    let now = local.inbox.progress();
                    if now == taken {
                        return false;
                    }
                    (taken, last) = (now, Instant::now());
                }
            }
            Outlet::Broker => true,
        }
    }

    /// How much the program has taken, for clients in this process.
    pub(super) fn taken(&self) -> u64 {
        match &self.outlet {
            Outlet::Local(local) => local.inbox.progress(),
            _ => 0,
        }
    }

    /// Whether it was found stuck and has taken nothing since.
    pub(super) fn is_stuck(&self) -> bool {
        match &self.outlet {
            Outlet::Socket(writer) => writer.with(|backlog| backlog.is_stuck()).unwrap_or(false),
            Outlet::Local(local) => local.stuck_at.load(Relaxed) == local.inbox.progress(),
            Outlet::Broker => false,
        }
    }

    fn mark_stuck(&self) {
        match &self.outlet {
            Outlet::Socket(writer) => {
                writer.with(|backlog| backlog.mark_stuck());
            }
            Outlet::Local(local) => local.stuck_at.store(local.inbox.progress(), Relaxed),
            Outlet::Broker => {}
        }
    }

    /// Applies the policy to a frame for this client, which is stuck.
    pub(super) fn judge(&self, parcel: &Parcel<'_>, options: &Options) -> Verdict {
        self.mark_stuck();
        match options.slow {
            SlowPolicy::Disconnect => Verdict::Disconnect,
            SlowPolicy::Block => Verdict::Wait,
            SlowPolicy::DropNew => {
                self.refuse();
                Verdict::Refused
            }
            SlowPolicy::DropOld => match self.push_over_oldest(parcel, options) {
                Push::Full => {
                    self.refuse();
                    Verdict::Refused
                }
                pushed => Verdict::Pushed(pushed),
            },
        }
    }

    /// Counts a frame that this client does not get.
    pub(super) fn refuse(&self) {
        self.traffic.dropped.fetch_add(1, Relaxed);
    }

    fn append(&self, backlog: &mut Backlog<'_>, parcel: &Parcel<'_>) -> Push {
        parcel.append_to(backlog.queue());
        self.count_written(1, parcel.body_len());
        if backlog.promise_flush() { Push::QueuedFirst } else { Push::Queued }
    }

    /// Drops the oldest frames until `parcel` fits. While all of them are out of reach, since the socket is just
    /// tried with them, it takes the place of one that will be dropped when they are back.
    fn push_over_oldest(&self, parcel: &Parcel<'_>, options: &Options) -> Push {
        loop {
            match self.push(parcel, options) {
                Push::Full => {}
                pushed => return pushed,
            }
            let dropped = match &self.outlet {
                Outlet::Socket(writer) => {
                    let room = writer.with(|backlog| match backlog.drop_oldest() {
                        Some(_) => Ok(true),
                        None if backlog.is_being_written() => Err(self.append(backlog, parcel)),
                        None => Ok(false),
                    });
                    match room {
                        Some(Ok(dropped)) => dropped,
                        Some(Err(pushed)) => return pushed,
                        None => return Push::Gone,
                    }
                }
                Outlet::Local(local) => local.inbox.drop_oldest(),
                Outlet::Broker => false,
            };
            if !dropped {
                return Push::Full;
            }
            self.refuse();
        }
    }

    /// Frames that wait.
    pub(super) fn queued(&self) -> usize {
        match &self.outlet {
            Outlet::Socket(writer) => writer.load().frames,
            Outlet::Local(local) => local.inbox.load().0,
            Outlet::Broker => 0,
        }
    }
}
