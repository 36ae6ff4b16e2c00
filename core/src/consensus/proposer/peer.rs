//! What a proposer knows of one acceptor.

use crate::consensus::term_history::TermHistory;
use crate::types::Lsn;

/// One acceptor, across its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) session: Session,
    /// Voted for our term; stays over connections, as the vote does.
    pub(super) granted: bool,
    /// Its log when it last answered a vote request in our term.
    pub(super) log: Option<Log>,
    /// What it has durable of our log; known from its answers to appends, 0 before the first of a connection.
    pub(super) flush_lsn: Lsn,
    /// Highest commit LSN that it says is durable.
    pub(super) commit_lsn: Lsn,
}

/// An acceptor's log, as it told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Log {
    pub(super) flush_lsn: Lsn,
    pub(super) history: TermHistory,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) enum Session {
    /// There is none.
    #[default]
    Offline,
    /// The greeting is to be sent.
    Connected,
    /// The answer to the greeting is awaited.
    AwaitsGreeting,
    /// Greeted; a vote is to be asked for in the campaign.
    Greeted,
    /// The answer to the vote request is awaited.
    AwaitsVote,
    /// Answered the vote request; the elected message is to be sent once we are.
    Voted,
    /// Takes WAL.
    Streaming {
        /// Position after the last byte sent.
        next_lsn: Lsn,
        /// An append without WAL is to be sent: a heartbeat, or the news of a commit LSN.
        announce: bool,
        /// Something was sent since the last tick.
        sent: bool,
    },
}

/// What is known of one acceptor, for status pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// There is a connection.
    pub connected: bool,
    /// It takes WAL.
    pub streaming: bool,
    /// Position after the last byte sent, while streaming.
    pub sent_lsn: Lsn,
    /// What it has durable of our log; 0 = not known yet.
    pub flush_lsn: Lsn,
}

impl Peer {
    pub(super) fn connect(&mut self) {
        self.session = Session::Connected;
        self.flush_lsn = Lsn::INVALID;
    }

    pub(super) fn disconnect(&mut self) {
        self.session = Session::Offline;
    }

    pub(super) fn tick(&mut self) {
        if let Session::Streaming { announce, sent, .. } = &mut self.session {
            *announce |= !*sent;
            *sent = false;
        }
    }

    pub(super) fn announce(&mut self) {
        if let Session::Streaming { announce, .. } = &mut self.session {
            *announce = true;
        }
    }

    pub(super) fn next_lsn(&self) -> Option<Lsn> {
        match self.session {
            Session::Streaming { next_lsn, .. } => Some(next_lsn),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            connected: self.session != Session::Offline,
            streaming: self.next_lsn().is_some(),
            sent_lsn: self.next_lsn().unwrap_or(Lsn::INVALID),
            flush_lsn: self.flush_lsn,
        }
    }
}
