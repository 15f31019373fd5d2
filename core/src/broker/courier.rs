//! One client's way into the bus: looks up where its operations go, hands frames to the receivers'
//! queues, and remembers whom to flush and what to acknowledge. A session's reader owns one, and all
//! of it runs on the reader's task.

use super::Core;
use super::admin;
use super::lookout::Lookout;
use super::outbox::{Parcel, Push, Scratch, Verdict};
use super::registry::{Audience, Registry, TopicSet};
use super::session::Session;
use crate::error::ErrorKind;
use crate::matching::cache::Cache;
use crate::proto::delivery::{self, Delivery};
use crate::proto::op::{BROKER_NAME, FrameKind, QoS, RESULT_OK};
use crate::proto::request::Operation;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Entries in each cache of a session.
const CACHED: u32 = 1024;
/// Receivers that the audiences in one cache may have in all: bounds what many large ones hold.
const CACHED_RECEIVERS: usize = 16 * 1024;

/// Where a session's recent frames went: most frames need no lock but their receiver's own.
struct Routes {
    messages: Cache<Result<Arc<Session>, ErrorKind>>,
    broadcasts: Cache<Result<Audience, ErrorKind>>,
    publications: Cache<Result<Audience, ErrorKind>>,
    held: Held,
}

/// How many receivers the cached audiences of one generation have.
#[derive(Default)]
struct Held {
    generation: u64,
    receivers: usize,
}

impl Held {
    /// Counts an audience; whether there is room for it.
    fn add(&mut self, generation: u64, audience: &Result<Audience, ErrorKind>) -> bool {
        if self.generation != generation {
            *self = Held { generation, receivers: 0 };
        }
        self.receivers += audience.as_ref().map_or(0, |audience| audience.len());
        self.receivers <= CACHED_RECEIVERS
    }
}

/// Up to this many frames read together, or receivers of theirs, make a conversation.
const FEW: u64 = 2;

/// An answer that is in a cache, or was not worth keeping.
enum Answer<'a, V> {
    Cached(&'a Result<V, ErrorKind>),
    Fresh(Result<V, ErrorKind>),
}

impl<V> Answer<'_, V> {
    fn get(&self) -> Result<&V, ErrorKind> {
        match self {
            Answer::Cached(result) => result.as_ref(),
            Answer::Fresh(result) => result.as_ref(),
        }
        .map_err(|kind| *kind)
    }
}

/// What `cache` knows of `key`, or else `find` does. The generation is read before anything is looked
/// up: what changes meanwhile makes the entry stale, not wrong.
fn look_up<'a, V: Clone>(
    cache: &'a mut Cache<Result<V, ErrorKind>>,
    registry: &Registry,
    key: &str,
    find: impl Fn() -> Result<V, ErrorKind>,
    fits: impl FnOnce(u64, &Result<V, ErrorKind>) -> bool,
) -> Answer<'a, V> {
    let generation = registry.generation();
    if cache.get(generation, key.as_bytes()).is_none() {
        let found = find();
        if fits(generation, &found) {
            cache.insert_with(generation, key.as_bytes(), || found.clone());
        }
        return Answer::Fresh(found);
    }
    match cache.get(generation, key.as_bytes()) {
        Some(known) => Answer::Cached(known),
        None => Answer::Fresh(find()),
    }
}

/// What is to be done once the frames that were read together have all been routed.
#[derive(Default)]
struct Batch {
    /// Receivers that this batch has promised to flush.
    touched: Vec<Arc<Session>>,
    /// Acknowledgements, encoded.
    acks: Vec<u8>,
}

impl Batch {
    /// Queues the acknowledgements, then writes everything out. Who is looked out for gets its answer first.
    /// Else deliveries go first: their receivers wake up on other cores while the answer is written, and the
    /// sender takes over this one when the worker goes to sleep (measured: 20 to 40 % more acknowledged
    /// operations one by one; with a lookout, and the answer first, as much again).
    fn flush(&mut self, session: &Arc<Session>) {
        let mine = self.queue_acks(session);
        let answer_first = session.rhythm.is_prompt();
        if mine && answer_first {
            session.flush();
        }
        for receiver in self.touched.drain(..) {
            receiver.flush();
        }
        if mine && !answer_first {
            session.flush();
        }
        if self.touched.capacity() > 64 {
            self.touched = Vec::new();
        }
        if self.acks.capacity() > 256 {
            self.acks = Vec::new();
        }
    }

