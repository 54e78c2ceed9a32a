//! When and how a run interferes: settled by its seed before it begins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dice::Dice;

/// The shortest and the longest that it waits.
const DELAY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(5));
/// What counts as the beginning of a process: recovery happens then.
const EARLY: Duration = Duration::from_millis(50);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervention {
    pub moment: Moment,
    pub victim: Victim,
}

/// When: microseconds after something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The start of the engine, or the last intervention if that was later.
    Start(u64),
    /// The same, and within the first moments, whatever the others wait.
    Early(u64),
    /// The first job that the plugin got after that.
    Dispatch(u64),
}

/// Who is killed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Victim {
    /// The engine is killed.
    Engine,
    /// The engine and the plugin are killed.
    EngineAndPlugin,
    /// The plugin is killed.
    Plugin,
    /// The engine stands still for a while.
    EngineStopped,
    /// The plugin stands still for a while; other interventions may come meanwhile.
    PluginStopped,
}

/// The interventions of a seed.
pub fn plan(seed: u64, kills: u64) -> impl Iterator<Item = Intervention> {
    let mut dice = Dice::new(seed, 1);
    (0..kills).map(move |_| Intervention { moment: moment(&mut dice), victim: victim(&mut dice) })
}

fn moment(dice: &mut Dice) -> Moment {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    match dice.below(100) {
        0..20 => Moment::Early(dice.below(micros(EARLY))),
        20..50 => Moment::Start(micros(dice.log_uniform(DELAY.0, DELAY.1))),
        _ => Moment::Dispatch(micros(dice.log_uniform(DELAY.0, DELAY.1))),
    }
}

fn victim(dice: &mut Dice) -> Victim {
    match dice.below(100) {
        0..70 => Victim::Engine,
        70..85 => Victim::EngineAndPlugin,
        85..90 => Victim::Plugin,
        90..95 => Victim::EngineStopped,
        _ => Victim::PluginStopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        let of = |seed| plan(seed, 500).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_eq!(of(1)[..100], plan(1, 100).collect::<Vec<_>>(), "a longer run begins the same");
        let engines = of(3).iter().filter(|i| i.victim == Victim::Engine).count();
        assert!((300..400).contains(&engines), "{engines} of 500");
    }
}
