use super::*;
use crate::consensus::membership::{Member, Membership};
use crate::consensus::postgres_history::{PostgresHistory, PostgresSwitch};
use crate::consensus::term_history::{TermHistory, TermStart};
use crate::postgres::wal::WalVersion;
use crate::postgres::wal::test_wal::{SEGMENT_BYTES, WalBuilder};
use crate::types::*;
use crate::wire::walproposer::*;

/// Where the timelines here begin: inside a page.
const START: Lsn = Lsn(0x30_0100);

fn greeting(system_id: u64, generation: u32, members: &[u64]) -> ProposerGreeting {
    ProposerGreeting {
        key: TimelineKey::default(),
        membership: membership(generation, members),
        postgres_version: PostgresVersion(170008),
        system_id: SystemId(system_id),
        segment_size_bytes: SEGMENT_BYTES,
    }
}

fn membership(generation: u32, ids: &[u64]) -> Membership {
    let member = |&id| Member { id: NodeId(id), host: "h".to_string(), pg_port: 1 };
    Membership {
        generation: Generation(generation),
        members: ids.iter().map(member).collect(),
        new_members: None,
    }
}

fn history(entries: &[(u64, Lsn)]) -> TermHistory {
    TermHistory(entries.iter().map(|&(term, lsn)| TermStart { term: Term(term), lsn }).collect())
}

fn vote_request(term: u64) -> ProposerMessage<'static> {
    ProposerMessage::VoteRequest(VoteRequest { generation: Generation(0), term: Term(term) })
}

fn elected(term: u64, start: Lsn, terms: &[(u64, Lsn)]) -> ProposerMessage<'static> {
    ProposerMessage::Elected(ProposerElected {
        generation: Generation(0),
        term: Term(term),
        start_streaming_at: start,
        term_history: history(terms),
    })
}

fn append(term: u64, begin: Lsn, wal: &[u8], commit_lsn: Lsn) -> ProposerMessage<'_> {
    ProposerMessage::Append(AppendRequest {
        generation: Generation(0),
        term: Term(term),
        begin_lsn: begin,
        commit_lsn,
        truncate_lsn: Lsn(0),
        wal,
    })
}

/// An acceptor created by a proposer's greeting.
fn fresh() -> Acceptor {
    let create = create_on_push(TimelineKey::default(), &greeting(7, 0, &[]), true).unwrap();
    Acceptor::new(TimelineKey::default(), NodeId(1), TimelineState::create(&create))
}

/// Handles a message and makes it durable at once.
fn run(acceptor: &mut Acceptor, message: &ProposerMessage<'_>) -> Reply {
    let step = acceptor.handle(message).unwrap();
    step.mark.into_iter().for_each(|mark| acceptor.durable(mark));
    step.reply
}

fn vote(acceptor: &mut Acceptor, term: u64) -> VoteResponse {
    match run(acceptor, &vote_request(term)) {
        Reply::Message {
            message: AcceptorMessage::VoteResponse(response),
            when: When::Witnessed,
        } => response,
        other => panic!("{other:?}"),
    }
}

/// WAL of `count` records of 64 bytes from `START` on.
fn wal(count: usize) -> WalBuilder {
    let mut wal = WalBuilder::new(START, WalVersion::V17);
    for index in 0..count {
        wal.record(10, 0, &[index as u8; 40]);
    }
    wal
}

/// An acceptor that holds `count` records of term 1.
fn with_records(count: usize) -> (Acceptor, WalBuilder) {
    let (mut acceptor, wal) = (fresh(), wal(count));
    vote(&mut acceptor, 1);
    run(&mut acceptor, &elected(1, START, &[(1, START)]));
    run(&mut acceptor, &append(1, START, &wal.bytes, Lsn(0)));
    assert_eq!(acceptor.flush_lsn(), wal.position());
    (acceptor, wal)
}

fn refused(acceptor: &mut Acceptor, message: &ProposerMessage<'_>) -> AcceptorError {
    let before = acceptor.state().clone();
    let error = acceptor.handle(message).expect_err("must be refused");
    assert_eq!(*acceptor.state(), before, "a refusal changes nothing");
    error
}

