//! Syslog: the logger that formats records, and the connection to which the log's thread writes.

use super::queue::Line;
use log::{Level, Log, Metadata, Record};
use std::time::{Duration, Instant};
use syslog::{Formatter3164, LoggerBackend};

/// Minimum interval at which a failed connection is opened again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// Passes records to the queue.
pub(super) struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            super::queue().push(record.level(), record.args().to_string().as_bytes());
        }
    }

    fn flush(&self) {}
}

/// The connection to syslog.
pub(super) struct Output {
    logger: Option<syslog::Logger<LoggerBackend, Formatter3164>>,
    opened: Instant,
}

impl Output {
    pub(super) fn open() -> Result<Output, syslog::Error> {
        Ok(Output { logger: Some(connect()?), opened: Instant::now() })
    }

    /// Writes a line. After syslog was restarted, its old socket fails: the connection is then opened again, once. A
    /// line that cannot be written is lost.
    pub(super) fn write(&mut self, line: &Line) {
        let text = String::from_utf8_lossy(&line.text);
        if self.try_write(line.level, &text) || self.opened.elapsed() < REOPEN_INTERVAL {
            return;
        }
        self.opened = Instant::now();
        self.logger = connect().ok();
        self.try_write(line.level, &text);
    }

    fn try_write(&mut self, level: Level, text: &str) -> bool {
        let Some(logger) = &mut self.logger else { return false };
        let written = match level {
            Level::Error => logger.err(text),
            Level::Warn => logger.warning(text),
            Level::Info => logger.info(text),
            Level::Debug | Level::Trace => logger.debug(text),
        };
        written.is_ok()
    }
}

fn connect() -> Result<syslog::Logger<LoggerBackend, Formatter3164>, syslog::Error> {
    syslog::unix(Formatter3164 {
        facility: syslog::Facility::LOG_DAEMON,
        hostname: None,
        process: "busrtd".into(),
        pid: std::process::id(),
    })
}
