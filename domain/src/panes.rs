//! Aligned one-second panes of running moments, and the rolling window merged from them.
//!
//! A window is always merged pane by pane, oldest first, so its bits depend on the panes alone and never on how
//! or when they were filled. The merge of the 59 older panes is a cache: an in-order event costs one merge.

use crate::time::{MICROS, Timestamp};

/// Length of a pane in microseconds.
pub const PANE_MICROS: i64 = MICROS;

/// Panes in a rolling window, the event's own included.
pub const WINDOW_PANES: i64 = 60;

/// Panes kept per symbol: the window, the allowed lateness and a reserve, as a power of two.
const SLOTS: i64 = 128;

/// The number of the pane that holds an instant.
#[must_use]
pub const fn pane_of(timestamp: Timestamp) -> i64 {
    timestamp.span(PANE_MICROS)
}

/// Count, mean and sum of squared deviations of price, log-return and volume.
///
/// Sources: Welford (1962) for one value; Chan, Golub and `LeVeque` (1979), equation 2.1, for the merge.
///
/// The fourth lane is always 0: four lanes are what vector registers hold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// A whole number, kept as what it is divided by.
    count: f64,
    mean: [f64; 4],
    squares: [f64; 4],
}

impl Moments {
    /// Adds one event's price, log-return and volume.
    pub fn add(&mut self, values: [f64; 3]) {
        self.count += 1.0;
        let share = 1.0 / self.count;
        let [price, log_return, volume] = values;
        for (lane, value) in [price, log_return, volume, 0.0].into_iter().enumerate() {
            let delta = value - self.mean[lane];
            self.mean[lane] += delta * share;
            self.squares[lane] += delta * (value - self.mean[lane]);
        }
    }

    /// Adds what `later` has seen.
    pub fn merge(&mut self, later: &Self) {
        if later.count == 0.0 {
            return;
        }
        if self.count == 0.0 {
            *self = *later;
            return;
        }
        let count = self.count + later.count;
        let share = later.count / count;
        let weight = self.count * share;
        for lane in 0..4 {
            let delta = later.mean[lane] - self.mean[lane];
            self.mean[lane] += delta * share;
            self.squares[lane] += later.squares[lane] + delta * delta * weight;
        }
        self.count = count;
    }

    /// Events seen.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number far below 2^53")]
    pub const fn count(&self) -> u64 {
        self.count as u64
    }

    /// Means of price, log-return and volume; 0 without events.
    #[must_use]
    pub const fn means(&self) -> [f64; 3] {
        let [price, log_return, volume, _] = self.mean;
        [price, log_return, volume]
    }

    /// Sample standard deviations (n - 1) of price, log-return and volume; 0 below two events.
    #[must_use]
    pub fn deviations(&self) -> [f64; 3] {
        if self.count < 2.0 {
            return [0.0; 3];
        }
        let [price, log_return, volume, _] = self.squares.map(|squares| (squares / (self.count - 1.0)).sqrt());
        [price, log_return, volume]
    }
}

/// The panes of one symbol that a later event may still need.
#[derive(Clone, Debug)]
pub struct Panes {
    slots: Box<[Slot]>,
    older: Older,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    pane: i64,
    moments: Moments,
}

/// The merge of the 59 panes before `pane`, for the newest pane asked for.
#[derive(Clone, Debug)]
struct Older {
    pane: i64,
    valid: bool,
    moments: Moments,
}

impl Default for Panes {
    fn default() -> Self {
        let empty = Slot { pane: i64::MIN, moments: Moments::default() };
        Self {
            slots: vec![empty; slot_of(SLOTS - 1) + 1].into_boxed_slice(),
            older: Older { pane: i64::MIN, valid: false, moments: Moments::default() },
        }
    }
}

impl Panes {
    /// The window of an event in `pane`, the event not yet added: its own pane so far and the 59 before it.
    pub fn window(&mut self, pane: i64) -> Moments {
        let mut window = self.older(pane);
        if let Some(own) = self.pane(pane) {
            window.merge(own);
        }
        window
    }

    /// Adds an event's price, log-return and volume to its pane.
    ///
    /// # Panics
    /// If the pane has left the window; admission refuses such events as late.
    pub fn add(&mut self, pane: i64, values: [f64; 3]) {
        let slot = &mut self.slots[slot_of(pane)];
        if slot.pane != pane {
            assert!(slot.pane < pane, "admission keeps events out of panes that left the window");
            *slot = Slot { pane, moments: Moments::default() };
        }
        slot.moments.add(values);
        if pane < self.older.pane && pane > self.older.pane - WINDOW_PANES {
            self.older.valid = false;
        }
    }

    fn older(&mut self, pane: i64) -> Moments {
        if self.older.pane == pane && self.older.valid {
            return self.older.moments;
        }
        let mut moments = Moments::default();
        for earlier in pane - WINDOW_PANES + 1..pane {
            if let Some(seen) = self.pane(earlier) {
                moments.merge(seen);
            }
        }
        if pane >= self.older.pane {
            self.older = Older { pane, valid: true, moments };
        }
        moments
    }

    fn pane(&self, pane: i64) -> Option<&Moments> {
        let slot = &self.slots[slot_of(pane)];
        (slot.pane == pane).then_some(&slot.moments)
    }
}

const fn slot_of(pane: i64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below SLOTS")]
    let slot = pane.rem_euclid(SLOTS) as usize;
    slot
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moments(values: &[[f64; 3]]) -> Moments {
        let mut moments = Moments::default();
        for value in values {
            moments.add(*value);
        }
        moments
    }

    proptest! {
        #[test]
        fn merged_moments_agree_with_one_pass(
            values in prop::collection::vec(prop::array::uniform3(1.0_f64..1e4), 2..200),
            cut in 0_usize..200,
        ) {
            let cut = cut.min(values.len());
            let whole = moments(&values);
            let mut merged = moments(&values[..cut]);
            merged.merge(&moments(&values[cut..]));
            prop_assert_eq!(merged.count(), whole.count());
            for lane in 0..3 {
                prop_assert!((merged.means()[lane] / whole.means()[lane] - 1.0).abs() < 1e-12);
                prop_assert!((merged.deviations()[lane] - whole.deviations()[lane]).abs() < 1e-9 * whole.means()[lane]);
            }
        }

        #[test]
        fn the_cached_merge_never_differs_from_a_fresh_one(steps in prop::collection::vec((0_i64..90, 1.0_f64..2.0), 1..300)) {
            // Panes drift forward slowly, so that events fall into older panes as often as into new ones.
            let mut cached = Panes::default();
            let mut newest = 0;
            for (number, (back, value)) in (0_i64..).zip(&steps) {
                newest = newest.max(number / 3);
                let pane = newest - back % 50;
                let mut fresh = cached.clone();
                fresh.older.valid = false;
                prop_assert_eq!(cached.window(pane), fresh.window(pane));
                cached.add(pane, [*value; 3]);
            }
        }
    }

    #[test]
    fn equal_values_have_no_deviation() {
        let moments = moments(&[[0.1, 0.0, 3.3]; 500]);
        assert!(moments.deviations().iter().all(|d| *d < 1e-15));
    }
}
