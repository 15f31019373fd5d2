//! The lanes of an RPC server: a slow handler of one kind of frame delays only that kind.

use crate::client::inbox::{Hand, LANE_FRAMES, Sorting};
use crate::client::{Attached, Client, Lane};
use crate::proto::op::FrameKind;
use crate::proto::rpc::{NOTIFICATION, REQUEST};
use std::sync::Arc;

const LANE_NOTIFICATIONS: usize = 1;
const LANE_CALLS: usize = 2;

/// Returns the lane of a frame whose payload begins with `first`; `None` for a message that is neither notification
/// nor request.
fn lane_of(kind: FrameKind, first: Option<u8>) -> Option<usize> {
    match (kind, first) {
        (FrameKind::Publication | FrameKind::Broadcast, _) => Some(LANE_FRAMES),
        (FrameKind::Message, Some(NOTIFICATION)) => Some(LANE_NOTIFICATIONS),
        (FrameKind::Message, Some(REQUEST)) => Some(LANE_CALLS),
        _ => None,
    }
}

/// A lane whose held frames go to a server that takes over.
pub(super) type RpcLane = Lane<Arc<Hand>>;

/// All lanes. With handling in order, only the first is used.
pub(super) struct RpcLanes {
    pub(super) frames: RpcLane,
    pub(super) notifications: RpcLane,
    pub(super) calls: RpcLane,
    /// Ends the lanes when dropped.
    pub(super) attached: Attached,
}

impl RpcLanes {
    /// Takes over the frames of a client from its current consumer.
    pub(super) fn attach(client: &Client, in_order: bool) -> RpcLanes {
        let attached = Attached::take_over(&client.state().inbox, Sorting::by(lane_of, in_order));
        RpcLanes {
            frames: Lane::shared(&attached, LANE_FRAMES),
            notifications: Lane::shared(&attached, LANE_NOTIFICATIONS),
            calls: Lane::shared(&attached, LANE_CALLS),
            attached,
        }
    }
}
