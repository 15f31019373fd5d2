//! The command line of `busrtd`.

use busrt::broker::{Options, SlowPolicy};
use busrt::transport::Buffers;
use clap::{Parser, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;
use std::time::Duration;

/// The broker of BUS/RT, a message bus for the programs on one machine and its local network.
///
/// It serves clients on every address given with --bind until SIGTERM, SIGINT or SIGHUP. It then announces its
/// shutdown, stops reading, and delivers the queued frames before it closes the connections (--drain-ms). A second
/// signal ends it immediately. SIGHUP does nothing if it was ignored at the start, as with nohup.
#[derive(Debug, Parser)]
#[command(name = "busrtd", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Address to listen on: the path of a UNIX socket, host:port, or fifo:/path; may be given several times. A host
    /// name is bound on all of its addresses; an IPv6 address serves only IPv6; port 0 chooses a free port. A lock
    /// file .NAME.lock beside a socket or FIFO keeps other brokers from using the same path
    #[arg(short = 'B', long = "bind", value_name = "ADDRESS", required_unless_present = "completions")]
    pub(crate) bind: Vec<String>,

    /// Write the process id to this file, which must not be a symbolic link. At the end, the file is removed if it
    /// still contains this process's id
    #[arg(short = 'P', long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,

    /// Run in the background; the command returns when the broker is ready. Logs to syslog
    #[arg(short = 'D', long = "daemonize")]
    pub(crate) daemonize: bool,

    /// Number of worker threads [default: the number of cores]
    #[arg(short = 'w', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,

    /// Maximum duration of a step of the handshake and of a pause within a frame, in seconds, at least 0.001; a
    /// client that sends nothing for 1.25 times this is disconnected
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,

    /// Let a new client take a name that is registered: the old client is disconnected
    #[arg(long, help_heading = "Clients")]
    force_register: bool,

    /// Number of frames that may wait for one client before its senders are held back
    #[arg(long, value_name = "FRAMES", default_value = "8192", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Clients")]
    queue_size: u32,

    /// Number of bytes that may wait for one client before its senders are held back; an empty queue accepts a frame
    /// of any size
    #[arg(long, value_name = "BYTES", default_value = "16777216", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Clients")]
    queue_bytes: u64,

    /// Number of bytes that may wait for all clients together; while more are waiting, the largest queues count as
    /// full [default: a quarter of the memory of the machine or the container]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Clients")]
    queue_total: Option<u64>,

    /// Policy for a stuck client: its queue is full, and it has read nothing for --stall-ms
    #[arg(long, value_name = "POLICY", default_value = "disconnect", help_heading = "Clients")]
    slow: Slow,

    /// Hold time in milliseconds: how long a client with a full queue holds back the senders of publications and
    /// broadcasts, unless it reads a quarter of --queue-size or --queue-bytes in that time; a client that reads
    /// nothing for this long holds back no sender at all; 0: no sender is ever held back
    #[arg(long, value_name = "MS", default_value = "750", value_parser = milliseconds, help_heading = "Clients")]
    hold_ms: Duration,

    /// Stall time in milliseconds: how long a client with a full queue may read nothing before --slow applies, and
    /// how long an acknowledged message waits for a slow client before it is answered 77
    #[arg(long, value_name = "MS", default_value = "5000", value_parser = milliseconds, help_heading = "Clients")]
    stall_ms: Duration,

    /// Maximum time in milliseconds that the broker waits at its shutdown for queues and the kernel's buffers to
    /// empty
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = milliseconds, help_heading = "Clients")]
    drain_ms: Duration,

    /// Maximum length of a frame body that a client sends, in bytes, including names; a longer one ends its
    /// connection
    #[arg(long, value_name = "BYTES", default_value = "268435456", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Limits")]
    max_payload: u32,

    /// Maximum length of a client's name, in bytes; a longer one is refused with 72
    #[arg(long, value_name = "BYTES", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Limits")]
    max_name: u32,

    /// Maximum length of a topic or mask, in bytes; an operation with a longer one is answered 72; if it asks for no
    /// acknowledgement, it ends the connection
    #[arg(long, value_name = "BYTES", default_value = "65536", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Limits")]
    max_topic: u32,

    /// Maximum number of levels of a topic or mask; one with more is treated like a topic that is too long
    #[arg(long, value_name = "LEVELS", default_value = "512", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Limits")]
    max_levels: u32,

    /// Maximum number of subscriptions and exclusions of one client, together; further ones are treated like a topic
    /// that is too long
    #[arg(long, value_name = "COUNT", default_value = "1000000", help_heading = "Limits")]
    max_subscriptions: u32,

    /// Maximum number of registered clients; a further one is refused with 74 after the greeting [default: no bound]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    max_connections: Option<u32>,

    /// Maximum number of connections that have not registered yet; a further one closes the oldest of them
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Limits")]
    max_handshakes: u32,

    /// Initial size of the read buffer of a client, in bytes; it grows with the traffic
    #[arg(long, value_name = "BYTES", default_value = "16384", help_heading = "Sockets")]
    buf_size: usize,

    /// Size of the kernel's send buffer of each connection (SO_SNDBUF), in bytes [default: 1 MiB for UNIX sockets,
    /// otherwise the system's]
    #[arg(long, value_name = "BYTES", help_heading = "Sockets")]
    sndbuf: Option<usize>,

    /// Size of the kernel's receive buffer of each connection (SO_RCVBUF), in bytes [default: the system's]
    #[arg(long, value_name = "BYTES", help_heading = "Sockets")]
    rcvbuf: Option<usize>,

    /// Ignored, accepted for existing scripts: a frame waits at most for the end of the batch in which it was read
    #[arg(long, value_name = "US", default_value = "10", help_heading = "Sockets")]
    #[allow(dead_code, reason = "no write waits for a timer")]
    buf_ttl: u64,

    /// Maximum time in microseconds for which a worker polls for the answer of a client that answers promptly, before
    /// it goes to sleep; at most 1000; 0: never. Within this bound, the broker learns for each client how long
    /// polling pays [default: 500, or 0 on a single core]
    #[arg(long, value_name = "US", help_heading = "Sockets")]
    busy_poll: Option<u64>,

    /// Permissions of UNIX sockets, in octal, such as 660 [default: what the umask leaves]
    #[arg(long, value_name = "MODE", value_parser = octal, help_heading = "Sockets")]
    socket_mode: Option<u32>,

    /// Log more: every registration, and the end of every connection with its reason
    #[arg(long, help_heading = "Logging")]
    pub(crate) verbose: bool,

    /// Log to syslog instead of the standard error output
    #[arg(long, help_heading = "Logging")]
    pub(crate) log_syslog: bool,

    /// Print a completion script for this shell
    #[arg(long, value_name = "SHELL", help_heading = "Other")]
    pub(crate) completions: Option<Shell>,
}

