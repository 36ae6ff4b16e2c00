//! A base backup as it lies there: a data directory, or tar files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::local::postgres::run;

/// Endings of the tar files that pg_basebackup makes.
pub const TAR_ENDINGS: [&str; 4] = ["tar", "tar.gz", "tar.zst", "tar.lz4"];

/// A base backup, or one of its tablespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// What `pg_basebackup -Fp` made, or a directory that it links.
    Directory(PathBuf),
    /// One of the files that `pg_basebackup -Ft` made: the main one, or a tablespace's.
    Tar(PathBuf),
}

impl Base {
    /// Says what is there.
    pub fn find(path: &Path) -> Result<Base> {
        if path.join("PG_VERSION").is_file() {
            return Ok(Base::Directory(path.to_path_buf()));
        }
        if path.is_file() {
            return Ok(Base::Tar(path.to_path_buf()));
        }
        let mut tars = TAR_ENDINGS.iter().map(|ending| path.join(format!("base.{ending}")));
        match tars.find(|tar| tar.is_file()) {
            Some(tar) => Ok(Base::Tar(tar)),
            None => bail!(
                "no base backup at {}: expected a directory or tar files from pg_basebackup",
                path.display()
            ),
        }
    }

    /// Copies it into the directory `to`, without the tablespaces that it links.
    pub fn unpack(&self, to: &Path) -> Result<()> {
        fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
        match self {
            Base::Directory(from) => {
                run(Command::new("cp").arg("-a").arg(from.join(".")).arg(to))?;
            }
            Base::Tar(tar) => {
                run(Command::new("tar").arg("-xaf").arg(tar).arg("-C").arg(to))?;
            }
        }
        fs::set_permissions(to, fs::Permissions::from_mode(0o700)).context("cannot set permissions")
    }
}
