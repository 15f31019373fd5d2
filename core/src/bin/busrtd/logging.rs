//! Where the broker's log goes.

use crate::args::Args;
use log::LevelFilter;

/// Starts logging: to syslog if that is asked for, or in the background; else to the standard error
/// output, in colour on a terminal. `RUST_LOG` overrides the level there.
pub(crate) fn start(args: &Args) -> Result<(), String> {
    let level = if args.verbose { LevelFilter::Debug } else { LevelFilter::Info };
    #[cfg(unix)]
    if args.log_syslog || args.daemonize {
        let formatter = syslog::Formatter3164 {
            facility: syslog::Facility::LOG_DAEMON,
            hostname: None,
            process: "busrtd".into(),
            pid: std::process::id(),
        };
        match syslog::unix(formatter) {
            Ok(logger) => {
                return log::set_boxed_logger(Box::new(syslog::BasicLogger::new(logger)))
                    .map(|()| log::set_max_level(level))
                    .map_err(|e| e.to_string());
            }
            Err(e) if args.log_syslog => eprintln!("busrtd: no syslog here ({e}): logging to standard error"),
            Err(_) => {}
        }
    }
    env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .format_target(false)
        .try_init()
        .map_err(|e| e.to_string())
}
