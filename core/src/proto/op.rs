//! The constants of the wire format, and the two small types made of them: [`QoS`] and [`FrameKind`].

/// The three bytes with which each side greets the other: a magic byte and the protocol version.
pub const GREETING: [u8; 3] = [0xeb, 1, 0];
/// The magic byte that opens a greeting.
pub const MAGIC: u8 = 0xeb;
/// The protocol version of this implementation.
pub const VERSION: u16 = 1;

/// A ping, in both directions.
pub const OP_NOP: u8 = 0x00;
/// Publish, and the delivery of a publication.
pub const OP_PUBLISH: u8 = 0x01;
/// Subscribe to topics.
pub const OP_SUBSCRIBE: u8 = 0x02;
/// End subscriptions.
pub const OP_UNSUBSCRIBE: u8 = 0x03;
/// Exclude topics from what subscriptions match.
pub const OP_EXCLUDE: u8 = 0x04;
/// End exclusions.
pub const OP_UNEXCLUDE: u8 = 0x05;
/// Publish for one receiver only.
pub const OP_PUBLISH_FOR: u8 = 0x06;
/// A message to one client, and its delivery.
pub const OP_MESSAGE: u8 = 0x12;
/// A message to all clients a mask matches, and its delivery.
pub const OP_BROADCAST: u8 = 0x13;
/// An acknowledgement (broker to client).
pub const OP_ACK: u8 = 0xfe;

/// The result code of success.
pub const RESULT_OK: u8 = 0x01;

/// The bits of the flags byte that hold the operation.
pub const OP_BITS: u8 = 0x3f;

/// The separator between a primary client's name and a secondary's suffix.
pub const SECONDARY_SEPARATOR: &str = "%%";
/// The name of the broker's own client.
pub const BROKER_NAME: &str = ".broker";
/// The topic of the broker's announcements of clients that connect and disconnect.
pub const TOPIC_INFO: &str = ".broker/info";
/// The topic of the broker's announcement of its shutdown. Every client is subscribed to it when it registers.
pub const TOPIC_WARN: &str = ".broker/warn";

/// Returns the primary name within a client's name, up to the first `%%`.
///
/// ```
/// assert_eq!(busrt::proto::op::primary_name("plant.a%%2"), "plant.a");
/// assert_eq!(busrt::proto::op::primary_name("plant.a"), "plant.a");
/// ```
pub fn primary_name(name: &str) -> &str {
    // Names are short: a plain loop is faster than preparing a search for a string.
    let separator = SECONDARY_SEPARATOR.as_bytes();
    let end = name.as_bytes().windows(separator.len()).position(|pair| pair == separator);
    end.map_or(name, |end| &name[..end])
}

/// The quality of service of an operation (docs/protocol.md section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// Not acknowledged.
    No = 0,
    /// The broker acknowledges the operation.
    #[default]
    Processed = 1,
    /// Flushed immediately on every hop, not acknowledged.
    Realtime = 2,
    /// Flushed immediately on every hop, and acknowledged.
    RealtimeProcessed = 3,
}

impl QoS {
    /// Returns true if the broker acknowledges the operation.
    pub const fn needs_ack(self) -> bool {
        self as u8 & 1 != 0
    }

    /// Returns the same QoS with an acknowledgement.
    pub const fn acknowledged(self) -> QoS {
        if self.is_realtime() { QoS::RealtimeProcessed } else { QoS::Processed }
    }

    /// Returns true if the frame is flushed immediately on every hop.
    pub const fn is_realtime(self) -> bool {
        self as u8 & 2 != 0
    }

    /// Returns the QoS of a flags byte (bits 6 and 7).
    pub const fn from_flags(flags: u8) -> QoS {
        match flags >> 6 {
            0 => QoS::No,
            1 => QoS::Processed,
            2 => QoS::Realtime,
            _ => QoS::RealtimeProcessed,
        }
    }

    /// Returns the flags byte of operation `op` with this QoS.
    pub const fn flags(self, op: u8) -> u8 {
        op | (self as u8) << 6
    }
}

/// The kind of a frame that a client receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A publication on a topic to which this client is subscribed.
    Publication = OP_PUBLISH,
    /// A message to this client by name.
    Message = OP_MESSAGE,
    /// A broadcast to all clients whose names match a mask.
    Broadcast = OP_BROADCAST,
}

impl FrameKind {
    /// Returns the kind for a delivery's first byte.
    pub const fn from_byte(byte: u8) -> Option<FrameKind> {
        match byte {
            OP_PUBLISH => Some(FrameKind::Publication),
            OP_MESSAGE => Some(FrameKind::Message),
            OP_BROADCAST => Some(FrameKind::Broadcast),
            _ => None,
        }
    }
}
