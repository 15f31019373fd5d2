//! A client without any async code: an event loop over descriptors, and a server on plain threads.

use busrt::QoS;
use busrt::client::{Client, Completed, CompletionQueue, Config, Request, TrySend, Wait, WakeFd, WakeUp};
use busrt::proto::request::{Operation, Topics};
use busrt::rpc::{Call, CallRequest, Caller, Incoming, Reply, Responder, RpcError, Serving};
use std::error::Error;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

const WORKERS: usize = 4;
const CALLS: u64 = 8;

/// Answers a call. The responder may be moved to any thread, kept, and used later.
fn answer(call: &Call, responder: Responder) {
    let number = std::str::from_utf8(call.params()).ok().and_then(|text| text.parse::<u64>().ok());
    match (call.method(), number.and_then(|number| number.checked_mul(number))) {
        ("square", Some(square)) => responder.reply(square.to_string()),
        ("square", None) => responder.error(RpcError::invalid_params("no number, or too large")),
        _ => responder.error(RpcError::method_not_found()),
    }
}

/// Serves calls until the client ends: one thread takes them in batches, the workers answer them.
fn serve(client: &Client) -> JoinHandle<busrt::Result<()>> {
    let mut requests = Serving::new(client).requests;
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (sender, calls) = mpsc::channel::<(Call, Responder)>();
            thread::spawn(move || calls.iter().for_each(|(call, responder)| answer(&call, responder)));
            sender
        })
        .collect();
    thread::spawn(move || {
        let (mut batch, mut next) = (vec![], workers.iter().cycle());
        while requests.wait_batch(&mut batch, 64, Wait::forever())?.is_some() {
            for incoming in batch.drain(..) {
                if let (Incoming::Request(call, responder), Some(worker)) = (incoming, next.next()) {
                    // Without a worker, the responder is dropped, which answers with an error.
                    let _ = worker.send((call, responder));
                }
            }
        }
        Ok(())
    })
}

/// Sends immediately if there is room, and waits for room otherwise.
fn send(client: &Client, request: &Request<'_>) -> busrt::Result<()> {
    loop {
        match client.try_send(request)? {
            TrySend::Sent(_) => return Ok(()),
            TrySend::NoRoom => _ = client.room().wait(Wait::forever())?,
        }
    }
}

/// Waits until one of the descriptors is readable.
fn poll(descriptors: [&WakeFd; 2]) -> std::io::Result<()> {
    let mut fds = descriptors.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // SAFETY: `fds` holds two descriptors, which are open as long as they are borrowed.
    match unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) } {
        -1 => Err(std::io::Error::last_os_error()).or_else(|e| match e.kind() {
            // A signal interrupted the call: check again.
            std::io::ErrorKind::Interrupted => Ok(()),
            _ => Err(e),
        }),
        _ => Ok(()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("/tmp/busrt.sock".into());
    let server = Client::connect_blocking(&Config::new(&address, "example.squares"))?;
    let serving = serve(&server);

    let client = Client::connect_blocking(&Config::new(&address, "example.without_async"))?;
    let caller = Caller::new(client.clone());
    // The first is readable when frames are waiting, the second when results of calls are.
    let (frames_ready, results_ready) = (WakeFd::new()?, WakeFd::new()?);
    let mut frames = client.frames()?;
    frames.set_wake_up(&frames_ready);
    let (results, results_wake_up) = (CompletionQueue::new(), WakeUp::from(&results_ready));

    send(&client, &Request::new(Operation::Subscribe(Topics::List(&["plant/#"])), QoS::Processed))?;
    for payload in ["87.5", "88.0"] {
        // The parts of a payload need not be joined.
        let request = Request::publish("plant/boiler", payload, QoS::No).prefix(b"temperature ");
        send(&client, &request)?;
    }
    for number in 1..=CALLS {
        let params = number.to_string();
        let call = CallRequest::new("example.squares", "square", &*params, QoS::Processed);
        while !caller.try_call_to(&call, &results, number)?.is_sent() {
            client.room().wait(Wait::forever())?;
        }
    }

    // The event loop takes waiting items, and sleeps when there are none.
    let (mut frames_left, mut calls_left, mut sum) = (2, CALLS, 0);
    let (mut received, mut completed) = (vec![], vec![]);
    while frames_left > 0 || calls_left > 0 {
        let taken = frames.take_batch(&mut received, 64, 65536).ok_or("the connection has ended")?;
        if taken + results.take_or_arm(&mut completed, 64, &results_wake_up) == 0 {
            poll([&frames_ready, &results_ready])?;
        }
        for frame in received.drain(..) {
            let topic = frame.topic().unwrap_or_default();
            println!("{topic}: {}", String::from_utf8_lossy(frame.payload()));
            frames_left -= 1;
        }
        for completion in completed.drain(..) {
            if let Completed::Call(reply) = completion.result {
                sum += std::str::from_utf8(Reply::new(reply?)?.payload())?.parse::<u64>()?;
                calls_left -= 1;
            }
        }
    }
    println!("the squares of 1 to {CALLS} add up to {sum}");

    // One call, awaited in slices: a check between them may handle signals, or cancel the wait.
    let call = CallRequest::new("example.squares", "square", "many", QoS::Processed);
    let pending = caller.try_call(&call)?.sent().ok_or("no room")?;
    let mut slices = 0;
    let mut check = || {
        slices += 1;
        if slices < 200 { Ok(()) } else { Err(busrt::ErrorKind::Timeout.into()) }
    };
    match pending.wait(Wait::forever().slice(Duration::from_millis(50)).check(&mut check))? {
        Some(Ok(_)) => println!("many is a number"),
        Some(Err(e)) => println!("no luck: {e}"),
        None => println!("no reply"),
    }

    // Everything that was sent is passed to the kernel before the end.
    client.flush().wait(Wait::at_most(Duration::from_secs(5)))?;
    client.close();
    server.close();
    serving.join().map_err(|_| "the server has panicked")??;
    println!("closed");
    Ok(())
}
