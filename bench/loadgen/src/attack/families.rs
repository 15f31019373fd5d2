//! Primaries with many secondaries.

use super::Stage;
use super::crowd::Crowd;
use std::sync::Arc;
use std::time::Duration;

/// A primary with 6,000 secondaries disconnects, and then another with 3,000. The broker disconnects the secondaries.
pub fn leave_family(stage: &Arc<Stage>) {
    let mut families = Vec::new();
    for (number, size) in [6_000, 3_000].into_iter().enumerate() {
        let primary = Crowd::deaf(vec![stage.connect(&format!("lg.family{number}"))]);
        let secondaries = (0..stage.count(size)).map(|i| stage.connect(&format!("lg.family{number}%%{i}")));
        families.push((primary, Crowd::deaf(secondaries.collect())));
    }
    stage.go();
    // The connections of the secondaries stay open here until the attack ends.
    let mut staying = Vec::new();
    for (primary, secondaries) in families {
        drop(primary);
        staying.push(secondaries);
        stage.round();
        std::thread::sleep(Duration::from_millis(500));
    }
    std::thread::sleep(Duration::from_secs(3600));
}