const EXAMPLES: &str = "\
Examples:
  busrtd -B /tmp/busrt.sock                           on this machine only
  busrtd -B /tmp/busrt.sock -B 0.0.0.0:9924           for the local network too
  busrtd -D -P /run/busrtd.pid -B /run/busrt.sock --socket-mode 660
  busrtd -B fifo:/tmp/busrt.fifo -B /tmp/busrt.sock   for shells: echo 'TARGET MESSAGE' > /tmp/busrt.fifo";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Slow {
    /// Disconnect it
    Disconnect,
    /// Drop new frames for it; an acknowledged message is answered 77
    DropNew,
    /// Drop its oldest publications and broadcasts to make room; messages are never dropped
    DropOld,
    /// Let its senders wait until it reads; --hold-ms and --stall-ms do not apply
    Block,
}

/// Maximum duration, ten years: longer ones count as this, so that no clock overflows.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

fn seconds(text: &str) -> Result<Duration, String> {
    let wanted = || "expected a number of seconds, such as 5 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wanted())?;
    if !seconds.is_finite() {
        return Err(wanted());
    }
    if seconds < 0.001 {
        return Err("at least 0.001 s".into());
    }
    Duration::try_from_secs_f64(seconds.min(LONGEST.as_secs_f64())).map_err(|e| e.to_string())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let wanted = || "expected a whole number of milliseconds, such as 500".to_owned();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wanted());
    }
    // The text consists of digits, so that the only possible error is a number that is too large.
    Ok(text.parse().map_or(LONGEST, |ms| Duration::from_millis(ms).min(LONGEST)))
}

