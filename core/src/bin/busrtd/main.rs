//! `busrtd`, the broker.

mod allocator;
mod args;
#[cfg(unix)]
mod daemon;
mod logging;
mod pid_file;
mod signals;

use args::Args;
use busrt::broker::{Broker, BusyPoller, Options};
use clap::{CommandFactory, Parser};
use pid_file::PidFile;
use signals::Signals;
use std::process::ExitCode;
use std::time::Duration;

/// Maximum time that the end waits for the runtime's threads.
const RUNTIME_PATIENCE: Duration = Duration::from_millis(500);

/// Number of tasks that a worker polls before it asks the kernel for events, while its queue does not become empty.
/// One poll of a session takes up to a few milliseconds.
const EVENT_INTERVAL: u32 = 4;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(shell) = args.completions {
        clap_complete::generate(shell, &mut Args::command(), "busrtd", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    match start(&args) {
        Ok(code) => code,
        Err(why) => {
            logging::say(&why);
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
    let signals = Signals::start().map_err(|e| format!("cannot listen for signals: {e}"))?;
    raise_descriptor_limit();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(args.workers()).enable_all().event_interval(EVENT_INTERVAL);
    let mut options = args.options();
    let busy_poller = busy_poller(args);
    if let Some(busy_poller) = &busy_poller {
        options = options.busy_poller(busy_poller.clone());
    }
    builder.on_thread_park(move || {
        if let Some(busy_poller) = &busy_poller {
            busy_poller.before_park();
        }
        allocator::collect();
    });
    let runtime = builder.build().map_err(|e| format!("cannot start the runtime: {e}"))?;
    let result = runtime.block_on(run(args, options, signals));
    // A blocked thread, for example in the lookup of a host, must not delay the end.
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    logging::flush();
    result.map(|()| ExitCode::SUCCESS)
}

fn busy_poller(args: &Args) -> Option<BusyPoller> {
    if args.busy_poll().is_zero() {
        return None;
    }
    let busy_poller = BusyPoller::new(args.busy_poll());
    busy_poller.inspect_err(|e| log::debug!("busy polling is not available: {e}")).ok()
}

async fn run(args: &Args, options: Options, mut signals: Signals) -> Result<(), String> {
    let broker = Broker::new(options);
    // Resolving the addresses of a host may take long.
    tokio::select! {
        result = listen(&broker, &args.bind) => result?,
        name = signals.next() => {
            log::info!("{name}: exiting before the start was complete");
            return Ok(());
        }
    }
    let pid_file = args.pid_file.as_deref().map(PidFile::write).transpose()?;
    log::info!("BUS/RT broker {} started with {} worker(s)", env!("CARGO_PKG_VERSION"), args.workers());
    #[cfg(unix)]
    daemon::ready()?;
    log::info!("{}: shutting down", signals.next().await);
    tokio::select! {
        () = broker.shutdown() => log::info!("stopped"),
        name = signals.next() => log::warn!("second signal, {name}: exiting immediately"),
    }
    drop(broker);
    drop(pid_file);
    Ok(())
}

/// Opens all addresses. The broker logs the bound addresses.
async fn listen(broker: &Broker, addresses: &[String]) -> Result<(), String> {
    for address in addresses {
        broker.listen(address).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Raises the soft limit of descriptors, often 1024, to the hard limit, since every client needs a descriptor.
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
