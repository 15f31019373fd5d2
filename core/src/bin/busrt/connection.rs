//! Connects to the broker with the options of the command line.

use crate::args::Args;
use crate::failure::Result;
use busrt::Client;
use busrt::client::Config;
use std::time::Duration;

/// Connects under the requested name, or the default one.
pub(crate) async fn connect(args: &Args) -> Result<Client> {
    connect_as(args, &args.name()).await
}

/// Connects under this name.
pub(crate) async fn connect_as(args: &Args, name: &str) -> Result<Client> {
    let mut config = Config::new(args.address(), name).timeout(args.timeout);
    if let Some(bytes) = args.buf_size {
        config = config.buf_size(bytes as usize);
    }
    if let Some(frames) = args.queue_size {
        config = config.queue_size(frames as usize);
    }
    if let Some(microseconds) = args.busy_poll {
        config = config.busy_poll_async(Duration::from_micros(microseconds));
    }
    let client = Client::connect(&config).await?;
    log::debug!("connected to {} as {name}", args.address());
    Ok(client)
}
