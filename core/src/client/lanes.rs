//! The lanes of an inbox as their takers see them.

use super::inbox::{Inbox, LANE_FRAMES, Mode};
use super::tempo::Tempo;
use super::wake::WakeUp;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The frames a client receives, in the order received: the one place to take them from.
///
/// It may be sent to another thread, and is used by one at a time. It needs no runtime, except for
/// [`recv`](Frames::recv) in the sense that tokio must not be shut down under the client.
///
/// It does not keep the connection open: when the last [`Client`](super::Client) is dropped it yields
/// what has been received, then ends. Frames that come after it was dropped are discarded. In a child made by
/// fork it yields nothing.
pub struct Frames {
    inbox: Arc<Inbox>,
    epoch: u64,
    /// Taken from the inbox, not handed to the program yet.
    batch: VecDeque<Frame>,
    tempo: Tempo,
    wake_up: Option<WakeUp>,
}

impl Frames {
    pub(crate) fn attach(inbox: &Arc<Inbox>) -> Result<Frames> {
        let Some(epoch) = inbox.attach(Mode::Plain, false) else {
            return Err(Error::new(ErrorKind::Busy, "the frames of this client are taken already"));
        };
        Ok(Frames {
            inbox: inbox.clone(),
            epoch,
            batch: VecDeque::new(),
            tempo: Tempo::default(),
            wake_up: None,
        })
    }

    /// Waits for the next frame; `None` when the connection has ended and everything received has been taken. Cancel
    /// safe: a frame is never lost by dropping the future. A task that takes frames in a loop yields to other tasks
    /// about once a millisecond, however many frames wait.
    pub async fn recv(&mut self) -> Option<Frame> {
        if self.inbox.is_inherited() {
            return None;
        }
        self.tempo.yield_if_due().await;
        let mut has_waited = false;
        let frame = std::future::poll_fn(|cx| {
            let frame = self.poll_recv(cx);
            has_waited |= frame.is_pending();
            frame
        })
        .await;
        if has_waited {
            self.tempo.has_waited();
        }
        frame
    }

    /// The next frame if one waits.
    pub fn try_recv(&mut self) -> Option<Frame> {
        if self.inbox.is_inherited() {
            return None;
        }
        if self.batch.is_empty() {
            let _ = self.poll_refill(None);
        }
        self.next_of_batch()
    }

