//! The lanes of an inbox, seen from those who take frames out of them.

use super::inbox::{Inbox, LANE_FRAMES, Mode};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Takes the frames of one lane. There is one at a time for each lane.
pub(crate) struct Lane {
    inbox: Arc<Inbox>,
    epoch: u64,
    lane: usize,
    batch: VecDeque<Frame>,
}

impl Lane {
    pub(crate) fn new(inbox: Arc<Inbox>, epoch: u64, lane: usize) -> Lane {
        Lane { inbox, epoch, lane, batch: VecDeque::new() }
    }

    #[inline]
    fn next_of_batch(&mut self) -> Option<Frame> {
        let frame = self.batch.pop_front()?;
        self.inbox.took(self.lane, &frame);
        Some(frame)
    }

    /// The next frame; `None` when there will be none.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if self.inbox.is_inherited() {
            return Poll::Ready(None);
        }
        if let Some(frame) = self.next_of_batch() {
            return Poll::Ready(Some(frame));
        }
        match self.inbox.poll_take(self.epoch, self.lane, &mut self.batch, Some(cx)) {
            Poll::Ready(true) => Poll::Ready(self.next_of_batch()),
            Poll::Ready(false) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The next frame; `None` when there will be none.
    pub(crate) async fn recv(&mut self) -> Option<Frame> {
        if self.batch.is_empty() {
            // A program that takes frames as fast as they come would never let others run.
            tokio::task::coop::consume_budget().await;
        }
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Whether nobody has taken over or given up since.
    #[cfg(feature = "rpc")]
    pub(crate) fn is_attached(&self) -> bool {
        self.inbox.is_attached(self.epoch)
    }

    /// The next frame if there is one now.
    pub(crate) fn try_recv(&mut self) -> Option<Frame> {
        if self.inbox.is_inherited() {
            return None;
        }
        if self.batch.is_empty() {
            let _ = self.inbox.poll_take(self.epoch, self.lane, &mut self.batch, None);
        }
        self.next_of_batch()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.inbox.is_inherited() {
            self.inbox.process().leak_if_inherited(&self.inbox);
            std::mem::forget(std::mem::take(&mut self.batch));
        }
    }
}

/// The frames a client receives, in the order received: the one place to take them from.
///
/// It does not keep the connection open: when the last [`Client`](super::Client) is dropped it yields
/// what has been received, then ends. Frames that come after it was dropped are discarded. In a child made by
/// fork it yields nothing.
pub struct Frames(Lane);

impl Frames {
    pub(crate) fn attach(inbox: &Arc<Inbox>) -> Result<Frames> {
        let Some(epoch) = inbox.attach(Mode::Plain, false) else {
            return Err(Error::new(ErrorKind::Busy, "the frames of this client are taken already"));
        };
        Ok(Frames(Lane::new(inbox.clone(), epoch, LANE_FRAMES)))
    }

    /// The next frame; `None` when the connection has ended and everything received has been taken.
    /// Cancel safe: a frame is never lost by dropping the future.
    pub async fn recv(&mut self) -> Option<Frame> {
        self.0.recv().await
    }

    /// The next frame if one waits.
    pub fn try_recv(&mut self) -> Option<Frame> {
        self.0.try_recv()
    }

    /// As [`recv`](Frames::recv), for those who write futures by hand.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.0.poll_recv(cx)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.0.inbox.detach(self.0.epoch);
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("batch", &self.0.batch.len()).finish_non_exhaustive()
    }
}

#[cfg(feature = "rpc")]
pub(crate) mod rpc {
    //! What an RPC server takes.

    use super::super::inbox::{LANE_FRAMES, LANES};
    use super::{Arc, Frame, Inbox, Lane, Mode};
    use crate::proto::op::FrameKind;
    use crate::proto::rpc::{NOTIFICATION, REQUEST};

    const LANE_NOTIFICATIONS: usize = 1;
    const LANE_CALLS: usize = 2;

    /// The lane of a frame when they are apart; `None` for a message that is neither notification nor
    /// request.
    pub(crate) fn lane_of(frame: &Frame) -> Option<usize> {
        match (frame.kind(), frame.payload().first()) {
            (FrameKind::Publication | FrameKind::Broadcast, _) => Some(LANE_FRAMES),
            (FrameKind::Message, Some(&NOTIFICATION)) => Some(LANE_NOTIFICATIONS),
            (FrameKind::Message, Some(&REQUEST)) => Some(LANE_CALLS),
            _ => None,
        }
    }

    /// Whether a frame is an RPC request.
    pub(crate) fn is_request(frame: &Frame) -> bool {
        lane_of(frame) == Some(LANE_CALLS)
    }

    /// Every lane; with handling in order only the first is used.
    pub(crate) struct RpcLanes {
        pub(crate) frames: Lane,
        pub(crate) notifications: Lane,
        pub(crate) calls: Lane,
        pub(crate) attached: Attached,
    }

    /// Ends the lanes when dropped.
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

    /// Takes over the frames of a client, from whoever took them before.
    pub(crate) fn attach(inbox: &Arc<Inbox>, in_order: bool) -> RpcLanes {
        let epoch = inbox.attach(Mode::Rpc { in_order }, true).unwrap_or_default();
        let lane = |lane| Lane::new(inbox.clone(), epoch, lane);
        const _: () = assert!(LANES == 3);
        RpcLanes {
            frames: lane(LANE_FRAMES),
            notifications: lane(LANE_NOTIFICATIONS),
            calls: lane(LANE_CALLS),
            attached: Attached { inbox: inbox.clone(), epoch },
        }
    }
}
