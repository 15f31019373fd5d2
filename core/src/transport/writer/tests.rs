//! A writer in front of one end of a socket pair.

use super::*;
use std::future::poll_fn;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

fn pair() -> (Arc<Writer>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Writer::new(Arc::new(Socket::from_unix(ours).unwrap())), theirs)
}

fn push(writer: &Arc<Writer>, bytes: &[u8]) {
    writer.with(|b| b.queue().push(|out| out.extend_from_slice(bytes))).unwrap();
}

#[tokio::test]
async fn writes_on_the_callers_thread() {
    let (writer, mut peer) = pair();
    push(&writer, b"abc");
    assert_eq!(writer.load(), Load { frames: 1, bytes: 3 });
    writer.flush();
    if cfg!(busrt_portable) {
        // tokio's sockets write nothing before the runtime has seen them writable once.
        writer.drained().await;
    }
    assert_eq!(writer.load(), Load::default());
    let mut got = [0; 3];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_takes_over_when_the_socket_is_full() {
    let (writer, mut peer) = pair();
    let mut wanted = vec![];
    for i in 0..200u32 {
        let payload: Vec<u8> = (0..20_000).map(|k| (k + i) as u8).collect();
        wanted.extend_from_slice(b"head");
        wanted.extend_from_slice(&payload);
        writer
            .with(|b| b.queue().push_with(|out| out.extend_from_slice(b"head"), Bytes::from(payload), false))
            .unwrap();
        writer.flush();
    }
    assert!(writer.load().frames > 100);
    let reader = tokio::task::spawn_blocking(move || {
        let mut got = vec![0; wanted.len()];
        peer.read_exact(&mut got).unwrap();
        assert!(got == wanted);
        peer
    });
    assert!(writer.wait_below(50, usize::MAX).await);
    writer.drained().await;
    assert_eq!(writer.load(), Load::default());
    let mut peer = reader.await.unwrap();
    push(&writer, b"after");
    writer.flush();
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"after");
}

/// The kernel frees what a reader has taken in whole pieces: those of small frames hold few of them.
#[cfg(all(target_os = "linux", not(busrt_portable)))]
#[tokio::test]
async fn a_slow_reader_of_small_frames_is_seen_to_take_some() {
    const BYTES: usize = 25;
    let (writer, mut peer) = pair();
    for _ in 0..100_000 {
        push(&writer, &[7; BYTES]);
    }
    writer.flush();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..10 {
        let before = writer.progress().bytes;
        peer.read_exact(&mut [0; 256 * BYTES]).unwrap();
        let started = Instant::now();
        while writer.progress().bytes == before {
            assert!(started.elapsed() < Duration::from_secs(2), "256 frames were taken, and it is not seen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_larger_buffer_takes_more_at_once() {
    let taken = |buffers| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::from_unix(ours).unwrap();
        socket.set_buffers(buffers).unwrap();
        let writer = Writer::new(Arc::new(socket));
        push(&writer, &[0; 1 << 20]);
        writer.flush();
        let taken = (1 << 20) - writer.load().bytes;
        drop(theirs);
        taken
    };
    if cfg!(not(busrt_portable)) {
        let small = taken(crate::transport::Buffers { send: Some(4096), receive: None });
        assert!(small < taken(crate::transport::Buffers { send: Some(128 * 1024), receive: None }));
    }
}

#[tokio::test]
async fn a_position_is_reached_when_everything_before_it_is_written() {
    let (writer, mut peer) = pair();
    writer.with(|b| b.queue().push_with(|_| {}, Bytes::from(vec![1; 4_000_000]), false)).unwrap();
    writer.flush();
    let middle = writer.position();
    push(&writer, &[2; 1_000_000]);
    writer.flush();
    let end = writer.position();
    assert_eq!((middle, end), (4_000_000, 5_000_000));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(writer.poll_written(1, middle, &mut cx).is_pending());
    writer.forget_waiter(1);
    let reader = tokio::task::spawn_blocking(move || {
        peer.read_exact(&mut vec![0; 5_000_000]).unwrap();
        peer
    });
    assert!(poll_fn(|cx| writer.poll_written(1, end, cx)).await);
    writer.close();
    assert_eq!(writer.poll_written(2, middle, &mut cx), Poll::Ready(true));
    assert_eq!(writer.poll_written(2, end + 1, &mut cx), Poll::Ready(false));
    drop(reader.await.unwrap());
}

#[tokio::test]
async fn closing_ends_waits_and_the_peer_sees_it() {
    let (writer, mut peer) = pair();
    push(&writer, b"lost");
    let waiting = tokio::spawn({
        let writer = writer.clone();
        async move { writer.wait_below(1, 1).await }
    });
    tokio::task::yield_now().await;
    writer.close();
    assert!(!waiting.await.unwrap());
    assert!(writer.with(|_| ()).is_none());
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
}

#[tokio::test]
async fn a_peer_that_is_gone_closes_the_writer() {
    let (writer, peer) = pair();
    drop(peer);
    push(&writer, b"x");
    writer.flush();
    writer.drained().await;
    assert!(writer.is_closed());
}

#[tokio::test]
async fn a_waker_that_panics_is_contained() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a foreign waker");
        }
    }
    let (writer, _peer) = pair();
    push(&writer, b"x");
    let waker = Arc::new(Panics).into();
    let mut cx = Context::from_waker(&waker);
    let below = Load { frames: 1, bytes: 1 };
    assert_eq!(writer.poll_below(1, below, &mut cx), Poll::Pending);
    writer.wake_waiters();
    assert_eq!(writer.poll_below(2, below, &mut cx), Poll::Pending);
    if cfg!(not(busrt_portable)) {
        writer.flush();
        assert_eq!(writer.load(), Load::default());
    }
    writer.close();
}
