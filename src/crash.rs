//! The crash that tests ask for: ends the process at a named point, as a kill would, without any clean-up.
//!
//! `SENTINEL_CRASH_AT=files-written:3` aborts when data files are written for the third time. Absent in normal runs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use domain::{NoProbe, Probe, probe::Point};

/// The name of the environment variable.
pub const VARIABLE: &str = "SENTINEL_CRASH_AT";

struct CrashAt {
    point: Point,
    left: AtomicU64,
}

impl Probe for CrashAt {
    fn reached(&self, point: Point) {
        if point == self.point && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::abort();
        }
    }
}

/// The probe that the environment asks for.
pub fn probe() -> anyhow::Result<Arc<dyn Probe>> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(Arc::new(NoProbe)) };
    let parsed = text.split_once(':').and_then(|(name, count)| {
        let point = Point::ALL.into_iter().find(|point| point.as_str() == name)?;
        Some((point, count.parse::<u64>().ok().filter(|count| *count > 0)?))
    });
    let (point, count) =
        parsed.ok_or_else(|| anyhow::anyhow!("{VARIABLE}={text}: write a point and a count, such as committed:2"))?;
    Ok(Arc::new(CrashAt { point, left: AtomicU64::new(count) }))
}
