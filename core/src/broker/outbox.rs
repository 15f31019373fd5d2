//! The queue of one receiver, with its budget and its counters.
//!
//! When the queue is over its budget, the sender waits until a little is free (`held_sender`), or the frame is dropped:
//! `slow_receiver` decides.

use super::counter::Counter;
use super::encoded_frames::EncodedFrames;
use super::options::Options;
use super::outbound_frame::OutboundFrame;
use super::slow_receiver::{Bounds, Change, ReceiverState, Sight, SlowReceiver, Verdict, Wanted};
use crate::client::client_state::ClientState;
use crate::proto::delivery::HEADER_LEN;
use crate::transport::{Backlog, Load, Progress, QueueTotals, WriteQueue, Writer};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The batch number for frames that are flushed immediately after they are queued.
pub(super) const NO_BATCH: u32 = u32::MAX - 1;

/// The destination of the frames for a client.
#[derive(Debug)]
pub(super) enum Sink {
    /// Encoded, to a socket.
    Socket(Arc<Writer>),
    /// Unencoded, to a client in this process.
    InProcess(Arc<ClientState>),
    /// To the broker's own client: `admin.rs` answers its messages, and nothing is queued.
    Broker,
}

/// The bounds that all outboxes of a broker share.
#[derive(Debug, Clone)]
pub(super) struct QueueLimits {
    pub(super) totals: Arc<QueueTotals>,
    /// [`Options::queue_total`].
    pub(super) total: usize,
}

/// The queue of one receiver, with its counters.
///
/// The fields are in the order in which they are needed: a frame for one of many receivers finds the first ones in one
/// or two cache lines.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Outbox {
    sink: Sink,
    bounds: Bounds,
    limits: QueueLimits,
    /// Frames queued for a client on a socket, and the bytes of their bodies; counted under the lock of its queue.
    w_frames: Counter,
    w_bytes: Counter,
    /// True if acknowledged messages are refused, even if there is room, until the queue is below half the budget.
    refuses: AtomicBool,
    slow: Mutex<SlowReceiver>,
    /// The number of times that the supervisor has looked at it.
    looks: AtomicU64,
    /// The progress reports that it has sent.
    reports: AtomicU64,
    /// Senders that wait for room.
    held_senders: AtomicUsize,
    /// Frames dropped because the receiver did not keep up; counted by any of its senders.
    dropped: AtomicU64,
    dropped_bytes: AtomicU64,
}

/// The result of queueing a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    /// It is in the queue. The caller has already promised to flush.
    Queued,
    /// It is in the queue, and the caller must remember to flush.
    QueuedFirst,
    /// The queue is over its budget.
    Full,
    /// The client has left.
    Gone,
}

impl Outbox {
    pub(super) fn new(sink: Sink, options: &Options, limits: QueueLimits) -> Outbox {
        let budget = match &sink {
            Sink::InProcess(client) => client.inbox.budget(),
            _ => Load { frames: options.queue_size, bytes: options.queue_bytes },
        };
        Outbox {
            sink,
            bounds: Bounds::new(options, budget),
            limits,
            slow: Mutex::default(),
            refuses: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            held_senders: AtomicUsize::new(0),
            w_frames: Counter::default(),
            w_bytes: Counter::default(),
            dropped: AtomicU64::new(0),
            dropped_bytes: AtomicU64::new(0),
        }
    }

    /// The outbox of the broker's own client.
    pub(super) fn of_broker() -> Outbox {
        let limits = QueueLimits { totals: Arc::default(), total: usize::MAX };
        Outbox::new(Sink::Broker, &Options::default(), limits)
    }

    pub(super) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Starts to load what a push will touch.
    #[inline]
    pub(super) fn prefetch(&self) {
        if let Sink::Socket(writer) = &self.sink {
            writer.prefetch();
        }
    }

    /// The current budget: fewer bytes than configured while the queues of all clients together are over their bound.
    #[inline]
    pub(super) fn budget(&self) -> Load {
        let share = self.limits.totals.share(self.limits.total).unwrap_or(usize::MAX);
        Load { bytes: self.bounds.budget.bytes.min(share), ..self.bounds.budget }
    }

