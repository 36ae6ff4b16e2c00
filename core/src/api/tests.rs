use crate::api::*;

#[test]
fn a_recorded_create_and_status_keep_their_shape() {
    let create = r#"{"tenant_id":"11110000000000000000000000000005","timeline_id":"22220000000000000000000000000507","mconf":{"generation":1,"members":[{"id":1,"host":"127.0.0.1","pg_port":5454}],"new_members":null},"pg_version":170008,"system_id":7710950279726454714,"wal_seg_size":16777216,"start_lsn":"0/14EC3C8","commit_lsn":null}"#;
    let parsed: CreateTimeline = serde_json::from_str(create).unwrap();
    assert_eq!(serde_json::to_string(&parsed).unwrap(), create);

    let status = r#"{"tenant_id":"11110000000000000000000000000004","timeline_id":"222200000000000000000000000000c1","mconf":{"generation":0,"members":[],"new_members":null},"acceptor_state":{"term":0,"epoch":0,"term_history":[{"term":0,"lsn":"0/14EC3C8"}]},"pg_info":{"pg_version":170008,"system_id":7710950279726454714,"wal_seg_size":16777216},"flush_lsn":"0/14EC3C8","timeline_start_lsn":"0/14EC3C8","local_start_lsn":"0/14EC3C8","commit_lsn":"0/14EC3C8","backup_lsn":"0/14EC3C8","peer_horizon_lsn":"0/14EC3C8","remote_consistent_lsn":"0/0","peers":[],"walsenders":[],"walreceivers":[]}"#;
    let parsed: TimelineStatus = serde_json::from_str(status).unwrap();
    // Ours tells its standing too.
    let ours = status.replace(r#""peers":"#, r#""standing":"whole","peers":"#);
    assert_eq!(serde_json::to_string(&parsed).unwrap(), ours);
}

#[test]
fn absent_optional_fields_are_taken_as_absent() {
    let body = r#"{"tenant_id":"11110000000000000000000000000005","timeline_id":"22220000000000000000000000000507","mconf":{"generation":1,"members":[]},"pg_version":0,"start_lsn":"0/1000000"}"#;
    let create: CreateTimeline = serde_json::from_str(body).unwrap();
    assert_eq!((create.system_id, create.wal_seg_size, create.commit_lsn), (None, None, None));
    assert_eq!(serde_json::from_str::<TermBump>("{}").unwrap(), TermBump { term: None });
    assert_eq!(
        serde_json::to_string(&NodeStatus { id: NodeId(7), pg_host: None, pg_port: None }).unwrap(),
        r#"{"id":7}"#
    );
}
