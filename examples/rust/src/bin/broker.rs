//! A broker within a program.

use busrt::QoS;
use busrt::broker::{Broker, Options};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("/tmp/busrt.sock".into());
    let broker = Broker::new(Options::default());
    broker.listen(&address).await?;
    println!("listening on {address}, Ctrl-C ends");

    // A client within the broker's own process has the same type as every client, but no socket.
    let clock = broker.client("clock").await?;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut uptime = 0;
    loop {
        tokio::select! {
            _ = second.tick() => {
                clock.publish("clock/uptime", format!("{uptime} s"), QoS::No).await?;
                uptime += 1;
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    broker.shutdown().await;
    Ok(())
}
