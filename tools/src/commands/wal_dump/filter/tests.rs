use super::{fork, relation, resource_manager};
use firn_core::postgres::wal::{Fork, RelationId};

#[test]
fn names_are_those_of_pg_waldump() {
    assert_eq!(resource_manager("Heap2"), Ok(9));
    assert_eq!(resource_manager("btree"), Ok(11));
    assert_eq!(resource_manager("custom200"), Ok(200));
    assert!(resource_manager("list").is_err());
    assert_eq!(fork("vm"), Ok(Fork::VisibilityMap));
    assert!(fork("VM").is_err());
    let expected = RelationId { tablespace: 1663, database: 5, number: 16384 };
    assert_eq!(relation("1663/5/16384"), Ok(expected));
    for wrong in ["1663/5", "1663/5/0", "1663/5/1/2", "a/b/c", ""] {
        assert!(relation(wrong).is_err(), "{wrong}");
    }
}
