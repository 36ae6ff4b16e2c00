//! `firn` as people and scripts meet it: JSON, help, and everything that they get wrong, which has one clear line, the right
//! exit status, and never a panic.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use firn_tests::certificates::make_ed25519_key;
use firn_tests::local::node::{NodeOptions, NodeProcess};
use firn_tests::local::process::{built_program, free_port};

const ID: &str = "11110000000000000000000000000001";
const OTHER_ID: &str = "22220000000000000000000000000002";

/// Exit status of what failed.
const FAILED: i32 = 1;
/// Exit status of a command line that is not understood.
const USAGE: i32 = 2;
/// Exit status of `wal fetch` that could ask nobody.
const NOBODY: i32 = 200;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(built_program("firn").unwrap());
    let variables = ["FIRN_NODES", "FIRN_TOKEN", "FIRN_TENANT", "FIRN_TIMELINE"];
    for name in variables {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

/// Fails with this status and says these words in one line that begins with `firn: `; what else it says are lines of the
/// same form, one for each node that was asked before.
fn fails(arguments: &[&str], status: i32, words: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(said.lines().all(|line| line.starts_with("firn: ")), "{arguments:?}:\n{said}");
    for word in words {
        assert!(last.contains(word), "{arguments:?}: {word:?} is not in:\n{said}");
    }
    said
}

/// Is not understood: clap's own form, which names what is wrong.
fn not_understood(arguments: &[&str], words: &[&str]) {
    let output = run(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(USAGE), "{arguments:?}: {said}");
    let first = said.lines().next().unwrap_or_default();
    assert!(first.starts_with("error: ") && !said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: {word:?} is not in:\n{said}");
    }
}

/// Every command that is about one timeline, with the arguments that it needs besides nodes and ids.
fn timeline_commands(folder: &Path) -> Vec<Vec<String>> {
    let path = |name: &str| folder.join(name).display().to_string();
    let base = path("base");
    fs::create_dir_all(folder.join("base/pg_tblspc")).unwrap();
    fs::write(folder.join("base/PG_VERSION"), "15").unwrap();
    let (to, file) = (path("to"), path("file"));
    let lines: [&[&str]; 9] = [
        &["timeline", "show"],
        &["timeline", "fence"],
        &["timeline", "rebuild", "--base", &base, "--to", &to],
        &["timeline", "members", "add", "--node", "127.0.0.1:1"],
        &["timeline", "members", "remove", "--node-id", "7"],
        &["timeline", "members", "finish"],
        &["timeline", "delete", "--yes"],
        &["wal", "dump"],
        &["postgres", "run", "--base", &base, "--to", &to],
    ];
    let fetch: &[&str] = &["wal", "fetch", "000000010000000000000001", &file];
    let lines = lines.into_iter().chain([fetch]);
    lines.map(|line| line.iter().map(ToString::to_string).collect()).collect()
}

fn with<'a>(line: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    // Names of files come last, and `wal fetch` has some.
    let words = line.iter().take_while(|word| *word != "fetch").count() + 1;
    let (head, tail) = line.split_at(words.min(line.len()));
    head.iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .chain(tail.iter().map(String::as_str))
        .collect()
}

fn start_node(folder: &Path, arguments: &[&str]) -> NodeProcess {
    let arguments = arguments.iter().map(ToString::to_string).collect();
    let options = NodeOptions { shards: Some(1), volatile: true, arguments };
    let mut node = NodeProcess::new("node", &folder.join("node"), options).unwrap();
    node.start().unwrap();
    node
}

