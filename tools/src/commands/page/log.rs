//! Pages of simple logs: what records do to them, and their entries as text.

use std::fmt;

use anyhow::{Context, Result};
use firn_core::postgres::page::PageBytes;
use firn_core::postgres::redo::Effect;
use firn_core::postgres::redo::slru::{self, Slru};

/// A simple log by the name of its folder.
pub fn log(name: &str) -> Result<Slru> {
    Slru::ALL
        .into_iter()
        .find(|log| log.folder() == name)
        .with_context(|| format!("expected one of {}", Slru::ALL.map(Slru::folder).join(", ")))
}

/// Does to the page `number` of `log` what an effect says; what that was, if it has to do with the page.
pub fn apply(
    effect: &Effect<'_>,
    log: Slru,
    number: u64,
    page: &mut PageBytes,
) -> Option<&'static str> {
    if slru::drops(effect, log, number) {
        page.fill(0);
        return Some("page dropped");
    }
    if *effect == (Effect::SlruZeroPage { slru: log, page: number }) {
        slru::zero(log, page);
        return Some("page made");
    }
    if slru::page_of(effect) == Some((log, number)) {
        slru::apply(effect, page);
        return Some("page changed");
    }
    None
}

/// A page as a list of its entries.
pub struct DecodedLog<'p> {
    /// The log.
    pub log: Slru,
    /// The page's number.
    pub number: u64,
    /// Its bytes.
    pub page: &'p PageBytes,
}

impl fmt::Display for DecodedLog<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} page {}", self.log.folder(), self.number)?;
        let what = match self.log {
            Slru::TransactionStatus | Slru::CommitTimestamp => "xid",
            Slru::MultiXactOffsets => "multixact",
            Slru::MultiXactMembers => "member",
        };
        for (index, entry) in slru::entries(self.log, self.number, self.page) {
            writeln!(f, "{what} {index}: {entry}")?;
        }
        Ok(())
    }
}
