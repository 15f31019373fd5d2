//! `listen` and `rpc listen`: show received frames until Ctrl-C.

use crate::args::{Args, Topics};
use crate::failure::Result;
use crate::output::{Event, Output};
use busrt::client::Frames;
use busrt::rpc::{Call, Handlers, Notification, Options, Rpc, RpcError};
use busrt::{Client, Frame, QoS};
use bytes::Bytes;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Number of events that are printed before the output is flushed and Ctrl-C is checked.
const BATCH: usize = 256;
/// Maximum time for the end after Ctrl-C: the output may be blocked by a pager that waits for its user.
const FAREWELL: Duration = Duration::from_secs(2);

/// The source of events.
enum Source {
    Frames(Frames),
    Rpc(mpsc::Receiver<Event>, #[expect(dead_code, reason = "serves until it is dropped")] Rpc),
}

impl Source {
    async fn next(&mut self) -> Option<Event> {
        match self {
            Source::Frames(frames) => frames.recv().await.map(Event::frame),
            Source::Rpc(events, _) => events.recv().await,
        }
    }

    fn try_next(&mut self) -> Option<Event> {
        match self {
            Source::Frames(frames) => frames.try_recv().map(Event::frame),
            Source::Rpc(events, _) => events.try_recv().ok(),
        }
    }
}

/// Shows frames without interpreting them.
pub(crate) async fn run(args: &Args, what: &Topics, out: &mut Output) -> Result<()> {
    let client = crate::connection::connect(args).await?;
    let source = Source::Frames(client.frames()?);
    show(&client, source, what, out).await
}

/// Shows frames as RPC messages, and answers calls with an empty result.
pub(crate) async fn run_rpc(args: &Args, what: &Topics, out: &mut Output) -> Result<()> {
    let client = crate::connection::connect(args).await?;
    let (sender, events) = mpsc::channel(BATCH);
    // Handling in order shows them in the order in which they arrived.
    let rpc = Rpc::with_options(client.clone(), Printer(sender), Options::default().in_order(true));
    show(&client, Source::Rpc(events, rpc), what, out).await
}

async fn show(client: &Client, mut source: Source, what: &Topics, out: &mut Output) -> Result<()> {
    let mut stop = std::pin::pin!(stopped()?);
    if !what.exclude.is_empty() {
        client.exclude(&what.exclude, QoS::Processed).await?;
    }
    if !what.topics.is_empty() {
        client.subscribe(&what.topics, QoS::Processed).await?;
    }
    log::debug!("listening as {}", client.name());
    if out.is_for_people() && std::io::stderr().is_terminal() {
        let _ = writeln!(std::io::stderr(), "Listening as {}. Ctrl-C ends it.", client.name());
    }
    loop {
        let event = tokio::select! {
            biased;
            () = &mut stop => break,
            event = source.next() => event,
        };
        let Some(event) = event else { return Err(client.closed().await.into()) };
        out.event(&event)?;
        for _ in 1..BATCH {
            let Some(event) = source.try_next() else { break };
            out.event(&event)?;
        }
        out.flush()?;
    }
    client.disconnect().await;
    Ok(())
}

/// Listens for the signals that end a program, from now on. Ends the process some time after the first signal, in
/// case the output is blocked.
fn stopped() -> Result<impl Future<Output = ()>> {
    let signal = stop_signal()?;
    let (told, stop) = oneshot::channel();
    tokio::spawn(async move {
        signal.await;
        let _ = told.send(());
        tokio::time::sleep(FAREWELL).await;
        std::process::exit(0);
    });
    Ok(async {
        // An error means that the runtime is ending.
        let _ = stop.await;
    })
}

#[cfg(unix)]
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e| crate::failure::Failure::Other(format!("cannot listen for signals: {e}"));
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
    })
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "as on UNIX")]
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Passes everything to the printer. While the printer is blocked, the broker is held back.
struct Printer(mpsc::Sender<Event>);

impl Printer {
    async fn print(&self, event: Event) {
        // An error means that the program is about to end.
        let _ = self.0.send(event).await;
    }
}

impl Handlers for Printer {
    async fn on_call(&self, call: Call) -> std::result::Result<Bytes, RpcError> {
        self.print(Event::call(call.frame(), call.method(), call.id(), call.params_bytes())).await;
        Ok(Bytes::new())
    }

    async fn on_notification(&self, notification: Notification) {
        self.print(Event::notification(notification.frame(), notification.payload_bytes())).await;
    }

    async fn on_frame(&self, frame: Frame) {
        self.print(Event::frame(frame)).await;
    }
}
