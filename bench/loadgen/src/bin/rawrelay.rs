//! A lower bound for brokers: one thread, one epoll, no queues, no checks. It implements only the part of the wire
//! protocol (registration, 0x12 messages, acknowledgements of subscriptions, 0x01 publications to every subscriber of
//! exactly that topic) that loadgen's p2p, pingpong and fanout need. A real broker does at least this work.
//!
//! Usage: rawrelay SOCKET. It runs until it is killed. It reads a large message completely, then writes it
//! completely, and does nothing else during that time: the message is copied out of the kernel once and into it once.

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// Minimum length of a large message, in bytes.
const LARGE: usize = 16 * 1024;
/// Maximum number of bytes that one read takes.
const READ: usize = 1 << 17;

/// One connection.
struct C {
    s: UnixStream,
    /// Bytes that were read but are not a complete frame yet.
    inb: Vec<u8>,
    /// Bytes that are not written yet.
    out: Vec<u8>,
    name: Vec<u8>,
    /// 0: greeting expected, 1: name expected, 2: registered.
    stage: u8,
    /// True if a large message was written to it: the kernel then has a larger buffer for it.
    large: bool,
    /// True if it is registered for writability.
    waits: bool,
}

impl C {
    /// Writes the pending bytes. Returns the new events for the kernel's registration, if they change.
    fn flush(&mut self) -> Option<i32> {
        if !self.out.is_empty() {
            let written = self.s.write(&self.out).unwrap_or(0);
            self.out.drain(..written);
        }
        let waits = !self.out.is_empty();
        let changed = waits != self.waits;
        self.waits = waits;
        changed.then_some(libc::EPOLLIN | if waits { libc::EPOLLOUT } else { 0 })
    }
}

/// Appends at most `most` bytes to `buf`. Returns the result of the system call `read`.
fn read(fd: RawFd, buf: &mut Vec<u8>, most: usize) -> isize {
    buf.reserve(most);
    // SAFETY: there is room for `most` bytes after the existing ones.
    let n = unsafe { libc::read(fd, buf.as_mut_ptr().add(buf.len()).cast(), most) };
    if n > 0 {
        // SAFETY: the kernel has written these bytes.
        unsafe { buf.set_len(buf.len() + n as usize) };
    }
    n
}

/// Waits until the socket can be read from, or written to.
fn wait(fd: RawFd, events: i16) {
    let mut one = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: `one` outlives the call.
    unsafe { libc::poll(&mut one, 1, -1) };
}

/// Reads until there are `len` bytes. Returns false at the end of the stream.
fn read_all(fd: RawFd, buf: &mut Vec<u8>, len: usize) -> bool {
    while buf.len() < len {
        let missing = len - buf.len();
        match read(fd, buf, missing) {
            0 => return false,
            n if n < 0 => wait(fd, libc::POLLIN),
            _ => {}
        }
    }
    true
}

/// Writes `c.out`, which becomes empty, and `payload`.
fn write_all(c: &mut C, payload: &[u8]) {
    if !c.large {
        c.large = true;
        let size: i32 = 1 << 20;
        // SAFETY: `size` outlives the call.
        unsafe {
            let at = (&raw const size).cast();
            libc::setsockopt(c.s.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, at, size_of::<i32>() as u32);
        }
    }
    let mut at = 0;
    while at < c.out.len() + payload.len() {
        let head = at.min(c.out.len());
        let slices = [IoSlice::new(&c.out[head..]), IoSlice::new(&payload[at - head..])];
        match (&c.s).write_vectored(&slices) {
            Ok(n) => at += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait(c.s.as_raw_fd(), libc::POLLOUT),
            Err(_) => break,
        }
    }
    c.out.clear();
}