#[test]
fn ids_that_are_none_are_not_understood() {
    let folder = tempfile::tempdir().unwrap();
    for line in timeline_commands(folder.path()) {
        for (tenant, timeline, word) in [
            ("xyz", ID, "xyz"),
            (ID, "1234", "1234"),
            ("", ID, "--tenant"),
            (ID, "ffffffffffffffffffffffffffffffffff", "ffff"),
        ] {
            let ids = ["--nodes", "127.0.0.1:1", "--tenant", tenant, "--timeline", timeline];
            not_understood(&with(&line, &ids), &[word, "--help"]);
        }
        not_understood(&with(&line, &["--nodes", "127.0.0.1:1", "--tenant", ID]), &["--timeline"]);
    }
    let create = ["timeline", "create", "--nodes", "127.0.0.1:1"];
    not_understood(&create, &["--postgres"]);
    not_understood(&[&create[..], &["--start-lsn", "16"]].concat(), &["LSN", "0/16B3748"]);
    not_understood(&["timeline", "list"], &["--nodes"]);
    assert_eq!(run(&["timeline"]).status.code(), Some(USAGE));
    not_understood(&["nonsense"], &["nonsense"]);
    let delete = ["timeline", "delete", "--nodes", "127.0.0.1:1", "--tenant", ID, "--timeline", ID];
    not_understood(&delete, &["--yes"]);
    not_understood(&["demo", "--clients", "0"], &["1..=64"]);
}

#[test]
fn nodes_that_cannot_be_reached_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", free_port().unwrap());
    for line in timeline_commands(folder.path()) {
        let status = if line[1] == "fetch" { NOBODY } else { FAILED };
        let ids = ["--tenant", ID, "--timeline", OTHER_ID];
        for node in [&nobody, "no-such-host.invalid:1", "http://"] {
            let said = fails(&with(&line, &[&["--nodes", node], &ids[..]].concat()), status, &[]);
            assert!(
                said.contains(node.trim_end_matches('/')),
                "{line:?}: {node} is not in:\n{said}"
            );
        }
        assert!(!folder.path().join("to").exists(), "{line:?} made a directory");
    }
    fails(&["timeline", "list", "--nodes", &nobody], FAILED, &["no node answered"]);
    let create = ["timeline", "create", "--start-lsn", "0/1000000", "--nodes"];
    fails(&[&create[..], &[&nobody]].concat(), FAILED, &[&nobody, "does not answer"]);
    let primary = format!("host=127.0.0.1 port={} user=postgres", free_port().unwrap());
    let create = ["timeline", "create", "--nodes", &nobody, "--postgres"];
    fails(&[&create[..], &[&primary]].concat(), FAILED, &["cannot connect to the primary"]);
    fails(&[&create[..], &["nonsense"]].concat(), FAILED, &["primary"]);
}

#[test]
fn a_timeline_that_nobody_knows_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let node = start_node(folder.path(), &[]);
    let url = node.url().unwrap();
    for line in timeline_commands(folder.path()) {
        let status = if line[1] == "fetch" { NOBODY } else { FAILED };
        let about = ["--nodes", &url, "--tenant", ID, "--timeline", OTHER_ID];
        if line[1] == "delete" {
            let output = run(&with(&line, &about));
            assert!(output.status.success());
            assert!(String::from_utf8(output.stdout).unwrap().contains("was not there"));
        } else {
            let key = format!("{ID}/{OTHER_ID}");
            fails(&with(&line, &about), status, &[&key]);
        }
        assert!(!folder.path().join("to").exists(), "{line:?} made a directory");
    }
}

