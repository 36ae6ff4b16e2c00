//! Tablespaces of a base backup: where the files of each are, and where they go.
//!
//! A directory made by `pg_basebackup -Fp` has links in `pg_tblspc` to directories that belong to the backup; a rebuild
//! must not write there, so each needs a new place (`--tablespace-mapping`). In tar format each tablespace is a file `OID.tar`
//! and `tablespace_map` in `base.tar` tells the places on the lost primary, which are the places again unless mapped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use super::base::{Base, TAR_ENDINGS};
use super::ensure_empty;
use crate::local::postgres::run;
use crate::local::postgres_install::ServerUser;

/// Where the links to tablespaces are in a data directory.
const LINKS: &str = "pg_tblspc";
/// The file in a base backup in tar format that tells where each tablespace was.
const MAP: &str = "tablespace_map";

/// `--tablespace-mapping OLDDIR=NEWDIR`, as pg_basebackup takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    old: PathBuf,
    new: PathBuf,
}

impl FromStr for TablespaceMapping {
    type Err = String;

    /// A backslash before a `=` makes it part of a path.
    fn from_str(text: &str) -> Result<TablespaceMapping, String> {
        let mut parts = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            let part = parts.last_mut().expect("never empty");
            match character {
                '\\' if characters.peek() == Some(&'=') => part.extend(characters.next()),
                '=' => parts.push(String::new()),
                _ => part.push(character),
            }
        }
        match parts.as_slice() {
            [old, new] if old.starts_with('/') && new.starts_with('/') => {
                let path = |text: &String| text.trim_end_matches('/').into();
                Ok(TablespaceMapping { old: path(old), new: path(new) })
            }
            _ => Err("expected OLDDIR=NEWDIR, both absolute".to_string()),
        }
    }
}

/// One tablespace of a base backup.
#[derive(Debug)]
pub struct Tablespace {
    oid: String,
    source: Base,
    to: PathBuf,
}

/// The tablespaces of a base backup, each with a place that is free. Changes nothing.
pub fn plan(base: &Base, mappings: &[TablespaceMapping]) -> Result<Vec<Tablespace>> {
    let found = match base {
        Base::Directory(directory) => linked(&directory.join(LINKS))?,
        Base::Tar(main) => archived(main)?,
    };
    for mapping in mappings {
        ensure!(
            found.iter().any(|(_, old, _)| *old == mapping.old),
            "--tablespace-mapping: no tablespace of the base backup is in {}",
            mapping.old.display()
        );
    }
    let mut planned: Vec<Tablespace> = Vec::new();
    for (oid, old, source) in found {
        let mapping = mappings.iter().find(|mapping| mapping.old == old);
        let to = match (mapping, &source) {
            (Some(mapping), _) => mapping.new.clone(),
            (None, Base::Tar(_)) => old.clone(),
            (None, Base::Directory(_)) => bail!(
                "tablespace {oid} is in {old}, which belongs to the base backup: name its new place with --tablespace-mapping {old}=NEWDIR",
                old = old.display()
            ),
        };
        ensure_empty(&to).with_context(|| format!("the place of tablespace {oid}"))?;
        ensure!(
            planned.iter().all(|other| other.to != to),
            "two tablespaces would go to {}",
            to.display()
        );
        planned.push(Tablespace { oid, source, to });
    }
    Ok(planned)
}

/// The tablespaces that a directory's links lead to; one that lies in the data directory itself is no link.
fn linked(links: &Path) -> Result<Vec<(String, PathBuf, Base)>> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(links).with_context(|| format!("cannot list {}", links.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", links.display()))?.path();
        if !path.is_symlink() {
            continue;
        }
        let target = fs::read_link(&path)
            .with_context(|| format!("cannot read the link {}", path.display()))?;
        let oid = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.push((oid, target.clone(), Base::Directory(target)));
    }
    found.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    Ok(found)
}

/// The tablespaces that lie as `OID.tar` beside the main tar file.
fn archived(main: &Path) -> Result<Vec<(String, PathBuf, Base)>> {
    let folder = match main.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut tars = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((oid, ending)) = name.split_once('.')
            && oid.bytes().all(|byte| byte.is_ascii_digit())
            && TAR_ENDINGS.contains(&ending)
        {
            tars.push((oid.to_string(), entry.path()));
        }
    }
    if tars.is_empty() {
        return Ok(Vec::new());
    }
    let map = run(Command::new("tar").arg("-xaOf").arg(main).args(["--occurrence=1", MAP]))
        .with_context(|| format!("{} has no {MAP}", main.display()))?;
    let mut found = Vec::new();
    for (oid, old) in parse_map(&map)? {
        let tar = tars.iter().find(|(name, _)| *name == oid).map(|(_, path)| path.clone());
        let tar = tar.with_context(|| {
            format!("the base backup has no tar file of tablespace {oid} in {}", folder.display())
        })?;
        found.push((oid, old, Base::Tar(tar)));
    }
    Ok(found)
}

/// Lines `OID PATH`, with a backslash before each line end and backslash of a path (PostgreSQL
/// src/backend/access/transam/xlogrecovery.c, read_tablespace_map).
fn parse_map(map: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut lines = vec![String::new()];
    let mut characters = map.chars();
    while let Some(character) = characters.next() {
        let line = lines.last_mut().expect("never empty");
        match character {
            '\\' => line.extend(characters.next()),
            '\n' => lines.push(String::new()),
            _ => line.push(character),
        }
    }
    let lines = lines.iter().filter(|line| !line.is_empty());
    let parsed = lines.map(|line| {
        let parts = line.split_once(' ').filter(|(_, path)| path.starts_with('/'));
        let (oid, path) = parts.with_context(|| format!("{MAP} has the line {line:?}"))?;
        Ok((oid.to_string(), path.into()))
    });
    parsed.collect()
}

/// Copies the tablespaces to their places and links them into the data directory `data`.
pub fn place(tablespaces: &[Tablespace], data: &Path) -> Result<()> {
    for Tablespace { oid, source, to } in tablespaces {
        source.unpack(to)?;
        ServerUser::give(to)?;
        let link = data.join(LINKS).join(oid);
        if link.is_symlink() {
            fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
        }
        symlink(to, &link).with_context(|| format!("cannot make the link {}", link.display()))?;
    }
    // Recovery would make the links anew, to the places that the map tells.
    let map = data.join(MAP);
    if map.exists() {
        fs::remove_file(&map).with_context(|| format!("cannot remove {}", map.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
