//! Batches into the program's buffer, and their wake-ups.

use super::*;

fn take(frames: &mut Frames, most: usize, bytes: usize) -> Option<Vec<u8>> {
    let mut batch = vec![];
    let taken = frames.take_batch(&mut batch, most, bytes)?;
    assert_eq!(taken, batch.len());
    Some(batch.iter().map(|frame| frame.payload()[0]).collect())
}

#[test]
fn batches_into_the_programs_buffer() {
    let inbox = Client::new(&config());
    let mut frames = inbox.frames();
    assert_eq!(take(&mut frames, 10, 1000), Some(vec![]));
    append(&inbox, 0..200);
    assert_eq!(frames.try_recv().unwrap().payload(), [0]);
    assert_eq!(take(&mut frames, 3, usize::MAX).unwrap(), [1, 2, 3]);
    // A body has six bytes.
    assert_eq!(take(&mut frames, usize::MAX, 12).unwrap(), [4, 5]);
    assert_eq!(take(&mut frames, 0, 0).unwrap(), [6]);
    assert_eq!(take(&mut frames, usize::MAX, usize::MAX).unwrap(), (7..200).collect::<Vec<_>>());
    append(&inbox, 0..1);
    inbox.end(End::new(ErrorKind::ConnectionLost, ""));
    assert_eq!((take(&mut frames, 9, 9), take(&mut frames, 9, 9)), (Some(vec![0]), None));
}

#[cfg(unix)]
#[test]
fn a_descriptor_is_readable_while_frames_wait() {
    use crate::client::WakeFd;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::fd::AsFd;
    let is_readable = |descriptor: &WakeFd| {
        let mut fds = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    };
    let inbox = Client::new(&config());
    let mut frames = inbox.frames();
    append(&inbox, 0..2);
    let descriptor = WakeFd::new().unwrap();
    frames.set_wake_up(&descriptor);
    for round in 0..3 {
        assert!(is_readable(&descriptor), "{round}");
        assert_eq!(take(&mut frames, 1, 1000).unwrap(), [0]);
        assert!(is_readable(&descriptor), "one frame is left");
        assert_eq!(take(&mut frames, 9, 1000).unwrap(), [1]);
        assert!(!is_readable(&descriptor));
        assert_eq!(take(&mut frames, 9, 1000), Some(vec![]));
        assert!(!is_readable(&descriptor));
        append(&inbox, 0..2);
    }
    while take(&mut frames, 9, 1000) != Some(vec![]) {}
    inbox.end(End::new(ErrorKind::ConnectionLost, ""));
    for _ in 0..2 {
        assert!(is_readable(&descriptor));
        assert_eq!(take(&mut frames, 9, 1000), None);
    }
}

/// One thread appends, another one takes: no frame is lost, and no wake-up.
#[test]
fn a_taker_that_sleeps_is_always_woken() {
    let inbox = Client::new(&config());
    let mut frames = inbox.frames();
    let appending = std::thread::spawn({
        let inbox = inbox.clone();
        move || {
            for i in 0..20_000u32 {
                append(&inbox, [i as u8]);
                if i % 7 == 0 {
                    std::thread::yield_now();
                }
            }
        }
    });
    struct Parked(std::thread::Thread);
    impl std::task::Wake for Parked {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    frames.set_wake_up(Waker::from(Arc::new(Parked(std::thread::current()))));
    let mut batch = vec![];
    while batch.len() < 20_000 {
        if frames.take_batch(&mut batch, 5, usize::MAX) == Some(0) {
            std::thread::park();
        }
    }
    appending.join().unwrap();
    assert!(batch.iter().enumerate().all(|(i, frame)| frame.payload()[0] == i as u8));
}
