//! `firn wal dump` and `firn page replay` against real servers: pg_waldump's counts and lines, pageinspect's pages.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use firn_core::postgres::page::{PAGE_BYTES, Page, PageBytes};
use firn_core::postgres::redo::slru::{PAGES_PER_SEGMENT, Slru};
use firn_core::postgres::wal::names::rmgr;
use firn_core::postgres::wal::{BlockTag, Fork, RelationId};
use firn_core::types::Lsn;
use firn_tests::local::data_directory::entries;
use firn_tests::local::postgres::{PostgresServer, run};
use firn_tests::local::postgres_install::{PostgresInstall, ServerUser};
use firn_tests::local::process::built_program;
use firn_tests::oracle::replay::difference;
use firn_tests::postgres_versions::postgres_versions;

/// Every kind of record that plain SQL reaches quickly, in tables with long rows and every index method.
const WORKLOAD: &str = "
    CREATE EXTENSION pageinspect;
    CREATE TABLE heap (id int PRIMARY KEY, filler text, words tsvector, place point);
    CREATE INDEX ON heap USING gin (words);
    CREATE INDEX ON heap USING gist (place);
    CREATE INDEX ON heap USING spgist (place);
    CREATE INDEX ON heap USING brin (id);
    CREATE INDEX ON heap USING hash (id);
    CREATE SEQUENCE counter;
    INSERT INTO heap SELECT i, repeat(md5(i::text), 1 + i % 9), to_tsvector('simple', md5(i::text)),
        point(i % 97, i % 89) FROM generate_series(1, 4000) i;
    CHECKPOINT;
    UPDATE heap SET filler = filler || 'x' WHERE id % 7 = 0;
    DELETE FROM heap WHERE id % 5 = 0;
    SELECT nextval('counter') FROM generate_series(1, 50);
    VACUUM (FREEZE) heap;
    CHECKPOINT;
    UPDATE heap SET id = id + 10000 WHERE id % 3 = 0;
    SELECT pg_switch_wal();
    INSERT INTO heap SELECT i + 100000, 'y', NULL, NULL FROM generate_series(1, 500) i;
    BEGIN; SELECT * FROM heap WHERE id = 1 FOR UPDATE; SAVEPOINT a; DELETE FROM heap WHERE id = 2; COMMIT;
    TRUNCATE heap;
    INSERT INTO heap SELECT i, 'z', NULL, NULL FROM generate_series(1, 500) i;";

fn temporary() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// The image compression methods that a version has, each in a server of its own: 15 knows lz4, all knew pglz before, the
/// builds for tests have zstd from 16 on.
fn compressions(major: u32) -> &'static [&'static str] {
    if major >= 16 { &["pglz", "lz4", "zstd"] } else { &["pglz", "lz4"] }
}

fn server(install: &PostgresInstall, directory: &Path, compression: &str) -> PostgresServer {
    let settings = [
        ("fsync", "off"),
        ("wal_level", "logical"),
        ("wal_compression", compression),
        ("autovacuum", "off"),
        ("wal_keep_size", "1GB"),
        ("max_prepared_transactions", "5"),
        ("track_commit_timestamp", "on"),
    ];
    let server = PostgresServer::create_with(
        install.clone(),
        &directory.join("data"),
        &settings,
        &["--data-checksums"],
    );
    let mut server = server.unwrap();
    server.start().unwrap();
    server
}

/// Each statement in a transaction of its own: VACUUM wants that.
fn run_workload(server: &PostgresServer) {
    let mut psql = server.psql("SELECT 1");
    for statement in WORKLOAD.split(";\n").map(str::trim).filter(|text| !text.is_empty()) {
        psql.args(["-c", statement]);
    }
    run(&mut psql).unwrap();
}

fn firn(arguments: &[&str]) -> String {
    run(Command::new(built_program("firn").unwrap()).args(arguments)).unwrap()
}