#[test]
fn a_term_is_voted_for_once_and_a_refusal_is_complete() {
    let (mut acceptor, wal) = with_records(3);
    let granted = vote(&mut acceptor, 5);
    assert!(granted.vote_given);
    for term in [5, 4, 0] {
        let refusal = vote(&mut acceptor, term);
        assert_eq!(refusal, VoteResponse { vote_given: false, ..granted.clone() });
    }
    assert_eq!(granted.flush_lsn, wal.position());
    assert_eq!(granted.term_history, history(&[(1, START)]));
    assert_eq!(granted.term, Term(5));
}

#[test]
fn flush_lsn_is_the_last_record_end_that_is_durable() {
    let (mut acceptor, wal) = (fresh(), wal(3));
    vote(&mut acceptor, 1);
    run(&mut acceptor, &elected(1, START, &[(1, START)]));
    let cut = wal.ends[1] + 10;
    let (now, later) = wal.bytes.split_at((cut - START) as usize);
    let first = acceptor.handle(&append(1, START, now, Lsn(0))).unwrap();
    assert_eq!(first.reply, Reply::AppendResponse { when: When::Durable });
    assert_eq!(acceptor.append_response().unwrap().flush_lsn, START);
    let second = acceptor.handle(&append(1, cut, later, Lsn(0))).unwrap();
    acceptor.durable(first.mark.unwrap());
    assert_eq!(acceptor.append_response().unwrap().flush_lsn, wal.ends[1]);
    acceptor.durable(second.mark.unwrap());
    assert_eq!(acceptor.append_response().unwrap().flush_lsn, wal.ends[2]);
}

#[test]
fn bytes_that_are_no_records_are_stored_and_never_acknowledged() {
    let mut acceptor = fresh();
    vote(&mut acceptor, 1);
    run(&mut acceptor, &elected(1, START, &[(1, START)]));
    run(&mut acceptor, &append(1, START, &[0x5A; 200], Lsn(0)));
    assert_eq!(acceptor.append_response().unwrap().flush_lsn, START);
    assert_eq!(acceptor.state().write_lsn, START + 200);
}

#[test]
fn gaps_rewrites_and_appends_before_elected_are_refused() {
    let (mut acceptor, wal) = with_records(2);
    let end = wal.position();
    assert!(matches!(
        refused(&mut acceptor, &append(1, end + 8, b"x", Lsn(0))),
        AcceptorError::Gap { .. }
    ));
    assert!(matches!(
        refused(&mut acceptor, &append(1, START, b"x", Lsn(0))),
        AcceptorError::Rewrite { .. }
    ));
    assert!(matches!(
        refused(&mut acceptor, &append(9, end, b"x", Lsn(0))),
        AcceptorError::NotElected { .. }
    ));
    vote(&mut acceptor, 9);
    assert!(matches!(
        refused(&mut acceptor, &append(9, end, b"x", Lsn(0))),
        AcceptorError::NotElected { .. }
    ));
    // After a restart the log is cut once before it is written.
    let state = acceptor.state().clone();
    let mut restarted = Acceptor::new(TimelineKey::default(), NodeId(1), state);
    assert!(matches!(
        refused(&mut restarted, &append(9, end, b"x", Lsn(0))),
        AcceptorError::NotElected { .. }
    ));
}

#[test]
fn a_stale_proposer_learns_the_term_and_nothing_else() {
    let (mut acceptor, wal) = with_records(2);
    vote(&mut acceptor, 4);
    assert_eq!(run(&mut acceptor, &elected(1, wal.position(), &[(1, START)])), Reply::None);
    let Reply::Message { message: AcceptorMessage::AppendResponse(response), when: When::Now } =
        run(&mut acceptor, &append(1, wal.position(), b"x", wal.position()))
    else {
        panic!("a stale append is answered at once")
    };
    assert_eq!(response.term, Term(4));
    assert_eq!((response.flush_lsn, response.commit_lsn), (Lsn(0), Lsn(0)));
    assert_eq!(acceptor.append_response(), None);
    assert_eq!(acceptor.state().write_lsn, wal.position());
}

