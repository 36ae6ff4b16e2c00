//! Replays the WAL of a stopped server over an older copy of its data directory and prints what differs.
//!
//! `oracle MAJOR START BASE DATA [SAMPLES]`: BASE is the copy, made at START while the server was stopped. SAMPLES becomes
//! a file with one record of each type, and its pages before and after, for tests without a server.

use std::path::Path;

use anyhow::{Context, Result, bail};
use firn_core::postgres::redo::Settings;
use firn_core::postgres::wal::WalVersion;
use firn_tests::oracle::report::Table;
use firn_tests::oracle::samples::Samples;
use firn_tests::oracle::{compare, data_directory, replay};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [major, start, base, data, samples @ ..] = &arguments[..] else {
        bail!("usage: oracle MAJOR START BASE DATA [SAMPLES]");
    };
    let mut taken = Samples::default();
    let version = WalVersion::from_major(major.parse()?).context("a version from 14 to 18")?;
    let mut store = data_directory::read(Path::new(base))?;
    let settings = Settings {
        visible_moves_heap_lsn: std::env::var_os("CHECKSUMS").is_some(),
        ..Settings::default()
    };
    let wal = Path::new(data).join("pg_wal");
    let (mut report, _) =
        replay::replay(&mut store, &wal, start.parse()?, version, settings, Some(&mut taken))?;
    compare::compare(&store, &data_directory::read(Path::new(data))?, &mut report);
    print!("{}", Table(std::slice::from_ref(&report)));
    if let [path] = samples {
        std::fs::write(path, zstd::encode_all(taken.bytes(), 19)?)?;
    }
    Ok(())
}