/// pg_waldump ends with an error at the end of the WAL, after all its output.
fn pg_waldump(install: &PostgresInstall, wal: &Path, start: Lsn, arguments: &[&str]) -> String {
    let mut command = install.command("pg_waldump").unwrap();
    command.args(["-s", &start.to_string(), "-p"]).arg(wal).args(arguments);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// The rows of statistics without zeros and percentages: name, records, their bytes, images' bytes, both.
fn rows(text: &str) -> Vec<Vec<String>> {
    let numbers = |line: &str| -> Vec<String> {
        let words = line.split_whitespace();
        words
            .filter(|word| !word.starts_with('(') && !word.ends_with(')'))
            .map(str::to_string)
            .collect()
    };
    let mut rows: Vec<_> = text
        .lines()
        .map(numbers)
        .filter(|row| {
            row.len() == 5
                && row[0] != "Total"
                && row[1].parse::<u64>().is_ok_and(|count| count > 0)
        })
        .collect();
    rows.sort();
    rows
}

/// Lines of records: pg_waldump says more behind a record's name, and before the block references.
fn lines(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.starts_with("rmgr: "))
        .map(|line| {
            let (head, description) = line.split_once("desc: ").unwrap();
            let name = description.split([' ', ',', ';']).next().unwrap();
            let blocks: String = description
                .split(", blkref #")
                .skip(1)
                .map(|block| format!(", blkref #{}", block.split(" (FPW)").next().unwrap()))
                .collect();
            format!("{head}{name}{blocks}").split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[test]
fn dump_shows_and_counts_what_pg_waldump_does() {
    for install in postgres_versions().unwrap() {
        for compression in compressions(install.major) {
            let directory = temporary();
            let mut server = server(&install, directory.path(), compression);
            let start: Lsn =
                server.sql("SELECT pg_current_wal_insert_lsn()").unwrap().parse().unwrap();
            run_workload(&server);
            let relation = server.sql(
                "SELECT '1663/' || d.oid || '/' || pg_relation_filenode('heap') FROM pg_database d \
                 WHERE datname = current_database()",
            );
            let relation = relation.unwrap();
            server.stop().unwrap();
            let wal = server.data().join("pg_wal");
            let ours = |arguments: &[&str]| {
                let paths = [wal.to_str().unwrap(), "--start", &start.to_string()];
                firn(&[&["wal", "dump"], &paths[..], arguments].concat())
            };
            let theirs = |arguments: &[&str]| pg_waldump(&install, &wal, start, arguments);
            let what = format!("Postgres {} with {compression}", install.major);

            for option in ["--stats=record", "--stats"] {
                let (ours, theirs) = (rows(&ours(&[option])), rows(&theirs(&[option])));
                assert!(theirs.len() > 5, "{what}: {theirs:?}");
                assert_eq!(ours, theirs, "{what}: {option}");
            }
            let middle = lines(&theirs(&["-n", "3000"])).last().unwrap().clone();
            let middle =
                middle.split("lsn: ").nth(1).unwrap().split(',').next().unwrap().to_string();
            let filters: [&[&str]; 8] = [
                &[],
                &["--rmgr=Btree"],
                &["--rmgr=heap2", "--rmgr=Gin"],
                &["--relation", &relation],
                &["--relation", &relation, "--block=1"],
                &["--fork=vm"],
                &["--fullpage"],
                &["--end", &middle, "--rmgr=Transaction"],
            ];
            for filter in filters {
                let (ours, theirs) = (lines(&ours(filter)), lines(&theirs(filter)));
                assert!(!theirs.is_empty(), "{what}: {filter:?} chooses nothing");
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    assert_eq!(ours, theirs, "{what}: {filter:?}");
                }
                assert_eq!(ours.len(), theirs.len(), "{what}: {filter:?}");
            }
        }
    }
}

/// A page as the server sees it now, and where its WAL is.
struct Seen {
    tag: BlockTag,
    manager: u8,
    lsn: Lsn,
    page: PageBytes,
}

/// All pages of `name`, as of one position: nobody else writes.
fn see(server: &PostgresServer, name: &str, fork: Fork, manager: u8) -> Vec<Seen> {
    let database = "(SELECT oid FROM pg_database WHERE datname = current_database())";
    let text = server
        .sql(&format!(
            "SELECT {database} || ' ' || pg_relation_filenode('{name}') || ' ' || pg_current_wal_insert_lsn() || ' '
             || b || ' ' || encode(get_raw_page('{name}', '{0}', b), 'hex')
             FROM generate_series(0, pg_relation_size('{name}', '{0}') / 8192 - 1) b",
            fork.name()
        ))
        .unwrap();
    text.lines()
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let relation = RelationId {
                tablespace: 1663,
                database: words[0].parse().unwrap(),
                number: words[1].parse().unwrap(),
            };
            let tag = BlockTag { relation, fork, block: words[3].parse().unwrap() };
            Seen { tag, manager, lsn: words[2].parse().unwrap(), page: page_of_hex(words[4]) }
        })
        .collect()
}

