//! What a benchmark measures: times of operations, and the report of them.

use crate::failure::{Failure, Result, may_colour};
use crate::output::Output;
use crate::table::{Item, grouped};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Duration;

/// Longer ones count as this, in ns.
const LONGEST: u64 = 100_000_000_000;
const DIGITS: u8 = 3;
/// After how many operations a worker tells its progress and lets others run.
const STRIDE: u64 = 128;

/// Where one worker writes down its times. Nothing is shared with others per operation.
pub(crate) struct Meter {
    times: Histogram<u64>,
    count: u64,
    bar: ProgressBar,
}

impl Meter {
    pub(crate) fn new(bar: ProgressBar) -> Result<Meter> {
        let times =
            Histogram::new_with_bounds(1, LONGEST, DIGITS).map_err(|e| Failure::Other(e.to_string()))?;
        Ok(Meter { times, count: 0, bar })
    }

    /// An operation is done, and took this long.
    pub(crate) async fn record(&mut self, took: Duration) {
        self.record_ns(took.as_nanos() as u64).await;
    }

    /// As [`record`](Meter::record), in ns.
    pub(crate) async fn record_ns(&mut self, took: u64) {
        self.times.saturating_record(took.max(1));
        self.count().await;
    }

    /// An operation is done.
    pub(crate) async fn count(&mut self) {
        self.count += 1;
        if self.count.is_multiple_of(STRIDE) {
            self.bar.inc(STRIDE);
            // Operations that never wait would keep this thread from the tasks that write.
            tokio::task::yield_now().await;
        }
    }

    /// Adds what another worker has measured.
    pub(crate) fn merge(&mut self, other: &Meter) -> Result<()> {
        self.count += other.count;
        self.times.add(&other.times).map_err(|e| Failure::Other(e.to_string()))
    }

    pub(crate) fn report(&self, name: &'static str, elapsed: Duration) -> Stage {
        let seconds = elapsed.as_secs_f64();
        let at = |quantile| self.times.value_at_quantile(quantile);
        Stage {
            name,
            ops: self.count,
            seconds,
            ops_per_second: if seconds > 0.0 { self.count as f64 / seconds } else { 0.0 },
            latency_ns: (!self.times.is_empty()).then(|| Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: self.times.max(),
            }),
        }
    }
}

/// The outcome of one stage.
#[derive(Debug, Serialize)]
pub(crate) struct Stage {
    name: &'static str,
    ops: u64,
    seconds: f64,
    ops_per_second: f64,
    latency_ns: Option<Latency>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
    max: u64,
}

/// The outcome of all.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) workers: u32,
    pub(crate) payload_size: u32,
    pub(crate) iters: u64,
    pub(crate) stages: Vec<Stage>,
}

const HEADER: [&str; 9] =
    ["STAGE", "OPS", "SECONDS", "OPS/S", "p50, µs", "p90, µs", "p99, µs", "p99.9, µs", "max, µs"];

impl Report {
    pub(crate) fn show(&self, out: &mut Output) -> Result<()> {
        out.result(self, &HEADER, || self.stages.iter().map(Stage::row).collect())
    }
}

impl Stage {
    fn row(&self) -> Vec<Item> {
        let mut row = vec![
            Item::text(self.name),
            Item::number(self.ops),
            Item::number(format!("{:.3}", self.seconds)),
            Item::number(format!("{:.0}", self.ops_per_second)),
        ];
        if let Some(times) = self.latency_ns {
            let all = [times.p50, times.p90, times.p99, times.p999, times.max];
            row.extend(all.map(|ns| Item::number(format!("{:.1}", ns as f64 / 1000.0))));
        }
        row
    }
}

/// A progress bar, if there is a terminal and somebody wants to see it.
pub(crate) fn progress(name: &'static str, total: u64, out: &Output) -> ProgressBar {
    if out.is_silent() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = if may_colour() { "{wide_bar:.cyan/dim}" } else { "{wide_bar}" };
    let template = format!("{{prefix:24}} {bar} {{human_pos}}/{{human_len}}  {{rate}}  {{eta}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key("rate", |state: &ProgressState, to: &mut dyn std::fmt::Write| {
        // It returns nothing, and the bar can do without.
        let _ = write!(to, "{}/s", grouped(format!("{:.0}", state.per_sec())));
    });
    ProgressBar::new(total).with_style(style).with_prefix(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn meters_add_up() {
        let mut all = Meter::new(ProgressBar::hidden()).unwrap();
        for base in [0, 500] {
            let mut meter = Meter::new(ProgressBar::hidden()).unwrap();
            for us in base + 1..=base + 500 {
                meter.record(Duration::from_micros(us)).await;
            }
            all.merge(&meter).unwrap();
        }
        let stage = all.report("x", Duration::from_secs(2));
        assert_eq!((stage.ops, stage.ops_per_second), (1000, 500.0));
        let near = |ns: u64, us: u64| ns.abs_diff(us * 1000) <= us * 2;
        let times = stage.latency_ns.unwrap();
        assert!(
            near(times.p50, 500) && near(times.p99, 990) && near(times.p999, 999) && near(times.max, 1000)
        );
    }

    #[tokio::test]
    async fn what_is_only_counted_has_no_times() {
        let mut meter = Meter::new(ProgressBar::hidden()).unwrap();
        meter.count().await;
        let stage = meter.report("x", Duration::ZERO);
        assert_eq!((stage.ops, stage.latency_ns.is_none()), (1, true));
    }
}
