//! Secondary clients, which belong to a primary one.

use super::client_state::ClientState;
use super::{Client, connect};
#[cfg(feature = "broker")]
use super::{Event, Link};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::op::{SECONDARY_SEPARATOR, primary_name};
use std::sync::atomic::Ordering;

/// Number of names that [`Client::secondary`] tries before it gives up.
const SECONDARY_TRIES: u32 = 1000;

impl Client {
    /// Connects a secondary client, named after this one's primary: `NAME%%1`, `NAME%%2` and so on. It has its own
    /// frames and subscriptions, and ends with the primary.
    ///
    /// # Errors
    /// The errors of [`connect`](Client::connect); [`NotSupported`](ErrorKind::NotSupported) if this client was made
    /// from a stream and has no address.
    pub async fn secondary(&self) -> Result<Client> {
        for _ in 0..SECONDARY_TRIES {
            let number = self.0.secondaries.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            match self.secondary_named(&number.to_string()).await {
                // Another client has that name.
                Err(e) if e.kind() == ErrorKind::Busy => {}
                result => return result,
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("all names of secondaries of {:?} are taken", self.name())))
    }

    /// Does the same as [`secondary`](Client::secondary), with the name `NAME%%SUFFIX`.
    ///
    /// # Errors
    ///
    /// The errors of [`secondary`](Client::secondary), and [`Busy`](ErrorKind::Busy) if there is a client of that
    /// name.
    pub async fn secondary_named(&self, suffix: &str) -> Result<Client> {
        self.check_process()?;
        let mut config = self.0.config.clone();
        config.name = [primary_name(self.name()), SECONDARY_SEPARATOR, suffix].concat();
        #[cfg(feature = "broker")]
        if let Link::Local(local) = &self.0.link {
            let state = ClientState::new(&config);
            let link = Link::Local(local.secondary(&config.name, state.clone())?);
            state.events.tell(Event::Connected);
            return Ok(Client::new(config, link, state, self.0.secondaries.clone()));
        }
        if config.address.is_empty() {
            return Err(Error::new(
                ErrorKind::NotSupported,
                "the client was made from a stream and has no address to connect to",
            ));
        }
        let state = ClientState::of_connection(&config);
        let connection = connect::connect(&config, state.clone()).await?;
        Ok(Client::over(connection, config, state, Some(self)))
    }
}
