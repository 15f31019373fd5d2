//! Clients in the runtime of the process.

use super::*;
use crate::runtime;

/// The shutdown of the runtime waits for a connection from its beginning, even before its tasks have run.
#[test]
fn a_connection_is_waited_for_from_the_start() {
    let rounds = runtime::handle().unwrap().spawn(async {
        for reconnects in [false, true] {
            let mut waited_for = 0;
            for _ in 0..100 {
                // Without an address a client cannot connect again.
                let config =
                    Config::new(if reconnects { "/nowhere" } else { "" }, "me").reconnect(Reconnect::new());
                let (socket, mut broker) = pair();
                let registering = tokio::spawn(async move {
                    broker.register(b"").await;
                    broker
                });
                let before = runtime::tasks_alive();
                let client = Client::connect_stream(socket, &config).await.unwrap();
                let tasks = runtime::tasks_alive().saturating_sub(before);
                waited_for += usize::from(tasks > usize::from(reconnects));
                client.close();
                drop(registering.await.unwrap());
                eventually(|| runtime::tasks_alive() <= before).await;
            }
            // Other tests may end connections in the same runtime.
            assert!(waited_for > 90, "reconnects {reconnects}: {waited_for}");
        }
    });
    let waiting = tokio::runtime::Builder::new_current_thread().build().unwrap();
    waiting.block_on(rounds).unwrap();
}
