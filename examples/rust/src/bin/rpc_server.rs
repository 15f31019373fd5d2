//! A client that serves calls.

use busrt::bytes::Bytes;
use busrt::client::{Client, Config};
use busrt::msgpack;
use busrt::rpc::{Call, Handlers, Notification, Rpc, RpcError};
use serde::Deserialize;

#[derive(Deserialize)]
struct Sum {
    a: i64,
    b: i64,
}

struct Calculator;

impl Handlers for Calculator {
    async fn on_call(&self, call: Call) -> Result<Bytes, RpcError> {
        match call.method() {
            "add" => {
                let Sum { a, b } = call.unpack_params()?;
                let sum = a.checked_add(b).ok_or_else(|| RpcError::internal("too large"))?;
                Ok(msgpack::pack(&sum)?)
            }
            _ => Err(RpcError::method_not_found()),
        }
    }

    async fn on_notification(&self, notification: Notification) {
        println!("{} says: {}", notification.sender(), String::from_utf8_lossy(notification.payload()));
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("/tmp/busrt.sock".into());
    let client = Client::connect(&Config::new(address, "calculator")).await?;
    let rpc = Rpc::new(client, Calculator);
    println!("the calculator is at work");
    println!("{}", rpc.client().closed().await);
    Ok(())
}