#[test]
fn the_log_is_cut_where_it_leaves_the_proposers() {
    let (mut acceptor, wal) = with_records(3);
    let (first, end) = (wal.ends[0], wal.position());
    vote(&mut acceptor, 2);
    let terms = [(1, START), (2, first)];
    let wrong = refused(&mut acceptor, &elected(2, end, &terms));
    assert_eq!(wrong, AcceptorError::StartPosition { expected: first, found: end });
    run(&mut acceptor, &elected(2, first, &terms));
    assert_eq!(acceptor.append_response().unwrap().flush_lsn, first);
    assert_eq!(acceptor.state().write_lsn, first);
    assert_eq!(acceptor.last_log_term(), Term(2));
}

#[test]
fn committed_wal_is_never_cut_off() {
    let (mut acceptor, wal) = with_records(3);
    run(&mut acceptor, &append(1, wal.position(), &[], wal.ends[1]));
    assert_eq!(acceptor.commit_lsn(), wal.ends[1]);
    vote(&mut acceptor, 2);
    for (start, terms) in
        [(wal.ends[0], vec![(1, START), (2, wal.ends[0])]), (START, vec![(2, START)])]
    {
        let error = refused(&mut acceptor, &elected(2, start, &terms));
        assert!(matches!(error, AcceptorError::CutsCommitted { .. }), "{error}");
    }
}

#[test]
fn flush_of_a_log_that_was_cut_is_never_reported() {
    let (mut acceptor, wal) = with_records(1);
    let more = {
        let mut more = WalBuilder::new(wal.position(), WalVersion::V17);
        more.record(10, 0, &[9; 40]);
        more
    };
    let late = acceptor.handle(&append(1, wal.position(), &more.bytes, Lsn(0))).unwrap();
    let voted = acceptor.handle(&vote_request(2)).unwrap();
    let cut =
        acceptor.handle(&elected(2, wal.position(), &[(1, START), (2, wal.position())])).unwrap();
    assert_eq!(acceptor.append_response(), None, "the election is not durable");
    acceptor.durable(late.mark.unwrap());
    acceptor.durable(voted.mark.unwrap());
    assert_eq!(acceptor.append_response(), None, "the election is not durable");
    let heartbeat = acceptor.handle(&append(2, wal.position(), &[], Lsn(0))).unwrap();
    assert_eq!(heartbeat.reply, Reply::AppendResponse { when: When::Durable });
    acceptor.durable(cut.mark.unwrap());
    assert_eq!(acceptor.append_response().unwrap().flush_lsn, wal.position());
    let heartbeat = acceptor.handle(&append(2, wal.position(), &[], Lsn(0))).unwrap();
    assert_eq!(heartbeat.reply, Reply::AppendResponse { when: When::Now });
}

#[test]
fn commit_lsn_is_kept_lazily_but_for_the_start_of_the_term() {
    let (mut acceptor, wal) = with_records(3);
    let end = wal.position();
    run(&mut acceptor, &append(1, end, &[], wal.ends[1]));
    assert_eq!(acceptor.commit_lsn(), wal.ends[1]);
    assert_eq!(acceptor.append_response().unwrap().commit_lsn, START, "as the disk has it");
    vote(&mut acceptor, 2);
    run(&mut acceptor, &elected(2, end, &[(1, START), (2, end)]));
    // Past the end it is capped, and at the start of the term it is made durable.
    run(&mut acceptor, &append(2, end, &[], end + 100));
    assert_eq!(acceptor.append_response().unwrap().commit_lsn, end);
    assert_eq!(acceptor.checkpoint(), None);
}

#[test]
fn a_checkpoint_keeps_what_was_kept_lazily() {
    let (mut acceptor, wal) = with_records(3);
    run(&mut acceptor, &append(1, wal.position(), &[], wal.ends[1]));
    let step = acceptor.checkpoint().unwrap();
    acceptor.durable(step.mark.unwrap());
    assert_eq!(acceptor.append_response().unwrap().commit_lsn, wal.ends[1]);
    assert_eq!(acceptor.checkpoint(), None);
}

