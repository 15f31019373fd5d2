//! One lane of an inbox from the point of view of its taker: frames one by one or in batches, and the taker's
//! wake-up.

use super::inbox::{Held, Inbox, Sorting};
use super::tempo::Tempo;
use super::wait::Wait;
use super::wake::WakeUp;
use crate::error::Result;
use crate::frame::Frame;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Takes the frames of one lane. In a child made by fork it yields nothing.
pub(crate) struct Lane<H: Held> {
    inbox: Arc<Inbox>,
    epoch: u64,
    lane: usize,
    /// Frames that were taken from the inbox but not yet passed to the program.
    held: H,
    tempo: Tempo,
    wake_up: Option<WakeUp>,
}

/// The program's decision about a frame of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Took {
    /// The frame is part of the batch, which has room for more.
    More,
    /// The frame is the last of the batch.
    Last,
    /// The frame is not part of the batch.
    #[cfg(feature = "rpc")]
    Skipped,
}

impl<H: Held> Lane<H> {
    /// Creates the taker of a lane for the consumer `attached`.
    pub(crate) fn new(attached: &Attached, lane: usize, held: H) -> Lane<H> {
        Lane {
            inbox: attached.inbox.clone(),
            epoch: attached.epoch,
            lane,
            held,
            tempo: Tempo::default(),
            wake_up: None,
        }
    }

    pub(crate) fn is_inherited(&self) -> bool {
        self.inbox.is_inherited()
    }