fn main() {
    let path = std::env::args().nth(1).expect("socket path");
    let _ = std::fs::remove_file(&path);
    let l = UnixListener::bind(&path).unwrap();
    l.set_nonblocking(true).unwrap();
    // SAFETY: no pointers are involved.
    let ep = unsafe { libc::epoll_create1(0) };
    let add = |fd, tok: u64, ev: i32, op| {
        let mut e = libc::epoll_event { events: ev as u32, u64: tok };
        // SAFETY: the event outlives the call, which copies it; a bad descriptor is an error returned.
        unsafe { libc::epoll_ctl(ep, op, fd, &mut e) };
    };
    add(l.as_raw_fd(), u64::MAX, libc::EPOLLIN, libc::EPOLL_CTL_ADD);
    let mut cs: Vec<Option<C>> = vec![];
    let mut names: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut subs: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    let mut evs = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
    let flush = |cs: &mut [Option<C>], dirty: &mut Vec<usize>| {
        for t in dirty.drain(..) {
            let Some(c) = cs[t].as_mut() else { continue };
            if let Some(events) = c.flush() {
                add(c.s.as_raw_fd(), t as u64, events, libc::EPOLL_CTL_MOD);
            }
        }
    };
    // The connections with pending bytes, in order.
    let mut dirty: Vec<usize> = vec![];
    loop {
        // SAFETY: `evs` has room for the 512 events that are requested.
        let n = unsafe { libc::epoll_wait(ep, evs.as_mut_ptr(), 512, -1) };
        for e in &evs[..n.max(0) as usize] {
            let tok = e.u64;
            if tok == u64::MAX {
                while let Ok((mut s, _)) = l.accept() {
                    s.write_all(&[0xeb, 1, 0]).unwrap();
                    s.set_nonblocking(true).unwrap();
                    add(s.as_raw_fd(), cs.len() as u64, libc::EPOLLIN, libc::EPOLL_CTL_ADD);
                    cs.push(Some(C {
                        s,
                        inb: vec![],
                        out: vec![],
                        name: vec![],
                        stage: 0,
                        large: false,
                        waits: false,
                    }));
                }
                continue;
            }
            let i = tok as usize;
            if e.events & libc::EPOLLOUT as u32 != 0 {
                dirty.push(i);
            }
            if e.events & libc::EPOLLIN as u32 == 0 {
                continue;
            }
            let Some(mut c) = cs[i].take() else { continue };
            match read(c.s.as_raw_fd(), &mut c.inb, READ) {
                0 => {
                    names.remove(&c.name);
                    for v in subs.values_mut() {
                        v.retain(|x| *x != i);
                    }
                    continue;
                }
                n if n < 0 => {
                    cs[i] = Some(c);
                    continue;
                }
                _ => {}
            }
            let mut p = 0;
            let mut inb = std::mem::take(&mut c.inb);
            let fd = c.s.as_raw_fd();
            let name = c.name.clone();
            cs[i] = Some(c);
            loop {
                let b = &inb[p..];
                let c = cs[i].as_mut().unwrap();
                if c.stage == 0 {
                    if b.len() < 3 {
                        break;
                    }
                    c.s.write_all(&[1]).unwrap();
                    c.stage = 1;
                    p += 3;
                } else if c.stage == 1 {
                    if b.len() < 2 || b.len() < 2 + u16::from_le_bytes([b[0], b[1]]) as usize {
                        break;
                    }
                    let l = u16::from_le_bytes([b[0], b[1]]) as usize;
                    c.name = b[2..2 + l].to_vec();
                    names.insert(c.name.clone(), i);
                    c.s.write_all(&[1]).unwrap();
                    c.stage = 2;
                    p += 2 + l;
                } else {
                    if b.len() < 9 {
                        break;
                    }
                    if b[4] == 0 {
                        p += 9;
                        continue;
                    }
                    let l = u32::from_le_bytes(b[5..9].try_into().unwrap()) as usize;
                    if b.len() < 9 + l && (l < LARGE || !read_all(fd, &mut inb, p + 9 + l)) {
                        break;
                    }
                    let b = &inb[p..];
                    let body = &b[9..9 + l];
                    let put = |c: &mut C, op: u8| {
                        c.out.push(op);
                        c.out.extend_from_slice(&((name.len() + 1 + body.len()) as u32).to_le_bytes());
                        c.out.push(0);
                        c.out.extend_from_slice(&name);
                        c.out.push(0);
                    };
                    match b[4] & 0x3f {
                        2 => {
                            subs.entry(body.to_vec()).or_default().push(i);
                            let ack = [0xfe, b[0], b[1], b[2], b[3], 1];
                            c.out.extend_from_slice(&ack);
                            dirty.push(i);
                        }
                        0x12 => {
                            let z = body.iter().position(|x| *x == 0).unwrap();
                            if let Some(t) = names.get(&body[..z]) {
                                let t = *t;
                                let c = cs[t].as_mut().unwrap();
                                c.out.push(0x12);
                                c.out.extend_from_slice(&((name.len() + l - z) as u32).to_le_bytes());
                                c.out.push(0);
                                c.out.extend_from_slice(&name);
                                if l >= LARGE {
                                    write_all(c, &body[z..]);
                                    p += 9 + l;
                                    continue;
                                }
                                c.out.extend_from_slice(&body[z..]);
                                if dirty.last() != Some(&t) {
                                    dirty.push(t);
                                }
                            }
                        }
                        1 => {
                            let z = body.iter().position(|x| *x == 0).unwrap();
                            if let Some(v) = subs.get(&body[..z]) {
                                for t in v {
                                    let c = cs[*t].as_mut().unwrap();
                                    put(c, 1);
                                    c.out.extend_from_slice(body);
                                    dirty.push(*t);
                                }
                            }
                        }
                        _ => {}
                    }
                    p += 9 + l;
                }
            }
            inb.drain(..p);
            if let Some(c) = cs[i].as_mut() {
                c.inb = inb;
            }
            flush(&mut cs, &mut dirty);
        }
        flush(&mut cs, &mut dirty);
    }
}