#[test]
fn a_wrong_token_is_refused_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    make_ed25519_key(folder.path(), &key).unwrap();
    let node = start_node(folder.path(), &["--auth-public-key", key.to_str().unwrap()]);
    let url = node.url().unwrap();
    for line in timeline_commands(folder.path()) {
        let status = if line[1] == "fetch" { NOBODY } else { FAILED };
        let about = ["--nodes", &url, "--tenant", ID, "--timeline", OTHER_ID];
        for token in [&[][..], &["--token", "secret-but-wrong"]] {
            let arguments = with(&line, &[&about, token].concat());
            fails(&arguments, status, &[]);
            let said = String::from_utf8(run(&arguments).stderr).unwrap();
            assert!(said.contains("401") || said.contains("403"), "{said}");
            assert!(!said.contains("secret-but-wrong"), "{said}");
        }
    }
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (garbage, empty) = (path("000000010000000000000001"), path("000000010000000000000002"));
    let noise: Vec<u8> =
        (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(&garbage, &noise).unwrap();
    fs::write(&empty, "").unwrap();
    fs::write(path("name"), &noise).unwrap();
    fs::write(path("odd"), &noise[..1000]).unwrap();
    fails(&["wal", "dump", &path("missing")], FAILED, &["missing"]);
    fails(&["wal", "dump", &empty], FAILED, &["0 bytes are no WAL segment"]);
    fails(&["wal", "dump", &path("odd")], FAILED, &["odd is no segment's name"]);
    fails(&["wal", "dump", &path("name")], FAILED, &["name is no segment's name"]);
    // Where WAL ends and noise begins only the decoder can say: it does, and shows no record.
    let output = run(&["wal", "dump", &garbage]);
    let said =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked") && said.lines().count() == 1, "{said}");

    for verb in ["dump", "verify"] {
        let journal = |data: &str| ["journal", verb, "--data", data].map(str::to_string);
        let check = |data: &str, words: &[&str]| {
            let line = journal(data);
            fails(&line.each_ref().map(String::as_str), FAILED, words);
        };
        check(&path("missing"), &["missing", "no lock"]);
        check(folder.path().to_str().unwrap(), &["is no node's data directory"]);
        let broken = path(&format!("broken-{verb}"));
        fs::create_dir(&broken).unwrap();
        fs::write(format!("{broken}/lock"), "").unwrap();
        check(&broken, &["layout"]);
        fs::write(format!("{broken}/layout"), &noise[..4096]).unwrap();
        check(&broken, &["layout"]);
    }
    let mut node = start_node(folder.path(), &[]);
    let data = node.data().display().to_string();
    for verb in ["dump", "verify"] {
        fails(&["journal", verb, "--data", &data], FAILED, &["is in use"]);
    }
    node.kill().unwrap();
    fails(&["journal", "verify", "--data", &data, "--shard", "7"], FAILED, &["1 shards"]);
    let journal = node.data().join("shard-000/journal");
    for entry in fs::read_dir(&journal).unwrap() {
        fs::write(entry.unwrap().path(), &noise).unwrap();
    }
    fails(&["journal", "verify", "--data", &data], FAILED, &["1 of 1 journals"]);
}

#[test]
fn a_rebuild_checks_its_directories_before_it_fences() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (base, full, file) = (path("base"), path("full"), path("file"));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&full).unwrap();
    fs::write(format!("{full}/somebodys"), "").unwrap();
    fs::write(&file, "no tar").unwrap();
    // Nobody listens there: whoever got as far as the fence would say so.
    let nobody = format!("127.0.0.1:{}", free_port().unwrap());
    for noun in [["timeline", "rebuild"], ["postgres", "run"]] {
        let about = ["--nodes", &nobody, "--tenant", ID, "--timeline", OTHER_ID];
        let check = |base: &str, to: &str, more: &[&str], words: &[&str]| {
            let directories = ["--base", base, "--to", to];
            fails(&[&noun[..], &about, &directories, more].concat(), FAILED, words);
        };
        check(&base, &full, &[], &["full", "is not empty"]);
        check(&base, &file, &[], &["file", "is no directory"]);
        check(&path("missing"), &path("to"), &[], &["missing", "no base backup"]);
        check(&base, &path("to"), &[], &["base", "no base backup"]);
        let mapping = ["--tablespace-mapping", "/one=/two"];
        fs::write(format!("{base}/PG_VERSION"), "15").unwrap();
        fs::create_dir(format!("{base}/pg_tblspc")).unwrap();
        check(&base, &path("to"), &mapping, &["/one", "no tablespace"]);
        fs::remove_dir_all(&base).unwrap();
        fs::create_dir(&base).unwrap();
        let wrong = ["--tablespace-mapping", "here=there"];
        let line = [&noun[..], &about, &["--base", &base, "--to", &full], &wrong].concat();
        not_understood(&line, &["OLDDIR=NEWDIR"]);
    }
}

