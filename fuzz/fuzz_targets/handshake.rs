//! The greeting and the registration, from both sides: the pieces in which they arrive make no difference.
#![no_main]

use busrt::proto::handshake::{Client, ClientStep, Server, ServerStep, check_name};
use libfuzzer_sys::fuzz_target;

/// The steps of a broker up to the last one, and what follows the name.
fn server(stream: &[u8], piece: usize) -> (Vec<ServerStep>, Vec<u8>) {
    let (mut machine, mut steps) = (Server::new(), vec![]);
    let mut pieces = stream.chunks(piece.max(1));
    while let Some(mut input) = pieces.next() {
        loop {
            match machine.next(&mut input) {
                ServerStep::Read => break,
                ServerStep::Greeted => steps.push(ServerStep::Greeted),
                last => {
                    steps.push(last);
                    return (steps, [input, &pieces.collect::<Vec<_>>().concat()].concat());
                }
            }
        }
        assert!(input.is_empty(), "a machine that wants more has taken everything");
    }
    (steps, vec![])
}

fn client(stream: &[u8], name: &str, piece: usize) -> (Vec<ClientStep>, bool) {
    let (mut machine, mut steps) = (Client::new(name), vec![]);
    for mut input in stream.chunks(piece.max(1)) {
        loop {
            match machine.next(&mut input) {
                Err(_) => return (steps, false),
                Ok(ClientStep::Read) => break,
                Ok(step @ ClientStep::Send(_)) => steps.push(step),
                Ok(last) => {
                    steps.push(last);
                    return (steps, true);
                }
            }
        }
    }
    (steps, true)
}

fuzz_target!(|stream: &[u8]| {
    let whole = server(stream, stream.len());
    let asked = client(stream, "a.name", stream.len());
    for piece in [1, 2, 3, 5] {
        assert_eq!(server(stream, piece), whole);
        assert_eq!(client(stream, "a.name", piece), asked);
    }
    if let Some(ServerStep::Register(name)) = whole.0.last() {
        assert!(check_name(name).is_ok());
        let sent =
            [&b"\xeb\x01\0"[..], &(name.len() as u16).to_le_bytes(), name.as_bytes(), &whole.1].concat();
        assert_eq!(sent, stream);
    }
});
