use super::*;
use crate::consensus::membership::Member;
use crate::consensus::reseed::reseed_term;
use crate::consensus::term_history::TermStart;
use crate::wire::walproposer::*;

const START: Lsn = Lsn(0x100_0000);

fn membership(generation: u32, ids: &[u64]) -> Membership {
    let member = |&id| Member { id: NodeId(id), host: "h".to_string(), pg_port: 1 };
    Membership {
        generation: Generation(generation),
        members: ids.iter().map(member).collect(),
        new_members: None,
    }
}

fn proposer(role: Role) -> Proposer {
    Proposer::new(ProposerConfig {
        key: TimelineKey::default(),
        membership: membership(1, &[1, 2, 3]),
        postgres_version: PostgresVersion(160009),
        system_id: SystemId(7),
        segment_size_bytes: 1 << 24,
        role,
    })
}

fn streaming() -> Proposer {
    proposer(Role::Stream { start_lsn: START })
}

fn history(entries: &[(u64, u64)]) -> TermHistory {
    let start = |&(term, lsn)| TermStart { term: Term(term), lsn: Lsn(lsn) };
    TermHistory(entries.iter().map(start).collect())
}

fn acceptor_greeting(node: u64, term: u64) -> AcceptorMessage {
    AcceptorMessage::Greeting(AcceptorGreeting {
        node_id: NodeId(node),
        membership: membership(1, &[1, 2, 3]),
        term: Term(term),
    })
}

fn vote_of(term: u64, vote_given: bool, flush: u64, terms: &[(u64, u64)]) -> AcceptorMessage {
    AcceptorMessage::VoteResponse(VoteResponse {
        generation: Generation(1),
        term: Term(term),
        vote_given,
        flush_lsn: Lsn(flush),
        truncate_lsn: Lsn(0),
        term_history: history(terms),
    })
}

fn response(term: u64, flush: Lsn, commit: Lsn) -> AcceptorMessage {
    AcceptorMessage::AppendResponse(AppendResponse {
        generation: Generation(1),
        term: Term(term),
        flush_lsn: flush,
        commit_lsn: commit,
        hot_standby: HotStandbyFeedback::default(),
        pageserver: None,
    })
}

fn next_message(proposer: &mut Proposer, node: u64) -> ProposerMessage<'static> {
    match proposer.next(NodeId(node)) {
        Ok(Some(Next::Message(message))) => message,
        other => panic!("{other:?}"),
    }
}

fn next_wal(proposer: &mut Proposer, node: u64) -> (Lsn, Lsn) {
    match proposer.next(NodeId(node)) {
        Ok(Some(Next::Wal { begin, end })) => (begin, end),
        other => panic!("{other:?}"),
    }
}

fn greet(proposer: &mut Proposer, node: u64, term: u64) -> Vec<Action> {
    proposer.connected(NodeId(node));
    assert!(matches!(next_message(proposer, node), ProposerMessage::Greeting(_)));
    assert_eq!(proposer.next(NodeId(node)), Ok(None));
    proposer.message(NodeId(node), &acceptor_greeting(node, term))
}

/// Nodes 1 and 2 greeted, both were asked for a vote in term 6.
fn campaigning(mut proposer: Proposer) -> Proposer {
    assert_eq!(greet(&mut proposer, 1, 5), vec![]);
    assert_eq!(proposer.next(NodeId(1)), Ok(None), "one of three is no quorum");
    assert_eq!(greet(&mut proposer, 2, 3), vec![]);
    for node in [1, 2] {
        let request = VoteRequest { generation: Generation(1), term: Term(6) };
        assert_eq!(next_message(&mut proposer, node), ProposerMessage::VoteRequest(request));
    }
    proposer
}

/// Elected in term 6 by node 1 (log of term 5 up to 900) and node 2 (up to 500): commits nothing yet.
fn elected(role: Role) -> Proposer {
    let mut proposer = campaigning(proposer(role));
    let terms = [(3, 100), (5, 400)];
    assert_eq!(proposer.message(NodeId(2), &vote_of(6, true, 500, &terms)), vec![]);
    let actions = proposer.message(NodeId(1), &vote_of(6, true, 900, &terms));
    let (term, term_start_lsn, donor) = (Term(6), Lsn(900), NodeId(1));
    assert_eq!(actions, vec![Action::Elected { term, term_start_lsn, donor }]);
    proposer
}

fn elected_message(proposer: &mut Proposer, node: u64) -> ProposerElected {
    match next_message(proposer, node) {
        ProposerMessage::Elected(elected) => elected,
        other => panic!("{other:?}"),
    }
}