    /// Waits for the next frame. Returns `None` if there will be no more. A task that takes frames in a loop yields
    /// to other tasks about once a millisecond, even if many frames are waiting.
    pub(crate) async fn recv(&mut self) -> Option<Frame> {
        if self.is_inherited() {
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

    /// Returns the next frame if one is waiting.
    pub(crate) fn try_recv(&mut self) -> Option<Frame> {
        if self.is_inherited() {
            return None;
        }
        if self.held.is_empty() {
            let _ = self.poll_refill(None);
        }
        self.next_held()
    }

    /// Returns the next frame. Pending until there is one; `None` if there will be no more.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let frame = self.poll_next(cx);
        if frame.is_pending() {
            self.inbox.lease().sleeps();
        }
        frame
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if self.is_inherited() {
            return Poll::Ready(None);
        }
        loop {
            if let Some(frame) = self.next_held() {
                return Poll::Ready(Some(frame));
            }
            match self.poll_refill(Some(cx.waker())) {
                // If another consumer has taken over since, a shared hand is empty again.
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Waits on this thread for the next frame. Returns `None` when the time of `wait` is over, and `Some(None)` if
    /// there will be no more frames. If the client has sent something since it last waited for frames, the frame may
    /// be the answer, so that the thread polls for it.
    #[cfg(feature = "blocking")]
    pub(super) fn wait_recv(&mut self, wait: Wait<'_>) -> Result<Option<Option<Frame>>> {
        let lease = self.inbox.lease().clone();
        wait.on_answer(&lease, lease.awaited_frame(), |cx| self.poll_next(cx))
    }

    /// Does the same as [`take_batch`](Lane::take_batch), but waits on this thread for the first frame, like
    /// [`wait_recv`](Lane::wait_recv). It arms no wake-up. Returns `Some(0)` when the time of `wait` is over.
    pub(crate) fn wait_batch(
        &mut self,
        wait: Wait<'_>,
        mut take: impl FnMut(Frame) -> Took,
    ) -> Result<Option<usize>> {
        let lease = self.inbox.lease().clone();
        let polled = lease.awaited_frame();
        let taken = wait.on_answer(&lease, polled, |cx| {
            loop {
                let taken = self.take_with(&mut take, None);
                if taken.is_ready() {
                    return taken;
                }
                match self.poll_refill(Some(cx.waker())) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })?;
        Ok(taken.unwrap_or(Some(0)))
    }

    /// Passes the waiting frames to `take`, until it returns that one is the last. Never waits. Returns the number of
    /// frames in the batch, or `None` if there will be no more. If there were fewer frames than `take` wanted, the
    /// wake-up is armed.
    pub(crate) fn take_batch(&mut self, take: impl FnMut(Frame) -> Took) -> Option<usize> {
        let wake_up = self.wake_up.clone();
        let taken = self.take_with(take, wake_up.as_ref());
        if wake_up.is_some() {
            self.inbox.lease().sleeps();
        }
        match taken {
            Poll::Ready(taken) => taken,
            Poll::Pending => Some(0),
        }
    }

    /// Does the same as [`take_batch`](Lane::take_batch), but is pending until there is a frame.
    pub(crate) fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnMut(Frame) -> Took,
    ) -> Poll<Option<usize>> {
        let taken = self.take_with(take, Some(&cx.waker().clone().into()));
        self.inbox.lease().sleeps();
        taken
    }

    /// Sets the wake-up of [`take_batch`](Lane::take_batch). It happens once immediately if frames are waiting.
    pub(crate) fn set_wake_up(&mut self, wake_up: WakeUp) {
        if self.is_inherited() {
            return;
        }
        if !self.held.is_empty() || self.poll_refill(Some(wake_up.waker())).is_ready() {
            wake_up.wake();
        }
        self.inbox.lease().sleeps();
        self.wake_up = Some(wake_up);
    }

    /// Passes frames to `take`. Pending if there were none; the wake-up is then armed. It is also armed if fewer
    /// frames were taken than `take` wanted.
    fn take_with(
        &mut self,
        mut take: impl FnMut(Frame) -> Took,
        wake_up: Option<&WakeUp>,
    ) -> Poll<Option<usize>> {
        if self.is_inherited() {
            return Poll::Ready(None);
        }
        let (mut taken, mut was_reset) = (0, false);
        loop {
            while let Some(frame) = self.next_held() {
                let took = take(frame);
                taken += usize::from(took == Took::More || took == Took::Last);
                if took == Took::Last {
                    if was_reset && let Some(wake_up) = wake_up {
                        // More frames may be waiting, which no other wake-up would report.
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
    fn next_held(&mut self) -> Option<Frame> {
        let frame = self.held.next()?;
        self.inbox.took(self.lane, &frame);
        Some(frame)
    }

    /// Takes the next batch from the inbox, when no frames are held. Returns `Ready(false)` if there will be no more.
    fn poll_refill(&mut self, waker: Option<&Waker>) -> Poll<bool> {
        let frames = self.tempo.next_batch();
        let taken = self.inbox.poll_take(self.epoch, self.lane, frames, &mut self.held, waker);
        match taken {
            Poll::Ready(_) => self.tempo.took_batch(),
            Poll::Pending => self.tempo.found_none(),
        }
        taken
    }
}

impl Lane<std::collections::VecDeque<Frame>> {
    /// Gives back the frames that were not passed to the program, if another consumer has taken over.
    pub(super) fn give_back(&mut self) {
        self.inbox.give_back(self.epoch, std::mem::take(&mut self.held));
    }

    /// Returns the number of frames that were taken but not yet passed to the program.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(feature = "rpc")]
impl Lane<Arc<super::inbox::Hand>> {
    /// Creates the taker of a lane for the consumer `attached`. The frames that it holds go to a consumer that takes
    /// over.
    pub(crate) fn shared(attached: &Attached, lane: usize) -> Self {
        let hand = Arc::default();
        attached.inbox.register_hand(attached.epoch, lane, &hand);
        Lane::new(attached, lane, hand)
    }
}

impl<H: Held> fmt::Debug for Lane<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl<H: Held> Drop for Lane<H> {
    fn drop(&mut self) {
        if self.inbox.is_inherited() {
            self.inbox.process().leak_if_inherited(&self.inbox);
            std::mem::forget(self.wake_up.take());
            self.held.leak();
            return;
        }
        self.inbox.close_lane(self.epoch, self.lane);
    }
}

/// The consumer of an inbox, until the value is dropped or another consumer takes over.
#[derive(Debug)]
pub(crate) struct Attached {
    inbox: Arc<Inbox>,
    epoch: u64,
}

impl Attached {
    /// Attaches a consumer of all frames in one lane. Returns `None` if there already is a consumer.
    pub(super) fn first(inbox: &Arc<Inbox>) -> Option<Attached> {
        let epoch = inbox.attach(Sorting::PLAIN, false)?;
        Some(Attached { inbox: inbox.clone(), epoch })
    }

    /// Attaches a consumer that takes over from the current one. In a child made by fork it gets nothing.
    #[cfg(feature = "rpc")]
    pub(crate) fn take_over(inbox: &Arc<Inbox>, sorting: Sorting) -> Attached {
        let epoch = inbox.attach(sorting, true).unwrap_or_default();
        Attached { inbox: inbox.clone(), epoch }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.inbox.process().leak_if_inherited(&self.inbox);
        self.inbox.detach(self.epoch);
    }
}
