//! What happens to a client's connection, told to the program: as a stream and as callbacks.

use super::effects::{contain, wake_all};
use crate::error::{Error, ErrorKind};
use crate::fork::Process;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Events that wait for a program that does not take them: the oldest go.
const MOST_WAITING: usize = 256;

/// Something that happened to a client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The client is connected, subscriptions and exclusions restored; operations queued meanwhile have been
    /// handed to the connection.
    Connected,
    /// The connection has ended. Of a client that does not reconnect, or not any more, this is the last event.
    #[non_exhaustive]
    Disconnected {
        /// What kind of end.
        kind: ErrorKind,
        /// Why, in words.
        reason: Arc<str>,
    },
    /// The client tries to connect after a delay.
    #[non_exhaustive]
    Reconnecting {
        /// The how manieth try in a row, from 1.
        attempt: u32,
        /// What it waits before it tries.
        delay: Duration,
    },
    /// Frames were dropped because the program did not take them, or queued operations because the client
    /// ended before it could send them.
    #[non_exhaustive]
    Dropped {
        /// How many, since the last such event.
        frames: u64,
    },
}

impl Event {
    pub(super) fn disconnected(error: &Error) -> Event {
        Event::Disconnected { kind: error.kind(), reason: error.to_string().into() }
    }
}

type Callback = Arc<dyn Fn(&Event) + Send + Sync>;

/// Whom a client tells.
#[derive(Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    /// Whether anybody listens: most clients have nobody.
    heard: AtomicBool,
}

#[derive(Default)]
struct State {
    /// What a newcomer is told first.
    present: Option<Event>,
    streams: Vec<Weak<Stream>>,
    callbacks: Vec<Callback>,
    ended: bool,
}

#[derive(Default)]
struct Stream(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    waker: Option<Waker>,
    ended: bool,
}

impl Stream {
    /// Appends an event, and the end. Returns the waker, to be woken when no lock is held.
    fn push(&self, event: Option<&Event>, last: bool) -> Option<Waker> {
        let mut waiting = self.0.lock();
        if let Some(event) = event {
            waiting.append(event);
        }
        waiting.ended |= last;
        waiting.waker.take()
    }
}

impl Waiting {
    fn append(&mut self, event: &Event) {
        if let (Some(Event::Dropped { frames }), Event::Dropped { frames: more }) =
            (self.events.back_mut(), event)
        {
            *frames += more;
            return;
        }
        if self.events.len() == MOST_WAITING {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
    }
}

impl Hub {
    /// Tells everybody. The callbacks run on this thread.
    pub(super) fn tell(&self, event: Event) {
        self.pass(Some(&event), false);
    }

    /// Tells everybody the last event there will be.
    pub(super) fn end(&self, event: Option<&Event>) {
        self.pass(event, true);
    }

    /// Whether somebody would be told.
    pub(super) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    fn pass(&self, event: Option<&Event>, last: bool) {
        // A stream whose receiver goes away now is dropped with its waker: not under the lock.
        let mut streams = Vec::new();
        let mut wakers = Vec::new();
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        state.ended = last;
        if let Some(event) = event
            && !matches!(event, Event::Dropped { .. })
        {
            state.present = Some(event.clone());
        }
        state.streams.retain(|stream| match stream.upgrade() {
            Some(stream) => {
                // Under the lock, so that all streams have the same order.
                wakers.extend(stream.push(event, last));
                streams.push(stream);
                true
            }
            None => false,
        });
        let callbacks = if last { std::mem::take(&mut state.callbacks) } else { state.callbacks.clone() };
        drop(state);
        wake_all(wakers);
        for stream in streams {
            contain("the drop of a waker", || drop(stream));
        }
        for callback in callbacks {
            event.into_iter().for_each(|event| call(&callback, event));
            release(callback);
        }
    }

    pub(super) fn subscribe(&self) -> Events {
        let stream = Arc::new(Stream::default());
        let mut state = self.state.lock();
        self.heard.store(true, Ordering::Relaxed);
        let mut waiting = stream.0.lock();
        waiting.events.extend(state.present.clone());
        waiting.ended = state.ended;
        drop(waiting);
        if !state.ended {
            state.streams.retain(|stream| stream.strong_count() > 0);
            state.streams.push(Arc::downgrade(&stream));
        }
        drop(state);
        Events { stream, process: Process::current() }
    }

