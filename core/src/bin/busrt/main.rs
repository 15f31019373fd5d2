//! `busrt`, the client for the command line.

mod args;
mod benchmark;
mod broker;
mod connection;
mod failure;
mod listen;
mod measure;
mod output;
mod payload;
mod rpc;
mod send;
mod stage;
mod table;
mod text;

use args::{Args, Command};
use clap::{CommandFactory, Parser};
use failure::{Failure, Result};
use log::LevelFilter;
use output::Output;
use std::io::Write;
use std::process::ExitCode;

#[cfg(not(feature = "std-alloc"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.completions {
        Some(shell) => print_completions(shell),
        None => start(&args),
    };
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

fn print_completions(shell: clap_complete::Shell) -> Result<()> {
    // The script is not written directly to the standard output, because the generator panics if that is closed.
    let mut script = vec![];
    clap_complete::generate(shell, &mut Args::command(), "busrt", &mut script);
    let mut stdout = std::io::stdout();
    stdout.write_all(&script).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

fn start(args: &Args) -> Result<()> {
    start_logging(args);
    let command = args.what()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Other(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(run(args, command))
}

async fn run(args: &Args, command: &Command) -> Result<()> {
    let mut out = Output::new(args.json, args.silent);
    match command {
        Command::Broker(command) => broker::run(args, command, &mut out).await,
        Command::Listen(what) => listen::run(args, what, &mut out).await,
        Command::Send(message) => send::send(args, message, &mut out).await,
        Command::Publish(publication) => send::publish(args, publication, &mut out).await,
        Command::Rpc(command) => rpc::run(args, command, &mut out).await,
        Command::Benchmark(load) => benchmark::run(args, load, &mut out).await,
    }?;
    out.flush()
}

/// Logs to the standard error output, in colour on a terminal. `RUST_LOG` overrides the level.
fn start_logging(args: &Args) {
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(if args.verbose { LevelFilter::Trace } else { LevelFilter::Warn })
        .parse_default_env();
    if args.silent {
        builder = env_logger::Builder::new();
        builder.filter_level(LevelFilter::Off);
    }
    // This fails only if logging was started before.
    let _ = builder.try_init();
}
