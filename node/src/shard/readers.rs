//! Who reads a timeline's WAL, how far they are, and what of that its proposers must hear.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use firn_core::api::WalSenderStatus;
use firn_core::types::Lsn;
use firn_core::wire::walproposer::HotStandbyFeedback;

/// What a reader last said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// A page server, which everyone is taken for until a standby's message came.
    Pageserver {
        /// Everything below is durable in its object store; invalid until it said so.
        remote_consistent_lsn: Lsn,
    },
    /// A standby, or anything else that speaks stock replication.
    Standby(Standby),
}

/// Positions and horizons of a standby; 0 = unknown or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standby {
    /// Durable there.
    pub flush_lsn: Lsn,
    /// Replayed there.
    pub apply_lsn: Lsn,
    /// When it said so, microseconds since 2000-01-01.
    pub feedback_at_us: i64,
    /// Oldest transaction that its queries need, as full transaction id.
    pub xmin: u64,
    /// The same for catalogs.
    pub catalog_xmin: u64,
}

impl Feedback {
    fn standby(self) -> Standby {
        match self {
            Feedback::Standby(standby) => standby,
            Feedback::Pageserver { .. } => Standby::default(),
        }
    }

    /// With a standby's status.
    pub fn with_status(self, flush_lsn: Lsn, apply_lsn: Lsn) -> Feedback {
        Feedback::Standby(Standby { flush_lsn, apply_lsn, ..self.standby() })
    }

    /// With a standby's horizons.
    pub fn with_xmin(self, feedback_at_us: i64, xmin: u64, catalog_xmin: u64) -> Feedback {
        Feedback::Standby(Standby { feedback_at_us, xmin, catalog_xmin, ..self.standby() })
    }
}

/// What is known of a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    name: Option<String>,
    /// Sent up to here.
    pub sent_lsn: Lsn,
    /// What it said.
    pub feedback: Feedback,
}

/// The readers of one timeline.
#[derive(Debug, Clone, Default)]
pub struct Readers(Rc<RefCell<BTreeMap<u64, Reader>>>);

/// A reader's entry, gone with its connection.
#[derive(Debug)]
pub struct ReaderEntry {
    readers: Readers,
    connection_id: u64,
}

impl Readers {
    /// Notes a reader.
    pub fn enter(&self, connection_id: u64, name: Option<String>) -> ReaderEntry {
        let feedback = Feedback::Pageserver { remote_consistent_lsn: Lsn::INVALID };
        let reader = Reader { name, sent_lsn: Lsn::INVALID, feedback };
        self.0.borrow_mut().insert(connection_id, reader);
        ReaderEntry { readers: self.clone(), connection_id }
    }

    /// All readers, for a status.
    pub fn status(&self) -> Vec<WalSenderStatus> {
        let readers = self.0.borrow();
        let status = |(id, reader): (&u64, &Reader)| WalSenderStatus {
            conn_id: *id,
            appname: reader.name.clone(),
            sent_lsn: reader.sent_lsn,
            flush_lsn: reader.feedback.standby().flush_lsn,
            apply_lsn: reader.feedback.standby().apply_lsn,
        };
        readers.iter().map(status).collect()
    }

    /// The least that a reader was sent; `None` without readers.
    pub fn least_sent(&self) -> Option<Lsn> {
        self.0.borrow().values().map(|reader| reader.sent_lsn).min()
    }

    /// The horizons of all standbys as one, for a proposer.
    pub fn standby_horizons(&self) -> HotStandbyFeedback {
        let mut all = HotStandbyFeedback::default();
        for reader in self.0.borrow().values() {
            let Feedback::Standby(standby) = reader.feedback else { continue };
            all.timestamp_us = all.timestamp_us.max(standby.feedback_at_us);
            all.xmin = least_nonzero(all.xmin, standby.xmin);
            all.catalog_xmin = least_nonzero(all.catalog_xmin, standby.catalog_xmin);
        }
        all
    }

    /// What page servers have made durable in their object store; invalid when none says so.
    pub fn remote_consistent_lsn(&self) -> Lsn {
        let readers = self.0.borrow();
        let positions = readers.values().filter_map(|reader| match reader.feedback {
            Feedback::Pageserver { remote_consistent_lsn } => Some(remote_consistent_lsn),
            Feedback::Standby(_) => None,
        });
        positions.max().unwrap_or_default()
    }
}

impl ReaderEntry {
    /// Changes what is known of the reader.
    pub fn update(&self, change: impl FnOnce(&mut Reader)) {
        let mut readers = self.readers.0.borrow_mut();
        change(readers.get_mut(&self.connection_id).expect("the entry lives as long as this"));
    }

    /// What the reader last said.
    pub fn feedback(&self) -> Feedback {
        self.readers.0.borrow()[&self.connection_id].feedback
    }

    /// The reader's `application_name`.
    pub fn name(&self) -> Option<String> {
        self.readers.0.borrow()[&self.connection_id].name.clone()
    }
}

impl Drop for ReaderEntry {
    fn drop(&mut self) {
        self.readers.0.borrow_mut().remove(&self.connection_id);
    }
}

fn least_nonzero(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, other) | (other, 0) => other,
        _ => a.min(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standbys_are_aggregated_and_page_servers_are_not() {
        let readers = Readers::default();
        let first = readers.enter(1, Some("replica".to_string()));
        let second = readers.enter(2, None);
        let third = readers.enter(3, Some("pageserver-1".to_string()));
        first.update(|reader| reader.feedback = reader.feedback.with_xmin(5, 700, 0));
        second.update(|reader| reader.feedback = reader.feedback.with_xmin(4, 600, 90));
        let remote_consistent_lsn = Lsn(9);
        third.update(|reader| reader.feedback = Feedback::Pageserver { remote_consistent_lsn });
        assert_eq!(
            readers.standby_horizons(),
            HotStandbyFeedback { timestamp_us: 5, xmin: 600, catalog_xmin: 90 }
        );
        assert_eq!(readers.remote_consistent_lsn(), Lsn(9));
        drop(second);
        assert_eq!(readers.standby_horizons().xmin, 700);
        assert_eq!(readers.status().len(), 2);
        first.update(|reader| reader.feedback = reader.feedback.with_status(Lsn(3), Lsn(2)));
        assert!(matches!(first.feedback(), Feedback::Standby(Standby { xmin: 700, .. })));
    }
}