    /// As [`recv`](Frames::recv), for futures written by hand and for threads without a runtime. Does not yield.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if self.inbox.is_inherited() {
            return Poll::Ready(None);
        }
        if let Some(frame) = self.next_of_batch() {
            return Poll::Ready(Some(frame));
        }
        self.poll_refill(Some(cx.waker())).map(|_| self.next_of_batch())
    }

    /// Appends frames that wait to `frames`, at most `max_frames`, and no more after the one with which the bodies
    /// reach `max_bytes`. Both bounds count as at least 1. Never waits. Returns how many were appended, or `None` when
    /// the connection has ended and everything received has been taken.
    ///
    /// When fewer than the bounds allow were there, the [wake-up](Frames::set_wake_up) happens as soon as there are
    /// more. When a bound was reached, take again before waiting for it.
    ///
    /// To the broker, a frame is handled when it is taken. A program that works on a batch for longer than the broker's
    /// hold time (750 ms) takes smaller ones, or it is a receiver that takes nothing in that time.
    pub fn take_batch(
        &mut self,
        frames: &mut Vec<Frame>,
        max_frames: usize,
        max_bytes: usize,
    ) -> Option<usize> {
        let wake_up = self.wake_up.clone();
        match self.take_with(frames, max_frames, max_bytes, wake_up.as_ref()) {
            Poll::Ready(taken) => taken,
            Poll::Pending => Some(0),
        }
    }

    /// As [`take_batch`](Frames::take_batch), but waits for the first frame: pending until there is one.
    pub fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<Frame>,
        max_frames: usize,
        max_bytes: usize,
    ) -> Poll<Option<usize>> {
        self.take_with(frames, max_frames, max_bytes, Some(&cx.waker().clone().into()))
    }

    /// Sets what tells the program that [`take_batch`](Frames::take_batch) has something to take or that the
    /// connection has ended: a waker, or a [`WakeFd`](super::WakeFd) for an event loop. It happens once for each time
    /// that `take_batch` has found nothing more, and once now if frames wait.
    pub fn set_wake_up(&mut self, wake_up: impl Into<WakeUp>) {
        let wake_up = wake_up.into();
        if self.inbox.is_inherited() {
            return;
        }
        if !self.batch.is_empty() || self.poll_refill(Some(wake_up.waker())).is_ready() {
            wake_up.wake();
        }
        self.wake_up = Some(wake_up);
    }

    /// Pending when nothing was there: the wake-up is armed. It is armed too when fewer frames were taken than the
    /// bounds allow.
    fn take_with(
        &mut self,
        frames: &mut Vec<Frame>,
        max_frames: usize,
        max_bytes: usize,
        wake_up: Option<&WakeUp>,
    ) -> Poll<Option<usize>> {
        if self.inbox.is_inherited() {
            return Poll::Ready(None);
        }
        let (mut taken, mut bytes, mut was_reset) = (0, 0, false);
        loop {
            while let Some(frame) = self.next_of_batch() {
                bytes += frame.body_len();
                taken += 1;
                frames.push(frame);
                if taken >= max_frames || bytes >= max_bytes {
                    if was_reset && let Some(wake_up) = wake_up {
                        // There may be more, which no one else would tell.
                        wake_up.wake();
                    }
                    return Poll::Ready(Some(taken));
                }
            }
            match (self.poll_refill(wake_up.filter(|_| was_reset).map(WakeUp::waker)), wake_up) {
                (Poll::Ready(true), _) => {}
                (Poll::Ready(false), _) => {
                    if let Some(wake_up) = wake_up.filter(|_| was_reset) {
                        wake_up.wake();
                    }
                    return Poll::Ready(Some(taken).filter(|taken| *taken > 0));
                }
                (Poll::Pending, Some(wake_up)) if !was_reset => {
                    wake_up.reset();
                    was_reset = true;
                }
                (Poll::Pending, _) if taken == 0 => return Poll::Pending,
                (Poll::Pending, _) => return Poll::Ready(Some(taken)),
            }
        }
    }

    #[inline]
    fn next_of_batch(&mut self) -> Option<Frame> {
        let frame = self.batch.pop_front()?;
        self.inbox.took(LANE_FRAMES, &frame);
        Some(frame)
    }

    /// Takes the next batch from the inbox; the batch is empty.
    fn poll_refill(&mut self, waker: Option<&Waker>) -> Poll<bool> {
        let frames = self.tempo.next_batch();
        self.inbox.poll_take(self.epoch, LANE_FRAMES, frames, &mut self.batch, waker)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if self.inbox.is_inherited() {
            self.inbox.process().leak_if_inherited(&self.inbox);
            std::mem::forget(self.wake_up.take());
        }
        self.inbox.give_back(self.epoch, std::mem::take(&mut self.batch));
        self.inbox.detach(self.epoch);
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("batch", &self.batch.len()).finish_non_exhaustive()
    }
}

#[cfg(feature = "rpc")]
pub(crate) mod rpc {
    //! The lanes of an RPC server.

    use super::super::inbox::hand::Hand;
    use super::super::inbox::{LANE_FRAMES, LANES};
    use super::{Arc, Context, Frame, Inbox, Mode, Poll, Tempo, Waker, fmt};
    use crate::proto::op::FrameKind;
    use crate::proto::rpc::{NOTIFICATION, REQUEST};

    const LANE_NOTIFICATIONS: usize = 1;
    const LANE_CALLS: usize = 2;

    /// The lane of a frame whose payload begins with `first`; `None` for a message that is neither notification nor
    /// request.
    pub(crate) fn lane_of(kind: FrameKind, first: Option<u8>) -> Option<usize> {
        match (kind, first) {
            (FrameKind::Publication | FrameKind::Broadcast, _) => Some(LANE_FRAMES),
            (FrameKind::Message, Some(NOTIFICATION)) => Some(LANE_NOTIFICATIONS),
            (FrameKind::Message, Some(REQUEST)) => Some(LANE_CALLS),
            _ => None,
        }
    }

    /// Returns whether a frame is an RPC request.
    pub(crate) fn is_request(frame: &Frame) -> bool {
        lane_of(frame.kind(), frame.payload().first().copied()) == Some(LANE_CALLS)
    }

