//! What a cluster knows besides pages: maps of relations, databases, tablespaces, prepared transactions, origins, the
//! control file. Read from a data directory and brought forward by effects, so that both can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use firn_core::postgres::redo::Effect;
use firn_core::postgres::redo::effect::Parameters;
use firn_core::types::Lsn;

use super::report::Report;

/// A tablespace and a database.
pub type DatabaseHome = (u32, u32);

/// All of it.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct State {
    /// Each database's relation map; the shared one under database 0.
    pub relation_maps: BTreeMap<DatabaseHome, Vec<u8>>,
    /// Databases that have a home of their own.
    pub databases: BTreeSet<DatabaseHome>,
    /// Where each tablespace is; nothing for one inside the data directory.
    pub tablespaces: BTreeMap<u32, Vec<u8>>,
    /// State of prepared transactions, without the files' CRC.
    pub two_phase: BTreeMap<u32, Vec<u8>>,
    /// How far each replication origin is.
    pub origins: BTreeMap<u16, Lsn>,
    /// Settings in the control file.
    pub parameters: Parameters,
    /// Where the last checkpoint's record is.
    pub checkpoint_lsn: Lsn,
    /// The last checkpoint.
    pub checkpoint: Vec<u8>,
}

impl State {
    /// Does what the effect of a record that begins at `lsn` says.
    pub fn apply(&mut self, effect: &Effect<'_>, lsn: Lsn) {
        match *effect {
            Effect::RelationMap { database, tablespace, data } => {
                self.relation_maps.insert((tablespace, database), data.to_vec());
            }
            Effect::DatabaseCreate { database, tablespace } => {
                self.databases.insert((tablespace, database));
            }
            Effect::DatabaseCopy { database, tablespace, source_database, source_tablespace } => {
                self.databases.insert((tablespace, database));
                let source = self.relation_maps.get(&(source_tablespace, source_database));
                if let Some(map) = source.cloned() {
                    self.relation_maps.insert((tablespace, database), map);
                }
            }
            Effect::DatabaseDrop { database, tablespace } => {
                self.databases.remove(&(tablespace, database));
                self.relation_maps.remove(&(tablespace, database));
            }
            Effect::TablespaceCreate { tablespace, path } => {
                self.tablespaces.insert(tablespace, path.to_vec());
            }
            Effect::TablespaceDrop { tablespace } => {
                self.tablespaces.remove(&tablespace);
            }
            Effect::TwoPhasePrepare { xid, data } => {
                self.two_phase.insert(xid, data.to_vec());
            }
            Effect::TwoPhaseEnd { xid } => {
                self.two_phase.remove(&xid);
            }
            Effect::OriginAdvance { origin, remote_lsn, backward } => {
                let position = self.origins.entry(origin).or_default();
                if backward || *position < remote_lsn {
                    *position = remote_lsn;
                }
            }
            Effect::OriginDrop { origin } => {
                self.origins.remove(&origin);
            }
            Effect::Parameters(parameters) => self.parameters = parameters,
            Effect::Checkpoint { data, .. } => {
                self.checkpoint_lsn = lsn;
                self.checkpoint = data.to_vec();
            }
            _ => {}
        }
    }

    /// Compares with what the stopped server left.
    pub fn compare(&self, server: &State, report: &mut Report) {
        same_map("relation map", &self.relation_maps, &server.relation_maps, report);
        let home = |state: &State| state.databases.iter().map(|&home| (home, ())).collect();
        same_map("database", &home(self), &home(server), report);
        same_map("tablespace", &self.tablespaces, &server.tablespaces, report);
        same_map("prepared transaction", &self.two_phase, &server.two_phase, report);
        same_map("replication origin", &self.origins, &server.origins, report);
        same("parameters", &self.parameters, &server.parameters, report);
        same("the checkpoint's place", &self.checkpoint_lsn, &server.checkpoint_lsn, report);
        same("the checkpoint", &self.checkpoint, &server.checkpoint, report);
    }
}

fn same_map<K: Ord + Copy + Debug, V: PartialEq + Debug>(
    what: &str,
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
    report: &mut Report,
) {
    for key in found.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
        same(&format!("{what} {key:?}"), &found.get(key), &expected.get(key), report);
    }
}

fn same<T: PartialEq + Debug>(what: &str, found: &T, expected: &T, report: &mut Report) {
    report.state.0 += 1;
    if found != expected {
        report.state.1 += 1;
        report.note(|| format!("at the end {what}: {found:?} instead of {expected:?}"));
    }
}
