use firn_core::consensus::postgres_history::PostgresSwitch;
use firn_core::types::{Lsn, PostgresTimeline};

use super::*;

fn push(protocol_version: u32, allow_timeline_creation: bool) -> Result<Command, CommandError> {
    Ok(Command::StartWalPush { protocol_version, allow_timeline_creation })
}

#[test]
fn push_options() {
    assert_eq!(parse("START_WAL_PUSH"), push(2, true));
    assert_eq!(
        parse("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false')"),
        push(3, false)
    );
    assert_eq!(parse("START_WAL_PUSH (proto_version '9', colour 'x')"), push(9, true));
    assert!(parse("START_WAL_PUSH (proto_version 'x')").is_err());
    assert!(parse("START_WAL_PUSH (proto_version 3)").is_err());
}

#[test]
fn commands_of_stock_clients() {
    let show = Question::Show("wal_segment_size".to_string());
    assert_eq!(parse("SHOW wal_segment_size"), Ok(Command::Walsender(show)));
    assert_eq!(parse("IDENTIFY_SYSTEM"), Ok(Command::IdentifySystem));
    let parsed = parse("START_REPLICATION SLOT \"x\" 0/1600000 TIMELINE 1");
    let Ok(Command::StartReplication(start)) = parsed else { panic!("{parsed:?}") };
    assert_eq!((start.start, start.slot.as_deref()), (Lsn(0x160_0000), Some("x")));
}

#[test]
fn a_history_comes_back() {
    let switch =
        |timeline, lsn| PostgresSwitch { timeline: PostgresTimeline(timeline), lsn: Lsn(lsn) };
    let history = PostgresHistory(vec![switch(1, 0), switch(3, 0x200_0100)]);
    let text = set_postgres_history(Term(5), &history);
    assert_eq!(
        text,
        r#"SET_POSTGRES_HISTORY (term='5') [{"timeline":1,"lsn":"0/0"},{"timeline":3,"lsn":"0/2000100"}]"#
    );
    assert_eq!(parse(&text), Ok(Command::SetPostgresHistory { term: Term(5), history }));
    assert!(parse("SET_POSTGRES_HISTORY (term='5') [{}]").is_err());
}

#[test]
fn what_is_not_understood_is_repeated() {
    let error = |text| parse(text).unwrap_err().to_string();
    assert_eq!(error("identify_system"), "unsupported command identify_system");
    assert_eq!(error(""), "unsupported command ");
    assert_eq!(error("START_WAL"), "unsupported command START_WAL");
    assert_eq!(
        error("START_REPLICATION PHYSICAL zzz"),
        "failed to parse START_REPLICATION command START_REPLICATION PHYSICAL zzz"
    );
    assert_eq!(error(&"ä".repeat(1000)).len(), "unsupported command ".len() + 256);
    assert_eq!(parse("SET DateStyle TO iso"), Ok(Command::SetDatestyle));
}

proptest::proptest! {
    #[test]
    fn hostile_text_is_a_value(text in "\\PC*") {
        let _ = parse(&text);
        let _ = parse(&format!("START_WAL_PUSH{text}"));
        for command in [
            "START_REPLICATION",
            "SHOW ",
            "TIMELINE_HISTORY ",
            "READ_REPLICATION_SLOT ",
            "CREATE_REPLICATION_SLOT ",
        ] {
            let _ = parse(&format!("{command}{text}"));
        }
    }
}
