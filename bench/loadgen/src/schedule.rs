//! Priorities for the kernel's scheduler: the probe runs first, attackers last.

/// Gives this process priority over all others, so that the probe measures the broker and not its own wait for a
/// core. Returns the priority that was granted: a real-time class and a better nice value need a privilege.
pub fn first() -> &'static str {
    // SAFETY: no pointers are involved; the call only changes how late timers of this thread may fire.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters outlive the call, which only reads them.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } == 0 {
        return "real-time";
    }
    if nice(-20, -20) { "nice -20" } else { "normal" }
}

/// Gives all other processes priority over this one, because an attacker must not take the cores from the broker. Its
/// session keeps about a tenth of the weight of others: with less, a busy broker would starve the attack, and would
/// then look good.
pub fn last() {
    nice(19, 10);
}

/// Sets the nice values of all threads of this process and of its session. The kernel first divides the cores among
/// sessions (autogroup), so that the value of a thread alone has no effect on other sessions.
fn nice(value: i32, session: i32) -> bool {
    // Kernels without autogroup have no such file, and need none.
    let _ = std::fs::write("/proc/self/autogroup", session.to_string());
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return false };
    let numbers = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        // SAFETY: no pointers are involved.
        .map(|number| unsafe { libc::setpriority(libc::PRIO_PROCESS, number, value) })
        .all(|code| code == 0)
}