fn page_of_hex(text: &str) -> PageBytes {
    let mut page = [0; PAGE_BYTES];
    assert_eq!(text.len(), 2 * PAGE_BYTES);
    for (index, byte) in page.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap();
    }
    page
}

fn replay(base: &Path, wal: &Path, at: Lsn, of: &[&str]) -> String {
    let at = at.to_string();
    let arguments =
        ["page", "replay", "--base", base.to_str().unwrap(), "--wal", wal.to_str().unwrap()];
    firn(&[&arguments[..], &["--at", &at], of].concat())
}

fn replay_block(base: &Path, wal: &Path, tag: BlockTag, at: Lsn, more: &[&str]) -> String {
    let (relation, block) = (tag.relation.to_string(), tag.block.to_string());
    let of = ["--relation", &relation, "--fork", tag.fork.name(), "--block", &block];
    replay(base, wal, at, &[&of, more].concat())
}

const HEX: [&str; 3] = ["--no-records", "--format", "hex"];

fn page_of_rows(text: &str) -> PageBytes {
    page_of_hex(&text.lines().map(|line| line.split_once(' ').unwrap().1).collect::<String>())
}

#[test]
fn a_page_is_replayed_to_any_lsn() {
    for install in postgres_versions().unwrap() {
        let directory = temporary();
        let compression = compressions(install.major).last().unwrap();
        let mut server = server(&install, directory.path(), compression);
        server
            .sql(
                "CREATE EXTENSION pageinspect;
                 CREATE TABLE t (id int PRIMARY KEY, filler text) WITH (fillfactor = 70);
                 INSERT INTO t SELECT i, 'first' FROM generate_series(1, 500) i;",
            )
            .unwrap();
        let base = directory.path().join("base");
        server.base_backup(&base).unwrap();
        let mut seen = Vec::new();
        for step in [
            "UPDATE t SET filler = 'second' WHERE id % 2 = 0",
            "VACUUM t",
            "DELETE FROM t WHERE id < 100",
            "INSERT INTO t SELECT i, 'third' FROM generate_series(1000, 2500) i",
            "CHECKPOINT",
            "UPDATE t SET filler = 'fourth' WHERE id > 2000",
            "DELETE FROM t WHERE id > 1200",
            "VACUUM t",
        ] {
            server.sql(step).unwrap();
            seen.extend(see(&server, "t", Fork::Main, rmgr::HEAP));
            seen.extend(see(&server, "t", Fork::VisibilityMap, rmgr::HEAP2));
            seen.extend(see(&server, "t_pkey", Fork::Main, rmgr::BTREE));
        }
        server.stop().unwrap();
        ServerUser::give(&base).unwrap();
        let wal = server.data().join("pg_wal");
        // A few pages of each step: each is a run of the program over all WAL.
        let chosen = seen.iter().step_by(seen.len().div_ceil(40));
        for seen in chosen {
            let page = page_of_rows(&replay_block(&base, &wal, seen.tag, seen.lsn, &HEX));
            let what = format!("Postgres {}: {} at {}", install.major, seen.tag, seen.lsn);
            assert_eq!(difference(seen.manager, seen.tag, &page, &seen.page), None, "{what}");
        }
        let last = seen.iter().rfind(|seen| seen.manager == rmgr::BTREE).unwrap();
        let text = replay_block(&base, &wal, last.tag, last.lsn, &[]);
        assert!(text.contains("rmgr: Btree"), "{text}");
        let mut page = last.page;
        let lsn = format!("lsn {},", Page::new(&mut page).lsn());
        assert!(text.contains(&lsn) && text.contains("btree: previous"), "no {lsn} in {text}");
    }
}

