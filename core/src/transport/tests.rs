//! Tests of both implementations of a socket.

use super::Socket;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Long enough for a loaded machine. It is only reached if something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

fn unix_pair() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Socket::from_unix(ours).unwrap(), theirs)
}

fn tcp_pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    theirs.set_nodelay(true).unwrap();
    (Socket::from_tcp(listener.accept().unwrap().0).unwrap(), theirs)
}

/// Reads like a session, with more room than there are bytes, until the bytes end with `end`.
async fn read_until(socket: &Socket, end: &[u8]) -> Vec<u8> {
    let mut got = Vec::new();
    let reading = async {
        while !got.ends_with(end) {
            socket.readable().await.unwrap();
            got.reserve(4096);
            match socket.try_read_buf(&mut got) {
                Ok(0) => panic!("the stream has ended after {got:?}"),
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reading).await.is_ok();
    assert!(in_time, "only {:?} was read", got.escape_ascii().to_string());
    got
}

fn send_with_descriptor(socket: &UnixStream, bytes: &[u8]) {
    let descriptors = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent.unwrap(), bytes.len());
}

/// Returns the number of descriptors of this process that refer to the socket `inode`.
#[cfg(target_os = "linux")]
fn descriptors_of(inode: u64) -> usize {
    let wanted = format!("socket:[{inode}]");
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_str() == Some(&wanted))
        .count()
}

