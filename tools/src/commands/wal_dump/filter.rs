//! Which records to show: the conditions of pg_waldump, all of which must hold.

use clap::Args;
use firn_core::postgres::wal::names::{resource_manager_name, rmgr};
use firn_core::postgres::wal::{Block, Fork, Record, RelationId};

/// Conditions on records.
#[derive(Debug, Args)]
pub struct Filter {
    /// Only this resource manager's records, as Heap or custom128; may be repeated.
    #[arg(long, short, value_parser = resource_manager)]
    rmgr: Vec<u8>,
    /// Only records that refer to a block of this relation: tablespace/database/relation.
    #[arg(long, short = 'R', value_name = "T/D/R", value_parser = relation)]
    relation: Option<RelationId>,
    /// Only records that refer to this block of the relation.
    #[arg(long, short = 'B', value_name = "N", requires = "relation")]
    block: Option<u32>,
    /// Only records that refer to a block of this fork: main, fsm, vm or init.
    #[arg(long, short = 'F', value_parser = fork)]
    fork: Option<Fork>,
    /// Only records of this transaction.
    #[arg(long, short)]
    xid: Option<u32>,
    /// Only records with a full-page image.
    #[arg(long, short = 'w')]
    fullpage: bool,
}

impl Filter {
    /// Whether all conditions hold.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        (self.rmgr.is_empty() || self.rmgr.contains(&record.resource_manager()))
            && self.xid.is_none_or(|xid| xid == record.xid())
            && (!self.names_blocks() || record.blocks().any(|block| self.matches_block(&block)))
            && (!self.fullpage || record.blocks().any(|block| block.image().is_some()))
    }

    fn names_blocks(&self) -> bool {
        self.relation.is_some() || self.fork.is_some()
    }

    fn matches_block(&self, block: &Block<'_>) -> bool {
        let tag = block.tag();
        self.relation.is_none_or(|relation| relation == tag.relation)
            && self.fork.is_none_or(|fork| fork == tag.fork)
            && self.block.is_none_or(|number| number == tag.block)
    }
}

fn resource_manager(text: &str) -> Result<u8, String> {
    let named = (0..=u8::MAX).find(|&number| {
        resource_manager_name(number).is_some_and(|name| name.eq_ignore_ascii_case(text))
    });
    let custom = text.strip_prefix("custom").and_then(|number| number.parse().ok());
    named.or(custom).ok_or_else(|| {
        let names: Vec<_> = (0..=rmgr::LOGICAL_MESSAGE).filter_map(resource_manager_name).collect();
        format!("expected one of {}, neon, or customNNN", names.join(", "))
    })
}

/// A relation as `1663/5/16384`.
pub fn relation(text: &str) -> Result<RelationId, String> {
    let mut numbers = text.split('/').map(str::parse::<u32>);
    match [numbers.next(), numbers.next(), numbers.next(), numbers.next()] {
        [Some(Ok(tablespace)), Some(Ok(database)), Some(Ok(number)), None] if number != 0 => {
            Ok(RelationId { tablespace, database, number })
        }
        _ => Err("expected tablespace/database/relation, as 1663/5/16384".to_string()),
    }
}

/// A fork by its name.
pub fn fork(text: &str) -> Result<Fork, String> {
    (0..4)
        .filter_map(Fork::from_number)
        .find(|fork| fork.name() == text)
        .ok_or_else(|| "expected main, fsm, vm or init".to_string())
}

#[cfg(test)]
mod tests;
