//! `busrtd`, the broker.

mod args;
#[cfg(unix)]
mod daemon;
mod logging;

use args::Args;
use busrt::broker::{Broker, Lookout, Options};
use clap::{CommandFactory, Parser};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(not(feature = "std-alloc"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(shell) = args.completions {
        clap_complete::generate(shell, &mut Args::command(), "busrtd", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    match start(&args) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("busrtd: {why}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> Result<ExitCode, String> {
    #[cfg(unix)]
    if args.daemonize && !daemon::is_child() {
        return daemon::start();
    }
    logging::start(args)?;
    raise_descriptor_limit();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(args.workers()).enable_all();
    let mut options = args.options();
    if !args.busy_poll().is_zero() {
        match Lookout::new(args.busy_poll()) {
            Ok(lookout) => {
                options = options.lookout(lookout.clone());
                builder.on_thread_park(move || lookout.before_park());
            }
            Err(e) => log::debug!("no looking out: {e}"),
        }
    }
    let runtime = builder.build().map_err(|e| format!("cannot start the runtime: {e}"))?;
    runtime.block_on(run(args, options))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(args: &Args, options: Options) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|e| format!("cannot listen for signals: {e}"))?;
    let broker = Broker::new(options);
    for address in &args.bind {
        let bound = broker.listen(address).await.map_err(|e| e.to_string())?;
        log::info!("listening on {bound}");
    }
    let pid_file = args.pid_file.as_deref().map(PidFile::write).transpose()?;
    log::info!("BUS/RT broker {} started with {} worker(s)", env!("CARGO_PKG_VERSION"), args.workers());
    #[cfg(unix)]
    daemon::ready()?;
    log::info!("{}: shutting down", signals.next().await);
    tokio::select! {
        () = broker.shutdown() => log::info!("stopped"),
        name = signals.next() => log::warn!("{name} again: going at once"),
    }
    drop(broker);
    drop(pid_file);
    Ok(())
}

/// A file with the process id, removed at the end.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<PidFile, String> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|e| format!("cannot write the pid file {}: {e}", path.display()))?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            log::warn!("cannot remove the pid file {}: {e}", self.0.display());
        }
    }
}

/// The signals that end the broker.
#[cfg(unix)]
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}

/// Every client takes a descriptor: the soft limit, often 1024, goes up to the hard one.
fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        {
            log::warn!("cannot raise the limit of open files from {:?}: {e}", limit.current);
        }
    }
}
