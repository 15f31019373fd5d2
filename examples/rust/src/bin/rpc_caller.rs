//! A client that calls methods.

use busrt::client::{Client, Config};
use busrt::rpc::Rpc;
use busrt::{QoS, msgpack};
use serde::Serialize;

#[derive(Serialize)]
struct Sum {
    a: i64,
    b: i64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("/tmp/busrt.sock".into());
    let client = Client::connect(&Config::new(address, "accountant")).await?;
    // `()` serves nothing: this client only calls.
    let rpc = Rpc::new(client, ());

    rpc.notify("calculator", "I will have a question", QoS::Processed).await?;
    let params = msgpack::pack(&Sum { a: 40, b: 2 })?;
    let reply = rpc.call("calculator", "add", params, QoS::Processed).await?;
    let sum: i64 = reply.unpack()?;
    println!("40 + 2 = {sum}");

    // The error says what was expected and what was found.
    if let Err(e) = rpc.call("calculator", "add", msgpack::pack("40 and 2")?, QoS::Processed).await {
        println!("{e}");
    }

    match rpc.call("calculator", "divide", "", QoS::Processed).await {
        Err(e) => println!("no luck: code {}", e.code()),
        Ok(_) => println!("it can divide"),
    }
    Ok(())
}
