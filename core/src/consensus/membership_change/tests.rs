use super::*;
use crate::consensus::acceptor::Acceptor;
use crate::consensus::change::Create;
use crate::consensus::state::TimelineState;
use crate::types::{PostgresVersion, SystemId, TimelineKey};

fn members(ids: &[u64]) -> Vec<Member> {
    let member = |&id| Member { id: NodeId(id), host: "127.0.0.1".to_string(), pg_port: 5454 };
    ids.iter().map(member).collect()
}

fn present(ids: &[u64]) -> Membership {
    Membership { generation: Generation(4), members: members(ids), new_members: None }
}

/// All of these say the same.
fn all_know(ids: &[u64], membership: &Membership) -> Known {
    ids.iter().map(|id| (NodeId(*id), Some(membership.clone()))).collect()
}

fn change(
    known: &Known,
    gone: &[u64],
    target: &[u64],
) -> Result<Option<MembershipChange>, MembershipChangeError> {
    let gone = gone.iter().map(|id| NodeId(*id)).collect();
    MembershipChange::begin(known, &gone, members(target))
}

fn begin(old: &[u64], new: &[u64]) -> MembershipChange {
    change(&all_know(old, &present(old)), &[], new).unwrap().unwrap()
}

fn set(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
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
    let mut known = all_know(&[1, 2], joint);
    known.insert(NodeId(4), Some(joint.clone()));
    let again = super::tests::change(&known, &[], &[4, 2, 1]).unwrap().unwrap();
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
fn only_whole_nodes_are_relied_on() {
    let told = r#"{"tenant_id":"11110000000000000000000000000004","timeline_id":"222200000000000000000000000000c1",
        "mconf":{"generation":1,"members":[]},"pg_info":{"pg_version":170008,"system_id":7,"wal_seg_size":16777216},
        "acceptor_state":{"term":7,"epoch":5,"term_history":[{"term":5,"lsn":"0/1000000"}]},
        "flush_lsn":"0/2000000","timeline_start_lsn":"0/1000000","local_start_lsn":"0/1000000","commit_lsn":"0/1800000"}"#;
    let mut status: TimelineStatus = serde_json::from_str(told).unwrap();
    // The term is the acceptor's, and may be above that of the log's last record; the log ends where it is durable.
    let log_end = LogEnd { last_log_term: Term(5), lsn: Lsn(0x200_0000) };
    assert_eq!(Standing::of(&status), Some(Standing { term: Term(7), log_end }));
    for standing in [StandingStatus::Suspect, StandingStatus::Seeding] {
        status.standing = standing;
        assert_eq!(Standing::of(&status), None, "{standing:?}");
    }
}

#[test]
fn a_change_is_complete_with_a_majority_of_the_new_members() {
    let change = begin(&[1, 2, 3], &[3, 4, 5]);
    assert!(!change.is_complete(&BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])));
    assert!(change.is_complete(&BTreeSet::from([NodeId(3), NodeId(5)])));
}

#[test]
fn what_cannot_begin_says_why() {
    let two = present(&[1, 2]);
    assert_eq!(change(&all_know(&[1, 2], &two), &[], &[2, 1]).unwrap(), None);
    let refused = |known: &Known, ids: &[u64]| change(known, &[], ids).unwrap_err();
    let on_push = all_know(&[1], &Membership::default());
    assert_eq!(refused(&on_push, &[1]), MembershipChangeError::NoMembership);
    assert_eq!(
        refused(&Known::from([(NodeId(1), None)]), &[1]),
        MembershipChangeError::NobodyHoldsIt
    );
    assert_eq!(refused(&all_know(&[1, 2], &two), &[]), MembershipChangeError::NoMembers);
    let joint = begin(&[1, 2, 3], &[1, 2, 4]).joint().clone();
    let target = set(&[1, 2, 4]);
    let known = all_know(&[1, 2, 4], &joint);
    assert_eq!(refused(&known, &[1, 2, 3]), MembershipChangeError::AnotherUnderWay { target });
}