    /// The bounds of this moment: `budget` for a client on a socket.
    fn current_bounds(&self) -> Bounds {
        match self.sink {
            Sink::Socket(_) => Bounds { budget: self.budget(), ..self.bounds },
            _ => self.bounds,
        }
    }

    /// Returns true if so much more would be over the budget. An empty queue takes a frame of any size.
    #[inline]
    fn is_over(&self, load: Load, frames: usize, bytes: usize) -> bool {
        let budget = self.budget();
        load.frames.saturating_add(frames) > budget.frames || load.bytes.saturating_add(bytes) > budget.bytes
    }

    /// Queues a frame if the budget allows it; an empty queue takes a frame of any size. `owner` is the batch that
    /// will flush.
    pub(super) fn push(&self, frame: &OutboundFrame<'_>, owner: u32) -> Push {
        match &self.sink {
            Sink::Socket(writer) => writer
                .with(|backlog| {
                    let load = backlog.load();
                    if load.frames > 0 && self.is_over(load, 1, frame.wire_len()) {
                        return Push::Full;
                    }
                    self.append(backlog, frame, owner)
                })
                .unwrap_or(Push::Gone),
            Sink::InProcess(client) => match client.push(frame.frame()) {
                Ok(()) => Push::Queued,
                Err(_) if client.inbox.has_ended() => Push::Gone,
                Err(_) => Push::Full,
            },
            Sink::Broker => Push::Queued,
        }
    }

    fn append(&self, backlog: &mut Backlog<'_>, frame: &OutboundFrame<'_>, owner: u32) -> Push {
        frame.append_to(backlog.queue());
        self.count_written(1, frame.body_len());
        if backlog.promise_flush(owner) { Push::QueuedFirst } else { Push::Queued }
    }

    /// Queues several frames if the client is on a socket and has room for all of them. Else returns [`Push::Full`]:
    /// the frames must be queued one by one. `only` says that no other client gets them, so that their memory may be
    /// taken over.
    pub(super) fn push_together(&self, frames: &mut EncodedFrames, owner: u32, only: bool) -> Push {
        let Sink::Socket(writer) = &self.sink else { return Push::Full };
        let (count, bytes) = (frames.lens.len(), frames.bytes.len());
        writer
            .with(|backlog| {
                if self.is_over(backlog.load(), count, bytes) {
                    return Push::Full;
                }
                match only {
                    true => backlog.queue().push_all_taking(&mut frames.bytes, &frames.lens),
                    false => backlog.queue().push_all(&frames.bytes, &frames.lens),
                }
                self.count_written(count as u64, (bytes - count * HEADER_LEN) as u64);
                if backlog.promise_flush(owner) { Push::QueuedFirst } else { Push::Queued }
            })
            .unwrap_or(Push::Gone)
    }

    /// Queues as many of the frames as there is room for, and drops and counts the rest. For a receiver that no longer
    /// holds its senders back. Returns whether the caller must remember to flush.
    pub(super) fn push_or_drop(&self, frames: &EncodedFrames, owner: u32) -> bool {
        self.push_or_drop_with(frames, owner, |queue, bytes, lens| {
            queue.push_all(&frames.bytes[..bytes], lens)
        })
    }

    /// Does the same as [`push_or_drop`](Outbox::push_or_drop) for frames with many receivers. `bytes` are the encoded
    /// frames. They are shared with the other receivers, and copied only if they are short.
    pub(super) fn push_shared_or_drop(&self, bytes: &Bytes, frames: &EncodedFrames, owner: u32) -> bool {
        self.push_or_drop_with(frames, owner, |queue, len, lens| {
            queue.push_all_shared(bytes.slice(..len), lens)
        })
    }