/// Every page of the simple logs' files.
fn log_pages(data: &Path) -> Vec<(Slru, u64, PageBytes)> {
    let mut pages = Vec::new();
    for log in Slru::ALL {
        for (name, path) in entries(&data.join(log.folder())).unwrap() {
            let first = u64::from_str_radix(&name, 16).unwrap() * PAGES_PER_SEGMENT;
            let bytes = std::fs::read(path).unwrap();
            for (number, page) in (first..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
                pages.push((log, number, *page));
            }
        }
    }
    pages
}

#[test]
fn a_simple_logs_page_is_replayed_to_any_lsn() {
    for install in postgres_versions().unwrap() {
        let directory = temporary();
        let mut server = server(&install, directory.path(), "pglz");
        server
            .sql(
                "CREATE TABLE t AS SELECT i AS id, 'first' AS filler FROM generate_series(1, 50) i",
            )
            .unwrap();
        let base = directory.path().join("base");
        server.base_backup(&base).unwrap();
        let mut seen = Vec::new();
        for step in [
            "UPDATE t SET filler = 'second' WHERE id < 10",
            "BEGIN; SELECT * FROM t WHERE id = 7 FOR KEY SHARE; SAVEPOINT a; UPDATE t SET filler = 'x' WHERE id = 7; COMMIT",
            "BEGIN; DELETE FROM t; ROLLBACK",
            "BEGIN; INSERT INTO t VALUES (60, 'y'); SAVEPOINT a; DELETE FROM t WHERE id = 3; ROLLBACK TO a; COMMIT",
            // Another page of commit timestamps, which has room for 819.
            "DO $$ BEGIN FOR i IN 1..900 LOOP UPDATE t SET filler = i::text WHERE id = 1; COMMIT; END LOOP; END $$",
        ] {
            server.sql(step).unwrap();
            // Simple logs reach their files at a checkpoint.
            server.sql("CHECKPOINT").unwrap();
            let lsn: Lsn =
                server.sql("SELECT pg_current_wal_insert_lsn()").unwrap().parse().unwrap();
            seen.extend(log_pages(server.data()).into_iter().map(|page| (lsn, page)));
        }
        server.stop().unwrap();
        ServerUser::give(&base).unwrap();
        let wal = server.data().join("pg_wal");
        let mut not_empty = BTreeSet::new();
        for (lsn, (log, number, page)) in &seen {
            let number = number.to_string();
            let of = [&["--log", log.folder(), "--block", &number], &HEX[..]].concat();
            let found = page_of_rows(&replay(&base, &wal, *lsn, &of));
            let at = (0..PAGE_BYTES).find(|&at| found[at] != page[at]);
            let what =
                format!("Postgres {}: {} page {number} at {lsn}", install.major, log.folder());
            assert_eq!(at, None, "{what}");
            if page.iter().any(|&byte| byte != 0) {
                not_empty.insert(*log);
            }
        }
        assert_eq!(not_empty.len(), Slru::ALL.len(), "{not_empty:?}");
        let (last, _) = seen.last().unwrap();
        let text = replay(&base, &wal, *last, &["--log", "pg_xact", "--block", "0"]);
        for words in ["desc: COMMIT, page changed", ": committed", ": aborted"] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
    }
}
