//! A client that survives a restart of its broker.

use busrt::QoS;
use busrt::client::{Client, Config, Event, Reconnect, WhileDown};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("/tmp/busrt.sock".into());
    let config = Config::new(address, "example.reconnect")
        // Tries again after 100 ms, 200 ms and so on, with delays of at most 2 s, without a limit.
        .reconnect(Reconnect::new().delays(Duration::from_millis(100), Duration::from_secs(2)))
        // Operations wait for the connection for at most 10 s, then fail.
        .while_down(WhileDown::Wait(Duration::from_secs(10)));
    let client = Client::connect(&config).await?;
    let mut events = client.events();
    let mut frames = client.frames()?;
    // The client restores the subscription by itself after each reconnection.
    client.subscribe("clock/#", QoS::Processed).await?;
    loop {
        tokio::select! {
            Some(event) = events.recv() => match event {
                Event::Connected => println!("connected"),
                Event::Disconnected { reason, .. } => println!("disconnected: {reason}"),
                Event::Reconnecting { attempt, .. } => println!("attempt {attempt}"),
                _ => {}
            },
            Some(frame) = frames.recv() => println!("{}", String::from_utf8_lossy(frame.payload())),
            else => break,
        }
    }
    Ok(())
}