#[test]
fn what_a_node_advertises_is_what_relays_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let node = start_node(folder.path(), &["--advertise", "[fd00::7]:7777"]);
    let url = node.url().unwrap();
    let created = run(&["timeline", "create", "--nodes", &url, "--start-lsn", "0/1000000"]);
    let said = String::from_utf8(created.stdout).unwrap();
    assert!(said.contains("acceptors [fd00::7]:7777\n"), "{said}");
    let program = built_program("firn-node").unwrap();
    for wrong in ["nowhere", ":5454", "host:0", "host:65536"] {
        let data = folder.path().join("other");
        let mut command = Command::new(&program);
        command.args(["run", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]);
        let output = command.arg(&data).args(["--advertise", wrong]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.lines().last().unwrap().contains("expected HOST:PORT"), "{said}");
        assert!(!output.status.success());
    }
}

#[test]
fn every_command_explains_itself() {
    let mut open = vec![vec![]];
    let mut seen = 0;
    while let Some(words) = open.pop() {
        let mut line: Vec<&str> = words.iter().map(String::as_str).collect();
        line.push("--help");
        let output = run(&line);
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && help.contains("Usage: firn"), "{words:?}: {help}");
        seen += 1;
        let lines: Vec<&str> = help.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let fits = line.len() <= 120 || line.starts_with("Usage: ");
            assert!(fits, "{words:?}: too wide for a terminal: {line}");
            let option =
                line.trim_start().starts_with("--") || line.trim_start().starts_with("-h,");
            let described = line.contains("  ") && line.trim_start().contains("  ");
            let below = lines.get(index + 1).is_some_and(|next| next.starts_with("          "));
            assert!(!option || described || below, "{words:?}: {line} is not described");
        }
        let commands = lines.iter().skip_while(|line| **line != "Commands:").skip(1);
        for line in commands.take_while(|line| !line.is_empty()) {
            // What begins further right goes on with the description above.
            let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) else {
                continue;
            };
            let name = name.split(' ').next().unwrap();
            if name != "help" {
                open.push([&words[..], &[name.to_string()]].concat());
            }
        }
    }
    assert!(seen >= 15, "{seen} commands");
}

#[test]
fn scripts_get_json() {
    let folder = tempfile::tempdir().unwrap();
    let node = start_node(folder.path(), &["--node-id", "7"]);
    let url = node.url().unwrap();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = run(&[arguments, &["--json", "--nodes", &url]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let start = ["--start-lsn", "0/1000000", "--tenant", ID, "--pg-version", "170004"];
    let created = json(&[&["timeline", "create"], &start[..]].concat());
    assert_eq!(created["tenant_id"], ID);
    assert_eq!(created["acceptors"][0], node.pg_address().unwrap());
    let timeline = created["timeline_id"].as_str().unwrap();
    let listed = json(&["timeline", "list"]);
    assert_eq!(listed["timelines"][0]["timeline_id"], timeline);
    assert_eq!(listed["timelines"][0]["nodes"][0]["node_id"], 7);
    let about = ["--tenant", ID, "--timeline", timeline];
    let shown = json(&[&["timeline", "show"], &about[..]].concat());
    assert_eq!(shown[&url]["timeline_start_lsn"], "0/1000000", "{shown}");
    let fenced = json(&[&["timeline", "fence"], &about[..]].concat());
    assert_eq!(fenced["mconf"]["members"][0]["id"], 7, "{fenced}");
    let same = json(&[&["timeline", "members", "remove", "--node-id", "8"], &about[..]].concat());
    assert_eq!(same["generation"], 1);
}