    fn push_or_drop_with(
        &self,
        frames: &EncodedFrames,
        owner: u32,
        push: impl FnOnce(&mut WriteQueue, usize, &[u64]),
    ) -> bool {
        let Sink::Socket(writer) = &self.sink else { return false };
        let pushed = writer.with(|backlog| {
            let (load, budget) = (backlog.load(), self.budget());
            let (frames_left, bytes_left) =
                (budget.frames.saturating_sub(load.frames), budget.bytes.saturating_sub(load.bytes));
            let (count, bytes) = match frames.prefix(frames_left, bytes_left) {
                // An empty queue takes a frame of any size.
                (0, _) if load.frames == 0 => frames.prefix(1, usize::MAX),
                fits => fits,
            };
            if count > 0 {
                push(backlog.queue(), bytes, &frames.lens[..count]);
                self.count_written(count as u64, (bytes - count * HEADER_LEN) as u64);
            }
            (count, bytes, count > 0 && backlog.promise_flush(owner))
        });
        let Some((count, bytes, first)) = pushed else { return false };
        let (count, bytes) = (frames.lens.len() - count, frames.len() - bytes);
        self.count_dropped(count as u64, bytes as u64);
        first
    }

    /// Queues acknowledgements or pings, which are never dropped and are queued whatever the budget: the broker stops
    /// reading from a client that does not read its acknowledgements. Returns whether the caller must flush.
    pub(super) fn push_raw(&self, bytes: &[u8], frames: u64, owner: u32) -> bool {
        let Sink::Socket(writer) = &self.sink else { return false };
        writer
            .with(|backlog| {
                backlog.queue().push_kept(|out| out.extend_from_slice(bytes));
                if frames > 0 {
                    self.count_written(frames, bytes.len() as u64);
                }
                backlog.promise_flush(owner)
            })
            .unwrap_or(false)
    }

    fn count_written(&self, frames: u64, bytes: u64) {
        self.w_frames.add(frames);
        self.w_bytes.add(bytes);
    }

    /// Frames queued for this client so far, and the bytes of their bodies.
    pub(super) fn written(&self) -> (u64, u64) {
        match &self.sink {
            Sink::InProcess(client) => client.inbox.received(),
            _ => (self.w_frames.get(), self.w_bytes.get()),
        }
    }

    pub(super) fn count_dropped(&self, frames: u64, bytes: u64) {
        self.dropped.fetch_add(frames, Relaxed);
        self.dropped_bytes.fetch_add(bytes, Relaxed);
    }

    /// Frames dropped because the receiver did not keep up, and their bytes.
    pub(super) fn dropped(&self) -> (u64, u64) {
        (self.dropped.load(Relaxed), self.dropped_bytes.load(Relaxed))
    }

    /// Writes what waits to the socket. Returns the number of bytes.
    pub(super) fn flush(&self) -> usize {
        match &self.sink {
            Sink::Socket(writer) => writer.flush(),
            _ => 0,
        }
    }

    /// Lets a task flush: many small frames become one write.
    pub(super) fn flush_soon(&self) {
        if let Sink::Socket(writer) = &self.sink {
            writer.flush_by_task();
        }
    }

    /// The frames and bytes that wait for the client.
    pub(super) fn load(&self) -> Load {
        match &self.sink {
            Sink::Socket(writer) => writer.load(),
            Sink::InProcess(client) => {
                let (frames, bytes) = client.inbox.load();
                Load { frames, bytes }
            }
            Sink::Broker => Load::default(),
        }
    }

    fn progress(&self) -> Progress {
        match &self.sink {
            Sink::Socket(writer) => writer.progress(),
            Sink::InProcess(client) => {
                let (frames, bytes) = client.inbox.taken();
                // A program can take what waits at any time: each look counts as an attempt that took nothing.
                Progress { frames, bytes, refusals: self.looks.load(Relaxed) }
            }
            Sink::Broker => Progress::default(),
        }
    }

    /// Notes a progress report of the client: its program takes frames, though its socket may take none.
    pub(super) fn note_report(&self) {
        self.reports.fetch_add(1, Relaxed);
    }

    /// Returns whether the client is within this process.
    pub(super) fn is_in_process(&self) -> bool {
        matches!(self.sink, Sink::InProcess(_))
    }

    /// Returns whether more waits than the budget allows. Only acknowledgements and pings can cause this: they are
    /// queued whatever the budget.
    pub(super) fn is_over_budget(&self) -> bool {
        matches!(self.sink, Sink::Socket(_)) && self.is_over(self.load(), 0, 0)
    }

    pub(super) fn state(&self) -> ReceiverState {
        self.slow.lock().state()
    }