#[test]
fn every_old_member_is_asked_before_a_change_begins() {
    let three = present(&[1, 2, 3]);
    let known = all_know(&[1, 2], &three);
    let silent = MembershipChangeError::Silent { nodes: set(&[3]) };
    assert_eq!(change(&known, &[], &[1, 2, 3, 4]), Err(silent));
    // Who is gone for good knows nothing any more, nor does who lost its disk.
    assert!(change(&known, &[3], &[1, 2, 3, 4]).unwrap().is_some());
    let lost = Known::from_iter(known.clone().into_iter().chain([(NodeId(3), None)]));
    assert!(change(&lost, &[], &[1, 2, 3, 4]).unwrap().is_some());
    // Who is removed may have been told of a change as anybody else.
    let silent = MembershipChangeError::Silent { nodes: set(&[3]) };
    assert_eq!(change(&known, &[], &[1, 2]), Err(silent));
    assert!(change(&known, &[3], &[1, 2]).unwrap().is_some());
    let few = MembershipChangeError::TooFew { holding: 1, members: set(&[1, 2, 3]) };
    assert_eq!(change(&all_know(&[1], &three), &[2, 3], &[1]), Err(few));
    // Of five two are lost: without a third nobody could decide among the other four.
    let mut known = all_know(&[1, 2, 5], &present(&[1, 2, 3, 4, 5]));
    known.extend([(NodeId(3), None), (NodeId(4), None)]);
    let few = MembershipChangeError::TooFewOfTarget { holding: 2, target: set(&[1, 2, 3, 4]) };
    assert_eq!(change(&known, &[], &[1, 2, 3, 4]), Err(few));
}

/// Otherwise it could vote with a log that lacks what the second switch relied on: it had caught up when that was made.
#[test]
fn an_added_node_that_lost_the_timeline_is_not_created_again() {
    let three = present(&[1, 2, 3]);
    let joint = begin(&[1, 2, 3], &[1, 2, 3, 4]).joint().clone();
    // Nobody but the added node has heard of the change, or not even that: it is made to hold the timeline.
    let mut known = all_know(&[1, 2, 3], &three);
    known.insert(NodeId(4), None);
    let fresh = change(&known, &[], &[1, 2, 3, 4]).unwrap().unwrap();
    assert_eq!((fresh.created(), fresh.lost()), (set(&[4]), &set(&[])));
    // What it holds from an earlier time is deleted first.
    let mut stale = known.clone();
    stale.insert(NodeId(4), Some(Membership { generation: Generation(2), ..three.clone() }));
    let again = change(&stale, &[], &[1, 2, 3, 4]).unwrap().unwrap();
    assert_eq!((again.stale(&stale), again.before()), (set(&[4]), three.clone()));
    assert_eq!(again.stale(&known), set(&[]));
    // One old member has.
    known.insert(NodeId(3), Some(joint.clone()));
    let again = change(&known, &[], &[1, 2, 3, 4]).unwrap().unwrap();
    assert_eq!((again.created(), again.lost()), (set(&[]), &set(&[4])));
    // The change is completed by a majority of the others.
    let goal = again.goal(&standings(&[(1, 2, 2, 100), (2, 2, 2, 90), (3, 2, 2, 90)])).unwrap();
    let at_goal =
        |ids: &[u64]| standings(&ids.iter().map(|id| (*id, 2, 2, 100)).collect::<Vec<_>>());
    assert!(!again.has_caught_up(goal, &at_goal(&[1, 2])));
    assert!(again.has_caught_up(goal, &at_goal(&[1, 2, 3])));
    // The same of one that is gone for good.
    known.remove(&NodeId(4));
    assert_eq!(change(&known, &[4], &[1, 2, 3, 4]).unwrap().unwrap().lost(), &set(&[4]));
}

