//! Fuzzing: inputs made from recorded ones by seeded mutation, for as long as there is time.
//!
//! Everything follows from one seed per input, which a failure prints with the line that replays it. `FIRN_FUZZ_MINUTES`
//! is the time of all targets together, spent on inputs that no run before had. Without it each runs [`SHORT`] and takes
//! the same inputs every time: an ordinary run tells what a change broke, not what nobody had found yet.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use firn_tools::clock::now;

use crate::simulation::random::Random;

/// Time of a target in an ordinary test run: finds what is shallow.
const SHORT: Duration = Duration::from_secs(3);
/// Targets that share the time.
const TARGETS: u32 = 20;
/// Longest input that mutation makes: many times what any decoder keeps at once.
const INPUT_BYTES_MAX: usize = 1 << 20;
/// Values that break length fields and comparisons.
const INTERESTING: [u64; 8] =
    [0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, i64::MAX as u64, u64::MAX];

/// Feeds `target` with mutations of `seeds` (at least one). It fails by panicking.
pub fn fuzz(name: &str, seeds: &[Vec<u8>], mut target: impl FnMut(&[u8], &mut Random)) {
    assert!(!seeds.is_empty(), "{name}: nothing to mutate");
    if let Some(seed) = number("FIRN_FUZZ_SEED") {
        return one(seeds, seed, &mut target);
    }
    let (limit, base) = match number("FIRN_FUZZ_MINUTES") {
        Some(minutes) => (Duration::from_secs(minutes * 60) / TARGETS, unused_base()),
        None => (SHORT, 0),
    };
    let start = now();
    let mut count = 0;
    while start.elapsed() < limit {
        let seed = base + count;
        let replay = Replay { name, seed };
        one(seeds, seed, &mut target);
        std::mem::forget(replay);
        count += 1;
    }
    println!("{name}: {count} inputs");
}

/// The first seed of a part of the input space that hardly another run looks at.
fn unused_base() -> u64 {
    // The standard library's source of randomness for hash tables. Halved, so that counting on does not overflow.
    RandomState::new().build_hasher().finish() >> 1
}

/// Says how to replay an input when it is dropped by a panic.
struct Replay<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        eprintln!(
            "replay: FIRN_FUZZ_SEED={} cargo nextest run -p firn-tests -E 'test({})'",
            self.seed, self.name
        );
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn one(seeds: &[Vec<u8>], seed: u64, target: &mut impl FnMut(&[u8], &mut Random)) {
    let mut random = Random::new(seed);
    let mut input = seeds[random.index(seeds.len())].clone();
    for _ in 0..random.below(6) {
        mutate(&mut input, seeds, &mut random);
    }
    input.truncate(INPUT_BYTES_MAX);
    target(&input, &mut random);
}

/// One random change of `input`, which may take from `seeds`.
pub fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    if input.is_empty() {
        input.push(random.below(256) as u8);
    }
    let at = random.index(input.len());
    match random.below(8) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.below(256) as u8,
        2 => input.truncate(at),
        3 => {
            let end = at + random.index(input.len() - at).min(64);
            input.drain(at..end);
        }
        4 => {
            let added: Vec<u8> = (0..random.below(32)).map(|_| random.below(256) as u8).collect();
            input.splice(at..at, added);
        }
        5 => {
            let value = INTERESTING[random.index(INTERESTING.len())];
            let width = [1, 2, 4, 8][random.index(4)];
            let bytes = if random.percent(50) { value.to_be_bytes() } else { value.to_le_bytes() };
            let bytes = if random.percent(50) { &bytes[8 - width..] } else { &bytes[..width] };
            let end = (at + width).min(input.len());
            input[at..end].copy_from_slice(&bytes[..end - at]);
        }
        6 => {
            let other = &seeds[random.index(seeds.len())];
            if !other.is_empty() {
                let from = random.index(other.len());
                let to = (from + 1 + random.index(256)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
        _ => {
            let to = random.index(input.len());
            input.swap(at, to);
        }
    }
}