    pub(super) fn held_senders(&self) -> usize {
        self.held_senders.load(Relaxed)
    }

    /// Counts one more sender that waits for room.
    pub(super) fn add_held_sender(&self) {
        self.held_senders.fetch_add(1, Relaxed);
    }

    /// Counts one sender less that waits for room.
    pub(super) fn remove_held_sender(&self) {
        self.held_senders.fetch_sub(1, Relaxed);
    }

    /// Notes that a frame found the queue full. Returns true when the supervisor must begin to watch the receiver.
    ///
    /// A sender that waits calls it once more after it is counted: before that, the supervisor may have ended the watch
    /// of a receiver for which no sender waited.
    pub(super) fn note_full(&self) -> bool {
        let (progress, reports) = (self.progress(), self.reports.load(Relaxed));
        self.slow.lock().note_full(progress, reports, &self.bounds)
    }

    /// Decides about a frame that finds the queue full.
    pub(super) fn verdict(&self, wanted: Wanted) -> Verdict {
        let (progress, reports, load) = (self.progress(), self.reports.load(Relaxed), self.load());
        let mut slow = self.slow.lock();
        let verdict = slow.verdict(wanted, progress, reports, load, &self.current_bounds());
        self.refuses.store(slow.refuses(), Relaxed);
        verdict
    }

    /// Returns whether acknowledged messages are refused, even if there is room: one has waited for the stall time,
    /// and the queue has not been below half the budget since.
    #[inline]
    pub(super) fn refuses_acknowledged(&self) -> bool {
        self.refuses.load(Relaxed) && self.verdict(Wanted::AcknowledgedMessage { waited: 0 }) == Verdict::Drop
    }

    /// Updates the receiver's state; the supervisor calls it at short intervals. `step` is the time since the last
    /// call, in milliseconds. `held_back` says whether the client is held back for another receiver at present.
    pub(super) fn look(&self, step: u64, held_back: bool) -> Change {
        self.looks.fetch_add(1, Relaxed);
        let (progress, reports, load) = (self.progress(), self.reports.load(Relaxed), self.load());
        let mut slow = self.slow.lock();
        // Read under the lock: a sender that is not counted yet notes once more that the receiver is full.
        let sight = Sight { step, progress, reports, load, waiting: self.held_senders(), held_back };
        let change = slow.look(sight, &self.current_bounds());
        self.refuses.store(slow.refuses(), Relaxed);
        change
    }

    /// Wakes all senders that wait for room.
    pub(super) fn wake_senders(&self) {
        match &self.sink {
            Sink::Socket(writer) => writer.wake_waiters(),
            Sink::InProcess(client) => client.inbox.wake_room(),
            Sink::Broker => {}
        }
    }

    /// Drops the oldest publications and broadcasts until `frame` fits, and queues it. Returns false when none is left
    /// to drop. While frames are being written they cannot be dropped: if only such frames are left, `frame` is queued
    /// over the budget.
    pub(super) fn push_over_oldest(&self, frame: &OutboundFrame<'_>) -> bool {
        loop {
            match self.push(frame, NO_BATCH) {
                Push::Full => {}
                pushed => {
                    self.flush();
                    return pushed != Push::Gone;
                }
            }
            let (dropped, pushed) = match &self.sink {
                Sink::Socket(writer) => {
                    let room = writer.with(|backlog| {
                        let before = backlog.load().bytes;
                        match backlog.drop_oldest() {
                            Some(shared) => (Some((shared, before - backlog.load().bytes)), false),
                            None if backlog.is_being_written() => {
                                self.append(backlog, frame, NO_BATCH);
                                (None, true)
                            }
                            None => (None, false),
                        }
                    });
                    match room {
                        // The shared bytes are dropped here, without the lock.
                        Some((dropped, pushed)) => (dropped.map(|(_, bytes)| bytes), pushed),
                        None => (None, false),
                    }
                }
                Sink::InProcess(client) => (
                    client.drop_oldest_where(|frame| frame.kind() != crate::FrameKind::Message).then_some(0),
                    false,
                ),
                Sink::Broker => (None, false),
            };
            match dropped {
                Some(bytes) => self.count_dropped(1, bytes as u64),
                None => return pushed,
            }
        }
    }
}
