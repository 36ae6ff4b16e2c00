use super::*;

fn history(entries: &[(u64, u64)]) -> TermHistory {
    let start = |&(term, lsn)| TermStart { term: Term(term), lsn: Lsn(lsn) };
    TermHistory(entries.iter().map(start).collect())
}

fn common(own: &[(u64, u64)], end: u64, proposer: &[(u64, u64)]) -> Option<Lsn> {
    history(own).common_prefix_end(Lsn(end), &history(proposer)).unwrap()
}

#[test]
fn logs_part_where_the_first_of_them_leaves_the_last_common_term() {
    assert_eq!(common(&[], 0, &[(1, 10)]), None);
    assert_eq!(common(&[(1, 10)], 30, &[(2, 10)]), None);
    // The proposer continues the acceptor's last term, or goes on behind it.
    assert_eq!(common(&[(1, 10)], 30, &[(1, 10)]), Some(Lsn(30)));
    assert_eq!(common(&[(1, 10)], 30, &[(1, 10), (2, 30)]), Some(Lsn(30)));
    // The acceptor has a tail of term 1 that the proposer never saw.
    assert_eq!(common(&[(1, 10)], 30, &[(1, 10), (2, 20)]), Some(Lsn(20)));
    // The acceptor went on under term 2, the proposer under term 3.
    assert_eq!(common(&[(1, 10), (2, 20)], 30, &[(1, 10), (3, 25)]), Some(Lsn(20)));
    assert_eq!(common(&[(1, 10), (2, 25)], 30, &[(1, 10), (3, 20)]), Some(Lsn(20)));
}

#[test]
fn one_term_with_two_starts_is_a_contradiction() {
    let error = history(&[(1, 10)]).common_prefix_end(Lsn(30), &history(&[(1, 11)]));
    assert!(matches!(error, Err(TermHistoryError::Contradiction { .. })));
}

#[test]
fn order_and_bound_are_checked() {
    assert_eq!(history(&[(1, 10), (2, 10), (5, 30)]).validate(), Ok(()));
    assert!(history(&[(1, 10), (1, 20)]).validate().is_err());
    assert!(history(&[(1, 10), (2, 9)]).validate().is_err());
    let long: Vec<_> = (0..=TERMS_MAX as u64).map(|term| (term, 1)).collect();
    assert_eq!(history(&long).validate(), Err(TermHistoryError::TooLong { found: TERMS_MAX + 1 }));
}

#[test]
fn a_cut_log_forgets_later_terms_only() {
    let cut = history(&[(1, 10), (2, 20), (3, 30)]).cut_at(Lsn(20));
    assert_eq!(cut, history(&[(1, 10), (2, 20)]));
    assert_eq!(cut.last_term(), Term(2));
}
