use super::*;
use std::sync::atomic::AtomicU64;

#[test]
fn all_streams_start_with_the_present_state() {
    let hub = Hub::default();
    hub.tell(Event::Connected);
    let mut early = hub.subscribe();
    let last = Event::disconnected(&Error::new(ErrorKind::Io, "why"), true);
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
fn a_stream_that_is_not_read_holds_a_bounded_number() {
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
    let callback = hub.add_callback(Box::new(move |event| {
        let _ = inner.subscribe();
        count.fetch_add(1, Ordering::Relaxed);
        assert!(*event == Event::Connected, "a panic");
    }));
    hub.tell(Event::Dropped { frames: 1 });
    hub.end(None);
    assert_eq!(told.load(Ordering::Relaxed), 2);
    assert_eq!(Arc::strong_count(&hub), 1);
    drop(callback);
}

#[test]
fn a_callback_sees_the_order_of_the_streams_one_event_at_a_time() {
    let hub = Arc::new(Hub::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (entered, has_entered) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let mut stream = hub.subscribe();
    hub.tell(Event::Connected);
    let adding = std::thread::spawn({
        let (hub, seen) = (hub.clone(), seen.clone());
        move || {
            let function = move |event: &Event| {
                if *event == Event::Connected {
                    entered.send(()).unwrap();
                    gone.lock().recv().unwrap();
                }
                seen.lock().push(event.clone());
            };
            hub.add_callback(Box::new(function)).detach();
        }
    });
    // More happens while another thread calls the callback with the first event.
    has_entered.recv().unwrap();
    hub.tell(Event::Dropped { frames: 1 });
    hub.end(Some(&Event::disconnected(&ErrorKind::Io.into(), true)));
    assert!(seen.lock().is_empty());
    go.send(()).unwrap();
    adding.join().unwrap();
    let told: Vec<Event> = std::iter::from_fn(|| stream.try_recv()).collect();
    assert_eq!(told.len(), 3);
    assert_eq!(*seen.lock(), told);
}

#[test]
fn a_callback_that_makes_the_client_drop_frames_is_not_called_for_ever() {
    let hub = Arc::new(Hub::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    hub.add_callback(Box::new({
        let (hub, seen) = (hub.clone(), seen.clone());
        move |event| {
            seen.lock().push(event.clone());
            hub.tell(Event::Dropped { frames: 1 });
        }
    }))
    .detach();
    hub.tell(Event::Connected);
    hub.tell(Event::Dropped { frames: 10 });
    assert_eq!(*seen.lock(), [Event::Connected, Event::Dropped { frames: 11 }]);
    hub.end(None);
}

#[test]
fn a_removed_callback_is_not_called_and_not_kept() {
    let hub = Arc::new(Hub::default());
    let told = Arc::new(AtomicU64::new(0));
    let count = |told: &Arc<AtomicU64>| {
        let told = told.clone();
        Box::new(move |_: &Event| {
            told.fetch_add(1, Ordering::Relaxed);
        })
    };
    let taken_back = hub.add_callback(count(&told));
    hub.add_callback(count(&told)).detach();
    hub.tell(Event::Connected);
    assert_eq!(told.load(Ordering::Relaxed), 2);
    drop(taken_back);
    assert_eq!(Arc::strong_count(&told), 2);
    hub.tell(Event::Connected);
    assert_eq!(told.load(Ordering::Relaxed), 3);
}

#[test]
fn a_callback_may_remove_itself() {
    let hub = Arc::new(Hub::default());
    let told = Arc::new(AtomicU64::new(0));
    let own: Arc<Mutex<Option<EventCallback>>> = Arc::default();
    let (own_callback, count) = (own.clone(), told.clone());
    let callback = hub.add_callback(Box::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let callback = own_callback.lock().take();
        drop(callback);
    }));
    *own.lock() = Some(callback);
    hub.tell(Event::Connected);
    hub.tell(Event::Connected);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert_eq!(Arc::strong_count(&own), 1);
}