    /// Takes the frames of one lane. Those that it has taken and not returned yet go to the server that takes over. In a
    /// child made by fork it yields nothing.
    pub(crate) struct Lane {
        inbox: Arc<Inbox>,
        epoch: u64,
        lane: usize,
        hand: Arc<Hand>,
        tempo: Tempo,
    }

    impl Lane {
        fn new(inbox: &Arc<Inbox>, epoch: u64, lane: usize) -> Lane {
            let hand = Arc::default();
            inbox.register_hand(epoch, lane, &hand);
            Lane { inbox: inbox.clone(), epoch, lane, hand, tempo: Tempo::default() }
        }

        /// Waits for the next frame; `None` when there will be none. Yields as
        /// [`Frames::recv`](super::Frames::recv) does.
        pub(crate) async fn recv(&mut self) -> Option<Frame> {
            self.tempo.yield_if_due().await;
            let mut has_waited = false;
            let frame = std::future::poll_fn(|cx| {
                let frame = self.poll_recv(cx);
                has_waited |= frame.is_pending();
                frame
            })
            .await;
            if has_waited {
                self.tempo.has_waited();
            }
            frame
        }

        fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
            if let Some(frame) = self.next_in_hand() {
                return Poll::Ready(Some(frame));
            }
            loop {
                match self.poll_refill(Some(cx.waker())) {
                    // If another server has taken over since, the hand is empty again.
                    Poll::Ready(true) => {
                        if let Some(frame) = self.next_in_hand() {
                            return Poll::Ready(Some(frame));
                        }
                    }
                    Poll::Ready(false) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }

        /// The next frame if there is one now.
        #[cfg(test)]
        pub(crate) fn try_recv(&mut self) -> Option<Frame> {
            if !self.has_in_hand() {
                let _ = self.poll_refill(None);
            }
            self.next_in_hand()
        }

        /// The next frame that is in the hand already.
        #[inline]
        pub(crate) fn next_in_hand(&mut self) -> Option<Frame> {
            if self.inbox.is_inherited() {
                return None;
            }
            let frame = self.hand.next()?;
            self.inbox.took(self.lane, &frame);
            Some(frame)
        }

        /// Returns whether frames are in the hand.
        pub(crate) fn has_in_hand(&self) -> bool {
            !self.inbox.is_inherited() && self.hand.len() > 0
        }

        /// Takes the next batch into the hand: `Ready(false)` when there will be none.
        pub(crate) fn poll_refill(&mut self, waker: Option<&Waker>) -> Poll<bool> {
            let frames = self.tempo.next_batch();
            self.inbox.poll_take_in_hand(self.epoch, self.lane, frames, &self.hand, waker)
        }
    }

    impl fmt::Debug for Lane {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Lane").field("lane", &self.lane).finish_non_exhaustive()
        }
    }

    impl Drop for Lane {
        fn drop(&mut self) {
            self.inbox.process().leak_if_inherited(&self.inbox);
            self.inbox.process().leak_if_inherited(&self.hand);
        }
    }

    /// All lanes. With handling in order only the first is used.
    pub(crate) struct RpcLanes {
        pub(crate) frames: Lane,
        pub(crate) notifications: Lane,
        pub(crate) calls: Lane,
        pub(crate) attached: Attached,
    }

    /// Ends the lanes when dropped.
    #[derive(Debug)]
    pub(crate) struct Attached {
        inbox: Arc<Inbox>,
        epoch: u64,
    }

    impl Drop for Attached {
        fn drop(&mut self) {
            self.inbox.process().leak_if_inherited(&self.inbox);
            self.inbox.detach(self.epoch);
        }
    }

    /// Takes over the frames of a client from its present consumer.
    pub(crate) fn attach(inbox: &Arc<Inbox>, in_order: bool) -> RpcLanes {
        let epoch = inbox.attach(Mode::Rpc { in_order }, true).unwrap_or_default();
        const _: () = assert!(LANES == 3);
        RpcLanes {
            frames: Lane::new(inbox, epoch, LANE_FRAMES),
            notifications: Lane::new(inbox, epoch, LANE_NOTIFICATIONS),
            calls: Lane::new(inbox, epoch, LANE_CALLS),
            attached: Attached { inbox: inbox.clone(), epoch },
        }
    }
}