    /// Tells who speaks to whom, if it is a conversation and no stream.
    fn tell(&self, lookout: &Lookout, session: &Session, frames: u64) {
        if frames > FEW || self.touched.len() > FEW as usize {
            session.rhythm.forget();
        } else if frames > 0 {
            let answered = (!self.acks.is_empty()).then_some(session);
            lookout.exchanged(session, self.touched.iter().map(|receiver| &**receiver).chain(answered));
        }
    }

    /// Returns whether the session itself must be flushed.
    fn queue_acks(&mut self, session: &Session) -> bool {
        if self.acks.is_empty() {
            return false;
        }
        let first = session.push_raw(&self.acks, (self.acks.len() / delivery::HEADER_LEN) as u64);
        self.acks.clear();
        first
    }

    fn touch(&mut self, receiver: &Arc<Session>) {
        self.touched.push(receiver.clone());
    }
}

pub(super) struct Courier {
    core: Arc<Core>,
    session: Arc<Session>,
    routes: Routes,
    batch: Batch,
    scratch: Scratch,
}

impl Courier {
    pub(super) fn new(core: Arc<Core>, session: Arc<Session>) -> Courier {
        let routes = Routes {
            messages: Cache::new(CACHED),
            broadcasts: Cache::new(CACHED),
            publications: Cache::new(CACHED),
            held: Held::default(),
        };
        Courier { core, session, routes, batch: Batch::default(), scratch: Scratch::default() }
    }

    /// Does one operation that came over the wire, and notes its acknowledgement if it wants one.
    pub(super) async fn handle(
        &mut self,
        op_id: u32,
        qos: QoS,
        op: &Operation<'_, &[u8]>,
        owner: Option<&Bytes>,
    ) {
        let result = match op {
            Operation::Nop => return,
            Operation::Message { target: BROKER_NAME, payload } => {
                let result = self.core.registry.permit_message(&self.session, BROKER_NAME);
                self.acknowledge(op_id, qos, result);
                return match result {
                    // The acknowledgement goes before the answer.
                    Ok(()) => Box::pin(self.ask_broker(qos, payload)).await,
                    Err(_) => self.log_denial(op),
                };
            }
            _ => self.dispatch(qos, op, owner).await,
        };
        self.acknowledge(op_id, qos, result);
    }

    fn acknowledge(&mut self, op_id: u32, qos: QoS, result: Result<(), ErrorKind>) {
        if qos.needs_ack() {
            let code = result.map_or_else(ErrorKind::code, |()| RESULT_OK);
            self.batch.acks.extend_from_slice(&delivery::ack(op_id, code));
        }
    }

    /// Does one operation.
    ///
    /// # Errors
    /// What its acknowledgement says.
    pub(super) async fn dispatch(
        &mut self,
        qos: QoS,
        op: &Operation<'_, &[u8]>,
        owner: Option<&Bytes>,
    ) -> Result<(), ErrorKind> {
        let result = self.route(qos, op, owner).await;
        if result == Err(ErrorKind::AccessDenied) {
            self.log_denial(op);
        }
        result
    }

