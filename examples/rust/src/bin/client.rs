//! An asynchronous client.

use busrt::client::{Client, Config};
use busrt::{ErrorKind, QoS};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("/tmp/busrt.sock".into());
    let client = Client::connect(&Config::new(address, "example.client")).await?;
    let mut frames = client.frames()?;

    client.subscribe(["greetings/+", "news/#"].as_slice(), QoS::Processed).await?;
    client.publish("greetings/world", "Hello!", QoS::Processed).await?;
    client.send("example.client", "a message to myself", QoS::RealtimeProcessed).await?;
    client.broadcast("example.*", "to all examples", QoS::No).await?;

    for _ in 0..3 {
        let Some(frame) = frames.recv().await else { break };
        let text = String::from_utf8_lossy(frame.payload());
        println!("{:?} from {}: {text}", frame.kind(), frame.sender());
    }

    // Acknowledged operations report their outcome.
    match client.send("no.such.client", "hello", QoS::Processed).await {
        Err(e) if e.kind() == ErrorKind::NotRegistered => println!("no.such.client is not registered"),
        other => other?,
    }
    client.disconnect().await;
    Ok(())
}
