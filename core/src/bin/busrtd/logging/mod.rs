//! The broker's log: lines go through a bounded queue to a thread that writes them to the standard error output or to
//! syslog. A log that is not read delays nothing else.

mod queue;
#[cfg(unix)]
mod system_log;

use crate::args::Args;
use log::{Level, LevelFilter};
use queue::{Line, Queue};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// Maximum time that the end of the process waits for the log to be written.
const FLUSH_PATIENCE: Duration = Duration::from_millis(200);
/// Time for which the writer waits if a non-blocking output is full.
const OUTPUT_PAUSE: Duration = Duration::from_millis(10);

static QUEUE: OnceLock<Queue> = OnceLock::new();

fn queue() -> &'static Queue {
    QUEUE.get_or_init(Queue::default)
}

/// Starts logging: to syslog if that is requested or in the background, otherwise to the standard error output, in
/// colour on a terminal. `RUST_LOG` overrides the level there.
pub(crate) fn start(args: &Args) -> Result<(), String> {
    let level = if args.verbose { LevelFilter::Debug } else { LevelFilter::Info };
    log_panics();
    #[cfg(unix)]
    if args.log_syslog || args.daemonize {
        match system_log::Output::open() {
            Ok(mut output) => {
                write_with(move |line| output.write(line))?;
                return log::set_boxed_logger(Box::new(system_log::Logger))
                    .map(|()| log::set_max_level(level))
                    .map_err(|e| e.to_string());
            }
            Err(e) if args.log_syslog => {
                say(&format!("syslog is not available ({e}): logging to standard error"));
            }
            Err(_) => {}
        }
    }
    write_with(|line| write_stderr(&line.text))?;
    let style = if shows_colours() { env_logger::WriteStyle::Always } else { env_logger::WriteStyle::Never };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env().format_target(false);
    // The variable decides, unless it is unset or "auto": env_logger would then use no colours, since it writes to a
    // pipe.
    if !matches!(std::env::var("RUST_LOG_STYLE").as_deref(), Ok("always" | "never")) {
        builder.write_style(style);
    }
    builder.target(env_logger::Target::Pipe(Box::new(QueueWriter))).try_init().map_err(|e| e.to_string())
}

/// Waits for a short time until the log is written.
pub(crate) fn flush() {
    queue().flush(FLUSH_PATIENCE);
}

/// Writes a line to the standard error output, after the log, also if the log goes to syslog. If the output is
/// blocked, it waits only for a short time.
pub(crate) fn say(text: &str) {
    flush();
    let line = format!("busrtd: {text}\n");
    let (done, finished) = std::sync::mpsc::channel();
    let write = move || {
        write_stderr(line.as_bytes());
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _ = finished.recv_timeout(FLUSH_PATIENCE);
    }
}

/// Starts the thread that writes.
fn write_with(write: impl FnMut(&Line) + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name("log".into());
    let started = thread.spawn(move || queue().run(write));
    started.map(drop).map_err(|e| format!("cannot start the thread of the log: {e}"))
}

/// Writes all bytes, however long that takes. A closed output does not stop the broker.
fn write_stderr(mut bytes: &[u8]) {
    let mut stderr = io::stderr();
    while !bytes.is_empty() {
        match stderr.write(bytes) {
            Ok(0) => return,
            Ok(len) => bytes = &bytes[len..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(OUTPUT_PAUSE),
            Err(_) => return,
        }
    }
}

/// The target of env_logger, which writes one record in each call.
struct QueueWriter;

impl Write for QueueWriter {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        queue().push(Level::Info, record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns true if env_logger would use colours if it wrote to the standard error output itself.
fn shows_colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is = |name, wanted: &str| std::env::var_os(name).is_some_and(|value| value == wanted);
    if set("NO_COLOR") {
        return false;
    }
    if set("CLICOLOR_FORCE") && !is("CLICOLOR_FORCE", "0") {
        return true;
    }
    io::stderr().is_terminal() && !is("CLICOLOR", "0") && !is("TERM", "dumb")
}

/// Logs panics. The standard library would write them to the standard error output and wait for it; the log does not
/// wait.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let trace = std::backtrace::Backtrace::capture();
        let name = thread.name().unwrap_or("<unnamed>");
        match trace.status() {
            std::backtrace::BacktraceStatus::Captured => log::error!("thread '{name}' {panic}\n{trace}"),
            _ => log::error!("thread '{name}' {panic}"),
        }
    }));
}
