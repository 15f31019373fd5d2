//! Events of a client's connection, as a stream and as callbacks.
//!
//! Each stream and each callback has its own queue. All queues are filled under one lock, so that all listeners see
//! the same order. Only one thread at a time runs a callback: if another thread is running it, an event stays in the
//! queue for that thread.

#[cfg(test)]
mod tests;

use super::contain::{contain, wake_all};
use super::register::register;
use crate::error::{Error, ErrorKind};
use crate::fork::Process;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

/// Maximum number of events that wait for a program. When there are more, the oldest are dropped.
const MAX_WAITING: usize = 256;

/// Something that happened to a client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The client is connected, and its subscriptions and exclusions are restored. Operations that were queued while
    /// it was not connected have been passed to the connection.
    Connected,
    /// The connection has ended. Operations that waited for an answer over it have failed before this event is
    /// reported.
    #[non_exhaustive]
    Disconnected {
        /// The kind of error that ended it.
        kind: ErrorKind,
        /// The reason as text.
        reason: Arc<str>,
        /// True if this is the last event: the client does not reconnect, or has stopped trying.
        last: bool,
    },
    /// The client tries to connect after a delay.
    #[non_exhaustive]
    Reconnecting {
        /// The number of the attempt since the connection was lost, from 1.
        attempt: u32,
        /// The delay before the attempt.
        delay: Duration,
    },
    /// Frames were dropped because the program did not take them, or queued operations were dropped because the
    /// client ended before it could send them.
    #[non_exhaustive]
    Dropped {
        /// The number of frames since the last such event.
        frames: u64,
    },
}

impl Event {
    pub(super) fn disconnected(error: &Error, last: bool) -> Event {
        Event::Disconnected { kind: error.kind(), reason: error.to_string().into(), last }
    }
}

/// The listeners of one client.
#[derive(Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    /// True if there has ever been a listener. Most clients have none.
    heard: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The present state, as the first event of a new listener.
    present: Option<Event>,
    streams: Vec<Weak<Stream>>,
    callbacks: Vec<Arc<Callback>>,
    ended: bool,
}

#[derive(Default)]
struct Stream(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    events: Queue,
    waker: Option<Waker>,
    ended: bool,
}

/// The events that a listener has not seen yet.
#[derive(Default)]
struct Queue(VecDeque<Event>);

/// A function of the program, and the events with which it has not been called yet.
struct Callback {
    function: Box<dyn Fn(&Event) + Send + Sync>,
    state: Mutex<CallbackState>,
}

#[derive(Default)]
struct CallbackState {
    events: Queue,
    /// The thread that calls the function now. It also delivers the events that come during the call.
    running: Option<ThreadId>,
    /// True if the last event says that the function itself made the client drop frames. It is delivered with the
    /// next event, because a function that sends would otherwise be called for ever.
    is_own: bool,
    is_removed: bool,
}

impl CallbackState {
    fn push(&mut self, event: &Event) {
        let is_running_here = self.running == Some(std::thread::current().id());
        self.is_own = is_running_here && matches!(event, Event::Dropped { .. });
        self.events.push(event);
    }

    fn pop(&mut self) -> Option<Event> {
        let wait = self.is_removed || (self.is_own && self.events.0.len() == 1);
        if wait { None } else { self.events.0.pop_front() }
    }
}

impl Stream {
    /// Appends an event, or the end. Returns the waker, which the caller must wake without holding a lock.
    fn push(&self, event: Option<&Event>, last: bool) -> Option<Waker> {
        let mut waiting = self.0.lock();
        if let Some(event) = event {
            waiting.events.push(event);
        }
        waiting.ended |= last;
        waiting.waker.take()
    }
}

impl Queue {
    fn push(&mut self, event: &Event) {
        if let (Some(Event::Dropped { frames }), Event::Dropped { frames: more }) = (self.0.back_mut(), event)
        {
            *frames += more;
            return;
        }
        if self.0.len() == MAX_WAITING {
            self.0.pop_front();
        }
        self.0.push_back(event.clone());
    }
}

impl Callback {
    /// Calls the function with the waiting events, unless another thread does so. The caller must hold no lock.
    fn run(&self) {
        let mut state = self.state.lock();
        if state.running.is_some() {
            return;
        }
        state.running = Some(std::thread::current().id());
        while let Some(event) = state.pop() {
            drop(state);
            // A panic must neither end the connection nor prevent other callbacks from being called.
            contain(format_args!("the callback for {event:?}"), || (self.function)(&event));
            state = self.state.lock();
        }
        state.running = None;
    }
}

impl Hub {
    /// Reports an event to all listeners. Callbacks run on this thread.
    pub(super) fn tell(&self, event: Event) {
        self.pass(Some(&event), false);
    }

    /// Reports the last event to all listeners. Further calls do nothing.
    pub(super) fn end(&self, event: Option<&Event>) {
        self.pass(event, true);
    }