#[test]
fn greetings_of_other_clusters_are_refused_once_there_is_wal() {
    let greet = |acceptor: &mut Acceptor, greeting: ProposerGreeting| {
        acceptor.handle(&ProposerMessage::Greeting(greeting)).map(|step| step.changes.is_empty())
    };
    let mut acceptor = fresh();
    assert_eq!(greet(&mut acceptor, greeting(0, 0, &[])), Ok(true));
    assert_eq!(greet(&mut acceptor, greeting(8, 0, &[])), Ok(false), "no WAL yet");
    let (mut acceptor, _) = with_records(1);
    let error = greet(&mut acceptor, greeting(8, 0, &[])).unwrap_err();
    assert_eq!(error, AcceptorError::SystemId { expected: SystemId(7), found: SystemId(8) });
    assert_eq!(greet(&mut acceptor, greeting(0, 0, &[])), Ok(true));
    let minor =
        ProposerGreeting { postgres_version: PostgresVersion(170001), ..greeting(7, 0, &[]) };
    assert_eq!(greet(&mut acceptor, minor), Ok(true));
    let major =
        ProposerGreeting { postgres_version: PostgresVersion(160009), ..greeting(7, 0, &[]) };
    assert!(greet(&mut acceptor, major).is_err());
    let segment = ProposerGreeting { segment_size_bytes: 1 << 24, ..greeting(7, 0, &[]) };
    assert!(greet(&mut acceptor, segment).is_err());
    let mut other = greeting(7, 0, &[]);
    other.key.timeline_id.0.0[0] = 1;
    assert!(greet(&mut acceptor, other).is_err());
}

#[test]
fn only_a_proposer_without_members_creates_a_timeline() {
    let key = TimelineKey::default();
    assert!(create_on_push(key, &greeting(7, 0, &[]), false).is_err());
    assert!(create_on_push(key, &greeting(7, 1, &[1, 2, 3]), true).is_err());
    let odd = ProposerGreeting { segment_size_bytes: 3 << 20, ..greeting(7, 0, &[]) };
    assert!(create_on_push(key, &odd, true).is_err());
}

#[test]
fn membership_goes_up_only_and_binds_every_message() {
    let mut acceptor = fresh();
    let message = ProposerMessage::Greeting(greeting(7, 2, &[1, 2, 3]));
    let Reply::Message { message: AcceptorMessage::Greeting(answer), when: When::Witnessed } =
        run(&mut acceptor, &message)
    else {
        panic!("a greeting is answered")
    };
    assert_eq!(answer.membership, membership(2, &[1, 2, 3]));
    assert!(matches!(refused(&mut acceptor, &vote_request(1)), AcceptorError::Generation { .. }));
    assert!(matches!(
        refused(&mut acceptor, &ProposerMessage::Greeting(greeting(7, 3, &[2, 3]))),
        AcceptorError::NotMember { .. }
    ));
    assert!(acceptor.switch_membership(&membership(1, &[1])).is_err());
    assert!(acceptor.switch_membership(&membership(2, &[3, 2, 1])).unwrap().changes.is_empty());
    let other = acceptor.switch_membership(&membership(2, &[1, 2]));
    assert!(matches!(other, Err(AcceptorError::OtherMembers { generation: Generation(2) })));
    assert!(matches!(
        refused(&mut acceptor, &ProposerMessage::Greeting(greeting(7, 2, &[1, 2]))),
        AcceptorError::OtherMembers { .. }
    ));
    assert!(!acceptor.switch_membership(&membership(4, &[1, 2])).unwrap().changes.is_empty());
    assert_eq!(acceptor.state().membership.generation, Generation(4));
}

#[test]
fn a_bumped_term_stops_the_proposer() {
    let (mut acceptor, wal) = with_records(1);
    assert_eq!(acceptor.bump_term(Some(Term(1))).mark, None);
    assert!(acceptor.bump_term(None).mark.is_some());
    assert_eq!(acceptor.term(), Term(2));
    let reply = run(&mut acceptor, &append(1, wal.position(), b"x", Lsn(0)));
    assert!(matches!(reply, Reply::Message { when: When::Now, .. }));
    assert!(acceptor.bump_term(Some(Term(9))).mark.is_some());
    assert_eq!(acceptor.term(), Term(9));
    assert!(!vote(&mut acceptor, 9).vote_given);
}

