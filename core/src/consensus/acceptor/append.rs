//! WAL and positions from the elected proposer.

use crate::consensus::acceptor::{Acceptor, AcceptorError, Changes, Reply, Step, When};
use crate::consensus::change::Change;
use crate::types::Lsn;
use crate::wire::walproposer::{
    AcceptorMessage, AppendRequest, AppendResponse, HotStandbyFeedback,
};

impl Acceptor {
    /// Appends WAL and takes over the proposer's positions. Bytes that are no valid record are stored like any other;
    /// the flush LSN stays before them.
    pub(super) fn append<'a>(
        &mut self,
        request: &AppendRequest<'a>,
    ) -> Result<Step<'a>, AcceptorError> {
        self.check_generation("AppendRequest", request.generation)?;
        if request.term < self.state.term {
            return Ok(self.refuse_stale_append());
        }
        let (term, current) = (request.term, self.state.term);
        let Some(scanner) = self.scanner.as_mut().filter(|_| term == current) else {
            return Err(AcceptorError::NotElected { term, current });
        };
        let (begin, write_lsn) = (request.begin_lsn, self.state.write_lsn);
        if begin > write_lsn {
            return Err(AcceptorError::Gap { begin, write_lsn });
        }
        if begin < write_lsn {
            return Err(AcceptorError::Rewrite { begin, write_lsn });
        }
        scanner.push(request.wal);
        let record_end = scanner.record_end();
        if request.commit_lsn.is_valid() {
            self.commit_lsn = request.commit_lsn.max(self.commit_lsn).min(record_end);
        }
        self.peer_horizon_lsn = self.peer_horizon_lsn.max(request.truncate_lsn);
        if request.wal.is_empty() {
            return Ok(self.positions_only());
        }
        let change = Change::Append {
            term,
            begin,
            end: request.end_lsn(),
            commit_lsn: self.commit_lsn,
            record_end,
            wal: request.wal,
        };
        Ok(self.step(Changes::one(change), Reply::AppendResponse { when: When::Durable }))
    }

    /// A heartbeat or an announced commit LSN. Nothing is made durable but what someone waits for, or what would be
    /// much to lose.
    fn positions_only<'a>(&mut self) -> Step<'a> {
        let election_pending = self.durable.elections != self.elections;
        match self.must_keep_commit_lsn() {
            true => {
                let changes = Changes::two(self.lazy_positions(), None);
                self.step(changes, Reply::AppendResponse { when: When::Durable })
            }
            false if election_pending => {
                self.step(Changes::none(), Reply::AppendResponse { when: When::Durable })
            }
            false => self.step(Changes::none(), Reply::AppendResponse { when: When::Now }),
        }
    }

    /// A proposer without a cluster (recovery, fence) ends when the commit LSN reached the start of its term durably; and
    /// a segment is much to decode again after a restart.
    fn must_keep_commit_lsn(&self) -> bool {
        let kept = self.state.commit_lsn;
        let term_start = self.state.term_history.0.last().map_or(Lsn::INVALID, |start| start.lsn);
        let reaches_term_start = kept < term_start && self.commit_lsn >= term_start;
        let segment_ahead = self.commit_lsn - kept >= u64::from(self.state.segment_size_bytes);
        reaches_term_start || segment_ahead
    }

    /// What is kept lazily, as a change; it goes along with whatever else is made durable.
    pub(super) fn lazy_positions<'a>(&self) -> Option<Change<'a>> {
        let (commit_lsn, peer_horizon_lsn) = (self.commit_lsn, self.peer_horizon_lsn);
        let kept = (self.state.commit_lsn, self.state.peer_horizon_lsn);
        let ahead = kept != (commit_lsn, peer_horizon_lsn);
        ahead.then_some(Change::Position { commit_lsn, peer_horizon_lsn })
    }

    /// Tells a stale proposer of the higher term, and nothing else.
    fn refuse_stale_append<'a>(&mut self) -> Step<'a> {
        let message = AcceptorMessage::AppendResponse(AppendResponse {
            generation: self.generation(),
            term: self.state.term,
            flush_lsn: Lsn::INVALID,
            commit_lsn: Lsn::INVALID,
            hot_standby: HotStandbyFeedback::default(),
            pageserver: None,
        });
        self.step(Changes::none(), Reply::Message { message, when: When::Now })
    }
}