fn empty_append(proposer: &mut Proposer, node: u64) -> (Lsn, Lsn) {
    match next_message(proposer, node) {
        ProposerMessage::Append(request) if request.wal.is_empty() => {
            (request.begin_lsn, request.commit_lsn)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_most_advanced_voter_is_the_donor_and_laggards_start_where_they_are() {
    let mut proposer = elected(Role::Stream { start_lsn: START });
    let message = elected_message(&mut proposer, 2);
    assert_eq!(message.start_streaming_at, Lsn(500));
    assert_eq!(message.term_history, history(&[(3, 100), (5, 400), (6, 900)]));
    assert_eq!(empty_append(&mut proposer, 2), (Lsn(500), Lsn(0)));
    proposer.wal_available(Lsn(2000));
    assert_eq!(next_wal(&mut proposer, 2), (Lsn(500), Lsn(900)), "the old part first, alone");
    proposer.append(NodeId(2), Lsn(500), &[0; 400]).unwrap();
    assert_eq!(next_wal(&mut proposer, 2), (Lsn(900), Lsn(2000)));
    assert_eq!(elected_message(&mut proposer, 1).start_streaming_at, Lsn(900));
}

#[test]
fn a_higher_last_term_beats_a_longer_log() {
    let mut proposer = campaigning(streaming());
    proposer.message(NodeId(1), &vote_of(6, true, 900, &[(3, 100)]));
    proposer.message(NodeId(2), &vote_of(6, true, 500, &[(3, 100), (5, 400)]));
    assert_eq!(proposer.term_start_lsn(), Some(Lsn(500)));
    assert_eq!(elected_message(&mut proposer, 1).start_streaming_at, Lsn(400));
}

#[test]
fn a_log_without_wal_begins_where_the_caller_says() {
    let mut proposer = campaigning(streaming());
    proposer.message(NodeId(1), &vote_of(6, true, 0, &[]));
    proposer.message(NodeId(2), &vote_of(6, true, 0, &[]));
    assert_eq!(proposer.term_start_lsn(), Some(START));
    assert_eq!(elected_message(&mut proposer, 1).start_streaming_at, START);
}

#[test]
fn commit_counts_only_logs_that_reached_the_term() {
    let mut proposer = elected(Role::Stream { start_lsn: START });
    proposer.wal_available(Lsn(2000));
    for node in [1, 2] {
        elected_message(&mut proposer, node);
        empty_append(&mut proposer, node);
    }
    assert_eq!(proposer.message(NodeId(1), &response(6, Lsn(900), Lsn(400))), vec![]);
    assert_eq!(proposer.message(NodeId(2), &response(6, Lsn(500), Lsn(400))), vec![]);
    proposer.append(NodeId(2), Lsn(500), &[0; 400]).unwrap();
    proposer.append(NodeId(1), Lsn(900), &[0; 300]).unwrap();
    assert_eq!(proposer.message(NodeId(1), &response(6, Lsn(1200), Lsn(400))), vec![]);
    let actions = proposer.message(NodeId(2), &response(6, Lsn(900), Lsn(400)));
    assert_eq!(actions, vec![Action::Committed { lsn: Lsn(900) }]);
    // What was never sent to it does not count.
    assert_eq!(proposer.message(NodeId(2), &response(6, Lsn(1200), Lsn(400))), vec![]);
    assert_eq!(proposer.commit_lsn(), Lsn(900));
    assert_eq!(proposer.truncate_lsn(), Lsn(0), "node 3 has nothing");
}

#[test]
fn news_of_a_commit_go_with_wal_or_alone() {
    let mut proposer = elected(Role::Stream { start_lsn: START });
    for node in [1, 2] {
        elected_message(&mut proposer, node);
        empty_append(&mut proposer, node);
    }
    proposer.append(NodeId(2), Lsn(500), &[0; 400]).unwrap();
    proposer.message(NodeId(1), &response(6, Lsn(900), Lsn(400)));
    proposer.message(NodeId(2), &response(6, Lsn(900), Lsn(400)));
    assert_eq!(empty_append(&mut proposer, 1), (Lsn(900), Lsn(900)));
    proposer.wal_available(Lsn(1000));
    assert_eq!(next_wal(&mut proposer, 2), (Lsn(900), Lsn(1000)));
    let request = proposer.append(NodeId(2), Lsn(900), &[0; 100]).unwrap();
    assert_eq!(request.commit_lsn, Lsn(900));
    assert_eq!(proposer.next(NodeId(2)), Ok(None), "it went with the WAL");
}

#[test]
fn a_reconnect_within_the_term_goes_on_where_the_log_ends() {
    let mut proposer = elected(Role::Stream { start_lsn: START });
    proposer.wal_available(Lsn(2000));
    elected_message(&mut proposer, 1);
    empty_append(&mut proposer, 1);
    proposer.append(NodeId(1), Lsn(900), &[0; 1000]).unwrap();
    proposer.disconnected(NodeId(1));
    assert_eq!(proposer.append(NodeId(1), Lsn(1900), &[0; 10]), None);
    assert_eq!(greet(&mut proposer, 1, 6), vec![]);
    assert!(matches!(next_message(&mut proposer, 1), ProposerMessage::VoteRequest(_)));
    let refusal = vote_of(6, false, 1500, &[(3, 100), (5, 400), (6, 900)]);
    assert_eq!(proposer.message(NodeId(1), &refusal), vec![]);
    assert_eq!(elected_message(&mut proposer, 1).start_streaming_at, Lsn(1500));
}

#[test]
fn a_higher_term_anywhere_ends_it() {
    let mut proposer = elected(Role::Stream { start_lsn: START });
    let actions = greet(&mut proposer, 3, 9);
    let (node, found, own) = (NodeId(3), Term(9), Term(6));
    assert_eq!(actions, vec![Action::Stop(StopReason::HigherTerm { node, found, own })]);
    assert!(proposer.is_stopped());
    assert_eq!(proposer.next(NodeId(1)), Ok(None));
    proposer.connected(NodeId(1));
    assert_eq!(proposer.next(NodeId(1)), Ok(None));

    let mut proposer = elected(Role::Stream { start_lsn: START });
    elected_message(&mut proposer, 1);
    let actions = proposer.message(NodeId(1), &response(7, Lsn(0), Lsn(0)));
    assert!(matches!(actions[..], [Action::Stop(StopReason::HigherTerm { .. })]));
}

#[test]
fn refused_votes_lead_to_another_campaign() {
    let mut proposer = campaigning(streaming());
    proposer.message(NodeId(1), &vote_of(6, false, 0, &[]));
    proposer.message(NodeId(2), &vote_of(6, true, 0, &[]));
    assert_eq!(proposer.next(NodeId(1)), Ok(None));
    proposer.tick();
    for node in [1, 2] {
        let request = VoteRequest { generation: Generation(1), term: Term(7) };
        assert_eq!(next_message(&mut proposer, node), ProposerMessage::VoteRequest(request));
        proposer.message(NodeId(node), &vote_of(7, true, 0, &[]));
    }
    assert_eq!(proposer.term_start_lsn(), Some(START));
}

#[test]
fn heartbeats_go_to_the_silent_only() {
    let mut proposer = elected(Role::Stream { start_lsn: START });
    elected_message(&mut proposer, 1);
    empty_append(&mut proposer, 1);
    proposer.tick();
    assert_eq!(proposer.next(NodeId(1)), Ok(None), "it was sent something since the last tick");
    proposer.tick();
    assert_eq!(empty_append(&mut proposer, 1), (Lsn(900), Lsn(0)));
}

#[test]
fn a_fence_commits_the_tail_and_ends_when_a_quorum_knows() {
    let mut proposer = elected(Role::Fence);
    for node in [1, 2] {
        elected_message(&mut proposer, node);
        empty_append(&mut proposer, node);
    }
    assert_eq!(next_wal(&mut proposer, 2), (Lsn(500), Lsn(900)));
    proposer.append(NodeId(2), Lsn(500), &[0; 400]).unwrap();
    proposer.message(NodeId(1), &response(6, Lsn(900), Lsn(400)));
    let actions = proposer.message(NodeId(2), &response(6, Lsn(900), Lsn(400)));
    assert_eq!(actions, vec![Action::Committed { lsn: Lsn(900) }]);
    for node in [1, 2] {
        assert_eq!(empty_append(&mut proposer, node), (Lsn(900), Lsn(900)));
    }
    assert_eq!(proposer.message(NodeId(1), &response(6, Lsn(900), Lsn(900))), vec![]);
    let actions = proposer.message(NodeId(2), &response(6, Lsn(900), Lsn(900)));
    let (lsn, term) = (Lsn(900), Term(6));
    assert_eq!(actions, vec![Action::Stop(StopReason::Fenced { lsn, term })]);
}

#[test]
fn a_fence_of_a_timeline_without_wal_ends_at_nothing() {
    let mut proposer = campaigning(proposer(Role::Fence));
    proposer.message(NodeId(1), &vote_of(6, true, 0, &[]));
    let actions = proposer.message(NodeId(2), &vote_of(6, true, 0, &[]));
    let (lsn, term) = (Lsn(0), Term(6));
    assert_eq!(actions, vec![Action::Stop(StopReason::Fenced { lsn, term })]);
}

#[test]
fn a_newer_membership_ends_it() {
    let mut proposer = streaming();
    proposer.connected(NodeId(1));
    next_message(&mut proposer, 1);
    let newer = membership(2, &[1, 2, 4]);
    let greeting = AcceptorMessage::Greeting(AcceptorGreeting {
        node_id: NodeId(1),
        membership: newer.clone(),
        term: Term(0),
    });
    let actions = proposer.message(NodeId(1), &greeting);
    assert_eq!(actions, vec![Action::Stop(StopReason::Membership { membership: newer })]);
}

#[test]
fn strangers_and_liars_are_disconnected() {
    let disconnects = |actions: Vec<Action>| {
        assert!(matches!(actions[..], [Action::Disconnect { .. }]), "{actions:?}");
    };
    let mut proposer = streaming();
    proposer.connected(NodeId(1));
    disconnects(proposer.message(NodeId(1), &acceptor_greeting(1, 0)));
    proposer.connected(NodeId(1));
    next_message(&mut proposer, 1);
    disconnects(proposer.message(NodeId(1), &acceptor_greeting(2, 0)));
    disconnects(greet(&mut proposer, 2, u64::MAX));
    assert_eq!(proposer.message(NodeId(9), &acceptor_greeting(9, 0)), vec![]);

    let mut proposer = elected(Role::Stream { start_lsn: START });
    disconnects(proposer.message(NodeId(1), &response(6, Lsn(900), Lsn(0))));
    greet(&mut proposer, 3, 6);
    next_message(&mut proposer, 3);
    let contradiction = vote_of(6, false, 950, &[(3, 100), (5, 401)]);
    assert_eq!(proposer.message(NodeId(3), &contradiction), vec![]);
    assert!(matches!(proposer.next(NodeId(3)), Err(Action::Disconnect { .. })));
    greet(&mut proposer, 3, 6);
    next_message(&mut proposer, 3);
    let claim = vote_of(6, false, 5000, &[(3, 100), (5, 400), (6, 900)]);
    proposer.message(NodeId(3), &claim);
    assert!(matches!(proposer.next(NodeId(3)), Err(Action::Disconnect { .. })));
}

#[test]
fn a_held_proposer_asks_for_votes_and_tells_no_one_that_it_won() {
    let mut held = proposer(Role::Stream { start_lsn: START });
    held.hold();
    let mut proposer = campaigning(held);
    let terms = [(3, 100), (5, 400)];
    proposer.message(NodeId(1), &vote_of(6, true, 900, &terms));
    proposer.message(NodeId(2), &vote_of(6, true, 500, &terms));
    assert_eq!(proposer.next(NodeId(1)), Ok(None));
    greet(&mut proposer, 3, 0);
    assert!(matches!(next_message(&mut proposer, 3), ProposerMessage::VoteRequest(_)));
    assert_eq!(proposer.maybe_committed_lsn(), Some(Lsn(900)), "node 3 may hold all of it");
    proposer.message(NodeId(3), &vote_of(6, true, 700, &[(3, 100), (4, 300)]));
    assert_eq!(proposer.maybe_committed_lsn(), Some(Lsn(500)), "node 3 parted at 300");
    proposer.release();
    assert_eq!(elected_message(&mut proposer, 1).start_streaming_at, Lsn(900));
    assert_eq!(elected_message(&mut proposer, 3).start_streaming_at, Lsn(300));
}

#[test]
fn what_nobody_can_have_committed_is_cut_off() {
    let mut held = proposer(Role::Stream { start_lsn: START });
    held.hold();
    let mut proposer = campaigning(held);
    let terms = [(3, 100), (5, 400)];
    proposer.message(NodeId(1), &vote_of(6, true, 900, &terms));
    proposer.message(NodeId(2), &vote_of(6, true, 500, &terms));
    greet(&mut proposer, 3, 0);
    next_message(&mut proposer, 3);
    proposer.message(NodeId(3), &vote_of(6, true, 300, &[(3, 100)]));
    proposer.shorten(Lsn(600));
    proposer.release();
    let message = elected_message(&mut proposer, 1);
    assert_eq!(message.start_streaming_at, Lsn(600));
    assert_eq!(message.term_history, history(&[(3, 100), (5, 400), (6, 600)]));
    assert_eq!(elected_message(&mut proposer, 2).start_streaming_at, Lsn(500));
    assert_eq!(proposer.term_start_lsn(), Some(Lsn(600)));
}

#[test]
#[should_panic(expected = "a term begins from 0/384 to 0/384")]
fn what_may_be_committed_is_never_cut_off() {
    let mut held = proposer(Role::Stream { start_lsn: START });
    held.hold();
    let mut proposer = campaigning(held);
    proposer.message(NodeId(1), &vote_of(6, true, 900, &[(3, 100)]));
    proposer.message(NodeId(2), &vote_of(6, true, 500, &[(3, 100)]));
    proposer.shorten(Lsn(600));
}

#[test]
fn a_reseed_writes_to_one_acceptor_only_and_commits_nothing() {
    let role = Role::Reseed { node: NodeId(3), known_term: Term(8) };
    let mut proposer = proposer(role);
    greet(&mut proposer, 1, 5);
    assert_eq!(proposer.next(NodeId(1)), Ok(None), "one of the two others decides nothing");
    greet(&mut proposer, 2, 3);
    let term = reseed_term(Term(8));
    for node in [1, 2] {
        let request = VoteRequest { generation: Generation(1), term };
        assert_eq!(next_message(&mut proposer, node), ProposerMessage::VoteRequest(request));
    }
    let terms = [(3, 100), (5, 400)];
    assert_eq!(proposer.message(NodeId(1), &vote_of(term.0, true, 900, &terms)), vec![]);
    let actions = proposer.message(NodeId(2), &vote_of(term.0, true, 500, &terms));
    let (term_start_lsn, donor) = (Lsn(900), NodeId(1));
    assert_eq!(actions, vec![Action::Elected { term, term_start_lsn, donor }]);
    assert_eq!(proposer.next(NodeId(1)), Ok(None));
    assert_eq!(proposer.next(NodeId(2)), Ok(None));
    greet(&mut proposer, 3, term.0);
    assert!(matches!(next_message(&mut proposer, 3), ProposerMessage::VoteRequest(_)));
    proposer.message(NodeId(3), &vote_of(term.0, false, 450, &terms));
    let ProposerMessage::Elected(elected) = next_message(&mut proposer, 3) else { panic!() };
    assert_eq!(elected.start_streaming_at, Lsn(450));
    let first = next_message(&mut proposer, 3);
    assert!(matches!(first, ProposerMessage::Append(request) if request.wal.is_empty()));
    assert_eq!(next_wal(&mut proposer, 3), (Lsn(450), Lsn(900)));
    assert!(proposer.append(NodeId(3), Lsn(450), &[0; 450]).is_some());
    let actions = proposer.message(NodeId(3), &response(term.0, Lsn(900), Lsn(0)));
    assert_eq!(actions, vec![Action::Stop(StopReason::Reseeded { lsn: Lsn(900), term })]);
}

#[test]
fn who_has_which_part_of_the_elected_log() {
    let holders = |proposer: &Proposer, at: u64| -> Vec<(u64, u64)> {
        let all = proposer.holders(Lsn(at)).into_iter();
        all.map(|holder| (holder.node.0, holder.end.0)).collect()
    };
    assert_eq!(holders(&campaigning(proposer(Role::Fence)), 0), [], "nobody before the election");
    let mut proposer = elected(Role::Stream { start_lsn: START });
    assert_eq!(holders(&proposer, 450), [(1, 900), (2, 500)]);
    assert_eq!(holders(&proposer, 500), [(1, 900)]);
    // A third member's log parts from the elected one at 400: what it has behind is none of it.
    greet(&mut proposer, 3, 4);
    assert!(matches!(next_message(&mut proposer, 3), ProposerMessage::VoteRequest(_)));
    proposer.message(NodeId(3), &vote_of(6, true, 800, &[(3, 100), (4, 700)]));
    assert_eq!(holders(&proposer, 300), [(1, 900), (2, 500), (3, 400)]);
    assert_eq!(holders(&proposer, 400), [(1, 900), (2, 500)]);
    // Whoever takes WAL has what it says is durable.
    elected_message(&mut proposer, 2);
    empty_append(&mut proposer, 2);
    proposer.append(NodeId(2), Lsn(500), &[0; 400]).unwrap();
    proposer.message(NodeId(2), &response(6, Lsn(900), Lsn(0)));
    assert_eq!(holders(&proposer, 500), [(1, 900), (2, 900)], "the donor first");
}
