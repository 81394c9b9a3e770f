//! Random churn for as long as is asked for: pods come and go, labels and policies change, agents are killed, and somebody
//! tampers with what is in the kernel. After each round the node is brought back to where it began, and holds what it held:
//! not an entry, a pin, a link, a program, a file or an open descriptor more.
//!
//! `make test` plays a few rounds of a fixed seed, `make soak MINUTES=60` as many as an hour has (`SEED=…` for those of
//! another run). Then the agent is uninstalled, and the host is as it was before the first one.

mod churn;
mod dice;
mod figures;
mod stage;
mod tamper;

use std::{
    env, process,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use dice::Dice;
use figures::{Figures, Lives};
use oxilium_e2e::{require::require, scenario::NEEDS, wait};
use stage::Stage;

/// Rounds where no time is asked for: all kinds of rounds once.
const ROUNDS: u32 = 4;

/// What happens in a round beside pods, labels and policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing: traffic that is allowed passes whole, and none that is denied.
    Calm,
    /// Somebody changes what is in the kernel. Until that is repaired, anything may pass or be lost.
    Tampering,
    /// Agents are killed. Traffic as in a calm round.
    Deadly,
}

impl Kind {
    /// Lives are long enough to show a leak: the agents of one round in eight die.
    fn of(round: u32) -> Self {
        match round % 8 {
            2 => Self::Deadly,
            1 | 4 | 6 => Self::Tampering,
            _ => Self::Calm,
        }
    }
}

/// What is asked for.
struct Wish {
    rounds: u32,
    until: Option<Instant>,
    seed: u64,
}

impl Wish {
    fn from_environment() -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            let text = env::var(name).ok().filter(|text| !text.is_empty());
            text.map(|text| text.parse().with_context(|| format!("{name}={text}")))
                .transpose()
        };
        let minutes = number("OXILIUM_SOAK_MINUTES")?;
        let drawn = || u64::from(process::id());
        Ok(Self {
            rounds: minutes.map_or(ROUNDS, |_| u32::MAX),
            until: minutes.map(|minutes| Instant::now() + Duration::from_mins(minutes)),
            seed: match number("OXILIUM_SEED")? {
                Some(seed) => seed,
                None => minutes.map_or(1, |_| drawn()),
            },
        })
    }
}

#[expect(clippy::print_stderr, reason = "a long run says how far it is")]
fn tell(text: &str) {
    eprintln!("{text}");
}

fn play(stage: &mut Stage, wish: &Wish) -> Result<()> {
    let mut dice = Dice::new(wish.seed);
    stage.begin()?;
    let first = Figures::take(stage)?;
    tell(&format!("seed {}; at the beginning: {first}", wish.seed));
    let mut lives = Lives::default();
    for round in 0..wish.rounds {
        if wish.until.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let kind = Kind::of(round);
        let done = stage.round(kind, &mut dice).and_then(|()| {
            wait::until("nothing is left of it", wait::LONG, || {
                let now = Figures::take(stage)?;
                now.is_like(&first)?;
                Ok(Some(now))
            })
        });
        let now = done.with_context(|| {
            format!(
                "round {round} ({kind:?}) of seed {}: {}",
                wish.seed,
                stage.story.join(", ")
            )
        })?;
        if kind == Kind::Tampering {
            // A link whose pin was removed stays until the kernel comes to it: all is as it was once the pins are, too.
            stage.count_from_now()?;
        }
        tell(&format!(
            "round {round}, {kind:?}, {} deeds: {now}",
            stage.story.len()
        ));
        lives.note(stage.life, now.memory);
    }
    tell(&format!("{}", stage.tally));
    tell(&format!("{lives}"));
    lives.have_no_leak()
}

#[test]
fn nothing_is_left_of_what_came_and_went() {
    if !require(&NEEDS) {
        return;
    }
    let wish = Wish::from_environment().unwrap();
    let mut stage = Stage::new().unwrap();
    play(&mut stage, &wish)
        .with_context(|| stage.last_words())
        .unwrap();
    stage.end().unwrap();
    stage.untouched.is_back(&stage.lab).unwrap();
}
