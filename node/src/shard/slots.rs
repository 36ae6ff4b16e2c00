//! Replication slots: names under which readers come back, each with the position from which it needs WAL.
//!
//! Kept in memory only (docs/records/018): a slot is a position that a node remembers, and what WAL a node keeps does
//! not depend on it. Invariant: a slot's position never goes back.

use std::cell::RefCell;
use std::collections::BTreeMap;

use firn_core::api::SlotStatus;
use firn_core::types::Lsn;
use thiserror::Error;

/// Slots of a timeline: more than Postgres' `max_replication_slots` is ever set to, and still a page of memory.
pub const SLOTS_MAX: usize = 64;

/// Why a slot is not made or not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SlotError {
    /// The name is taken.
    #[error("replication slot \"{0}\" already exists")]
    Exists(String),
    /// There is no slot of this name.
    #[error("replication slot \"{0}\" does not exist")]
    Unknown(String),
    /// Too many.
    #[error("all {SLOTS_MAX} replication slots of the timeline are in use")]
    TooMany,
}

/// The slots of one timeline.
#[derive(Debug, Default)]
pub struct Slots(RefCell<BTreeMap<String, Lsn>>);

impl Slots {
    /// Makes a slot that needs WAL from `position` on.
    pub fn create(&self, name: &str, position: Lsn) -> Result<(), SlotError> {
        if self.0.borrow().contains_key(name) {
            return Err(SlotError::Exists(name.to_string()));
        }
        self.enter(name, position)
    }

    /// Makes sure that there is a slot; one that exists keeps its position.
    pub fn enter(&self, name: &str, position: Lsn) -> Result<(), SlotError> {
        let mut slots = self.0.borrow_mut();
        if slots.len() >= SLOTS_MAX && !slots.contains_key(name) {
            return Err(SlotError::TooMany);
        }
        slots.entry(name.to_string()).or_insert(position);
        Ok(())
    }

    /// From where a slot needs WAL.
    pub fn position(&self, name: &str) -> Option<Lsn> {
        self.0.borrow().get(name).copied()
    }

    /// All slots, by name.
    pub fn status(&self) -> Vec<SlotStatus> {
        let slots = self.0.borrow();
        let status = |(name, position): (&String, &Lsn)| SlotStatus {
            name: name.clone(),
            restart_lsn: *position,
        };
        slots.iter().map(status).collect()
    }

    /// From where any slot needs WAL.
    pub fn lowest(&self) -> Option<Lsn> {
        self.0.borrow().values().min().copied()
    }

    /// Notes that a slot's reader has everything before `position`.
    pub fn advance(&self, name: &str, position: Lsn) {
        if let Some(slot) = self.0.borrow_mut().get_mut(name) {
            *slot = position.max(*slot);
        }
    }

    /// Forgets a slot.
    pub fn remove(&self, name: &str) -> Result<(), SlotError> {
        let removed = self.0.borrow_mut().remove(name);
        removed.map(drop).ok_or_else(|| SlotError::Unknown(name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_moves_forward_until_it_is_dropped() {
        let slots = Slots::default();
        slots.create("a", Lsn(100)).unwrap();
        assert_eq!(slots.create("a", Lsn(1)), Err(SlotError::Exists("a".to_string())));
        slots.enter("a", Lsn(1)).unwrap();
        slots.advance("a", Lsn(300));
        slots.advance("a", Lsn(200));
        slots.advance("b", Lsn(200));
        assert_eq!((slots.position("a"), slots.position("b")), (Some(Lsn(300)), None));
        slots.create("c", Lsn(250)).unwrap();
        assert_eq!(slots.lowest(), Some(Lsn(250)));
        slots.remove("a").unwrap();
        assert_eq!(slots.remove("a"), Err(SlotError::Unknown("a".to_string())));
    }

    #[test]
    fn slots_are_bounded() {
        let slots = Slots::default();
        (0..SLOTS_MAX).for_each(|number| slots.enter(&number.to_string(), Lsn(1)).unwrap());
        assert_eq!(slots.enter("another", Lsn(1)), Err(SlotError::TooMany));
        slots.enter("0", Lsn(1)).unwrap();
    }
}
