//! A client without an async runtime.

use busrt::QoS;
use busrt::blocking::Client;
use busrt::client::Config;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("/tmp/busrt.sock".into());
    let client = Client::connect(&Config::new(address, "example.blocking"))?;
    let mut frames = client.frames()?;

    client.subscribe("plant/+/temperature", QoS::Processed)?;
    client.publish("plant/boiler/temperature", "87.5", QoS::Processed)?;

    if let Some(frame) = frames.recv()? {
        let topic = frame.topic().unwrap_or_default();
        println!("{topic} = {}", String::from_utf8_lossy(frame.payload()));
    }
    client.disconnect()?;
    Ok(())
}
