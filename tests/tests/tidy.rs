//! Style as a test: what the compiler, clippy and cargo-deny do not check.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file: one idea fits in it.
const FILE_LINES_MAX: usize = 1_000;
/// Packages in the lock file, ours included.
const LOCKED_PACKAGES_MAX: usize = 400;

/// A word of an identifier, and the word to write instead.
const BANNED_NAMES: &[(&str, &str)] = &[
    ("ctx", "context"),
    ("idx", "index"),
    ("cnt", "count"),
    ("mgr", "what it does"),
    ("pgsrv", "postgres"),
    ("utils", "the name of the one idea"),
    ("helpers", "the name of the one idea"),
    ("whitelist", "allowed"),
    ("blacklist", "denied"),
];

/// Marks of unfinished work; they belong in the issue tracker.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX", "dbg!(", "todo!(", "unimplemented!("];

/// Places of one machine.
const MACHINE_PATHS: &[&str] = &["/work/", "/root/"];

/// Crates that only these places may name.
const FENCED_CRATES: &[(&str, &[&str])] = &[
    ("io_uring", &["node/src/runtime/"]),
    ("glommio", &["node/src/runtime/"]),
    (
        "tokio",
        &[
            "node/src/control/",
            "node/src/control.rs",
            "node/src/main.rs",
            "node/src/runtime/baseline/",
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace holds tests/")
        .to_path_buf()
}

/// All files below the repository but build results, as (path from the root, content).
fn files(extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    open.push(path);
                }
            } else if extensions.iter().any(|extension| name.ends_with(extension)) {
                let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
                found.push((relative, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Rust sources but this file, which has to name what it bans.
fn sources() -> Vec<(String, String)> {
    let mut sources = files(&[".rs"]);
    assert!(sources.len() > 10, "the repository's sources were not found");
    sources.retain(|(path, _)| path != "tests/tests/tidy.rs");
    sources
}

fn assert_none(what: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{what}:\n  {}", violations.join("\n  "));
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '!').flat_map(|word| word.split('_'))
}

#[test]
fn files_are_short() {
    let long = sources()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    assert_none("files over 1,000 lines: split them by what they do", long);
}

#[test]
fn names_are_whole_words() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (banned, instead) in BANNED_NAMES {
                if words(code).any(|word| word == *banned) {
                    found.push(format!("{path}:{}: {banned}: write {instead}", number + 1));
                }
            }
        }
    }
    assert_none("banned names", found);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut found = Vec::new();
    for (path, text) in sources().into_iter().chain(files(&[".md", ".toml"])) {
        for (number, line) in text.lines().enumerate() {
            for mark in UNFINISHED {
                let whole_word = mark.ends_with('(') || words(line).any(|word| word == *mark);
                if line.contains(mark) && whole_word {
                    found.push(format!("{path}:{}: {mark}", number + 1));
                }
            }
        }
    }
    assert_none("unfinished work", found);
}

#[test]
fn no_path_of_one_machine_is_named() {
    let mut found = Vec::new();
    for (path, text) in sources().into_iter().chain(files(&[".md", ".toml", "/test", ".ci/run"])) {
        for (number, line) in text.lines().enumerate() {
            for machine_path in MACHINE_PATHS {
                if line.contains(machine_path) {
                    found.push(format!("{path}:{}: {machine_path}", number + 1));
                }
            }
        }
    }
    assert_none("paths of one machine", found);
}

#[test]
fn runtimes_stay_behind_their_fences() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        if !path.contains("/src/") {
            continue;
        }
        for (name, allowed) in FENCED_CRATES {
            if allowed.iter().any(|prefix| path.starts_with(prefix)) {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if code.contains(&format!("{name}::")) || code.contains(&format!("use {name}")) {
                    found.push(format!("{path}:{}: {name} belongs in {}", number + 1, allowed[0]));
                }
            }
        }
    }
    assert_none("crates outside their fence", found);
}

#[test]
fn every_folder_has_a_door() {
    let closed = sources()
        .into_iter()
        .filter(|(path, _)| path.ends_with("/mod.rs") || path.ends_with("/lib.rs"))
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| {
            format!("{path}: begin with a //! comment: what lives here, read what first")
        })
        .collect();
    assert_none("folders without a door", closed);
}

/// The files that `mod NAME;` lines lead to, from a crate's root file.
fn reachable(file: &Path, is_root: bool, seen: &mut BTreeSet<PathBuf>) {
    seen.insert(file.to_path_buf());
    let text = fs::read_to_string(file).unwrap();
    let stem = file.file_stem().unwrap();
    let parent = file.parent().unwrap();
    let own_folder =
        if is_root || stem == "mod" { parent.to_path_buf() } else { parent.join(stem) };
    let mut path_attribute = None;
    for line in text.lines().map(str::trim) {
        if let Some(path) =
            line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"))
        {
            path_attribute = Some(parent.join(path));
            continue;
        }
        let declaration = line
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ")
            .trim_start_matches("pub ");
        let name = declaration.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        let Some(name) = name else { continue };
        let candidates = [
            own_folder.join(format!("{name}.rs")),
            own_folder.join(name).join("mod.rs"),
            path_attribute.take().unwrap_or_default(),
        ];
        for candidate in candidates.iter().filter(|candidate| candidate.is_file()) {
            if !seen.contains(candidate) {
                reachable(candidate, false, seen);
            }
        }
    }
}