/// Otherwise a proposer could learn of it there and tell old members, while another change of the same generation begins.
#[test]
fn an_added_node_knows_nothing_of_the_change_before_the_old_members_do() {
    let three = present(&[1, 2, 3]);
    let mut known = all_know(&[1, 2, 3], &three);
    known.insert(NodeId(4), None);
    let given_up = change(&known, &[], &[1, 2, 3, 4]).unwrap().unwrap();
    assert_eq!((given_up.missing(&known), given_up.before()), (set(&[4]), three.clone()));
    assert_eq!(given_up.old(), set(&[1, 2, 3]));

    // What it holds says nothing of a change, and serves the next one.
    let state = TimelineState::create(&Create {
        membership: given_up.before(),
        postgres_version: PostgresVersion(170_004),
        system_id: SystemId(7),
        segment_size_bytes: 16 << 20,
        start_lsn: Lsn(0x100_0000),
        commit_lsn: Lsn(0x100_0000),
    });
    let mut acceptor = Acceptor::new(TimelineKey::default(), NodeId(4), state);
    known.insert(NodeId(4), Some(acceptor.state().membership.clone()));
    assert_eq!(MembershipChange::newest(&known), Ok(&three));
    let next = change(&known, &[], &[1, 2, 4]).unwrap().unwrap();
    assert_eq!((next.missing(&known), next.stale(&known)), (set(&[]), set(&[])));
    assert_eq!(next.created(), set(&[4]));
    acceptor.switch_membership(next.joint()).unwrap();
    assert_eq!(&acceptor.state().membership, next.joint());
}

#[test]
fn an_added_node_that_follows_another_change_is_not_waited_for() {
    let three = present(&[1, 2, 3]);
    let joint = |target: &[u64]| begin(&[1, 2, 3], target).joint().clone();
    let (other, ours) = (joint(&[1, 2, 3, 4]), joint(&[2, 3, 4]));
    let mut known = all_know(&[2, 3], &ours);
    known.extend([(NodeId(1), Some(three)), (NodeId(4), Some(other))]);
    let change = change(&known, &[], &[2, 3, 4]).unwrap().unwrap();
    assert_eq!((change.joint(), change.created(), change.lost()), (&ours, set(&[]), &set(&[])));
    let goal = change.goal(&standings(&[(2, 2, 2, 100), (3, 2, 2, 90)])).unwrap();
    assert!(change.has_caught_up(goal, &standings(&[(2, 2, 2, 100), (3, 2, 2, 100)])));
}

#[test]
fn of_two_changes_begun_at_once_one_is_gone_on_with() {
    let four = present(&[1, 2, 3, 4]);
    let joint = |target: &[u64]| {
        change(&all_know(&[1, 2, 3, 4], &four), &[], target).unwrap().unwrap().joint().clone()
    };
    let (one, other) = (joint(&[1, 2, 3, 4, 5]), joint(&[1, 2, 3]));
    let known = |list: &[(u64, &Membership)]| -> Known {
        list.iter().map(|(id, membership)| (NodeId(*id), Some((*membership).clone()))).collect()
    };
    // Three can still take the first, three can take the other: more did take the first.
    let free = known(&[(1, &one), (2, &one), (3, &other), (4, &four)]);
    assert_eq!(change(&free, &[], &[1, 2, 3, 4, 5]).unwrap().unwrap().joint(), &one);
    assert_eq!(MembershipChange::under_way(&free), Ok(members(&[1, 2, 3, 4, 5])));
    let other_is_last = known(&[(1, &one), (2, &one), (3, &four), (4, &other)]);
    assert_eq!(MembershipChange::under_way(&other_is_last), Ok(members(&[1, 2, 3, 4, 5])));
    let target = set(&[1, 2, 3, 4, 5]);
    assert_eq!(
        change(&free, &[], &[1, 2, 3]),
        Err(MembershipChangeError::AnotherUnderWay { target })
    );
    // Nobody ever gets three of four: a third change begins, of a generation that neither had.
    let tie = known(&[(1, &one), (2, &one), (3, &other), (4, &other)]);
    let third = change(&tie, &[], &[1, 2, 3]).unwrap().unwrap();
    assert_eq!((third.joint().generation, third.done().generation), (Generation(6), Generation(7)));
    assert_eq!(third.joint().members, four.members);
    // With the fourth's answer missing, the first may have had three and been completed.
    let lost = known(&[(1, &one), (2, &one), (3, &other)]);
    let undecided =
        MembershipChangeError::Undecided { generation: Generation(5), unknown: set(&[4]) };
    assert_eq!(change(&lost, &[4], &[1, 2, 3]), Err(undecided));
}
