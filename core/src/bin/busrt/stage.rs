//! The stages of the benchmark.

use busrt::QoS;
use clap::ValueEnum;
use clap::builder::PossibleValue;

/// Every seventh operation without an acknowledgement is timed. A sender yields after every 128th operation. A divisor
/// of 128 would time these operations always or never.
const TIMED: u64 = 7;

/// The operation that the workers repeat in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StageKind {
    Send(QoS),
    SendRecv(QoS),
    CallBroker,
    CallPeer,
    Call0,
}

impl StageKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            StageKind::Send(QoS::No) => "send.qos.no",
            StageKind::Send(_) => "send.qos.processed",
            StageKind::SendRecv(QoS::No) => "send+recv.qos.no",
            StageKind::SendRecv(_) => "send+recv.qos.processed",
            StageKind::CallBroker => "rpc.call",
            StageKind::CallPeer => "rpc.call+handle",
            StageKind::Call0 => "rpc.call0",
        }
    }

    /// Returns the interval of timed operations: 1 if each is timed.
    pub(crate) fn timed(self) -> u64 {
        match self {
            StageKind::Send(QoS::No) | StageKind::SendRecv(QoS::No) => TIMED,
            _ => 1,
        }
    }

    pub(crate) fn is_rpc(self) -> bool {
        matches!(self, StageKind::CallBroker | StageKind::CallPeer | StageKind::Call0)
    }
}

impl ValueEnum for StageKind {
    fn value_variants<'a>() -> &'a [StageKind] {
        &STAGES
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// The QoS of acknowledged operations.
pub(crate) const ACKNOWLEDGED: QoS = QoS::RealtimeProcessed;

/// All stages in the order in which they run. Those with RPC come last, because RPC takes over the frames.
pub(crate) const STAGES: [StageKind; 7] = [
    StageKind::Send(QoS::No),
    StageKind::Send(ACKNOWLEDGED),
    StageKind::SendRecv(QoS::No),
    StageKind::SendRecv(ACKNOWLEDGED),
    StageKind::CallBroker,
    StageKind::CallPeer,
    StageKind::Call0,
];
