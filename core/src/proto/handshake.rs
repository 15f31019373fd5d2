//! Greeting and registration, both sides as state machines (docs/protocol.md section 2).
//!
//! ```text
//! broker -> client   EB 01 00
//! client -> broker   EB 01 00
//! broker -> client   01, or an error code and the end
//! client -> broker   u16 length, NAME
//! broker -> client   01, or an error code and the end
//! ```
//!
//! Both state machines accept bytes in pieces of any size, consume only the bytes that they need (the bytes after a
//! name are already frames), and never hold more than one name.

use super::DecodeError;
use super::op::{GREETING, MAGIC, RESULT_OK, VERSION};
use crate::error::ErrorKind;

/// Returns `Ok` if `name` may be a client's name: it is not empty, does not start with a dot and contains no NUL.
///
/// # Errors
///
/// A description of the fault.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("a client's name is empty")
    } else if name.starts_with('.') {
        Err("names that start with a dot are reserved for the broker")
    } else if name.contains('\0') {
        Err("a client's name contains a NUL")
    } else if name.len() > usize::from(u16::MAX) {
        Err("a client's name is longer than 65535 bytes")
    } else {
        Ok(())
    }
}

fn check_greeting(bytes: &[u8; 3]) -> Result<(), DecodeError> {
    let [magic, low, high] = *bytes;
    let version = u16::from_le_bytes([low, high]);
    if magic != MAGIC {
        Err(DecodeError::Magic(magic))
    } else if version != VERSION {
        Err(DecodeError::Version(version))
    } else {
        Ok(())
    }
}

/// The next step of the broker.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerStep {
    /// More bytes are needed.
    Read,
    /// The greeting is correct: answer `01`, then continue.
    Greeted,
    /// Answer with the error's code and close the connection.
    Reject(ErrorKind),
    /// The peer asks for this name. The registry decides whether it gets the name.
    Register(String),
}

/// The state machine of the broker's side. The caller must send [`GREETING`] first.
#[derive(Debug, Default)]
pub struct Server {
    greeted: bool,
    held: Vec<u8>,
}

impl Server {
    /// Creates a state machine that waits for the peer's greeting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Consumes the bytes that it needs from the front of `input`, one step at a time.
    pub fn next(&mut self, input: &mut &[u8]) -> ServerStep {
        if !self.greeted {
            return match fill(&mut self.held, 3, input).and_then(|held| held.first_chunk::<3>().copied()) {
                None => ServerStep::Read,
                Some(greeting) => match check_greeting(&greeting) {
                    Err(_) => ServerStep::Reject(ErrorKind::NotSupported),
                    Ok(()) => {
                        self.greeted = true;
                        self.held.clear();
                        ServerStep::Greeted
                    }
                },
            };
        }
        let Some(&[low, high]) = fill(&mut self.held, 2, input).and_then(|held| held.first_chunk::<2>())
        else {
            return ServerStep::Read;
        };
        let len = usize::from(u16::from_le_bytes([low, high]));
        let Some(held) = fill(&mut self.held, 2 + len, input) else { return ServerStep::Read };
        match std::str::from_utf8(&held[2..]) {
            Ok(name) if check_name(name).is_ok() => ServerStep::Register(name.to_owned()),
            _ => ServerStep::Reject(ErrorKind::Data),
        }
    }
}

/// Extends `held` to `len` bytes from the front of `input`. Returns `None` while there are not enough bytes.
fn fill<'a>(held: &'a mut Vec<u8>, len: usize, input: &mut &[u8]) -> Option<&'a [u8]> {
    let take = len.saturating_sub(held.len()).min(input.len());
    held.extend_from_slice(&input[..take]);
    *input = &input[take..];
    (held.len() >= len).then_some(held)
}

/// The next step of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// More bytes are needed.
    Read,
    /// Send these bytes, then continue.
    Send(Vec<u8>),
    /// The name is registered: frames may be sent.
    Registered,
    /// The broker has refused with this code.
    Refused(u8),
}

#[derive(Debug, Clone, Copy)]
enum ClientStage {
    Greeting,
    GreetingAnswer,
    NameAnswer,
}

/// The state machine of the client's side.
#[derive(Debug)]
pub struct Client<'a> {
    name: &'a str,
    stage: ClientStage,
    held: Vec<u8>,
}

