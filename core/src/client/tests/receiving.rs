//! Reading, the bound of the inbox, and the order of the items of one read.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that a received message with a payload of four bytes holds.
const SIZE: usize = size_of::<crate::Frame>() + b"peer\0four".len();

#[tokio::test]
async fn a_full_inbox_stops_reading() {
    let config = config().inbox_bytes(16 * SIZE).buf_size(256);
    let (client, mut broker) = connected(&config).await;
    let mut frames = client.frames().unwrap();
    let count = 50_000u32;
    let sender = tokio::spawn(async move {
        for i in 0..count {
            broker.send(&message(&i.to_le_bytes())).await;
        }
        broker
    });
    eventually(|| client.stats().queue >= 16).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // The inbox may exceed its bound by one read buffer.
    assert!(client.stats().queue <= 16 + 256 / 10, "{}", client.stats().queue);
    assert!(!sender.is_finished());
    for i in 0..count {
        assert_eq!(frames.recv().await.unwrap().payload(), i.to_le_bytes());
    }
    sender.await.unwrap();
    assert_eq!(client.stats().dropped, 0);
}

#[tokio::test]
async fn an_awaited_answer_is_read_beyond_the_bound() {
    let config = config().inbox_bytes(16 * SIZE).buf_size(256);
    let (client, mut broker) = connected(&config).await;
    let mut frames = client.frames().unwrap();
    let flood: Vec<u8> = (0..20_000u32).flat_map(|i| message(&i.to_le_bytes())).collect();
    let sender = tokio::spawn(async move {
        broker.send(&flood).await;
        broker.send(&delivery::ack(1, 1)).await;
        broker
    });
    eventually(|| client.stats().queue >= 16).await;
    client.send("b", "x", QoS::Processed).await.unwrap();
    let _broker = sender.await.unwrap();
    assert_eq!(client.stats().queue, 20_000);
    for i in 0..20_000u32 {
        assert_eq!(frames.recv().await.unwrap().payload(), i.to_le_bytes());
    }
}

