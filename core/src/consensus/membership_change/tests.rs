use super::*;

fn members(ids: &[u64]) -> Vec<Member> {
    let member = |&id| Member { id: NodeId(id), host: "127.0.0.1".to_string(), pg_port: 5454 };
    ids.iter().map(member).collect()
}

fn present(ids: &[u64]) -> Membership {
    Membership { generation: Generation(4), members: members(ids), new_members: None }
}

fn begin(old: &[u64], new: &[u64]) -> MembershipChange {
    MembershipChange::begin(&present(old), members(new)).unwrap().unwrap()
}

/// Of (node, term, last log term, end of the log).
fn standings(list: &[(u64, u64, u64, u64)]) -> BTreeMap<NodeId, Standing> {
    let standing = |&(id, term, last_log_term, lsn)| {
        let log_end = LogEnd { last_log_term: Term(last_log_term), lsn: Lsn(lsn) };
        (NodeId(id), Standing { term: Term(term), log_end })
    };
    list.iter().map(standing).collect()
}

#[test]
fn a_replacement_goes_over_a_joint_membership() {
    let change = begin(&[1, 2, 3], &[1, 2, 4]);
    let (joint, done) = (change.joint(), change.done());
    assert_eq!((joint.generation, done.generation), (Generation(5), Generation(6)));
    assert_eq!(
        (&joint.members, &joint.new_members),
        (&members(&[1, 2, 3]), &Some(done.members.clone()))
    );
    assert_eq!((&done.members, &done.new_members), (&members(&[1, 2, 4]), &None));
    assert_eq!(change.added(), BTreeSet::from([NodeId(4)]));
    // Interrupted behind the first switch, it goes on with the same generations.
    let again = MembershipChange::begin(joint, members(&[4, 2, 1])).unwrap().unwrap();
    assert_eq!((again.joint(), again.done().generation), (joint, Generation(6)));
}

#[test]
fn the_goal_is_the_most_advanced_log_and_the_highest_term_of_a_majority_of_the_old_members() {
    let change = begin(&[1, 2, 3], &[3, 4, 5]);
    let few = standings(&[(3, 2, 2, 100), (4, 9, 9, 900), (5, 9, 9, 900)]);
    assert_eq!(change.goal(&few), None);
    let goal = change.goal(&standings(&[(2, 3, 3, 80), (3, 7, 2, 100), (4, 9, 9, 900)])).unwrap();
    let log_end = LogEnd { last_log_term: Term(3), lsn: Lsn(80) };
    assert_eq!(goal, Standing { term: Term(7), log_end });
    let caught_up = |list: &[_]| change.has_caught_up(goal, &standings(list));
    // A longer log of an older term may lack what the younger term committed.
    assert!(!caught_up(&[(3, 7, 2, 100), (4, 7, 3, 80), (5, 7, 3, 79)]));
    assert!(caught_up(&[(3, 7, 2, 100), (4, 7, 3, 80), (5, 8, 4, 85)]));
    // Every added member has it, however many others do.
    assert!(!caught_up(&[(3, 7, 3, 80), (4, 7, 3, 80)]));
}

#[test]
fn nobody_wins_a_term_anew_among_the_new_members() {
    let change = begin(&[1, 2, 3], &[2, 3, 4]);
    // Node 3 voted in term 7, and who won it may not have been heard of yet.
    let goal = change.goal(&standings(&[(2, 6, 6, 80), (3, 7, 6, 80)])).unwrap();
    let low = standings(&[(2, 6, 6, 80), (3, 7, 6, 80), (4, 6, 6, 80)]);
    assert!(!change.has_caught_up(goal, &low));
    assert!(change.has_caught_up(goal, &standings(&[(3, 7, 6, 80), (4, 7, 6, 80)])));
}

#[test]
fn a_change_is_complete_with_a_majority_of_the_new_members() {
    let change = begin(&[1, 2, 3], &[3, 4, 5]);
    assert!(!change.is_complete(&BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])));
    assert!(change.is_complete(&BTreeSet::from([NodeId(3), NodeId(5)])));
}

#[test]
fn what_cannot_begin_says_why() {
    let nothing = MembershipChange::begin(&present(&[1, 2]), members(&[2, 1])).unwrap();
    assert_eq!(nothing, None);
    let refused = |present: &Membership, ids: &[u64]| {
        MembershipChange::begin(present, members(ids)).unwrap_err()
    };
    assert_eq!(refused(&Membership::default(), &[1]), MembershipChangeError::NoMembership);
    assert_eq!(refused(&present(&[1]), &[]), MembershipChangeError::NoMembers);
    let joint = begin(&[1, 2, 3], &[1, 2, 4]).joint().clone();
    let target = BTreeSet::from([NodeId(1), NodeId(2), NodeId(4)]);
    assert_eq!(refused(&joint, &[1, 2, 3]), MembershipChangeError::AnotherUnderWay { target });
}
