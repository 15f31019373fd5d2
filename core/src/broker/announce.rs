//! Announcements of the broker on its own topics (docs/protocol.md section 9).
//!
//! Announcements are queued under the lock that orders registrations, and delivered without it. If there are few
//! subscribers, the thread that registers the client delivers to them; if there are many, the supervisor does.

use super::audience::Audience;
use super::audience_walk::own_subscribers;
use super::counters::BrokerCounters;
use super::encoded_frames::EncodedFrames;
use super::outbound_frame::OutboundFrame;
use super::outbox::Push;
use super::registry::Registry;
use super::session::Session;
use crate::proto::delivery::Delivery;
use crate::proto::op::{BROKER_NAME, FrameKind, TOPIC_INFO, TOPIC_WARN};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// Maximum number of subscribers to which the thread that registers a client delivers.
const FEW: usize = 32;
/// Maximum number of announcements that are delivered together.
const TOGETHER: usize = 64;
/// While more announcements than this are waiting, new clients are not registered.
const MOST_WAITING: usize = 1024;
/// The batch number for announcements, which are flushed immediately after they are queued.
const NO_BATCH: u32 = u32::MAX - 3;

#[derive(Serialize)]
struct Announcement<'a> {
    s: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a str>,
    t: u64,
}

/// Announcements that wait to be delivered.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    state: Mutex<State>,
    waiting: AtomicUsize,
    room: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    /// MessagePack payloads for `.broker/info`.
    queue: VecDeque<Vec<u8>>,
    /// True while a thread is delivering.
    busy: bool,
}

fn pack(subject: &str, data: Option<&str>) -> Option<Vec<u8>> {
    let t = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    // Packing these into memory cannot fail.
    rmp_serde::to_vec_named(&Announcement { s: subject, d: data, t }).ok()
}

impl Announcements {
    /// Queues the announcement that a primary client has registered.
    pub(super) fn queue_registered(&self, name: &str) {
        self.queue("reg", name);
    }

    /// Queues the announcement that a primary client has left.
    pub(super) fn queue_unregistered(&self, name: &str) {
        self.queue("unreg", name);
    }

    fn queue(&self, subject: &str, name: &str) {
        if let Some(payload) = pack(subject, Some(name)) {
            let mut state = self.state.lock();
            state.queue.push_back(payload);
            self.waiting.store(state.queue.len(), Relaxed);
        }
    }

    /// Delivers the waiting announcements if there are few subscribers. Returns true if the supervisor must deliver
    /// the remaining ones.
    pub(super) fn deliver(&self, registry: &Registry, counters: &BrokerCounters) -> bool {
        self.waiting.load(Relaxed) > 0 && self.deliver_some(registry, counters, FEW)
    }

    /// Delivers some of the waiting announcements to any number of subscribers. Returns true if more are waiting.
    /// Only the supervisor calls it.
    pub(super) fn deliver_rest(&self, registry: &Registry, counters: &BrokerCounters) -> bool {
        self.waiting.load(Relaxed) > 0 && self.deliver_some(registry, counters, usize::MAX)
    }

    /// Delivers a few announcements, unless they have more than `most` receivers. Returns true if some are left that
    /// the caller must deliver or hand to the supervisor. If another thread is delivering, that thread also delivers
    /// those that are queued while it does so.
    fn deliver_some(&self, registry: &Registry, counters: &BrokerCounters, most: usize) -> bool {
        let mut state = self.state.lock();
        if state.busy {
            return false;
        }
        state.busy = true;
        let count = state.queue.len().min(TOGETHER);
        let next: Vec<Vec<u8>> = state.queue.drain(..count).collect();
        drop(state);
        // The subscribers are found after the announcements were taken, so that a client that subscribed before an
        // announcement was queued receives it.
        let audience: Audience = own_subscribers(registry, TOPIC_INFO);
        let is_delivered = audience.len() <= most;
        if is_delivered {
            for payload in &next {
                counters.count_written(payload);
            }
            publish(&audience, TOPIC_INFO, &next);
        }
        let mut state = self.state.lock();
        state.busy = false;
        if !is_delivered {
            next.into_iter().rev().for_each(|payload| state.queue.push_front(payload));
        }
        self.waiting.store(state.queue.len(), Relaxed);
        self.room.notify_waiters();
        !state.queue.is_empty()
    }

    /// Waits until at most [`MOST_WAITING`] announcements are waiting.
    pub(super) async fn wait_for_room(&self) {
        while self.waiting.load(Relaxed) > MOST_WAITING {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.waiting.load(Relaxed) > MOST_WAITING {
                // The supervisor notifies; the timeout covers a notification that came before this wait began.
                let _ = tokio::time::timeout(std::time::Duration::from_millis(100), room).await;
            }
        }
    }
}

/// Announces on `.broker/warn` that the broker is about to shut down.
pub(super) async fn announce_shutdown(registry: &Registry, counters: &BrokerCounters) {
    let Some(payload) = pack("shutdown", None) else { return };
    counters.count_written(&payload);
    let audience = own_subscribers(registry, TOPIC_WARN);
    for some in audience.chunks(256) {
        publish(some, TOPIC_WARN, std::slice::from_ref(&payload));
        tokio::task::yield_now().await;
    }
}

/// Publishes in the broker's own name. A subscriber whose queue is full does not receive it, because the broker never
/// waits for one.
fn publish(audience: &[Arc<Session>], topic: &str, payloads: &[Vec<u8>]) {
    let delivery = |payload| Delivery {
        kind: FrameKind::Publication,
        realtime: true,
        sender: BROKER_NAME,
        topic: Some(topic),
        payload,
    };
    let Some(first) = payloads.first() else { return };
    let mut frames = EncodedFrames::take(&delivery(first));
    for payload in payloads {
        frames.add(&delivery(payload), false);
    }
    let bytes = frames.take_bytes();
    for receiver in audience {
        let outbox = &receiver.outbox;
        if outbox.is_in_process() {
            for payload in payloads {
                let frame = OutboundFrame::new(delivery(payload), None);
                if outbox.push(&frame, NO_BATCH) == Push::Full {
                    outbox.count_dropped(1, frame.wire_len() as u64);
                }
            }
            continue;
        }
        if outbox.push_shared_or_drop(&bytes, &frames, NO_BATCH) {
            outbox.flush();
        }
    }
    frames.give();
}
