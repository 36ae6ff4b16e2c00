use super::*;

fn start(slot: Option<&str>, timeline: Option<u32>, term: Option<u64>) -> Option<StartReplication> {
    Some(StartReplication {
        slot: slot.map(str::to_string),
        start: Lsn(0x160_0000),
        timeline: timeline.map(PostgresTimeline),
        term: term.map(Term),
    })
}

#[test]
fn every_form_of_a_start() {
    let parse = |text| parse_start(text);
    assert_eq!(parse(" PHYSICAL 0/1600000"), start(None, None, None));
    assert_eq!(parse(" 0/1600000 TIMELINE 7"), start(None, Some(7), None));
    assert_eq!(parse(" SLOT \"a_1\" 0/1600000 TIMELINE 1"), start(Some("a_1"), Some(1), None));
    assert_eq!(
        parse(" SLOT a_1 PHYSICAL 0/01600000 TIMELINE 1"),
        start(Some("a_1"), Some(1), None)
    );
    assert_eq!(parse(" PHYSICAL 0/1600000 (term='17')"), start(None, None, Some(17)));
    assert_eq!(parse(" 0/1600000;"), start(None, None, None));
    for wrong in [
        "",
        " PHYSICAL",
        " SLOT x",
        " SLOT 'x' 0/1600000",
        " SLOT \"x 0/1600000",
        " SLOT \"X\" 0/1600000",
        " SLOT \"\" 0/1600000",
        " LOGICAL 0/1600000",
        " 0/zz",
        " 0/1600000 TIMELINE",
        " 0/1600000 TIMELINE 0",
        " 0/1600000 TIMELINE 5000000000",
        " 0/1600000 (term=17)",
        " 0/1600000 (term='x')",
        " 0/1600000 (colour='17')",
    ] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
    assert_eq!(parse(&format!(" SLOT {} 0/1", "a".repeat(64))), None);
}

#[test]
fn questions() {
    let parse = |text| parse_question(text);
    let slot = |temporary| Ok(Question::CreateSlot { name: "x".to_string(), temporary });
    assert_eq!(parse("CREATE_REPLICATION_SLOT \"x\" PHYSICAL (RESERVE_WAL)"), slot(false));
    assert_eq!(parse("CREATE_REPLICATION_SLOT \"x\" TEMPORARY PHYSICAL"), slot(true));
    assert_eq!(parse("CREATE_REPLICATION_SLOT x PHYSICAL RESERVE_WAL;"), slot(false));
    let logical = "CREATE_REPLICATION_SLOT \"x\" LOGICAL pgoutput";
    assert_eq!(parse(logical), Err(CommandError::LogicalSlot));
    assert_eq!(parse("READ_REPLICATION_SLOT x"), Ok(Question::ReadSlot("x".to_string())));
    assert_eq!(parse("DROP_REPLICATION_SLOT x WAIT"), Ok(Question::DropSlot("x".to_string())));
    assert_eq!(parse("SHOW WAL_segment_size;"), Ok(Question::Show("wal_segment_size".to_string())));
    let history = Question::TimelineHistory(PostgresTimeline(12));
    assert_eq!(parse("TIMELINE_HISTORY 12"), Ok(history));
    for wrong in [
        "SHOW",
        "SHOW 'x'",
        "TIMELINE_HISTORY -1",
        "READ_REPLICATION_SLOT",
        "CREATE_REPLICATION_SLOT x",
        "CREATE_REPLICATION_SLOT x TEMPORARY",
    ] {
        assert!(matches!(parse(wrong), Err(CommandError::Malformed { .. })), "{wrong}");
    }
    assert!(matches!(parse("SHOWN x"), Err(CommandError::Unsupported(_))));
}
