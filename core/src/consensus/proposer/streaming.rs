//! WAL to each acceptor from its own position, and what a quorum has of it.

use std::collections::VecDeque;

use crate::consensus::proposer::peer::{Peer, Session};
use crate::consensus::proposer::{Action, Next, PeerError, Proposer, Role, StopReason};
use crate::types::{Lsn, NodeId};
use crate::wire::walproposer::{APPEND_BYTES_MAX, AppendRequest, AppendResponse, ProposerMessage};

impl Proposer {
    /// What to send to this acceptor next, `None` when there is nothing. A message counts as sent. An acceptor whose log
    /// contradicts ours gets nothing, and [`Action::Disconnect`] says so.
    pub fn next(&mut self, node: NodeId) -> Result<Option<Next>, Action> {
        if self.live_peer(node).is_none() {
            return Ok(None);
        }
        match self.next_before_streaming(node) {
            Ok(Some(message)) => return Ok(Some(Next::Message(message))),
            Ok(None) => {}
            Err(reason) => {
                self.disconnected(node);
                return Err(Action::Disconnect { node, reason });
            }
        }
        let Session::Streaming { next_lsn, announce, .. } = self.peers[&node].session else {
            return Ok(None);
        };
        // Nothing of a term goes out before everyone knows where it starts: first the empty append, then WAL.
        let first = !self.peers[&node].flush_lsn.is_valid() && announce;
        if !first && next_lsn < self.available_lsn {
            return Ok(Some(Next::Wal { begin: next_lsn, end: self.chunk_end(next_lsn) }));
        }
        if announce {
            let request = self.take_append(node, next_lsn, &[]);
            return Ok(Some(Next::Message(ProposerMessage::Append(request))));
        }
        Ok(None)
    }

    /// The append that carries `wal`, whose first byte is at `begin`; it counts as sent. `None` when this acceptor does not
    /// wait for these bytes any more, because its connection ended meanwhile.
    pub fn append<'a>(
        &mut self,
        node: NodeId,
        begin: Lsn,
        wal: &'a [u8],
    ) -> Option<AppendRequest<'a>> {
        assert!(!wal.is_empty() && wal.len() <= APPEND_BYTES_MAX, "{} bytes of WAL", wal.len());
        if self.live_peer(node)?.next_lsn() != Some(begin) {
            return None;
        }
        assert!(
            begin + wal.len() as u64 <= self.available_lsn,
            "WAL past {} was never announced",
            self.available_lsn
        );
        Some(self.take_append(node, begin, wal))
    }

    pub(super) fn append_response(
        &mut self,
        node: NodeId,
        response: &AppendResponse,
        actions: &mut VecDeque<Action>,
    ) -> Result<(), PeerError> {
        let Some(next_lsn) = self.peers[&node].next_lsn() else {
            return Err(PeerError::Unexpected { message: "AppendResponse" });
        };
        if response.term > self.term {
            self.stop_for_term(node, response.term, actions);
            return Ok(());
        }
        self.check_generation(response.generation)?;
        if response.term < self.term {
            return Err(PeerError::Unexpected { message: "AppendResponse of a lower term" });
        }
        let peer = self.peer(node);
        // Only what this connection was sent counts.
        peer.flush_lsn = peer.flush_lsn.max(response.flush_lsn.min(next_lsn));
        peer.commit_lsn = peer.commit_lsn.max(response.commit_lsn);
        if let Role::Reseed { .. } = self.config.role {
            self.finish_reseed(node, actions);
            return Ok(());
        }
        self.advance_commit(actions);
        self.advance_truncate();
        self.finish_fence(actions);
        Ok(())
    }

    fn chunk_end(&self, begin: Lsn) -> Lsn {
        let term_start = self.term_start_lsn().expect("only an elected proposer streams");
        let limit = if begin < term_start { term_start } else { self.available_lsn };
        Lsn(begin.0.saturating_add(APPEND_BYTES_MAX as u64)).min(limit)
    }

    fn take_append<'a>(&mut self, node: NodeId, begin: Lsn, wal: &'a [u8]) -> AppendRequest<'a> {
        let request = AppendRequest {
            generation: self.config.membership.generation,
            term: self.term,
            begin_lsn: begin,
            commit_lsn: self.commit_lsn,
            truncate_lsn: self.truncate_lsn,
            wal,
        };
        self.peer(node).session =
            Session::Streaming { next_lsn: request.end_lsn(), announce: false, sent: true };
        request
    }

    /// What a quorum has, counting an acceptor only once its log has reached the start of this term: bytes of older terms
    /// that a quorum happens to have may still lose against a log that a later proposer finds.
    fn advance_commit(&mut self, actions: &mut VecDeque<Action>) {
        let term_start = self.term_start_lsn().expect("only an elected proposer streams");
        let reached = |id: NodeId| {
            let flush_lsn = self.peers[&id].flush_lsn;
            if flush_lsn >= term_start { flush_lsn } else { Lsn::INVALID }
        };
        let lsn = self.config.membership.quorum_lsn(reached);
        if lsn <= self.commit_lsn {
            return;
        }
        assert!(lsn <= self.available_lsn, "a quorum has what was never sent");
        self.commit_lsn = lsn;
        self.peers.values_mut().for_each(Peer::announce);
        actions.push_back(Action::Committed { lsn });
    }

    fn advance_truncate(&mut self) {
        let lowest = self.peers.values().map(|peer| peer.flush_lsn).min();
        let lowest = lowest.unwrap_or(Lsn::INVALID).min(self.commit_lsn);
        self.truncate_lsn = self.truncate_lsn.max(lowest);
    }

    fn finish_reseed(&mut self, node: NodeId, actions: &mut VecDeque<Action>) {
        let lsn = self.term_start_lsn().expect("only an elected proposer streams");
        if self.peers[&node].flush_lsn >= lsn {
            self.stop(StopReason::Reseeded { lsn, term: self.term }, actions);
        }
    }

    fn finish_fence(&mut self, actions: &mut VecDeque<Action>) {
        let (Role::Fence, Some(lsn)) = (self.config.role, self.term_start_lsn()) else {
            return;
        };
        let knows = |id: NodeId| self.peers[&id].commit_lsn >= lsn;
        if self.commit_lsn >= lsn && self.config.membership.is_quorum(knows) {
            self.stop(StopReason::Fenced { lsn, term: self.term }, actions);
        }
    }
}
