//! How to start shards.

use std::time::Duration;

use clap::ValueEnum;

use super::device::Device;

/// How many shards to start, where, and how they wait.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Number of shards, each one thread. At least 1.
    pub shards: usize,
    /// The cores to pin shards to, shard i to entry i modulo the length; empty: no pinning.
    pub cores: Vec<usize>,
    /// How long an idle shard that just had work polls before it sleeps in the kernel. Zero where cores are shared.
    pub spin: Duration,
    /// What stands between files and the ring.
    pub device: Device,
    /// How shards reach disks and sockets.
    pub runtime: RuntimeName,
    /// The most that rings of [`RuntimeName::Uring`] ask of the kernel; less is for tests of what older kernels get.
    pub ring: RingSetup,
}

/// Implementations that can be chosen for a real machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum RuntimeName {
    /// The thin executor on io-uring.
    #[default]
    Uring,
    /// The same on the glommio library: for comparison, slower.
    Glommio,
}

/// How the kernel runs completions. A ring takes the first of these that the kernel has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RingSetup {
    /// When the shard asks for them (SINGLE_ISSUER, DEFER_TASKRUN: Linux 6.1).
    #[default]
    Deferred,
    /// When the shard enters the kernel anyway (COOP_TASKRUN: Linux 5.19).
    Cooperative,
    /// By interrupting it.
    Plain,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            shards: 1,
            cores: Vec::new(),
            spin: Duration::ZERO,
            device: Device::Real,
            runtime: RuntimeName::default(),
            ring: RingSetup::default(),
        }
    }
}

/// Longest time that an option may name: a second of spinning or of a device is a mistake.
const MICROSECONDS_MAX: u64 = 1_000_000;

/// A text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid time {0:?}: expected 0us to {MICROSECONDS_MAX}us")]
pub struct TimeParseError(String);

/// Reads a time as `20us`.
///
/// # Errors
/// If it is not one, or longer than a second.
pub fn parse_time(text: &str) -> Result<Duration, TimeParseError> {
    let number = text.strip_suffix("us").and_then(|number| number.parse().ok());
    match number {
        Some(number @ ..=MICROSECONDS_MAX) => Ok(Duration::from_micros(number)),
        _ => Err(TimeParseError(text.to_string())),
    }
}

/// Highest core number that a list may name: what the kernel's own masks hold.
const CORE_MAX: usize = 1023;

/// A text that is not a list of cores.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid list of cores {0:?}: expected numbers and ranges up to {CORE_MAX}, as 0-3,6")]
pub struct CoresParseError(String);

/// Reads a list of cores as `0-3,6`.
///
/// # Errors
/// If it is not one, or names a core over 1023.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, CoresParseError> {
    let error = || CoresParseError(text.to_string());
    let number = |text: &str| {
        let core: usize = text.parse().map_err(|_| error())?;
        if core <= CORE_MAX { Ok(core) } else { Err(error()) }
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(error());
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}