#[test]
fn histories_that_cannot_be_are_refused() {
    let (mut acceptor, wal) = with_records(1);
    let end = wal.position();
    vote(&mut acceptor, 3);
    for (start, terms) in [
        (end, vec![]),
        (end, vec![(1, START), (2, end)]),
        (end, vec![(1, START + 8), (3, end)]),
        (end, vec![(1, START), (3, end), (3, end)]),
        (end + 8, vec![(3, end + 8)]),
    ] {
        refused(&mut acceptor, &elected(3, start, &terms));
    }
    run(&mut acceptor, &elected(3, end, &[(1, START), (3, end)]));
}

#[test]
fn names_of_committed_segments_never_change() {
    let (mut acceptor, wal) = with_records(2);
    run(&mut acceptor, &append(1, wal.position(), &[], wal.ends[0]));
    let history = |entries: &[(u32, Lsn)]| {
        let switch =
            |&(timeline, lsn)| PostgresSwitch { timeline: PostgresTimeline(timeline), lsn };
        PostgresHistory(entries.iter().map(switch).collect())
    };
    let first = history(&[(1, Lsn(0)), (2, wal.ends[0])]);
    assert!(acceptor.set_postgres_history(Term(0), &first).is_err());
    assert!(acceptor.set_postgres_history(Term(1), &first).unwrap().mark.is_some());
    assert!(acceptor.set_postgres_history(Term(1), &first).unwrap().mark.is_none());
    let next = history(&[(1, Lsn(0)), (2, wal.ends[0]), (3, wal.ends[1])]);
    assert!(acceptor.set_postgres_history(Term(1), &next).is_ok());
    let other = history(&[(1, Lsn(0)), (2, START), (3, wal.ends[1])]);
    assert!(acceptor.set_postgres_history(Term(1), &other).is_err());
}

#[test]
fn names_of_timelines_come_from_a_peer_that_knows_more() {
    let (mut acceptor, wal) = with_records(2);
    let history = |entries: &[(u32, Lsn)]| {
        let switch =
            |&(timeline, lsn)| PostgresSwitch { timeline: PostgresTimeline(timeline), lsn };
        PostgresHistory(entries.iter().map(switch).collect())
    };
    let all = history(&[(1, Lsn(0)), (2, wal.ends[0]), (3, wal.ends[1])]);
    let learn = |acceptor: &mut Acceptor, committed| {
        acceptor.learn_postgres_history(&all, committed);
        acceptor.state().postgres_history.clone()
    };
    // A switch behind which the peer has committed nothing may still be taken back.
    let two = history(&[(1, Lsn(0)), (2, wal.ends[0])]);
    assert_eq!(learn(&mut acceptor, wal.ends[1]), two);
    // A peer that knows less changes nothing, and one that contradicts what is committed here neither.
    assert_eq!(learn(&mut acceptor, wal.ends[0]), two);
    run(&mut acceptor, &append(1, wal.position(), &[], wal.ends[1]));
    let other = history(&[(1, Lsn(0)), (4, wal.ends[0]), (5, wal.ends[1])]);
    acceptor.learn_postgres_history(&other, wal.ends[1] + 1);
    assert_eq!(acceptor.state().postgres_history, two);
    assert_eq!(learn(&mut acceptor, wal.ends[1] + 1), all);
}

#[test]
fn marks_from_before_a_restart_mean_nothing() {
    let (mut acceptor, wal) = with_records(1);
    let disk = acceptor.state().clone();
    let mut more = WalBuilder::new(wal.position(), WalVersion::V17);
    more.record(10, 0, &[9; 40]);
    let refused = acceptor.handle(&append(1, wal.position(), &more.bytes, Lsn(0))).unwrap();
    acceptor.restart(disk);
    let refusal = vote(&mut acceptor, 1);
    assert_eq!((refusal.vote_given, refusal.flush_lsn), (false, wal.position()));
    run(&mut acceptor, &elected(1, wal.position(), &[(1, START)]));
    acceptor.durable(refused.mark.unwrap());
    assert_eq!(acceptor.append_response().unwrap().flush_lsn, wal.position());
}

