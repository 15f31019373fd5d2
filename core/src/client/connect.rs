//! Connects to an address and registers.

use super::client_state::ClientState;
use super::config::Config;
use super::connection::Connection;
use crate::error::{Error, ErrorKind, Result};
use crate::proto::handshake::{self, ClientStep};
use crate::transport::{Address, Socket, Writer};
use std::io;
use std::sync::Arc;
use tokio::time::{sleep, timeout};

/// Connects to the address in `config` and registers.
pub(crate) async fn connect(config: &Config, client: Arc<ClientState>) -> Result<Connection> {
    let address: Address = config.address.parse()?;
    let work = async {
        let socket = Socket::connect(&address).await.map_err(|e| io_error(e, config))?;
        socket.set_buffers(config.socket_buffers).map_err(|e| io_error(e, config))?;
        register(socket, config, client).await
    };
    timeout(config.timeout, work).await.unwrap_or_else(|_| Err(late(config)))
}

/// Connects for the first time, and tries again if it is configured.
pub(crate) async fn connect_first(config: &Config, client: Arc<ClientState>) -> Result<Connection> {
    let plan = config.reconnect.as_ref().filter(|plan| plan.retries_first && config.reconnects());
    let mut attempt = 0;
    loop {
        let error = match connect(config, client.clone()).await {
            Ok(connection) => return Ok(connection),
            Err(e) => e,
        };
        attempt += 1;
        match plan {
            Some(plan) if !plan.is_over(attempt) && may_pass(&error) => {
                let delay = plan.delay(attempt - 1);
                log::debug!("{:?} cannot connect, trying again in {delay:?}: {error}", config.name);
                sleep(delay).await;
            }
            _ => return Err(error),
        }
    }
}

/// Returns true if another attempt to connect may succeed.
fn may_pass(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Data | ErrorKind::NotSupported | ErrorKind::AccessDenied)
}

/// Registers over a connected socket.
pub(crate) async fn connect_stream(
    socket: Socket,
    config: &Config,
    client: Arc<ClientState>,
) -> Result<Connection> {
    timeout(config.timeout, register(socket, config, client)).await.unwrap_or_else(|_| Err(late(config)))
}

async fn register(socket: Socket, config: &Config, client: Arc<ClientState>) -> Result<Connection> {
    if config.name.len() > usize::from(u16::MAX) {
        return Err(Error::new(ErrorKind::Data, "a client's name is longer than 65535 bytes"));
    }
    let writer = Writer::new(Arc::new(socket.unregistered()));
    // Only a connection that is dropped before it is registered needs this: a registered one closes by itself.
    let guard = CloseOnDrop(&writer);
    let mut machine = handshake::Client::new(&config.name);
    let mut held = Vec::with_capacity(512);
    loop {
        let mut input = &held[..];
        let step = machine.next(&mut input).map_err(|e| {
            let context = format!("the peer is not a BUS/RT broker{}", at(config));
            about(Error::new(ErrorKind::NotSupported, context).with_source(e), config)
        })?;
        let used = held.len() - input.len();
        held.drain(..used);
        match step {
            ClientStep::Read => {
                socket.readable().await.map_err(|e| io_error(e, config))?;
                match socket.try_read_buf(&mut held) {
                    Ok(0) => {
                        let context =
                            format!("the broker closed the connection before it registered{}", at(config));
                        return Err(about(Error::new(ErrorKind::ConnectionLost, context), config));
                    }
                    Ok(_) => {}
                    Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                    Err(e) => return Err(io_error(e, config)),
                }
            }
            ClientStep::Send(bytes) => {
                writer.with(|backlog| backlog.queue().push(|out| out.extend_from_slice(&bytes)));
                writer.flush();
            }
            ClientStep::Refused(code) => {
                let context = format!("Server response: 0x{code:02x}, to {:?}{}", config.name, at(config));
                return Err(about(Error::refused(code, context), config));
            }
            ClientStep::Registered => break,
        }
    }
    std::mem::forget(guard);
    Ok(Connection::start(socket, writer, &held, client, config))
}

struct CloseOnDrop<'a>(&'a Writer);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn at(config: &Config) -> String {
    if config.address.is_empty() { String::new() } else { format!(" at {}", config.address) }
}

fn io_error(e: io::Error, config: &Config) -> Error {
    about(Error::new(ErrorKind::Io, config.address.clone()).with_source(e), config)
}

fn late(config: &Config) -> Error {
    let context = format!("no registration within {:?}{}", config.timeout, at(config));
    about(Error::new(ErrorKind::Timeout, context), config)
}

/// Adds the address to the error as its subject, if there is one.
fn about(error: Error, config: &Config) -> Error {
    if config.address.is_empty() { error } else { error.with_subject(config.address.as_str()) }
}