/// Limits a size, because the kernel accepts an `int`, and not all of its range.
fn kernel_size(bytes: Option<usize>) -> Option<usize> {
    bytes.map(|bytes| bytes.min(i32::MAX as usize))
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected octal permissions up to 777, such as 660".into()),
    }
}

impl Args {
    pub(crate) fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.map_or_else(cores, usize::from)
    }

    /// Returns how long a worker polls for an answer; zero on a single core, where polling gains nothing.
    pub(crate) fn busy_poll(&self) -> Duration {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Duration::from_micros(self.busy_poll.unwrap_or(if cores > 1 { 500 } else { 0 }))
    }

    pub(crate) fn options(&self) -> Options {
        let slow = match self.slow {
            Slow::Disconnect => SlowPolicy::Disconnect,
            Slow::DropNew => SlowPolicy::DropNew,
            Slow::DropOld => SlowPolicy::DropOld,
            Slow::Block => SlowPolicy::Block,
        };
        let mut options = Options::new()
            .timeout(self.timeout)
            .force_register(self.force_register)
            .queue_size(self.queue_size as usize)
            .queue_bytes(usize::try_from(self.queue_bytes).unwrap_or(usize::MAX))
            .slow(slow)
            .hold(self.hold_ms)
            .stall(self.stall_ms)
            .drain(self.drain_ms)
            .max_payload(self.max_payload)
            .max_name(self.max_name as usize)
            .max_topic(self.max_topic as usize)
            .max_levels(self.max_levels as usize)
            .max_subscriptions(self.max_subscriptions as usize)
            .max_handshakes(self.max_handshakes as usize)
            .buf_size(self.buf_size)
            .socket_buffers(Buffers { send: kernel_size(self.sndbuf), receive: kernel_size(self.rcvbuf) });
        if let Some(mode) = self.socket_mode {
            options = options.socket_mode(mode);
        }
        if let Some(bytes) = self.queue_total {
            options = options.queue_total(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        if let Some(count) = self.max_connections {
            options = options.max_connections(count as usize);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn accepts_the_options_of_existing_scripts() {
        let line = "busrtd -B /a.sock -B 127.0.0.1:1 --bind fifo:/f -P /p --verbose -D --log-syslog --force-register \
                    -w 3 -t 0.5 --buf-size 100 --buf-ttl 20 --queue-size 7 --queue-bytes 9 --slow drop-old --stall-ms 5 \
                    --max-payload 10 --socket-mode 660 --drain-ms 70";
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        let options = args.options();
        assert_eq!(args.bind, ["/a.sock", "127.0.0.1:1", "fifo:/f"]);
        assert_eq!((args.workers(), options.timeout), (3, Duration::from_millis(500)));
        assert_eq!((options.queue_size, options.queue_bytes, options.slow), (7, 9, SlowPolicy::DropOld));
        assert_eq!((options.max_payload, options.socket_mode), (10, Some(0o660)));
        assert_eq!(options.drain, Duration::from_millis(70));
    }

    #[test]
    fn durations_of_any_size_are_taken() {
        let huge = "9".repeat(400);
        for (text, wanted) in [
            ("0.001", Duration::from_millis(1)),
            ("9223372036854775807", LONGEST),
            ("18446744073709551615", LONGEST),
            ("1e300", LONGEST),
        ] {
            assert_eq!(seconds(text).unwrap(), wanted, "{text}");
        }
        for (text, wanted) in [
            ("0", Duration::ZERO),
            ("5000", Duration::from_secs(5)),
            ("18446744073709551615", LONGEST),
            (&huge, LONGEST),
        ] {
            assert_eq!(milliseconds(text).unwrap(), wanted, "{text}");
        }
        for text in ["", "-1", "0", "nan", "inf", "-inf", "1e-300", "soon", &huge] {
            assert!(seconds(text).is_err(), "{text}");
        }
        for text in ["", "-1", "+1", "1.5", "soon", "1e3"] {
            assert!(milliseconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_nonsense() {
        for line in [
            "busrtd",
            "busrtd -B x -t -1",
            "busrtd -B x -w 0",
            "busrtd -B x --socket-mode 9",
            "busrtd -B x --slow no",
        ] {
            assert!(Args::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