#[tokio::test]
async fn reading_for_an_awaited_answer_is_bounded() {
    let config =
        config().inbox_bytes(50_000).inbox_awaiting_bytes(50_000).timeout(Duration::from_millis(200));
    let (client, mut broker) = connected(&config).await;
    let _frames = client.frames().unwrap();
    let sender = tokio::spawn(async move {
        for _ in 0..1000 {
            broker.send(&message(&[0; 10_000])).await;
        }
        broker.send(&delivery::ack(1, 1)).await;
    });
    assert_eq!(client.send("b", "x", QoS::Processed).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(client.stats().queue < 1000);
    assert!(!sender.is_finished());
    sender.abort();
}

#[tokio::test]
async fn a_program_that_takes_no_frames_is_not_held_back() {
    let config = config().inbox_bytes(16 * SIZE);
    let (client, mut broker) = connected(&config).await;
    for i in 0..1000u32 {
        broker.send(&message(&i.to_le_bytes())).await;
    }
    broker.send(&delivery::ack(1, 1)).await;
    client.send("b", "x", QoS::Processed).await.unwrap();
    let stats = client.stats();
    assert_eq!((stats.r_frames, stats.queue, stats.dropped), (1000, 16, 984));
    // The frames that arrived first still wait for the program.
    assert_eq!(client.frames().unwrap().recv().await.unwrap().payload(), 0u32.to_le_bytes());
}

/// While the inbox is full, the client reports to the broker when the program takes frames, and only then.
#[tokio::test]
async fn a_full_inbox_reports_progress() {
    let config = config().inbox_bytes(4 * SIZE).buf_size(256).ping_interval(PATIENCE);
    let (client, mut broker) = connected(&config).await;
    let mut frames = client.frames().unwrap();
    let flood: Vec<u8> = (0..1000u32).flat_map(|i| message(&i.to_le_bytes())).collect();
    broker.send(&flood).await;
    eventually(|| client.stats().queue >= 4).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(broker.read_now(), b"");
    for _ in 0..3 {
        frames.recv().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    let reports = broker.read_now();
    assert!(reports.len() >= 2 * request::PROGRESS.len() && reports.len() <= 3 * request::PROGRESS.len());
    assert!(reports.chunks(request::PROGRESS.len()).all(|report| report == request::PROGRESS));
}

/// Answers are delivered after the frames that came before them are queued.
#[tokio::test]
async fn frames_come_before_the_answers_behind_them() {
    struct Look(Client, AtomicUsize);
    impl std::task::Wake for Look {
        fn wake(self: Arc<Self>) {
            self.1.store(self.0.stats().queue, Ordering::SeqCst);
        }
    }
    let (client, mut broker) = connected(&config()).await;
    let _frames = client.frames().unwrap();
    let look = Arc::new(Look(client.clone(), AtomicUsize::new(usize::MAX)));
    let waker = look.clone().into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut confirmation =
        client.submit(Operation::Message { target: "b", payload: "x".into() }, QoS::Processed).await.unwrap();
    assert!(std::pin::Pin::new(&mut confirmation).poll(&mut cx).is_pending());
    broker.send(&[&message(b"1")[..], &message(b"2"), &delivery::ack(1, 1)].concat()).await;
    eventually(|| look.1.load(Ordering::SeqCst) != usize::MAX).await;
    assert_eq!(look.1.load(Ordering::SeqCst), 2);
}

/// A waiting thread may read the socket itself, without the runtime.
#[test]
fn a_thread_reads_the_socket_itself() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (client, broker) = runtime.block_on(connected(&config()));
    let broker = broker.0.into_std().unwrap();
    let mut frames = client.frames().unwrap();
    let Link::Wire(connection) = &client.0.link else { panic!("over a socket") };
    // The runtime does not run: only this thread can read.
    for i in 0..100u32 {
        assert!(!connection.read_now());
        std::io::Write::write_all(&mut &broker, &message(&i.to_le_bytes())).unwrap();
        assert!(connection.read_now());
        assert_eq!(frames.try_recv().unwrap().payload(), i.to_le_bytes());
    }
    std::io::Write::write_all(&mut &broker, &message(b"last")).unwrap();
    drop(broker);
    runtime.block_on(async {
        assert_eq!(frames.recv().await.unwrap().payload(), b"last");
        assert!(frames.recv().await.is_none());
    });
    assert!(!connection.read_now());
}

/// Counts how often it was woken, and how often this happened while the input of its client was locked.
struct Watch {
    client: Client,
    woken: AtomicUsize,
    locked: AtomicUsize,
}

impl std::task::Wake for Watch {
    fn wake(self: Arc<Self>) {
        let Link::Wire(connection) = &self.client.0.link else { return };
        self.woken.fetch_add(1, Ordering::SeqCst);
        self.locked.fetch_add(usize::from(connection.is_reading()), Ordering::SeqCst);
    }
}

/// Wakers of every kind of wait run after the input is unlocked, also when the connection ends within the read.
#[test]
fn no_waker_runs_while_the_input_is_locked() {
    for broken in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = config().inbox_bytes(2 * SIZE).overflow(Overflow::DropOld);
        let (client, broker) = runtime.block_on(connected(&config));
        let mut broker = broker.0.into_std().unwrap();
        let Link::Wire(connection) = &client.0.link else { panic!("over a socket") };
        let watches: Vec<_> = (0..5)
            .map(|_| {
                let (woken, locked) = (AtomicUsize::new(0), AtomicUsize::new(0));
                Arc::new(Watch { client: client.clone(), woken, locked })
            })
            .collect();
        let wakers: Vec<std::task::Waker> = watches.iter().map(|watch| watch.clone().into()).collect();
        let mut contexts = wakers.iter().map(std::task::Context::from_waker);
        let mut cx = || contexts.next().unwrap();

        let mut frames = client.frames().unwrap();
        assert!(frames.poll_recv(&mut cx()).is_pending());
        let mut events = client.events();
        assert!(events.poll_recv(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready());
        assert!(events.poll_recv(&mut cx()).is_pending());
        let request = Request::message("peer", b"x", QoS::Processed);
        let pending = client.try_send(&request).unwrap().sent().unwrap();
        assert!(pending.poll_result(&mut cx()).is_pending());
        let completions = CompletionQueue::new();
        assert!(client.try_send_to(&request, &completions, 7).unwrap().is_sent());
        assert!(completions.poll_ready(&mut cx()).is_pending());
        #[cfg(feature = "rpc")]
        let call = {
            use crate::rpc::{CallRequest, Caller};
            let caller = Caller::new(client.clone());
            let call = caller.try_call(&CallRequest::new("peer", "m", b"", QoS::No)).unwrap().sent().unwrap();
            assert!(call.poll_result(&mut cx()).is_pending());
            call
        };

        let mut stream: Vec<u8> = (0..4u32).flat_map(|i| message(&i.to_le_bytes())).collect();
        stream.extend([delivery::ack(1, 1), delivery::ack(2, 1)].concat());
        #[cfg(feature = "rpc")]
        stream.extend(message(&crate::proto::rpc::reply_header(call.id())));
        if broken {
            stream.extend(b"\x99\0\0\0\0\0");
        }
        std::io::Write::write_all(&mut broker, &stream).unwrap();
        assert_eq!(connection.read_now(), !broken);
        let expected = if cfg!(feature = "rpc") { 5 } else { 4 };
        for (i, watch) in watches.iter().take(expected).enumerate() {
            assert_eq!(watch.woken.load(Ordering::SeqCst), 1, "waker {i}");
            assert_eq!(watch.locked.load(Ordering::SeqCst), 0, "waker {i} ran under the lock");
        }
    }
}