impl<'a> Client<'a> {
    /// Creates a state machine that registers `name`.
    pub fn new(name: &'a str) -> Self {
        Client { name, stage: ClientStage::Greeting, held: Vec::new() }
    }

    /// Consumes the bytes that it needs from the front of `input`, one step at a time.
    ///
    /// # Errors
    ///
    /// The peer is not a broker of this protocol and version.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<ClientStep, DecodeError> {
        match self.stage {
            ClientStage::Greeting => {
                let Some(greeting) = fill(&mut self.held, 3, input).and_then(|held| held.first_chunk::<3>())
                else {
                    return Ok(ClientStep::Read);
                };
                check_greeting(greeting)?;
                self.stage = ClientStage::GreetingAnswer;
                Ok(ClientStep::Send(GREETING.to_vec()))
            }
            ClientStage::GreetingAnswer => match input.split_off_first() {
                None => Ok(ClientStep::Read),
                Some(&RESULT_OK) => {
                    self.stage = ClientStage::NameAnswer;
                    let mut bytes = (self.name.len() as u16).to_le_bytes().to_vec();
                    bytes.extend_from_slice(self.name.as_bytes());
                    Ok(ClientStep::Send(bytes))
                }
                Some(&code) => Ok(ClientStep::Refused(code)),
            },
            ClientStage::NameAnswer => match input.split_off_first() {
                None => Ok(ClientStep::Read),
                Some(&RESULT_OK) => Ok(ClientStep::Registered),
                Some(&code) => Ok(ClientStep::Refused(code)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(pieces: &[&[u8]]) -> Vec<ServerStep> {
        let mut machine = Server::new();
        let mut steps = vec![];
        for piece in pieces {
            let mut input = *piece;
            loop {
                let step = machine.next(&mut input);
                if step == ServerStep::Read {
                    break;
                }
                let end = matches!(step, ServerStep::Reject(_) | ServerStep::Register(_));
                steps.push(step);
                if end {
                    return steps;
                }
            }
        }
        steps
    }

    #[test]
    fn registers_byte_by_byte_and_in_one_piece() {
        let stream = b"\xeb\x01\0\x03\0a.b";
        let wanted = [ServerStep::Greeted, ServerStep::Register("a.b".into())];
        assert_eq!(server(&stream.chunks(1).collect::<Vec<_>>()), wanted);
        assert_eq!(server(&[stream]), wanted);
    }

    #[test]
    fn leaves_the_bytes_after_the_name() {
        let mut machine = Server::new();
        let mut input = &b"\xeb\x01\0\x01\0amore"[..];
        assert_eq!(machine.next(&mut input), ServerStep::Greeted);
        assert_eq!(machine.next(&mut input), ServerStep::Register("a".into()));
        assert_eq!(input, b"more");
    }

    #[test]
    fn refusals() {
        for greeting in [&b"\xec\x01\0"[..], b"\xeb\x02\0", b"GET"] {
            assert_eq!(server(&[greeting]), [ServerStep::Reject(ErrorKind::NotSupported)]);
        }
        for name in [&b"\0\0"[..], b"\x02\0.a", b"\x02\0\xff\xfe", b"\x03\0a\0b"] {
            let stream = [b"\xeb\x01\0", name].concat();
            assert_eq!(server(&[&stream])[1], ServerStep::Reject(ErrorKind::Data), "{name:?}");
        }
    }

    #[test]
    fn client_side() {
        let mut machine = Client::new("me");
        let mut input = &b"\xeb\x01"[..];
        assert_eq!(machine.next(&mut input), Ok(ClientStep::Read));
        let mut input = &b"\0\x01\x01frames"[..];
        assert_eq!(machine.next(&mut input), Ok(ClientStep::Send(GREETING.to_vec())));
        assert_eq!(machine.next(&mut input), Ok(ClientStep::Send(b"\x02\0me".to_vec())));
        assert_eq!(machine.next(&mut input), Ok(ClientStep::Registered));
        assert_eq!(input, b"frames");
        let mut machine = Client::new("me");
        assert_eq!(machine.next(&mut &b"HTTP"[..]), Err(DecodeError::Magic(b'H')));
        let mut machine = Client::new("me");
        let mut input = &b"\xeb\x01\0\x75"[..];
        machine.next(&mut input).unwrap();
        assert_eq!(machine.next(&mut input), Ok(ClientStep::Refused(0x75)));
    }
}