#[test]
fn every_source_file_is_used() {
    let mut seen = BTreeSet::new();
    let all: Vec<PathBuf> =
        files(&[".rs"]).into_iter().map(|(path, _)| root().join(path)).collect();
    for file in &all {
        let parent = file.parent().unwrap();
        let crate_folder = parent.parent().unwrap();
        let is_target_folder = crate_folder.join("Cargo.toml").is_file()
            && ["tests", "benches", "examples"].iter().any(|name| parent.ends_with(name));
        let is_crate_root = ["lib.rs", "main.rs"].iter().any(|name| file.ends_with(name))
            && crate_folder.join("Cargo.toml").is_file();
        let is_binary = parent.ends_with("src/bin");
        if is_target_folder || is_crate_root || is_binary || file.ends_with("build.rs") {
            reachable(file, true, &mut seen);
        }
    }
    let unused =
        all.iter().filter(|file| !seen.contains(*file)).map(|file| file.display().to_string());
    assert_none("source files that no `mod` line names", unused.collect());
}

/// The lines of one table of a manifest.
fn table<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    manifest
        .lines()
        .skip_while(|line| *line != format!("[{name}]"))
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| line.contains('=') && !line.starts_with('#'))
        .collect()
}

#[test]
fn every_dependency_says_why_it_is_here() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut found = Vec::new();
    for line in table(&manifest, "workspace.dependencies") {
        let name = line.split([' ', '=', '.']).next().unwrap();
        let reason = line.rsplit_once("# ").map_or("", |(_, reason)| reason.trim());
        if !line.contains("path = ") && reason.len() < 8 {
            found.push(format!("Cargo.toml: {name}: give the reason it is here on its line"));
        }
    }
    assert_none("dependencies", found);
}

#[test]
fn versions_stand_in_the_workspace_table_only() {
    let mut found = Vec::new();
    for (path, manifest) in files(&["Cargo.toml"]) {
        for line in ["dependencies", "dev-dependencies"].map(|name| table(&manifest, name)).concat()
        {
            if !line.contains("workspace = true") {
                found.push(format!("{path}: {line}: its version belongs in the workspace's table"));
            }
        }
    }
    assert_none("dependencies", found);
}

#[test]
fn every_dependency_is_used() {
    let manifests = files(&["Cargo.toml"]);
    let sources = files(&[".rs"]);
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for (path, manifest) in manifests.iter().filter(|(path, _)| path != "Cargo.toml") {
        let folder = path.strip_suffix("Cargo.toml").unwrap();
        for line in ["dependencies", "dev-dependencies"].map(|name| table(manifest, name)).concat()
        {
            let name = line.split([' ', '=', '.']).next().unwrap();
            used.insert(name);
            let identifier = name.replace('-', "_");
            let is_named = |(source, text): &(String, String)| {
                source.starts_with(folder) && text.contains(&identifier)
            };
            if !sources.iter().any(is_named) {
                found.push(format!("{path}: {name} is not used"));
            }
        }
    }
    let (_, workspace) = manifests.iter().find(|(path, _)| path == "Cargo.toml").unwrap();
    for line in table(workspace, "workspace.dependencies") {
        let name = line.split([' ', '=', '.']).next().unwrap();
        if !used.contains(name) {
            found.push(format!("Cargo.toml: {name} is not used"));
        }
    }
    assert_none("dependencies", found);
}

#[test]
fn the_lock_file_stays_small() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(packages < LOCKED_PACKAGES_MAX, "{packages} locked packages");
}

/// The targets of a document's inline links, code blocks left out.
fn links(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            found.extend(part.split_once(')').map(|(target, _)| target.to_string()));
        }
    }
    found
}

/// A heading's anchor, as code hosts make it.
fn anchor(heading: &str) -> String {
    let kept =
        heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut dead = Vec::new();
    for (path, text) in files(&[".md"]) {
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let document = root().join(&path);
            let target =
                if file.is_empty() { document } else { document.parent().unwrap().join(file) };
            if !target.exists() {
                dead.push(format!("{path}: {link}"));
            } else if !fragment.is_empty() && target.is_file() {
                let headings = fs::read_to_string(&target).unwrap();
                let mut headings = headings.lines().filter(|line| line.starts_with('#'));
                if !headings.any(|line| anchor(line.trim_start_matches('#')) == fragment) {
                    dead.push(format!("{path}: {link}: no such heading"));
                }
            }
        }
    }
    assert_none("dead links", dead);
}
