//! `firn-node run --check-config`: everything that a start looks at, without a start and without a change.
//!
//! A start ends at the first thing that is wrong; here all of them are told, each in a line.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Error};
use firn_core::types::NodeId;
use rustix::fs::Access;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::config::arguments::RunArguments;
use crate::config::identity;
use crate::credentials::Loaded;
use crate::journal;
use crate::runtime::{block_on, check_directory_unchanged, check_machine};

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Why a start would be refused; none: it would serve.
    pub problems: Vec<Error>,
    /// What a start would do without, or say a warning about.
    pub notes: Vec<String>,
    /// Shards that it would run.
    pub shards: usize,
    /// Whose the data directory is; none when it is new.
    pub node_id: Option<NodeId>,
}

impl Report {
    /// The value of a check, or a problem.
    fn take<T, E: Into<Error>>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problems.push(error.into())).ok()
    }
}

/// Checks options, files, machine, ports and data directory. The process must be the one that would start: same user, same
/// limits.
pub fn check(arguments: &RunArguments) -> Report {
    let mut report = Report::default();
    let listen = report.take(arguments.listen_address());
    let http = report.take(arguments.http_address());
    report.take(arguments.advertised());
    report.take(Loaded::load(&arguments.credential_files()));
    if let Some(path) = &arguments.ports_file {
        report.take(check_ports_file(path));
    }
    check_ports(&mut report, listen, http);
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(shards) = report.take(arguments.shard_count(available)) {
        report.shards = shards;
        if let Some(checked) = report.take(check_machine(&arguments.runtime_options(shards))) {
            report.notes.extend(checked.degraded);
        }
    }
    check_data(&mut report, &arguments.data, arguments.node_id);
    report
}

fn check_ports(report: &mut Report, listen: Option<SocketAddr>, http: Option<SocketAddr>) {
    for (option, address) in [("--listen", listen), ("--http", http)] {
        if let Some(address) = address {
            report.take(try_bind(address).with_context(|| format!("{option} {address}")));
        }
    }
    if let (Some(listen), Some(http)) = (listen, http)
        && listen == http
        && listen.port() != 0
    {
        report.problems.push(anyhow::anyhow!("--listen and --http are the same port, {http}"));
    }
}

/// Takes a port for a moment, without listening on it: nobody can connect.
fn try_bind(address: SocketAddr) -> io::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(())
}

/// The file is replaced, so its directory must be there and take files.
fn check_ports_file(path: &Path) -> anyhow::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)
        .with_context(|| format!("--ports-file {}", path.display()))
}

fn check_data(report: &mut Report, data: &Path, wanted: Option<NodeId>) {
    let data = data.to_path_buf();
    let directory = match std::path::absolute(&data) {
        // A directory that is not there is made in the nearest one that is.
        Ok(path) => path.ancestors().find(|path| path.exists()).map(Path::to_path_buf),
        Err(_) => None,
    };
    match report.take(check_directory_unchanged(directory.as_deref().unwrap_or(&data))) {
        Some(true) => {}
        Some(false) => report.notes.push(format!(
            "whether {} takes direct I/O is not known without writing to it",
            data.display()
        )),
        None => return,
    }
    let looked = block_on(move |runtime| async move {
        let node_id = identity::inspect(&runtime, &data, wanted).await?;
        let journals = match node_id {
            Some(_) => journal::inspect(&runtime, &data).await?,
            None => Vec::new(),
        };
        anyhow::Ok((node_id, journals))
    });
    let looked = match looked {
        Ok(looked) => looked,
        // Without a ring nothing can be looked at; the machine's check has told that already.
        Err(_) if !report.problems.is_empty() => return,
        Err(error) => return report.problems.push(error.into()),
    };
    let Some((node_id, journals)) = report.take(looked) else { return };
    report.node_id = node_id;
    for (number, found) in &journals {
        if let Some(corruption) = &found.corruption {
            report.notes.push(format!(
                "journal {number} lost acknowledged frames, its timelines will be re-seeded: {corruption}"
            ));
        }
    }
    if !journals.is_empty() && journals.len() != report.shards && report.shards > 0 {
        let (from, to) = (journals.len(), report.shards);
        report.notes.push(format!("the number of shards changes from {from} to {to}"));
    }
}
