//! Replays the WAL of a stopped server over an older copy of its data directory and prints what differs.
//!
//! `oracle MAJOR START BASE DATA`: BASE is the copy, made at START while the server was stopped.

use std::path::Path;

use anyhow::{Context, Result, bail};
use firn_core::postgres::redo::Settings;
use firn_core::postgres::wal::WalVersion;
use firn_tests::oracle::{compare, data_directory, replay};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [major, start, base, data] = &arguments[..] else {
        bail!("usage: oracle MAJOR START BASE DATA");
    };
    let version = WalVersion::from_major(major.parse()?).context("a version from 14 to 18")?;
    let mut store = data_directory::read(Path::new(base))?;
    let settings = Settings {
        visible_moves_heap_lsn: std::env::var_os("CHECKSUMS").is_some(),
        ..Settings::default()
    };
    let wal = Path::new(data).join("pg_wal");
    let mut report = replay::replay(&mut store, &wal, start.parse()?, version, settings)?;
    compare::compare(&store, &data_directory::read(Path::new(data))?, &mut report);
    print!("{report}");
    Ok(())
}