    pub(super) fn add_callback(&self, callback: Callback) {
        let mut state = self.state.lock();
        self.heard.store(true, Ordering::Relaxed);
        let present = state.present.clone();
        if !state.ended {
            state.callbacks.push(callback.clone());
        }
        drop(state);
        present.iter().for_each(|event| call(&callback, event));
        release(callback);
    }
}

/// A callback that panics must not take the connection with it, nor keep others from being called.
fn call(callback: &Callback, event: &Event) {
    contain(format_args!("the callback for {event:?}"), || callback(event));
}

/// Drops a callback and, if it is the last handle, what the callback has captured.
fn release(callback: Callback) {
    contain("the drop of a callback", || drop(callback));
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let present = self.state.try_lock().map(|state| state.present.clone());
        f.debug_struct("Hub").field("present", &present).finish_non_exhaustive()
    }
}

/// The events of a client, from the present state on. Any number of them may exist; each yields everything.
/// It does not keep the client connected. Of events that nobody takes, the newest 256 are kept.
/// In a child made by fork it yields nothing.
pub struct Events {
    stream: Arc<Stream>,
    process: Process,
}

impl Events {
    /// A stream that has ended.
    pub(super) fn ended() -> Events {
        let stream = Stream(Mutex::new(Waiting { ended: true, ..Waiting::default() }));
        Events { stream: Arc::new(stream), process: Process::current() }
    }

    /// The next event; `None` when the client has ended for good. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next event if one waits.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.process.is_current().then(|| self.stream.0.lock().events.pop_front()).flatten()
    }

    /// As [`recv`](Events::recv), for those who write futures by hand.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if !self.process.is_current() {
            return Poll::Ready(None);
        }
        // Wakers are cloned and dropped without the lock.
        let mut own = None;
        loop {
            let mut waiting = self.stream.0.lock();
            match waiting.events.pop_front() {
                Some(event) => return Poll::Ready(Some(event)),
                None if waiting.ended => return Poll::Ready(None),
                None if waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) => {
                    return Poll::Pending;
                }
                None => {}
            }
            if own.is_none() {
                drop(waiting);
                own = Some(cx.waker().clone());
                continue;
            }
            let former = std::mem::replace(&mut waiting.waker, own);
            drop(waiting);
            drop(former);
            return Poll::Pending;
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.stream.0.try_lock().map(|waiting| waiting.events.len());
        f.debug_struct("Events").field("waiting", &waiting).finish_non_exhaustive()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.process.leak_if_inherited(&self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn everybody_is_told_from_the_present_on() {
        let hub = Hub::default();
        hub.tell(Event::Connected);
        let mut early = hub.subscribe();
        let last = Event::disconnected(&Error::new(ErrorKind::Io, "why"));
        hub.tell(Event::Dropped { frames: 2 });
        hub.tell(Event::Dropped { frames: 3 });
        hub.end(Some(&last));
        hub.tell(Event::Connected);
        let mut late = hub.subscribe();
        let rest = |events: &mut Events| std::iter::from_fn(|| events.try_recv()).collect::<Vec<_>>();
        assert_eq!(rest(&mut early), [Event::Connected, Event::Dropped { frames: 5 }, last.clone()]);
        assert_eq!(rest(&mut late), [last]);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(late.poll_recv(&mut cx), Poll::Ready(None));
        assert_eq!(early.poll_recv(&mut cx), Poll::Ready(None));
    }

    #[test]
    fn who_does_not_listen_costs_a_bounded_amount() {
        let hub = Hub::default();
        let mut events = hub.subscribe();
        for attempt in 0..1000 {
            hub.tell(Event::Reconnecting { attempt, delay: Duration::ZERO });
        }
        assert_eq!(events.try_recv(), Some(Event::Reconnecting { attempt: 744, delay: Duration::ZERO }));
        drop(events);
        hub.tell(Event::Connected);
        assert!(hub.state.lock().streams.is_empty());
    }

    #[test]
    fn a_callback_may_panic_and_use_the_client() {
        let hub = Arc::new(Hub::default());
        let told = Arc::new(AtomicU64::new(0));
        let (inner, count) = (hub.clone(), told.clone());
        hub.tell(Event::Connected);
        hub.add_callback(Arc::new(move |event| {
            let _ = inner.subscribe();
            count.fetch_add(1, Ordering::Relaxed);
            assert!(*event == Event::Connected, "a panic");
        }));
        hub.tell(Event::Dropped { frames: 1 });
        hub.end(None);
        assert_eq!(told.load(Ordering::Relaxed), 2);
        assert_eq!(Arc::strong_count(&hub), 1);
    }
}
