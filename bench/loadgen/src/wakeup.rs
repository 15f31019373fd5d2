//! Measures the cost of waking a sleeping core: the time from a write to an eventfd until a thread on another core,
//! which slept in a read of it, runs.

use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Number of measurements.
const ROUNDS: usize = 300;

/// Time for which both cores rest before each measurement, so that they really sleep.
const REST: Duration = Duration::from_millis(2);

/// Prints the median and the 90th percentile in microseconds. Prints nothing on a machine with one core.
pub fn run() {
    let cores = allowed_cores();
    let [first, second, ..] = cores[..] else { return println!("scenario=wakeup cores={}", cores.len()) };
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(fd >= 0, "eventfd");
    let (woken, woke) = mpsc::channel();
    let sleeper = std::thread::spawn(move || {
        pin(second);
        for _ in 0..ROUNDS {
            let mut count = 0_u64;
            // SAFETY: the buffer is eight bytes long, as a read of an eventfd requires.
            let read = unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
            let now = Instant::now();
            assert_eq!(read, 8, "read of an eventfd");
            woken.send(now).expect("the other thread waits");
        }
    });
    pin(first);
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        std::thread::sleep(REST);
        let (one, began) = (1_u64, Instant::now());
        // SAFETY: the buffer is eight bytes long, as a write to an eventfd requires.
        let written = unsafe { libc::write(fd, (&raw const one).cast(), 8) };
        assert_eq!(written, 8, "write to an eventfd");
        let now = woke.recv().expect("the sleeper runs");
        times.push(now.duration_since(began).as_secs_f64() * 1e6);
    }
    sleeper.join().expect("the sleeper ends");
    times.sort_by(f64::total_cmp);
    println!("scenario=wakeup p90_us={:.1} p50_us={:.1}", times[ROUNDS * 9 / 10], times[ROUNDS / 2]);
}

fn allowed_cores() -> Vec<usize> {
    // SAFETY: a set of zero bits is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set has the given length.
    unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    // SAFETY: the numbers are below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}

fn pin(core: usize) {
    // SAFETY: a set of zero bits is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is one that `allowed_cores` returned; the set has the given length.
    unsafe {
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}