    /// Returns true if there may be a listener.
    pub(super) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    fn pass(&self, event: Option<&Event>, last: bool) {
        // Dropping a stream drops its waker, which must not happen under the lock.
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
                wakers.extend(stream.push(event, last));
                streams.push(stream);
                true
            }
            None => false,
        });
        if let Some(event) = event {
            state.callbacks.iter().for_each(|callback| callback.state.lock().push(event));
        }
        let callbacks = if last { mem::take(&mut state.callbacks) } else { state.callbacks.clone() };
        drop(state);
        wake_all(wakers);
        for stream in streams {
            contain("the drop of a waker", || drop(stream));
        }
        for callback in callbacks {
            callback.run();
            release(callback);
        }
    }

    pub(super) fn subscribe(&self) -> Events {
        let stream = Arc::new(Stream::default());
        let mut state = self.state.lock();
        self.heard.store(true, Ordering::Relaxed);
        let mut waiting = stream.0.lock();
        waiting.events.0.extend(state.present.clone());
        waiting.ended = state.ended;
        drop(waiting);
        if !state.ended {
            state.streams.retain(|stream| stream.strong_count() > 0);
            state.streams.push(Arc::downgrade(&stream));
        }
        drop(state);
        Events { stream, process: Process::current() }
    }

    /// Adds a callback and calls it with the present state. It is removed when the returned value is dropped.
    pub(super) fn add_callback(
        self: &Arc<Self>,
        function: Box<dyn Fn(&Event) + Send + Sync>,
    ) -> EventCallback {
        let callback = Arc::new(Callback { function, state: Mutex::default() });
        let added = EventCallback {
            hub: Arc::downgrade(self),
            callback: Arc::downgrade(&callback),
            process: Process::current(),
        };
        let mut state = self.state.lock();
        self.heard.store(true, Ordering::Relaxed);
        callback.state.lock().events.0.extend(state.present.clone());
        if !state.ended {
            state.callbacks.push(callback.clone());
        }
        drop(state);
        callback.run();
        release(callback);
        added
    }

    fn remove_callback(&self, callback: &Arc<Callback>) {
        callback.state.lock().is_removed = true;
        let mut state = self.state.lock();
        let index = state.callbacks.iter().position(|other| Arc::ptr_eq(other, callback));
        let removed = index.map(|index| state.callbacks.remove(index));
        drop(state);
        removed.into_iter().for_each(release);
    }
}

/// Drops a callback. With the last handle, the values that the callback has captured are dropped too.
fn release(callback: Arc<Callback>) {
    contain("the drop of a callback", || drop(callback));
}

/// A callback that has been added to a client, see [`Client::on_event`](super::Client::on_event). Dropping this value
/// removes the callback: it is not called again, but a call that has begun on another thread may still be running.
/// The values that the callback has captured are then dropped.
#[must_use = "the callback is removed when this is dropped; `detach` keeps it"]
pub struct EventCallback {
    hub: Weak<Hub>,
    callback: Weak<Callback>,
    process: Process,
}

impl EventCallback {
    /// Returns the handle of a client that was made in another process: there is no callback.
    pub(super) fn none() -> EventCallback {
        EventCallback { hub: Weak::new(), callback: Weak::new(), process: Process::current() }
    }

    /// Keeps the callback until the client ends for good. A callback that captures its own [`Client`](super::Client)
    /// keeps that client from being dropped; let it capture a [`WeakClient`](super::WeakClient) instead.
    pub fn detach(mut self) {
        self.hub = Weak::new();
    }
}

impl Drop for EventCallback {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        let Some(callback) = self.callback.upgrade() else { return };
        if let Some(hub) = self.hub.upgrade() {
            hub.remove_callback(&callback);
        }
        release(callback);
    }
}

impl fmt::Debug for EventCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventCallback").field("called", &(self.callback.strong_count() > 0)).finish()
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let present = self.state.try_lock().map(|state| state.present.clone());
        f.debug_struct("Hub").field("present", &present).finish_non_exhaustive()
    }
}

/// The events of a client, starting with the present state. There may be any number of streams; each yields all
/// events. A stream does not keep the client connected. It holds up to 256 events that have not been taken; then the
/// oldest are dropped. In a child made by fork it yields nothing.
pub struct Events {
    stream: Arc<Stream>,
    process: Process,
}

impl Events {
    /// Returns a stream that has ended.
    pub(super) fn ended() -> Events {
        let stream = Stream(Mutex::new(Waiting { ended: true, ..Waiting::default() }));
        Events { stream: Arc::new(stream), process: Process::current() }
    }

    /// Waits for the next event. Returns `None` when the client has ended for good. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Returns the next event if one is waiting.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.process.is_current().then(|| self.stream.0.lock().events.0.pop_front()).flatten()
    }

    /// Does the same as [`recv`](Events::recv), for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if !self.process.is_current() {
            return Poll::Ready(None);
        }
        register(cx.waker(), |registration| {
            let mut waiting = self.stream.0.lock();
            match waiting.events.0.pop_front() {
                Some(event) => Some(Poll::Ready(Some(event))),
                None if waiting.ended => Some(Poll::Ready(None)),
                None => registration.put_in(&mut waiting.waker).then_some(Poll::Pending),
            }
        })
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.stream.0.try_lock().map(|waiting| waiting.events.0.len());
        f.debug_struct("Events").field("waiting", &waiting).finish_non_exhaustive()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.process.leak_if_inherited(&self.stream);
    }
}
