use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    relay: RelayArguments,
}

fn check(acceptors: &str, postgres: &str) -> Result<RelayOptions, OptionsError> {
    let id = "0123456789abcdef0123456789abcdef";
    let line = [
        "relay",
        "--postgres",
        postgres,
        "--tenant",
        id,
        "--timeline",
        id,
        "--acceptors",
        acceptors,
    ];
    Line::try_parse_from(line).unwrap().relay.check(&|_| None)
}

#[test]
fn a_whole_command_line() {
    let options = check("a:1,b:2,c:3", "host=db user=u application_name=quorum").unwrap();
    assert_eq!(options.addresses, ["a:1", "b:2", "c:3"]);
    assert_eq!(options.primary.application_name, "quorum");
    assert_eq!(options.primary.slot, "firn");
    let options = check("a:1", "user=u").unwrap();
    assert_eq!(options.primary.application_name, "firn");
}

#[test]
fn what_means_nothing_is_refused() {
    assert!(matches!(check("a:1,b:2,a:1", "user=u"), Err(OptionsError::Twice(_))));
    assert!(matches!(check("a", "user=u"), Err(OptionsError::Address(_))));
    assert!(matches!(check("a:0", "user=u"), Err(OptionsError::Address(_))));
    assert!(matches!(check("a:1", "nonsense"), Err(OptionsError::Conninfo(_))));
    let many: Vec<String> = (0..=MEMBERS_MAX).map(|n| format!("h{n}:1")).collect();
    let refused = check(&many.join(","), "user=u").unwrap_err();
    assert_eq!(refused, OptionsError::TooManyAcceptors { found: MEMBERS_MAX + 1 });
}