    async fn route(
        &mut self,
        qos: QoS,
        op: &Operation<'_, &[u8]>,
        owner: Option<&Bytes>,
    ) -> Result<(), ErrorKind> {
        let Courier { core, session, routes, batch, scratch } = self;
        let registry = &core.registry;
        let frame = |kind, topic, payload| Delivery {
            kind,
            realtime: qos.is_realtime(),
            sender: &session.identity.name,
            topic,
            payload,
        };
        match *op {
            Operation::Nop => Ok(()),
            Operation::Message { target, payload } => {
                let answer = look_up(
                    &mut routes.messages,
                    registry,
                    target,
                    || registry.target(session, target),
                    |_, _| true,
                );
                let receiver = answer.get()?;
                let parcel = Parcel::new(frame(FrameKind::Message, None, payload), owner);
                match receiver.push(&parcel, &core.options) {
                    Push::Queued => Ok(()),
                    Push::QueuedFirst => {
                        batch.touch(receiver);
                        Ok(())
                    }
                    Push::Gone => Err(ErrorKind::NotRegistered),
                    Push::Full => {
                        Box::pin(insist(core, session, batch, receiver, &parcel, Since::now(receiver))).await
                    }
                }
            }
            Operation::Broadcast { mask, payload } => {
                let find = || registry.matching_names(session, mask);
                let answer = look_up(&mut routes.broadcasts, registry, mask, find, |at, found| {
                    routes.held.add(at, found)
                });
                let audience = answer.get()?;
                let parcel = Parcel::for_many(frame(FrameKind::Broadcast, None, payload), owner, scratch);
                distribute(core, session, batch, audience, &parcel).await;
                Ok(())
            }
            Operation::Publish { topic, payload } => {
                let find = || registry.subscribers(Some(session), topic);
                let answer = look_up(&mut routes.publications, registry, topic, find, |at, found| {
                    routes.held.add(at, found)
                });
                let audience = answer.get()?;
                if !audience.is_empty() {
                    let parcel =
                        Parcel::for_many(frame(FrameKind::Publication, Some(topic), payload), owner, scratch);
                    distribute(core, session, batch, audience, &parcel).await;
                }
                Ok(())
            }
            Operation::PublishFor { topic, receiver, payload } => {
                let find = || registry.subscribers(Some(session), topic);
                let answer = look_up(&mut routes.publications, registry, topic, find, |at, found| {
                    routes.held.add(at, found)
                });
                let audience: Audience =
                    answer.get()?.iter().filter(|session| session.primary() == receiver).cloned().collect();
                let parcel =
                    Parcel::for_many(frame(FrameKind::Publication, Some(topic), payload), owner, scratch);
                distribute(core, session, batch, &audience, &parcel).await;
                Ok(())
            }
            Operation::Subscribe(topics) => registry.add_topics(session, TopicSet::Subscriptions, topics),
            Operation::Exclude(topics) => registry.add_topics(session, TopicSet::Exclusions, topics),
            Operation::Unsubscribe(topics) => {
                registry.remove_topics(session, TopicSet::Subscriptions, topics);
                Ok(())
            }
            Operation::Unexclude(topics) => {
                registry.remove_topics(session, TopicSet::Exclusions, topics);
                Ok(())
            }
        }
    }

    /// A message to the broker's own client; its answer, if there is one, comes from there.
    async fn ask_broker(&mut self, qos: QoS, payload: &[u8]) {
        let Courier { core, session, batch, .. } = self;
        core.admin.count_read(payload);
        let Some(answer) = admin::answer(core, payload) else { return };
        let delivery = Delivery {
            kind: FrameKind::Message,
            realtime: qos.is_realtime(),
            sender: BROKER_NAME,
            topic: None,
            payload: &answer,
        };
        if batch.queue_acks(session) {
            batch.touch(session);
        }
        distribute(core, session, batch, std::slice::from_ref(session), &Parcel::new(delivery, None)).await;
    }

    /// Writes out what the batch has gathered. When this client does not read its acknowledgements,
    /// no more operations are read from it until it does. `frames` tells how many they were.
    pub(super) async fn finish_batch(&mut self, frames: u64) {
        let acknowledged = !self.batch.acks.is_empty();
        if let Some(lookout) = &self.core.options.lookout {
            self.batch.tell(lookout, &self.session, frames);
        }
        self.batch.flush(&self.session);
        self.scratch.release();
        if acknowledged && self.session.is_over_budget(&self.core.options) {
            Box::pin(self.wait_until_read()).await;
        }
    }

    async fn wait_until_read(&self) {
        let (core, session) = (&self.core, &self.session);
        hold_back(core, session, async {
            while !session.has_ended() && !session.wait_for_room(0, &core.options, Instant::now(), 0).await {
                if core.options.slow == super::SlowPolicy::Disconnect {
                    core.end(session, "does not read its acknowledgements");
                }
            }
        })
        .await;
    }