#[test]
fn an_acceptor_that_forgot_takes_nothing_and_then_no_vote() {
    let (mut acceptor, wal) = with_records(1);
    let end = wal.position();
    acceptor.distrust();
    let suspect = AcceptorError::Suspect { key: TimelineKey::default() };
    assert_eq!(refused(&mut acceptor, &vote_request(2)), suspect);
    assert_eq!(refused(&mut acceptor, &elected(1, end, &[(1, START)])), suspect);
    assert_eq!(acceptor.switch_membership(&membership(1, &[1])), Err(suspect));
    assert_eq!(acceptor.append_response(), None);
    // Below what it knows itself nothing begins.
    assert!(acceptor.begin_seeding(Term(0)).is_err());
    let step = acceptor.begin_seeding(Term(8)).unwrap();
    acceptor.durable(step.mark.unwrap());
    assert_eq!((acceptor.term(), acceptor.is_seeded()), (Term(8), false));
    let answer = vote(&mut acceptor, 9);
    assert_eq!((answer.vote_given, answer.term, answer.flush_lsn), (false, Term(9), end));
    assert!(acceptor.switch_membership(&membership(1, &[1])).is_err());
    run(&mut acceptor, &elected(9, end, &[(1, START), (9, end + 64)]));
    assert!(!acceptor.is_seeded(), "its log does not reach the term");
    let mut more = WalBuilder::new(end, WalVersion::V17);
    more.record(10, 0, &[9; 40]);
    run(&mut acceptor, &append(9, end, &more.bytes, Lsn(0)));
    assert!(acceptor.is_seeded());
    assert!(!vote(&mut acceptor, 10).vote_given, "not before the journal says so");
    acceptor.trust();
    assert!(vote(&mut acceptor, 11).vote_given);
}

#[test]
fn committed_wal_of_a_peer_is_taken_in_any_term_and_cuts_what_diverges() {
    let committed = |terms: &[(u64, Lsn)], commit_lsn| CommittedLog {
        generation: Generation(0),
        history: history(terms),
        commit_lsn,
    };
    let whole = wal(4);
    let end = whole.position();
    // Three records of term 1, of which one is committed; term 2 went on behind the first.
    let (mut acceptor, own) = with_records(3);
    run(&mut acceptor, &append(1, own.position(), &[], own.ends[0]));
    vote(&mut acceptor, 9);
    let donor = committed(&[(1, START), (2, own.ends[0]), (3, end)], end);
    let Ok(CatchUp::Append { step, begin }) = acceptor.catch_up(&donor) else { panic!() };
    assert_eq!((begin, acceptor.term()), (own.ends[0], Term(9)));
    acceptor.durable(step.mark.unwrap());
    let rest = &whole.bytes[(begin - START) as usize..];
    assert!(
        acceptor.append_committed(&[rest, &[0; 8]].concat()).is_err(),
        "not past the commit LSN"
    );
    let half = rest.len() / 2;
    for piece in [&rest[..half], &rest[half..]] {
        let step = acceptor.append_committed(piece).unwrap();
        acceptor.durable(step.mark.unwrap());
    }
    assert_eq!((acceptor.flush_lsn(), acceptor.commit_lsn()), (end, end));
    assert_eq!(acceptor.state().term_history, history(&[(1, START), (2, own.ends[0])]));
    assert!(acceptor.append_committed(&[0; 8]).is_err(), "it is over");
    assert_eq!(acceptor.append_response(), None, "nobody is elected");
    assert_eq!(acceptor.catch_up(&donor), Ok(CatchUp::Nothing));

    // All of it was there: only that it is committed is news.
    let (mut acceptor, own) = with_records(3);
    let known = acceptor.catch_up(&committed(&[(1, START)], own.ends[1])).unwrap();
    assert!(matches!(known, CatchUp::Known(_)));
    assert_eq!(acceptor.commit_lsn(), own.ends[1]);

    // An elected proposer ends it.
    let (mut acceptor, own) = with_records(1);
    let donor = committed(&[(1, START)], end);
    assert!(matches!(acceptor.catch_up(&donor), Ok(CatchUp::Append { .. })));
    run(&mut acceptor, &elected(2, own.position(), &[(1, START), (2, own.position())]));
    assert!(acceptor.append_committed(&[0; 8]).is_err());
    // Terms that cannot have missed what is committed.
    assert!(acceptor.catch_up(&committed(&[(1, START)], end)).is_err());
}