#[tokio::test]
async fn bytes_behind_a_message_with_a_descriptor_are_read() {
    let (socket, mut theirs) = unix_pair();
    for round in 0..3 {
        send_with_descriptor(&theirs, b"A");
        theirs.write_all(b"B").unwrap();
        assert_eq!(read_until(&socket, b"B").await, b"AB", "round {round}");
    }
    // Several in a row, and one at the end.
    send_with_descriptor(&theirs, b"1");
    send_with_descriptor(&theirs, b"2");
    theirs.write_all(b"3").unwrap();
    send_with_descriptor(&theirs, b"4");
    assert_eq!(read_until(&socket, b"4").await, b"1234");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn received_descriptors_are_closed() {
    let (socket, theirs) = unix_pair();
    let inode = rustix::fs::fstat(&theirs).unwrap().st_ino;
    for _ in 0..100 {
        send_with_descriptor(&theirs, b"A");
        read_until(&socket, b"A").await;
    }
    assert_eq!(descriptors_of(inode), 1);
    // Descriptors that are never read are closed with the socket.
    send_with_descriptor(&theirs, b"A");
    drop(socket);
    assert_eq!(descriptors_of(inode), 1);
}

/// Sends bytes, an urgent byte and bytes, three times, and reads everything. The urgent byte itself is ignored: it is
/// out of band, or in the stream if the next one comes before it was skipped.
async fn urgent_bytes(socket: Socket, mut theirs: impl Write + AsFd) {
    for round in 0..3 {
        theirs.write_all(b"before").unwrap();
        rustix::net::send(&theirs, b"!", SendFlags::OOB).unwrap();
        theirs.write_all(b"after").unwrap();
        let got = read_until(&socket, b"after").await;
        let regular: Vec<u8> = got.into_iter().filter(|byte| *byte != b'!').collect();
        assert_eq!(regular, b"beforeafter", "round {round}");
    }
    // An ordinary stream continues as before.
    theirs.write_all(b"ordinary").unwrap();
    read_until(&socket, b"ordinary").await;
}

#[tokio::test]
async fn bytes_behind_a_tcp_urgent_byte_are_read() {
    let (socket, theirs) = tcp_pair();
    urgent_bytes(socket, theirs).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn bytes_behind_an_urgent_byte_over_a_unix_socket_are_read() {
    let (socket, theirs) = unix_pair();
    // Kernels before 5.15, and those built without the option, do not support it.
    if rustix::net::send(&theirs, b"!", SendFlags::OOB).is_ok() {
        urgent_bytes(socket, theirs).await;
    }
}

/// The urgent byte comes alone, after everything before it has been read.
#[tokio::test]
async fn an_urgent_byte_alone_ends_nothing() {
    let (socket, mut theirs) = tcp_pair();
    theirs.write_all(b"one").unwrap();
    read_until(&socket, b"one").await;
    rustix::net::send(&theirs, b"!", SendFlags::OOB).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    theirs.write_all(b"two").unwrap();
    read_until(&socket, b"two").await;
}

/// A read that empties the socket clears the readiness: the next one waits.
#[tokio::test]
async fn an_ordinary_short_read_is_the_last() {
    for (socket, mut theirs) in [
        {
            let (socket, theirs) = unix_pair();
            (socket, Box::new(theirs) as Box<dyn Write>)
        },
        {
            let (socket, theirs) = tcp_pair();
            (socket, Box::new(theirs) as Box<dyn Write>)
        },
    ] {
        theirs.write_all(b"all").unwrap();
        read_until(&socket, b"all").await;
        let mut room = Vec::with_capacity(16);
        let e = socket.try_read_buf(&mut room).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
        theirs.write_all(b"more").unwrap();
        read_until(&socket, b"more").await;
    }
}

/// Waits until a condition holds, because data sent over TCP needs some time.
async fn becomes(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the condition does not come true");
}

/// Checks what a socket reports about unread bytes and about its peer. `end` ends the peer's direction.
async fn state(socket: Socket, mut theirs: impl Write, end: impl FnOnce(&mut dyn Write)) {
    assert!(!socket.has_unread() && socket.unread() == 0 && !socket.peer_has_hung_up());
    theirs.write_all(b"12345").unwrap();
    becomes(|| socket.unread() == 5).await;
    assert!(socket.has_unread() && !socket.peer_has_hung_up());
    end(&mut theirs);
    if cfg!(all(target_os = "linux", not(busrt_portable))) {
        // With unread bytes, too.
        becomes(|| socket.peer_has_hung_up()).await;
    }
    assert!(socket.has_unread() && socket.unread() == 5);
    read_until(&socket, b"12345").await;
    assert!(!socket.has_unread() && socket.unread() == 0);
    becomes(|| socket.peer_has_hung_up()).await;
    socket.readable().await.unwrap();
    assert_eq!(socket.try_read_buf(&mut Vec::with_capacity(8)).unwrap(), 0);
    assert!(socket.peer_has_hung_up() && !socket.has_unread());
}

#[tokio::test]
async fn unread_bytes_and_a_peer_that_hangs_up() {
    let (socket, theirs) = unix_pair();
    let handle = theirs.try_clone().unwrap();
    state(socket, theirs, move |_| handle.shutdown(std::net::Shutdown::Write).unwrap()).await;
    let (socket, theirs) = tcp_pair();
    let handle = theirs.try_clone().unwrap();
    state(socket, theirs, move |_| handle.shutdown(std::net::Shutdown::Write).unwrap()).await;
    // A peer that has closed completely.
    let (socket, theirs) = unix_pair();
    drop(theirs);
    becomes(|| socket.peer_has_hung_up()).await;
}

/// Compares the two system calls with which a socket reads: a write and a read of 64 bytes over a UNIX pair.
#[test]
#[ignore = "a measurement"]
fn cost_of_recvmsg_beside_recv() {
    use rustix::net::{RecvAncillaryBuffer, RecvFlags, recv, recvmsg};
    const ROUNDS: u32 = 100_000;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut room = [0; 65_536];
    let mut measure = |read: &mut dyn FnMut(&mut [u8]) -> usize| {
        let start = std::time::Instant::now();
        for _ in 0..ROUNDS {
            theirs.write_all(&[0; 64]).unwrap();
            assert_eq!(read(&mut room), 64);
        }
        start.elapsed() / ROUNDS
    };
    for _ in 0..7 {
        let plain = measure(&mut |room| recv(&ours, room, RecvFlags::empty()).unwrap().1);
        let with_flags = measure(&mut |room| {
            let mut slices = [std::io::IoSliceMut::new(room)];
            let mut control = RecvAncillaryBuffer::default();
            recvmsg(&ours, &mut slices, &mut control, RecvFlags::empty()).unwrap().bytes
        });
        println!("recv {plain:?}, recvmsg {with_flags:?}");
    }
}