    /// Writes out what was gathered, without waiting for anything. For clients in this process,
    /// whose operations come one by one, a task does it unless the frame is urgent: that makes one
    /// write of many.
    pub(super) fn flush_local(&mut self, qos: QoS) {
        self.scratch.release();
        for receiver in self.batch.touched.drain(..) {
            if qos == QoS::No { receiver.flush_soon() } else { receiver.flush() }
        }
    }

    fn log_denial(&self, op: &Operation<'_, &[u8]>) {
        if self.session.denial_logged.swap(true, Relaxed) {
            return;
        }
        let what = match op {
            Operation::Message { .. } => "send to",
            Operation::Broadcast { .. } => "broadcast to",
            Operation::Publish { .. } | Operation::PublishFor { .. } => "publish",
            _ => "subscribe to",
        };
        let whom = op.subject();
        log::warn!(
            "access denied: {} may not {what} {whom:?} (further denials are not logged)",
            self.session.name()
        );
    }
}

/// Hands a frame to every receiver. Those that are full are waited for after all others have it, with
/// one stall time for all of them.
async fn distribute(
    core: &Core,
    session: &Arc<Session>,
    batch: &mut Batch,
    audience: &[Arc<Session>],
    parcel: &Parcel<'_>,
) {
    let mut full = vec![];
    for receiver in audience {
        match receiver.push(parcel, &core.options) {
            Push::QueuedFirst => batch.touch(receiver),
            Push::Queued | Push::Gone => {}
            Push::Full => full.push((receiver, Since::now(receiver))),
        }
    }
    for (receiver, since) in full {
        // What became of a single delivery is not the publisher's business.
        let _ = Box::pin(insist(core, session, batch, receiver, parcel, since)).await;
    }
}

/// When a receiver was found full, and how much it had taken then.
#[derive(Clone, Copy)]
struct Since {
    when: Instant,
    taken: u64,
}

impl Since {
    fn now(receiver: &Session) -> Since {
        Since { when: Instant::now(), taken: receiver.taken() }
    }
}

/// Holds this sender back until the receiver has room or is found stuck; then its policy decides.
async fn insist(
    core: &Core,
    session: &Arc<Session>,
    batch: &mut Batch,
    receiver: &Arc<Session>,
    parcel: &Parcel<'_>,
    since: Since,
) -> Result<(), ErrorKind> {
    batch.flush(session);
    hold_back(core, session, async {
        let mut waits = core.options.slow == super::SlowPolicy::Block || !receiver.is_stuck();
        loop {
            if session.has_ended() {
                return Err(ErrorKind::NotDelivered);
            }
            let room = receiver.wait_for_room(parcel.wire_len(), &core.options, since.when, since.taken);
            let stuck = !waits || !room.await;
            let mut pushed = receiver.push(parcel, &core.options);
            if stuck && pushed == Push::Full {
                match receiver.judge(parcel, &core.options) {
                    Verdict::Pushed(push) => pushed = push,
                    Verdict::Refused => return Err(ErrorKind::NotDelivered),
                    Verdict::Disconnect => {
                        core.end(receiver, "does not take its frames");
                        return Err(ErrorKind::NotDelivered);
                    }
                    Verdict::Wait => {
                        // Its socket or program may take as long as it likes.
                        tokio::time::sleep(core.options.stall).await;
                        continue;
                    }
                }
            }
            match pushed {
                Push::Queued => return Ok(()),
                Push::QueuedFirst => {
                    receiver.flush();
                    return Ok(());
                }
                Push::Gone => return Err(ErrorKind::NotRegistered),
                Push::Full => waits = true,
            }
        }
    })
    .await
}

/// Runs `wait` while nothing is read from the client: its silence does not count meanwhile.
async fn hold_back<R>(core: &Core, session: &Session, wait: impl Future<Output = R>) -> R {
    session.liveness.held_back.store(true, Relaxed);
    let result = wait.await;
    session.liveness.seen.store(core.clock.now(), Relaxed);
    session.liveness.held_back.store(false, Relaxed);
    result
}
