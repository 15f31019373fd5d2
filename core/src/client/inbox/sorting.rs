//! Sorts received frames into one lane or several.

use crate::proto::op::FrameKind;

/// Maximum number of lanes of an inbox.
pub(crate) const LANES: usize = 3;
/// The lane of publications and broadcasts, and of everything if there is only one lane. The other lanes hold only
/// messages.
pub(crate) const LANE_FRAMES: usize = 0;

/// A consumer's rule that determines the lane of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sorting {
    /// `None`: everything goes to one lane.
    lane_of: Option<LaneOf>,
    has_lanes: bool,
}

/// Returns the lane of a frame of that kind whose payload begins with that byte; `None` if the consumer cannot handle
/// it.
pub(crate) type LaneOf = fn(FrameKind, Option<u8>) -> Option<usize>;

impl Sorting {
    /// Puts everything into one lane.
    pub(crate) const PLAIN: Sorting = Sorting { lane_of: None, has_lanes: false };

    /// Sorts by a rule. With `in_order`, the rule only decides what the consumer can handle, and all of that goes to
    /// one lane.
    #[cfg(feature = "rpc")]
    pub(crate) const fn by(lane_of: LaneOf, in_order: bool) -> Sorting {
        Sorting { lane_of: Some(lane_of), has_lanes: !in_order }
    }

    /// Returns true if the consumer takes everything, in one lane.
    pub(super) fn is_plain(self) -> bool {
        self.lane_of.is_none()
    }

    /// Returns whether frames are spread over several lanes.
    pub(super) fn has_lanes(self) -> bool {
        self.has_lanes
    }

    /// Returns the lane of a frame of that kind whose payload begins with `first`; `None` if the consumer cannot
    /// handle it.
    #[inline]
    pub(super) fn lane_of(self, kind: FrameKind, first: Option<u8>) -> Option<usize> {
        let Some(lane_of) = self.lane_of else { return Some(LANE_FRAMES) };
        let lane = lane_of(kind, first)?;
        Some(if self.has_lanes { lane } else { LANE_FRAMES })
    }
}
