use super::*;

fn members(ids: &[u64]) -> Vec<Member> {
    let member = |&id| Member { id: NodeId(id), host: "127.0.0.1".to_string(), pg_port: 5454 };
    ids.iter().map(member).collect()
}

fn membership(old: &[u64], new: Option<&[u64]>) -> Membership {
    Membership { generation: Generation(1), members: members(old), new_members: new.map(members) }
}

#[test]
fn a_quorum_is_a_majority_of_each_list() {
    let three = membership(&[1, 2, 3], None);
    assert!(three.is_quorum(|id| id != NodeId(1)));
    assert!(!three.is_quorum(|id| id == NodeId(1)));
    let joint = membership(&[1, 2, 3], Some(&[3, 4, 5]));
    assert!(!joint.is_quorum(|id| id.0 <= 3));
    assert!(!joint.is_quorum(|id| id.0 >= 3));
    assert!(joint.is_quorum(|id| [2, 3, 4].contains(&id.0)));
    assert!(!membership(&[], None).is_quorum(|_| true));
}

#[test]
fn quorum_lsn_is_what_a_majority_of_each_list_has() {
    let lsn = |id: NodeId| Lsn(id.0 * 10);
    assert_eq!(membership(&[1, 2, 3], None).quorum_lsn(lsn), Lsn(20));
    assert_eq!(membership(&[1, 2, 3, 4], None).quorum_lsn(lsn), Lsn(20));
    assert_eq!(membership(&[1, 2, 3], Some(&[7, 8, 9])).quorum_lsn(lsn), Lsn(20));
    assert_eq!(membership(&[7, 8, 9], Some(&[1, 2, 3])).quorum_lsn(lsn), Lsn(20));
    assert_eq!(membership(&[], None).quorum_lsn(lsn), Lsn::INVALID);
}

/// The claim of `is_quorum_of_others`, for every set of others and every quorum.
#[test]
fn a_quorum_of_others_meets_every_quorum_elsewhere() {
    let lists: [(&[u64], Option<&[u64]>); 8] = [
        (&[1], None),
        (&[1, 2], None),
        (&[1, 2, 3], None),
        (&[1, 2, 3, 4], None),
        (&[1, 2, 3, 4, 5], None),
        (&[1, 2, 3], Some(&[1, 2, 3, 4])),
        (&[1, 2, 3, 4], Some(&[2, 3, 4])),
        (&[1, 2, 3], Some(&[4, 5])),
    ];
    let absent = NodeId(1);
    for (members, new_members) in lists {
        let membership = membership(members, new_members);
        let sets = || (0u64..32).map(|set| move |id: NodeId| set & 1 << (id.0 - 1) != 0);
        let others = |set: u64| move |id: NodeId| id != absent && set & 1 << (id.0 - 1) != 0;
        let mut found = 0;
        for set in (0u64..32).filter(|set| membership.is_quorum_of_others(absent, others(*set))) {
            found += 1;
            for quorum in sets().filter(|quorum| membership.is_quorum(quorum)) {
                let meets = |id: u64| quorum(NodeId(id)) && others(set)(NodeId(id));
                assert!((1..=5).any(meets), "{members:?} {new_members:?} {set:b}");
            }
        }
        assert_eq!(found == 0, members.len() == 1, "{members:?} {new_members:?}");
    }
    let three = membership(&[1, 2, 3], None);
    assert!(!three.is_quorum_of_others(absent, |id| id == NodeId(2)));
    assert!(three.is_quorum_of_others(absent, |id| id != absent));
}

#[test]
fn impossible_memberships_are_refused() {
    assert_eq!(membership(&[1, 2], Some(&[2, 3])).validate(), Ok(()));
    assert_eq!(Membership::default().validate(), Ok(()));
    let refused = |membership: Membership| membership.validate().expect_err("must be refused");
    refused(membership(&[], None));
    refused(membership(&[1], Some(&[])));
    refused(membership(&[1, 1], None));
    refused(membership(&[0], None));
    refused(membership(&(1..40).collect::<Vec<_>>(), None));
    let mut long = membership(&[1], None);
    long.members[0].host = "x".repeat(300);
    refused(long);
}
