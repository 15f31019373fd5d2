//! The sorting of received frames: into one lane or several.

use crate::proto::op::FrameKind;

/// The most lanes that an inbox has.
pub(crate) const LANES: usize = 3;
/// The lane of publications and broadcasts, and of everything if there is one lane only. The other lanes hold messages
/// alone.
pub(crate) const LANE_FRAMES: usize = 0;

/// The rule of a consumer that finds the lane of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sorting {
    /// `None`: everything belongs in one lane.
    lane_of: Option<LaneOf>,
    has_lanes: bool,
}

/// The lane of a frame of that kind whose payload begins with that byte; `None` if the consumer cannot handle it.
pub(crate) type LaneOf = fn(FrameKind, Option<u8>) -> Option<usize>;

impl Sorting {
    /// Everything in one lane.
    pub(crate) const PLAIN: Sorting = Sorting { lane_of: None, has_lanes: false };

    /// Lanes by a rule; with `in_order` it only tells what the consumer can handle, and all of that is in one lane.
    #[cfg(feature = "rpc")]
    pub(crate) const fn by(lane_of: LaneOf, in_order: bool) -> Sorting {
        Sorting { lane_of: Some(lane_of), has_lanes: !in_order }
    }

    /// Returns whether the consumer takes everything, in one lane.
    pub(super) fn is_plain(self) -> bool {
        self.lane_of.is_none()
    }

    /// Returns whether frames are spread over several lanes.
    pub(super) fn has_lanes(self) -> bool {
        self.has_lanes
    }

    /// The lane of a frame of that kind whose payload begins with `first`; `None` if the consumer cannot handle it.
    #[inline]
    pub(super) fn lane_of(self, kind: FrameKind, first: Option<u8>) -> Option<usize> {
        let Some(lane_of) = self.lane_of else { return Some(LANE_FRAMES) };
        let lane = lane_of(kind, first)?;
        Some(if self.has_lanes { lane } else { LANE_FRAMES })
    }
}
