use super::*;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Conninfo, ConninfoError> {
    let lookup = |name: &str| {
        environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
    };
    Conninfo::parse(text, &lookup)
}

fn server(host: &str, port: u16) -> ServerAddress {
    ServerAddress { host: host.to_string(), host_address: None, port }
}

#[test]
fn key_value_form_with_quotes_and_escapes() {
    let conninfo = parse(
        r"host=db.example port = 5433 user='re\'play er' password=a\ b\\c application_name=firn",
        &[],
    )
    .unwrap();
    assert_eq!(conninfo.servers, [server("db.example", 5433)]);
    assert_eq!(conninfo.user, "re'play er");
    assert_eq!(conninfo.password.as_deref(), Some(r"a b\c"));
    assert_eq!(conninfo.application_name.as_deref(), Some("firn"));
    assert_eq!(conninfo.ssl_mode, SslMode::Prefer);
}

#[test]
fn uri_form() {
    let conninfo = parse(
        "postgresql://re%40play:p%3aw@one:5433,[::1]:5434,three/app?sslmode=verify-full&connect_timeout=3",
        &[],
    )
    .unwrap();
    assert_eq!(conninfo.servers, [server("one", 5433), server("::1", 5434), server("three", 5432)]);
    assert_eq!(conninfo.user, "re@play");
    assert_eq!(conninfo.password.as_deref(), Some("p:w"));
    assert_eq!(conninfo.database.as_deref(), Some("app"));
    assert_eq!(conninfo.ssl_mode, SslMode::VerifyFull);
    assert_eq!(conninfo.connect_timeout, Duration::from_secs(3));
}

#[test]
fn uri_without_host_takes_the_environment() {
    let environment = [("PGHOST", "/run/postgresql"), ("PGPORT", "5439"), ("USER", "alice")];
    let conninfo = parse("postgres://", &environment).unwrap();
    assert_eq!(conninfo.servers, [server("/run/postgresql", 5439)]);
    assert_eq!(conninfo.user, "alice");
}

#[test]
fn the_string_wins_over_the_environment() {
    let environment = [("PGHOST", "other"), ("PGUSER", "bob"), ("HOME", "/home/alice")];
    let conninfo = parse("host=one,two user=alice", &environment).unwrap();
    assert_eq!(conninfo.servers, [server("one", 5432), server("two", 5432)]);
    assert_eq!(conninfo.user, "alice");
    assert_eq!(conninfo.passfile.unwrap().to_str(), Some("/home/alice/.pgpass"));
}

#[test]
fn bad_strings_are_refused_with_the_reason() {
    for (text, reason) in [
        ("host", "no \"=\" after \"host\""),
        ("host=a shoesize=44", "\"shoesize\" is not supported"),
        ("host=a port=0", "port is \"0\""),
        ("host=a,b port=1,2,3", "different numbers of servers"),
        ("host='a", "does not end"),
        ("host=a sslmode=maybe", "sslmode is \"maybe\""),
        ("host=a sslcert=/x", "together"),
        ("postgres://u%4/", "percent escape"),
        ("postgres://[::1/", "does not end with \"]\""),
    ] {
        let error = parse(text, &[("USER", "alice")]).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert!(parse("host=a", &[]).unwrap_err().to_string().contains("names no user"));
}

#[test]
fn debug_output_hides_the_password() {
    let conninfo = parse("user=u password=secret", &[]).unwrap();
    assert!(!format!("{conninfo:?}").contains("secret"));
}

#[test]
fn password_file_lines_match_in_order() {
    let content = "# comment\n\
        other:*:*:*:wrong\n\
        db\\:1:5432:replication:alice:r\\:1\n\
        *:*:*:alice:any\n";
    let find = |host: &str, user| {
        password_from_file(content, &server(host, 5432), &["replication", "app"], user)
    };
    assert_eq!(find("db:1", "alice").as_deref(), Some("r:1"));
    assert_eq!(find("elsewhere", "alice").as_deref(), Some("any"));
    assert_eq!(find("elsewhere", "bob"), None);
}
