use super::*;

fn parse(text: &str) -> Option<(usize, Vec<String>)> {
    SynchronousNames::parse(text).unwrap().map(|names| (names.count, names.names))
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| name.to_string()).collect()
}

#[test]
fn every_form_of_the_setting() {
    assert_eq!(parse(""), None);
    assert_eq!(parse("  "), None);
    assert_eq!(parse("firn"), Some((1, names(&["firn"]))));
    assert_eq!(parse("*"), Some((1, names(&["*"]))));
    assert_eq!(parse("a, b"), Some((1, names(&["a", "b"]))));
    assert_eq!(parse("2 (a,b ,c)"), Some((2, names(&["a", "b", "c"]))));
    assert_eq!(parse("FIRST 1 (a)"), Some((1, names(&["a"]))));
    assert_eq!(parse("any 2(a,\"b, \"\"c\")"), Some((2, names(&["a", "b, \"c"]))));
    assert_eq!(parse("first"), Some((1, names(&["first"]))));
}

#[test]
fn what_postgres_would_not_take_is_refused() {
    for text in ["a,", ",a", "a b", "FIRST 0 (a)", "2 (a", "\"a", "()", "1 ()"] {
        assert!(SynchronousNames::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn the_relay_alone_is_strong() {
    for text in ["firn", "FIRN", "FIRST 1 (firn)", "ANY 2 (firn, other)", "\"firn\""] {
        assert_eq!(check(text, "on", "firn", &names(&["other"])), Ok(vec![]), "{text:?}");
    }
}

#[test]
fn weak_settings_are_named() {
    let check = |text: &str, others: &[&str]| check(text, "on", "firn", &names(others)).unwrap();
    assert_eq!(check("", &[]), [Weakness::Unset]);
    assert_eq!(check("other", &["other"]), [Weakness::NotNamed]);
    assert_eq!(check("firn, other", &[]), [Weakness::OthersListed(names(&["other"]))]);
    assert_eq!(
        check("*", &["pg_receivewal"]),
        [
            Weakness::OthersListed(names(&["*"])),
            Weakness::OtherConnected("pg_receivewal".to_string())
        ]
    );
    assert_eq!(check("firn", &["firn"]), [Weakness::OtherConnected("firn".to_string())]);
    let found = super::check("firn", "local", "firn", &[]).unwrap();
    assert_eq!(found, [Weakness::CommitSetting("local".to_string())]);
}
